"""S², the unit sphere: points are unit vectors `(..., 3)`, degrees appear only at the edges.

Distances use `atan2` of the cross and dot products, never a bare `acos`, which returns 0 below a kilometre in
float32. `exp_map` and `log_map` are smooth at the base point; at the antipode, where the logarithm is not unique,
`log_map` picks a fixed direction, so that it is always finite and of length π.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Float64
from torch import Tensor

EARTH_RADIUS_KM = 6371.0088
"""Mean radius of the Earth (IUGG), km."""

SPHERE_AREA = 4 * math.pi
"""Area of the unit sphere, in which densities are measured."""

EARTH_AREA_KM2 = SPHERE_AREA * EARTH_RADIUS_KM**2

_PAIRS = 2**22  # distances that are held at once


class CoordinateError(ValueError):
    """Coordinates that are no place on Earth."""


def from_degrees(latitude_deg: Float[Tensor, "*n"], longitude_deg: Float[Tensor, "*n"]) -> Float[Tensor, "*n 3"]:
    """Unit vectors `(..., 3)` of latitudes in [-90, 90] and longitudes in degrees; raises `CoordinateError`."""
    if not bool((latitude_deg.abs() <= 90).all()) or not bool(torch.isfinite(longitude_deg).all()):
        raise CoordinateError("latitude_deg must lie in [-90, 90] and longitude_deg be finite, both in degrees")
    latitude, longitude = torch.deg2rad(latitude_deg), torch.deg2rad(longitude_deg)
    ring = torch.cos(latitude)
    return torch.stack([ring * torch.cos(longitude), ring * torch.sin(longitude), torch.sin(latitude)], dim=-1)


def from_table(table: pd.DataFrame) -> Float64[Tensor, "rows 3"]:
    """Unit vectors of a table's `latitude_deg` and `longitude_deg`; NaN in a row that has neither.

    Raises `CoordinateError` for what is no place, as `from_degrees`.
    """
    degrees = torch.tensor(table[["latitude_deg", "longitude_deg"]].to_numpy(np.float64))
    missing = degrees.isnan().all(-1)
    points = from_degrees(*degrees.masked_fill(missing[:, None], 0.0).unbind(-1))
    return points.masked_fill(missing[:, None], math.nan)


def check_points(points: Tensor, name: str = "points") -> None:
    """Raise `CoordinateError`, naming the argument, unless `points` are unit vectors (..., 3), at least one.

    For public entrances: every other function takes this for granted. A rounding of 1e-4 in length is let pass.
    """
    if points.ndim < 1 or points.shape[-1] != 3 or not points.is_floating_point():
        raise CoordinateError(
            f"{name} must be unit vectors (..., 3) of floats, got {tuple(points.shape)} of {points.dtype}: "
            "make them with from_degrees"
        )
    if points.numel() == 0:
        raise CoordinateError(f"{name} is empty: give at least one point")
    wrong = ~((points.norm(dim=-1) - 1).abs() < 1e-4)  # catches NaN, too
    if bool(wrong.any()):
        first = points[wrong][0].tolist()
        raise CoordinateError(
            f"{int(wrong.sum())} of {wrong.numel()} {name} are no unit vectors, the first is {first}: "
            "make them with from_degrees or normalize"
        )


def to_degrees(points: Float[Tensor, "*n 3"]) -> tuple[Float[Tensor, "*n"], Float[Tensor, "*n"]]:
    """(latitude_deg, longitude_deg) of unit vectors `(..., 3)`, the longitude in (-180, 180]."""
    x, y, z = points.unbind(-1)
    longitude_deg = torch.rad2deg(torch.atan2(y, x))
    # the date line is one meridian: a y of -0.0, or one that rounds to it, is not another
    return torch.rad2deg(torch.atan2(z, torch.hypot(x, y))), torch.where(longitude_deg <= -180, 180.0, longitude_deg)


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


def sinc(angles: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """sin x / x for x in radians, smooth at 0, where it is 1 (torch's own is sin πx / πx)."""
    return torch.sinc(angles / math.pi)


def exp_map(points: Float[Tensor, "*n 3"], tangents: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 3"]:
    """Walk from `points` along `tangents` (radians): exp_x(v) = cos|v| x + sin|v| v/|v|, renormalised."""
    length = tangents.norm(dim=-1, keepdim=True)
    return normalize(torch.cos(length) * points + sinc(length) * tangents)


def log_map(points: Float[Tensor, "*n 3"], targets: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 3"]:
    """Tangent at `points` (radians) whose `exp_map` is `targets`; at the antipode a fixed direction of length π."""
    # The chord to the target or, beyond 90°, to the target's antipode: the nearer one keeps its digits, where
    # targets - <x, y> x would cancel. Its projection is sin θ times the direction.
    cosine = (points * targets).sum(-1, keepdim=True)
    beyond = cosine < 0
    direction = project(points, torch.where(beyond, targets + points, targets - points))
    size = direction.norm(dim=-1, keepdim=True)
    degenerate = size <= 4 * torch.finfo(points.dtype).eps
    unit = direction / torch.where(degenerate, torch.ones_like(size), size)
    away = torch.where(degenerate & beyond, tangent_frame(points)[..., 0], unit)
    return torch.where(degenerate & ~beyond, direction, torch.atan2(size, cosine) * away)


def transport(
    points: Float[Tensor, "*n 3"], targets: Float[Tensor, "*n 3"], tangents: Float[Tensor, "*n 3"]
) -> Float[Tensor, "*n 3"]:
    """Parallel transport of `tangents` from `points` to `targets` along the geodesic of `log_map`.

    It is the reflection v - 2<v, m> m that swaps `points` and -`targets`, m being the midpoint of the geodesic.
    """
    middle = points + targets
    # <x, x + y> is |x + y|²/2 for unit vectors: what rounding added to their lengths would tilt a short sum
    excess = (middle * (points - middle / 2)).sum(-1, keepdim=True)
    middle = middle - excess * points
    size = middle.norm(dim=-1, keepdim=True)
    opposite = size <= 4 * torch.finfo(points.dtype).eps
    middle = middle / torch.where(opposite, torch.ones_like(size), size)
    middle = torch.where(opposite, tangent_frame(points)[..., 0], middle)
    return tangents - 2 * (tangents * middle).sum(-1, keepdim=True) * middle


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
    """Log density of the von Mises–Fisher law, nats per unit-sphere area, for finite κ ≥ 0 (Mardia & Jupp 2000, 9.3.4).

    Written with κ(cos θ - 1) = -κ|x-μ|²/2 and expm1, so that it keeps its digits from κ = 0, the uniform law, to 1e8
    and beyond; what float32 rounds off the points themselves costs up to κ·θ·1e-7 nats.
    """
    kappa = _concentration(kappa, points)
    exponent = -kappa * (points - mean).square().sum(-1) / 2
    small = kappa < 1e-4
    safe = torch.where(small, torch.ones_like(kappa), kappa)
    # log κ / (2π (1 - e^{-2κ})), near κ = 0 its series
    log_constant = torch.where(
        small,
        uniform_log_density() + kappa - kappa.square() / 6,
        torch.log(safe) - math.log(2 * math.pi) - torch.log(-torch.expm1(-2 * safe)),
    )
    return log_constant + exponent


def sample_vmf(
    mean: Float[Tensor, "*n 3"], kappa: Float[Tensor, "*k"] | float, generator: torch.Generator | None = None
) -> Float[Tensor, "*n 3"]:
    """One draw from vMF(μ, κ) around each mean, by inverting the exact law of 1 - cos θ (Ulrich 1984 in 3-D).

    `kappa`, finite and ≥ 0, is one number or broadcasts against the means' leading shape; κ = 0 is the uniform law.
    """
    kappa = _concentration(kappa, mean)[..., None]
    shape = (*mean.shape[:-1], 1)
    u = torch.rand(shape, generator=generator).to(mean)
    phase = 2 * math.pi * torch.rand(shape, generator=generator).to(mean)
    flat = kappa < torch.finfo(mean.dtype).tiny
    safe = torch.where(flat, torch.ones_like(kappa), kappa)
    drop = torch.where(flat, 2 * u, -torch.log1p(u * torch.expm1(-2 * safe)) / safe).clamp(0, 2)  # 1 - cos θ
    radius = torch.sqrt(drop * (2 - drop))
    frame = tangent_frame(mean)
    offset = radius * (torch.cos(phase) * frame[..., 0] + torch.sin(phase) * frame[..., 1])
    return normalize((1 - drop) * mean + offset)


def _concentration(kappa: Tensor | float, like: Tensor) -> Tensor:
    kappa = torch.as_tensor(kappa, dtype=like.dtype, device=like.device)
    if not bool(((kappa >= 0) & torch.isfinite(kappa)).all()):
        raise ValueError(
            f"kappa must be finite and at least 0 (0 is the uniform law), got {kappa.flatten()[:5].tolist()}"
        )
    return kappa


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
    rows = max(1, _PAIRS * 3 // max(1, points.numel()))  # not all pairs at once: their number is that of points squared
    totals = []
    for some in points.split(rows, dim=-2):
        distances = angle(some[..., :, None, :], points[..., None, :, :])
        totals.append((distances if weights is None else distances * weights[..., None, :]).sum(-1))
    chosen = torch.cat(totals, -1).argmin(-1)
    return torch.take_along_dim(points, chosen[..., None, None], dim=-2).squeeze(-2)
