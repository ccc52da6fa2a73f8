"""Where and when an MP4, QuickTime or 3GP file says that it was recorded, read from its boxes.

A box is a 32-bit big-endian size, a four-character type, and a payload that may hold further boxes (ISO/IEC
14496-12). Read here rather than through a demuxer because demuxers keep one location, drop `loci`, and read
gigabytes of picture to hand over a few kilobytes of telemetry.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from avgeo.curate.gpmf import track_location
from avgeo.curate.location import Location, from_iso6709, iso_time, locate, parse_time, unusable
from avgeo.curate.xmp import xmp_locations

_CONTAINERS = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"udta", b"meta", b"ilst"}
_XMP_UUID = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
_MAX_VALUE = 1 << 20  # a location or a date is short; larger payloads are pictures
_MAX_TABLE = 64 << 20
_MAX_TELEMETRY = 256 << 20
_MAX_DEPTH = 10
_MAX_BOXES = 100_000  # a movie has hundreds; a hostile file could hold millions of empty ones


@dataclass(frozen=True)
class Box:
    """Type, path of parents' types, and the byte range of the payload."""

    type: bytes
    path: tuple[bytes, ...]
    start: int
    end: int


@dataclass
class _Found:
    """What the walk has gathered; times are of the movie header and of Apple's creation date."""

    locations: list[Location] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    handlers: list[bytes] = field(default_factory=list)
    created: datetime | None = None
    creation_date: str | None = None
    tables: dict[bytes, bytes] = field(default_factory=dict)
    telemetry: list[dict[bytes, bytes]] = field(default_factory=list)


def is_isobmff(head: bytes) -> bool:
    """Whether a file that begins so is made of boxes (MP4, MOV, 3GP, HEIF)."""
    return head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")


def walk(file: BinaryIO, start: int, end: int, path: tuple[bytes, ...] = ()) -> Iterator[Box]:
    """Every box between two offsets, parents first. A size that leaves its parent ends that level."""
    at = start
    while at + 8 <= end:
        file.seek(at)
        header = file.read(16)
        if len(header) < 8:
            return
        size, kind = struct.unpack_from(">I4s", header)
        length = 8
        if size == 1:
            if len(header) < 16:
                return
            size, length = struct.unpack_from(">Q", header, 8)[0], 16
        elif size == 0:
            size = end - at
        if size < length or at + size > end:
            return
        box = Box(kind, path, at + length, at + size)
        yield box
        if kind in _CONTAINERS and len(path) < _MAX_DEPTH:
            # MP4's meta starts with version and flags, QuickTime's does not.
            skip = 4 if kind == b"meta" and _peek(file, box, 8)[4:8] != b"hdlr" else 0
            yield from walk(file, box.start + skip, box.end, (*path, kind))
        elif path[-1:] == (b"ilst",) and len(path) < _MAX_DEPTH:
            yield from walk(file, box.start, box.end, (*path, kind))
        at += size


def _peek(file: BinaryIO, box: Box, limit: int) -> bytes:
    file.seek(box.start)
    return file.read(min(box.end - box.start, limit))


def _strings(payload: bytes) -> list[str]:
    """QuickTime user data: each text has a 16-bit length and a 16-bit language before it."""
    found, at = [], 0
    while at + 4 <= len(payload):
        length = struct.unpack_from(">H", payload, at)[0]
        if length == 0 or at + 4 + length > len(payload):
            break
        found.append(payload[at + 4 : at + 4 + length].decode("utf-8", "replace"))
        at += 4 + length
    # Some writers put the bare text there.
    return found or ([payload.decode("utf-8", "replace")] if payload[:1] in (b"+", b"-") else [])


def _loci(payload: bytes) -> Location:
    """3GPP TS 26.244: name, role, then longitude, latitude and altitude in 16.16 fixed point."""
    at = 6
    wide = payload[at : at + 2] in (b"\xfe\xff", b"\xff\xfe")
    while wide and at + 2 <= len(payload) and payload[at : at + 2] != b"\0\0":
        at += 2
    end = at + 2 if wide else payload.find(b"\0", at) + 1
    if end < 7 or end + 13 > len(payload):
        return unusable("3gpp", "the loci box is cut short")
    longitude, latitude, altitude = (value / 65536 for value in struct.unpack_from(">iii", payload, end + 1))
    body = payload[end + 13 :].split(b"\0")[0].decode("utf-8", "replace").strip()
    fault = f"the loci box places it on {body[:20]!r}" if body and body.lower() not in ("earth", "terra") else None
    return locate("3gpp", latitude, longitude, altitude, fault=fault)


def _key_names(payload: bytes) -> list[str]:
    names, at = [], 8
    while at + 8 <= len(payload):
        size = struct.unpack_from(">I", payload, at)[0]
        if size < 8:
            break
        names.append(payload[at + 8 : at + size].decode("utf-8", "replace"))
        at += size
    return names


