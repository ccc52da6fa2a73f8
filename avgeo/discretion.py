"""What `avgeo locate` does not tell: places finer than asked for, and where people live who can only be heard to speak.

The book's page on responsible use says why; this module is the rules.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from avgeo.curate.coarse import scrub
from avgeo.curate.privacy import coarsen
from avgeo.detect import Event
from avgeo.flow import CellDensity, credible_regions, grid_entropy_bits, grid_probability_by, regions_geojson
from avgeo.fusion import Clue, Fused, Weight
from avgeo.gazetteer import ranked_places
from avgeo.sphere import from_degrees, to_degrees
from avgeo.world import country_at

if TYPE_CHECKING:
    from avgeo.locate import Posterior

SPOKEN = frozenset({"speech", "spoken language"})
"""Detectors that hear people and nothing else."""

REFUSAL = (
    "speech is all there is to go by, and a private person's voice is not to be located; "
    "if the speakers have agreed, say so (--speakers-agreed), or give a hint of what is seen"
)
WITHHELD = "withheld: the estimate is coarsened"
_BITS = 1  # decimals
_PLACES = frozenset({"near", "sun", "country"})  # kinds of hints that tell a place


def refusal(events: Sequence[Event], *, has_sight: bool, speakers_agreed: bool = False) -> str | None:
    """Why a clip is not to be located, or None: one line, with the cure.

    Refused are clips in which somebody speaks, nothing else was found, there is no picture, and the analyst knows
    nothing but the language. Nothing is lost where no language was told either: that answer would be the prior alone.
    """
    spoken = [event for event in events if _of_speech(event)]
    if speakers_agreed or has_sight or len(spoken) < len(events):
        return None
    return REFUSAL if any(event.detector in SPOKEN for event in spoken) else None


def _of_speech(event: Event) -> bool:
    return event.detector in SPOKEN or (event.detector == "hint" and event.details.get("kind") == "language")


# --- coarse answers ---


def coarsened(found: Posterior, km: float) -> Posterior:
    """The same answer with nothing finer than cells of about `km` x `km`, those of `avgeo.curate.privacy.coarsen`.

    The density is made constant over each coarse cell, and regions, entropy, places and countries are read off it
    anew: they tell no more than it does. Points (the estimate, samples, places, embedded coordinates) move to the
    middles of coarse cells. Texts lose whatever may be part of a position; what a trained reasoner said, and hints that
    tell a place (near, sun, country), are withheld. Bits are rounded to tenths, shifts of the estimate to multiples of
    `km`: exact ones would tell a cell. The clip is as it was: who has it can locate it again, and its own metadata may
    tell more (`avgeo.curate.privacy.strip_location`). Raises `CurateError` for `km` outside (0, 5000].
    """
    km = float(km)
    number, _ = _coarse_cells(found.cells.cells.points, km)
    area = found.cells.cells.area
    cells = replace(found.cells, log_prob=_spread(found.cells.log_prob, area, number))
    masses = [mass for mass, _ in found.regions]
    regions = credible_regions(cells.log_prob, area, masses)
    samples = _at_middles(found.samples, km)
    latitude, longitude, _ = coarsen(found.latitude_deg, found.longitude_deg, km)
    estimate = from_degrees(*(torch.tensor(angle, dtype=torch.float64) for angle in (latitude, longitude)))
    fused = None if found.fused is None else _fused(found.fused, cells, estimate, number, km)
    labels = {}
    if found.fused is not None and fused is not None:
        pairs = zip(found.fused.clues, fused.clues, strict=True)
        labels = {(fine.event.detector, fine.event.label): coarse.event.label for fine, coarse in pairs}
    return replace(
        found,
        latitude_deg=latitude,
        longitude_deg=longitude,
        regions=[(region.mass, region.area_km2) for region in regions],
        entropy_bits=round(grid_entropy_bits(cells.log_prob, area), _BITS),
        places=[_moved(place, km) for place in ranked_places(samples)],
        countries=[
            {"name": share.name, "probability": share.probability} for share in grid_probability_by(cells, country_at)
        ],
        evidence=[
            replace(
                item,
                label=labels.get((item.detector, item.label), scrub(item.label)),
                detector=_detector(item.detector),
                bits=round(item.bits, _BITS),
                shift_km=round(item.shift_km / km) * km,
            )
            for item in found.evidence
        ],
        answer=None if found.answer is None else WITHHELD,
        metadata_location=None if found.metadata_location is None else _metadata(found.metadata_location, km),
        input={name: scrub(value) if name == "name" else value for name, value in found.input.items()},
        samples=samples,
        cells=cells,
        outlines=regions_geojson(cells, regions),
        fused=fused,
        gathered=replace(
            found.gathered,
            clues=[] if fused is None else [clue for clue in fused.clues if clue.event.detector != "hint"],
            refused=[_scrubbed(row) for row in found.gathered.refused],
        ),
    )


def _coarse_cells(points: Float64[Tensor, "n 3"], km: float) -> tuple[Int64[Tensor, " n"], Float64[Tensor, "m 3"]]:
    """For each point the number of its coarse cell, and the coarse cells' middles."""
    latitude, longitude = (angle.double().tolist() for angle in to_degrees(points))
    found = np.array([coarsen(*at, km)[:2] for at in zip(latitude, longitude, strict=True)])
    middles, number = np.unique(found, axis=0, return_inverse=True)
    return torch.from_numpy(number.reshape(-1)), from_degrees(*torch.from_numpy(middles).unbind(-1))


