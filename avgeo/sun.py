"""Where on Earth the sun stood so at that time: the band that a measured shadow draws on the map.

As Bellingcat's ShadowFinder draws it, but with both angles and their errors. The ephemeris is pvlib's NREL Solar
Position Algorithm (Reda and Andreas 2004), good to 0.001 deg. Elevations are those that are seen: lifted by refraction
at sea level (1010 hPa, 10 °C), which is 0.02 deg at 35 deg and half a degree at the horizon.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64

UP_DEG = -0.8333
"""The geometric elevation of the sun's middle when its upper edge is at the horizon."""

YEARS = (1900, 2100)
_PRESSURE_HPA, _TEMPERATURE_C, _LIFT_AT_HORIZON_DEG = 1010.0, 10.0, 0.5667


class SunError(ValueError):
    """A sun that cannot be computed; the message names the argument and the cure."""


def sun_seen(
    when: datetime, latitude_deg: Float64[np.ndarray, " n"], longitude_deg: Float64[np.ndarray, " n"]
) -> tuple[Float64[np.ndarray, " n"], Float64[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    """Apparent elevation and azimuth (clockwise from north, [0, 360)) in degrees, and whether any of the sun is up.

    Below the horizon nothing is refracted: there the elevation is geometric. Raises `SunError` for a time without UTC
    offset and for years outside 1900 to 2100.
    """
    from pvlib import spa

    if when.utcoffset() is None:
        raise SunError(f"time {when.isoformat()} has no UTC offset: end it with Z or, say, +03:00")
    if not YEARS[0] <= when.year <= YEARS[1]:
        raise SunError(f"time {when.isoformat()} is outside the years {YEARS[0]} to {YEARS[1]}")
    moment = when.astimezone(UTC)
    found: Any = spa.solar_position_numpy(
        np.array([moment.timestamp()]), np.asarray(latitude_deg, float), np.asarray(longitude_deg, float), 0.0,
        _PRESSURE_HPA, _TEMPERATURE_C, float(spa.calculate_deltat(moment.year, moment.month)), _LIFT_AT_HORIZON_DEG, 1,
    )  # fmt: skip
    seen, geometric, azimuth = found[2:5]
    return seen, azimuth % 360, geometric >= UP_DEG


def shadow_elevation_deg(length_over_height: float) -> float:
    """The sun's elevation from an upright thing's shadow on level ground, its length over the thing's height."""
    return math.degrees(math.atan2(1.0, length_over_height))


@dataclass(frozen=True)
class SunBand:
    """What was measured: elevations from the lowest to the highest, and an azimuth and its error; None: not measured.

    An azimuth alone says that the sun is up as well, for it was read off a shadow.
    """

    when: datetime
    elevation_deg: tuple[float, float] | None = None
    azimuth_deg: tuple[float, float] | None = None

    def holds(
        self, latitude_deg: Float64[np.ndarray, " n"], longitude_deg: Float64[np.ndarray, " n"]
    ) -> Bool[np.ndarray, " n"]:
        """At which places the sun stood within the band."""
        elevation, azimuth, up = sun_seen(self.when, latitude_deg, longitude_deg)
        found = up if self.elevation_deg is None else np.ones(len(up), dtype=bool)
        if self.elevation_deg is not None:
            low, high = self.elevation_deg
            found = found & (elevation >= low) & (elevation <= high)
        if self.azimuth_deg is not None:
            middle, error = self.azimuth_deg
            found = found & (np.abs((azimuth - middle + 180) % 360 - 180) <= error)
        return found
