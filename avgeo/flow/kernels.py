"""Densities on the sphere without a network: kernels round the places seen, weighted by cross-validation.

The kernel is a normal law in the tangent plane's equal-area chart (Lambert's azimuthal projection). The chart keeps
areas, so the normal's own constant, less what falls outside the chart's disc, is the exact constant on the sphere:

    K(y; x, v) = exp(-(1 - cos θ) (cos²φ/v₁ + sin²φ/v₂)) / (2π √(v₁v₂) P(v)),    θ = angle(x, y), φ from the first axis,

and with v₁ = v₂ = 1/κ it *is* the von Mises–Fisher law, since the chart's radius is the chord. One formula serves both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.spatial import KDTree
from torch import Tensor

from avgeo.flow.base import Base
from avgeo.sphere import EARTH_RADIUS_KM, SPHERE_AREA, check_points, normalize, sample_uniform, tangent_frame

SMALLEST_KM = 0.5
"""Default least standard deviation of a kernel, km: places seen twice would ask for none at all."""

_NARROWEST, _WIDEST = 1e-14, 1e4  # rad²: 1 - cos θ keeps no digit below; flat to 1e-4 above, and slow to draw from
_NEGLIGIBLE = 45.0  # a kernel whose exponent is beyond this is left out: e⁻⁴⁵ of its peak
_LEAF = 64  # points for which kernels are summed at once
_HELD = 2**11  # kernels for which they are: 1 MB, which stays in the processor's cache
_NODES = 128
_LEAST_PART = 1e-3  # the least weight with which a family stays in a mixture
_ENOUGH = 3000  # held-out training places: a few dozen weights ask for no more


class DensityError(ValueError):
    """Points or settings from which no density can be made; the message names the argument and the cure."""


@dataclass(frozen=True)
class Kernels:
    """Kernels of one kind, one round each place seen: centres, first principal tangents, variances along and across."""

    center: Float[Tensor, "n 3"]
    axis: Float[Tensor, "n 3"]
    variance: Float[Tensor, "n 2"]


Family = Callable[[Float[Tensor, "n 3"], float], Kernels]
"""Kernels of places seen, given the least variance (rad²)."""


def fixed(width_km: float) -> Family:
    """vMF kernels of one standard deviation, κ = (R/width)²."""

    def make(places: Float[Tensor, "n 3"], least: float) -> Kernels:
        variance = max((width_km / EARTH_RADIUS_KM) ** 2, least)
        return Kernels(places, tangent_frame(places)[..., 0], torch.full_like(places[:, :2], variance))

    return make


def neighbours(k: int, scale: float) -> Family:
    """vMF kernels whose width is `scale` times the chord to the k-th neighbour (Breiman, Meisel & Purcell 1977)."""

    def make(places: Float[Tensor, "n 3"], least: float) -> Kernels:
        width = scale * nearest(places, k)[0][:, -1:]
        return Kernels(places, tangent_frame(places)[..., 0], width.square().clamp_min(least).expand(-1, 2))

    return make


def local_pca(k: int, scale: float, shrink: float) -> Family:
    """Kernels that lie along the data: manifold Parzen windows (Vincent & Bengio 2002) on S².

    The second moments of the k nearest neighbours about the place, shrunk by `shrink` towards equal ones, times scale².
    """

    def make(places: Float[Tensor, "n 3"], least: float) -> Kernels:
        _, index = nearest(places, k)
        frame = tangent_frame(places)
        u = torch.einsum("nki,nij->nkj", places[index] - places[:, None], frame)
        values, vectors = torch.linalg.eigh(torch.einsum("nki,nkj->nij", u, u) / index.shape[1])
        values = (1 - shrink) * values + shrink * values.mean(1, keepdim=True)
        axis = torch.einsum("nij,nj->ni", frame, vectors[:, :, 0])
        return Kernels(places, axis, (scale**2 * values).clamp_min(least))

    return make


def bridges(order: int, along: float, across: float) -> Family:
    """A kernel midway between each place and its neighbour of that order, `along` and `across` times as wide as far.

    Arcs, faults and fronts go on between the places where they were seen.
    """

    def make(places: Float[Tensor, "n 3"], least: float) -> Kernels:
        chord, index = nearest(places, order)
        other = places[index[:, -1]]
        apart = places + other
        # of a place and its antipode no middle is the middle: stay at the place
        center = torch.where(apart.norm(dim=-1, keepdim=True) < 1e-6, places, normalize(apart))
        along_it = other - places
        along_it = along_it - (along_it * center).sum(-1, keepdim=True) * center
        # between copies there is no direction, and none is needed: both variances are the least
        copies = along_it.norm(dim=-1, keepdim=True) < 1e-12
        axis = torch.where(copies, tangent_frame(center)[..., 0], normalize(along_it))
        widths = chord[:, -1:] * chord.new_tensor([along, across])
        return Kernels(center, axis, widths.square().clamp_min(least))

    return make


WIDTHS: tuple[Family, ...] = tuple(fixed(float(width)) for width in np.geomspace(0.7, 3000, 13))
NEIGHBOURS = tuple(neighbours(k, scale) for k in (1, 6) for scale in (0.4, 0.8))
DIRECTED = tuple(local_pca(k, scale, 0.03) for k in (6, 12, 24) for scale in (0.4, 0.8))
BRIDGES = tuple(
    bridges(order, along, ratio * along) for order in (1, 2, 4) for along in (0.3, 0.6) for ratio in (0.1, 0.4)
)
FAMILIES = WIDTHS + NEIGHBOURS + DIRECTED + BRIDGES


class KernelMixture(Base):
    """sum_j w_j K(y; x_j, v_j) + (1 - sum_j w_j)/4π, in float64 whatever comes in.

    `center` and `axis` are unit and orthogonal (n, 3), `variance` (n, 2) in rad², `weight` (n,) sums to at most 1; the
    rest is uniform. Raises `DensityError` for anything else.
    """

    center: Tensor
    axis: Tensor
    variance: Tensor
    weight: Tensor

    def __init__(
        self,
        center: Float[Tensor, "n 3"],
        axis: Float[Tensor, "n 3"],
        variance: Float[Tensor, "n 2"],
        weight: Float[Tensor, " n"],
    ) -> None:
        super().__init__()
        count = len(center)
        shapes = [tuple(tensor.shape) for tensor in (axis, variance, weight)]
        if center.shape != (count, 3) or shapes != [(count, 3), (count, 2), (count,)]:
            raise DensityError(
                f"center {tuple(center.shape)}, axis, variance and weight {shapes} must be (n, 3), (n, 3), (n, 2), (n,)"
            )
        if not bool((variance > 0).all()) or not bool(torch.isfinite(variance).all()):
            raise DensityError("variance must be finite and above 0 (rad²): no kernel is a point; see SMALLEST_KM")
        if not bool(((variance >= _NARROWEST) & (variance <= _WIDEST)).all()):
            raise DensityError(
                f"variance must lie between {_NARROWEST:g} and {_WIDEST:g} rad²: what is flat is the uniform share"
            )
        weight = weight.double()
        total = float(weight.sum())
        if not bool((weight >= 0).all()) or not total <= 1 + 1e-6:  # as far as rounding in float32 goes
            raise DensityError("weight must be at least 0 and sum to at most 1: the rest is the uniform law's share")
        center, axis = unit(center, "center"), unit(axis, "axis")
        if not bool(((center * axis).sum(-1).abs() < 1e-4).all()):
            raise DensityError("axis must be tangent at center: see avgeo.sphere.tangent_frame")
        self.register_buffer("center", center)
        self.register_buffer("axis", axis)
        self.register_buffer("variance", variance.double())
        self.register_buffer("weight", weight / max(1.0, total))

    @property
    def uniform_share(self) -> float:
        """The uniform law's weight."""
        return max(0.0, 1 - float(self.weight.sum()))

    def log_prob(self, points: Float[Tensor, "q 3"]) -> Float[Tensor, " q"]:
        """Log density, nats with respect to the unit sphere's area; -inf where nothing reaches (never if uniform)."""
        if not len(points):
            return points.new_empty(0)
        part = torch.zeros(len(self.center), dtype=torch.long, device=self.center.device)
        kernels = Kernels(self.center, self.axis, self.variance)
        found = sum_kernels(unit(points).to(self.center), kernels, self.weight, part, 1)[:, 0]
        return torch.log(found + self.uniform_share / SPHERE_AREA).to(points)

    def sample(self, count: int, generator: torch.Generator | None = None) -> Float[Tensor, "n 3"]:
        """A kernel by its weight, a normal in its chart (again where it leaves the disc), and back to the sphere."""
        shares = torch.cat([self.weight.cpu(), torch.tensor([self.uniform_share], dtype=torch.float64)])
        chosen = torch.multinomial(shares, count, replacement=True, generator=generator) if count else shares[:0].long()
        out = sample_uniform(count, generator).double()
        rows = torch.nonzero(chosen < len(self.center))[:, 0]
        which = chosen[rows].to(self.center.device)
        x, first, spread = self.center[which].cpu(), self.axis[which].cpu(), self.variance[which].sqrt().cpu()
        u = spread * torch.randn(len(rows), 2, dtype=torch.float64, generator=generator)
        while bool((outside := u.norm(dim=-1) > 2).any()):
            again = torch.randn(int(outside.sum()), 2, dtype=torch.float64, generator=generator)
            u[outside] = spread[outside] * again
        chord2 = u.square().sum(-1, keepdim=True)  # |u|² = 2 (1 - cos θ)
        tangent = u[:, :1] * first + u[:, 1:] * torch.linalg.cross(x, first)
        out[rows] = normalize((1 - chord2 / 2) * x + (1 - chord2 / 4).clamp_min(0).sqrt() * tangent)
        return out.to(self.center)


