"""The land: relief on the horizon, the ground, bare earth, and what people have built."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float32
from PIL import Image

from avgeo.world.canvas import FOCAL, HIGH, HORIZON, MIDDLE, WIDE, Canvas, Colour, Point, mixed
from avgeo.world.scene_sky import Light

SHORE = 62.0  # where the land begins when the horizon is the sea

PALETTES: dict[str, tuple[Colour, Colour, Colour, str]] = {
    "rainforest": ((40, 92, 40), (66, 122, 50), (14, 92, 36), "palm"),
    "savanna_green": ((126, 164, 58), (158, 182, 74), (78, 128, 36), "umbrella"),
    "savanna_dry": ((208, 174, 84), (226, 198, 116), (146, 128, 54), "umbrella"),
    "desert": ((236, 200, 138), (222, 178, 112), (92, 130, 78), "cactus"),
    "steppe": ((186, 184, 128), (168, 164, 108), (152, 146, 86), "tussock"),
    "mediterranean": ((178, 164, 106), (150, 146, 88), (62, 88, 54), "cypress"),
    "temperate_green": ((96, 170, 72), (122, 188, 84), (44, 118, 46), "tree"),
    "autumn": ((164, 142, 72), (190, 124, 56), (216, 104, 28), "tree"),
    "bare": ((134, 124, 100), (118, 108, 90), (92, 74, 62), "bare"),
    "conifer": ((84, 106, 72), (104, 118, 78), (22, 66, 48), "cone"),
    "snow": ((238, 243, 250), (222, 231, 243), (58, 88, 88), "snow_cone"),
    "tundra": ((128, 110, 84), (156, 86, 60), (150, 84, 58), "cushion"),
}
"""Vegetation -> colour of the ground, of its patches, of the plants; shape of the plants."""
PAVING: tuple[Colour, Colour, Colour, str] = ((152, 150, 148), (140, 138, 137), (126, 118, 114), "wall")
"""What is drawn where walls hide the landscape."""
SOILS: dict[str, Colour] = {
    "red": (192, 64, 30),
    "brown": (116, 76, 44),
    "black": (38, 32, 30),
    "pale": (240, 222, 184),
}


# --- the horizon ---


def draw_horizon(canvas: Canvas, shape: str | None, rng: np.random.Generator) -> None:
    """Sea, mountains, hills or a plain with its fields; what hides an unknown one is `draw_haze`."""
    if shape == "sea":
        canvas.gradient((24, 92, 158), (58, 156, 190), HORIZON - 2, SHORE)
        for _ in range(26):
            x, y = float(rng.uniform(0, WIDE)), float(rng.uniform(HORIZON, SHORE - 1))
            canvas.line([(x, y), (x + rng.uniform(2, 9), y)], (150, 206, 222), 0.5)
        for _ in range(2):
            x = float(rng.uniform(6, 78))
            canvas.polygon([(x, HORIZON - 1), (x + 3, HORIZON - 1), (x + 1, HORIZON - 8)], (250, 250, 246))
    elif shape == "mountain":
        for base, rise, colour in ((10.0, 24.0, (128, 140, 176)), (5.0, 15.0, (86, 96, 128)), (2.0, 7.0, (64, 80, 92))):
            x, top = _ridge(rng, base, rise, rough=1.0)
            if rise > 20:
                _silhouette(canvas, x, top, (244, 247, 252))
                snow_line = HORIZON - base - 0.42 * rise + 3 * np.sin(1.3 * x) + rng.uniform(-1, 1, len(x))
                _silhouette(canvas, x, np.maximum(top + 1.5, snow_line), colour)
            else:
                _silhouette(canvas, x, top, colour)
    elif shape == "hills":
        for base, rise, colour in ((9.0, 12.0, (136, 160, 166)), (5.0, 9.0, (98, 134, 116)), (1.0, 7.0, (70, 110, 76))):
            _silhouette(canvas, *_ridge(rng, base, rise, rough=0.0), colour)
    elif shape == "flat":
        canvas.box(-1, HORIZON - 1.6, WIDE + 1, HORIZON + 1, (84, 104, 82))
        for _ in range(6):
            x, reach = float(rng.uniform(0, WIDE)), float(rng.uniform(3, 10))
            canvas.disc(x, HORIZON - 1, reach, (84, 104, 82), ry=1.3)
        for row, colour in enumerate(((226, 206, 112), (146, 170, 84), (206, 186, 98), (124, 150, 76))):
            canvas.box(-1, HORIZON + 0.6 + 1.3 * row, WIDE + 1, HORIZON + 2.1 + 1.3 * row, colour)


def draw_haze(canvas: Canvas, light: Light) -> None:
    """Mist over the horizon, where its shape is not to be made out."""
    haze = np.array(mixed(light.horizon, (255, 255, 255), 0.06 if light.dark else 0.3), np.float32)
    top, bottom = round((HORIZON - 12) * canvas.sy), round((HORIZON + 7) * canvas.sy)
    y = np.arange(top, bottom) / canvas.sy - HORIZON
    share = np.where(y < 0, 1 + y / 12, 1 - y / 7).clip(0, 0.9).astype(np.float32)[:, None, None]
    rows = np.asarray(canvas.image)[top:bottom].astype(np.float32)
    canvas.paste((rows + share * (haze - rows)).astype(np.uint8), top)


def _ridge(rng: np.random.Generator, base: float, rise: float, rough: float) -> tuple[np.ndarray, np.ndarray]:
    """A skyline of mountains (`rough` 1) or hills (0): (x, y) in units, between `base` and `base + rise` high."""
    x = np.linspace(-2, WIDE + 2, 83)
    if rough:
        peaks = np.arange(-20.0, WIDE + 40, 22) + rng.uniform(-6, 6, 10)[: len(np.arange(-20.0, WIDE + 40, 22))]
        heights = rng.uniform(0.55, 1.0, len(peaks))
        slope = rng.uniform(0.03, 0.045)
        top = np.max(heights - slope * np.abs(x[:, None] - peaks), axis=1).clip(0.1)
        top = top + rough * 0.05 * rng.uniform(-1, 1, len(x))
    else:
        waves = rng.uniform(0, 2 * math.pi, 3)
        top = (
            0.5 + 0.3 * np.sin(x / 17 + waves[0]) + 0.16 * np.sin(x / 8 + waves[1]) + 0.05 * np.sin(x / 3.5 + waves[2])
        )
    return x, HORIZON - base - rise * top


def _silhouette(canvas: Canvas, x: np.ndarray, top: np.ndarray, colour: Colour) -> None:
    edge = list(zip(x.tolist(), np.minimum(top, HORIZON).tolist(), strict=True))
    canvas.polygon([(-2, HORIZON + 1), *edge, (WIDE + 2, HORIZON + 1)], colour)


# --- the ground ---


def draw_ground(canvas: Canvas, vegetation: str | None, horizon: str | None) -> None:
    """Flat ground from the horizon (or the beach, or distant fields) to the feet, paler in the distance."""
    near = PALETTES.get(vegetation or "", PAVING)[0]
    start = {"sea": SHORE + 2, "flat": HORIZON + 5.6}.get(horizon or "", HORIZON)
    if horizon == "sea":
        canvas.gradient((236, 240, 236), (232, 214, 168), SHORE - 1, SHORE + 3)
    canvas.gradient(mixed(near, (206, 214, 222), 0.34), near, start, HIGH)


def ground_texture(
    canvas: Canvas, vegetation: str | None, rng: np.random.Generator
) -> Float32[np.ndarray, "rows columns"]:
    """Relative brightness of the ground in -1..1: blotches that shrink with distance, and a fine grain."""
    rows, columns = canvas.height - round((HORIZON + 1) * canvas.sy), canvas.width
    tile = Image.fromarray(rng.uniform(-1, 1, (96, 256)).astype(np.float32))
    # A texture on level ground: its columns run with (x - middle) / depth, its rows with 1 / depth, where depth grows
    # from `first` at the horizon to 1 at the feet. Pillow wants them as fractions with the denominator 1 + h y.
    blotch, first = 9.0 * canvas.sx, 0.11
    h = (1 - first) / first / rows
    along, middle = 1 / (blotch * first), tile.width / 2
    ratios = (along, middle * h, middle - along * MIDDLE * canvas.sx, 0, 0, 10.0 / first, 0, h)
    field = tile.transform((columns, rows), Image.Transform.PERSPECTIVE, ratios, Image.Resampling.BILINEAR)
    grain = rng.integers(0, 256, (rows, columns), np.uint8).astype(np.float32) / 127.5 - 1
    soft, fine = {"snow": (0.03, 0.012), "desert": (0.05, 0.02), None: (0.03, 0.02)}.get(vegetation, (0.12, 0.05))
    fade = np.linspace(0.35, 1, rows, dtype=np.float32)[:, None]
    return fade * (soft * np.asarray(field) + fine * grain)


def draw_patches(canvas: Canvas, vegetation: str | None, sea: bool, rng: np.random.Generator) -> None:
    """Patches of the ground's second colour (flowers, leaves, wet grass), or the joints of a pavement."""
    ground, second, _, _ = PALETTES.get(vegetation or "", PAVING)
    if vegetation is None:
        for y in (56, 61, 68, 78, 92, 110):
            canvas.line([(0, y), (WIDE, y)], mixed(ground, (0, 0, 0), 0.12), 0.5)
        return
    for _ in range(26):
        y = HORIZON + (14 if sea else 5) + (HIGH - HORIZON - 14) * float(rng.random()) ** 1.3
        depth = (y - HORIZON) / FOCAL
        x = float(rng.uniform(0, WIDE))
        colour = mixed(ground, second, float(rng.uniform(0.4, 1)))
        canvas.disc(x, y, depth * float(rng.uniform(5, 15)), colour, ry=depth * float(rng.uniform(1, 2.6)))


