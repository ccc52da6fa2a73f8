"""The cues' tables: distributions everywhere, drawn as they say, independent of each other, every value somewhere."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2, chi2_contingency, chisquare

from avgeo.profiles import WorldSettings
from avgeo.world.audible import language_shares, voices
from avgeo.world.cues import CUES, NONE, cue_tables, known, present, sample_cues
from avgeo.world.geography import country_facts
from avgeo.world.moment import HOURS, MONTHS, P_MOMENT, Moment, sample_moment, temperature_c
from avgeo.world.places import build_pool
from avgeo.world.visible import SUNS, class_of_sun, sun_class

LEVEL = 0.01
moments = st.builds(Moment, st.integers(1, 12), st.integers(0, 23))


@pytest.fixture(scope="module")
def pool() -> list[dict]:
    return build_pool(WorldSettings(pool=2000), seed=3).to_dict("records")


def holm(p_values: list[float]) -> float:
    """The least p-value after Holm's correction."""
    return min(p * (len(p_values) - rank) for rank, p in enumerate(sorted(p_values)))


# --- tables ---


def test_the_world_has_the_promised_kinds_of_evidence() -> None:
    senses = [cue.sense for cue in CUES.values()]
    assert senses == sorted(senses)  # the audible ones first
    assert senses.count("audible") >= 16 and senses.count("visible") >= 12
    assert all(cue.values[-1] == NONE and len(set(cue.values)) == len(cue.values) > 1 for cue in CUES.values())


@given(st.data(), moments)
def test_every_table_is_a_distribution_at_any_place_and_moment(
    pool: list[dict], data: st.DataObject, at: Moment
) -> None:
    place = pool[data.draw(st.integers(0, len(pool) - 1))]
    for name, cue in CUES.items():
        table = cue.table(place)
        assert table.shape[0] in (1, 12) and table.shape[1] in (1, 24) and table.shape[2] == len(cue.values)
        assert table.min() >= 0
        np.testing.assert_allclose(table.sum(-1), 1, atol=1e-12, err_msg=name)
    for name, row in cue_tables(place, at).items():
        column = CUES[name].table(place)[(at.month - 1) % CUES[name].table(place).shape[0], ...]
        column = column[at.hour % len(column)]
        assert row == {v: p for v, p in zip(CUES[name].values, column, strict=True) if p > 0}


def test_a_table_reads_only_what_it_declares(pool: list[dict]) -> None:
    # places of equal declared facts have equal tables whatever else they are: ask with nothing but these facts
    for place in pool[::400]:
        facts = {name: None if fact != fact else fact for name, fact in place.items()}
        for cue in CUES.values():
            whole = cue.rates(facts)  # not `table`, which would find the same entry of its cache
            for value, rate in cue.rates({name: facts[name] for name in cue.reads}).items():
                np.testing.assert_array_equal(np.asarray(whole[value]), np.asarray(rate))


def test_unknown_facts_leave_their_cues_out() -> None:
    unknown = {"siren": "", "crossing": "", "train_horn": "", "centre_line": "", "warning_sign": "", "plate": "",
               "worship": "", "motorcycles": "", "driving_side": "", "mains_hz": math.nan, "koppen": "",
               "country_code": "XX", "settlement": "city", "hemisphere": "north", "tropics": False, "realm": "",
               "coast": "inland", "relief": "flat"}  # fmt: skip
    silent = [
        cue.name for cue in CUES.values() if set(cue.reads) <= set(unknown) and (cue.table(unknown)[..., -1] == 1).all()
    ]
    facts = (
        "mains_hum siren crossing train_horn voice worship traffic crickets birds rain driving_side centre_line plate"
    )
    assert set(silent) >= {*facts.split(), "warning_sign", "script", "vegetation", "soil"}


def test_every_value_of_every_cue_occurs_somewhere_in_the_pool(pool: list[dict]) -> None:
    unreached = set()
    for name, cue in CUES.items():
        if name == "voice":  # a pool need not visit every small country
            continue
        reached = np.zeros(len(cue.values), dtype=bool)
        for place in pool:
            reached |= (cue.table(place) > 0).any((0, 1))
            if reached.all():
                break
        unreached |= {f"{name}:{value}" for value, found in zip(cue.values, reached, strict=True) if not found}
    assert unreached == set(), sorted(unreached)
    heard = {code for country in country_facts() for code in language_shares(country)}
    assert heard == set(CUES["voice"].values) - {NONE} and heard <= set(voices())


def test_present_and_known_leave_out_what_nobody_knows() -> None:
    assert present(0.5, {}) == {} and known(0.5, "") == {}
    assert {k: float(v) for k, v in present(0.5, {"a": 3.0, "b": 1.0}).items()} == {"a": 0.375, "b": 0.125}


# --- draws ---