def unit(points: Float[Tensor, "n 3"], name: str = "points") -> Float[Tensor, "n 3"]:
    """The points in float64, of length one to the last digit; `CoordinateError` where they are not unit vectors."""
    check_points(points, name)
    return normalize(points.double())


def disc_probability(variance: Float[Tensor, "*n 2"]) -> Float[Tensor, "*n"]:
    """P(|u| ≤ 2) for u ~ N(0, diag v), the chart's share of the normal: mean over ψ of 1 - e^{-2/(v₁cos²ψ + v₂sin²ψ)}.

    The mean over a period by the trapezoidal rule, which converges geometrically. Equal variances give 1 - e^{-2/v}.
    """
    psi = torch.arange(_NODES, dtype=variance.dtype, device=variance.device) * (math.pi / _NODES)
    ring = variance[..., :1] * torch.cos(psi) ** 2 + variance[..., 1:] * torch.sin(psi) ** 2
    return -torch.expm1(-2 / ring).mean(-1)


def nearest(places: Float[Tensor, "n 3"], k: int) -> tuple[Float[Tensor, "n m"], Int[Tensor, "n m"]]:
    """(chords, rows) of each place's k nearest others, nearest first; of all others where there are fewer."""
    if len(places) < 2:
        raise DensityError(f"places has {len(places)} rows: neighbours need at least 2")
    k = min(k, len(places) - 1)
    chord, index = (np.asarray(part) for part in KDTree(places.numpy()).query(places.numpy(), k=k + 1))
    own = index == np.arange(len(places))[:, None]  # of copies, any may come first
    own[~own.any(1), -1] = True
    return torch.from_numpy(chord[~own].reshape(-1, k)), torch.from_numpy(index[~own].reshape(-1, k))