def _spread(
    log_prob: Float64[Tensor, " n"], area: Float64[Tensor, " n"], number: Int64[Tensor, " n"]
) -> Float64[Tensor, " n"]:
    """Log of the mean over the area of each coarse cell, at each of its cells."""
    top = log_prob.max()
    count = int(number.max()) + 1
    mass = torch.zeros(count, dtype=torch.float64).index_add_(0, number, (log_prob - top).exp() * area)
    whole = torch.zeros(count, dtype=torch.float64).index_add_(0, number, area)
    least = torch.finfo(torch.float64).tiny  # a cell may be so unlikely that its density is 0
    return (mass / whole).clamp_min(least).log()[number] + top


def _at_middles(points: Tensor, km: float) -> Tensor:
    number, middles = _coarse_cells(points, km)
    return middles[number].to(points.dtype)


def _moved(row: Mapping[str, Any], km: float) -> dict[str, Any]:
    latitude, longitude, _ = coarsen(row["latitude_deg"], row["longitude_deg"], km)
    return {**row, "latitude_deg": latitude, "longitude_deg": longitude}


def _metadata(row: Mapping[str, Any], km: float) -> dict[str, Any]:
    """Embedded coordinates, coarse; no height, no time (which may name a zone), and no fault, which quotes them."""
    known = {**row, "altitude_m": None, "recorded_at": None, "fault": None}
    if row.get("fault") is not None:
        return {**known, "latitude_deg": None, "longitude_deg": None, "fault": WITHHELD}
    return _moved(known, km)


def _fused(
    fused: Fused, cells: CellDensity, estimate: Float64[Tensor, " 3"], number: Int64[Tensor, " n"], km: float
) -> Fused:
    groups = {group: f"hint {at}" for at, group in enumerate(dict.fromkeys(clue.group for clue in fused.clues), 1)}

    def blurred(clue: Clue) -> Clue:
        even = _spread(torch.from_numpy(clue.log_likelihood), cells.cells.area, number).numpy()
        group = groups[clue.group] if clue.event.detector == "hint" else clue.group
        return Clue(_discreet(clue.event), even, group)

    return replace(
        fused,
        density=cells,
        estimate=estimate,
        clues=[blurred(clue) for clue in fused.clues],
        weights=[Weight(round(did.bits, _BITS), round(did.shift_km / km) * km) for did in fused.weights],
    )


def _discreet(event: Event) -> Event:
    """The event without positions; of a hint that is one in other words, its kind alone."""
    kind = event.details.get("kind")
    if event.detector == "hint" and kind in _PLACES:
        details = {**event.details, "hint": WITHHELD}
        return replace(event, label=f"{kind} ({WITHHELD})", details=details)
    return replace(event, label=scrub(event.label), details=_scrubbed(event.details))


def _detector(name: str) -> str:
    """`weighed` calls several equal hints by their group, which holds their label."""
    return "hint" if name.startswith("hint: ") else name


def _scrubbed(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: scrub(value) for name, value in row.items()}
