"""One million predictions, 1,000 resamples of places: time and peak memory, beside the naive bootstrap.

The naive one copies the clips of every drawn place and asks numpy for their mean and median. It would take hours at
full size, so the ratio is measured at a hundredth of the clips and a fiftieth of the resamples.
"""

from __future__ import annotations

import resource
import time

import numpy as np
import pytest

from avgeo.evaluate.bootstrap import bootstrap, resamples

CLIPS, RESAMPLES = 1_000_000, 1000


def _data(clips: int, places: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    cluster = np.concatenate([np.arange(places), rng.integers(0, places, clips - places)])
    km = rng.lognormal(5 + rng.normal(size=places)[cluster], 2)
    means = np.column_stack([km, 5000 * np.exp(-km / 1492.7), *(km <= r for r in (1, 25, 200, 750, 2500))])
    return means, km[:, None], cluster


def _naive(means: np.ndarray, medians: np.ndarray, cluster: np.ndarray, count: int, seed: int) -> np.ndarray:
    members = np.split(np.argsort(cluster, kind="stable"), np.cumsum(np.bincount(cluster))[:-1])
    draws = []
    for counts in resamples(len(members), count, seed):
        for row in counts:
            clips = np.concatenate([members[place] for place in np.repeat(np.arange(len(row)), row)])
            draws.append([*means[clips].mean(axis=0), *np.median(medians[clips], axis=0)])
    return np.array(draws)


@pytest.mark.parametrize("places", [1_000, 50_000, CLIPS])
def test_a_million_predictions(benchmark, places: int) -> None:
    means, medians, cluster = _data(CLIPS, places)
    benchmark.pedantic(lambda: bootstrap(means, medians, cluster, count=RESAMPLES, seed=0), rounds=1)
    benchmark.extra_info["peak_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    assert benchmark.stats.stats.max <= 10
    assert benchmark.extra_info["peak_gib"] <= 2


def test_beside_the_naive_bootstrap(benchmark) -> None:
    means, medians, cluster = _data(CLIPS // 100, 500)
    start = time.perf_counter()
    slow = _naive(means, medians, cluster, RESAMPLES // 50, 0)
    naive_s = time.perf_counter() - start
    fast = benchmark.pedantic(
        lambda: np.hstack(bootstrap(means, medians, cluster, count=RESAMPLES // 50, seed=0)), rounds=3
    )
    benchmark.extra_info["times_faster"] = naive_s / benchmark.stats.stats.min
    np.testing.assert_allclose(fast, slow, rtol=1e-9)
