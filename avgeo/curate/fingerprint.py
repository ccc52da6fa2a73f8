"""What is remembered of an item so that its copies can be found: hashes of its pictures, a fingerprint of its sound.

Both are text, so that they can be journalled. `avgeo.curate.likeness` compares those of two items, and
`avgeo.curate.duplicates` finds the pairs worth comparing among all items.

**Pictures.** At most `MOST_PICTURES` evenly spaced frames, each as four parts:

- the perceptual hash of the frame and of its mirror image: ImageHash's `phash`, the signs of 8 x 8 low DCT coefficients
  about their median. It finds copies of the whole frame;
- features, which find cropped copies: extrema of the difference of Gaussians in place and scale (Lowe 2004,
  "Distinctive image features from scale-invariant keypoints", section 3), each with its place, scale and a word of
  `WORD_BITS` bits, the signs of the low DCT coefficients of the 8 x 8 patch around it, which grows with the scale.
  Above them is the number of the bit whose coefficient is nearest to zero, which a copy may well have otherwise.
  A mirror image changes the sign of the horizontally odd coefficients and nothing else, so one word serves both;
- a small grey picture, to look at when a pair is in question.

**Sound.** Haitsma & Kalker 2002, "A highly robust audio fingerprinting system", equation 1: for frame n and band m of
energy E, the bit F(n, m) is the sign of E(n, m) - E(n, m+1) - (E(n-1, m) - E(n-1, m+1)). Ours differs as follows:
levels in dB, so that quiet bands count as much as loud ones; bands to 6 kHz instead of 2, because birds and insects
sing there; frames of 256 ms every 32 ms and a lag of four of them, which is as robust to the position of the frames as
their 11.6 ms at a third of the text; and a second bit for each, whether the difference is large enough to survive a
codec. Bits that are not trusted are not compared: so silence, and bands that a codec emptied, match nothing.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Float32, Int, UInt8, UInt32, UInt64
from scipy.fft import dctn, rfft
from scipy.ndimage import gaussian_filter, map_coordinates, maximum_filter, minimum_filter

if TYPE_CHECKING:
    from avgeo.curate.signals import Signals

MOST_PICTURES = 6
_APART_S = 1.2
SIDE_PX = 96  # longest side of the small grey picture
BLOCK_PX = 8
TEXTURE = 3.0  # grey levels (see `texture`) from which a block shows something
LEAST_TEXTURED = 10  # blocks without which a picture shows too little to be recognised

FEATURES = 48
WORD_BITS = 24
_SIGMA, _STEP, _LEVELS = 1.0, 2**0.4, 9
_EDGE = 1.5  # features nearer to an edge, in units of their scale, see little but the edge

RATE_HZ = 16_000
_FRAME, HOP = 4096, 512
LAG = 4
_LOW_HZ, _HIGH_HZ, _BANDS = 300.0, 6000.0, 33
_LONGEST_S = 300.0
_SHORTEST_S = 1.0
_FLOOR_DB = -50.0  # below the loud parts: what lies lower does not survive a low bit rate
_TRUST_DB = 1.5
_SILENCE = 10 ** (-70 / 20)
_RESTLESS = 1.5  # times the variance of stationary noise
_LEAST_RESTLESS = 8  # bands
_ANCHORS_A_SECOND = 8.0


# --- pictures ---


@dataclass(frozen=True)
class Picture:
    """One frame as remembered: its hash and its mirror image's, features, the small grey picture and its width."""

    whole: int
    mirrored: int
    x_px: Float32[np.ndarray, " features"]
    y_px: Float32[np.ndarray, " features"]
    scale_px: Float32[np.ndarray, " features"]
    words: UInt32[np.ndarray, " features"]
    grey: bytes  # JPEG
    width: int

    def text(self) -> str:
        """The picture as text: hashes, features and grey picture, parted by colons."""
        packed = np.zeros((len(self.words), 7), np.uint8)
        packed[:, 0], packed[:, 1] = np.rint(2 * self.x_px), np.rint(2 * self.y_px)
        packed[:, 2] = np.rint(8 * self.scale_px)
        packed[:, 3:] = self.words.astype("<u4").view(np.uint8).reshape(-1, 4)
        parts = (packed.tobytes(), self.grey)
        return f"{self.whole:016x}:{self.mirrored:016x}:{self.width}:" + ":".join(
            base64.b64encode(p).decode() for p in parts
        )

    @classmethod
    def of(cls, text: str) -> Picture:
        """The picture that `text` describes."""
        whole, mirrored, width, features, grey = text.split(":")
        packed = np.frombuffer(base64.b64decode(features), np.uint8).reshape(-1, 7)
        words = np.ascontiguousarray(packed[:, 3:]).view("<u4")[:, 0]
        place = packed[:, :3].astype(np.float32) / np.array([2, 2, 8], np.float32)
        return cls(
            int(whole, 16), int(mirrored, 16), place[:, 0], place[:, 1], place[:, 2], words,
            base64.b64decode(grey), int(width),
        )  # fmt: skip

    def pixels(self) -> Float32[np.ndarray, "height width"]:
        """The small grey picture, 0 to 255."""
        return _decoded(self.grey)


