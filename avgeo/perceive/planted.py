"""Data whose true parts are known: superposed directions, and mixtures of simple sounds drawn as spectrograms.

Two questions are asked of them. *Directions*: does a method find a dictionary that is larger than the space it lives
in, when parts come in correlated groups and some fire only together with another (the feature hierarchies of
arXiv 2409.14507)? The truth is linear here, so a dictionary can be compared with it directly. *Spectrograms*: does it
take apart sounds that add in power and are seen through a logarithm, as in a log-mel spectrogram? The truth is which
source sounds.

A generator's `seed` fixes the parts, `draw` the examples: the same seed with two draws gives a training and a test set.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

_BLOCK = 20_000


class PlantedError(ValueError):
    """Settings that no planted data can have."""


def _generator(what: str, *numbers: int) -> torch.Generator:
    """A generator that shares its numbers with no other: a method seeded with 0, 1, 2... must not draw the truth."""
    return torch.Generator().manual_seed(zlib.crc32(" ".join(map(str, (what, *numbers))).encode()) + (1 << 40))


def zipf(count: int, exponent: float) -> Float[Tensor, " count"]:
    """Probabilities proportional to rank ** -exponent."""
    weight = torch.arange(1, count + 1).float() ** -exponent
    return weight / weight.sum()


@dataclass(frozen=True)
class Superposition:
    """`count` vectors x = strength @ directions + noise, and which of the sources are children of another."""

    x: Float[Tensor, "count dim"]
    strength: Float[Tensor, "count sources"]
    directions: Float[Tensor, "sources dim"]
    child: Bool[Tensor, " sources"]


def superposition(
    count: int, seed: int, draw: int, *, dim: int = 128, sources: int = 384, noise: float = 0.03
) -> Superposition:
    """Sparse non-negative sums of Gaussian unit directions, more of them than dimensions.

    Sources are of three kinds, in this order. *Plain* ones: 4 to 6 of them in every vector, of Zipf frequencies, with
    strengths in [0.5, 1.5]. *Groups* of six: in 60 % of the vectors one group sounds, each of its members with
    probability 0.4. *Children*, two for each of some plain parents: when the parent fires, either the one (35 %), the
    other (35 %) or none does, with a strength in [0.5, 1]. Raises `PlantedError` for fewer than 32 sources.
    """
    if sources < 32:
        raise PlantedError(f"sources={sources}: groups and children need at least 32")
    fixed = _generator("directions", seed)
    directions = torch.nn.functional.normalize(torch.randn(sources, dim, generator=fixed), dim=-1)
    parents, groups = sources // 8, sources // 16
    plain = sources - 2 * parents - 6 * groups
    parent = torch.randperm(plain, generator=fixed)[:parents]
    frequency = zipf(plain, 0.6)[torch.randperm(plain, generator=fixed)]
    fresh = _generator("strengths", seed, draw)
    strength = torch.cat(
        [_strengths(min(_BLOCK, count - start), frequency, parent, groups, fresh) for start in range(0, count, _BLOCK)]
    )
    x = strength @ directions + noise * torch.randn(count, dim, generator=fresh)
    child = torch.arange(sources) >= plain + 6 * groups
    return Superposition(x, strength, directions, child)


def _strengths(count: int, frequency: Tensor, parent: Tensor, groups: int, draw: torch.Generator) -> Tensor:
    plain = torch.zeros(count, len(frequency))
    # Gumbel noise turns log frequencies into draws without replacement
    noise = -torch.log(-torch.log(torch.rand(plain.shape, generator=draw).clamp(1e-7, 1 - 1e-7)))
    chosen = (frequency.log() + noise).topk(6, dim=1).indices
    sounds = torch.arange(6) < torch.randint(4, 7, (count, 1), generator=draw)
    plain.scatter_(1, chosen, sounds * (0.5 + torch.rand(count, 6, generator=draw)))

    members = torch.zeros(count, groups, 6)
    group = torch.multinomial(zipf(groups, 0.6), count, replacement=True, generator=draw)
    sounds = (torch.rand(count, 6, generator=draw) < 0.4) & (torch.rand(count, 1, generator=draw) < 0.6)
    members[torch.arange(count), group] = sounds * (0.5 + torch.rand(count, 6, generator=draw))

    which = torch.rand(count, len(parent), generator=draw)
    heard = (plain[:, parent] > 0) * (0.5 + 0.5 * torch.rand(count, len(parent), generator=draw))
    return torch.cat([plain, members.flatten(1), heard * (which < 0.35), heard * ((which >= 0.35) & (which < 0.7))], 1)


# --- spectrograms ---

MELS, FRAMES = 24, 8
_FLOOR = 0.02  # power of the recorder's own noise; a source's mean power over the bins it fills is about 1
_SPECKLE = 4  # independent looks at a noisy bin: its power is chi-square with twice as many degrees of freedom

Shape = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Power (count, mels, frames) of a source at bands (1, mels, 1) and frames (1, 1, frames), with jitter in both."""


