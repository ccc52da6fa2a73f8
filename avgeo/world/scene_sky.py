"""The light of a picture and its sky: colours by the class of the sun, clouds, the disc, stars."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from avgeo.world.canvas import FOCAL, HIGH, HORIZON, MIDDLE, WIDE, Canvas, Colour, enlarged, noise

OVERCAST = "overcast"
_RANGE = (80, 27)  # columns and rows of the coarse sky


@dataclass(frozen=True)
class Light:
    """How a scene is lit.

    `gain` and `ambient` turn a colour in neutral daylight into the drawn one (RGB), `shade` is how much a shadow
    darkens (0: there are none), `sun` the angles (elevation_deg, azimuth_deg) or None where no sun is up.
    """

    name: str
    zenith: Colour
    horizon: Colour
    glow: Colour
    gain: tuple[float, float, float]
    ambient: tuple[float, float, float]
    shade: float
    sun: tuple[float, float] | None

    @property
    def dark(self) -> bool:
        """Whether lamps and windows shine into a dark scene."""
        return self.name in ("night", "twilight")

    @property
    def side(self) -> float:
        """From which side things are lit: -1 from the left (west), +1 from the right, 0 from all sides alike."""
        if self.sun is None:
            return 0.0
        return math.sin(math.radians(self.sun[1])) * math.cos(math.radians(self.sun[0]))


# zenith, horizon, glow around the sun, gain, ambient, darkness of shadows
_LIGHTS = {
    OVERCAST: ((158, 164, 172), (204, 207, 209), (204, 207, 209), (0.84, 0.85, 0.87), (10, 10, 10), 0.0),
    "night": ((10, 14, 40), (46, 50, 88), (46, 50, 88), (0.34, 0.37, 0.48), (4, 6, 20), 0.0),
    "twilight": ((52, 52, 122), (214, 122, 122), (255, 158, 84), (0.56, 0.49, 0.58), (12, 8, 22), 0.0),
    "low": ((78, 128, 206), (240, 206, 166), (255, 214, 128), (1.02, 0.93, 0.79), (4, 2, 2), 0.58),
    "high": ((54, 124, 220), (180, 216, 246), (252, 250, 232), (1.0, 1.0, 0.98), (4, 4, 6), 0.55),
    "overhead": ((16, 92, 214), (116, 186, 250), (116, 186, 250), (1.07, 1.06, 1.0), (14, 14, 11), 0.6),
}

_CLOUDS = {
    "night": (34, 38, 66), "twilight": (150, 92, 124), "low": (255, 226, 196), "high": (250, 252, 255),
    "overhead": (252, 253, 255),
}  # fmt: skip


def light_of(name: str | None, sun: tuple[float, float] | None) -> Light:
    """The light of a value of the cue `sun` (None: overcast, which tells no time) at `sun` degrees.

    Things are dark against a sun in the picture's north and bright when it stands behind the camera.
    """
    kind = OVERCAST if name is None else name.split("_")[0]
    zenith, horizon, glow, gain, ambient, shade = _LIGHTS[kind]
    if kind in ("low", "high") and sun is not None:
        facing = -math.cos(math.radians(sun[1])) * math.cos(math.radians(sun[0]))
        strength = 0.96 + (0.14 if facing > 0 else 0.26) * facing
        gain = (gain[0] * strength, gain[1] * strength, gain[2] * strength)
    up = sun if kind in ("low", "high", "overhead") else None
    return Light(kind, zenith, horizon, glow, gain, ambient, shade, up)


def draw_sky(canvas: Canvas, light: Light, sun: tuple[float, float] | None, rng: np.random.Generator) -> None:
    """Fill the picture down to just below the horizon; `sun` also for twilight, whose glow has a side."""
    columns, rows = _RANGE
    x = ((np.arange(columns) + 0.5) * WIDE / columns - MIDDLE) / FOCAL
    y = (HORIZON - (np.arange(rows)[:, None] + 0.5) * (HORIZON + 4) / rows) / FOCAL
    height = np.broadcast_to((y / y.max()).clip(0, 1) ** 0.7, (rows, columns))[..., None]
    sky = np.array(light.horizon, float) + height * (np.array(light.zenith, float) - light.horizon)
    if sun is not None and light.name in ("twilight", "low", "high"):
        elevation, azimuth = np.radians(sun)
        ray = np.stack(np.broadcast_arrays(x, 1.0, y), axis=-1)
        ray = ray / np.linalg.norm(ray, axis=-1, keepdims=True)
        towards = (
            math.cos(elevation) * math.sin(azimuth),
            math.cos(elevation) * math.cos(azimuth),
            math.sin(elevation),
        )
        cosine = (ray @ np.array(towards)).clip(0, 1)[..., None]
        wide, tight = {"twilight": (0.7, 0.0), "low": (0.6, 0.5), "high": (0.85, 0.15)}[light.name]
        amount = wide * cosine ** (2.5 if light.name != "high" else 1.8) + tight * cosine**60
        sky += amount.clip(0, 1) * (np.array(light.glow, float) - sky)
    field = noise(rng, (5, 4), _RANGE) + 0.6 * noise(rng, (10, 8), _RANGE) + 0.35 * noise(rng, (20, 14), _RANGE)
    if light.name == OVERCAST:
        sky += 13 * field[..., None]
    else:  # scattered clouds, thinner at the zenith
        cover = (1.1 * (field - rng.uniform(0.15, 0.6))).clip(0, 0.75)[..., None]
        sky += cover * (np.array(_CLOUDS[light.name], float) - sky)
    size = (canvas.width, round((HORIZON + 4) / HIGH * canvas.height))
    canvas.paste(enlarged(sky, size), 0)
    if light.name == "night":
        for px, py in rng.random((46, 2)) * (WIDE, HORIZON - 6):
            canvas.disc(px, py, float(rng.uniform(0.15, 0.5)), (226, 228, 240), own=True)
    if light.sun is not None:
        _disc(canvas, light.sun, light)


def _disc(canvas: Canvas, sun: tuple[float, float], light: Light) -> None:
    """The sun itself where it is in view, by the same pinhole as the ground."""
    elevation, bearing = math.radians(sun[0]), math.radians((sun[1] + 180) % 360 - 180)
    if math.cos(bearing) < 0.3:
        return
    x = MIDDLE + FOCAL * math.tan(bearing)
    y = HORIZON - FOCAL * math.tan(elevation) / math.cos(bearing)
    if -10 < x < WIDE + 10 and y > -10:
        canvas.glow(x, y, 24, (255, 240, 190), 0.9)
        canvas.disc(x, y, 4.6, (255, 250, 214) if light.name == "high" else (255, 238, 160), own=True)
