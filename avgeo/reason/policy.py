"""What every size of the reasoner is to the trainers: a model, a processor, and the few ways in which sizes differ."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from peft import LoraConfig, PeftModel
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

LANGUAGE_LAYERS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
"""The matrices that LoRA adapts: the language model's alone, though towers have a `q_proj` too."""
VISION_TOWER = "vision_tower"
ANSWER_TOKENS = 160
"""Room for an answer where nobody says otherwise: a trace is 60 to 120 tokens of a published language model."""


class ModelError(ValueError):
    """Settings or a folder from which no reasoner can be made; the message names the cure."""


@dataclass(frozen=True)
class Policy:
    """A multimodal language model as trl's trainers want it, and what differs between sizes."""

    model: PreTrainedModel  # may be a PeftModel after GRPO
    processor: ProcessorMixin  # has .tokenizer, apply_chat_template, left padding
    adapted: str = LANGUAGE_LAYERS  # LoraConfig.target_modules (regex)
    whole: bool = False  # fine-tuning trains every weight; else an adapter, and the modules in `trained`
    trained: tuple[str, ...] = ()  # LoraConfig.modules_to_save, e.g. a new projector
    silent: tuple[int, ...] = ()  # token ids an answer never holds (multimodal specials), for suppress_tokens
    image_px: int | None = None  # frames are resized to squares of this side; None: the processor does it
    sample_rate_hz: int | None = None  # None: hears by atoms in the prompt's text only; else waveforms at this rate


def policy_of(model: PreTrainedModel, processor: Any, *, max_new_tokens: int | None = None, **differs: Any) -> Policy:
    """Model and processor as a policy that answers greedily and says no silent token; `differs` are its other fields.

    An answer has at most `max_new_tokens`; None: as many as the model's own file says, or `ANSWER_TOKENS`.
    """
    known, tokenizer = model.generation_config, processor.tokenizer
    assert isinstance(known, GenerationConfig)
    own = known.eos_token_id if isinstance(known.eos_token_id, list) else [known.eos_token_id]
    ends = sorted({tokenizer.eos_token_id, *own} - {None})
    silent = silent_tokens(tokenizer, ends)
    # made anew: published files sample, and punish repetition, which no trainer here would know of
    model.generation_config = GenerationConfig(
        max_new_tokens=max_new_tokens or known.max_new_tokens or ANSWER_TOKENS, do_sample=False,
        eos_token_id=ends if len(ends) > 1 else ends[0], pad_token_id=tokenizer.pad_token_id,
        suppress_tokens=list(silent),
    )  # fmt: skip
    return Policy(model, processor, silent=silent, **differs)


def silent_tokens(tokenizer: PreTrainedTokenizerBase, ends: list[int]) -> tuple[int, ...]:
    """Every special token but those that end an answer.

    Decoding drops them, so that one inside an answer would be scored but not seen; after a generated image token the
    model would look for a frame.
    """
    # `all_special_ids` lacks those that only the table of added tokens knows, e.g. <|box_start|>
    special = (index for index, token in tokenizer.added_tokens_decoder.items() if token.special)
    return tuple(sorted(set(special) - set(ends)))


def lora(policy: Policy, rank: int) -> LoraConfig:
    """The adapter that both trainers put on a policy."""
    return LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules=policy.adapted, modules_to_save=list(policy.trained) or None,
        task_type="CAUSAL_LM",
    )  # fmt: skip


def merge(policy: Policy) -> Policy:
    """The policy with its adapter folded into the weights, ready to be saved and for GRPO.

    Of what was new only the projector stays to be trained: rewards are too noisy a teacher for a whole tower. Raises
    `ModelError` when `policy.model` has no adapter.
    """
    if not isinstance(policy.model, PeftModel):
        raise ModelError("policy: has no adapter to merge; pass one that train_grpo returned, or with a PeftModel")
    trained = tuple(name for name in policy.trained if name != VISION_TOWER)
    return replace(policy, model=policy.model.merge_and_unload(), trained=trained)