@pytest.fixture(scope="module")
def draws(pool: list[dict]) -> list[tuple[dict, Moment, np.ndarray]]:
    """50,000 clips: 6,250 at each of eight places and moments, as codes (clips, cues) in the order of CUES."""
    rng = np.random.default_rng(20)
    found = []
    for row in rng.choice(len(pool), 8, replace=False):
        at = sample_moment(rng)
        code = [{value: number for number, value in enumerate(cue.values)} for cue in CUES.values()]
        drawn = (sample_cues(pool[row], at, rng) for _ in range(6_250))
        found.append((pool[row], at, np.array(
            [[of[clip.get(name, NONE)] for name, of in zip(CUES, code, strict=True)] for clip in drawn]
        )))  # fmt: skip
    return found


def test_drawn_frequencies_match_the_tables(draws: list[tuple[dict, Moment, np.ndarray]]) -> None:
    p_values = []
    for number, (name, cue) in enumerate(CUES.items()):
        statistic, freedom = 0.0, 0
        for place, at, codes in draws:
            table = cue_tables(place, at)[name]
            expected = len(codes) * np.array([table.get(value, 0.0) for value in cue.values])
            count = np.bincount(codes[:, number], minlength=len(cue.values))
            assert not count[expected == 0].any()  # what cannot be is never drawn
            rare = expected < 5
            if expected[rare].sum() > 0:  # too rare for the test one by one: pooled
                expected, count = (
                    np.append(expected[~rare], expected[rare].sum()),
                    np.append(count[~rare], count[rare].sum()),
                )
            else:
                expected, count = expected[~rare], count[~rare]
            statistic += float(((count - expected) ** 2 / expected).sum())
            freedom += len(expected) - 1
        p_values.append(float(chi2.sf(statistic, freedom)) if freedom else 1.0)
    assert sum(p < 1 for p in p_values) >= 25  # most of the cues vary somewhere among the eight
    assert holm(p_values) > LEVEL


def test_cues_are_independent_given_place_and_moment(draws: list[tuple[dict, Moment, np.ndarray]]) -> None:
    p_values = []
    for _, _, codes in draws[:3]:
        vary = [column for column in codes.T if np.sort(np.bincount(column))[::-1][1:2].sum() >= 50]
        for a, b in combinations(vary, 2):
            both = np.bincount(a * 200 + b, minlength=40_000).reshape(200, 200)
            both = both[both.sum(1) >= 50][:, both[both.sum(1) >= 50].sum(0) >= 50]
            if min(both.shape) > 1 and both.sum(0).min() * both.sum(1).min() / both.sum() >= 5:
                p_values.append(float(chi2_contingency(both, correction=False).pvalue))
    assert len(p_values) > 100
    assert holm(p_values) > LEVEL


def test_moments_are_drawn_as_their_law_says() -> None:
    rng = np.random.default_rng(5)
    drawn = [sample_moment(rng) for _ in range(20_000)]
    count = np.zeros((12, 24))
    np.add.at(count, ([m.month - 1 for m in drawn], [m.hour for m in drawn]), 1)
    assert P_MOMENT.sum() == pytest.approx(1, abs=1e-12)
    assert chisquare(count.ravel(), (P_MOMENT * 20_000).ravel()).pvalue > LEVEL
    assert {m.month for m in drawn} == set(MONTHS.ravel().tolist()) and {m.hour for m in drawn} == set(
        HOURS.ravel().tolist()
    )


# --- the physics in the tables ---


@given(st.floats(-90, 90), st.floats(0, 360, exclude_max=True))
def test_the_sun_lies_inside_its_class(elevation_deg: float, azimuth_deg: float) -> None:
    (low, high), (start, end) = class_of_sun(SUNS[int(sun_class(np.array(elevation_deg), np.array(azimuth_deg)))])
    assert low <= elevation_deg <= high
    assert (azimuth_deg - start) % 360 <= end - start + 1e-9


def test_seasons_turn_round_south_of_the_equator(pool: list[dict]) -> None:
    north = next(place for place in pool if place["koppen"] == "Cfb" and place["hemisphere"] == "north")
    south = north | {"hemisphere": "south"}
    warm, cold = temperature_c(north), temperature_c(south)
    assert warm is not None and cold is not None
    np.testing.assert_allclose(np.roll(warm, 6, axis=0), cold, atol=1e-12)


def test_the_midwinter_noon_sun_stands_south_in_the_north_and_north_in_the_south(pool: list[dict]) -> None:
    seen = set()
    for place in pool[::10]:
        if 30 < abs(place["latitude_deg"]) < 60:
            month, ahead = (12, {"S", "SE", "SW"}) if place["latitude_deg"] > 0 else (6, {"N", "NE", "NW"})
            names = set(cue_tables(place, Moment(month, 12))["sun"]) - {NONE}
            assert {name.split("_")[1] for name in names} <= ahead
            seen |= names
    assert len(seen) >= 4
