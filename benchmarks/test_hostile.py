"""Growth of the cost of hostile answers: `pytest benchmarks/test_hostile.py --benchmark-group-by=group`.

Every shape is parsed at 100, 200 and 400 thousand characters (the limit on length lifted, which would refuse them all
unread), in turns. Read `doubling` in the extra information: the factor per doubling of the length, 2 for linear work, 4
for quadratic. It is asserted below 3 on the least of several rounds, which noise can only raise.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from avgeo.reason import prompts
from avgeo.reason.prompts import parse
from avgeo.reason.rewards import groundedness_reward
from avgeo.untrusted import shown

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from hostile import ANSWERED, SHAPES

SIZES = (100_000, 200_000, 400_000)
AT_LEAST_S = 2e-3  # shorter work is repeated until a clock can tell it


def seconds(work: Callable[[], object]) -> float:
    """CPU seconds of `work` once, repeated until `AT_LEAST_S` have passed."""
    times, began = 0, time.process_time()
    while (spent := time.process_time() - began) < AT_LEAST_S or not times:
        work()
        times += 1
    return spent / times


def growth(benchmark: Callable, name: str, works: list[Callable[[], object]]) -> None:
    """Measure works of doubling sizes in turns; the factor per doubling goes into the extra information."""
    least = [float("inf")] * len(works)

    def all_sizes() -> None:
        for at, work in enumerate(works):
            least[at] = min(least[at], seconds(work))

    benchmark.group = "hostile answers, by length"
    benchmark.pedantic(all_sizes, rounds=7, warmup_rounds=1)
    doubling = (least[-1] / least[0]) ** (1 / (len(works) - 1))
    benchmark.extra_info |= {
        "ms": [round(1e3 * spent, 3) for spent in least], "characters": SIZES, "doubling": round(doubling, 2),
    }  # fmt: skip
    print(f"\n{name}: {benchmark.extra_info}")
    assert doubling < 3, benchmark.extra_info


@pytest.mark.parametrize("shape", SHAPES)
def test_parse(benchmark: Callable, monkeypatch: pytest.MonkeyPatch, shape: str) -> None:
    monkeypatch.setattr(prompts, "MAX_CHARACTERS", 10**7)
    texts = [SHAPES[shape](size) for size in SIZES]
    growth(benchmark, shape, [lambda text=text: parse(text) for text in texts])


def test_groundedness(benchmark: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompts, "MAX_CHARACTERS", 10**7)
    works = []
    for size in SIZES:
        cues = [f"{index:05d}" for index in range(size // 6)]
        text = f"<think>heard: {';'.join(cues)}</think>" + ANSWERED
        works.append(lambda text=text, cues=cues: groundedness_reward([text], [0.0], [0.0], heard=[cues]))
    growth(benchmark, "groundedness", works)


def test_shown_without_a_limit(benchmark: Callable) -> None:
    works = [lambda size=size: shown("\x1b\u202ea" * (size // 3), size) for size in SIZES]
    growth(benchmark, "shown", works)
