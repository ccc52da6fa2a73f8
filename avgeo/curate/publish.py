"""A curated folder as others get it: media, shards, tables, a description for machines, a datasheet, and checksums.

Everything follows from the tables, the media and the settings; there is no clock and no machine in it. Whatever was
there is kept if it has the right bytes, so that an interrupted run ends as an uninterrupted one does.
"""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

import avgeo
from avgeo.checksums import read_sums, sha256, write_sums
from avgeo.croissant import CONFORMS_TO, CONTEXT, CROISSANT, RELEASED, file_object, file_set, record_set
from avgeo.curate import datasheet
from avgeo.curate.candidate import UNKNOWN, CurateError
from avgeo.curate.coarse import coarsened, scrubbed
from avgeo.curate.licence import normalise
from avgeo.curate.shards import SHARD_BYTES, write_shards
from avgeo.curate.splits import audit_leakage
from avgeo.manifest import read_manifest, write_manifest, write_parquet
from avgeo.paths import write_text
from avgeo.profiles import CurateSettings

MEDIA, REPORT, CREDITS, CARD = "media", "report.json", "CREDITS.csv", "README.md"
TABLES = {
    "manifest": "One row per clip that was kept: its file, where and when it was recorded, and whose it is.",
    "rejects": "One row per item that was left out: the first gate that refused it, why, and the other gates.",
    "places": "One row per place that was found: how many of its clips there are, and how many were taken.",
}
_SCRATCH = ".work/strip"  # beside the journal: what a killed run leaves there is no part of what is published
_FREE = ("CC-", "CC0-", "PDM-", "PD", "GFDL", "FAL-", "APACHE-", "MIT", "BSD-", "ODBL-", "OGL-", "US-GOV")


def redistributable(licence: Any) -> bool:
    """Whether a licence lets anyone pass copies on: Creative Commons, public domain, and their like.

    An unknown licence does not, nor "no known copyright restrictions", which is not one.
    """
    name = normalise(licence) if isinstance(licence, str) else None
    return name is not None and any(part.upper().startswith(_FREE) for part in name.split(" OR "))


