"""The chain from world to predictions, all of it, on 24 places: what is kept, what is reused, and what may not leak."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import STAGES, TINY, tiny

from avgeo import pipeline, profiles
from avgeo.artifacts import Artifact, NotBuiltError
from avgeo.conditions import SHOWN
from avgeo.evaluate import EvaluateError, evaluate_rows, headroom
from avgeo.locate import LocateModel, locate
from avgeo.perceive import Features
from avgeo.pipeline import MODEL_PARTS, SENSES, Pipeline

SPLITS = ("train", "val", "test")


@pytest.fixture
def built(monkeypatch):
    """The tiny system, with its cache as avgeo's."""
    found = tiny()
    monkeypatch.setenv("AVGEO_CACHE", str(found.cache))
    return found


@pytest.fixture
def study(built):
    return built.study


# --- artifacts ---


def test_every_artifact_has_a_card_that_says_what_it_rests_on(study):
    for stage in STAGES:
        artifact = getattr(study, stage)
        card = artifact.card()
        assert artifact.path.name == f"{stage}-{artifact.key}"
        assert card["stage"] == stage and card["seed"] == 0 and card["seconds"] >= 0
        assert {"settings", "code", "versions", "commit"} <= set(card)
        for name, key in card["inputs"].items():
            assert (study.fresh.features if name == "fresh" else getattr(study, name)).key == key
    assert not list(study.world.path.parent.glob("*.partial"))


