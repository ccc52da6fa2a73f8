"""Many clips at once: vLLM is asked what transformers would be, by a stand-in that answers as transformers does."""

from __future__ import annotations

import importlib.machinery
import json
import logging
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import pandas as pd
import pytest
import torch
from peft import get_peft_model
from tiny_qwen import examples, tiny_omni, vl25

from avgeo import doctor
from avgeo.profiles import ReasonSettings
from avgeo.reason.batch import SILENCE, VllmReasoner, batch_reasoner, why_not_vllm
from avgeo.reason.model import build_model
from avgeo.reason.policy import ModelError, Policy, lora
from avgeo.reason.propose import Reasoner
from avgeo.reason.qwen import vision_language
from avgeo.reason.sft import corpus
from avgeo.reason.sizes import load_policy

CLIPS = 5
TOY = examples(CLIPS, frames=3)
SETTINGS = ReasonSettings(
    hidden=32, layers=1, heads=2, vocabulary=400, vision_hidden=16, vision_layers=1, image_px=32, patch_px=16,
    max_new_tokens=12,
)  # fmt: skip


class Engine:
    """Stands for `vllm.LLM`: reads the folder, writes down what it is asked, and answers as transformers does."""

    made: ClassVar[list[Engine]] = []

    def __init__(self, **options: Any) -> None:
        self.options, self.asked = options, []
        self.files = {path.name for path in Path(options["model"]).iterdir()}
        self.policy: Any = load_policy(Path(options["model"]))
        Engine.made.append(self)

    def generate(self, prompts: list[dict[str, Any]], sampling: list[SimpleNamespace]) -> list[SimpleNamespace]:
        self.asked += zip(prompts, sampling, strict=True)
        return [self.answer(prompt, one) for prompt, one in zip(prompts, sampling, strict=True)]

    def answer(self, prompt: dict[str, Any], sampling: SimpleNamespace) -> SimpleNamespace:
        processor, model = self.policy.processor, self.policy.model.eval()
        text = processor.tokenizer.decode(prompt["prompt_token_ids"])
        images = prompt.get("multi_modal_data", {}).get("image")
        inputs = processor(images=images, text=[text], add_special_tokens=False, return_tensors="pt")
        options: dict[str, Any] = {"do_sample": False}
        if sampling.temperature:
            torch.manual_seed(sampling.seed)
            options = {"do_sample": True, "temperature": sampling.temperature, "top_k": 0}
        said = model.generate(**inputs, num_return_sequences=sampling.n, max_new_tokens=sampling.max_tokens, **options)
        ids = said[:, inputs["input_ids"].shape[1] :].tolist()
        return SimpleNamespace(outputs=[SimpleNamespace(token_ids=tuple(one)) for one in ids])


@pytest.fixture
def vllm(monkeypatch) -> list[Engine]:
    """A module of that name, and the engines that are made of it."""
    module: Any = ModuleType("vllm")
    module.__spec__ = importlib.machinery.ModuleSpec("vllm", None)
    module.LLM, module.SamplingParams = Engine, SimpleNamespace
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setattr(Engine, "made", [])
    return Engine.made


def scratch() -> Policy:
    return build_model(SETTINGS, corpus(TOY[0]), seed=0)


def qwen() -> Policy:
    policy: Any = vision_language(vl25())
    policy.model.generation_config.max_new_tokens = 12
    return policy


@pytest.mark.parametrize("built", [scratch, qwen])
def test_the_same_prompts_give_the_same_table(built, vllm):
    policy = built()
    expected = Reasoner(policy).propose(*TOY)
    reasoner = VllmReasoner(policy, frames=3, gpu_memory_utilization=0.5)
    found = reasoner.propose(*TOY)
    pd.testing.assert_frame_equal(found, expected)
    assert found["completion"].str.len().min() > 0 and found["completion"].nunique() > 1
    (engine,) = vllm
    assert engine.options["limit_mm_per_prompt"] == {"image": 3} and engine.options["dtype"] == "float32"
    assert engine.options["gpu_memory_utilization"] == 0.5
    assert len(engine.asked) == CLIPS
    for prompt, sampling in engine.asked:
        assert len(prompt["multi_modal_data"]["image"]) == 3
        assert (sampling.n, sampling.temperature, sampling.max_tokens) == (1, 0.0, 12)
        assert sampling.logit_bias == dict.fromkeys(policy.silent, SILENCE) and policy.silent
        assert policy.processor.tokenizer.eos_token_id in sampling.stop_token_ids
        assert not set(sampling.stop_token_ids) & set(sampling.logit_bias)


