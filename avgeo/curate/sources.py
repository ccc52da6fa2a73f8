"""Where candidates come from. A source yields every item it sees, media or not."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from avgeo.curate.sidecar import table_row

_MOVING = "mp4 m4v mov qt 3gp 3g2 mkv webm avi mpg mpeg ts mts m2ts mxf wmv asf flv ogv insv 360 lrv"
_SOUND = "mp3 m4a aac wav wave flac ogg oga opus aif aiff aifc wma caf amr mka w64"
_PHOTO = "jpg jpeg jpe jxl png tif tiff heic heif avif webp gif bmp dng"
_EXTENSIONS = frozenset(f"{_MOVING} {_SOUND} {_PHOTO}".split())
# What a media file begins with, whatever it is called: (offset, bytes).
_MAGIC = (
    (0, b"\xff\xd8\xff"), (0, b"\x89PNG\r\n\x1a\n"), (0, b"II*\0"), (0, b"MM\0*"), (0, b"GIF8"),
    (4, b"ftyp"), (4, b"moov"), (0, b"\x1aE\xdf\xa3"), (0, b"OggS"), (0, b"fLaC"), (0, b"ID3"),
    (8, b"WAVE"), (8, b"AVI "), (8, b"WEBP"), (8, b"AIFF"), (8, b"AIFC"), (0, b"\0\0\x01\xba"), (0, b"caff"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"), (0, b"#!AMR"), (0, b"FLV\x01"),
)  # fmt: skip
_LICENCE = ("licence", "license", "rights")
_ATTRIBUTION = ("attribution", "recordist", "author", "creator", "credit", "artist")
UNKNOWN = "unknown"


class CurateError(ValueError):
    """A curation that cannot start; the message names the argument and the cure."""


@dataclass(frozen=True)
class Candidate:
    """One item of a source. `item` names it in the rejects; `problem` is why it is no medium, or None."""

    item: str
    path: Path
    source: str
    url: str | None = None
    licence: str = UNKNOWN
    attribution: str = UNKNOWN
    problem: str | None = None


def _display(name: str) -> str:
    """A file name as text; bytes that are not UTF-8 (they cannot go into a table) are shown as \\xNN."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _problem(path: Path, item: str) -> str | None:
    """Why a directory entry is no medium, or None."""
    if not path.exists():
        return "broken link"
    if not path.is_file():
        return "not a regular file"
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return "the file name is not UTF-8; rename the file"
    if path.suffix.lower().lstrip(".") in _EXTENSIONS:
        return None
    try:
        with open(path, "rb") as file:
            head = file.read(16)
    except OSError as error:
        return f"cannot be opened: {error.strerror}"
    if any(head[at : at + len(magic)] == magic for at, magic in _MAGIC):
        return None
    return f"not media: {path.suffix.lower()[:12] or 'no extension'}"


def _credit(path: Path) -> dict[str, str]:
    """What a table in the folder says about a file's licence, attribution and address."""
    try:
        row = table_row(path) or {}
    except ValueError:  # the coordinates gate reports the table
        return {}
    named = {"licence": _LICENCE, "attribution": _ATTRIBUTION, "url": ("url", "source_url", "link")}
    found = {field: next((row[name] for name in names if row.get(name)), "") for field, names in named.items()}
    if not re.match(r"https?://", found["url"]):
        found.pop("url")
    return {field: value for field, value in found.items() if value}


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


def folder(where: Path) -> Iterator[Candidate]:
    """Every visible file below a folder, sorted by path; raises `CurateError` if it cannot be read."""
    where = Path(where)
    if not where.exists():
        raise CurateError(f"{where}: no such folder; give a folder of media files")
    if not where.is_dir():
        raise CurateError(f"{where}: is a file, not a folder; give the folder that holds it")
    try:
        for path in _walk(where, set()):
            item = _display(path.relative_to(where).as_posix())
            problem = _problem(path, item)
            credit = {} if problem else _credit(path)
            yield Candidate(item, path, "folder", problem=problem, **credit)
    except OSError as error:
        raise CurateError(f"{error.filename or where}: cannot be read ({error.strerror}); check its rights") from None


SOURCES: dict[str, Callable[[Path], Iterator[Candidate]]] = {"folder": folder}


def candidates(source: str, where: Path) -> Iterator[Candidate]:
    """The candidates of the source called `source`; raises `CurateError` naming the valid ones."""
    if source not in SOURCES:
        raise CurateError(f"unknown source {source!r}: choose one of {', '.join(SOURCES)}")
    return SOURCES[source](where)
