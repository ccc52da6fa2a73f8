"""The Earth in cells, and what a likelihood asks of each: where it is, which country, whether there is land."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from jaxtyping import Bool, Float64, Shaped

from avgeo.flow.cells import Cells, even_cells
from avgeo.sphere import to_degrees
from avgeo.world.geography import countries, country_at

CELLS = 40_000
"""Cells of the usual grid: of exactly equal area, 113 km across."""


@dataclass(frozen=True, eq=False)
class EarthGrid:
    """Cells with their middles and facts; n of them, in the order of `cells`."""

    cells: Cells

    def __len__(self) -> int:
        return len(self.cells)

    @cached_property
    def points(self) -> Float64[np.ndarray, "n 3"]:
        """Each cell's middle by area, a unit vector."""
        return self.cells.points.numpy()

    @cached_property
    def log_area(self) -> Float64[np.ndarray, " n"]:
        """Log of each cell's steradians."""
        return self.cells.area.log().numpy()

    @cached_property
    def latitude_deg(self) -> Float64[np.ndarray, " n"]:
        """Of the middle, -90 to 90."""
        return to_degrees(self.cells.points)[0].numpy()

    @cached_property
    def longitude_deg(self) -> Float64[np.ndarray, " n"]:
        """Of the middle, -180 to 180."""
        return to_degrees(self.cells.points)[1].numpy()

    @property
    def country(self) -> Shaped[np.ndarray, " n"]:
        """ISO alpha-2 of the cell's middle, or of the nearest land within about half a cell; "" at sea.

        Islands that Natural Earth 1:110m leaves out take the country of a GeoNames city in the cell. Land of no
        country that has a code (Northern Cyprus, Somaliland) has "" too: ask `land` whether a cell has land.
        """
        return self._facts[0]

    @property
    def land(self) -> Bool[np.ndarray, " n"]:
        """Whether there is land at the cell's middle or within about half a cell, or a city in the cell."""
        return self._facts[1]

    @cached_property
    def _facts(self) -> tuple[np.ndarray, np.ndarray]:
        from avgeo.detect.cities import city_cells

        half_deg = float(np.degrees(np.exp(np.median(self.log_area) / 2))) / 2
        names = country_at(self.latitude_deg, self.longitude_deg, half_deg)
        land = np.array([name is not None for name in names])
        codes = dict(zip(countries()["country"], countries()["country_code"], strict=True)) | {None: None}
        country = np.array([codes[name] or "" for name in names], dtype=object)
        among: dict[int, Counter[str]] = {}
        cells, cities = city_cells(self.cells)
        for cell, code in zip(cells.tolist(), cities["countrycode"], strict=True):
            if not land[cell]:
                among.setdefault(cell, Counter())[code] += 1
        for cell, found in among.items():
            country[cell], land[cell] = found.most_common(1)[0][0], True
        return country, land


@cache
def earth_grid(count: int = CELLS) -> EarthGrid:
    """About `count` cells of exactly equal area (`even_cells`), made once in a process."""
    return EarthGrid(even_cells(count))
