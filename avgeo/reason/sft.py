"""Supervised fine-tuning: imitate the traces of the training clips, with trl's own `SFTTrainer`.

Also home to what both trainers share: clips as trl rows, the progress bar, the history.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from datasets import Dataset, Features, Image, List, Value
from jaxtyping import UInt8
from peft import PeftModel
from tqdm.auto import tqdm
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback
from trl import SFTConfig, SFTTrainer

from avgeo.profiles import ReasonSettings
from avgeo.reason.audio import SoundCollator, add_sound, checked_sound
from avgeo.reason.model import to_images
from avgeo.reason.optimizer import MuonAdamW
from avgeo.reason.policy import Policy, lora, merge
from avgeo.reason.prompts import questions, shown_atoms, trace

EXAMPLE_COLUMNS = (
    "clip_id",
    "split",
    "latitude_deg",
    "longitude_deg",
    "country",
    "region",
    "heard",
    "seen",
    "told",
)
CHECKPOINT_STEPS = 100
"""Steps between two checkpoints: what an interruption can cost."""
Frames = UInt8[np.ndarray, "clips f h w 3"]
Waveforms = Sequence[np.ndarray]
"""Mono sound (samples,), floats in [-1, 1], one per clip, at the `sample_rate_hz` of the policy that hears it."""


class ExamplesError(ValueError):
    """Examples that cannot be trained on or answered; the message names the column and the cure."""


def check_examples(examples: pd.DataFrame, frames: Frames, *, training: bool) -> None:
    """Raise `ExamplesError` unless columns, frames and (when `training`) the split are right.

    Training demands every column of `EXAMPLE_COLUMNS` and `split == "train"` in every row; answering needs
    only `clip_id` and `heard`, so that a clip of unknown place can be located.
    """
    missing = [name for name in (EXAMPLE_COLUMNS if training else ("clip_id", "heard")) if name not in examples]
    if missing:
        raise ExamplesError(f"examples: missing columns {', '.join(missing)}")
    if frames.dtype != np.uint8 or frames.ndim != 5 or frames.shape[-1] != 3 or len(frames) != len(examples):
        raise ExamplesError(
            f"frames: expected uint8 ({len(examples)}, F, H, W, 3), one row per example, "
            f"got {frames.dtype} {frames.shape}"
        )
    if examples["clip_id"].duplicated().any():
        raise ExamplesError("examples: clip_id is repeated; rewards are grouped by it, so it must be unique")
    if training and (held_out := sum(split != "train" for split in examples["split"])):
        raise ExamplesError(f"examples: {held_out} of {len(examples)} rows are not of split 'train'; filter them first")
    if training and not len(examples):
        raise ExamplesError("examples: no rows to train on")


def traces(examples: pd.DataFrame) -> list[str]:
    """The trace to imitate for each example."""
    columns = ("heard", "told", "seen", "country", "region", "latitude_deg", "longitude_deg")
    return [trace(*values) for values in zip(*(examples[name] for name in columns), strict=True)]


def corpus(examples: pd.DataFrame) -> list[str]:
    """Every text a tokenizer for these examples should fit: prompts and traces."""
    return questions(examples) + traces(examples)


def rows(examples: pd.DataFrame, frames: Frames, image_px: int | None) -> Dataset:
    """Training clips for trl: `prompt` and `completion` (chats), `images` (none if F = 0), what rewards need.

    `image_px` is the side of the images, which are square; None: frames as they are.
    """
    check_examples(examples, frames, training=True)
    message = {"role": Value("string"), "content": Value("string")}
    features = Features({
        "prompt": List(message), "completion": List(message), "images": List(Image()),
        "clip_id": Value("string"), "latitude_deg": Value("float64"), "longitude_deg": Value("float64"),
        "country": Value("string"), "region": Value("string"),
        "heard": List(Value("string")), "seen": List(Value("string")),
    })  # fmt: skip
    table = {
        "prompt": [[{"role": "user", "content": text}] for text in questions(examples)],
        "completion": [[{"role": "assistant", "content": text}] for text in traces(examples)],
        "images": [to_images(clip, image_px) for clip in frames],
        "heard": [[name for name, _ in shown_atoms(heard)] for heard in examples["heard"]],
        "seen": [list(seen) for seen in examples["seen"]],
        **{name: examples[name].tolist() for name in ("clip_id", "latitude_deg", "longitude_deg", "country", "region")},
    }
    made = Dataset.from_dict(table, features=features)
    return made if frames.shape[1] else made.remove_columns("images")  # no frames at all: text, as trl knows it


def rows_for(policy: Policy, examples: pd.DataFrame, frames: Frames, waveforms: Waveforms | None) -> Dataset:
    """`rows` as this policy sees and hears them; raises `SoundError` unless it is given sound when it hears sound."""
    sound = checked_sound(policy, waveforms, len(examples))
    made = rows(examples, frames, policy.image_px)
    return made if sound is None else add_sound(made, sound)


def train_sft(
    policy: Policy,
    examples: pd.DataFrame,
    frames: Frames,
    settings: ReasonSettings,
    seed: int,
    work: Path,
    *,
    waveforms: Waveforms | None = None,
) -> tuple[Policy, pd.DataFrame]:
    """Train a policy for `settings.sft_steps` steps; the loss is on the trace's tokens only.

    Every weight of it, where `policy.whole`; else an adapter of `settings.lora_rank` and the modules in
    `policy.trained`, merged at the end. The policy given is used up: its model is trained in place. Checkpoints go to
    `work`; a run that finds one there continues from it. Returns the trained policy and the history: one row per step
    with `step`, `loss` (nats per token), `entropy`, `accuracy` (of the next token), `learning_rate`.
    """
    rate = settings.sft_learning_rate
    arguments = SFTConfig(
        per_device_train_batch_size=settings.sft_batch, max_steps=settings.sft_steps,
        learning_rate=rate, lr_scheduler_type="cosine", warmup_steps=max(1, settings.sft_steps // 20),
        completion_only_loss=True, max_length=None, **common_arguments(policy, seed, work),
    )  # fmt: skip
    trainer = SFTTrainer(
        model=policy.model, args=arguments, processing_class=policy.processor,
        train_dataset=rows_for(policy, examples, frames, waveforms), callbacks=[Progress("SFT", "loss")],
        data_collator=SoundCollator(policy.processor) if policy.sample_rate_hz else None,
        peft_config=None if policy.whole else lora(policy, settings.lora_rank),
        # An adapter's weights are there only once trl has put it on: those are left to the trainer's own AdamW.
        optimizers=(MuonAdamW(policy.model, rate) if policy.whole else None, None),
    )  # fmt: skip
    run(trainer, work)
    trained = replace(policy, model=trainer.accelerator.unwrap_model(trainer.model))
    names = {
        "loss": "loss", "entropy": "entropy", "mean_token_accuracy": "accuracy", "learning_rate": "learning_rate"
    }  # fmt: skip
    return trained if policy.whole else merge(trained), history(trainer.state.log_history, names)


def common_arguments(policy: Policy, seed: int, work: Path) -> dict[str, Any]:
    """Arguments of both trainers: seeds, the policy's precision, checkpoints, no reporters."""
    large = policy.model.dtype == torch.bfloat16
    return dict(
        output_dir=str(work), seed=seed, data_seed=seed, logging_steps=1, report_to="none", disable_tqdm=True,
        log_level="error", save_strategy="steps", save_steps=CHECKPOINT_STEPS, save_total_limit=1,
        # checkpointing activations only costs time at the sizes that are float32
        bf16=large, gradient_checkpointing=large, use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=False, remove_unused_columns=False,
    )  # fmt: skip


