"""Frames of a clip, drawn from its visible cues: a stylised street that looks north (Pillow, no fonts).

The ground is in simple perspective: up in the picture is north, right is east, so a shadow falls up the
picture when the sun stands in the south. Pictures are drawn at twice the size and reduced, which smooths
their edges.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
HORIZON = 0.45  # height of the horizon, from the top, as a share of the picture
_SCALE = 2

# palette: colour of the ground, colour of the plants, shape of the plants.
_PALETTES: dict[str, tuple[Colour, Colour, str]] = {
    "rainforest": ((48, 96, 42), (16, 88, 36), "palm"),
    "savanna_green": ((122, 158, 58), (84, 132, 40), "umbrella"),
    "savanna_dry": ((204, 172, 84), (142, 128, 58), "umbrella"),
    "desert": ((232, 196, 132), (96, 128, 74), "cactus"),
    "steppe": ((188, 182, 122), (158, 150, 92), "bush"),
    "mediterranean": ((172, 160, 104), (70, 96, 58), "cypress"),
    "temperate_green": ((98, 166, 74), (48, 122, 48), "tree"),
    "autumn": ((158, 140, 74), (208, 104, 32), "tree"),
    "bare": ((136, 128, 104), (98, 80, 66), "bare"),
    "conifer": ((84, 108, 70), (26, 70, 50), "cone"),
    "snow": ((238, 242, 248), (70, 96, 92), "cone"),
    "tundra": ((128, 112, 86), (148, 92, 66), "bush"),
    "none": ((150, 146, 140), (122, 110, 106), "house"),
}
_LINES: dict[str, Colour] = {"white": (250, 250, 250), "yellow": (255, 200, 0)}
_CARS: tuple[Colour, ...] = ((196, 32, 40), (36, 76, 168), (240, 240, 240), (40, 40, 44), (52, 130, 90))

# Signs by script: strokes on a grid of 5 x 7 points, x in 0-4 and y in 0-6 from the top; "o" starts a circle
# (centre, then radius). Real letters, simplified to what stays legible at 64 x 48 pixels.
_GLYPHS: dict[str, tuple[str, ...]] = {
    "latin": ("06-20-46 14-34", "00-06-46", "40-00-06-46 03-33", "00-40 20-26"),
    "cyrillic": ("00-46 40-06 20-26", "46-40-10-02-13-43 23-06", "06-00 06-40 46-40", "00-06-46-40 20-26"),
    "greek": ("40-00-23-06-46", "20-06-46-20", "06-16-03-10-30-43-36-46", "00-04-44-40 20-26"),
    "arabic": ("05-25-34-44-42 o161", "00-05-45-43", "43-32-43-34-05 o261", "05-45-44-34 o122 o322"),
    "hebrew": ("00-30-41-46-06", "00-06-46-40 20-23-06", "00-40-46 13-16", "00-20-21-26"),
    "han": (
        "03-43 20-26 23-06 23-46", "00-40-46-06-00 20-26 03-43", "01-41 20-26 06-46 03-43",
        "10-06 20-46 03-43",
    ),
    "kana": ("20-15-06-03-21-42-45-36", "01-41-24 24-16", "10-06 30-32 41-43 02-32-36-26", "12-01 06-26-41"),
    "hangul": (
        "00-30 o132 40-46 43-53", "00-03-23 36-06 30-34", "o121 30-34 32-42 06-36", "00-20-24 40-46 06-26",
    ),
    "devanagari": (
        "00-50 30-36 32-12-03-14-34", "00-50 40-46 10-13-43", "00-50 30-36 03-33 10-13",
        "00-50 20-22-04-26-46",
    ),
    "bengali": (
        "00-50 30-36 32-04-36", "00-50 40-46 42-13-46 13-10", "00-50 10-15-36-12", "00-50 41-03-45 45-41",
    ),
    "thai": ("o011 06-02-20-42-46", "o011 11-06-23-46-40", "o411 40-46-06-03", "o061 05-00-40-46"),
    "khmer": (
        "00-10-20-11 06-03-13-23-26 36-33-43-46", "00-20 40-30 02-06-46-42 22-25", "10-01-12 04-06-46-42-32",
        "00-11-20-31-40 03-06-26-23 43-46",
    ),
    "georgian": ("o242 20-42", "02-00-40-45-26-05", "o132 33-36-06", "00-02-22-42-46-06 20-22"),
    "armenian": ("00-05-16-36-40", "06-01-10-30-41-43-53", "00-06 00-30-34 34-54", "06-00-40-46 26-56"),
    "ethiopic": ("00-40 10-16 30-36", "o222 24-26 00-02", "00-46 40-06 16-36", "00-03-43-40 23-26"),
    "tibetan": (
        "00-50 10-12-32-30 32-36-16", "00-50 20-26-04 40-43", "00-50 10-14-34-30 34-36",
        "00-50 30-33-13-16-46",
    ),
    "round_indic": ("o242 o441", "o132 o432", "o242 02-20", "o132 41-43-36 o411"),
}  # fmt: skip


def _mixed(a: Colour, b: Colour, share: float) -> Colour:
    """`a` moved by `share` towards `b`."""
    red, green, blue = (round(x + (y - x) * share) for x, y in zip(a, b, strict=True))
    return red, green, blue


class _Canvas:
    """A picture with coordinates in shares of its width and height, and one light level for all colours."""

    def __init__(self, width: int, height: int, light: float) -> None:
        self.width, self.height, self.light = width * _SCALE, height * _SCALE, light
        self.image = Image.new("RGB", (self.width, self.height))
        self.draw = ImageDraw.Draw(self.image)

    def lit(self, colour: Colour) -> Colour:
        return _mixed((10, 14, 34), colour, self.light)

    def _points(self, points: list[tuple[float, float]]) -> list[tuple[float, float]]:
        return [(x * self.width, y * self.height) for x, y in points]

    def polygon(self, points: list[tuple[float, float]], colour: Colour, own_light: bool = False) -> None:
        self.draw.polygon(self._points(points), fill=colour if own_light else self.lit(colour))

    def line(self, points: list[tuple[float, float]], colour: Colour, width: float) -> None:
        self.draw.line(
            self._points(points),
            fill=self.lit(colour),
            width=max(1, round(width * self.height)),
            joint="curve",
        )

    def disc(
        self, x: float, y: float, radius: float, colour: Colour, own_light: bool = False, flat: float = 1.0
    ) -> None:
        """A disc with its radius in picture heights; `flat` < 1 makes it a lying ellipse."""
        cx, cy, r = x * self.width, y * self.height, radius * self.height
        box = (cx - r, cy - r * flat, cx + r, cy + r * flat)
        self.draw.ellipse(box, fill=colour if own_light else self.lit(colour))

    def gradient(self, top: Colour, bottom: Colour, start: float, stop: float) -> None:
        a, b = int(start * self.height), int(stop * self.height)
        share = np.linspace(0, 1, max(b - a, 1))[:, None, None]
        rows = (1 - share) * np.array(self.lit(top)) + share * np.array(self.lit(bottom))
        band = np.broadcast_to(rows, (len(rows), self.width, 3)).astype(np.uint8)
        self.image.paste(Image.fromarray(np.ascontiguousarray(band)), (0, a))


def shadow_direction(sun_azimuth_deg: float) -> tuple[float, float]:
    """Where shadows point on the ground in the picture: (right = east, down = south), a unit vector."""
    away = math.radians(sun_azimuth_deg + 180)
    return math.sin(away), -math.cos(away)


def _plant(canvas: _Canvas, shape: str, x: float, y: float, size: float, colour: Colour) -> None:
    """One plant with its foot at (x, y); `size` is its height as a share of the picture's."""
    trunk: Colour = (92, 66, 44)
    w = size * canvas.height / canvas.width  # a width that looks like `size`
    if shape == "tree":
        canvas.line([(x, y), (x, y - 0.5 * size)], trunk, 0.1 * size)
        canvas.disc(x, y - 0.65 * size, 0.35 * size, colour)
        canvas.disc(x - 0.15 * w, y - 0.5 * size, 0.22 * size, _mixed(colour, (0, 0, 0), 0.15))
    elif shape == "palm":
        canvas.line([(x, y), (x + 0.06 * w, y - 0.8 * size)], trunk, 0.09 * size)
        for angle in (-2.9, -2.4, -1.6, -0.8, -0.2, 0.3, 2.8):
            tip = (x + 0.06 * w + 0.5 * w * math.cos(angle), y - 0.8 * size + 0.38 * size * math.sin(angle))
            canvas.line([(x + 0.06 * w, y - 0.8 * size), tip], colour, 0.11 * size)
    elif shape == "umbrella":
        canvas.line([(x, y), (x, y - 0.6 * size)], trunk, 0.08 * size)
        canvas.disc(x, y - 0.65 * size, 0.5 * size, colour, flat=0.36)
    elif shape == "cone":
        canvas.polygon([(x - 0.26 * w, y), (x + 0.26 * w, y), (x, y - size)], colour)
    elif shape == "cypress":
        waist = [(0.0, 1.0), (0.12, 0.7), (0.17, 0.35), (0.1, 0.03)]
        outline = [(x + w * dx, y - size * dy) for dx, dy in waist]
        canvas.polygon(outline + [(2 * x - px, py) for px, py in reversed(outline)], colour)
    elif shape == "bush":
        canvas.disc(x, y - 0.14 * size, 0.2 * size, colour, flat=0.7)
    elif shape == "bare":
        canvas.line([(x, y), (x, y - 0.9 * size)], colour, 0.09 * size)
        for side in (-1, 1):
            canvas.line([(x, y - 0.45 * size), (x + side * 0.3 * w, y - 0.8 * size)], colour, 0.06 * size)
    elif shape == "cactus":
        canvas.line([(x, y), (x, y - 0.6 * size)], colour, 0.14 * size)
        canvas.line(
            [(x, y - 0.25 * size), (x + 0.16 * w, y - 0.25 * size), (x + 0.16 * w, y - 0.5 * size)],
            colour,
            0.1 * size,
        )
    elif shape == "house":
        canvas.polygon(
            [
                (x - 0.4 * w, y),
                (x + 0.4 * w, y),
                (x + 0.4 * w, y - 0.7 * size),
                (x - 0.4 * w, y - 0.7 * size),
            ],
            colour,
        )
        canvas.polygon([(x - 0.5 * w, y - 0.7 * size), (x + 0.5 * w, y - 0.7 * size), (x, y - size)], (138, 62, 48))


