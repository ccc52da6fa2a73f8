"""Where avgeo finds its tables, keeps what it makes, and how a text is written; every other module asks here."""

from __future__ import annotations

import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def repository() -> Path | None:
    """The checkout this package runs from, or None when it was installed from a wheel."""
    root = _PACKAGE.parent
    return root if (root / "_config.yml").is_file() and (root / "notebooks").is_dir() else None


def data_dir() -> Path:
    """The folder of small tables: `data/` of the checkout, or its copy inside an installed wheel."""
    packaged = _PACKAGE / "_data"
    if packaged.is_dir():
        return packaged
    return _PACKAGE.parent / "data"


def cache_dir() -> Path:
    """Where artifacts live: `$AVGEO_CACHE`, else `_build/artifacts` of the checkout, else the user's cache folder."""
    named = os.environ.get("AVGEO_CACHE")
    if named:
        return Path(named).expanduser().resolve()
    root = repository()
    if root is not None:
        return root / "_build" / "artifacts"
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "avgeo"


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` (UTF-8): whole or not at all."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path`: whole or not at all."""
    draft = path.with_name(path.name + ".partial")
    draft.write_bytes(content)
    draft.replace(path)
