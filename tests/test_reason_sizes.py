"""Every size of the reasoner through one door: built by name, fine-tuned, saved, improved by GRPO, asked."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from peft import PeftModel
from test_reason_smollm import tiny
from tiny_qwen import examples, sounds, tiny_omni, vl3, vl25
from transformers import Trainer

from avgeo.profiles import PROFILES, ReasonSettings
from avgeo.reason import rewards, sizes
from avgeo.reason.audio import SoundError
from avgeo.reason.graft import PROJECTOR, graft
from avgeo.reason.grpo import train_grpo
from avgeo.reason.model import build_model, to_images
from avgeo.reason.policy import ModelError, Policy
from avgeo.reason.propose import Reasoner, load_reasoner, train_reasoner
from avgeo.reason.qwen import vision_language
from avgeo.reason.sft import corpus, train_sft
from avgeo.reason.sizes import build_policy, check_policy, load_policy, save_policy

SETTINGS = ReasonSettings(
    hidden=32, layers=1, heads=2, vocabulary=400, vision_hidden=16, vision_layers=1, image_px=32, patch_px=16,
    sft_steps=3, sft_batch=4, sft_learning_rate=5e-3, grpo_steps=2, grpo_prompts=2, grpo_generations=3,
    grpo_learning_rate=5e-3, lora_rank=4, max_new_tokens=6,
)  # fmt: skip
CLIPS = 6
TOY = examples(CLIPS, frames=3)


def heard(policy: Policy) -> dict[str, Any]:
    """The sound of the clips, of lengths that differ, for a policy that hears it."""
    return {"waveforms": sounds(CLIPS)} if policy.sample_rate_hz else {}


BUILT = {
    "scratch": lambda: build_model(SETTINGS, corpus(TOY[0]), seed=0),
    "grafted": lambda: graft(*tiny(), SETTINGS, seed=0),
    "qwen2.5-vl": lambda: vision_language(vl25()),
    "qwen3-vl": lambda: vision_language(vl3()),
    "omni": tiny_omni,
}


@pytest.fixture
def asked(monkeypatch) -> list[Any]:
    """The prompts of the rollouts, whose proper reward gives way to one that a model of noise earns."""
    prompts_seen: list[Any] = []

    def proper_reward(prompts, completions, **columns):
        assert len(columns["clip_id"]) == len(completions)
        prompts_seen.extend(prompts)
        return [float(len(set(completion[0]["content"]))) for completion in completions]

    monkeypatch.setattr(rewards, "proper_reward", proper_reward)
    return prompts_seen


@pytest.mark.parametrize("size", BUILT)
def test_every_size_is_fine_tuned_saved_improved_and_asked_alike(size, asked, tmp_path):
    policy = BUILT[size]()
    sound, start = heard(policy), {name: weight.clone() for name, weight in policy.model.state_dict().items()}
    tuned, history = train_sft(policy, *TOY, SETTINGS, 0, tmp_path / "sft", **sound)
    assert history["loss"].iloc[-1] < history["loss"].iloc[0]
    assert not isinstance(tuned.model, PeftModel)
    moved = {name for name, weight in tuned.model.state_dict().items() if not torch.equal(weight, start[name])}
    if size == "scratch":
        assert any("norm" in name for name in moved) and any("embed" in name for name in moved)
    else:
        new = ("vision_tower", PROJECTOR) if size == "grafted" else ()
        assert moved and all("language_model" in name or any(part in name for part in new) for name in moved)
        assert all("_proj." in name for name in moved if "language_model" in name)

    save_policy(tuned, tmp_path / "model")
    again = load_policy(tmp_path / "model")
    assert replace(again, model=None, processor=None) == replace(tuned, model=None, processor=None)  # pyright: ignore[reportArgumentType]
    before = Reasoner(again).propose(*TOY, **sound)
    assert before["completion"].equals(Reasoner(tuned).propose(*TOY, **sound)["completion"])

    improved, history = train_grpo(again, *TOY, SETTINGS, 0, tmp_path / "grpo", **sound)
    assert history["kl"].iloc[0] == pytest.approx(0, abs=1e-5) and history["kl"].iloc[1] > 0
    assert isinstance(improved.model, PeftModel)
    assert any((weight != 0).any() for name, weight in improved.model.named_parameters() if "lora_B" in name)
    kinds = [part["type"] for part in asked[0][-1]["content"]]
    assert kinds == ["image"] * 3 + ["audio"] * bool(sound) + ["text"]
    assert "atom" in asked[0][-1]["content"][-1]["text"]

    answers = Reasoner(improved).propose(*TOY, **sound)
    assert answers["clip_id"].tolist() == TOY[0]["clip_id"].tolist() and answers["completion"].str.len().min() > 0
    assert not answers["parsed"].any() and answers["failure"].notna().all()
    drawn = Reasoner(improved).sample(*TOY, 2, 1.0, 0, **sound)
    assert len(drawn) == 2 * CLIPS and drawn["completion"].nunique() > CLIPS


@pytest.mark.parametrize("size", ["scratch", "grafted", "omni"])
def test_an_interrupted_fine_tuning_ends_as_an_uninterrupted_one(size, tmp_path, monkeypatch):
    monkeypatch.setattr("avgeo.reason.sft.CHECKPOINT_STEPS", 2)
    settings, sound, step = replace(SETTINGS, sft_steps=5), heard(BUILT[size]()), Trainer.training_step

    def fit(work):
        return train_sft(BUILT[size](), *TOY, settings, 0, work, **sound)

    def watched(self, *args, **kwargs):
        taken.append(self.state.global_step)
        if len(taken) == 4:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    whole, history = fit(tmp_path / "whole")
    taken: list[int] = []
    monkeypatch.setattr(Trainer, "training_step", watched)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "parts")
    resumed, its_history = fit(tmp_path / "parts")
    assert taken == [0, 1, 2, 3, 2, 3, 4]
    pd.testing.assert_frame_equal(history, its_history, rtol=1e-4)
    again = resumed.model.state_dict()
    for name, weight in whole.model.state_dict().items():
        torch.testing.assert_close(weight, again[name], rtol=1e-3, atol=1e-5, msg=name)


def test_sounds_of_different_lengths_are_heard_alike_alone_and_together():
    policy: Any = tiny_omni()
    policy.model.generation_config.max_new_tokens = 12
    reasoner = Reasoner(policy)
    one, many = (reasoner.propose(*TOY, waveforms=sounds(CLIPS), batch=batch)["completion"] for batch in (1, CLIPS))
    assert (one == many).mean() > 0.8  # padding shifts the last bits, which can turn a tie
    alike = sounds(CLIPS, equal=True)
    first, second = (
        reasoner.propose(*TOY, waveforms=waveforms, batch=4)["completion"]
        for waveforms in (alike, [*alike[:4], *sounds(CLIPS, seed=1, equal=True)[4:]])
    )
    assert (first == second).tolist() == [True] * 4 + [False] * 2  # each clip hears its own


def test_sound_is_wanted_where_it_is_heard_and_nowhere_else(tmp_path):
    hears, reads = tiny_omni(), BUILT["grafted"]()
    for train in (train_sft, train_grpo):
        with pytest.raises(SoundError, match="one mono waveform per clip, at 16000 Hz"):
            train(hears, *TOY, SETTINGS, 0, tmp_path)
        with pytest.raises(SoundError, match="give it no waveforms"):
            train(reads, *TOY, SETTINGS, 0, tmp_path, waveforms=sounds(CLIPS))
    with pytest.raises(SoundError, match="one mono waveform per clip"):
        Reasoner(hears).propose(*TOY)
    with pytest.raises(SoundError, match="5 for 6 rows"):
        Reasoner(hears).propose(*TOY, waveforms=sounds(5))
    with pytest.raises(SoundError, match="give it no waveforms"):
        Reasoner(reads).propose(*TOY, waveforms=sounds(CLIPS))


def test_frames_stay_as_they_are_where_the_processor_resizes_them():
    frames = np.zeros((2, 24, 32, 3), dtype=np.uint8)
    assert [image.size for image in to_images(frames, None)] == [(32, 24)] * 2
    assert [image.size for image in to_images(frames, 16)] == [(16, 16)] * 2


def test_in_bfloat16_an_adapter_is_trained_in_float32(asked, tmp_path):
    policy = vision_language(vl25(), dtype=torch.bfloat16)
    tuned, history = train_sft(policy, *TOY, replace(SETTINGS, sft_steps=2), 0, tmp_path / "sft")
    assert np.isfinite(history["loss"]).all() and tuned.model.dtype == torch.bfloat16
    improved, history = train_grpo(tuned, *TOY, SETTINGS, 0, tmp_path / "grpo")
    trained = [weight for weight in improved.model.parameters() if weight.requires_grad]
    assert trained and all(weight.dtype == torch.float32 for weight in trained) and history["reward"].notna().all()


# By name


def small_smollm(monkeypatch) -> None:
    """The name "smollm2" stands for a tiny language model."""
    monkeypatch.setattr(sizes, "gguf_file", lambda: None)
    monkeypatch.setattr(sizes, "smollm", lambda seed, settings: graft(*tiny(), settings, seed))


def test_a_policy_is_built_by_its_name(tmp_path, monkeypatch):
    assert build_policy(SETTINGS, corpus(TOY[0]), 0).whole
    small_smollm(monkeypatch)
    assert build_policy(replace(SETTINGS, policy="smollm2"), [], 0).trained == (PROJECTOR, "vision_tower")
    save_policy(tiny_omni(), tmp_path)
    found = build_policy(replace(SETTINGS, policy=str(tmp_path)), [], 0)
    assert found.sample_rate_hz == 16_000 and found.model.generation_config.max_new_tokens == 6
    assert found.processor.feature_extractor.chunk_length == 30
    assert load_policy(tmp_path).processor.feature_extractor.chunk_length == 3


def test_a_wrong_name_is_answered_with_the_right_ones(tmp_path, monkeypatch):
    with pytest.raises(ModelError, match=r"'scratsch' is neither scratch nor smollm2 nor a folder.*HF_HUB_OFFLINE=0"):
        build_policy(replace(SETTINGS, policy="scratsch"), [], 0)
    with pytest.raises(ModelError, match=r"no config\.json"):
        build_policy(replace(SETTINGS, policy=str(tmp_path)), [], 0)
    for wrong in ("", "x" * 300):
        with pytest.raises(ModelError, match="neither scratch nor smollm2"):
            check_policy(wrong)
    with pytest.raises(ModelError, match=r"no config\.json"):  # now, not when the policy is built
        check_policy(str(tmp_path))
    monkeypatch.setattr("avgeo.reason.smollm.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"pip install \"avgeo\[lm\]\""):
        build_policy(replace(SETTINGS, policy="smollm2"), [], 0)


def test_a_reasoner_by_name_is_trained_into_a_folder_and_back(asked, tmp_path, monkeypatch):
    small_smollm(monkeypatch)
    train_reasoner(*TOY, replace(SETTINGS, policy="smollm2"), 0, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "sft", "adapter", "sft_history.parquet", "grpo_history.parquet",
    }  # fmt: skip
    before, after = load_reasoner(tmp_path, adapter=False), load_reasoner(tmp_path)
    assert after.policy.trained == (PROJECTOR,)
    weights = after.policy.model.state_dict()
    moved = {
        name for name, weight in before.policy.model.state_dict().items() if not torch.equal(weight, weights[name])
    }
    assert any(PROJECTOR in name for name in moved) and any("q_proj" in name for name in moved)
    assert not any("vision_tower" in name for name in moved)
    assert len(after.propose(*TOY)) == CLIPS


def test_the_profiles_name_policies_and_steps_that_can_be_taken():
    assert {name: profile.reason.policy for name, profile in PROFILES.items()} == {
        "smoke": "scratch", "colab": "smollm2", "full": "smollm2",
    }  # fmt: skip
    for profile in PROFILES.values():
        rollouts = profile.reason.grpo_prompts * profile.reason.grpo_generations
        assert rollouts % min(profile.reason.grpo_at_once, rollouts) == 0
