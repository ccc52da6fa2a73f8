"""Execute a chapter with papermill and keep it with its freshness seal.

An executed chapter lives in `_build/executed/<profile>-<seed>/NN_name.ipynb`. It appears there only when
every cell has run, with its seal in the notebook's metadata: what it rests on (see `chapters.chapter_keys`)
and the circumstances.
"""

from __future__ import annotations

import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from avgeo.artifacts import commit, machine
from avgeo.book.chapters import ANSI, BookError, Chapter


def executed_path(root: Path, profile: str, seed: int, name: str) -> Path:
    """Where the executed chapter is kept."""
    return root / "_build" / "executed" / f"{profile}-{seed}" / f"{name}.ipynb"


def read_executed(path: Path) -> tuple[Any, dict[str, Any]] | None:
    """An executed chapter and its seal, or None when there is none that can be read."""
    import nbformat

    if not path.is_file():
        return None
    notebook = nbformat.read(path, as_version=4)
    return notebook, dict(notebook.metadata["avgeo"]["seal"])


def _last_line(text: str) -> str:
    lines = [line.strip() for line in ANSI.sub("", text).splitlines() if line.strip()]
    return lines[-1] if lines else ""


def execute(root: Path, chapter: Chapter, parts: dict[str, Any]) -> float:
    """Run one chapter with the profile and seed in `parts`, seal it, and return the seconds it took.

    Raises `BookError` naming the chapter, the cell and the last line of its error; the unfinished notebook
    stays beside the place of the finished one as `NN_name.failed.ipynb`.
    """
    import nbformat
    import papermill
    from nbclient.exceptions import CellControlSignal, CellExecutionError, DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    final = executed_path(root, parts["profile"], parts["seed"], chapter.name)
    final.parent.mkdir(parents=True, exist_ok=True)
    partial, failed = final.with_suffix(".partial.ipynb"), final.with_suffix(".failed.ipynb")
    # One thread is faster than two for models this small; the chapters' kernels inherit it.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    began = time.perf_counter()
    try:
        papermill.execute_notebook(
            chapter.notebook(),
            str(partial),
            parameters={"profile": parts["profile"], "seed": parts["seed"]},
            kernel_name="python3",
            cwd=str(root / "notebooks"),
            progress_bar=sys.stderr.isatty(),
            # ipykernel logs its transport at each start and an "error" at each orderly end: neither is the
            # chapter's.
            extra_arguments=["--IPKernelApp.log_level=CRITICAL"],
        )
    except PapermillExecutionError as error:
        partial.replace(failed)
        cell = f"cell [{error.exec_count}] `{error.source.strip().splitlines()[0][:60]}`"
        last = _last_line(f"{error.ename}: {error.evalue}")
        raise BookError(f"chapter {chapter.name}, {cell}: {last} (see {failed.relative_to(root)})") from None
    except (CellControlSignal, CellExecutionError, DeadKernelError) as error:
        raise BookError(f"chapter {chapter.name}: the kernel stopped: {_last_line(str(error))}") from None
    seconds = time.perf_counter() - began
    notebook = nbformat.read(partial, as_version=4)
    seal = {
        **parts,
        "commit": commit() or "not in version control",
        "machine": machine(),
        "seconds": round(seconds, 1),
        "executed_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    notebook.metadata.setdefault("avgeo", {})["seal"] = seal
    nbformat.write(notebook, partial)
    partial.replace(final)
    failed.unlink(missing_ok=True)
    return seconds
