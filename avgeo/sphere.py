"""S², the unit sphere: points are unit vectors `(..., 3)`, degrees appear only at the edges.

Distances use `atan2` of the cross and dot products, never a bare `acos`, which returns 0 below a kilometre in
float32. `exp_map` and `log_map` are smooth at the base point; at the antipode, where the logarithm is not unique,
`log_map` picks a fixed direction, so that it is always finite and of length π.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

EARTH_RADIUS_KM = 6371.0088
"""Mean radius of the Earth (IUGG), km."""

SPHERE_AREA = 4 * math.pi
"""Area of the unit sphere, in which densities are measured."""

EARTH_AREA_KM2 = SPHERE_AREA * EARTH_RADIUS_KM**2


class CoordinateError(ValueError):
    """A latitude or longitude that is not a place on Earth."""


def from_degrees(latitude_deg: Float[Tensor, "*n"], longitude_deg: Float[Tensor, "*n"]) -> Float[Tensor, "*n 3"]:
    """Unit vectors `(..., 3)` of latitudes in [-90, 90] and longitudes in degrees; raises `CoordinateError`."""
    if not bool((latitude_deg.abs() <= 90).all()) or not bool(torch.isfinite(longitude_deg).all()):
        raise CoordinateError("latitude_deg must lie in [-90, 90] and longitude_deg be finite, both in degrees")
    latitude, longitude = torch.deg2rad(latitude_deg), torch.deg2rad(longitude_deg)
    ring = torch.cos(latitude)
    return torch.stack([ring * torch.cos(longitude), ring * torch.sin(longitude), torch.sin(latitude)], dim=-1)


def to_degrees(points: Float[Tensor, "*n 3"]) -> tuple[Float[Tensor, "*n"], Float[Tensor, "*n"]]:
    """(latitude_deg, longitude_deg) of unit vectors `(..., 3)`, the longitude in (-180, 180]."""
    x, y, z = points.unbind(-1)
    return torch.rad2deg(torch.atan2(z, torch.hypot(x, y))), torch.rad2deg(torch.atan2(y, x))


def normalize(vectors: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 3"]:
    """Vectors scaled to unit length."""
    return vectors / vectors.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(vectors.dtype).tiny)


def project(points: Float[Tensor, "*n 3"], vectors: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 3"]:
    """The part of `vectors` tangent to the sphere at `points`."""
    return vectors - (points * vectors).sum(-1, keepdim=True) * points


def angle(a: Float[Tensor, "*n 3"], b: Float[Tensor, "*m 3"]) -> Float[Tensor, "*o"]:
    """Geodesic distance in radians, in [0, π], accurate at 0 and at π (2 atan2(|a - b|, |a + b|), Kahan)."""
    return 2 * torch.atan2((a - b).norm(dim=-1), (a + b).norm(dim=-1))


def distance_km(a: Float[Tensor, "*n 3"], b: Float[Tensor, "*m 3"]) -> Float[Tensor, "*o"]:
    """Great-circle distance in km on a sphere of mean radius; float32 is good to about a metre."""
    return EARTH_RADIUS_KM * angle(a, b)


def exp_map(points: Float[Tensor, "*n 3"], tangents: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 3"]:
    """Walk from `points` along `tangents` (radians): exp_x(v) = cos|v| x + sin|v| v/|v|, renormalised."""
    length = tangents.norm(dim=-1, keepdim=True)
    # torch.sinc(x) = sin(πx)/(πx): smooth at 0, where sin|v|/|v| has no value of its own.
    return normalize(torch.cos(length) * points + torch.sinc(length / math.pi) * tangents)


def log_map(points: Float[Tensor, "*n 3"], targets: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 3"]:
    """Tangent at `points` (radians) whose `exp_map` is `targets`; at the antipode a fixed direction of length π."""
    # The chord, projected, keeps its digits for near points, where targets - <x, y> x would cancel.
    direction = project(points, targets - points)
    size = direction.norm(dim=-1, keepdim=True)
    theta = angle(points, targets)[..., None]
    degenerate = size <= 4 * torch.finfo(points.dtype).eps
    antipodal = degenerate & (theta > 1)
    fallback = torch.where(antipodal, tangent_frame(points)[..., 0], torch.zeros_like(points))
    # near the antipode the projected chord is short and rounded: projecting its direction again keeps it tangent
    unit = normalize(project(points, direction / torch.where(degenerate, torch.ones_like(size), size)))
    return torch.where(degenerate & ~antipodal, direction, theta * torch.where(degenerate, fallback, unit))


def transport(
    points: Float[Tensor, "*n 3"], targets: Float[Tensor, "*n 3"], tangents: Float[Tensor, "*n 3"]
) -> Float[Tensor, "*n 3"]:
    """Parallel transport of `tangents` from `points` to `targets` along the shorter geodesic (not at antipodes)."""
    overlap = 1 + (points * targets).sum(-1, keepdim=True)
    slope = (targets * tangents).sum(-1, keepdim=True) / overlap.clamp_min(torch.finfo(points.dtype).eps)
    return tangents - slope * (points + targets)


def tangent_frame(points: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 3 2"]:
    """Two orthonormal tangents at each point, as columns (Duff et al. 2017, without branches at the poles)."""
    x, y, z = points.unbind(-1)
    sign = torch.where(z >= 0, torch.ones_like(z), -torch.ones_like(z))
    a = -1 / (sign + z)
    b = x * y * a
    first = torch.stack([1 + sign * x * x * a, sign * b, -sign * x], dim=-1)
    second = torch.stack([b, sign + y * y * a, -y], dim=-1)
    return torch.stack([first, second], dim=-1)


def sample_uniform(count: int, generator: torch.Generator | None = None) -> Float[Tensor, "n 3"]:
    """`count` points drawn uniformly by area."""
    return normalize(torch.randn(count, 3, generator=generator))


def uniform_log_density() -> float:
    """log 1/4π, the log density of the uniform law, in nats with respect to the unit sphere's area."""
    return -math.log(SPHERE_AREA)


