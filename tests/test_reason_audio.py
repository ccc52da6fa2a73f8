"""Sound through trl: every pass hears the row's own sound, by comparison with one row at a time and no trainer."""

from __future__ import annotations

import ast
import hashlib
import inspect
import re
import textwrap
from typing import Any

import numpy as np
import pytest
import torch
import trl
from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from tiny_qwen import RATE_HZ, sounding, sounds, tiny_omni, vl25
from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer, data_utils
from trl.trainer import sft_trainer, utils

from avgeo.reason import audio
from avgeo.reason.audio import AudioGRPOTrainer, SoundCollator, SoundError, heard_tokens, spoken, with_sound
from avgeo.reason.qwen import vision_language

TEMPERATURE = 0.7
CLIPS, GENERATIONS, NEW = 8, 2, 5
# float32, batched and padded against alone and unpadded; another clip's sound moves a log-probability by 0.1 and more
CLOSE = dict(rtol=0, atol=2e-4)


@pytest.fixture(scope="module")
def policy():
    return tiny_omni()


def arguments(policy, folder, **changed: Any) -> GRPOConfig:
    settings: dict[str, Any] = dict(
        output_dir=str(folder), per_device_train_batch_size=4, num_generations=GENERATIONS, steps_per_generation=4,
        gradient_accumulation_steps=2, max_steps=2, max_completion_length=NEW, temperature=TEMPERATURE, beta=0.04,
        # nothing is learned, so that the model at the end is the one that every pass used
        learning_rate=0.0, generation_kwargs={"suppress_tokens": list(policy.silent), "do_sample": False},
        report_to="none", use_cpu=True, bf16=False, gradient_checkpointing=False, save_strategy="no",
        disable_tqdm=True, remove_unused_columns=False, scale_rewards="none", loss_type="dr_grpo",
    )  # fmt: skip
    return GRPOConfig(**(settings | changed))


def lora(policy) -> LoraConfig:
    # random from the start: an adapter of zeros would make the policy its own reference
    return LoraConfig(r=4, lora_alpha=32, target_modules=policy.adapted, init_lora_weights=False)


def variety(completions, **_: Any) -> list[float]:
    return [float(len(set(completion[0]["content"]))) for completion in completions]


class Watched(AudioGRPOTrainer):
    """Keeps what every pass was asked and answered."""

    def _get_per_token_logps_and_entropies(self, model, input_ids, attention_mask, logits_to_keep, *rest, **options):
        result = super()._get_per_token_logps_and_entropies(
            model, input_ids, attention_mask, logits_to_keep, *rest, **options
        )
        layer = next(module for module in self.model.modules() if isinstance(module, BaseTunerLayer))
        logps = result[0]
        kind = "reference" if layer.disable_adapters else "loss" if logps.requires_grad else "old"
        mask = attention_mask.bool()
        for ids, kept, row in zip(input_ids, mask, logps.detach(), strict=True):
            cut = len(ids) - logits_to_keep
            answer = kept[cut:]
            self.__dict__.setdefault("passes", []).append((kind, ids[:cut][kept[:cut]], ids[cut:][answer], row[answer]))
        return result


