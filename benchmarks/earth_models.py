"""The densities that the Earth benchmark compares: each made of training and validation places and a seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from avgeo.flow.base import Base
from avgeo.flow.kernels import (
    BRIDGES,
    DIRECTED,
    NEIGHBOURS,
    WIDTHS,
    Family,
    KernelMixture,
    fit_kernels,
    fit_plain,
    neighbours,
)
from avgeo.flow.mixture import fit_vmf_mixture

Fit = Callable[[Tensor, Tensor, int], Base]
"""(training places (n, 3), validation places (m, 3), seed) -> anything with `log_prob(points)` and `sample(count)`.

Training places make the density; validation places only choose (widths, weights, when to stop). Both are float64.
"""


@dataclass(frozen=True)
class Method:
    """A way to make a density, and the modules of avgeo on which its finished cells rest."""

    fit: Fit
    code: tuple[str, ...] = ("flow/kernels", "flow/base")


def _kernels(*families: Family, groups: int = 1) -> Method:
    """Cross-validated; where there are few places, twice the folds cost little and waste fewer."""

    def fit(train: Tensor, val: Tensor, seed: int) -> KernelMixture:
        folds = 20 if len(train) < 1000 else 10
        return fit_kernels(train, val, seed=seed, families=families, groups=groups, folds=folds)

    return Method(fit)


def _vmf_mixture(train: Tensor, val: Tensor, seed: int) -> Base:
    counts = (10, 30, 100) if len(train) < 1000 else (100, 300)
    fitted = [fit_vmf_mixture(train, count, seed=seed) for count in counts]
    return max(fitted, key=lambda mixture: float(mixture.log_prob(val).mean()))


PLAIN = "plain vMF kernels"
OURS = "kernels: all, by region"
METHODS: dict[str, Method] = {
    PLAIN: Method(lambda train, val, seed: fit_plain(train, val)),
    "kernels: widths": _kernels(*WIDTHS),
    "kernels: widths, neighbours": _kernels(*WIDTHS, *NEIGHBOURS),
    "kernels: widths, directed": _kernels(*WIDTHS, *DIRECTED),
    "kernels: widths, neighbours, directed": _kernels(*WIDTHS, *NEIGHBOURS, *DIRECTED),
    "kernels: all": _kernels(*WIDTHS, *NEIGHBOURS, *DIRECTED, *BRIDGES),
    OURS: _kernels(*WIDTHS, *NEIGHBOURS, *DIRECTED, *BRIDGES, groups=4),
    "vMF mixture (EM)": Method(_vmf_mixture, ("flow/mixture", "flow/kernels", "flow/base")),
}


def proposal(density: Base, train: Tensor) -> KernelMixture:
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