def vmf_log_prob(
    points: Float[Tensor, "*n 3"], mean: Float[Tensor, "*m 3"], kappa: Float[Tensor, "*k"] | float
) -> Float[Tensor, "*o"]:
    """Log density of the von Mises–Fisher law, nats per unit-sphere area, for any κ ≥ 0 (Mardia & Jupp 2000, 9.3.4).

    Written with κ(cos θ - 1) = -κ|x-μ|²/2 and expm1, so that it keeps its digits from κ = 0 to 1e8.
    """
    kappa = torch.as_tensor(kappa, dtype=points.dtype, device=points.device)
    exponent = -kappa * (points - mean).square().sum(-1) / 2
    small = kappa < 1e-4
    safe = torch.where(small, torch.ones_like(kappa), kappa)
    # log κ / (2π (1 - e^{-2κ})); as κ -> 0 its series is -log 4π + κ
    log_constant = torch.where(
        small,
        uniform_log_density() + kappa,
        torch.log(safe) - math.log(2 * math.pi) - torch.log(-torch.expm1(-2 * safe)),
    )
    return log_constant + exponent


def sample_vmf(
    mean: Float[Tensor, "n 3"], kappa: float, generator: torch.Generator | None = None
) -> Float[Tensor, "n 3"]:
    """One draw from vMF(μ, κ) around each mean, by inverting the exact law of 1 - cos θ (Ulrich 1984 in 3-D)."""
    if kappa <= 0:
        raise ValueError(f"kappa must be positive, got {kappa}")
    u = torch.rand(len(mean), 1, generator=generator).to(mean)
    phase = 2 * math.pi * torch.rand(len(mean), 1, generator=generator).to(mean)
    drop = (-torch.log1p(u * math.expm1(-2 * kappa)) / kappa).clamp(0, 2)  # 1 - cos θ
    radius = torch.sqrt(drop * (2 - drop))
    frame = tangent_frame(mean)
    offset = radius * (torch.cos(phase) * frame[..., 0] + torch.sin(phase) * frame[..., 1])
    return normalize((1 - drop) * mean + offset)


def fibonacci_grid(count: int) -> Float[Tensor, "n 3"]:
    """`count` points of (nearly) equal area 4π/count each, on a golden-angle spiral (Swinbank & Purser 2006)."""
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    index = torch.arange(count, dtype=torch.float64)
    z = 1 - (2 * index + 1) / count
    longitude = index * math.pi * (3 - math.sqrt(5))
    ring = torch.sqrt(1 - z * z)
    return torch.stack([ring * torch.cos(longitude), ring * torch.sin(longitude), z], dim=-1).float()


def geodesic_median(
    points: Float[Tensor, "*b n 3"], weights: Float[Tensor, "*b n"] | None = None, iterations: int = 50
) -> Float[Tensor, "*b 3"]:
    """The place with least mean distance to `points`, by Weiszfeld steps in the tangent plane (Fletcher et al. 2009).

    Starts from the best of the points themselves (their medoid), so that it never does worse than any of them.
    """
    if weights is None:
        weights = torch.ones_like(points[..., 0])
    start = medoid(points, weights)

    def cost(center: Tensor) -> Tensor:
        return (weights * angle(center[..., None, :], points)).sum(-1)

    best, best_cost, center = start, cost(start), start
    for _ in range(iterations):
        tangents = log_map(center[..., None, :].expand_as(points), points)
        pull = weights / tangents.norm(dim=-1).clamp_min(1e-6)
        center = exp_map(center, (pull[..., None] * tangents).sum(-2) / pull.sum(-1, keepdim=True))
        now = cost(center)
        better = now < best_cost
        best = torch.where(better[..., None], center, best)
        best_cost = torch.where(better, now, best_cost)
    return best


def medoid(points: Float[Tensor, "*b n 3"], weights: Float[Tensor, "*b n"] | None = None) -> Float[Tensor, "*b 3"]:
    """The one of `points` with least weighted mean distance to all of them."""
    distances = angle(points[..., :, None, :], points[..., None, :, :])
    if weights is not None:
        distances = distances * weights[..., None, :]
    chosen = distances.sum(-1).argmin(-1)
    return torch.take_along_dim(points, chosen[..., None, None], dim=-2).squeeze(-2)
