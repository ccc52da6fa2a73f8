"""The book: what a notebook calls, and how its chapters are staged, executed, sealed and rendered.

In a notebook: `parameters`, `show`, `table`, `players`, `publish`, `provenance`. For the command line: `build_book`,
`sync_twins`.
"""

from __future__ import annotations

from avgeo.book.build import build_book
from avgeo.book.chapters import BookError, Chapter, chapter_keys, read_chapters
from avgeo.book.notebook import ParameterError, Run, parameters, players, provenance, publish, show, table
from avgeo.book.twins import sync_twins

__all__ = [
    "BookError",
    "Chapter",
    "ParameterError",
    "Run",
    "build_book",
    "chapter_keys",
    "parameters",
    "players",
    "provenance",
    "publish",
    "read_chapters",
    "show",
    "sync_twins",
    "table",
]
