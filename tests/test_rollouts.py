"""Rollouts as a forecast: scores against the one-clip oracle, ranks that are uniform, a density that is one."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest

from avgeo.flow import energy_score
from avgeo.reason.rewards import proper_reward
from avgeo.reason.rollouts import Rollouts, forecasts, mixture_bits
from avgeo.sphere import (
    EARTH_RADIUS_KM,
    fibonacci_grid,
    from_degrees,
    normalize,
    sample_uniform,
    sample_vmf,
    to_degrees,
)


def drawn(clips: int, n: int, seed: int, kappa: float = 5.0, truth_kappa: float = 5.0):
    """Answers round a centre of each clip's own, and a truth drawn about it too."""
    draw = torch.Generator().manual_seed(seed)
    center = normalize(sample_uniform(clips, draw).double())
    points = sample_vmf(center[:, None].expand(clips, n, 3), kappa, draw)
    truth = sample_vmf(center, truth_kappa, draw)
    valid = torch.rand(clips, n, generator=draw) < 0.8
    return Rollouts(points, valid), truth


def table_of(rollouts: Rollouts) -> pd.DataFrame:
    clips, n = rollouts.valid.shape
    latitude, longitude = to_degrees(rollouts.points.reshape(-1, 3))
    parsed = rollouts.valid.reshape(-1).numpy()
    return pd.DataFrame({
        "clip_id": [f"clip {clip}" for clip in range(clips) for _ in range(n)],
        "latitude_deg": np.where(parsed, latitude.numpy(), math.nan),
        "longitude_deg": np.where(parsed, longitude.numpy(), math.nan), "parsed": parsed,
    })  # fmt: skip


def text_of(point: torch.Tensor, valid: bool) -> str:
    latitude, longitude = (float(part) for part in to_degrees(point))
    answer = f'{{"country": "A", "region": "B", "latitude": {latitude!r}, "longitude": {longitude!r}}}'
    return f"<think>heard: none</think><answer>{answer}</answer>" if valid else "I do not know"


def test_scores_equal_the_one_clip_oracle_where_everything_parses():
    rollouts, truth = drawn(5, 12, seed=1)
    whole = Rollouts(rollouts.points, torch.ones_like(rollouts.valid))
    expected = [energy_score(points, y).value for points, y in zip(whole.points, truth, strict=True)]
    np.testing.assert_allclose(whole.energy_scores(truth), expected, atol=1e-12)
    np.testing.assert_allclose(whole.valid_energy_scores(truth), expected, atol=1e-12)


def test_the_valid_score_is_that_of_the_valid_answers():
    rollouts, truth = drawn(6, 10, seed=2)
    expected = [
        energy_score(points[valid], y).value
        for points, valid, y in zip(rollouts.points, rollouts.valid, truth, strict=True)
    ]
    np.testing.assert_allclose(rollouts.valid_energy_scores(truth), expected, atol=1e-12)


@given(st.integers(0, 2**20))
def test_the_score_is_what_the_proper_reward_pays_for(seed):
    """Summed over a group, the reward's spread counts every pair twice: the score follows from its two halves."""
    rollouts, truth = drawn(1, 7, seed)
    n, points, valid = 7, rollouts.points[0], rollouts.valid[0]
    latitude, longitude = (float(part) for part in to_degrees(truth[0]))
    texts = [text_of(point, bool(ok)) for point, ok in zip(points, valid, strict=True)]
    rewards = proper_reward(texts, [latitude] * n, [longitude] * n, clip_id=["a"] * n)
    chords = (points[:, None] - points[None]).norm(dim=-1) * (valid[:, None] & valid[None])
    # reward = -cost + spread/(n - 2) and score = mean cost - spread/(2 n (n - 1))
    cost = (float(chords.sum()) / (n - 2) - sum(rewards)) / n
    assert rollouts.energy_scores(truth)[0] == pytest.approx(cost - float(chords.sum()) / (2 * n * (n - 1)), abs=1e-9)


def test_what_does_not_parse_is_counted():
    rollouts, truth = drawn(1, 8, seed=3)
    silent = Rollouts(rollouts.points, torch.zeros_like(rollouts.valid))
    assert silent.energy_scores(truth).tolist() == [2.0]
    assert np.isnan(silent.valid_energy_scores(truth)).all() and np.isnan(silent.ranks(truth)).all()
    assert silent.parse_rate == 0
    np.testing.assert_allclose(silent.log_prob(truth, 100.0, 0.1), -math.log(4 * math.pi))  # says nothing: uniform


def test_ranks_are_uniform_exactly_when_truth_is_one_more_draw():
    honest, truth = drawn(3000, 12, seed=4)
    assert kstest(honest.ranks(truth), "uniform").pvalue > 0.01
    for sure, kappa in ((True, 20.0), (False, 1.2)):
        rollouts, truth = drawn(3000, 12, seed=5, kappa=kappa)
        ranks = rollouts.ranks(truth)
        assert kstest(ranks, "uniform").pvalue < 1e-6
        assert bool(ranks.mean() > 0.5) is sure  # too sure: the truth lies outside more often than it should


def test_ranks_do_not_lean_where_answers_agree():
    """Twelve times the same place, and the truth is there too: its rank is anything, not the innermost."""
    point = from_degrees(torch.tensor([10.0]).double(), torch.tensor([20.0]).double())
    rollouts = Rollouts(point.expand(2000, 12, 3), torch.ones(2000, 12, dtype=torch.bool))
    assert kstest(rollouts.ranks(point.expand(2000, 3)), "uniform").pvalue > 0.01


