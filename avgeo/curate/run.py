"""From a source to a benchmark: every item ends in the manifest or, with gate and reason, in the rejects.

Work that has been done is kept in `.work/`, so that an interrupted run goes on where it was and ends with the same
bytes, in this process, on a pool of processes, or on Ray. The source is only read.
"""

from __future__ import annotations

import contextlib
import math
import re
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from avgeo.curate.candidate import Candidate, CurateError
from avgeo.curate.download import downloaded_files, downloader
from avgeo.curate.duplicates import choose as choose_one
from avgeo.curate.duplicates import find_duplicates
from avgeo.curate.gates import GATES, MODALITIES, stated
from avgeo.curate.journal import examine_all
from avgeo.curate.places import assign_places, check_distances
from avgeo.curate.privacy import coarsen
from avgeo.curate.publish import REPORT, publish, strip_media
from avgeo.curate.quotas import check_limits, choose, countries_of, outcome
from avgeo.curate.sources import candidates
from avgeo.curate.splits import assign_splits, audit_leakage
from avgeo.engine import check_engine
from avgeo.manifest import MANIFEST_COLUMNS, SPLITS
from avgeo.profiles import CurateSettings

WORK, DOWNLOADS = ".work", "downloads"
REJECT_COLUMNS = ("item", "gate", "reason", "also")
EXTRA_COLUMNS = (
    "altitude_m", "location_kind", "sha256", "kind", "width", "height", "country", "uploader", "original", "title",
    "flags",
)  # fmt: skip
_FLOATS = ("latitude_deg", "longitude_deg", "duration_s", "altitude_m", "width", "height")
# without these there is nothing to put into a manifest, or no benchmark
_NEEDED = ("media", "download", "readable", "coordinates", "privacy", "surplus", "leak")


@dataclass(frozen=True)
class CurateReport:
    """How many items were kept and rejected, and at which gate; `kept + rejected` is every item seen.

    `not_measured` says what a gate could not look at, and for how many items.
    """

    kept: int
    rejected: int
    by_gate: dict[str, int]
    places: int
    manifest: Path
    rejects: Path
    not_measured: dict[str, int]
    notes: tuple[str, ...] = ()


def check_settings(settings: CurateSettings) -> None:
    """Raise `CurateError` for a setting that names nothing or lies outside its range."""
    for name, values, known in (
        ("need", settings.need, MODALITIES),
        ("without", settings.without, [gate for gate in GATES if gate not in _NEEDED]),
    ):
        unknown = [value for value in values if value not in known]
        if unknown:
            what = "modality" if name == "need" else "gate"
            raise CurateError(f"{name}: unknown {what} {unknown[0]!r}; choose from {', '.join(known)}")
    for setting in fields(settings):
        value = getattr(settings, setting.name)
        least = -math.inf if setting.name == "silence_dbfs" else 0
        if isinstance(value, int | float) and not (math.isfinite(value) and value >= least):
            raise CurateError(f"{setting.name} must be a number of 0 or more, got {value}")
        share = setting.name.endswith(("_share", "_fraction", "_score")) or setting.name == "min_decoded"
        if share and value > 1:
            raise CurateError(f"{setting.name} is a share: give at most 1, got {value}")
    if settings.test_fraction + settings.val_fraction >= 1:
        raise CurateError("test_fraction and val_fraction leave nothing to train on: together they must be below 1")
    check_distances(settings)
    check_limits(settings)
    if settings.coarsen_km:
        try:
            coarsen(0.0, 0.0, settings.coarsen_km)
        except CurateError as error:
            raise CurateError(f"coarsen_{error}") from None


