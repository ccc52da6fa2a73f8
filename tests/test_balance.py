"""The audit of balance: indices against their definitions, weights, cross-validation, and AGL1K's figures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avgeo.curate import CurateError, ground
from avgeo.curate.balance import (
    answer_km,
    area_cells,
    audit_balance,
    balance,
    constant_guess,
    held_out_constant_km,
    inverse_frequency,
    read_agl1k,
    read_agl1k_answers,
    weighted_scores,
)

LABELS = st.lists(st.sampled_from("abcde"), min_size=1, max_size=60)


@given(LABELS)
def test_indices_follow_their_definitions(labels: list[str]) -> None:
    found = balance(labels)
    counts = np.array(list(found["counts"].values()))
    share, n = counts / counts.sum(), len(counts)
    assert counts.sum() == len(labels)
    assert list(counts) == sorted(counts, reverse=True)
    assert found["gini"] == pytest.approx(np.abs(share[:, None] - share).sum() / (2 * n), abs=1e-12)
    assert found["effective_simpson"] == pytest.approx(1 / np.sum(share**2))
    assert found["effective_shannon"] == pytest.approx(np.prod(share**-share))
    assert 1 - 1e-9 <= found["effective_simpson"] <= found["effective_shannon"] + 1e-9 <= n + 1e-6
    assert balance(labels[::-1]) == found
    assert list(balance(labels[::-1])["counts"]) == list(found["counts"])


@given(LABELS.filter(lambda labels: len(set(labels)) > 1), st.randoms())
def test_a_weighted_mean_is_the_mean_of_the_groups(labels: list[str], random) -> None:
    values = np.array([random.uniform(0, 20_000) for _ in labels])
    weights = inverse_frequency(np.array(labels))
    groups = [values[np.array(labels) == label].mean() for label in sorted(set(labels))]
    assert np.average(values, weights=weights) == pytest.approx(np.mean(groups))
    assert weights.mean() == pytest.approx(1)
    unlabelled = inverse_frequency(np.array([*labels, "unknown"]))
    assert unlabelled[-1] == 0
    assert np.average(values, weights=unlabelled[:-1]) == pytest.approx(np.mean(groups))


def test_cells_have_equal_area() -> None:
    rng = np.random.default_rng(0)
    z, longitude = rng.uniform(-1, 1, 400_000), rng.uniform(-180, 180, 400_000)  # uniform on the sphere
    counts = np.bincount(area_cells(np.degrees(np.arcsin(z)), longitude), minlength=800)
    assert len(counts) == 800
    assert ((counts - 500) ** 2 / 500).sum() < 800 + 5 * np.sqrt(2 * 800)  # chi-squared
    assert set(area_cells(np.array([90.0, -90.0]), np.array([180.0, 180.0]))) == {760, 0}


@given(st.lists(st.floats(0, 20_000), min_size=1, max_size=30))
def test_unweighted_scores(values: list[float]) -> None:
    km = np.array(values)
    found = weighted_scores(km, np.ones(len(km)), np.arange(len(km)), bootstrap=20)
    assert found["mean_km"] == pytest.approx(km.mean())
    assert found["median_km"] == np.sort(km)[(len(km) - 1) // 2]
    assert (found["low_km"] is None) == (len(km) == 1)


def test_intervals_resample_places() -> None:
    """Ten places of 100 equal clips: the interval is that of ten numbers, as evaluation's own bootstrap has it."""
    from avgeo.evaluate import place_interval

    place = np.repeat(np.arange(10), 100)
    km = np.random.default_rng(1).uniform(0, 5000, 10)[place]
    ours = weighted_scores(km, np.ones(1000), place, bootstrap=4000)
    theirs = place_interval(km, place, bootstrap=4000)
    assert ours["mean_km"] == pytest.approx(theirs.value)
    assert (ours["low_km"], ours["high_km"]) == pytest.approx((theirs.low, theirs.high), rel=0.05)
    # The weighted mean of equal values knows no doubt.
    same = weighted_scores(np.full(1000, 7.0), inverse_frequency(place % 3), place)
    assert (same["low_km"], same["mean_km"], same["high_km"]) == pytest.approx((7, 7, 7))


