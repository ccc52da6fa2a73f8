"""The clock, the sun and the climate of AVG-Sim, all as arrays over its 12 months x 24 hours.

The clock stands at the 15th of a month, half past a local hour: 288 moments, so that everything that depends on
time can be enumerated. Months run along axis 0 and hours along axis 1; a quantity that one of them does not touch has
length 1 there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
from jaxtyping import Float64, Int64
from numpy.typing import ArrayLike

Place = Mapping[str, Any]
YEAR = 2023
MONTHS: Int64[np.ndarray, "12 1"] = np.arange(1, 13)[:, None]
HOURS: Int64[np.ndarray, "1 24"] = np.arange(24)[None, :]

# People film by day more than by night.
_HOUR_WEIGHTS = np.array([1] * 6 + [8] * 12 + [4] * 2 + [1] * 4, dtype=float)
P_MOMENT: Float64[np.ndarray, "12 24"] = np.outer(np.full(12, 1 / 12), _HOUR_WEIGHTS / _HOUR_WEIGHTS.sum())
"""p(month, hour): months alike, hours as people film."""

IS_DAY = (HOURS >= 6) & (HOURS < 19)


@dataclass(frozen=True)
class Moment:
    """A position of the clock: month in 1..12, local hour in 0..23."""

    month: int
    hour: int

    def local(self, place: Place) -> datetime:
        """The civil time with the place's UTC offset of that day."""
        return datetime(YEAR, self.month, 15, self.hour, 30, tzinfo=ZoneInfo(place["timezone"]))


def sample_moment(rng: np.random.Generator) -> Moment:
    """A moment drawn from `P_MOMENT`."""
    month, hour = divmod(int(np.searchsorted(np.cumsum(P_MOMENT), rng.random(), side="right")), 24)
    return Moment(min(month, 11) + 1, hour)


# --- the sun ---


def sun_position(when: datetime, latitude_deg: float, longitude_deg: float) -> tuple[float, float]:
    """Geometric elevation and azimuth (clockwise from north) of the sun in degrees; `when` is timezone-aware."""
    elevation, azimuth = sun_angles(_days(when), latitude_deg, longitude_deg)
    return float(elevation), float(azimuth)


def sun_angles(
    days: ArrayLike, latitude_deg: ArrayLike, longitude_deg: ArrayLike
) -> tuple[Float64[np.ndarray, " *n"], Float64[np.ndarray, " *n"]]:
    """(elevation, azimuth) in degrees at `days` since 2000-01-01 12:00 UT; arguments broadcast.

    The Astronomical Almanac's low-precision formulae (Michalsky 1988, Solar Energy 40:227): 0.01 deg from 1950 to
    2050, without refraction.
    """
    n, latitude = np.asarray(days, float), np.radians(np.asarray(latitude_deg, float))
    anomaly = np.radians(357.528 + 0.9856003 * n)
    ecliptic = np.radians(280.460 + 0.9856474 * n + 1.915 * np.sin(anomaly) + 0.020 * np.sin(2 * anomaly))
    tilt = np.radians(23.439 - 4e-7 * n)
    right_ascension = np.arctan2(np.cos(tilt) * np.sin(ecliptic), np.cos(ecliptic))
    declination = np.arcsin(np.sin(tilt) * np.sin(ecliptic))
    sidereal = np.radians(15 * (18.697374558 + 24.06570982441908 * n) + np.asarray(longitude_deg, float))
    hour_angle = sidereal - right_ascension
    east = -np.cos(declination) * np.sin(hour_angle)
    north = np.cos(latitude) * np.sin(declination) - np.sin(latitude) * np.cos(declination) * np.cos(hour_angle)
    up = np.sin(latitude) * np.sin(declination) + np.cos(latitude) * np.cos(declination) * np.cos(hour_angle)
    return np.degrees(np.arctan2(up, np.hypot(east, north))), np.degrees(np.arctan2(east, north)) % 360


def _days(when: datetime) -> float:
    return (when.astimezone(UTC) - datetime(2000, 1, 1, 12, tzinfo=UTC)) / timedelta(days=1)


@lru_cache(maxsize=1024)
def _clock_days(timezone: str) -> Float64[np.ndarray, "12 24"]:
    """The whole clock of a time zone in days since 2000-01-01 12:00 UT."""
    place = {"timezone": timezone}
    return np.array([[_days(Moment(month, hour).local(place)) for hour in range(24)] for month in range(1, 13)])


def sun_clock(place: Place) -> tuple[Float64[np.ndarray, "12 24"], Float64[np.ndarray, "12 24"]]:
    """(elevation, azimuth) in degrees at a place, at every moment."""
    return sun_angles(_clock_days(place["timezone"]), place["latitude_deg"], place["longitude_deg"])


# --- the climate ---

# Annual mean and half the yearly range of temperature in deg C, by the longest prefix of the Koeppen class: round
# figures for the middle of each class after Peel et al. (2007), Hydrol. Earth Syst. Sci. 11:1633.
_CLIMATE = {
    "Af": (26, 1), "Am": (26, 1.5), "A": (26, 3), "BWh": (24, 9), "BWk": (11, 14), "BSh": (22, 7),
    "BSk": (10, 12), "Cs": (16, 7), "Cfa": (16, 10), "Cwa": (20, 7), "Cf": (10, 7), "Cw": (15, 3),
    "Dfa": (9, 15), "Dwa": (9, 15), "Ds": (7, 12), "Dfc": (0, 17), "Dwc": (-2, 20), "D": (5, 14),
    "E": (-6, 10),
}  # fmt: skip


def northern_month(place: Place) -> Int64[np.ndarray, "12 1"]:
    """Every month as the month that has the same season in the northern hemisphere."""
    return MONTHS if place["hemisphere"] == "north" else (MONTHS + 5) % 12 + 1


def temperature_c(place: Place) -> Float64[np.ndarray, "12 24"] | None:
    """Climatological air temperature: warmest in July (north), and at 15 h; None for an unknown climate."""
    prefix = max((key for key in _CLIMATE if place["koppen"].startswith(key)), key=len, default=None)
    if prefix is None:
        return None
    mean, half_range = _CLIMATE[prefix]
    season = np.cos(2 * math.pi * (northern_month(place) - 7) / 12)
    return mean + half_range * season + 4 * np.cos(2 * math.pi * (HOURS - 15) / 24)


def rainfall(place: Place) -> Float64[np.ndarray, "12 1"]:
    """How often it rains by the second letter of the climate: f all year, m monsoon, w summer, s winter."""
    climate = place["koppen"]
    month = northern_month(place)
    summer = (month >= 5) & (month <= 10)
    if not climate or climate.startswith("E"):
        return np.zeros((12, 1))
    if climate.startswith("B"):
        return np.full((12, 1), 0.03 if climate[1] == "W" else 0.1)
    wet, dry = {"f": (0.3, 0.3), "m": (0.45, 0.2), "w": (0.4, 0.05), "s": (0.04, 0.35)}[climate[1]]
    return np.where(summer, wet, dry)
