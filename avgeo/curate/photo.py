"""Where and when a photo says that it was taken: EXIF, FLIR's own block, XMP."""

from __future__ import annotations

import io
import logging
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from avgeo.curate.location import Location, iso_time, locate, parse_time, unusable
from avgeo.curate.xmp import xmp_locations, xmp_time

_HEAD = 8 << 20  # metadata lies before the picture
_HEMISPHERES = {"GPSLatitude": ("N", "S"), "GPSLongitude": ("E", "W")}
_STALE = timedelta(hours=15)  # the widest time zone is 14 hours from UTC


@dataclass(frozen=True)
class ClockedLocation(Location):
    """A place with what its camera's clock was ahead of UTC, to the half-hour: local time less the receiver's time.

    Weaker than a stated offset: a camera with a clock left at home has a fresh fix and a foreign zone.
    """

    clock_offset_min: int = 0


def _numbers(tag: Any) -> list[float]:
    """The rationals of a tag; raises ValueError for 0/0 and the like."""
    values = []
    for value in tag.values if isinstance(tag.values, list) else [tag.values]:
        numerator, denominator = getattr(value, "num", value), getattr(value, "den", 1)
        if not isinstance(numerator, int | float) or not denominator:
            raise ValueError(f"{value} is not a number")
        values.append(numerator / denominator)
    return values


def _coordinate(tags: dict[str, Any], name: str) -> float:
    """Signed degrees of an EXIF coordinate. The hemisphere is its own tag; without it there is no sign."""
    positive, negative = _HEMISPHERES[name]
    if f"GPS {name}" not in tags:
        raise ValueError(f"EXIF has no {name}")
    reference = str(tags.get(f"GPS {name}Ref", "")).strip("\0 ").upper()[:1]
    if reference not in (positive, negative):
        raise ValueError(f"EXIF {name}Ref is {reference or 'missing'!r}, not {positive} or {negative}: sign unknown")
    try:
        parts = _numbers(tags[f"GPS {name}"])
    except ValueError as error:
        raise ValueError(f"EXIF {name} is not a coordinate: {error}") from None
    if not 1 <= len(parts) <= 3 or any(part < 0 for part in parts) or any(part >= 60 for part in parts[1:]):
        raise ValueError(f"EXIF {name} {parts} is not degrees, minutes, seconds")
    total = sum(part / 60**power for power, part in enumerate(parts))
    return -total if reference == negative else total


def _altitude_m(tags: dict[str, Any]) -> float | None:
    try:
        height = _numbers(tags["GPS GPSAltitude"])[0]
        below = "GPS GPSAltitudeRef" in tags and _numbers(tags["GPS GPSAltitudeRef"])[0] == 1
    except (KeyError, IndexError, ValueError):
        return None
    return -height if below else height


def _satellite(tags: dict[str, Any]) -> str | None:
    """The receiver's time (UTC), which is that of its last fix."""
    try:
        hours, minutes, seconds = (int(value) for value in _numbers(tags["GPS GPSTimeStamp"]))
        return parse_time(f"{tags['GPS GPSDate']} {hours:02d}:{minutes:02d}:{seconds:02d}Z")
    except (KeyError, ValueError):
        return None


def _gap(local: str, satellite: str) -> timedelta:
    return datetime.fromisoformat(local) - datetime.fromisoformat(satellite).replace(tzinfo=None)


def _clock_offset_min(tags: dict[str, Any]) -> int | None:
    """Minutes by which the camera's clock was ahead of UTC, to the half-hour; None unless the fix is fresh."""
    local, satellite = parse_time(_taken(tags)), _satellite(tags)
    if not local or not satellite or len(local) <= 10 or abs(gap := _gap(local, satellite)) > _STALE:
        return None
    return 30 * round(gap / timedelta(minutes=30))


def _taken(tags: dict[str, Any]) -> str:
    return str(tags.get("EXIF DateTimeOriginal") or tags.get("EXIF DateTimeDigitized") or "")


def _recorded_at(tags: dict[str, Any]) -> str | None:
    """When it was taken: with its offset if stated, else GPS time unless the fix is stale, else local."""
    taken = _taken(tags)
    offset = str(tags.get("EXIF OffsetTimeOriginal") or tags.get("EXIF OffsetTime") or "").strip("\0 ")
    local = parse_time(taken)
    if local and re.fullmatch(r"[+-]\d{2}:\d{2}|Z", offset):
        return parse_time(taken.strip("\0 ")[:19] + offset)
    satellite = _satellite(tags)
    if local and satellite:
        return satellite if abs(_gap(local, satellite)) <= _STALE else local
    return satellite or local


def _webp_tiff(head: bytes) -> bytes:
    """The EXIF chunk of a WebP file without its "Exif" prefix: it is optional, but exifread wants it."""
    at = 12
    while at + 8 <= len(head):
        kind, size = struct.unpack_from("<4sI", head, at)
        if kind == b"EXIF":
            return head[at + 8 : at + 8 + size].removeprefix(b"Exif\0\0")
        at += 8 + size + size % 2
    return b""


def _bare_tiff(head: bytes) -> io.BytesIO:
    """From the first TIFF header on; ValueError where there is none."""
    return io.BytesIO(head[min(at for at in (head.find(b"II*\0"), head.find(b"MM\0*")) if at > 0) :])


