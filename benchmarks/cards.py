"""Runs too long for the build, or on data that are not ours to give, each leaving a run card under data/results/.

python benchmarks/cards.py simulate OUT   # 20,000 clips from 1,000 places: speed, memory, size
python benchmarks/cards.py ceiling        # its Bayes ceiling, over 20,000 fresh clips per protocol
python benchmarks/cards.py faults         # curation of 2,000 clips, half of them with planted faults
python benchmarks/cards.py real           # curation of the real data in $AVGEO_MIRROR
python benchmarks/cards.py agl1k          # the balance of AGL1K's places, and what its scores are worth
"""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from avgeo.artifacts import run_card
from avgeo.engine import default_workers
from avgeo.paths import data_dir
from avgeo.profiles import CurateSettings, WorldSettings

WORLD = WorldSettings(places=1000, clips_per_place=20)
SEED = 0
CLIPS = 20_000


def simulate(out: Path) -> None:
    """The paper's size: 1,000 places x 20 clips."""
    from avgeo.world import simulate as run
    from avgeo.world.integrity import sha256

    what, command = "AVG-Sim at the size of the paper's benchmark", "python benchmarks/cards.py simulate OUT"
    file = data_dir() / "results" / "avg-sim-simulate.json"
    with run_card(file, what=what, command=command, settings=WORLD, seed=SEED) as card:
        began, workers = time.perf_counter(), default_workers()
        done = run(WORLD, SEED, out, workers=workers)
        wall_s = time.perf_counter() - began
        if done.rendered < done.clips:
            raise SystemExit(f"{out} held {done.clips - done.rendered} clips already: a card needs an empty folder")
        peaks = [resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        media = [clip.stat().st_size for clip in out.glob("media/*/*.mp4")]
        card["result"] = {
            "clips": done.clips,
            "workers": workers,
            "clips_per_second": done.clips / wall_s,
            "clips_per_cpu_second": done.clips / sum(done.seconds.values()),
            "cpu_ms_per_clip": {stage: 1e3 * spent / done.clips for stage, spent in done.seconds.items()},
            "peak_mb": {"parent": peaks[0], "largest_worker": peaks[1]},
            "media_bytes": {"files": len(media), "all": sum(media), "least": min(media), "most": max(media)},
            "sha256": {table.name: sha256(table) for table in sorted(out.glob("*.parquet"))},
        }


def ceiling() -> None:
    """The best possible on that world."""
    from avgeo.world import build_places, build_pool
    from avgeo.world.ceiling import fresh_ceiling

    what = "Bayes ceiling of AVG-Sim at the size of the paper's benchmark"
    file = data_dir() / "results" / "avg-sim-ceiling.json"
    with run_card(file, what=what, command="python benchmarks/cards.py ceiling", settings=WORLD, seed=SEED) as card:
        table = fresh_ceiling(build_places(WORLD, SEED), build_pool(WORLD, SEED), CLIPS, SEED)
        card["result"] = table.astype(object).where(table.notna(), None).to_dict("records")


PLANTED = {"clips": 2000, "share": 0.5}
PLANTED_SEED = 23  # nothing was tuned on it
CURATE = CurateSettings(need=("picture", "sound"))


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    return table.astype(object).where(table.notna(), None).to_dict("records")


def faults() -> None:
    """Recall and precision of every gate on a planted corpus."""
    from avgeo.curate import curate
    from avgeo.curate.planted import plant, score

    what, command = (
        "Curation of clips from AVG-Sim, half of them with planted faults",
        "python benchmarks/cards.py faults",
    )
    file, settings = data_dir() / "results" / "curate-faults.json", PLANTED | {"curate": asdict(CURATE)}
    with (
        tempfile.TemporaryDirectory() as folder,
        run_card(file, what=what, command=command, settings=settings, seed=PLANTED_SEED) as card,
    ):
        began = time.perf_counter()
        key = plant(Path(folder, "corpus"), PLANTED["clips"], PLANTED_SEED, PLANTED["share"])
        planted = time.perf_counter()
        report = curate("folder", Path(folder, "corpus"), Path(folder, "out"), CURATE)
        curated = time.perf_counter()
        rejects, manifest = pd.read_parquet(report.rejects), pd.read_parquet(report.manifest)
        table = key.merge(rejects, on="item", how="left", suffixes=("_expected", ""))
        card["result"] = {
            "seconds": {"planting": planted - began, "curation": curated - planted},
            "items": len(key),
            "faulty": int(key["fault"].notna().sum()),
            "kept": report.kept,
            "rejected_by": report.by_gate,
            "score": _rows(score(rejects, manifest, key)),
            "flips": _rows(_flips()),
            "missed": _rows(_missed(table, closed=False)),
            "false_alarms": _rows(_missed(table, closed=True)),
        }


def _flips() -> pd.DataFrame:
    """How often a wrong sign or a swap is seen at AVG-Sim's places, chosen by nothing, by what else is known."""
    from avgeo.curate.coordinates import coordinates
    from avgeo.curate.location import locate
    from avgeo.world import Moment, build_places

    found = []
    for place in build_places(WORLD, SEED).head(500).to_dict("records"):
        north, east = place["latitude_deg"], place["longitude_deg"]
        when = Moment(7, 12).local(place).isoformat()
        turns = {
            "longitude": (north, -east), "latitude": (-north, east), "both": (-north, -east), "swapped": (east, north),
            "none": (north, east),
        }  # fmt: skip
        known = {"nothing": (None, None), "clock": (None, when), "country": (place["country"], None),
                 "clock and country": (place["country"], when)}  # fmt: skip
        for turn, point in turns.items():
            for what, (country, clock) in known.items():
                verdict, _ = coordinates([locate("quicktime", *point, None, clock)], CURATE, country=country)
                found.append((turn, what, verdict.reason is not None))
    table = pd.DataFrame(found, columns=["turned", "known", "seen"])
    return table.groupby(["turned", "known"], sort=False)["seen"].agg(["size", "mean"]).reset_index()


def _missed(table: pd.DataFrame, closed: bool) -> pd.DataFrame:
    """Items to be kept that were `closed`, or faulty ones on which no right gate closed (a copy's original aside)."""
    shut = (table["gate"].fillna("") + "," + table["also"].fillna("")).str.split(",").map(set)
    right = [bool(set(gates.split(",")) & found) for gates, found in zip(table["gate_expected"], shut, strict=True)]
    keep = table["gate_expected"] == ""
    duplicate = set(table.loc[shut.map(lambda found: "duplicate" in found), "item"])
    swapped = table["copy_of"].isin(duplicate) & table["gate"].isna()
    instead = table["item"].isin(table.loc[swapped, "copy_of"])
    chosen = keep & table["gate"].notna() & ~instead if closed else ~keep & ~pd.Series(right, table.index) & ~swapped
    return table.loc[chosen, ["fault", "detail", "gate", "also", "reason"]].sort_values(["fault", "detail"])


def real() -> None:
    """Every real file is kept or rejected; Xeno-canto's and AGL1K's are told in sums only.

    AGL1K's recordings are not fetched: its table is judged by the gates that need no media.
    """
    from avgeo.curate import curate
    from avgeo.curate.gates import stated
    from avgeo.curate.sources import candidates
    from avgeo.fetch import fetch

    mirror = Path(os.environ["AVGEO_MIRROR"])
    what, command = "Curation of real films, photos and recordings", "python benchmarks/cards.py real"
    file, settings = data_dir() / "results" / "curate-real.json", CurateSettings()
    with (
        tempfile.TemporaryDirectory() as folder,
        run_card(file, what=what, command=command, settings=settings, seed=SEED) as card,
    ):
        report = curate("folder", mirror, Path(folder, "out"), settings)
        rejects, manifest = pd.read_parquet(report.rejects), pd.read_parquet(report.manifest)
        paths = [(report.manifest.parent / path).resolve() for path in manifest["path"]]
        kept = pd.DataFrame({"item": [path.relative_to(mirror.resolve()).as_posix() for path in paths]})
        kept = kept.assign(gate="kept", kind=manifest["location_kind"], flags=manifest["flags"])
        table = pd.concat([rejects, kept], ignore_index=True)
        listed = list(candidates("aporee", fetch("geoLocalization_schema.csv")))
        judged = [next((v.gate for v in stated(item, settings) if v.reason), "kept as listed") for item in listed]
        table["folder"] = table["item"].str.split("/").str[0].where(table["item"].str.contains("/"), ".")
        named = table["folder"].isin(["photo", "video"])
        card["result"] = {
            "kept": report.kept,
            "rejected": report.rejected,
            "places": report.places,
            "folders": _rows(table.groupby(["folder", "gate"]).size().rename("items").reset_index()),
            "files": _rows(table[named].drop(columns="folder").sort_values("item")),
            "not_measured": report.not_measured,
            "agl1k": dict(Counter(judged)),
        }


def agl1k() -> None:
    """Aggregates of AGL1K's table and of one published list of answers; no row of either leaves."""
    from avgeo.curate.balance import audit_balance, read_agl1k, read_agl1k_answers
    from avgeo.fetch import fetch

    what, command = "Balance of AGL1K and what its scores are worth", "python benchmarks/cards.py agl1k"
    file = data_dir() / "results" / "agl1k-audit.json"
    with run_card(file, what=what, command=command, settings={}, seed=SEED) as card:
        table = read_agl1k(fetch("agl1k/geoLocalization_schema.csv"))
        answers = read_agl1k_answers(fetch("agl1k/qwen25-omni_seed_42_progress_fixed.json"))
        card["result"] = audit_balance(table, {"Qwen2.5-Omni": answers}, SEED)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["simulate", folder]:
            simulate(Path(folder))
        case ["ceiling"]:
            ceiling()
        case ["faults"]:
            faults()
        case ["real"]:
            real()
        case ["agl1k"]:
            agl1k()
        case _:
            raise SystemExit(__doc__)
