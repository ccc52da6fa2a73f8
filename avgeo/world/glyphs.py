"""Letters of the world's scripts as pen strokes: real letters, simplified to what stays legible at 64 x 48 pixels.

A letter stands on a grid of 9 x 10 points (x in 0-8, y in 0-9 from the top, two digits a point). Strokes are
separated by blanks: "00-89" is a polyline, "~01-40-71" a smooth curve through its points, "o443" a ring (centre,
radius) and ".48" a dot. A headline (Devanagari, Bengali) or baseline (Arabic) that joins letters is a stroke that
ends in x = "9", the space between letters.
"""

from __future__ import annotations

from functools import cache

import numpy as np

GLYPHS: dict[str, tuple[str, ...]] = {
    "latin": (
        "09-40-89 26-66", "09-00 ~00-60-82-74-05 45-89", "~81-40-02-34-65-87-49-08", "80-00-09-89 05-65",
        "09-00-89-80",
    ),
    "cyrillic": (
        "40-49 00-45-80 09-44-89", "89-80-30 ~30-02-15-35-85 45-09", "00-09-80-89", "00-08-88-80 40-48 88-89",
        "40-49 ~40-12-14-46-74-72-40",
    ),
    "greek": (
        "80-00-54-09-89", "~09-29-15-02-40-82-75-69-89", "09-40-89-09", "40-49 ~00-04-46-84-80",
        "00-80 24-64 09-89",
    ),
    "arabic": (
        "96-86-82 86-06-03 .49", "97-76-57-27 ~72-32-34-64 ~34-17-29-69 .56", "96-84 96-66-64 66-46-44 46-06-04",
        "96-66 80-85 ~66-42-23-35-66-06 .40 .20", "96-86-80 86-46-40 46-06 .29 .69",
    ),
    "hebrew": (
        "00-89 80-82-54 25-05-09", "00-70-79 09-89", "00-05-09-89-80 40-46", "00-80-89 05-09", "00-80-89-09-00",
    ),
    "han": (
        "00-80-89-09-00 22-62 25-65 27-67 42-47", "01-81 40-49 14-74 12-17-77-72-12 47-09 47-89",
        "03-83 40-43 43-09 43-89 17-77", "02-82-86-06-02 40-49 04-84", "00-80 10-14-74-70 05-85 45-09 45-89 27-67",
    ),
    "kana": (
        "~42-38-17-15-32-72-85-68", "01-81-54 43-45-19", "02-82-79-58 40-43-09", "~02-82 ~50-55-36-35-55-49",
        "20-27-49-88",
    ),
    "hangul": (
        "00-40 o131 60-65 63-83 17-19-79", "00-03-43 60-65 62-82 o271", "10-50-50 04-50 80-86 28-88 28-29",
        "01-41-45-05-01 70-79 74-94", "o332 18-68 36-38",
    ),
    "devanagari": (
        "00-90 70-79 71-31 ~31-13-25-45-55-37-28", "00-90 70-79 ~03-24-44-43-24-06-18 44-74",
        "00-90 70-79 20-24 ~24-46-74", "00-90 40-49 ~43-13-15-47 ~43-73-75-67", "00-90 70-79 20-25-75",
    ),
    "bengali": (
        "00-90 70-79-05-70", "00-90 40-49-05-43 43-73-77", "00-90 70-79-34-30 .29", "00-90 10-15-79-70 15-72",
        "00-90 70-79 74-24-07-79",
    ),
    "thai": (
        "o131 25-29 ~23-20-40-70-82 82-89", "o111 02-09-45-89-80", "o711 82-85 ~85-89-19-05-03-31",
        "o161 07-28-69-81 ~81-40-11", "o141 15-19-79-73 ~73-20-31",
    ),
    "khmer": (
        "00-20-31-22-02-06-26 60-80-71-62-66-86 08-28-38-68-88", "10-30-21-12-17-77-70-90 41-47 19-59",
        "00-12-20-32-40-52-60 03-07-27-24 54-57-87-83-53 29-79", "01-10-21-31-40-51 02-06-86-82-62 42-46 08-39-88",
    ),
    "georgian": (
        "~02-11-42-44 ~45-82-85-68-19-06", "~05-01-31-45-41-71-85-59-09", "o452 ~20-41-43",
        "~72-31-13-26-66-86-59-08", "~03-20-41-44-41-70-83-87-48-06",
    ),
    "armenian": (
        "00-07-29-59-77-70", "~09-02-20-50-72-77-97", "00-09 ~03-30-60-73-76-96", "09-01-41-49-89 45-85",
        "00-05-65-60 65-69-99",
    ),
    "ethiopic": (
        "01-81 11-19 41-49 71-79", "o432 45-49 02-04 82-84", "~03-31-81 21-29 61-69 69-89", "o242 o642 26-29 66-69",
        "00-80 40-49 ~12-15-75-72",
    ),
    "tibetan": (
        "00-80 70-79 71-31-34-54 34-17", "00-80 20-23-53-50 53-69-98", "00-80 10-13-73 45-73-79-58",
        "00-80 60-62-22-25-65 65-39-17",
    ),
    "round_indic": ("o252 o652 ~21-42-61", "o443 o441 ~70-72", "o262 ~46-43-61-83-87-69-48", "o542 ~36-15-12-40 o181"),
}  # fmt: skip
"""Script -> letters; a board shows four of them."""

Stroke = tuple[str, tuple[tuple[float, float], ...], float]
"""("line" | "ring" | "dot", points, radius) in grid units."""


@cache
def strokes(script: str) -> tuple[tuple[Stroke, ...], ...]:
    """The letters of a script as strokes, curves already bent."""
    return tuple(tuple(_stroke(text) for text in letter.split()) for letter in GLYPHS[script])


def _stroke(text: str) -> Stroke:
    if text[0] in "o.":
        radius = float(text[3]) if text[0] == "o" else 0.9
        return "ring" if text[0] == "o" else "dot", ((float(text[1]), float(text[2])),), radius
    points = np.array([(int(p[0]), int(p[1])) for p in text.removeprefix("~").split("-")], float)
    if text[0] == "~":
        points = _bent(points)
    return "line", tuple((float(x), float(y)) for x, y in points), 0.0


def _bent(points: np.ndarray, steps: int = 5) -> np.ndarray:
    """A Catmull-Rom curve through `points`: (n, 2) -> ((n - 1) * steps + 1, 2)."""
    padded = np.concatenate([2 * points[:1] - points[1:2], points, 2 * points[-1:] - points[-2:-1]])
    t = np.arange(steps)[:, None] / steps
    curve = [
        b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))
        for a, b, c, d in zip(padded, padded[1:], padded[2:], padded[3:], strict=False)
    ]
    return np.concatenate([*curve, points[-1:]])