def alone(model: Any, processor: Any, row: dict[str, Any], answer: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The prompt's ids (p,) and the logits (n, vocabulary) before each token of `answer` (n,): one row, no trainer."""
    chat = spoken(row)["prompt"]
    parts: list[dict[str, Any]] = chat[-1]["content"]
    text = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    heard = next(part["audio"] for part in parts if part["type"] == "audio")
    images = [row["images"]] if row.get("images") else None
    inputs = dict(processor(text=[text], images=images, audio=[heard], return_tensors="pt"))
    prompt = inputs["input_ids"][0]
    inputs["input_ids"] = torch.cat([prompt, answer])[None]
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    with torch.inference_mode():
        return prompt, model(**inputs).logits[0, len(prompt) - 1 : -1]


def logps(logits: torch.Tensor, answer: torch.Tensor) -> torch.Tensor:
    return torch.log_softmax(logits / TEMPERATURE, -1).gather(-1, answer[:, None])[:, 0]


@pytest.mark.parametrize("frames", [2, 0], ids=["frames and sound", "sound alone"])
def test_every_pass_of_grpo_hears_the_sound_of_its_own_row(frames, tmp_path):
    policy = tiny_omni()
    rows = sounding(policy, CLIPS, frames=frames)
    trainer = Watched(
        model=policy.model, args=arguments(policy, tmp_path), reward_funcs=variety, train_dataset=rows,
        processing_class=policy.processor, peft_config=lora(policy),
    )  # fmt: skip
    trainer.train()
    # one generation of 16 rollouts (8 clips of 7 lengths, shuffled), scored in chunks of 4, learned from in 4 parts
    total = CLIPS * GENERATIONS
    assert [kind for kind, *_ in trainer.passes] == ["old"] * total + ["reference"] * total + ["loss"] * total
    model = trainer.model.eval()
    silent, clips = list(policy.silent), []
    for kind, prompt, answer, found in trainer.passes:
        clip = int(re.findall(r"atom (\d+)", policy.processor.decode(prompt))[0])
        clips.append(clip)
        if kind == "reference":
            with model.disable_adapter():
                asked, logits = alone(model, policy.processor, rows[clip], answer)
        else:
            asked, logits = alone(model, policy.processor, rows[clip], answer)
            # generation, which was greedy, heard the sound as well
            logits_drawn = logits.index_fill(-1, torch.tensor(silent), -torch.inf)
            assert torch.equal(logits_drawn.argmax(-1), answer)
        assert torch.equal(asked, prompt)
        torch.testing.assert_close(found, logps(logits, answer), **CLOSE)
    assert clips[2 * total :] != clips[:total]  # they were shuffled indeed
    # the comparison has power: with another clip's sound it fails
    kind, _, answer, found = trainer.passes[-1]
    other = rows[clips[-1]] | {"audio": rows[(clips[-1] + 1) % CLIPS]["audio"]}
    _, logits = alone(model, policy.processor, other, answer)
    assert (found - logps(logits, answer)).abs().max() > 100 * CLOSE["atol"]


def test_a_last_chunk_that_is_smaller_hears_its_own_rows(tmp_path):
    policy = tiny_omni()
    rows = sounding(policy, 4)
    trainer = AudioGRPOTrainer(
        model=policy.model, args=arguments(policy, tmp_path, max_steps=1), reward_funcs=variety, train_dataset=rows,
        processing_class=policy.processor, peft_config=lora(policy),
    )  # fmt: skip
    trainer.model.train()
    batch = trainer._generate_and_score_completions([dict(row) for row in rows])
    shown = {name: batch[name] for name in ("pixel_values", "image_grid_thw", "num_images")}
    trainer._heard = {name: batch[name] for name in audio.FIELDS}
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
    with torch.no_grad():
        found, _, _ = trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, NEW, batch_size=3, **shown)
    torch.testing.assert_close(found, batch["old_per_token_logps"], **CLOSE)


def answered(trainer_class, rows, folder) -> dict[str, torch.Tensor]:
    """Log-probabilities (rows, n), old and of the reference, of one fixed answer by a trainer of the class given."""
    policy = tiny_omni()

    class Fixed(trainer_class):
        def _generate_single_turn(self, prompt_ids, *_: Any, **__: Any):
            return [[40, 41, 42, 43] for _ in prompt_ids], None

    trainer = Fixed(
        model=policy.model, args=arguments(policy, folder, max_steps=1), reward_funcs=variety, train_dataset=rows,
        processing_class=policy.processor, peft_config=lora(policy),
    )  # fmt: skip
    asked = [dict(row) for row in rows]
    if not issubclass(trainer_class, AudioGRPOTrainer):
        asked = [spoken(row) for row in asked]
    trainer.model.train()
    output = trainer._generate_and_score_completions(asked)
    return {name: output[name] for name in ("old_per_token_logps", "ref_per_token_logps")}


