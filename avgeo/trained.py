"""A trained system, and what it makes of one clip: atoms, words, and a recalibrated density on cells of its own."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError
from torch import Tensor

from avgeo.artifacts import NotBuiltError
from avgeo.clips import ClipError, MediaInfo, probe
from avgeo.conditions import row_of
from avgeo.examples import listened
from avgeo.flow import CellDensity, Condition, Recalibration, SphereFlow
from avgeo.perceive import Atom, AtomModel, Embedded, SightModel, embed_clip, sight_of, sound_of
from avgeo.profiles import AtomSettings, get_profile
from avgeo.reason import Reasoner, load_reasoner
from avgeo.recalibrate import read_recalibrations
from avgeo.sphere import from_degrees

if TYPE_CHECKING:
    from avgeo.pipeline import Pipeline

CARD = ("name", "trained_on", "keys", "commit")
"""What every answer says of its model."""

_LEADING = 500  # samples that lead the cells to where the density is large


class LocateError(ValueError):
    """A clip or a model that cannot be used; the message names the argument and the cure."""


@dataclass(frozen=True)
class LocateModel:
    """A trained system: atoms, sights, reasoner, flow and its recalibration, with the card that says of what."""

    atoms: AtomModel
    sights: SightModel
    reasoner: Reasoner
    flow: SphereFlow
    recalibrations: dict[str, Recalibration]
    card: dict[str, Any]

    @classmethod
    def load(cls, folder: Path) -> LocateModel:
        """Load what `avgeo train --out` (or `Pipeline.export`) wrote."""
        card_file = folder / "model.json"
        if not card_file.is_file():
            raise LocateError(f"--model {folder}: no model.json there; give a folder written by `avgeo train --out`")
        try:
            card = json.loads(card_file.read_text())
            return cls(
                AtomModel.load(folder / "atoms", AtomSettings(**card["profile"]["atoms"])),
                SightModel.from_pretrained(folder / "sights"),
                load_reasoner(folder / "reasoner"),
                SphereFlow.from_pretrained(folder / "flow"),
                read_recalibrations(folder / "recalibration"),
                {name: card[name] for name in CARD} | card,
            )
        except (OSError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
            raise LocateError(
                f"--model {folder}: incomplete, damaged or of another version of avgeo "
                f"({type(error).__name__}: {error}); write it again with `avgeo train --out`"
            ) from error

    @classmethod
    def trained_here(cls, profile: str = "smoke", seed: int = 0) -> LocateModel:
        """The model that the book or `avgeo train` has trained on this machine, or `LocateError`."""
        from avgeo.pipeline import Pipeline

        try:
            return cls.of(Pipeline(get_profile(profile), seed, only_find=True))
        except NotBuiltError:
            raise LocateError(
                f"no model is trained here for profile {profile!r} and seed {seed}: run "
                f"`avgeo train --profile {profile} --seed {seed}` first (about ten minutes at smoke on two cores), "
                "or give --model FOLDER"
            ) from None

    @classmethod
    def of(cls, study: Pipeline) -> LocateModel:
        """The model of a pipeline, trained now where its artifacts are not there yet (unless it may `only_find`)."""
        recalibrations = read_recalibrations(study.recalibration.path)
        return cls(
            study.atom_model, study.sight_model, study.reasoner_model, study.sphere_flow, recalibrations,
            study.model_card(),
        )  # fmt: skip

    def density(self, condition: Condition, *, seed: int = 0) -> tuple[CellDensity, dict[str, Any]]:
        """The recalibrated density of one clip's place on cells, and the recalibration: what was shown, T and ε."""
        places = self.flow.sample(condition, _LEADING, seed=seed)[0]
        row = row_of(condition)
        cells = self.recalibrations[row].apply(self.flow.cell_density(condition, places))
        return cells, {"shown": row} | self.recalibrations[row].as_dict()


