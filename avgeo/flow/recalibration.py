"""Recalibration: one temperature, and a share of the uniform law, fitted on held-out places.

    p'(x) = (1 - ε) p(x)^(1/T) / ∫ p^(1/T) dA + ε / 4π

T > 1 widens a density that is too sure, T < 1 sharpens one that is too unsure, and ε is the chance that the evidence
misleads altogether. Both leave the order of densities alone: a credible region keeps its shape and changes its mass.
For ε = 0 the log score is concave in 1/T (p^(1/T) is an exponential family), so that there is one best temperature,
where the mean log density of the truths is the one that the recalibrated densities expect
(temperature scaling, Guo et al. 2017).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Float64
from scipy.interpolate import CubicSpline
from scipy.optimize import minimize
from torch import Tensor

from avgeo.evaluate import interval, resamples
from avgeo.flow.cells import CellDensity, PosteriorError
from avgeo.flow.density import SphereFlow
from avgeo.flow.network import Condition
from avgeo.flow.posterior import checked_log_prob, scatter
from avgeo.flow.regions import hpd_level
from avgeo.sphere import uniform_log_density

TEMPERATURES = (1 / 16, 64.0)
"""The range in which a temperature is sought; one at its upper end says that the density is of no use."""

_KNOTS = 61
_LEAST_FLOOR = 1e-6
_OFF = 0.25  # an estimate from few points is off by some per cent, a wrong unit by more
_TRIED_FLOORS = (0.002, 0.01, 0.05, 0.2, 0.5, 0.9)


@dataclass(frozen=True)
class Recalibration:
    """T and ε: `temperature` 1 and `floor` 0 change nothing."""

    temperature: float = 1.0
    floor: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf or not 0 <= self.floor < 1:
            raise PosteriorError(
                f"temperature must be positive and floor in [0, 1), got {self.temperature} and {self.floor}"
            )

    def log_prob(
        self,
        at: Float[Tensor, "*batch m"],
        log_prob: Float[Tensor, "*batch n"],
        area: Float[Tensor, "*batch n"] | float,
    ) -> Float64[Tensor, "*batch m"]:
        """Recalibrated log densities at points where the density was `at`, in nats per unit-sphere area.

        `log_prob` and `area` (steradians) are the density's own at the points that its integral is taken over.
        """
        at = checked_log_prob(at, "at")
        tempered = at / self.temperature - self.log_integral(log_prob, area)[..., None]
        return self._mixed(tempered)

    def apply(self, density: CellDensity) -> CellDensity:
        """The recalibrated density on the same cells; its integral is 1 over them."""
        return replace(density, log_prob=self.log_prob(density.log_prob, density.log_prob, density.cells.area))

    def log_integral(
        self, log_prob: Float[Tensor, "*batch n"], area: Float[Tensor, "*batch n"] | float
    ) -> Float64[Tensor, "*batch"]:
        """log ∫ p^(1/T) dA."""
        log_area = torch.as_tensor(area, dtype=torch.float64).log()
        return torch.logsumexp(checked_log_prob(log_prob) / self.temperature + log_area, -1)

    def _mixed(self, tempered: Float64[Tensor, "*n"]) -> Float64[Tensor, "*n"]:
        if not self.floor:
            return tempered
        uniform = torch.tensor(math.log(self.floor) + uniform_log_density(), dtype=torch.float64)
        return torch.logaddexp(tempered + math.log1p(-self.floor), uniform)

    def as_dict(self) -> dict[str, float]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class HeldOut:
    """Places that the density was not trained on: its value there, and at points that stand for areas.

    One row of `log_prob` and `area` (steradians) per clip, best of `scatter`: a few hundred evaluations per clip. Cells
    of different number are padded with log densities of -inf.
    """

    truth_log_prob: Float[Tensor, " clips"]
    log_prob: Float[Tensor, "_ n"]
    area: Float[Tensor, "_ _"]

    def __post_init__(self) -> None:
        if not bool(torch.isfinite(checked_log_prob(self.truth_log_prob, "truth_log_prob")).all()):
            raise PosteriorError("truth_log_prob is -inf at a true place: no temperature mends that")
        checked_log_prob(self.log_prob)
        if not len(self.truth_log_prob) == len(self.log_prob) or self.log_prob.shape != self.area.shape:
            raise PosteriorError("truth_log_prob, log_prob and area must have one row per clip, the latter two alike")
        totals = torch.logsumexp(self.log_prob.double() + self.area.double().log(), -1).exp()
        if not bool(((totals - 1).abs() < _OFF).all()):
            worst = float(totals[(totals - 1).abs().argmax()])
            raise PosteriorError(f"∫ p dA is {worst:.4g} for one clip, not 1 within {_OFF}: use `scatter`'s points")

    def scores(self, recalibration: Recalibration) -> Float64[Tensor, " clips"]:
        """Log score of each clip in nats per unit-sphere area, recalibrated."""
        return recalibration.log_prob(self.truth_log_prob[:, None], self.log_prob, self.area).squeeze(-1)

    def levels(self, recalibration: Recalibration, *, seed: int = 0) -> Float64[Tensor, " clips"]:
        """Mass of the smallest recalibrated region that holds each truth (`hpd_level`): uniform when calibrated."""
        table = _levels(self, np.array([recalibration.temperature]), seed)
        return torch.from_numpy((1 - recalibration.floor) * table[0][0] + recalibration.floor * table[1])


def hold_out(
    flow: SphereFlow,
    truth: Float[Tensor, "clips 3"],
    condition: Condition,
    *,
    samples: int = 60,
    even: int = 60,
    halo: int = 60,
    seed: int = 0,
) -> HeldOut:
    """Ask a flow about clips that it was not trained on: its density at each true place, and round its own samples."""
    drawn = flow.sample(condition, samples, seed=seed).cpu()
    own = _at_each(flow, drawn, condition)
    points = scatter(drawn, own, even=even, halo=halo, seed=seed)
    found = torch.cat([_at_each(flow, points.points[:, :-samples], condition), own], -1)
    return HeldOut(flow.log_prob(truth, condition).cpu(), found, points.areas(found))


def _at_each(flow: SphereFlow, points: Float[Tensor, "clips n 3"], condition: Condition) -> Float[Tensor, "clips n"]:
    owner = torch.arange(len(points)).repeat_interleave(points.shape[1])
    return flow.log_prob(points.flatten(0, 1), condition[owner]).cpu().reshape(points.shape[:2])


def fit_recalibration(
    held_out: HeldOut,
    objective: str = "log_score",
    *,
    floor: bool = True,
    weights: Float64[np.ndarray, " _"] | None = None,
) -> Recalibration:
    """The temperature, and with `floor` the share of the uniform law, that serve held-out clips best.

    "log_score" maximises the mean log score: proper, so that in the long run nothing else beats the truth. "coverage"
    brings `levels` closest to uniform (least Cramér-von Mises distance): for credible regions that hold what they say,
    where no temperature makes the density right. T is sought within `TEMPERATURES`.
    """
    return _Fit(held_out, objective, floor).best(weights)


def recalibration_intervals(
    held_out: HeldOut,
    place_id: Sequence[Hashable] | np.ndarray,
    objective: str = "log_score",
    *,
    floor: bool = True,
    bootstrap: int = 200,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Percentile intervals (low, high) of `temperature` and `floor`, of a bootstrap over places."""
    if len(place_id) != len(held_out.truth_log_prob):
        raise PosteriorError(f"place_id has {len(place_id)} entries for {len(held_out.truth_log_prob)} clips")
    cluster = np.unique(np.asarray(place_id).astype(str), return_inverse=True)[1]
    if cluster.max() < 1:
        raise PosteriorError("place_id names one place: an interval over places needs at least two")
    fit = _Fit(held_out, objective, floor)
    found = [
        fit.best(counts[cluster].astype(np.float64))
        for block in resamples(int(cluster.max()) + 1, bootstrap, seed)
        for counts in block
    ]
    low, high = interval(np.array([[item.temperature, item.floor] for item in found]), level)
    return {name: (float(low[at]), float(high[at])) for at, name in enumerate(("temperature", "floor"))}


