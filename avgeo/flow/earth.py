"""The Earth benchmark: volcanoes, earthquakes, floods and fires as places on the sphere (Mathieu & Nickel 2020).

Published results rest on random splits that were never published, of files with exact copies of rows in them: a copy
in training gives its twin in the test away. Here the splits are fixed and stored (`data/splits/earth.npz`), with the
copies (the raw protocol) and without (the de-duplicated one), and `leaks` counts what a copy gives away.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.spatial import KDTree
from torch import Tensor

from avgeo.fetch import fetch
from avgeo.paths import data_dir
from avgeo.sphere import EARTH_RADIUS_KM, from_degrees, normalize

FILES = {"volcano": "volerup.csv", "earthquake": "quakes_all.csv", "flood": "flood.csv", "fire": "fire.csv"}
"""The four sets, and their files' names in `data/sources.csv`."""

PROTOCOLS = ("deduplicated", "raw")
SEEDS = 5
_TRAIN, _VAL = 0.8, 0.1


class EarthError(ValueError):
    """A table that cannot be read, or a split that is not of it; the message names the cure."""


@dataclass(frozen=True)
class Split:
    """Row numbers of a table: (n,) int64 each, disjoint."""

    train: Int[np.ndarray, " train"]
    val: Int[np.ndarray, " val"]
    test: Int[np.ndarray, " test"]


def read_table(file: Path) -> Float[np.ndarray, "n 2"]:
    """(latitude_deg, longitude_deg) rows of a file with `#` comments and at most one heading; raises `EarthError`."""
    rows, headed = [], False
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            latitude_deg, longitude_deg = (float(cell) for cell in line.split(",")[:2])
        except ValueError:
            if rows or headed:
                raise EarthError(f"{file}, line {number}: {line[:40]!r} is no latitude,longitude; correct it") from None
            headed = True
            continue
        if not (-90 <= latitude_deg <= 90 and -360 <= longitude_deg <= 360):
            raise EarthError(f"{file}, line {number}: {line[:40]!r} is no place in degrees; correct it")
        rows.append((latitude_deg, longitude_deg))
    if not rows:
        raise EarthError(f"{file} has no rows of latitude,longitude; fetch it again")
    return np.array(rows)


def unique_rows(table: Float[np.ndarray, "n 2"]) -> Int[np.ndarray, " m"]:
    """Rows that are no exact copy of an earlier one, in order."""
    return np.sort(np.unique(table, axis=0, return_index=True)[1])


def to_points(table: Float[np.ndarray, "n 2"]) -> Float[Tensor, "n 3"]:
    """Unit vectors in float64."""
    degrees = torch.from_numpy(table)
    return normalize(from_degrees(degrees[:, 0], degrees[:, 1]))


def draw_split(table: Float[np.ndarray, "n 2"], protocol: str, seed: int) -> Split:
    """80/10/10 at random, of all rows or of `unique_rows`: NumPy's `default_rng(seed).permutation`, cut in order."""
    if protocol not in PROTOCOLS:
        raise EarthError(f"unknown protocol {protocol!r}: choose one of {', '.join(PROTOCOLS)}")
    rows = np.arange(len(table)) if protocol == "raw" else unique_rows(table)
    mixed = rows[np.random.default_rng(seed).permutation(len(rows))]
    first, second = int(_TRAIN * len(rows)), int((_TRAIN + _VAL) * len(rows))
    return Split(*(np.sort(part) for part in np.split(mixed, [first, second])))


def write_splits(file: Path, tables: dict[str, Float[np.ndarray, "n 2"]]) -> None:
    """Store every set's splits for seeds 0 to 4 and both protocols: validation and test rows, and which rows take part.

    Training rows are the rest of those that take part; `<set>/rows` is the table's length.
    """
    arrays: dict[str, Any] = {}
    for name, table in tables.items():
        arrays[f"{name}/rows"] = np.array(len(table), dtype=np.uint16)
        arrays[f"{name}/copies"] = np.setdiff1d(np.arange(len(table)), unique_rows(table)).astype(np.uint16)
        for protocol in PROTOCOLS:
            for seed in range(SEEDS):
                split = draw_split(table, protocol, seed)
                for part in ("val", "test"):
                    arrays[f"{name}/{protocol}/{seed}/{part}"] = getattr(split, part).astype(np.uint16)
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(file, **arrays)


def stored_split(name: str, protocol: str, seed: int) -> Split:
    """The stored split; raises `EarthError` for what is not stored."""
    with np.load(data_dir() / "splits" / "earth.npz") as stored:
        key = f"{name}/{protocol}/{seed}"
        if f"{key}/test" not in stored:
            raise EarthError(f"no split {key}: sets {', '.join(FILES)}, protocols {', '.join(PROTOCOLS)}, seeds 0 to 4")
        rows = np.arange(int(stored[f"{name}/rows"]))
        if protocol != "raw":
            rows = np.setdiff1d(rows, stored[f"{name}/copies"])
        val, test = (stored[f"{key}/{part}"].astype(np.int64) for part in ("val", "test"))
    return Split(np.setdiff1d(rows, np.concatenate([val, test])), val, test)


@dataclass(frozen=True)
class EarthData:
    """One set as split: points (n, 3) in float64."""

    train: Float[Tensor, "train 3"]
    val: Float[Tensor, "val 3"]
    test: Float[Tensor, "test 3"]


def load_earth(name: str, protocol: str = "deduplicated", seed: int = 0) -> EarthData:
    """Fetch one of the four sets and split it as stored. Raises `FetchError` or, for an unknown set, `EarthError`."""
    split = stored_split(name, protocol, seed)
    points = to_points(read_table(fetch(FILES[name])))
    return EarthData(*(points[torch.from_numpy(part)] for part in (split.train, split.val, split.test)))


def leaks(table: Float[np.ndarray, "n 2"], split: Split) -> dict[str, int | float]:
    """What training gives away of the test: rows, unique rows, the share of test rows with an exact copy in training,
    the median and the tenth percentile of their distance to the nearest training row (km), and the share of unique
    rows whose coordinates both are whole tenths of a degree.
    """
    known = {tuple(row) for row in table[split.train].tolist()}
    copied = [tuple(row) in known for row in table[split.test].tolist()]
    points = to_points(table).numpy()
    chord = np.asarray(KDTree(points[split.train]).query(points[split.test])[0])
    distance_km = 2 * EARTH_RADIUS_KM * np.arcsin(np.clip(chord / 2, 0, 1))  # near 0 and far from π: well conditioned
    unique = table[unique_rows(table)]
    return {
        "rows": len(table),
        "unique_rows": len(unique),
        "copied_in_test": float(np.mean(copied)),
        "nearest_km_median": float(np.median(distance_km)),
        "nearest_km_p10": float(np.quantile(distance_km, 0.1)),
        "on_tenths": float((np.abs(unique * 10 - np.round(unique * 10)) < 1e-6).all(1).mean()),
    }
