"""Qwen's models as policies: their true shapes, and their way to a folder and back."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from tiny_qwen import sounding, thinker, tiny_omni, vl3, vl25

from avgeo.profiles import get_profile
from avgeo.reason.audio import spoken
from avgeo.reason.policy import ModelError
from avgeo.reason.qwen import omni, thinker_config, vision_language


def parameters(module: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


@pytest.mark.parametrize(
    ("size", "text"),
    [
        # model cards of Qwen2.5-7B (7.61 billion) and -3B (3.09 with one table for both ends; the Thinker has two)
        ("7B", 7.61e9),
        ("3B", 3.09e9 + 151_936 * 2048),
    ],
)
def test_the_thinkers_true_shapes_have_the_published_counts(size, text):
    with torch.device("meta"):
        policy = omni(thinker_config(size), dtype=torch.bfloat16)
    model: Any = policy.model
    assert model.dtype == torch.bfloat16 and model.lm_head.weight.device.type == "meta"
    # 675 million: the vision encoder, says the report of Qwen2-VL; 637 million: the encoder of whisper-large-v3
    assert parameters(model.model.visual) == pytest.approx(675e6, rel=0.01)
    assert parameters(model.model.audio_tower) == pytest.approx(637e6, rel=0.01)
    assert parameters(model.model.language_model) + parameters(model.lm_head) == pytest.approx(text, rel=0.01)
    assert parameters(model) == pytest.approx(text + 675e6 + 637e6, rel=0.01)
    assert round(parameters(model) / 1e9, 2) == {"7B": 8.93, "3B": 4.70}[size]


def test_an_unpublished_size_is_refused():
    with pytest.raises(ModelError, match="choose 3B or 7B"):
        thinker_config("1B")  # pyright: ignore[reportArgumentType]


def test_a_policy_says_what_it_is(tmp_path):
    hears, sees = tiny_omni(), vision_language(vl3())
    assert hears.sample_rate_hz == 16_000 and sees.sample_rate_hz is None
    assert hears.image_px is None and hears.trained == ()
    for policy in (hears, sees):
        tokenizer = policy.processor.tokenizer
        assert tokenizer.padding_side == "left"
        assert tokenizer.eos_token_id not in policy.silent
        assert {policy.model.config.image_token_id, policy.model.config.vision_start_token_id} <= set(policy.silent)
        text = "Perú, -12.5: <think>"
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert hears.model.config.audio_token_id in hears.silent


def test_lora_adapts_the_language_model_and_not_the_towers():
    from peft import get_peft_model

    for policy in (tiny_omni(), vision_language(vl25()), vision_language(vl3())):
        adapted: Any = get_peft_model(policy.model, LoraConfig(r=2, target_modules=policy.adapted))
        names = [name for name, weight in adapted.named_parameters() if weight.requires_grad]
        assert len(names) == 2 * 2 * 7  # two layers of seven matrices, two factors each
        assert all(".language_model." in name for name in names)


def test_the_same_seed_gives_the_same_weights():
    one, again, other = (omni(thinker(), seed=seed).model.state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["lm_head.weight"], other["lm_head.weight"])


def logits(policy, row) -> torch.Tensor:
    processor: Any = policy.processor
    if policy.sample_rate_hz:
        row = spoken(row)
    else:
        image = [{"type": "image"} for _ in row["images"]]
        text = [{"type": "text", "text": row["prompt"][0]["content"]}]
        row = row | {"prompt": [{"role": "user", "content": image + text}]}
    text = processor.apply_chat_template(row["prompt"], add_generation_prompt=True, tokenize=False)
    heard = {"audio": [part["audio"] for part in row["prompt"][-1]["content"] if part["type"] == "audio"]}
    if not policy.sample_rate_hz:
        heard = {}
    inputs = processor(text=[text], images=[row["images"]], return_tensors="pt", **heard)
    with torch.inference_mode():
        return policy.model(**inputs).logits


@pytest.mark.parametrize("kind", ["omni", "qwen2.5-vl", "qwen3-vl"])
def test_a_policy_reads_back_from_its_folder(kind, tmp_path):
    policy = tiny_omni() if kind == "omni" else vision_language({"qwen2.5-vl": vl25, "qwen3-vl": vl3}[kind]())
    policy.model.save_pretrained(tmp_path)
    policy.processor.save_pretrained(tmp_path)
    back = omni(tmp_path, longest_s=3) if kind == "omni" else vision_language(tmp_path)
    assert (back.silent, back.adapted, back.sample_rate_hz) == (policy.silent, policy.adapted, policy.sample_rate_hz)
    row = sounding(tiny_omni(), 1)[0]
    assert torch.equal(logits(back, row), logits(policy, row))


def test_the_thinker_is_read_out_of_the_whole_models_folder(tmp_path):
    """As published: weights named `thinker.…` beside a talker's, sizes under `thinker_config`, settings in one file."""
    policy = tiny_omni()
    policy.model.save_pretrained(tmp_path)
    policy.processor.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    named = {}
    for name, weight in weights.items():
        # the published files have transformers 4's names
        old = name.removeprefix("model.") if name.startswith(("model.visual", "model.audio_tower")) else name
        named["thinker." + old.replace("model.language_model.", "model.")] = weight
    save_file(named | {"talker.codec_head.weight": torch.zeros(2, 2)}, tmp_path / "model.safetensors", {"format": "pt"})
    config = json.loads((tmp_path / "config.json").read_text())
    whole = {"model_type": "qwen2_5_omni", "architectures": ["Qwen2_5OmniModel"], "thinker_config": config}
    (tmp_path / "config.json").write_text(json.dumps(whole))
    settings = json.loads((tmp_path / "processor_config.json").read_text())
    (tmp_path / "processor_config.json").unlink()
    together = settings["feature_extractor"] | settings["image_processor"]
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(together))
    (tmp_path / "chat_template.jinja").rename(tmp_path / "template")
    template = (tmp_path / "template").read_text()
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    row = sounding(policy, 1)[0]
    assert torch.equal(logits(omni(tmp_path, longest_s=3), row), logits(policy, row))


