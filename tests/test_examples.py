"""What the reasoner is told and taught: true cues, ranked by what they tell; atoms with their times."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from avgeo.examples import examples, listened, of_another_place, ranked_cues
from avgeo.perceive import AtomModel, patch_seconds, spoken
from avgeo.perceive.persistence import Listener
from avgeo.perceive.sae import SaeConfig, SparseAutoencoder
from avgeo.profiles import AtomSettings, WorldSettings
from avgeo.reason.prompts import MAX_CITED, MAX_SEEN, Answer, parse, question, same_cue, trace
from avgeo.reason.sft import traces
from avgeo.world.places import build_places
from avgeo.world.plan import plan_clip
from avgeo.world.truth import shard_tables

WORLD = WorldSettings(places=24, pool=120, clips_per_place=2)


@pytest.fixture(scope="module")
def world() -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Manifest, truth and places of a world without media."""
    places = build_places(WORLD, seed=2)
    plans = [
        plan_clip({str(name): fact for name, fact in place.items()}, WORLD, 2, number)
        for place in places.to_dict("records")
        for number in range(WORLD.clips_per_place)
    ]
    tables = shard_tables(plans, [f"{plan.clip_id}.mp4" for plan in plans], WORLD)
    return tables["manifest"].to_pandas(), tables["truth"].to_pandas(), places


@pytest.fixture(scope="module")
def taught(world: tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]) -> pd.DataFrame:
    return examples(*world, all_heard(world))


def all_heard(world: tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]) -> dict[str, list]:
    """Perfect ears: every true sound is heard, all as loud as each other, and one that is not there."""
    manifest, truth, _ = world
    loud = truth[truth["modality"] == "audible"].groupby("clip_id")["source"].agg(list)
    heard = [[(spoken(source), 1.0) for source in loud.get(clip, [])] for clip in manifest["clip_id"]]
    return {"heard": [[*sounds[:7], ("kettle", 1.0)] for sounds in heard]}


def test_the_cues_are_the_true_ones(world, taught):
    manifest, truth, _ = world
    assert taught["clip_id"].tolist() == manifest["clip_id"].tolist()
    for column, modality in (("told", "audible"), ("seen", "visible")):
        for clip, bits in zip(taught["clip_id"], taught[column], strict=True):
            rows = truth[(truth["clip_id"] == clip) & (truth["modality"] == modality)]
            assert set(bits) == set(rows["source"].map(spoken))
            assert list(bits.values()) == sorted(bits.values(), reverse=True) and all(b >= 0 for b in bits.values())
    assert max(max(bits.values(), default=0) for bits in taught["told"]) > 0.5


def test_traces_cite_in_the_order_of_influence(taught):
    for row, text in zip(taught.to_dict("records"), traces(taught), strict=True):
        found = parse(text)
        assert isinstance(found, Answer)
        assert list(found.seen) == list(row["seen"])[:MAX_SEEN]
        heard = {same_cue(name) for name, _ in row["heard"]}
        assert list(found.heard) == [label for label in row["told"] if same_cue(label) in heard][:MAX_CITED]
        assert "kettle" not in found.heard
    assert len({tuple(seen)[:1] for seen in taught["seen"]}) > 3  # no fixed order is taught


def test_the_order_of_the_truth_changes_no_trace_and_neither_do_places_held_out(world, taught):
    manifest, truth, places = world
    sound = all_heard(world)
    assert traces(examples(manifest, truth.sample(frac=1, random_state=0), places, sound)) == traces(taught)
    pd.testing.assert_frame_equal(examples(manifest, truth, places, sound), taught)
    train = (manifest["split"] == "train").to_numpy()
    seen = manifest[train].reset_index(drop=True), truth[truth["clip_id"].isin(manifest["clip_id"][train])]
    alone = examples(*seen, places[places["split"] == "train"], {"heard": taught["heard"][train].tolist()})
    pd.testing.assert_frame_equal(alone, taught[train].reset_index(drop=True))


# --- traces ---


def test_the_order_of_a_mapping_does_not_matter_but_its_bits_do():
    place: tuple[Any, ...] = ("Peru", "Andes", -12.0, -77.0)
    heard = [("a", 3.0), ("b", 2.0), ("c", 1.0)]
    told, seen = {"a": 0.1, "b": 0.0, "c": 2.0}, {"snow": 0.2, "sun": 0.7, "sand": 0.2}
    text = trace(heard, told, seen, *place)
    assert "heard: c; a; b\nseen: sun; sand; snow<" in text
    assert text == trace(heard, dict(reversed(told.items())), dict(reversed(seen.items())), *place)
    assert "heard: b; a\nseen: snow; sun<" in trace(heard, ["b", "a", "b"], ["snow", "sun"], *place)
    assert "heard: none\n" in trace(None, told, seen, *place)  # only what the prompt names is cited


# --- times ---


class Ears(Listener):
    """A listener whose moments are the patches themselves."""

    def moments(self, x: torch.Tensor) -> torch.Tensor:
        return x


def ears(settings: AtomSettings) -> AtomModel:
    table = pd.DataFrame({
        "atom": [0, 1, 2, 3], "name": ["surf", "siren", "surf", None], "auroc_low": [0.9, 0.8, 0.7, 0.0],
        "heard_from": 0.01,
    })  # fmt: skip
    return AtomModel(Ears(SparseAutoencoder(SaeConfig(4, 4, active=2), seed=0)), table, settings)


def test_times_are_those_of_a_planted_event():
    settings = AtomSettings()
    at = lambda second: round(second / patch_seconds(settings))  # noqa: E731
    codes = np.zeros((2, at(60), 4), dtype=np.float32)
    codes[0, at(12.4) : at(17.6), 1] = 5.0
    codes[0, at(3.2) : at(4.8), 0] = codes[0, at(30.4) : at(31.2), 0] = 1.0  # twice, with a pause
    codes[0, :, 2] = 0.1  # not the atom that speaks for its name
    codes[0, :, 3] = 0.1
    columns = listened(ears(settings), codes, codes, times=True)
    assert set(columns) == {"heard", "times"} and columns["times"][1] == {}
    for name, (first, last) in {"siren": (12.4, 17.6), "surf": (3.2, 31.2)}.items():
        assert columns["times"][0][name] == pytest.approx((first, last), abs=patch_seconds(settings))
    text = question(columns["heard"][0], times=columns["times"][0])
    assert text.splitlines()[:2] == ["strong: siren, 12-18 s", "faint: surf, 3-32 s"]
    assert set(listened(ears(settings), codes, codes, times=False)) == {"heard"}


def test_the_cues_of_a_clip_are_ranked():
    table = ranked_cues(pd.Series({"told": {"bell": 0.1, "surf": 1.0}, "seen": {"snow": 0.5}}))
    assert table.to_numpy().tolist() == [["sound", "surf", 1.0], ["sight", "snow", 0.5], ["sound", "bell", 0.1]]
    assert ranked_cues(pd.Series({"told": {}, "seen": {}})).empty


@given(st.lists(st.integers(0, 9), max_size=60), st.integers(0, 99))
def test_controls_are_of_another_place(places, seed):
    if places and 2 * max(places.count(place) for place in places) > len(places):
        with pytest.raises(ValueError, match="place_id: one place has"):
            of_another_place(places, seed)
        return
    other = of_another_place(places, seed)
    assert sorted(other) == list(range(len(places)))
    assert all(places[own] != places[row] for own, row in enumerate(other))
