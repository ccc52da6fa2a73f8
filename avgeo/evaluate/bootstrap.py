"""Cluster bootstrap: resample places, not clips, because clips of one place are not independent.

Each resample draws as many places as there are, with replacement (Davison & Hinkley 1997, 3.8; Field & Welsh
2007). A mean is then a ratio of sums over places and a median a weighted median, so no clip is ever copied.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float32, Float64, Int64, Num
from scipy.stats import poisson

_CELLS = 4_000_000  # counts held at a time: 32 MB
_MANY = 100_000  # places, beyond which they are drawn by their counts
_EXACT_IN_FLOAT32 = 2**24  # clips, up to which their number stays a whole one in sums


def resamples(clusters: int, count: int, seed: int, width: int = 0) -> Iterator[Int64[np.ndarray, "some clusters"]]:
    """How often each place is drawn in each of `count` resamples, in blocks of rows.

    `width` is how many numbers the caller makes of a row, where that is more than there are places.
    """
    rng = np.random.default_rng(seed)
    block = max(1, min(count, _CELLS // max(clusters, width)))
    for start in range(0, count, block):
        rows = min(block, count - start)
        drawn = rng.integers(0, clusters, size=(rows, clusters)) + clusters * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * clusters).reshape(rows, clusters)


def _resamples_of_many(clusters: int, count: int, seed: int) -> Iterator[Float32[np.ndarray, "some clusters"]]:
    """As `resamples`, the same law by another way that touches no memory at random: for a great many places.

    Independent Poisson counts, given their sum T, are T draws with replacement; P - T more draws make it P. So counts
    are looked up by 16 random bits each (a bin that a jump of the distribution function cuts is settled by 53 more),
    with a mean so far below 1 that T > P in one resample of 10^9, which is drawn anew: whatever T, the law is the same.
    """
    rng = np.random.default_rng(seed)
    jumps = 2.0**16 * poisson.cdf(np.arange(40), 1 - 6 / math.sqrt(clusters))
    bins = np.arange(2**16)
    first = np.searchsorted(jumps, bins, side="right")
    last = np.searchsorted(jumps, bins + 1, side="left")
    known = np.where(first == last, first, -1).astype(np.float32)
    block = np.empty((min(count, max(1, 4 * _CELLS // clusters)), clusters), np.float32)
    for start in range(0, count, len(block)):
        rows = block[: count - start]
        for row in rows:
            missing = -1
            while missing < 0:
                bits = rng.bit_generator.random_raw(-(-clusters // 4)).view(np.uint16)[:clusters]
                np.take(known, bits, out=row, mode="clip")
                cut = np.flatnonzero(row < 0)
                row[cut] = np.searchsorted(jumps, bits[cut] + rng.random(len(cut)), side="right")
                missing = clusters - int(row.sum(dtype=np.float64))
            np.add.at(row, rng.integers(0, clusters, missing), np.float32(1))
        yield rows


def bootstrap(
    means: Float64[np.ndarray, "clips metrics"],
    medians: Float64[np.ndarray, "clips medians"],
    cluster: Int64[np.ndarray, " clips"],
    *,
    count: int,
    seed: int,
) -> tuple[Float64[np.ndarray, "count metrics"], Float64[np.ndarray, "count medians"]]:
    """Bootstrap values of the mean of each column of `means` and the median of each column of `medians`.

    Beyond `_MANY` places sums are taken in float32, good to six digits of a mean.
    """
    clusters = int(cluster.max()) + 1
    sizes = np.bincount(cluster, minlength=clusters).astype(np.float64)
    sums = [np.bincount(cluster, weights=values, minlength=clusters) for values in means.T]
    searches = [_MedianSearch(values, cluster, sizes) for values in medians.T]
    columns = np.stack([*sums, sizes, *(search.below for search in searches)], axis=1)
    many = clusters > _MANY and len(cluster) < _EXACT_IN_FLOAT32
    columns = columns.astype(np.float32) if many else columns
    mean_draws, median_draws = [], []
    for counts in (_resamples_of_many if many else resamples)(clusters, count, seed):
        totals = (counts.astype(columns.dtype, copy=False) @ columns).astype(np.float64)
        mean_draws.append(totals[:, : len(sums)] / totals[:, len(sums), None])
        found = [
            search.medians(counts, totals[:, len(sums)], totals[:, len(sums) + 1 + at])
            for at, search in enumerate(searches)
        ]
        median_draws.append(np.stack(found, axis=1) if found else np.empty((len(counts), 0)))
    return np.concatenate(mean_draws), np.concatenate(median_draws)


class _MedianSearch:
    """Exact medians of resamples by looking only where they can be.

    A resample's median has a rank near n/2, give or take the standard error of the number of clips below it. Eight
    such errors to each side make a window of the sorted values; what lies below it is one more sum over places. A
    median outside of it (it has no chance to speak of, but few places are no normal law) is looked for among all.
    """

    def __init__(self, values: np.ndarray, cluster: np.ndarray, sizes: np.ndarray) -> None:
        order = np.argsort(values, kind="stable")
        self.values, self.groups = values[order], cluster[order]
        n, clusters = len(values), len(sizes)
        lower_half = np.bincount(self.groups[: n // 2], minlength=clusters)
        reach = int(8 * np.sqrt(np.square(lower_half - sizes / 2).sum())) + 2
        self.start, self.stop = max(0, n // 2 - reach), min(n, n // 2 + reach)
        self.below = np.bincount(self.groups[: self.start], minlength=clusters).astype(np.float64)

    def medians(
        self, counts: Num[np.ndarray, "some clusters"], sizes: np.ndarray, below: np.ndarray
    ) -> Float64[np.ndarray, " some"]:
        """The median of each resample; `sizes` are its clips, `below` those that sort before the window."""
        values, groups = self.values[self.start : self.stop], self.groups[self.start : self.stop]
        found = np.empty(len(counts))
        for row, weights in enumerate(counts):
            total = np.cumsum(weights[groups])
            ranks = np.array([(sizes[row] - 1) // 2, sizes[row] // 2]) - below[row]
            if ranks[0] >= 0 and ranks[1] < total[-1]:
                lower, upper = np.searchsorted(total, ranks, side="right")
                found[row] = (values[lower] + values[upper]) / 2
            else:
                found[row] = weighted_median(self.values, weights[self.groups])
        return found


def weighted_median(values: Float64[np.ndarray, " n"], weights: Num[np.ndarray, " n"]) -> float:
    """Median of sorted `values`, each repeated `weights` times: numpy's median of the repeated array."""
    total = np.cumsum(weights)
    lower, upper = np.searchsorted(total, [(total[-1] - 1) // 2, total[-1] // 2], side="right")
    return float((values[lower] + values[upper]) / 2)


def interval(
    draws: Float64[np.ndarray, "count metrics"], level: float
) -> tuple[Float64[np.ndarray, " metrics"], Float64[np.ndarray, " metrics"]]:
    """Percentile interval of each column: (low, high)."""
    tail = (1 - level) / 2
    low, high = np.quantile(draws, [tail, 1 - tail], axis=0)
    return low, high


def p_value(draws: Float64[np.ndarray, "count metrics"]) -> Float64[np.ndarray, " metrics"]:
    """Two-sided p-value of "no difference" by inverting the percentile interval, at least 2/(count+1)."""
    below, above = (draws <= 0).sum(axis=0), (draws >= 0).sum(axis=0)
    return np.minimum(1.0, 2 * (np.minimum(below, above) + 1) / (len(draws) + 1))