def test_samples_are_as_many_and_no_two_clips_share_their_luck(vllm):
    reasoner = VllmReasoner(scratch(), frames=3)
    table = reasoner.sample(*TOY, 3, 0.7, seed=2)
    assert table.columns.tolist() == Reasoner(reasoner.policy).sample(*TOY, 3, 0.7, seed=2).columns.tolist()
    assert table["clip_id"].tolist() == [clip for clip in TOY[0]["clip_id"] for _ in range(3)]
    assert table["sample"].tolist() == [0, 1, 2] * CLIPS
    asked = [sampling for _, sampling in vllm[0].asked]
    assert all((one.n, one.temperature) == (3, 0.7) for one in asked)
    # vLLM gives a prompt's answers the seeds from its own on
    seeds = [one.seed + answer for one in asked for answer in range(3)]
    reasoner.sample(*TOY, 3, 0.7, seed=3)
    seeds += [one.seed + answer for _, one in vllm[0].asked[CLIPS:] for answer in range(3)]
    assert len(set(seeds)) == len(seeds)
    assert reasoner.sample(*TOY, 3, 0.7, seed=2)["completion"].equals(table["completion"])


def test_no_frames_are_no_images(vllm):
    reasoner = VllmReasoner(scratch(), frames=0)
    reasoner.propose(TOY[0], TOY[1][:, :0])
    assert all("multi_modal_data" not in prompt for prompt, _ in vllm[0].asked)
    with pytest.raises(ValueError, match="3 a clip, but the engine was started for 0"):
        reasoner.propose(*TOY)


def test_log_probabilities_stay_with_transformers(vllm):
    policy = scratch()
    texts = ["<think>heard: none"] * CLIPS, ["\nseen: none"] * CLIPS
    expected = Reasoner(policy).log_prob(*TOY, *texts)
    assert VllmReasoner(policy, frames=3).log_prob(*TOY, *texts).tolist() == expected.tolist()


def test_an_adapter_is_merged_first(vllm):
    policy = scratch()
    adapted: Any = get_peft_model(policy.model, lora(policy, 2))  # pyright: ignore[reportArgumentType]
    with pytest.raises(ModelError, match="merge it first"):
        VllmReasoner(replace(policy, model=adapted), frames=3)


def test_qwens_own_processor_finds_settings_for_videos(vllm):
    reasoner = VllmReasoner(qwen(), frames=3)  # the folder lives as long
    assert reasoner.engine == "vllm" and "preprocessor_config.json" in vllm[0].files
    settings = json.loads(Path(vllm[0].options["model"], "preprocessor_config.json").read_text())
    assert settings["image_processor_type"] == "Qwen2VLImageProcessor" and settings["patch_size"] == 14


def test_who_answers_is_said_with_the_reason(vllm, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    reasoner = Reasoner(scratch())
    assert batch_reasoner(reasoner, 3) is reasoner and reasoner.engine == "transformers"
    assert "answers by transformers: there is no CUDA device" in caplog.text
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert why_not_vllm(reasoner.policy) is None
    assert why_not_vllm(tiny_omni()) == "vLLM reads Qwen2.5-Omni whole only, and ours is its Thinker"
    monkeypatch.setattr("avgeo.reason.propose.torch.nn.Module.to", lambda model, device: model)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    faster = batch_reasoner(reasoner, 3, max_model_len=512)
    assert faster.engine == "vllm" and vllm[0].options["max_model_len"] == 512
    assert caplog.messages[-1] == "answers by vLLM"
    monkeypatch.delitem(sys.modules, "vllm")
    assert why_not_vllm(reasoner.policy) == "vllm is not installed"


def test_the_doctor_says_whether_it_is_there(vllm):
    there = [line for line in doctor.diagnose()[0] if line.startswith("extra vllm")]
    assert [line.split() for line in there] == [["extra", "vllm", "installed"]]