def test_the_mixture_is_the_density_that_was_fitted():
    rollouts, truth = drawn(40, 9, seed=6)
    width_km, floor = rollouts.fit_mixture(truth)
    at = rollouts.log_prob(truth, width_km, floor)
    for clip in range(5):
        mixture = rollouts.mixture(clip, width_km, floor)
        assert float(mixture.log_prob(truth[clip : clip + 1])) == pytest.approx(float(at[clip]), abs=1e-9)
    grid = fibonacci_grid(20_000).double()
    wide = rollouts.mixture(0, 1500.0, 0.1)
    assert float(wide.log_prob(grid).exp().mean()) * 4 * math.pi == pytest.approx(1.0, abs=1e-3)


def test_the_fit_finds_width_and_floor():
    """Answers at the centre and truths about it: the width is the truths' own; strays ask for the floor."""
    draw = torch.Generator().manual_seed(7)
    center = normalize(sample_uniform(4000, draw).double())
    truth = sample_vmf(center, (EARTH_RADIUS_KM / 500) ** 2, draw)
    truth[:400] = normalize(sample_uniform(400, draw).double())
    rollouts = Rollouts(center[:, None].expand(4000, 3, 3), torch.ones(4000, 3, dtype=torch.bool))
    width_km, floor = rollouts.fit_mixture(truth)
    assert width_km == pytest.approx(500, rel=0.05) and floor == pytest.approx(0.1, abs=0.02)
    better = rollouts.log_prob(truth, width_km, floor).mean()
    for other in ((width_km * 1.3, floor), (width_km / 1.3, floor), (width_km, floor * 2), (width_km, floor / 2)):
        assert rollouts.log_prob(truth, *other).mean() < better


def test_tables_come_back_and_torn_ones_are_refused():
    rollouts, _ = drawn(4, 5, seed=8)
    table = table_of(rollouts)
    again = Rollouts.from_table(table)
    assert torch.equal(again.valid, rollouts.valid)
    torch.testing.assert_close(again.points[again.valid], rollouts.points[rollouts.valid], atol=1e-9, rtol=0)
    for torn in (table.iloc[:-1], table.sample(frac=1, random_state=0), table.iloc[::5], table.iloc[:0],
                 pd.concat([table, table])):  # fmt: skip
        with pytest.raises(ValueError, match="table: give at least two answers a clip"):
            Rollouts.from_table(torn)
    with pytest.raises(ValueError, match="none of its answers parses"):
        Rollouts(rollouts.points, torch.zeros_like(rollouts.valid)).mixture(0, 100.0, 0.1)


def test_forecasts_are_compared_over_the_same_clips():
    rollouts, truth = drawn(30, 8, seed=9)
    silent = Rollouts(rollouts.points, torch.zeros_like(rollouts.valid))
    silent.valid[:3] = True
    table = forecasts({"good": rollouts, "nearly silent": silent}, truth, [f"place {clip // 2}" for clip in range(30)])
    assert table["policy"].tolist() == ["good", "nearly silent"]
    assert table["parse rate"].tolist() == [rollouts.parse_rate, 0.1]
    score = float(table["energy score"][0].split()[0])
    assert score == pytest.approx(rollouts.energy_scores(truth).mean(), abs=5e-4)
    spoke = silent.of(slice(3)).valid_energy_scores(truth[:3]).mean()
    assert float(table["of valid answers"][1].split()[0]) == pytest.approx(spoke, abs=5e-4)


def test_bits_are_of_clips_that_the_mixture_was_not_fitted_on():
    rollouts, truth = drawn(200, 12, seed=12, kappa=200.0, truth_kappa=200.0)
    width_km, floor, bits = mixture_bits(rollouts, truth)
    assert len(bits) == 100 and bits.mean() > 2
    assert (width_km, floor) == rollouts.of(slice(100)).fit_mixture(truth[:100])
    moved = truth.clone()
    moved[100:] = -moved[100:]  # where the second half lies changes nothing of the fit
    assert mixture_bits(rollouts, moved)[:2] == (width_km, floor)


def test_a_silent_policy_is_a_row_like_any_other():
    rollouts, truth = drawn(6, 5, seed=10)
    table = forecasts({"silent": Rollouts(rollouts.points, torch.zeros_like(rollouts.valid))}, truth, range(6))
    assert table["of valid answers"][0] == "–" and table["energy score"][0].startswith("2.00")
    assert table["parse rate"][0] == 0 and math.isnan(table["mean rank (calibrated: 0.5)"][0])


def test_bad_arguments_are_named():
    rollouts, truth = drawn(3, 5, seed=11)
    for call in (rollouts.energy_scores, rollouts.valid_energy_scores, rollouts.ranks, rollouts.fit_mixture):
        with pytest.raises(ValueError, match=r"truth has shape \(1, 3\): give one place for each of 3 clips"):
            call(truth[:1])
    for floor in (0.0, 1.0, math.nan):
        with pytest.raises(ValueError, match="floor must lie between 0 and 1"):
            rollouts.log_prob(truth, 100.0, floor)
    with pytest.raises(ValueError, match="none of the answers parses"):
        Rollouts(rollouts.points, torch.zeros_like(rollouts.valid)).fit_mixture(truth)