@lru_cache(maxsize=4096)
def _decoded(jpeg: bytes) -> Float32[np.ndarray, "height width"]:
    from PIL import Image

    with Image.open(io.BytesIO(jpeg)) as image:
        return np.asarray(image, dtype=np.float32)


def picture_hashes(signals: Signals) -> list[str]:
    """What is remembered of an item's frames, one text each (see `Picture`).

    Empty for an item without picture. Frames that show too little to be recognised (black, one colour, a smooth
    gradient) give none, and neither does a frame that looks just like the one before.
    """
    frames = signals.frames
    if frames is None or not len(frames):
        return []
    span_s = 0.0 if signals.times_s is None else float(signals.times_s[-1] - signals.times_s[0])
    count = min(MOST_PICTURES, len(frames), 1 + round(span_s / _APART_S))
    chosen = ((np.arange(count) + 0.5) * len(frames) / count).astype(int)
    texts = [picture.text() for picture in (_remember(frames[number]) for number in chosen) if picture is not None]
    return [text for number, text in enumerate(texts) if number == 0 or text != texts[number - 1]]


def texture(cut: Float[np.ndarray, "blocks pixels"]) -> Float[np.ndarray, " blocks"]:
    """Root mean square of each block, in grey levels, about the plane that fits it best: a clear sky has none."""
    across = np.arange(BLOCK_PX) - (BLOCK_PX - 1) / 2
    slopes = np.stack([np.tile(across, BLOCK_PX), np.repeat(across, BLOCK_PX)])
    slopes /= np.linalg.norm(slopes, axis=1, keepdims=True)  # orthonormal, and orthogonal to the mean
    variance = cut.var(axis=1) - ((cut @ slopes.T) ** 2).sum(axis=1) / cut.shape[1]
    return np.sqrt(np.maximum(variance, 0))


def blocks(picture: Float[np.ndarray, "height width"]) -> Float[np.ndarray, "blocks pixels"]:
    """`picture` cut into blocks, row by row; what is left over at the right and below is cut off."""
    rows, columns = (side // BLOCK_PX for side in picture.shape)
    cut = picture[: rows * BLOCK_PX, : columns * BLOCK_PX].reshape(rows, BLOCK_PX, columns, BLOCK_PX)
    return cut.swapaxes(1, 2).reshape(rows * columns, BLOCK_PX * BLOCK_PX)


def _remember(frame: UInt8[np.ndarray, "height width 3"]) -> Picture | None:
    import imagehash
    from PIL import Image, ImageOps

    image = Image.fromarray(frame).convert("L")
    factor = SIDE_PX / max(image.size)
    width, height = (max(1, round(factor * side)) for side in image.size)
    small = image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=2.0)
    grey = np.asarray(small, dtype=np.float32)
    if (texture(blocks(grey)) > TEXTURE).sum() < LEAST_TEXTURED:
        return None
    stored = io.BytesIO()
    small.save(stored, "JPEG", quality=40)
    whole, mirrored = (int(str(imagehash.phash(seen)), 16) for seen in (small, ImageOps.mirror(small)))
    return Picture(whole, mirrored, *_features(grey), stored.getvalue(), width)


