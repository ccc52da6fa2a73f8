"""The few primitives that every stem is made of: noise bands, wavetable oscillators, drawn curves, grains.

All of them work on whole arrays in float32 (phases in float64) and take their randomness from the given generator.
What a rate cannot carry is moved below its Nyquist frequency rather than lost, so that every stem sounds at any rate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import cast

import numpy as np
from jaxtyping import Float32, Float64, Int64
from numpy.typing import ArrayLike
from scipy import fft

Samples = Float32[np.ndarray, " samples"]
Stem = Callable[[int, int, np.random.Generator], Samples]
"""(samples, rate_hz, rng) -> that many samples, at any level."""

TOP = 0.47  # of the sampling rate: nothing is placed above
_TABLE = 8192


@lru_cache(maxsize=4)
def clock(samples: int, rate_hz: int) -> Float64[np.ndarray, " samples"]:
    """The time of each sample in s (read-only: a stem asks for it several times)."""
    times = np.arange(samples) / rate_hz
    times.flags.writeable = False
    return times


def _blocks(samples: int) -> Iterator[slice]:
    """Slices that fit into the cache: temporaries of a whole clip cost more in page faults than in arithmetic."""
    return (slice(at, at + 8192) for at in range(0, samples, 8192))


def curve(times_s: ArrayLike, values: ArrayLike, samples: int, rate_hz: int) -> Samples:
    """Straight lines through (time, value), held constant before the first and after the last."""
    times, levels, t = np.asarray(times_s), np.asarray(values), clock(samples, rate_hz)
    out = np.empty(samples, np.float32)
    for block in _blocks(samples):
        out[block] = np.interp(t[block], times, levels)
    return out


def wander(samples: int, rate_hz: int, every_s: float, rng: np.random.Generator) -> Samples:
    """A random curve in [0, 1] that heads for a new level every `every_s` seconds."""
    count = int(samples / rate_hz / every_s) + 3
    return curve((np.arange(count) - rng.random()) * every_s, rng.random(count), samples, rate_hz)


def noise(samples: int, rate_hz: int, low_hz: float, high_hz: float, rng: np.random.Generator) -> Samples:
    """Gaussian noise of unit RMS between two frequencies, falling by 24 dB per octave outside.

    Only the bins that matter are drawn, and one inverse FFT makes the samples.
    """
    high_hz = min(high_hz, TOP * rate_hz)
    low_hz = min(low_hz, 0.6 * high_hz)
    n = cast(int, fft.next_fast_len(samples, real=True))
    first = max(1, int(low_hz / 3 * n / rate_hz))
    last = min(n // 2, max(first + 2, int(3 * high_hz * n / rate_hz) + 1))
    bins = np.arange(first, last, dtype=np.float32) * np.float32(rate_hz / n)
    gain = 1 / np.sqrt(1 + (np.float32(low_hz) / bins) ** 8 + (bins / np.float32(high_hz)) ** 8)
    spectrum = np.zeros(n // 2 + 1, np.complex64)
    spectrum[first:last] = rng.standard_normal(2 * len(bins), dtype=np.float32).view(np.complex64) * gain
    power = 2 * float(np.sum(np.abs(spectrum) ** 2)) / n**2  # Parseval
    return np.asarray(fft.irfft(spectrum, n))[:samples] / np.float32(np.sqrt(power))


def cycles(hz: Float32[np.ndarray, " samples"], rate_hz: int) -> Float64[np.ndarray, " samples"]:
    """The phase, in cycles, of an oscillator that follows `hz`, one value per sample."""
    return np.cumsum(hz, dtype=np.float64) / rate_hz


def wave(phase: Float64[np.ndarray, " samples"], levels: Sequence[float] = (1.0,)) -> Samples:
    """Harmonics of the given levels at a phase in cycles: one look-up in a table of a single period."""
    turns = np.arange(_TABLE, dtype=np.float32) * np.float32(2 * np.pi / _TABLE)
    table = np.zeros(_TABLE, np.float32)
    for number, level in enumerate(levels, 1):
        if level:
            table += np.float32(level) * np.sin(turns * np.float32(number))
    out = np.empty(len(phase), np.float32)
    for block in _blocks(len(phase)):
        out[block] = table[(phase[block] * _TABLE).astype(np.int64) & (_TABLE - 1)]
    return out


def harmonics(top_hz: float, rate_hz: int, slope: float, most: int) -> list[float]:
    """Levels k**-slope of the harmonics of a tone that never exceeds `top_hz`, as far as the rate carries them."""
    return [k**-slope for k in range(1, max(1, min(most, int(TOP * rate_hz / top_hz))) + 1)]


def sing(hz: Samples, rate_hz: int, slope: float = 1.0, most: int = 1) -> Samples:
    """A harmonic tone that follows `hz`; one too high for the rate is sung octaves lower."""
    top = float(hz.max())
    while top > TOP * rate_hz:
        hz, top = hz / 2, top / 2
    return wave(cycles(hz, rate_hz), harmonics(top, rate_hz, slope, most))


def ring(length_s: float, rate_hz: int, partials: Sequence[tuple[float, float, float]]) -> Samples:
    """A struck thing: sum of (hz, level, decay_s) partials; those that the rate cannot carry are left out."""
    t = clock(max(1, round(length_s * rate_hz)), rate_hz)
    out, after = np.zeros(len(t), np.float32), t.astype(np.float32)
    for hz, level, decay_s in partials:
        if hz < TOP * rate_hz:
            out += np.float32(level) * wave(hz * t) * np.exp(after * np.float32(-1 / decay_s))
    return out


def place(out: Samples, at: int, grain: Samples, level: float = 1.0) -> None:
    """Add `grain` to `out` from sample `at` on (in place), as far as it fits."""
    begin, end = max(at, 0), min(at + len(grain), len(out))
    if begin < end:
        out[begin:end] += np.float32(level) * grain[begin - at : end - at]


def repeated(
    grain: Samples, samples: int, rate_hz: int, gap_s: float, rng: np.random.Generator, jitter: float, softest: float
) -> Samples:
    """`grain` about every `gap_s`, each time at another level between `softest` and 1."""
    out = np.zeros(samples, np.float32)
    for start_s in onsets(samples, rate_hz, gap_s, rng, jitter):
        place(out, round(start_s * rate_hz), grain, rng.uniform(softest, 1.0))
    return out


def scatter(out: Samples, at: Int64[np.ndarray, " count"], grains: Float32[np.ndarray, "count length"]) -> None:
    """Add many short grains at once (in place)."""
    index = at[:, None] + np.arange(grains.shape[1])
    inside = (index >= 0) & (index < len(out))
    np.add.at(out, index[inside], grains[inside])


def drops(
    hz: Float32[np.ndarray, " count"], levels: ArrayLike, decay_s: float, rate_hz: int
) -> Float32[np.ndarray, "count length"]:
    """Grains for `scatter`: damped oscillations, lowered to what the rate carries."""
    t = np.arange(max(4, int(4 * decay_s * rate_hz)), dtype=np.float32) / np.float32(rate_hz)
    hz = np.minimum(np.asarray(hz, np.float32), np.float32(TOP * rate_hz))
    body = np.sin(np.float32(2 * np.pi) * hz[:, None] * t) * np.exp(t * np.float32(-1 / decay_s))
    return np.asarray(levels, np.float32)[:, None] * body


def onsets(
    samples: int, rate_hz: int, gap_s: float, rng: np.random.Generator, jitter: float = 0.0
) -> Float64[np.ndarray, " n"]:
    """Start times in s about every `gap_s`; the first falls into the first tenth of the span (at most half a gap)."""
    length_s = samples / rate_hz
    first = rng.uniform(0, min(0.1 * length_s, 0.5 * gap_s))
    count = int((length_s - first) / gap_s) + 1
    starts = first + gap_s * np.arange(count)
    starts[1:] += gap_s * jitter * rng.uniform(-1, 1, count - 1)
    return starts
