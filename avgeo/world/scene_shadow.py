"""Shadows on level ground: away from the sun, as long as the cotangent of its elevation, in true perspective."""

from __future__ import annotations

import math

from avgeo.world.canvas import FOCAL, NEAREST, Canvas, Point, ground_at, seen_at
from avgeo.world.geography import WorldError
from avgeo.world.scene_sky import Light

_LOWEST_DEG = 1.0


def shadow_direction(sun_azimuth_deg: float) -> tuple[float, float]:
    """Where shadows point on the ground seen from above, north up: (right = east, down = south), a unit vector."""
    away = math.radians(sun_azimuth_deg + 180)
    return math.sin(away), -math.cos(away)


def shadow_length(elevation_deg: float) -> float:
    """Length of a shadow in heights of its object: cot(elevation). Under 1 deg it leaves every picture: kept at 57."""
    if not 0 <= elevation_deg <= 90:
        raise WorldError(f"elevation_deg={elevation_deg}: the sun must stand between 0 and 90 deg to cast a shadow")
    return 1 / math.tan(math.radians(max(elevation_deg, _LOWEST_DEG)))


def shadow_tip(x: float, y: float, height: float, sun: tuple[float, float]) -> tuple[Point, float]:
    """Where the shadow of a post ends that stands at (x, y) and is `height` units high in the picture there.

    Returns the tip in units and how large things are there compared with the foot. A shadow that runs past the
    camera is cut where it has left the picture.
    """
    east, north = ground_at(x, y)
    length = height * north / FOCAL * shadow_length(sun[0])
    right, down = shadow_direction(sun[1])
    to_east, to_north = right * length, -down * length
    if north + to_north < NEAREST:
        share = (NEAREST - north) / to_north
        to_east, to_north = share * to_east, share * to_north
    return seen_at(east + to_east, north + to_north), north / (north + to_north)


def cast_shadow(
    canvas: Canvas, light: Light, x: float, y: float, height: float, width: float
) -> tuple[float, float, float]:
    """Mark the shadow of a post `height` by `width` units with its foot at (x, y); returns (x, y, scale) of its tip."""
    if light.sun is None:
        return x, y, 0.0
    (tip_x, tip_y), scale = shadow_tip(x, y, height, light.sun)
    # Across the shadow in the picture: things lie flat, so a width counts less where it points into the depth.
    dx, dy = tip_x - x, tip_y - y
    across_x, across_y = -dy, dx
    length = math.hypot(across_x, across_y) or 1.0
    ox, oy = 0.5 * width * across_x / length, 0.5 * width * across_y / length * 0.7
    canvas.shadow_polygon(
        [
            (x - ox, y - oy),
            (x + ox, y + oy),
            (tip_x + scale * ox, tip_y + scale * oy),
            (tip_x - scale * ox, tip_y - scale * oy),
        ]
    )
    canvas.shadow_disc(x, y, 0.55 * width, 0.13 * width)
    return tip_x, tip_y, scale
