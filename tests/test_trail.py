"""The audit trail holds every piece of evidence, is the same for the same answer, and notices a change."""

from __future__ import annotations

import copy
import hashlib
import json
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from soundfiles import write

from avgeo.hints import read_hints
from avgeo.locate import Posterior, locate
from avgeo.paths import data_dir
from avgeo.trail import TABLES, audit_trail, unchanged

MADE = datetime(2026, 12, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Posterior:
    path = tmp_path_factory.mktemp("clip") / "clip.wav"
    write(path, np.zeros(16_000), 16_000)
    return locate(path, hints=read_hints(["hemisphere=north@0.99", "country=AU@0.99"]), without=("birds", "speech"))


def test_the_trail_holds_what_was_taken_and_with_what(found: Posterior) -> None:
    trail = audit_trail(found, {"max_seconds": 60.0}, made_at=MADE)
    assert trail["made_at"] == "2026-12-01T00:00:00+00:00"
    assert trail["input"]["sha256"] == found.input["sha256"] and trail["settings"] == {"max_seconds": 60.0}
    assert [row["details"]["hint"] for row in trail["taken"]] == ["hemisphere=north@0.99", "country=AU@0.99"]
    assert found.fused is not None
    assert [row["bits"] for row in trail["taken"]] == [did.bits for did in found.fused.weights]
    assert [pair[:2] for pair in trail["contradictions"]] == [["country: Australia", "hemisphere: north"]] or [
        pair[:2] for pair in trail["contradictions"]
    ] == [["hemisphere: north", "country: Australia"]]
    assert any("birds" in line for line in trail["not_asked"])
    assert trail["networks"] == {}  # BirdNET was not asked
    for name in TABLES:
        assert trail["tables"][name] == hashlib.sha256((data_dir() / name).read_bytes()).hexdigest()
    assert {"avgeo", "python", "numpy", "torch", "pvlib"} <= trail["versions"].keys()


def test_the_same_answer_has_the_same_trail(found: Posterior) -> None:
    assert audit_trail(found, made_at=MADE) == audit_trail(found, made_at=MADE)
    assert audit_trail(found)["made_at"][:2] == "20"


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(value, dict):
        return [leaf for name, one in value.items() for leaf in leaves(one, (*path, name))]
    if isinstance(value, list):
        return [leaf for at, one in enumerate(value) for leaf in leaves(one, (*path, at))]
    return [path]


def test_any_change_is_noticed(found: Posterior) -> None:
    trail = json.loads(json.dumps(audit_trail(found, {"seed": 0}, made_at=MADE)))
    assert unchanged(trail)
    for path in leaves(trail):
        changed = copy.deepcopy(trail)
        at = changed
        for name in path[:-1]:
            at = at[name]
        at[path[-1]] = "another"
        assert not unchanged(changed), path
    assert not unchanged({name: value for name, value in trail.items() if name != "sha256"})
    assert not unchanged({**trail, "more": 1})
