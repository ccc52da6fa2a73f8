"""The command line: `avgeo simulate | curate | verify | embed | atoms | train | evaluate | locate | book | doctor`.

Errors that a user can cure are one line on stderr and exit status 2; anything else is a bug and keeps its traceback.
"""

from __future__ import annotations

import errno
import json
import os
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from avgeo.paths import write_bytes
from avgeo.quiet import quiet
from avgeo.untrusted import shown

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ProfileOption = Annotated[str, typer.Option(help="Size of every stage: smoke, colab or full.")]
SeedOption = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of everything random.")]
_INTERRUPTED = 130


def main() -> None:
    """Entry point: avgeo's own errors, and the system's about files, become one line and exit status 2."""
    # the models here are tiny: threads that wait for each other cost more than they compute
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    quiet()
    try:
        app(prog_name="avgeo")
    except SystemExit as stop:
        if stop.code == _INTERRUPTED:  # typer's, without a word, for Ctrl-C
            _say("interrupted; run the same command again to continue")
        raise
    except Exception as error:
        if not (type(error).__module__.startswith("avgeo.") or isinstance(error, OSError)):
            raise
        _say(f"error: {' '.join(str(error).split())}")
        sys.exit(2)


def _say(message: str) -> None:
    print(f"avgeo: {shown(message)}", file=sys.stderr)


def _echo(*lines: str) -> None:
    """Print lines of a result: what files and models are called is shown, and no terminal obeys it."""
    for line in lines:
        typer.echo(shown(line))


def _writable(*paths: Path | None) -> None:
    """Tell of a place that cannot be written before the work, not after; makes the folders that are missing."""
    for path in paths:
        if path is not None:
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, "Is a directory; name a file to write", str(path))
            path.parent.mkdir(parents=True, exist_ok=True)


def _write(path: Path, content: str | bytes) -> None:
    """Write a result whole or not at all, and say where it is."""
    # a file name that is no UTF-8 holds lone surrogates: JSON has escapes for them
    write_bytes(path, content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content)
    _say(f"wrote {path}")


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
    _say(f"{clips} clips from {places} places in {out}: {done}")
    if clips < places:
        _say(f"note: {clips} clips leave {places - clips} of the {places} places without any")


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

        _echo(*as_text(run_explain(explain, settings)).splitlines())
        return
    if not where or out is None:
        raise typer.BadParameter("give WHERE and --out DIR, or --explain CLIP")
    from avgeo.curate import curate as run

    report = run(
        source, where, out, settings,
        seed=seed, engine=engine, workers=workers, copy=copy, shards=shards, redistribute_unknown=redistribute_unknown,
    )  # fmt: skip
    total = report.kept + report.rejected
    _echo(f"kept {report.kept} of {total} from {report.places} places; manifest: {report.manifest}")
    for gate, count in report.by_gate.items():
        _echo(f"  rejected by {gate}: {count}")
    if report.rejected:
        _echo(f"  reasons: {report.rejects}")
    for what, count in report.not_measured.items():
        _say(f"note: {what} ({count} items)")
    for note in report.notes:
        _say(f"note: {note}")
    if not report.kept:
        _say(f"error: nothing in {where} could be kept; {report.rejects} says why for each item")
        raise typer.Exit(1)


