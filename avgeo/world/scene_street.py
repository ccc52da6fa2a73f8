"""The street and its furniture: road, lines, boards and signs, parked vehicles, lamps, snow and puddles.

Each has its own region of the picture, so that all can be seen together: see `REGIONS`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from avgeo.world.canvas import FOCAL, HIGH, HORIZON, MIDDLE, WIDE, Canvas, Colour, mixed
from avgeo.world.glyphs import strokes
from avgeo.world.scene_land import PALETTES, PAVING, SHORE
from avgeo.world.scene_shadow import cast_shadow
from avgeo.world.scene_sky import Light

REGIONS: dict[str, tuple[float, float, float, float]] = {
    "script": (3, 5, 69, 37), "skyline": (84, 8, 128, 54), "warning_sign": (130, 10, 158, 42),
    "plate": (2, 84, 46, 114), "parked": (116, 58, 158, 86), "centre_line": (75, 60, 85, 120),
    "street_light": (74, 3, 102, 36), "post": (104, 78, 160, 120),
}  # fmt: skip
"""Where a cue is drawn, in units: left, top, right, bottom."""
POST = (132.0, 100.0, 19.0, 4.6)
"""The bollard that stands in every picture: x and y of its foot, height, width. Its shadow is the clock."""

LAMPS = ((90.0, 30.0, 58.0, 0.45), (73.0, 24.0, 60.0, 0.6), (105.0, 8.0, 68.0, 1.0))
"""Street lamps: x of the foot, y of the head, y of the foot, size."""
_METAL: Colour = (120, 122, 126)

# --- the road ---


def _strip(canvas: Canvas, left: float, right: float, near: float, far: float, colour: Colour) -> None:
    """A strip of the road between two offsets from its middle (units at depth 1), from depth `near` to `far`."""
    canvas.polygon(
        [
            (MIDDLE + u * d, HORIZON + FOCAL * d)
            for u, d in zip((left, right, right, left), (near, near, far, far), strict=True)
        ],
        colour,
    )


_END = 1.05  # depth just below the picture


def _start(sea: bool) -> float:
    """The depth at which the road begins: at the beach or far away."""
    return (SHORE + 1 - HORIZON) / FOCAL if sea else 0.012


def draw_road(canvas: Canvas, surface: str | None, vegetation: str | None, sea: bool, rng: np.random.Generator) -> None:
    """Asphalt, gravel, or, where the surface is not to be made out, a trodden track of the ground's own colour."""
    far = _start(sea)
    ground = PALETTES.get(vegetation or "", PAVING)[0]
    track = mixed(ground, (110, 104, 96), 0.28)
    _strip(canvas, -46, 46, _END, far, {"asphalt": (66, 68, 76), "gravel": (172, 142, 106)}.get(surface or "", track))
    if surface == "asphalt":
        for side in (-45.0, 45.0):
            _strip(canvas, side - 0.6, side + 0.6, _END, far, (150, 150, 150))
        return
    for rut in (-34, -12, 12, 34):
        _strip(canvas, rut - 3, rut + 3, _END, far, (140, 110, 80) if surface else mixed(track, (60, 54, 48), 0.16))
    if surface == "gravel":
        depths = far + (_END - far) * rng.random(170) ** 0.8
        for depth, u, pale in zip(
            depths.tolist(), rng.uniform(-45, 45, 170).tolist(), rng.random(170).tolist(), strict=True
        ):
            stone = mixed((122, 96, 72), (226, 204, 172), pale)
            canvas.disc(MIDDLE + u * depth, HORIZON + FOCAL * depth, 0.3 + 1.1 * depth, stone, ry=0.2 + 0.6 * depth)


def draw_centre_line(canvas: Canvas, colour: str, sea: bool) -> None:
    """Dashes on a dark strip, white or yellow."""
    far = max(_start(sea), 0.03)
    _strip(canvas, -6.4, 6.4, _END, far, (58, 60, 66))
    for nearest in (0.92, 1.62, 2.32, 3.02, 3.72, 4.42, 5.5, 7.0, 9.0):  # distances where dashes begin
        if 1 / nearest > far:
            dash = max(1 / (nearest + 0.5), far)
            _strip(canvas, -4.6, 4.6, 1 / nearest, dash, {"white": (252, 252, 252), "yellow": (255, 196, 0)}[colour])


# --- boards and signs ---


