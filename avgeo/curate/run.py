"""From a source to a manifest: every item ends in the manifest or, with gate and reason, in the rejects.

Work that has been done is kept in `journal.jsonl`, one line per examined item, so that an interrupted run
goes on where it was and ends with the same bytes. The source is only read.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree
from tqdm import tqdm

from avgeo.artifacts import code_hash
from avgeo.curate.gates import GATES, Settings, examine
from avgeo.curate.sidecar import sidecars
from avgeo.curate.sources import Candidate, CurateError, candidates
from avgeo.manifest import MANIFEST_COLUMNS, write_manifest
from avgeo.paths import write_text

PLACE_KM = 1.0
TEST_FRACTION, VAL_FRACTION = 0.2, 0.2
_EARTH_KM = 6371.0088
_REJECT_COLUMNS = ("item", "gate", "reason")


@dataclass(frozen=True)
class CurateReport:
    """How many items were kept and rejected, and at which gate; `kept + rejected` is every item seen."""

    kept: int
    rejected: int
    by_gate: dict[str, int]
    places: int
    manifest: Path
    rejects: Path


def curate(
    source: str,
    where: Path | str,
    out: Path | str,
    *,
    need: Sequence[str] = (),
    min_duration_s: float = 0.5,
    licence_required: bool = False,
    split_seed: int = 0,
    copy: bool = False,
) -> CurateReport:
    """Examine every item of `source` at `where`; write manifest, rejects and report into `out`.

    `need` names modalities that an item must have ("picture", "sound"); without it either will do. With
    `copy` the media kept are copied into `out/media`, else the manifest points at the originals. Raises
    `CurateError` for a source that is missing, empty or a file, for an unknown option, and for an `out`
    inside `where`.
    """
    where, out = Path(where), Path(out)
    settings = Settings(tuple(need), min_duration_s, licence_required=licence_required)
    items = list(tqdm(candidates(source, where), desc="listing", unit="file", disable=None))
    if not items:
        raise CurateError(f"{where}: the folder is empty; put media files into it")
    if out.resolve().is_relative_to(where.resolve()):
        raise CurateError(f"out: {out} lies inside the source {where}, which is never written to; choose another")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CurateError(f"out: {out} cannot be made ({error.strerror}); choose another folder") from None
    examined = _examine_all(items, settings, out / "journal.jsonl")

    kept: list[tuple[Candidate, dict[str, Any]]] = []
    rejects: list[tuple[str, str, str]] = []
    first: dict[str, str] = {}
    for candidate, result in zip(items, examined, strict=True):
        if result["gate"] is not None:
            rejects.append((candidate.item, result["gate"], result["reason"]))
        elif result["sha256"] in first:
            rejects.append((candidate.item, "duplicate", f"same bytes as {first[result['sha256']]}"))
        else:
            first[result["sha256"]] = candidate.item
            kept.append((candidate, result))

    manifest = _manifest(kept, split_seed)
    if copy:
        manifest["path"] = _copy_media(kept, manifest, out / "media")
    else:
        manifest["path"] = [_relative(candidate.path, out) for candidate, _ in kept]
    write_manifest(manifest, out / "manifest.parquet")
    _write_rejects(rejects, out / "rejects.parquet")
    counts = Counter(gate for _, gate, _ in rejects)
    by_gate = {gate: counts[gate] for gate in GATES if counts[gate]}
    places = len(set(manifest["place_id"]))
    summary = {
        "source": source, "settings": asdict(settings), "split_seed": split_seed, "items": len(items),
        "kept": len(kept), "rejected": len(rejects), "by_gate": by_gate, "places": places,
        "splits": {name: list(manifest["split"]).count(name) for name in ("train", "val", "test")},
    }  # fmt: skip
    write_text(out / "report.json", json.dumps(summary, indent=1) + "\n")
    return CurateReport(len(kept), len(rejects), by_gate, places, out / "manifest.parquet", out / "rejects.parquet")


# --- examined items, remembered ---


def _key(candidate: Candidate, settings: Settings, code: str) -> str:
    """An item's identity: its file, what lies beside it, the thresholds and the code that judged it."""
    stamps: list[Any] = []
    for path in (candidate.path, *sidecars(candidate.path)):
        try:
            status = path.stat()
        except OSError:
            stamps.append(None)
        else:
            stamps.append([path.name.encode("utf-8", "backslashreplace").decode(), status.st_size, status.st_mtime_ns])
    told = [candidate.item, candidate.licence, candidate.problem, stamps, asdict(settings), code]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def _read_journal(journal: Path) -> dict[str, dict[str, Any]]:
    known: dict[str, dict[str, Any]] = {}
    if journal.is_file():
        for line in journal.read_bytes().split(b"\n"):
            try:
                entry = json.loads(line)
                known[entry["key"]] = entry["result"]
            except (ValueError, KeyError, TypeError):  # the line that a killed run left unfinished
                continue
    return known


