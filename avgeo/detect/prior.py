"""Where clips come from before anything is heard: land, people, and a little sea."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import numpy as np
from jaxtyping import Float64

from avgeo.detect.cities import city_cells
from avgeo.detect.grid import EarthGrid

PEOPLE, LAND, SEA = 0.4, 0.55, 0.05
"""Shares of the prior: near people, evenly over land, evenly over the Earth. Chosen, not fitted."""

_SPREAD_KM = 150.0  # of people about their city
_EARTH_KM = 6371.0088
_CHUNK = 2000
_known: WeakKeyDictionary[EarthGrid, np.ndarray] = WeakKeyDictionary()


def log_prior(grid: EarthGrid) -> Float64[np.ndarray, " n"]:
    """Log density at every cell (nats against the unit sphere's area): a mixture of people, land and the Earth.

    People are GeoNames' cities of 15,000 or more, each spread over land by a von Mises-Fisher law of 150 km.
    """
    if grid not in _known:
        _known[grid] = _made(grid)
    return _known[grid]


def _made(grid: EarthGrid) -> Float64[np.ndarray, " n"]:
    where, cities = city_cells(grid.cells)
    people = np.bincount(where, weights=cities["population"].to_numpy(np.float64), minlength=len(grid))
    lived_in = np.flatnonzero(people)
    kappa = (_EARTH_KM / _SPREAD_KM) ** 2
    near = np.zeros(len(grid))
    land = np.flatnonzero(grid.land)
    for start in range(0, len(land), _CHUNK):
        rows = land[start : start + _CHUNK]
        near[rows] = np.exp(kappa * (grid.points[rows] @ grid.points[lived_in].T - 1)) @ people[lived_in]
    area = np.exp(grid.log_area)
    dry = grid.land.astype(np.float64)
    parts = ((PEOPLE, near), (LAND, dry), (SEA, np.ones(len(grid))))
    return np.log(sum(share * part / (part * area).sum() for share, part in parts))
