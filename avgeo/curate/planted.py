"""A corpus whose faults are known: AVG-Sim's clips as a phone films them, half of them spoilt, with the answer key.

Every clip has its own scene, sound, place and time, so that a faulty clip differs from a sound one in its fault alone;
copies are made from the finished file of another clip. A wrong sign is planted only where something contradicts it (the
stated country, the clock's offset, open sea, the folder's table): what nothing contradicts, nobody can see.
"""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from avgeo.curate.candidate import CurateError
from avgeo.curate.planted_files import MAKERS, Planted, hostile_name, plant_entry, unstorable_name
from avgeo.curate.planted_media import SCENE, TWEAKS, Coding, Take, cropped, decoded, encoded, film, reencoded
from avgeo.engine import map_items
from avgeo.world import build_places, coast_km, country_at
from avgeo.world.plan import plan_clip

KEY_COLUMNS = ("item", "fault", "gate", "detail", "copy_of")
TABLE = "metadata.csv"
_CLIPS_PER_PLACE = 4
_LICENCES = ("CC0-1.0", "CC-BY-4.0", "CC-BY-SA-4.0", "CC BY 3.0")
_TABLE_COLUMNS = ("file_name", "latitude", "longitude", "country", "licence", "author", "uploader", "title")
# The signal gate that each fault of picture or sound ought to close.
_TWEAKED = {
    "silence": "silent", "frozen picture": "frozen", "black picture": "black", "slide show": "frozen",
    "captions": "captions", "voice-over": "voiceover", "faint voice-over": "voiceover", "music": "music",
}  # fmt: skip
_MISPLACED = ("wrong sign", "swapped", "null island", "no place")
_COPIES: dict[str, Callable[[Take, np.random.Generator], tuple[Take, Coding, str]]] = {
    "re-encoded": reencoded, "cropped": cropped,
}  # fmt: skip
FAULTS = (*_COPIES, *TWEAKS, *_MISPLACED, *MAKERS, "hostile name", "unstorable name", "no file")
"""Every fault that can be planted. A "misnamed" film and a "hostile name" are to be kept all the same."""


_Point = tuple[float, float]  # latitude and longitude in degrees


@dataclass(frozen=True)
class Told:
    """What is said about where and when a clip was recorded: by the file, by the folder's table (None: nothing)."""

    file: _Point | None
    table: _Point | None
    country: str | None
    when: datetime
    apple: bool  # tags with the clock's offset; else the atom of Android's phones and UTC

    def tags(self) -> dict[str, str]:
        """As FFmpeg's muxers take them."""
        tags = {"creation_time": self.when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}
        if self.apple:
            tags["com.apple.quicktime.creationdate"] = self.when.strftime("%Y-%m-%dT%H:%M:%S%z")
        if self.file is not None:
            name = "com.apple.quicktime.location.ISO6709" if self.apple else "location"
            tags[name] = f"{self.file[0]:+08.4f}{self.file[1]:+09.4f}/"
        return tags


@dataclass(frozen=True)
class Job:
    """One item: its number in the corpus, the number and place of its scene (a copy has another's), its fault."""

    number: int
    seed: int
    scene: int
    place: Mapping[str, Any]
    fault: str | None = None

    def rng(self, purpose: int) -> np.random.Generator:
        """A generator that no other clip and no other purpose shares."""
        return np.random.default_rng((self.seed, 31, self.number, purpose))


_Result = tuple[list[str] | None, dict[str, str | None]]


