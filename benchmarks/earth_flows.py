"""The flows of the Earth benchmark, from three bases, and their mixture with kernels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from earth_models import Density, folds
from torch import Tensor

from avgeo.flow import Condition, SphereFlow, train_flow
from avgeo.flow.kernels import KernelMixture, em_weights, fit_kernels
from avgeo.flow.mixture import fit_vmf_mixture
from avgeo.profiles import FlowSettings
from avgeo.sphere import SPHERE_AREA, normalize

FLOW = FlowSettings(
    width=96, depth=3, scales=(1.0, 4.0, 12.0), condition=8, dropout=0.0, noise=0.0, weight_decay=0.0,
    steps=1000, batch=256, times_per_clip=1, transport=256, jitter_kappa=1e4, solver_steps=48,
)  # fmt: skip
BASE_KM = 200.0
"""Least width of the bases from which flows start: what is sharper would have to be carried home unharmed."""


class Unconditional:
    """A trained flow of which no condition is asked."""

    def __init__(self, flow: SphereFlow) -> None:
        self.flow, self.nothing = flow, Condition.nothing(1)

    def log_prob(self, points: Tensor) -> Tensor:
        """Exact but for the solver's steps; the network is in float32."""
        return self.flow.log_prob(points, self.nothing).double()

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Places (count, 3) in float64."""
        seed = int(torch.randint(2**31, (1,), generator=generator))
        return normalize(self.flow.sample(self.nothing, count, seed=seed)[0].double())


def flow(base: Callable[..., KernelMixture] | None, times: int = 1) -> Callable[..., Unconditional]:
    """From the law that `base` makes of the places; None: uniform. `times` as long as in `FLOW`."""

    def fit(train: Tensor, val: Tensor, seed: int) -> Unconditional:
        start = None if base is None else base(train, val, seed)
        settings = replace(FLOW, steps=times * FLOW.steps)
        return Unconditional(train_flow(train, Condition.nothing(len(train)), settings, seed, start)[0])

    return fit


def few_base(train: Tensor, val: Tensor, seed: int) -> KernelMixture:
    """A hundred vMF laws."""
    return fit_vmf_mixture(train, 100, seed=seed, smallest_km=BASE_KM)


def kernel_base(train: Tensor, val: Tensor, seed: int) -> KernelMixture:
    """All families of kernels, directed ones too, none narrower than `BASE_KM`."""
    return fit_kernels(train, val, seed=seed, folds=folds(train), smallest_km=BASE_KM)


@dataclass(frozen=True)
class Mixed:
    """A mixture of densities and the uniform law, whose weights are the last."""

    parts: tuple[Density, ...]
    weight: Tensor

    def log_prob(self, points: Tensor) -> Tensor:
        """Log of the weighted sum."""
        return torch.log(_densities(self.parts, points) @ self.weight)


def _densities(parts: tuple[Density, ...], points: Tensor) -> Tensor:
    each = [torch.exp(part.log_prob(points)) for part in parts]
    return torch.stack([*each, torch.full_like(each[0], 1 / SPHERE_AREA)], 1)


def mixed(train: Tensor, val: Tensor, seed: int, *parts: Density) -> Mixed:
    """Weights by EM on the validation places, each law with one place of its own."""
    likelihood = _densities(parts, val)
    return Mixed(parts, em_weights(likelihood, torch.ones_like(likelihood[0])))
