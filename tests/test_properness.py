"""The proper reward's derivation in chapter 3, equation by equation: each test is named there."""

from __future__ import annotations

import itertools
import json
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from avgeo import plots
from avgeo.reason import rewards
from avgeo.reason.properness import (
    CHORD,
    COSTS,
    DISTANCE,
    GREAT_CIRCLE,
    HALVED,
    NAIVE,
    OURS,
    REWARDS,
    SATURATING,
    SQUARED,
    Reward,
    angles,
    antipodal_scores,
    end_of_flow,
    ends,
    expected_score,
    expected_update,
    legendre_coefficients,
    spectra,
)
from avgeo.sphere import from_degrees

NOTED_ENDS = {4: 0.65, 8: 0.617, 16: 0.607}  # design notes: where the divisor G - 1 leads, the truth being .6


@st.composite
def worlds(draw, least=2, most=5):
    """Points on the sphere, a policy and a truth over them, none certain."""
    count = draw(st.integers(least, most))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    points = rng.normal(size=(count, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    return points, *rng.dirichlet(np.ones(count), size=2)


def gradient(p, q, between, weight=1.0):
    """∇_logits of -(E c(X, y) - weight E c(X, X') / 2), c the chord, by autograd: shares nothing with the module."""
    c = torch.from_numpy(2 * np.sin(between / 2))
    logits = torch.log(torch.from_numpy(p)).requires_grad_()
    law = torch.softmax(logits, 0)
    (slope,) = torch.autograd.grad(-(law @ c @ torch.from_numpy(q) - weight * law @ c @ law / 2), logits)
    return slope.numpy()


# --- the update

sizes = st.integers(3, 7)


@settings(deadline=None, max_examples=60)
@given(worlds(), sizes)
def test_expected_update_is_the_energy_scores_gradient(world, size):
    points, policy, truth = world
    between = angles(points, points)
    update = expected_update(policy, truth, between, REWARDS[OURS], size)
    np.testing.assert_allclose(update, (size - 1) / size * gradient(policy, truth, between), atol=1e-12)


@settings(deadline=None, max_examples=60)
@given(worlds(), sizes, st.floats(0, 2))
def test_a_mean_baseline_weighs_the_spread_by_w_times_g_minus_2(world, size, w):
    """For any weight w: the energy score's spread arrives multiplied by w (G - 2)."""
    points, policy, truth = world
    between = angles(points, points)
    update = expected_update(policy, truth, between, Reward(COSTS[CHORD], lambda _: w), size)
    want = (size - 1) / size * gradient(policy, truth, between, weight=w * (size - 2))
    np.testing.assert_allclose(update, want, atol=1e-11)


@settings(deadline=None, max_examples=60)
@given(worlds(), sizes)
def test_at_the_truth_only_our_update_vanishes(world, size):
    points, _, truth = world
    between = angles(points, points)
    np.testing.assert_allclose(expected_update(truth, truth, between, REWARDS[OURS], size), 0, atol=1e-12)
    slope_of_spread = gradient(truth, truth, between, weight=1.0) - gradient(truth, truth, between, weight=0.0)
    assume(np.abs(slope_of_spread).max() > 1e-3)  # else the truth is where the spread is largest, for every weight
    for name in (NAIVE, HALVED, DISTANCE):
        assert np.abs(expected_update(truth, truth, between, REWARDS[name], size)).max() > 1e-6


def test_factor_one_not_one_half():
    """REINFORCE without a baseline: -c + factor * E c(X', x) follows the energy score for factor 1 and no other."""
    rng = np.random.default_rng(0)
    points = rng.normal(size=(4, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    (policy, truth), between = rng.dirichlet(np.ones(4), size=2), angles(points, points)
    chord = 2 * np.sin(between / 2)
    score = np.eye(4) - policy  # row x: ∇ log p(x)
    found = {f: (policy * (-chord @ truth + f * chord @ policy)) @ score for f in (1.0, 0.5)}
    want = gradient(policy, truth, between)
    np.testing.assert_allclose(found[1.0], want, atol=1e-12)
    assert np.abs(found[0.5] - want).max() > 0.01


AT = [(38.7, -9.1), (37.8, -122.4), (-33.9, 151.2)]


def answer(place):
    body = {"country": "X", "region": "Y", "latitude": place[0], "longitude": place[1]}
    return f"<think>heard: none\nseen: none</think><answer>{json.dumps(body)}</answer>"


@pytest.mark.parametrize("by_deviation", [False, True])
@pytest.mark.parametrize("size", [3, 4, 5])
def test_the_enumeration_is_the_reward_that_is_trained(size, by_deviation):
    """Every ordered group goes through `rewards.proper_reward` itself: no sampling error, so 1e-12."""
    policy, truth = np.array([0.5, 0.2, 0.3]), np.array([0.6, 0.3, 0.1])
    points = from_degrees(*torch.tensor(AT, dtype=torch.float64).T).numpy()
    groups = list(itertools.product(range(3), repeat=size))
    total = np.zeros(3)
    for (latitude, longitude), share in zip(AT, truth, strict=True):
        r = rewards.proper_reward(
            [answer(AT[x]) for group in groups for x in group],
            [latitude] * size * len(groups), [longitude] * size * len(groups),
            clip_id=[str(at) for at in range(len(groups)) for _ in range(size)],
        )  # fmt: skip
        for group, earned in zip(groups, np.reshape(r, (-1, size)), strict=True):
            advantage = earned - earned.mean()
            if by_deviation:
                advantage = advantage / (earned.std(ddof=1) + 1e-4)
            update = advantage @ (np.eye(3)[list(group)] - policy) / size
            total += share * math.prod(policy[list(group)]) * update
    found = expected_update(policy, truth, angles(points, points), REWARDS[OURS], size, by_deviation=by_deviation)
    np.testing.assert_allclose(found, total, atol=1e-11 if by_deviation else 1e-12)


@settings(deadline=None, max_examples=30)
@given(worlds(most=4), st.integers(3, 6), st.sampled_from(sorted(REWARDS)), st.booleans())
def test_an_update_of_logits_sums_to_nothing(world, size, name, by_deviation):
    points, policy, truth = world
    update = expected_update(policy, truth, angles(points, points), REWARDS[name], size, by_deviation=by_deviation)
    assert abs(update.sum()) < 1e-12


def test_groups_must_be_large_enough():
    with pytest.raises(ValueError, match="at least 3"):
        expected_update(np.full(2, 0.5), np.full(2, 0.5), np.zeros((2, 2)), REWARDS[OURS], 2)


# --- where it ends, for two places


@pytest.mark.parametrize("size", [3, 4, 8, 16, 64])
def test_ours_ends_at_the_truth(size):
    assert end_of_flow(REWARDS[OURS], size) == pytest.approx(0.6, abs=1e-9)
    assert end_of_flow(REWARDS[OURS], size, start=0.99) == pytest.approx(0.6, abs=1e-9)


def test_the_notes_figures_for_the_divisor_g_minus_1():
    for size, share in NOTED_ENDS.items():
        assert end_of_flow(REWARDS[NAIVE], size) == pytest.approx(share, abs=5e-4)
    assert end_of_flow(REWARDS[NAIVE], 2) == 1.0


@settings(deadline=None, max_examples=40)
@given(st.floats(0.3, 0.7), sizes, st.floats(0.01, math.pi), st.sampled_from([OURS, NAIVE, HALVED]))
def test_two_places_end_in_closed_form(truth, size, apart, name):
    want = 0.5 + (truth - 0.5) / (REWARDS[name].weight(size) * (size - 2))
    assume(abs(truth - 0.5) > 1e-3 and 0.01 < want < 0.99)
    assert end_of_flow(REWARDS[name], size, truth=truth, apart=apart) == pytest.approx(want, abs=1e-8)


@pytest.mark.parametrize("start", [0.0, 1e-7, 1.0, math.nan])
def test_a_flow_starts_where_it_can_move(start):
    with pytest.raises(ValueError, match="start must lie between"):
        end_of_flow(REWARDS[OURS], 8, start=start)


@pytest.mark.parametrize("by_deviation", [False, True])
def test_a_distance_reward_collapses(by_deviation):
    for size in (2, 4, 16):
        assert end_of_flow(REWARDS[DISTANCE], size, by_deviation=by_deviation) == 1.0


# --- division by the group's deviation


@settings(deadline=None, max_examples=40)
@given(st.floats(0.1, 0.9), st.floats(0.02, 0.98), st.integers(3, 12), st.sampled_from([NAIVE, HALVED, OURS]))
def test_divided_by_the_deviation_a_group_is_a_vote(p, truth, size, name):
    """Two places: what is left of a group's reward gap is its sign, whatever its size."""
    reward, apart = REWARDS[name], 1.0
    between = np.array([[0, apart], [apart, 0]])
    found = expected_update(
        np.array([p, 1 - p]), np.array([truth, 1 - truth]), between, reward, size, by_deviation=True
    )
    want = 0.0
    for a in range(size + 1):
        for sign, share in ((1, truth), (-1, 1 - truth)):
            gap = sign + reward.weight(size) * (size - 2 * a)
            gap = 0.0 if abs(gap) < 1e-9 else gap
            likely = math.comb(size, a) * p**a * (1 - p) ** (size - a)
            want += share * likely * np.sign(gap) * math.sqrt(a * (size - a) * (size - 1) / size) / size
    assert found[0] == pytest.approx(want, abs=1e-3)  # trl's 1e-4 beside the deviation


def test_divided_by_the_deviation_nothing_ends_at_the_truth():
    for size in (3, 4, 8, 16):
        assert end_of_flow(REWARDS[NAIVE], size, by_deviation=True) == 1.0
        assert end_of_flow(REWARDS[HALVED], size, by_deviation=True) == 1.0
    ends = [end_of_flow(REWARDS[OURS], size, by_deviation=True) for size in (4, 8, 16, 64)]
    assert ends == pytest.approx([0.634, 0.802, 0.905, 0.977], abs=1e-3)  # a lone dissenter ties; else it is a vote
    assert all(b > a > 0.6 for a, b in itertools.pairwise(ends))


@settings(deadline=None, max_examples=40)
@given(worlds(least=2, most=5))
def test_groups_of_three_are_the_exception(world):
    """At the truth x_1, x_2, x_3, y are exchangeable, and A_i is what pairs i with y, less the mean over pairings."""
    points, _, truth = world
    update = expected_update(truth, truth, angles(points, points), REWARDS[OURS], 3, by_deviation=True)
    np.testing.assert_allclose(update, 0, atol=1e-9)


# --- which distances are proper

DEGREES = np.arange(1, 61)


def test_legendre_coefficients_of_the_chord_in_closed_form():
    found = legendre_coefficients(COSTS[CHORD], 60)
    np.testing.assert_allclose(found[1:], 4 / ((2 * DEGREES - 1) * (2 * DEGREES + 3)), rtol=1e-9)
    assert found[0] == pytest.approx(-4 / 3)  # the mean chord of two uniform points


def test_the_great_circle_has_no_even_coefficient():
    found = legendre_coefficients(COSTS[GREAT_CIRCLE], 60)
    np.testing.assert_allclose(found[2::2], 0, atol=1e-12)
    assert (found[1::2] > 0).all() and found[1] == pytest.approx(3 * math.pi / 8)


def test_saturating_distance_is_proper_and_its_square_is_not():
    assert (legendre_coefficients(COSTS[SATURATING], 60)[1:] > 0).all()
    squared = legendre_coefficients(COSTS[SQUARED], 60)
    assert (squared[1::2] > 0).all() and (squared[2::2] < 0).all()


@pytest.mark.parametrize("name", sorted(COSTS))
def test_legendre_series_sums_to_the_cost(name):
    theta = np.linspace(0.5, math.pi - 0.5, 7)
    series = np.polynomial.legendre.legval(np.cos(theta), legendre_coefficients(COSTS[name], 200))
    np.testing.assert_allclose(series, -COSTS[name](theta), atol=2e-3)


def axis(direction):
    return np.stack([np.array(direction, float), -np.array(direction, float)]), np.full(2, 0.5)


def test_the_great_circle_cannot_tell_antipodal_pairs_apart():
    poles, equator = axis([0, 0, 1]), axis([1, 0, 0])
    for forecast in (poles, equator):
        assert expected_score(forecast, equator, COSTS[GREAT_CIRCLE]) == pytest.approx(math.pi / 4, abs=1e-12)
    uniform = {name: -legendre_coefficients(COSTS[name], 0)[0] / 2 for name in (GREAT_CIRCLE, CHORD)}
    assert uniform[GREAT_CIRCLE] == pytest.approx(math.pi / 4) and uniform[CHORD] == pytest.approx(2 / 3)
    assert expected_score(poles, equator, COSTS[CHORD]) == pytest.approx(math.sqrt(2) - 0.5, abs=1e-12)
    shown = antipodal_scores((GREAT_CIRCLE, CHORD)).set_index("forecast")
    assert shown[GREAT_CIRCLE].tolist() == pytest.approx([math.pi / 4] * 3)
    assert shown[CHORD].tolist() == pytest.approx([0.5, math.sqrt(2) - 0.5, 2 / 3])
    # squared, a wrong forecast even beats the truth
    assert expected_score(poles, equator, COSTS[SQUARED]) < expected_score(equator, equator, COSTS[SQUARED]) - 1
    assert expected_score(equator, equator, COSTS[CHORD]) == pytest.approx(0.5, abs=1e-12)


def test_the_tables_are_what_they_are_made_of():
    table = ends([(OURS, False), (NAIVE, True)], (4, 8), truth=0.6)
    assert table["reward"].tolist() == [OURS, OURS, f"{NAIVE}, ÷ deviation", f"{NAIVE}, ÷ deviation"]
    assert table["size"].tolist() == [4, 8, 4, 8]
    assert table["share"].tolist() == pytest.approx([0.6, 0.6, 1, 1])
    found = spectra(3)
    assert found["degree"].tolist() == [1, 2, 3] * len(COSTS)
    chord = found.loc[found["cost"] == CHORD, "value"]
    assert chord.tolist() == pytest.approx([4 / ((2 * degree - 1) * (2 * degree + 3)) for degree in (1, 2, 3)])


def divergence(p, q, cost):
    return expected_score(p, q, cost) - expected_score(q, q, cost)


@settings(deadline=None, max_examples=40)
@given(worlds(least=2, most=4))
def test_blind_to_every_difference_that_is_even(world):
    """Any two laws that are each their own mirror image in the centre: the great circle sees none of it."""
    points, p, q = world
    both = np.concatenate([points, -points])
    even = [(both, np.concatenate([law, law]) / 2) for law in (p, q)]
    assert abs(divergence(*even, COSTS[GREAT_CIRCLE])) < 1e-12
    assume(np.abs(p - q).max() > 0.05 and np.abs(points @ points.T - np.eye(len(points))).max() < 0.95)
    for name in (CHORD, SATURATING):
        assert divergence(*even, COSTS[name]) > 1e-8


@settings(deadline=None, max_examples=40)
@given(worlds())
def test_what_a_wrong_forecast_loses_is_its_spectrum(world):
    """Σ_m |P_lm - Q_lm|² 4π/(2l + 1) is ΣΣ μ_i μ_j P_l(x_i·x_j), the addition theorem; the series rises to the loss."""
    points, p, q = world
    degree, difference = 60, p - q
    a = legendre_coefficients(COSTS[CHORD], degree)
    kernels = np.polynomial.legendre.legvander(np.clip(points @ points.T, -1, 1), degree)
    parts = a * np.einsum("i,j,ijl->l", difference, difference, kernels) / 2
    loss, rest = divergence((points, p), (points, q), COSTS[CHORD]), -a.sum()  # Σ a_l = -c(0) = 0
    assert abs(parts[0]) < 1e-12 and (parts[1:] > -1e-12).all()
    assert -1e-9 < loss - parts.sum() <= rest * np.abs(difference).sum() ** 2 / 2 + 1e-9


@settings(deadline=None, max_examples=40)
@given(worlds(), st.sampled_from([CHORD, SATURATING]))
def test_no_forecast_beats_the_truth(world, name):
    points, p, q = world
    assert divergence((points, p), (points, q), COSTS[name]) >= -1e-12


# --- the page


def test_the_figure_says_where_rewards_end():
    ends = pd.DataFrame(
        [(name, size, end_of_flow(REWARDS[name], size)) for name in (OURS, NAIVE) for size in (4, 8)],
        columns=["reward", "size", "share"],
    )
    spectra = pd.DataFrame(
        [(n, degree, a) for n in (CHORD, GREAT_CIRCLE, SQUARED)
         for degree, a in enumerate(legendre_coefficients(COSTS[n], 4)) if degree],
        columns=["cost", "degree", "value"],
    )  # fmt: skip
    figure, alt = plots.reward_ends(ends, spectra, truth=0.6, title="Ends")
    assert f"{OURS}: 0.600 at every G" in alt and f"{NAIVE}: 0.650 at G = 4, 0.617 at G = 8" in alt
    assert "chord: all positive; great circle: zero at degrees 2, 4; d²: negative at degrees 2, 4" in alt
    assert len(plots.png(figure, dpi=60)) > 5000
    with pytest.raises(plots.PlotError, match="share"):
        plots.reward_ends(ends.drop(columns="share"), spectra, truth=0.6)
    with pytest.raises(plots.PlotError, match="coefficients"):
        plots.reward_ends(ends, spectra.iloc[:0], truth=0.6)


def test_every_test_that_the_chapter_names_exists():
    root = Path(__file__).resolve().parents[1]
    page = (root / "notebooks" / "03_reasoning.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(test_\w+)`", page))
    there = {
        name for file in (root / "tests").glob("test_*.py") for name in re.findall(r"def (test_\w+)", file.read_text())
    }
    assert named and named <= there