def swapped(trainer_class, policy, folder) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The same rows with two sets of sounds of one length: what a trainer makes of each."""
    pair = [sounding(policy, 4, frames=0, equal=True, seed=seed) for seed in (0, 1)]
    one, two = (answered(trainer_class, rows, folder) for rows in pair)
    return [(one[name], two[name]) for name in one]


def test_swapping_the_sound_changes_our_log_probabilities(policy, tmp_path):
    for one, two in swapped(AudioGRPOTrainer, policy, tmp_path):
        assert ((one - two).abs().amax(-1) > 1e-2).all()


def test_stock_trl_answers_alike_whatever_sounds(policy, tmp_path):
    # The defect that AudioGRPOTrainer is for. Should this test fail, trl has learned to hear: drop our trainer.
    for one, two in swapped(GRPOTrainer, policy, tmp_path):
        assert torch.equal(one, two)


def test_stock_trl_raises_on_frames_and_sound(policy, tmp_path):
    with pytest.raises(ValueError, match="audio"):
        answered(GRPOTrainer, sounding(policy, 4), tmp_path)


def test_learning_moves_the_language_models_adapter_alone_and_checkpoints_are_written(tmp_path):
    policy = tiny_omni()
    trainer = AudioGRPOTrainer(
        model=policy.model, args=arguments(
            policy, tmp_path, learning_rate=1e-2, gradient_checkpointing=True, save_strategy="steps", save_steps=2,
            generation_kwargs={"suppress_tokens": list(policy.silent)}, num_iterations=2,
        ),
        reward_funcs=variety, train_dataset=sounding(policy, CLIPS), processing_class=policy.processor,
        peft_config=lora(policy),
    )  # fmt: skip
    before = {name: weight.clone() for name, weight in trainer.model.named_parameters() if weight.requires_grad}
    trainer.train()
    assert before and all("lora" in name and "language_model" in name for name in before)
    after = dict(trainer.model.named_parameters())
    assert any(not torch.equal(weight, after[name]) for name, weight in before.items())
    assert (tmp_path / "checkpoint-2" / "processor_config.json").is_file()
    assert np.isfinite(trainer.evaluate(sounding(policy, 2))["eval_loss"])


# Fine-tuning


def test_fine_tuning_hears_and_its_labels_cover_the_completion_alone(policy):
    rows = sounding(policy, 3)
    batch = SoundCollator(policy.processor)([dict(row) for row in rows])
    for row, labels, ids in zip(rows, batch["labels"], batch["input_ids"], strict=True):
        text = policy.processor.tokenizer.decode(labels[labels != -100])
        assert text == row["completion"][0]["content"] + "<|im_end|>\n"
        assert (ids == policy.model.config.audio_token_id).sum() > 20
    with torch.inference_mode():
        logits = policy.model(**{name: field for name, field in batch.items() if name != "labels"}).logits
    for row, labels, found in zip(rows, batch["labels"], logits, strict=True):
        answer = labels[labels != -100]
        start = int((labels != -100).nonzero()[0])
        _, expected = alone(policy.model, policy.processor, row, answer)
        torch.testing.assert_close(found[start - 1 : start - 1 + len(answer)], expected, rtol=0, atol=1e-3)


def test_trls_own_collator_is_deaf(policy):
    # The defect that SoundCollator is for: the column is left lying. In the prompt's parts, it raises.
    rows = [dict(row) for row in sounding(policy, 2)]
    collate = sft_trainer.DataCollatorForVisionLanguageModeling(policy.processor, completion_only_loss=True)
    assert not set(audio.FIELDS) & set(collate([dict(row) for row in rows]))
    with pytest.raises(ValueError, match="audio"):
        collate([spoken(row) for row in rows])


@pytest.mark.parametrize("frames", [2, 0])
def test_trl_fine_tunes_on_the_sound(frames, tmp_path):
    def losses(seed: int) -> list[float]:
        policy = tiny_omni()
        rows = sounding(policy, 4, frames=frames or 2, equal=True, seed=seed)
        if not frames:  # trl takes a data set for one of pictures by this column, which may be empty
            rows = rows.map(lambda _: {"images": []})
        trainer = SFTTrainer(
            model=policy.model, processing_class=policy.processor, train_dataset=rows,
            data_collator=SoundCollator(policy.processor), args=SFTConfig(
                output_dir=str(tmp_path), max_steps=3, per_device_train_batch_size=2, learning_rate=1e-2,
                completion_only_loss=True, max_length=None, report_to="none", use_cpu=True, bf16=False,
                gradient_checkpointing=False, save_strategy="no", disable_tqdm=True, logging_steps=1,
                remove_unused_columns=False,
            ),
        )  # fmt: skip
        trainer.train()
        return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]

    first = losses(0)
    assert first[-1] < first[0]
    assert losses(0) == pytest.approx(first, rel=1e-5)
    assert abs(losses(1)[0] - first[0]) > 1e-4  # the mean over 159 tokens of little but sound


# What is refused


def test_the_places_of_a_sound_are_those_the_processor_makes(policy):
    for row in sounding(policy, 7):
        text = policy.processor.apply_chat_template(spoken(row)["prompt"], tokenize=False)
        sound = np.asarray(row["audio"])
        made = policy.processor(text=[text], images=[row["images"]], audio=[sound], return_tensors="pt")
        places = (made["input_ids"] == policy.model.config.audio_token_id).sum(-1)
        assert torch.equal(places, heard_tokens(made["feature_attention_mask"]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda sound: sound[:1], "1 for 2 rows"),
        (lambda sound: [sound[0], sound[1][None]], "row 1 has shape"),
        (lambda sound: [sound[0], sound[1][:100]], "0.1 to 3 s"),
        (lambda sound: [np.tile(sound[0], 4), sound[1]], "row 0 .* longest_s"),
        (lambda sound: [sound[0], sound[1] * np.nan], "row 1 holds NaN"),
        (lambda sound: [sound[0], (sound[1] * 1000).astype(np.int16)], "row 1 is of int16"),
    ],
)
def test_waveforms_that_cannot_be_heard_are_refused(policy, change, message):
    bare = sounding(policy, 2).remove_columns("audio")
    with pytest.raises(SoundError, match=message):
        with_sound(bare, change(sounds(2)), RATE_HZ, policy)


def test_another_rate_and_a_policy_that_reads_are_refused(policy):
    bare = sounding(policy, 2).remove_columns("audio")
    with pytest.raises(SoundError, match="resample the 8000 Hz sound"):
        with_sound(bare, sounds(2), 8000, policy)
    with pytest.raises(SoundError, match="hears by the atoms"):
        with_sound(bare, sounds(2), RATE_HZ, vision_language(vl25()))


def test_rows_without_sound_and_prompts_in_parts_are_refused(policy):
    row = sounding(policy, 1)[0]
    with pytest.raises(SoundError, match="with_sound"):
        spoken(row | {"audio": []})
    with pytest.raises(SoundError, match="plain text"):
        spoken(spoken(row))


def test_a_sound_in_another_row_stops_the_run(policy):
    # the model itself takes them: it fills the places in order, and one clip's sound runs into the next clip's
    places = torch.full((2, 6), policy.model.config.audio_token_id)
    places[0, 4:] = 1
    mask = torch.zeros(2, 40)
    for row, steps in enumerate((24, 16)):
        mask[row, :steps] = 1
    heard = {"input_features": torch.zeros(2, 32, 40), "feature_attention_mask": mask}
    listening = audio._Listening(lambda **_: None, heard, policy.model.config.audio_token_id)
    with pytest.raises(RuntimeError, match="not those the prompts"):
        listening(input_ids=places)
    with pytest.raises(RuntimeError, match="saw 2 rows of 3"):
        listening.check_done(3)
    with pytest.raises(RuntimeError, match="no sound at hand"):
        audio._Listening(None, None, 0)


# What trl must not change

RELIED_ON = {
    "GRPOTrainer._tokenize_prompts": "c5df2fec534b862d",
    "GRPOTrainer._generate_single_turn": "e36de950c8303b0b",
    "GRPOTrainer._generate": "428bb9b5cd77ca6a",
    "GRPOTrainer._generate_and_score_completions": "8ad618f3882bc520",
    "GRPOTrainer._prepare_inputs": "d8617f874014c408",
    "GRPOTrainer._compute_loss": "765e782ef258696a",
    "GRPOTrainer._get_per_token_logps_and_entropies": "ddcb878f6df4bae5",
    "utils.shuffle_sequence_dict": "88edff67896fac4f",
    "utils.split_tensor_dict": "99bca9adc3143c7e",
    "utils.split_pixel_values_by_grid": "798750569982c451",
    "utils.unsplit_pixel_values_by_grid": "2b9a9fc4d3c5e179",
    "utils.add_fused_lm_head": "5f4aa2119cf10d11",
    "sft_trainer.DataCollatorForVisionLanguageModeling.torch_call": "03c2d305e9f7bc2f",
    "sft_trainer.DataCollatorForVisionLanguageModeling._collate_prompt_completion": "926c2aa929c0f704",
    "data_utils.prepare_multimodal_messages": "f7268414ceb387d0",
    "data_utils.apply_chat_template": "ccfe157b708f3c29",
}
CALLED_FROM = {
    "_tokenize_prompts": {"_generate"},
    "_generate_and_score_completions": {"_prepare_inputs"},
    "_compute_loss": {"compute_loss"},
    "_get_per_token_logps_and_entropies": {"_generate_and_score_completions", "_compute_loss"},
    # prompts that are no chats, and the prompts with frames once more
    "processing_class": {"_tokenize_prompts", "_generate_and_score_completions"},
}
SIGNATURES = {
    "_tokenize_prompts": ["self", "prompts"],
    "_generate_and_score_completions": ["self", "inputs"],
    "_compute_loss": ["self", "model", "inputs"],
    "_get_per_token_logps_and_entropies": ["self", "model", "input_ids", "attention_mask", "logits_to_keep"],
}
CURE = """
trl {version} is not the trl that avgeo.reason.audio was written against: {what}.
Read the new source and check that, in AudioGRPOTrainer and SoundCollator,
  - `_tokenize_prompts` still yields the fields that generation gets, one row per prompt,
  - `_generate_and_score_completions` still returns rows that `_prepare_inputs` shuffles and splits whole,
  - every log-probability still comes from `_get_per_token_logps_and_entropies`, which calls its model with keywords,
    on consecutive chunks of rows, and nowhere else,
  - the collator still calls its processor once on the prompts, with their images, and once on the completions.
