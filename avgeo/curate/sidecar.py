"""Coordinates kept beside a recording: a GPX track or drone's subtitles of the same name, or a table of the folder."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path, PurePosixPath

import numpy as np

from avgeo.curate.location import Location, coordinate_fault, iso_time, locate, parse_time, unusable

TABLES = ("index.csv", "metadata.csv")
FILE = ("path", "file_name", "filename", "file", "name", "clip", "relative_path")
LATITUDE = ("latitude_deg", "latitude", "lat", "decimallatitude", "gps_latitude")
LONGITUDE = ("longitude_deg", "longitude", "lon", "lng", "long", "decimallongitude", "gps_longitude")
ALTITUDE = ("altitude_m", "altitude", "elevation", "elevation_m", "ele")
TIME = ("recorded_at", "datetime", "date_time", "timestamp", "time", "date", "eventdate")
# The columns of a table that fill a candidate's fields; the first that a row fills counts.
CREDIT = {
    "licence": ("licence", "license", "licence_url", "license_url", "licenseurl", "rights", "licensename"),
    "attribution": ("attribution", "recordist", "author", "creator", "credit", "artist"),
    "title": ("title", "caption"),
    "uploader": ("uploader", "uploader_id", "user", "user_id", "channel", "channel_id", "owner", "recordist"),
    "original": ("original", "original_id", "recording_id"),
    "country": ("country", "country_name", "country_code"),
}
_MAX_BYTES = 64 << 20
_MAX_SPREAD_KM = 25.0


def sidecars(path: Path) -> list[Path]:
    """The files beside `path` that may say where it was recorded; resuming looks at them too."""
    tracks = [path.with_suffix(suffix) for suffix in (".gpx", ".GPX", ".srt", ".SRT")]
    return [other for other in (*tracks, *(path.parent / name for name in TABLES)) if other.is_file()]


@lru_cache(maxsize=64)
def _rows(table: Path, _stamp: tuple[int, int]) -> dict[str, list[dict[str, str]]]:
    """Rows of a table by the file name that they are about, with lower-case column names."""
    if table.stat().st_size > _MAX_BYTES:
        raise ValueError(f"{table.name} is larger than {_MAX_BYTES >> 20} MiB")
    with open(table, newline="", encoding="utf-8-sig", errors="replace") as file:
        sample = file.read(4096)
        file.seek(0)
        delimiter = max(",;\t", key=(sample.splitlines() or [""])[0].count)
        found: dict[str, list[dict[str, str]]] = {}
        for raw in csv.DictReader(file, delimiter=delimiter):
            row = {str(name).strip().lower(): str(value).strip() for name, value in raw.items() if name and value}
            item = first(row, FILE)
            if item:
                found.setdefault(PurePosixPath(item.replace("\\", "/")).name, []).append(row)
    return found


def first(row: dict[str, str], names: tuple[str, ...]) -> str | None:
    """The first of the columns `names` that the row fills."""
    return next((row[name] for name in names if row.get(name)), None)


def row_location(kind: str, row: dict[str, str]) -> Location | None:
    """The location that a table's row (lower-case column names) states; None without coordinates, and one with its
    fault when they are no numbers.
    """
    latitude, longitude = (first(row, names) for names in (LATITUDE, LONGITUDE))
    if latitude is None or longitude is None:
        return None
    try:
        pair = float(latitude), float(longitude)
    except ValueError:
        return unusable(kind, f"latitude {latitude[:20]!r}, longitude {longitude[:20]!r} are not numbers")
    try:
        altitude_m = float(first(row, ALTITUDE) or "nan")
    except ValueError:
        altitude_m = None
    both = f"{row.get('date', '')} {row.get('time', '')}" if row.get("date") and row.get("time") else ""
    times = (parse_time(text) for text in (both, *(row.get(name, "") for name in TIME)))
    return locate(kind, *pair, altitude_m, next((time for time in times if time), None))


def _shared(path: Path, row: dict[str, str]) -> int:
    """How many trailing components of the row's path agree with the file's."""
    stated = PurePosixPath((first(row, FILE) or "").replace("\\", "/")).parts
    same = 0
    for ours, theirs in zip(reversed(path.parts), reversed(stated), strict=False):
        if ours != theirs:
            break
        same += 1
    return same


def table_row(path: Path) -> dict[str, str] | None:
    """The row about `path` in a table of its folder (lower-case column names), or None.

    Raises ValueError when a table cannot be read or has several rows that fit equally well and differ.
    """
    for table in (path.parent / name for name in TABLES):
        if not table.is_file() or table == path:
            continue
        stat = table.stat()
        try:
            rows = _rows(table, (stat.st_size, stat.st_mtime_ns)).get(path.name, [])
        except csv.Error as error:
            raise ValueError(f"{table.name} cannot be read: {error}") from None
        best = max((_shared(path, row) for row in rows), default=0)
        fitting = [row for row in rows if _shared(path, row) == best]
        if len({(first(row, LATITUDE), first(row, LONGITUDE)) for row in fitting}) > 1:
            raise ValueError(f"{table.name} has {len(fitting)} rows about {path.name} that differ")
        if fitting:
            return fitting[0]
    return None


def table_locations(path: Path) -> list[Location]:
    """The location that `index.csv` or `metadata.csv` in the file's folder gives for it."""
    try:
        row = table_row(path)
    except ValueError as error:
        return [unusable("csv", str(error))]
    found = row_location("csv", row) if row else None
    return [found] if found else []


