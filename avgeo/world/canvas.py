"""Drawing primitives: a picture of 160 x 120 units, whatever its pixels, with one light on all colours.

Pictures are drawn at twice their size with Pillow and reduced, which smooths their edges. The camera is a pinhole at
height 1 that looks north along the ground: a point `east` and `north` of it at `height` falls on
(MIDDLE + FOCAL * east / north, HORIZON + FOCAL * (1 - height) / north). Straight lines stay straight, shadows too.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
Point = tuple[float, float]
WIDE, HIGH = 160.0, 120.0
MIDDLE, HORIZON, FOCAL = 80.0, 52.0, 68.0
"""The camera in units: its axis meets the picture at (MIDDLE, HORIZON); 99 degrees wide."""
NEAREST = 0.5  # what lies nearer than this has left the picture
_SCALE = 2


def mixed(a: Colour, b: Colour, share: float) -> Colour:
    """`a` moved by `share` (0..1) towards `b`."""
    red, green, blue = (round(x + (y - x) * share) for x, y in zip(a, b, strict=True))
    return red, green, blue


def ground_at(x: float, y: float) -> Point:
    """The ground point (east, north) that is seen at (x, y) in units; y lies below the horizon."""
    north = FOCAL / (y - HORIZON)
    return (x - MIDDLE) * north / FOCAL, north


def seen_at(east: float, north: float, height: float = 0.0) -> Point:
    """Where a point of the world (in camera heights) is seen, in units."""
    return MIDDLE + FOCAL * east / north, HORIZON + FOCAL * (1 - height) / north


def noise(
    rng: np.random.Generator, cells: tuple[int, int], size: tuple[int, int]
) -> Float32[np.ndarray, "rows columns"]:
    """Smooth random field in -1..1: `cells` (columns, rows) of random values, bicubic up to `size` (columns, rows)."""
    values = rng.uniform(-1, 1, cells[::-1]).astype(np.float32)
    return np.asarray(Image.fromarray(values).resize(size, Image.Resampling.BICUBIC))


def enlarged(
    field: Float32[np.ndarray, "rows columns 3"], size: tuple[int, int]
) -> UInt8[np.ndarray, "rows2 columns2 3"]:
    """A coarse picture of floats 0..255 stretched to `size` (columns, rows)."""
    small = Image.fromarray(field.clip(0, 255).astype(np.uint8))
    return np.asarray(small.resize(size, Image.Resampling.BICUBIC))


class Canvas:
    """A picture in units of 1/160 of its width and 1/120 of its height.

    Colours are given in neutral daylight and pass through `gain` and `ambient` (RGB each), except those that shine by
    themselves (`own=True`: lamps, retroreflecting signs, the sky).
    """

    def __init__(self, width: int, height: int, gain: Sequence[float], ambient: Sequence[float]) -> None:
        self.width, self.height = width * _SCALE, height * _SCALE
        self.sx, self.sy = self.width / WIDE, self.height / HIGH
        self.gain, self.ambient = tuple(gain), tuple(ambient)
        self.image = Image.new("RGB", (self.width, self.height))
        self.draw = ImageDraw.Draw(self.image)
        self.shade = Image.new("L", (self.width, self.height))
        self._shader = ImageDraw.Draw(self.shade)

    def lit(self, colour: Colour, own: bool = False) -> Colour:
        """The colour that `colour` has in this light."""
        if own:
            return colour
        red, green, blue = (
            min(255, max(0, round(a + g * c))) for c, g, a in zip(colour, self.gain, self.ambient, strict=True)
        )
        return red, green, blue

    def _points(self, points: Sequence[Point]) -> list[Point]:
        return [(x * self.sx, y * self.sy) for x, y in points]

    def polygon(self, points: Sequence[Point], colour: Colour, own: bool = False) -> None:
        """A filled polygon through points in units."""
        self.draw.polygon(self._points(points), fill=self.lit(colour, own))

    def box(self, left: float, top: float, right: float, bottom: float, colour: Colour, own: bool = False) -> None:
        """A filled upright rectangle, at least one pixel large."""
        box = (left * self.sx, top * self.sy, max(left, right) * self.sx - 1, max(top, bottom) * self.sy - 1)
        self.draw.rectangle((box[0], box[1], max(box[0], box[2]), max(box[1], box[3])), fill=self.lit(colour, own))

    def line(self, points: Sequence[Point], colour: Colour, width: float, own: bool = False) -> None:
        """A polyline with `width` in units and round joints."""
        pixels = max(1, round(width * self.sy))
        joint = "curve" if len(points) > 2 and pixels > 2 else None
        self.draw.line(self._points(points), fill=self.lit(colour, own), width=pixels, joint=joint)

    def disc(self, x: float, y: float, rx: float, colour: Colour, ry: float | None = None, own: bool = False) -> None:
        """An ellipse with its half axes in units; a circle without `ry`."""
        ry = rx if ry is None else ry
        box = ((x - rx) * self.sx, (y - ry) * self.sy, (x + rx) * self.sx, (y + ry) * self.sy)
        self.draw.ellipse(box, fill=self.lit(colour, own))

    def shadow_polygon(self, points: Sequence[Point]) -> None:
        """Mark a polygon as shaded; `finish_ground` darkens it."""
        self._shader.polygon(self._points(points), fill=255)

    def shadow_disc(self, x: float, y: float, rx: float, ry: float) -> None:
        """Mark an ellipse as shaded."""
        self._shader.ellipse(((x - rx) * self.sx, (y - ry) * self.sy, (x + rx) * self.sx, (y + ry) * self.sy), fill=255)

    def paste(self, rows: UInt8[np.ndarray, "rows columns 3"], top: int) -> None:
        """Put ready pixels over the full width, from pixel row `top`."""
        self.image.paste(Image.fromarray(np.ascontiguousarray(rows)), (0, top))

    def gradient(self, top: Colour, bottom: Colour, start: float, stop: float) -> None:
        """A band over the full width from `start` to `stop` units, from one colour to another."""
        first, last = round(start * self.sy), round(stop * self.sy)
        share = np.linspace(0, 1, max(last - first, 1))[:, None, None]
        rows = (1 - share) * np.array(self.lit(top)) + share * np.array(self.lit(bottom))
        self.paste(np.broadcast_to(rows, (len(rows), self.width, 3)).astype(np.uint8), first)

    def finish_ground(self, texture: Float32[np.ndarray, "rows columns"], darkness: float) -> None:
        """Below the horizon: brighten by `texture` (-1..1, a relative change) and darken the shades by `darkness`."""
        top = self.height - len(texture)
        ground = np.asarray(self.image)[top:].astype(np.float32)
        factor = 1 + texture
        if darkness > 0:
            factor = factor * (1 - darkness / 255 * np.asarray(self.shade)[top:])
        ground *= factor[..., None]
        self.paste(ground.clip(0, 255).astype(np.uint8), top)

    def glow(self, x: float, y: float, radius: float, colour: Colour, strength: float) -> None:
        """Light that falls off around (x, y): added to what is there, on a small square only."""
        left, top = max(0, int((x - radius) * self.sx)), max(0, int((y - radius) * self.sy))
        right = min(self.width, int((x + radius) * self.sx) + 1)
        bottom = min(self.height, int((y + radius) * self.sy) + 1)
        dx = (np.arange(left, right, dtype=np.float32) / self.sx - x) / radius
        dy = (np.arange(top, bottom, dtype=np.float32) / self.sy - y) / radius
        fall = strength * np.clip(1 - np.hypot(dx, dy[:, None]), 0, 1) ** 2
        patch = np.asarray(self.image.crop((left, top, right, bottom))).astype(np.float32)
        patch += fall[..., None] * (np.array(colour, np.float32) - patch)
        self.image.paste(Image.fromarray(patch.clip(0, 255).astype(np.uint8)), (left, top))

    def reduced(self) -> UInt8[np.ndarray, "height width 3"]:
        """The picture at its final size."""
        return np.asarray(self.image.reduce(_SCALE))
