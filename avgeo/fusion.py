"""Evidence fusion: every clue is a log-likelihood over one grid of the Earth, and the posterior is their product.

A posterior's explanation is its parts: with each clue left out in turn, the bits that it brought to the estimate's
cell and how far the estimate moves without it. Sums are taken in one canonical order, so that the order in which clues
are given does not matter bit for bit, and taking one away gives exactly the map without it.

Clues of one `group` repeat one another (two birds of one wood): the surest counts in full, the k-th surest as
k^γ - (k - 1)^γ, so that m equal ones count as m^γ. γ is fitted: 0 would count them as one, 1 as independent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from avgeo.detect import EarthGrid, Event
from avgeo.detect.calibration import calibrated
from avgeo.flow import CellDensity
from avgeo.sphere import EARTH_RADIUS_KM, distance_km, uniform_log_density

CONTRADICTION_BITS = -3.0
"""Two clues contradict each other when no place makes both an eighth as likely as each has it at its own best."""

_IMPROBABLE = 0.1  # of the uniform density: the sea, where nobody records

NEAR_KM = 1000.0
"""The estimate is the place with the most probability within this."""

_TOP = 1 - 1e-3  # of the mass: the cells that the estimate is made of
_MOST, _CHUNK = 1500, 250  # the densest of them, one of which is it, and how many are tried at a time


class FusionError(ValueError):
    """Clues that cannot be joined; the message names the clue and the cure."""


@dataclass(frozen=True, eq=False)
class Clue:
    """An event with its log p(event | place) at every cell, in nats up to a constant; clues of a group repeat it."""

    event: Event
    log_likelihood: Float64[np.ndarray, " n"]
    group: str

    @cached_property
    def key(self) -> tuple[str, float, str, str, float, float, bytes]:
        """The canonical order: by group, the surest first, then by what it is and its numbers."""
        event = self.event
        score = 1.0 if event.score is None else event.score
        start_s, end_s = (math.inf if at is None else at for at in (event.start_s, event.end_s))
        return self.group, -score, event.detector, event.label, start_s, end_s, self.log_likelihood.tobytes()


@dataclass(frozen=True)
class Weight:
    """What a clue did: bits it brought to the estimate's cell, and km that the estimate moves without it."""

    bits: float
    shift_km: float


@dataclass(frozen=True, eq=False)
class Fused:
    """The posterior over the cells of a grid, and what each clue did, in the order in which the clues were given."""

    grid: EarthGrid
    clues: list[Clue]
    log_prior: Float64[np.ndarray, " n"]
    density: CellDensity
    estimate: Float64[Tensor, " 3"]
    weights: list[Weight]


def fuse(grid: EarthGrid, clues: Sequence[Clue], log_prior: Float64[np.ndarray, " n"] | None = None) -> Fused:
    """Multiply the clues' likelihoods with a prior (log density up to a constant; None is uniform) and weigh each.

    Raises `FusionError` for a likelihood that is not one finite number for every cell.
    """
    prior = np.zeros(len(grid)) if log_prior is None else log_prior
    _check("log_prior", prior, len(grid))
    for clue in clues:
        _check(f"clue {clue.event.label!r}", clue.log_likelihood, len(grid))
    log_mass = _log_mass(grid, clues, prior)
    estimate = estimated(grid, log_mass)
    here = int((grid.points @ estimate.numpy()).argmax())
    weights = []
    for number in range(len(clues)):
        without = _log_mass(grid, [*clues[:number], *clues[number + 1 :]], prior)
        bits = float(log_mass[here] - without[here]) / math.log(2)
        moved = estimate if np.array_equal(without, log_mass) else estimated(grid, without)
        weights.append(Weight(bits, float(distance_km(estimate, moved))))
    density = CellDensity(grid.cells, torch.from_numpy(log_mass - grid.log_area), len(grid))
    return Fused(grid, list(clues), prior, density, estimate, weights)


def weigh_group(fused: Fused, group: str) -> Weight:
    """What all clues of a group did together: repeated evidence is hardly missed one by one."""
    grid = fused.grid
    here = int((grid.points @ fused.estimate.numpy()).argmax())
    without = _log_mass(grid, [clue for clue in fused.clues if clue.group != group], fused.log_prior)
    log_mass = fused.density.log_prob.numpy() + grid.log_area
    bits = float(log_mass[here] - without[here]) / math.log(2)
    return Weight(bits, float(distance_km(fused.estimate, estimated(grid, without))))


def estimated(grid: EarthGrid, log_mass: Float64[np.ndarray, " n"]) -> Float64[Tensor, " 3"]:
    """The cell with the most probability within `NEAR_KM`, the densest of them where several have as much.

    Of two continents that both fit, it takes one; the geodesic median would lie in the sea between them.
    """
    order = np.argsort(grid.log_area - log_mass, kind="stable")
    kept = order[: int(np.searchsorted(np.exp(log_mass[order]).cumsum(), _TOP)) + 1]
    points, mass = grid.points[kept].astype(np.float32), np.exp(log_mass[kept]).astype(np.float32)
    least = math.cos(NEAR_KM / EARTH_RADIUS_KM)
    around = [
        (points[start : start + _CHUNK] @ points.T >= least) @ mass for start in range(0, min(len(kept), _MOST), _CHUNK)
    ]
    return torch.from_numpy(grid.points[kept[int(np.concatenate(around).argmax())]])


def contradictions(fused: Fused, below_bits: float = CONTRADICTION_BITS) -> list[tuple[Clue, Clue, float]]:
    """Pairs of clues of different groups that no place explains together, the worst first, with their bits.

    log2 of the best that one place makes of both, over the best that each has by itself: 0 for clues that agree
    somewhere, negative where one must be a false alarm. Places that the prior all but excludes do not count.
    """
    share = fused.log_prior - _log_sum(fused.log_prior + fused.grid.log_area) - uniform_log_density()
    likely = share >= math.log(_IMPROBABLE)
    found = []
    for one, other in combinations(fused.clues, 2):
        if one.group == other.group:
            continue
        first, second = one.log_likelihood[likely], other.log_likelihood[likely]
        bits = float((first + second).max() - first.max() - second.max()) / math.log(2)
        if bits <= below_bits:
            found.append((one, other, bits))
    return sorted(found, key=lambda pair: pair[2])


def _log_mass(
    grid: EarthGrid, clues: Sequence[Clue], log_prior: Float64[np.ndarray, " n"]
) -> Float64[np.ndarray, " n"]:
    """Log probability of each cell."""
    groups: dict[str, list[Clue]] = {}
    for clue in sorted(clues, key=lambda clue: clue.key):
        groups.setdefault(clue.group, []).append(clue)
    gamma = calibrated("fusion", "independence")
    total = log_prior + grid.log_area
    for members in groups.values():
        for rank, clue in enumerate(members):
            total = total + ((rank + 1) ** gamma - rank**gamma) * clue.log_likelihood
    return total - _log_sum(total)


def _log_sum(values: Float64[np.ndarray, " n"]) -> float:
    top = float(values.max())
    return top + math.log(float(np.exp(values - top).sum()))


def _check(name: str, values: Float64[np.ndarray, " n"], cells: int) -> None:
    if values.shape != (cells,) or not np.isfinite(values).all():
        raise FusionError(f"{name} must be {cells} finite numbers, one a cell: floor a likelihood by its false alarms")