def _points(track: Path) -> Iterator[tuple[float, float, float | None, datetime | None]]:
    import gpxpy

    if track.stat().st_size > _MAX_BYTES:
        raise ValueError(f"larger than {_MAX_BYTES >> 20} MiB")
    with open(track, encoding="utf-8-sig", errors="replace") as file:
        gpx = gpxpy.parse(file)
    tracked = [point for line in gpx.tracks for segment in line.segments for point in segment.points]
    routed = [point for route in gpx.routes for point in route.points]
    for point in tracked or routed or gpx.waypoints:
        if coordinate_fault(point.latitude, point.longitude) is None:
            time = point.time.replace(tzinfo=point.time.tzinfo or UTC) if point.time else None
            yield point.latitude, point.longitude, point.elevation, time


def track_locations(path: Path, recorded_at: str | None) -> list[Location]:
    """The location that a GPX file of the same stem gives: at the recording time if known with its zone,
    between the two nearest points; else the median of the track, if the track stays within 25 km of it.
    """
    track = next((other for other in sidecars(path) if re.fullmatch(r"\.gpx", other.suffix, re.IGNORECASE)), None)
    if track is None or track == path:
        return []
    try:
        points = list(_points(track))
    except ModuleNotFoundError:
        return [unusable("gpx", f"{track.name} needs gpxpy: pip install 'avgeo[curate]'")]
    # A parser of foreign bytes can raise anything; the reason goes into the rejects.
    except Exception as error:
        return [unusable("gpx", f"{track.name} cannot be read: {type(error).__name__}: {str(error)[:100]}")]
    if not points:
        return [unusable("gpx", f"{track.name} has no points")]
    degrees = np.array([point[:2] for point in points])
    origin = degrees[0, 1]
    degrees[:, 1] = (degrees[:, 1] - origin + 180) % 360 - 180  # so that the antimeridian has no jump
    moment = datetime.fromisoformat(recorded_at) if recorded_at else None
    timed = [(point[3].timestamp(), index) for index, point in enumerate(points) if point[3] is not None]
    if moment is not None and moment.tzinfo is not None and timed:
        timed.sort()
        seconds = np.array([second for second, _ in timed])
        order = [index for _, index in timed]
        at = moment.timestamp()
        if not seconds[0] - 60 <= at <= seconds[-1] + 60:
            return [unusable("gpx", f"{track.name} does not cover the recording time {recorded_at}")]
        latitude_deg, offset_deg = (float(np.interp(at, seconds, degrees[order, axis])) for axis in (0, 1))
        time = recorded_at
    else:
        latitude_deg, offset_deg = (float(value) for value in np.median(degrees, axis=0))
        east_km = (degrees[:, 1] - offset_deg) * np.cos(np.deg2rad(latitude_deg)) * 111.2
        spread_km = float(np.hypot(east_km, (degrees[:, 0] - latitude_deg) * 111.2).max())
        if spread_km > _MAX_SPREAD_KM:
            reason = f"{track.name} strays {spread_km:.0f} km from its median and the recording time is not known"
            return [unusable("gpx", reason)]
        time = iso_time(datetime.fromtimestamp(timed[0][0], UTC)) if timed else None
    longitude_deg = (origin + offset_deg + 180) % 360 - 180
    heights = [point[2] for point in points if point[2] is not None]
    return [locate("gpx", latitude_deg, longitude_deg, float(np.median(heights)) if heights else None, time)]


