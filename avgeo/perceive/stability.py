"""Do independent initialisations find the same atoms? Matched dictionaries and matched activations.

A score of one pair of runs says little: two untrained dictionaries of 2,000 atoms match quite well by chance alone, so
their score is always subtracted (arXiv 2606.02061). Pairs of runs share runs and are not independent, so intervals are
jackknifed over the runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment
from scipy.stats import t

SIMILAR = 0.9
"""From this |cosine| on, two atoms count as the same."""


class StabilityError(ValueError):
    """Runs that cannot be compared; the message says why."""


def matched_cosines(
    first: Float[np.ndarray, "atoms dim"], second: Float[np.ndarray, "others dim"]
) -> Float[np.ndarray, " matched"]:
    """|cosine| of every pair of atoms in the best one-to-one matching of two dictionaries (Hungarian).

    As many as the smaller dictionary has. An atom of zero length is like nothing: its cosines are 0.
    """
    unit = [part / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-12) for part in (first, second)]
    cosine = np.abs(unit[0] @ unit[1].T)
    return cosine[linear_sum_assignment(-cosine)]


def matched_correlations(
    first: Float[np.ndarray, "count atoms"], second: Float[np.ndarray, "count others"]
) -> Float[np.ndarray, " matched"]:
    """Correlation of activations over the same inputs, for every pair of atoms in the best one-to-one matching.

    An atom that never changes is like nothing: its correlations are 0.
    """
    centred = [part - part.mean(0) for part in (first, second)]
    unit = [part / np.maximum(np.linalg.norm(part, axis=0), 1e-6 * len(part)) for part in centred]
    correlation = unit[0].T @ unit[1]
    return correlation[linear_sum_assignment(-correlation)]


def stability(
    dictionaries: Sequence[Float[np.ndarray, "atoms dim"]],
    untrained: Sequence[Float[np.ndarray, "atoms dim"]] | None = None,
    level: float = 0.95,
) -> pd.DataFrame:
    """Likeness of the dictionaries of independent runs: metric, value, low, high.

    "cosine" is the mean |cosine| of matched atoms over all pairs of runs, "same" the share at or above `SIMILAR`. With
    `untrained` dictionaries, run by run of the same initialisation, theirs is subtracted and the interval is that of
    the difference. Intervals need three runs and are NaN for fewer; raises `StabilityError` for fewer than two.
    """
    measures: dict[str, Callable[[np.ndarray], float]] = {
        "cosine": lambda cosines: float(cosines.mean()),
        "same": lambda cosines: float((cosines >= SIMILAR).mean()),
    }
    return _compared(dictionaries, untrained, matched_cosines, measures, level)


def code_stability(
    codes: Sequence[Float[np.ndarray, "count atoms"]],
    untrained: Sequence[Float[np.ndarray, "count atoms"]] | None = None,
    level: float = 0.95,
) -> pd.DataFrame:
    """Likeness of the codes that independent runs give the same inputs: metric ("correlation"), value, low, high.

    As `stability`, with correlations of the activations of matched atoms in place of cosines.
    """
    measures: dict[str, Callable[[np.ndarray], float]] = {"correlation": lambda found: float(found.mean())}
    return _compared(codes, untrained, matched_correlations, measures, level)


def _compared(
    runs: Sequence[np.ndarray],
    untrained: Sequence[np.ndarray] | None,
    match: Callable[[np.ndarray, np.ndarray], np.ndarray],
    measures: dict[str, Callable[[np.ndarray], float]],
    level: float,
) -> pd.DataFrame:
    if len(runs) < 2:
        raise StabilityError(f"{len(runs)} run: stability compares at least two")
    if untrained is not None and len(untrained) != len(runs):
        raise StabilityError(f"{len(untrained)} untrained for {len(runs)} trained runs: give one each, in order")
    matrices = {name: np.zeros((len(runs), len(runs))) for name in measures}
    for i, j in combinations(range(len(runs)), 2):
        found = match(runs[i], runs[j])
        chance = None if untrained is None else match(untrained[i], untrained[j])
        for name, measure in measures.items():
            matrices[name][i, j] = measure(found) - (0.0 if chance is None else measure(chance))
    rows = []
    for name, matrix in matrices.items():
        value, low, high = jackknife(matrix + matrix.T, level)
        rows.append({"metric": name, "value": value, "low": low, "high": high})
    return pd.DataFrame(rows)


def jackknife(pairs: Float[np.ndarray, "runs runs"], level: float = 0.95) -> tuple[float, float, float]:
    """(mean over pairs, low, high) of a symmetric matrix, its diagonal aside, by leaving out one run at a time.

    Student's t with n - 1 degrees of freedom about the mean (Efron & Tibshirani 1993, chapter 11; for means over pairs
    Arvesen 1969). NaN for fewer than three runs, where nothing can be left out.
    """
    n = len(pairs)
    upper = np.triu_indices(n, 1)
    mean = float(pairs[upper].mean())
    if n < 3:
        return mean, float("nan"), float("nan")
    totals = pairs.sum(1) - np.diag(pairs)
    left = (pairs[upper].sum() - totals) / ((n - 1) * (n - 2) / 2)
    error = np.sqrt((n - 1) / n * np.square(left - left.mean()).sum())
    half = float(t.ppf((1 + level) / 2, n - 1) * error)
    return mean, mean - half, mean + half
