"""The engines give the same results in the same order."""

from __future__ import annotations

import os
import signal
import time
from functools import partial

import pytest

from avgeo.engine import ENGINES, MEMORY_BYTES, EngineError, default_workers, map_items


def square(x: int) -> int:
    if x == 13:
        raise ValueError("thirteen")
    return x * x


@pytest.mark.parametrize("engine", ["local", "process"])
def test_engines_agree(engine):
    assert list(map_items(square, range(12), engine=engine, workers=2)) == [x * x for x in range(12)]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_partial_function_is_a_function(engine):
    """On Ray too, whose workers cannot import what stands in a test."""
    if engine == "ray":
        pytest.importorskip("ray", reason="the extra `scale` is not installed")
    power = partial(pow, exp=2)
    assert list(map_items(power, range(4), engine=engine, workers=2)) == [0, 1, 4, 9]
    isolated = map_items(power, range(4), engine=engine, workers=2, failed=lambda item, why: -1, time_limit_s=60.0)
    assert list(isolated) == [0, 1, 4, 9]


@pytest.mark.parametrize("engine", ["local", "process"])
def test_an_error_in_a_worker_is_raised_here(engine):
    with pytest.raises(ValueError, match="thirteen"):
        list(map_items(square, [1, 13, 2], engine=engine, workers=2))


def test_unknown_engine_names_the_valid_ones():
    with pytest.raises(EngineError, match="local, process, ray"):
        list(map_items(square, [1], engine="spark"))
    assert default_workers() >= 1


def dangerous(x: int) -> str:
    if x == 3:
        os.kill(os.getpid(), signal.SIGSEGV)
    if x == 5:
        time.sleep(600)
    if x == 7:
        try:
            bytearray(2 * MEMORY_BYTES)
        except MemoryError:
            return "too much"
    return str(x)


def test_an_item_that_kills_its_worker_costs_that_item_alone():
    """A crash, a hang and a glutton among others: each is named, none is lost, nothing is out of order."""

    def failed(item: int, why: str) -> str:
        return f"{item} {why}"

    found = list(map_items(dangerous, range(10), engine="process", workers=2, failed=failed, time_limit_s=2.0))
    expected = [str(x) for x in range(10)]
    expected[3], expected[5], expected[7] = "3 ended its process (SIGSEGV)", "5 takes longer than 2 s", "too much"
    assert found == expected


def test_isolated_workers_still_raise_what_the_function_raises():
    with pytest.raises(ValueError, match="thirteen"):
        list(map_items(square, [1, 13, 2], engine="process", workers=2, failed=lambda item, why: -1))
