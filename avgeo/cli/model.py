"""Commands about models: `atoms`, `train`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from avgeo.cli.console import ProfileOption, SeedOption, app, echo, load_model, probe_file, say, writable, write


@app.command()
def atoms(
    file: Annotated[Path, typer.Argument(help="A video or audio file.")],
    json_out: Annotated[Path | None, typer.Option("--json", help="Write the atoms here.")] = None,
    png_out: Annotated[Path | None, typer.Option("--png", help="Draw them on the clip's spectrogram, here.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many, the strongest.")] = None,
    max_seconds: Annotated[
        float | None, typer.Option(min=0.5, help="Seconds of the clip to hear; default: all.")
    ] = None,
    model: Annotated[Path | None, typer.Option(help="Folder of `avgeo train --out`.")] = None,
    profile: ProfileOption = "smoke",
    seed: SeedOption = 0,
) -> None:
    """List the acoustic atoms of a clip, strongest first: start, end, strength, name."""
    if not probe_file(file).has_audio:
        from avgeo.clips import ClipError

        raise ClipError(f"{file}: has no sound; give a clip with sound")
    writable(json_out, png_out)
    from avgeo.locate import LocateModel, hear

    system = load_model(LocateModel, model, profile, seed)
    found = hear(file, system, max_s=max_seconds)[:limit]
    for atom in found:
        echo(f"{atom.start_s:7.2f}-{atom.end_s:6.2f} s  {atom.strength:8.2f}  {atom.name}")
    if not found:
        say(f"note: no atom sounds in {file}")
    if json_out is not None:
        write(json_out, json.dumps([atom.as_dict() for atom in found], indent=1) + "\n")
    if png_out is not None:
        from avgeo.hearing import draw_heard
        from avgeo.plots.style import png

        write(png_out, png(draw_heard(file, found, system.atoms, max_s=max_seconds)[0]))


@app.command()
def train(
    profile: ProfileOption = "smoke",
    seed: SeedOption = 0,
    out: Annotated[Path | None, typer.Option(help="Also copy the finished model into this folder.")] = None,
) -> None:
    """Make AVG-Sim and train every stage on it; what is already in the cache is kept, so this resumes."""
    from avgeo.doctor import STAGES
    from avgeo.pipeline import Pipeline
    from avgeo.profiles import get_profile
    from avgeo.reason.sizes import check_policy

    study = Pipeline(get_profile(profile), seed)
    check_policy(study.profile.reason.policy)  # told before the stages that come first, not after
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)  # a place that cannot be written is told before the training, not after
    for stage in STAGES:
        artifact = getattr(study, stage)
        say(f"{stage}: {artifact.path} ({artifact.card()['seconds']} s when made)")
    if out is not None:
        study.export(out)
        say(f"model: {out}")
