"""What a user asks of a posterior: one place, how sure, which country, and how good a forecast it was.

A posterior comes in one of two forms. *Samples* with their own log densities: everything is a Monte Carlo estimate
and says its standard error. Or log densities at *points that stand for areas* (steradians): an even grid
(`fibonacci_grid`, 4π/n each), cells (`avgeo.flow.cells`), or the few points of `scatter`. Log
densities are in nats with respect to the unit sphere's area; bits are relative to the uniform law.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64, Shaped
from torch import Tensor

from avgeo.flow.cells import CellDensity, Cells, LogDensity, PosteriorError
from avgeo.sphere import (
    angle,
    check_points,
    exp_map,
    fibonacci_grid,
    normalize,
    sample_vmf,
    tangent_frame,
    uniform_log_density,
    vmf_log_prob,
)

LabelAt = Callable[[Float64[np.ndarray, " n"], Float64[np.ndarray, " n"]], Shaped[np.ndarray, " n"]]
"""Latitudes and longitudes in degrees to a label each."""

_BORDER_SPLITS = 2
_HALO_CENTRES = 64


@dataclass(frozen=True)
class Estimate:
    """A Monte Carlo estimate and its standard error."""

    value: float
    standard_error: float


def checked_log_prob(log_prob: Float[Tensor, " *n"], name: str = "log_prob") -> Float64[Tensor, " *n"]:
    """The same in float64, or `PosteriorError` where it is empty, NaN or +inf; -inf is a place of no probability."""
    if not log_prob.numel():
        raise PosteriorError(f"{name} is empty: give at least one log density")
    if bool((log_prob.isnan() | (log_prob == math.inf)).any()):
        raise PosteriorError(f"{name} holds NaN or infinity: check the model and its condition")
    return log_prob.double()


def checked_points(points: Float[Tensor, "*n 3"], name: str = "samples") -> Float64[Tensor, "*n 3"]:
    """The same in float64, or `CoordinateError` where they are none, or no unit vectors."""
    check_points(points, name)
    return points.double()


def cell_mass(
    log_prob: Float[Tensor, " n"], area: Float[Tensor, " _"] | float, *, tolerance: float = 0.05
) -> Float64[Tensor, " n"]:
    """Probability of each point's area, made to sum to 1; raises if ∫ p dA is off from 1 by more than `tolerance`.

    The midpoint rule, p · area. An even grid whose cells are wider than the density is the usual reason to be off.
    """
    log_prob = checked_log_prob(log_prob)
    area = torch.as_tensor(area, dtype=torch.float64)
    if area.ndim and area.shape != log_prob.shape:
        raise PosteriorError(
            f"area has shape {tuple(area.shape)} for {len(log_prob)} log densities: one steradian each"
        )
    if not bool((area > 0).all()) or not bool(torch.isfinite(area).all()):
        raise PosteriorError("area must be positive and finite, in steradians: 4π/n for an even grid of n points")
    mass = torch.exp(log_prob + area.log())
    total = float(mass.sum())
    if not abs(total - 1) <= tolerance:
        raise PosteriorError(
            f"∫ p dA is {total:.4g} over these points, not 1 within {tolerance}: use `refine` with samples of the "
            "density, or give log densities with respect to the unit sphere's area"
        )
    return mass / total


@dataclass(frozen=True)
class Scatter:
    """Points that integrate a density, and flatter versions of it, from few evaluations: even ones, halo, samples.

    `areas` gives the steradians that each stands for, once the log densities there are known.
    """

    points: Float64[Tensor, "*batch m 3"]
    log_known: Float64[Tensor, "*batch m"]
    samples: int

    def areas(self, log_prob: Float[Tensor, "*batch m"]) -> Float64[Tensor, "*batch m"]:
        """The balance heuristic: 1 / Σ n_j q_j(x) over the laws q_j the points are from (Veach & Guibas 1995)."""
        return torch.exp(-torch.logaddexp(self.log_known, checked_log_prob(log_prob) + math.log(self.samples)))


def scatter(
    samples: Float[Tensor, "*batch n 3"],
    log_prob: Float[Tensor, "*batch n"],
    *,
    even: int = 200,
    halo: int = 200,
    seed: int = 0,
) -> Scatter:
    """Points around a density's own `samples`: `even` ones over the Earth, `halo` ones about the samples, and these.

    The samples integrate the density, the even points what is broad, and the halo what lies between, which a
    temperature above 1 raises: samples (the first 64 of them) moved by 2, 4 or 8 times their own width, that of
    the vMF law with their density at its mean, κ = 2πp. The points keep that order, samples last.
    """
    samples, log_prob = checked_points(samples), checked_log_prob(log_prob)
    draw = torch.Generator().manual_seed(seed)
    centres = samples[..., :_HALO_CENTRES, :]
    count = centres.shape[-2]
    kappa = (2 * math.pi * log_prob[..., :count, None].exp() / torch.tensor([4.0, 16.0, 64.0])).clamp(1e-3, 1e10)
    at = torch.randint(count, (halo,), generator=draw)
    chosen = kappa[..., at, torch.randint(3, (halo,), generator=draw)]
    near = sample_vmf(centres[..., at, :], chosen, draw)
    grid = fibonacci_grid(even).double().expand(*samples.shape[:-2], -1, -1)
    points = torch.cat([normalize(grid), near, samples], -2)
    kernels = vmf_log_prob(points[..., :, None, None, :], centres[..., None, :, None, :], kappa[..., None, :, :])
    log_halo = kernels.flatten(-2).logsumexp(-1) + math.log(halo / (3 * count))
    log_even = torch.tensor(math.log(even) + uniform_log_density(), dtype=torch.float64)
    return Scatter(points, torch.logaddexp(log_halo, log_even), samples.shape[-2])


# --- one place ---


def mode(
    density: CellDensity, log_prob: LogDensity, *, starts: int = 4, rounds: int = 16
) -> tuple[Float64[Tensor, " 3"], float]:
    """The likeliest place and its log density: the best cells, refined by ascent on the sphere.

    From each of at most `starts` cells that are apart, `rounds` steps with 9 evaluations each: a quadratic through
    eight points on a circle in the tangent plane and its centre; to its top where it has one within the circle, which
    then shrinks, else to the best of the points. Never below the best cell.
    """
    cells = _apart(density, starts)
    centre, radius = density.cells.points[cells], density.cells.area[cells].sqrt()
    turn = torch.arange(8, dtype=torch.float64) * math.pi / 4
    stencil = torch.cat([torch.zeros(1, 2, dtype=torch.float64), torch.stack([turn.cos(), turn.sin()], -1)])
    x, y = stencil.unbind(-1)
    fit = torch.linalg.pinv(torch.stack([torch.ones_like(x), x, y, x * x / 2, x * y, y * y / 2], -1))
    best, best_value = centre, density.log_prob[cells]
    for _ in range(rounds):
        frame = tangent_frame(centre)
        offsets = radius[:, None, None] * torch.einsum("kij,sj->ksi", frame, stencil)
        around = exp_map(centre[:, None].expand_as(offsets), offsets)
        values = checked_log_prob(log_prob(around.reshape(-1, 3))).reshape(len(centre), -1)
        top, at = values.max(-1)
        better = top > best_value
        here = torch.take_along_dim(around, at[:, None, None], 1).squeeze(1)
        best, best_value = torch.where(better[:, None], here, best), torch.where(better, top, best_value)
        _, gx, gy, hxx, hxy, hyy = (values.clamp_min(-1e300) @ fit.T).unbind(-1)
        determinant = hxx * hyy - hxy * hxy
        step = torch.stack([hxy * gy - hyy * gx, hxy * gx - hxx * gy], -1) / determinant[:, None]
        peaked = (hxx < 0) & (determinant > 0) & (step.norm(dim=-1) <= 1)
        step = torch.where(peaked[:, None], step, stencil[at])
        centre = exp_map(centre, radius[:, None] * torch.einsum("kij,kj->ki", frame, step))
        radius = torch.where(peaked | (at == 0), radius / 4, radius).clamp_min(1e-7)
    winner = int(best_value.argmax())
    return best[winner], float(best_value[winner])


def _apart(density: CellDensity, count: int) -> list[int]:
    """The `count` densest cells of which none lies beside a denser one of them."""
    points, side = density.cells.points, density.cells.area.sqrt()
    left = density.log_prob.clone()
    chosen: list[int] = []
    while len(chosen) < count and float(left.max()) > -math.inf:
        chosen.append(int(left.argmax()))
        left[angle(points, points[chosen[-1]]) < 3 * side[chosen[-1]]] = -math.inf
    return chosen


# --- how sure ---


def entropy_bits(log_prob: Float[Tensor, " n"]) -> Estimate:
    """Entropy against the uniform law, in bits, from samples' own log densities: E[-log2 (p / uniform)] <= 0.

    0 bits is "anywhere on Earth", -k bits as unsure as a region 2^k times smaller. Its negative is the
    *localisability*, KL(p | uniform): the bits by which the evidence has narrowed down the Earth.
    """
    log_prob = checked_log_prob(log_prob)
    bits = (uniform_log_density() - log_prob) / math.log(2)
    return Estimate(float(bits.mean()), _standard_error(bits))


def grid_entropy_bits(log_prob: Float[Tensor, " n"], area: Float[Tensor, " n"] | float) -> float:
    """`entropy_bits` from log densities at points that stand for areas."""
    mass = cell_mass(log_prob, area)
    bits = (uniform_log_density() - log_prob.double()) / math.log(2)
    return float(torch.where(mass > 0, mass * bits, 0.0).sum())  # 0 log 0 = 0


# --- which country ---


@dataclass(frozen=True)
class Share:
    """A country's, or any part's, probability; the standard error is 0 where it is no Monte Carlo estimate."""

    name: Hashable
    probability: float
    standard_error: float


def probability_by(labels: Sequence[Hashable] | np.ndarray, other: Hashable = "sea") -> list[Share]:
    """Probability of every label among samples, likeliest first; None counts as `other`. They sum to 1."""
    n = len(labels)
    shares = _shares(labels, torch.full((max(n, 1),), 1 / max(n, 1), dtype=torch.float64), other)
    return [Share(name, p, math.sqrt(p * (1 - p) / n)) for name, p in shares]


def grid_probability_by(
    density: CellDensity,
    label_at: LabelAt,
    other: Hashable = "sea",
) -> list[Share]:
    """Probability of every label over cells, likeliest first; they sum to 1.

    `label_at(latitude_deg, longitude_deg)` names points (`avgeo.world.country_at` does), None counts as `other`. A cell
    is looked up in its four quarters, and where these differ in theirs again, so that a border cell is shared out.
    """
    names, mass = _looked_up(density.cells, cell_mass(density.log_prob, density.cells.area), label_at, _BORDER_SPLITS)
    return [Share(name, p, 0.0) for name, p in _shares(names, mass, other)]


def _looked_up(
    cells: Cells, mass: Float64[Tensor, " n"], label_at: LabelAt, splits: int
) -> tuple[list[Hashable], Float64[Tensor, " m"]]:
    quarters, mass = cells.quartered(), (mass / 4).repeat_interleave(4)
    longitude, z = quarters.bounds[:, :2].mean(-1), quarters.bounds[:, 2:].mean(-1)
    names = np.asarray(label_at(torch.rad2deg(z.asin()).numpy(), torch.rad2deg(longitude).numpy()), dtype=object)
    if len(names) != len(quarters):
        raise PosteriorError(f"label_at gave {len(names)} labels for {len(quarters)} points: one each")
    by_cell = names.reshape(-1, 4)
    mixed = torch.from_numpy((by_cell != by_cell[:, :1]).any(-1)).repeat_interleave(4)
    if splits <= 1 or not bool(mixed.any()):
        return list(names), mass
    finer, finer_mass = _looked_up(Cells(quarters.bounds[mixed]), mass[mixed], label_at, splits - 1)
    return [*names[~mixed.numpy()], *finer], torch.cat([mass[~mixed], finer_mass])


def _shares(
    labels: Sequence[Hashable] | np.ndarray, mass: Float64[Tensor, " n"], other: Hashable
) -> list[tuple[Hashable, float]]:
    if not len(labels):
        raise PosteriorError("labels is empty: give one label per sample")
    total: dict[Hashable, float] = {}
    for label, share in zip(labels, mass.tolist(), strict=True):
        name = other if label is None else label
        total[name] = total.get(name, 0.0) + share
    return sorted(total.items(), key=lambda item: -item[1])


# --- how good a forecast ---


def energy_score(samples: Float[Tensor, "n 3"], truth: Float[Tensor, " 3"]) -> Estimate:
    """E|X - y| - E|X - X'|/2 with the chord |x - y| in Earth radii: the CRPS of the sphere. Less is better.

    The chord makes it strictly proper (Gneiting & Raftery 2007, 5.1): least in expectation for the true law and no
    other. The distance along the ground would not: its even Legendre coefficients vanish, so that it cannot tell half
    and half on the poles from the uniform law. Unbiased, because the pairs leave out i = j; the standard error is the
    jackknife's over the samples. For a law on an even grid or cells, draw samples from it.
    """
    samples, truth = checked_points(samples), checked_points(truth, "truth")
    n = len(samples)
    if n < 3:
        raise PosteriorError(f"samples has {n} rows: an unbiased spread and its error need at least 3")
    miss = (samples - truth).norm(dim=-1)
    spread = torch.cat([torch.cdist(part, samples, compute_mode="donot_use_mm_for_euclid_dist").sum(-1)
                        for part in samples.split(2048)])  # fmt: skip
    whole, pairs = miss.sum(), spread.sum()
    value = float(whole / n - pairs / (2 * n * (n - 1)))
    without = (whole - miss) / (n - 1) - (pairs - 2 * spread) / (2 * (n - 1) * (n - 2))
    return Estimate(value, math.sqrt(float((n - 1) * without.var(correction=0))))


def _standard_error(values: Float64[Tensor, " n"]) -> float:
    return float(values.std() / math.sqrt(len(values))) if len(values) > 1 else math.nan