def run(trainer: Any, work: Path) -> None:
    """Train, continuing from the last checkpoint in `work` if an earlier run was interrupted."""
    trainer.remove_callback(PrinterCallback)
    checkpoints = sorted(work.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    model = trainer.model
    if checkpoints and not isinstance(model, PeftModel):
        # `Trainer` matches names with strict=False, but weights may have other names on disk than in memory
        # (LLaVA's do): it restores the optimizer and, without a word, none of them. (LoRA's names agree.)
        saved = type(model).from_pretrained(checkpoints[-1], local_files_only=True, dtype=model.dtype)
        model.load_state_dict(saved.state_dict())
    trainer.train(resume_from_checkpoint=str(checkpoints[-1]) if checkpoints else None)


def history(log: Sequence[dict[str, Any]], names: dict[str, str]) -> pd.DataFrame:
    """A trainer's log as a table, one row per step: `step` and the columns of `names` (trl's -> ours)."""
    logged = [entry for entry in log if "loss" in entry]
    columns = {ours: [float(entry[theirs]) for entry in logged] for theirs, ours in names.items()}
    return pd.DataFrame({"step": [entry["step"] for entry in logged]} | columns)


class Progress(TrainerCallback):
    """One bar for the run, with the last value of one logged quantity."""

    def __init__(self, name: str, shown: str) -> None:
        self.name, self.shown = name, shown

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.bar = tqdm(desc=self.name, total=state.max_steps, initial=state.global_step, unit="step", disable=None)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if logs and self.shown in logs:
            self.bar.set_postfix({self.shown: f"{float(logs[self.shown]):.3f}"}, refresh=False)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.bar.close()
