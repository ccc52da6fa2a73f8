"""From clips to proposals: train a reasoner into a folder, load it from there, let it answer in batches."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from peft import PeftModel
from PIL import Image
from tqdm.auto import tqdm
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from avgeo.profiles import ReasonSettings
from avgeo.reason.grpo import save_adapter, train_grpo
from avgeo.reason.model import build_model, load_model, save_model, to_images, vision_px
from avgeo.reason.prompts import Answer, parse, questions
from avgeo.reason.sft import Frames, check_examples, corpus, train_sft


def train_reasoner(examples: pd.DataFrame, frames: Frames, settings: ReasonSettings, seed: int, out: Path) -> None:
    """Fine-tune a new reasoner on the training clips, then improve it by GRPO.

    Writes `out/sft/` (model and processor), `out/sft_history.parquet`, `out/adapter/` (LoRA) and
    `out/grpo_history.parquet`. A part that is complete is not done again, and an interrupted one continues
    from its last checkpoint. Raises `ExamplesError` when a row is not of split "train".
    """
    check_examples(examples, frames, training=True)
    out.mkdir(parents=True, exist_ok=True)
    if not (out / "sft").is_dir():
        work = out / "sft.partial"
        model, processor = build_model(settings, corpus(examples), seed)
        history = train_sft(model, processor, examples, frames, settings, seed, work / "checkpoints")
        history.to_parquet(out / "sft_history.parquet", index=False)
        save_model(model, processor, work / "model")
        (work / "model").rename(out / "sft")
        shutil.rmtree(work)
    if not (out / "adapter").is_dir():
        work = out / "adapter.partial"
        model, processor = load_model(out / "sft")
        policy, history = train_grpo(model, processor, examples, frames, settings, seed, work / "checkpoints")
        history.to_parquet(out / "grpo_history.parquet", index=False)
        save_adapter(policy, work / "adapter")
        (work / "adapter").rename(out / "adapter")
        shutil.rmtree(work)


def load_reasoner(path: Path, *, adapter: bool = True) -> Reasoner:
    """The reasoner that `train_reasoner` wrote to `path`; `adapter=False` gives the model before GRPO."""
    model, processor = load_model(path / "sft")
    if adapter:
        model = PeftModel.from_pretrained(model, str(path / "adapter")).merge_and_unload()
    return Reasoner(model, processor)


class Reasoner:
    """A model and its processor, ready to answer; runs on the GPU when there is one."""

    def __init__(self, model: LlavaForConditionalGeneration, processor: LlavaProcessor) -> None:
        torch.nn.Module.to(model, "cuda" if torch.cuda.is_available() else "cpu")
        self.model = model.eval()
        self.processor = processor

    def propose(self, examples: pd.DataFrame, frames: Frames, *, batch: int = 128) -> pd.DataFrame:
        """One greedy answer per clip.

        Columns: `clip_id, latitude_deg, longitude_deg, country, parsed, completion, failure`. `examples`
        needs `clip_id` and `heard`. A completion that does not parse keeps its row: coordinates NaN, country
        None, `parsed` False and the reason in `failure`, so that failures can be counted.
        """
        check_examples(examples, frames, training=False)
        texts = [text for group in self._batches(examples, frames, batch, "propose", do_sample=False) for text in group]
        return _table(examples["clip_id"].tolist(), texts)

    def sample(
        self,
        examples: pd.DataFrame,
        frames: Frames,
        n: int,
        temperature: float,
        seed: int,
        *,
        batch: int = 16,
    ) -> pd.DataFrame:
        """`n` answers per clip at `temperature`, as `propose` gives them, with a column `sample` (0..n-1)."""
        if n < 1 or not temperature > 0:
            raise ValueError(f"n must be at least 1 and temperature positive, got {n} and {temperature}")
        check_examples(examples, frames, training=False)
        devices = [self.model.device] if self.model.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            groups = self._batches(
                examples, frames, batch, "sample", do_sample=True, temperature=temperature, top_k=0,
                num_return_sequences=n,
            )  # fmt: skip
            texts = [text for group in groups for text in group]
        table = _table([clip for clip in examples["clip_id"] for _ in range(n)], texts)
        table.insert(1, "sample", list(range(n)) * len(examples))
        return table

    @torch.inference_mode()
    def _batches(
        self, examples: pd.DataFrame, frames: Frames, batch: int, name: str, **options: object
    ) -> Iterator[list[str]]:
        """Completions of each batch of clips, in order; prompts padded on the left, past keys kept."""
        image_px, _ = vision_px(self.model)
        processor: Any = self.processor  # transformers types neither its keywords nor `generate`
        model: Any = self.model
        bar = tqdm(desc=name, total=len(examples), unit="clip", disable=None)
        for start in range(0, len(examples), batch):
            rows = slice(start, start + batch)
            images = [to_images(clip, image_px) for clip in frames[rows]]
            prompts = [_chat(*clip) for clip in zip(questions(examples.iloc[rows]), images, strict=True)]
            texts = processor.apply_chat_template(prompts, add_generation_prompt=True, tokenize=False)
            inputs = processor(
                images=images if frames.shape[1] else None, text=texts, padding=True, padding_side="left",
                add_special_tokens=False, return_tensors="pt",
            ).to(self.model.device)  # fmt: skip
            output = model.generate(**inputs, **options)
            completions = output[:, inputs["input_ids"].shape[1] :]
            yield processor.batch_decode(completions, skip_special_tokens=True)
            bar.update(len(images))
        bar.close()


def _chat(text: str, images: list[Image.Image]) -> list[dict[str, Any]]:
    content = [*({"type": "image"} for _ in images), {"type": "text", "text": text}]
    return [{"role": "user", "content": content}]


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
