"""Training end to end on a toy world of twelve countries, each told by sound and sight together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from avgeo.profiles import ReasonSettings
from avgeo.reason import propose as propose_module
from avgeo.reason import rewards
from avgeo.reason.grpo import collapse, train_grpo
from avgeo.reason.model import build_model
from avgeo.reason.policy import Policy
from avgeo.reason.prompts import Answer, parse, question, questions
from avgeo.reason.propose import Reasoner, load_reasoner, train_reasoner
from avgeo.reason.sft import ExamplesError, corpus, rows, train_sft
from avgeo.reason.sizes import load_policy

SETTINGS = ReasonSettings(
    hidden=48, layers=2, heads=2, vocabulary=400, vision_hidden=16, vision_layers=1, image_px=32, patch_px=16,
    sft_steps=120, sft_batch=8, sft_learning_rate=5e-3, grpo_steps=2, grpo_prompts=2, grpo_generations=4,
    lora_rank=4, max_new_tokens=80,
)  # fmt: skip
SOUNDS = ("siren:wail", "bell:church", "surf:sea")
COLOURS = {
    "red earth": (200, 60, 40),
    "green field": (40, 180, 60),
    "blue sea": (30, 60, 200),
    "snow": (240, 240, 240),
}
COUNTRIES = (
    "Peru", "Chile", "Kenya", "Ghana", "Japan", "India", "Spain", "Italy", "Norway", "Cuba", "Fiji", "Mali",
)  # fmt: skip


def world(clips: int, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray]:
    """12 countries = 3 sounds x 4 colours: neither sense alone gives the country."""
    rng = np.random.default_rng(seed)
    examples, frames = [], []
    for clip in range(clips):
        sound, sight = rng.integers(len(SOUNDS)), rng.integers(len(COLOURS))
        place = int(sound * len(COLOURS) + sight)
        label, colour = list(COLOURS.items())[sight]
        heard = [(SOUNDS[sound], 2.0), (f"atom {rng.integers(9)}", float(rng.uniform(0.1, 1.0)))]
        examples.append({
            "clip_id": f"clip {clip}", "split": "train",
            "latitude_deg": 10.0 * place - 55, "longitude_deg": 25.0 * place - 150,
            "country": COUNTRIES[place], "region": f"Region {SOUNDS[sound][0]}",
            "heard": heard, "told": [SOUNDS[sound]], "seen": [label],
        })  # fmt: skip
        noise = rng.integers(-20, 20, (2, 24, 32, 3))
        frames.append(np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8))
    return pd.DataFrame(examples), np.stack(frames)


@pytest.fixture(scope="module")
def toy():
    return world(64)


@pytest.fixture(scope="module")
def trained(toy, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reasoner")
    train_reasoner(*toy, SETTINGS, seed=0, out=folder)
    return folder


def logits(policy: Policy, toy, clips=4):
    """The model's logits on the traces of the first clips, by the trainer's own collator."""
    from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

    examples, frames = toy
    batch = DataCollatorForVisionLanguageModeling(policy.processor, completion_only_loss=True)(
        [dict(row) for row in rows(examples[:clips], frames[:clips], SETTINGS.image_px)]
    )
    with torch.inference_mode():
        fields = {name: value for name, value in batch.items() if name != "labels"}
        return policy.model(**fields).logits, batch["labels"]


def test_fine_tuning_lowers_the_loss(trained):
    history = pd.read_parquet(trained / "sft_history.parquet")
    assert history["step"].tolist() == list(range(1, SETTINGS.sft_steps + 1))
    assert history["loss"].iloc[-3:].mean() < 0.3 * history["loss"].iloc[:3].mean()
    assert history["accuracy"].between(0, 1).all()


def test_the_loss_is_on_the_trace_only(trained, toy):
    policy = load_policy(trained / "sft")
    _, labels = logits(policy, toy)
    for row, text in zip(labels, corpus(toy[0])[len(toy[0]) :], strict=False):
        kept = policy.processor.tokenizer.decode(row[row != -100])
        assert kept == text + "<|end|>"


def test_the_same_seed_gives_the_same_falling_losses(toy, tmp_path):
    def losses(seed, name):
        policy = build_model(SETTINGS, corpus(toy[0]), seed)
        return train_sft(policy, *toy, replace(SETTINGS, sft_steps=20), seed, tmp_path / name)[1]["loss"]

    first = losses(0, "first")
    assert first.iloc[-3:].mean() < 0.8 * first.iloc[:3].mean()  # twenty steps already teach something
    np.testing.assert_allclose(losses(0, "again"), first, rtol=1e-4)
    assert not np.allclose(losses(1, "other"), first, rtol=1e-3)


def test_grpo_changes_the_adapter_only(trained, toy, tmp_path):
    base = load_policy(trained / "sft")
    before = {name: weight.clone() for name, weight in base.model.state_dict().items()}
    plain, _ = logits(base, toy)
    policy, history = train_grpo(base, *toy, SETTINGS, 0, tmp_path)
    model = policy.model
    after = {name.replace("base_layer.", ""): weight for name, weight in model.base_model.model.state_dict().items()}
    assert all(torch.equal(weight, after[name]) for name, weight in before.items())
    moved = [name for name, weight in model.named_parameters() if "lora_B" in name and weight.abs().max() > 0]
    assert len(moved) == 7 * SETTINGS.layers
    assert all("lora_" in name for name, weight in model.named_parameters() if weight.requires_grad)
    model.eval()
    with model.disable_adapter():
        torch.testing.assert_close(logits(policy, toy)[0], plain)
    assert not torch.allclose(logits(policy, toy)[0], plain)
    expected = {"step", "reward", "parse_rate", "diversity", "kl", "entropy", "length", "clipped", "tied"}
    expected |= {"format", "hierarchy", "distance", "groundedness", "proper"}
    assert set(history) == expected and len(history) == SETTINGS.grpo_steps
    assert history.notna().all(axis=None) and (history["kl"] >= 0).all()
    assert history["kl"].iloc[0] == pytest.approx(0, abs=1e-6)  # it starts at the reference


def test_an_interrupted_grpo_continues_its_adapter(trained, toy, tmp_path, monkeypatch):
    monkeypatch.setattr("avgeo.reason.sft.CHECKPOINT_STEPS", 1)

    def steps(count, work):
        return train_grpo(load_policy(trained / "sft"), *toy, replace(SETTINGS, grpo_steps=count), 0, work)

    whole, history = steps(2, tmp_path / "whole")
    steps(1, tmp_path / "parts")
    resumed, its_history = steps(2, tmp_path / "parts")
    pd.testing.assert_frame_equal(history, its_history, rtol=1e-3, atol=1e-5)
    again = resumed.model.state_dict()
    for name, weight in whole.model.state_dict().items():
        torch.testing.assert_close(weight, again[name], rtol=1e-3, atol=1e-5, msg=name)


def test_learning_from_few_rollouts_at_a_time_is_learning_from_all(trained, toy, tmp_path):
    def trained_in(parts):
        settings = replace(SETTINGS, grpo_steps=1, grpo_at_once=8 // parts)
        return train_grpo(load_policy(trained / "sft"), *toy, settings, 0, tmp_path / str(parts))

    (whole, history), (split, its_history) = trained_in(1), trained_in(4)
    pd.testing.assert_frame_equal(history[["reward", "kl"]], its_history[["reward", "kl"]], rtol=1e-4, atol=1e-6)
    weights = {name: weight for name, weight in whole.model.named_parameters() if "lora_B" in name}
    again = dict(split.model.named_parameters())
    # AdamW's first step is the sign of a gradient: where that is nearly nought, a last bit turns it
    alike = [torch.isclose(weight, again[name], rtol=1e-2).float().mean() for name, weight in weights.items()]
    assert torch.stack(alike).mean() > 0.95


def test_a_run_without_a_penalty_has_no_kl(trained, toy, tmp_path):
    _, history = train_grpo(load_policy(trained / "sft"), *toy, replace(SETTINGS, grpo_beta=0.0), 0, tmp_path)
    assert history.pop("kl").isna().all() and history.notna().all(axis=None)


def course(parse_rate, diversity):
    return pd.DataFrame({"parse_rate": parse_rate, "diversity": diversity, "step": range(len(parse_rate))})


def test_what_counts_as_a_collapse():
    steady = [0.9] * 30
    assert collapse(course(steady, steady)) is None
    assert collapse(course([0.9] * 15 + [0.3] * 15, steady)) == "silent"
    assert collapse(course(steady, [0.9] * 20 + [0.01] * 10)) == "alike"
    assert collapse(course([0.2] * 15 + [0.9] * 15, [0.2] * 30)) is None  # learning to answer is none
    assert collapse(course([0.9] + [0.0] * 18, [0.0] * 19)) is None  # too few steps to tell
    assert collapse(course([], [])) is None


def test_a_collapsed_run_ends_and_says_so(trained, toy, tmp_path, monkeypatch):
    """A reward for nonsense and a learning rate beyond reason: answers cease to parse, and the run does not go on."""
    monkeypatch.setattr("avgeo.reason.grpo.WINDOW", 1)
    settings = replace(SETTINGS, grpo_steps=30, grpo_learning_rate=0.3)
    with pytest.warns(UserWarning, match=r"GRPO collapsed and ended at step \d+ of 30: its answers fell silent"):
        _, history = train_grpo(load_policy(trained / "sft"), *toy, settings, 0, tmp_path)
    assert len(history) < 30 and history["parse_rate"].iloc[-1] < history["parse_rate"].iloc[0] / 2


def test_the_folder_is_complete_and_is_not_trained_twice(trained, toy, monkeypatch):
    assert {path.name for path in trained.iterdir()} == {
        "sft", "adapter", "sft_history.parquet", "grpo_history.parquet",
    }  # fmt: skip
    suffixes = {path.suffix for path in trained.rglob("*")}
    assert ".safetensors" in suffixes and not suffixes & {".bin", ".pt", ".pth", ".pkl"}
    assert str(trained) not in (trained / "adapter" / "adapter_config.json").read_text()
    for trainer in ("train_sft", "train_grpo"):
        monkeypatch.setattr(propose_module, trainer, lambda *_, **__: pytest.fail("trained again"))
    train_reasoner(*toy, SETTINGS, seed=0, out=trained)


def test_the_adapter_is_loaded_and_merged(trained, toy):
    with_adapter, without = load_reasoner(trained), load_reasoner(trained, adapter=False)
    a, b = (logits(reasoner.policy, toy)[0] for reasoner in (with_adapter, without))
    assert not torch.allclose(a, b)


def test_proposals_keep_and_count_failures(trained, toy):
    examples, frames = toy
    reasoner = load_reasoner(trained)
    table = reasoner.propose(examples[["clip_id", "heard"]], frames, batch=24)
    assert table["clip_id"].tolist() == examples["clip_id"].tolist()
    for row in table.itertuples():
        found = parse(row.completion)
        assert row.parsed == isinstance(found, Answer)
        assert row.parsed == (row.failure is None) == np.isfinite(row.latitude_deg) == (row.country is not None)
    silent = Reasoner(build_model(SETTINGS, corpus(examples), seed=0))
    untrained = silent.propose(examples[:6], frames[:6])
    assert not untrained["parsed"].any() and untrained["failure"].notna().all() and len(untrained) == 6


def test_batches_do_not_change_the_answers(trained, toy):
    reasoner = load_reasoner(trained)
    one, many = (reasoner.propose(toy[0][:9], toy[1][:9], batch=batch)["completion"] for batch in (1, 9))
    assert (one == many).mean() > 0.8  # padding shifts the last bits, which can turn a tie


def test_samples_follow_the_seed(trained, toy):
    reasoner = load_reasoner(trained)
    draw = lambda seed: reasoner.sample(toy[0][:3], toy[1][:3], 4, 1.0, seed)  # noqa: E731
    first = draw(0)
    assert first["clip_id"].tolist() == [clip for clip in toy[0]["clip_id"][:3] for _ in range(4)]
    assert first["sample"].tolist() == [0, 1, 2, 3] * 3
    pd.testing.assert_frame_equal(first, draw(0))
    assert not first["completion"].equals(draw(1)["completion"])
    with pytest.raises(ValueError, match="temperature"):
        reasoner.sample(toy[0], toy[1], 4, 0.0, 0)


def test_frames_can_be_left_out(toy, tmp_path):
    examples, frames = toy[0][:16], toy[1][:16, :0]
    assert frames.shape[1] == 0 and "images" not in rows(examples, frames, 32).column_names
    settings = replace(SETTINGS, sft_steps=12, grpo_steps=1, max_new_tokens=8)
    train_reasoner(examples, frames, settings, 0, tmp_path)
    loss = pd.read_parquet(tmp_path / "sft_history.parquet")["loss"]
    assert loss.iloc[-3:].mean() < 0.8 * loss.iloc[:3].mean()
    assert len(load_reasoner(tmp_path).propose(examples, frames)) == 16


def test_prompts_hold_what_the_examples_know_and_no_more(toy):
    examples, frames = toy[0][:3], toy[1][:3]
    knows = examples.assign(title=["Lima", None, None], times=[{SOUNDS[0]: (0.0, 1.5)}] * 3)
    assert "title: Lima" in questions(knows)[0] and "title" not in questions(knows)[1]
    assert [row[0]["content"] for row in rows(knows, frames, 32)["prompt"]] == questions(knows)
    assert corpus(knows)[:3] == questions(knows) and corpus(knows)[3:] == corpus(examples)[3:]


def test_examples_are_checked(toy, tmp_path):
    examples, frames = toy
    held_out = examples.assign(split=["test", *examples["split"][1:]])
    with pytest.raises(ExamplesError, match="1 of 64 rows are not of split 'train'"):
        train_reasoner(held_out, frames, SETTINGS, 0, tmp_path / "none")
    assert not (tmp_path / "none").exists()
    with pytest.raises(ExamplesError, match="told"):
        rows(examples.drop(columns="told"), frames, 32)
    with pytest.raises(ExamplesError, match="frames"):
        rows(examples, frames[:-1], 32)
    with pytest.raises(ExamplesError, match="clip_id"):
        rows(examples.assign(clip_id="same"), frames, 32)
    policy = build_model(SETTINGS, corpus(examples), seed=0)
    with pytest.raises(ExamplesError, match="grpo_prompts"):
        train_grpo(policy, examples[:1], frames[:1], SETTINGS, 0, tmp_path)
    for wrong, argument in (({"grpo_generations": 2}, "grpo_generations"), ({"grpo_at_once": 3}, "divide the 8")):
        with pytest.raises(ExamplesError, match=argument):
            train_grpo(policy, examples, frames, replace(SETTINGS, **wrong), 0, tmp_path)


@pytest.mark.slow
def test_sound_and_sight_are_both_learned():
    """On new clips: the country needs both; taking either away breaks what it alone decides."""
    examples, frames = world(400)
    settings = replace(SETTINGS, hidden=96, heads=4, sft_steps=200, sft_batch=16, sft_learning_rate=8e-3)
    policy = build_model(settings, corpus(examples), seed=0)
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as work:
        policy, _ = train_sft(policy, examples, frames, settings, 0, Path(work))
    reasoner = Reasoner(policy)
    clips, sights = world(48, seed=9)
    answers = reasoner.propose(clips, sights)
    assert answers["parsed"].mean() > 0.95
    assert (answers["country"].to_numpy() == clips["country"].to_numpy()).mean() > 0.8
    seen = [parse(text).seen for text in answers["completion"] if isinstance(parse(text), Answer)]
    assert np.mean([said == (there[0],) for said, there in zip(seen, clips["seen"], strict=False)]) > 0.8
    order = np.random.default_rng(1).permutation(len(clips))
    blind = reasoner.propose(clips, sights[order])
    assert (blind["country"].to_numpy() == clips["country"].to_numpy()).mean() < 0.5
    deaf = reasoner.propose(clips.assign(heard=[clips["heard"][index] for index in order]), sights)
    assert (deaf["country"].to_numpy() == clips["country"].to_numpy()).mean() < 0.6
    grounded = rewards.groundedness_reward(
        answers["completion"].tolist(), clips["latitude_deg"].tolist(), clips["longitude_deg"].tolist(),
        heard=[[name for name, _ in heard] for heard in clips["heard"]], seen=clips["seen"].tolist(),
    )  # fmt: skip
    assert np.mean(grounded) > 0.8
    assert question(clips["heard"][0]).count("\n") >= 1
