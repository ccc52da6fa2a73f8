"""What a detector says of a clip, and the two questions every detector answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float64

from avgeo.detect.grid import EarthGrid


class DetectError(ValueError):
    """A detector that cannot be used as asked; the message names the argument and the cure."""


@dataclass(frozen=True)
class Event:
    """One thing that a detector found in a clip, from `start_s` to `end_s` of it, or in all of it (None).

    `score` is the detector's own confidence in [0, 1], uncalibrated; None where it has none. `details` are plain
    numbers and texts for people and for the detector's own `likelihood`.
    """

    detector: str
    label: str
    score: float | None = None
    start_s: float | None = None
    end_s: float | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


class Detector(Protocol):
    """A source of evidence: what is in the clip, and what each such thing says about the place."""

    name: str
    licence: str

    def detect(self, clip: Path) -> list[Event]:
        """Events in a media file, none where it holds nothing for this detector; raises `ClipError`."""
        ...

    def likelihood(self, event: Event, grid: EarthGrid) -> Float64[np.ndarray, " n"]:
        """log p(event | place) at every cell in nats, up to a constant. Finite: floored by the false-alarm rate."""
        ...
