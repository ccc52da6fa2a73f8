"""A small multimodal language model that trains on a laptop: Llama for text, SigLIP for frames, as LLaVA.

The classes are transformers' own (`LlavaForConditionalGeneration`), so trl's trainers run on it unmodified;
only the sizes are small and the weights start at random. LLaVA keeps one row of pixels per frame, which trl
splits by clip.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import UInt8
from PIL import Image
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    SiglipVisionConfig,
)
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from avgeo.profiles import ReasonSettings
from avgeo.reason.policy import ModelError, Policy, policy_of
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


def build_model(settings: ReasonSettings, corpus: Sequence[str], seed: int) -> Policy:
    """An untrained reasoner (about 1.4 M parameters at the default sizes), drawn from `seed`.

    `corpus` are the texts the tokenizer is fitted to (prompts and traces of the training clips). Raises
    `ModelError` when sizes do not divide or the corpus is empty.
    """
    if settings.hidden % settings.heads:
        raise ModelError("settings: hidden must be divisible by heads")
    vision = vision_config(settings)
    tokenizer = build_tokenizer(settings.vocabulary, corpus)
    token = partial(token_id, tokenizer)
    text = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=settings.hidden, intermediate_size=settings.hidden * 8 // 3,
        num_hidden_layers=settings.layers, num_attention_heads=settings.heads,
        num_key_value_heads=max(1, settings.heads // 2), max_position_embeddings=MAX_POSITIONS,
        pad_token_id=token(PAD), bos_token_id=None, eos_token_id=token(END), tie_word_embeddings=True,
        initializer_range=settings.hidden**-0.5 / 2,
    )  # fmt: skip
    config = llava_config(text, vision, token(IMAGE))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(config)
    return llava_policy(model, tokenizer, max_new_tokens=settings.max_new_tokens, whole=True)


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


def to_images(frames: UInt8[np.ndarray, "f h w 3"], px: int | None) -> list[Image.Image]:
    """A clip's frames as square images of `px` pixels, resized here once so that no training step has to.

    None leaves them as they are, for a processor that takes frames of any size.
    """
    images = [Image.fromarray(frame) for frame in frames]
    return images if px is None else [image.resize((px, px), Image.Resampling.BILINEAR) for image in images]


def vision_config(settings: ReasonSettings) -> SiglipVisionConfig:
    """The vision tower of these settings; raises `ModelError` when sizes do not divide."""
    if settings.image_px % settings.patch_px or settings.vision_hidden % 4:
        raise ModelError("settings: image_px must be divisible by patch_px, vision_hidden by 4")
    return SiglipVisionConfig(
        hidden_size=settings.vision_hidden, intermediate_size=2 * settings.vision_hidden,
        num_hidden_layers=settings.vision_layers, num_attention_heads=4, image_size=settings.image_px,
        patch_size=settings.patch_px, vision_use_head=False,
    )  # fmt: skip


def llava_config(text: PreTrainedConfig, vision: SiglipVisionConfig, image_token: int) -> LlavaConfig:
    """A language model and a vision tower joined: one soft token per patch of a frame."""
    side, patch = _side_and_patch(vision)
    return LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=image_token,
        tie_word_embeddings=text.tie_word_embeddings, image_seq_length=(side // patch) ** 2,
        # SigLIP has no class token: take every patch of the last layer
        vision_feature_layer=-1, vision_feature_select_strategy="full",
    )  # fmt: skip


def llava_policy(model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, **differs: Any) -> Policy:
    """A LLaVA and its tokenizer as a policy; `differs` as for `policy_of`."""
    side, patch = vision_px(model)
    # The PIL image processor: the default one wants torchvision. Frames come at the right size (`to_images`).
    images = SiglipImageProcessorPil(do_resize=False, size={"height": side, "width": side}, do_convert_rgb=False)
    processor = LlavaProcessor(
        image_processor=images, tokenizer=tokenizer, patch_size=patch, vision_feature_select_strategy="full",
        chat_template=tokenizer.chat_template,
        image_token=str(tokenizer.decode([model.config.image_token_index])),
    )  # fmt: skip
    return policy_of(model, processor, image_px=side, **differs)


def load_llava(folder: Path) -> Policy:
    """The LLaVA in `folder`, trained from scratch or grafted; it is float32."""
    model = LlavaForConditionalGeneration.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    # by class, which needs no torchvision
    return llava_policy(model, PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True))


def vision_px(model: LlavaForConditionalGeneration) -> tuple[int, int]:
    """The side of a frame and of a patch, in pixels, that the model's vision tower was built for."""
    vision = model.config.vision_config
    assert isinstance(vision, SiglipVisionConfig)
    return _side_and_patch(vision)


def _side_and_patch(vision: SiglipVisionConfig) -> tuple[int, int]:
    assert isinstance(vision.image_size, int) and isinstance(vision.patch_size, int)
    return vision.image_size, vision.patch_size
