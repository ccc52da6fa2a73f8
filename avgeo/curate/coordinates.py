"""The gate `coordinates`: do the statements about where an item was made hold together, and with what else is known?

Five rules, none about a maker or a file: a place is stated and possible; it lies on land or near shore; all statements
agree; it lies in the country named; its clocks fit the UTC offset of the recording time. Where the last three fail, the
errors that people and devices make in writing coordinates down are tried: signs lost, latitude and longitude swapped.
A reading that fits all the evidence is named, not used: curation keeps or rejects, it does not repair.

A clock that fits no reading is a clock left at home: a flag. So is one inferred from the camera's local time and its
GPS time (`ClockedLocation`): cameras with a clock left at home are commoner than receivers that lose a sign.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import combinations

from avgeo.curate import ground
from avgeo.curate.gpmf import TrackLocation
from avgeo.curate.location import Location, coordinate_fault
from avgeo.curate.photo import ClockedLocation
from avgeo.curate.verdict import Verdict
from avgeo.profiles import CurateSettings
from avgeo.world import country_at

_TRACKS = {"gpx", "srt"}
_TRACK_KM = 25.0  # what a track whose length is not known may stray from the place stated for all of it
_EXACT_MIN = 15  # clocks that agree: zones have steps of a quarter of an hour
_COARSE_DECIMALS = 1
_MAP_KM = 25.0  # how well the map's borders are known


@dataclass(frozen=True)
class Reading:
    """One way in which the numbers stated may have been meant; `name` says what would be wrong with them."""

    name: str
    latitude_deg: float
    longitude_deg: float

    def __str__(self) -> str:
        return place_text(self.latitude_deg, self.longitude_deg)


@dataclass(frozen=True)
class Evidence:
    """What else is known of an item: the country named (alpha-2 code) and local times with their UTC offsets."""

    code: str | None
    named: str | None
    clocks: tuple[tuple[datetime, int], ...]


def latitude_text(latitude_deg: float) -> str:
    """For people: "34.08 N"."""
    return f"{abs(latitude_deg):.2f} {'S' if latitude_deg < 0 else 'N'}"


def longitude_text(longitude_deg: float) -> str:
    """For people: "118.25 W"."""
    return f"{abs(longitude_deg):.2f} {'W' if longitude_deg < 0 else 'E'}"


def place_text(latitude_deg: float, longitude_deg: float) -> str:
    """For people: "34.08 N 118.25 W"."""
    return f"{latitude_text(latitude_deg)} {longitude_text(longitude_deg)}"


def readings(latitude_deg: float, longitude_deg: float) -> list[Reading]:
    """The other places that the numbers could mean, the likeliest error first; those off the map are left out."""
    lat, lon = latitude_deg, longitude_deg
    tried = [
        Reading("longitude sign", lat, -lon),
        Reading("latitude sign", -lat, lon),
        Reading("latitude and longitude swapped", lon, lat),
        Reading("both signs", -lat, -lon),
        Reading("latitude and longitude swapped, and a sign", lon, -lat),
        Reading("latitude and longitude swapped, and a sign", -lon, lat),
        Reading("latitude and longitude swapped, and both signs", -lon, -lat),
    ]
    return [other for other in tried if coordinate_fault(other.latitude_deg, other.longitude_deg) is None]


def decimals(value: float) -> int:
    """Digits after the point that a coordinate in degrees was written with, at most 7."""
    return next((digits for digits in range(7) if abs(value - round(value, digits)) < 1e-9), 7)


def _rounding_km(location: Location) -> float:
    """How far rounding may have moved a statement: half a unit of the last place, in both directions."""
    digits = max(decimals(location.latitude_deg), decimals(location.longitude_deg))
    return math.hypot(1, math.cos(math.radians(location.latitude_deg))) * 0.5 * 10.0**-digits * 111.2


def _slack_km(location: Location) -> float:
    """How far a statement may lie from another one that is right: its rounding and, for a track, the way driven."""
    if isinstance(location, TrackLocation):
        return _rounding_km(location) + location.spread_km
    return _rounding_km(location) + (_TRACK_KM if location.kind in _TRACKS else 0.0)


def _clock(location: Location) -> tuple[datetime, int] | None:
    """The local time of a statement and its offset in minutes; None for UTC, which says nothing of the zone."""
    if not location.recorded_at or len(location.recorded_at) <= 10:
        return None
    try:
        moment = datetime.fromisoformat(location.recorded_at)
    except ValueError:
        return None
    offset = moment.utcoffset()
    if offset is None or location.recorded_at.endswith("Z"):
        return None
    return moment, round(offset.total_seconds() / 60)


def offset_text(offset_min: int) -> str:
    """As ISO 8601 writes it: "-07:00"."""
    return f"{'-' if offset_min < 0 else '+'}{abs(offset_min) // 60:02d}:{abs(offset_min) % 60:02d}"


# --- what the evidence says of a place ---


def clock_gap_min(latitude_deg: float, longitude_deg: float, clocks: Sequence[tuple[datetime, int]]) -> int | None:
    """Minutes between the best of the stated clocks and those kept there; None without a clock."""
    gaps = [ground.offset_gap_min(latitude_deg, longitude_deg, moment, offset) for moment, offset in clocks]
    known = [gap for gap in gaps if gap is not None]
    return min(known) if known else None


def _fits(reading: Reading, evidence: Evidence, settings: CurateSettings) -> bool:
    """Whether a place is near land and agrees exactly with all the evidence."""
    place = reading.latitude_deg, reading.longitude_deg
    if float(ground.land_km(*place)) > settings.near_shore_km:
        return False
    if evidence.code and float(ground.country_km(*place, evidence.code)) > settings.near_shore_km:
        return False
    gap = clock_gap_min(*place, evidence.clocks)
    return gap is None or gap <= _EXACT_MIN


def _fitting(
    location: Location, evidence: Evidence, settings: CurateSettings, *, lone_clock: bool = False
) -> Reading | None:
    """The likeliest error whose correction agrees with the evidence, if there is any evidence.

    A clock that alone contradicts a place may only speak for one error of longitude: with more allowed, some place
    would keep any clock, and a traveller's would be taken for an error.
    """
    if not evidence.code and not evidence.clocks:
        return None
    for reading in readings(location.latitude_deg, location.longitude_deg):
        if lone_clock and reading.name not in ("longitude sign", "latitude and longitude swapped"):
            continue
        if _fits(reading, evidence, settings):
            return reading
    return None


def _in_words(location: Location, reading: Reading | None, contradiction: str) -> str:
    """The reason for a rejection: what contradicts what, and the reading that agrees, if there is one."""
    stated = place_text(location.latitude_deg, location.longitude_deg)
    if reading is None:
        return f"{stated} {contradiction}"
    if reading.name == "longitude sign":
        stated, meant = longitude_text(location.longitude_deg), longitude_text(reading.longitude_deg)
    elif reading.name == "latitude sign":
        stated, meant = latitude_text(location.latitude_deg), latitude_text(reading.latitude_deg)
    else:
        meant = str(reading)
    return f"{reading.name}: {stated} {contradiction}; {meant} agrees"


def _contradiction(location: Location, evidence: Evidence, settings: CurateSettings) -> str | None:
    """Why the first statement cannot be true, from land, country and clocks; None if it can."""
    place = location.latitude_deg, location.longitude_deg
    land_km = float(ground.land_km(*place))
    if land_km > settings.near_shore_km:
        reading = _fitting(location, evidence, settings)
        return _in_words(location, reading, f"lies {land_km:.0f} km from any land")
    if evidence.code:
        away_km = float(ground.country_km(*place, evidence.code))
        if away_km > settings.country_km:
            reading = _fitting(location, evidence, settings)
            return _in_words(location, reading, f"lies {away_km:.0f} km from {evidence.named}, the country named")
    gap = clock_gap_min(*place, evidence.clocks)
    if gap is not None and gap > settings.clock_gap_min:
        reading = _fitting(location, evidence, settings, lone_clock=evidence.code is None)
        if reading is not None:
            offset = offset_text(evidence.clocks[0][1])
            return _in_words(location, reading, f"contradicts the offset {offset} of its local time")
    return None


# --- agreement of the statements ---


def _error_between(a: Location, b: Location, within_km: float) -> str | None:
    """The transcription error that turns one statement into the other, if one does."""
    for reading in readings(a.latitude_deg, a.longitude_deg):
        apart_km = ground.separation_km(reading.latitude_deg, reading.longitude_deg, b.latitude_deg, b.longitude_deg)
        if float(apart_km) <= within_km:
            return reading.name
    return None


def _disagreement(usable: Sequence[Location], agree_km: float) -> tuple[float, str | None]:
    """The largest distance between two statements in km, and the reason if a pair lies further apart than it may."""
    largest_km, worst, reason = 0.0, 0.0, None
    for a, b in combinations(sorted(usable, key=lambda one: (one.kind, one.latitude_deg, one.longitude_deg)), 2):
        apart_km = float(ground.separation_km(a.latitude_deg, a.longitude_deg, b.latitude_deg, b.longitude_deg))
        largest_km = max(largest_km, apart_km)
        allowed_km = agree_km + _slack_km(a) + _slack_km(b)
        if apart_km > allowed_km and apart_km > worst:
            worst, error = apart_km, _error_between(a, b, allowed_km)
            pair = f"{a.kind} says {place_text(a.latitude_deg, a.longitude_deg)}, "
            pair += f"{b.kind} {place_text(b.latitude_deg, b.longitude_deg)}: {apart_km:.0f} km apart"
            reason = f"{error}: {pair}" if error else f"statements disagree: {pair}"
    return largest_km, reason


# --- the gate ---


def _faults(locations: Sequence[Location], evidence: Evidence, settings: CurateSettings) -> str:
    """Why none of the statements can be used, and which reading of them would agree with the evidence."""
    told = []
    for location in locations:
        text = f"{location.kind}: {location.fault}"
        possible = math.isfinite(location.latitude_deg) and math.isfinite(location.longitude_deg)
        if possible and coordinate_fault(location.latitude_deg, location.longitude_deg) is None:
            contradiction = _contradiction(location, evidence, settings)
            text += f"; {contradiction}" if contradiction else ""
        elif possible and abs(location.latitude_deg) > 90 >= abs(location.longitude_deg):
            swapped = Reading("latitude and longitude swapped", location.longitude_deg, location.latitude_deg)
            if coordinate_fault(swapped.latitude_deg, swapped.longitude_deg) is None and _fits(
                swapped, evidence, settings
            ):
                text += f"; {swapped.name}: {swapped} is a place"
        told.append(text)
    return "; ".join(dict.fromkeys(told))[:500]


def coordinates(
    locations: Sequence[Location], settings: CurateSettings, *, country: str | None = None
) -> tuple[Verdict, Location | None]:
    """The place of an item, if all that is stated about it holds together; see the module for the rules.

    `locations` are every statement about the item, the most direct first (embedded, then sidecar, then the source's
    own, `Candidate.stated`); the first usable one is taken. `country` is the country that the source names; a name that
    nobody knows says nothing. Measured: kind, latitude_deg, longitude_deg, land_km, offset, country (found),
    country_named, statements, disagreement_km. Flags: "few decimals" (given to 0.1 degrees or coarser), "clock zone" (a
    clock that is not kept there), "country border" (just outside the country named), "faulty statement" (another one
    could not be used).
    """
    locations = [
        replace(one, fault=one.fault or coordinate_fault(one.latitude_deg, one.longitude_deg)) for one in locations
    ]
    clocks = sorted({clock for clock in map(_clock, locations) if clock is not None})
    named = " ".join(country.split())[:60] if country else None
    evidence = Evidence(ground.country_code(named), named, tuple(clocks))
    usable = [location for location in locations if location.fault is None]
    if not locations:
        return Verdict("coordinates", {"statements": 0}, "no coordinates in the file or beside it"), None
    if not usable:
        reason = _faults(locations, evidence, settings)
        return Verdict("coordinates", {"statements": len(locations)}, reason), None
    first = usable[0]
    place = first.latitude_deg, first.longitude_deg
    found = country_at(*place).item()
    disagreement_km, reason = _disagreement(usable, settings.agree_km)
    measured: dict[str, float | int | str | None] = {
        "kind": first.kind,
        "latitude_deg": first.latitude_deg,
        "longitude_deg": first.longitude_deg,
        "land_km": round(float(ground.land_km(*place)), 1),
        "offset": offset_text(evidence.clocks[0][1]) if evidence.clocks else None,
        "country": found,
        "country_named": named,
        "statements": len(usable),
        "disagreement_km": round(disagreement_km, 3),
    }
    # A contradiction names the statement that is wrong, a disagreement only that one of them is.
    reason = _contradiction(first, evidence, settings) or reason
    flags = _flags(locations, first, evidence, settings) if reason is None else ()
    return Verdict("coordinates", measured, reason, flags), first if reason is None else None


def _flags(
    locations: Sequence[Location], first: Location, evidence: Evidence, settings: CurateSettings
) -> tuple[str, ...]:
    place = first.latitude_deg, first.longitude_deg
    flags = []
    if max(decimals(first.latitude_deg), decimals(first.longitude_deg)) <= _COARSE_DECIMALS:
        flags.append("few decimals")
    inferred = [
        (datetime.fromisoformat(location.recorded_at).astimezone(UTC), location.clock_offset_min)
        for location in locations
        if isinstance(location, ClockedLocation) and location.recorded_at
    ]
    gap = clock_gap_min(*place, evidence.clocks or inferred)
    if gap is not None and gap > settings.clock_gap_min:
        flags.append("clock zone")
    if evidence.code and float(ground.country_km(*place, evidence.code)) > _MAP_KM:
        flags.append("country border")
    if any(location.fault is not None for location in locations):
        flags.append("faulty statement")
    return tuple(flags)
