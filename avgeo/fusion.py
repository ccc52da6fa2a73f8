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
from avgeo.sphere import distance_km, geodesic_median

CONTRADICTION_BITS = -3.0
"""Two clues contradict each other when both together are 8 times or more less likely than each by itself would say."""

_TOP = 1 - 1e-3  # of the mass: the cells that the estimate is made of
_MOST = 1500  # of them, or the best so many: all pairs of them are compared


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
    """The geodesic median of the cells that hold the mass: the place with least expected distance."""
    order = np.argsort(-log_mass, kind="stable")
    held = np.exp(log_mass[order]).cumsum()
    kept = torch.from_numpy(order[: min(int(np.searchsorted(held, _TOP)) + 1, _MOST)].copy())
    mass = torch.from_numpy(log_mass)[kept].exp()
    return geodesic_median(torch.from_numpy(grid.points)[kept], mass / mass.sum())


def contradictions(fused: Fused, below_bits: float = CONTRADICTION_BITS) -> list[tuple[Clue, Clue, float]]:
    """Pairs of clues of different groups that hardly any place explains together, the worst first, with their bits.

    log2 of p(both) / (p(one) p(other)) under the prior: 0 for clues that do not know of each other, negative where the
    places that explain one do not explain the other.
    """
    prior = fused.log_prior + fused.grid.log_area
    prior = prior - _log_sum(prior)
    alone = [_log_sum(prior + clue.log_likelihood) for clue in fused.clues]
    found = []
    for (a, one), (b, other) in combinations(enumerate(fused.clues), 2):
        if one.group == other.group:
            continue
        both = _log_sum(prior + one.log_likelihood + other.log_likelihood)
        bits = (both - alone[a] - alone[b]) / math.log(2)
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
