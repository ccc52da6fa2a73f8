"""From executed chapters to pages: stage, then build with execution off and warnings as errors."""

from __future__ import annotations

import html
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from avgeo.book.chapters import ANSI, BookError, Chapter, tree_hash
from avgeo.paths import cache_dir

_INJECTED = "injected-parameters"  # papermill's tag


def seal_text(seal: dict[str, Any]) -> str:
    """The readable freshness seal that ends an executed page (MyST Markdown)."""
    made = seal["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
    needs = ", ".join(f"{name} `{key[:12]}`" for name, key in seal["needs"].items()) or "no other chapter"
    when = seal["executed_at"].replace("T", " ").replace("+00:00", " UTC")
    rows = {
        "Seal": f"`{seal['key'][:12]}`",
        "Parameters": f"profile `{seal['profile']}`, seed `{seal['seed']}`",
        "This page's source": f"`{seal['source'][:12]}`",
        "avgeo's code": f"`{seal['code'][:12]}`, commit `{seal['commit']}`",
        "Constraints, tables": f"`{seal['lock'][:12]}`, `{seal['data'][:12]}`",
        "Rests on": needs,
        "Executed": f"{when}, in {seal['seconds']:.0f} s",
        "Machine": f"{made['platform']}, device {made['device']}, Python {made['python']}",
        "Versions": versions,
    }
    lines = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return (
        "## Freshness seal\n\nEverything above was computed from the inputs named here. When one of them "
        "changes, `make book` executes this page again, and `avgeo book --check` refuses it until then.\n\n"
        f"| what | value |\n|---|---|\n{lines}\n"
    )


def staged(notebook: Any, name: str) -> Any:
    """An executed notebook as the page wants it: alternative texts, captions, its real parameters.

    myst-nb reads both from the cell's metadata, so a cell holds at most one figure; two raise `BookError`.
    """
    injected = any(_INJECTED in cell.metadata.get("tags", []) for cell in notebook.cells)
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        if injected and "parameters" in cell.metadata.get("tags", []):  # the defaults, which did not count
            cell.metadata["tags"] = [*cell.metadata["tags"], "remove-cell"]
        figures = [output for output in cell.outputs if "image/png" in output.get("data", {})]
        where = f"chapter {name}, cell [{cell.execution_count}]"
        if len(figures) > 1:
            raise BookError(f"{where} shows {len(figures)} figures: split it, the book takes one figure per cell")
        cell.outputs = [o for o in cell.outputs if not o.get("metadata", {}).get("avgeo", {}).get("caption")]
        for output in filter(_told, cell.outputs):
            output.data["text/html"] = _framed(_told(output))
        for figure in figures:
            described = figure.metadata.get("image/png", {})
            if not described.get("alt"):
                raise BookError(f"{where} shows a figure without alternative text: use avgeo.book.show(fig, alt=...)")
            settings: dict[str, Any] = {"image": {"alt": described["alt"]}}
            if described.get("caption"):
                settings["figure"] = {"caption": described["caption"], "align": "center"}
            cell.metadata["mystnb"] = {**cell.metadata.get("mystnb", {}), **settings}
    return notebook


def published(notebook: Any, name: str) -> dict[str, Path]:
    """The folders that a chapter makes part of the book (`avgeo.book.publish`): name under `_static` -> folder.

    Raises `BookError` when an artifact is no longer in the cache.
    """
    found: dict[str, Path] = {}
    for told in filter(None, map(_told, (output for cell in notebook.cells for output in cell.get("outputs", [])))):
        folder = cache_dir() / told["artifact"]
        if not (folder / "index.html").is_file():
            raise BookError(
                f"chapter {name} shows {told['artifact']}, which is not in {cache_dir().name}/ any more: "
                f"run `avgeo book --chapters {name[:2]} --no-resume`"
            )
        found[told["name"]] = folder
    return found


def _told(output: Any) -> Any:
    return output.get("metadata", {}).get("avgeo", {}).get("published")


def _framed(told: dict[str, str]) -> str:
    """A page of `_static` in a frame, and a link to it for whoever wants it whole."""
    address, title = html.escape(f"../_static/{told['name']}/index.html"), html.escape(told["title"], quote=True)
    return (
        f'<p><a href="{address}">{title}, on a page of its own</a></p>'
        f'<iframe class="avgeo-page" src="{address}" title="{title}" loading="lazy" '
        'style="width:100%;height:52rem;max-height:92vh;border:1px solid #8a97a3;border-radius:12px"></iframe>'
    )


def page(chapter: Chapter, executed: tuple[Any, dict[str, Any]] | None, key: str) -> str:
    """The staged notebook of a chapter (JSON text): executed and sealed, or its source under a warning."""
    import nbformat

    if executed is None:
        notebook = chapter.notebook()
        note = "```{warning}\nThis page was not executed in this build: it has no results.\n```"
        notebook.cells.insert(1, nbformat.v4.new_markdown_cell(note, id="not-executed"))
    else:
        notebook, seal = staged(executed[0], chapter.name), executed[1]
        notebook.cells.append(nbformat.v4.new_markdown_cell(seal_text(seal), id="freshness-seal"))
        if seal["key"] != key:
            note = "```{warning}\nThis page is stale: what it rests on has changed since it was executed.\n```"
            notebook.cells.insert(1, nbformat.v4.new_markdown_cell(note, id="stale"))
    notebook.metadata.pop("papermill", None)
    return nbformat.writes(notebook)


def _staged_config(root: Path) -> str:
    """`_config.yml` without its exclusion of the notebooks, which only the preview of the sources needs."""
    import yaml

    config = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))
    config["exclude_patterns"] = [item for item in config["exclude_patterns"] if not item.startswith("notebooks/")]
    return yaml.safe_dump(config, sort_keys=False)