def draw_soil(canvas: Canvas, soil: str, sea: bool, rng: np.random.Generator) -> None:
    """Bare earth: both verges of the road, the front edge and the lower right corner."""
    colour = SOILS[soil]
    start = SHORE + 2 if sea else HORIZON + 1
    depth = (start - HORIZON) / FOCAL
    for side in (-1, 1):
        edge = [(MIDDLE + side * 46 * d, HORIZON + FOCAL * d) for d in (depth, 1.05)]
        far = [(MIDDLE + side * 66 * d, HORIZON + FOCAL * d) for d in (1.05, depth)]
        canvas.polygon([*edge, *far], colour)
    x = np.linspace(112, 164, 9)
    bank = 90 - 3 * np.sin((x - 112) / 52 * math.pi) + rng.uniform(-1.2, 1.2, 9)
    bank[0] = 96
    canvas.polygon([(104, 122), *zip(x.tolist(), bank.tolist(), strict=True), (164, 122)], colour)
    x = np.linspace(-2, 34, 9)
    canvas.polygon(
        [(-2, 122), *zip(x.tolist(), (113 + rng.uniform(-1, 1, 9)).tolist(), strict=True), (36, 122)], colour
    )
    for _ in range(40):
        px, py = float(rng.uniform(112, 160)), float(rng.uniform(93, 119))
        shade = (0, 0, 0) if rng.random() < 0.5 else (255, 255, 255)
        canvas.disc(px, py, float(rng.uniform(0.4, 1.1)), mixed(colour, shade, 0.14), ry=0.4)


