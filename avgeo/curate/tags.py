"""Where and when a sound (or a Matroska, AVI or Ogg file) says it was recorded: ID3, Vorbis comments, GUANO.

Tags were made for songs, so this reads coordinates only where the tag's name or the text's form says that
they are meant: a pair of numbers in a comment is not enough.
"""

from __future__ import annotations

import contextlib
import re
import struct
from pathlib import Path
from typing import Any

from avgeo.curate.location import Location, from_iso6709, locate, parse_iso6709, parse_time, unusable
from avgeo.decode import open_media

_NUMBER = r"[+-]?\d{1,3}(?:\.\d+)?"
# "XC34430 © Name // place (43.5442, -7.0295), Country // 11m // 14:00h, 2009-04-12 // song"
_XENO_CANTO = re.compile(rf"^XC\d+\b.*?//[^/]*\(({_NUMBER}),\s*({_NUMBER})\)[^()]*?//", re.DOTALL)
_XENO_CANTO_HEIGHT = re.compile(r"//\s*(-?\d+)\s*m\s*//")
_XENO_CANTO_TIME = re.compile(r"//\s*(\d{1,2}:\d{2})?[^/]{0,4}?,\s*(\d{4}-\d{2}-\d{2})\s*(?://|$)")
_LABELLED = re.compile(
    rf"\blat(?:itude)?\s*[:=]\s*({_NUMBER})\W+lo?ng?(?:itude)?\s*[:=]\s*({_NUMBER})(?![\d.])", re.IGNORECASE
)
_PAIR = re.compile(rf"\s*(?:geo:)?({_NUMBER})°?\s*[,;\s]\s*({_NUMBER})°?(?:[,;\s].*)?\s*", re.DOTALL)
_LATITUDE_NAMES = {
    "latitude",
    "lat",
    "gpslatitude",
    "geolat",
    "geolatitude",
    "locationlatitude",
    "latitudedeg",
}
_LONGITUDE_NAMES = {
    "longitude", "lon", "lng", "long", "gpslongitude", "geolong", "geolongitude", "locationlongitude",
    "longitudedeg",
}  # fmt: skip
_PLACE_NAMES = re.compile(
    r"iso6709|^(location|locationeng|gps|gpscoordinates|coordinates|geo|geotag|latlon|latlong|xyz)$"
)
_TIME_NAMES = ("recordedat", "recordingtime", "creationtime", "timestamp", "tdrc", "date", "originaldate")
_GUANO_LIMIT = 1 << 20


def _plain(name: str) -> str:
    """A tag's name without decoration: "TXXX:GPS_Latitude" and "gps-latitude" are one name."""
    if name.startswith("TXXX:"):  # ID3's frame for texts of one's own: its description is the name
        name = name.rsplit(":", 1)[-1]
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _mutagen_tags(path: Path) -> tuple[str, dict[str, str]] | None:
    """The kind of the tags ("id3" or "vorbis") and their texts, or None where mutagen knows no such file."""
    import mutagen
    from mutagen.id3 import ID3

    media = mutagen.File(path)
    if media is None:
        return None
    texts: dict[str, str] = {}
    tags: Any = media.tags or {}
    for name, value in dict(tags).items():
        parts = getattr(value, "text", value)
        parts = parts if isinstance(parts, list) else [getattr(value, "url", parts)]
        texts[str(name)] = "\n".join(str(part) for part in parts if not isinstance(part, bytes))[:100_000]
    return ("id3" if isinstance(media.tags, ID3) else "vorbis"), texts


def _container_tags(path: Path) -> dict[str, str]:
    """Tags of the container and of its streams, through PyAV."""
    with open_media(path, metadata_errors="replace") as container:
        texts = {name: value for stream in container.streams for name, value in stream.metadata.items()}
        return texts | dict(container.metadata)


def guano_tags(path: Path) -> dict[str, str]:
    """Fields of the GUANO chunk that bat and wildlife recorders add to WAV files (guano-md.org, 1.0)."""
    with open(path, "rb") as file:
        if file.read(4) != b"RIFF":
            return {}
        file.seek(12)
        while len(header := file.read(8)) == 8:
            kind, size = struct.unpack("<4sI", header)
            if kind == b"guan":
                lines = file.read(min(size, _GUANO_LIMIT)).decode("utf-8", "replace").splitlines()
                return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            file.seek(size + size % 2, 1)
    return {}


