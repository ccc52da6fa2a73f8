"""Recalibration of a trained system on clips of a fresh world: other places, voices and noises than any it has met.

Validation clips will not do, as the flow was trained on them, nor test clips, which are the evaluation's.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from avgeo.conditions import SHOWN, told
from avgeo.examples import listened
from avgeo.flow import Condition, Recalibration, fit_recalibration, hold_out
from avgeo.paths import write_text
from avgeo.sphere import distance_km

if TYPE_CHECKING:
    from avgeo.pipeline import Pipeline

FIRST_SEED = 1_000_000
"""The seed of study 0's fresh world; those of `benchmarks/calibration.py` are lower."""

POINTS = {"samples": 60, "even": 60, "halo": 60}
"""At which each clip's density is asked for (`avgeo.flow.hold_out`)."""

_FILE = "recalibration.json"


def fresh_world(study: Pipeline, seed: int, *, places: int | None = None, clips: int = 1) -> Pipeline:
    """A world of the study's settings from another seed; of it, only world and features are ever made."""
    own = study.profile.world
    world = replace(own, places=places or own.places, clips_per_place=clips)
    return type(study)(replace(study.profile, world=world), seed, study.only_find)


def apart(study: Pipeline, world: Pipeline, *others: Pipeline) -> np.ndarray:
    """Rows of `world` that are as far from every place the study's models were trained on, and from all places of
    `others`, as places of one world are from each other.
    """
    known = [study.points[study.rows_of("train", "val")], *(other.points for other in others)]
    seen = torch.cat(known).unique(dim=0)
    nearest = torch.stack([distance_km(point, seen).min() for point in world.points])
    return np.flatnonzero((nearest >= study.profile.world.min_separation_km).numpy())


def perceived(study: Pipeline, world: Pipeline, rows: np.ndarray) -> Condition:
    """What the study's own atoms, sights and reasoner make of another world's clips."""
    codes, frames = study.atom_model.encode(world.embedded.patches[rows]), world.embedded.frames[rows]
    times = study.profile.reason.prompt_times
    sound = listened(study.atom_model, codes, world.embedded.patches[rows], times=times)
    clips = pd.DataFrame({"clip_id": world.manifest["clip_id"].iloc[rows].tolist()} | sound)
    proposals = study.reasoner_model.propose(clips, frames)
    return told(study.atom_model, study.sight_model, codes, frames, proposals, np.ones(len(rows), dtype=bool))


def recalibrate(study: Pipeline, world: Pipeline, out: Path) -> None:
    """Fit T and ε for every row of `SHOWN` by the log score, and write them with the number of clips."""
    rows = apart(study, world)
    condition, truth = perceived(study, world, rows), world.points[rows]
    found: dict[str, Any] = {}
    for row, shown in SHOWN.items():
        held_out = hold_out(study.sphere_flow, truth, condition.only(*shown), seed=study.seed, **POINTS)
        found[row] = fit_recalibration(held_out).as_dict()
    about = {"clips": len(rows), "proposals": int(condition.has_proposal.sum()), "rows": found}
    write_text(out / _FILE, json.dumps(about, indent=1) + "\n")


def read_recalibrations(folder: Path) -> dict[str, Recalibration]:
    """By row of `SHOWN`, what `recalibrate` wrote."""
    rows = _read(folder)["rows"]
    return {row: Recalibration(**rows[row]) for row in SHOWN}


def clips_fitted_on(folder: Path) -> int:
    """How many fresh clips `recalibrate` had."""
    return _read(folder)["clips"]


def _read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / _FILE).read_text(encoding="utf-8"))
