"""Runs of AVG-Sim too long for the build, each leaving a run card under data/results/.

python benchmarks/cards.py simulate OUT   # 20,000 clips from 1,000 places: speed, memory, size
python benchmarks/cards.py ceiling        # its Bayes ceiling, over 20,000 fresh clips per protocol
"""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path

from avgeo.artifacts import run_card
from avgeo.engine import default_workers
from avgeo.paths import data_dir
from avgeo.profiles import WorldSettings

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


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["simulate", folder]:
            simulate(Path(folder))
        case ["ceiling"]:
            ceiling()
        case _:
            raise SystemExit(__doc__)
