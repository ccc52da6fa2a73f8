"""Encoders of sound behind one interface, the built-in log-mel patches, and thumbnails of sight.

An encoder turns mono sound into frames (time, dim), one every `frame_s` seconds from the sound's beginning. The
built-in one can be turned back into sound; pretrained ones are in `avgeo.perceive.pretrained` and `.birdnet`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from avgeo.clips import ClipError, probe, read_audio, read_frames
from avgeo.profiles import AtomSettings

SAMPLE_RATE_HZ = 16_000
WINDOW = round(0.032 * SAMPLE_RATE_HZ)
"""Samples of sound in one spectrum."""

_TARGET_RMS = 0.1
POWER_FLOOR = 1e-4
"""Mel power that counts as one unit under the logarithm of `log_mel`."""

_BLOCK_FRAMES = 4096  # spectra at a time: of a long recording, never all are in memory


class EncoderError(ValueError):
    """An encoder that cannot be had, or sound that it cannot take; the message names the cure."""


@runtime_checkable
class Encoder(Protocol):
    """Sound into frames."""

    @property
    def name(self) -> str:
        """What `get_encoder` knows it by."""
        ...

    @property
    def sample_rate_hz(self) -> int:
        """The rate of the sound it takes."""
        ...

    @property
    def dim(self) -> int:
        """The size of a frame."""
        ...

    @property
    def frame_s(self) -> float:
        """Seconds from one frame to the next."""
        ...

    def __call__(self, audio: Float[Tensor, " samples"]) -> Float[Tensor, "time dim"]:
        """Frames (time, dim), the first at 0 s, each `frame_s` after the one before; float32 on the CPU."""
        ...


def get_encoder(name: str, settings: AtomSettings) -> Encoder:
    """The encoder of that name: "log-mel", "hf:<hub id or folder>" (any audio model of transformers) or "birdnet".

    Raises `EncoderError` for any other name, and when the model or the package it needs is not there.
    """
    if name == "log-mel":
        return LogMel(settings)
    if name == "birdnet":
        from avgeo.perceive.birdnet import BirdNet

        return BirdNet()
    if name.startswith("hf:") and name != "hf:":
        from avgeo.perceive.pretrained import load_pretrained

        return load_pretrained(name.removeprefix("hf:"))
    raise EncoderError(
        f"unknown encoder {name!r}: give log-mel, birdnet, or hf: followed by a hub id or a folder, "
        "e.g. hf:laion/clap-htsat-unfused"
    )


def checked(audio: Tensor) -> Tensor:
    """`audio`, if it is one channel of finite samples; otherwise `EncoderError`."""
    if audio.ndim != 1 or not len(audio):
        raise EncoderError(f"audio has shape {tuple(audio.shape)}: give mono samples in one dimension, at least one")
    wrong = int((~audio.isfinite()).sum())
    if wrong:
        raise EncoderError(f"audio holds {wrong} samples that are no finite numbers (NaN or inf): repair the sound")
    return audio


@dataclass(frozen=True)
class LogMel:
    """The built-in encoder: one log-mel patch (see `patches`) per frame."""

    settings: AtomSettings
    name: str = "log-mel"
    sample_rate_hz: int = SAMPLE_RATE_HZ

    @property
    def dim(self) -> int:
        """`patch_frames * mels`."""
        return self.settings.patch_frames * self.settings.mels

    @property
    def frame_s(self) -> float:
        """Seconds of sound in one patch."""
        return patch_seconds(self.settings)

    def __call__(self, audio: Float[Tensor, " samples"]) -> Float[Tensor, "time dim"]:
        """Patches of the sound, scaled to one loudness as a whole."""
        return patches(checked(audio), self.settings)


@lru_cache
def mel_filters(mels: int) -> Float[Tensor, "bins mels"]:
    """How much each Fourier bin counts in each mel band (HTK's triangles from 50 Hz up, of height 1)."""
    from transformers.audio_utils import mel_filter_bank

    bank = mel_filter_bank(WINDOW // 2 + 1, mels, 50.0, SAMPLE_RATE_HZ / 2, SAMPLE_RATE_HZ, norm=None, mel_scale="htk")
    return torch.from_numpy(bank).float()


def log_mel(audio: Float[Tensor, "*b samples"], settings: AtomSettings) -> Float[Tensor, "*b frames mels"]:
    """log10(1 + mel power / floor) of sound at 16 kHz, after scaling each clip to one loudness (RMS 0.1).

    Non-negative, 0 in silence, and nearly additive over sources that do not overlap in time and frequency. Silence
    is left as silence: what is below -80 dBFS is not amplified.
    """
    rms = audio.square().mean(-1, keepdim=True).sqrt()
    audio = audio * (_TARGET_RMS / rms.clamp_min(1e-4))
    hop = round(settings.hop_s * SAMPLE_RATE_HZ)
    # frames are centred on their times, as torch.stft does it
    flat = torch.nn.functional.pad(audio.reshape(-1, audio.shape[-1]), (WINDOW // 2, WINDOW // 2), mode="reflect")
    bank = mel_filters(settings.mels).to(audio)
    shape = torch.hann_window(WINDOW, device=audio.device)
    parts = []
    for start in range(0, 1 + audio.shape[-1] // hop, _BLOCK_FRAMES):
        block = flat[:, start * hop : (start + _BLOCK_FRAMES - 1) * hop + WINDOW]
        spectrum = torch.stft(block, WINDOW, hop, window=shape, center=False, return_complex=True)
        power = spectrum.abs().square().transpose(-1, -2) / WINDOW
        parts.append(torch.log10(1 + power @ bank / POWER_FLOOR))
    return torch.cat(parts, 1).reshape(*audio.shape[:-1], -1, settings.mels)


def patch_seconds(settings: AtomSettings) -> float:
    """Seconds of sound in one patch."""
    return settings.hop_s * settings.patch_frames


def patches(audio: Float[Tensor, "*b samples"], settings: AtomSettings) -> Float[Tensor, "*b patches dim"]:
    """Non-overlapping log-mel patches, flattened to `patch_frames * mels`; sound shorter than one is padded."""
    needed = round(patch_seconds(settings) * SAMPLE_RATE_HZ)
    if audio.shape[-1] < needed:
        audio = torch.nn.functional.pad(audio, (0, needed - audio.shape[-1]))
    spectrogram = log_mel(audio, settings)
    count = spectrogram.shape[-2] // settings.patch_frames
    kept = spectrogram[..., : count * settings.patch_frames, :]
    return kept.reshape(*audio.shape[:-1], count, settings.patch_frames * settings.mels)


def band_centres_hz(settings: AtomSettings) -> Float[np.ndarray, " mels"]:
    """The frequency at which each mel band weighs most, as its filter's centre of gravity."""
    bank = mel_filters(settings.mels).double().numpy()
    hz = np.linspace(0, SAMPLE_RATE_HZ / 2, len(bank))
    return hz @ bank / np.maximum(bank.sum(0), 1e-12)


def band_hz(patch: Float[Tensor, " dim"], settings: AtomSettings) -> tuple[float, float]:
    """Between which frequencies the middle half of what a patch holds above zero lies; all of them when it holds none.

    `patch` is in the encoder's own units, such as the difference that an atom makes to a decoded patch.
    """
    centres = band_centres_hz(settings)
    weight = patch.reshape(settings.patch_frames, settings.mels).clamp_min(0).sum(0)
    if not weight.any():
        return float(centres[0]), float(centres[-1])
    share = weight.cumsum(0) / weight.sum()
    low, high = (int((share >= part).int().argmax()) for part in (0.25, 0.75))
    return float(centres[low]), float(centres[high])


@dataclass(frozen=True)
class Embedded:
    """What one clip gives: patches of its sound and thumbnails of its sight; either is None when it has none."""

    patches: Float32[np.ndarray, "time dim"] | None
    frames: UInt8[np.ndarray, "count height width 3"] | None
    duration_s: float


def sound_of(path: Path, settings: AtomSettings, max_s: float | None = None) -> Float32[np.ndarray, "time dim"]:
    """Patches of a file's sound; raises `ClipError` when it has none."""
    return patches(torch.from_numpy(read_audio(path, SAMPLE_RATE_HZ, max_s)), settings).numpy()


def sight_of(path: Path, settings: AtomSettings) -> UInt8[np.ndarray, "count height width 3"]:
    """Thumbnails of a file's picture; raises `ClipError` when it has none."""
    return read_frames(path, settings.frames, settings.frame_width, settings.frame_height)


def embed_clip(path: Path, settings: AtomSettings, max_s: float | None = None) -> Embedded:
    """Patches and thumbnails of one media file; raises `ClipError` when it holds neither sound nor picture."""
    info = probe(path)
    if not info.has_audio and not info.has_video:
        raise ClipError(f"{path}: holds neither sound nor picture; give a video or audio file")
    sound = sound_of(path, settings, max_s) if info.has_audio else None
    sight = sight_of(path, settings) if info.has_video else None
    return Embedded(sound, sight, info.duration_s)