# --- subtitles of drones ---

_NUMBER = r"([-+]?\d{1,9}(?:\.\d{1,18})?)"
# Mavic 2 and later: [latitude: 22.5] [longitude: 113.9] [rel_alt: 1.3 abs_alt: 19.6]; early ones write "longtitude".
_KEYED = tuple(re.compile(rf"\[\s*{name}\s*:\s*{_NUMBER}\s*\]", re.IGNORECASE) for name in ("latitude", "longt?itude"))
_ABOVE_SEA = re.compile(rf"\babs_alt\s*:\s*{_NUMBER}", re.IGNORECASE)
# Mavic Pro, Phantom, Mini: GPS (113.86, 22.53, 19), the longitude first and a count of satellites last (it is no
# altitude, though it looks like one). Matrice 300: GPS(22.53,113.86,0.0M), the latitude first and metres last.
_POSITION = re.compile(rf"\bGPS\s*\(\s*{_NUMBER}\s*,\s*{_NUMBER}\s*(?:,\s*{_NUMBER}\s*(M)?\s*)?\)", re.IGNORECASE)
_CLOCK = re.compile(r"\b(\d{4})[.-](\d{1,2})[.-](\d{1,2})[ T]+(\d{1,2}:\d{2}:\d{2})")


def _subtitle_fix(text: str) -> Location | None:
    """The location that one subtitle states, with its fault if it has one; None for words."""
    pair = [pattern.search(text) for pattern in _KEYED]
    position = _POSITION.search(text)
    altitude_m = None
    if pair[0] and pair[1]:
        latitude_deg, longitude_deg = float(pair[0][1]), float(pair[1][1])
        height = _ABOVE_SEA.search(text)  # rel_alt is above the take-off, and a bare altitude does not say above what
        altitude_m = float(height[1]) if height else None
    elif position:
        longitude_deg, latitude_deg = float(position[1]), float(position[2])
        if position[4] or abs(latitude_deg) > 90 >= abs(longitude_deg):
            latitude_deg, longitude_deg = longitude_deg, latitude_deg
    else:
        return None
    clock = _CLOCK.search(text)
    time = parse_time(f"{clock[1]}-{clock[2]}-{clock[3]} {clock[4]}") if clock else None
    return locate("srt", latitude_deg, longitude_deg, altitude_m, time)


def subtitle_locations(path: Path) -> list[Location]:
    """The first fix in the telemetry that a drone writes as subtitles of the same stem; time is the drone's clock,
    which states no zone.

    Samples before the fix (null island) are passed over; without any fix the first sample comes back with its fault.
    Subtitles that hold no telemetry, as of a film, state nothing. `HOME(…)` is the take-off, and not read.
    """
    track = next((other for other in sidecars(path) if other.suffix.lower() == ".srt"), None)
    if track is None or track == path:
        return []
    try:
        if track.stat().st_size > _MAX_BYTES:
            return [unusable("srt", f"{track.name} is larger than {_MAX_BYTES >> 20} MiB")]
        text = track.read_text(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        return [unusable("srt", f"{track.name} cannot be read: {error.strerror}")]
    faulty: Location | None = None
    for block in re.split(r"\n[ \t]*\n", text):  # universal newlines: \r\n is \n here
        fix = _subtitle_fix(block)
        if fix is not None and fix.fault is None:
            return [fix]
        faulty = faulty or fix
    return [faulty] if faulty else []
