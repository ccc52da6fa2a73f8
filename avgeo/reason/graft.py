"""Sight for a language model that has none: a vision tower and a projector grafted onto any causal LM, as LLaVA.

LLaVA (Liu et al. 2023) rather than Idefics3: the language model sits in it whole, so its weights are copied name by
name; a frame is one row of pixels, which trl splits by clip; and it is the class of the reasoner that trains from
scratch (`avgeo.reason.model`), so a tower trained there fits. Idefics3's pixel shuffle, image splitting and attention
mask over pixels serve pages of text, not small square frames.

Training is in two stages. Fine-tuning: LoRA on the language model, tower and projector whole (they are new), folded
into the weights at the end. GRPO trains a fresh adapter, so that "adapter off" is the fine-tuned model, the reference
of the KL penalty; were the first adapter kept, "off" would be the model before fine-tuning.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from transformers import (
    LlavaForConditionalGeneration,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from avgeo.profiles import ReasonSettings
from avgeo.reason.model import llava_config, llava_policy, token_id, vision_config, vision_px
from avgeo.reason.policy import VISION_TOWER, ModelError, Policy

IMAGE = "<image>"
PROJECTOR = "multi_modal_projector"

_CONTENT = "message['content']"
_PARTS = (
    "{% macro parts(content) %}{% if content is string %}{{ content }}{% else %}{% for part in content %}"
    "{% if part['type'] == 'image' %}" + IMAGE + "{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{% endmacro %}"
)


def graft(
    language_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    settings: ReasonSettings,
    seed: int,
    *,
    tower: SiglipVisionModel | None = None,
) -> Policy:
    """A policy that reads like `language_model` and sees frames; its tower and projector are new, drawn from `seed`.

    `tower` replaces the random tower, whose sizes are `settings.image_px`, `patch_px`, `vision_hidden` and
    `vision_layers`, by a trained one (its weights are copied; then its own sizes hold). Language model and tokenizer
    are taken over: both get a token for images. Everything is float32. Raises `ModelError` when sizes do not divide,
    or the tokenizer has no end token or a chat template that cannot be given images.
    """
    vision = vision_config(settings) if tower is None else copy.deepcopy(tower.config)
    assert isinstance(vision, SiglipVisionConfig)
    _teach_images(tokenizer)
    _make_room(language_model, len(tokenizer))
    text = copy.deepcopy(language_model.config)
    for leftover in ("quantization_config", "_model_name_or_path"):  # of the file it was read from
        if hasattr(text, leftover):
            delattr(text, leftover)
    words, head = _tables(language_model)
    text.vocab_size = words.num_embeddings
    config = llava_config(text, vision, token_id(tokenizer, IMAGE))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(config).float()
        model.model.language_model.load_state_dict(language_model.base_model.state_dict())
        if not text.tie_word_embeddings:
            model.lm_head.load_state_dict(head.state_dict())
        if tower is not None:
            model.model.vision_tower.load_state_dict(tower.state_dict())
        _speak_as_loud_as_words(model)
    return llava_policy(model, tokenizer, max_new_tokens=settings.max_new_tokens, trained=(PROJECTOR, VISION_TOWER))


def _teach_images(tokenizer: PreTrainedTokenizerFast) -> None:
    """Give the tokenizer an image token, and its chat template messages whose content is a list of parts."""
    template = tokenizer.chat_template
    if not isinstance(template, str) or _CONTENT not in template or tokenizer.eos_token is None:
        raise ModelError(f"tokenizer: needs an end token and a chat template that writes {_CONTENT}; take a chat model")
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE]}, replace_extra_special_tokens=False)
    tokenizer.chat_template = _PARTS + template.replace(_CONTENT, f"parts({_CONTENT})")
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token


def _tables(model: PreTrainedModel) -> tuple[nn.Embedding, nn.Linear]:
    """Word embeddings and head."""
    words, head = model.get_input_embeddings(), model.get_output_embeddings()
    assert isinstance(words, nn.Embedding) and isinstance(head, nn.Linear)
    return words, head


@torch.no_grad()
def _make_room(language_model: PreTrainedModel, words: int) -> None:
    """Give embeddings and head `words` rows, before they are copied: one added afterwards would be outside a tied head.

    The new row is never read, since frames take its place, nor said (`silent`); as the mean of all words it is only
    out of the way.
    """
    known = _tables(language_model)[0].num_embeddings
    if words <= known:
        return
    with torch.random.fork_rng(devices=[]):
        language_model.resize_token_embeddings(words, mean_resizing=False)
    for table in _tables(language_model):
        table.weight[known:] = table.weight[:known].mean(0)


@torch.no_grad()
def _speak_as_loud_as_words(model: LlavaForConditionalGeneration) -> None:
    """Scale the projector so that a frame's soft tokens are as long as the words' embeddings (root mean square).

    As drawn they are several times shorter, and the first layers of a trained model would write over them.
    """
    side, _ = vision_px(model)
    seen: Any = model.get_image_features(torch.rand(8, 3, side, side) * 2 - 1)
    loudness = [part.square().mean().sqrt() for part in (_tables(model)[0].weight, torch.cat(seen.pooler_output))]
    model.model.multi_modal_projector.linear_2.weight.mul_(loudness[0] / loudness[1])
