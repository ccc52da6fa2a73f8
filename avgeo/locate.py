"""Locate one clip: put a probability on every part of the Earth, with the evidence for it.

By the detectors that are installed (`avgeo.detect`, joined in `avgeo.fusion`), or by a trained model (`avgeo.trained`).
"""

from __future__ import annotations

import hashlib
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from torch import Tensor

from avgeo import __version__
from avgeo.clips import probe
from avgeo.curate import read_location
from avgeo.detect import EarthGrid, Event, earth_grid
from avgeo.detect.gather import Gathered, gather
from avgeo.detect.prior import log_prior
from avgeo.evidence import Evidence, weigh
from avgeo.flow import (
    CellDensity,
    Condition,
    credible_regions,
    grid_entropy_bits,
    grid_probability_by,
    point_estimate,
    regions_geojson,
)
from avgeo.fusion import NEAR_KM, Clue, Fused, contradictions, fuse, weigh_group
from avgeo.gazetteer import ranked_places
from avgeo.perceive import Atom, Embedded
from avgeo.sphere import to_degrees
from avgeo.trained import CARD, LocateError, LocateModel, by_model, hear, usable
from avgeo.world import country_at

__all__ = ["Hint", "LocateError", "LocateModel", "Posterior", "hear", "locate", "usable"]

MAX_SECONDS = 60.0
_MASSES = (0.5, 0.9)
_DETECTORS = {
    "name": "detectors", "trained_on": "what each learned from; calibrated on 30 recordings", "keys": {},
    "commit": None,
}  # fmt: skip


