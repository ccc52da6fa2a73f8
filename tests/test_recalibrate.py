"""Recalibration of a whole system: on places that nothing was trained on, and by every answer of `locate`."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import tiny

from avgeo.conditions import SHOWN, row_of
from avgeo.flow import Condition, ConditionError, Recalibration, credible_regions, hold_out
from avgeo.locate import LocateError, LocateModel, locate
from avgeo.recalibrate import POINTS, apart, fresh_world, perceived, read_recalibrations
from avgeo.sphere import EARTH_AREA_KM2, distance_km


@pytest.fixture
def built(monkeypatch):
    found = tiny()
    monkeypatch.setenv("AVGEO_CACHE", str(found.cache))
    return found


def test_the_fresh_places_are_apart_from_all_that_was_trained_on(built):
    study = built.study
    rows = apart(study, study.fresh)
    assert 0 < len(rows) <= study.profile.evaluate.calibration_places
    known = study.points[study.rows_of("train", "val")]
    for point in study.fresh.points[rows]:
        assert float(distance_km(known, point).min()) >= study.profile.world.min_separation_km
    assert len(apart(study, study)) < len(study.points)  # its own places are not
    assert study.fresh.manifest["place_id"].nunique() == study.profile.evaluate.calibration_places


def test_what_was_fitted_is_the_best_log_score_on_the_fresh_clips(built):
    study = built.study
    rows = apart(study, study.fresh)
    condition = perceived(study, study.fresh, rows)
    found = read_recalibrations(study.recalibration.path)
    assert set(found) == set(SHOWN)
    for row, shown in SHOWN.items():
        clips = hold_out(study.sphere_flow, study.fresh.points[rows], condition.only(*shown), seed=study.seed, **POINTS)
        best = float(clips.scores(found[row]).mean())
        others = [Recalibration(), replace(found[row], temperature=1.1 * found[row].temperature)]
        assert all(best >= float(clips.scores(other).mean()) - 1e-4 for other in others)
    about = json.loads((study.recalibration.path / "recalibration.json").read_text())
    assert about["clips"] == len(rows) and about["proposals"] == int(condition.has_proposal.sum())


def test_a_condition_has_its_row():
    vectors = (torch.zeros(1, 2), torch.zeros(1, 2), torch.eye(3)[:1])
    yes, no = torch.tensor([True]), torch.tensor([False])
    for row, masks in {
        "sound only": (yes, no, no), "sight only": (no, yes, no), "both": (yes, yes, no), "both + proposal": (yes,) * 3
    }.items():  # fmt: skip
        assert row_of(Condition(*vectors, *masks)) == row
    with pytest.raises(ConditionError, match="condition knows nothing"):
        row_of(Condition(*vectors, no, no, no))


def test_every_answer_is_of_the_recalibrated_law(built):
    model, clip = LocateModel.load(built.model), built.media()
    trained = replace(model, recalibrations=dict.fromkeys(SHOWN, Recalibration()))
    flat = replace(model, recalibrations=dict.fromkeys(SHOWN, Recalibration(floor=1 - 1e-9)))
    as_trained, even, own = (locate(clip, one, samples=200) for one in (trained, flat, model))
    assert even.entropy_bits == pytest.approx(0, abs=1e-3) and as_trained.entropy_bits != own.entropy_bits
    assert even.regions[0][1] == pytest.approx(EARTH_AREA_KM2 / 2, rel=0.01)
    expected = model.recalibrations[row_of(own.condition)].apply(as_trained.cells)
    assert torch.allclose(own.cells.log_prob, expected.log_prob)
    regions = credible_regions(expected.log_prob, expected.cells.area, (0.5, 0.9))
    assert [area for _, area in own.regions] == pytest.approx([region.area_km2 for region in regions])
    grid = own.grid()
    assert [len(part) for part in grid] == [len(own.cells.cells)] * 4
    assert np.exp(grid[2]) @ grid[3] == pytest.approx(1) and grid[3].sum() == pytest.approx(4 * math.pi)


def test_a_model_without_its_recalibration_is_refused(built, tmp_path):
    shutil.copytree(built.model, tmp_path / "model")
    (tmp_path / "model" / "recalibration" / "recalibration.json").unlink()
    with pytest.raises(LocateError, match="write it again with `avgeo train --out`"):
        LocateModel.load(tmp_path / "model")


def test_a_fresh_world_is_as_large_as_asked(built):
    world = fresh_world(built.study, 7, places=5, clips=2)
    assert (world.profile.world.places, world.profile.world.clips_per_place, world.seed) == (5, 2, 7)
    assert fresh_world(built.study, 7).profile.world.places == built.study.profile.world.places
