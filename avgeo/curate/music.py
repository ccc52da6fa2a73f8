"""Gate `music`: a measured score, from the notes that a spectrogram shows.

Music is told from other tonal sound by what its tones do together. Spectral peaks that hold their pitch for an eighth
of a second are followed from frame to frame (McAulay and Quatieri, IEEE Trans. ASSP 34:744, 1986); the more of them at
once, the more tonal ("continuous frequency activation": Seyerlehner et al., DAFx-07). Tones that never stop (mains hum,
a fan, insects) say nothing and are left out. Of the others is measured:

- `tonal`: how many at once, 8 or more being 1;
- `tempered`: whether they lie on one grid of semitones, wherever it is tuned: the mean resultant length of their
  pitches on the circle of one semitone (Fisher, Statistical Analysis of Circular Data, 1993, eq. 2.9). Engines slide,
  birds and voices glide, a harmonic series meets the grid only in part;
- `pitches`: how many different ones, 20 or more being 1. A bell or a horn has few;
- `beat`: the highest autocorrelation of the onset envelope between 0.25 and 1.25 s (Scheirer, J. Acoust. Soc. Am.
  103:588, 1998). A clock has it too, but no tones;
- `chord`: how many tones begin in the same frame, on average over the tones, 8 or more being 1.

A logistic function of these makes the score; its weights were fitted on planted music, soundfont renderings of scores
from the 14th to the 20th century and recordings, against field sound. At the default of 0.75, in 4 s: 93 % of
the music alone (all of it in 10 s), about 9 in 10 at 10 dB above a scene, 7 in 10 at equal level, half at 5 dB below;
of 433 field recordings none, of AVG-Sim's clips 0.6 % (train horns together with bells or two-tone sirens, which are
chords). Monophonic song and long-held pads are the hard cases.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64
from scipy import fft, ndimage

from avgeo.curate.signals import RATE_HZ, Signals
from avgeo.curate.sound import NO_SOUND
from avgeo.curate.verdict import Verdict
from avgeo.curate.windows import windows
from avgeo.profiles import CurateSettings

NAMES = ("tonal", "tempered", "pitches", "beat", "chord")
_SIZE, _HOP = 2048, 512
_LOW, _HIGH = 8, 333  # bins of 7.8 Hz: 62 to 2600 Hz
_PROMINENT_DB = 8.0  # above the mean level of the 240 Hz around it
_DEPTH_DB = 60.0  # what is further below the loudest bin does not count
_LINK = 0.2  # semitones that a held tone may move within one hop
_STEADY = 0.7  # of the time, and a tone is part of the noise
_SHORTEST_S = 2.0
_WEIGHTS = (8.0, 5.0, 1.2, 2.3, -6.0)  # of tonal x tempered, tonal x beat, pitches, chord; and the bias


def _linked(
    frame: Int64[np.ndarray, " peaks"], column: Int64[np.ndarray, " peaks"], pitch: Float32[np.ndarray, " peaks"],
    shape: tuple[int, int],
) -> Int64[np.ndarray, " peaks"]:  # fmt: skip
    """For each peak the one that continues it in the next frame, or -1."""
    where = np.full((shape[0] + 1, shape[1] + 2), -1)
    where[frame, column + 1] = np.arange(len(frame))
    link = np.full(len(frame), -1)
    for step in (-1, 1, 0):  # its own bin comes last, and wins
        other = where[frame + 1, column + 1 + step]
        close = (other >= 0) & (np.abs(pitch[other] - pitch) < _LINK)
        link[close] = other[close]
    return link


def tones(samples: Float32[np.ndarray, " samples"]) -> dict[str, float]:
    """What the tones in 16 kHz `samples` do together: the five measurements above, each in [0, 1]."""
    nothing: dict[str, float] = dict.fromkeys(NAMES, 0.0)
    if len(samples) < _SIZE + 8 * _HOP:
        return nothing
    blocks = np.lib.stride_tricks.sliding_window_view(samples, _SIZE)[::_HOP]
    spectra: Any = fft.rfft(blocks * np.hanning(_SIZE).astype(np.float32), axis=1)
    spectra = spectra[:, _LOW - 1 : _HIGH + 1]
    level = 10 * np.log10(spectra.real**2 + spectra.imag**2 + np.float32(1e-9))
    level = np.maximum(level, level.max() - _DEPTH_DB)
    middle, before, after = level[:, 1:-1], level[:, :-2], level[:, 2:]
    above = middle - ndimage.uniform_filter1d(level, 31, axis=1, mode="nearest")[:, 1:-1]
    frame, column = np.nonzero((middle > before) & (middle >= after) & (above > _PROMINENT_DB))
    here, left, right = middle[frame, column], before[frame, column], after[frame, column]
    offset = 0.5 * (left - right) / np.minimum(left - 2 * here + right, -1e-6)  # of the parabola through three bins
    pitch = (12 * np.log2((column + _LOW + offset) * (RATE_HZ / _SIZE / 440))).astype(np.float32)
    link = _linked(frame, column, pitch, middle.shape)
    second = np.where(link >= 0, link[link], -1)
    held = np.where(second >= 0, link[second], -1) >= 0  # it and the next three
    often = np.bincount(column[held], minlength=middle.shape[1])
    wide = ndimage.uniform_filter1d(3.0 * often, 3) > _STEADY * len(level)
    steady: Any = ndimage.maximum_filter1d(wide, 5)
    note = held & ~steady[column]
    if not note.any():
        return nothing | {"beat": _beat(level)}
    weight, pitch = above[frame, column][note], pitch[note]
    count = np.bincount(frame[note], minlength=len(level))[: len(level) - 3]
    mean = np.sum(weight * np.exp(2j * np.pi * pitch)) / np.sum(weight)
    key = np.round(pitch - np.angle(mean) / (2 * np.pi)).astype(int)
    shares = np.bincount(key - key.min(), weight) / np.sum(weight)
    continued = np.zeros(len(frame), bool)
    continued[link[note & (link >= 0)]] = True
    begins = np.bincount(frame[note & ~continued], minlength=len(level)).astype(float)
    return {
        "tonal": float(np.minimum(count, 8).mean() / 8),
        "tempered": float(abs(mean)),
        "pitches": min(int(np.sum(shares > 0.02)), 20) / 20,
        "beat": _beat(level),
        "chord": min(float(np.sum(begins**2) / max(np.sum(begins), 1.0)), 8.0) / 8,
    }


def _beat(level: Float32[np.ndarray, "frames bins"]) -> float:
    """How periodic the onsets are: autocorrelation at lags of 0.25 to 1.25 s, 1 for a clock; 0 for short sounds."""
    rise = np.maximum(np.diff(level, axis=0), 0).mean(axis=1, dtype=np.float64)
    rise -= ndimage.uniform_filter1d(rise, 31)
    count, (first, last) = len(rise), (8, 40)
    if count <= last + 8 or not rise.any():
        return 0.0
    spectrum = np.fft.rfft(rise, 2 * count)
    correlation = np.fft.irfft(np.abs(spectrum) ** 2)[:last]
    return float(np.clip((correlation / correlation[0] / (1 - np.arange(last) / count))[first:].max(), 0, 1))


def music_score(measured: dict[str, float]) -> float:
    """The score in [0, 1] of what `tones` measured."""
    tonal = measured["tonal"]
    terms = (tonal * measured["tempered"], tonal * measured["beat"], measured["pitches"], measured["chord"], 1.0)
    return 1 / (1 + math.exp(-sum(weight * term for weight, term in zip(_WEIGHTS, terms, strict=True))))


def music(signals: Signals, settings: CurateSettings) -> Verdict:
    """It is not music: a score in [0, 1], at most `music_score`. Sound of more than 30 s is heard in three windows.

    `music_score` is the mean over the windows, the other measurements are those of the most musical one.
    """
    if signals.samples is None:
        return Verdict("music", skipped=NO_SOUND)
    if len(signals.samples) < _SHORTEST_S * RATE_HZ:
        return Verdict("music", skipped=f"shorter than {_SHORTEST_S:g} s")
    heard = [tones(part) for part in windows(signals.samples, 3, 10.0)]
    scores = [music_score(measured) for measured in heard]
    score = sum(scores) / len(scores)
    measured: dict[str, float | int | str | None] = {"music_score": round(score, 3)}
    measured.update({name: round(value, 3) for name, value in heard[scores.index(max(scores))].items()})
    reason = f"its sound is music: score {score:.2f} is above {settings.music_score:g}"
    return Verdict("music", measured, reason if score > settings.music_score else None)