# --- what people have built ---


def draw_skyline(canvas: Canvas, kind: str, light: Light, rng: np.random.Generator) -> None:
    """Towers, blocks, houses or huts right of the road's end, x in 85..128; their windows shine in the dark."""
    x = 85.0
    base = HORIZON + 2
    while x < 124:
        if kind == "towers":
            w, h = float(rng.uniform(5.5, 8.5)), float(rng.uniform(24, 42))
            colour = mixed((92, 116, 146), (150, 168, 190), float(rng.random()))
        elif kind == "blocks":
            w, h = float(rng.uniform(11, 14)), float(rng.uniform(15, 20))
            colour = mixed((196, 180, 158), (168, 164, 166), float(rng.random()))
        elif kind == "houses":
            w, h = float(rng.uniform(9, 12)), float(rng.uniform(6, 7.5))
            colour = mixed((240, 228, 204), (222, 190, 150), float(rng.random()))
        else:
            w, h = float(rng.uniform(8, 10)), float(rng.uniform(3.4, 4.2))
            colour = mixed((168, 120, 76), (140, 96, 60), float(rng.random()))
        w = min(w, 128 - x)
        top = base - h
        canvas.box(x, top, x + w, base, colour)
        canvas.box(x + 0.72 * w, top, x + w, base, mixed(colour, (20, 24, 40), 0.25))
        if kind == "houses":
            roof = mixed((186, 72, 48), (150, 56, 44), float(rng.random()))
            canvas.polygon(
                [(x - 1, top + 0.5), (x + w + 1, top + 0.5), (x + 0.76 * w, top - 6), (x + 0.24 * w, top - 6)], roof
            )
            x += 2.5
        elif kind == "huts":
            canvas.polygon([(x - 2, top + 1), (x + w + 2, top + 1), (x + w / 2, top - 8.5)], (196, 160, 84))
            canvas.line([(x + w / 2, top - 8.5), (x + w / 2 + 2, top)], (160, 124, 60), 0.7)
            canvas.box(x + 0.4 * w, base - 3, x + 0.6 * w, base, (60, 40, 28))
            x += 4.5
        elif kind == "towers" and rng.random() < 0.4:
            canvas.line([(x + w / 2, top), (x + w / 2, top - 5)], colour, 0.8)
        _windows(canvas, kind, (x if kind in ("towers", "blocks") else x - 2.5, top, w, h), colour, light, rng)
        x += w + (0.4 if kind in ("towers", "blocks") else 0.0)