If the other tests of this file pass too, write the new hashes into RELIED_ON and move the pin in pyproject.toml.
"""


def body(what: Any) -> str:
    """The source less its indentation, comments and blank lines."""
    lines = (line.strip() for line in inspect.getsource(inspect.unwrap(what)).splitlines())
    return "\n".join(line for line in lines if line and not line.startswith("#"))


def digest(name: str) -> str:
    first, *rest = name.split(".")
    homes = {"GRPOTrainer": GRPOTrainer, "utils": utils, "sft_trainer": sft_trainer, "data_utils": data_utils}
    what: Any = homes[first]
    for part in rest:
        what = getattr(what, part)
    return hashlib.sha256(body(what).encode()).hexdigest()[:16]


@pytest.mark.parametrize("name", RELIED_ON)
def test_trl_is_as_it_was_when_this_was_written(name):
    try:
        found = digest(name)
    except AttributeError:
        pytest.fail(CURE.format(version=trl.__version__, what=f"{name} is gone"))
    assert found == RELIED_ON[name], CURE.format(version=trl.__version__, what=f"{name} has changed (now {found})")


@pytest.mark.parametrize("name", SIGNATURES)
def test_what_we_override_has_the_same_arguments(name):
    found = list(inspect.signature(getattr(GRPOTrainer, name)).parameters)[: len(SIGNATURES[name])]
    assert found == SIGNATURES[name], CURE.format(version=trl.__version__, what=f"{name} takes {found}")
    assert name in vars(AudioGRPOTrainer)


@pytest.mark.parametrize("name", CALLED_FROM)
def test_what_we_override_is_called_where_it_was(name):
    tree = ast.parse(textwrap.dedent(inspect.getsource(GRPOTrainer)))
    methods = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    found = {
        method.name
        for method in methods
        for call in ast.walk(method)
        if isinstance(call, ast.Call) and ast.unparse(call.func) == f"self.{name}"
    }
    assert found == CALLED_FROM[name], CURE.format(version=trl.__version__, what=f"{name} is called from {found}")
