"""Coordinates kept beside a recording: a GPX track of the same name, or a table of the folder."""

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
_FILE = ("path", "file_name", "filename", "file", "name", "clip", "relative_path")
_LATITUDE = ("latitude_deg", "latitude", "lat", "decimallatitude", "gps_latitude")
_LONGITUDE = ("longitude_deg", "longitude", "lon", "lng", "long", "decimallongitude", "gps_longitude")
_ALTITUDE = ("altitude_m", "altitude", "elevation", "elevation_m", "ele")
_TIME = ("recorded_at", "datetime", "date_time", "timestamp", "time", "date", "eventdate")
_MAX_BYTES = 64 << 20
_MAX_SPREAD_KM = 25.0


def sidecars(path: Path) -> list[Path]:
    """The files beside `path` that may say where it was recorded; resuming looks at them too."""
    tracks = [path.with_suffix(suffix) for suffix in (".gpx", ".GPX")]
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
            item = _first(row, _FILE)
            if item:
                found.setdefault(PurePosixPath(item.replace("\\", "/")).name, []).append(row)
    return found


def _first(row: dict[str, str], names: tuple[str, ...]) -> str | None:
    return next((row[name] for name in names if row.get(name)), None)


def _shared(path: Path, row: dict[str, str]) -> int:
    """How many trailing components of the row's path agree with the file's."""
    stated = PurePosixPath((_first(row, _FILE) or "").replace("\\", "/")).parts
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
        if len({(_first(row, _LATITUDE), _first(row, _LONGITUDE)) for row in fitting}) > 1:
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
    latitude, longitude = (_first(row, names) if row else None for names in (_LATITUDE, _LONGITUDE))
    if row is None or latitude is None or longitude is None:
        return []
    try:
        pair = float(latitude), float(longitude)
    except ValueError:
        return [unusable("csv", f"latitude {latitude[:20]!r}, longitude {longitude[:20]!r} are not numbers")]
    try:
        altitude_m = float(_first(row, _ALTITUDE) or "nan")
    except ValueError:
        altitude_m = None
    time = _first(row, _TIME)
    return [locate("csv", *pair, altitude_m, parse_time(time) if time else None)]


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