def test_folders_that_hold_no_such_model_are_refused(tmp_path):
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE=0"):
        omni("Qwen/Qwen2.5-Omni-7B")
    with pytest.raises(ModelError, match=r"no config\.json"):
        omni(tmp_path)
    with pytest.raises(ModelError, match="longest_s"):
        omni(thinker(), longest_s=0)
    with pytest.raises(ModelError, match="qwen2_5_omni_thinker"):
        vision_language(thinker())
    small = thinker()
    small.text_config.vocab_size = 100
    with pytest.raises(ModelError, match="at least 266 tokens"):
        omni(small)
    policy = tiny_omni()
    policy.model.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="wanted qwen2_5_vl or qwen3_vl"):
        vision_language(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 weights \(lm_head"):
        omni(tmp_path)


# benchmarks/omni.py


@pytest.fixture(scope="module")
def benchmark_of_omni(repository_root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("omni_benchmark", repository_root / "benchmarks" / "omni.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    # dataclasses look their module up by name
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_benchmarks_dry_run_prints_what_the_card_would_hold(benchmark_of_omni, capsys, monkeypatch):
    def no_card(*_: Any, **__: Any):
        raise AssertionError("a dry run writes no card")

    monkeypatch.setattr(benchmark_of_omni, "run_card", no_card)
    benchmark_of_omni.main(["--tiny"])
    result = json.loads(capsys.readouterr().out)["result"]
    assert set(result["tokens_per_second"]) == {"generated", "trained", "overall"}
    assert all(0 < speed < float("inf") for speed in result["tokens_per_second"].values())
    assert len(result["steps"]) == len(result["seconds"]["steps"]) == 3
    assert all(step["grad_norm"] > 0 for step in result["steps"])
    assert result["peak_gb"]["process"] > 0 and 0 < result["trained_parameters"] < result["parameters"]
    # two frames of 4 places, a second of 25, and the text
    assert result["tokens_per_rollout"]["answer"] <= 8 and result["tokens_per_rollout"]["prompt"] > 33


def test_the_benchmark_refuses_without_a_gpu_and_has_the_full_profiles_sizes(benchmark_of_omni, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match=r"no CUDA device here.*--tiny"):
        benchmark_of_omni.main(["--size", "3B"])
    sizes, full = benchmark_of_omni.full_sizes(), get_profile("full")
    assert (sizes.clips, sizes.rollouts) == (full.reason.grpo_prompts, full.reason.grpo_generations)
    assert (sizes.frames, sizes.sound_s) == (full.atoms.frames, full.world.duration_s)
