"""AGL1K's published answers through the reward functions: the mapping, both rules, and the published mean error."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avgeo.artifacts import read_card
from avgeo.curate.balance import answer_km, read_agl1k, read_agl1k_answers
from avgeo.evaluate import EvaluateError
from avgeo.evaluate.agl1k import (
    KINDS,
    PUBLISHED_KM,
    completion_of,
    ellipsoid_km,
    kind_of,
    read_published,
    recovered_km,
    reward_published,
)
from avgeo.reason.prompts import Answer, ParseFailure, parse
from avgeo.reason.rewards import distance_reward

HALF_KM = math.pi * 6371.0088


def published(clip: str, latitude: Any, longitude: Any, country: Any = "Kenya", continent: Any = "Africa") -> dict:
    return {
        "question_id": clip, "predicted_city": "Nairobi", "predicted_country": country,
        "predicted_continent": continent, "predicted_latitude": latitude, "predicted_longitude": longitude,
    }  # fmt: skip


def truths(clips: str) -> pd.DataFrame:
    return pd.DataFrame({
        "clip_id": list(clips), "latitude_deg": 0.0, "longitude_deg": 90.0, "country": "Indonesia", "continent": "Asia",
    })  # fmt: skip


def test_an_answer_is_mapped_field_by_field() -> None:
    text = completion_of(published("a", "-1.2860", "36.8", country='Côte "d\'Ivoire"'))
    assert text.startswith("<think></think><answer>{") and '"latitude": -1.2860,' in text  # digits as published
    assert parse(text) == Answer('Côte "d\'Ivoire"', "Africa", -1.286, 36.8)
    assert completion_of(None) == ""


@pytest.mark.parametrize(
    ("latitude", "reason"),
    [
        ("Not specified", "not a number"), ("51.5°N", "not a number"), ("+5", "not a number"), ("05", "not a number"),
        (" 5", "not a number"), ("5.", "not a number"), ("", "not a number"), (None, "not a number"),
        (True, "not a number"), ("٥", "not a number"), ("NaN", "not a number"), (math.nan, "not JSON"),
        ("95", "out of range"), (-90.5, "out of range"),
    ],
)  # fmt: skip
def test_nothing_is_repaired(latitude: Any, reason: str) -> None:
    assert parse(completion_of(published("a", latitude, "5"))) == ParseFailure(reason)


@given(st.text(max_size=60), st.text(max_size=20))
def test_no_published_text_breaks_out_of_its_field(coordinate: str, name: str) -> None:
    """A value such as `5, "longitude": 6` stays one value: an answer is only what our grammar calls a number."""
    hostile = published("a", coordinate, '5, "latitude": 6', country=name)
    assert isinstance(parse(completion_of(hostile)), ParseFailure)
    found = parse(completion_of(published("a", "5", "6", country=name)))
    assert not isinstance(found, Answer) or found.country == name.strip()


def test_kinds_exclude_each_other() -> None:
    answers = [
        None, published("b", "-1", "5"), published("c", "Not specified", "5"), published("d", "91", "5"),
        published("e", "51.0", "0.0"), published("f", "51.0", "0.01"),
    ]  # fmt: skip
    assert tuple(kind_of(answer) for answer in answers) == KINDS
    assert kind_of(published("g", "unknown", "unknown")) == kind_of(published("h", None, None)) == "refused"
    assert kind_of(published("i", "0", "0")) == kind_of(published("j", 0, 0.0)) == "exact zero"


@given(st.lists(st.floats(0, HALF_KM), min_size=1, max_size=20))
def test_the_distance_reward_is_invertible(km: list[float]) -> None:
    np.testing.assert_allclose(recovered_km([math.exp(-d / 1000) for d in km]), km, atol=1e-9)
    there = np.degrees(np.array(km) / 6371.0088)
    said = [completion_of(published("a", "0.0", repr(float(deg)))) for deg in there]
    rewards = distance_reward(said, [0.0] * len(km), [0.0] * len(km))
    np.testing.assert_allclose(recovered_km(rewards), km, atol=1e-4)
    assert np.isnan(recovered_km(distance_reward([""], [0.0], [0.0]))).all()


def test_both_rules_on_answers_that_can_be_counted_by_hand() -> None:
    table = truths("abcdef")  # f has no answer
    answers = [
        published("a", "0.1", "90", country="indonesia", continent="ASIA"),  # 11 km away
        published("b", "0", "0"),  # a quarter of the way round
        published("c", "Not specified", "Not specified"),
        published("d", "91", "0.5"),
        published("e", "-1", "90"),  # AGL1K's list of refusals has -1
        published("elsewhere", "1", "1"),
    ]
    found = reward_published(table, answers)
    assert json.loads(json.dumps(found)) == found
    kinds = {"missing": 1, "refused": 1, "unparsable": 1, "out of range": 1, "exact zero": 1, "answered": 1}
    assert found["kinds"] == kinds and found["not_in_table"] == 1
    assert found["parse_failures"] == {"not a number": 1, "out of range": 1}
    assert found["script"] == {"scored": 3, "refused": 2, "dropped": 2}
    assert found["rewards"]["format"] == pytest.approx(3 / 6)
    assert found["rewards"]["groundedness"] == pytest.approx(-3 / 6)
    assert found["rewards"]["hierarchy"] == found["hits"]["country"] == found["hits"]["region"] == pytest.approx(1 / 6)
    near, degree, quarter = HALF_KM / 1800, HALF_KM / 180, HALF_KM / 2
    mean_km = found["mean_km"]
    assert mean_km["agl1k"] == pytest.approx((near + 20_000) / 3)
    assert mean_km["every_clip_counts"] == pytest.approx((near + 50_000) / 6)
    assert mean_km["zero_is_a_coordinate"] == pytest.approx((near + quarter + degree + 30_000) / 6)
    assert mean_km["ours"] == pytest.approx((near + quarter + degree + 3 * HALF_KM) / 6)
    assert mean_km["ours_zeros_refused"] == pytest.approx((near + 5 * HALF_KM) / 6)
    assert (mean_km["answered"], mean_km["exact_zero"]) == pytest.approx((near, quarter))
    assert found["largest_difference_km"] < 1e-9


def test_distances_on_the_ellipsoid() -> None:
    """Vincenty's classical line, Flinders Peak to Buninyong, is 54.972 km; a meridian's quarter 10,001.966 km."""
    ends = (
        [[-37.95103341666667, 144.42486788888888], [0.0, 7.0]],
        [[-37.65282113888889, 143.92649552777777], [90.0, 7.0]],
    )
    assert ellipsoid_km(*map(np.array, ends)) == pytest.approx([54.972271, 10_001.965729], abs=1e-5)
    assert np.isnan(ellipsoid_km(np.zeros((1, 2)), np.full((1, 2), np.nan))).all()


def test_files_that_are_no_answers(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for text in ("no JSON", "{}", "[1]", '[{"question_id": "a"}]'):
        path.write_text(text)
        with pytest.raises(EvaluateError, match=r"a\.json is no list"):
            read_published(path)
    path.write_text(json.dumps([published("a", "1", "2"), published("a", "3", "4")]))
    with pytest.raises(EvaluateError, match="'a' is answered 2 times"):
        read_published(path)
    with pytest.raises(EvaluateError, match="none is about a clip"):
        reward_published(truths("a"), [published("b", "1", "2")])


def test_the_card_keeps_its_promise() -> None:
    found = read_card("agl1k-rewards")["result"]
    assert sum(found["kinds"].values()) == found["clips"]
    assert found["mean_km"]["agl1k"] == pytest.approx(PUBLISHED_KM, rel=0.005)
    assert round(found["mean_km"]["agl1k_on_the_ellipsoid"], 2) == PUBLISHED_KM == found["published_km"]
    assert found["largest_difference_km"] < 1e-6


def test_the_rewards_reproduce_the_published_error(mirror: Path) -> None:
    names = ("geoLocalization_schema.csv", "qwen25-omni_seed_42_progress_fixed.json")
    table_file, answers_file = (mirror / "agl1k" / name for name in names)
    if not (table_file.is_file() and answers_file.is_file()):
        pytest.skip(f"the mirror has no agl1k/{names[0]} and {names[1]}")
    table, answers = read_agl1k(table_file), read_published(answers_file)
    found = reward_published(table, answers)
    assert found == read_card("agl1k-rewards")["result"] | {"largest_difference_km": found["largest_difference_km"]}
    assert found["mean_km"]["agl1k"] == pytest.approx(PUBLISHED_KM, rel=0.005)
    # the audit of chapter 1 counts every clip, with distances by other code
    audited_km, answered = answer_km(table, read_agl1k_answers(answers_file))
    assert found["mean_km"]["every_clip_counts"] == pytest.approx(audited_km.mean(), abs=1e-6)
    assert found["kinds"]["answered"] == answered.sum()
