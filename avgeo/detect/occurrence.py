"""Where and when species are seen: BirdNET's occurrence model, asked once for the Earth's land and kept on disk."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float64
from scipy.spatial import KDTree

from avgeo.detect import litert
from avgeo.detect.event import DetectError
from avgeo.detect.grid import EarthGrid, earth_grid
from avgeo.paths import cache_dir

WEEKS = 48
"""BirdNET's year: four weeks a month, 1 to 48."""

_COARSE = 10_000  # cells, 226 km across: the model's own maps are no finer
_OF_THE_YEAR = range(3, WEEKS, 6)
_BATCH = 256
_LEAST = 1e-3  # below this the model says nothing more than "no"
_FEWEST = 5.0  # species, wherever the model knows of fewer
_NEAREST = 3


@dataclass(frozen=True)
class Occurrence:
    """The share of checklists, in a week or over the year, on which each species stands: (species, points), float16."""

    points: np.ndarray
    shares: np.ndarray

    @classmethod
    def of(cls, week: int | None) -> Occurrence:
        """In `week` (1 to 48), or the mean over the year (None); made once, half a minute, and then read."""
        if week is not None and not 1 <= week <= WEEKS:
            raise DetectError(f"week must be 1 to {WEEKS} (four a month), got {week}")
        grid = earth_grid(_COARSE)
        points = grid.points[grid.land]
        network = hashlib.sha256(litert.file_of("MData_Model_V2_FP16.tflite").read_bytes()).hexdigest()[:16]
        file = cache_dir() / "occurrence" / f"{network}-{len(points)}-{week or 'year'}.npy"
        if not file.is_file():
            places = np.stack([grid.latitude_deg[grid.land], grid.longitude_deg[grid.land]], -1)
            found = _asked(places, [week] if week is not None else list(_OF_THE_YEAR))
            file.parent.mkdir(parents=True, exist_ok=True)
            draft = file.with_suffix(f".{id(found)}.partial")
            with draft.open("wb") as opened:
                np.save(opened, np.ascontiguousarray(found.T))
            draft.replace(file)
        return cls(points, np.load(file, mmap_mode="r", allow_pickle=False))

    def among_species(self, species: int, grid: EarthGrid) -> Float64[np.ndarray, " n"]:
        """The species' share of all that is seen at each cell of `grid`: between the nearest points, least at sea.

        p(a recording is of this species | place): a bird that is common where there are few others is heard more.
        """
        share = (np.asarray(self.shares[species], np.float64) + _LEAST) / self.richness
        apart, near = KDTree(self.points).query(grid.points[grid.land], k=_NEAREST)
        weight = 1 / (apart + 1e-3)  # a few km: not to divide by zero
        found = np.full(len(grid), _LEAST / float(self.richness.max()))
        found[grid.land] = (share[near] * weight).sum(1) / weight.sum(1)
        return found

    @cached_property
    def richness(self) -> Float64[np.ndarray, " m"]:
        """How many species are seen at each point, expected."""
        total = np.zeros(len(self.points))
        for start in range(0, len(self.shares), 512):
            total += np.asarray(self.shares[start : start + 512], np.float32).sum(0)
        return total + _FEWEST


def _asked(places: np.ndarray, weeks: list[int]) -> np.ndarray:
    """(points, species), float16: the mean over the weeks."""
    if sys.stderr.isatty():
        print("birds: the map of species is made once, about half a minute", file=sys.stderr)
    network = litert.network("MData_Model_V2_FP16.tflite", _BATCH)
    found = np.zeros((len(places), len(litert.labels())), np.float32)
    for start in range(0, len(places), _BATCH):
        rows = places[start : start + _BATCH]
        asked = np.zeros((_BATCH, 3), np.float32)
        asked[: len(rows), :2] = rows
        for week in weeks:
            asked[:, 2] = week
            found[start : start + len(rows)] += litert.run(network, asked)[: len(rows)] / len(weeks)
    return found.astype(np.float16)