def draw_board(canvas: Canvas, script: str, rng: np.random.Generator) -> None:
    """A large white board with four letters of a script; it reflects headlamps, so it is bright at night."""
    left, top, right, bottom = REGIONS["script"]
    for x in (left + 12, right - 12):
        canvas.line([(x, 62), (x, bottom)], _METAL, 1.6)
    rim: Colour = ((20, 72, 150), (16, 104, 74), (120, 28, 40))[int(rng.integers(3))]
    canvas.box(left, top, right, bottom, rim, own=True)
    canvas.box(left + 1.3, top + 1.3, right - 1.3, bottom - 1.3, (250, 250, 244), own=True)
    ink: Colour = (16, 20, 36)
    letters = strokes(script)
    unit_x, unit_y, pitch = 1.42, 2.45, 15.4
    for place, letter in enumerate(rng.permutation(len(letters))[:4].tolist()):
        x0, y0 = left + 4.5 + place * pitch, top + 5.0
        for kind, points, radius in letters[letter]:
            # x = 9 is where the next letter begins; the last one stops at the rim
            reach = pitch if place < 3 else 8 * unit_x
            seen = [(x0 + (x * unit_x if x < 9 else reach), y0 + y * unit_y) for x, y in points]
            if kind == "line":
                canvas.line(seen, ink, 2.4, own=True)
            elif kind == "dot":
                canvas.disc(*seen[0], 1.7, ink, own=True)
            else:
                canvas.disc(*seen[0], radius * unit_x + 1.3, ink, ry=radius * unit_x + 1.5, own=True)
                canvas.disc(*seen[0], radius * unit_x - 1.2, (250, 250, 244), ry=radius * unit_x - 1.0, own=True)


def draw_warning_sign(canvas: Canvas, shape: str) -> None:
    """A red-rimmed triangle or a yellow diamond on a post, right."""
    left, top, right, bottom = REGIONS["warning_sign"]
    x, y = (left + right) / 2, (top + bottom) / 2
    canvas.line([(x, 66), (x, bottom - 4)], _METAL, 1.8)
    if shape == "diamond":
        for reach, colour in ((15.5, (24, 24, 24)), (14.2, (255, 200, 0))):
            canvas.polygon([(x, y - reach), (x + reach, y), (x, y + reach), (x - reach, y)], colour, own=True)
    else:
        for grow, colour in ((1.0, (214, 18, 30)), (0.56, (252, 250, 242))):
            foot = y + 3.5 + 10 * grow
            canvas.polygon(
                [(x, y + 3.5 - 18 * grow), (x + 15.5 * grow, foot), (x - 15.5 * grow, foot)], colour, own=True
            )
    canvas.line([(x, y - 4), (x, y + 5)], (20, 20, 20), 2.4, own=True)
    canvas.disc(x, y + 9, 1.4, (20, 20, 20), own=True)


# --- post, lamps, weather on the ground ---


def draw_post(canvas: Canvas, light: Light) -> None:
    """The bollard with its two red bands; the side away from the sun is darker."""
    x, y, height, width = POST
    white, red = (228, 228, 226), (206, 40, 40)
    far_side = x - width / 2 if light.side > 0 else x
    for low, high, colour in (
        (0.0, 0.2, white),
        (0.2, 0.4, red),
        (0.4, 0.6, white),
        (0.6, 0.8, red),
        (0.8, 1.0, white),
    ):
        top, foot = y - high * height, y - low * height
        canvas.box(x - width / 2, top, x + width / 2, foot, colour)
        canvas.box(far_side, top, far_side + width / 2, foot, mixed(colour, (0, 0, 0), 0.3 * abs(light.side)))


def draw_lamps(canvas: Canvas, light: Light) -> None:
    """Burning street lamps over the road, nearer and farther; the darker the scene, the wider they glow."""
    warm: Colour = (255, 206, 116)
    for foot, top, base, size in LAMPS:
        arm = 10 * size * (-1 if foot > MIDDLE else 1)
        canvas.line([(foot, base), (foot, top), (foot + arm, top)], (112, 114, 122), 1.7 * size)
        canvas.glow(foot + arm, top + 1, 15 * size if light.dark else 9 * size, warm, 0.8 if light.dark else 0.7)
        canvas.disc(foot + arm, top + 1, 4.4 * size, (255, 244, 196), ry=2.6 * size, own=True)
        if light.dark:
            canvas.glow(foot + arm, base + 8, 20 * size, warm, 0.28)


