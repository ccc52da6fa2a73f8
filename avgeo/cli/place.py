"""Commands about places: `locate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from avgeo.cli.console import HERE, ProfileOption, SeedOption, app, load_model, probe_file, writable, write


@app.command()
def locate(
    file: Annotated[Path, typer.Argument(help="A video, an audio file or a photo.")],
    json_out: Annotated[Path | None, typer.Option("--json", help="Write the posterior and its evidence here.")] = None,
    html_out: Annotated[Path | None, typer.Option("--html", help="Write a self-contained report here.")] = None,
    geojson_out: Annotated[Path | None, typer.Option("--geojson", help="Write regions, samples, estimate.")] = None,
    model: Annotated[
        Path | None,
        typer.Option(help="Folder of `avgeo train --out`, or `here`: the one trained here. Default: the detectors."),
    ] = None,
    detectors: Annotated[
        bool | None, typer.Option(help="Ask the detectors (default: unless a --model is given).", show_default=False)
    ] = None,
    no_prior: Annotated[bool, typer.Option("--no-prior", help="No prior of land and people.")] = False,
    hint: Annotated[
        list[str] | None, typer.Option(help="Your own clue, e.g. mains=60 or language=ar,sure=0.8; repeatable.")
    ] = None,
    without: Annotated[
        list[str] | None, typer.Option(help="A detector or a label that is not to count; repeatable.")
    ] = None,
    coarsen: Annotated[float | None, typer.Option(help="Tell nothing finer than cells of so many km.")] = None,
    audit_out: Annotated[
        Path | None, typer.Option("--audit", help="Write what was taken, refused and used, with hashes, here.")
    ] = None,
    speakers_agreed: Annotated[
        bool, typer.Option("--speakers-agreed", help="Who is heard has agreed: voices alone are refused otherwise.")
    ] = False,
    week: Annotated[int | None, typer.Option(help="When it was recorded, if known: 1 to 48, four a month.")] = None,
    profile: ProfileOption = "smoke",
    seed: SeedOption = 0,
    sight_only: Annotated[bool, typer.Option(help="Do not listen (with a model: silent videos, photos).")] = False,
    max_seconds: Annotated[float, typer.Option(min=0.5, help="Seconds of the clip to use.")] = 60.0,
) -> None:
    """Where was this recorded? Ranked places with probabilities, and what each piece of evidence did.

    Works offline without a trained model: birds (extra `detectors`), mains hum, and a prior of land and people.
    """
    media = probe_file(file)
    from avgeo.discretion import coarsened, refusal
    from avgeo.hints import read_hints
    from avgeo.locate import LocateError, LocateModel, usable
    from avgeo.locate import locate as run
    from avgeo.telling import located_lines

    writable(json_out, html_out, geojson_out, audit_out)
    hints = read_hints(hint or [])  # told of a misspelt one before the work
    trained = None
    if model is not None:
        usable(file, sight_only=sight_only)
        trained = load_model(LocateModel, None if str(model) == HERE else model, profile, seed)
    found = run(
        file, trained, detectors=detectors, prior=not no_prior, hints=hints, without=without or [], week=week,
        sight_only=sight_only, max_s=max_seconds, seed=seed,
    )  # fmt: skip
    if found.fused is not None and trained is None:
        events = [clue.event for clue in found.fused.clues]
        seen = media.has_video or media.kind == "image"
        if why := refusal(events, has_sight=seen, speakers_agreed=speakers_agreed):
            raise LocateError(f"{file}: {why}")
    if coarsen is not None:
        found = coarsened(found, coarsen)
    typer.echo("\n".join(located_lines(found)))
    if json_out is not None:
        write(json_out, json.dumps(found.as_dict(), indent=1, ensure_ascii=False) + "\n")
    if geojson_out is not None:
        write(geojson_out, json.dumps(found.geojson()) + "\n")
    if html_out is not None:
        from avgeo.report import write_report

        write(html_out, write_report(file, found, max_s=max_seconds))
    if audit_out is not None:
        from avgeo.trail import audit_trail

        settings = {"prior": not no_prior, "without": without or [], "week": week, "seed": seed, "coarsen_km": coarsen}
        settings |= {"max_seconds": max_seconds, "sight_only": sight_only, "speakers_agreed": speakers_agreed}
        write(audit_out, json.dumps(audit_trail(found, settings), indent=1, ensure_ascii=False) + "\n")