def curate(
    source: str,
    where: Path | str,
    out: Path | str,
    settings: CurateSettings | None = None,
    *,
    seed: int = 0,
    engine: str = "process",
    workers: int | None = None,
    copy: bool = False,
    shards: bool = False,
    redistribute_unknown: bool = False,
) -> CurateReport:
    """Examine every item of `source` at `where`; write manifest, rejects, report and description into `out`.

    `settings` holds the gates' thresholds and the shape of the benchmark (default: the profile `smoke`'s). `copy` puts
    the media kept into `out/media`; else the manifest points at the originals. `shards` puts those whose licence allows
    copies (all, with `redistribute_unknown`) into WebDataset shards as well. Raises `CurateError` for a source that is
    missing, empty or of another kind, for a setting that makes no sense, and for an `out` inside `where`.
    """
    settings = settings or CurateSettings()
    check_settings(settings)
    check_engine(engine)
    out = Path(out)
    listing = candidates(source, where)
    _check_apart(where, out)
    items = list(tqdm(listing, desc="listing", unit="item", disable=None))
    if not items:
        raise CurateError(f"{where}: there is nothing in it; give a source that holds media")
    _make(out)
    rejects = _Rejects()
    fetched = _fetch(items, settings, out, rejects)
    examined = examine_all(fetched, settings, out / WORK / "journal.jsonl", engine, workers)
    kept, pairs = _unlike(_passed(fetched, examined, rejects), settings, rejects)
    item_of = {_clip_id(item, found): item for item, found in kept}

    table = _manifest(kept)
    places, apart = assign_places(table, settings)
    placed = rejects.drop(table.assign(place_id=places), item_of, "surplus", apart)
    choice = choose(placed, settings, seed)
    table = rejects.drop(placed, item_of, "surplus", choice.dropped)
    splits, leaks, remarks = assign_splits(table, pairs, settings, seed)
    table = rejects.drop(table.assign(split=splits), item_of, "leak", leaks)
    media = {clip_id: path for clip_id in table["clip_id"] if (path := item_of[clip_id].path) is not None}
    if settings.coarsen_km:  # what cannot be freed of its coordinates would betray them
        media, betraying = strip_media(media, out)
        table = rejects.drop(table, item_of, "privacy", betraying)
    leakage = audit_leakage(table, pairs)
    leakage.check(settings)
    choice = outcome(placed, table["clip_id"], settings, choice)

    in_split = {name: int((table["split"] == name).sum()) for name in SPLITS}
    for name, count in in_split.items():
        if len(table) and not count and getattr(settings, f"{name}_fraction", 1):
            remarks.append(f"no clip is in {name}: whole places are drawn, and there are few")
    rejected = rejects.table(items)
    counts = Counter(rejected["gate"])
    by_gate = {gate: counts[gate] for gate in GATES if counts[gate]}
    not_measured = _not_measured(examined)
    summary = {
        "source": source,
        "settings": asdict(settings),
        "seed": seed,
        "items": len(items),
        "kept": len(table),
        "rejected": len(rejected),
        "by_gate": by_gate,
        "places": int(table["place_id"].nunique()),
        "splits": in_split,
        "not_measured": not_measured,
        "benchmark": choice.summary,
        "leakage": leakage.summary(),
        "notes": remarks,
    }
    published = publish(
        out, table, rejected, summary, media, settings,
        places=choice.places, copy=copy, shards=shards, redistribute_unknown=redistribute_unknown,
    )  # fmt: skip
    notes = [*remarks, *choice.summary["notes"]]
    if published["withheld_from_shards"]:
        notes.append(f"{published['withheld_from_shards']} clips without a free licence are in no shard")
    if settings.coarsen_km:
        _forget(out)
        notes.append("the journal and the downloads hold exact coordinates: they were removed")
    return CurateReport(
        kept=len(table),
        rejected=len(rejected),
        by_gate=by_gate,
        places=summary["places"],
        manifest=out / "manifest.parquet",
        rejects=out / "rejects.parquet",
        not_measured=not_measured,
        notes=tuple(notes),
    )


def _check_apart(where: Path | str, out: Path) -> None:
    """Raise `CurateError` if the source lies in `out` or `out` in the source."""
    there = Path(where)
    if there.is_dir() and out.resolve().is_relative_to(there.resolve()):
        raise CurateError(f"out: {out} lies inside the source {where}, which is never written to; choose another")
    if there.exists() and there.resolve().is_relative_to(out.resolve()):
        raise CurateError(f"out: {out} holds the source {where}, which is never written to; choose another")


