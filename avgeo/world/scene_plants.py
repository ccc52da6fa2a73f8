"""Plants: where they stand and how each shape is drawn."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from avgeo.world.canvas import HORIZON, Canvas, Colour, mixed
from avgeo.world.scene_land import PALETTES, PAVING
from avgeo.world.scene_shadow import cast_shadow
from avgeo.world.scene_sky import Light


@dataclass(frozen=True)
class Plant:
    """A plant with its foot at (x, y), `size` units high; `seed` shapes it."""

    shape: str
    x: float
    y: float
    size: float
    colour: Colour
    seed: int


def plan_plants(vegetation: str | None, sea: bool, rng: np.random.Generator) -> list[Plant]:
    """Where plants stand, far ones first: a distant row, the right edge, and the left side down to y = 82."""
    _, _, colour, shape = PALETTES.get(vegetation or "", PAVING)
    if shape == "wall":
        return []
    shift = 9.0 if sea else 0.0
    spots: list[Plant] = []

    def put(x: float, y: float, size: float) -> None:
        haze = mixed(colour, (196, 206, 216), max(0.0, 0.5 - (y - HORIZON) / 36))
        tint = mixed(haze, (0, 0, 0) if rng.random() < 0.5 else (255, 255, 200), float(rng.uniform(0, 0.14)))
        spots.append(Plant(shape, x, y, size, tint, int(rng.integers(2**31))))

    for x in np.arange(2, 74, 6.5):
        put(
            float(x + rng.uniform(-2.5, 2.5)),
            56.5 + shift * 0.8 + float(rng.uniform(0, 1.5)),
            float(rng.uniform(7, 10)),
        )
    for x in np.arange(94, 160, 7.5):
        put(
            float(x + rng.uniform(-2.5, 2.5)),
            57.5 + shift * 0.8 + float(rng.uniform(0, 1.5)),
            float(rng.uniform(7, 10)),
        )
    for x, y, size in (
        (52, 63, 15),
        (38, 65, 19),
        (150, 66, 21),
        (20, 68, 24),
        (157, 70, 27),
        (30, 74, 27),
        (6, 78, 36),
    ):
        put(
            x + float(rng.uniform(-3, 3)),
            y + float(rng.uniform(-1, 2)) + shift * 0.4,
            size * float(rng.uniform(0.9, 1.1)),
        )
    return sorted(spots, key=lambda plant: plant.y)


def draw_plant(canvas: Canvas, plant: Plant, side: float) -> None:
    """One plant, lit from `side` (-1 left .. 1 right)."""
    _SHAPES[plant.shape](canvas, plant, side, np.random.default_rng(plant.seed))


_TRUNK: Colour = (96, 68, 46)


def _blob(canvas: Canvas, x: float, y: float, r: float, colour: Colour, side: float, flat: float = 1.0) -> None:
    """A crown with a dark underside and a bright cap towards the light."""
    canvas.disc(x, y, r, mixed(colour, (0, 0, 0), 0.28), ry=r * flat)
    canvas.disc(x + 0.12 * r * side, y - 0.12 * r * flat, 0.86 * r, colour, ry=0.84 * r * flat)
    canvas.disc(
        x + 0.42 * r * side, y - 0.36 * r * flat, 0.46 * r, mixed(colour, (255, 250, 190), 0.22), ry=0.4 * r * flat
    )


def _tree(canvas: Canvas, p: Plant, side: float, rng: np.random.Generator) -> None:
    canvas.line([(p.x, p.y), (p.x, p.y - 0.5 * p.size)], _TRUNK, 0.09 * p.size)
    for dx, dy, r in ((-0.2, 0.5, 0.22), (0.2, 0.52, 0.23), (0.0, 0.68, 0.31)):
        _blob(canvas, p.x + (dx + rng.uniform(-0.05, 0.05)) * p.size, p.y - dy * p.size, r * p.size, p.colour, side)


def _palm(canvas: Canvas, p: Plant, side: float, rng: np.random.Generator) -> None:
    lean = float(rng.uniform(-0.16, 0.16)) * p.size
    top_x, top_y = p.x + lean, p.y - 0.78 * p.size
    canvas.line([(p.x, p.y), (p.x + 0.4 * lean, p.y - 0.4 * p.size), (top_x, top_y)], (124, 98, 70), 0.07 * p.size)
    for angle in (-2.9, -2.45, -1.9, -1.2, -0.6, -0.2, 0.25):
        dx, dy = math.cos(angle) * 0.48 * p.size, math.sin(angle) * 0.3 * p.size
        bright = mixed(p.colour, (255, 250, 150), 0.16 if dx * side > 0 else 0.0)
        canvas.line(
            [(top_x, top_y), (top_x + 0.6 * dx, top_y + 0.9 * dy), (top_x + dx, top_y + dy + 0.16 * p.size)],
            bright, 0.1 * p.size,
        )  # fmt: skip
    _blob(canvas, p.x - 0.2 * p.size, p.y - 0.1 * p.size, 0.2 * p.size, p.colour, side, 0.7)


def _umbrella(canvas: Canvas, p: Plant, side: float, rng: np.random.Generator) -> None:
    canvas.line([(p.x, p.y), (p.x, p.y - 0.6 * p.size)], _TRUNK, 0.07 * p.size)
    for dx in (-0.22, 0.22):
        canvas.line([(p.x, p.y - 0.3 * p.size), (p.x + dx * p.size, p.y - 0.62 * p.size)], _TRUNK, 0.05 * p.size)
    _blob(canvas, p.x, p.y - 0.68 * p.size, 0.52 * p.size, p.colour, side, 0.34)


def _cactus(canvas: Canvas, p: Plant, side: float, rng: np.random.Generator) -> None:
    if rng.random() < 0.4:  # a rock
        canvas.polygon(
            [(p.x + dx * p.size, p.y - dy * p.size) for dx, dy in ((-0.3, 0), (-0.14, 0.24), (0.16, 0.2), (0.32, 0))],
            (176, 132, 92),
        )  # fmt: skip
        return
    w = 0.11 * p.size
    canvas.line([(p.x, p.y), (p.x, p.y - 0.72 * p.size)], p.colour, w)
    for arm in (-1, 1):
        at = p.y - float(rng.uniform(0.22, 0.4)) * p.size
        canvas.line(
            [(p.x, at), (p.x + arm * 0.2 * p.size, at), (p.x + arm * 0.2 * p.size, at - 0.24 * p.size)],
            p.colour,
            0.8 * w,
        )


def _tussock(canvas: Canvas, p: Plant, side: float, rng: np.random.Generator) -> None:
    for dx in rng.uniform(-0.5, 0.5, 9).tolist():
        foot = p.x + 0.5 * dx * p.size
        canvas.line([(foot, p.y), (foot + 0.3 * dx * p.size, p.y - 0.34 * p.size)], p.colour, 0.05 * p.size)


def _cushion(canvas: Canvas, p: Plant, side: float, rng: np.random.Generator) -> None:
    _blob(canvas, p.x, p.y - 0.08 * p.size, 0.3 * p.size, p.colour, side, 0.42)
    canvas.disc(p.x + 0.4 * p.size, p.y - 0.03 * p.size, 0.16 * p.size, (158, 156, 150), ry=0.08 * p.size)


def _cypress(canvas: Canvas, p: Plant, side: float, rng: np.random.Generator) -> None:
    if rng.random() < 0.35:  # an olive tree
        canvas.line([(p.x, p.y), (p.x + 0.05 * p.size, p.y - 0.3 * p.size)], _TRUNK, 0.09 * p.size)
        _blob(canvas, p.x, p.y - 0.42 * p.size, 0.27 * p.size, (128, 142, 104), side, 0.75)
        return
    waist = [(0.03, 0.0), (0.12, 0.1), (0.13, 0.4), (0.08, 0.75), (0.0, 1.05)]
    left = [(p.x - dx * p.size, p.y - dy * p.size) for dx, dy in waist]
    right = [(p.x + dx * p.size, p.y - dy * p.size) for dx, dy in reversed(waist)]
    canvas.polygon(left + right, p.colour)
    canvas.line([(p.x + 0.05 * side * p.size, p.y - 0.12 * p.size), (p.x + 0.03 * side * p.size, p.y - 0.8 * p.size)],
                mixed(p.colour, (255, 250, 170), 0.2), 0.05 * p.size)  # fmt: skip


def _bare(canvas: Canvas, p: Plant, side: float, rng: np.random.Generator) -> None:
    canvas.line([(p.x, p.y), (p.x, p.y - 0.9 * p.size)], p.colour, 0.07 * p.size)
    for height in (0.3, 0.42, 0.55, 0.68):
        for arm in (-1, 1):
            reach = float(rng.uniform(0.26, 0.4)) * (1.1 - height)
            canvas.line(
                [(p.x, p.y - height * p.size), (p.x + arm * reach * p.size, p.y - (height + 0.26) * p.size)],
                p.colour, 0.045 * p.size,
            )  # fmt: skip


def _cone(canvas: Canvas, p: Plant, side: float, rng: np.random.Generator) -> None:
    canvas.line([(p.x, p.y), (p.x, p.y - 0.2 * p.size)], _TRUNK, 0.08 * p.size)
    for foot, top, w in ((0.12, 0.52, 0.27), (0.36, 0.76, 0.21), (0.6, 1.02, 0.14)):
        tip = (p.x, p.y - top * p.size)
        canvas.polygon(
            [(p.x - w * p.size, p.y - foot * p.size), (p.x + w * p.size, p.y - foot * p.size), tip], p.colour
        )
        edge = p.x + (w if side >= 0 else -w) * p.size
        canvas.polygon(
            [(p.x, p.y - foot * p.size), (edge, p.y - foot * p.size), tip],
            mixed(p.colour, (255, 250, 190), 0.16 * abs(side)),
        )
        if p.shape == "snow_cone":
            canvas.polygon(
                [(p.x - 0.8 * w * p.size, p.y - (foot + 0.06) * p.size), tip,
                 (p.x + 0.5 * w * p.size, p.y - (foot + 0.13) * p.size), (p.x, p.y - (foot + 0.16) * p.size)],
                (244, 248, 252),
            )  # fmt: skip


_SHAPES: dict[str, Callable[[Canvas, Plant, float, np.random.Generator], None]] = {
    "tree": _tree, "palm": _palm, "umbrella": _umbrella, "cactus": _cactus, "tussock": _tussock, "cushion": _cushion,
    "cypress": _cypress, "bare": _bare, "cone": _cone, "snow_cone": _cone,
}  # fmt: skip


def shade_plant(canvas: Canvas, plant: Plant, light: Light) -> None:
    """The shadow of a plant: its stem's and, at the tip, its crown's."""
    low = plant.shape in ("tussock", "cushion")
    x, y, share = cast_shadow(canvas, light, plant.x, plant.y, plant.size * (0.25 if low else 0.65), 0.09 * plant.size)
    if not low and plant.shape not in ("cactus", "bare"):
        radius = plant.size * share * _CROWNS.get(plant.shape, 0.3)
        canvas.shadow_disc(x, y, radius, 0.4 * radius)


_CROWNS = {"umbrella": 0.48, "cypress": 0.14, "cone": 0.2, "snow_cone": 0.2}
