"""The densities that the Earth benchmark compares: each made of training and validation places and a seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from avgeo.flow import Condition, SphereFlow, train_flow
from avgeo.flow.base import Base
from avgeo.flow.earth import PROTOCOLS
from avgeo.flow.kernels import BRIDGES, DIRECTED, NEIGHBOURS, WIDTHS, Family, KernelMixture, em_weights, fit_kernels
from avgeo.flow.kernels import fit_plain, neighbours
from avgeo.flow.likelihood import log_likelihood
from avgeo.flow.mixture import fit_vmf_mixture
from avgeo.profiles import FlowSettings
from avgeo.sphere import SPHERE_AREA


class Density(Protocol):
    """What is scored."""

    def log_prob(self, points: Tensor) -> Tensor:
        """Log densities (n,) of points (n, 3) in float64, nats with respect to the unit sphere's area."""
        ...


@dataclass(frozen=True)
class Method:
    """A way to make a density.

    `fit` gets training places (n, 3), validation places (m, 3), a seed, and then the densities of the methods named in
    `parts`, of the same places and seed. Training places make the density; validation places only choose (widths,
    weights). `code` names the modules of avgeo on which finished cells rest, `finest_km` how fine a grid its integral
    wants: its narrowest kernel or jitter, twice.
    """

    fit: Callable[..., Density]
    code: tuple[str, ...] = ("flow/kernels", "flow/base")
    protocols: tuple[str, ...] = PROTOCOLS
    parts: tuple[str, ...] = ()
    finest_km: float = 1.0


def _folds(train: Tensor) -> int:
    """Where there are few places, twice the folds cost little and waste fewer."""
    return 20 if len(train) < 1000 else 10


def _plain(train: Tensor, val: Tensor, seed: int) -> KernelMixture:
    return fit_plain(train, val, seed=seed, folds=_folds(train))


def _kernels(*families: Family) -> Callable[..., KernelMixture]:
    def fit(train: Tensor, val: Tensor, seed: int) -> KernelMixture:
        return fit_kernels(train, val, seed=seed, families=families, folds=_folds(train))

    return fit


def _vmf_mixture(train: Tensor, val: Tensor, seed: int) -> KernelMixture:
    counts = (10, 30, 100) if len(train) < 1000 else (100, 300)
    fitted = [fit_vmf_mixture(train, count, seed=seed) for count in counts]
    return max(fitted, key=lambda mixture: float(mixture.log_prob(val).mean()))


FLOW = FlowSettings(
    width=128, depth=3, scales=(1.0, 4.0, 12.0, 40.0), condition=8, dropout=0.0, noise=0.0, weight_decay=0.0,
    steps=3000, batch=256, times_per_clip=1, transport=256, jitter_kappa=1e4, solver_steps=24,
)  # fmt: skip
BASE_KM = 200.0
"""Least width of the bases from which flows start: what is sharper would have to be carried home unharmed."""


class Unconditional:
    """A trained flow of which no condition is asked: its code is one row, its network's modulation computed once."""

    def __init__(self, flow: SphereFlow) -> None:
        nothing = Condition.nothing(1)
        self.base, self.steps = flow.base, flow.settings.solver_steps
        self.network, self.code = flow.field.requires_grad_(False), flow.encoder(nothing).detach()

    def __call__(self, points: Tensor, time: float) -> Tensor:
        """Velocities (n, 3)."""
        return self.network(points, self._modulation(time))

    def with_divergence(self, points: Tensor, time: float, frame: Tensor) -> tuple[Tensor, Tensor]:
        """Velocities (n, 3) and divergences (n,)."""
        return self.network.with_divergence(points, self._modulation(time), frame)

    def _modulation(self, time: float) -> Tensor:
        return self.network.modulation(torch.tensor([time]), self.code)

    def log_prob(self, points: Tensor) -> Tensor:
        """Exact but for the solver's steps; the network is in float32."""
        blocks = points.float().split(2048)
        found = [log_likelihood(self, self.with_divergence, x, self.steps, base=self.base.log_prob) for x in blocks]
        return torch.cat(found).double()


def _flow(base: Callable[..., KernelMixture] | None) -> Callable[..., Unconditional]:
    def fit(train: Tensor, val: Tensor, seed: int) -> Unconditional:
        start = None if base is None else base(train, val, seed).float()
        flow, _ = train_flow(train.float(), Condition.nothing(len(train)), FLOW, seed, start)
        return Unconditional(flow)

    return fit


def _few(train: Tensor, val: Tensor, seed: int) -> KernelMixture:
    return fit_vmf_mixture(train, 100, seed=seed, smallest_km=BASE_KM)


def _smooth(train: Tensor, val: Tensor, seed: int) -> KernelMixture:
    return fit_kernels(train, val, seed=seed, folds=_folds(train), smallest_km=BASE_KM)


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


def _mixed(train: Tensor, val: Tensor, seed: int, *parts: Density) -> Mixed:
    likelihood = _densities(parts, val)
    return Mixed(parts, em_weights(likelihood, torch.ones_like(likelihood[0])))


_FLOW = ("flow/kernels", "flow/base", "flow/likelihood", "flow/mixture", "flow/network", "flow/path", "flow/solver",
         "flow/training", "flow/transport", "sphere")  # fmt: skip


def _of_flows(fit: Callable[..., Density], *parts: str) -> Method:
    return Method(fit, _FLOW, ("deduplicated",), parts, finest_km=30.0)


_ABLATED = ("deduplicated",)
PLAIN = "plain vMF kernels"
OURS = "kernels: all"
METHODS: dict[str, Method] = {
    PLAIN: Method(_plain),
    "kernels: widths": Method(_kernels(*WIDTHS), protocols=_ABLATED),
    "kernels: widths, neighbours": Method(_kernels(*WIDTHS, *NEIGHBOURS), protocols=_ABLATED),
    "kernels: widths, neighbours, directed": Method(_kernels(*WIDTHS, *NEIGHBOURS, *DIRECTED), protocols=_ABLATED),
    OURS: Method(_kernels(*WIDTHS, *NEIGHBOURS, *DIRECTED, *BRIDGES)),
    "vMF mixture (EM)": Method(_vmf_mixture, ("flow/mixture", "flow/kernels", "flow/base"), protocols=_ABLATED),
    "flow, uniform base": _of_flows(_flow(None)),
    "flow, vMF mixture base": _of_flows(_flow(_few)),
    "flow, kernel base": _of_flows(_flow(_smooth)),
    "flow and kernels": _of_flows(_mixed, "flow, kernel base", OURS),
}


def proposal(density: Density, train: Tensor) -> KernelMixture:
    """A law as sharp as the density and a little wider, from which importance sampling draws.

    Of kernels, the same ones with variances a quarter larger; of anything else, kernels of several widths.
    """
    if isinstance(density, KernelMixture):
        left = 0.98 * density.weight
        return KernelMixture(density.center, density.axis, 1.25 * density.variance, left)
    families = [*WIDTHS[2::2], *(neighbours(k, scale) for k in (1, 6) for scale in (0.7, 2.0))]
    made = [family(train, 6e-9) for family in families]
    parts = (torch.cat([getattr(one, name) for one in made]) for name in ("center", "axis", "variance"))
    count = len(made) * len(train)
    return KernelMixture(*parts, torch.full((count,), 0.95 / count, dtype=torch.float64))