def stage(root: Path, pages: dict[str, str], shown: Mapping[str, Path] | None = None) -> Path:
    """Lay out `_build/stage`: `_config.yml`, `book/`, the chapters, and what they publish (`shown`, by name).

    Only files that differ are written.

    The stage has the repository's layout, so that document names, and with them the Colab links, are the
    repository's.
    """
    folder = root / "_build" / "stage"
    wanted = {Path("_config.yml"): _staged_config(root).encode()}
    for file in (root / "book").rglob("*"):
        if file.is_file():
            wanted[file.relative_to(root)] = file.read_bytes()
    for name, artifact in (shown or {}).items():
        for file in artifact.rglob("*"):
            if file.is_file():
                wanted[Path("book", "_static", name, file.relative_to(artifact))] = file.read_bytes()
    for name, text in pages.items():
        wanted[Path("notebooks", f"{name}.ipynb")] = text.encode()
    for relative, content in wanted.items():
        target = folder / relative
        if not target.is_file() or target.read_bytes() != content:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
    for file in list(folder.rglob("*")):
        if file.is_file() and file.relative_to(folder) not in wanted:
            file.unlink()
    return folder


def rendered(root: Path) -> dict[str, Any]:
    """What `_build/html` was rendered from: `stage` (a hash) and `keys` by chapter; empty when it was not."""
    stamp = root / "_build" / "rendered.json"
    return json.loads(stamp.read_text()) if stamp.is_file() and (root / "_build" / "html").is_dir() else {}


def render(root: Path, folder: Path, keys: dict[str, str]) -> bool:
    """Build `_build/html` from the stage unless it is up to date; True when something was built.

    Raises `BookError` with Sphinx's own warnings; a failed build leaves no cache, or the next would not
    repeat them.
    """
    build = root / "_build"
    now = {"stage": tree_hash(folder), "keys": keys}
    if rendered(root) == now:
        return False
    stamp = build / "rendered.json"
    stamp.unlink(missing_ok=True)
    log = build / "render.log"
    command = [
        sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build", str(folder),
        "--config", str(folder / "_config.yml"), "--toc", str(folder / "book" / "_toc.yml"),
        "--path-output", str(root), "--warningiserror", "--keep-going",
    ]  # fmt: skip
    with log.open("wb") as out:
        code = subprocess.run(
            command, stdout=out, stderr=subprocess.STDOUT, env={**os.environ, "NO_COLOR": "1"}
        ).returncode
    if code:
        shutil.rmtree(build / ".doctrees", ignore_errors=True)
        lines = ANSI.sub("", log.read_text(errors="replace")).replace(f"{folder}{os.sep}", "").splitlines()
        told = [line for line in lines if "WARNING" in line or "ERROR" in line] or lines[-5:]
        raise BookError("the pages have warnings (see _build/render.log):\n" + "\n".join(told[:20]))
    if not (build / "html" / "index.html").is_file():
        raise BookError("jupyter-book wrote no index.html (see _build/render.log)")
    stamp.write_text(json.dumps(now, indent=1) + "\n")
    return True