def sum_kernels(
    points: Float[Tensor, "q 3"],
    kernels: Kernels,
    weight: Float[Tensor, " n"],
    part: Int[Tensor, " n"],
    parts: int,
) -> Float[Tensor, "q parts"]:
    """sum of w_j K(y; x_j, v_j) over the kernels of every part, by halving the points until few kernels reach them."""
    out = points.new_zeros(parts, len(points))
    constant = 2 * math.pi * kernels.variance.prod(-1).sqrt() * disc_probability(kernels.variance)
    height, inverse = weight / constant, 1 / kernels.variance
    isotropic = kernels.variance[:, 0] == kernels.variance[:, 1]
    reach = (2 * _NEGLIGIBLE * kernels.variance.amax(-1)).sqrt()  # a chord: 1 - cos θ = chord²/2

    def add(rows: Tensor, near: Tensor) -> None:
        some = points[rows]
        middle = some.mean(0)
        radius = (some - middle).norm(dim=-1).max()
        near = near[(kernels.center[near] - middle).norm(dim=-1) <= radius + reach[near]]
        if len(rows) > _LEAF and len(near):
            halves = rows[some[:, (some.amax(0) - some.amin(0)).argmax()].argsort()]
            add(halves[: len(rows) // 2], near)
            add(halves[len(rows) // 2 :], near)
            return
        for held in near.split(_HELD):
            cosine = kernels.center[held] @ some.T
            drop = (1 - cosine).clamp_min(0)
            slope = inverse[held, 1:]
            if not bool(isotropic[held].all()):
                along = (kernels.axis[held] @ some.T).square() / (drop * (1 + cosine)).clamp_min(1e-300)
                slope = slope + along.clamp_max(1) * (inverse[held, :1] - slope)
            value = torch.exp(-drop * slope) * height[held, None]
            out[:, rows] += torch.zeros(parts, len(rows)).to(value).index_add_(0, part[held], value)

    if len(points):
        add(torch.arange(len(points), device=points.device), torch.arange(len(weight), device=points.device))
    return out.T


def _laid_out(places: Tensor, families: Sequence[Family], least: float) -> tuple[Kernels, Tensor, Tensor, int]:
    """(kernels of every family, their weights within their family, their family's number, how many families)."""
    made = [family(places, least) for family in families]
    kernels = Kernels(*(torch.cat([getattr(one, name) for one in made]) for name in ("center", "axis", "variance")))
    part = torch.arange(len(made)).repeat_interleave(len(places))
    return kernels, torch.full_like(kernels.variance[:, 0], 1 / len(places)), part, len(made)


def em_weights(
    likelihood: Float[Tensor, "n parts"], pseudo_count: Float[Tensor, " parts"], tolerance: float = 1e-7
) -> Float[Tensor, " parts"]:
    """Weights of fixed densities by EM (Dempster et al. 1977), MAP under a Dirichlet law of `pseudo_count` + 1.

    `likelihood` holds each part's density at each point. Ends when a step gains less than `tolerance` nats a point.
    """
    weight = torch.full_like(pseudo_count, 1 / len(pseudo_count))
    before = -math.inf
    for _ in range(2000):
        total = likelihood @ weight
        now = float(torch.log(total).mean() + (pseudo_count * torch.log(weight.clamp_min(1e-300))).sum() / len(total))
        if now - before < tolerance:
            break
        before = now
        weight = weight * (likelihood.T @ (1 / total)) + pseudo_count
        weight = weight / weight.sum()
    return weight


def _held_out(
    train: Tensor, val: Tensor, families: Sequence[Family], folds: int, least: float, seed: int
) -> tuple[Kernels, Tensor, Tensor, Tensor]:
    """(kernels round all of `train`, their weights within their family, their families, each family's density at
    places that made none of its kernels and, last, the uniform law's).

    Those places are `val` and, k-fold, `train` itself: neighbours and directions are found anew without each fold,
    since a place left out would otherwise have narrowed its neighbours' kernels. `_ENOUGH` of them are enough.
    """
    if not 2 <= folds <= len(train) - 2:
        raise DensityError(f"folds must lie between 2 and places less 2, got {folds} for {len(train)} places in train")
    fold = torch.from_numpy(np.random.default_rng(seed).permutation(len(train)) % folds)
    held = []
    for number in range(folds):
        if sum(map(len, held)) >= _ENOUGH:
            break
        held.append(sum_kernels(train[fold == number], *_laid_out(train[fold != number], families, least)))
    kernels, share, part, parts = _laid_out(train, families, least)
    held.append(sum_kernels(val, kernels, share, part, parts))
    known = torch.cat(held)
    return kernels, share, part, torch.cat([known, known.new_full((len(known), 1), 1 / SPHERE_AREA)], 1)


def _least(smallest_km: float) -> float:
    if not smallest_km > 0:
        raise DensityError(f"smallest_km must be above 0, got {smallest_km}: copies would make kernels points")
    if (least := (smallest_km / EARTH_RADIUS_KM) ** 2) < _NARROWEST:
        raise DensityError(f"smallest_km must be at least 0.001, got {smallest_km}: float64 has no digits for less")
    return least


def fit_kernels(
    train: Float[Tensor, "n 3"],
    val: Float[Tensor, "m 3"],
    *,
    seed: int = 0,
    families: Sequence[Family] = FAMILIES,
    folds: int = 10,
    smallest_km: float = SMALLEST_KM,
    pseudo_count: float = 0.03,
) -> KernelMixture:
    """Kernels round `train`, of many families at once, whose weights explain places that made no kernel.

    Those are `val` and, k-fold, `train` itself, or some 3,000 of it. Every family has `pseudo_count` places of its own,
    the uniform law one.
    """
    train, val, least = unit(train, "train"), unit(val, "val"), _least(smallest_km)
    kernels, share, part, likelihood = _held_out(train, val, families, folds, least, seed)
    count = torch.full_like(likelihood[0], pseudo_count)
    count[-1] = 1.0
    weight = em_weights(likelihood, count)
    # a part that explains next to nothing costs as much as the others wherever the density is asked for
    kept = weight >= _LEAST_PART
    kept[-1] = True
    weight = torch.zeros_like(weight).masked_scatter(kept, em_weights(likelihood[:, kept], count[kept]))
    used = weight[part] > 0
    return KernelMixture(kernels.center[used], kernels.axis[used], kernels.variance[used], (weight[part] * share)[used])


def fit_plain(
    train: Float[Tensor, "n 3"],
    val: Float[Tensor, "m 3"],
    *,
    seed: int = 0,
    folds: int = 10,
    smallest_km: float = SMALLEST_KM,
) -> KernelMixture:
    """The plain estimate: vMF kernels of one κ round `train` and a uniform share, both the best of a grid.

    The best for the same places by which `fit_kernels` weighs, `val` and k-fold `train`; κ from `smallest_km` on.
    """
    train, val, least = unit(train, "train"), unit(val, "val"), _least(smallest_km)
    widths_km = np.geomspace(smallest_km, max(3000, 2 * smallest_km), 40)
    families = [fixed(float(width)) for width in widths_km]
    _, _, _, likelihood = _held_out(train, val, families, folds, least, seed)
    uniform = torch.cat([torch.logspace(-5, -2.5, 6), torch.linspace(0.005, 0.5, 100)]).double()[:, None]
    mixed = ((1 - uniform) * column + uniform / SPHERE_AREA for column in likelihood[:, :-1].T)
    score = torch.stack([torch.log(density).mean(1) for density in mixed])
    best, which = divmod(int(score.argmax()), len(uniform))
    kernels = families[best](train, least)
    weight = torch.full_like(train[:, 0], (1 - float(uniform[which])) / len(train))
    return KernelMixture(kernels.center, kernels.axis, kernels.variance, weight)
