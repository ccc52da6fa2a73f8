"""Any audio model of `transformers` as an encoder: CLAP's audio tower, AST, Whisper's encoder, wav2vec2 and its kin.

A model reads windows of sound and gives F frames for each. Here windows begin every F frames, so that frame i of a long
sound belongs to i * `frame_s` whatever the window, also where a window is longer than its frames (AST, wav2vec2).
Loudness is left as it is: the feature extractor that comes with a model does what the model was trained with.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from avgeo.perceive.encoders import EncoderError, checked

_BATCH = 4  # windows at a time
_FREE_WINDOW_S = 16  # for models that read sound of any length
_MISSING = 0.1  # share of the parameters; a checkpoint of another architecture lacks nearly all
_KNOWN = "CLAP, AST, Whisper, or a model that reads sound of any length, such as wav2vec2"


class Pretrained(ABC):
    """A model with its feature extractor: `window` samples in, `per_window` frames out, one every `stride` samples."""

    dim: int
    window: int
    per_window: int
    stride: float

    def __init__(self, name: str, model: Any, extractor: Any) -> None:
        self.name = name
        self.sample_rate_hz = int(extractor.sampling_rate)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = model.to(self.device).eval()
        self.extractor = extractor
        self._measure()

    @property
    def frame_s(self) -> float:
        """Seconds from one frame to the next."""
        return self.stride / self.sample_rate_hz

    @torch.no_grad()
    def __call__(self, audio: Float[Tensor, " samples"]) -> Float[Tensor, "time dim"]:
        """The frames that lie within the sound, at least one."""
        audio = checked(audio).float().cpu()
        count = max(1, int(len(audio) / self.stride + 1e-9))
        chunks = []
        for first in range(0, count, self.per_window):
            start = round(first * self.stride)
            needed = self._needed(min(self.per_window, count - first))
            chunk = audio[start : start + self.window]
            chunks.append(torch.nn.functional.pad(chunk, (0, max(0, needed - len(chunk)))))
        *whole, last = chunks
        parts = [self._frames(whole[at : at + _BATCH]) for at in range(0, len(whole), _BATCH)]
        frames = torch.cat([part.flatten(0, 1) for part in [*parts, self._frames([last])]])
        return frames[:count].cpu()

    @abstractmethod
    def _measure(self) -> None:
        """Set `window`, `per_window`, `stride` and `dim`."""

    def _needed(self, frames: int) -> int:
        """The samples that so many frames need; shorter sound is padded with silence."""
        return 1 if frames > 1 else round(self.stride)

    def _inputs(self, chunks: Sequence[Tensor], **options: Any) -> dict[str, Tensor]:
        arrays = [chunk.numpy() for chunk in chunks]
        found = self.extractor(arrays, sampling_rate=self.sample_rate_hz, return_tensors="pt", **options)
        return {name: part.to(self.device) for name, part in found.items()}

    def _frames(self, chunks: Sequence[Tensor]) -> Float[Tensor, "chunks time dim"]:
        """Frames of sounds of one length."""
        frames = self.model(**self._inputs(chunks)).last_hidden_state
        if frames.ndim != 3:
            raise EncoderError(f"{self.name}: gives no frames over time; give {_KNOWN}")
        return frames.float()

    @torch.no_grad()
    def _probe(self, samples: int) -> int:
        frames = self._frames([torch.zeros(samples)])
        self.dim = frames.shape[-1]
        return frames.shape[1]


class _Clap(Pretrained):
    """CLAP's audio tower before its pooling: the time axis of the last hidden state, averaged over frequency."""

    def _measure(self) -> None:
        self.window = int(self.extractor.nb_max_samples)
        self.per_window = self._probe(self.window)
        self.stride = self.window / self.per_window

    def _frames(self, chunks: Sequence[Tensor]) -> Float[Tensor, "chunks time dim"]:
        fused = bool(self.model.config.enable_fusion)
        # the extractor's default, fusion, is for models trained with it; each window is short enough for either
        inputs = self._inputs(chunks, truncation="fusion" if fused else "rand_trunc")
        inputs["is_longer"] = torch.zeros(len(chunks), 1, dtype=torch.bool, device=self.device)
        inputs["input_features"] = inputs["input_features"].float()
        return self.model(**inputs).last_hidden_state.mean(2).transpose(1, 2).float()