def _features(
    grey: Float32[np.ndarray, "height width"],
) -> tuple[
    Float32[np.ndarray, " features"],
    Float32[np.ndarray, " features"],
    Float32[np.ndarray, " features"],
    UInt32[np.ndarray, " features"],
]:
    """x, y and scale in pixels, and word, of the strongest extrema of the difference of Gaussians."""
    scales = _SIGMA * _STEP ** np.arange(_LEVELS)
    stack, blurred, at = np.empty((_LEVELS, *grey.shape), np.float32), grey, 0.0
    for level, scale in enumerate(scales):  # each from the one before: the kernels stay short
        blurred = gaussian_filter(blurred, np.sqrt(scale**2 - at**2), truncate=3.0)
        stack[level], at = blurred, scale
    change = np.diff(stack, axis=0)
    extreme = (change == maximum_filter(change, 3)) | (change == minimum_filter(change, 3))
    extreme[[0, -1]] = False
    level, y, x = np.nonzero(extreme & (np.abs(change) > 1.0))
    edge = np.minimum.reduce([x, y, grey.shape[1] - 1 - x, grey.shape[0] - 1 - y])
    inside = edge >= _EDGE * scales[level]
    level, y, x = level[inside], y[inside], x[inside]
    strongest = np.lexsort((x, y, level, -np.abs(change[level, y, x])))[:FEATURES]
    level, y, x = level[strongest], y[strongest], x[strongest]
    words = _words(stack, level, y, x, scales[level])
    return x.astype(np.float32), y.astype(np.float32), scales[level].astype(np.float32), words


def _words(
    stack: Float32[np.ndarray, "levels height width"],
    level: Int[np.ndarray, " features"],
    y: Int[np.ndarray, " features"],
    x: Int[np.ndarray, " features"],
    scale_px: Float[np.ndarray, " features"],
) -> UInt32[np.ndarray, " features"]:
    reach = 1.25 * (np.arange(8) - 3.5)[None, :] * scale_px[:, None]
    rows = np.broadcast_to((y[:, None] + reach)[:, :, None], (len(x), 8, 8))
    columns = np.broadcast_to((x[:, None] + reach)[:, None, :], (len(x), 8, 8))
    levels = np.broadcast_to(level[:, None, None], (len(x), 8, 8))
    patch = map_coordinates(stack, [levels, rows, columns], order=1, mode="nearest")
    down, across = _word_coefficients()
    coefficients = np.asarray(dctn(patch, axes=(1, 2), norm="ortho"))[:, down, across]
    word = ((coefficients > 0).astype(np.uint32) << np.arange(WORD_BITS, dtype=np.uint32)).sum(axis=1, dtype=np.uint32)
    return word | (np.abs(coefficients).argmin(axis=1).astype(np.uint32) << np.uint32(WORD_BITS))


@cache
def _word_coefficients() -> tuple[Int[np.ndarray, " bits"], Int[np.ndarray, " bits"]]:
    """The `WORD_BITS` lowest DCT coefficients (vertical, horizontal frequency), without the mean."""
    every = sorted(((v, h) for v in range(8) for h in range(8) if v + h), key=lambda at: (at[0] ** 2 + at[1] ** 2, at))
    down, across = np.array(every[:WORD_BITS]).T
    return down, across


@cache
def mirror_mask() -> int:
    """The bits of a word that a mirror image changes: those of horizontally odd coefficients."""
    return int(sum(1 << bit for bit, across in enumerate(_word_coefficients()[1]) if across % 2))


def spellings(words: UInt32[np.ndarray, " features"]) -> Int[np.ndarray, "2 features"]:
    """The bits of each word, as they are and with the least certain one changed."""
    plain = words.astype(np.int64) & (2**WORD_BITS - 1)
    return np.stack([plain, plain ^ (1 << (words.astype(np.int64) >> WORD_BITS))])


# --- sound ---


