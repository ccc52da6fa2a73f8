"""A mixture of few von Mises–Fisher laws, fitted by EM (Banerjee et al. 2005), over a uniform floor."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from avgeo.flow.kernels import SMALLEST_KM, DensityError, KernelMixture, unit
from avgeo.sphere import EARTH_RADIUS_KM, SPHERE_AREA, normalize, tangent_frame


def fit_vmf_mixture(
    train: Float[Tensor, "n 3"],
    components: int,
    *,
    seed: int = 0,
    smallest_km: float = SMALLEST_KM,
    iterations: int = 100,
    pseudo_count: float = 1.0,
) -> KernelMixture:
    """`components` vMF laws and the uniform one, by EM from places drawn far from one another (k-means++).

    A law with mean resultant length r has 1/κ = 1 - r, the maximum-likelihood estimate for κ ≫ 1 (its error is
    e^{-2κ}), at least `smallest_km` wide. The uniform law has `pseudo_count` places of its own, else it would die out.
    Raises `DensityError` for fewer places than components.
    """
    train = unit(train, "train")
    if not 1 <= components <= len(train):
        raise DensityError(f"components must lie between 1 and the {len(train)} places in train, got {components}")
    least = (smallest_km / EARTH_RADIUS_KM) ** 2
    draw = torch.Generator().manual_seed(seed)
    mean = train[torch.randint(len(train), (1,), generator=draw)]
    apart = (train - mean).square().sum(-1)
    for _ in range(components - 1):
        far = apart + 1e-15  # copies of one place are as good as any when nothing is left
        mean = torch.cat([mean, train[torch.multinomial(far, 1, generator=draw)]])
        apart = torch.minimum(apart, (train - mean[-1]).square().sum(-1))
    variance = torch.full((components,), float(apart.mean()) + least, dtype=torch.float64)
    weight = torch.full((components + 1,), 1 / (components + 1), dtype=torch.float64)
    for _ in range(iterations):
        drop = (1 - train @ mean.T).clamp_min(0)
        density = torch.exp(-drop / variance) / (2 * math.pi * variance * -torch.expm1(-2 / variance))
        part = torch.cat([density, torch.full_like(density[:, :1], 1 / SPHERE_AREA)], 1) * weight
        share = part / part.sum(1, keepdim=True)
        mass = share.sum(0)
        pull = share[:, :-1].T @ train
        mean = normalize(pull)
        # 1 - r from distances to the mean: 1 - |pull|/mass would cancel for narrow laws
        spread = (share[:, :-1] * (train[:, None] - mean).square().sum(-1)).sum(0) / 2
        variance = (spread / mass[:-1].clamp_min(1e-12)).clamp(least, 10.0)
        mass[-1] += pseudo_count
        weight = mass / mass.sum()
    both = torch.stack([variance, variance], 1)
    return KernelMixture(mean, tangent_frame(mean)[..., 0], both, weight[:-1])