@app.command()
def verify(folder: Annotated[Path, typer.Argument(help="Folder of `avgeo curate` or `avgeo simulate`.")]) -> None:
    """Re-check a corpus: checksums, media, shards, splits, descriptions. Exit status 1 when anything is wrong."""
    from avgeo.curate import verify as run

    problems = run(folder)
    _echo(*problems)
    if problems:
        _say(f"error: {len(problems)} problem{'s' * (len(problems) > 1)} in {folder}")
        raise typer.Exit(1)
    _echo(f"{folder}: all is as it was published")


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
    _echo(
        f"embedded {len(done)} of {len(table)} clips with {encoder}: {done['count'].sum()} frames of {card['dim']}, "
        f"one per {card['frame_s']:g} s; index: {out / 'index.parquet'}"
    )
    if len(failed):
        first = failed.iloc[0]
        _echo(f"  failed: {len(failed)}, first {first['clip_id']}: {first['reason']}")
        _echo(f"  reasons: {out / 'failed.parquet'}")
    if not len(done):
        _say(f"error: nothing of {manifest} could be embedded")
        raise typer.Exit(1)


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
    if not _probe(file).has_audio:
        from avgeo.clips import ClipError

        raise ClipError(f"{file}: has no sound; give a clip with sound")
    _writable(json_out, png_out)
    from avgeo.locate import LocateModel, hear

    system = _model(LocateModel, model, profile, seed)
    found = hear(file, system, max_s=max_seconds)[:limit]
    for atom in found:
        _echo(f"{atom.start_s:7.2f}-{atom.end_s:6.2f} s  {atom.strength:8.2f}  {atom.name}")
    if not found:
        _say(f"note: no atom sounds in {file}")
    if json_out is not None:
        _write(json_out, json.dumps([atom.as_dict() for atom in found], indent=1) + "\n")
    if png_out is not None:
        from avgeo.hearing import draw_heard
        from avgeo.plots.style import png

        _write(png_out, png(draw_heard(file, found, system.atoms, max_s=max_seconds)[0]))


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
        _say(f"{stage}: {artifact.path} ({artifact.card()['seconds']} s when made)")
    if out is not None:
        study.export(out)
        _say(f"model: {out}")


@app.command()
def evaluate(
    predictions: Annotated[Path, typer.Argument(help="CSV, Parquet or JSONL: clip_id, latitude_deg, longitude_deg …")],
    truth: Annotated[Path, typer.Option(help="Table with the true places (a manifest will do).")],
    json_out: Annotated[Path | None, typer.Option("--json", help="Write the metrics here.")] = None,
    split: Annotated[str | None, typer.Option(help="Score this split of the truth only.")] = None,
    bootstrap: Annotated[int, typer.Option(min=1, help="Resamples of places.")] = 1000,
    seed: SeedOption = 0,
) -> None:
    """Score anyone's predictions: accuracy at five radii, km, GeoScore, log score, with intervals by place."""
    from avgeo.evaluate import evaluate as run

    _writable(json_out)
    metrics = run(predictions, truth, bootstrap=bootstrap, seed=seed, split=split)
    _echo(*metrics.to_frame().to_string(float_format=lambda x: f"{x:.4g}").splitlines())
    _echo(
        f"truth {metrics.n_truth}, missing {metrics.n_missing}, refused {metrics.n_refused}, "
        f"invalid {metrics.n_invalid}, not in truth {metrics.n_extra}; {metrics.clustering}"
    )
    if json_out is not None:
        _write(json_out, metrics.to_json() + "\n")


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
    _probe(file)
    from avgeo.locate import LocateModel, usable
    from avgeo.locate import locate as run
    from avgeo.telling import located_lines

    usable(file, sight_only=sight_only)
    _writable(json_out, html_out, geojson_out)
    found = run(file, _model(LocateModel, model, profile, seed), sight_only=sight_only, max_s=max_seconds, seed=seed)
    typer.echo("\n".join(located_lines(found)))
    if json_out is not None:
        _write(json_out, json.dumps(found.as_dict(), indent=1, ensure_ascii=False) + "\n")
    if geojson_out is not None:
        _write(geojson_out, json.dumps(found.geojson()) + "\n")
    if html_out is not None:
        from avgeo.report import write_report

        _write(html_out, write_report(file, found, max_s=max_seconds))


def _probe(file: Path) -> Any:
    """What the file holds; tells of a bad one at once, before torch and the model are loaded."""
    from avgeo.clips import ClipError, probe

    if re.match(r"[a-z][a-z0-9+.-]+:/", str(file)):
        raise ClipError(f"{file}: is an address, not a file; download it and give the file")
    return probe(file)


def _model(loader: Any, folder: Path | None, profile: str, seed: int) -> Any:
    return loader.load(folder) if folder is not None else loader.trained_here(profile, seed)


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
            _say(f"wrote {path.name}")
        return
    wanted = [part.strip() for part in chapters.split(",") if part.strip()] or None
    index = build_book(profile, seed, wanted, resume=resume, check=check)
    _say(f"the book is at {index}")


@app.command()
def doctor() -> None:
    """What this machine can run: versions, devices, caches, extras, trained models."""
    from avgeo.doctor import diagnose

    lines, healthy = diagnose()
    _echo(*lines)
    if not healthy:
        raise typer.Exit(1)
