"""Vehicles that stand: a parked car with its number plate, and what else is parked (one that moves: `scene_motion`)."""

from __future__ import annotations

import numpy as np

from avgeo.world.canvas import Canvas, Colour, mixed
from avgeo.world.scene_street import REGIONS

_PAINTS: tuple[Colour, ...] = (
    (190, 36, 40), (34, 74, 160), (214, 216, 218), (58, 60, 66), (48, 116, 86), (206, 150, 60), (120, 60, 110),
)  # fmt: skip


def paint(rng: np.random.Generator) -> Colour:
    """The colour of a vehicle."""
    return _PAINTS[int(rng.integers(len(_PAINTS)))]


def draw_plate_car(canvas: Canvas, plate: str, rng: np.random.Generator) -> None:
    """A parked car from the front, near enough for the colours of its number plate; they reflect headlamps."""
    left, top, right, bottom = REGIONS["plate"]
    colour, x = paint(rng), (left + right) / 2
    dark = mixed(colour, (0, 0, 0), 0.35)
    for wheel in (left + 1, right - 8):
        canvas.box(wheel, bottom - 8, wheel + 7, bottom, (26, 26, 28))
    canvas.polygon([(left + 8, top), (right - 8, top), (right - 3.5, top + 10), (left + 3.5, top + 10)], dark)
    canvas.polygon(
        [(left + 9.5, top + 1.4), (right - 9.5, top + 1.4), (right - 5.5, top + 9), (left + 5.5, top + 9)],
        (120, 156, 178),
    )
    canvas.polygon([(x - 4, top + 1.4), (x + 4, top + 1.4), (x - 4, top + 9), (x - 12, top + 9)], (166, 194, 208))
    canvas.polygon(
        [
            (left + 2, top + 9.5),
            (right - 2, top + 9.5),
            (right, top + 15),
            (right, bottom - 5),
            (left, bottom - 5),
            (left, top + 15),
        ],
        colour,
    )
    canvas.polygon(
        [(left + 5, top + 10), (right - 5, top + 10), (right - 8, top + 12.4), (left + 8, top + 12.4)],
        mixed(colour, (255, 255, 255), 0.3),
    )
    for lamp in (left + 4.6, right - 4.6):
        canvas.disc(lamp, top + 16, 3.4, (236, 236, 220), ry=2.2)
    canvas.box(x - 14.6, top + 14, x + 14.6, bottom - 4.4, (84, 86, 90))
    _draw_plate(canvas, plate, x - 13, top + 15.2, x + 13, top + 24.6, rng)


def _draw_plate(
    canvas: Canvas, plate: str, left: float, top: float, right: float, bottom: float, rng: np.random.Generator
) -> None:
    blue: Colour = (18, 62, 190)
    field, ink = {
        "yellow": ((255, 206, 0), (20, 20, 20)),
        "blue": (blue, (250, 250, 250)),
        "black": ((14, 14, 14), (240, 240, 240)),
    }.get(plate, ((252, 252, 252), (30, 30, 36)))  # fmt: skip
    canvas.box(left - 0.7, top - 0.7, right + 0.7, bottom + 0.7, mixed(ink, field, 0.15), own=True)
    canvas.box(left, top, right, bottom, field, own=True)
    first, line = left + 1.8, (top + bottom) / 2
    if plate == "eu_band":
        canvas.box(left, top, left + 6.5, bottom, blue, own=True)
        first = left + 8
    if plate == "blue_top":
        canvas.box(left, top, right, top + 3.6, blue, own=True)
        line = top + 6.6
    for x in np.arange(first, right - 2.4, 3.4).tolist():
        rise = float(rng.uniform(0.9, 1.7))
        canvas.line([(x + 0.6, line + 1.5), (x + 0.6 + float(rng.uniform(-0.4, 1.2)), line - rise)], ink, 0.9, own=True)