def plant(
    folder: str | os.PathLike[str], clips: int, seed: int, share: float = 0.5, *, workers: int | None = None,
    faults: tuple[str, ...] = FAULTS,
) -> pd.DataFrame:  # fmt: skip
    """Fill the empty `folder` with `clips` items, a `share` of them faulty in turn by each of `faults`, and a table
    `metadata.csv` about them; returns the answer key, one row per item.

    `item` is the name as curation shows it, `fault` None for a sound clip, `gate` the gates that may close on it (comma
    between them; empty when it is to be kept), given that picture and sound are both needed; `detail` says how severe
    the fault is and `copy_of` names the original of a copy. The same arguments give the same bytes, whatever `workers`.
    Raises `CurateError` for bad arguments and a folder that is not empty.
    """
    where = Path(folder)
    if clips < 1 or not 0 <= share <= 1 or seed < 0:
        raise CurateError(
            f"clips={clips}, share={share}, seed={seed}: give clips >= 1, a share in [0, 1] and a seed >= 0"
        )
    if unknown := [fault for fault in faults if fault not in FAULTS]:
        raise CurateError(f"faults: unknown {unknown[0]!r}; choose from {', '.join(FAULTS)}")
    if where.exists() and (not where.is_dir() or any(where.iterdir())):
        raise CurateError(f"folder={where}: holds something already; choose or empty a folder")
    where.mkdir(parents=True, exist_ok=True)
    jobs = _jobs(clips, seed, share, faults)
    first = [job for job in jobs if job.scene == job.number]
    copies = [job for job in jobs if job.scene != job.number]
    results: dict[int, _Result] = {}
    for some in (first, copies):  # a copy is made from the file of its original
        made = map_items(partial(_make, where), some, workers=workers, description="planting", unit="clip")
        results |= dict(zip((job.number for job in some), made, strict=True))
    rows = [row for number in sorted(results) if (row := results[number][0]) is not None]
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([list(_TABLE_COLUMNS), *rows])
    (where / TABLE).write_text(text.getvalue(), encoding="utf-8")
    key = pd.DataFrame([results[number][1] for number in sorted(results)], columns=list(KEY_COLUMNS))
    return key.astype("object").where(key.notna(), None)


