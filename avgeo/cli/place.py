"""Commands about places: `locate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from avgeo.cli.console import ProfileOption, SeedOption, app, load_model, probe_file, writable, write


@app.command()
def locate(
    file: Annotated[Path, typer.Argument(help="A video or audio file.")],
    json_out: Annotated[Path | None, typer.Option("--json", help="Write the posterior and its evidence here.")] = None,
    html_out: Annotated[Path | None, typer.Option("--html", help="Write a self-contained report here.")] = None,
    geojson_out: Annotated[Path | None, typer.Option("--geojson", help="Write regions, samples, estimate.")] = None,
    model: Annotated[
        Path | None, typer.Option(help="Folder of `avgeo train --out`; default: the model trained here.")
    ] = None,
    profile: ProfileOption = "smoke",
    seed: SeedOption = 0,
    sight_only: Annotated[bool, typer.Option(help="Locate by picture alone (silent videos, photos).")] = False,
    max_seconds: Annotated[float, typer.Option(min=0.5, help="Seconds of the clip to use.")] = 60.0,
) -> None:
    """Where was this recorded? Ranked places with probabilities, atoms heard, and what each evidence did."""
    probe_file(file)
    from avgeo.locate import LocateModel, usable
    from avgeo.locate import locate as run
    from avgeo.telling import located_lines

    usable(file, sight_only=sight_only)
    writable(json_out, html_out, geojson_out)
    found = run(
        file, load_model(LocateModel, model, profile, seed), sight_only=sight_only, max_s=max_seconds, seed=seed
    )
    typer.echo("\n".join(located_lines(found)))
    if json_out is not None:
        write(json_out, json.dumps(found.as_dict(), indent=1, ensure_ascii=False) + "\n")
    if geojson_out is not None:
        write(geojson_out, json.dumps(found.geojson()) + "\n")
    if html_out is not None:
        from avgeo.report import write_report

        write(html_out, write_report(file, found, max_s=max_seconds))