def _bump(x: Tensor, width: float) -> Tensor:
    return torch.exp(-0.5 * (x / width) ** 2)


def _chirp(start: float, end: float, width: float, mel: Tensor, time: Tensor, up: Tensor, late: Tensor) -> Tensor:
    return _bump(mel - (start + (end - start) * (time + late) / (FRAMES - 1) + up), width)


def _harmonics(pitch: float, count: int, decay: float, mel: Tensor, time: Tensor, up: Tensor, late: Tensor) -> Tensor:
    where = [7 * math.log2(1 + pitch * number / 2) for number in range(1, count + 1)]
    lines = sum(decay**number * _bump(mel - (at + 0.6 * up), 0.6) for number, at in enumerate(where))
    return lines * torch.ones_like(time)


def _band(centre: float, width: float, phase: float, mel: Tensor, time: Tensor, up: Tensor, late: Tensor) -> Tensor:
    swell = 0.55 + 0.45 * torch.cos(2 * math.pi * (time + late) / FRAMES + phase)
    return _bump(mel - centre - up, width) * swell


def _click(when: float, tilt: float, width: float, mel: Tensor, time: Tensor, up: Tensor, late: Tensor) -> Tensor:
    return _bump(time - when - 0.6 * late, width) * torch.exp(tilt * (mel - MELS / 2))


def _hum(low: float, width: float, octave: float, mel: Tensor, time: Tensor, up: Tensor, late: Tensor) -> Tensor:
    lines = _bump(mel - low - 0.3 * up, width) + octave * _bump(mel - 2 * low - 3, width)
    return lines * torch.ones_like(time)


