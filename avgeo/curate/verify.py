"""Check a published folder again: files, tables, shards, descriptions, splits and places. Nothing in it is trusted.

Counted again: digests; rows, gates, splits, places, leakage and credits, from the manifest; countries, from coordinates
that were not coarsened; kind and length of the media, from their headers; and, where coordinates are coarse, whether
media state any. Not done again: the gates are not asked, near-duplicates are not searched (that takes all media at
once), media are not decoded to their ends, and what rejects say of themselves is believed.

Works on what `avgeo curate` and `avgeo simulate` write, as far as the files are there; a damaged folder gives problems,
never an exception.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import tarfile
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from avgeo.checksums import SUMS, read_sums, sha256
from avgeo.croissant import CROISSANT
from avgeo.curate import recount
from avgeo.curate.location import coordinate_fault
from avgeo.curate.publish import MEDIA, REPORT, redistributable
from avgeo.curate.recount import inside
from avgeo.curate.shards import FOLDER, extension, row_json
from avgeo.curate.splits import audit_leakage
from avgeo.manifest import SPLITS, ManifestError, read_manifest

_REJECTS = ("item", "gate", "reason", "also")
_PRIVATE = (".work", "downloads")  # work of the run, no part of what it publishes
_SHARD = re.compile(r"(train|val|test)-\d{6}\.tar")


def verify(folder: Path | str) -> list[str]:
    """What is wrong with a published folder, one line each, naming the file and the cure; empty if nothing is."""
    root = Path(folder)
    if not root.is_dir():
        return [f"{root}: no such folder; name one that `avgeo curate` or `avgeo simulate` wrote"]
    manifest, problems = _manifest(root)
    report = _report(root, problems)
    digests = _attempt(problems, SUMS, lambda: _sums(root, problems)) or {}
    checks: dict[str, Callable[[], Any]] = {
        "rejects.parquet": lambda: _rejects(root, manifest, report, problems),
        CROISSANT: lambda: recount.croissant(root, digests, problems),
    }
    if manifest is not None:
        held: set[str] = set()
        checks |= {
            "manifest.parquet": lambda: _table(manifest, problems),
            "media": lambda: _media(root, manifest, digests, problems),
            "splits": lambda: _splits(manifest, report, problems),
            FOLDER: lambda: held.update(_shards(root, manifest, report, problems)),
            "privacy": lambda: _coordinates_inside(root, manifest, problems),
        }
        if "published" in report:  # else a simulated world, which holds none of these
            settings = report.get("settings")
            settings = settings if isinstance(settings, dict) else {}
            checks |= {
                "CREDITS.csv": lambda: recount.texts(root, manifest, problems),
                REPORT: lambda: recount.counts(manifest, report, problems),
                "places.parquet": lambda: recount.places(root, manifest, settings, problems),
                "country": lambda: recount.countries(manifest, problems),
                "headers": lambda: recount.headers(root, manifest, problems),
            }
    for name, check in checks.items():
        _attempt(problems, name, check)
    return [" ".join(problem.split()) for problem in dict.fromkeys(problems)]


def _attempt(problems: list[str], name: str, check: Callable[[], Any]) -> Any:
    """Run a check of foreign bytes, whose parsers can raise anything."""
    try:
        return check()
    except Exception as error:
        problems.append(f"{name}: cannot be checked ({type(error).__name__}: {str(error)[:150]}); publish again")
        return None


# --- files ---


def _files(root: Path) -> list[str]:
    """Files that are part of the publication, relative to the folder."""
    found = []
    for path in root.rglob("*"):
        name = path.relative_to(root)
        if name.parts[0] not in _PRIVATE and (path.is_file() or path.is_symlink()):
            found.append(name.as_posix())
    return sorted(found)


def _sums(root: Path, problems: list[str]) -> dict[str, str]:
    """Compare every file with `SHA256SUMS`; returns the digests as found."""
    if not (root / SUMS).is_file():
        problems.append(f"{SUMS}: is missing, so changes cannot be told; publish again")
        return {}
    listed, odd = read_sums(root)
    if odd:
        problems.append(f"{SUMS}: {len(odd)} lines are no digests, first {odd[0][:60]!r}; publish again")
    found = {}
    for name, digest in listed.items():
        path = inside(root, name)
        if path is None:
            problems.append(f"{SUMS}: {name[:80]!r} lies outside this folder; publish again")
        elif not path.is_file():
            problems.append(f"{name}: is missing; fetch it again, or publish again")
        else:
            found[name] = sha256(path)
            if found[name] != digest:
                problems.append(f"{name}: has changed since {SUMS} was written; fetch it again, or publish again")
    for name in _files(root):
        if name not in listed and name != SUMS:
            problems.append(f"{name}: is not in {SUMS}; delete it, or publish again")
    return found


def _report(root: Path, problems: list[str]) -> dict[str, Any]:
    file = root / REPORT
    if not file.is_file():
        if (root / "rejects.parquet").is_file():
            problems.append(f"{REPORT}: is missing; publish again")
        return {}
    try:
        found = json.loads(file.read_bytes())
    except ValueError as error:
        problems.append(f"{REPORT}: is no JSON ({str(error)[:80]}); publish again")
        return {}
    if not isinstance(found, dict):
        problems.append(f"{REPORT}: holds no report; publish again")
        return {}
    return found


# --- tables ---


def _manifest(root: Path) -> tuple[pd.DataFrame | None, list[str]]:
    try:
        table = read_manifest(root)
    except ManifestError as error:
        return None, [str(error).replace(f"{root}/", "")]
    except Exception as error:  # a Parquet file can be damaged in ways for which pyarrow has no error of its own
        return None, [f"manifest.parquet: cannot be read ({type(error).__name__}: {str(error)[:120]}); publish again"]
    return table, []


def _table(manifest: pd.DataFrame, problems: list[str]) -> None:
    for clip_id, latitude, longitude in zip(
        manifest["clip_id"], manifest["latitude_deg"], manifest["longitude_deg"], strict=True
    ):
        fault = coordinate_fault(float(latitude), float(longitude))
        if fault and not ("accuracy_km" in manifest and "null island" in fault):
            problems.append(f"manifest.parquet: {clip_id}: {fault}; leave it out")
    for path, clips in manifest.groupby("path")["clip_id"]:
        if len(clips) > 1:
            problems.append(f"manifest.parquet: {path} is the file of {len(clips)} clips; give each its own")


def _rejects(root: Path, manifest: pd.DataFrame | None, report: dict[str, Any], problems: list[str]) -> None:
    name = "rejects.parquet"
    if not (root / name).is_file():
        if report:
            problems.append(f"{name}: is missing, so what was left out cannot be told; publish again")
        return
    from avgeo.curate.gates import GATES

    rejects = pd.read_parquet(root / name)
    missing = [column for column in _REJECTS if column not in rejects]
    if missing:
        problems.append(f"{name}: has no column {', '.join(missing)}; publish again")
        return
    gates = Counter(rejects["gate"])
    for gate in sorted(set(gates) - set(GATES), key=str):
        problems.append(f"{name}: gate {gate!r} is not known; use one of {', '.join(GATES)}")
    if bool(rejects["item"].duplicated().any()):
        twice = rejects.loc[rejects["item"].duplicated(), "item"].iloc[0]
        problems.append(f"{name}: item {twice!r} occurs more than once; publish again")
    if bare := int((rejects["reason"].fillna("").astype(str).str.strip() == "").sum()):
        problems.append(f"{name}: {bare} items have no reason; publish again")
    if not report:
        return
    counts: dict[str, Any] = {"rejected": len(rejects), "by_gate": dict(gates)}
    if manifest is not None:
        counts |= {"kept": len(manifest), "items": len(manifest) + len(rejects)}
        counts |= {"places": int(manifest["place_id"].nunique())}
        counts["splits"] = {split: int((manifest["split"] == split).sum()) for split in SPLITS}
    for key, value in counts.items():
        if report.get(key) != value:
            problems.append(f"{REPORT}: {key} is {report.get(key)!r}, the tables say {value!r}; publish again")


def _splits(manifest: pd.DataFrame, report: dict[str, Any], problems: list[str]) -> None:
    settings = report.get("settings")
    separation = settings.get("separation_km", 0.0) if isinstance(settings, dict) else 0.0
    leaks = audit_leakage(manifest).problems(float(separation) if isinstance(separation, int | float) else 0.0)
    problems += [f"manifest.parquet: {leak}; curate again" for leak in leaks]


# --- media ---


def _media(root: Path, manifest: pd.DataFrame, digests: dict[str, str], problems: list[str]) -> None:
    sums = manifest["sha256"] if "sha256" in manifest else [None] * len(manifest)
    for clip_id, name, digest, licence in zip(
        manifest["clip_id"], manifest["path"].astype(str), sums, manifest["licence"], strict=True
    ):
        path = root / name
        if not path.is_file():
            # Of what may not be passed on, the receiver of a folder has only the address.
            if inside(root, name) is not None or redistributable(licence):
                problems.append(f"{name}: the file of {clip_id} is missing; fetch it again, or curate again with copy")
        elif not path.stat().st_size:
            problems.append(f"{name}: the file of {clip_id} is empty; fetch it again")
        elif isinstance(digest, str) and (digests.get(name) or sha256(path)) != digest:
            problems.append(f"{name}: is not the file that the manifest's sha256 of {clip_id} names; fetch it again")


def _shards(root: Path, manifest: pd.DataFrame, report: dict[str, Any], problems: list[str]) -> set[str]:
    """Compare the shards with the manifest; returns the clips that they hold."""
    published = report.get("published")
    published = published if isinstance(published, dict) else {}
    folder = root / FOLDER
    found: Counter[str] = Counter()
    rows = {str(row["clip_id"]): row for row in manifest.to_dict("records")}
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if not published and not any(_SHARD.fullmatch(name) for name in names):
        return set()
    for name in names:
        if not _SHARD.fullmatch(name):
            problems.append(f"{FOLDER}/{name}: is no shard; delete it")
            continue
        try:
            found.update(_shard(folder / name, name.partition("-")[0], rows, problems))
        except (OSError, EOFError, tarfile.TarError) as error:
            problems.append(f"{FOLDER}/{name}: is no whole tar file ({str(error)[:80]}); fetch it again")
    everything = bool(published.get("redistribute_unknown"))
    wanted = {clip for clip, row in rows.items() if everything or redistributable(row["licence"])}
    if published.get("shards") or names:
        if lost := sorted(wanted - set(found)):
            problems.append(f"{FOLDER}: {len(lost)} clips are in no shard, first {lost[0]}; publish again")
        if barred := sorted(set(found) & set(rows) - wanted):
            problems.append(
                f"{FOLDER}: {len(barred)} clips have no licence to be passed on, first {barred[0]}; publish again"
            )
    if twice := sorted(clip for clip, count in found.items() if count > 1):
        problems.append(f"{FOLDER}: {len(twice)} clips occur more than once, first {twice[0]}; publish again")
    return set(found)


def _shard(path: Path, split: str, rows: dict[str, dict[Any, Any]], problems: list[str]) -> Iterator[str]:
    """Clips of one shard whose bytes are compared with their rows."""
    with tarfile.open(path, "r:") as tar:
        seen: Counter[str] = Counter()
        for member in tar:
            where = f"{path.parent.name}/{path.name}: {member.name[:80]!r}"
            key, _, kind = member.name.partition(".")
            row = rows.get(key)
            if row is None or not member.isfile():
                problems.append(f"{where} is no clip of the manifest; publish again")
                continue
            file = tar.extractfile(member)
            assert file is not None  # it is a file
            seen[key] += 1
            if row["split"] != split:
                problems.append(f"{where} belongs to {row['split']}; publish again")
            if kind == "json":
                if file.read(1 << 20) != row_json(row):
                    problems.append(f"{where} is not the manifest's row; publish again")
                continue
            if kind != extension(Path(str(row["path"]))):
                problems.append(f"{where} has another suffix than the manifest's path; publish again")
            digest = row.get("sha256")
            if isinstance(digest, str) and _digest(file) != digest:
                problems.append(f"{where} is not the file that the manifest's sha256 names; fetch the shard again")
        for key, count in seen.items():
            if count != 2:
                problems.append(f"{path.parent.name}/{path.name}: {key} has {count} entries, not 2; publish again")
        yield from seen


def _digest(file: Any) -> str:
    whole = hashlib.sha256()
    while block := file.read(1 << 20):
        whole.update(block)
    return whole.hexdigest()


def _coordinates_inside(root: Path, manifest: pd.DataFrame, problems: list[str]) -> None:
    """Where coordinates are coarse, no medium may state where it was made, and no work of the run may be left."""
    if "accuracy_km" not in manifest:
        return
    from avgeo.curate.metadata import read_locations
    from avgeo.curate.privacy import hidden_place

    def look(path: Path, name: str) -> None:
        try:
            found = any(location.fault is None for location in read_locations(path)) or hidden_place(path)
        except Exception:  # an unreadable file is another check's affair
            return
        if found:
            problems.append(f"{name}: states coordinates, though those of this folder are coarse; publish again")

    for name in manifest["path"].astype(str):
        if (root / name).is_file():
            look(root / name, name)
    for path in sorted((root / FOLDER).glob("*.tar")):
        with contextlib.suppress(OSError, EOFError, tarfile.TarError), tarfile.open(path, "r:") as tar:
            _look_into(tar, path, root, look)
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root)
        if path.is_dir() and (path.name.startswith(".") or name.as_posix() in _PRIVATE):
            problems.append(f"{name.as_posix()}/: may hold exact coordinates; delete it before you hand this folder on")


def _look_into(tar: tarfile.TarFile, path: Path, root: Path, look: Callable[[Path, str], None]) -> None:
    """Look at the media of a shard that do not lie in the folder as well."""
    with tempfile.TemporaryDirectory() as scratch:
        for member in tar:
            if member.name.endswith(".json") or not member.isfile() or (root / MEDIA / member.name).is_file():
                continue
            file = tar.extractfile(member)
            if file is not None:
                copy = Path(scratch, "clip" + Path(member.name).suffix[:8])
                copy.write_bytes(file.read())
                look(copy, f"{path.parent.name}/{path.name}: {member.name[:80]}")
