"""Credible regions: the smallest part of the Earth that holds a given probability, its area, and its outline."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
import torch
from jaxtyping import Bool, Float, Float64
from shapely.geometry import mapping
from shapely.geometry.polygon import orient
from torch import Tensor

from avgeo.flow.cells import CellDensity, Cells, PosteriorError
from avgeo.flow.posterior import Estimate, cell_mass, checked_log_prob
from avgeo.sphere import EARTH_AREA_KM2, EARTH_RADIUS_KM, SPHERE_AREA

MASSES = (0.5, 0.9, 0.95)
_SEGMENT_DEG = 2.0


@dataclass(frozen=True)
class Region:
    """The smallest set of cells that holds at least `mass`: the cells of log density `log_prob` or more.

    `probability` is what they hold, `mass` or up to one cell more.
    """

    mass: float
    probability: float
    area_km2: float
    log_prob: float
    inside: Bool[Tensor, " n"]


def credible_regions(
    log_prob: Float[Tensor, " n"], area: Float[Tensor, " _"] | float, masses: Sequence[float] = MASSES
) -> list[Region]:
    """Highest-density regions from log densities at points that stand for `area` steradians each (Hyndman 1996).

    Cells enter whole, the densest first; where densities tie, in their order. Raises `PosteriorError` as `cell_mass`.
    """
    _check_masses(masses)
    share = cell_mass(log_prob, area)
    steradians = torch.as_tensor(area, dtype=torch.float64).expand(len(share))
    order = log_prob.argsort(descending=True, stable=True)
    held = share[order].cumsum(0)
    found = []
    for mass in masses:
        last = min(int(torch.searchsorted(held, mass)), len(order) - 1)
        inside = torch.zeros(len(order), dtype=torch.bool)
        inside[order[: last + 1]] = True
        area_km2 = float(steradians[inside].sum()) * EARTH_RADIUS_KM**2
        found.append(Region(mass, float(held[last]), area_km2, float(log_prob[order[last]]), inside))
    return found


def sampled_areas(log_prob: Float[Tensor, " n"], masses: Sequence[float] = MASSES) -> list[tuple[float, Estimate]]:
    """Area in km² of each highest-density region from samples' own log densities, with its standard error.

    The region is {p >= q}, q the (1 - mass) quantile of p over its own samples, and its area the importance estimate
    E_p[1{p >= q} / p]. Raising q by dq sheds mass and area in the ratio q, so that the estimate varies as the mean
    of 1{p >= q} (1/p - 1/q): that is its influence function, and the error follows from it.
    """
    _check_masses(masses)
    log_prob = checked_log_prob(log_prob)
    found = []
    for mass in masses:
        level = torch.quantile(log_prob, 1 - mass)
        inverse = torch.exp(-log_prob)
        inside = log_prob >= level
        steradians = float(torch.where(inside, inverse, 0.0).mean())
        influence = torch.where(inside, inverse - torch.exp(-level), 0.0)
        error = float(influence.std() / math.sqrt(len(log_prob))) if len(log_prob) > 1 else math.nan
        area_km2 = min(steradians / SPHERE_AREA, 1.0) * EARTH_AREA_KM2
        found.append((mass, Estimate(area_km2, error * EARTH_RADIUS_KM**2)))
    return found


def hpd_level(
    truth_log_prob: Float[Tensor, " clips"],
    log_prob: Float[Tensor, "_ n"],
    mass: Float[Tensor, "_ _"] | None = None,
    *,
    seed: int = 0,
) -> Float64[Tensor, " clips"]:
    """Mass of the smallest region that holds the truth: uniform on [0, 1] over clips when the densities are right.

    `mass` are the probabilities of the points (`cell_mass`). None: the points are n samples, and the level is the
    truth's rank among them, which is exactly uniform for any n. Ties (and the truth's own rank) are broken at random,
    so that a flat density is calibrated too. The probability that the region of mass q holds the truth is that of a
    level of at most q: `avgeo.evaluate.coverage` draws the curve, with intervals by place.
    """
    truth, log_prob = checked_log_prob(truth_log_prob, "truth_log_prob")[:, None], checked_log_prob(log_prob)
    if len(truth) != len(log_prob):
        raise PosteriorError(f"truth_log_prob has {len(truth)} clips and log_prob {len(log_prob)}: one row per clip")
    own = 0.0 if mass is not None else 1.0
    weight = torch.ones_like(log_prob) if mass is None else mass.double()
    if weight.shape != log_prob.shape:
        raise PosteriorError(f"mass has shape {tuple(weight.shape)}, log_prob {tuple(log_prob.shape)}: give it alike")
    lot = torch.rand(len(truth), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    above = torch.where(log_prob > truth, weight, 0.0).sum(-1)
    tied = torch.where(log_prob == truth, weight, 0.0).sum(-1) + own
    return ((above + lot * tied) / (weight.sum(-1) + own)).clamp(0, 1)


# --- outlines ---


def outline(cells: Cells, inside: Bool[Tensor, " _"]) -> shapely.MultiPolygon:
    """The cells `inside` as one area in degrees, x the longitude: counter-clockwise outside, clockwise holes.

    Nothing crosses the date line, because no cell does, and a pole is an edge along ±90°; edges run along parallels
    and meridians, so that the area is exactly the cells' own. They are cut at least every 2°, for programs that draw
    great circles between corners.
    """
    if inside.shape != (len(cells),):
        raise PosteriorError(f"inside has shape {tuple(inside.shape)} for {len(cells)} cells: one truth value each")
    if not bool(inside.any()):
        raise PosteriorError("inside holds no cell: a region has at least one")
    west, east, south, north = cells.bounds[inside].numpy().T
    boxes = shapely.box(np.degrees(west), np.degrees(np.arcsin(south)), np.degrees(east), np.degrees(np.arcsin(north)))
    joined: Any = shapely.segmentize(shapely.union_all(boxes), _SEGMENT_DEG)
    parts = joined.geoms if joined.geom_type == "MultiPolygon" else [joined]
    return shapely.MultiPolygon([orient(part, 1.0) for part in parts])


def area_km2(shape: shapely.Geometry) -> float:
    """Area of polygons in degrees whose edges are straight in longitude and latitude, as RFC 7946 reads them.

    Green's theorem: the sum of ∫ sin(latitude) d(longitude) along every edge, which is exact edge by edge.
    """
    total = 0.0
    for part in shapely.get_parts(shape):
        part = orient(part, 1.0)
        for ring in (part.exterior, *part.interiors):
            longitude, latitude = np.radians(shapely.get_coordinates(ring)).T
            middle, half = (latitude[1:] + latitude[:-1]) / 2, np.diff(latitude) / 2
            # the mean of the sine along the edge: sin(middle) sin(half)/half
            total -= float((np.diff(longitude) * np.sin(middle) * np.sinc(half / np.pi)).sum())
    return total * EARTH_RADIUS_KM**2


def regions_geojson(density: CellDensity, regions: Sequence[Region]) -> list[dict[str, Any]]:
    """GeoJSON features (RFC 7946), the largest region first so that the smaller are drawn over it.

    Properties: role "credible region", mass, probability, area_km2. The area is the polygons' own, to rounding.
    """
    return [
        {
            "type": "Feature",
            "properties": {
                "role": "credible region",
                "mass": region.mass,
                "probability": region.probability,
                "area_km2": region.area_km2,
            },
            "geometry": _coordinates(outline(density.cells, region.inside)),
        }
        for region in sorted(regions, key=lambda region: -region.mass)
    ]


def _coordinates(shape: shapely.MultiPolygon) -> dict[str, Any]:
    found = mapping(shape)
    rings = [[[list(corner) for corner in ring] for ring in polygon] for polygon in found["coordinates"]]
    return {"type": "MultiPolygon", "coordinates": rings}


def _check_masses(masses: Sequence[float]) -> None:
    if not masses or not all(0 < mass < 1 for mass in masses):
        raise PosteriorError(f"masses must lie between 0 and 1, got {tuple(masses)}: (0.5, 0.9, 0.95) is usual")
