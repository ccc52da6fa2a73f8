"""Speech activity: that someone speaks is told, and says nothing about the place; in what language is not heard."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from avgeo.clips import read_audio
from avgeo.curate.signals import RATE_HZ
from avgeo.curate.speech import STEP, speech_probabilities
from avgeo.detect.event import Event
from avgeo.detect.grid import EarthGrid

_SPEECH = 0.5
_AT_ONCE = 1000
_LEAST_S = 0.5  # of speech in all


@dataclass
class Speech:
    """silero-vad over the first `max_s` seconds."""

    max_s: float | None = 60.0
    name: str = field(default="speech", init=False)
    licence: str = field(default="silero-vad: MIT", init=False)

    def detect(self, clip: Path) -> list[Event]:
        """At most one event, from the first to the last speech; its score is the share of the time in between."""
        audio = read_audio(clip, RATE_HZ, self.max_s)
        spoken = np.flatnonzero(np.concatenate(list(speech_probabilities(audio, _AT_ONCE))) > _SPEECH)
        step_s = STEP / RATE_HZ
        if len(spoken) * step_s < _LEAST_S:
            return []
        start_s, end_s = spoken[0] * step_s, min((spoken[-1] + 1) * step_s, len(audio) / RATE_HZ)
        share = len(spoken) / (spoken[-1] + 1 - spoken[0])
        details = {"speech_s": round(len(spoken) * step_s, 2), "says": "nothing about the place"}
        return [Event("speech", "someone speaks", float(share), float(start_s), float(end_s), details)]

    def likelihood(self, event: Event, grid: EarthGrid) -> Float64[np.ndarray, " n"]:
        """0 everywhere: people speak everywhere."""
        return np.zeros(len(grid))