def publish(
    out: Path,
    table: pd.DataFrame,
    rejects: pd.DataFrame,
    summary: Mapping[str, Any],
    media: Mapping[str, Path],
    settings: CurateSettings,
    *,
    places: pd.DataFrame | None = None,
    copy: bool = False,
    shards: bool = False,
    redistribute_unknown: bool = False,
    shard_bytes: int = SHARD_BYTES,
) -> dict[str, Any]:
    """Write into `out` what a benchmark consists of, and say what was published.

    `table` is the manifest without paths, `media` names the file of every clip_id, `rejects` has item, gate, reason and
    also, `summary` is the run's report (JSON), `places` the places of `choose`. With `copy` the media lie in `media/`,
    else the manifest points at the originals. With `shards` those whose licence lets them be passed on, or all with
    `redistribute_unknown`, are put into WebDataset shards. With `settings.coarsen_km` the tables hold coarsened
    coordinates, clips are called by the digests of their stripped files, texts lose what may be part of a position
    (see `coarsened`), and the media are copied without the coordinates that are embedded in them.

    Of what lies in `out` from before, only files that an earlier run listed in SHA256SUMS are deleted.

    Raises `CurateError` for a clip without a file and for media that cannot be stripped.
    """
    lost = [clip_id for clip_id in table["clip_id"] if clip_id not in media]
    if lost:
        raise CurateError(f"media: no file is named for {len(lost)} clips, first {lost[0]!r}")
    out.mkdir(parents=True, exist_ok=True)
    table, rejects = table.reset_index(drop=True), rejects.reset_index(drop=True)
    coarse = settings.coarsen_km > 0
    earlier = _earlier(out)
    if coarse:
        table, media = _bare(table, media, out)
        table, rejects, places = coarsened(table, rejects, places, settings.coarsen_km)
        summary = scrubbed(summary)
        if "leakage" in summary:  # between the places as published; near-duplicates are not known here
            pairs = summary["leakage"].get("duplicate_pairs", 0)
            summary = {**summary, "leakage": audit_leakage(table).summary() | {"duplicate_pairs": pairs}}
    elif copy:
        table, media = _copies(table, media, out)
    else:
        table = table.assign(path=[_relative(media[clip_id], out) for clip_id in table["clip_id"]])
    _clear(out, earlier, set(table["path"]), media)
    table = table.astype({"path": "object"})
    write_manifest(table, out / "manifest.parquet")
    table = read_manifest(out)  # as any reader has it: shards hold its rows
    free = table["licence"].map(redistributable).astype(bool) | redistribute_unknown
    names = write_shards(out, table[free] if shards else table[:0], media, shard_bytes, earlier)

    write_parquet(rejects, out / "rejects.parquet")
    tables = ["manifest", "rejects"]
    (out / "places.parquet").unlink(missing_ok=True)
    if places is not None:
        write_parquet(places, out / "places.parquet")
        tables.append("places")
    published = {
        "media_copied": len(table) if copy or coarse else 0,
        "shards": len(names),
        "clips_in_shards": int(free.sum()) if shards else 0,
        "withheld_from_shards": int((~free).sum()) if shards else 0,
        "clips_without_a_free_licence": int((~table["licence"].map(redistributable).astype(bool)).sum()),
        "redistribute_unknown": redistribute_unknown,
        "coarsen_km": settings.coarsen_km,
    }
    report = {**summary, "published": published}
    write_text(out / REPORT, json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    write_text(out / CREDITS, credits_of(table))
    write_text(out / CARD, datasheet.card(table, rejects, report, {name: TABLES[name] for name in tables}))

    listed = [f"{name}.parquet" for name in tables] + names
    inside = [path for path in table["path"] if path.startswith(f"{MEDIA}/")]
    digests = {name: sha256(out / name) for name in tqdm(listed, desc="summing", unit="file", disable=None)}
    write_text(out / CROISSANT, json.dumps(_croissant(out, table, tables, names, digests), indent=1) + "\n")
    known = dict(zip(table["path"], table["sha256"], strict=True)) if "sha256" in table else {}
    digests |= {path: known[path] if known.get(path) else sha256(out / path) for path in inside}
    digests |= {name: sha256(out / name) for name in (REPORT, CREDITS, CARD, CROISSANT)}
    write_sums(out, digests)
    return published


# --- media ---


def _relative(path: Path, out: Path) -> str:
    return Path(os.path.relpath(path.resolve(), out.resolve())).as_posix()


class Stripped(dict[str, Path]):
    """Files by clip_id that `strip_media` has made: `publish` takes them as they are."""


def strip_media(media: Mapping[str, Path], out: Path) -> tuple[Stripped, dict[str, str]]:
    """Copies in `media/` without what they state about where they were made; and, by clip_id, why some cannot be made.

    They are called `clip-` and the start of their digest, since names of files hold positions too. Of those that are
    the same without their metadata one is made. For a caller who leaves such clips out; `publish` itself raises their
    error.
    """
    (out / MEDIA).mkdir(parents=True, exist_ok=True)
    from avgeo.curate.privacy import strip_location

    found, failed = Stripped(), {}
    taken: set[str] = set()
    with _scratch(out) as scratch:
        for clip_id, source in tqdm(sorted(media.items()), desc="stripping", unit="file", disable=None):
            suffix = _suffix(source)
            try:
                strip_location(source, draft := scratch / f"bare{suffix}", scratch)
            except CurateError as error:
                failed[clip_id] = " ".join(str(error).removeprefix(f"{source}: ").split())
                continue
            target = out / MEDIA / f"clip-{(digest := sha256(draft))[:12]}{suffix}"
            if target.stem in taken:
                failed[clip_id] = "without its metadata it is the same file as another clip"
                continue
            taken.add(target.stem)
            if not _holds(target, digest):
                _place(draft, target)
            found[clip_id] = target
    return found, failed


def _bare(table: pd.DataFrame, media: Mapping[str, Path], out: Path) -> tuple[pd.DataFrame, dict[str, Path]]:
    """The manifest with new names, paths and digests for stripped copies, and these."""
    if not isinstance(media, Stripped):
        sources = {clip_id: media[clip_id] for clip_id in table["clip_id"]}
        media, failed = strip_media(sources, out)
        for clip_id, why in sorted(failed.items()):
            raise CurateError(f"{sources[clip_id]}: {why}")
    files = [media[clip_id] for clip_id in table["clip_id"]]
    names = [path.stem for path in files]
    table = table.assign(
        clip_id=names, path=[f"{MEDIA}/{path.name}" for path in files], sha256=[sha256(path) for path in files]
    )
    return table, dict(zip(names, files, strict=True))


def _copies(table: pd.DataFrame, media: Mapping[str, Path], out: Path) -> tuple[pd.DataFrame, dict[str, Path]]:
    """Copies in `media/`, named by clip."""
    (out / MEDIA).mkdir(exist_ok=True)
    digests = list(table["sha256"]) if "sha256" in table else [None] * len(table)
    targets: dict[str, Path] = {}
    rows = zip(table["clip_id"], digests, strict=True)
    with _scratch(out) as scratch:
        for clip_id, digest in tqdm(rows, total=len(table), desc="copying", unit="file", disable=None):
            source = media[clip_id]
            target = targets[clip_id] = out / MEDIA / f"{clip_id}{_suffix(source)}"
            if source != target and not _holds(target, digest or sha256(source)):
                _place(shutil.copyfile(source, scratch / "copy"), target)
    table = table.assign(path=[f"{MEDIA}/{targets[clip_id].name}" for clip_id in table["clip_id"]])
    return table.assign(sha256=[sha256(path) for path in targets.values()]) if "sha256" in table else table, targets


def _suffix(source: Path) -> str:
    suffix = source.suffix.lower()
    return suffix if re.fullmatch(r"[.][a-z0-9]{1,5}", suffix) else ""


def _holds(target: Path, digest: str) -> bool:
    return target.is_file() and not target.is_symlink() and sha256(target) == digest


def _place(draft: Path, target: Path) -> None:
    """Move a whole file to its place, over whatever is there, but never through a link."""
    try:
        draft.replace(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        target.unlink(missing_ok=True)  # `media/` lies on another disk
        shutil.move(draft, target)


@contextmanager
def _scratch(out: Path) -> Iterator[Path]:
    """An empty folder for files in the making, which hold exact coordinates: nothing is left in it, nor what a killed
    run left."""
    folder = out / _SCRATCH
    _forget(folder)
    alone = not folder.parent.exists()
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        _forget(folder)
        if alone:  # else it is the journal's
            with suppress(OSError):
                folder.parent.rmdir()


def _forget(folder: Path) -> None:
    for path in (folder.parent, folder):
        if path.is_symlink():
            raise CurateError(f"{path}: is a link; remove it, since it would be written through")
    if folder.exists():
        shutil.rmtree(folder)


def _earlier(out: Path) -> frozenset[str]:
    """Names of the files that an earlier run says it has published here."""
    try:
        names = frozenset(read_sums(out)[0])
        ours = "published" in json.loads((out / REPORT).read_bytes())
    except (OSError, ValueError, TypeError):
        return frozenset()
    return names if ours else frozenset()


def _clear(out: Path, earlier: frozenset[str], wanted: set[str], media: Mapping[str, Path]) -> None:
    """Delete the media of an earlier run that are no part of this one; never where the originals themselves lie."""
    folder = (out / MEDIA).resolve()
    inside = {path.resolve() for path in media.values() if path.resolve().is_relative_to(folder)}
    for name in earlier - wanted:
        old = out / name
        if re.fullmatch(rf"{MEDIA}/[^/]+", name) and old.is_file() and old.resolve() not in inside:
            old.unlink()


# --- tables and descriptions ---


def credits_of(table: pd.DataFrame) -> str:
    """Title, author, source and licence of every clip, as Creative Commons asks for them."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [name for name in ("clip_id", "title", "attribution", "licence", "url", "source") if name in table]
    writer.writerow(names)
    for row in table[names].astype("object").itertuples(index=False):
        writer.writerow([_cell(value) for value in row])
    return text.getvalue()


def _cell(value: Any) -> str:
    text = " ".join(value.split()) if isinstance(value, str) else ""
    return f"'{text}" if text[:1] in "=+-@" and text else text  # no formula, whatever a stranger's title says


def _croissant(
    out: Path, table: pd.DataFrame, tables: list[str], shards: list[str], digests: Mapping[str, str]
) -> dict[str, Any]:
    licences = sorted({normalise(text) or UNKNOWN for text in table["licence"].dropna()}) or [UNKNOWN]
    described = datasheet.columns()
    files = [file_object(out, f"{name}.parquet", digests[f"{name}.parquet"], TABLES[name]) for name in tables]
    files += [file_object(out, name, digests[name], "WebDataset shard: media and manifest rows.") for name in shards]
    if any(path.startswith(f"{MEDIA}/") for path in table["path"]):
        files.append(file_set("media-files", f"{MEDIA}/*", ["video/*", "audio/*", "image/*"], "The clips' media."))
    keys = {"manifest": "clip_id", "rejects": "item", "places": "place_id"}
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS_TO,
        "name": "avgeo-curated",
        "description": f"{len(table)} geotagged clips at {table['place_id'].nunique()} places, curated by avgeo: every "
        "item of the source was kept or left out for a stated reason.",
        "version": avgeo.__version__,
        "datePublished": RELEASED,
        "license": [datasheet.licence_url(name) for name in licences],
        "url": "https://github.com/avgeo/avgeo",
        "creator": {"@type": "sc:Organization", "name": "The contributors named in the manifest's column attribution"},
        "citeAs": f"avgeo {avgeo.__version__}; the manifest's column attribution names each clip's author.",
        "keywords": ["geolocation", "audio", "video"],
        "isLiveDataset": False,
        "rai:dataCollection": "Recordings that others published or that lay in a folder, with the coordinates they "
        "state; kept or left out by the gates that README.md lists.",
        "rai:dataCollectionType": "Web Scraping or Others",
        "rai:dataLimitations": "Places follow where people record and upload; see README.md for the counts.",
        "rai:personalSensitiveInformation": "Recordings may show people or carry voices; see the column flags.",
        "distribution": files,
        "recordSet": [record_set(out / f"{name}.parquet", TABLES[name], described, keys[name]) for name in tables],
    }
