"""Does a density integrate to one? Asked at fixed points of cells that it has refined itself, and by chance."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from avgeo.flow.cells import CellDensity, Cells, LogDensity, refine, values_at
from avgeo.sphere import uniform_log_density

_GAUSS = (0.5 - 0.5 / math.sqrt(3), 0.5 + 0.5 / math.sqrt(3))
_UNIFORM = 0.1  # of the draws, so that none weighs much where the cells took the density for too low


@dataclass(frozen=True)
class Integral:
    """∫p dA twice: `grid` by cells, `sampling` by importance sampling with its standard error; and what that cost."""

    grid: float
    sampling: float
    sampling_se: float
    evaluations: int


def integral(
    log_prob: LogDensity,
    samples: Float[Tensor, "m 3"],
    *,
    count: int = 4000,
    seed: int = 0,
    tolerance: float = 0.03,
    limit: int = 1_000_000,
) -> Integral:
    """∫p dA on cells that hold at most a thousandth each (`refine` to `tolerance`), and by `count` draws.

    `samples` of the density lead the cells to its peaks: a peak much narrower than the cells that none has led to is
    missed by both, and the standard error does not know. Raises `ValueError` for fewer than 10 draws, `PosteriorError`
    for NaN.
    """
    if count < 10:
        raise ValueError(f"count must be at least 10, got {count}")
    guide = refine(log_prob, samples, tolerance=tolerance, limit=limit)
    mean, error = integral_by_sampling(log_prob, guide, count, torch.Generator().manual_seed(seed + 1))
    asked = guide.evaluations + len(_GAUSS) ** 2 * len(guide.cells) + count
    return Integral(integral_by_grid(log_prob, guide.cells), mean, error, asked)


def integral_by_grid(log_prob: LogDensity, cells: Cells) -> float:
    """∫p dA by Gauss's rule, two by two points in every cell: exact for cubics of longitude and sin(latitude).

    None of them is a cell's middle, where `refine` has asked: sums that had a say in where to cut are biased, as cells
    whose peak was missed are not cut.
    """
    one = torch.ones(len(cells), dtype=torch.float64)
    values = [values_at(log_prob, cells.inside(across * one, up * one)) for across in _GAUSS for up in _GAUSS]
    return float((torch.stack(values).exp().mean(0) * cells.area).sum())


def integral_by_sampling(
    log_prob: LogDensity, guide: CellDensity, count: int, generator: torch.Generator
) -> tuple[float, float]:
    """(∫p dA, its standard error): the mean of p/q over `count` draws from q, the `guide` with a tenth of uniform law.

    Unbiased whatever the guide; the closer it is to p, the smaller the error.
    """
    even = torch.tensor(math.log(_UNIFORM) + uniform_log_density(), dtype=torch.float64)
    own = guide.log_prob + math.log((1 - _UNIFORM) / guide.total)
    points, log_q = replace(guide, log_prob=torch.logaddexp(own, even)).draw(count, generator)
    ratio = torch.exp(values_at(log_prob, points) - log_q)
    return float(ratio.mean()), float(ratio.std() / math.sqrt(count))
