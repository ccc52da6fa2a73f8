"""`avgeo book`: stage -> execute -> seal -> render, doing only what is stale."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

from avgeo.book.chapters import BookError, chapter_keys, checkout, read_chapters, select
from avgeo.book.execute import execute, executed_path, read_executed
from avgeo.book.render import page, published, render, rendered, stage
from avgeo.book.twins import sync_twins
from avgeo.profiles import get_profile


def build_book(
    profile: str = "smoke",
    seed: int = 0,
    chapters: Iterable[str] | None = None,
    resume: bool = True,
    check: bool = False,
) -> Path:
    """Execute the stale chapters, render the book, and return the path of its first page.

    `chapters` restricts execution to those named ("02", "02_atoms") and those they need; the others keep
    their last result, marked stale where it is. `resume=False` executes fresh ones again too. `check`
    executes and renders nothing, and raises when a page is stale. Artifacts of the stages are cached on
    their own (`avgeo.artifacts`).

    Raises `BookError` (one line) for a chapter that fails, a stale page under `check`, or warnings while
    rendering, and `avgeo.profiles.ProfileError` for an unknown profile.
    """
    get_profile(profile)
    if seed < 0:
        raise BookError(f"seed must be 0 or more, not {seed}")
    root = checkout()
    every = read_chapters(root)
    keys = chapter_keys(root, every, profile, seed)
    chosen = select(every, chapters)
    index = root / "_build" / "html" / "index.html"

    def kept(name: str):
        return read_executed(executed_path(root, profile, seed, name))

    def stale(name: str) -> bool:
        found = kept(name)
        return found is None or found[1]["key"] != keys[name]["key"]

    if check:
        shown = rendered(root).get("keys", {})
        old = [c.name for c in chosen if stale(c.name) or shown.get(c.name) != keys[c.name]["key"]]
        if old:
            raise BookError(f"stale pages: {', '.join(old)}; run `avgeo book --profile {profile} --seed {seed}`")
        return index

    for path in sync_twins(check=True):
        print(f"note: {path.parent.name}/{path.name} is not in step with its source: run `make sync`")
    for number, chapter in enumerate(chosen, 1):
        label = f"[{number}/{len(chosen)}] {chapter.name}"
        if resume and not stale(chapter.name):
            print(f"{label}: fresh")
            continue
        cells = sum(cell.cell_type == "code" for cell in chapter.notebook().cells)
        print(f"{label}: executing {cells} cells at profile {profile}, seed {seed}", flush=True)
        print(f"{label}: done in {execute(root, chapter, keys[chapter.name]):.0f} s", flush=True)

    executed = {chapter.name: kept(chapter.name) for chapter in every}
    pages = {c.name: page(c, executed[c.name], keys[c.name]["key"]) for c in every}
    shown = {
        n: folder for c in every if (found := executed[c.name]) for n, folder in published(found[0], c.name).items()
    }
    began = time.perf_counter()
    built = render(
        root, stage(root, pages, shown), {name: found[1]["key"] for name, found in executed.items() if found}
    )
    print(
        f"rendered in {time.perf_counter() - began:.0f} s: {index.relative_to(root)}" if built else "pages: up to date"
    )
    return index