def _jobs(clips: int, seed: int, share: float, faults: tuple[str, ...]) -> list[Job]:
    rng = np.random.default_rng((seed, 30))
    settings = replace(SCENE, places=max(10, -(-clips // _CLIPS_PER_PLACE)))
    places = [
        {str(name): value for name, value in row.items()} for row in build_places(settings, seed).to_dict("records")
    ]
    faulty = rng.permutation(clips)[: round(share * clips)] if faults else np.zeros(0, int)
    fault_of = {int(number): faults[turn % len(faults)] for turn, number in enumerate(faulty)}
    originals = [int(number) for number in rng.permutation(clips) if int(number) not in fault_of]
    jobs = []
    for number in range(clips):
        fault = fault_of.get(number)
        if fault in _COPIES and not originals:
            fault = None  # nothing left to copy
        scene = originals.pop() if fault in _COPIES else number
        jobs.append(Job(number, seed, scene, places[scene // _CLIPS_PER_PLACE], fault))
    return jobs


# --- one clip ---


def _name(number: int, suffix: str = ".mov") -> str:
    return f"clip-{number:05d}{suffix}"


def _shown(name: str) -> str:
    """A file name as the tables of curation show it."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _make(folder: Path, job: Job) -> _Result:
    """Make one item; its row of the folder's table (None: there is none) and of the key."""
    rng = job.rng(0)
    if job.fault == "no file":
        name = _name(job.number)
        return None, _key_row(job, name, {"media"}, plant_entry(folder, name, rng))
    told, planted = _file(folder, job)
    if job.fault == "unstorable name":
        name, gates = unstorable_name(job.number, planted.suffix, rng), {"media"}
        (folder / name).write_bytes(planted.data)
        return None, _key_row(job, name, gates, "no UTF-8")
    naming = partial(hostile_name, rng=rng) if job.fault == "hostile name" else _name
    name = naming(job.number, planted.suffix)
    (folder / name).write_bytes(planted.data)
    degrees = ["", ""] if told.table is None else [f"{angle:.5f}" for angle in told.table]
    author = f"traveller {rng.integers(300)}"
    title = f"{job.place['name']}, {told.when:%B}"
    row = [name, *degrees, told.country or "", str(rng.choice(_LICENCES)), author, author.replace(" ", "-"), title]
    return row, _key_row(job, name, planted.gates, planted.detail)


def _key_row(job: Job, name: str, gates: Collection[str], detail: str) -> dict[str, str | None]:
    copy_of = _name(job.scene) if job.scene != job.number else None
    values = (_shown(name), job.fault, ",".join(sorted(gates)), detail, copy_of)
    return dict(zip(KEY_COLUMNS, values, strict=True))


def _file(folder: Path, job: Job) -> tuple[Told, Planted]:
    """What is told about a clip, and its bytes."""
    plan = plan_clip(dict(job.place), SCENE, job.seed, job.scene % _CLIPS_PER_PLACE)
    rng = job.rng(1)
    here = (plan.latitude_deg, plan.longitude_deg)
    when = plan.moment.local(job.place) + timedelta(minutes=int(rng.integers(-29, 30)), seconds=int(rng.integers(60)))
    told = Told(
        file=here, table=here if rng.random() < 0.5 else None,
        country=str(job.place["country"]) if rng.random() < 0.7 else None, when=when, apple=bool(rng.random() < 0.7),
    )  # fmt: skip
    if job.fault in _COPIES:
        take, coding, detail = _COPIES[job.fault](decoded(folder / _name(job.scene)), rng)
        if rng.random() < 0.5:  # whoever uploads it again may place it a little elsewhere
            here = (round(here[0] + rng.uniform(-0.01, 0.01), 5), here[1])
        told = replace(told, file=here, table=here)  # few containers keep the tags
        suffix = {"matroska": ".mkv"}.get(coding.container, f".{coding.container}")
        return told, Planted(encoded(take, coding, told.tags()), suffix, frozenset({"duplicate"}), detail)
    take = film(plan, rng)
    gates, detail = (
        frozenset(),
        "heard: " + (", ".join(e.cue for e in plan.events if e.modality == "audible") or "nothing"),
    )
    if job.fault in MAKERS:
        told = replace(told, table=here)
        return told, MAKERS[job.fault](take, told.tags(), rng)
    if job.fault in TWEAKS:
        take, detail = TWEAKS[job.fault](take, rng)
        gates = frozenset({_TWEAKED[job.fault]})
    elif job.fault in _MISPLACED:
        told, detail = _misplaced(job.fault, told, str(job.place["country"]), rng)
        gates = frozenset({"coordinates"})
    coding = Coding(quality=int(rng.integers(20, 33)), mdta=told.apple)
    return told, Planted(encoded(take, coding, told.tags()), ".mov", gates, detail)


# --- wrong places ---


def _contradictions(point: _Point, told: Told, moved_deg: float) -> list[str]:
    """What speaks against this point, by tests that are coarser than a gate's need be: a country counts when the point
    has moved so far that no border is in doubt, a clock where the Earth is lived on."""
    latitude_deg, longitude_deg = point
    if abs(latitude_deg) > 90:
        return ["no such latitude"]
    land = country_at(latitude_deg, longitude_deg).item()
    found = []
    if land is None and float(coast_km(latitude_deg, longitude_deg)) > 60:
        found.append("open sea")
    if moved_deg > 5 and told.country is not None and land is not None and land != told.country:
        found.append("the stated country")
    offset = told.when.utcoffset()
    if told.apple and offset is not None and abs(latitude_deg) < 60:
        ahead_h = (offset.total_seconds() / 3600 - longitude_deg / 15 + 12) % 24 - 12
        if abs(ahead_h) > 4:  # no civil clock is so far from the sun
            found.append("the clock's offset")
    return found


def _misplaced(fault: str, told: Told, country: str, rng: np.random.Generator) -> tuple[Told, str]:
    """Coordinates lost or wrong, told by the file, by file and table, or by one of them against the other."""
    assert told.file is not None
    right = latitude_deg, longitude_deg = told.file
    if fault == "no place":
        return replace(told, file=None, table=None), "no coordinates anywhere"
    if fault == "null island":
        near = [(0.0, 0.0), (-0.0, 0.0), *((round(a, 4), round(b, 4)) for a, b in rng.uniform(-0.007, 0.007, (2, 2)))]
        wrong = near[int(rng.integers(len(near)))]
        told = replace(told, file=wrong, table=wrong if rng.random() < 0.5 else None)
        return told, f"{wrong[0]:g}, {wrong[1]:g}"
    turned = {
        "longitude": (latitude_deg, -longitude_deg), "latitude": (-latitude_deg, longitude_deg),
        "both": (-latitude_deg, -longitude_deg), "swapped": (longitude_deg, latitude_deg),
    }  # fmt: skip
    names = (
        ["swapped"]
        if fault == "swapped"
        else [str(name) for name in rng.permutation(["longitude", "latitude", "both"])]
    )
    apart = {name: max(abs(a - b) for a, b in zip(turned[name], right, strict=True)) for name in names}
    name = next((name for name in names if apart[name] > 2), max(names, key=lambda name: apart[name]))
    wrong = turned[name]
    ways = ["the file", "file and table", "the file against the table", "the table against the file"]
    # One impossible statement beside a right one is no doubt: whoever takes the right one is right.
    how = ways[int(rng.integers(2 if abs(wrong[0]) > 90 else 4))]
    if how in ways[:2] and not _contradictions(wrong, told, apart[name]):
        told = replace(told, country=country)
        if not _contradictions(wrong, told, apart[name]):
            how = "the file against the table"
    if how in ways[:2]:
        why = _contradictions(wrong, told, apart[name])
        told = replace(told, file=wrong, table=wrong if how == "file and table" else None)
    else:
        why = ["each other"]
        told = replace(told, file=wrong, table=right) if how.startswith("the file") else replace(told, table=wrong)
    return told, f"{name}, told by {how}, contradicted by {' and '.join(why)}"


# --- the score ---


def _share(hits: int, of: int) -> tuple[float, float, float]:
    """A share and its 95 % interval (Wilson 1927, without continuity correction); NaN for none of none."""
    if of == 0:
        return math.nan, math.nan, math.nan
    interval = binomtest(hits, of).proportion_ci(0.95, method="wilson")
    return hits / of, float(interval.low), float(interval.high)


@dataclass(frozen=True)
class _Judged:
    """One item after curation: the gates that may close, whether all went well, and gates that closed in error: on an
    item to be kept (`alarms`), or besides the right ones on a faulty item (`stray`)."""

    fault: str | None
    right: set[str]
    caught: bool
    alarms: set[str]
    stray: set[str]


def _counts(mine: list[_Judged], everything: list[_Judged], gates: set[str]) -> tuple[int, int, int, int]:
    """n, caught, false alarms and stray closures of these gates."""
    alarms = sum(bool(item.alarms & gates) for item in everything)
    stray = sum(bool(item.stray & gates) for item in everything)
    return len(mine), sum(item.caught for item in mine), alarms, stray


def score(rejects: pd.DataFrame, manifest: pd.DataFrame, key: pd.DataFrame) -> pd.DataFrame:
    """Recall and precision of curation on a planted corpus, per fault and per gate, with Wilson's 95 % intervals.

    An item is caught when its reject's `gate` or one in `also` is expected. Of a recording and its copy either may be
    taken for the duplicate. A fault that is to be kept is "caught" when it is kept. A false alarm is an item that ought
    to be kept and was rejected by one of the row's gates. A gate's recall counts the items on which it alone may close
    (those of several right gates count in their fault's row); `stray` counts faulty items on which it closed besides.
    Raises `CurateError` when an item is neither in the manifest nor in the rejects.
    """
    closed = {
        item: {gate, *(str(also).split(",") if isinstance(also, str) and also else [])}
        for item, gate, also in zip(rejects["item"], rejects["gate"], rejects["also"], strict=True)
    }
    kept = len(key) - key["item"].isin(list(closed)).sum()
    if kept != len(manifest):
        raise CurateError(f"manifest: has {len(manifest)} clips, but {kept} of {len(key)} items were not rejected")
    texts = key.astype("object").where(key.notna(), None)  # whatever a file has made of None
    items = list(texts[["item", "fault", "gate", "copy_of"]].itertuples(index=False, name=None))
    # The original in place of its copy: then the copy counts as caught, and the original is no false alarm.
    instead = {of for item, _, _, of in items if of and item not in closed and "duplicate" in closed.get(of, ())}
    judged = []
    for item, fault, gates, of in items:
        right, shut = set(filter(None, gates.split(","))), closed.get(item, set())
        caught = bool(right & shut) or of in instead if right else not shut
        alarms = shut - ({"duplicate"} if item in instead else set())
        judged.append(_Judged(fault, right, caught, set() if right else alarms, shut - right if right else set()))
    rows = []
    for fault in sorted({item.fault for item in judged if item.fault is not None}):
        mine = [item for item in judged if item.fault == fault]
        gates = set().union(*(item.right for item in mine))
        rows.append(("fault", fault, *_counts(mine, judged, gates)))
    for gate in sorted(set().union(*(item.right | item.alarms | item.stray for item in judged))):
        rows.append(("gate", gate, *_counts([item for item in judged if item.right == {gate}], judged, {gate})))
    table = pd.DataFrame(rows, columns=["of", "name", "n", "caught", "false_alarms", "stray"])
    shares = [(*_share(caught, n), *_share(caught, caught + alarms)) for _, _, n, caught, alarms, _ in rows]
    names = ["recall", "recall_low", "recall_high", "precision", "precision_low", "precision_high"]
    return table.join(pd.DataFrame(shares, columns=names))
