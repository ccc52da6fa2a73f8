"""Which sounds and sights say so: each piece of evidence left out in turn, and the flow asked again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from avgeo.flow import MODALITIES, Condition, point_estimate
from avgeo.perceive import Atom
from avgeo.sphere import distance_km

if TYPE_CHECKING:
    from avgeo.locate import LocateModel

_MOST = 6  # atoms, and sights, that are left out
_SAMPLES = 128
_ALL = {"sound": "everything heard", "sight": "everything seen", "proposal": "the reasoner's answer"}

_LeftOut = tuple[str, str, float, float, Condition]  # detector, label, start_s, end_s, what remains


@dataclass(frozen=True)
class Evidence:
    """What one piece of evidence did: bits it brought at the estimate, and how far the estimate moves without it."""

    detector: str
    label: str
    start_s: float | None  # None: of no time, or of all of it
    end_s: float | None
    bits: float
    shift_km: float


def weigh(
    model: LocateModel, full: Condition, estimate: Tensor, atoms: list[Atom], duration_s: float, seed: int
) -> list[Evidence]:
    """Leave out each piece of evidence in turn (a modality, the proposal, an atom, a sight) and ask the flow again.

    The flow is asked as trained: a recalibration belongs to what is shown, and would differ from one to the next.
    The reasoner's answer, where there is one, is held fixed: what it made of the evidence is not taken back.
    Both estimates of a shift come from the same random numbers, so that evidence without effect shifts by 0 km.
    """
    without: list[_LeftOut] = []
    for name in MODALITIES:
        if getattr(full, f"has_{name}"):
            others = (other for other in MODALITIES if other != name)
            without.append(("modality", _ALL[name], 0.0, duration_s, full.only(*others)))
    if full.has_sound:
        without += _atoms_left_out(model, full, atoms)
    if full.has_sight:
        without += _sights_left_out(model, full, duration_s)
    here = estimate[None]
    with_all = model.flow.log_prob(here, full)
    stays = point_estimate(model.flow.sample(full, _SAMPLES, seed=seed))[0]
    found = []
    for detector, label, start_s, end_s, condition in without:
        moved = point_estimate(model.flow.sample(condition, _SAMPLES, seed=seed))[0]
        nats = float(with_all - model.flow.log_prob(here, condition))
        found.append(Evidence(detector, label, start_s, end_s, nats / np.log(2), float(distance_km(moved, stays))))
    return sorted(found, key=lambda item: -abs(item.bits))


def _atoms_left_out(model: LocateModel, full: Condition, atoms: list[Atom]) -> list[_LeftOut]:
    """The condition without each of the strongest named atoms: as if nothing of that name had been heard."""
    names = list(dict.fromkeys(atom.name for atom in atoms if not atom.name.startswith("atom ")))[:_MOST]
    count = len(model.atoms.table)
    found = []
    for name in names:
        indices = [index for index in range(count) if model.atoms.name(index) == name]
        sound = full.sound.clone()
        sound[:, indices + [count + index for index in indices]] = 0
        spans = [(atom.start_s, atom.end_s) for atom in atoms if atom.name == name]
        start_s, end_s = min(start for start, _ in spans), max(end for _, end in spans)
        found.append(("atom", name, start_s, end_s, replace(full, sound=sound)))
    return found


def _sights_left_out(model: LocateModel, full: Condition, duration_s: float) -> list[_LeftOut]:
    """The condition with each of the surest sights put back to its usual odds: as if one had not looked."""
    surprise = full.sight[0] - model.sights.usual
    seen = [int(index) for index in surprise.argsort(descending=True)[:_MOST] if full.sight[0, index] > 0]
    found = []
    for index in seen:
        sight = full.sight.clone()
        sight[:, index] = model.sights.usual[index]
        found.append(("sight", model.sights.label(index), 0.0, duration_s, replace(full, sight=sight)))
    return found
