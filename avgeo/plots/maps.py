"""Maps of places and densities, equal-area (Equal Earth: Šavrič, Patterson & Jenny 2018), with no network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pandas as pd
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from avgeo import paths
from avgeo.plots.style import (
    FAINT,
    HEAT,
    INK,
    LAND,
    MARKERS,
    PALETTE,
    SEA,
    Drawn,
    PlotError,
    drawn,
    new_figure,
    place_text,
    readable,
    styled,
)
from avgeo.sphere import EARTH_AREA_KM2, EARTH_RADIUS_KM

OUTLINE = "#6d7a86"
BORDERS = {"coastline": 0.5, "admin_0_boundary_lines_land": 0.25}
"""Outlines on every map, and how thick they are drawn (points)."""

LINES = ("-", "--", ":")
"""Outlines of the credible regions, the smallest first."""

_HALO = [withStroke(linewidth=4.5, foreground="white")]
_STAR: dict[str, Any] = {"marker": "*", "markersize": 16, "color": PALETTE[2], "markeredgecolor": "white"}
_RING: dict[str, Any] = {"marker": "o", "markersize": 10, "color": PALETTE[0], "markerfacecolor": "none",
                         "markeredgewidth": 2.4, "path_effects": _HALO}  # fmt: skip

CLOSE_UP_KM = 2500
"""A last region that stays this near to the mode is also drawn close up."""


def _layer(layer: str) -> Any:
    """A layer of the vendored Natural Earth outlines; raises `PlotError` when they are gone."""
    import cartopy
    from cartopy.feature import NaturalEarthFeature

    folder = paths.data_dir() / "natural_earth"
    if not (folder / "shapefiles" / "natural_earth" / "physical" / "ne_110m_land.shp").is_file():
        raise PlotError(f"no Natural Earth outlines in {folder}: reinstall avgeo, or restore its data/ folder")
    cartopy.config["pre_existing_data_dir"] = str(folder)
    return NaturalEarthFeature("cultural" if layer.startswith("admin") else "physical", layer, "110m")


def world_axes(figure: Figure, where: Any = 111) -> Any:
    """An equal-area map of the Earth, to draw on."""
    import cartopy.crs as ccrs

    axes: Any = figure.add_subplot(where, projection=ccrs.EqualEarth())
    axes.set_global()
    axes.set_facecolor(SEA)
    axes.spines["geo"].set(edgecolor=FAINT, linewidth=0.8)
    axes.add_feature(_layer("land"), facecolor=LAND, edgecolor="none", zorder=0)
    for layer, width in BORDERS.items():
        axes.add_feature(_layer(layer), facecolor="none", edgecolor=OUTLINE, linewidth=width, zorder=3)
    return axes


def _close_up(figure: Figure, where: Any, latitude_deg: float, longitude_deg: float, reach_km: float) -> Any:
    """An equal-area map of the surroundings of one place.

    Land is a mask and borders are projected point by point: cartopy's own way of cutting polygons fails for
    some centres (a pole, the date line).
    """
    import cartopy.crs as ccrs
    import shapely

    centre = ccrs.LambertAzimuthalEqualArea(central_longitude=longitude_deg, central_latitude=latitude_deg)
    axes: Any = figure.add_subplot(where, projection=centre)
    reach_m = 1000 * reach_km
    axes.set(xlim=(-reach_m, reach_m), ylim=(-reach_m, reach_m))
    axes.spines["geo"].set(edgecolor=FAINT, linewidth=0.8)
    axes.set_title(f"close-up, {2 * reach_km:,.0f} km across", fontsize=9.5, fontweight="normal", loc="center")
    x, y = np.meshgrid(*2 * [np.linspace(-reach_m, reach_m, 400)])
    degrees = ccrs.PlateCarree().transform_points(centre, x, y)
    land = shapely.union_all(list(_layer("land").geometries()))
    mask = shapely.contains_xy(land, degrees[..., 0], degrees[..., 1])
    extent = (-reach_m, reach_m, -reach_m, reach_m)
    axes.imshow(mask, extent=extent, origin="lower", cmap=ListedColormap([SEA, LAND]), vmin=0, vmax=1, zorder=0)
    for layer, width in BORDERS.items():
        for line in shapely.get_parts(list(_layer(layer).geometries())):
            drawn_m = centre.transform_points(ccrs.PlateCarree(), *np.asarray(line.coords).T[:2])[:, :2]
            drawn_m[~(np.abs(drawn_m).max(axis=1) < 3 * reach_m + 1.5e6)] = np.nan  # far away, or the antipode
            axes.plot(*drawn_m.T, color=OUTLINE, linewidth=width, zorder=3, scalex=False, scaley=False)
    axes.set(xlim=(-reach_m, reach_m), ylim=(-reach_m, reach_m))
    return axes


@styled
def world_map(points: pd.DataFrame, hue: str | None = None, title: str | None = None, size: float = 16) -> Drawn:
    """Places on a world map, coloured by the column `hue` (such as split or continent).

    `points` has latitude_deg and longitude_deg, one line per place. The commonest group is drawn first.
    """
    import cartopy.crs as ccrs

    wanted = ["latitude_deg", "longitude_deg", *([hue] if hue else [])]
    missing = [name for name in wanted if name not in points.columns]
    if missing:
        raise PlotError(f"points has no column {missing[0]!r}: columns are {', '.join(map(str, points.columns))}")
    figure = new_figure(4.5)
    axes = world_axes(figure)
    groups = points[hue].astype(str).value_counts() if hue else pd.Series({"places": len(points)})
    for at, (name, count) in enumerate(groups.items()):
        part = points[points[hue].astype(str) == name] if hue else points
        look: dict[str, Any] = {"color": PALETTE[at % len(PALETTE)], "marker": MARKERS[at % len(MARKERS)]}
        axes.scatter(
            part["longitude_deg"], part["latitude_deg"], s=size, transform=ccrs.PlateCarree(), zorder=4,
            edgecolor="white", linewidth=0.4, label=drawn(f"{name} ({count})"), **look,
        )  # fmt: skip
    if hue and len(groups):
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=min(4, len(groups)), markerscale=1.4)
    if title:
        axes.set_title(title)
    alt = f"World map of {len(points)} place{'s' * (len(points) != 1)}"
    if hue:
        alt += f" by {readable(hue)}: " + ", ".join(f"{name} {count}" for name, count in groups.items())
    if len(points):
        north = 100 * float(np.mean(points["latitude_deg"].to_numpy() >= 0))
        alt += f"; {north:.0f} % lie north of the equator"
    return figure, alt + "."


def credible_levels(log_prob: np.ndarray, area: np.ndarray, masses: Sequence[float]) -> list[tuple[float, float]]:
    """Highest-density regions: for each mass, the log density at its edge and its share of all `area`."""
    order = np.argsort(-log_prob, axis=None)
    density = np.exp(log_prob.ravel()[order] - log_prob.max()) * area.ravel()[order]
    inside, covered = np.cumsum(density) / density.sum(), np.cumsum(area.ravel()[order]) / area.sum()
    last = [min(int(np.searchsorted(inside, mass)), len(order) - 1) for mass in masses]
    return [(float(log_prob.ravel()[order][at]), float(covered[at])) for at in last]


def _unit(latitude_deg: np.ndarray, longitude_deg: np.ndarray) -> np.ndarray:
    latitude, longitude = np.radians(latitude_deg), np.radians(longitude_deg)
    ring = np.cos(latitude)
    return np.stack([ring * np.cos(longitude), ring * np.sin(longitude), np.sin(latitude)], axis=-1)


def _raster(axes: Any, points: np.ndarray, values: np.ndarray, width: int) -> tuple[np.ndarray, ...]:
    """Values interpolated at the pixels of the map itself: no distortion, no seam at the date line."""
    import cartopy.crs as ccrs

    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    height = round(width * (top - bottom) / (right - left))
    x, y = np.meshgrid(np.linspace(left, right, width), np.linspace(bottom, top, height))
    degrees = ccrs.PlateCarree().transform_points(axes.projection, x, y)
    on_map = np.isfinite(degrees[..., :2]).all(-1)
    pixels = _unit(degrees[on_map, 1], degrees[on_map, 0])
    raster = np.full(x.shape, np.nan)
    near_enough = isinstance(axes.projection, ccrs.LambertAzimuthalEqualArea)
    raster[on_map] = (_cubic if near_enough else _nearby_mean)(points, values, pixels)
    return x, y, raster


def _nearby_mean(points: np.ndarray, values: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Mean of the eight nearest grid points under a Gaussian about as wide as a cell: anywhere on Earth."""
    from scipy.spatial import KDTree

    gaps, near = cast(Any, KDTree(points)).query(pixels, k=min(8, len(values)))
    gaps, near = gaps.reshape(len(gaps), -1), near.reshape(len(near), -1)
    spacing = gaps[:, [min(3, len(values) - 1)]] + 1e-6  # to the fourth neighbour: about one cell of the grid
    weight = np.exp(-((gaps / (0.6 * spacing)) ** 2) / 2)
    return (weight * values[near]).sum(1) / weight.sum(1)