def _exif(path: Path, head: bytes) -> tuple[list[Location], str | None]:
    # Imported here: curation is one command of many, and the others should not wait for it.
    import exifread

    logging.getLogger("exifread").setLevel(logging.CRITICAL)  # what it warns about comes back as a fault
    webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    tags, fault = None, None
    # libheif leaves out the prefix that exifread asserts: then the TIFF itself is there, and is read alone
    for opened in (lambda: io.BytesIO(_webp_tiff(head)) if webp else path.open("rb"), lambda: _bare_tiff(head)):
        try:
            with opened() as file:
                tags = exifread.process_file(file, details=False)
            break
        except Exception as error:  # a parser of foreign bytes can raise anything; the first goes into the rejects
            fault = fault or (f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)
    if tags is None:
        return [unusable("exif", f"EXIF cannot be read ({fault})")], None
    recorded_at = _recorded_at(tags)
    if not any(name in tags for name in ("GPS GPSLatitude", "GPS GPSLongitude")):
        return [], recorded_at
    try:
        latitude_deg, longitude_deg = _coordinate(tags, "GPSLatitude"), _coordinate(tags, "GPSLongitude")
    except ValueError as error:
        return [unusable("exif", str(error))], recorded_at
    location = locate("exif", latitude_deg, longitude_deg, _altitude_m(tags), recorded_at)
    offset_min = _clock_offset_min(tags)
    if offset_min is not None:
        location = ClockedLocation(**vars(location), clock_offset_min=offset_min)
    return [location], recorded_at


def _segments(head: bytes) -> Iterator[tuple[int, bytes]]:
    """Marker and payload of a JPEG's segments before the picture."""
    at = 2
    while head[:2] == b"\xff\xd8" and at + 4 <= len(head) and head[at] == 0xFF and head[at + 1] != 0xDA:
        length = struct.unpack_from(">H", head, at + 2)[0]
        yield head[at + 1], head[at + 4 : at + 2 + length]
        at += 2 + max(length, 2)


def _flir_records(head: bytes) -> dict[int, bytes]:
    """The records, by type, of the block that FLIR's thermal cameras keep in a JPEG's APP1 segments."""
    parts = {body[6]: body[8:] for marker, body in _segments(head) if marker == 0xE1 and body[:6] == b"FLIR\0\x01"}
    block = b"".join(parts[number] for number in sorted(parts))
    if block[:4] != b"FFF\0" or len(block) < 64:
        return {}
    for order in ("<", ">"):  # the header has either order; the right one gives a small version and directory
        offset, count = struct.unpack_from(order + "II", block, 0x18)
        if count < 1000 and offset + 32 * count <= len(block):
            break
    else:
        return {}
    found: dict[int, bytes] = {}
    for number in range(count):
        kind, start, length = struct.unpack_from(order + "H10xII", block, offset + 32 * number)
        if start + length <= len(block):
            found.setdefault(kind, block[start : start + length])
    return found


def _flir_time(info: bytes) -> str | None:
    """The local time in a camera-info record (0x20), with its offset.

    At byte 900: seconds since 1970 (UTC), milliseconds, and the zone in minutes *west* of Greenwich. The record begins
    with the number 2 in its own byte order.
    """
    if len(info) < 910:
        return None
    order = "<" if info[0] else ">"
    seconds, west_min = struct.unpack_from(order + "I4xh", info, 900)
    if not seconds or abs(west_min) > 15 * 60:
        return None
    zone = timezone(timedelta(minutes=-west_min)) if west_min else UTC
    return iso_time(datetime.fromtimestamp(seconds, zone))


def flir_location(head: bytes) -> Location | None:
    """The GPS record (0x2b) of FLIR's block, with the time of its camera-info record, or None.

    It holds signed degrees *and* hemisphere letters (layout after ExifTool's FLIR tags). Some cameras write
    the letter and forget the sign; then nobody can tell which is right, and the location carries a fault.
    """
    records = _flir_records(head)
    record = records.get(0x2B, b"")
    if len(record) < 0x28 or not struct.unpack_from("<I", record)[0]:
        return None  # none, or marked as without a fix
    latitude_deg, longitude_deg, altitude_m = struct.unpack_from("<ddf", record, 0x10)
    fault = None
    for value, letter, pair in ((latitude_deg, record[8:9], b"NS"), (longitude_deg, record[10:11], b"EW")):
        if letter and letter in pair and value and (value < 0) != (letter == pair[1:]):
            stated = f"{value:.6g} but hemisphere {letter.decode()}"
            fault = f"sign and hemisphere contradict each other: {stated}"
    return locate("flir", latitude_deg, longitude_deg, altitude_m, _flir_time(records.get(0x20, b"")), fault)


def photo_locations(path: Path) -> tuple[list[Location], str | None]:
    """Locations that a photo states (EXIF first) and when it was taken (ISO 8601), or None.

    Where XMP has EXIF's local time with an offset, the offset is taken from there.
    """
    with open(path, "rb") as file:
        head = file.read(_HEAD)
    found, recorded_at = _exif(path, head)
    zoned = xmp_time(head) or ""
    if recorded_at and len(zoned) == 25 and zoned.startswith(recorded_at) and len(recorded_at) == 19:
        found = [replace(item, recorded_at=zoned) for item in found]
        recorded_at = zoned
    flir = flir_location(head)
    found += [flir] if flir else []
    return found + xmp_locations(head), recorded_at or (flir.recorded_at if flir else None)