@settings(max_examples=15)
@given(st.lists(st.tuples(st.floats(-80, 80), st.floats(-179, 179)), min_size=1, max_size=8), st.randoms())
def test_no_point_of_a_grid_beats_the_constant(points: list[tuple[float, float]], random) -> None:
    latitude, longitude = np.array(points).T
    weights = np.array([random.uniform(0.1, 3) for _ in points])

    def cost(lat: float, lon: float) -> float:
        return float(np.average(ground.separation_km(latitude, longitude, lat, lon), weights=weights))

    best = cost(*constant_guess(latitude, longitude, weights))
    assert best <= min(cost(lat, lon) for lat in range(-90, 91, 10) for lon in range(-180, 180, 15)) + 0.01
    assert best <= min(cost(*point) for point in points) + 0.01


def places(count: int, seed: int = 0) -> pd.DataFrame:
    """Nine tenths around Paris, the rest around Sydney; three clips at each place."""
    rng = np.random.default_rng(seed)
    far = np.arange(count) % 10 == 0
    latitude = np.where(far, -33.9, 48.9) + rng.uniform(-1, 1, count)
    longitude = np.where(far, 150.5, 2.3) + rng.uniform(-1, 1, count)
    table = pd.DataFrame({"latitude_deg": latitude, "longitude_deg": longitude})
    table = table.loc[table.index.repeat(3)].reset_index(drop=True)
    table["clip_id"] = [f"clip-{number}" for number in range(len(table))]
    return table


def test_the_constant_is_never_chosen_on_the_place_it_answers() -> None:
    # Two places: each is answered from the other, however many clips they have.
    table = pd.DataFrame({"latitude_deg": [0.0] * 5 + [0.0], "longitude_deg": [0.0] * 5 + [90.0]})
    table["place_id"] = ["a"] * 5 + ["b"]
    quarter_km = np.pi / 2 * ground.EARTH_RADIUS_KM
    assert held_out_constant_km(table, np.ones(6), folds=2) == pytest.approx(np.full(6, quarter_km), rel=1e-4)
    with pytest.raises(CurateError, match="folds=3"):
        held_out_constant_km(table, np.ones(6), folds=3)


def test_audit_of_an_unbalanced_benchmark() -> None:
    table = places(100)
    exact = table[["clip_id", "latitude_deg", "longitude_deg"]].copy()
    exact.loc[exact.index[0], "latitude_deg"] = 0.0  # counts as a refusal
    exact = exact.iloc[:-1]  # and so does no answer
    found = audit_balance(table, {"exact": exact}, bootstrap=100)
    assert json.loads(json.dumps(found)) == found
    assert (found["clips"], found["places"]) == (300, 100)
    assert found["continents"]["counts"] == {"Europe": 270, "Oceania": 30}
    assert found["countries"]["counts"] == {"France": 270, "Australia": 30}
    scores = found["constant"]["scores"]
    assert scores["clips"]["mean_km"] == pytest.approx(0.1 * 16_900, rel=0.1)
    assert scores["continents"]["mean_km"] == pytest.approx(0.5 * 16_900, rel=0.05)
    assert scores["clips"]["median_km"] < 150
    assert scores["countries"] == scores["continents"]
    refitted = found["constant"]["refitted"]["clips"]
    assert (refitted["latitude_deg"], refitted["longitude_deg"]) == pytest.approx((48.9, 2.3), abs=0.5)
    assert found["constant"]["leading_continent"] == "Europe"
    assert found["constant"]["mean_km_inside_leading"] < 150
    assert found["constant"]["mean_km_outside_leading"] > 15_000
    answers = found["predictions"]["exact"]
    assert answers["answered"] == 298
    assert answers["answered_mean_km"] == pytest.approx(0, abs=1e-6)
    assert answers["scores"]["clips"]["mean_km"] == pytest.approx(20_000 / 300)
    assert answers["less_constant_km"]["continents"]["high_km"] < 0


