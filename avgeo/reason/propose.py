"""From clips to proposals: train a reasoner into a folder, load it from there, let it answer in batches."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from peft import PeftModel
from tqdm.auto import tqdm

from avgeo.profiles import ReasonSettings
from avgeo.reason.audio import checked_sound
from avgeo.reason.grpo import save_adapter, train_grpo
from avgeo.reason.model import to_images
from avgeo.reason.policy import Policy, merge
from avgeo.reason.prompts import Answer, parse, questions
from avgeo.reason.sft import Frames, Waveforms, check_examples, corpus, train_sft
from avgeo.reason.sizes import build_policy, load_policy, save_policy


def train_reasoner(
    examples: pd.DataFrame,
    frames: Frames,
    settings: ReasonSettings,
    seed: int,
    out: Path,
    *,
    waveforms: Waveforms | None = None,
) -> None:
    """Fine-tune the policy that `settings.policy` names on the training clips, then improve it by GRPO.

    Only a policy that hears sound is given `waveforms`. Writes `out/sft/` (model and processor),
    `out/sft_history.parquet`, `out/adapter/` (LoRA) and `out/grpo_history.parquet`. A part that is complete is not done
    again, and an interrupted one continues from its last checkpoint. Raises `ExamplesError` when a row is not of split
    "train", `ModelError` when there is no such policy, `SoundError` when it hears sound and is given none.
    """
    check_examples(examples, frames, training=True)
    out.mkdir(parents=True, exist_ok=True)
    if not (out / "sft").is_dir():
        work = out / "sft.partial"
        policy = build_policy(settings, corpus(examples), seed)
        policy, history = train_sft(policy, examples, frames, settings, seed, work / "checkpoints", waveforms=waveforms)
        history.to_parquet(out / "sft_history.parquet", index=False)
        save_policy(policy, work / "model")
        (work / "model").rename(out / "sft")
        shutil.rmtree(work)
    if not (out / "adapter").is_dir():
        work = out / "adapter.partial"
        policy = load_policy(out / "sft")
        policy, history = train_grpo(
            policy, examples, frames, settings, seed, work / "checkpoints", waveforms=waveforms
        )
        history.to_parquet(out / "grpo_history.parquet", index=False)
        save_adapter(policy, work / "adapter")
        (work / "adapter").rename(out / "adapter")
        shutil.rmtree(work)


def load_reasoner(path: Path, *, adapter: bool = True) -> Reasoner:
    """The reasoner that `train_reasoner` wrote to `path`; `adapter=False` gives the model before GRPO."""
    policy = load_policy(path / "sft")
    if adapter:
        adapted: Any = PeftModel.from_pretrained(policy.model, str(path / "adapter"))
        policy = merge(replace(policy, model=adapted))
    return Reasoner(policy)


class Reasoner:
    """A policy, ready to answer; runs on the GPU when there is one."""

    def __init__(self, policy: Policy) -> None:
        torch.nn.Module.to(policy.model, "cuda" if torch.cuda.is_available() else "cpu").eval()
        self.policy = policy

    def propose(
        self, examples: pd.DataFrame, frames: Frames, *, waveforms: Waveforms | None = None, batch: int = 128
    ) -> pd.DataFrame:
        """One greedy answer per clip; a policy that hears sound wants `waveforms`, and no other does.

        Columns: `clip_id, latitude_deg, longitude_deg, country, parsed, completion, failure`. `examples`
        needs `clip_id` and `heard`. A completion that does not parse keeps its row: coordinates NaN, country
        None, `parsed` False and the reason in `failure`, so that failures can be counted.
        """
        groups = self._batches(examples, frames, waveforms, batch, "propose", do_sample=False)
        return _table(examples["clip_id"].tolist(), [text for group in groups for text in group])

    def sample(
        self,
        examples: pd.DataFrame,
        frames: Frames,
        n: int,
        temperature: float,
        seed: int,
        *,
        waveforms: Waveforms | None = None,
        batch: int = 16,
    ) -> pd.DataFrame:
        """`n` answers per clip at `temperature`, as `propose` gives them, with a column `sample` (0..n-1)."""
        if n < 1 or not temperature > 0:
            raise ValueError(f"n must be at least 1 and temperature positive, got {n} and {temperature}")
        device = self.policy.model.device
        devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            groups = self._batches(
                examples, frames, waveforms, batch, "sample", do_sample=True, temperature=temperature, top_k=0,
                num_return_sequences=n,
            )  # fmt: skip
            texts = [text for group in groups for text in group]
        table = _table([clip for clip in examples["clip_id"] for _ in range(n)], texts)
        table.insert(1, "sample", list(range(n)) * len(examples))
        return table

    @torch.inference_mode()
    def _batches(
        self,
        examples: pd.DataFrame,
        frames: Frames,
        waveforms: Waveforms | None,
        batch: int,
        name: str,
        **options: object,
    ) -> Iterator[list[str]]:
        """Completions of each batch of clips, in order; prompts padded on the left, past keys kept."""
        check_examples(examples, frames, training=False)
        sound = checked_sound(self.policy, waveforms, len(examples))
        processor: Any = self.policy.processor  # transformers types neither its keywords nor `generate`
        model: Any = self.policy.model
        bar = tqdm(desc=name, total=len(examples), unit="clip", disable=None)
        for start in range(0, len(examples), batch):
            rows = slice(start, start + batch)
            images = [to_images(clip, self.policy.image_px) for clip in frames[rows]]
            heard = {} if sound is None else {"audio": sound[rows]}
            prompts = [_chat(text, frames.shape[1], sound) for text in questions(examples.iloc[rows])]
            texts = processor.apply_chat_template(prompts, add_generation_prompt=True, tokenize=False)
            inputs = processor(
                images=images if frames.shape[1] else None, text=texts, padding=True, padding_side="left",
                add_special_tokens=False, return_tensors="pt", **heard,
            ).to(model.device)  # fmt: skip
            output = model.generate(**inputs, **options)
            completions = output[:, inputs["input_ids"].shape[1] :]
            yield processor.batch_decode(completions, skip_special_tokens=True)
            bar.update(len(images))
        bar.close()


def _chat(text: str, frames: int, sound: list[np.ndarray] | None) -> list[dict[str, Any]]:
    senses = [{"type": "image"}] * frames + ([] if sound is None else [{"type": "audio"}])
    return [{"role": "user", "content": [*senses, {"type": "text", "text": text}]}]


def _table(clip_ids: list[str], completions: list[str]) -> pd.DataFrame:
    answers = [parse(text) for text in completions]
    found = [answer if isinstance(answer, Answer) else None for answer in answers]
    failures = [None if isinstance(answer, Answer) else answer.reason for answer in answers]
    return pd.DataFrame(
        {
            "clip_id": clip_ids,
            "latitude_deg": [answer.latitude_deg if answer else float("nan") for answer in found],
            "longitude_deg": [answer.longitude_deg if answer else float("nan") for answer in found],
            "country": pd.Series([answer.country if answer else None for answer in found], dtype=object),
            "parsed": [answer is not None for answer in found],
            "completion": completions,
            "failure": pd.Series(failures, dtype=object),
        }
    )