def test_a_second_pipeline_reuses_everything(study, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("made again")

    for name in (
        "simulate",
        "embed_corpus",
        "fit_atoms",
        "compared",
        "write_atlas",
        "train_sights",
        "train_reasoner",
        "load_reasoner",
    ):
        monkeypatch.setattr(pipeline, name, refuse)
    monkeypatch.setattr(pipeline, "train_flow", refuse)
    monkeypatch.setattr(pipeline, "recalibrate", refuse)
    monkeypatch.setattr(pipeline, "best_constant", refuse)
    for again in (Pipeline(TINY, 0), Pipeline(TINY, 0, only_find=True)):
        for stage in STAGES:
            assert getattr(again, stage) == getattr(study, stage)


def test_only_find_makes_nothing(built, tmp_path, monkeypatch):
    # another flow rests on the same proposals, and is not there
    changed = Pipeline(replace(TINY, flow=replace(TINY.flow, steps=TINY.flow.steps + 1)), only_find=True)
    assert changed.proposals == built.study.proposals
    for stage in ("flow", "predictions"):
        with pytest.raises(NotBuiltError, match="no flow"):
            getattr(changed, stage)
    with pytest.raises(NotBuiltError, match="no world"):
        _ = Pipeline(TINY, seed=1, only_find=True).atoms
    monkeypatch.setenv("AVGEO_CACHE", str(tmp_path / "empty"))
    for stage in STAGES:
        with pytest.raises(NotBuiltError, match="no world"):
            getattr(Pipeline(TINY, only_find=True), stage)
    assert not (tmp_path / "empty").exists()


# --- tables ---


def test_every_table_has_the_clips_in_the_order_of_the_manifest(study):
    clips = study.manifest["clip_id"].tolist()
    count = TINY.world.places * TINY.world.clips_per_place
    assert len(clips) == len(set(clips)) == count
    proposals = pd.read_parquet(study.proposals.path / "proposals.parquet")
    assert study.embedded.clip_id == clips
    assert study.examples["clip_id"].tolist() == clips
    assert proposals["clip_id"].tolist() == clips
    assert len(study.codes) == len(study.points) == count


def test_no_place_is_in_two_splits(study):
    assert study.manifest.groupby("place_id")["split"].nunique().max() == 1
    assert set(study.manifest["split"]) == set(SPLITS)


def test_answers_that_do_not_parse_keep_their_row_and_say_why(study):
    proposals = pd.read_parquet(study.proposals.path / "proposals.parquet")
    failed = ~proposals["parsed"]
    assert proposals.loc[failed, ["latitude_deg", "longitude_deg", "country"]].isna().all(axis=None)
    assert proposals.loc[failed, "failure"].str.len().gt(0).all()
    assert proposals.loc[~failed, ["latitude_deg", "longitude_deg"]].notna().all(axis=None)
    assert failed.any(), "a reasoner of four steps cannot answer; this test needs failures"


def test_predictions_have_every_row_for_exactly_the_test_clips(study):
    predictions = pd.read_parquet(study.predictions.path / "predictions.parquet")
    test_clips = study.manifest.loc[study.manifest["split"] == "test", "clip_id"]
    assert set(predictions["row"]) == {"constant", *SHOWN, "reasoner alone"}
    for row, part in predictions.groupby("row"):
        assert sorted(part["clip_id"]) == sorted(test_clips), row
        if row == "reasoner alone":
            proposals = pd.read_parquet(study.proposals.path / "proposals.parquet").set_index("clip_id")
            assert (part["refused"].to_numpy() == ~proposals.loc[part["clip_id"], "parsed"].to_numpy()).all()
            assert part["log_prob"].isna().all()
            continue
        assert not part["refused"].any()
        assert np.isfinite(part[["latitude_deg", "longitude_deg", "log_prob"]]).all(axis=None)
        assert part["latitude_deg"].abs().max() <= 90 and part["longitude_deg"].abs().max() <= 180
        assert (part[["latitude_deg", "longitude_deg"]].nunique().max() == 1) == (row == "constant")


def test_atom_scores_compare_ours_with_less_and_with_others(study):
    rows = pd.read_parquet(study.atom_scores.path / "scores.parquet")["row"]
    assert set(rows) == {"ours", "ours, no persistence", "TopK", "untrained"}


# --- what a stage may know ---


def test_training_clips_come_without_their_proposal(study, tmp_path):
    table = pd.read_parquet(study.proposals.path / "proposals.parquet")
    table.assign(parsed=True, latitude_deg=10.0, longitude_deg=20.0).to_parquet(tmp_path / "proposals.parquet")
    answered = Pipeline(TINY)
    answered.__dict__["proposals"] = Artifact("proposals", "answered", tmp_path)
    rows = np.arange(len(table))
    assert (answered.condition(rows).has_proposal.numpy() == study.manifest["split"].ne("train")).all()
    assert not study.condition(rows[~table["parsed"]]).has_proposal.any()


def poisoned(study: Pipeline, split: str) -> Pipeline:
    """The same system in a world where everything about one split's clips is wrong: place, truth, sound and sight."""
    other = Pipeline(study.profile, study.seed)
    for stage in STAGES:
        other.__dict__[stage] = getattr(study, stage)
    rows = study.rows_of(split)
    manifest, truth, places = study.manifest.copy(), study.truth.copy(), study.places.copy()
    here = manifest["split"] == split
    manifest.loc[here, "latitude_deg"] = -manifest.loc[here, "latitude_deg"] / 2
    manifest.loc[here, "longitude_deg"] = manifest.loc[here, "longitude_deg"] / 2 + 7
    theirs = truth["clip_id"].isin(manifest.loc[here, "clip_id"])
    # every clip of the split now holds what one of another place held, at other times: wrong, but a world's clip still
    clips = manifest.loc[here, "clip_id"]
    truth["clip_id"] = truth["clip_id"].replace(
        dict(zip(clips, np.roll(clips, TINY.world.clips_per_place), strict=True))
    )
    truth.loc[theirs, "onset_s"] = truth.loc[theirs, "onset_s"] / 3
    places.loc[places["place_id"].isin(manifest.loc[here, "place_id"]), ["country", "region"]] = "Atlantis"
    patches, frames = study.embedded.patches.copy(), study.embedded.frames.copy()
    patches[rows] = patches[rows][:, ::-1, ::-1] * 2
    frames[rows] = 255 - frames[rows]
    features = Features(study.embedded.clip_id, patches, frames)
    other.__dict__.update(manifest=manifest, truth=truth, places=places, embedded=features)
    return other


def bytes_of(folder: Path, pattern: str) -> dict[str, bytes]:
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob(pattern))}
    assert found, f"no {pattern} in {folder}"
    return found


TAUGHT_BY = {
    ("atoms", "*.safetensors"): {"train"},
    ("atoms", "atoms.parquet"): {"train", "val"},
    ("sights", "*.safetensors"): {"train"},
    ("reasoner", "model.safetensors"): {"train"},
    # the adapter itself stays as it was drawn: a reasoner of four steps earns no reward that could move it
    ("reasoner", "grpo_history.parquet"): {"train"},
    ("reasoner", "tokenizer.json"): {"train"},
    ("flow", "*.safetensors"): {"train", "val"},
}
"""Which splits each trained thing may know; the reasoner's and the flow's atoms are those of the artifact."""


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("stage", ["atoms", "sights", "reasoner", "flow"])
def test_training_again_with_one_split_poisoned_shows_what_a_stage_knows(study, tmp_path, stage, split):
    other = poisoned(study, split)
    getattr(other, f"_make_{stage}")(tmp_path)
    for (name, pattern), taught_by in TAUGHT_BY.items():
        if name == stage:
            same = bytes_of(tmp_path, pattern) == bytes_of(getattr(study, stage).path, pattern)
            assert same == (split not in taught_by), pattern


