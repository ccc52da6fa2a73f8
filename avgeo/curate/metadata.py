"""What a media file states about where and when it was recorded, in itself or beside itself.

`read_locations` gives every statement it finds, the most direct first: measured telemetry, then what the
device wrote into the container, then tags, then sidecars. `read_location` takes the first without a fault.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from avgeo.curate.boxes import is_isobmff, movie_locations
from avgeo.curate.location import Location, unusable
from avgeo.curate.photo import photo_locations
from avgeo.curate.sidecar import subtitle_locations, table_locations, track_locations
from avgeo.curate.tags import sound_locations

_PHOTO_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"II*\0", b"MM\0*", b"\0\0\0\x0cJXL ")
_PHOTO_BRANDS = (b"heic", b"heix", b"mif1", b"avif", b"msf1")


def _embedded(path: Path) -> tuple[list[Location], str | None]:
    with open(path, "rb") as file:
        head = file.read(16)
    if is_isobmff(head) and head[8:12] not in _PHOTO_BRANDS:
        return movie_locations(path)
    webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    if webp or head.startswith(_PHOTO_MAGIC) or head[8:12] in _PHOTO_BRANDS:
        return photo_locations(path)
    return sound_locations(path)


def read_locations(path: Path | str) -> list[Location]:
    """Everything `path` says about where it was recorded, most direct first; the unusable carry a `fault`.

    A statement without a time of its own is given the file's. Raises OSError for a file that cannot be
    opened.
    """
    path = Path(path)
    try:
        found, recorded_at = _embedded(path)
    except OSError:
        raise
    # Our own parsers are fuzzed, but on foreign bytes a reject is better than a crash.
    except Exception as error:
        found = [unusable("metadata", f"metadata cannot be read: {type(error).__name__}: {error}")]
        recorded_at = None
    beside = [*track_locations(path, recorded_at), *subtitle_locations(path), *table_locations(path)]
    return [replace(item, recorded_at=item.recorded_at or recorded_at) for item in (*found, *beside)]


def read_location(path: Path | str) -> Location | None:
    """The first usable location of `read_locations`, or None; raises OSError as it does."""
    return next((location for location in read_locations(path) if location.fault is None), None)