def shade_furniture(canvas: Canvas, cues: Mapping[str, str], light: Light) -> None:
    """The shadows of the post, of signs, lamps and the board's legs, and of parked vehicles."""
    x, y, height, width = POST
    cast_shadow(canvas, light, x, y, height, width)
    if "warning_sign" in cues:
        left, _, right, _ = REGIONS["warning_sign"]
        cast_shadow(canvas, light, (left + right) / 2, 66, 40, 2.4)
    if "street_light" in cues:
        for foot, top, base, size in LAMPS:
            cast_shadow(canvas, light, foot, base, base - top, 1.8 * size)
    if "script" in cues:
        left, _, right, _ = REGIONS["script"]
        for leg in (left + 12, right - 12):
            cast_shadow(canvas, light, leg, 62, 50, 1.8)
    for name, foot, height in (("parked", 84.0, 20.0), ("plate", 112.0, 26.0)):
        if name in cues:
            left, _, right, _ = REGIONS[name]
            cast_shadow(canvas, light, (left + right) / 2, foot, height, 0.8 * (right - left))


def draw_snow(canvas: Canvas, rng: np.random.Generator) -> None:
    """Snow that lies: banks along the road and patches, with blue shades that show on white ground too."""
    white, blue = (248, 251, 255), (142, 166, 206)
    depths = 1 / np.arange(14.0, 0.9, -0.45)
    for side in (-1, 1):
        inner = 44 + rng.uniform(-3, 3, len(depths))
        outer = 66 + rng.uniform(-6, 6, len(depths))
        for lift, edge, colour in (
            (0.0, inner - 3, blue),
            (3.0, inner, white),
        ):  # the bank's shaded flank, then its top
            points = [(MIDDLE + side * u * d, HORIZON + (FOCAL - lift) * d) for u, d in zip(edge, depths, strict=True)]
            back = [(MIDDLE + side * u * d, HORIZON + (FOCAL - lift) * d) for u, d in zip(outer, depths, strict=True)]
            canvas.polygon([*points, *reversed(back)], colour)
    for _ in range(9):
        depth = float(rng.uniform(0.12, 0.95))
        x = MIDDLE + float(rng.choice((-1, 1))) * float(rng.uniform(74, 120)) * depth
        y, r = HORIZON + FOCAL * depth, depth * float(rng.uniform(7, 13))
        for dx, dy, share in ((0.0, 0.0, 1.0), (0.8, 0.12, 0.6), (-0.7, 0.1, 0.7)):
            canvas.disc(x + dx * r, y + dy * r + 0.06 * r, share * r, blue, ry=0.24 * share * r)
        for dx, dy, share in ((0.0, 0.0, 1.0), (0.8, 0.12, 0.6), (-0.7, 0.1, 0.7)):
            canvas.disc(x + dx * r, y + dy * r, share * r, white, ry=0.2 * share * r)


def draw_snow_caps(canvas: Canvas, cues: Mapping[str, str]) -> None:
    """Snow on top of the post, the board, the sign and the parked vehicles."""
    white = (248, 251, 255)
    x, y, height, width = POST
    canvas.disc(x, y - height, 0.8 * width, white, ry=1.6)
    for name in ("script", "plate", "parked"):
        if name in cues:
            left, top, right, _ = REGIONS[name]
            inset = {"script": 0.0, "plate": 8.0, "parked": 10.0}[name]
            canvas.disc((left + right) / 2, top + 0.4, (right - left) / 2 - inset, white, ry=1.7)


def draw_puddles(canvas: Canvas, light: Light, rng: np.random.Generator) -> None:
    """Puddles on the road that mirror the sky."""
    sky = mixed(light.horizon, light.zenith, 0.35)
    for x, y, r in ((62.0, 110.0, 13.0), (101.0, 104.0, 9.0), (66.0, 86.0, 6.5), (93.0, 80.0, 5.0), (74.0, 70.0, 3.0)):
        cx, cy = x + float(rng.uniform(-2, 2)), y + float(rng.uniform(-1, 1))
        canvas.disc(cx, cy + 0.5, r + 0.8, mixed(sky, (20, 24, 32), 0.75), ry=0.3 * r + 0.5, own=True)
        canvas.disc(cx, cy, r, sky, ry=0.3 * r, own=True)
        canvas.line(
            [(cx - 0.5 * r, cy - 0.08 * r), (cx + 0.2 * r, cy - 0.08 * r)],
            mixed(sky, (255, 255, 255), 0.6),
            0.7,
            own=True,
        )


def draw_drops(canvas: Canvas, light: Light, rng: np.random.Generator) -> None:
    """Drops on the lens, upside-down pictures of the sky: bright below, dark above."""
    sky = mixed(light.horizon, (255, 255, 255), 0.25)
    for _ in range(16):
        x, y, r = float(rng.uniform(2, WIDE - 2)), float(rng.uniform(2, HIGH - 4)), float(rng.uniform(0.9, 2.2))
        canvas.disc(x, y, r, mixed(sky, (40, 48, 60), 0.55), ry=1.15 * r, own=True)
        canvas.disc(x, y + 0.35 * r, 0.72 * r, sky, ry=0.7 * r, own=True)
