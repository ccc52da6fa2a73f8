"""What every test runs under: one thread, no hub, no display, and a cache of its own."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

# Before anything imports torch or avgeo: results must not depend on the machine's cores or on what it has
# cached.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MPLBACKEND"] = "Agg"
if "AVGEO_CACHE" not in os.environ:
    _cache = tempfile.mkdtemp(prefix="avgeo-tests-")  # one per process, so that xdist's workers do not meet in it
    os.environ["AVGEO_CACHE"] = _cache
    atexit.register(shutil.rmtree, _cache, ignore_errors=True)

settings.register_profile("avgeo", deadline=None, derandomize=True)
settings.load_profile("avgeo")


@pytest.fixture(scope="session")
def repository_root() -> Path:
    """The checkout under test."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def mirror() -> Path:
    """The folder of real data that `AVGEO_MIRROR` names; without one the test is skipped, with the reason."""
    named = os.environ.get("AVGEO_MIRROR")
    if not named:
        pytest.skip("AVGEO_MIRROR is not set: real data are not at hand")
    folder = Path(named)
    if not folder.is_dir():
        pytest.skip(f"AVGEO_MIRROR={named} is not a folder")
    return folder
