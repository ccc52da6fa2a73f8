"""Where candidates come from. A source yields every item it sees; what is wrong with one is its `problem`.

`where` is a path for the sources that read files, a query for those that ask a service. Network sources only list here;
`avgeo.curate.download` fetches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from avgeo.curate.candidate import Candidate, CurateError
from avgeo.curate.commons import commons
from avgeo.curate.folder import candidate_of, folder
from avgeo.curate.listings import aporee, manifest, yfcc100m
from avgeo.curate.xenocanto import xeno_canto
from avgeo.curate.youtube import yt_dlp

__all__ = [
    "SOURCES",
    "Candidate",
    "CurateError",
    "Source",
    "candidate_of",
    "candidates",
    "described",
    "folder",
]

Source = Callable[[str | Path], Iterator[Candidate]]

SOURCES: dict[str, Source] = {
    "folder": folder,
    "manifest": manifest,
    "commons": commons,
    "yfcc100m": yfcc100m,
    "aporee": aporee,
    "xeno-canto": xeno_canto,
    "yt-dlp": yt_dlp,
}


def described() -> str:
    """One line per source: its name and what `where` is."""
    return "\n".join(f"{name}: {(source.__doc__ or '').splitlines()[0]}" for name, source in SOURCES.items())


def candidates(source: str, where: str | Path) -> Iterator[Candidate]:
    """The candidates of the source called `source`; raises `CurateError` naming the valid ones."""
    if source not in SOURCES:
        raise CurateError(f"unknown source {source!r}: choose one of {', '.join(SOURCES)}")
    return SOURCES[source](where)
