"""The kernel densities that the Earth benchmark compares: each made of training and validation places and a seed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from avgeo.flow.kernels import Family, KernelMixture, fit_kernels, fit_plain
from avgeo.flow.mixture import fit_vmf_mixture


class Density(Protocol):
    """What is scored."""

    def log_prob(self, points: Tensor) -> Tensor:
        """Log densities (n,) of points (n, 3) in float64, nats with respect to the unit sphere's area."""
        ...


@runtime_checkable
class Sampled(Density, Protocol):
    """What can be drawn from, too."""

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Draws (count, 3) in float64."""
        ...


def folds(train: Tensor) -> int:
    """Where there are few places, twice the folds cost little and waste fewer."""
    return 20 if len(train) < 1000 else 10


def plain(train: Tensor, val: Tensor, seed: int) -> KernelMixture:
    """One κ for all."""
    return fit_plain(train, val, seed=seed, folds=folds(train))


def kernels(*families: Family) -> Callable[..., KernelMixture]:
    """Of these families."""

    def fit(train: Tensor, val: Tensor, seed: int) -> KernelMixture:
        return fit_kernels(train, val, seed=seed, families=families, folds=folds(train))

    return fit


def few_vmf(train: Tensor, val: Tensor, seed: int) -> KernelMixture:
    """A mixture of few vMF laws by EM; validation chooses how many."""
    counts = (10, 30, 100) if len(train) < 1000 else (100, 300)
    fitted = [fit_vmf_mixture(train, count, seed=seed) for count in counts]
    return max(fitted, key=lambda mixture: float(mixture.log_prob(val).mean()))