def _backdrop(canvas: _Canvas, cues: Mapping[str, str], sun: tuple[float, float], rng: np.random.Generator) -> None:
    elevation, azimuth = sun
    light = cues.get("sun", "none")
    ground = _PALETTES[cues.get("vegetation", "none")][0]
    if light == "night":
        canvas.gradient((30, 36, 80), (60, 60, 100), 0, HORIZON)
        for _ in range(25):
            canvas.disc(rng.random(), rng.random() * 0.4, 0.004, (230, 230, 240), own_light=True)
    elif light == "none":
        canvas.gradient((168, 174, 182), (206, 208, 210), 0, HORIZON)
    else:
        low = float(np.clip(1 - elevation / 25, 0, 1))
        canvas.gradient(
            _mixed((64, 132, 220), (92, 92, 160), low),
            _mixed((190, 222, 246), (252, 176, 104), low),
            0,
            HORIZON,
        )
        bearing = (azimuth + 180) % 360 - 180  # degrees right of north, the camera's axis
        if abs(bearing) < 60 and elevation < 60:
            canvas.disc(0.5 + bearing / 120, HORIZON * (1 - elevation / 60), 0.06, (255, 240, 170), own_light=True)
    shape = cues.get("horizon", "none")
    if shape == "sea":
        canvas.gradient((36, 104, 168), (70, 150, 196), HORIZON - 0.06, HORIZON + 0.07)
        canvas.gradient(_mixed(ground, (255, 255, 255), 0.15), ground, HORIZON + 0.07, 1)
    else:
        canvas.gradient(_mixed(ground, (255, 255, 255), 0.25), ground, HORIZON, 1)
    if shape == "mountain":
        xs = np.linspace(-0.1, 1.1, 9)
        tops = HORIZON - 0.1 - 0.17 * rng.random(9) * (np.arange(9) % 2)
        ridge = list(zip(xs.tolist(), tops.tolist(), strict=True))
        canvas.polygon([(-0.1, HORIZON), *ridge, (1.1, HORIZON)], (104, 108, 136))
        for x, y in ridge[1::2]:
            canvas.polygon([(x - 0.04, y + 0.045), (x, y), (x + 0.04, y + 0.045)], (232, 236, 244))
    elif shape == "flat":
        canvas.polygon(
            [(0, HORIZON), (0, HORIZON - 0.025), (1, HORIZON - 0.02), (1, HORIZON)],
            _mixed(ground, (80, 96, 110), 0.5),
        )


