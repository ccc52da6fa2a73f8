"""Gates of the picture: its size, whether it moves, whether it shows anything, whether text was laid over it.

All look at the few small frames of `Signals`. `frozen` and `captions` judge pictures that move: a photo is exempt, for
it is meant to stand still, and nothing tells text laid over it from text in it. In shapes, n frames have h x w pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt8
from PIL import Image
from scipy.ndimage import uniform_filter1d

from avgeo.clips import MediaInfo
from avgeo.curate.signals import Signals
from avgeo.curate.verdict import Verdict
from avgeo.profiles import CurateSettings

Measured = dict[str, float | int | str | None]
Luma = UInt8[np.ndarray, "*n h w"]

_NO_PICTURE = "has no picture"


def resolution(info: MediaInfo, settings: CurateSettings) -> Verdict:
    """It is neither too small to see anything, nor too large to decode (a decompression bomb), nor absurdly fast.

    Measured: width and height in pixels, frames per second (None when the file states none, which is not held against
    it: FFmpeg then paces by time stamps). A photo has no frame rate.
    """
    if info.width is None or info.height is None:
        return Verdict("resolution", skipped=_NO_PICTURE)
    width, height = info.width, info.height
    fps = info.fps if info.fps and info.fps > 0 and not math.isnan(info.fps) and info.kind != "image" else None
    measured: Measured = {"width": width, "height": height, "fps": fps if fps is None or math.isfinite(fps) else None}
    faults = []
    if min(width, height) < settings.min_side_px:
        faults.append(f"{width} x {height} pixels: the shorter side is below {settings.min_side_px}")
    if width * height > settings.max_pixels:
        faults.append(f"{width} x {height} pixels: more than {settings.max_pixels} in all")
    if fps is not None and fps > settings.max_fps:
        faults.append(f"{fps:g} frames a second: more than {settings.max_fps:g}")
    return Verdict("resolution", measured, "; ".join(faults) or None)


# --- does it move? ---

_BLOCKS = 80  # along the longer side; each at least 4 pixels, so that what a codec does to edges averages out
# Levels by which the hundredth part of the blocks changes, or two in a thousand, or one. Keyframes of stills at x264's
# crf 38 stay below; above it they change all the picture, which `frozen` allows for.
_MOVED = ((0.99, 8.0), (0.998, 18.0), (1.0, 30.0))
_ANOTHER = 5.0  # levels by which the median block changes when another picture is shown
_GRAIN = 0.15  # levels of noise within a flat block of 8 x 8 that quantisation alone does not leave there
_GRAINY = 0.7  # share of flat blocks with grain, in nine pairs of ten, from which on a camera was running


def frozen(signals: Signals, settings: CurateSettings) -> Verdict:
    """Something moves: it is no still shown as a video, and no slide show of stills.

    Like FFmpeg's `freezedetect`, each frame is compared with its predecessor and with the first of its still run (so
    that slow movement adds up); unlike it, by means over blocks, and by those that change most: a distant car moves few
    pixels, a keyframe changes all of them a little. Measured: `still_share`, the share of time between sampled frames
    in which nothing moves; a sudden change of the whole picture between two still stretches (the next slide, a keyframe
    at a low bit rate) counts as still. `stills`: how many pictures that makes. `grain`: the share of flat blocks in
    which fine noise is alive in at least nine still pairs of ten. Where it is 0.7 or more a camera was running before a
    scene in which nothing happens, and the item passes; a codec at a low bit rate takes the grain away, and then such a
    scene is a still. A slow zoom into a photo moves, and passes.
    """
    if signals.frames is None or not len(signals.frames):
        return Verdict("frozen", skipped=_NO_PICTURE)
    if signals.info.kind == "image":
        return Verdict("frozen", skipped="a photo is meant to stand still")
    frames, n = signals.frames, len(signals.frames)
    if n == 1:
        single: Measured = {"still_share": 1.0, "stills": 1, "grain": 0.0, "frames": 1}
        return Verdict("frozen", single, "the picture is a still: there is one frame of it")
    luma = _luma(frames)
    still, fresh = _still_pairs(_block_means(luma))
    gaps = np.ones(len(still)) if signals.times_s is None else np.maximum(np.diff(signals.times_s), 0)
    share = float(gaps @ still / gaps.sum()) if gaps.sum() > 0 else float(still.mean())
    grain = _grain(luma, still) if share >= settings.frozen_share else 0.0
    stills = 1 + int(fresh.sum())
    measured: Measured = {
        "still_share": round(share, 4),
        "stills": stills,
        "grain": round(grain, 4),
        "frames": len(frames),
    }
    if share < settings.frozen_share or grain >= _GRAINY:
        return Verdict("frozen", measured)
    what = "a still" if stills == 1 else f"a slide show of {stills} stills"
    return Verdict("frozen", measured, f"the picture is {what}: nothing moves in {share:.0%} of the time")


def _luma(frames: UInt8[np.ndarray, "n h w 3"]) -> Luma:
    """ITU-R BT.601 luma; Pillow's conversion is the fastest at hand."""
    return np.stack([np.asarray(Image.fromarray(np.ascontiguousarray(frame)).convert("L")) for frame in frames])


