"""Log-mel spectrograms, and atoms of them, back to sound: so that an atom can be heard.

Three steps, each undoing one of `avgeo.perceive.log_mel`: the logarithm is inverted exactly; mel power is spread over
the Fourier bins by non-negative least divergence (`mel_to_linear`); and phases are found that fit the magnitudes
(`griffin_lim`). The last two are not unique: what is promised is that the result *measures* like the original, which
`tests/test_inversion.py` holds to a stated error.
"""

from __future__ import annotations

import math
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from avgeo.perceive.encoders import POWER_FLOOR, SAMPLE_RATE_HZ, WINDOW, mel_filters
from avgeo.profiles import AtomSettings

PEAK = 10 ** (-3 / 20)
"""The greatest sample of a rendered atom: -3 dBFS."""

SHORTEST_S = 1.0
"""A rendered atom lasts at least about so long; its patch is repeated."""

_FADE_S = 0.015
_AUDIBLE = 1e-3  # of the power that one unit of log10(1 + power / floor) stands for
_BLOCK = 64  # atoms that are rendered together


@runtime_checkable
class Decoder(Protocol):
    """What is asked of an autoencoder here: to say what codes stand for."""

    def decode(self, codes: Tensor) -> Tensor:
        """What codes (batch, atoms) say the features were (batch, dim), in their own units."""
        ...


class InversionError(ValueError):
    """Features that are no log-mel patches of these settings; the message names the argument and the cure."""


def mel_power(log_mel: Float[Tensor, "*shape mels"]) -> Float[Tensor, "*shape mels"]:
    """The mel power P of log10(1 + P / floor); what is below 0 is no power at all."""
    return POWER_FLOOR * torch.expm1(log_mel.clamp_min(0) * math.log(10))


def mel_to_linear(
    power: Float[Tensor, "*shape mels"], settings: AtomSettings, updates: int = 60
) -> Float[Tensor, "*shape bins"]:
    """Power of the Fourier bins, none of it negative, whose mel bands come close to `power`.

    There are fewer bands than bins, so many answers fit. The multiplicative updates of Richardson (1972) and Lucy
    (1974), which minimise the generalised Kullback-Leibler divergence, start from an even spread and keep to an answer
    that is smooth within a band; the divergence never grows. Least squares would fit the loud bands alone, and what
    follows is judged on a logarithm.
    """
    bank = mel_filters(settings.mels).to(power)  # (bins, mels)
    reached = bank.sum(1)  # of a bin by all bands; 0 below the lowest band
    linear = power @ (bank / bank.square().sum(0).clamp_min(1e-12)).T
    for _ in range(updates):
        ratio = power / (linear @ bank).clamp_min(1e-20)
        linear = linear * ((ratio @ bank.T) / reached.clamp_min(1e-12))
    return torch.where(reached > 0, linear, 0)


def griffin_lim(
    magnitude: Float[Tensor, "*b frames bins"],
    settings: AtomSettings,
    *,
    iterations: int = 32,
    momentum: float = 0.99,
    seed: int = 0,
) -> Float[Tensor, "*b samples"]:
    """Sound at 16 kHz whose short-time spectrum has about these magnitudes; (frames - 1) * hop samples.

    The fast Griffin-Lim algorithm (Perraudin, Balazs & Søndergaard 2013): phases start at random and are projected, in
    turn, on the magnitudes and on the spectra that some sound has, with a step beyond by `momentum`. Same seed, same
    sound. Magnitudes of 0 give silence.
    """
    hop, length = _hop(settings), WINDOW
    window = torch.hann_window(length, dtype=magnitude.dtype, device=magnitude.device)
    flat = magnitude.reshape(-1, *magnitude.shape[-2:]).transpose(-1, -2)  # (b, bins, frames)
    samples = (flat.shape[-1] - 1) * hop
    if samples <= length // 2:
        raise InversionError(f"{flat.shape[-1]} frames are too few to invert: give more than {length // (2 * hop) + 1}")

    def sound(spectrum: Tensor) -> Tensor:
        return torch.istft(spectrum, length, hop, window=window, length=samples)

    draw = torch.Generator().manual_seed(seed)
    phase = 2 * math.pi * torch.rand(flat.shape, generator=draw, dtype=flat.dtype).to(flat.device)
    angles, before = torch.polar(torch.ones_like(flat), phase), torch.zeros((), dtype=torch.complex64)
    for _ in range(iterations):
        spectrum = torch.stft(sound(flat * angles), length, hop, window=window, return_complex=True)
        ahead = spectrum + momentum * (spectrum - before)
        angles, before = ahead / ahead.abs().clamp_min(1e-16), spectrum
    return sound(flat * angles).reshape(*magnitude.shape[:-2], samples)


