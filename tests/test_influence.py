"""What a cue moves in the exact posterior, against sums over what it might have been and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from avgeo.profiles import WorldSettings
from avgeo.world.audible import voices
from avgeo.world.ceiling import draw_clips
from avgeo.world.cues import CUES, NONE, Cue, cue_tables
from avgeo.world.geography import WorldError
from avgeo.world.influence import influence, perceptible
from avgeo.world.moment import HOURS, Moment
from avgeo.world.places import build_places
from avgeo.world.posterior import Likelihood

SITES = pd.DataFrame({"kind": ["a", "a", "b", "b"], "side": ["left", "right", "left", "right"]})


def toy() -> list[Cue]:
    """A sound that tells the kind, a sight that tells the side and how likely dawn is, one that tells nothing."""
    return [
        Cue("song", "audible", ("x", NONE), ("kind",), lambda place: {"x": 0.8 if place["kind"] == "a" else 0.2}),
        Cue("dawn", "audible", ("x", NONE), ("side",), lambda place: {"x": np.where(HOURS < 12, 0.9, 0.1)}),
        Cue("light", "visible", ("x", NONE), ("side",),
            lambda place: {"x": np.where(HOURS < 12, 0.9 if place["side"] == "left" else 0.1, 0.5)}),
        Cue("grey", "visible", ("x", NONE), ("kind",), lambda place: {"x": 0.3}),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def places() -> pd.DataFrame:
    return build_places(WorldSettings(places=40, pool=120), seed=3)


def clips_of(places: pd.DataFrame, count: int, seed: int) -> tuple[list[int], list[dict[str, str]]]:
    """Fresh clips as the media show them: a voice by its class."""
    drawn = list(draw_clips(places, count, np.random.default_rng(seed)))
    heard = [cues | ({"voice": voices()[cues["voice"]]} if "voice" in cues else {}) for _, cues in drawn]
    return [row for row, _ in drawn], heard


def test_left_out_is_summed_out_and_not_absent(places: pd.DataFrame) -> None:
    likelihood = Likelihood(places, perceptible())
    prior, apart = np.random.default_rng(0).random(len(places)), 0
    for cues in clips_of(places, 4, seed=5)[1]:
        left_out = likelihood.leave_one_out(cues, prior)
        assert list(left_out) == list(cues)
        for name, found in left_out.items():
            rest = {cue: value for cue, value in cues.items() if cue != name}
            table = next(cue for cue in perceptible() if cue.name == name)
            summed = sum(likelihood.probability(rest | {name: value})["both"] for value in table.values)
            np.testing.assert_allclose(found, prior * summed / (prior * summed).sum(), rtol=1e-9, atol=1e-15)
            unaware = Likelihood(places, [cue for cue in perceptible() if cue is not table])
            np.testing.assert_allclose(found, unaware.posterior(rest, prior)["both"], rtol=1e-9, atol=1e-15)
            absent = prior * likelihood.probability(rest)["both"]
            apart += not absent.any() or not np.allclose(found, absent / absent.sum())
    assert apart


def test_a_toy_world_by_hand() -> None:
    ((bits, together),) = [
        influence([{"song": "x", "grey": "x"}, {"dawn": "x", "light": "x"}], Likelihood(SITES, toy()))
    ]
    # grey sounds alike at every site; song moves 1/2 to 4/5 and says nothing of the side
    assert bits == {"song": pytest.approx(0.8 * math.log2(1.6) + 0.2 * math.log2(0.4)), "grey": 0.0}
    assert list(bits) == ["song", "grey"]
    # dawn is alike at every site, too, but makes the light mean more: sound and sight share the moment
    assert together["dawn"] > 0.01 and together["light"] > together["dawn"]


def test_influence_is_never_negative_and_has_the_mean_of_the_log_ratio_at_the_true_site(places: pd.DataFrame) -> None:
    likelihood = Likelihood(places, perceptible())
    rows, clips = clips_of(places, 200, seed=6)
    sums, lucky = [], []
    for row, cues, bits in zip(rows, clips, influence(clips, likelihood), strict=True):
        assert set(bits) == set(cues) and list(bits.values()) == sorted(bits.values(), reverse=True)
        assert all(value >= 0 for value in bits.values())
        everything = likelihood.posterior(cues)["both"][row]
        sums.append(sum(bits.values()))
        lucky.append(sum(math.log2(everything / p[row]) for p in likelihood.leave_one_out(cues).values()))
    difference = np.array(lucky) - np.array(sums)
    assert abs(difference.mean()) < 3 * difference.std() / math.sqrt(len(difference))
    assert np.var(sums) < np.var(lucky) and np.mean(sums) > 1


def test_what_the_media_show_of_a_voice_is_its_class(places: pd.DataFrame) -> None:
    shown = {cue.name: cue for cue in perceptible()}
    assert set(shown) == set(CUES) and all(shown[name] is cue for name, cue in CUES.items() if name != "voice")
    for place in places.to_dict("records")[:10]:
        table = shown["voice"].table(place)
        spoken = cue_tables(place, Moment(6, 9))["voice"]
        for number, name in enumerate(shown["voice"].values[:-1]):
            share = sum(p for language, p in spoken.items() if voices().get(language) == name)
            assert table[5 % table.shape[0], 9 % table.shape[1], number] == pytest.approx(share)
        np.testing.assert_allclose(table.sum(-1), 1)


def test_order_and_repetition_change_nothing(places: pd.DataFrame) -> None:
    clips = clips_of(places, 20, seed=7)[1]
    first = influence(clips, places)
    assert first == influence(clips, places)
    backwards = influence([dict(reversed(cues.items())) for cues in clips], places)
    assert [list(bits) for bits in backwards] == [list(bits) for bits in first]
    assert influence([{}], places) == [{}]


def test_what_cannot_be_is_refused_by_name(places: pd.DataFrame) -> None:
    with pytest.raises(WorldError, match="voice has no value 'klingon'"):
        influence([{"voice": "klingon"}], places)
    never = [Cue("song", "audible", ("x", NONE), ("kind",), lambda place: {}), toy()[3]]
    for ask in (lambda clip: influence([clip], Likelihood(SITES, never)), Likelihood(SITES, never).leave_one_out):
        with pytest.raises(WorldError, match="song='x' cannot occur"):
            ask({"song": "x", "grey": "x"})
