"""The report's map as SVG: land, credible regions as polygons and marks; whole without its script, which only zooms."""

from __future__ import annotations

import html
import itertools
from collections.abc import Sequence

import numpy as np

from avgeo.atlas.world import HEIGHT, WIDTH, outlines, project
from avgeo.plots.maps import _grid, _nearby_mean, _unit, credible_levels

_PIXELS = 260  # of the raster that a region's outline is drawn from, across the region
_MARGIN = 40  # map units around a region: room for its outline


def map_svg(
    density: Sequence[np.ndarray],
    marks: Sequence[tuple[str, float, float, str]],
    masses: Sequence[float],
    label: str,
) -> str:
    """The map, in Equal Earth, of `density`: (latitude_deg, longitude_deg, log_prob[, area]), with regions of `masses`.

    `marks` are (class, latitude_deg, longitude_deg, title). All texts are escaped here, once: give them plain.
    """
    *grid, area = density if len(density) == 4 else (*density, None)
    latitude, longitude, values, area = _grid(*grid, area=area)
    points, places = _unit(latitude, longitude), project(latitude, longitude)
    world = outlines()
    body = "".join(f'<path class="{kind}" d="{_line(steps, kind)}"/>' for kind in ("globe", "grid", "land")
                   for steps in world[kind])  # fmt: skip
    if np.ptp(values) > 1e-3:
        levels = credible_levels(values, area, masses)
        for mass, (level, _) in sorted(zip(masses, levels, strict=True), reverse=True):
            path = _region(points, values, places[values >= level], level)
            body += f'<path class="region" d="{path}"><title>{100 * mass:.0f} % region</title></path>'
    for kind, at, along, title in marks:
        x, y = project(np.array([at]), np.array([along]))[0]
        body += (
            f'<g class="mark {kind}" transform="translate({x} {y})"><circle class="dot" r="11"/>'
            f"<title>{html.escape(title)}</title></g>"
        )
    return (
        f'<svg id="world" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" tabindex="0" aria-label="{html.escape(label)}">'
        f"{body}</svg>"
    )


def _line(steps: Sequence[int], kind: str) -> str:
    pairs = " ".join(map(str, steps[2:]))
    return f"M{steps[0]} {steps[1]}l{pairs}" + ("" if kind == "grid" else "z")


def _region(points: np.ndarray, values: np.ndarray, inside: np.ndarray, level: float) -> str:
    """Where the density is at least `level`: read off a raster as fine as the region is small."""
    import cartopy.crs as ccrs
    from contourpy import FillType, contour_generator

    low = np.maximum(inside.min(axis=0) - _MARGIN, 0)
    high = np.minimum(inside.max(axis=0) + _MARGIN, (WIDTH, HEIGHT))
    x, y = np.meshgrid(*(np.linspace(a, b, _PIXELS) for a, b in zip(low, high, strict=True)))
    earth = ccrs.EqualEarth()
    (west, east), (south, north) = earth.x_limits, earth.y_limits
    plane = west + x / WIDTH * (east - west), north - y / HEIGHT * (north - south)
    degrees = ccrs.PlateCarree().transform_points(earth, *plane)
    on_map = np.isfinite(degrees[..., :2]).all(-1) & (np.abs(degrees[..., 0]) <= 180) & (np.abs(degrees[..., 1]) <= 90)
    raster = np.full(x.shape, values.min() - 60)
    raster[on_map] = _nearby_mean(points, values, _unit(degrees[on_map, 1], degrees[on_map, 0]))
    drawn = contour_generator(x, y, raster, fill_type=FillType.OuterOffset).filled(level, np.inf)
    path = ""
    for corners, offsets in zip(*drawn, strict=True):
        for a, b in itertools.pairwise(offsets):
            path += "M" + "L".join(f"{u:.1f} {v:.1f}" for u, v in corners[a:b]) + "z"
    return path