def _road(canvas: _Canvas, cues: Mapping[str, str]) -> None:
    canvas.polygon([(0.475, HORIZON), (0.525, HORIZON), (0.98, 1), (0.02, 1)], (92, 92, 98))
    colour = _LINES.get(cues.get("centre_line", "none"))
    if colour is not None:
        for near, far in ((1.0, 0.86), (0.8, 0.7), (0.66, 0.59), (0.56, 0.52), (0.5, 0.475)):
            wide, thin = 0.028 * (near - HORIZON) / 0.55 + 0.004, 0.028 * (far - HORIZON) / 0.55 + 0.004
            canvas.polygon([(0.5 - wide, near), (0.5 + wide, near), (0.5 + thin, far), (0.5 - thin, far)], colour)


def _shadow(
    canvas: _Canvas, x: float, y: float, height: float, cues: Mapping[str, str], sun: tuple[float, float]
) -> None:
    """The shadow of a post of `height` with its foot at (x, y); long when the sun is low."""
    if cues.get("sun", "none") in ("none", "night"):
        return
    right, down = shadow_direction(sun[1])
    length = height * min(1.6, 1 / math.tan(math.radians(max(sun[0], 5))))
    ground = _mixed(_PALETTES[cues.get("vegetation", "none")][0], (0, 0, 0), 0.55)
    tip = (
        x + right * length * canvas.height / canvas.width,
        y + down * length * 0.6,
    )  # depth is foreshortened
    canvas.line([(x, y), tip], ground, 0.035)
    canvas.disc(*tip, 0.04, ground, flat=0.6)


