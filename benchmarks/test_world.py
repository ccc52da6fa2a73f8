"""AVG-Sim's speed and memory: `pytest benchmarks/test_world.py --benchmark-group-by=group`.

Stages are timed on the same clips of 10 s at the default size of picture, on one core; `clips_per_s` in the extra
information counts CPU seconds, so that neighbours on the machine matter less. The budget, 8 clips a second and core
without speech, is asserted on all stages together; the rest is to be read, on an idle machine.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
import pytest

from avgeo.clips import write_clip
from avgeo.profiles import WorldSettings
from avgeo.world.places import build_places
from avgeo.world.plan import ClipPlan, plan_clip, render_frames, render_sound
from avgeo.world.posterior import Likelihood
from avgeo.world.truth import posterior_table

SETTINGS = WorldSettings(places=1000, duration_s=10.0)
CLIPS = 24
BUDGET_S = 1 / 8


@lru_cache(maxsize=1)
def places() -> list[dict]:
    return [{str(k): v for k, v in place.items()} for place in build_places(SETTINGS, 0).to_dict("records")]


@lru_cache(maxsize=1)
def likelihood() -> Likelihood:
    return Likelihood(build_places(SETTINGS, 0))


def plans(speech: bool) -> list[ClipPlan]:
    """The first clips that hold a voice, or none."""
    found = (plan_clip(place, SETTINGS, 0, number) for number in range(4) for place in places())
    return [plan for plan in found if ("voice" in plan.cues) == speech][:CLIPS]


def draw(planned: list[ClipPlan], folder: Path) -> None:
    for plan in planned:
        plan_clip(plan.place, SETTINGS, 0, plan.seed[2])


def synthesise(planned: list[ClipPlan], folder: Path) -> None:
    for plan in planned:
        render_sound(plan, SETTINGS)


def render(planned: list[ClipPlan], folder: Path) -> None:
    for plan in planned:
        render_frames(plan, SETTINGS)


@cache
def media(clip_ids: tuple[str, ...]) -> list[tuple[np.ndarray, np.ndarray]]:
    found = {plan.clip_id: plan for speech in (False, True) for plan in plans(speech)}
    return [(render_frames(found[name], SETTINGS), render_sound(found[name], SETTINGS)) for name in clip_ids]


def encode(planned: list[ClipPlan], folder: Path) -> None:
    for frames, sound in media(tuple(plan.clip_id for plan in planned)):
        write_clip(folder / "clip.mp4", frames, SETTINGS.fps, sound, SETTINGS.sample_rate_hz)


def posterior(planned: list[ClipPlan], folder: Path) -> None:
    posterior_table(planned, likelihood())


def whole(planned: list[ClipPlan], folder: Path) -> None:
    """All stages, as a shard does them."""
    draw(planned, folder)
    for plan in planned:
        sound, frames = render_sound(plan, SETTINGS), render_frames(plan, SETTINGS)
        write_clip(folder / "clip.mp4", frames, SETTINGS.fps, sound, SETTINGS.sample_rate_hz)
    posterior(planned, folder)


@pytest.mark.parametrize("speech", [False, True], ids=["without speech", "with speech"])
@pytest.mark.parametrize(
    "stage", [draw, synthesise, render, encode, posterior, whole], ids=lambda stage: stage.__name__
)
def test_stage(benchmark: Callable, tmp_path: Path, stage: Callable, speech: bool) -> None:
    planned = plans(speech)
    stage(planned, tmp_path)  # fills the caches of tables and kernels
    spent_s = []

    def timed() -> None:
        began = time.process_time()
        stage(planned, tmp_path)
        spent_s.append((time.process_time() - began) / CLIPS)

    benchmark.group = "clips of 10 s, " + ("with speech" if speech else "without speech")
    benchmark.pedantic(timed, rounds=3)
    benchmark.extra_info["clips_per_s"] = round(1 / min(spent_s), 1)
    if stage is whole and not speech:
        assert min(spent_s) < BUDGET_S, f"{1 / min(spent_s):.1f} clips a second and core"


_PEAK = """
import re, sys
from pathlib import Path
from avgeo.profiles import WorldSettings
from avgeo.world.simulate import simulate
clips = int(sys.argv[1])
settings = WorldSettings(places=40, clips_per_place=-(-clips // 40), duration_s=0.5, width=64, height=48)
simulate(settings, 0, Path(sys.argv[2]), clips_limit=clips)
print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak is read from /proc/self/status")
def test_peak_memory_is_flat(benchmark: Callable, tmp_path: Path) -> None:
    """Sixteen times the clips, the same memory to a tenth.

    The peak is a second run's, which finds its places made: making them takes more memory than all the rest.
    """
    peaks_mb = {}

    def run() -> None:
        for clips in (50, 200, 800):
            out = tmp_path / str(clips)
            command = [sys.executable, "-c", _PEAK, str(clips), str(out)]
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            subprocess.run(command, check=True, capture_output=True, env=environment)
            shutil.rmtree(out / "media")
            (out / "manifest.parquet").unlink()
            done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
            assert len(list(out.rglob("*.mp4"))) == clips
            peaks_mb[clips] = int(done.stdout) / 2**10  # getrusage would count the parent's pages before the exec

    benchmark.group = "peak memory"
    benchmark.pedantic(run, rounds=1)
    benchmark.extra_info["peak_mb"] = {clips: round(peak) for clips, peak in peaks_mb.items()}
    assert peaks_mb[800] < 1.1 * peaks_mb[50], peaks_mb