@dataclass(frozen=True)
class SpectrogramBank:
    """Forty parametric sources: 12 chirps, 10 harmonic tones, 8 swelling bands, 5 clicks, 5 hums."""

    shapes: tuple[Shape, ...]
    frequency: Float[Tensor, " sources"]
    seed: int

    @classmethod
    def make(cls, seed: int) -> SpectrogramBank:
        """The bank of a seed."""
        fixed = _generator("bank", seed)

        def between(low: float, high: float) -> float:
            return low + (high - low) * float(torch.rand(1, generator=fixed))

        shapes: list[Shape] = [
            partial(_chirp, between(2.0, 22.0), between(2.0, 22.0), between(0.7, 1.2)) for _ in range(12)
        ]
        shapes += [
            partial(_harmonics, 1.5 + 0.35 * n + between(0.0, 0.2), int(between(3.0, 7.0)), between(0.5, 0.9))
            for n in range(10)
        ]
        shapes += [partial(_band, between(2.0, 22.0), between(1.5, 4.0), between(0.0, 2 * math.pi)) for _ in range(8)]
        shapes += [partial(_click, 0.5 + 1.6 * n, between(-0.12, 0.12), between(0.4, 0.7)) for n in range(5)]
        shapes += [partial(_hum, 0.5 + 0.9 * n, between(0.4, 0.7), between(0.1, 0.5)) for n in range(5)]
        frequency = zipf(len(shapes), 0.5)[torch.randperm(len(shapes), generator=fixed)]
        return cls(tuple(shapes), frequency, seed)

    def sample(self, count: int, draw: int) -> tuple[Float[Tensor, "count dim"], Bool[Tensor, "count sources"]]:
        """Spectrograms of one to four sources at -10 to 10 dB about the usual level, and which sources sound."""
        fresh = self._generator(draw)
        chosen = torch.multinomial(self.frequency.expand(count, -1), 4, generator=fresh)
        heard = torch.arange(4) < torch.randint(1, 5, (count, 1), generator=fresh)
        active = torch.zeros(count, len(self.shapes)).scatter_(1, chosen, heard.float()) > 0
        power = _noise_floor(count, fresh)
        for source in range(len(self.shapes)):
            rows = active[:, source].nonzero()[:, 0]
            gain_db = 20 * torch.rand(len(rows), 1, 1, generator=fresh) - 10
            power[rows] += 10 ** (gain_db / 10) * self._render(source, len(rows), fresh)
        return compress(power), active

    def pairs(
        self, count: int, snr_db: float, draw: int
    ) -> tuple[Float[Tensor, "count dim"], Float[Tensor, "count dim"], Float[Tensor, "count dim"]]:
        """(first, second, both): two different sources alone, the first `snr_db` above the second, and their mixture.

        The pair's level lies within 5 dB of the usual; all three have the same noise floor. The same draw gives the
        same sounds at any SNR.
        """
        fresh = self._generator(draw)
        first = torch.randint(len(self.shapes), (count,), generator=fresh)
        second = (first + torch.randint(1, len(self.shapes), (count,), generator=fresh)) % len(self.shapes)
        level = 10 ** ((10 * torch.rand(count, 1, 1, generator=fresh) - 5) / 10)
        powers = []
        for chosen, gain_db in ((first, snr_db / 2), (second, -snr_db / 2)):
            power = torch.zeros(count, MELS, FRAMES)
            for source in range(len(self.shapes)):
                rows = (chosen == source).nonzero()[:, 0]
                power[rows] = self._render(source, len(rows), fresh)
            powers.append(10 ** (gain_db / 10) * level * power)
        floor = _noise_floor(count, fresh)
        return compress(powers[0] + floor), compress(powers[1] + floor), compress(powers[0] + powers[1] + floor)

    def _generator(self, draw: int) -> torch.Generator:
        return _generator("spectrograms", self.seed, draw)

    def _render(self, source: int, count: int, draw: torch.Generator) -> Tensor:
        mel, time = torch.arange(MELS).float()[None, :, None], torch.arange(FRAMES).float()[None, None, :]
        up, late = 0.8 * (torch.rand(2, count, 1, 1, generator=draw) - 0.5)
        power = self.shapes[source](mel, time, up, late).expand(count, -1, -1)
        power = power / power.sum((1, 2), keepdim=True) * (MELS * FRAMES / 16)
        return power * _chi_square(count, _SPECKLE, draw)


def _chi_square(count: int, looks: int, draw: torch.Generator) -> Tensor:
    """Power of noise (count, mels, frames), mean 1."""
    return torch.randn(count, MELS, FRAMES, looks, 2, generator=draw).square().sum(-1).mean(-1) / 2


def _noise_floor(count: int, draw: torch.Generator) -> Tensor:
    return _FLOOR * _chi_square(count, 2, draw)


def compress(power: Float[Tensor, "count mels frames"]) -> Float[Tensor, "count dim"]:
    """log(1 + power / floor), flattened: what a method sees."""
    return torch.log1p(power / _FLOOR).flatten(1)


def mix_spectrograms(
    first: Float[Tensor, "count dim"], second: Float[Tensor, "count dim"]
) -> Float[Tensor, "count dim"]:
    """The spectrogram of two sounds heard together: their powers add under the logarithm."""
    return torch.log1p(torch.expm1(first) + torch.expm1(second))