def _board(canvas: _Canvas, script: str, rng: np.random.Generator) -> None:
    """A large board with four letters on the left; signs are retroreflective, so bright at night."""
    canvas.line([(0.2, 0.62), (0.2, 0.3)], (110, 110, 112), 0.025)
    left, top, right, bottom = 0.02, 0.08, 0.44, 0.36
    canvas.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], (22, 74, 150), own_light=True)
    inner = [
        (left + 0.008, top + 0.012),
        (right - 0.008, top + 0.012),
        (right - 0.008, bottom - 0.012),
        (left + 0.008, bottom - 0.012),
    ]
    canvas.polygon(inner, (250, 250, 246), own_light=True)
    letters = rng.permutation(len(_GLYPHS[script]))
    for position, letter in enumerate(letters):
        x0, unit_x, unit_y = left + 0.022 + position * 0.099, 0.0165, 0.033
        for stroke in _GLYPHS[script][int(letter)].split():
            if stroke.startswith("o"):
                cx, cy, radius = (int(digit) for digit in stroke[1:])
                x, y = x0 + cx * unit_x, top + 0.042 + cy * unit_y
                canvas.disc(x, y, 0.03 * radius, (20, 24, 40))
                canvas.disc(x, y, 0.03 * radius - 0.02, (250, 250, 246), own_light=True)
            else:
                points = [(x0 + int(p[0]) * unit_x, top + 0.042 + int(p[1]) * unit_y) for p in stroke.split("-")]
                canvas.line(points, (20, 24, 40), 0.022)


def _warning(canvas: _Canvas, shape: str) -> None:
    canvas.line([(0.84, 0.66), (0.84, 0.34)], (110, 110, 112), 0.02)
    x, y, w, h = 0.84, 0.27, 0.105, 0.14
    if shape == "diamond":
        canvas.polygon([(x, y - h), (x + w, y), (x, y + h), (x - w, y)], (30, 30, 30), own_light=True)
        canvas.polygon(
            [(x, y - 0.85 * h), (x + 0.85 * w, y), (x, y + 0.85 * h), (x - 0.85 * w, y)],
            (255, 204, 0),
            own_light=True,
        )
    else:
        canvas.polygon([(x, y - h), (x + w, y + 0.7 * h), (x - w, y + 0.7 * h)], (214, 20, 32), own_light=True)
        canvas.polygon(
            [(x, y - 0.5 * h), (x + 0.58 * w, y + 0.48 * h), (x - 0.58 * w, y + 0.48 * h)],
            (252, 250, 240),
            own_light=True,
        )
    canvas.line([(x, y - 0.25 * h), (x, y + 0.3 * h)], (20, 20, 20), 0.025)


