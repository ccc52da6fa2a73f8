"""Sight for a language model that has none: a vision tower and a projector grafted onto any causal LM, as LLaVA.

LLaVA (Liu et al. 2023) rather than Idefics3: the language model sits in it whole, so its weights are copied name by
name; a frame is one row of pixels, which trl splits by clip; and it is the class of the reasoner that trains from
scratch (`avgeo.reason.model`), so a tower trained there fits. Idefics3's pixel shuffle, image splitting and attention
mask over pixels serve pages of text, not small square frames.

Training is in two stages. Fine-tuning: LoRA on the language model, tower and projector whole (they are new). Then
`merge` folds all of it into the weights, and GRPO trains a fresh adapter, so that "adapter off" is the fine-tuned
model, the reference of the KL penalty; were the first adapter kept, "off" would be the model before fine-tuning.
"""

from __future__ import annotations

import copy
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

# A model is built here or read from a folder; nothing ever asks a hub.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from peft import PeftModel
from torch import nn
from transformers import (
    GenerationConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    SiglipVisionConfig,
    SiglipVisionModel,
)
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from avgeo.profiles import ReasonSettings
from avgeo.reason.model import ModelError, token_id, vision_px
from avgeo.reason.policy import Policy

IMAGE = "<image>"
TOWER, PROJECTOR = "vision_tower", "multi_modal_projector"
ADAPTED = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"

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
    vision = _vision_config(settings) if tower is None else copy.deepcopy(tower.config)
    assert isinstance(vision, SiglipVisionConfig)
    _teach_images(tokenizer)
    _make_room(language_model, len(tokenizer))
    text = copy.deepcopy(language_model.config)
    for leftover in ("quantization_config", "_model_name_or_path"):  # of the file it was read from
        if hasattr(text, leftover):
            delattr(text, leftover)
    words, head = _tables(language_model)
    text.vocab_size = words.num_embeddings
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=token_id(tokenizer, IMAGE),
        tie_word_embeddings=text.tie_word_embeddings, image_seq_length=_patches(vision),
        # SigLIP has no class token: take every patch of the last layer
        vision_feature_layer=-1, vision_feature_select_strategy="full",
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(config).float()
        model.model.language_model.load_state_dict(language_model.base_model.state_dict())
        if not text.tie_word_embeddings:
            model.lm_head.load_state_dict(head.state_dict())
        if tower is not None:
            model.model.vision_tower.load_state_dict(tower.state_dict())
        _speak_as_loud_as_words(model)
    silent = silent_ids(tokenizer)
    model.generation_config = GenerationConfig(
        max_new_tokens=settings.max_new_tokens, do_sample=False, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id, suppress_tokens=list(silent),
    )  # fmt: skip
    return _policy(model, tokenizer, trained=(PROJECTOR, TOWER))


def merge(policy: Policy) -> Policy:
    """The fine-tuned policy with its adapter folded into the weights, ready for `save_policy` and for GRPO.

    Of what was new only the projector stays to be trained: rewards are too noisy a teacher for a whole tower. Raises
    `ModelError` when `policy.model` has no adapter.
    """
    if not isinstance(policy.model, PeftModel):
        raise ModelError("policy: has no adapter to merge; pass the one whose model the SFTTrainer returned")
    return replace(policy, model=policy.model.merge_and_unload(), trained=(PROJECTOR,))


def save_policy(policy: Policy, folder: Path) -> None:
    """Write weights (safetensors), configuration, tokenizer and processor to `folder`.

    Raises `ModelError` while an adapter is on: `merge` it, or save it alone (`avgeo.reason.grpo.save_adapter`).
    """
    if isinstance(policy.model, PeftModel):
        raise ModelError("policy: has an adapter; merge it first")
    policy.model.save_pretrained(folder, safe_serialization=True)
    policy.processor.save_pretrained(folder)
    # apart as well: `load_policy` reads the tokenizer by class, which needs no torchvision
    policy.processor.tokenizer.save_pretrained(folder)


def load_policy(folder: Path) -> Policy:
    """The policy that `save_policy` wrote, as `merge` left it; `ModelError` when the folder holds none."""
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder}: no reasoner here (config.json is missing); train one with `avgeo train`")
    model = LlavaForConditionalGeneration.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    return _policy(model, tokenizer, trained=(PROJECTOR,))


def silent_ids(tokenizer: PreTrainedTokenizerFast) -> tuple[int, ...]:
    """Every special token but the end: decoding drops them, so one inside an answer would be scored but not seen."""
    added = tokenizer.added_tokens_decoder.items()
    return tuple(sorted(token for token, word in added if word.special and token != tokenizer.eos_token_id))


def _vision_config(settings: ReasonSettings) -> SiglipVisionConfig:
    if settings.image_px % settings.patch_px or settings.vision_hidden % 4:
        raise ModelError("settings: image_px must be divisible by patch_px, vision_hidden by 4")
    return SiglipVisionConfig(
        hidden_size=settings.vision_hidden, intermediate_size=2 * settings.vision_hidden,
        num_hidden_layers=settings.vision_layers, num_attention_heads=4, image_size=settings.image_px,
        patch_size=settings.patch_px, vision_use_head=False,
    )  # fmt: skip


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


def _patches(vision: SiglipVisionConfig) -> int:
    """Soft tokens of one frame."""
    assert isinstance(vision.image_size, int) and isinstance(vision.patch_size, int)
    return (vision.image_size // vision.patch_size) ** 2


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


def _policy(
    model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, trained: tuple[str, ...]
) -> Policy:
    image_px, patch_px = vision_px(model)
    # The PIL image processor: the default one wants torchvision. Frames come at the right size (`to_images`).
    images = SiglipImageProcessorPil(
        do_resize=False, size={"height": image_px, "width": image_px}, do_convert_rgb=False
    )
    processor = LlavaProcessor(
        image_processor=images, tokenizer=tokenizer, patch_size=patch_px, vision_feature_select_strategy="full",
        chat_template=tokenizer.chat_template, image_token=IMAGE,
    )  # fmt: skip
    return Policy(model, processor, ADAPTED, trained, silent_ids(tokenizer), image_px)
