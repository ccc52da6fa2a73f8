"""Birds and frogs: BirdNET names the species in each 3 s of sound, its occurrence model says where they live.

The event "the network names species s with score p" is true with probability q(p), and is then as likely as s is heard
at the place; with 1 - q it is a false alarm, which says nothing: p(event | place) ∝ 1 - q + q · r(place) / mean r, r
being the species' share of all that is seen there. q = (1 - ε) · sigmoid(a · logit p), a and ε fitted.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64

from avgeo.clips import read_audio
from avgeo.detect import litert
from avgeo.detect.calibration import calibrated
from avgeo.detect.event import Event
from avgeo.detect.grid import EarthGrid
from avgeo.detect.occurrence import Occurrence
from avgeo.detect.prior import log_prior

RATE_HZ, WINDOW_S = 48_000, 3.0
LEAST_SCORE = 0.1
MOST = 12  # species of one clip, the surest
_LEAST_S = 0.5  # of sound in the last window; a shorter rest is left out
_LOGITS = 15.0


@dataclass
class Birds:
    """BirdNET over the first `max_s` seconds; `week` (1 to 48) of the recording where it is known."""

    week: int | None = None
    max_s: float | None = 60.0
    name: str = field(default="birds", init=False)
    licence: str = field(default=litert.LICENCE, init=False)

    @cached_property
    def _network(self) -> Any:
        return litert.network("Model_FP32.tflite")

    @cached_property
    def _occurrence(self) -> Occurrence:
        return Occurrence.of(self.week)

    def logits(self, clip: Path) -> Float32[np.ndarray, "windows classes"]:
        """The network's scores for consecutive windows of 3 s, the last filled up with silence."""
        window = round(WINDOW_S * RATE_HZ)
        audio = read_audio(clip, RATE_HZ, self.max_s)
        count = max(1, (len(audio) + window - round(_LEAST_S * RATE_HZ)) // window)
        samples = np.zeros(count * window, np.float32)
        samples[: len(audio)] = audio[: count * window]
        return np.concatenate([litert.run(self._network, part[None]) for part in samples.reshape(count, window)])

    def detect(self, clip: Path) -> list[Event]:
        """One event a species, the surest first, where it is surest; all its windows are in the details."""
        return named(self.logits(clip))

    def likelihood(self, event: Event, grid: EarthGrid) -> Float64[np.ndarray, " n"]:
        """log p(event | place); 0 everywhere for classes that are no species (an engine, a siren)."""
        scientific, english = litert.labels()[event.details["class"]]
        if scientific == english or event.score is None:
            return np.zeros(len(grid))
        ratio = self.ratio(event, grid)
        q = trusted(event.score, calibrated("birds", "score_slope"), calibrated("birds", "false_alarm"))
        return np.log(1 - q + q * ratio)

    def ratio(self, event: Event, grid: EarthGrid) -> Float64[np.ndarray, " n"]:
        """How much more likely the species is heard at each cell than on average over the prior."""
        share = self._occurrence.among_species(event.details["class"], grid)
        weight = np.exp(log_prior(grid) + grid.log_area)
        return share / float((weight * share).sum() / weight.sum())


def trusted(score: float, slope: float, false_alarm: float) -> float:
    """q: how probable it is that a species named with this score is there, at most 1 - `false_alarm`."""
    score = min(max(score, 1e-6), 1 - 1e-6)
    return (1 - false_alarm) / (1 + ((1 - score) / score) ** slope)


def named(logits: Float32[np.ndarray, "windows classes"]) -> list[Event]:
    """The species that the windows name, as events."""
    scores = 1 / (1 + np.exp(-np.clip(logits.astype(np.float64), -_LOGITS, _LOGITS)))
    best = scores.max(0)
    order = np.argsort(-best, kind="stable")[:MOST]
    found = []
    for which in order[best[order] >= LEAST_SCORE].tolist():
        scientific, english = litert.labels()[which]
        windows = [(int(at), float(scores[at, which])) for at in np.flatnonzero(scores[:, which] >= LEAST_SCORE)]
        surest = max(windows, key=lambda window: window[1])[0]
        details = {
            "class": which,
            "species": scientific,
            "windows": [{"start_s": at * WINDOW_S, "score": round(score, 3)} for at, score in windows],
        }
        span = (surest * WINDOW_S, (surest + 1) * WINDOW_S)
        found.append(Event("birds", english, float(best[which]), *span, details))
    return found
