"""Where a reward leads a policy, exactly: GRPO's expected update over a few places, and which distances are proper.

A policy over n places is small enough that nothing needs to be sampled: the expectation over groups of G rollouts is
a sum over their compositions (how many named which place). `rewards.proper_reward` is the row `OURS` of `REWARDS`;
`tests/test_properness.py` holds the two together. The derivation is in chapter 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy.polynomial.legendre import leggauss, legvander
from scipy.optimize import brentq
from scipy.special import expit, gammaln, xlogy

from avgeo.sphere import EARTH_RADIUS_KM, angle

Vector = Float[np.ndarray, " n"]
Matrix = Float[np.ndarray, "n m"]
Cost = Callable[[np.ndarray], np.ndarray]
"""From angles in radians to costs, element by element, 0 at 0."""

TAU_KM = 2000.0
"""Scale of the saturating distance in `COSTS`, km; the distance reward that is measured has its own."""

CHORD, GREAT_CIRCLE, SATURATING, SQUARED = "chord", "great circle", f"1 - exp(-d / {TAU_KM:.0f} km)", "d²"

COSTS: dict[str, Cost] = {
    CHORD: lambda theta: 2 * np.sin(theta / 2),
    GREAT_CIRCLE: lambda theta: theta,
    SATURATING: lambda theta: 1 - np.exp(-theta * EARTH_RADIUS_KM / TAU_KM),
    SQUARED: lambda theta: theta**2,
}
"""Costs of a distance; chord, great circle d and d² in Earth radii, the saturating one without a unit."""


@dataclass(frozen=True)
class Reward:
    """r_i = -c(x_i, y) + w sum_{j≠i} c(x_i, x_j): which c, and w as a function of the group's size G."""

    cost: Cost
    weight: Callable[[int], float]
    least_size: int = 2


OURS, NAIVE, HALVED, DISTANCE = "spread / (G - 2)", "spread / (G - 1)", "spread / 2(G - 2)", "exp(-d/τ), no spread"

REWARDS: dict[str, Reward] = {
    OURS: Reward(COSTS[CHORD], lambda size: 1 / (size - 2), least_size=3),
    NAIVE: Reward(COSTS[CHORD], lambda size: 1 / (size - 1)),
    HALVED: Reward(COSTS[CHORD], lambda size: 1 / (2 * (size - 2)), least_size=3),
    DISTANCE: Reward(COSTS[SATURATING], lambda size: 0.0),
}
"""Ours, and the three that one might write instead. The last is exp(-d/τ) - 1: a constant is no advantage."""

_EPSILON = 1e-4  # trl adds it to a group's deviation


def angles(a: Float[np.ndarray, "n 3"], b: Float[np.ndarray, "m 3"]) -> Float[np.ndarray, "n m"]:
    """Angles in radians between all pairs of unit vectors."""
    return angle(torch.from_numpy(a)[:, None], torch.from_numpy(b)[None]).numpy()


def expected_update(
    policy: Vector,
    truth: Vector,
    between: Float[np.ndarray, "n n"],
    reward: Reward,
    size: int,
    *,
    by_deviation: bool = False,
) -> Vector:
    """E[(1/G) sum_i A_i ∇ log p(x_i)] for the logits of `policy`, with A_i = r_i - mean r, over groups and truths.

    `policy` and `truth` are probabilities of the same n places, `between` their angles in radians, `size` is G; with
    `by_deviation`, A_i is divided by the group's standard deviation as trl does. There are (G + n - 1 choose n - 1)
    compositions. Raises `ValueError` for a group too small for the reward.
    """
    if size < reward.least_size:
        raise ValueError(f"size: this reward needs groups of at least {reward.least_size}, got {size}")
    cost = reward.cost(between)
    counts, orders = _compositions(len(policy), size)
    # rewards by truth, composition and place; a place is at no distance from itself, so j = i adds nothing
    r = -cost.T[:, None, :] + reward.weight(size) * (counts @ cost)[None]
    advantage = r - (r * counts).sum(-1, keepdims=True) / size
    if by_deviation:
        variance = (counts * advantage**2).sum(-1, keepdims=True) / (size - 1)
        advantage = advantage / (np.sqrt(variance) + _EPSILON)
    likely = np.exp(orders + xlogy(counts, policy).sum(-1))
    # ∇ log p(x) = e_x - p, and the p drops out because a group's advantages sum to 0
    return np.einsum("y,k,kx,ykx->x", truth, likely, counts, advantage) / size


