"""Is one item a copy of another? Two pictures laid over each other, two sounds slid along each other.

Perceptual hashes and features only propose; here the proposal is tested on what they stand for. Two clips of one
street, or of one simulated world, have the same composition and share many features, but not the same clouds, leaves
and cars: so a picture counts as a copy only when nearly every part of it agrees once the two are laid over each other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32
from scipy.ndimage import gaussian_filter, map_coordinates

from avgeo.curate.fingerprint import BLOCK_PX, LEAST_TEXTURED, TEXTURE, Sound, blocks, texture

ALIKE = 0.8  # correlation from which two blocks show the same
_STEPS, _ROUGH_STEPS = 10, 8
_STRIDE_PX = 3
_LEAST_SHOWN = 0.3  # of the picture that the other was cropped from
_LEAST_WHOLE = 0.8  # of the other
_LEAST_BITS = 600  # that both trust: about 1.5 seconds
SLACK_FRAMES = 3  # frames to either side of a proposed offset


@dataclass(frozen=True)
class Placement:
    """Where the point (x, y) of one picture lies in another, in pixels: (x_scale * x + x_px, y_scale * y + y_px)."""

    x_scale: float = 1.0
    x_px: float = 0.0
    y_scale: float = 1.0
    y_px: float = 0.0

    @classmethod
    def whole(
        cls, first: Float32[np.ndarray, "height width"], second: Float32[np.ndarray, "rows columns"]
    ) -> Placement:
        """All of one picture on all of another; pixels are squares, whose middles the coordinates mean."""
        y, x = (two / one for one, two in zip(first.shape, second.shape, strict=True))
        return cls(x, (x - 1) / 2, y, (y - 1) / 2)

    def inverse(self) -> Placement:
        """Where a point of the other picture lies in the first."""
        return Placement(1 / self.x_scale, -self.x_px / self.x_scale, 1 / self.y_scale, -self.y_px / self.y_scale)


def agreement(
    first: Float32[np.ndarray, "height width"],
    second: Float32[np.ndarray, "rows columns"],
    placement: Placement,
    enough: float = 1.0,
) -> tuple[float, Placement]:
    """Share of the parts shown by both that agree, and the placement of `first` in `second` at which they do.

    The pictures are compared at the resolution of the one that shows more, block by block: a block agrees when the two
    correlate by `ALIKE` or more, so brightness and contrast do not matter, and a caption costs the blocks it covers.
    Flat blocks say nothing and do not count. Where fewer than `enough` agree, the placement is improved by least
    squares on the brightness (Lucas & Kanade 1981; scale and shift of each axis, and gain and offset of brightness, as
    in Baker & Matthews 2004, part 3). The share is 0 when the two have too little in common to tell.
    """
    if placement.x_scale * placement.y_scale < 1:  # the second shows more: look from its side
        share, found = agreement(second, first, placement.inverse(), enough)
        return share, found.inverse()
    magnified = placement.x_scale * placement.y_scale
    if magnified > 1.2:  # the second to the resolution of the first
        second = gaussian_filter(second, 0.6 * np.sqrt(magnified - 1), truncate=3.0)
    share = _share(first, second, placement)
    if share >= enough:
        return share, placement
    found = _laid_over(first, second, placement)
    better = 0.0 if found is None else _share(first, second, found)
    return (better, found) if found is not None and better > share else (share, placement)


def _share(
    first: Float32[np.ndarray, "height width"], second: Float32[np.ndarray, "rows columns"], placement: Placement
) -> float:
    at = placement
    # What both show is a rectangle; its blocks begin at its corner.
    left, top = max(0, int(np.ceil(-at.x_px / at.x_scale))), max(0, int(np.ceil(-at.y_px / at.y_scale)))
    right = min(first.shape[1], 1 + int(np.floor((second.shape[1] - 0.5 - at.x_px) / at.x_scale)))
    bottom = min(first.shape[0], 1 + int(np.floor((second.shape[0] - 0.5 - at.y_px) / at.y_scale)))
    height, width = bottom - top, right - left
    if min(height, width) < BLOCK_PX:
        return 0.0
    shown, of_second = height * width / first.size, height * width * at.x_scale * at.y_scale / second.size
    if shown < _LEAST_SHOWN or max(shown, of_second) < _LEAST_WHOLE:
        return 0.0
    rows = at.y_scale * np.arange(top, bottom, dtype=np.float32) + at.y_px
    columns = at.x_scale * np.arange(left, right, dtype=np.float32) + at.x_px
    other = map_coordinates(second, np.meshgrid(rows, columns, indexing="ij"), order=1, mode="nearest")
    one, two = blocks(first[top:bottom, left:right]), blocks(other)
    tells = np.maximum(texture(one), texture(two)) > TEXTURE
    if tells.sum() < LEAST_TEXTURED:
        return 0.0
    one, two = (cut[tells] - cut[tells].mean(axis=1, keepdims=True) for cut in (one, two))
    correlation = (one * two).sum(axis=1) / np.sqrt(np.maximum((one**2).sum(axis=1) * (two**2).sum(axis=1), 1e-6))
    return float((correlation > ALIKE).mean())


def _laid_over(
    first: Float32[np.ndarray, "height width"],
    second: Float32[np.ndarray, "rows columns"],
    placement: Placement,
) -> Placement | None:
    """The placement near `placement` that explains `first` best; None when it runs away."""
    grid = np.mgrid[0 : first.shape[0] : _STRIDE_PX, 0 : first.shape[1] : _STRIDE_PX].astype(np.float32)
    y, x = (part.ravel() for part in grid)
    wanted = first[::_STRIDE_PX, ::_STRIDE_PX].ravel()
    slope_y, slope_x = np.gradient(second)
    at = start = np.array([placement.x_scale, placement.x_px, placement.y_scale, placement.y_px])
    gain, offset = 0.0, 0.0
    for step in range(_STEPS):
        columns, rows = at[0] * x + at[1], at[2] * y + at[3]
        seen = (columns >= 0) & (rows >= 0) & (columns <= second.shape[1] - 1) & (rows <= second.shape[0] - 1)
        if seen.sum() < 100:
            return None
        where = rows[seen], columns[seen]
        if step < _ROUGH_STEPS:  # the nearest pixel will do: its errors cancel over hundreds of them
            near = np.rint(where[0]).astype(int), np.rint(where[1]).astype(int)
            shade, along_x, along_y = second[near], slope_x[near], slope_y[near]
        else:
            shade, along_x, along_y = (map_coordinates(of, where, order=1) for of in (second, slope_x, slope_y))
        design = np.stack([shade, np.ones_like(shade), along_x * x[seen], along_x, along_y * y[seen], along_y], axis=1)
        target = wanted[seen]
        if not step:
            gain = float(target.std() / max(float(shade.std()), 1e-3))
            offset = float(target.mean() - gain * shade.mean())
        # Captions and logos are outliers: Cauchy weights keep them out.
        error = np.abs(target - gain * shade - offset)
        weight = 1 / (1 + (error / (2 * np.partition(error, len(error) // 2)[len(error) // 2] + 1)) ** 2)
        normal = design.T @ (design * weight[:, None])
        normal[np.diag_indices(6)] *= 1 + 1e-4
        try:
            solution = np.linalg.solve(normal, design.T @ (weight * target))
        except np.linalg.LinAlgError:
            return None
        gain, offset = float(solution[0]), float(solution[1])
        if not gain > 0.05:  # the other's negative is no copy
            return None
        change = solution[2:] / gain
        at = at + np.clip(change, [-0.1, -6, -0.1, -6], [0.1, 6, 0.1, 6])
        if not (0.5 < at[0] / start[0] < 2 and 0.5 < at[2] / start[2] < 2):
            return None
    return Placement(*at.tolist())


def sound_difference(first: Sound, second: Sound, offset: int) -> tuple[float, int, int]:
    """Share of the bits that differ, of those that both trust, where frame n of `first` is frame n + offset of
    `second`; how many bits those are; and the offset, within `SLACK_FRAMES` of the one given, where fewest differ.

    The share is 1 when they have too little in common to tell.
    """
    best = (1.0, 0, offset)
    for shift in range(offset - SLACK_FRAMES, offset + SLACK_FRAMES + 1):
        start, stop = max(0, -shift), min(len(first.bits), len(second.bits) - shift)
        if stop <= start:
            continue
        mine, other = slice(start, stop), slice(start + shift, stop + shift)
        both = first.trusted[mine] & second.trusted[other]
        compared = int(np.bitwise_count(both).sum())
        if compared < _LEAST_BITS:
            continue
        differ = int(np.bitwise_count((first.bits[mine] ^ second.bits[other]) & both).sum())
        best = min(best, (differ / compared, compared, shift))
    return best
