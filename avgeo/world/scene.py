"""Frames of a clip from its visible cues: one street that looks north, drawn from the cues' values and nothing else.

The picture is 160 x 120 units (`canvas`), seen through a pinhole that looks along the ground: up is north, right is
east. Every cue has a region of its own (`scene_street.REGIONS`), so that all of them can be seen together:

- sky and light: `sun`; the horizon behind: `horizon`; right of the road's end: `skyline`;
- the ground and both sides: `vegetation`; verges and the lower right corner: `soil`;
- the middle: `road_surface`, `centre_line`, the oncoming vehicle on its `driving_side`; above it `street_light`;
- upper left: the board with its `script`; upper right: `warning_sign`; lower left: the car with its `plate`; right of
  the road: `parked`; over everything: `wetness` and `snowfall`.

What a cue leaves open ("none") is drawn neutrally: haze instead of a horizon, a trodden track instead of a road
surface, pavement and walls instead of plants, an overcast sky without shadows instead of a sun. What moves is put over
copies of one still picture, so that a clip costs little more than a frame.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import UInt8

from avgeo.world import scene_land as land
from avgeo.world import scene_motion as motion
from avgeo.world import scene_plants as plants
from avgeo.world import scene_sky as sky
from avgeo.world import scene_street as street
from avgeo.world import scene_vehicles as vehicles
from avgeo.world.canvas import Canvas
from avgeo.world.cues import CUES, NONE
from avgeo.world.geography import WorldError
from avgeo.world.scene_shadow import shadow_direction, shadow_length, shadow_tip
from avgeo.world.visible import class_of_sun

__all__ = ["draw_frames", "shadow_direction", "shadow_length", "shadow_tip"]

Sun = tuple[float, float] | None

# Every element draws from a generator of its own, so that one cue leaves the others' random details alone.
_ELEMENTS = (
    "sky", "horizon", "patches", "texture", "soil", "skyline", "plants", "road_surface", "script", "plate", "parked",
    "driving_side", "wetness", "snowfall", "drops", "rain",
)  # fmt: skip


def draw_frames(
    cues: Mapping[str, str], sun: Sun, count: int, width: int, height: int, rng: np.random.Generator
) -> UInt8[np.ndarray, "count height width 3"]:
    """`count` frames of `width` x `height` pixels with visible `cues` (cue -> value, absent ones left out).

    `sun` is (elevation, azimuth) in degrees in the picture, inside the bounds of the class that `cues["sun"]` names,
    and None exactly when there is no such cue. Place-independent details (positions, paints, clouds, letters) come from
    `rng`: the same state gives the same bytes. Raises `WorldError` for unknown cues or values, for a sun that does not
    fit, and for sizes under 16 pixels.
    """
    _check(cues, sun, count, width, height)
    seeds = rng.integers(2**63, size=len(_ELEMENTS)).tolist()
    rngs = {name: np.random.default_rng(seed) for name, seed in zip(_ELEMENTS, seeds, strict=True)}
    light = sky.light_of(cues.get("sun"), sun)
    canvas = Canvas(width, height, light.gain, light.ambient)
    _draw_still(canvas, cues, sun, light, rngs)
    frames = np.empty((count, height, width, 3), np.uint8)
    frames[:] = canvas.reduced()
    if "driving_side" in cues:
        motion.add_vehicle(frames, cues["driving_side"], light, rngs["driving_side"])
    if cues.get("snowfall") == "flakes":
        motion.add_flakes(frames, light, rngs["snowfall"])
    if "wetness" in cues:
        motion.add_rain(frames, light, rngs["rain"])
    return frames


def _check(cues: Mapping[str, str], sun: Sun, count: int, width: int, height: int) -> None:
    for name, value in cues.items():
        if name not in CUES or CUES[name].sense != "visible":
            raise WorldError(f"cues: {name!r} is no visible cue; leave it out")
        if value == NONE or value not in CUES[name].values:
            values = ", ".join(CUES[name].values[:-1])
            raise WorldError(f"cues: {name}={value!r} is not drawn; choose one of {values}, or leave it out")
    if (sun is None) != ("sun" not in cues):
        raise WorldError(f"sun={sun} with cues['sun']={cues.get('sun')!r}: give both or neither")
    if sun is not None:
        (low, high), (west, east) = class_of_sun(cues["sun"])
        if not (low <= sun[0] <= high and 0 <= (sun[1] - west) % 360 <= east - west):
            raise WorldError(f"sun={sun}: lies outside {cues['sun']}; draw it inside `class_of_sun`'s bounds")
    if count < 1 or min(width, height) < 16:
        raise WorldError(f"count={count}, width={width}, height={height}: at least 1 frame of 16 x 16 pixels")


def _draw_still(
    canvas: Canvas, cues: Mapping[str, str], sun: Sun, light: sky.Light, rngs: Mapping[str, np.random.Generator]
) -> None:
    """Everything that stands still, from far to near; shadows fall on what lies flat before anything stands on it."""
    vegetation, horizon = cues.get("vegetation"), cues.get("horizon")
    sea = horizon == "sea"
    growth = plants.plan_plants(vegetation, sea, rngs["plants"])

    sky.draw_sky(canvas, light, sun, rngs["sky"])
    land.draw_horizon(canvas, horizon, rngs["horizon"])

    land.draw_ground(canvas, vegetation, horizon)
    land.draw_patches(canvas, vegetation, sea, rngs["patches"])
    if "soil" in cues:
        land.draw_soil(canvas, cues["soil"], sea, rngs["soil"])
    street.draw_road(canvas, cues.get("road_surface"), vegetation, sea, rngs["road_surface"])
    if "centre_line" in cues:
        street.draw_centre_line(canvas, cues["centre_line"], sea)
    if cues.get("snowfall") == "lying":
        street.draw_snow(canvas, rngs["snowfall"])
    if light.sun is not None:
        street.shade_furniture(canvas, cues, light)
        for plant in growth:
            plants.shade_plant(canvas, plant, light)
    canvas.finish_ground(land.ground_texture(canvas, vegetation, rngs["texture"]), light.shade)
    if "wetness" in cues:
        street.draw_puddles(canvas, light, rngs["wetness"])

    if horizon is None:
        land.draw_haze(canvas, light)
    if vegetation is None:
        land.draw_walls(canvas)
    if "skyline" in cues:
        land.draw_skyline(canvas, cues["skyline"], light, rngs["skyline"])
    for plant in growth:
        plants.draw_plant(canvas, plant, light.side)
    if "street_light" in cues:
        street.draw_lamps(canvas, light)
    if "parked" in cues:
        vehicles.draw_parked(canvas, cues["parked"], rngs["parked"])
    street.draw_post(canvas, light)
    if "script" in cues:
        street.draw_board(canvas, cues["script"], rngs["script"])
    if "warning_sign" in cues:
        street.draw_warning_sign(canvas, cues["warning_sign"])
    if "plate" in cues:
        vehicles.draw_plate_car(canvas, cues["plate"], rngs["plate"])
    if cues.get("snowfall") == "lying":
        street.draw_snow_caps(canvas, cues)
    if "wetness" in cues:
        street.draw_drops(canvas, light, rngs["drops"])
