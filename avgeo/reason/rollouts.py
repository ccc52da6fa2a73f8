"""Many sampled answers to one clip are a forecast: how good it is, whether its spread is honest, and as a density.

An answer that does not parse is counted, never dropped: it costs what the antipode costs, and stays out of the spread,
as in `avgeo.reason.rewards.proper_reward`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Float64
from scipy.optimize import minimize
from torch import Tensor

from avgeo.evaluate import place_interval
from avgeo.flow import KernelMixture
from avgeo.reason.rewards import WORST_CHORD
from avgeo.sphere import EARTH_RADIUS_KM, from_table, tangent_frame, uniform_log_density, vmf_log_prob

WIDTHS_KM = (20.0, 6000.0)
"""The range in which the width of a rollout's kernel is sought."""


@dataclass(frozen=True)
class Rollouts:
    """n answers to each of some clips: unit vectors, float64, and which of them parsed (the others are anywhere)."""

    points: Float64[Tensor, "clips n 3"]
    valid: Bool[Tensor, "clips n"]

    @staticmethod
    def from_table(table: pd.DataFrame) -> Rollouts:
        """From what `Reasoner.sample` gives: rows by clip, each clip's answers together, equally many.

        Raises `ValueError` for fewer than two answers a clip, or clips whose answers are torn apart.
        """
        clips = table["clip_id"].drop_duplicates().to_numpy()
        n = len(table) // max(1, len(clips))
        if n < 2 or not np.array_equal(table["clip_id"], clips.repeat(n)):
            raise ValueError("table: give at least two answers a clip, equally many, each clip's one after the other")
        points, valid = from_table(table).nan_to_num(), torch.tensor(table["parsed"].to_numpy(bool))
        return Rollouts(points.reshape(-1, n, 3), valid.reshape(-1, n))

    def of(self, clips: slice) -> Rollouts:
        """The rollouts of some of the clips."""
        return Rollouts(self.points[clips], self.valid[clips])

    @property
    def parse_rate(self) -> float:
        """Share of answers that parse."""
        return float(self.valid.double().mean())

    def energy_scores(self, truth: Float[Tensor, "clips 3"]) -> Float64[np.ndarray, " clips"]:
        """Unbiased energy score of each clip, in Earth radii (chords); what does not parse costs 2 and adds no spread.

        E c(X, y) - E c(X, X')/2 over all n answers (Gneiting & Raftery 2007, 5.1): less is better.
        """
        n = self.valid.shape[1]
        cost = torch.where(self.valid, self._misses(truth), WORST_CHORD).mean(-1)
        return (cost - self._spread().sum((-1, -2)) / (2 * n * (n - 1))).numpy()

    def valid_energy_scores(self, truth: Float[Tensor, "clips 3"]) -> Float64[np.ndarray, " clips"]:
        """The same of the answers that parse alone; NaN for a clip with fewer than two."""
        m = self.valid.sum(-1).double()
        cost = (self._misses(truth) * self.valid).sum(-1) / m
        score = cost - self._spread().sum((-1, -2)) / (2 * m * (m - 1))
        return torch.where(m >= 2, score, math.nan).numpy()

    def ranks(self, truth: Float[Tensor, "clips 3"], seed: int = 0) -> Float64[np.ndarray, " clips"]:
        """How far out the truth lies among the answers, in (0, 1): uniform if it is one more draw of their law.

        Truth and valid answers together are ordered by their mean chord to all the others, and the truth's place in
        that order, at random within it, is the rank (the pre-rank of Gneiting et al. 2008, by average distance). More
        ranks near 1 than there should be: the answers are too sure. NaN for a clip with fewer than two valid answers.
        """
        y = self._one_each(truth)
        pool = torch.cat([y, self.points], 1)
        there = torch.cat([torch.ones_like(self.valid[:, :1]), self.valid], 1)
        chords = (pool[:, :, None] - pool[:, None]).norm(dim=-1) * there[:, None]
        depth = chords.sum(-1).masked_fill(~there, -1.0)  # the same number of others for each: no need to divide
        below = ((depth < depth[:, :1] - 1e-12) & there).sum(-1)
        tied = ((depth - depth[:, :1]).abs() <= 1e-12).logical_and(there).sum(-1)  # the truth itself among them
        place = below + torch.rand(len(y), generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * tied
        return torch.where(self.valid.sum(-1) >= 2, place / there.sum(-1), math.nan).numpy()

    def log_prob(self, truth: Float[Tensor, "clips 3"], width_km: float, floor: float) -> Float64[np.ndarray, " clips"]:
        """log density at each clip's truth of the mixture of `mixture`, in nats per unit-sphere area.

        Raises `ValueError` for a floor that is not between 0 and 1.
        """
        if not 0 < floor < 1:
            raise ValueError(f"floor must lie between 0 and 1, both left out, got {floor}")
        kappa = torch.tensor((EARTH_RADIUS_KM / width_km) ** 2, dtype=torch.float64)
        kernels = vmf_log_prob(self._one_each(truth), self.points, kappa)
        uniform = torch.tensor(uniform_log_density(), dtype=torch.float64)
        answers = torch.where(self.valid, kernels, uniform)  # an answer that says nothing is everywhere alike
        mean = torch.logsumexp(answers, -1) - math.log(answers.shape[-1])
        return torch.logaddexp(mean + math.log1p(-floor), uniform + math.log(floor)).numpy()

    def fit_mixture(self, truth: Float[Tensor, "clips 3"]) -> tuple[float, float]:
        """(width in km, floor) of the kernels with the best mean log score on clips of held-out places.

        Raises `ValueError` where nothing parses: every width is then as good.
        """
        if not bool(self.valid.any()):
            raise ValueError("rollouts: none of the answers parses, so that there is nothing to fit")

        def loss(x: np.ndarray) -> float:
            return -float(self.log_prob(truth, math.exp(x[0]), 1 / (1 + math.exp(-x[1]))).mean())

        low, high = (math.log(width) for width in WIDTHS_KM)
        starts = [(width, share) for width in np.linspace(low, high, 5)[1:-1] for share in (-4.0, -1.0)]
        found = [minimize(loss, start, bounds=[(low, high), (-9.0, 6.0)], method="L-BFGS-B") for start in starts]
        best = min(found, key=lambda one: one.fun).x
        return math.exp(best[0]), 1 / (1 + math.exp(-best[1]))

    def mixture(self, clip: int, width_km: float, floor: float) -> KernelMixture:
        """The answers to one clip as a density: a von Mises–Fisher law round each, and the uniform law.

        The uniform law has weight `floor`, and that of every answer that does not parse. It can be sampled, evaluated
        and be the base of a flow (`avgeo.flow.SphereFlow`, argument `base`). Raises `ValueError` where none parses.
        """
        centers = self.points[clip][self.valid[clip]]
        if not len(centers):
            raise ValueError(f"clip {clip}: none of its answers parses, so that there is nothing to build on")
        variance = torch.full((len(centers), 2), (width_km / EARTH_RADIUS_KM) ** 2, dtype=torch.float64)
        weight = torch.full((len(centers),), (1 - floor) / self.valid.shape[1], dtype=torch.float64)
        return KernelMixture(centers, tangent_frame(centers)[..., 0], variance, weight)

    def _misses(self, truth: Float[Tensor, "clips 3"]) -> Float64[Tensor, "clips n"]:
        return (self.points - self._one_each(truth)).norm(dim=-1)

    def _one_each(self, truth: Float[Tensor, "clips 3"]) -> Float64[Tensor, "clips 1 3"]:
        if truth.shape != (len(self.points), 3):
            raise ValueError(
                f"truth has shape {tuple(truth.shape)}: give one place for each of {len(self.points)} clips"
            )
        return truth.double()[:, None]

    def _spread(self) -> Float64[Tensor, "clips n n"]:
        chords = (self.points[:, :, None] - self.points[:, None]).norm(dim=-1)
        return chords * (self.valid[:, :, None] & self.valid[:, None])


def mixture_bits(rollouts: Rollouts, truth: Float[Tensor, "clips 3"]) -> tuple[float, float, Float64[np.ndarray, " _"]]:
    """(width in km, floor) fitted on the first half of the clips, and what the second half gains: bits a clip.

    Bits beyond the uniform law, of the mixture at each truth. Clips of one place must not be in both halves.
    """
    half = len(truth) // 2
    width_km, floor = rollouts.of(slice(None, half)).fit_mixture(truth[:half])
    found = rollouts.of(slice(half, None)).log_prob(truth[half:], width_km, floor)
    return width_km, floor, (found - uniform_log_density()) / math.log(2)


def forecasts(
    rollouts: Mapping[str, Rollouts], truth: Float[Tensor, "clips 3"], place_id: Sequence[Any]
) -> pd.DataFrame:
    """How good several policies' answers to the same clips are as forecasts: a row each, 95 % intervals by place.

    Columns: policy, energy score and that of valid answers (Earth radii), parse rate, mean rank (`Rollouts.ranks`).
    """
    rows = []
    for name, drawn in rollouts.items():
        row: dict[str, Any] = {"policy": name}
        for column, scores in (
            ("energy score", drawn.energy_scores(truth)),
            ("of valid answers", drawn.valid_energy_scores(truth)),
        ):
            known = ~np.isnan(scores)
            # a policy that has fallen silent has no score of its valid answers, and is what one wants to see here
            row[column] = str(place_interval(scores[known], np.asarray(place_id)[known])) if known.any() else "–"
        ranks = drawn.ranks(truth)
        mean_rank = float(ranks[~np.isnan(ranks)].mean()) if not np.isnan(ranks).all() else math.nan
        row |= {"parse rate": drawn.parse_rate, "mean rank (calibrated: 0.5)": mean_rank}
        rows.append(row)
    return pd.DataFrame(rows)
