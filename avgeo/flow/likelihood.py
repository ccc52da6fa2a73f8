"""Densities of a flow: at points, exactly or by Hutchinson's estimate, and on a whole grid at once."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial import ConvexHull
from torch import Tensor

from avgeo.flow.base import Uniform
from avgeo.flow.solver import GRADING, Field, FieldWithDivergence, SolverError, integrate, integrate_back
from avgeo.sphere import CoordinateError, check_points, fibonacci_grid, normalize

BaseLogProb = Callable[[Tensor], Tensor]
"""Points (n, 3) to log densities (n,), in nats with respect to the unit sphere's area."""

UNIFORM: BaseLogProb = Uniform().log_prob


def log_likelihood(
    field: Field,
    with_divergence: FieldWithDivergence,
    points: Float[Tensor, "n 3"],
    steps: int,
    *,
    base: BaseLogProb = UNIFORM,
    method: str = "adams",
    grading: float = GRADING,
) -> Float[Tensor, " n"]:
    """log p_1 at `points` (n, 3), in nats per unit-sphere area, of the flow that carries `base` from t = 0 to 1.

    log p_1(x_1) = log p_0(x_0) - ∫ div v dt (Mathieu & Nickel 2020; Chen & Lipman 2024, eq. 24), both integrals by the
    same scheme. Raises `CoordinateError` for points that are not on the sphere.
    """
    check_points(points)
    if points.ndim != 2:
        raise CoordinateError(f"points has shape {tuple(points.shape)}: give rows (n, 3)")
    start, gained = integrate_back(field, with_divergence, points, steps, method=method, grading=grading)
    return base(start) - gained


def draw_probes(count: int, generator: torch.Generator) -> Float[Tensor, "n 2"]:
    """Independent signs ±1 (n, 2): the probes with the least variance for `hutchinson` (Hutchinson 1990)."""
    return 2 * torch.randint(2, (count, 2), generator=generator).float() - 1


def hutchinson(with_divergence: FieldWithDivergence, probes: Float[Tensor, "n 2"]) -> FieldWithDivergence:
    """Replace the divergence by <e, Dv·e> along one random tangent e = frame · probe: unbiased, two thirds of the cost.

    Unbiased because E[probe probeᵀ] is the identity of the *tangent plane*; the error is that of the two mixed
    derivatives, ±(<e_1, Dv·e_2> + <e_2, Dv·e_1>). A probe stays with its point for the whole solve and is carried along
    by the frame, so that the estimate is a smooth field and the solver keeps its order (Grathwohl et al. 2019). The log
    density is then unbiased; its exponential is not.
    """

    def estimate(points: Tensor, time: float, frame: Tensor) -> tuple[Tensor, Tensor]:
        tangent = (frame * probes[:, None].to(frame)).sum(-1, keepdim=True)
        return with_divergence(points, time, tangent)

    return estimate


def grid_probabilities(
    field: Field,
    count: int,
    steps: int,
    *,
    base: BaseLogProb = UNIFORM,
    method: str = "adams",
    grading: float = GRADING,
    like: Tensor | None = None,
) -> tuple[Float[Tensor, "count 3"], Float[Tensor, " count"]]:
    """An equal-area grid (count, 3) and the probability of each point's cell, without any divergence.

    The grid's Delaunay triangles are carried back to t = 0 and weighed there by the base: mass is
    conserved, so what lies in a triangle is what lay in its origin, and no peak falls between the points. A point gets
    the mean density of the triangles around it. Half the cost of `log_likelihood` on the same grid. Divide by the
    cells' area, 4π/count, for densities; none is below e^-60. Origins are triangles only as far as the map is linear
    over a cell; those that come out turned over count nothing, and the rest is scaled to 1. So the sum is no check of
    the flow; and where a cell holds per cents of the whole, a finer grid is wanted. `like` gives device and type of
    the points handed to the field.
    """
    if count < 100:
        raise SolverError(f"count must be at least 100 for a triangulation, got {count}")
    grid = fibonacci_grid(count).to(torch.empty(0) if like is None else like)
    corners = _triangles(grid)
    back = integrate(field, grid, steps, method=method, grading=grading, backwards=True).double()
    origin = back[corners]
    mass = _signed_area(*origin.unbind(1)).clamp_min(0) * torch.exp(base(normalize(origin.mean(1)).to(grid)).double())
    weights = torch.stack([mass, _signed_area(*grid.double()[corners].unbind(1))], -1).repeat_interleave(3, 0)
    shares = torch.zeros(count, 2, dtype=torch.float64, device=grid.device).index_add(0, corners.flatten(), weights)
    density = shares[:, 0] / shares[:, 1]
    return grid, (density / density.sum()).clamp_min(math.exp(-60)).to(grid)


def _triangles(grid: Tensor) -> Tensor:
    """Corners (m, 3) of the triangles between points on the sphere, anticlockwise seen from outside."""
    points = grid.double().cpu().numpy()
    corners = ConvexHull(points).simplices
    inward = np.linalg.det(points[corners]) < 0
    corners[inward] = corners[inward][:, ::-1]
    return torch.from_numpy(corners.astype(np.int64)).to(grid.device)


def _signed_area(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Areas of spherical triangles in steradians, negative when clockwise (Van Oosterom & Strackee 1983)."""
    volume = (a * torch.linalg.cross(b - a, c - a)).sum(-1)
    return 2 * torch.atan2(volume, 1 + (a * b).sum(-1) + (b * c).sum(-1) + (c * a).sum(-1))
