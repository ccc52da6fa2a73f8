"""Mains hum: narrow lines at the harmonics of 50 or 60 Hz say which of the two the grid near by runs at."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float64
from scipy import signal

from avgeo.clips import read_audio
from avgeo.detect.calibration import calibrated
from avgeo.detect.event import Event
from avgeo.detect.grid import EarthGrid
from avgeo.world.geography import country_facts

RATES_HZ = (50, 60)
RATE_HZ = 2000
LEAST_S = 4.0  # of sound: less does not tell a line from a note

_HARMONICS = 12
_WANDER = 0.002  # of the frequency: grids keep within 0.4 %, nearly always within 0.2 %
_BESIDE_HZ = (1.5, 8.0)  # where the level beside a line is taken
_LINE_DB = 9.0  # above it: what counts as a line
_STEADY = 0.6  # of the pieces in which a line stands out
_LINES = 3
_MARGIN_DB = 20.0


@dataclass
class Hum:
    """Lines of 50 or 60 Hz and their harmonics in the first `max_s` seconds."""

    max_s: float | None = 60.0
    name: str = field(default="mains hum", init=False)
    licence: str = field(default="avgeo's own", init=False)

    def detect(self, clip: Path) -> list[Event]:
        """At most one event, labelled "50 Hz" or "60 Hz"."""
        return heard_in(read_audio(clip, RATE_HZ, self.max_s))

    def likelihood(self, event: Event, grid: EarthGrid) -> Float64[np.ndarray, " n"]:
        """log p(heard as this | the country's grid): 1 - ε, ε, or a half where unknown, both, or at sea."""
        return mains_likelihood(int(event.details["mains_hz"]), calibrated("mains hum", "false_alarm"), grid)


def mains_likelihood(mains_hz: int, false_alarm: float, grid: EarthGrid) -> Float64[np.ndarray, " n"]:
    """log p(`mains_hz` is heard | place) at every cell, wrong with probability `false_alarm`."""
    facts = country_facts()
    known = {code: row["mains_hz"] for code, row in facts.items()}
    chance = {str(mains_hz): 1 - false_alarm, "": 0.5}
    by_country = {code: chance.get(rate, false_alarm) for code, rate in known.items()}
    return np.log([by_country.get(code, 0.5) for code in grid.country])


def heard_in(audio: Float[np.ndarray, " samples"], rate_hz: int = RATE_HZ) -> list[Event]:
    """The hum in mono sound at `rate_hz`, if there is one that is clearly of one of the two frequencies."""
    if len(audio) < LEAST_S * rate_hz or not np.any(audio):
        return []
    lines = {mains: _lines(audio, mains, rate_hz) for mains in RATES_HZ}
    levels = {mains: sum(db for _, db in found) for mains, found in lines.items()}
    best, other = sorted(RATES_HZ, key=lambda mains: -levels[mains])
    if len(lines[best]) < _LINES or levels[best] - levels[other] < _MARGIN_DB:
        return []
    details = {"mains_hz": best, "lines_hz": [hz for hz, _ in lines[best]], "above_db": round(levels[best], 1)}
    return [Event("mains hum", f"{best} Hz", None, 0.0, len(audio) / rate_hz, details)]


def _lines(audio: Float[np.ndarray, " samples"], mains_hz: int, rate_hz: int) -> list[tuple[int, float]]:
    """(Hz, dB above what is beside it) of each harmonic that is a line most of the time and of no other grid's."""
    hz, _, spectra = signal.spectrogram(audio, rate_hz, nperseg=2 * rate_hz, noverlap=rate_hz, window="blackmanharris")
    other = next(rate for rate in RATES_HZ if rate != mains_hz)
    found = []
    for line in range(mains_hz, min(_HARMONICS * mains_hz, rate_hz // 2 - 20) + 1, mains_hz):
        if line % other == 0:
            continue
        on = np.abs(hz - line) <= max(0.5, _WANDER * line)
        beside = (np.abs(hz - line) >= _BESIDE_HZ[0] + _WANDER * line) & (np.abs(hz - line) <= _BESIDE_HZ[1])
        level = spectra[on].max(0) / (np.median(spectra[beside], 0) + 1e-20)
        above_db = 10 * np.log10(np.maximum(level, 1e-3))
        if np.mean(above_db > _LINE_DB) >= _STEADY:
            found.append((line, float(np.median(above_db))))
    return found
