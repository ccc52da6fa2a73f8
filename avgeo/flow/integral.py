"""Does a density integrate to one? Two answers that share nothing: an equal-area grid that refines itself, and chance.

A density learned from data may have spikes of a kilometre, which no even grid of the Earth sees: the cells here (equal
areas dz dλ, by Archimedes' hat-box theorem) are cut in four wherever places were seen or cutting changes the sum.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial import KDTree
from torch import Tensor

from avgeo.flow.base import Base
from avgeo.sphere import EARTH_RADIUS_KM

LogProb = Callable[[Float[Tensor, "n 3"]], Float[Tensor, " n"]]
"""Log density in nats with respect to the unit sphere's area."""

_BANDS = 48
_LEAST_KM = 0.01
_NEAR = 2.0  # a cell is fine enough when the places nearest to it are this many times as far as its corners


def integral_by_grid(
    log_prob: LogProb, places: Float[Tensor, "n 3"], *, finest_km: float = 1.0, tolerance: float = 3e-6, seed: int = 0
) -> tuple[float, int]:
    """(∫p dA, how often the density was asked for): cells of known area, the density at a random point of each and at
    the point opposite, so that slopes cancel.

    A cell is cut while it is longer than `finest_km` and near one of `places`, or while cutting it last changed its
    share of the integral by more than `tolerance`. The points are drawn when all cells are cut: sums that had a say in
    where to cut are biased, as cells whose spike was missed are not cut.
    """
    tree = KDTree(places.double().cpu().numpy())
    z, turn = np.linspace(-1, 1, _BANDS + 1), np.linspace(-math.pi, math.pi, 2 * _BANDS + 1)
    cells = np.array([(*band, *sector) for band in pairwise(z) for sector in pairwise(turn)])
    density = _density(log_prob, cells, 0.5)
    done, asked = [], len(cells)
    changed = np.ones(len(cells), dtype=bool)  # the first cells are all cut once
    while len(cells):
        middle, half_km = _middles(cells)
        near = tree.query(middle)[0] * EARTH_RADIUS_KM <= _NEAR * half_km
        cut = changed & (half_km > _LEAST_KM) | near & (2 * half_km > finest_km)
        done.append(cells[~cut])
        parents, own = cells[cut], density[cut]
        cells = _quarters(parents)
        density = _density(log_prob, cells, 0.5)
        asked += len(cells)
        difference = np.abs(density.reshape(-1, 4).mean(1) - own) * _areas(parents)
        changed = np.repeat(difference > tolerance, 4)
    mesh = np.concatenate(done)
    at = np.random.default_rng(seed).random((2, len(mesh)))
    density = (_density(log_prob, mesh, at) + _density(log_prob, mesh, 1 - at)) / 2
    return float((density * _areas(mesh)).sum()), asked + 2 * len(mesh)


def integral_by_sampling(
    log_prob: LogProb, proposal: Base, count: int, generator: torch.Generator
) -> tuple[float, float]:
    """(∫p dA, its standard error): the mean of p/q over `count` draws from the proposal q, which must be as sharp."""
    points = proposal.sample(count, generator)
    ratio = torch.exp(log_prob(points).double() - proposal.log_prob(points).double())
    return float(ratio.mean()), float(ratio.std() / math.sqrt(count))


def _areas(cells: np.ndarray) -> np.ndarray:
    return (cells[:, 1] - cells[:, 0]) * (cells[:, 3] - cells[:, 2])


def _xyz(z: np.ndarray, turn: np.ndarray) -> np.ndarray:
    ring = np.sqrt(np.clip(1 - z * z, 0, None))
    return np.stack([ring * np.cos(turn), ring * np.sin(turn), z], 1)


def _middles(cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Middles (n, 3), and the distance from there to the farthest corner, km."""
    low, high, west, east = cells.T
    middle = _xyz((low + high) / 2, (west + east) / 2)
    corners = [np.linalg.norm(_xyz(z, turn) - middle, axis=1) for z in (low, high) for turn in (west, east)]
    return middle, EARTH_RADIUS_KM * np.max(corners, axis=0)


def _density(log_prob: LogProb, cells: np.ndarray, at: np.ndarray | float) -> np.ndarray:
    """At the points that lie the shares `at` (2, n) of the way along the cells' sides."""
    if not len(cells):
        return np.zeros(0)
    low, high, west, east = cells.T
    north, round_ = np.broadcast_to(np.asarray(at, dtype=float), (2, len(cells)) if np.ndim(at) else (2, 1))
    points = _xyz(low + north * (high - low), west + round_ * (east - west))
    return torch.exp(log_prob(torch.from_numpy(points)).double()).cpu().numpy()


def _quarters(cells: np.ndarray) -> np.ndarray:
    """Each cell in four of equal area: two by two, or four abreast across its much longer side."""
    low, high, west, east = cells.T
    middle = (low + high) / 2
    tall = np.arcsin(high.clip(-1, 1)) - np.arcsin(low.clip(-1, 1))
    wide = (east - west) * np.sqrt(1 - middle**2)
    out = []
    for number in range(4):
        i, j = divmod(number, 2)
        shares = np.array([i / 2, (i + 1) / 2, j / 2, (j + 1) / 2])[:, None].repeat(len(cells), 1)
        shares[:, tall > 2 * wide] = np.array([number / 4, (number + 1) / 4, 0, 1])[:, None]
        shares[:, wide > 2 * tall] = np.array([0, 1, number / 4, (number + 1) / 4])[:, None]
        z, turn = low + (high - low) * shares[:2], west + (east - west) * shares[2:]
        out.append(np.stack([*z, *turn], 1))
    return np.stack(out, 1).reshape(-1, 4)
