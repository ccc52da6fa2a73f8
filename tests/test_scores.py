"""Scores of atoms: agreement with sources, intervals over places and seeds, stability, and the planted data."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import ttest_1samp, ttest_rel

from avgeo.perceive import scores
from avgeo.perceive.planted import (
    PlantedError,
    SpectrogramBank,
    compress,
    mix_spectrograms,
    superposition,
)
from avgeo.perceive.scores import (
    ScoreError,
    across_seeds,
    auroc_matrix,
    best_cut,
    fraction_unexplained,
    paired_differences,
    score_atoms,
    t_interval,
)
from avgeo.perceive.stability import (
    StabilityError,
    code_stability,
    jackknife,
    matched_correlations,
    matched_cosines,
    stability,
)


class Linear:
    """Codes relu(x A), decoded by a least-squares inverse: any coder will do."""

    def __init__(self, matrix: np.ndarray) -> None:
        self.matrix = torch.from_numpy(matrix.astype(np.float32))
        self.largest = 0

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        self.largest = max(self.largest, len(x))
        return torch.relu(x @ self.matrix)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        return codes @ torch.linalg.pinv(self.matrix)


CLIPS, TIME, SOURCES = 40, 6, 5


def corpus(seed: int, noise: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    """Clips in which dimension s is what source s does, and noise."""
    rng = np.random.default_rng(seed)
    active = (rng.random((CLIPS, 1, SOURCES)) < 0.5) & (rng.random((CLIPS, TIME, SOURCES)) < 0.6)
    x = active * rng.uniform(0.5, 1.5, active.shape) + noise * rng.normal(size=active.shape)
    return x.astype(np.float32), active


PLACES = [f"place {number // 4}" for number in range(CLIPS)]


def table(model, fit, held_out, bootstrap: int = 200) -> pd.DataFrame:
    return score_atoms(model, fit, held_out, PLACES, bootstrap=bootstrap).set_index("metric")


@given(
    hnp.arrays(np.float64, st.integers(1, 30), elements=st.sampled_from([0.0, 0.25, 0.5, 1.0, 2.0])),
    st.integers(0, 2**30),
)
def test_the_best_cut_is_the_best_of_all_cuts(strength, bits):
    label = np.array([bits >> place & 1 for place in range(len(strength))], dtype=bool)

    def f1(cut: float) -> float:
        heard = strength >= cut
        return 2 * (heard & label).sum() / max(1, heard.sum() + label.sum())

    best = max((f1(cut) for cut in strength[strength > 0]), default=0.0)
    found = best_cut(strength, label)
    assert f1(found) == pytest.approx(best)
    assert found > 0 and (np.isinf(found) or found in strength)


def test_scores_are_what_scikit_learn_makes_of_dense_codes(monkeypatch):
    metrics = pytest.importorskip("sklearn.metrics")
    fit, test = corpus(1), corpus(2)
    model = Linear(np.eye(SOURCES)[:, [3, 1, 4, 0, 2]] + 0.1)
    found = table(model, fit, test)
    monkeypatch.setattr(scores, "_BLOCK", 7)
    pd.testing.assert_frame_equal(found, table(model, fit, test))  # however it is cut into blocks
    atom = np.argsort([3, 1, 4, 0, 2])  # which atom speaks for a source
    codes = [model.encode(torch.from_numpy(x).flatten(0, 1)).numpy() for x, _ in (fit, test)]
    labels = [active.reshape(-1, SOURCES) for _, active in (fit, test)]
    expected: dict[str, list[float]] = {"MCC": [], "F1": [], "F1 fires": []}
    for source in range(SOURCES):
        strength, true = codes[1][:, atom[source]], labels[1][:, source]
        cut = best_cut(codes[0][:, atom[source]], labels[0][:, source])
        expected["MCC"].append(float(np.corrcoef(strength, true)[0, 1]))
        expected["F1"].append(metrics.f1_score(true, strength >= cut))
        expected["F1 fires"].append(metrics.f1_score(true, strength > 0))
    for metric, values in expected.items():
        assert found.loc[metric, "value"] == pytest.approx(np.mean(values), rel=1e-5)
    means = [code.reshape(CLIPS, TIME, -1).mean(1) for code in codes]
    present = [active.any(1) for _, active in (fit, test)]
    area = auroc_matrix(means[0], present[0]).argmax(0)
    areas = [metrics.roc_auc_score(present[1][:, s], means[1][:, area[s]]) for s in range(SOURCES)]
    assert found.loc["AUROC", "value"] == pytest.approx(np.mean(areas), rel=1e-6)
    assert found.loc["L0", "value"] == pytest.approx((codes[1] > 0).sum(1).mean())
    x = torch.from_numpy(test[0]).flatten(0, 1)
    assert found.loc["FVU", "value"] == pytest.approx(fraction_unexplained(model, x), rel=1e-5)
    assert found.loc["FVU", "value"] == pytest.approx(
        np.mean(1 - metrics.r2_score(x, model.decode(model.encode(x)), multioutput="raw_values")), rel=1e-4
    )


def test_intervals_hold_the_value_and_shrink_with_more_places():
    fit, test = corpus(1), corpus(2)
    found = table(Linear(np.eye(SOURCES)), fit, test)
    inner = found.drop("dead atoms")
    assert (inner["low"] <= inner["value"]).all() and (inner["value"] <= inner["high"]).all()
    assert inner.loc["MCC", "low"] < inner.loc["MCC", "high"]
    twice = tuple(np.concatenate([part] * 4) for part in test)
    places = [f"place {number // 4}" for number in range(4 * CLIPS)]
    wide = score_atoms(Linear(np.eye(SOURCES)), fit, twice, places, bootstrap=200).set_index("metric")
    width, narrower = (part["high"] - part["low"] for part in (inner, wide))
    assert narrower["MCC"] < 0.8 * width["MCC"]
    assert wide.loc["MCC", "value"] == pytest.approx(inner.loc["MCC", "value"])


@settings(max_examples=20)
@given(st.permutations(range(SOURCES)), st.lists(st.floats(0.01, 100), min_size=SOURCES, max_size=SOURCES))
def test_order_and_units_of_atoms_mean_nothing(order, gains):
    fit, test = corpus(1), corpus(2)
    plain = table(Linear(np.eye(SOURCES)), fit, test, bootstrap=2)["value"]
    other = table(Linear(np.eye(SOURCES)[:, order] * np.array(gains)), fit, test, bootstrap=2)["value"]
    assert np.allclose(plain.drop("FVU"), other.drop("FVU"), rtol=1e-4)


def test_weak_activity_is_forgiven_by_the_cut_alone():
    fit, test = corpus(1, noise=0), corpus(2, noise=0)
    leaky = [(x + 0.01, active) for x, active in (fit, test)]
    found = table(Linear(np.eye(SOURCES)), *leaky)["value"]
    assert found["F1"] > 0.98 and found["F1 fires"] < 0.7 and found["dead atoms"] == 0
    assert found["L0"] == SOURCES


def test_codes_are_never_held_whole():
    fit, test = (tuple(np.concatenate([part] * 20) for part in corpus(seed)) for seed in (1, 2))
    model = Linear(np.eye(SOURCES))
    score_atoms(model, fit, test, PLACES * 20, bootstrap=2)
    assert 0 < model.largest <= scores._BLOCK < len(fit[0]) * TIME


def test_atoms_that_never_fire_are_dead_and_match_nothing():
    fit, test = corpus(1), corpus(2)
    matrix = np.concatenate([np.eye(SOURCES), np.zeros((SOURCES, 5))], axis=1)
    found = table(Linear(matrix), fit, test)["value"]
    assert found["dead atoms"] == 0.5
    assert found["MCC"] == pytest.approx(table(Linear(np.eye(SOURCES)), fit, test)["value"]["MCC"])


def test_what_cannot_be_scored_says_so():
    fit, test = corpus(1), corpus(2)
    never = (test[0], np.zeros_like(test[1]))
    with pytest.raises(ScoreError, match="no source is heard in both"):
        score_atoms(Linear(np.eye(SOURCES)), fit, never, PLACES, bootstrap=2)
    with pytest.raises(ScoreError, match="place_id"):
        score_atoms(Linear(np.eye(SOURCES)), fit, test, PLACES[1:], bootstrap=2)
    with pytest.raises(ScoreError, match="3 atoms cannot be matched with 5 sources"):
        score_atoms(Linear(np.eye(SOURCES)[:, :3]), fit, test, PLACES, bootstrap=2)


@given(
    hnp.arrays(np.float64, 12, elements=st.sampled_from([0.0, 0.5, 1.0, 2.0])),
    st.integers(1, 2**12 - 2),
    hnp.arrays(np.int64, 12, elements=st.integers(0, 3)),
)
def test_weighted_area_is_that_of_repeated_clips(strength, bits, weights):
    label = np.array([bits >> place & 1 for place in range(12)], dtype=bool)
    repeated = auroc_matrix(np.repeat(strength, weights)[:, None], np.repeat(label, weights)[:, None])
    found = scores._area(strength[:, None], label[:, None], weights[None].astype(float))
    assert np.allclose(found, repeated[0], equal_nan=True)


@given(hnp.arrays(np.float64, st.integers(3, 8), elements=st.floats(-5, 5), unique=True))
def test_interval_over_seeds_is_students(values):
    found = t_interval(values)
    expected = ttest_1samp(values, 0).confidence_interval(0.95)
    assert np.allclose(found, [values.mean(), expected.low, expected.high])


def test_one_seed_has_no_interval():
    assert t_interval(np.array([0.3]))[0] == 0.3 and np.isnan(t_interval(np.array([0.3]))[1:]).all()


def test_differences_are_paired_by_seed():
    rng = np.random.default_rng(0)
    luck = rng.normal(size=5)  # of the seed, the same for both
    cells = pd.DataFrame(
        [
            {"method": method, "l0": 8, "metric": "MCC", "seed": seed, "value": luck[seed] + gain + 0.01 * rng.normal()}
            for method, gain in (("TopK", 0.0), ("ours", 0.5))
            for seed in rng.permutation(5)
        ]
    )
    ours, topk = (cells[cells["method"] == name].sort_values("seed")["value"] for name in ("ours", "TopK"))
    found = paired_differences(cells, "ours").iloc[0]
    expected = ttest_rel(ours, topk).confidence_interval(0.95)
    assert found["method"] == "TopK" and found["seeds"] == 5
    assert np.allclose([found["low"], found["high"]], [expected.low, expected.high])
    alone = across_seeds(cells).set_index("method")
    assert found["high"] - found["low"] < 0.1 < alone.loc["ours", "high"] - alone.loc["ours", "low"]
    with pytest.raises(ScoreError, match="no runs of 'mine'"):
        paired_differences(cells, "mine")


# --- stability ---


def test_matching_is_the_best_of_all_permutations():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 5, 7))
    unit = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in (first, second)]
    cosine = np.abs(unit[0] @ unit[1].T)
    best = max(sum(cosine[row, column] for row, column in enumerate(order)) for order in permutations(range(5)))
    assert matched_cosines(first, second).sum() == pytest.approx(best)


@given(st.permutations(range(6)), st.integers(0, 63))
def test_a_dictionary_is_itself_in_any_order_and_sign(order, bits):
    dictionary = np.random.default_rng(1).normal(size=(6, 9))
    signs = np.array([1 - 2 * (bits >> place & 1) for place in range(6)])[:, None]
    assert np.allclose(matched_cosines(dictionary, 3 * signs * dictionary[list(order)]), 1)
    codes = np.maximum(np.random.default_rng(2).normal(size=(40, 6)), 0)
    assert np.allclose(matched_correlations(codes, 2 * codes[:, list(order)]), 1, atol=1e-6)


def test_dead_atoms_are_like_nothing():
    codes = np.maximum(np.random.default_rng(2).normal(size=(40, 6)), 0)
    dead = codes.copy()
    dead[:, 0] = 0
    assert matched_correlations(dead, dead).sum() == pytest.approx(5)


@given(hnp.arrays(np.float64, st.integers(3, 7), elements=st.floats(-3, 3)))
def test_jackknife_of_sums_over_pairs_is_the_error_of_twice_the_mean(runs):
    mean, low, high = jackknife(runs[:, None] + runs[None])
    expected = t_interval(2 * runs)  # pairs u_i + u_j carry what their runs carry and no more
    assert np.allclose([mean, low, high], expected, atol=1e-9)


def test_stability_is_what_training_adds_to_chance():
    rng = np.random.default_rng(3)
    truth = rng.normal(size=(12, 6))
    untrained = [rng.normal(size=(12, 6)) for _ in range(4)]
    alike = [truth[rng.permutation(12)] + 0.05 * rng.normal(size=(12, 6)) for _ in range(4)]
    trained = stability(alike, untrained).set_index("metric")
    assert trained.loc["cosine", "low"] > 0.15 and trained.loc["same", "value"] > 0.8
    nothing = stability(untrained, untrained).set_index("metric")
    assert np.allclose(nothing.loc["cosine", ["value", "low", "high"]].astype(float), 0)
    raw = stability(alike).set_index("metric")
    assert raw.loc["cosine", "value"] > 0.98 > trained.loc["cosine", "value"]
    two = stability(alike[:2]).set_index("metric")
    assert np.isnan(two.loc["cosine", "low"]) and two.loc["cosine", "value"] > 0.98
    codes = np.maximum(rng.normal(size=(50, 8)), 0)
    found = code_stability([codes, codes[:, ::-1], codes], [codes] * 3).set_index("metric")
    assert found.loc["correlation", "value"] == pytest.approx(0, abs=1e-9)
    with pytest.raises(StabilityError, match="at least two"):
        stability(alike[:1])
    with pytest.raises(StabilityError, match="one each"):
        stability(alike, untrained[:2])


# --- planted data ---


def test_superposition_is_what_it_says():
    planted = superposition(4000, 0, 0, noise=0.0)
    assert torch.allclose(planted.x, planted.strength @ planted.directions, atol=1e-5)
    assert torch.allclose(planted.directions.norm(dim=-1), torch.ones(384))
    noisy = superposition(4000, 0, 0, noise=0.1)
    assert float((noisy.x - planted.x).std()) == pytest.approx(0.1, rel=0.02)
    on = planted.strength > 0
    assert 5 < float(on.sum(1).float().mean()) < 11 and int(on.sum(0).min()) > 0
    parents = on[:, : 384 - 96 - 144].float()
    for child in planted.child.nonzero()[:, 0]:
        fires = on[:, child]
        together = parents[fires].mean(0)
        assert float(together.max()) == 1  # some plain source fires whenever it does
    groups = on[:, 144 : 144 + 144].reshape(-1, 24, 6).any(-1)
    assert int(groups.sum(1).max()) == 1 and 0.5 < float(groups.any(1).float().mean()) < 0.62


def test_planted_draws_share_the_truth_and_nothing_else():
    one, other, same = superposition(50, 3, 0), superposition(50, 3, 1), superposition(50, 3, 0)
    assert torch.equal(one.directions, other.directions) and not torch.equal(one.x, other.x)
    assert torch.equal(one.x, same.x)
    assert not torch.equal(superposition(50, 4, 0).directions, one.directions)
    # a method seeded with a small number must not start from the truth
    for seed in range(200):
        start = torch.randn(512, 128, generator=torch.Generator().manual_seed(seed))
        assert float(torch.nn.functional.cosine_similarity(start[:384], one.directions).abs().max()) < 0.6
    with pytest.raises(PlantedError, match="sources=8"):
        superposition(10, 0, 0, sources=8)


def test_spectrograms_add_in_power():
    rng = torch.Generator().manual_seed(0)
    first, second = torch.rand(2, 5, 24, 8, generator=rng)
    mixed = mix_spectrograms(compress(first), compress(second))
    assert torch.allclose(mixed, compress(first + second), atol=1e-5)
    assert torch.allclose(mix_spectrograms(compress(first), torch.zeros(5, 192)), compress(first), atol=1e-5)


def test_a_bank_keeps_its_word():
    bank = SpectrogramBank.make(0)
    x, active = bank.sample(2000, 0)
    assert (
        x.shape == (2000, 192) and active.shape == (2000, 40) and bool(torch.isfinite(x).all()) and float(x.min()) >= 0
    )
    assert set(active.sum(1).tolist()) == {1, 2, 3, 4} and int(active.sum(0).min()) > 10
    again, _ = SpectrogramBank.make(0).sample(2000, 0)
    assert torch.equal(x, again) and not torch.equal(SpectrogramBank.make(1).sample(2000, 0)[0], x)


@pytest.mark.parametrize("snr_db", [-10.0, 0.0, 10.0])
def test_pairs_stand_at_their_snr(snr_db):
    first, second, both = SpectrogramBank.make(0).pairs(400, snr_db, 0)
    floor = 0.02
    powers = [floor * torch.expm1(part).sum(1) for part in (first, second, both)]
    noise = floor * 192
    level = 10 * torch.log10((powers[0] - noise).clamp_min(1e-3) / (powers[1] - noise).clamp_min(1e-3))
    assert float(level.median()) == pytest.approx(snr_db, abs=0.5)
    assert torch.allclose(powers[2], powers[0] + powers[1] - noise, rtol=0.1, atol=1)