@lru_cache(maxsize=64)
def _compositions(places: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Every way to share `size` rollouts out among `places` (k, n), and the log of how many orders each has (k,)."""
    walls = np.array(list(combinations(range(size + places - 1), places - 1)), dtype=float)
    edges = np.pad(walls.reshape(-1, places - 1), ((0, 0), (1, 1)), constant_values=((0, 0), (-1, size + places - 1)))
    counts = np.diff(edges, axis=-1) - 1
    return counts, math.lgamma(size + 1) - gammaln(counts + 1).sum(-1)


def end_of_flow(
    reward: Reward, size: int, *, truth: float = 0.6, apart: float = 1.0, by_deviation: bool = False, start: float = 0.5
) -> float:
    """Where the expected update takes p(A), for places A and B `apart` radians, A true with probability `truth`.

    It is followed from `start` to the first p(A) at which it vanishes: 0 or 1, a collapse, if none lies between.
    """
    between = np.array([[0.0, apart], [apart, 0.0]])

    def slope(logit: float) -> float:
        policy = expit(np.array([logit, -logit]))
        shares = np.array([truth, 1 - truth])
        return float(expected_update(policy, shares, between, reward, size, by_deviation=by_deviation)[0])

    if not 1e-5 <= start <= 1 - 1e-5:
        raise ValueError(f"start must lie between 1e-5 and 1 - 1e-5, got {start}: beyond, a policy no longer moves")
    logit = math.log(start / (1 - start))
    way = math.copysign(0.25, slope(logit))
    if abs(slope(logit)) < 1e-15:
        return start
    while abs(logit) < 12:  # 6e-6 from certainty
        if slope(logit + way) * way <= 0:
            return float(expit(brentq(slope, logit, logit + way, xtol=1e-13)))
        logit += way
    return float(way > 0)


def legendre_coefficients(cost: Cost, degree: int, nodes: int = 512) -> Float[np.ndarray, " l"]:
    """a_0 ... a_degree in -c = sum_l a_l P_l(cos θ): a_l = (2l + 1)/2 ∫ -c(θ) P_l(cos θ) sin θ dθ.

    The energy score with c is strictly proper on S² where a_l > 0 for every l ≥ 1 (Gneiting & Raftery 2007, 5.1);
    -a_0 is the mean cost of two uniform points. Gauss-Legendre in θ, in which all `COSTS` are smooth (in cos θ the
    chord has a root at 0); raise `nodes` for a degree beyond a few hundred.
    """
    x, weight = leggauss(nodes)
    theta = np.pi * (x + 1) / 2
    integral = (weight * np.pi / 2 * np.sin(theta) * -cost(theta)) @ legvander(np.cos(theta), degree)
    return (2 * np.arange(degree + 1) + 1) / 2 * integral


def ends(lines: Iterable[tuple[str, bool]], sizes: Iterable[int], truth: float) -> pd.DataFrame:
    """`end_of_flow` of named `REWARDS`, divided by the deviation or not, by group size: reward, size, share."""
    sizes = list(sizes)
    return pd.DataFrame(
        {
            "reward": f"{name}, ÷ deviation" if divided else name,
            "size": size,
            "share": end_of_flow(REWARDS[name], size, truth=truth, by_deviation=divided),
        }
        for name, divided in lines
        for size in sizes
    )


def spectra(degree: int) -> pd.DataFrame:
    """`legendre_coefficients` of all `COSTS`, degree 1 to `degree`: cost, degree, value."""
    return pd.DataFrame(
        {"cost": name, "degree": at, "value": value}
        for name, cost in COSTS.items()
        for at, value in enumerate(legendre_coefficients(cost, degree))
        if at > 0
    )


def antipodal_scores(costs: Iterable[str]) -> pd.DataFrame:
    """What three forecasts pay where the truth is half on one point of the equator and half on its antipode.

    `expected_score` by these of `COSTS`: the truth itself; half and half on the poles; the uniform law, two draws of
    which are -a_0 apart in the mean, as is one of them from any point.
    """
    half = np.full(2, 0.5)
    truth = np.array([[1.0, 0, 0], [-1.0, 0, 0]]), half
    poles = np.array([[0, 0, 1.0], [0, 0, -1.0]]), half
    paid = {
        name: {
            "the truth": expected_score(truth, truth, COSTS[name]),
            "half and half on the poles": expected_score(poles, truth, COSTS[name]),
            "everywhere alike": -legendre_coefficients(COSTS[name], 0)[0] / 2,
        }
        for name in costs
    }
    return pd.DataFrame(paid).rename_axis("forecast").reset_index()


def expected_score(
    forecast: tuple[Float[np.ndarray, "n 3"], Vector], truth: tuple[Float[np.ndarray, "m 3"], Vector], cost: Cost
) -> float:
    """E_{y~Q} ES(P, y) = E c(X, Y) - E c(X, X')/2 of two laws on few points: unit vectors with their probabilities.

    What a forecaster who says P pays on average where Q is true, in the cost's unit; a proper score is least at P = Q.
    """
    (x, p), (y, q) = forecast, truth
    return float(p @ cost(angles(x, y)) @ q - p @ cost(angles(x, x)) @ p / 2)