def _visit(file: BinaryIO, box: Box, found: _Found) -> None:
    """Take from one box what it says about place and time."""
    if box.type == b"mvhd":
        payload = _peek(file, box, 20)
        wide = payload[:1] == b"\x01"
        if len(payload) >= (12 if wide else 8):
            seconds = struct.unpack_from(">Q" if wide else ">I", payload, 4)[0]
            if 0 < seconds < 1 << 33:
                found.created = datetime(1904, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    elif box.type == b"hdlr":
        found.handlers.append(_peek(file, box, 256))
    elif box.type == b"\xa9xyz" and b"ilst" not in box.path:
        texts = _strings(_peek(file, box, _MAX_VALUE))
        found.locations += [from_iso6709("quicktime", text) for text in texts] or [
            unusable("quicktime", "the location atom is empty or cut short")
        ]
    elif box.type == b"loci":
        found.locations.append(_loci(_peek(file, box, _MAX_VALUE)))
    elif box.type == b"keys":
        found.keys = _key_names(_peek(file, box, _MAX_VALUE))
    elif box.type == b"data" and b"ilst" in box.path:
        item = box.path[-1]
        number = struct.unpack(">I", item)[0]
        name = found.keys[number - 1] if 0 < number <= len(found.keys) else item.decode("latin-1")
        lowered = name.lower()
        if lowered.endswith("location.iso6709") or item == b"\xa9xyz":
            text = _peek(file, box, _MAX_VALUE)[8:].decode("utf-8", "replace")
            found.locations.append(from_iso6709("quicktime", text))
        elif lowered.endswith("quicktime.creationdate"):
            found.creation_date = parse_time(_peek(file, box, 64)[8:].decode("utf-8", "replace"))
    elif box.type == b"GPMF":
        location = track_location([_peek(file, box, _MAX_TABLE)])
        found.locations += [location] if location else []
    elif box.type == b"XMP_" or (box.type == b"uuid" and _peek(file, box, 16) == _XMP_UUID):
        found.locations += xmp_locations(_peek(file, box, _MAX_VALUE))
    elif box.type == b"trak":
        found.tables = {}
    elif b"stbl" in box.path and box.type in (b"stsd", b"stsz", b"stsc", b"stco", b"co64"):
        found.tables[box.type] = _peek(file, box, 64 if box.type == b"stsd" else _MAX_TABLE)
        if box.type == b"stsd" and found.tables[b"stsd"][12:16] == b"gpmd":
            found.telemetry.append(found.tables)


def _sample_ranges(tables: dict[bytes, bytes]) -> Iterator[tuple[int, int]]:
    """Offset and length of every sample of a track, from its sample tables (14496-12, 8.7)."""
    sizes, chunks = tables.get(b"stsz", b""), tables.get(b"stsc", b"")
    offsets, letter = (tables[b"co64"], "Q") if b"co64" in tables else (tables.get(b"stco", b""), "I")
    if len(sizes) < 12 or len(chunks) < 8 or len(offsets) < 8:
        return
    fixed, count = struct.unpack_from(">II", sizes, 4)
    lengths = iter([fixed] * min(count, 1 << 20)) if fixed else (x for (x,) in _rows(">I", sizes[12:]))
    runs = list(_rows(">III", chunks[8:]))
    run = 0
    for number, (offset,) in enumerate(_rows(">" + letter, offsets[8:]), start=1):
        while run + 1 < len(runs) and runs[run + 1][0] <= number:
            run += 1
        for _ in range(runs[run][1] if runs else 0):
            length = next(lengths, None)
            if length is None:
                return
            yield offset, length
            offset += length


def _rows(layout: str, payload: bytes) -> Iterator[tuple[int, ...]]:
    width = struct.calcsize(layout)
    return struct.iter_unpack(layout, payload[: len(payload) // width * width])


def _payloads(file: BinaryIO, tables: dict[bytes, bytes], size: int) -> Iterator[bytes]:
    budget = _MAX_TELEMETRY
    for offset, length in _sample_ranges(tables):
        budget -= length + 64  # a sample of no bytes costs something too, so that this ends
        if offset + length > size or budget < 0:
            return
        file.seek(offset)
        yield file.read(length)


def movie_locations(path: Path) -> tuple[list[Location], str | None]:
    """Locations of an MP4, QuickTime or 3GP file, telemetry first, and its recording time (ISO 8601) or None.

    The movie header's time is UTC by the standard; GoPro writes local time there, so for GoPro it is given
    bare.
    """
    found = _Found()
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        for box in islice(walk(file, 0, size), _MAX_BOXES):
            _visit(file, box, found)
        tracks = [track_location(_payloads(file, tables, size)) for tables in found.telemetry]
    gopro = any(b"GoPro" in handler for handler in found.handlers)
    created = found.created.replace(tzinfo=None) if found.created and gopro else found.created
    measured = [track for track in tracks if track is not None]
    times = [track.recorded_at for track in measured if track.recorded_at]
    recorded_at = (times[0] if times else None) or found.creation_date or iso_time(created)
    return [*measured, *found.locations], recorded_at