def _height_m(text: str) -> float | None:
    match = _XENO_CANTO_HEIGHT.search(text)
    return float(match.group(1)) if match else None


def comment_location(kind: str, text: str) -> Location | None:
    """The location a free text states, if it has Xeno-canto's form or labels its numbers, else None."""
    match = _XENO_CANTO.match(text)
    if match is not None:
        time = _XENO_CANTO_TIME.search(text)
        recorded_at = parse_time(f"{time.group(2)} {time.group(1) or ''}") if time else None
        return locate(kind, float(match.group(1)), float(match.group(2)), _height_m(text), recorded_at)
    match = _LABELLED.search(text)
    return locate(kind, float(match.group(1)), float(match.group(2))) if match else None


def _place_location(kind: str, text: str) -> Location | None:
    """The location in a tag whose name promises one; None for a mere name, as in "location: Berlin"."""
    if re.match(r"[+-]\d+(\.\d*)?[+-]\d", text.strip()):
        try:
            parse_iso6709(text)
        except ValueError as error:
            return unusable(kind, str(error))
        return from_iso6709(kind, text)
    match = _PAIR.fullmatch(text)
    return locate(kind, float(match.group(1)), float(match.group(2))) if match else comment_location(kind, text)


def tag_locations(kind: str, texts: dict[str, str]) -> tuple[list[Location], str | None]:
    """Locations that tags state, and the recording time (ISO 8601) that they name, or None."""
    plain = {_plain(name): text for name, text in texts.items()}
    times = (parse_time(plain[name]) for name in _TIME_NAMES if name in plain and len(plain[name].strip()) >= 10)
    recorded_at = next((time for time in times if time), None)
    found: list[Location] = []
    latitude = next((plain[name] for name in sorted(_LATITUDE_NAMES) if name in plain), None)
    longitude = next((plain[name] for name in sorted(_LONGITUDE_NAMES) if name in plain), None)
    if latitude is not None and longitude is not None:
        try:
            found.append(locate(kind, float(latitude), float(longitude), recorded_at=recorded_at))
        except ValueError:
            found.append(unusable(kind, f"tags latitude {latitude[:20]!r}, longitude {longitude[:20]!r}: not numbers"))
    for name, text in texts.items():
        if _PLACE_NAMES.search(_plain(name)):
            location = _place_location(kind, text)
        elif name.startswith("COMM") or _plain(name) in ("comment", "description", "note"):
            location = comment_location(kind, text)
        else:
            continue
        if location is not None and location not in found:
            found.append(location)
    times = [location.recorded_at for location in found if location.recorded_at]
    return found, (times[0] if times else recorded_at)


def sound_locations(path: Path) -> tuple[list[Location], str | None]:
    """Locations and recording time that a file's tags state; an unreadable tag is reported with its fault."""
    guano = {name: value for name, value in guano_tags(path).items() if name in ("Loc Position", "Timestamp")}
    found: list[Location] = []
    recorded_at = None
    if "Timestamp" in guano:
        recorded_at = parse_time(guano["Timestamp"])
    if "Loc Position" in guano:
        location = _place_location("guano", guano["Loc Position"])
        found.append(location or unusable("guano", f"Loc Position {guano['Loc Position'][:40]!r} is not a pair"))
    from mutagen import MutagenError

    named = None
    try:
        with contextlib.suppress(MutagenError):  # it takes every RIFF for WAV, AVI too
            named = _mutagen_tags(path)
        kind, texts = named if named is not None else ("container", _container_tags(path))
    # A parser of foreign bytes can raise anything; the reason goes into the rejects.
    except Exception as error:
        why = str(error).removeprefix(f"{path}: ")[:100]  # the folder is nobody's business
        return [*found, unusable("tags", f"tags cannot be read: {type(error).__name__}: {why}")], recorded_at
    more, time = tag_locations(kind, texts)
    return found + more, recorded_at or time