@dataclass(frozen=True)
class Trained:
    """What a trained model makes of a clip: `cells` is the recalibrated density, `answer` the reasoner's words."""

    cells: CellDensity
    recalibration: dict[str, Any]
    atoms: list[Atom]
    answer: str | None
    embedded: Embedded
    condition: Condition


def by_model(model: LocateModel, path: Path, info: MediaInfo, sight_only: bool, max_s: float, seed: int) -> Trained:
    """Perceive, reason, and ask the flow; raises `ClipError` where the sound is digital silence."""
    embedded = _perceive(path, info, model.atoms.settings, sight_only, max_s)
    codes = None if embedded.patches is None else model.atoms.encode(embedded.patches[None])[0]
    atoms = [] if embedded.patches is None else model.atoms.hear(embedded.patches)
    answer, proposal = _ask(model, codes, embedded)
    condition = _condition(model, codes, embedded, proposal)
    cells, recalibration = model.density(condition, seed=seed)
    return Trained(cells, recalibration, atoms, answer, embedded, condition)


def usable(path: str | Path, *, sight_only: bool = False) -> MediaInfo:
    """What the file holds, if that is enough to locate it; raises `ClipError` or `LocateError`. Needs no model."""
    info = probe(path)
    if sight_only and not info.has_video and info.kind != "image":
        raise LocateError(f"{path}: has no picture, so --sight-only leaves nothing; drop the option")
    if not sight_only and not info.has_audio:
        raise ClipError(
            f"{path}: has no sound; give a clip with sound, or pass --sight-only to locate by picture alone"
        )
    return info


def hear(path: str | Path, model: LocateModel | None = None, *, max_s: float | None = None) -> list[Atom]:
    """The acoustic atoms of a clip, or of its first `max_s` seconds, strongest first; `ClipError` without a sound."""
    model = model or LocateModel.trained_here()
    heard = sound_of(Path(path), model.atoms.settings, max_s)
    if not heard.any():
        raise ClipError(f"{path}: its sound is digital silence; give a clip with sound")
    return model.atoms.hear(heard)


def _perceive(path: Path, info: MediaInfo, settings: AtomSettings, sight_only: bool, max_s: float) -> Embedded:
    if sight_only:
        return Embedded(None, sight_of(path, settings), info.duration_s)
    embedded = embed_clip(path, settings, max_s)
    if embedded.patches is not None and not embedded.patches.any():
        raise ClipError(f"{path}: its sound is digital silence; give a clip with sound, or pass --sight-only")
    return embedded


def _ask(model: LocateModel, codes: np.ndarray | None, embedded: Embedded) -> tuple[str | None, Tensor | None]:
    """The reasoner's words and its place; trained on sound with sight, it is asked only about clips with both."""
    if codes is None or embedded.patches is None or embedded.frames is None:
        return None, None
    times = model.card["profile"]["reason"].get("prompt_times", False)  # as it was trained
    sound = listened(model.atoms, codes[None], embedded.patches[None], times=times)
    example = pd.DataFrame({"clip_id": ["clip"]} | sound)
    row = model.reasoner.propose(example, embedded.frames[None]).iloc[0]
    if not row["parsed"]:
        return str(row["completion"]), None
    place = from_degrees(torch.tensor([float(row["latitude_deg"])]), torch.tensor([float(row["longitude_deg"])]))
    return str(row["completion"]), place.float()


def _condition(model: LocateModel, codes: np.ndarray | None, embedded: Embedded, proposal: Tensor | None) -> Condition:
    flow = model.flow
    sound, sight = torch.zeros(1, flow.sounds), torch.zeros(1, flow.sights)
    if codes is not None:
        sound = torch.from_numpy(model.atoms.sound_vector(codes))[None]
    if embedded.frames is not None:
        sight = torch.from_numpy(model.sights.look(embedded.frames[None]))
    masks = (codes is not None, embedded.frames is not None, proposal is not None)
    place = torch.tensor([[1.0, 0.0, 0.0]]) if proposal is None else proposal
    return Condition(sound, sight, place, *(torch.tensor([mask]) for mask in masks))
