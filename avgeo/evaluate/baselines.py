"""What a method must beat without hearing or seeing anything: the best constant answer and the prior.

The constant is the point of least mean distance to the training places; the prior is a kernel density of
them. Both need training places only. (A constant guess beats most published sound-only systems on AGL1K.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from avgeo.sphere import angle, exp_map, fibonacci_grid, log_map, uniform_log_density, vmf_log_prob

KAPPAS = tuple(float(kappa) for kappa in np.geomspace(1, 1e6, 25))
"""Concentrations tried for the kernel: from a hemisphere wide (κ = 1) to about 6 km (κ = 10^6)."""

_CHUNK = 2_000_000  # pairs of points held at a time


class BaselineError(ValueError):
    """Training places from which no baseline can be made."""


def _checked(points: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """float64 points `(n, 3)` on the sphere and weights `(n,)` that sum to 1."""
    if points.ndim != 2 or points.shape[-1] != 3 or not len(points):
        raise BaselineError(f"points must be unit vectors of shape (n, 3), n ≥ 1, got {tuple(points.shape)}")
    points = points.double()
    if not bool(((points.norm(dim=-1) - 1).abs() < 1e-3).all()):
        raise BaselineError("points must have length 1: make them by avgeo.sphere.from_degrees")
    if weights is None:
        weights = torch.ones(len(points), dtype=torch.float64)
    if weights.shape != points.shape[:1] or not bool((weights >= 0).all()) or not bool(weights.sum() > 0):
        raise BaselineError("weights must be one non-negative number per point, not all zero")
    return points, weights.double() / weights.double().sum()


def best_constant(
    points: Float[Tensor, "n 3"],
    weights: Float[Tensor, " n"] | None = None,
    *,
    grid: int = 4096,
    starts: int = 8,
) -> Float[Tensor, " 3"]:
    """The one answer with the least mean great-circle distance to `points`: their geodesic median, float64.

    The mean distance has several local minima on a sphere, so the best `starts` of an equal-area grid are
    each refined by Weiszfeld steps (Fletcher, Venkatasubramanian & Joshi 2009), which end at a data point
    where that is best.
    """
    points, weights = _checked(points, weights)
    places, index = torch.unique(points, dim=0, return_inverse=True)
    mass = torch.zeros(len(places), dtype=torch.float64).index_add_(0, index, weights)
    candidates = fibonacci_grid(grid).double()
    costs = _mean_angle(candidates, places, mass)
    centers = candidates[costs.topk(min(starts, grid), largest=False).indices]
    for _ in range(200):
        tangents = log_map(centers[:, None, :].expand(-1, len(places), -1), places.expand(len(centers), -1, -1))
        pull = mass / tangents.norm(dim=-1).clamp_min(1e-12)
        step = (pull[..., None] * tangents).sum(1) / pull.sum(1, keepdim=True)
        centers = exp_map(centers, step)
        if float(step.norm(dim=-1).max()) < 1e-10:
            break
    # Weiszfeld creeps towards a minimum that is itself a data point: offer each result's nearest places too.
    near = angle(centers[:, None, :], places).topk(min(4, len(places)), largest=False).indices.flatten()
    finalists = torch.cat([centers, places[near]])
    return finalists[_mean_angle(finalists, places, mass).argmin()]


def _mean_angle(candidates: Tensor, points: Tensor, weights: Tensor) -> Tensor:
    rows = max(1, _CHUNK // len(points))
    return torch.cat([angle(block[:, None, :], points) @ weights for block in candidates.split(rows)])


@dataclass(frozen=True)
class KernelDensity:
    """A mixture of equal von Mises–Fisher kernels and a uniform part; it integrates to one exactly.

    p(x) = (1 - u) Σ w_i vMF(x; y_i, κ) + u / 4π, in nats with respect to the unit sphere's area.
    """

    points: Float[Tensor, "n 3"]
    weights: Float[Tensor, " n"]
    kappa: float
    uniform_weight: float
    cross_validation: dict[float, float]  # κ -> mean held-out log density, nats

    def log_prob(self, points: Float[Tensor, "*m 3"]) -> Float[Tensor, "*m"]:
        """Log density at each point, float64."""
        flat = points.double().reshape(-1, 3)
        rows = max(1, _CHUNK // len(self.points))
        kernels = torch.cat(
            [
                torch.logsumexp(vmf_log_prob(block[:, None, :], self.points, self.kappa) + self.weights.log(), dim=-1)
                for block in flat.split(rows)
            ]
        )
        return _with_uniform(kernels, self.uniform_weight).reshape(points.shape[:-1])


def _with_uniform(log_kernels: Tensor, uniform_weight: float) -> Tensor:
    uniform = torch.full_like(log_kernels, math.log(uniform_weight) + uniform_log_density())
    return torch.logaddexp(log_kernels + math.log1p(-uniform_weight), uniform)


def kernel_density(
    points: Float[Tensor, "n 3"],
    weights: Float[Tensor, " n"] | None = None,
    *,
    place_id: Sequence[object] | np.ndarray | None = None,
    kappas: Sequence[float] = KAPPAS,
    folds: int = 5,
    seed: int = 0,
) -> KernelDensity:
    """A von Mises–Fisher kernel density of `points`, κ chosen by `folds`-fold cross-validation over places.

    Clips of one place never fall on both sides of a fold; without `place_id`, equal points are one place. The
    uniform part has the weight of one more place among P, 1/(P+1): somewhere nobody has been yet. Raises
    `BaselineError`.
    """
    points, weights = _checked(points, weights)
    if place_id is None:
        place = torch.unique(points, dim=0, return_inverse=True)[1].numpy()
    elif len(place_id) != len(points):
        raise BaselineError(f"place_id has {len(place_id)} entries for {len(points)} points: give one per point")
    else:
        place = np.unique(np.asarray(place_id).astype(str), return_inverse=True)[1]
    places = int(place.max()) + 1
    if not kappas or min(kappas) < 0:
        raise BaselineError("kappas must be non-negative concentrations, at least one")
    if not 2 <= folds <= places:
        raise BaselineError(f"folds={folds} needs at least 2 folds and as many places, got {places}: lower folds")
    # Equal points are added up, so that many clips of few places cost no more than the places.
    sites, index = torch.unique(points, dim=0, return_inverse=True)
    fold = torch.from_numpy(np.random.default_rng(seed).permutation(places)[place] % folds)
    held = torch.zeros(folds, len(sites), dtype=torch.float64)
    held.index_put_((fold, index), weights, accumulate=True)  # mass of each site in each fold
    scores = {float(kappa): _held_out(sites, held, float(kappa), places) for kappa in kappas}
    best = max(scores, key=lambda kappa: scores[kappa])
    return KernelDensity(sites, held.sum(0), best, 1 / (places + 1), scores)


def _held_out(sites: Tensor, held: Tensor, kappa: float, places: int) -> float:
    """Mean log density of every clip under the kernels of the other folds, nats."""
    folds, total = len(held), 0.0
    uniform_weight = 1 / (places * (folds - 1) / folds + 1)
    log_masses = (held.sum(0) - held).clamp_min(0)
    log_masses = (log_masses / log_masses.sum(1, keepdim=True)).log()
    rows = max(1, _CHUNK // len(sites))
    for start in range(0, len(sites), rows):
        kernels = vmf_log_prob(sites[start : start + rows, None, :], sites, kappa)
        for mass, log_mass in zip(held[:, start : start + rows], log_masses, strict=True):
            if bool((mass > 0).any()):
                log_density = _with_uniform(torch.logsumexp(kernels + log_mass, dim=-1), uniform_weight)
                total += float((mass * log_density).sum())
    return total
