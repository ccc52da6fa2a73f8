"""Commands about corpora: `simulate`, `curate`, `verify`, `embed`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from avgeo.cli.console import ProfileOption, SeedOption, app, echo, say


@app.command()
def simulate(
    out: Annotated[Path, typer.Option(help="Folder for media, manifest, truth and description.")],
    clips: Annotated[int, typer.Option(min=1, help="How many clips in all.")] = 2000,
    places: Annotated[int, typer.Option(min=4, help="How many places.")] = 400,
    seed: SeedOption = 0,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; default: all cores.")] = None,
    duration: Annotated[float, typer.Option(min=0.5, help="Length of a clip, seconds.")] = 4.0,
    engine: Annotated[str, typer.Option(help="local, process or ray: where the workers run.")] = "process",
    speech: Annotated[str, typer.Option(help="formant, or espeak (extra `voices`).")] = "formant",
) -> None:
    """Make AVG-Sim: clips with sound and picture from real places, with the truth of every cue. Resumes."""
    from avgeo.engine import default_workers
    from avgeo.profiles import WorldSettings
    from avgeo.world import simulate as run

    settings = replace(
        WorldSettings(), places=places, clips_per_place=-(-clips // places), duration_s=duration, speech=speech
    )
    done = run(settings, seed, out, workers=workers or default_workers(), clips_limit=clips, engine=engine)
    say(f"{clips} clips from {places} places in {out}: {done}")
    if clips < places:
        say(f"note: {clips} clips leave {places - clips} of the {places} places without any")


@app.command()
def curate(
    where: Annotated[
        str, typer.Argument(help="Where the source is: a folder of media, a table, a file of addresses, a query.")
    ] = "",
    out: Annotated[Path | None, typer.Option(help="Folder for manifest, rejects and report.")] = None,
    source: Annotated[
        str, typer.Option(help="folder, manifest, commons, yfcc100m, aporee, xeno-canto or yt-dlp.")
    ] = "folder",
    explain: Annotated[Path | None, typer.Option(help="Only say what every gate measures of this one clip.")] = None,
    need: Annotated[
        str, typer.Option(help="Modalities an item must have: picture, sound, or both as picture,sound.")
    ] = "",
    min_duration: Annotated[float | None, typer.Option(help="Shortest clip kept, seconds.")] = None,
    licence_required: Annotated[bool, typer.Option(help="Reject items whose licence is unknown.")] = False,
    licences: Annotated[str, typer.Option(help="Licences allowed, e.g. CC0,CC-BY; default: any.")] = "",
    without: Annotated[str, typer.Option(help="Gates that only remark and do not reject, e.g. music,captions.")] = "",
    set_: Annotated[list[str] | None, typer.Option("--set", help="Any threshold: NAME=VALUE; may be repeated.")] = None,
    coarsen: Annotated[float | None, typer.Option(help="Publish coordinates no finer than this, km.")] = None,
    copy: Annotated[bool, typer.Option(help="Copy the media kept into OUT/media.")] = False,
    shards: Annotated[
        bool, typer.Option(help="Write the media kept into WebDataset shards, where their licence allows copies.")
    ] = False,
    redistribute_unknown: Annotated[
        bool, typer.Option(help="Put media into shards whatever their licence: you have the right to.")
    ] = False,
    engine: Annotated[str, typer.Option(help="local, process or ray: where items are examined.")] = "process",
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; default: all cores.")] = None,
    profile: ProfileOption = "smoke",
    seed: SeedOption = 0,
) -> None:
    """Make a benchmark of real media with known coordinates; every reject has its gate and reason. Resumes."""
    from avgeo.profiles import changed, get_profile

    given = {"need": need, "licences": licences, "without": without}
    given |= {"min_duration_s": min_duration, "coarsen_km": coarsen, "licence_required": licence_required or None}
    assignments = [f"{name}={value}" for name, value in given.items() if value not in ("", None)]
    settings = changed(get_profile(profile).curate, [*assignments, *(set_ or [])])
    if explain is not None:
        from avgeo.curate import as_text
        from avgeo.curate import explain as run_explain

        echo(*as_text(run_explain(explain, settings)).splitlines())
        return
    if not where or out is None:
        raise typer.BadParameter("give WHERE and --out DIR, or --explain CLIP")
    from avgeo.curate import curate as run

    report = run(
        source, where, out, settings,
        seed=seed, engine=engine, workers=workers, copy=copy, shards=shards, redistribute_unknown=redistribute_unknown,
    )  # fmt: skip
    total = report.kept + report.rejected
    echo(f"kept {report.kept} of {total} from {report.places} places; manifest: {report.manifest}")
    for gate, count in report.by_gate.items():
        echo(f"  rejected by {gate}: {count}")
    if report.rejected:
        echo(f"  reasons: {report.rejects}")
    for what, count in report.not_measured.items():
        say(f"note: {what} ({count} items)")
    for note in report.notes:
        say(f"note: {note}")
    if not report.kept:
        say(f"error: nothing in {where} could be kept; {report.rejects} says why for each item")
        raise typer.Exit(1)


@app.command()
def verify(folder: Annotated[Path, typer.Argument(help="Folder of `avgeo curate` or `avgeo simulate`.")]) -> None:
    """Re-check a corpus: checksums, media, shards, splits, descriptions. Exit status 1 when anything is wrong."""
    from avgeo.curate import verify as run

    problems = run(folder)
    echo(*problems)
    if problems:
        say(f"error: {len(problems)} problem{'s' * (len(problems) > 1)} in {folder}")
        raise typer.Exit(1)
    echo(f"{folder}: all is as it was published")


@app.command()
def embed(
    manifest: Annotated[Path, typer.Argument(help="manifest.parquet, or the folder of `avgeo curate` or `simulate`.")],
    out: Annotated[Path, typer.Option(help="Folder for the shards of features and their index.")],
    encoder: Annotated[
        str, typer.Option(help="log-mel, birdnet, or hf: and a hub id or folder, e.g. hf:laion/clap-htsat-unfused.")
    ] = "log-mel",
    engine: Annotated[str, typer.Option(help="local, process or ray: where clips are embedded.")] = "process",
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; default: all cores, or one per GPU.")] = None,
    profile: ProfileOption = "smoke",
) -> None:
    """Turn every clip of a corpus into frames of sound and thumbnails, in safetensors shards. Resumes."""
    from avgeo.manifest import read_manifest
    from avgeo.perceive.embedding import embed_corpus
    from avgeo.profiles import get_profile

    table, settings = read_manifest(manifest), get_profile(profile).atoms
    root = manifest if manifest.is_dir() else manifest.parent
    corpus = embed_corpus(table, root, settings, out, encoder=encoder, engine=engine, workers=workers)
    done, failed, card = corpus.index, corpus.failed, corpus.card
    echo(
        f"embedded {len(done)} of {len(table)} clips with {encoder}: {done['count'].sum()} frames of {card['dim']}, "
        f"one per {card['frame_s']:g} s; index: {out / 'index.parquet'}"
    )
    if len(failed):
        first = failed.iloc[0]
        echo(f"  failed: {len(failed)}, first {first['clip_id']}: {first['reason']}")
        echo(f"  reasons: {out / 'failed.parquet'}")
    if not len(done):
        say(f"error: nothing of {manifest} could be embedded")
        raise typer.Exit(1)
