"""Locate one clip: perceive, reason, and put a probability on every part of the Earth, with the evidence for it."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError
from torch import Tensor

from avgeo import __version__
from avgeo.artifacts import NotBuiltError
from avgeo.clips import ClipError, MediaInfo, probe
from avgeo.conditions import row_of
from avgeo.curate import read_location
from avgeo.evidence import Evidence, weigh
from avgeo.examples import listened
from avgeo.flow import (
    CellDensity,
    Condition,
    Recalibration,
    SphereFlow,
    credible_regions,
    grid_entropy_bits,
    grid_probability_by,
    point_estimate,
    regions_geojson,
)
from avgeo.gazetteer import ranked_places
from avgeo.perceive import Atom, AtomModel, Embedded, SightModel, embed_clip, sight_of, sound_of
from avgeo.profiles import AtomSettings, get_profile
from avgeo.reason import Reasoner, load_reasoner
from avgeo.recalibrate import read_recalibrations
from avgeo.sphere import from_degrees, to_degrees
from avgeo.world import country_at

if TYPE_CHECKING:
    from avgeo.pipeline import Pipeline

MAX_SECONDS = 60.0
_LEADING = 500  # samples that lead the cells to where the density is large
_MASSES = (0.5, 0.9)
_CARD = ("name", "trained_on", "keys", "commit")  # what every answer says of its model


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
                {name: card[name] for name in _CARD} | card,
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
class Posterior:
    """Where a clip was recorded, how sure that is, and why.

    All but the evidence is read off one law, the recalibrated density on `cells`, of which `samples` (n, 3) are draws.
    """

    latitude_deg: float
    longitude_deg: float
    regions: list[tuple[float, float]]
    entropy_bits: float
    recalibration: dict[str, Any]
    places: list[dict[str, Any]]
    countries: list[dict[str, Any]]
    evidence: list[Evidence]
    atoms: list[Atom]
    answer: str | None
    metadata_location: dict[str, Any] | None
    model: dict[str, Any]
    input: dict[str, Any]
    samples: Tensor = field(repr=False)
    cells: CellDensity = field(repr=False)
    outlines: list[dict[str, Any]] = field(repr=False)
    embedded: Embedded = field(repr=False)
    condition: Condition = field(repr=False)

    def as_dict(self) -> dict[str, Any]:
        """The JSON form that `avgeo locate --json` writes."""
        return {
            "estimate": {
                "latitude_deg": self.latitude_deg,
                "longitude_deg": self.longitude_deg,
                "kind": "geodesic median",
            },
            "regions": [{"mass": mass, "area_km2": area} for mass, area in self.regions],
            "entropy_bits": self.entropy_bits,
            "recalibration": self.recalibration,
            "places": self.places,
            "countries": self.countries,
            "evidence": [vars(item) for item in self.evidence],
            "atoms": [atom.as_dict() for atom in self.atoms],
            "answer": self.answer,
            "metadata_location": self.metadata_location,
            "model": {name: self.model[name] for name in _CARD},
            "versions": {
                "avgeo": __version__,
                "torch": metadata.version("torch"),
                "av": metadata.version("av"),
            },
            "input": self.input,
        }

    def grid(self) -> tuple[np.ndarray, ...]:
        """(latitude_deg, longitude_deg, log_prob, area) of the cells, as `avgeo.plots.density_map` draws them."""
        latitude, longitude = to_degrees(self.cells.cells.points)
        parts = latitude, longitude, self.cells.log_prob, self.cells.cells.area
        return tuple(part.numpy() for part in parts)

    def geojson(self) -> dict[str, Any]:
        """Credible regions, a thousand posterior samples and the estimate as a GeoJSON FeatureCollection."""
        latitude, longitude = to_degrees(self.samples)
        cloud = [[round(x, 4), round(y, 4)] for x, y in zip(longitude.tolist(), latitude.tolist(), strict=True)]
        estimate = [self.longitude_deg, self.latitude_deg]
        return {
            "type": "FeatureCollection",
            "features": [
                *self.outlines,
                {
                    "type": "Feature",
                    "properties": {"role": "samples"},
                    "geometry": {"type": "MultiPoint", "coordinates": cloud},
                },
                {
                    "type": "Feature",
                    "properties": {"role": "estimate"},
                    "geometry": {"type": "Point", "coordinates": estimate},
                },
            ],
        }


def locate(
    path: str | Path,
    model: LocateModel | None = None,
    *,
    sight_only: bool = False,
    samples: int = 1000,
    seed: int = 0,
    max_s: float = MAX_SECONDS,
) -> Posterior:
    """Locate a video or a sound file by its sound and sight; embedded coordinates are reported but never used.

    A video without sound is refused unless `sight_only`, because half of the evidence would silently be missing.
    Hears at most the first `max_s` seconds; pictures are taken from the whole clip. Raises `ClipError` or
    `LocateError` with one line that names the cure.
    """
    if samples < 1:
        raise LocateError(f"samples must be at least 1, got {samples}")
    path = Path(path)
    info = usable(path, sight_only=sight_only)
    model = model or LocateModel.trained_here()
    settings = model.atoms.settings
    embedded = _perceive(path, info, settings, sight_only, max_s)
    codes = None if embedded.patches is None else model.atoms.encode(embedded.patches[None])[0]
    atoms = [] if embedded.patches is None else model.atoms.hear(embedded.patches)
    answer, proposal = _ask(model, codes, embedded)
    condition = _condition(model, codes, embedded, proposal)

    cells, recalibration = model.density(condition, seed=seed)
    places = cells.sample(samples, seed=seed).float()
    estimate = point_estimate(places)
    regions = credible_regions(cells.log_prob, cells.cells.area, _MASSES)
    countries = grid_probability_by(cells, country_at)
    latitude, longitude = (float(part) for part in to_degrees(estimate))
    found = read_location(path)
    return Posterior(
        latitude_deg=latitude,
        longitude_deg=longitude,
        regions=[(region.mass, region.area_km2) for region in regions],
        entropy_bits=grid_entropy_bits(cells.log_prob, cells.cells.area),
        recalibration=recalibration,
        places=ranked_places(places),
        countries=[{"name": share.name, "probability": share.probability} for share in countries],
        evidence=weigh(model, condition, estimate, atoms, info.duration_s, seed),
        atoms=atoms,
        answer=answer,
        metadata_location=None if found is None else vars(found),
        model=model.card,
        input={
            "name": path.name,
            "sha256": _sha256(path),
            "duration_s": info.duration_s,
            "seconds_used": min(info.duration_s, max_s),
        },
        samples=places,
        cells=cells,
        outlines=regions_geojson(cells, regions),
        embedded=embedded,
        condition=condition,
    )


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


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _Callable(ModuleType):
    """`from avgeo import locate` means the function; Python puts the submodule of that name there once it is loaded."""

    def __call__(self, *arguments: Any, **options: Any) -> Posterior:
        return locate(*arguments, **options)


sys.modules[__name__].__class__ = _Callable
