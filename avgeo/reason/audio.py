"""Sound through trl's trainers: rows with waveforms, fine-tuning and GRPO that hear them in every pass.

trl 1.16 knows images, not sound. Stock `GRPOTrainer` on prompts of sound and text runs and is silently wrong: the
rollouts are drawn by a model that hears, their log-probabilities (the policy's, the reference's, the old ones) are
those of a model that reads an empty place. With frames beside the sound it raises. `AudioGRPOTrainer` makes one
features tensor per rollout, the one that generation heard, and takes it along to wherever trl takes the rollout.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset, List, Value
from trl import GRPOTrainer
from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

from avgeo.reason.policy import Policy

FIELDS = ("input_features", "feature_attention_mask")
"""What the model hears: log-mel features (rows, mels, steps) and which steps are sound (rows, steps)."""
SHORTEST_S = 0.1


class SoundError(ValueError):
    """Waveforms that a model cannot hear as they are; the message names the cure."""


def with_sound(rows: Dataset, waveforms: Sequence[np.ndarray], rate_hz: int, policy: Policy) -> Dataset:
    """`rows` for trl (see `avgeo.reason.sft.rows`) with a column `audio`: one waveform per row.

    `waveforms` are mono (samples,), floats in [-1, 1], of any length up to what the processor keeps. Raises
    `SoundError` for a policy that hears by atoms, another sampling rate, and a waveform that is of integers, not
    finite, or shorter or longer than can be heard.
    """
    if policy.sample_rate_hz is not None and rate_hz != policy.sample_rate_hz:
        raise SoundError(f"rate_hz: the policy hears at {policy.sample_rate_hz} Hz; resample the {rate_hz} Hz sound")
    return add_sound(rows, checked_sound(policy, waveforms, len(rows)) or [])


def checked_sound(policy: Policy, waveforms: Sequence[np.ndarray] | None, rows: int) -> list[np.ndarray] | None:
    """The waveforms of so many rows as float32, None for a policy that hears by atoms; `SoundError` as `with_sound`.

    That the waveforms have the policy's sampling rate is the caller's word.
    """
    rate_hz = policy.sample_rate_hz
    if rate_hz is None:
        if waveforms is not None:
            raise SoundError("policy: it hears by the atoms named in its prompt; give it no waveforms")
        return None
    if waveforms is None:
        raise SoundError(f"waveforms: the policy hears sound; give it one mono waveform per clip, at {rate_hz} Hz")
    if len(waveforms) != rows:
        raise SoundError(f"waveforms: {len(waveforms)} for {rows} rows; give one per row")
    processor: Any = policy.processor
    longest = processor.feature_extractor.n_samples
    for row, waveform in enumerate(waveforms):
        if waveform.ndim != 1 or not SHORTEST_S * rate_hz <= len(waveform) <= longest:
            # longer, the processor would cut it without a word
            raise SoundError(
                f"waveforms: row {row} has shape {waveform.shape}; wanted mono of {SHORTEST_S} to "
                f"{longest / rate_hz:g} s: cut it, or build the policy with a greater longest_s"
            )
        if not np.issubdtype(waveform.dtype, np.floating):
            raise SoundError(f"waveforms: row {row} is of {waveform.dtype}; divide by its full scale, to [-1, 1]")
        if not np.isfinite(waveform).all():
            raise SoundError(f"waveforms: row {row} holds NaN or infinite samples; leave the clip out")
    return [np.asarray(waveform, dtype=np.float32) for waveform in waveforms]


def add_sound(rows: Dataset, sound: list[np.ndarray]) -> Dataset:
    """`rows` with the column `audio` of `checked_sound`."""
    made = rows.add_column("audio", sound, feature=List(Value("float32")))  # pyright: ignore[reportCallIssue]
    # as arrays: a list of floats is eight times as large, and a step reads every clip's many times
    return made.with_format("numpy", columns=["audio"], output_all_columns=True)


def spoken(row: dict[str, Any]) -> dict[str, Any]:
    """A row whose prompt is a chat of parts, the last message's being its frames, its sound and its text."""
    if row.get("audio") is None or not len(row["audio"]):
        raise SoundError("audio: a row has no waveform; make the rows with avgeo.reason.audio.with_sound")
    *before, last = row["prompt"]
    if not isinstance(last["content"], str):
        raise SoundError("prompt: the last message must be plain text; frames and sound are put before it here")
    parts = [
        *({"type": "image"} for _ in row.get("images") or ()),
        {"type": "audio", "audio": np.asarray(row["audio"], dtype=np.float32)},
        {"type": "text", "text": last["content"]},
    ]
    return {**row, "prompt": [*before, {**last, "content": parts}]}