def _block_means(luma: Luma) -> Float32[np.ndarray, "n blocks"]:
    """Mean luma of square blocks, about 80 along the longer side."""
    side = max(4, round(max(luma.shape[1:]) / _BLOCKS))
    return np.stack([np.asarray(Image.fromarray(frame).reduce(side), np.float32).ravel() for frame in luma])


def _still_pairs(
    means: Float32[np.ndarray, "n blocks"],
) -> tuple[Bool[np.ndarray, " pairs"], Bool[np.ndarray, " pairs"]]:
    """Which of the n - 1 pairs of neighbours are still, and in which of those another picture is shown."""

    def moved(change: Float32[np.ndarray, " blocks"]) -> bool:
        return any(value > least for value, (_, least) in zip(np.quantile(change, shares), _MOVED, strict=True))

    shares = [share for share, _ in _MOVED]
    steps = np.abs(np.diff(means, axis=0))
    sudden = np.array([moved(step) for step in steps], bool)
    drifted = np.zeros(len(steps), bool)
    first = 0
    for pair in range(len(steps)):
        drifted[pair] = moved(np.abs(means[pair + 1] - means[first]))
        first = pair + 1 if drifted[pair] else first
    calm = ~sudden & ~drifted
    # A change of everything, not of something: the top hundredth of the blocks are nearly alike.
    top, most = (np.quantile(steps, q, axis=1) for q in (0.99, 0.998))
    whole = sudden & (top > 0.6 * most)
    before, after = np.concatenate([[True], calm[:-1]]), np.concatenate([calm[1:], [True]])
    swapped = whole & before & after & (len(steps) > 1)
    return calm | swapped, swapped & (np.median(steps, axis=1) > _ANOTHER)