def test_the_audit_depends_on_its_seed_alone() -> None:
    table = places(40)
    assert audit_balance(table, None, 3, folds=2, bootstrap=20) == audit_balance(
        table.copy(), None, 3, folds=2, bootstrap=20
    )
    before = places(40)
    pd.testing.assert_frame_equal(table, before)


def test_places_are_joined_by_steps_of_a_kilometre() -> None:
    north = 0.5 / 111.2
    table = pd.DataFrame({"latitude_deg": [10 + north * step for step in (0, 1, 2, 30, 31)], "longitude_deg": 5.0})
    table["continent"], table["country"] = "Africa", "Nigeria"
    assert audit_balance(table, folds=2, bootstrap=5)["places"] == 2


def test_answers_in_the_way_of_the_published_script() -> None:
    table = pd.DataFrame({"clip_id": list("abcde"), "latitude_deg": 10.0, "longitude_deg": 20.0})
    answers = pd.DataFrame({
        "clip_id": list("abcd"), "latitude_deg": [10.0, 0.0, np.nan, 95.0], "longitude_deg": [20.0, 5.0, 3.0, 4.0],
    })  # fmt: skip
    distance_km, answered = answer_km(table, answers)
    assert distance_km.tolist() == [0, 10_000, 10_000, 10_000, 10_000]
    assert answered.tolist() == [True, False, False, False, False]


def test_tables_that_cannot_be_audited() -> None:
    good = places(10)
    for table, predictions, message in (
        (good.drop(columns="latitude_deg"), None, "lacks latitude_deg"),
        (good.iloc[:0], None, "lacks rows"),
        (good.assign(latitude_deg=91.0), None, "no places"),
        (good, {"x": good[["clip_id"]]}, "predictions 'x'"),
        (good.drop(columns="clip_id"), {"x": good}, "with clip_id"),
    ):
        with pytest.raises(CurateError, match=message):
            audit_balance(table, predictions, bootstrap=5)
    with pytest.raises(CurateError, match="at least one row"):
        balance([])


def test_reading_agl1k_with_its_short_header(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("key,short_key,longitude,latitude,city,country,continent\nk1,1,2.5,48.5,Paris,France,Europe,9.0\n")
    table = read_agl1k(path)
    assert table.to_dict("records") == [
        {"clip_id": "k1", "latitude_deg": 48.5, "longitude_deg": 2.5, "country": "France", "continent": "Europe"}
    ]
    path.write_text("a,b\n1,2\n")
    with pytest.raises(CurateError, match="lacks AGL1K's columns"):
        read_agl1k(path)


@pytest.mark.slow
def test_agl1k(mirror: Path) -> None:
    """The figures of the book: a constant beats the model by clip, but not where each continent counts the same."""
    table = read_agl1k(mirror / "agl1k" / "geoLocalization_schema.csv")
    answers = read_agl1k_answers(mirror / "agl1k" / "qwen25-omni_seed_42_progress_fixed.json")
    found = audit_balance(table, {"Qwen2.5-Omni": answers}, bootstrap=200)
    assert found["clips"] == 1444
    assert found["continents"]["shares"]["Europe"] == pytest.approx(0.64, abs=0.005)
    scores = found["constant"]["scores"]
    assert scores["clips"]["mean_km"] == pytest.approx(3479, abs=60)
    assert scores["clips"]["median_km"] == pytest.approx(1060, abs=60)
    model = found["predictions"]["Qwen2.5-Omni"]
    assert model["scores"]["clips"]["mean_km"] == pytest.approx(5477, abs=10)
    assert model["answered_mean_km"] == pytest.approx(3822, abs=1)
    assert model["less_constant_km"]["clips"]["low_km"] > 0
    assert model["less_constant_km"]["continents"]["high_km"] < 0
    # Independent of our median: the published reading of a constant in central Europe.
    from_berlin = ground.separation_km(table["latitude_deg"], table["longitude_deg"], 52.5, 11.0)
    assert scores["clips"]["mean_km"] == pytest.approx(float(from_berlin.mean()), rel=0.01)
