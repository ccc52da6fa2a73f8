"""Log-mel patches of sound and thumbnails of sight: what the perceptual stages see of a clip."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Float32, UInt8
from safetensors.numpy import load_file, save_file
from torch import Tensor

from avgeo.clips import ClipError, probe, read_audio, read_frames
from avgeo.engine import map_items
from avgeo.profiles import AtomSettings

SAMPLE_RATE_HZ = 16_000
_WINDOW_S = 0.032
_TARGET_RMS = 0.1
_FLOOR = 1e-4


@lru_cache
def _filters(mels: int, bins: int) -> Tensor:
    from transformers.audio_utils import mel_filter_bank

    bank = mel_filter_bank(bins, mels, 50.0, SAMPLE_RATE_HZ / 2, SAMPLE_RATE_HZ, norm=None, mel_scale="htk")
    return torch.from_numpy(bank).float()


def log_mel(audio: Float[Tensor, "*b samples"], settings: AtomSettings) -> Float[Tensor, "*b frames mels"]:
    """log10(1 + mel power / floor) of sound at 16 kHz, after scaling each clip to one loudness (RMS 0.1).

    Non-negative, 0 in silence, and nearly additive over sources that do not overlap in time and frequency. Silence
    is left as silence: what is below -80 dBFS is not amplified.
    """
    rms = audio.square().mean(-1, keepdim=True).sqrt()
    audio = audio * (_TARGET_RMS / rms.clamp_min(1e-4))
    window = round(_WINDOW_S * SAMPLE_RATE_HZ)
    spectrum = torch.stft(
        audio.reshape(-1, audio.shape[-1]),
        window,
        round(settings.hop_s * SAMPLE_RATE_HZ),
        window=torch.hann_window(window, device=audio.device),
        return_complex=True,
    )
    power = spectrum.abs().square().transpose(-1, -2) / window
    bank = _filters(settings.mels, power.shape[-1]).to(power)
    return torch.log10(1 + power @ bank / _FLOOR).reshape(*audio.shape[:-1], -1, settings.mels)


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


@dataclass(frozen=True)
class _Job:
    path: Path
    settings: AtomSettings
    max_s: float


def _embed_job(job: _Job) -> tuple[np.ndarray, np.ndarray]:
    embedded = embed_clip(job.path, job.settings, job.max_s)
    if embedded.patches is None or embedded.frames is None:
        raise ClipError(f"{job.path}: a corpus clip needs sound and picture; curate with --need sound,picture")
    return embedded.patches.astype(np.float16), embedded.frames


@dataclass(frozen=True)
class Features:
    """A corpus embedded: `patches` (clips, time, dim) float16, `frames` (clips, count, height, width, 3) uint8."""

    clip_id: list[str]
    patches: np.ndarray
    frames: np.ndarray

    def save(self, folder: Path) -> None:
        """Write `features.safetensors` and `clips.parquet` (row order)."""
        save_file({"patches": self.patches, "frames": self.frames}, folder / "features.safetensors")
        pd.DataFrame({"clip_id": self.clip_id}).to_parquet(folder / "clips.parquet")

    @classmethod
    def load(cls, folder: Path) -> Features:
        """Read what `save` wrote."""
        arrays = load_file(folder / "features.safetensors")
        return cls(pd.read_parquet(folder / "clips.parquet")["clip_id"].tolist(), arrays["patches"], arrays["frames"])


def embed_corpus(
    manifest: pd.DataFrame,
    root: Path,
    settings: AtomSettings,
    workers: int | None = None,
    engine: str = "process",
) -> Features:
    """Embed every clip of `manifest` (paths relative to `root`); clips of unequal length are cut to the shortest."""
    longest = float(manifest["duration_s"].to_numpy().max())
    jobs = [_Job(root / path, settings, longest) for path in manifest["path"]]
    results = list(map_items(_embed_job, jobs, engine=engine, workers=workers, description="embed", unit="clip"))
    time = min(len(sound) for sound, _ in results)
    return Features(
        manifest["clip_id"].tolist(),
        np.stack([sound[:time] for sound, _ in results]),
        np.stack([frames for _, frames in results]),
    )