def _windows(
    canvas: Canvas,
    kind: str,
    box: tuple[float, float, float, float],
    wall: Colour,
    light: Light,
    rng: np.random.Generator,
) -> None:
    if kind == "huts":
        return
    x, top, w, h = box
    step_x, step_y = {"towers": (2.0, 2.6), "blocks": (2.9, 4.2), "houses": (4.0, 5.0)}[kind]
    for row in np.arange(top + 1.4, top + h - 2, step_y).tolist():
        for column in np.arange(x + 0.9, x + w - 1.2, step_x).tolist():
            shining = light.dark and rng.random() < 0.55
            colour = (255, 214, 120) if shining else mixed(wall, (36, 52, 84), 0.55)
            canvas.box(column, row, column + 0.6 * step_x, row + 0.55 * step_y, colour, own=shining)


def draw_walls(canvas: Canvas) -> None:
    """The walls that hide a landscape, left and right of the road; lower than the camera: the horizon shows."""
    wall = (134, 122, 114)
    for side in (-1, 1):
        for near, far in zip((0.9, 0.34, 0.2, 0.142, 0.11), (0.34, 0.2, 0.142, 0.11, 0.09), strict=True):
            # bays between pillars at a constant distance from the road's middle, 0.7 camera heights high
            def corner(depth: float, height: float, side: int = side) -> Point:
                return MIDDLE + side * 100 * depth, HORIZON + FOCAL * (1 - height) * depth

            canvas.polygon([corner(near, 0), corner(near, 0.7), corner(far, 0.7), corner(far, 0)], wall)
            canvas.polygon(
                [corner(near, 0.64), corner(near, 0.74), corner(far, 0.74), corner(far, 0.64)], (176, 166, 158)
            )
            canvas.line([corner(far, 0), corner(far, 0.74)], (104, 94, 88), 14 * far)