def _cubic(points: np.ndarray, values: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Smooth and exact at the grid points, so that a peak keeps its height; for part of a hemisphere only."""
    from scipy.interpolate import CloughTocher2DInterpolator

    centre = pixels.mean(axis=0) / np.linalg.norm(pixels.mean(axis=0))
    across = np.linalg.svd(centre[None])[2][1:].T  # two directions at right angles to the centre
    reach = (pixels @ centre).min()
    margin = 8 / math.sqrt(min(len(points), 1000))  # cells of unequal areas are no wider than a thousandth's
    near = points @ centre > math.cos(min(math.acos(reach) + margin, 1.5))
    flat = points[near] @ across / (points[near] @ centre)[:, None]  # gnomonic: the triangles are spherical ones
    cubic = CloughTocher2DInterpolator(flat, values[near])
    return cubic(pixels @ across / (pixels @ centre)[:, None])


def _paint(axes: Any, points: np.ndarray, values: np.ndarray, levels: Sequence[float], width: int) -> Any:
    """Density and outlines of its regions on one map; returns the image, for a colour bar."""
    x, y, raster = _raster(axes, points, values, width)
    top = _per_million_km2(values.max())
    shown = np.ma.masked_invalid(_per_million_km2(raster))
    image = axes.imshow(
        np.ma.masked_less(shown, top * 1e-3), norm=LogNorm(top * 1e-3, top), cmap=HEAT, alpha=0.9, zorder=2,
        origin="lower", interpolation="bilinear", transform=axes.projection,
        extent=(float(x.min()), float(x.max()), float(y.min()), float(y.max())),
    )  # fmt: skip
    for level, style in zip(levels, LINES, strict=False):
        if np.nanmin(raster) + 1e-3 < level < np.nanmax(raster):  # not the rounding noise of an even density
            axes.contour(x, y, raster, levels=[level], colors=INK, linestyles=style, linewidths=1.0, zorder=4)
    return image


def _per_million_km2(log_prob: Any) -> Any:
    return np.exp(log_prob) * 1e6 / EARTH_RADIUS_KM**2


def _grid(*grid: Any, area: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(latitude, longitude, log_prob, relative area), each flat."""
    latitude, longitude, values = (np.asarray(item, dtype=np.float64) for item in grid)
    regular = values.ndim == 2 and values.shape == (latitude.size, longitude.size)
    if regular:
        latitude, longitude = np.meshgrid(latitude, longitude, indexing="ij")
    if not (latitude.shape == longitude.shape == values.shape) or not values.size or np.isnan(values).any():
        raise PlotError("log_prob must have shape (latitudes, longitudes), or (n,) like both grids; no NaN")
    if area is not None:
        area = np.asarray(area, dtype=np.float64)
    elif regular:
        area = np.cos(np.radians(latitude)).clip(0)
    else:
        area = np.ones_like(values)
    if area.shape != values.shape or not ((area >= 0) & np.isfinite(area)).all() or not area.any():
        raise PlotError(f"area must be at least 0, finite and of log_prob's shape {values.shape}, got {area.shape}")
    values = np.maximum(values, values.max() - 60)  # minus infinity cannot be interpolated
    return latitude.ravel(), longitude.ravel(), values.ravel(), area.ravel()


@styled
def density_map(
    grid_latitude_deg: np.ndarray,
    grid_longitude_deg: np.ndarray,
    log_prob: np.ndarray,
    truth: tuple[float, float] | None = None,
    estimate: tuple[float, float] | None = None,
    masses: Sequence[float] = (0.5, 0.9),
    areas_km2: Sequence[float] | None = None,
    truth_label: str = "true place",
    title: str | None = None,
    area: np.ndarray | None = None,
) -> Drawn:
    """A density on the sphere (nats per unit-sphere area) as a map, with credible regions and marked places.

    Either a regular grid, `log_prob` of shape (latitudes, longitudes), or a scattered one, all three of shape (n,),
    of points that stand for equal areas or for these, `area` (n,) in any unit. `truth` and `estimate` are (latitude,
    longitude) in degrees; `masses` (at most 3) those of the regions outlined, whose areas the alt text takes from
    `areas_km2` when they are better known. A density gathered in one part of the world gets a close-up beside it.
    """
    import cartopy.crs as ccrs

    latitude, longitude, values, area = _grid(grid_latitude_deg, grid_longitude_deg, log_prob, area=area)
    points, regions, peak = (
        _unit(latitude, longitude),
        credible_levels(values, area, masses),
        int(values.argmax()),
    )
    inside = points[values >= regions[-1][0]] @ points[peak]
    radius_km = EARTH_RADIUS_KM * math.acos(float(np.clip(inside.min(), -1, 1)))
    gathered = radius_km < CLOSE_UP_KM
    figure = new_figure(3.5 if gathered else 4.6)
    sides = figure.add_gridspec(1, 2, width_ratios=[2.1, 1]) if gathered else [111]
    maps = [world_axes(figure, sides[0])]
    if gathered:
        maps.append(_close_up(figure, sides[1], latitude[peak], longitude[peak], max(1.8 * radius_km, 300)))
    marks = [(place, look, label) for place, look, label in (
        (truth, _STAR, truth_label), (estimate, _RING, "estimate")) if place is not None]  # fmt: skip
    images = []
    for axes, width in zip(maps, (720, 320), strict=False):
        images.append(_paint(axes, points, values, [level for level, _ in regions], width))
        for place, look, _ in marks:
            axes.plot(place[1], place[0], linestyle="", transform=ccrs.PlateCarree(), zorder=6, **look)
    bar = figure.colorbar(images[0], ax=maps, shrink=0.72, pad=0.02, aspect=28)
    bar.set_label("probability per million km²")
    bar.outline.set_visible(False)
    flat = values.max() - values.min() < 1e-3
    handles = [
        Line2D([], [], color=INK, linestyle=style, linewidth=1.0, label=f"{100 * mass:.0f} % region")
        for mass, style in zip(() if flat else masses, LINES, strict=False)
    ] + [
        Line2D([], [], linestyle="", label=drawn(f"{label}, {place_text(*place)}"), **look)
        for place, look, label in marks
    ]
    if handles:
        maps[0].legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=2, columnspacing=2)
    if title:
        maps[0].set_title(title)
    alt = "World map of a probability density, "
    alt += "equal everywhere" if flat else f"highest at {place_text(latitude[peak], longitude[peak])}"
    if areas_km2 is None:
        areas_km2 = [share * EARTH_AREA_KM2 for _, share in regions]
    alt += "".join(
        f"; the {100 * mass:.0f} % region covers {_big(area_km2)} km²"
        for area_km2, mass in zip(areas_km2, masses, strict=True)
    )
    alt += "".join(f"; {label} {place_text(*place)}" for place, _, label in reversed(marks))
    if truth is not None and estimate is not None:
        chord = float(np.linalg.norm(_unit(*map(np.asarray, truth)) - _unit(*map(np.asarray, estimate))))
        alt += f", {2 * EARTH_RADIUS_KM * math.asin(min(1.0, chord / 2)):,.0f} km away"
    return figure, alt + "."


def _big(x: float) -> str:
    return f"{x / 1e6:.3g} million" if x >= 1e6 else f"{x:,.0f}"