class _Ast(Pretrained):
    """The audio spectrogram transformer: its grid of patches, averaged over frequency, without the two class tokens."""

    def _measure(self) -> None:
        config = self.model.config
        hop = self.sample_rate_hz // 100  # of the extractor's filter bank, whose windows are of 25 ms
        self.window = (config.max_length - 1) * hop + self.sample_rate_hz // 40
        self.stride = config.time_stride * hop
        self.per_window = self._probe(self.window)

    def _frames(self, chunks: Sequence[Tensor]) -> Float[Tensor, "chunks time dim"]:
        config = self.model.config
        bands = (config.num_mel_bins - config.patch_size) // config.frequency_stride + 1
        grid = self.model(**self._inputs(chunks)).last_hidden_state[:, 2:]
        return grid.unflatten(1, (bands, -1)).mean(1).float()


class _Fixed(Pretrained):
    """Encoders whose extractor pads to a fixed window, as Whisper's does."""

    def _measure(self) -> None:
        self.window = int(self.extractor.n_samples)
        self.per_window = self._probe(self.window)
        self.stride = self.window / self.per_window


class _Free(Pretrained):
    """Models that read sound of any length; the spacing of their frames is measured."""

    def _measure(self) -> None:
        self.window = _FREE_WINDOW_S * self.sample_rate_hz
        self.per_window = self._probe(self.window)
        more = self._probe(2 * self.window) - self.per_window
        if more <= 0:
            raise EncoderError(f"{self.name}: reads windows of a fixed length, but not in a known way; give {_KNOWN}")
        self.stride = round(self.window / more)

    def _needed(self, frames: int) -> int:
        return self.window - round((self.per_window - frames) * self.stride)


_KINDS: dict[str, type[Pretrained]] = {"ClapFeatureExtractor": _Clap, "ASTFeatureExtractor": _Ast}


def load_pretrained(source: str) -> Pretrained:
    """The audio encoder in a folder or, when there is none of that name, in a repository of the Hugging Face hub."""
    from transformers import AutoFeatureExtractor

    name = f"hf:{source}"
    if not Path(source).is_dir() and (source.count("/") != 1 or source[0] in "./~" or Path(source).exists()):
        raise EncoderError(f"{name}: no such folder, nor a hub id (owner/name)")
    try:
        extractor: Any = AutoFeatureExtractor.from_pretrained(source)
        if not hasattr(extractor, "sampling_rate"):
            raise EncoderError(f"{name}: is no audio model ({type(extractor).__name__}); give {_KNOWN}")
        return _KINDS.get(type(extractor).__name__, _Fixed if hasattr(extractor, "n_samples") else _Free)(
            name, _tower(source), extractor
        )
    except EncoderError:
        raise
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError, RuntimeError) as error:
        why = " ".join(str(error).split())[:200]
        raise EncoderError(
            f"{name}: no audio model with its feature extractor can be loaded from there ({why}); "
            "give a folder written by save_pretrained, or download the model first: hf download owner/name"
        ) from error


def _tower(source: str) -> Any:
    """The part of a model that reads sound, in float32."""
    from transformers import AutoConfig, AutoModel, ClapAudioModel

    config = AutoConfig.from_pretrained(source)
    kind: Any = ClapAudioModel if config.model_type == "clap_audio_model" else AutoModel
    model, info = kind.from_pretrained(source, dtype=torch.float32, output_loading_info=True)
    missing, total = len(info["missing_keys"]), len(model.state_dict())
    if missing > _MISSING * total:
        raise EncoderError(
            f"hf:{source}: its weights lack {missing} of {total} parameters, e.g. {min(info['missing_keys'])}"
            "; give a whole checkpoint"
        )
    if missing:
        warnings.warn(f"hf:{source}: {missing} of {total} parameters are not in its weights", stacklevel=2)
    for part in ("audio_model", "audio_tower"):  # of models for several senses
        if hasattr(model, part):
            return getattr(model, part)
    return model.get_encoder() if config.is_encoder_decoder else model
