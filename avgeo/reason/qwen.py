"""Qwen's models as policies: Qwen2.5-Omni's Thinker sees and hears; Qwen2.5-VL and Qwen3-VL see, and read atoms.

Each is read from a folder, or made from a configuration with random weights: tiny for tests, of the true shape for
measurements on a GPU. The processors are put together from their parts, because transformers' own loader wants
torchvision for a slot (video) that nothing here uses.
"""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import is_offline_mode
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ProcessorMixin,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2_5OmniProcessor,
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    WhisperFeatureExtractor,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from avgeo.reason.policy import ModelError, Policy, policy_of

SAMPLE_RATE_HZ = 16_000
END, PAD, IMAGE, VIDEO, AUDIO = "<|im_end|>", "<|endoftext|>", "<|image_pad|>", "<|video_pad|>", "<|AUDIO|>"
MARKS = ("<|im_start|>", "<|vision_start|>", "<|vision_end|>", "<|audio_bos|>", "<|audio_eos|>")
# As in the published templates, less the system message.
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for p in m['content'] %}"
    "{% if p['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif p['type'] == 'audio' %}<|audio_bos|><|AUDIO|><|audio_eos|>"
    "{% else %}{{ p['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class _NoVideo(ProcessorMixin):
    """A processor whose slot for videos may stay empty: frames come as images."""

    def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
        if argument_name == "video_processor" and argument is None:
            return None
        return super().check_argument_for_proper_class(argument_name, argument)

    def save_pretrained(self, save_directory: Any, push_to_hub: bool = False, **kwargs: Any) -> list[str]:
        """Write the parts where `omni` and `vision_language` look for them; transformers' own trips over the slot."""
        if push_to_hub:
            raise ModelError("push_to_hub: not from here; push the folder with huggingface_hub")
        Path(save_directory).mkdir(parents=True, exist_ok=True)
        file = str(Path(save_directory, "processor_config.json"))
        self.tokenizer.save_pretrained(save_directory)
        self.to_json_file(file)
        return [file]


class OmniProcessor(_NoVideo, Qwen2_5OmniProcessor):
    """Qwen2.5-Omni's processor without videos."""


class VL25Processor(_NoVideo, Qwen2_5_VLProcessor):
    """Qwen2.5-VL's processor without videos."""


class VL3Processor(_NoVideo, Qwen3VLProcessor):
    """Qwen3-VL's processor without videos."""


_SEEING: dict[str, tuple[Any, type[ProcessorMixin]]] = {
    "qwen2_5_vl": (Qwen2_5_VLForConditionalGeneration, VL25Processor),
    "qwen3_vl": (Qwen3VLForConditionalGeneration, VL3Processor),
}


def thinker_config(size: Literal["3B", "7B"]) -> Qwen2_5OmniThinkerConfig:
    """The published shape of Qwen2.5-Omni's Thinker: 4.70 and 8.93 billion parameters.

    Source: `thinker_config` in the config.json of Qwen/Qwen2.5-Omni-3B and -7B. transformers' defaults are not that
    shape: their vision tower is 3584 wide (1280 in the file), and the sections of the rotary embedding are missing.
    """
    if size not in ("3B", "7B"):
        raise ModelError(f"size: {size!r} is no published size of Qwen2.5-Omni; choose 3B or 7B")
    wide = 3584 if size == "7B" else 2048
    layers = (
        dict(vocab_size=152064, intermediate_size=18944, num_hidden_layers=28, num_attention_heads=28,
             num_key_value_heads=4)
        if size == "7B" else
        dict(vocab_size=151936, intermediate_size=11008, num_hidden_layers=36, num_attention_heads=16,
             num_key_value_heads=2)
    )  # fmt: skip
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
    return Qwen2_5OmniThinkerConfig(
        text_config={"hidden_size": wide, "rope_parameters": rope, **layers},
        vision_config={"hidden_size": 1280, "out_hidden_size": wide},
        audio_config={"output_dim": wide},
    )


_HEARING = ("qwen2_5_omni", "qwen2_5_omni_thinker")


