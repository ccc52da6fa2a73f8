"""Commands about this house: `book`, `doctor`."""

from __future__ import annotations

from typing import Annotated

import typer

from avgeo.cli.console import ProfileOption, SeedOption, app, echo, say


@app.command()
def book(
    profile: ProfileOption = "smoke",
    seed: SeedOption = 0,
    chapters: Annotated[str, typer.Option(help="Only these, e.g. 02,04, and what they need.")] = "",
    resume: Annotated[bool, typer.Option(help="Keep chapters whose result is fresh.")] = True,
    check: Annotated[bool, typer.Option(help="Execute nothing; fail when a page is stale.")] = False,
    sync: Annotated[bool, typer.Option(help="Only regenerate the .ipynb twins of notebooks/*.md.")] = False,
) -> None:
    """Execute the stale chapters and render the book into _build/html."""
    from avgeo.book import build_book, sync_twins

    if sync:
        for path in sync_twins():
            say(f"wrote {path.name}")
        return
    wanted = [part.strip() for part in chapters.split(",") if part.strip()] or None
    index = build_book(profile, seed, wanted, resume=resume, check=check)
    say(f"the book is at {index}")


@app.command()
def doctor() -> None:
    """What this machine can run: versions, devices, caches, extras, trained models."""
    from avgeo.doctor import diagnose

    lines, healthy = diagnose()
    echo(*lines)
    if not healthy:
        raise typer.Exit(1)
