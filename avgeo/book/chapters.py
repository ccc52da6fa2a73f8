"""The chapters: their sources, what each needs, and the key that says whether an executed one is still true.

A chapter's key is a hash over its source, avgeo's code, the constraints, the tables, the parameters and the
keys of the chapters it needs. An edit therefore changes the keys of that chapter and of those downstream,
and of no other.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avgeo.paths import repository

ANSI = re.compile(r"\x1b\[[0-9;]*m")  # the colours in a kernel's tracebacks and in Sphinx's warnings


class BookError(RuntimeError):
    """The book cannot be built as asked; the message is one line that says what to do."""


@dataclass(frozen=True)
class Chapter:
    """One `notebooks/NN_name.md`: its name, its file, its text and the chapters whose results it uses."""

    name: str
    source: Path
    text: str
    needs: tuple[str, ...]

    def notebook(self) -> Any:
        """The chapter as an `nbformat` notebook without outputs."""
        import nbformat

        from avgeo.book.twins import twin

        return nbformat.reads(twin(self.text), as_version=4)


def checkout() -> Path:
    """The repository's root; raises `BookError` when avgeo was installed without its book."""
    root = repository()
    if root is None:
        raise BookError("the book is built from a checkout: clone the repository and run `make book` there")
    return root


def read_chapters(root: Path) -> list[Chapter]:
    """Every chapter of the book in order, `needs` read from the front matter's `avgeo: {needs: [...]}`."""
    import jupytext

    chapters: list[Chapter] = []
    for source in sorted((root / "notebooks").glob("[0-9][0-9]_*.md")):
        text = source.read_text(encoding="utf-8")
        front = jupytext.reads(text, fmt="md:myst").metadata.get("avgeo")
        if not isinstance(front, dict) or not isinstance(front.get("needs"), list):
            raise BookError(
                f"{source.name}: the front matter lacks `avgeo: {{needs: [...]}}` ([] if it needs no chapter)"
            )
        earlier = [chapter.name for chapter in chapters]
        for need in front["needs"]:
            if need not in earlier:
                raise BookError(f"{source.name} needs {need!r}, which is none of the chapters before it: {earlier}")
        chapters.append(Chapter(source.stem, source, text, tuple(front["needs"])))
    if not chapters:
        raise BookError(f"no chapters: {root.name}/notebooks has no NN_name.md")
    return chapters


def select(chapters: list[Chapter], wanted: Iterable[str] | None) -> list[Chapter]:
    """The chapters named ("2", "02", "02_atoms") and those they need; all of them when `wanted` is None."""
    if wanted is None:
        return chapters
    names: set[str] = set()
    for item in wanted:
        found = [c.name for c in chapters if item in (c.name, c.name[:2], c.name[:2].lstrip("0"))]
        if not found:
            raise BookError(f"no chapter {item!r}: choose from {', '.join(c.name for c in chapters)}")
        names.update(found)
    for chapter in reversed(chapters):
        if chapter.name in names:
            names.update(chapter.needs)
    return [chapter for chapter in chapters if chapter.name in names]


def tree_hash(folder: Path, pattern: str = "*") -> str:
    """SHA-256 over the relative names and bytes of a folder's files; compiled files are left out."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob(pattern)):
        if file.is_file() and "__pycache__" not in file.parts:
            digest.update(file.relative_to(folder).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def chapter_keys(root: Path, chapters: list[Chapter], profile: str, seed: int) -> dict[str, dict[str, Any]]:
    """What each chapter rests on: source, code, lock, data, profile, seed, needs, and a `key` over them."""
    shared = {
        "code": tree_hash(root / "avgeo"),
        "lock": _hash((root / "constraints.txt").read_text(encoding="utf-8")),
        "data": tree_hash(root / "data"),
        "profile": profile,
        "seed": seed,
    }
    keys: dict[str, dict[str, Any]] = {}
    for chapter in chapters:
        needs = {need: keys[need]["key"] for need in chapter.needs}
        parts = {"source": _hash(chapter.text), **shared, "needs": needs}
        keys[chapter.name] = parts | {"key": _hash(json.dumps(parts, sort_keys=True))}
    return keys