class Hearing:
    """A processor that is called on texts with places for sound, by callers that pass none, and fills them."""

    def __init__(self, processor: Any, sounds: Sequence[np.ndarray]) -> None:
        self.processor, self.sounds = processor, sounds

    def __call__(self, *, text: list[str], **options: Any) -> Any:
        """What the processor makes of `text`, with the sounds in it where it has places for them."""
        if any(self.processor.audio_token in one for one in text):
            options["audio"] = list(self.sounds)
        return self.processor(text=text, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.processor, name)


class SoundCollator:
    """trl's collator of prompts and completions with frames, given rows that have sound as well.

    Labels cover the completion alone; the batch holds `FIELDS` beside trl's own.
    """

    def __init__(self, processor: Any) -> None:
        self.processor = processor

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """A batch for the model from rows of `with_sound`."""
        chats = [spoken(row) for row in rows]
        hearing: Any = Hearing(self.processor, [_sound(chat) for chat in chats])
        return DataCollatorForVisionLanguageModeling(hearing, completion_only_loss=True)(chats)


class AudioGRPOTrainer(GRPOTrainer):
    """trl's `GRPOTrainer` over rows of `with_sound`: generation and every log-probability hear the row's sound.

    What it relies on inside trl is written down, and checked, in tests/test_reason_audio.py. It stops with a
    `RuntimeError` as soon as sounds and rows no longer match.
    """

    _heard: dict[str, torch.Tensor] | None = None  # FIELDS of the batch in hand, one row per rollout

    def _tokenize_prompts(self, prompts: list[Any]) -> tuple[Any, Any, dict[str, Any]]:
        prompt_ids, images, fields = super()._tokenize_prompts(prompts)
        device = self.accelerator.device
        self._heard = {name: torch.as_tensor(np.asarray(fields[name])).to(device) for name in FIELDS}
        return prompt_ids, images, fields | self._heard

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        chats = [spoken(row) for row in inputs]
        processor = self.processing_class
        # Prompts with frames are processed a second time, for the log-probabilities, and without their sounds.
        self.processing_class = Hearing(processor, [_sound(chat) for chat in chats])
        try:
            output = super()._generate_and_score_completions(chats)
            if self._heard is None:
                raise RuntimeError("no prompt was tokenised: trl no longer generates by `_tokenize_prompts`")
            # One row per rollout: trl shuffles and splits them with the rest.
            return output | self._heard
        finally:
            self.processing_class, self._heard = processor, None

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        self._heard = {name: inputs[name] for name in FIELDS}
        try:
            return super()._compute_loss(model, inputs)
        finally:
            self._heard = None

    def _get_per_token_logps_and_entropies(self, model: Any, input_ids: Any, *args: Any, **options: Any) -> Any:
        for name in FIELDS:  # of the second processing
            options.pop(name, None)
        listening = _Listening(model, self._heard, self.accelerator.unwrap_model(self.model).config.audio_token_id)
        result = super()._get_per_token_logps_and_entropies(listening, input_ids, *args, **options)
        listening.check_done(len(input_ids))
        return result


class _Listening:
    """A model called on consecutive chunks of a batch's rows, given each chunk's sounds."""

    def __init__(self, model: Any, heard: dict[str, torch.Tensor] | None, audio_token_id: int) -> None:
        if heard is None:
            raise RuntimeError("no sound at hand for these rows: trl calls its log-probabilities from a new place")
        self.model, self.heard, self.audio_token_id = model, heard, audio_token_id
        self.lengths, self.done = heard_tokens(heard["feature_attention_mask"]), 0

    def __call__(self, *, input_ids: torch.Tensor, **options: Any) -> Any:
        chunk = slice(self.done, self.done + len(input_ids))
        self.done = chunk.stop
        # The model itself would spread one row's sound over the next row's places.
        if not torch.equal((input_ids == self.audio_token_id).sum(-1), self.lengths[chunk]):
            raise RuntimeError(
                f"rows {chunk.start} to {chunk.stop}: the sounds are not those the prompts have places for"
            )
        sounds = {name: field[chunk] for name, field in self.heard.items()}
        return self.model(input_ids=input_ids, **options, **sounds)

    def check_done(self, rows: int) -> None:
        """Raise unless the chunks were, together, the `rows` of the batch."""
        if self.done != rows:
            raise RuntimeError(f"the model saw {self.done} rows of {rows}: trl cuts its batches in another way")


def heard_tokens(feature_attention_mask: torch.Tensor) -> torch.Tensor:
    """Places (rows,) that each sound takes in a prompt: its steps halved twice, by a convolution and by pooling.

    As `Qwen2_5OmniAudioEncoder` does: 25 a second.
    """
    after_convolution = (feature_attention_mask.sum(-1) - 1) // 2 + 1
    return (after_convolution - 2) // 2 + 1


def _sound(chat: dict[str, Any]) -> np.ndarray:
    return next(part["audio"] for part in chat["prompt"][-1]["content"] if part["type"] == "audio")
