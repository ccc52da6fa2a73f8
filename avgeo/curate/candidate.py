"""One item that a source offers, before anything is known of its media; and curation's error."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from avgeo.curate.location import Location

UNKNOWN = "unknown"


class CurateError(ValueError):
    """A curation that cannot start; the message names the argument and the cure."""


@dataclass(frozen=True)
class Candidate:
    """One item of a source.

    `item` names it in every table and is unique within its source. `path` is the local file, or None when the media lie
    at `url` and are yet to be fetched. `stated` is what the source itself says about place and time (the file may say
    more), `country` the country it names. `uploader` and `original` (an identifier that copies and derivatives of one
    recording share) keep splits apart. `problem` says why it is no medium, or None.
    """

    item: str
    path: Path | None
    source: str
    url: str | None = None
    licence: str = UNKNOWN
    attribution: str = UNKNOWN
    title: str | None = None
    uploader: str | None = None
    original: str | None = None
    country: str | None = None
    stated: tuple[Location, ...] = ()
    problem: str | None = None
