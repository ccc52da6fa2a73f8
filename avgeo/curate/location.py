"""A place on Earth as a file states it: coordinates, how they were found, and what is wrong with them.

A location with a fault is still reported, so that a reject can say *why* a file's coordinates were not taken.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone

NULL_ISLAND_DEG = 0.01
EARLIEST = datetime(1995, 1, 1, tzinfo=UTC)  # before it, a clock that was never set is likelier than a camera with GPS
LATEST = datetime(2100, 1, 1, tzinfo=UTC)  # a fixed bound: with today's, what is written would depend on the day


@dataclass(frozen=True)
class Location:
    """One statement about where a recording was made. `fault` is None when it may be used.

    `recorded_at` is ISO 8601: with an offset or Z when the file says so, bare when it only gives local time.
    """

    latitude_deg: float
    longitude_deg: float
    altitude_m: float | None
    recorded_at: str | None
    kind: str
    fault: str | None = None


def coordinate_fault(latitude_deg: float, longitude_deg: float) -> str | None:
    """Why this pair cannot be a place, or None: not a number, out of range, or at null island (0, 0)."""
    if not (math.isfinite(latitude_deg) and math.isfinite(longitude_deg)):
        return "the coordinates are not numbers"
    if abs(latitude_deg) > 90:
        return f"latitude {latitude_deg:.6g} is outside -90..90"
    if abs(longitude_deg) > 180:
        return f"longitude {longitude_deg:.6g} is outside -180..180"
    if abs(latitude_deg) < NULL_ISLAND_DEG and abs(longitude_deg) < NULL_ISLAND_DEG:
        return f"null island: ({latitude_deg:.6g}, {longitude_deg:.6g}) is what a device writes without a fix"
    return None


def locate(
    kind: str,
    latitude_deg: float,
    longitude_deg: float,
    altitude_m: float | None = None,
    recorded_at: str | None = None,
    fault: str | None = None,
) -> Location:
    """A `Location` whose coordinates have been checked; an altitude that is not a number becomes None."""
    if altitude_m is not None and not math.isfinite(altitude_m):
        altitude_m = None
    found = fault or coordinate_fault(latitude_deg, longitude_deg)
    return Location(float(latitude_deg), float(longitude_deg), altitude_m, recorded_at, kind, found)


def unusable(kind: str, fault: str) -> Location:
    """A statement that is there but cannot be read."""
    return Location(math.nan, math.nan, None, None, kind, fault)


_ISO6709 = re.compile(r"([+-])(\d+)(?:[.,](\d*))?([+-])(\d+)(?:[.,](\d*))?(?:([+-]\d+(?:[.,]\d*)?))?(?:CRS([^/]*))?/?")


def parse_iso6709(text: str) -> tuple[float, float, float | None]:
    """Latitude and longitude in degrees and altitude in metres (or None) of an ISO 6709 Annex H string.

    The number of digits before the point says which form it is: ±DD±DDD, ±DDMM±DDDMM or ±DDMMSS±DDDMMSS, each
    with decimals. Degrees without leading zeros are read too, since phones write them. Raises ValueError with
    the reason.
    """
    text = text.strip(" \t\r\n\0")
    match = _ISO6709.fullmatch(text)
    if match is None:
        raise ValueError(f"{text[:40]!r} is not an ISO 6709 location")
    lat_sign, lat_whole, lat_part, lon_sign, lon_whole, lon_part, altitude, crs = match.groups()
    forms = {(2, 3): 0, (4, 5): 2, (6, 7): 4}
    if len(lat_whole) <= 2 and len(lon_whole) <= 3:
        below = 0
    elif (len(lat_whole), len(lon_whole)) in forms:
        below = forms[len(lat_whole), len(lon_whole)]
    else:
        raise ValueError(f"{text[:40]!r} mixes forms: {len(lat_whole)} and {len(lon_whole)} digits before the point")
    datum = (crs or "").upper().replace("_", "").replace(" ", "").replace(":", "")
    if datum not in ("", "WGS84", "EPSG4326", "EPSG4979"):
        raise ValueError(f"coordinate reference system {crs!r} is not WGS 84")

    def degrees(sign: str, whole: str, part: str | None) -> float:
        units = (
            whole[: len(whole) - below],
            *(whole[len(whole) - below + i :][:2] for i in range(0, below, 2)),
        )
        values = [float(unit) for unit in units]
        values[-1] += float(f"0.{part or 0}")
        if any(value >= 60 for value in values[1:]):
            raise ValueError(f"{text[:40]!r} has minutes or seconds of 60 or more")
        total = sum(value / 60**power for power, value in enumerate(values))
        return -total if sign == "-" else total

    height = float(altitude.replace(",", ".")) if altitude else None
    return degrees(lat_sign, lat_whole, lat_part), degrees(lon_sign, lon_whole, lon_part), height


def from_iso6709(kind: str, text: str, recorded_at: str | None = None) -> Location:
    """The location that an ISO 6709 string states; one that cannot be read comes back with its fault."""
    try:
        latitude_deg, longitude_deg, altitude_m = parse_iso6709(text)
    except ValueError as error:
        return unusable(kind, str(error))
    return locate(kind, latitude_deg, longitude_deg, altitude_m, recorded_at)


def iso_time(moment: datetime | None) -> str | None:
    """ISO 8601 of a possible recording time, to the second; None for clocks that were never set or run wild."""
    if moment is None:
        return None
    try:
        aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        if not EARLIEST <= aware < LATEST:
            return None
    except OverflowError:
        return None
    text = moment.replace(microsecond=0).isoformat()
    return text.replace("+00:00", "Z")


def parse_time(text: str) -> str | None:
    """ISO 8601 of a time as files write it (`2021:10:04 09:00:00`, `2021-10-04T09:00+0200`), or None."""
    match = re.match(
        r"\s*(\d{4})[:/-](\d{1,2})[:/-](\d{1,2})(?:[T ]+(\d{1,2}):(\d{2})(?::(\d{2})(?:\.\d*)?)?)?\s*"
        r"(Z|UTC|[+-]\d{2}:?\d{2})?",
        text,
    )
    if match is None:
        return None
    year, month, day, hour, minute, second = (int(part or 0) for part in match.groups()[:6])
    zone: timezone | None = None
    offset = match.group(7)
    if offset in ("Z", "UTC"):
        zone = UTC
    elif offset:
        minutes = int(offset[1:3]) * 60 + int(offset[-2:])
        if minutes >= 24 * 60:
            return None
        zone = timezone(timedelta(minutes=minutes if offset[0] == "+" else -minutes))
    try:
        stamp = iso_time(datetime(year, month, day, hour, minute, second, tzinfo=zone))
    except ValueError:
        return None
    return stamp[:10] if stamp and match.group(4) is None else stamp  # a date alone is not midnight