@dataclass(frozen=True)
class Posterior:
    """Where a clip was recorded, how sure that is, and why.

    All but the evidence is read off one law, the density on `cells`, of which `samples` (n, 3) are draws: the trained
    model's, recalibrated, or what the detectors' clues make of a prior (`fused`; then there are no atoms and no words).
    """

    latitude_deg: float
    longitude_deg: float
    regions: list[tuple[float, float]]
    entropy_bits: float
    recalibration: dict[str, Any] | None
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
    has_sound: bool
    has_sight: bool
    embedded: Embedded | None = field(repr=False, default=None)
    condition: Condition | None = field(repr=False, default=None)
    fused: Fused | None = field(repr=False, default=None)
    gathered: Gathered = field(repr=False, default_factory=Gathered)
    prior: str = "the model's"

    def as_dict(self) -> dict[str, Any]:
        """The JSON form that `avgeo locate --json` writes."""
        return {
            "estimate": {
                "latitude_deg": self.latitude_deg,
                "longitude_deg": self.longitude_deg,
                "kind": "geodesic median" if self.fused is None else f"most probability within {NEAR_KM:.0f} km",
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
            "contradictions": []
            if self.fused is None
            else [
                {"one": one.event.label, "other": other.event.label, "bits": bits}
                for one, other, bits in contradictions(self.fused)
            ],
            "prior": self.prior,
            "refused": self.gathered.refused,
            "not_listened": self.gathered.not_listened,
            "licences": self.gathered.licences,
            "model": {name: self.model[name] for name in CARD},
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


Hint = tuple[Event, Callable[[EarthGrid], np.ndarray]]
"""An event and its log p(event | place) on a grid."""


def locate(
    path: str | Path,
    model: LocateModel | None = None,
    *,
    detectors: bool | None = None,
    prior: bool = True,
    hints: Sequence[Hint] = (),
    without: Sequence[str] = (),
    week: int | None = None,
    sight_only: bool = False,
    samples: int = 1000,
    seed: int = 0,
    max_s: float = MAX_SECONDS,
) -> Posterior:
    """Locate a video, a sound file or a photo; embedded coordinates are reported but never used.

    Without a `model`, by the detectors that are installed and a prior of land and people (`prior=False`: none), on an
    even grid. With one, by the trained model's density on its own cells, to which the detectors add only if asked to.
    `hints` are the analyst's own clues; `without` names evidence that is not to count; `week` (1 to 48, four a month)
    is when the clip was recorded, if that is known. A trained model refuses a video without sound unless `sight_only`,
    because half of its evidence would silently be missing. Hears at most the first `max_s` seconds.
    Raises `ClipError`, `LocateError` or `DetectError` with one line that names the cure.
    """
    if samples < 1:
        raise LocateError(f"samples must be at least 1, got {samples}")
    path = Path(path)
    info = usable(path, sight_only=sight_only) if model is not None else probe(path)
    trained = None if model is None else by_model(model, path, info, sight_only, max_s, seed)
    grid = earth_grid() if trained is None else EarthGrid(trained.cells.cells)
    gathered = Gathered()
    if detectors if detectors is not None else model is None:
        gathered = gather(path, info, grid, max_s=max_s, week=week, without=without, sight_only=sight_only)
    elif without:
        raise LocateError("without is of the detectors' evidence, and they are not asked: give detectors=True")
    clues = [*gathered.clues, *(Clue(event, likelihood(grid), f"hint: {event.label}") for event, likelihood in hints)]
    fused = None
    if trained is None:
        fused = fuse(grid, clues, log_prior(grid) if prior else None)
    elif clues:
        fused = fuse(grid, clues, trained.cells.log_prob.numpy())

    cells = fused.density if fused is not None else trained.cells  # pyright: ignore[reportOptionalMemberAccess]
    places = cells.sample(samples, seed=seed).float()
    estimate = point_estimate(places) if fused is None else fused.estimate
    regions = credible_regions(cells.log_prob, cells.cells.area, _MASSES)
    countries = grid_probability_by(cells, country_at)
    latitude, longitude = (float(part) for part in to_degrees(estimate))
    found = read_location(path)
    evidence = [] if fused is None else weighed(fused)
    if trained is not None and model is not None:
        evidence = [*weigh(model, trained.condition, estimate.float(), trained.atoms, info.duration_s, seed), *evidence]
    of_land = "land and people" if prior else "none: uniform over the Earth"
    return Posterior(
        latitude_deg=latitude,
        longitude_deg=longitude,
        regions=[(region.mass, region.area_km2) for region in regions],
        entropy_bits=grid_entropy_bits(cells.log_prob, cells.cells.area),
        recalibration=None if trained is None else trained.recalibration,
        places=ranked_places(places),
        countries=[{"name": share.name, "probability": share.probability} for share in countries],
        evidence=evidence,
        atoms=[] if trained is None else trained.atoms,
        answer=None if trained is None else trained.answer,
        metadata_location=None if found is None else vars(found),
        model=_DETECTORS if model is None else model.card,
        input={
            "name": path.name,
            "sha256": _sha256(path),
            "duration_s": info.duration_s,
            "seconds_used": min(info.duration_s, max_s),
        },
        samples=places,
        cells=cells,
        outlines=regions_geojson(cells, regions),
        has_sound=info.has_audio and not sight_only if trained is None else trained.embedded.patches is not None,
        has_sight=trained is not None and trained.embedded.frames is not None,
        embedded=None if trained is None else trained.embedded,
        condition=None if trained is None else trained.condition,
        fused=fused,
        gathered=gathered,
        prior=of_land if trained is None else "the model's",
    )


def weighed(fused: Fused) -> list[Evidence]:
    """What each clue did, and what the clues of a detector did together, by the bits they brought."""
    found = [
        Evidence(clue.event.detector, clue.event.label, clue.event.start_s, clue.event.end_s, did.bits, did.shift_km)
        for clue, did in zip(fused.clues, fused.weights, strict=True)
    ]
    for group, count in Counter(clue.group for clue in fused.clues).items():
        if count > 1:
            did = weigh_group(fused, group)
            found.append(Evidence(group, f"all {count} together", None, None, did.bits, did.shift_km))
    return sorted(found, key=lambda item: -abs(item.bits))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _Callable(ModuleType):
    """`from avgeo import locate` means the function; Python puts the submodule of that name there once it is loaded."""

    def __call__(self, *arguments: Any, **options: Any) -> Posterior:
        return locate(*arguments, **options)


sys.modules[__name__].__class__ = _Callable
