"""Curation killed at any moment goes on where it was; engines and workers change no byte of what it writes."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from avgeo.curate.planted import plant

CLIPS, SEED, SHARE = 26, 6, 0.5
# What other tests cover, and what would only take time here, is left out.
FAULTS = (
    "re-encoded",
    "silence",
    "captions",
    "wrong sign",
    "truncated",
    "misnamed",
    "playlist",
    "hostile name",
    "no file",
)
WORK = ".work"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL to send")


def command(source: Path, out: Path, engine: str, workers: int) -> list[str]:
    run = "import sys; from avgeo.cli import main; sys.exit(main())"
    options = ["--out", str(out), "--need", "picture,sound", "--engine", engine, "--workers", str(workers), "--shards"]
    return [sys.executable, "-c", run, "curate", str(source), *options]


def finish(source: Path, out: Path, engine: str = "process", workers: int = 2) -> float:
    """Run to the end; the seconds from the output folder's appearance on."""
    running = subprocess.Popen(command(source, out, engine, workers), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    began = wait_for(out, running)
    _, errors = running.communicate(timeout=600)
    assert running.returncode == 0, errors.decode()[-2000:]
    return time.monotonic() - began


def wait_for(out: Path, running: subprocess.Popen) -> float:
    until = time.monotonic() + 120
    while not out.exists() and running.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    return time.monotonic()


def kill_after(seconds: float, source: Path, out: Path, workers: int) -> bool:
    """Kill the run and its workers so long after the output folder is there; whether there was something to kill."""
    running = subprocess.Popen(
        command(source, out, "process", workers), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    began = wait_for(out, running)
    while running.poll() is None and time.monotonic() < began + seconds:
        time.sleep(0.005)
    alive = running.poll() is None
    if alive:
        os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    return alive


def contents(out: Path) -> dict[str, bytes]:
    """Every file of the result; what is kept for resuming is none of it."""
    files = (path for path in out.rglob("*") if path.is_file() and WORK not in path.relative_to(out).parts)
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resume") / "source"
    plant(folder, CLIPS, SEED, SHARE, workers=1, faults=FAULTS)
    return folder


@pytest.fixture(scope="module")
def whole(source: Path) -> tuple[dict[str, bytes], float]:
    """What an uninterrupted run writes, and how long it takes once it has begun."""
    out = source.parent / "whole"
    seconds = finish(source, out)
    found = contents(out)
    assert {"manifest.parquet", "rejects.parquet", "report.json", "README.md", "croissant.json", "SHA256SUMS"} <= set(
        found
    )
    assert any(name.endswith(".tar") for name in found)
    return found, seconds


def same(ours: dict[str, bytes], theirs: dict[str, bytes]) -> None:
    assert sorted(ours) == sorted(theirs)
    assert [name for name in ours if ours[name] != theirs[name]] == []


def test_killed_three_times_in_a_row(source: Path, whole: tuple[dict[str, bytes], float]) -> None:
    expected, seconds = whole
    out = source.parent / "thrice"
    rng = np.random.default_rng(SEED)
    killed = [kill_after(seconds * rng.uniform(0.1, 0.6), source, out, workers=2) for _ in range(3)]
    assert killed[0]
    finish(source, out)
    same(contents(out), expected)


@pytest.mark.slow
@pytest.mark.parametrize("moment", range(10))
def test_killed_at_a_random_moment(source: Path, whole: tuple[dict[str, bytes], float], moment: int) -> None:
    """Ten moments, one in each tenth of the uninterrupted run, each from a fresh start."""
    expected, seconds = whole
    out = source.parent / f"moment-{moment}"
    fraction = (moment + np.random.default_rng((SEED, moment)).random()) / 10
    killed = kill_after(seconds * fraction, source, out, workers=2)
    assert killed or moment > 7  # the last moments may come when all is done
    finish(source, out)
    same(contents(out), expected)


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "workers"), [("local", 1), ("process", 1), ("process", 3)])
def test_engines_and_workers_change_no_byte(
    source: Path, whole: tuple[dict[str, bytes], float], engine: str, workers: int
) -> None:
    out = source.parent / f"{engine}-{workers}"
    finish(source, out, engine, workers)
    same(contents(out), whole[0])


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install 'avgeo[scale]'")
def test_ray_changes_no_byte(source: Path, whole: tuple[dict[str, bytes], float]) -> None:
    out = source.parent / "ray"
    finish(source, out, "ray", 2)
    same(contents(out), whole[0])
