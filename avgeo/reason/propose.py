"""From clips to proposals: train a reasoner into a folder, load it from there, let it answer in batches."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float64
from peft import PeftModel
from torch.nn.utils.rnn import pad_sequence
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

    engine = "transformers"
    """What draws the tokens; see `avgeo.reason.batch`."""

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
        groups = self._batches(examples, frames, waveforms, batch)
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
            groups = self._batches(examples, frames, waveforms, batch, n=n, temperature=temperature, seed=seed)
            texts = [text for group in groups for text in group]
        table = _table([clip for clip in examples["clip_id"] for _ in range(n)], texts)
        table.insert(1, "sample", list(range(n)) * len(examples))
        return table

    @torch.inference_mode()
    def log_prob(
        self,
        examples: pd.DataFrame,
        frames: Frames,
        contexts: Sequence[str],
        answers: Sequence[str],
        *,
        waveforms: Waveforms | None = None,
        batch: int = 64,
    ) -> Float64[np.ndarray, " clips"]:
        """log p(answer | prompt, context) in nats, summed over the answer's tokens: one context and answer per row.

        A context is what the policy has written before the answer. The two are tokenised apart, so cut where its own
        tokens do, as `avgeo.reason.faithfulness.cut` does. What would end the answer is not scored. It is the plain
        softmax at temperature 1: tokens that answering forbids (`Policy.silent`) keep what probability they have.
        Raises `ValueError` unless each row has a context and an answer that says something.
        """
        if not len(contexts) == len(answers) == len(examples) or not all(answers):
            raise ValueError(f"give one context and one answer that is not empty for each of {len(examples)} rows")
        sound = self._sound(examples, frames, waveforms)
        tokenizer: Any = self.policy.processor.tokenizer  # pyright: ignore[reportAttributeAccessIssue]
        model: Any = self.policy.model
        found = []
        for start in range(0, len(examples), batch):
            rows = slice(start, start + batch)
            inputs = self._inputs(examples, frames, sound, rows)
            before, after = (
                tokenizer(list(texts[rows]), add_special_tokens=False)["input_ids"] for texts in (contexts, answers)
            )
            # Prompts end in the same column, what was written starts in the next: a row's padding is on its two sides.
            written = [torch.tensor([*a, *b]) for a, b in zip(before, after, strict=True)]
            tail = pad_sequence(written, batch_first=True, padding_value=tokenizer.pad_token_id)
            longest, column = tail.shape[1], torch.arange(tail.shape[1])
            begin, end = (torch.tensor([len(one) for one in each])[:, None] for each in (before, written))
            there, scored = (column < end).long(), (begin <= column) & (column < end)
            tail, there, scored = (part.to(model.device) for part in (tail, there, scored))
            more = {"input_ids": tail, "attention_mask": there}
            for name in inputs.keys() - more.keys():  # of Qwen's kinds of tokens 0 is text
                if inputs[name].shape == inputs["attention_mask"].shape:
                    more[name] = torch.zeros_like(tail)
            inputs.update({name: torch.cat([inputs[name], part], 1) for name, part in more.items()})
            # where a model can, no logits of the prompt: with a published vocabulary they would be gigabytes
            fewer = {"logits_to_keep": longest + 1} if "logits_to_keep" in signature(model.forward).parameters else {}
            logits = model(**inputs, **fewer, use_cache=False).logits[:, -longest - 1 : -1].float()
            each = -torch.nn.functional.cross_entropy(logits.transpose(1, 2), tail, reduction="none")
            found.append(torch.where(scored, each, 0.0).double().sum(1).cpu().numpy())
        return np.concatenate(found) if found else np.empty(0)

    @torch.inference_mode()
    def _batches(
        self,
        examples: pd.DataFrame,
        frames: Frames,
        waveforms: Waveforms | None,
        batch: int,
        *,
        n: int = 1,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> Iterator[list[str]]:
        """Completions of each batch of clips, in order, a clip's `n` together; greedy at temperature 0.

        Prompts are padded on the left and past keys kept. `seed` is for a subclass: here the caller has set torch's.
        """
        drawn = {"do_sample": True, "temperature": temperature, "top_k": 0, "num_return_sequences": n}
        options: dict[str, Any] = drawn if temperature else {"do_sample": False}
        sound = self._sound(examples, frames, waveforms)
        processor: Any = self.policy.processor  # transformers types neither its keywords nor `generate`
        model: Any = self.policy.model
        bar = tqdm(desc="sample" if temperature else "propose", total=len(examples), unit="clip", disable=None)
        for start in range(0, len(examples), batch):
            inputs = self._inputs(examples, frames, sound, slice(start, start + batch))
            output = model.generate(**inputs, **options)
            completions = output[:, inputs["input_ids"].shape[1] :]
            yield processor.batch_decode(completions, skip_special_tokens=True)
            bar.update(min(batch, len(examples) - start))
        bar.close()

    def _sound(self, examples: pd.DataFrame, frames: Frames, waveforms: Waveforms | None) -> list[np.ndarray] | None:
        """The waveforms, if this policy hears any, once all that was given has been checked."""
        check_examples(examples, frames, training=False)
        return checked_sound(self.policy, waveforms, len(examples))

    def _inputs(self, examples: pd.DataFrame, frames: Frames, sound: list[np.ndarray] | None, rows: slice) -> Any:
        """The model's inputs for the prompts of some rows, padded on the left."""
        processor: Any = self.policy.processor
        images = [to_images(clip, self.policy.image_px) for clip in frames[rows]]
        heard = {} if sound is None else {"audio": sound[rows]}
        return processor(
            images=images if frames.shape[1] else None,
            text=self.prompts(examples.iloc[rows], frames.shape[1], sound is not None),
            padding=True, padding_side="left", add_special_tokens=False, return_tensors="pt", **heard,
        ).to(self.policy.model.device)  # fmt: skip

    def prompts(self, examples: pd.DataFrame, frames: int, sound: bool = False) -> list[str]:
        """The prompt of every row as the chat template writes it: so many frames, the sound if wanted, the question."""
        senses = [{"type": "image"}] * frames + [{"type": "audio"}] * sound
        processor: Any = self.policy.processor
        return processor.apply_chat_template(
            [
                [{"role": "user", "content": [*senses, {"type": "text", "text": text}]}]
                for text in questions(examples)
            ],
            add_generation_prompt=True, tokenize=False,
        )  # fmt: skip


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
