"""Gate `localisable`: is there anything to go by?

Asked of the signal, not of a locator: whether a sense shows more than a lens cap, a bare wall, hiss or hum would. Both
measures are bits in Shannon's sense for a Gaussian channel (Bell Syst. Tech. J. 27:623, 1948), half log2 of one plus
structure over noise, so that nothing shows 0 and neither loudness nor exposure count; they say nothing of *where*.

That is on purpose. The entropy of a trained locator's posterior would be the obvious measure, but a benchmark chosen
by a locator holds what that locator can do already: it would flatter it and its kin, and leave out exactly the clips
that are hard but possible. A clip that passes here may still be hopeless, and is then everyone's loss alike.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8
from scipy import fft, special

from avgeo.curate.signals import RATE_HZ, Signals
from avgeo.curate.verdict import Verdict
from avgeo.curate.windows import windows
from avgeo.profiles import CurateSettings

_CELLS = 32  # along the longer side
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
_STEP = 2.0  # grey levels between neighbouring cells that count as one noise unit
_MOST_FRAMES = 4
_SIZE = 512  # samples in a frame of the spectrogram
_BLOCK = 8  # frames over which power is averaged: 0.26 s
_EDGES_HZ = (100, 200, 300, 400, 600, 800, 1100, 1500, 2000, 2700, 3600, 4800)
_INDEPENDENT = 0.54  # of a band's bins under a Hann window: as measured on a minute of noise
_SILENT = 1e-9  # power of a band, about -140 dBFS
_SHORTEST_BLOCKS = 4


def picture_bits(frames: UInt8[np.ndarray, "frames height width 3"]) -> float:
    """Structure of the pictures in bits per cell: 0 for a lens cap or a bare wall, however noisy or unevenly lit.

    A frame is averaged over cells (32 along its longer side), which removes most of the camera's noise; the second
    differences between neighbouring cells remove even shading and vignetting. Mean over cells of half
    log2(1 + d**2 / (step**2 + 4 noise**2)), of at most 4 frames the median. The noise of d follows from that of the
    pixels, which the median cell's differences between neighbouring pixels show.
    """
    chosen = frames[np.unique(np.linspace(0, len(frames) - 1, _MOST_FRAMES).round().astype(int))]
    size = max(1, max(chosen.shape[1:3]) // _CELLS)
    rows, columns = chosen.shape[1] // size, chosen.shape[2] // size
    if rows < 3 or columns < 3:
        return 0.0
    found = []
    for frame in chosen:
        luma = frame[: rows * size, : columns * size] @ np.array(_LUMA, np.float32)
        cells = luma.reshape(rows, size, columns, size).mean(axis=(1, 3))
        between = np.diff(luma.reshape(rows, size, columns, size), axis=3) ** 2
        pixel = float(np.median(between.mean(axis=(1, 3)))) / 2 if size > 1 else 0.0  # variance
        noise = 12 * pixel / size**2  # twice 1 + 4 + 1 means of size**2 pixels
        across, down = np.diff(cells, 2, axis=1)[1:-1], np.diff(cells, 2, axis=0)[:, 1:-1]
        found.append(float(np.mean(0.5 * np.log2(1 + (across**2 + down**2) / (_STEP**2 + 4 * noise)))))
    return float(np.median(found))


def sound_bits(samples: Float32[np.ndarray, " samples"]) -> float | None:
    """How far sound departs from stationary noise of its own spectrum, in bits per band and 0.26 s: 0 for hiss or hum.

    In a band of stationary Gaussian noise, power averaged over n independent bins follows a gamma law of shape n, so
    its logarithm has the variance trigamma(n) (Bartlett and Kendall, Suppl. J. R. Stat. Soc. 8:128, 1946). A steady
    tone varies less. The excess counts: half log2 of the variance found over that expected, at least 0, mean over 11
    bands from 100 to 4800 Hz. Because of the "at least", 4 s of noise have 0.09 bits. None for sound that is
    too short to tell (1.6 s); of more than a minute six windows of 10 s are taken.
    """
    samples = np.concatenate(windows(samples, 6, 10.0))
    blocks = len(samples) // (_SIZE * _BLOCK) - 2  # an encoder's start and end are not the scene's
    if blocks < _SHORTEST_BLOCKS:
        return None
    frames = samples[_BLOCK * _SIZE : (blocks + 1) * _BLOCK * _SIZE].reshape(-1, _SIZE)
    edges = np.rint(np.array(_EDGES_HZ) * _SIZE / RATE_HZ).astype(int)
    spectra: Any = fft.rfft(frames * np.hanning(_SIZE).astype(np.float32), axis=1)
    spectra = spectra[:, : edges[-1]]
    power = (spectra.real**2 + spectra.imag**2).reshape(blocks, _BLOCK, -1).mean(axis=1, dtype=np.float64)
    bands = np.add.reduceat(power, edges[:-1], axis=1)
    bits = 0.0
    for band, width in zip(bands.T, np.diff(edges), strict=True):
        if band.max() < _SILENT:
            continue
        expected = float(special.polygamma(1, _BLOCK * max(1.0, _INDEPENDENT * width)))
        found = float(np.var(np.log(np.maximum(band, _SILENT)), ddof=1))
        bits += max(0.0, 0.5 * math.log2(max(found / expected, 1.0)))
    return bits / (len(edges) - 1)


def localisable(signals: Signals, settings: CurateSettings) -> Verdict:
    """There is something to go by: `picture_bits` or `sound_bits` reaches its threshold.

    A sense that the item lacks, or that is too short to be judged, does not count against it: the other one decides
    alone, and an item of which nothing can be judged passes. Flagged where one sense of two shows nothing.
    """
    picture = None if signals.frames is None or not len(signals.frames) else picture_bits(signals.frames)
    sound = None if signals.samples is None else sound_bits(signals.samples)
    if picture is None and sound is None:
        return Verdict("localisable", skipped="neither picture nor sound can be judged")
    measured: dict[str, float | int | str | None] = {
        "picture_bits": None if picture is None else round(picture, 3),
        "sound_bits": None if sound is None else round(sound, 3),
    }
    empty = []
    if picture is not None and picture < settings.picture_bits:
        empty.append(f"its picture shows nothing ({picture:.2f} bits)")
    if sound is not None and sound < settings.sound_bits:
        empty.append(f"its sound is steady noise or silence ({sound:.2f} bits)")
    # A sound too short to be judged may still hold a call.
    senses = (picture is not None) + (signals.samples is not None)
    if len(empty) == senses:
        return Verdict("localisable", measured, f"nothing to go by: {' and '.join(empty)}")
    return Verdict("localisable", measured, flags=tuple(empty))