def _vehicle(canvas: _Canvas, side: str, nearness: float, colour: Colour) -> None:
    """An oncoming car: on the camera's right where traffic keeps left. `nearness`: 0 (far) to 1."""
    sign = 1.0 if side == "left" else -1.0
    y = HORIZON + 0.06 + 0.42 * nearness**1.5
    depth = (y - HORIZON) / 0.55
    x = 0.5 + sign * 0.24 * depth
    w, h = 0.19 * depth + 0.015, 0.26 * depth + 0.02
    canvas.disc(x, y, w * 0.75, (40, 40, 44), flat=0.2)
    canvas.polygon([(x - w, y), (x + w, y), (x + w, y - 0.55 * h), (x - w, y - 0.55 * h)], colour)
    canvas.polygon(
        [(x - 0.8 * w, y - 0.5 * h), (x + 0.8 * w, y - 0.5 * h), (x + 0.6 * w, y - h), (x - 0.6 * w, y - h)],
        colour,
    )
    canvas.polygon(
        [
            (x - 0.66 * w, y - 0.55 * h),
            (x + 0.66 * w, y - 0.55 * h),
            (x + 0.5 * w, y - 0.92 * h),
            (x - 0.5 * w, y - 0.92 * h),
        ],
        (150, 186, 206),
    )
    for lamp in (-0.7, 0.7):
        canvas.disc(x + lamp * w, y - 0.33 * h, 0.16 * h, (255, 250, 200), own_light=True)


def draw_frames(
    cues: Mapping[str, str],
    sun: tuple[float, float],
    count: int,
    width: int,
    height: int,
    rng: np.random.Generator,
) -> UInt8[np.ndarray, "count height width 3"]:
    """`count` frames with visible `cues` (cue -> value) and the sun at (elevation, azimuth) degrees.

    Only the vehicle moves: it comes nearer from frame to frame, and around again.
    """
    light = {"night": 0.38, "none": 0.86}.get(cues.get("sun", "none"), 1.0)
    base = _Canvas(width, height, light)
    _backdrop(base, cues, sun, rng)
    _road(base, cues)
    _, foliage, shape = _PALETTES[cues.get("vegetation", "none")]
    spots = sorted((float(rng.uniform(0.02, 0.4)), side) for side in (-1, 1) for _ in range(5))
    for depth, side in spots:
        y = HORIZON + 0.03 + depth
        reach = 0.06 + 0.85 * (y - HORIZON)
        x = 0.5 + side * (reach + float(rng.uniform(0.0, 0.22)))
        size = 0.1 + 0.55 * depth
        _shadow(base, x, y, 0.7 * size, cues, sun)
        _plant(base, shape, x, y, size, foliage)
    post_x, post_y = 0.76, 0.8  # a bollard beside the road: its shadow tells the hour and the hemisphere
    _shadow(base, post_x + 0.14, post_y, 0.2, cues, sun)
    base.line([(post_x + 0.14, post_y), (post_x + 0.14, post_y - 0.2)], (240, 240, 240), 0.03)
    if "script" in cues:
        _board(base, cues["script"], rng)
    if "warning_sign" in cues:
        _warning(base, cues["warning_sign"])
    car, start = _CARS[int(rng.integers(len(_CARS)))], float(rng.uniform(0.1, 0.6))
    still = base.image
    frames = []
    for index in range(count):
        base.image = still.copy()
        base.draw = ImageDraw.Draw(base.image)
        if "driving_side" in cues:
            _vehicle(base, cues["driving_side"], (start + 0.9 * index / max(count, 1)) % 1.0, car)
        frames.append(np.asarray(base.image.reduce(_SCALE)))
    return np.stack(frames)
