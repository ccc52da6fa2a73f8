"""GoPro's GPMF telemetry: where a camera was, from its own GPS samples.

Written from the format's description, https://github.com/gopro/gpmf-parser (Apache-2.0 or MIT). A payload is
a list of key-length-values, big-endian:

    key      4 characters ("GPS5", "SCAL", ...)
    type     1 character: the type of each number; 0 marks a container of further key-length-values
    size     1 byte: bytes in one structure (a GPS5 structure is five int32, so 20)
    repeat   2 bytes: how many structures follow
    data     size * repeat bytes, padded to a multiple of 4

One payload holds about a second: DEVC (device) holds STRM (streams), and in a stream the settings that come
before the samples hold for them: SCAL divides the integers, GPSF is the fix (0 none, 2 plane, 3 space), GPSP
the dilution of precision times 100, GPSU the UTC. GPS9 (HERO11 on) carries time, precision and fix in every
sample instead. The Karma drone writes GPRI (MAVLink's GPS_RAW_INT: with its fix), GLPI (GLOBAL_POSITION_INT: the
filtered position, which ExifTool gives as GPSLatitude) and, in a stream of its own, SYST (its clock, since 1970).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np

from avgeo.curate.location import Location, iso_time, locate, unusable

# Each GPMF type as struct's letter; "q" and "Q" are fixed point and handled beside it.
_NUMBERS = {
    "b": "b",
    "B": "B",
    "s": "h",
    "S": "H",
    "l": "i",
    "L": "I",
    "f": "f",
    "d": "d",
    "j": "q",
    "J": "Q",
}
_FIXED_POINT = {"q": ("i", 16), "Q": ("q", 32)}
_MAX_DEPTH = 8
_NO_PRECISION = 99.0  # GPSP 9999: the camera has no estimate
_GOOD_PRECISION = 10.0
_KM_PER_DEG = 111.195
_FILTERED = 4  # the fix of a filtered position: as good as those of the raw ones beside it


@dataclass(frozen=True)
class Entry:
    """One key-length-value: `data` is size * repeat bytes without padding."""

    key: str
    type: str
    size: int
    repeat: int
    data: bytes


@dataclass(frozen=True)
class Sample:
    """One GPS measurement; `fix` is 0 or 1 (none), 2 or 3; `precision` is the dilution of precision (GPS5,
    GPS9) or the
    horizontal accuracy in metres (GPRI): small is good in both."""

    latitude_deg: float
    longitude_deg: float
    altitude_m: float
    fix: int
    precision: float
    time: datetime | None


@dataclass(frozen=True)
class TrackLocation(Location):
    """The middle of a track; no sample that counts lies more than `spread_km` from it."""

    spread_km: float = 0.0


def entries(payload: bytes) -> Iterator[Entry]:
    """The key-length-values of one level, up to the first header that does not fit: beyond is unknowable."""
    at = 0
    while at + 8 <= len(payload):
        key, kind, size, repeat = struct.unpack_from(">4scBH", payload, at)
        length = size * repeat
        if not key.strip(b"\0") or at + 8 + length > len(payload):
            return
        yield Entry(key.decode("latin-1"), kind.decode("latin-1"), size, repeat, payload[at + 8 : at + 8 + length])
        at += 8 + length + (-length % 4)


def numbers(entry: Entry, layout: str = "") -> list[list[float]]:
    """The structures of an entry as rows of numbers, unscaled. `layout` is the TYPE of a complex ("?") entry.

    Empty when the entry holds no numbers or its layout does not fit its size.
    """
    if entry.type == "?":
        types = layout
    else:
        letter = _NUMBERS.get(entry.type) or _FIXED_POINT.get(entry.type, ("",))[0]
        width = struct.calcsize(">" + letter) if letter else 0
        types = entry.type * (entry.size // width) if width and entry.size % width == 0 else ""
    letters = [_NUMBERS.get(kind) or _FIXED_POINT.get(kind, ("",))[0] for kind in types]
    if not types or not all(letters) or struct.calcsize(">" + "".join(letters)) != entry.size:
        return []
    binary = [_FIXED_POINT[kind][1] if kind in _FIXED_POINT else 0 for kind in types]
    rows = struct.iter_unpack(">" + "".join(letters), entry.data)
    return [[value / (1 << bits) for value, bits in zip(row, binary, strict=True)] for row in rows]


def _utc(entry: Entry) -> datetime | None:
    text = entry.data.decode("latin-1").strip("\0 ")
    try:
        return datetime.strptime(text[:12], "%y%m%d%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        return None


def _scaled(entry: Entry, scale: list[float], layout: str = "") -> list[list[float]]:
    rows = numbers(entry, layout)
    if not rows or len(scale) not in (1, len(rows[0])):
        return []
    divisors = scale * len(rows[0]) if len(scale) == 1 else scale
    if not all(divisors):
        return []
    return [[value / divisor for value, divisor in zip(row, divisors, strict=True)] for row in rows]


def samples(payload: bytes, _depth: int = 0) -> Iterator[Sample]:
    """Every GPS5 and GPS9 sample of a payload, whatever its nesting; anything malformed is passed over."""
    scale, layout, fix, precision, time = [1.0], "", 0, _NO_PRECISION, None
    for entry in entries(payload):
        first = (numbers(entry) or [[]])[0] if entry.key in ("GPSF", "GPSP") else []
        if entry.type == "\0":
            if _depth < _MAX_DEPTH:
                yield from samples(entry.data, _depth + 1)
        elif entry.key == "SCAL":
            scale = [value for row in numbers(entry) for value in row]
        elif entry.key == "TYPE":
            layout = entry.data.decode("latin-1").strip("\0")
        elif entry.key == "GPSF" and first:
            fix = int(first[0])
        elif entry.key == "GPSP" and first:
            precision = first[0] / 100
        elif entry.key == "GPSU":
            time = _utc(entry)
        elif entry.key == "GPS5":
            for row in _scaled(entry, scale):
                if len(row) == 5:
                    yield Sample(row[0], row[1], row[2], fix, precision, time)
        elif entry.key == "GPS9":
            for row in _scaled(entry, scale, layout):
                if len(row) == 9 and np.isfinite(row).all() and 0 <= row[5] < 36525 and 0 <= row[6] <= 86400:
                    moment = datetime(2000, 1, 1, tzinfo=UTC) + timedelta(days=row[5], seconds=row[6])
                    yield Sample(row[0], row[1], row[2], int(row[8]), row[7], moment)
        elif entry.key == "GPRI":
            for row in _scaled(entry, scale, layout):
                if len(row) == 10:
                    yield Sample(row[1], row[2], row[3], int(row[8]), row[4], None)
        elif entry.key == "GLPI":
            for row in _scaled(entry, scale, layout):
                if len(row) == 9:
                    yield Sample(row[1], row[2], row[3], _FILTERED, 0.0, None)


def _system_time(payload: bytes, _depth: int = 0) -> datetime | None:
    """The drone's clock in a payload: SYST is seconds since start and seconds since 1970."""
    scale, layout = [1.0], ""
    for entry in entries(payload):
        if entry.type == "\0" and _depth < _MAX_DEPTH:
            time = _system_time(entry.data, _depth + 1)
            if time is not None:
                return time
        elif entry.key == "SCAL":
            scale = [value for row in numbers(entry) for value in row]
        elif entry.key == "TYPE":
            layout = entry.data.decode("latin-1").strip("\0")
        elif entry.key == "SYST":
            for row in _scaled(entry, scale, layout):
                if len(row) == 2 and 0 < row[1] < 1 << 32:
                    return datetime.fromtimestamp(row[1], UTC)
    return None