def invert(
    log_mel: Float[Tensor, "*b frames mels"], settings: AtomSettings, *, iterations: int = 32, seed: int = 0
) -> Float[Tensor, "*b samples"]:
    """Sound at 16 kHz whose log-mel spectrogram is close to this one; (frames - 1) * hop samples, silence for silence.

    Its loudness is that to which `log_mel` scales every clip. Raises `InversionError` for NaN, infinite values, or
    another number of bands than the settings'.
    """
    linear = mel_to_linear(mel_power(_checked(log_mel, settings)), settings)
    return griffin_lim(_magnitude(linear), settings, iterations=iterations, seed=seed)


def _magnitude(power: Float[Tensor, "*shape bins"]) -> Float[Tensor, "*shape bins"]:
    return (power * WINDOW).sqrt()  # `log_mel` divides power by the window's length


def invertible(dim: int, settings: AtomSettings) -> bool:
    """Whether features of this many dimensions are the log-mel patches of these settings."""
    return dim == settings.patch_frames * settings.mels


@torch.no_grad()
def atom_patches(
    coder: Decoder, strength: Float[np.ndarray, " atoms"], settings: AtomSettings
) -> tuple[Float[Tensor, "frames mels"], Float[Tensor, "atoms frames mels"]]:
    """What `coder` decodes from nothing, and from each atom alone at its strength, in log-mel units.

    Only `coder.decode` is asked, whatever scaling it holds. Raises `InversionError` for features that are no patches.
    """
    nothing = coder.decode(torch.zeros(1, len(strength)))
    shape = (-1, settings.patch_frames, settings.mels)
    if not invertible(nothing.shape[-1], settings):
        raise InversionError(
            f"the autoencoder's features have {nothing.shape[-1]} dimensions, log-mel patches of these settings "
            f"{settings.patch_frames} x {settings.mels}: only atoms of log-mel patches can be heard"
        )
    blocks = torch.from_numpy(np.asarray(strength, np.float32)).diag().split(256)
    return nothing.reshape(shape)[0], torch.cat([coder.decode(block) for block in blocks]).reshape(shape)


@torch.no_grad()
def render_atoms(
    coder: Decoder,
    strength: Float[np.ndarray, " atoms"],
    settings: AtomSettings,
    *,
    iterations: int = 32,
    seed: int = 0,
) -> list[Float[np.ndarray, " samples"] | None]:
    """Each atom as sound at 16 kHz: at least a second, peak -3 dBFS; None for an atom that is silent.

    An atom is a direction in a space with an origin of its own, so no sound *is* an atom. What can be heard is the
    difference it makes: the mel power of decode(strength * atom) less that of decode(0), which is the average patch.
    Where the atom takes power away the difference is below zero and counts as nothing, since there is no negative
    sound; an atom that only takes away is therefore silent, and said to be. The patch, a fraction of a second, is
    repeated.
    """
    nothing, alone = atom_patches(coder, strength, settings)
    gained = (mel_power(alone) - mel_power(nothing)).clamp_min(0)
    louder = gained.amax((1, 2)) > _AUDIBLE * POWER_FLOOR * 9
    repeats = math.ceil(SHORTEST_S / (settings.hop_s * settings.patch_frames))
    sounds: list[np.ndarray | None] = [None] * len(strength)
    audible = louder.nonzero().flatten().tolist()
    for start in range(0, len(audible), _BLOCK):
        block = audible[start : start + _BLOCK]
        tiled = mel_to_linear(gained[block], settings).repeat(1, repeats, 1)
        found = griffin_lim(_magnitude(tiled), settings, iterations=iterations, seed=seed + start)
        for atom, sound in zip(block, found, strict=True):
            sounds[atom] = _levelled(sound.numpy())
    return sounds


def _levelled(sound: Float[np.ndarray, " samples"]) -> Float[np.ndarray, " samples"] | None:
    """Faded in and out, with its greatest sample at `PEAK`; None when there is nothing to bring there."""
    fade = min(len(sound) // 2, round(_FADE_S * SAMPLE_RATE_HZ))
    ramp = np.sin(np.linspace(0, np.pi / 2, fade, dtype=np.float32)) ** 2
    sound = sound.copy()
    sound[:fade] *= ramp
    sound[len(sound) - fade :] *= ramp[::-1]
    peak = float(np.abs(sound).max())
    return sound * (PEAK / peak) if np.isfinite(peak) and peak > 1e-9 else None


def _checked(log_mel: Tensor, settings: AtomSettings) -> Tensor:
    if log_mel.shape[-1] != settings.mels:
        raise InversionError(f"log_mel has shape {tuple(log_mel.shape)}: give (..., frames, {settings.mels})")
    if not torch.isfinite(log_mel).all():
        raise InversionError("log_mel holds NaN or infinite values: give finite ones")
    return log_mel


def _hop(settings: AtomSettings) -> int:
    return round(settings.hop_s * SAMPLE_RATE_HZ)