class _Fit:
    """What the objective needs of the clips, tabulated over temperatures once and interpolated by cubic splines."""

    def __init__(self, held_out: HeldOut, objective: str, floor: bool) -> None:
        if objective not in ("log_score", "coverage"):
            raise PosteriorError(f"objective must be 'log_score' or 'coverage', got {objective!r}")
        self.floor = floor
        self.knots = np.linspace(math.log(TEMPERATURES[0]), math.log(TEMPERATURES[1]), _KNOTS)
        temperatures = np.exp(self.knots)
        if objective == "coverage":
            table, self.flat = _levels(held_out, temperatures, seed=0)
        else:
            table = np.stack([held_out.scores(Recalibration(t)).numpy() for t in temperatures])
        self.loss = self._misfit if objective == "coverage" else self._log_loss
        self.table = table
        self.spline = CubicSpline(self.knots, table)

    def best(self, weights: Float64[np.ndarray, " _"] | None) -> Recalibration:
        """The least loss: by trial on a grid, then by Nelder and Mead's simplex."""
        clips = self.table.shape[1]
        given = np.ones(clips) if weights is None else np.asarray(weights, dtype=np.float64)
        if given.shape != (clips,) or not bool((given >= 0).all()) or not given.sum() > 0:
            raise PosteriorError(f"weights must be {clips} nonnegative numbers, one per clip, not all zero")
        share = given / given.sum()
        logits = [_logit(share) for share in _TRIED_FLOORS] if self.floor else [-math.inf]
        trials = [
            (self.loss(row, _share(logit), share), log_temperature, logit)
            for log_temperature, row in zip(self.knots, self.table, strict=True)
            for logit in logits
        ]
        _, *start = min(trials)
        bounds = [(self.knots[0], self.knots[-1]), (_logit(_LEAST_FLOOR), _logit(1 - _LEAST_FLOOR))]
        free = 2 if self.floor else 1
        simplex = np.array([start, [start[0] + 0.1, start[1]], [start[0], start[1] + 1.0]])[: free + 1, :free]
        found = minimize(
            lambda at: self.loss(self.spline(at[0]), _share(at[1]) if self.floor else 0.0, share),
            simplex[0], method="Nelder-Mead", bounds=bounds[:free],
            options={"initial_simplex": simplex, "xatol": 1e-4, "fatol": 1e-9},
        ).x  # fmt: skip
        return Recalibration(math.exp(found[0]), _share(found[1]) if self.floor else 0.0)

    def _log_loss(self, scores: np.ndarray, floor: float, weights: np.ndarray) -> float:
        if not floor:
            return -float(weights @ scores)
        mixed = np.logaddexp(scores + math.log1p(-floor), math.log(floor) + uniform_log_density())
        return -float(weights @ mixed)

    def _misfit(self, levels: np.ndarray, floor: float, weights: np.ndarray) -> float:
        """∫ (F(q) - q)² dq up to a constant, F the weighted distribution of the levels (Cramér 1928, von Mises)."""
        mixed = (1 - floor) * levels + floor * self.flat
        order = mixed.argsort()
        ideal = weights[order].cumsum() - weights[order] / 2
        return float(weights[order] @ (mixed[order] - ideal) ** 2)


def _levels(
    held_out: HeldOut, temperatures: Float64[np.ndarray, " knots"], seed: int
) -> tuple[Float64[np.ndarray, "knots clips"], Float64[np.ndarray, " clips"]]:
    """Level of each truth at every temperature, and under the uniform law with the regions of the density."""
    log_prob, log_area = held_out.log_prob.double(), held_out.area.double().log()
    truth = held_out.truth_log_prob.double()
    levels = [
        hpd_level(truth, log_prob, torch.softmax(log_prob / t + log_area, -1), seed=seed).numpy() for t in temperatures
    ]
    return np.stack(levels), hpd_level(truth, log_prob, held_out.area.double(), seed=seed).numpy()


def _logit(share: float) -> float:
    return math.log(share) - math.log1p(-share)


def _share(logit: float) -> float:
    return 0.0 if logit == -math.inf else 1 / (1 + math.exp(-logit))
