"""The Earth benchmark: tables, splits and leaks, on made tables, on what is stored, and on the files where they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from avgeo.fetch import fetch, source_files
from avgeo.flow import benchmark, earth
from avgeo.flow.earth import FILES, PROTOCOLS, SEEDS, EarthError, Split, draw_split, leaks, read_table, stored_split
from avgeo.paths import data_dir
from avgeo.sphere import to_degrees


def made(count: int = 100, copies: int = 20, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    table = np.stack([rng.uniform(-90, 90, count), rng.uniform(-180, 180, count)], 1)
    table[rng.permutation(count)[:copies]] = table[0]
    return table


def test_comments_and_one_heading_are_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    for head in ("", "# from\n\n", "# from\nLatitude,Longitude\n"):
        file.write_text(f"{head}-30.2,-178.47\n30.78,130.28,7\n")
        assert read_table(file).tolist() == [[-30.2, -178.47], [30.78, 130.28]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2\nx,3\n", "line 2: 'x,3' is no latitude"),
        ("a,b\nc,d\n1,2\n", "line 2"),
        ("1,2\n91,3\n", "line 2: '91,3' is no place"),
        ("1,nan\n", "no place in degrees"),
        ("# nothing\n", "has no rows"),
    ],
)
def test_a_bad_table_names_its_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "t.csv"
    file.write_text(text)
    with pytest.raises(EarthError, match=message):
        read_table(file)


def test_copies_are_counted_once_in_order() -> None:
    table = np.array([[1.0, 2], [3, 4], [1, 2], [3, 5], [3, 4]])
    assert earth.unique_rows(table).tolist() == [0, 1, 3]


def test_points_are_the_places() -> None:
    table = made()
    latitude_deg, longitude_deg = to_degrees(earth.to_points(table))
    assert torch.allclose(latitude_deg, torch.from_numpy(table[:, 0]))
    assert torch.allclose(longitude_deg, torch.from_numpy(table[:, 1]))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_split_is_a_partition(protocol: str) -> None:
    table = made(200, 40)
    split = draw_split(table, protocol, 3)
    rows = np.concatenate([split.train, split.val, split.test])
    expected = np.arange(200) if protocol == "raw" else earth.unique_rows(table)
    assert sorted(rows.tolist()) == expected.tolist()
    assert len(split.test) == pytest.approx(len(expected) / 10, abs=1) == pytest.approx(len(split.val), abs=1)
    assert np.array_equal(draw_split(table, protocol, 3).test, split.test)
    assert not np.array_equal(draw_split(table, protocol, 4).test, split.test)
    with pytest.raises(EarthError, match="unknown protocol 'both'"):
        draw_split(table, "both", 0)


def test_what_is_written_is_what_was_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = {"volcano": made(120, 30), "flood": made(90, 5, 1)}
    earth.write_splits(tmp_path / "splits" / "earth.npz", tables)
    monkeypatch.setattr(earth, "data_dir", lambda: tmp_path)
    for name, table in tables.items():
        for protocol in PROTOCOLS:
            for seed in range(SEEDS):
                stored, drawn = stored_split(name, protocol, seed), draw_split(table, protocol, seed)
                for part in ("train", "val", "test"):
                    assert np.array_equal(getattr(stored, part), getattr(drawn, part))


def test_leaks_of_a_known_table() -> None:
    # rows 0 and 2 are copies; row 3 lies 1° of the equator from row 1
    table = np.array([[0.1, 0.2], [0, 50], [0.1, 0.2], [0, 51], [0.05, 100]])
    found = leaks(table, Split(np.array([0, 1]), np.array([], dtype=int), np.array([2, 3])))
    assert found["rows"] == 5 and found["unique_rows"] == 4 and found["copied_in_test"] == 0.5
    assert found["nearest_km_median"] == pytest.approx(111.195 / 2, abs=0.01)
    assert found["on_tenths"] == 0.75


@pytest.mark.parametrize(("name", "rows", "unique"), [
    ("volcano", 827, 267), ("earthquake", 6120, 5447), ("flood", 4875, 4861), ("fire", 12809, 12802),
])  # fmt: skip
def test_the_stored_splits(name: str, rows: int, unique: int) -> None:
    for protocol, expected in (("raw", rows), ("deduplicated", unique)):
        tests = []
        for seed in range(SEEDS):
            split = stored_split(name, protocol, seed)
            parts = [set(part.tolist()) for part in (split.train, split.val, split.test)]
            assert len(set.union(*parts)) == sum(map(len, parts)) == expected
            assert max(set.union(*parts)) < rows
            assert [len(part) for part in parts] == [
                int(0.8 * expected), int(0.9 * expected) - int(0.8 * expected), expected - int(0.9 * expected),
            ]  # fmt: skip
            tests.append(tuple(split.test.tolist()))
        assert len(set(tests)) == SEEDS


def test_the_store_is_small_and_says_what_it_lacks() -> None:
    assert (data_dir() / "splits" / "earth.npz").stat().st_size < 300_000
    for asked in (("ocean", "raw", 0), ("fire", "both", 0), ("fire", "raw", 5)):
        with pytest.raises(EarthError, match=r"no split .*: sets volcano"):
            stored_split(*asked)


def test_the_files_are_listed() -> None:
    assert set(FILES.values()) <= set(source_files())


@pytest.mark.parametrize("name", FILES)
def test_the_files_give_the_stored_splits(name: str, mirror: Path) -> None:
    table = read_table(fetch(FILES[name]))
    for protocol in PROTOCOLS:
        stored, drawn = stored_split(name, protocol, 1), draw_split(table, protocol, 1)
        assert np.array_equal(stored.train, drawn.train) and np.array_equal(stored.test, drawn.test)
    data = earth.load_earth(name, "deduplicated", 1)
    known = {tuple(row) for row in data.train.tolist()}
    assert not any(tuple(row) in known for row in data.test.tolist())
    raw = leaks(table, stored_split(name, "raw", 0))
    assert raw["copied_in_test"] == pytest.approx(
        {"volcano": 0.78, "earthquake": 0.16, "flood": 0.004, "fire": 0.001}[name], abs=0.05
    )


# --- the card ---


def row(method: str, name: str, value: float, low: float | None, high: float | None, seeds: int = 5, **more) -> dict:
    spread = {"low": low, "high": high, "seeds": seeds}
    return {"set": name, "protocol": "deduplicated", "method": method} | spread | {"difference": value} | more


def test_a_card_is_read_and_concluded_from() -> None:
    minus = [
        row("flow", "flood", 0.5, 0.4, 0.6), row("flow", "fire", -0.2, -0.3, -0.1),
        row("flow", "volcano", 0.1, -0.1, 0.3), row("flow", "earthquake", 0.3, None, None, 1),
        row("other", "fire", -1, -2, -0.5),
    ]  # fmt: skip
    cells = [
        {"method": "flow", "set": "fire", "fit_cpu_min": minutes, "integral": {
            "grid": 1 - minutes / 1000, "evaluations": 9, "sampling": 1.02, "sampling_se": 0.01,
        }} for minutes in (0.5, 2.0)
    ]  # fmt: skip
    summary = [{"mean": item["difference"], **item, "protocol": "raw"} for item in minus]
    card = {
        "result": {"minus_plain": minus, "cells": cells, "summary": summary, "published": {"a paper": {"fire": -9.0}}}
    }
    said = benchmark.concluded(card, "flow")
    verdict = "better on fire; worse on flood; not apart on volcano; one split only on earthquake."
    assert said == f"flow against plain vMF kernels: {verdict}"
    found = benchmark.differences(card, methods=["flow"]).iloc[0]
    assert found["flood"] == "0.500 [0.400, 0.600]" and found["earthquake"] == "0.3 (one seed)"
    assert list(benchmark.differences(card)["method"]) == ["flow", "other"]
    assert benchmark.published(card).iloc[-1][["method", "fire"]].tolist() == ["a paper", -9.0]
    assert benchmark.minutes(card).iloc[0]["fire"] == 2.0
    checked = benchmark.integrals(card).iloc[0]
    assert checked["densities"] == 2 and checked["grid: farthest from 1"] == pytest.approx(2e-3)
    assert checked["in standard errors"] == pytest.approx(2)


def test_the_calibration_card_is_read_as_it_stands() -> None:
    def judged(observed: float, **fitted: float) -> dict[str, Any]:
        levels = [{"nominal": 0.5, "observed": observed, "low": 0.3, "high": 0.6}]
        return {"coverage": levels, "bits": {"value": 2.0, "low": 1.9, "high": 2.1}} | fitted

    told = {
        "as trained": judged(0.38),
        "log_score": judged(0.48, temperature=1.25, floor=0.01),
        "coverage": judged(0.5),
    }
    card = {"result": {"senses": {"sound": told, "sight": told | {"as trained": judged(0.63)}}}}
    table = benchmark.calibrated(card)
    assert table["50%"].tolist()[:2] == ["38.0 [30, 60]", "48.0 [30, 60]"] and table["T"].tolist()[:2] == [
        "1.00",
        "1.25",
    ]
    assert benchmark.farthest_off(card) == pytest.approx({"as trained": 13.0, "log_score": 2.0, "coverage": 0.0})


def test_the_solvers_card_is_read_at_one_number_of_evaluations() -> None:
    errors = [
        {"flow": flow, "solver": solver, "evaluations": count, "median_km": km / count, "p99_km": 9 * km / count}
        for flow, km in (("mixture", 64.0), ("arcs", 128.0)) for solver in ("slow", "fast") for count in (32, 64)
    ]  # fmt: skip
    errors[-1]["median_km"] = errors[3]["median_km"] = 0.5
    table = benchmark.solved({"result": {"errors": errors}}, 64)
    assert table["solver"].tolist() == ["fast", "slow"] and table["mixture: median, km"].tolist() == [0.5, 1.0]
    assert table["arcs: 99th percentile, km"].tolist() == [18.0, 18.0]