def qwen(source: str | Path, *, longest_s: float | None = 30.0, dtype: torch.dtype = torch.float32) -> Policy:
    """The policy of whichever of Qwen's models lies in `source`: `omni` or `vision_language`."""
    if _check_type(source, (*_HEARING, *_SEEING)) in _HEARING:
        return omni(source, longest_s=longest_s, dtype=dtype)
    return vision_language(source, dtype=dtype)


def omni(
    source: str | Path | Qwen2_5OmniThinkerConfig,
    *,
    longest_s: float | None = 30.0,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Policy:
    """Qwen2.5-Omni's Thinker: frames as images, sound as a waveform of at most `longest_s` seconds.

    None is as long as the folder says, which is what a policy saved from here was built with.
    `source` is a folder with published weights (of the whole model, or of the Thinker), or a configuration, which is
    given random weights (`seed`) and a tokenizer of bytes. A name for a hub works only under HF_HUB_OFFLINE=0. Raises
    `ModelError` for a folder that holds no such model, or not all of it. To build on a GPU, or on `meta`, call it
    under `torch.device(...)`.
    """
    if longest_s is not None and not longest_s > 0:
        raise ModelError(f"longest_s must be positive, got {longest_s}")
    length: dict[str, Any] = {} if longest_s is None else {"chunk_length": math.ceil(longest_s)}
    made: Any = Qwen2_5OmniThinkerForConditionalGeneration
    if isinstance(source, PreTrainedConfig):
        model, tokenizer = _random(made, source, dtype, seed)
        parts: dict[str, Any] = _random_parts(tokenizer, model.config.vision_config)
        mels = model.config.audio_config.num_mel_bins
        ears = WhisperFeatureExtractor(feature_size=mels, return_attention_mask=True, **length)
    else:
        _check_type(source, _HEARING)
        model, parts = _loaded(made, OmniProcessor, source, dtype)
        ears = WhisperFeatureExtractor.from_pretrained(source, local_files_only=_is_local(source), **length)
    processor = OmniProcessor(feature_extractor=ears, video_processor=None, **parts)
    return policy_of(model, processor, sample_rate_hz=SAMPLE_RATE_HZ)


def vision_language(
    source: str | Path | PreTrainedConfig, *, dtype: torch.dtype = torch.float32, seed: int = 0
) -> Policy:
    """Qwen2.5-VL or Qwen3-VL: frames as images; sound as the names of its atoms in the prompt's text.

    `source`, `dtype` and `seed` as for `omni`; which of the two it is, the configuration says.
    """
    if isinstance(source, PreTrainedConfig):
        kind = source.model_type
        if kind not in _SEEING:
            raise ModelError(f"source: a configuration of type {kind!r} is none of {', '.join(_SEEING)}")
        made, processor_class = _SEEING[kind]
        model, tokenizer = _random(made, source, dtype, seed)
        parts = _random_parts(tokenizer, model.config.vision_config)
    else:
        made, processor_class = _SEEING[_check_type(source, tuple(_SEEING))]
        model, parts = _loaded(made, processor_class, source, dtype)
    made_processor: Any = processor_class
    return policy_of(model, made_processor(video_processor=None, **parts))


def _is_local(source: str | Path) -> bool:
    """Whether `source` is a folder; raises `ModelError` when it is none and nobody has allowed a hub."""
    if Path(source).is_dir():
        return True
    if is_offline_mode():
        raise ModelError(
            f"source: {str(source)!r} is no folder; give one with config.json and weights, "
            "or set HF_HUB_OFFLINE=0 before Python starts to fetch that name from the hub"
        )
    return False


def check_folder(source: str | Path) -> None:
    """Raise `ModelError` where `qwen` would for what a folder's configuration says, without reading its weights."""
    _check_type(source, (*_HEARING, *_SEEING))


def _check_type(source: str | Path, wanted: tuple[str, ...]) -> str:
    local = _is_local(source)
    if local and not (Path(source) / "config.json").is_file():
        raise ModelError(f"source: no config.json in {source}; give the folder that holds it beside the weights")
    kind = AutoConfig.from_pretrained(source, local_files_only=local).model_type
    if kind not in wanted:
        raise ModelError(f"source: {source} holds a model of type {kind!r}, wanted {' or '.join(wanted)}")
    return kind


def _loaded(
    made: Any, processor_class: type[ProcessorMixin], source: str | Path, dtype: torch.dtype
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The model in `source` and the parts of its processor that every size has."""
    local = _is_local(source)
    model, report = made.from_pretrained(source, dtype=dtype, local_files_only=local, output_loading_info=True)
    if report["missing_keys"]:
        # transformers would leave them random and say so in a log
        some = ", ".join(sorted(report["missing_keys"])[:3])
        raise ModelError(f"source: {source} lacks {len(report['missing_keys'])} weights ({some}…); fetch it again")
    tokenizer = AutoTokenizer.from_pretrained(source, padding_side="left", local_files_only=local)
    settings, _ = processor_class.get_processor_dict(source, local_files_only=local)
    template = settings.get("chat_template") or tokenizer.chat_template
    if template is None:
        raise ModelError(f"source: {source} has no chat template; fetch chat_template.json beside the weights")
    # Both: trl reads the processor's for prompts, and the tokenizer's elsewhere.
    tokenizer.chat_template = template
    images = Qwen2VLImageProcessorPil.from_pretrained(source, local_files_only=local)
    return model, dict(image_processor=images, tokenizer=tokenizer, chat_template=template)


def _random(made: Any, config: Any, dtype: torch.dtype, seed: int) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """A model of random weights and a tokenizer whose special tokens it knows."""
    tokenizer = _byte_tokenizer()
    if config.get_text_config().vocab_size < len(tokenizer):
        raise ModelError(f"source: the vocabulary must hold at least {len(tokenizer)} tokens (text_config.vocab_size)")
    config, token = copy.deepcopy(config), tokenizer.get_vocab()
    ids = {
        "image_token_id": IMAGE, "video_token_id": VIDEO, "audio_token_id": AUDIO, "pad_token_id": PAD,
        "vision_start_token_id": "<|vision_start|>", "vision_end_token_id": "<|vision_end|>",
        "audio_start_token_id": "<|audio_bos|>", "audio_end_token_id": "<|audio_eos|>",
    }  # fmt: skip
    for name, text in ids.items():
        setattr(config, name, token[text])
    text_config = config.get_text_config()
    text_config.pad_token_id, text_config.eos_token_id, text_config.bos_token_id = token[PAD], token[END], None
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = made._from_config(config, dtype=dtype)
    model.generation_config = GenerationConfig(eos_token_id=token[END], pad_token_id=token[PAD])
    return model, tokenizer


def _random_parts(tokenizer: PreTrainedTokenizerFast, vision: Any) -> dict[str, Any]:
    images = Qwen2VLImageProcessorPil(
        patch_size=vision.patch_size, temporal_patch_size=vision.temporal_patch_size,
        merge_size=vision.spatial_merge_size,
    )  # fmt: skip
    return dict(image_processor=images, tokenizer=tokenizer, chat_template=CHAT_TEMPLATE)


def _byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, and Qwen's special tokens: all that random weights can tell apart."""
    alphabet = {letter: index for index, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    bytes_only = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    bytes_only.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bytes_only.decoder = decoders.ByteLevel()
    named = {"image_token": IMAGE, "video_token": VIDEO, "audio_token": AUDIO} | {
        f"{sense}_{end}_token": f"<|{sense}_{mark}|>"
        for sense, ends in (("vision", ("start", "end")), ("audio", ("bos", "eos")))
        for end, mark in zip(("bos", "eos"), ends, strict=True)
    }
    return PreTrainedTokenizerFast(
        tokenizer_object=bytes_only, pad_token=PAD, eos_token=END, padding_side="left", chat_template=CHAT_TEMPLATE,
        additional_special_tokens=[*MARKS, IMAGE, VIDEO, AUDIO], model_specific_special_tokens=named,
        clean_up_tokenization_spaces=False,
    )  # fmt: skip
