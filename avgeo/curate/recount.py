"""What the descriptions, credits and places beside a manifest must say, counted again from it. Part of `verify`."""

from __future__ import annotations

import contextlib
import io
import json
import logging
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from avgeo.checksums import sha256
from avgeo.clips import ClipError, probe
from avgeo.croissant import CROISSANT
from avgeo.curate.location import coordinate_fault
from avgeo.curate.publish import CARD, CREDITS, REPORT, credits_of
from avgeo.curate.quotas import PLACE_COLUMNS, countries_of
from avgeo.curate.splits import audit_leakage

_PLACES = "places.parquet"
_DURATION_S, _DURATION_SHARE = 1.0, 0.05  # containers state lengths of packets, pictures or tracks


def inside(root: Path, name: str) -> Path | None:
    """The file that a table names, unless the name leads out of the folder."""
    pure = PurePosixPath(name)
    return None if pure.is_absolute() or ".." in pure.parts or "\0" in name else root / pure


def texts(root: Path, manifest: pd.DataFrame, problems: list[str]) -> None:
    """README.md states the counts; CREDITS.csv holds the manifest's credits."""
    card = root / CARD
    counts = f"{len(manifest):,} clips at {manifest['place_id'].nunique():,} places"
    if card.is_file() and counts not in card.read_text(encoding="utf-8", errors="replace"):
        problems.append(f"{CARD}: does not say that there are {counts}; publish again")
    if not (root / CREDITS).is_file():
        problems.append(f"{CREDITS}: is missing, so nobody is credited; publish again")
    elif (root / CREDITS).read_bytes() != credits_of(manifest).encode("utf-8", "replace"):
        problems.append(f"{CREDITS}: does not hold the manifest's credits; publish again")


def counts(manifest: pd.DataFrame, report: dict[str, Any], problems: list[str]) -> None:
    """The report's leakage and taken clips; near-duplicates are taken from the report, since finding them takes all
    media."""
    said = report.get("leakage")
    found = audit_leakage(manifest).summary()
    found.pop("duplicate_pairs")
    for name, value in found.items():
        other = said.get(name) if isinstance(said, dict) else None
        if not _alike(value, other):
            problems.append(f"{REPORT}: leakage: {name} is {other!r}, the manifest says {value!r}; publish again")
    if isinstance(said, dict) and said.get("duplicate_pairs") != 0:
        pairs = said.get("duplicate_pairs")
        problems.append(f"{REPORT}: leakage: {pairs!r} near-duplicate pairs lie across splits; curate again")
    taken = report.get("benchmark", {}).get("taken", {})
    for name, value in (("clips", len(manifest)), ("places", int(manifest["place_id"].nunique()))):
        if taken.get(name) != value:
            problems.append(
                f"{REPORT}: benchmark: {taken.get(name)!r} {name} taken, the manifest says {value}; publish again"
            )


def _alike(value: Any, other: Any) -> bool:
    if isinstance(value, dict):
        return (
            isinstance(other, dict) and value.keys() == other.keys() and all(_alike(value[x], other[x]) for x in value)
        )
    number = isinstance(other, int | float) and not isinstance(other, bool)
    return number and abs(value - other) <= 2e-3  # km


def places(root: Path, manifest: pd.DataFrame, settings: dict[str, Any], problems: list[str]) -> None:
    """places.parquet names the manifest's places, where they are, and how many of their clips were taken."""
    if not (root / _PLACES).is_file():
        return
    table = pd.read_parquet(root / _PLACES)
    if missing := [name for name in PLACE_COLUMNS if name not in table]:
        problems.append(f"{_PLACES}: has no column {', '.join(missing)}; publish again")
        return
    if bool(table["place_id"].duplicated().any()):
        problems.append(f"{_PLACES}: a place occurs more than once; publish again")
        return
    taken, rows = Counter(manifest["place_id"]), table.set_index("place_id")
    for name in sorted(set(taken) - set(rows.index)):
        problems.append(f"{_PLACES}: has no row for {name}; publish again")
    wanted = settings.get("clips_per_place") or 0
    for name, row in rows.iterrows():
        count, found = taken[name], row["found"]
        state = "surplus" if not count else "short" if count < wanted else "taken"
        if row["taken"] != count or not found >= count or row["state"] != state:
            said = f"{row['taken']} of {found} clips taken, {row['state']}"
            problems.append(f"{_PLACES}: {name}: says {said}; the manifest has {count}, {state}; publish again")
        fault = coordinate_fault(float(row["latitude_deg"]), float(row["longitude_deg"]))
        if fault and ("null island" not in fault or "accuracy_km" not in manifest):
            problems.append(f"{_PLACES}: {name}: {fault}; publish again")
    _positions(manifest, rows, settings, problems)