def _grain(luma: Luma, still: Bool[np.ndarray, " pairs"]) -> float:
    """How alive the noise is in the flattest fifth of 8 x 8 blocks, see `frozen`."""
    n, height, width = luma.shape
    if min(height, width) < 16:
        return 0.0
    rows, columns = height // 8, width // 8
    blocks = luma[:, : rows * 8, : columns * 8].reshape(n, rows, 8, columns, 8).swapaxes(2, 3)
    blocks = blocks.reshape(n, rows * columns, 64)
    middle = blocks[:: max(1, n // 8)].mean(0)
    level, spread = middle.mean(1), middle.std(1)
    usable = np.flatnonzero((level > 24) & (level < 235))  # noise is cut off at black and white
    if len(usable) < 8:
        return 0.0
    flat = usable[np.argsort(spread[usable], kind="stable")[: max(8, len(usable) // 5)]]
    shares = [
        float((np.subtract(blocks[i + 1, flat], blocks[i, flat], dtype=np.float32).std(1) > _GRAIN).mean())
        for i in np.flatnonzero(still)
    ]
    return float(np.quantile(shares, 0.1)) if shares else 0.0


# --- does it show anything? ---

_LIT = 3.0  # times the thresholds of black and of one colour: what a lamp in the night exceeds
_ONE_COLOUR = 12  # levels between the 2nd and the 98th percentile of each channel, codec noise included
_BORDER = 24  # levels; video black is 0 once decoded, or 16 where a player forgot its range
_BORDER_SHARE = 0.04  # of the picture's height or width, at either side


def black(signals: Signals, settings: CurateSettings) -> Verdict:
    """It shows something: not black throughout (a lens cap), nor of one colour (a test card, a failed decoder).

    Measured on about 120 columns: `luma`, the brightest frame's 95th percentile (0 to 255), and `highlight`, its
    99.9th: a night scene is as dark as a lens cap but for its lamps, so black needs both to be low. `range`: the widest
    spread of a channel in any frame. `letterbox` and `pillarbox`: share of the picture under black borders, which are
    flagged only.
    """
    if signals.frames is None or not len(signals.frames):
        return Verdict("black", skipped=_NO_PICTURE)
    step = max(1, max(signals.frames.shape[1:3]) // 120)
    pixels = signals.frames[:, ::step, ::step]
    luma = _luma(pixels)
    flat = luma.reshape(len(luma), -1)
    darkest, bright, lightest = np.quantile(flat, [0.001, 0.95, 0.999], axis=1)
    usual, highlight = float(bright.max()), float(lightest.max())
    low, high = np.quantile(pixels.reshape(len(pixels), -1, 3), [0.02, 0.98], axis=1)
    spread = float((high - low).max())
    brightest = luma.max(axis=0)
    letterbox, pillarbox = (_borders(np.quantile(brightest, 0.95, axis=axis)) for axis in (1, 0))
    measured: Measured = {
        "luma": round(usual, 1),
        "highlight": round(highlight, 1),
        "range": round(spread, 1),
        "letterbox": round(letterbox, 3),
        "pillarbox": round(pillarbox, 3),
    }
    if usual < settings.black_luma and highlight < _LIT * settings.black_luma:
        reason = f"the picture is black: luma {usual:.0f} of 255 is below {settings.black_luma:g}"
        return Verdict("black", measured, reason)
    if spread <= _ONE_COLOUR and (lightest - darkest).max() <= _LIT * _ONE_COLOUR:
        return Verdict("black", measured, f"the picture is of one colour: it varies by {spread:.0f} levels of 255")
    flags = [name for name, share in (("letterbox", letterbox), ("pillarbox", pillarbox)) if share > 0]
    return Verdict("black", measured, flags=tuple(flags))


def _borders(profile: Float64[np.ndarray, " lines"]) -> float:
    """Share of dark lines at both ends, when there are as many at one end as at the other; else 0."""
    lit = np.flatnonzero(profile >= _BORDER)
    if not len(lit):
        return 0.0
    first, last = int(lit[0]), len(profile) - 1 - int(lit[-1])
    even = abs(first - last) <= 1 + 0.02 * len(profile)
    return (first + last) / len(profile) if even and min(first, last) >= _BORDER_SHARE * len(profile) else 0.0


# --- was text laid over it? ---

_CAPTION_SIDE_PX = 160  # below, strokes are thinner than a pixel
_PAIRS = 12
_STROKE = 1 / 20  # of the height: wider is no stroke of a caption
_CONTRAST = 36  # levels by which a stroke stands out
_FULL_CONTRAST = 110  # from here on a stroke counts fully
_WEIGHT = np.sqrt(np.minimum(1, np.arange(256, dtype=np.float32) / _FULL_CONTRAST))
_SAME = 28  # levels by which an overlaid stroke may change between frames
_WINDOW = 0.25  # of the width: the piece of a line of text that is looked for
_STEP = 8  # pixels between windows
_LINES = (0.022, 0.034, 0.05, 0.07)  # heights of small letters, of the picture's height
_LINES = (0.022, 0.034, 0.05, 0.07)  # heights of small letters, of the picture's height


def captions(signals: Signals, settings: CurateSettings) -> Verdict:
    """No captions, subtitles or titles were burned in. Measured: `caption_score` in [0, 1]; `row` of it, 0 at the top.

    No letter is read. For pairs of neighbouring frames: thin bright or dark strokes (morphological top-hat along x, as
    in Wu, Hsieh and Chen 2008, "Morphology-based text line extraction") that stay in both frames (multi-frame
    integration, Lienhart and Wernicke 2002) are counted in windows of a quarter of the width. A line of text is a band
    with many strokes and quiet margins above and below (projection profiles; Zhao, Lin, Fu, Hu and Liu 2011, "Text from
    corners", count corners to the same end). The response is strokes per height of a letter, of which text has
    one or two, weighted by contrast and by where captions stand (bottom, top and middle of the screen rather than the
    sides). Scene text must not count: what does not keep its pixels while the camera moves is scaled down, what keeps
    them while all else changes is scaled up, and letters larger than a twelfth of the height are no caption. The score
    is half the response that three pairs in ten exceed, so that captions that come and go are found.

    A still camera before a line of small writing in the lower middle cannot be told from captions. Small translucent
    watermarks in a corner are mostly missed, and at 160 x 120 pixels one caption in six.
    """
    if signals.frames is None or not len(signals.frames):
        return Verdict("captions", skipped=_NO_PICTURE)
    if signals.info.kind == "image":
        return Verdict("captions", skipped="a photo: text laid over it cannot be told from text in it")
    n, height, width = signals.frames.shape[:3]
    if max(height, width) < _CAPTION_SIDE_PX or min(height, width) < _CAPTION_SIDE_PX // 2:
        return Verdict("captions", skipped=f"{width} x {height} pixels are too few for letters")
    if n < 2:
        return Verdict("captions", skipped="one frame: what stays cannot be told from what moves")
    pairs = np.unique(np.linspace(0, n - 2, min(n - 1, _PAIRS)).round().astype(int))
    luma = {int(i): _luma(signals.frames[i : i + 1])[0] for i in np.union1d(pairs, pairs + 1)}
    hats = {i: _top_hats(frame, max(5, round(_STROKE * height)) | 1) for i, frame in luma.items()}
    found = sorted((_text_line(luma[i], luma[i + 1], hats[i], hats[i + 1]) for i in pairs.tolist()), reverse=True)
    response, row = found[max(0, int(0.3 * len(found)) - 1)]
    score = min(1.0, response / 2)
    measured: Measured = {"caption_score": round(score, 4), "row": round(row, 3)}
    if score < settings.caption_score:
        return Verdict("captions", measured)
    where = "lower" if row > 0.7 else "upper" if row < 0.3 else "middle"
    return Verdict("captions", measured, f"text is laid over the {where} part: score {score:.2f}")


def _text_line(one: Luma, two: Luma, hats_one: tuple[Luma, Luma], hats_two: tuple[Luma, Luma]) -> tuple[float, float]:
    """The strongest response to a line of overlaid text in a pair of frames, and its height in the picture, 0 to 1.

    The frames come with their white and black top-hats.
    """
    height, width = one.shape
    steady = np.maximum(one, two) - np.minimum(one, two) < _SAME
    window = max(24, round(_WINDOW * width))
    place = _where_captions_stand(height, width)
    best, at = 0.0, 0.5
    for hat_one, hat_two in zip(hats_one, hats_two, strict=True):
        peak = np.minimum(hat_one, hat_two)
        either, both = np.maximum(hat_one, hat_two) > _CONTRAST, (peak > _CONTRAST) & steady
        starts = np.zeros(both.shape, np.float32)
        starts[:, 1:] = both[:, 1:] & ~both[:, :-1]
        peak[:, :-1] = np.maximum(peak[:, :-1], peak[:, 1:])
        starts *= _WEIGHT[peak]
        density = np.ascontiguousarray(uniform_filter1d(starts, window, 1, mode="constant")[:, ::_STEP].T)
        response, height_px = np.zeros_like(density), np.zeros(density.shape, int)
        for share in _LINES:
            letter, margin = max(4, round(share * height)), max(2, round(0.35 * share * height))
            inside, around = (uniform_filter1d(density, size, 1, mode="constant") for size in (letter, margin))
            off = letter // 2 + margin // 2 + max(1, round(0.25 * letter))
            outside = np.zeros_like(around)
            outside[:, off:] = around[:, :-off]
            outside[:, :-off] = np.maximum(outside[:, :-off], around[:, off:])
            line = letter * (inside - outside) * place.T
            height_px[line > response] = letter
            response = np.maximum(response, line)
        column, row = np.unravel_index(int(response.argmax()), response.shape)
        half, x = int(height_px[column, row]) // 2, int(column) * _STEP
        box = (slice(max(0, row - half), row + half + 1), slice(max(0, x - window // 2), x + window // 2))
        kept_in, all_in = int(both[box].sum()), int(either[box].sum())
        inner = kept_in / max(all_in, 1)
        outer = (int(both.sum()) - kept_in) / max(int(either.sum()) - all_in, 1)
        stays, apart = min(1.0, max(0.0, (inner - 0.45) / 0.3)), min(0.5, max(0.0, inner - outer - 0.3))
        strength = float(response[column, row]) * stays * (1 + 0.5 * apart)
        if strength > best:
            best, at = strength, (int(row) + 0.5) / height
    return best, at


def _where_captions_stand(height: int, width: int) -> Float32[np.ndarray, "h windows"]:
    """Weight of a window by its middle: a still scene has its own small things, mostly at the sides of its horizon."""
    rows, columns = np.arange(height) / height, np.arange(0, width, _STEP) / width
    centred, middle = np.abs(columns - 0.5) < 0.12, (rows > 0.28) & (rows < 0.7)
    weights = np.where(middle[:, None], np.where(centred, 0.85, 0.6), np.where(centred, 1.0, 0.72))
    return weights.astype(np.float32)


def _top_hats(luma: Luma, length: int) -> tuple[Luma, Luma]:
    """White and black top-hat along x: how far what is narrower than `length` pixels stands out, bright or dark."""
    wide = np.pad(luma, ((0, 0), (length - 1, length - 1)), mode="edge")
    opened = _running(np.maximum, _running(np.minimum, wide, length), length)
    closed = _running(np.minimum, _running(np.maximum, wide, length), length)
    return luma - opened, closed - luma


def _running(
    extreme: Callable[..., UInt8[np.ndarray, "h _"]], values: UInt8[np.ndarray, "h _"], length: int
) -> UInt8[np.ndarray, "h _"]:
    """Running minimum or maximum over `length` neighbours along x, by doubling: log2(length) passes."""
    reach = 1
    while 2 * reach <= length:
        values = extreme(values[..., :-reach], values[..., reach:])
        reach *= 2
    rest = length - reach
    return extreme(values[..., :-rest], values[..., rest:]) if rest else values