def test_predictions_do_not_depend_on_where_test_clips_were_recorded(study, tmp_path):
    other = poisoned(study, "test")
    del other.__dict__["embedded"]  # the same sound and sight, recorded somewhere else
    other._make_proposals(tmp_path)
    pd.testing.assert_frame_equal(
        pd.read_parquet(tmp_path / "proposals.parquet"),
        pd.read_parquet(study.proposals.path / "proposals.parquet"),
    )
    other._make_predictions(tmp_path)
    ours = pd.read_parquet(study.predictions.path / "predictions.parquet")
    theirs = pd.read_parquet(tmp_path / "predictions.parquet")
    told = ["clip_id", "row", "latitude_deg", "longitude_deg", "refused"]
    pd.testing.assert_frame_equal(ours[told], theirs[told])
    scored = ours["row"] != "reasoner alone"
    assert (ours.loc[scored, "log_prob"] != theirs.loc[scored, "log_prob"]).all()  # the density of another place


# --- the model that leaves ---


def test_an_exported_model_answers_as_the_one_trained_here(built, monkeypatch):
    monkeypatch.setitem(profiles.PROFILES, "tiny", TINY)
    clip = built.media()
    here = locate(clip, LocateModel.trained_here("tiny"), samples=64)
    there = locate(clip, LocateModel.load(built.model), samples=64)
    assert torch.equal(here.samples, there.samples) and torch.equal(here.cells.log_prob, there.cells.log_prob)
    ours, theirs = here.as_dict(), there.as_dict()
    for answer in (ours, theirs):
        answer["model"].pop("commit")  # the checkout's, which another session may move while this runs
    assert ours == theirs


def test_the_clip_located_alone_has_the_condition_it_had_in_the_corpus(built):
    """Training reads float16 features from the cache, `locate` the file: they must agree, or it answers about noise."""
    study = built.study
    row = study.rows_of("test")[:1]
    alone = locate(built.media(), LocateModel.load(built.model), samples=8).condition
    corpus = study.condition(row)
    torch.testing.assert_close(alone.sight, corpus.sight)
    torch.testing.assert_close(alone.sound, corpus.sound, rtol=0.02, atol=0.02)


def test_an_export_holds_only_what_locating_needs(built):
    assert {path.name for path in built.model.iterdir()} == {*MODEL_PARTS, "model.json"}
    card = json.loads((built.model / "model.json").read_text())
    assert card["keys"] == {name: getattr(built.study, name).key for name in MODEL_PARTS}
    assert card["profile"]["name"] == "tiny" and card["trained_on"] == "AVG-Sim"
    forbidden = {".pt", ".pth", ".pkl", ".bin", ".ckpt"}
    assert not [path for path in built.model.rglob("*") if path.suffix in forbidden], "weights are never pickles"


# --- the ceiling ---


def test_no_row_beats_the_best_possible_and_a_leak_would(study):
    """The flow cannot know more than the clips tell; a model that has read the manifest does, and is caught."""
    predictions = pd.read_parquet(study.predictions.path / "predictions.parquet")
    best = pd.read_parquet(study.ceiling.path / "test.parquet")
    options = {"split": "test", "bootstrap": 200, "seed": 0}
    reached = headroom(evaluate_rows(predictions, study.manifest, **options), best, SENSES)
    assert set(reached["row"]) == set(SENSES)
    assert {"accuracy_2500km", "geoscore", "log_score"} <= set(reached["metric"])
    assert not reached["beats"].any(), reached[reached["beats"]].to_string()
    assert (reached["best_low"] <= reached["best"]).all() and (reached["best"] <= reached["best_high"]).all()

    leaked = predictions[predictions["row"] == "both"].drop(columns=["latitude_deg", "longitude_deg"])
    leaked = leaked.merge(study.manifest[["clip_id", "latitude_deg", "longitude_deg"]], on="clip_id")
    caught = headroom(evaluate_rows(leaked, study.manifest, **options), best, SENSES)
    assert "accuracy_1km" in set(caught.loc[caught["beats"], "metric"])  # six places tell no more
    with pytest.raises(EvaluateError, match="no protocol 'old'"):
        headroom(reached, best, SENSES, protocol="old")
    with pytest.raises(EvaluateError, match="row 'both' was shown"):
        headroom(reached[reached["row"] == "both"], best, {})
