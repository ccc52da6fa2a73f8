"""A small multimodal language model that trains on a laptop: Llama for text, SigLIP for frames, as LLaVA.

The classes are transformers' own (`LlavaForConditionalGeneration`), so trl's trainers run on it unmodified;
only the sizes are small and the weights start at random. LLaVA keeps one row of pixels per frame, which trl
splits by clip.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

# A model is built here or read from a folder; nothing ever asks a hub.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from jaxtyping import UInt8
from PIL import Image
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    SiglipVisionConfig,
)
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from avgeo.profiles import ReasonSettings
from avgeo.reason.prompts import SKELETON

if TYPE_CHECKING:
    import numpy as np

PAD, END, USER, ASSISTANT, IMAGE = "<|pad|>", "<|end|>", "<|user|>", "<|assistant|>", "<|image|>"
CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for p in m['content'] %}"
    "{% if p['type'] == 'image' %}<|image|>{% else %}{{ p['text'] }}{% endif %}{% endfor %}{% endif %}"
    "<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
MAX_POSITIONS = 1024


class ModelError(ValueError):
    """Settings or a folder from which no reasoner can be made; the message names the cure."""


def build_model(
    settings: ReasonSettings, corpus: Sequence[str], seed: int
) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """An untrained reasoner (about 1.4 M parameters at the default sizes) and its processor, given a seed.

    `corpus` are the texts the tokenizer is fitted to (prompts and traces of the training clips). Raises
    `ModelError` when sizes do not divide or the corpus is empty.
    """
    if settings.hidden % settings.heads or settings.image_px % settings.patch_px or settings.vision_hidden % 4:
        raise ModelError("hidden must be divisible by heads, image_px by patch_px, vision_hidden by 4")
    tokenizer = build_tokenizer(settings.vocabulary, corpus)
    token = partial(token_id, tokenizer)
    text = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=settings.hidden, intermediate_size=settings.hidden * 8 // 3,
        num_hidden_layers=settings.layers, num_attention_heads=settings.heads,
        num_key_value_heads=max(1, settings.heads // 2), max_position_embeddings=MAX_POSITIONS,
        pad_token_id=token(PAD), bos_token_id=None, eos_token_id=token(END), tie_word_embeddings=True,
        initializer_range=settings.hidden**-0.5 / 2,
    )  # fmt: skip
    vision = SiglipVisionConfig(
        hidden_size=settings.vision_hidden, intermediate_size=2 * settings.vision_hidden,
        num_hidden_layers=settings.vision_layers, num_attention_heads=4, image_size=settings.image_px,
        patch_size=settings.patch_px, vision_use_head=False,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=token(IMAGE), tie_word_embeddings=True,
        image_seq_length=(settings.image_px // settings.patch_px) ** 2,
        # SigLIP has no class token: take every patch of the last layer
        vision_feature_layer=-1, vision_feature_select_strategy="full",
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        max_new_tokens=settings.max_new_tokens, do_sample=False,
        eos_token_id=token(END), pad_token_id=token(PAD),
        suppress_tokens=silent_tokens(tokenizer),
    )  # fmt: skip
    return model, _processor(tokenizer, settings.image_px, settings.patch_px)


def build_tokenizer(vocabulary: int, corpus: Sequence[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE fitted to `corpus`: digits apart, merges within a cue or a name, the skeleton whole.

    Any text can be encoded (256 bytes are always there), and decoding gives it back.
    """
    special = [PAD, END, USER, ASSISTANT, IMAGE]
    least = 256 + len(special) + len(SKELETON)
    if vocabulary < least or not corpus:
        raise ModelError(f"vocabulary must be at least {least} and the corpus not empty (vocabulary {vocabulary})")
    bpe = Tokenizer(models.BPE())
    # Words of one cue may merge ("driving side left" becomes a token), neighbouring cues may not.
    bpe.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(r"\d|[;:,.?\-\n] ?|[^\d;:,.?\-\n]+"), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(SKELETON), special_tokens=special, show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )  # fmt: skip
    pieces = [text for text in corpus]
    for fixed in SKELETON:
        pieces = [piece for text in pieces for piece in text.split(fixed) if piece]
    bpe.train_from_iterator(pieces, trainer)
    # not "special": decoding with skip_special_tokens, as trl does, must keep the answer's tags
    bpe.add_tokens([AddedToken(fixed, normalized=False, special=False) for fixed in SKELETON])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token=PAD, eos_token=END, padding_side="left", chat_template=CHAT_TEMPLATE,
        additional_special_tokens=[USER, ASSISTANT, IMAGE], clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def token_id(tokenizer: PreTrainedTokenizerFast, name: str) -> int:
    """The id of one token of the vocabulary."""
    return tokenizer.get_vocab()[name]


def silent_tokens(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Tokens that an answer never holds; after a generated image token the model would look for a frame."""
    return [token_id(tokenizer, name) for name in (PAD, USER, ASSISTANT, IMAGE)]


def to_images(frames: UInt8[np.ndarray, "f h w 3"], px: int) -> list[Image.Image]:
    """A clip's frames as square images of `px` pixels, resized here once so that no training step has to."""
    return [Image.fromarray(frame).resize((px, px), Image.Resampling.BILINEAR) for frame in frames]


def save_model(model: LlavaForConditionalGeneration, processor: LlavaProcessor, folder: Path) -> None:
    """Write weights (safetensors), configuration, tokenizer and processor to `folder`."""
    model.save_pretrained(folder, safe_serialization=True)
    processor.save_pretrained(folder)
    # apart as well: `load_model` reads the two halves by class, which needs no torchvision
    processor.image_processor.save_pretrained(folder)
    processor.tokenizer.save_pretrained(folder)


def load_model(folder: Path) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """The model and processor that `save_model` wrote; raises `ModelError` when the folder holds none."""
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder}: no reasoner here (config.json is missing); train one with `avgeo train`")
    model = LlavaForConditionalGeneration.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    return model, _processor(tokenizer, *vision_px(model))


def vision_px(model: LlavaForConditionalGeneration) -> tuple[int, int]:
    """The side of a frame and of a patch, in pixels, that the model's vision tower was built for."""
    vision = model.config.vision_config
    assert isinstance(vision, SiglipVisionConfig)
    assert isinstance(vision.image_size, int) and isinstance(vision.patch_size, int)
    return vision.image_size, vision.patch_size


def _processor(tokenizer: PreTrainedTokenizerFast, image_px: int, patch_px: int) -> LlavaProcessor:
    # The PIL image processor: the default one wants torchvision.
    images = SiglipImageProcessorPil(
        do_resize=False, size={"height": image_px, "width": image_px}, do_convert_rgb=False
    )
    return LlavaProcessor(
        image_processor=images, tokenizer=tokenizer, patch_size=patch_px,
        vision_feature_select_strategy="full", chat_template=CHAT_TEMPLATE, image_token=IMAGE,
    )  # fmt: skip
