"""What curation costs beside decoding: `pytest benchmarks/test_curate.py --benchmark-group-by=group`.

Per file, in one run, CPU seconds of one core: a plain decode of all streams (PyAV here, and the ffmpeg program where
there is one), the one pass that gives the gates their signals, and the whole examination of an item. Read the ratios in
the extra information, and `times_real_time`: seconds of media per CPU second. The budget, twice the plain decode, is
asserted on each real film; AVG-Sim's drawings decode in milliseconds, and their ratio is only told.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import av
import numpy as np
import pytest

from avgeo.clips import probe
from avgeo.curate.candidate import Candidate
from avgeo.curate.gates import examine
from avgeo.curate.planted_media import RATE_HZ, Coding, Take, encoded
from avgeo.curate.signals import read_signals
from avgeo.profiles import CurateSettings, WorldSettings
from avgeo.world import build_places
from avgeo.world.plan import plan_clip, render_frames, render_sound

SETTINGS = CurateSettings()
BUDGET = 2.0
REAL = ("karma.mp4", "max-heromode.mp4", "issue-515-java.mp4")
MADE = {"sim-1280x720": (1280, 720, 30, 4.0), "sim-320x240": (320, 240, 8, 4.0), "sim-320x240-60s": (320, 240, 8, 60.0)}
_PLACE = {"com.apple.quicktime.location.ISO6709": "+40.3139+036.5544/"}


@lru_cache(maxsize=1)
def _made(folder: Path) -> dict[str, Path]:
    found = {}
    for name, (width, height, fps, seconds) in MADE.items():
        settings = WorldSettings(places=10, duration_s=seconds, width=width, height=height, fps=fps)
        plan = plan_clip(dict(build_places(settings, 0).iloc[0]), settings, 0, 0)
        # a sensor's noise: a drawing without it decodes in no time
        noise = np.random.default_rng(0).normal(0, 2.5, (height, width, 1)).astype(np.float32)
        frames = [
            np.clip(frame + np.roll(noise, 37 * i, (0, 1)), 0, 255)
            for i, frame in enumerate(render_frames(plan, settings))
        ]
        take = Take(np.stack(frames).astype(np.uint8), render_sound(plan, settings))
        assert settings.sample_rate_hz == RATE_HZ
        found[name] = folder / f"{name}.mov"
        found[name].write_bytes(encoded(take, replace(Coding(quality=23), fps=Fraction(fps)), _PLACE))
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("films")


def film(name: str, folder: Path) -> Path:
    """The film of that name: made by AVG-Sim, or a real one of the mirror."""
    if name in MADE:
        return _made(folder)[name]
    mirror = os.environ.get("AVGEO_MIRROR")
    path = Path(mirror, "video", name) if mirror else None
    if path is None or not path.is_file():
        pytest.skip(f"{name}: set AVGEO_MIRROR to the folder of real data")
    return path


def plain_decode(path: Path) -> None:
    """Every frame of the first picture and the first sound, on one thread, and nothing done with it."""
    with av.open(str(path)) as container:
        streams = [*container.streams.video[:1], *container.streams.audio[:1]]
        for stream in container.streams.video[:1]:
            stream.thread_type, stream.codec_context.thread_count = "SLICE", 1
        for packet in container.demux(streams):
            packet.decode()


def signals(path: Path) -> None:
    """The one pass that all gates share."""
    read_signals(path, probe(path), SETTINGS.examine_s, SETTINGS.time_limit_s)


def examination(path: Path) -> None:
    """Everything that is done to one item."""
    examine(Candidate(path.name, path, "folder"), SETTINGS, everything=True)


def ffmpeg(path: Path) -> None:
    """The program, which decodes with the same libraries."""
    subprocess.run(["ffmpeg", "-v", "error", "-threads", "1", "-i", str(path), "-f", "null", "-"], check=True)


def cpu_s(work: Callable[[Path], None], path: Path) -> float:
    """CPU seconds of this process and its children."""

    def spent() -> float:
        usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(usage.ru_utime + usage.ru_stime for usage in usages)

    before = spent()
    work(path)
    return spent() - before


@pytest.mark.parametrize("name", [*REAL, *MADE])
def test_examination_against_decode(benchmark: Callable, folder: Path, name: str) -> None:
    path = film(name, folder)
    ways = [plain_decode, signals, examination] + [ffmpeg] * (shutil.which("ffmpeg") is not None)
    examination(path)  # loads models, tables and maps once
    least: dict[str, float] = {}

    def all_ways() -> None:
        for way in ways:  # in turns, so that neighbours on the machine slow all of them
            spent = cpu_s(way, path)
            least[way.__name__] = min(least.get(way.__name__, spent), spent)

    benchmark.group = "examination of one film, against its decode"
    benchmark.pedantic(all_ways, rounds=5)
    decode_s, seconds = least["plain_decode"], probe(path).duration_s
    benchmark.extra_info |= {f"{way}_ms": round(1e3 * spent, 1) for way, spent in least.items()}
    benchmark.extra_info |= {f"{way}_ratio": round(spent / decode_s, 2) for way, spent in least.items()}
    benchmark.extra_info["times_real_time"] = round(seconds / least["examination"], 1)
    print(f"\n{name}: {benchmark.extra_info}")
    if name in REAL:
        assert least["examination"] <= BUDGET * decode_s, benchmark.extra_info
