"""Real development data, fetched when asked for and never committed: `data/sources.csv` says what there is.

Every file is checked against its SHA-256, wherever it comes from. `AVGEO_MIRROR` names a folder that has the
files already (laid out like the table's `path` column); then nothing is downloaded.
"""

from __future__ import annotations

import csv
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from avgeo.paths import cache_dir, data_dir

MIRROR = "AVGEO_MIRROR"


class FetchError(ValueError):
    """A file that cannot be had, or is not what the table says; the message names the cure."""


@dataclass(frozen=True)
class SourceFile:
    """One row of `data/sources.csv`; `name` is unique."""

    name: str
    path: str
    sha256: str
    bytes: int
    url: str
    licence: str
    what: str


def source_files() -> dict[str, SourceFile]:
    """Every file that can be fetched, by name."""
    with open(data_dir() / "sources.csv", newline="", encoding="utf-8") as file:
        rows = [
            SourceFile(
                row["name"],
                row["path"],
                row["sha256"],
                int(row["bytes"]),
                row["url"],
                row["licence"],
                row["what"],
            )
            for row in csv.DictReader(file)
        ]
    return {row.name: row for row in rows}


def _check(file: Path, source: SourceFile) -> Path:
    with open(file, "rb") as data:
        digest = hashlib.file_digest(data, "sha256").hexdigest()
    if digest != source.sha256:
        raise FetchError(f"{file}: SHA-256 is {digest[:12]}…, not {source.sha256[:12]}…; delete it and fetch again")
    return file


def fetch(name: str) -> Path:
    """The file called `name` (or by its path in the table), from `$AVGEO_MIRROR`, the cache, or its address.

    Raises `FetchError` for an unknown name, a file the mirror lacks, contents that differ, or no network.
    """
    table = source_files()
    source = table.get(name) or next((row for row in table.values() if row.path == name), None)
    if source is None:
        raise FetchError(f"unknown file {name!r}: choose one of {', '.join(table)}")
    mirror = os.environ.get(MIRROR)
    if mirror:
        mirrored = Path(mirror).expanduser() / source.path
        if not mirrored.is_file():
            raise FetchError(f"{MIRROR}={mirror} has no {source.path}; add it there, or unset {MIRROR} to download")
        return _check(mirrored, source)
    target = cache_dir() / "downloads" / source.path
    if target.is_file():
        return _check(target, source)
    # Imported here: pooch brings requests, and most commands never download.
    import pooch

    pooch.get_logger().setLevel("WARNING")
    try:
        # pooch downloads to a temporary file beside the target, checks it and renames it.
        pooch.retrieve(
            source.url,
            f"sha256:{source.sha256}",
            fname=target.name,
            path=target.parent,
            progressbar=True,
        )
    except OSError as error:  # requests' errors derive from it
        why = type(error).__name__
        raise FetchError(
            f"{source.name}: {source.url} cannot be reached ({why}); check the network, "
            f"or set {MIRROR} to a folder that has {source.path}"
        ) from None
    except ValueError as error:  # pooch's word for a hash that differs
        raise FetchError(f"{source.name}: the download is not the file listed ({error}); try again") from None
    return target
