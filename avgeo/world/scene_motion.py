"""What moves: the oncoming vehicle, flakes and rain, put over copies of one still picture on small regions only."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64, UInt8
from PIL import Image, ImageDraw

from avgeo.world.canvas import FOCAL, HIGH, HORIZON, MIDDLE, WIDE, Canvas, Colour, mixed
from avgeo.world.scene_sky import Light
from avgeo.world.scene_vehicles import paint

Frames = UInt8[np.ndarray, "count height width 3"]
_LANE, _CAR = 23.0, (36.0, 29.0)  # offset of the lane, and the car's width and height, in units at depth 1
_FLAKES = ((1.3, 60), (2.0, 36), (2.8, 24))  # size in units, and how many of it


def add_vehicle(frames: Frames, side: str, light: Light, rng: np.random.Generator) -> None:
    """A car comes nearer at a steady speed, in place: right of the middle where traffic keeps left."""
    count, height, width = frames.shape[:3]
    sx, sy = width / WIDE, height / HIGH
    sprite = _car(int(_CAR[0] * sx * 2) + 1, int(_CAR[1] * sy * 2) + 1, light, paint(rng))
    lane = _LANE if side == "left" else -_LANE
    begins, ends = float(rng.uniform(0.26, 0.4)), float(rng.uniform(0.7, 0.92))
    progress = np.linspace(0, 1, count) if count > 1 else np.array([0.5])
    for frame, share in zip(frames, progress.tolist(), strict=True):
        depth = 1 / (1 / begins + (1 / ends - 1 / begins) * share)
        w, h = max(2, round(_CAR[0] * depth * sx)), max(2, round(_CAR[1] * depth * sy))
        left = round((MIDDLE + lane * depth) * sx - w / 2)
        top = round((HORIZON + FOCAL * depth) * sy - h)
        _over(frame, sprite.resize((w, h), Image.Resampling.BOX, reducing_gap=2.0), left, top)


def _over(frame: UInt8[np.ndarray, "height width 3"], sprite: Image.Image, left: int, top: int) -> None:
    pixels = np.asarray(sprite)
    height, width = frame.shape[:2]
    y0, x0 = max(0, -top), max(0, -left)
    pixels = pixels[y0 : max(0, height - top), x0 : max(0, width - left)]
    region = frame[top + y0 : top + y0 + len(pixels), left + x0 : left + x0 + pixels.shape[1]]
    alpha = pixels[..., 3:].astype(np.uint16)
    region[:] = (region * (255 - alpha) + pixels[..., :3] * alpha + 127) // 255


def _car(width: int, height: int, light: Light, colour: Colour) -> Image.Image:
    """An oncoming car with its lamps on, RGBA."""
    tint = Canvas(1, 1, light.gain, light.ambient)
    image = Image.new("RGBA", (width, height))
    draw = ImageDraw.Draw(image)

    def shape(points: list[tuple[float, float]], fill: Colour) -> None:
        draw.polygon([(x * width, y * height) for x, y in points], fill=(*tint.lit(fill), 255))

    draw.ellipse((0, 0.88 * height, width - 1, height - 1), fill=(*tint.lit((28, 28, 32)), 200))
    for wheel in (0.06, 0.76):
        draw.rectangle(
            (wheel * width, 0.72 * height, (wheel + 0.18) * width, 0.96 * height), fill=(*tint.lit((22, 22, 24)), 255)
        )
    shape([(0.2, 0.02), (0.8, 0.02), (0.93, 0.42), (0.07, 0.42)], mixed(colour, (0, 0, 0), 0.3))
    shape([(0.24, 0.07), (0.76, 0.07), (0.86, 0.38), (0.14, 0.38)], (126, 164, 186))
    shape([(0.04, 0.4), (0.96, 0.4), (1.0, 0.56), (1.0, 0.84), (0.0, 0.84), (0.0, 0.56)], colour)
    shape([(0.1, 0.41), (0.9, 0.41), (0.84, 0.48), (0.16, 0.48)], mixed(colour, (255, 255, 255), 0.3))
    shape([(0.28, 0.6), (0.72, 0.6), (0.7, 0.74), (0.3, 0.74)], (46, 48, 52))
    for lamp in (0.14, 0.86):
        box = ((lamp - 0.1) * width, 0.53 * height, (lamp + 0.1) * width, 0.72 * height)
        if light.dark:
            halo = ((lamp - 0.16) * width, 0.44 * height, (lamp + 0.16) * width, 0.81 * height)
            draw.ellipse(halo, fill=(255, 226, 150, 120))
        draw.ellipse(box, fill=(255, 252, 214, 255))
    return image


def add_flakes(frames: Frames, light: Light, rng: np.random.Generator) -> None:
    """Snow falls over the whole picture, near flakes larger and faster; in place."""
    colour = (252, 253, 255) if not light.dark else (176, 182, 208)
    for size, flakes in _FLAKES:
        side = max(1, round(size * frames.shape[1] / HIGH))
        dy, dx = (axis.ravel() for axis in np.mgrid[:side, :side])
        disc = np.hypot(dx - (side - 1) / 2, dy - (side - 1) / 2) <= side / 2
        speed = np.stack([rng.uniform(-3, 3, flakes), np.full(flakes, 9 * size)], axis=1)
        _scatter(frames, rng.random((flakes, 2)) * (WIDE, HIGH), speed, dx[disc], dy[disc], colour, 0.92)


def add_rain(frames: Frames, light: Light, rng: np.random.Generator) -> None:
    """Slanted streaks of rain; in place."""
    height = frames.shape[1]
    length = max(3, round(9 * height / HIGH))
    dy = np.arange(length)
    dx = -(dy // 4)
    wide = max(1, round(height / 120))
    dx, dy = np.concatenate([dx + extra for extra in range(wide)]), np.tile(dy, wide)
    colour = mixed(light.horizon, (255, 255, 255), 0.5) if not light.dark else (150, 158, 186)
    start = rng.random((60, 2)) * (WIDE, HIGH)
    _scatter(frames, start, np.tile([-8.0, 47.0], (60, 1)), dx, dy, colour, 0.5)


def _scatter(
    frames: Frames,
    start: Float64[np.ndarray, "n 2"],
    speed: Float64[np.ndarray, "n 2"],
    dx: np.ndarray,
    dy: np.ndarray,
    colour: Colour,
    alpha: float,
) -> None:
    """Blend a small stamp (pixel offsets dx, dy) at n points that move by `speed` units a frame, wrapping around."""
    count, height, width = frames.shape[:3]
    at = start + speed * np.arange(count)[:, None, None]  # (count, n, 2)
    x = (at[..., 0] * (width / WIDE)).astype(np.int64)[..., None] + dx
    y = (at[..., 1] * (height / HIGH)).astype(np.int64)[..., None] + dy
    index = ((y % height) * width + x % width) + (np.arange(count) * height * width)[:, None, None]
    # A pixel that two stamps share is blended once: the same value is written twice.
    flat = frames.reshape(-1, 3)
    index = index.ravel()
    weight = round(256 * alpha)
    flat[index] = (flat[index].astype(np.uint16) * (256 - weight) + np.array(colour, np.uint16) * weight) >> 8