@dataclass(frozen=True)
class Sound:
    """A sound as remembered: 32 bits a frame, which of them can be trusted, and the frames to look it up by."""

    bits: UInt32[np.ndarray, " frames"]
    trusted: UInt32[np.ndarray, " frames"]
    anchors: Int[np.ndarray, " anchors"]

    def text(self) -> str:
        """The sound as text."""
        parts = self.bits.astype("<u4"), self.trusted.astype("<u4"), self.anchors.astype("<u2")
        return ":".join(base64.b64encode(part.tobytes()).decode() for part in parts)

    @classmethod
    def of(cls, text: str) -> Sound:
        """The sound that `text` describes."""
        parts = [base64.b64decode(part) for part in text.split(":")]
        bits, trusted = (np.frombuffer(part, "<u4") for part in parts[:2])
        return cls(bits, trusted, np.frombuffer(parts[2], "<u2").astype(np.int64))


def sound_fingerprint(signals: Signals) -> str | None:
    """What is remembered of an item's sound (see `Sound`); None without sound, for silence, for less than a second,
    and for a stationary sound (hiss, hum), which has nothing to be recognised by. At most five minutes are used."""
    samples = signals.samples
    if samples is None or len(samples) < _SHORTEST_S * RATE_HZ:
        return None
    samples = np.asarray(samples[: int(_LONGEST_S * RATE_HZ)], dtype=np.float32)
    if np.sqrt(np.mean(samples**2)) < _SILENCE:
        return None
    power, independent = _band_powers(samples)
    level_db = 10 * np.log10(power + 10 ** (_FLOOR_DB / 10) * np.quantile(power, 0.98) + 1e-20)
    # A band of stationary noise has, by chance alone, this variance: 10 log10 of a chi-square of 2 BT degrees.
    chance_db2 = (10 / np.log(10)) ** 2 / independent
    if (level_db.var(axis=0) > _RESTLESS * chance_db2).sum() < _LEAST_RESTLESS:
        return None
    tilt = np.diff(level_db, axis=1)
    change = tilt[LAG:] - tilt[:-LAG]
    bit = np.uint32(1) << np.arange(_BANDS - 1, dtype=np.uint32)
    trusted = np.abs(change) > _TRUST_DB
    return Sound(
        np.where(change > 0, bit, np.uint32(0)).sum(axis=1, dtype=np.uint32),
        np.where(trusted, bit, np.uint32(0)).sum(axis=1, dtype=np.uint32),
        _anchors(np.clip(np.abs(change), 0, 6).mean(axis=1)),
    ).text()


def _band_powers(
    samples: Float32[np.ndarray, " samples"],
) -> tuple[Float[np.ndarray, "frames bands"], Float[np.ndarray, " bands"]]:
    """Power of each frame in each band, and how many independent values each is the mean of (bandwidth x time)."""
    window = np.hanning(_FRAME).astype(np.float32)
    edges_hz = np.geomspace(_LOW_HZ, _HIGH_HZ, _BANDS + 1)
    edges = np.searchsorted(np.arange(_FRAME // 2 + 1) * RATE_HZ / _FRAME, edges_hz)
    frames = np.lib.stride_tricks.sliding_window_view(samples, _FRAME)[::HOP]
    power = np.empty((len(frames), _BANDS))
    for start in range(0, len(frames), 512):  # a few MB at a time
        spectrum = np.asarray(rfft(frames[start : start + 512] * window, axis=1))
        power[start : start + 512] = np.add.reduceat(np.abs(spectrum) ** 2, edges, axis=1)[:, :_BANDS]
    # Neighbouring bins of a Hann window are correlated: its noise bandwidth is 1.5 bins, of power 35/18 (Harris 1978).
    return power, np.maximum(1.0, np.diff(edges) * 18 / 35)


def _anchors(strength: Float[np.ndarray, " frames"]) -> Int[np.ndarray, " anchors"]:
    """Frames where most changes at once: a copy's are the same, and their bits the most reliable."""
    count = max(1, round(len(strength) * HOP / RATE_HZ * _ANCHORS_A_SECOND))
    peak = strength >= maximum_filter(strength, 3)
    order = np.lexsort((np.arange(len(strength)), -strength, ~peak))
    return np.sort(order[:count])


def as_numbers(hashes: list[int]) -> UInt64[np.ndarray, " hashes"]:
    """Perceptual hashes as an array."""
    return np.array(hashes, dtype=np.uint64)
