"""The `.ipynb` twins of the chapters, a function of their `.md` sources, for Colab, papermill, nbmake.

`make sync` writes those that differ; a test fails while any does.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

_KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def twin(text: str) -> str:
    """The notebook (JSON text, no outputs) of a MyST Markdown source.

    Cell ids are hashes of the cells, so the same source gives the same bytes and an inserted cell changes
    no other id.
    """
    import jupytext
    import nbformat

    notebook = jupytext.reads(text, fmt="md:myst")
    metadata = {key: value for key, value in notebook.metadata.items() if key != "jupytext"}
    notebook.metadata = nbformat.from_dict({**metadata, "kernelspec": _KERNEL, "language_info": {"name": "python"}})
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    seen: dict[str, int] = {}
    for cell in notebook.cells:
        stem = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:12]
        seen[stem] = seen.get(stem, 0) + 1
        cell["id"] = stem if seen[stem] == 1 else f"{stem}-{seen[stem]}"
    return nbformat.writes(notebook).rstrip("\n") + "\n"


def sync_twins(check: bool = False) -> list[Path]:
    """Regenerate the twins that differ from their sources and return them; with `check`, only return them."""
    from avgeo.book.chapters import checkout, read_chapters

    changed: list[Path] = []
    for chapter in read_chapters(checkout()):
        path, text = chapter.source.with_suffix(".ipynb"), twin(chapter.text)
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            changed.append(path)
            if not check:
                path.write_text(text, encoding="utf-8")
    return changed