def _make(out: Path) -> None:
    """Make `out`; raise `CurateError` unless it is new, empty, or of an earlier run."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        ours = (out / WORK).is_dir() or (out / REPORT).is_file()
        if not ours and any(out.iterdir()):
            raise CurateError(f"out: {out} holds files that are not of a curation; choose a new or empty folder")
        (out / WORK).mkdir(exist_ok=True)
    except OSError as error:
        raise CurateError(f"out: {out} cannot be made ({error.strerror}); choose another folder") from None


def _forget(out: Path) -> None:
    """Remove what holds exact coordinates: the journal, and the downloads that the downloader wrote."""
    for name in downloaded_files(out / DOWNLOADS):
        (out / DOWNLOADS / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # somebody else's files are in it, or there was none
        (out / DOWNLOADS).rmdir()
    shutil.rmtree(out / WORK, ignore_errors=True)


@dataclass
class _Rejects:
    """Every item that is left out, once: gate, reason, and the other gates that closed."""

    rows: dict[str, tuple[str, str, str]] = field(default_factory=dict)

    def add(self, item: str, closed: Sequence[tuple[str, str]]) -> None:
        """`closed`: gates and reasons, the first of them the one that counts."""
        (gate, reason), *others = closed
        reason = reason.encode("utf-8", "backslashreplace").decode()  # what no table could hold
        self.rows.setdefault(item, (gate, reason, ",".join(dict.fromkeys(name for name, _ in others))))

    def drop(
        self, table: pd.DataFrame, item_of: Mapping[str, Candidate], gate: str, reasons: Mapping[str, str]
    ) -> pd.DataFrame:
        """`table` without the clips that `reasons` names, which are rejects now."""
        for clip_id, reason in reasons.items():
            self.add(item_of[clip_id].item, [(gate, reason)])
        return table[~table["clip_id"].isin(list(reasons))].reset_index(drop=True)

    def table(self, items: Sequence[Candidate]) -> pd.DataFrame:
        """The rejects in the order of the items."""
        rows = [(item.item, *self.rows[item.item]) for item in items if item.item in self.rows]
        return pd.DataFrame(rows, columns=list(REJECT_COLUMNS)).astype("object")


def _fetch(items: Sequence[Candidate], settings: CurateSettings, out: Path, rejects: _Rejects) -> list[Candidate]:
    """The items whose media are here, fetched where need be; what the source says has been judged before."""
    here: list[Candidate] = []
    for item in items:
        closed = [(verdict.gate, verdict.reason) for verdict in stated(item, settings) if verdict.reason is not None]
        if closed:
            rejects.add(item.item, closed)
        else:
            here.append(item)
    if all(item.path is not None for item in here):
        return here
    fetched = []
    for item, verdict in downloader(out / DOWNLOADS).fetch_all(here):
        if verdict.reason is not None:
            rejects.add(item.item, [("download", verdict.reason)])
        else:
            fetched.append(item)
    return fetched


def _passed(
    items: Sequence[Candidate], examined: Sequence[dict[str, Any]], rejects: _Rejects
) -> list[tuple[Candidate, dict[str, Any]]]:
    kept = []
    for item, found in zip(items, examined, strict=True):
        closed = [(verdict["gate"], verdict["reason"]) for verdict in found["verdicts"] if verdict["reason"]]
        if closed:
            rejects.add(item.item, closed)
        else:
            kept.append((item, found))
    return kept


def _unlike(
    kept: Sequence[tuple[Candidate, dict[str, Any]]], settings: CurateSettings, rejects: _Rejects
) -> tuple[list[tuple[Candidate, dict[str, Any]]], list[tuple[str, str, str]]]:
    """The items without duplicates, and the pairs that remain among them (those that a `without` spared)."""
    described = [
        {
            "id": item.item, "sha256": found["sha256"], "pictures": found["pictures"], "sound": found["sound"],
            "width": found["info"]["width"], "height": found["info"]["height"],
            "duration_s": found["info"]["duration_s"], "original": item.original,
        }
        for item, found in kept
    ]  # fmt: skip
    pairs = find_duplicates(described, settings)
    spared = "duplicate" in settings.without
    same_bytes = [pair for pair in pairs if pair.kind == "bytes"]  # of these one is kept in any case
    copies = choose_one(described, same_bytes if spared else pairs)
    for item, reason in copies.items():
        rejects.add(item, [("duplicate", reason)])
    left = [(item, found) for item, found in kept if item.item not in copies]
    names = {item.item: _clip_id(item, found) for item, found in left}
    remaining = [(names[a], names[b], kind) for a, b, kind, _ in pairs if a in names and b in names]
    return left, remaining


def _clip_id(item: Candidate, found: dict[str, Any]) -> str:
    """A readable part and the content's hash: the same file has the same name whatever surrounds it."""
    stem = Path(item.item).stem
    readable = re.sub(r"[^A-Za-z0-9]+", "-", stem).strip("-")[:40] or "clip"
    return f"{readable}-{found['sha256'][:12]}"


def _manifest(kept: Sequence[tuple[Candidate, dict[str, Any]]]) -> pd.DataFrame:
    """One row per clip, without places, splits and paths yet."""
    rows = []
    for item, found in kept:
        location, info = found["location"], found["info"]
        flags = [flag for verdict in found["verdicts"] for flag in verdict["flags"]]
        rows.append(
            {
                "clip_id": _clip_id(item, found),
                "path": "",
                "recorded_at": found["recorded_at"],
                "location_kind": location["kind"],
                "sha256": found["sha256"],
                "flags": "; ".join(flags),
            }
            | {name: location[name] for name in ("latitude_deg", "longitude_deg", "altitude_m")}
            | {name: info[name] for name in ("duration_s", "kind", "width", "height")}
            | {
                name: getattr(item, name)
                for name in ("source", "url", "licence", "attribution", "uploader", "original", "title")
            }
        )
    table = pd.DataFrame(rows, columns=[*MANIFEST_COLUMNS, *EXTRA_COLUMNS])
    table = table.astype({name: "float64" if name in _FLOATS else "object" for name in table.columns})
    if len(table):
        table["country"] = countries_of(
            table.assign(country=pd.Series([item.country for item, _ in kept], dtype="object"))
        )
    return table


def _not_measured(examined: Sequence[dict[str, Any]]) -> dict[str, int]:
    """What a gate could not look at for want of an extra, with its cure, and for how many items."""
    skipped = (verdict["skipped"] for found in examined for verdict in found["verdicts"])
    return dict(sorted(Counter(why for why in skipped if why and "pip install" in why).items()))
