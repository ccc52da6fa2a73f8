"""The source `folder`: every file below a folder, media or not, with what a table beside it says of its licence."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from avgeo.curate.addresses import bare_url, url_problem
from avgeo.curate.candidate import Candidate, CurateError
from avgeo.curate.sidecar import CREDIT, first, table_row

_MOVING = "mp4 m4v mov qt 3gp 3g2 mkv webm avi mpg mpeg ts mts m2ts mxf wmv asf flv ogv insv 360 lrv dv vob mod tod m2v"
_SOUND = "mp3 m4a aac wav wave flac ogg oga opus aif aiff aifc wma caf amr mka w64 mp2 weba wv ape"
_PHOTO = "jpg jpeg jpe jxl png tif tiff heic heif avif webp gif bmp dng jp2"
_LONGEST_TEXT = 500
_LONE = re.compile("[\ud800-\udc7f\udd00-\udfff]")  # halves of surrogate pairs but those that stand for bytes
EXTENSIONS = frozenset(f"{_MOVING} {_SOUND} {_PHOTO}".split())
# What a media file begins with, whatever it is called: (offset, bytes).
_MAGIC = (
    (0, b"\xff\xd8\xff"), (0, b"\x89PNG\r\n\x1a\n"), (0, b"II*\0"), (0, b"MM\0*"), (0, b"GIF8"),
    (4, b"ftyp"), (4, b"moov"), (0, b"\x1aE\xdf\xa3"), (0, b"OggS"), (0, b"fLaC"), (0, b"ID3"),
    (8, b"WAVE"), (8, b"AVI "), (8, b"WEBP"), (8, b"AIFF"), (8, b"AIFC"), (0, b"\0\0\x01\xba"), (0, b"caff"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"), (0, b"#!AMR"), (0, b"FLV\x01"),
)  # fmt: skip


def tidy(value: object, longest: int = _LONGEST_TEXT) -> str | None:
    """A value as one line of at most `longest` characters that any table can hold, or None if nothing is left."""
    text = str(value if value is not None else "")[: 4 * longest]
    text = _LONE.sub(lambda half: f"\\u{ord(half[0]):04x}", text)
    text = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    text = " ".join("".join(mark if mark.isprintable() else " " for mark in text).split())
    return (text if len(text) <= longest else text[: longest - 1] + "…") or None


def display(name: str) -> str:
    """A file name as text, one for each name; bytes that are not UTF-8 (they cannot go into a table) are shown as
    \\xNN, and a backslash as two.
    """
    return os.fsencode(name.replace("\\", "\\\\")).decode("utf-8", "backslashreplace")


def file_problem(path: Path) -> str | None:
    """Why a local file is no medium, by its name and first bytes, or None."""
    if not path.exists():
        return "broken link"
    if not path.is_file():
        return "not a regular file"
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return "the file name is not UTF-8; rename the file"
    if path.suffix.lower().lstrip(".") in EXTENSIONS:
        return None
    try:
        with open(path, "rb") as file:
            head = file.read(16)
    except OSError as error:
        return f"cannot be opened: {error.strerror}"
    if any(head[at : at + len(magic)] == magic for at, magic in _MAGIC):
        return None
    return f"not media: {path.suffix.lower()[:12] or 'no extension'}"


def _credit(path: Path) -> dict[str, Any]:
    """What a table in the folder says about a file: licence, attribution, address and the like."""
    try:
        row = table_row(path) or {}
    except ValueError:  # the coordinates gate reports the table
        return {}
    found = {field: tidy(first(row, names)) for field, names in CREDIT.items()}
    url = bare_url(first(row, ("url", "source_url", "link")) or "")
    found["url"] = None if url_problem(url) else url
    return {field: value for field, value in found.items() if value}


def candidate_of(path: Path, item: str | None = None) -> Candidate:
    """One local file as a candidate, with what the tables beside it say; `item` is its name unless given."""
    problem = file_problem(path)
    credit = {} if problem else _credit(path)
    return Candidate(item or display(path.name), path, "folder", problem=problem, **credit)


def _walk(folder: Path, seen: set[tuple[int, int]]) -> Iterator[Path]:
    """Entries below `folder` that are no directories, by name; links are followed, each directory once."""
    status = folder.stat()
    if (status.st_dev, status.st_ino) in seen:
        return
    seen.add((status.st_dev, status.st_ino))
    for path in sorted(folder.iterdir(), key=lambda path: os.fsencode(path.name)):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from _walk(path, seen)
        else:
            yield path


def folder(where: str | Path) -> Iterator[Candidate]:
    """Media below a folder, with GPS in the files or beside them (GPX, SRT of drones, index.csv, metadata.csv).

    Yields every visible file, sorted by path; raises `CurateError` if the folder cannot be read.
    """
    where = Path(where)
    if not where.exists():
        raise CurateError(f"{where}: no such folder; give a folder of media files")
    if not where.is_dir():
        raise CurateError(f"{where}: is a file, not a folder; give the folder that holds it")
    try:
        for path in _walk(where, set()):
            yield candidate_of(path, display(path.relative_to(where).as_posix()))
    except OSError as error:
        raise CurateError(f"{error.filename or where}: cannot be read ({error.strerror}); check its rights") from None
