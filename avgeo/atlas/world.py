"""The map under the atoms' dots: Natural Earth's land in Equal Earth, as whole numbers a browser draws at once."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float, Int

WIDTH, HEIGHT = 2000, 973
"""Size of the map in its own units: those of every number here, x to the right and y down."""

_SMOOTH = 1.5  # map units that an outline may be off


def project(
    latitude_deg: Float[np.ndarray, " points"], longitude_deg: Float[np.ndarray, " points"]
) -> Int[np.ndarray, "points 2"]:
    """x and y on the map, which is equal-area (Equal Earth: Šavrič, Patterson & Jenny 2018)."""
    return np.rint(_exact(np.stack([longitude_deg, latitude_deg], -1).astype(float))).astype(np.int64)


def outlines() -> dict[str, list[list[int]]]:
    """`globe` (one ring), `land` (many) and `grid` (open lines each 30°), each line as x, y, dx, dy, dx, dy, ..."""
    import shapefile
    from shapely import segmentize, transform
    from shapely.geometry import LineString, Polygon, shape

    from avgeo.world.geography import natural_earth

    land: list[list[int]] = []
    reader: Any
    with shapefile.Reader(str(natural_earth("land"))) as reader:
        for record in reader.shapes():
            geometry = shape(record.__geo_interface__)
            for part in getattr(geometry, "geoms", [geometry]):
                # edges along the pole and the antimeridian are long, and curves on the map
                drawn: Any = transform(segmentize(Polygon(part.exterior), 2.0), _exact).simplify(_SMOOTH)
                if drawn.area > _SMOOTH**2:
                    land.append(_steps(np.asarray(drawn.exterior.coords)))
    up, down = np.arange(-90, 91, 5.0), np.arange(90, -91, -5.0)
    side = np.concatenate([np.stack([np.full_like(up, 180), up], -1), np.stack([np.full_like(down, -180), down], -1)])
    lines = [[(longitude, latitude) for latitude in up] for longitude in range(-150, 180, 30)]
    lines += [[(longitude, latitude) for longitude in (-180, 180)] for latitude in range(-60, 90, 30)]
    grid = [_steps(np.asarray(transform(LineString(line), _exact).simplify(_SMOOTH).coords)) for line in lines]
    return {"globe": [_steps(_exact(side))], "land": land, "grid": grid}


def _exact(points: Float[np.ndarray, "points 2"]) -> Float[np.ndarray, "points 2"]:
    """Longitude and latitude in degrees on the map, not rounded."""
    import cartopy.crs as ccrs

    equal_earth = ccrs.EqualEarth()
    west, east = equal_earth.x_limits
    south, north = equal_earth.y_limits
    # just inside the antimeridian: beyond it, a rounding error would turn up on the other side
    inside = np.clip(points[:, 0], -180 + 1e-9, 180 - 1e-9)
    plane = equal_earth.transform_points(ccrs.PlateCarree(), inside, points[:, 1])[:, :2]
    return np.stack(
        [(plane[:, 0] - west) / (east - west) * WIDTH, (north - plane[:, 1]) / (north - south) * HEIGHT], -1
    )


def _steps(line: Float[np.ndarray, "points 2"]) -> list[int]:
    """A line as its first point and the steps from there, in whole units; points that coincide are one."""
    whole = np.rint(line).astype(int)
    steps = np.diff(whole, axis=0)
    return [*whole[0].tolist(), *steps[steps.any(1)].flatten().tolist()]
