"""The best point to name when the posterior over sites is known: one table of candidates per metric.

A clip lies uniformly by area within a disc of `JITTER_KM` around its site. A metric's expected value for naming point
x is then linear in the posterior, sum_s p(s | cues) g(x, s), with

    accuracy at r:  g(x, s) = |disc(s, JITTER_KM) and disc(x, r)| / |disc(s, JITTER_KM)|   (circle-circle intersection)
    GeoScore:       g(x, s) = E[5000 exp(-distance(x, clip) / 1492.7 km)]                  (quadrature over the disc)

and the best candidate is found by looking at all of them: every site, and a lattice that has a point within h of every
point that could matter (`STEPS_KM`). What that can cost is bounded by the triangle inequality: the accuracy found at
radius r is at least the true optimum at r - h, and the GeoScore found at least exp(-h / 1492.7 km) of the optimum. A
point within r of one site's disc alone is never better than that site, so that at 1 km nothing is lost. These are worst
cases. Measured with lattices twice as fine on worlds of 600 and 2,000 sites: less than 0.003 of accuracy at any radius
and less than 0.05 % of GeoScore.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Float64, Int64
from numpy.typing import ArrayLike
from scipy.sparse import csr_array, vstack
from scipy.spatial import KDTree

from avgeo.world.geography import EARTH_RADIUS_KM

JITTER_KM = 3.0
"""Radius of the disc around its site in which a clip lies, uniformly by area."""

RADII_KM = (1.0, 25.0, 200.0, 750.0, 2500.0)
GEOSCORE_SCALE_KM = 1492.7
"""Those of `avgeo.evaluate`, which loads torch and so is not imported here; a test holds them equal."""

STEPS_KM = {1.0: 0.1, 25.0: 2.5, 200.0: 20.0, 750.0: 40.0, 2500.0: 100.0}
"""How close some candidate comes to any point that matters (h), by radius."""
GEOSCORE_STEP_KM = 200.0
"""The same for GeoScore."""

_POINTS = 1024  # candidates at a time
_FIBONACCI_COVER = 0.8  # its covering radius is below 0.8 sqrt(area per point): measured 0.77, tested

Points = Float64[np.ndarray, "points 3"]


@dataclass(frozen=True)
class Guesses:
    """Candidate points, as unit vectors, and what naming each is worth at each site."""

    points: Points
    gain: csr_array | np.ndarray  # float32 (points, sites)

    def best(
        self, posterior: Float64[np.ndarray, "clips sites"]
    ) -> tuple[Float64[np.ndarray, " clips"], Int64[np.ndarray, " clips"]]:
        """The greatest expected value of each clip, and the candidate that reaches it."""
        weights = np.ascontiguousarray(posterior.T, dtype=np.float32)
        value = np.full(len(posterior), -np.inf)
        index = np.zeros(len(posterior), dtype=np.int64)
        for start in range(0, len(self.points), _POINTS):
            found = np.asarray(self.gain[start : start + _POINTS] @ weights)
            at = found.argmax(0)
            top = found[at, np.arange(len(at))]
            index = np.where(top > value, start + at, index)
            value = np.maximum(value, top)
        return value, index


# --- what a point is worth ---


def share_within(distance_km: ArrayLike, radius_km: float, jitter_km: float = JITTER_KM) -> Float64[np.ndarray, " *n"]:
    """P(clip within `radius_km` of a point | the point lies `distance_km` from the clip's site), in [0, 1].

    The share of a disc of radius R = `jitter_km` that a disc of radius r covers, centres d apart (Weisstein, "Circle-
    Circle Intersection", MathWorld): in the plane, which over 3 km is the sphere to one part in 10^5.
    """
    d, r, jitter = np.asarray(distance_km, float), float(radius_km), float(jitter_km)
    apart = np.clip(d, abs(r - jitter), r + jitter)  # outside of these bounds the circles do not cross
    with np.errstate(divide="ignore", invalid="ignore"):  # apart = 0 only where the circles are equal
        own = np.arccos(np.clip((apart**2 + jitter**2 - r**2) / (2 * apart * jitter), -1, 1))
        other = np.arccos(np.clip((apart**2 + r**2 - jitter**2) / (2 * apart * r), -1, 1))
    kite = (jitter + r - apart) * (apart + jitter - r) * (apart + r - jitter) * (apart + jitter + r)
    lens = jitter**2 * own + r**2 * other - np.sqrt(np.maximum(kite, 0)) / 2
    inside = min(r, jitter) ** 2 / jitter**2
    share = np.where(d <= abs(r - jitter), inside, lens / (math.pi * jitter**2))
    return np.where(d >= r + jitter, 0.0, np.clip(share, 0, inside))


@cache
def _blur() -> tuple[np.ndarray, np.ndarray]:
    """E[exp(-distance(x, clip) / scale)] / exp(-d / scale) against d = distance(x, site), by quadrature on the disc."""
    d = np.arange(0, 60.5, 0.5)[:, None, None]
    radius = JITTER_KM * np.sqrt((np.arange(64) + 0.5) / 64)[:, None]  # rings of equal area
    angle = np.pi * (np.arange(64) + 0.5) / 64
    distance = np.hypot(d + radius * np.cos(angle), radius * np.sin(angle))
    return d[:, 0, 0], np.exp((d - distance) / GEOSCORE_SCALE_KM).mean((1, 2))


def expected_geoscore(distance_km: ArrayLike) -> Float64[np.ndarray, " *n"]:
    """E[5000 exp(-distance(x, clip) / 1492.7 km)] when x lies `distance_km` from the clip's site.

    The relative error is below 2e-5 but near the antipode, where there is nothing left to get wrong.
    """
    d = np.asarray(distance_km, float)
    return 5000 * np.exp(-d / GEOSCORE_SCALE_KM) * np.interp(d, *_blur())


# --- the candidates ---


def accuracy_guesses(sites: Float64[np.ndarray, "sites 3"], radius_km: float, step_km: float) -> Guesses:
    """Candidates for accuracy at `radius_km`: the sites, and lattice points that can hit two or more of them.

    A point that can hit one site alone is never better than that site. `step_km` is h (see the module).
    """
    reach_km = radius_km + JITTER_KM
    lattice, tree = _lattice(sites, reach_km, step_km), KDTree(sites)
    points, gains = [], []
    for least, candidates in ((1, sites), (2, lattice)):
        for start in range(0, len(candidates), _POINTS):
            block = candidates[start : start + _POINTS]
            pairs = KDTree(block).sparse_distance_matrix(tree, _chord(reach_km), output_type="ndarray")
            share = share_within(_arc_km(pairs["v"]), radius_km).astype(np.float32)
            gain = csr_array((share, (pairs["i"], pairs["j"])), shape=(len(block), len(sites)))
            gain.eliminate_zeros()
            gain.sort_indices()
            useful = np.diff(gain.indptr) >= least
            points.append(block[useful])
            gains.append(gain[useful])
    every, gain = np.concatenate(points), csr_array(vstack(gains, format="csr"))
    # candidates with the same gains everywhere are one: random weights tell rows apart
    mark = gain.astype(np.float64) @ np.random.default_rng(0).random(len(sites))
    kept = np.sort(np.unique(mark, return_index=True)[1])
    return Guesses(every[kept], gain[kept])


def geoscore_guesses(sites: Float64[np.ndarray, "sites 3"], step_km: float = GEOSCORE_STEP_KM) -> Guesses:
    """Candidates for GeoScore: the sites, and a lattice over the whole Earth within `step_km` of any point."""
    points = np.concatenate([sites, fibonacci(_fibonacci_count(step_km))])
    gain = np.empty((len(points), len(sites)), dtype=np.float32)
    for start in range(0, len(points), _POINTS):
        block = points[start : start + _POINTS]
        # sin(d / 2) = sqrt((1 - cos d) / 2): float64 keeps 0.1 m, which is plenty beside 1492.7 km
        chord = np.sqrt(np.maximum(2 - 2 * block @ sites.T, 0))
        gain[start : start + _POINTS] = expected_geoscore(_arc_km(chord))
    return Guesses(points, gain)


def fibonacci(count: int) -> Points:
    """`count` points of nearly equal area 4 pi / count on a golden-angle spiral (Swinbank & Purser 2006)."""
    index = np.arange(count)
    z = 1 - (2 * index + 1) / count
    longitude, ring = index * math.pi * (3 - math.sqrt(5)), np.sqrt(1 - z * z)
    return np.stack([ring * np.cos(longitude), ring * np.sin(longitude), z], axis=-1)


def _fibonacci_count(step_km: float) -> int:
    """How many spiral points come within `step_km` of every point of the Earth."""
    return math.ceil(4 * math.pi * (_FIBONACCI_COVER * EARTH_RADIUS_KM / step_km) ** 2)


def _lattice(sites: Float64[np.ndarray, "sites 3"], reach_km: float, step_km: float) -> Points:
    """Points that come within `step_km` of every point that lies within `reach_km` of two sites or more.

    The whole Earth's spiral, or a square lattice around each site that has such a neighbour, whichever is smaller.
    """
    nearest = KDTree(sites).query(sites, k=min(2, len(sites)))[0].reshape(len(sites), -1)[:, -1]
    crowded = sites[nearest <= _chord(2 * reach_km)] if len(sites) > 1 else sites[:0]
    # on the sphere the plane's lattice only shrinks, so that a square's half diagonal stays below step_km
    across = np.arange(
        -math.ceil(reach_km / (math.sqrt(2) * step_km)), math.ceil(reach_km / (math.sqrt(2) * step_km)) + 1
    )
    x, y = (axis.ravel() * math.sqrt(2) * step_km for axis in np.meshgrid(across, across))
    near = np.hypot(x, y) <= reach_km + step_km
    if near.sum() * len(crowded) >= (count := _fibonacci_count(step_km)):
        return fibonacci(count)
    angle, bearing = np.hypot(x[near], y[near]) / EARTH_RADIUS_KM, np.arctan2(y[near], x[near])
    axis = np.eye(3)[np.abs(crowded).argmin(-1)]  # far from the site, so that the cross product has a direction
    first = np.cross(axis, crowded)
    first /= np.linalg.norm(first, axis=-1, keepdims=True)
    second = np.cross(crowded, first)
    along = np.cos(bearing)[:, None] * first[:, None] + np.sin(bearing)[:, None] * second[:, None]
    return (np.cos(angle)[:, None] * crowded[:, None] + np.sin(angle)[:, None] * along).reshape(-1, 3)


def _chord(distance_km: float) -> float:
    return 2 * math.sin(min(distance_km / EARTH_RADIUS_KM, math.pi) / 2)


def _arc_km(chord: np.ndarray) -> np.ndarray:
    return 2 * EARTH_RADIUS_KM * np.arcsin(np.minimum(chord / 2, 1))
