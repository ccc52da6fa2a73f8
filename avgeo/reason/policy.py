"""What every size of the reasoner is to the trainers: a model, a processor, and the few ways in which sizes differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # transformers takes seconds to import, and must not be before HF_HUB_OFFLINE is set
    from transformers import PreTrainedModel, ProcessorMixin


@dataclass(frozen=True)
class Policy:
    """A multimodal language model as trl's trainers want it, and what differs between sizes."""

    model: PreTrainedModel  # may be a PeftModel after training
    processor: ProcessorMixin  # has .tokenizer, apply_chat_template, left padding
    adapted: str  # LoraConfig.target_modules (regex)
    trained: tuple[str, ...] = ()  # LoraConfig.modules_to_save, e.g. a new projector
    silent: tuple[int, ...] = ()  # token ids an answer never holds (multimodal specials), for suppress_tokens
    image_px: int | None = None  # frames are resized to squares of this side; None: the processor does it
    sample_rate_hz: int | None = None  # None: hears by atoms in the prompt's text only; else waveforms at this rate