def _examine_all(items: Sequence[Candidate], settings: Settings, journal: Path) -> list[dict[str, Any]]:
    known = _read_journal(journal)
    code = code_hash("curate", "clips")
    results = []
    with open(journal, "ab") as log:
        if log.tell() and journal.read_bytes()[-1:] != b"\n":
            log.write(b"\n")
        for candidate in tqdm(items, desc="curating", unit="file", disable=None):
            key = _key(candidate, settings, code)
            if key not in known:
                known[key] = examine(candidate, settings)
                log.write(json.dumps({"key": key, "result": known[key]}).encode() + b"\n")
                log.flush()
            results.append(known[key])
    return results


# --- places and splits ---


def cluster(
    latitude_deg: Float[np.ndarray, " clips"], longitude_deg: Float[np.ndarray, " clips"], radius_km: float
) -> Int[np.ndarray, " clips"]:
    """Number of the place of every clip. Clips within `radius_km` of each other share a place, through any
    chain of them (single linkage): so two clips of different places are never closer than that, whatever the
    order.
    """
    if not len(latitude_deg):
        return np.zeros(0, dtype=np.int64)
    lat, lon = np.deg2rad(latitude_deg), np.deg2rad(longitude_deg)
    points = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)
    chord = 2 * np.sin(min(radius_km / _EARTH_KM, np.pi) / 2)
    pairs = KDTree(points).query_pairs(chord, output_type="ndarray")
    shape = (len(points), len(points))
    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=shape)
    return connected_components(graph, directed=False)[1].astype(np.int64)


def split_of(place_id: str, seed: int) -> str:
    """The split of a place: a fraction of a hash, so it depends on nothing but the place and the seed."""
    fraction = int.from_bytes(hashlib.sha256(f"{seed}:{place_id}".encode()).digest()[:8], "big") / 2**64
    return "test" if fraction < TEST_FRACTION else "val" if fraction < TEST_FRACTION + VAL_FRACTION else "train"


def _manifest(kept: Sequence[tuple[Candidate, dict[str, Any]]], split_seed: int) -> pd.DataFrame:
    rows = []
    for candidate, result in kept:
        stem = re.sub(r"[^A-Za-z0-9]+", "-", candidate.path.stem).strip("-")[:40] or "clip"
        row = {
            "clip_id": f"{stem}-{result['sha256'][:12]}", "path": "", "source": candidate.source,
            "url": candidate.url, "licence": candidate.licence, "attribution": candidate.attribution,
        }  # fmt: skip
        names = (
            "latitude_deg",
            "longitude_deg",
            "recorded_at",
            "duration_s",
            "altitude_m",
            "location_kind",
            "sha256",
        )
        rows.append(row | {name: result[name] for name in names})
    extra = ("altitude_m", "location_kind", "sha256")
    table = pd.DataFrame(rows, columns=[*MANIFEST_COLUMNS, *extra])
    floats = ["latitude_deg", "longitude_deg", "duration_s", "altitude_m"]
    table = table.astype({name: "float64" if name in floats else "object" for name in table.columns})
    labels = cluster(table["latitude_deg"].to_numpy(), table["longitude_deg"].to_numpy(), PLACE_KM)
    # A place is named by the position of its southernmost, then westernmost clip: independent of file names
    # and order.
    corners: dict[int, tuple[float, float]] = {}
    for label, *corner in zip(labels, table["latitude_deg"], table["longitude_deg"], strict=True):
        corners[label] = min(corners.get(label, (90.0, 180.0)), (corner[0], corner[1]))
    names = {label: f"{lat:+08.4f}{lon:+09.4f}" for label, (lat, lon) in corners.items()}
    table["place_id"] = [names[label] for label in labels]
    table["split"] = [split_of(name, split_seed) for name in table["place_id"]]
    return table


# --- files ---


def _relative(path: Path, out: Path) -> str:
    return Path(os.path.relpath(path.resolve(), out.resolve())).as_posix()


def _copy_media(kept: Sequence[tuple[Candidate, dict[str, Any]]], manifest: pd.DataFrame, folder: Path) -> list[str]:
    """Copy each medium to `media/<clip_id><suffix>`, unless it is there already, whole."""
    folder.mkdir(exist_ok=True)
    paths = []
    pairs = zip(kept, manifest["clip_id"], strict=True)
    for (candidate, _), clip_id in tqdm(pairs, total=len(kept), desc="copying", unit="file", disable=None):
        suffix = candidate.path.suffix.lower()
        target = folder / f"{clip_id}{suffix if re.fullmatch(r'[.][a-z0-9]{1,5}', suffix) else ''}"
        # The name holds the content's hash and the copy appears whole, so the size is check enough.
        if not target.is_file() or target.stat().st_size != candidate.path.stat().st_size:
            partial = target.with_name(target.name + ".partial")
            shutil.copyfile(candidate.path, partial)
            partial.replace(target)
        paths.append(f"{folder.name}/{target.name}")
    return paths


def _write_rejects(rejects: Sequence[tuple[str, str, str]], file: Path) -> None:
    partial = file.with_name(file.name + ".partial")
    table = pd.DataFrame(rejects, columns=list(_REJECT_COLUMNS)).astype("object")
    table.to_parquet(partial, index=False)
    partial.replace(file)