def track_location(payloads: Iterable[bytes]) -> Location | None:
    """Where a telemetry track was recorded: the median of its samples with a fix, at the first one's time.

    None when the track has no GPS samples at all; a location with a fault when none of them has a fix.
    Samples of poor precision count only if there are no better ones, and a filtered track, where there is a fix, rather
    than a raw one.
    """
    every: list[Sample] = []
    clock = None
    for payload in payloads:
        every += samples(payload)
        clock = clock or _system_time(payload)
    if not every:
        return None
    filtered = [sample for sample in every if sample.fix == _FILTERED]
    raw = [sample for sample in every if sample.fix != _FILTERED]
    fixed = [sample for sample in raw if sample.fix >= 2 and sample.precision < _NO_PRECISION]
    if not fixed:
        return unusable("gpmf", f"none of {len(raw)} GPS samples has a fix")
    fixed = filtered or fixed
    limit = max(_GOOD_PRECISION, min(sample.precision for sample in fixed))
    good = [sample for sample in fixed if sample.precision <= limit]
    places = np.array([(sample.latitude_deg, sample.longitude_deg, sample.altitude_m) for sample in good])
    # Longitudes relative to the first sample, so that a track across the antimeridian has a median on it.
    turned = (places[:, 1] - places[0, 1] + 180) % 360 - 180
    longitude_deg = float(places[0, 1] + np.median(turned))
    if abs(places[0, 1]) <= 180:
        longitude_deg = (longitude_deg + 180) % 360 - 180
    latitude_deg = float(np.median(places[:, 0]))
    east = (turned - np.median(turned)) * np.cos(np.deg2rad(latitude_deg))
    spread_km = float(np.hypot(east, places[:, 0] - latitude_deg).max()) * _KM_PER_DEG
    middle = locate(
        "gpmf", latitude_deg, longitude_deg, float(np.median(places[:, 2])), iso_time(good[0].time or clock)
    )
    return TrackLocation(**vars(middle), spread_km=spread_km)
