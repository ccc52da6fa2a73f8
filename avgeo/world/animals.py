"""Stems of animals: song grammars for birds, gulls and cocks, Dolbear's crickets, cicadas, frogs.

A *singer* is a small generative grammar. Its notes are pitch curves; a phrase is a row of notes, each repeated a drawn
number of times; a song is phrases and pauses. So songs vary and the singer stays recognisable. The twelve birds are
made up, each after the habit of a common songster of its realm; pitch, timbre and rhythm keep them apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from avgeo.world.audible import CRICKETS_C
from avgeo.world.synthesis import Samples, Stem, clock, curve, noise, repeated, sing, wander, wave

Note = tuple[tuple[float, ...], float]
"""(pitches in Hz at even steps, length in s)."""
Phrase = tuple[tuple[str, int, int], ...]
"""(note, fewest repeats, most repeats) in order."""


@dataclass(frozen=True)
class Singer:
    """A song grammar: notes, phrases drawn at random, pauses, and the timbre (harmonics of level k**-slope)."""

    notes: dict[str, Note]
    phrases: tuple[Phrase, ...]
    note_gap_s: float
    phrase_gap_s: tuple[float, float]
    slope: float = 2.0
    most: int = 2

    def song(
        self, length_s: float, rng: np.random.Generator
    ) -> tuple[list[float], list[float], list[float], list[float]]:
        """Break points of a song: times and pitches (Hz), times and levels, from about 0 to `length_s`."""
        individual = rng.uniform(0.96, 1.04)
        pitch_times: list[float] = []
        pitches: list[float] = []
        level_times: list[float] = []
        levels: list[float] = []
        at = rng.uniform(0, min(0.4, 0.1 * length_s))
        while at < length_s:
            for name, fewest, most in self.phrases[rng.integers(len(self.phrases))]:
                points, note_s = self.notes[name]
                for _ in range(rng.integers(fewest, most + 1)):
                    long_s = note_s * rng.uniform(0.94, 1.06)
                    shift = individual * rng.uniform(0.985, 1.015)
                    pitch_times += np.linspace(at, at + long_s, len(points)).tolist()
                    pitches += [shift * hz for hz in points]
                    edge = min(0.015, long_s / 4)
                    level_times += [at, at + edge, at + long_s - 2 * edge, at + long_s]
                    levels += [0.0, rng.uniform(0.8, 1.0), 0.8, 0.0]
                    at += long_s + self.note_gap_s
            at += rng.uniform(*self.phrase_gap_s)
        return pitch_times, pitches, level_times, levels

    def stem(self, samples: int, rate_hz: int, rng: np.random.Generator) -> Samples:
        """One animal singing for the whole span."""
        pitch_times, pitches, level_times, levels = self.song(samples / rate_hz, rng)
        hz = curve(pitch_times, pitches, samples, rate_hz)
        return sing(hz, rate_hz, self.slope, self.most) * curve(level_times, levels, samples, rate_hz)


def _level(hz: float) -> tuple[float, ...]:
    return (hz, hz)


BIRDS = {
    # after the song sparrow: clear whistles, a buzz, a trill
    "nearctic_open": Singer(
        {"a": (_level(3100), 0.17), "b": ((5200, 4300) * 8, 0.35), "t": ((3900, 3300), 0.045)},
        ((("a", 2, 3), ("b", 1, 1), ("t", 6, 12)), (("a", 3, 3), ("t", 8, 12), ("b", 1, 1))),
        0.035, (0.6, 1.2),
    ),
    # after the black-capped chickadee: fee-bee, two long whistles a tone apart
    "nearctic_forest": Singer(
        {"f": ((4100, 4000), 0.42), "b": ((3450, 3450, 3400), 0.45)},
        ((("f", 1, 1), ("b", 1, 1)), (("f", 1, 1), ("b", 2, 2))),
        0.08, (0.5, 1.0), most=1,
    ),
    # after the great kiskadee: three brassy syllables
    "neotropical_open": Singer(
        {"k": ((1500, 2500, 2300), 0.14), "i": ((2200, 1900), 0.1), "d": ((1900, 2900, 1700), 0.3)},
        ((("k", 1, 1), ("i", 1, 1), ("d", 1, 1)), (("k", 1, 2), ("d", 1, 1))),
        0.04, (0.4, 0.9), slope=0.6, most=6,
    ),
    # after the screaming piha: soft rising calls, then a whip up and down
    "neotropical_forest": Singer(
        {"g": ((1500, 1650), 0.22), "p": ((1700, 3900, 4200), 0.16), "h": ((4200, 1800, 1500), 0.34)},
        ((("g", 1, 2), ("p", 1, 1), ("h", 1, 1)), (("p", 1, 1), ("h", 1, 1))),
        0.02, (0.5, 1.1), most=1,
    ),
    # after the skylark: an unbroken high warble
    "palearctic_open": Singer(
        {"a": ((4600, 6200), 0.05), "b": ((5900, 4200), 0.06), "c": ((5000, 5800, 4800), 0.07),
         "d": (_level(6400), 0.05)},
        ((("a", 2, 5), ("b", 2, 4)), (("c", 3, 6), ("d", 1, 3)), (("d", 2, 4), ("a", 2, 3), ("c", 2, 4))),
        0.018, (0.02, 0.08), most=1,
    ),
    # after the great tit: tea-cher tea-cher
    "palearctic_forest": Singer(
        {"T": ((5400, 5300), 0.12), "c": ((3900, 3850), 0.15)},
        (((("T", 1, 1), ("c", 1, 1)) * 3), ((("T", 1, 1), ("c", 1, 1)) * 4), ((("T", 1, 1), ("c", 1, 1)) * 5)),
        0.035, (0.6, 1.1), most=1,
    ),
    # after the ring-necked dove: how's-fa-ther, low
    "afrotropical_open": Singer(
        {"h": ((540, 520), 0.22), "f": ((560, 640, 600), 0.35), "t": ((540, 510), 0.28)},
        ((("h", 1, 1), ("f", 1, 1), ("t", 1, 1)),),
        0.06, (0.15, 0.3), slope=1.8, most=3,
    ),
    # after the tinkerbirds: one popping note, evenly, for minutes
    "afrotropical_forest": Singer(
        {"p": ((1080, 1150, 1080), 0.09)}, ((("p", 4, 7),),), 0.3, (0.5, 0.8), most=2,
    ),
    # after the koel: rising double whoops
    "indomalayan_open": Singer(
        {"k": ((800, 880), 0.16), "o": ((880, 1300, 1450, 1250), 0.4), "u": ((1000, 1500, 1700, 1400), 0.4)},
        ((("k", 1, 1), ("o", 1, 1)), (("k", 1, 1), ("u", 1, 1)), (("k", 1, 1), ("o", 1, 1), ("k", 1, 1), ("u", 1, 1))),
        0.03, (0.5, 0.9), slope=1.6, most=3,
    ),
    # after the bulbuls: quick liquid zigzags
    "indomalayan_forest": Singer(
        {"a": ((1900, 2800), 0.09), "b": ((2700, 2000, 2500), 0.13), "c": ((2300, 1700), 0.1)},
        ((("a", 1, 2), ("b", 1, 1), ("c", 1, 2)), (("b", 1, 2), ("a", 1, 1), ("b", 1, 1)), (("c", 1, 2), ("a", 2, 3))),
        0.03, (0.2, 0.5), most=2,
    ),
    # after the laughing kookaburra: harsh rows that swing up and down
    "australasian_open": Singer(
        {"o": ((700, 1000, 800), 0.11), "h": ((900, 1500, 1000), 0.12), "a": ((1100, 1800, 1100), 0.15)},
        ((("o", 3, 6), ("h", 3, 6), ("a", 3, 6)), (("a", 4, 8), ("h", 2, 4))),
        0.03, (0.2, 0.4), slope=0.2, most=8,
    ),
    # after the eastern whipbird: a long still whistle, then the crack
    "australasian_forest": Singer(
        {"w": (_level(2050), 1.0), "x": ((1500, 7000), 0.09), "y": ((3000, 2300), 0.12)},
        ((("w", 1, 1), ("x", 1, 1)), (("w", 1, 1), ("x", 1, 1), ("y", 2, 2))),
        0.015, (0.5, 0.9), most=1,
    ),
}  # fmt: skip
"""The species of each realm and habitat."""

GULL = Singer(
    {"l": ((900, 1350, 1250, 850), 0.5), "s": ((1000, 1500, 950), 0.22), "k": ((1200, 1000), 0.1)},
    ((("l", 1, 2), ("s", 3, 7)), (("k", 3, 4),), (("l", 1, 1),)),
    0.09, (0.3, 0.8), slope=0.5, most=8,
)  # fmt: skip
COCK = Singer(
    {"c": ((480, 620, 560), 0.17), "a": ((600, 700), 0.12), "d": ((700, 920, 850), 0.4),
     "o": ((900, 860, 620, 420), 0.75)},
    ((("c", 1, 1), ("a", 1, 1), ("d", 1, 1), ("o", 1, 1)),),
    0.03, (1.5, 2.5), slope=0.4, most=12,
)  # fmt: skip


def dolbear_per_min(temperature_c: float) -> float:
    """Chirps a minute of the snowy tree cricket, N = 7 T - 30.

    Dolbear, Am. Nat. 31:970 (1897), has T = 50 + (N - 40) / 4 in deg F; this is its usual Celsius form, rounded.
    """
    return 7 * temperature_c - 30


def dolbear_c(chirps_per_min: float) -> float:
    """The temperature that a chirp rate tells: the inverse of `dolbear_per_min`."""
    return 10 + (chirps_per_min - 40) / 7


def crickets(value: str) -> Stem:
    """A tree cricket's chirps of eight pulses, at Dolbear's rate for a temperature drawn inside the class."""

    def stem(samples: int, rate_hz: int, rng: np.random.Generator) -> Samples:
        period_s = 60 / dolbear_per_min(rng.uniform(*CRICKETS_C[value]))
        n = max(16, round(0.45 * period_s * rate_hz))
        pulses = np.abs(np.sin(np.arange(n) * np.float32(8 * np.pi / n))) ** 1.5
        grain = sing(np.full(n, rng.uniform(2700, 3300), np.float32), rate_hz) * pulses.astype(np.float32)
        return repeated(grain, samples, rate_hz, period_s, rng, jitter=0.01, softest=0.85)

    return stem


def cicadas(samples: int, rate_hz: int, rng: np.random.Generator) -> Samples:
    """A rasp at 4-7 kHz: tymbal clicks about 100 times a second, swelling over seconds."""
    rasp = noise(samples, rate_hz, rng.uniform(4000, 4800), rng.uniform(6000, 7000), rng)
    clicks = 0.55 + 0.45 * wave(rng.uniform(80, 130) * clock(samples, rate_hz))
    return rasp * clicks * (0.4 + 0.6 * wander(samples, rate_hz, 1.2, rng))


def frogs(samples: int, rate_hz: int, rng: np.random.Generator) -> Samples:
    """A chorus of five: rows of pulsed croaks, each frog at its own pitch and pace."""
    out = np.zeros(samples, np.float32)
    for _ in range(5):
        n = max(16, round(rng.uniform(0.13, 0.22) * rate_hz))
        t: Float64[np.ndarray, " n"] = np.arange(n) / rate_hz
        pulses = np.clip(np.sin(2 * np.pi * rng.uniform(45, 70) * t), 0, None) ** 2 * np.hanning(n)
        croak = sing(np.full(n, rng.uniform(600, 1600), np.float32), rate_hz, 1.5, 3) * pulses.astype(np.float32)
        out += repeated(croak, samples, rate_hz, rng.uniform(0.35, 0.6), rng, jitter=0.05, softest=0.5)
    return out