def draw_parked(canvas: Canvas, kind: str, rng: np.random.Generator) -> None:
    """Two-wheelers in a row, an auto-rickshaw, or a pickup, right of the road."""
    left, _, right, bottom = REGIONS["parked"]
    if kind == "two_wheeler":
        for offset in (0.0, 12.5, 25.0):
            _motorcycle(canvas, left + 2 + offset, bottom - 1.5, paint(rng))
    elif kind == "rickshaw":
        _rickshaw(canvas, left + 5, bottom)
    else:
        _pickup(canvas, left, bottom, right - left, mixed(paint(rng), (255, 255, 255), 0.1))


def _wheel(canvas: Canvas, x: float, y: float, r: float) -> None:
    canvas.disc(x, y - r, r, (24, 24, 26))
    canvas.disc(x, y - r, 0.45 * r, (150, 152, 156))


def _motorcycle(canvas: Canvas, x: float, y: float, colour: Colour) -> None:
    _wheel(canvas, x + 2.6, y, 3.6)
    _wheel(canvas, x + 13, y, 3.6)
    canvas.line([(x + 2.6, y - 4), (x + 5, y - 9), (x + 11, y - 7), (x + 13, y - 4)], (40, 40, 44), 1.6)
    canvas.line([(x + 2.8, y - 4), (x + 5, y - 14.5), (x + 3, y - 15)], (60, 60, 64), 1.4)
    canvas.polygon([(x + 4.5, y - 11), (x + 9.5, y - 11), (x + 10.5, y - 6), (x + 5, y - 6)], colour)
    canvas.line([(x + 9, y - 11), (x + 14.5, y - 11.8)], (24, 22, 22), 2.2)
    canvas.disc(x + 3.6, y - 13, 1.3, (255, 250, 220))


def _rickshaw(canvas: Canvas, x: float, y: float) -> None:
    _wheel(canvas, x + 4, y - 0.5, 3.4)
    _wheel(canvas, x + 25, y - 0.5, 3.6)
    canvas.polygon([(x + 1, y - 4), (x + 1, y - 10), (x + 8, y - 14), (x + 30, y - 14), (x + 30, y - 4)], (22, 120, 58))
    canvas.polygon([(x + 8, y - 14), (x + 10, y - 24), (x + 30, y - 24), (x + 30, y - 14)], (40, 46, 44))
    canvas.polygon([(x + 7, y - 22), (x + 10, y - 27.5), (x + 29, y - 27.5), (x + 31, y - 22)], (250, 204, 20))
    canvas.box(x + 19, y - 24, x + 21, y - 6, (250, 204, 20))
    canvas.polygon([(x + 7, y - 14), (x + 10, y - 22.5), (x + 12, y - 22.5), (x + 11, y - 14)], (176, 206, 214))
    canvas.disc(x + 2, y - 9, 1.5, (255, 250, 210))


def _pickup(canvas: Canvas, x: float, y: float, w: float, colour: Colour) -> None:
    canvas.polygon(
        [(x, y - 4), (x, y - 13), (x + 0.2 * w, y - 14), (x + 0.55 * w, y - 14), (x + w, y - 14), (x + w, y - 4)],
        colour,
    )
    canvas.polygon(
        [(x + 0.18 * w, y - 13.5), (x + 0.29 * w, y - 24), (x + 0.52 * w, y - 24), (x + 0.54 * w, y - 13.5)], colour
    )
    canvas.polygon(
        [(x + 0.23 * w, y - 14.5), (x + 0.31 * w, y - 22), (x + 0.49 * w, y - 22), (x + 0.5 * w, y - 14.5)],
        (140, 176, 196),
    )
    canvas.box(x + 0.57 * w, y - 14.8, x + w, y - 12.4, mixed(colour, (0, 0, 0), 0.45))
    canvas.box(x, y - 8, x + w, y - 7, mixed(colour, (0, 0, 0), 0.3))
    for wheel in (0.2, 0.8):
        _wheel(canvas, x + wheel * w, y, 4.6)
