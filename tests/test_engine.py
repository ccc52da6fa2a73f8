"""The engines give the same results in the same order."""

from __future__ import annotations

import pytest

from avgeo.engine import ENGINES, EngineError, default_workers, map_items


def square(x: int) -> int:
    if x == 13:
        raise ValueError("thirteen")
    return x * x


@pytest.mark.parametrize("engine", ENGINES)
def test_engines_agree(engine):
    if engine == "ray":
        pytest.importorskip("ray", reason="the extra `scale` is not installed")
    assert list(map_items(square, range(12), engine=engine, workers=2)) == [x * x for x in range(12)]


@pytest.mark.parametrize("engine", ["local", "process"])
def test_an_error_in_a_worker_is_raised_here(engine):
    with pytest.raises(ValueError, match="thirteen"):
        list(map_items(square, [1, 13, 2], engine=engine, workers=2))


def test_unknown_engine_names_the_valid_ones():
    with pytest.raises(EngineError, match="local, process, ray"):
        list(map_items(square, [1], engine="spark"))
    assert default_workers() >= 1