def _positions(manifest: pd.DataFrame, rows: pd.DataFrame, settings: dict[str, Any], problems: list[str]) -> None:
    """A place is the middle of its clips, so it lies no further from one than the place is wide."""
    from avgeo.curate.privacy import distance_km

    wide_km = 4 * float(settings.get("place_radius_km", 1.0)) + 0.01
    if "accuracy_km" in manifest and len(manifest):
        wide_km += 2 * max(float(manifest["accuracy_km"].max()), float(settings.get("coarsen_km", 0.0)))
    at = {str(name): (row["latitude_deg"], row["longitude_deg"]) for name, row in rows.iterrows()}
    for clip in manifest.to_dict("records"):
        place, latitude_deg = str(clip["place_id"]), float(clip["latitude_deg"])
        if place not in at:
            continue
        there_deg, longitude_deg = map(float, at[place])
        if distance_km(latitude_deg, there_deg, float(clip["longitude_deg"]) - longitude_deg) > wide_km:
            problems.append(f"{_PLACES}: {place} does not lie where {clip['clip_id']} does; publish again")


def countries(manifest: pd.DataFrame, problems: list[str]) -> None:
    """Countries follow from the coordinates, unless these were moved, perhaps across a border."""
    if "country" not in manifest or "accuracy_km" in manifest:
        return
    for clip_id, said, here in zip(manifest["clip_id"], manifest["country"], countries_of(manifest), strict=True):
        if here is not None and said != here:
            problems.append(f"manifest.parquet: {clip_id}: lies in {here}, not in {said!r}; curate again")


def headers(root: Path, manifest: pd.DataFrame, problems: list[str]) -> None:
    """Media are of the kind and length that the manifest says, by their headers and first picture."""
    for row in manifest.to_dict("records"):
        name = str(row["path"])
        if not (root / name).is_file() or not (root / name).stat().st_size:
            continue  # another check's affair
        try:
            info = probe(root / name)
        except ClipError as error:
            problems.append(f"{name}: cannot be opened ({str(error).removeprefix(f'{root / name}: ')[:120]})")
            continue
        if isinstance(row.get("kind"), str) and info.kind != row["kind"]:
            problems.append(f"{name}: is of kind {info.kind}, the manifest says {row['kind']}; curate again")
        said_s = float(row["duration_s"])
        if abs(info.duration_s - said_s) > _DURATION_S + _DURATION_SHARE * max(info.duration_s, said_s):
            problems.append(f"{name}: lasts {info.duration_s:.1f} s, the manifest says {said_s:.1f} s; curate again")


# --- descriptions ---


def croissant(root: Path, digests: dict[str, str], problems: list[str]) -> None:
    """croissant.json describes every table, with digests that hold, in the form that its readers want."""
    file = root / CROISSANT
    if not file.is_file():
        problems.append(f"{CROISSANT}: is missing; publish again")
        return
    try:
        described = json.loads(file.read_bytes())
        files = [item for item in described["distribution"] if item["@type"].endswith("FileObject")]
        listed = {str(item["contentUrl"]): str(item["sha256"]) for item in files}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        problems.append(f"{CROISSANT}: describes no files ({type(error).__name__}: {str(error)[:80]}); publish again")
        return
    for name, digest in listed.items():
        path = inside(root, name)
        if path is None or not path.is_file():
            problems.append(f"{CROISSANT}: {name[:80]!r} is not in this folder; publish again")
        elif (digests.get(name) or sha256(path)) != digest:
            problems.append(f"{CROISSANT}: the digest of {name} is another; publish again")
    tables = {path.name for path in root.glob("*.parquet")}
    if unnamed := sorted(tables - set(listed)):
        problems.append(f"{CROISSANT}: does not describe {', '.join(unnamed)}; publish again")
    problems += [f"{CROISSANT}: {text[:300]}; publish again" for text in _mlcroissant(file)]


def _mlcroissant(file: Path) -> list[str]:
    """What MLCommons' own reader finds wrong, where it is installed."""
    try:
        import mlcroissant
    except ImportError:
        return []
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            issues = mlcroissant.Dataset(jsonld=str(file)).metadata.ctx.issues
        return sorted(str(issue) for issue in issues.errors)
    except Exception as error:
        return [f"mlcroissant cannot read it ({type(error).__name__}: {error})"]
    finally:
        logging.disable(level)
