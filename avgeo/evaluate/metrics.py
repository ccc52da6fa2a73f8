"""How well a table of predictions places its clips, with intervals by place.

A clip that is missing, refused, or answered with something that is no place on Earth counts against the
model: it is wrong at every radius, half the Earth's circumference away, and has no density. It never leaves
the denominator.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float64

from avgeo import sphere
from avgeo.evaluate.bootstrap import bootstrap as resample
from avgeo.evaluate.bootstrap import interval, p_value
from avgeo.evaluate.tables import Aligned, EvaluateError, Table, align, read_table, required

RADII_KM = (1.0, 25.0, 200.0, 750.0, 2500.0)
"""Street, city, region, country, continent (Hays & Efros 2008; Vo et al. 2017)."""

GEOSCORE_SCALE_KM = 1492.7
"""GeoScore = 5000 exp(-d / 1492.7 km), as in OpenStreetView-5M (Astruc et al. 2024); papers differ in it."""

HALF_CIRCUMFERENCE_KM = math.pi * sphere.EARTH_RADIUS_KM
"""20015 km, the farthest that two places can be apart; the distance of a clip without an answer."""

LOG_SCORE_FLOOR = -16.35
"""Least log density that counts, in nats: a millionth of the uniform 1/4π. One clip without a density would
otherwise make the mean minus infinity; forecasting hubs cut the log score in the same way (Reich et al. 2019,
at -10)."""


@dataclass(frozen=True)
class Interval:
    """A value and its bootstrap interval; low and high are NaN when there is only one place."""

    value: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float | None]:
        """For JSON: NaN becomes null."""
        return {name: None if math.isnan(x) else x for name, x in vars(self).items()}

    def __str__(self) -> str:
        return f"{_short(self.value)} [{_short(self.low)}, {_short(self.high)}]"


@dataclass(frozen=True)
class Metrics:
    """What `evaluate` found: counts, and each metric with its interval."""

    n_truth: int
    n_missing: int
    n_refused: int
    n_invalid: int
    n_extra: int
    n_places: int
    accuracy: dict[str, Interval]
    median_km: Interval
    mean_km: Interval
    geoscore: Interval
    log_score: Interval | None
    n_floored: int | None
    clustering: str
    level: float
    bootstrap: int
    seed: int
    geoscore_scale_km: float
    log_score_floor: float

    def intervals(self) -> dict[str, Interval]:
        """Every metric by name: `accuracy_1km` ..., `median_km`, `mean_km`, `geoscore`, `log_score`."""
        found = {f"accuracy_{radius}km": value for radius, value in self.accuracy.items()}
        found |= {"median_km": self.median_km, "mean_km": self.mean_km, "geoscore": self.geoscore}
        return found if self.log_score is None else found | {"log_score": self.log_score}

    def to_frame(self) -> pd.DataFrame:
        """One line per metric: columns value, low, high; index `metric`."""
        found = self.intervals()
        return pd.DataFrame([vars(item) for item in found.values()], index=pd.Index(list(found), name="metric"))

    def as_dict(self) -> dict[str, Any]:
        """Plain dictionaries in the form that `avgeo evaluate --json` promises."""
        found = dict(vars(self))
        found["accuracy"] = {radius: value.as_dict() for radius, value in self.accuracy.items()}
        return {name: item.as_dict() if isinstance(item, Interval) else item for name, item in found.items()}

    def to_json(self, path: str | Path | None = None) -> str:
        """The metrics as JSON text, also written to `path` when one is given."""
        return _to_json(self.as_dict(), path)


@dataclass(frozen=True)
class Comparison:
    """Paired differences a - b: a frame with value_a, value_b, difference, low, high, p_value per metric."""

    table: pd.DataFrame
    n_truth: int
    n_places: int
    clustering: str
    level: float
    bootstrap: int
    seed: int

    def to_frame(self) -> pd.DataFrame:
        """One line per metric; index `metric`."""
        return self.table.copy()

    def to_json(self, path: str | Path | None = None) -> str:
        """The comparison as JSON text, also written to `path` when one is given."""
        rows = {
            str(name): {str(key): None if pd.isna(item) else float(item) for key, item in row.items()}
            for name, row in self.table.iterrows()
        }
        return _to_json(
            {name: value for name, value in vars(self).items() if name != "table"} | {"metrics": rows}, path
        )


@dataclass(frozen=True)
class _Scores:
    """Per-clip scores: the columns whose mean is a metric, and distances, whose median is one."""

    distance_km: Float64[np.ndarray, " clips"]
    means: dict[str, Float64[np.ndarray, " clips"]]
    n_floored: int | None


def distances_km(aligned: Aligned) -> Float64[np.ndarray, " clips"]:
    """Great-circle distance of every clip; half the circumference where there is no answer."""
    found = np.full(len(aligned.answered), HALF_CIRCUMFERENCE_KM)
    truth, predicted = (
        sphere.from_degrees(*torch.from_numpy(pairs[aligned.answered]).unbind(-1))
        for pairs in (aligned.truth_deg, aligned.predicted_deg)
    )
    found[aligned.answered] = sphere.distance_km(truth, predicted).numpy()
    return found


def _score(aligned: Aligned, radii_km: Sequence[int | float], geoscore_scale_km: float, floor: float) -> _Scores:
    distance = distances_km(aligned)
    means = {f"accuracy_{r:g}km": (aligned.answered & (distance <= r)).astype(np.float64) for r in radii_km}
    means |= {"mean_km": distance, "geoscore": 5000 * np.exp(-distance / geoscore_scale_km)}
    if aligned.log_prob is None:
        return _Scores(distance, means, None)
    low = ~(aligned.log_prob >= floor)  # NaN, minus infinity and tiny densities alike
    means["log_score"] = np.where(low, floor, aligned.log_prob)
    return _Scores(distance, means, int(low.sum()))


def _check(bootstrap: int, level: float, radii_km: Sequence[int | float], geoscore_scale_km: float) -> None:
    if bootstrap < 1:
        raise EvaluateError(f"bootstrap must be at least 1, got {bootstrap}: 1000 is usual")
    if not 0 < level < 1:
        raise EvaluateError(f"level must lie between 0 and 1, got {level}: 0.95 is usual")
    if not radii_km or min(radii_km) < 0:
        raise EvaluateError(f"radii_km must be distances in km, got {tuple(radii_km)}")
    if geoscore_scale_km <= 0:
        raise EvaluateError(f"geoscore_scale_km must be positive, got {geoscore_scale_km}: 1492.7 is usual")


def evaluate(
    predictions: Table,
    truth: Table,
    *,
    bootstrap: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    radii_km: Sequence[int | float] = RADII_KM,
    geoscore_scale_km: float = GEOSCORE_SCALE_KM,
    log_score_floor: float = LOG_SCORE_FLOOR,
    split: str | None = None,
) -> Metrics:
    """Score anyone's predictions: data frames or paths of CSV, Parquet or JSONL tables.

    Both need a clip id and degrees (`NAMES` lists the column names understood); predictions may have
    `refused` and `log_prob` (nats per unit-sphere area), truth `place_id` and `split` (choose one by
    `split`). Intervals are percentiles of a bootstrap over places; an accuracy of exactly 0 or 1, which no
    resample can leave, gets the exact binomial interval over places instead (Clopper & Pearson 1934). Raises
    `EvaluateError`.
    """
    _check(bootstrap, level, radii_km, geoscore_scale_km)
    aligned = align(predictions, truth, split)
    scores = _score(aligned, radii_km, geoscore_scale_km, log_score_floor)
    found = _intervals(scores, aligned, bootstrap, level, seed)
    return Metrics(
        n_truth=len(aligned.clip_id),
        n_missing=aligned.n_missing,
        n_refused=aligned.n_refused,
        n_invalid=aligned.n_invalid,
        n_extra=aligned.n_extra,
        n_places=int(aligned.cluster.max()) + 1,
        accuracy={f"{r:g}": found[f"accuracy_{r:g}km"] for r in radii_km},
        median_km=found["median_km"],
        mean_km=found["mean_km"],
        geoscore=found["geoscore"],
        log_score=found.get("log_score"),
        n_floored=scores.n_floored,
        clustering=aligned.clustering,
        level=level,
        bootstrap=bootstrap,
        seed=seed,
        geoscore_scale_km=geoscore_scale_km,
        log_score_floor=log_score_floor,
    )


def _intervals(scores: _Scores, aligned: Aligned, count: int, level: float, seed: int) -> dict[str, Interval]:
    names = [*scores.means, "median_km"]
    means, medians = np.stack(list(scores.means.values()), axis=1), scores.distance_km[:, None]
    values = np.append(means.mean(axis=0), np.median(scores.distance_km))
    places = int(aligned.cluster.max()) + 1
    if places < 2:
        return {name: Interval(float(value), math.nan, math.nan) for name, value in zip(names, values, strict=True)}
    draws = np.concatenate(resample(means, medians, aligned.cluster, count=count, seed=seed), axis=1)
    low, high = interval(draws, level)
    found = {n: Interval(float(v), float(a), float(b)) for n, v, a, b in zip(names, values, low, high, strict=True)}
    reach = 1 - ((1 - level) / 2) ** (1 / places)
    for name, item in found.items():
        if name.startswith("accuracy") and item.value in (0.0, 1.0):
            found[name] = Interval(item.value, 0.0 if item.value == 0 else 1 - reach, reach if item.value == 0 else 1.0)
    return found


def compare(
    predictions_a: Table,
    predictions_b: Table,
    truth: Table,
    *,
    bootstrap: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    radii_km: Sequence[int | float] = RADII_KM,
    geoscore_scale_km: float = GEOSCORE_SCALE_KM,
    log_score_floor: float = LOG_SCORE_FLOOR,
    split: str | None = None,
) -> Comparison:
    """Differences a - b of every metric, paired clip by clip, with bootstrap intervals by place and p-values.

    Both systems are scored on the same resampled places, so what makes a place hard for both cancels. For km
    less is better: a negative difference favours a. Log scores are compared only when both tables have
    densities.
    """
    _check(bootstrap, level, radii_km, geoscore_scale_km)
    sides = [align(table, truth, split) for table in (predictions_a, predictions_b)]
    a, b = (_score(side, radii_km, geoscore_scale_km, log_score_floor) for side in sides)
    shared = [name for name in a.means if name in b.means]
    means = np.stack([side.means[name] for side in (a, b) for name in shared], axis=1)
    medians = np.stack([a.distance_km, b.distance_km], axis=1)
    cluster = sides[0].cluster
    values = np.append(means.mean(axis=0), np.median(medians, axis=0))
    mean_draws, median_draws = resample(means, medians, cluster, count=bootstrap, seed=seed)
    half = len(shared)
    draws = np.column_stack([mean_draws[:, :half] - mean_draws[:, half:], median_draws[:, 0] - median_draws[:, 1]])
    value_a, value_b = np.append(values[:half], values[-2]), np.append(values[half:-2], values[-1])
    low, high = interval(draws, level)
    places = int(cluster.max()) + 1
    table = pd.DataFrame(
        {
            "value_a": value_a,
            "value_b": value_b,
            "difference": value_a - value_b,
            "low": low if places > 1 else np.nan,
            "high": high if places > 1 else np.nan,
            "p_value": p_value(draws) if places > 1 else np.nan,
        },
        index=pd.Index([*shared, "median_km"], name="metric"),
    )
    return Comparison(table, len(cluster), places, sides[0].clustering, level, bootstrap, seed)


def evaluate_rows(predictions: Table, truth: Table, **options: Any) -> pd.DataFrame:
    """`evaluate` for each value of the column `row` of one table; `options` are those of `evaluate`.

    Returns one line per row and metric, in the order in which rows first occur: columns row, metric,
    radius_km (NaN but for accuracies), value, low, high, n_truth, n_unanswered. `display_rows` makes it a
    table to read.
    """
    table = read_table(predictions, "predictions")
    labels = required(table, "row", "predictions").reset_index(drop=True)
    if bool(labels.isna().any()):
        raise EvaluateError(f"predictions: column 'row' is empty in {int(labels.isna().sum())} lines: name every row")
    table, truth = table.reset_index(drop=True), read_table(truth, "truth")
    lines = []
    for label in labels.unique():
        metrics = evaluate(table.loc[labels == label], truth, **options)
        unanswered = metrics.n_missing + metrics.n_refused + metrics.n_invalid
        for name, item in metrics.intervals().items():
            radius = (
                float(name.removeprefix("accuracy_").removesuffix("km")) if name.startswith("accuracy") else math.nan
            )
            lines.append(
                {"row": str(label), "metric": name, "radius_km": radius}
                | vars(item)
                | {"n_truth": metrics.n_truth, "n_unanswered": unanswered}
            )
    return pd.DataFrame(lines)


def display_rows(table: pd.DataFrame) -> pd.DataFrame:
    """The result of `evaluate_rows` to read: cells such as `812 [640, 1010]`, accuracies in %."""
    shown = table.copy()
    percent = shown["metric"].str.startswith("accuracy")
    for name in ("value", "low", "high"):
        shown.loc[percent, name] = 100 * shown.loc[percent, name]
    shown["metric"] = shown["metric"].str.replace(r"^accuracy_(.*)km$", r"% within \1 km", regex=True)
    shown["cell"] = [str(Interval(*cell)) for cell in zip(shown["value"], shown["low"], shown["high"], strict=True)]
    order_rows, order_metrics = shown["row"].unique(), shown["metric"].unique()
    wide = shown.pivot_table(index="row", columns="metric", values="cell", aggfunc="first")
    wide = pd.DataFrame(wide.loc[order_rows, order_metrics].fillna("–"))
    words = {"median_km": "median km", "mean_km": "mean km", "log_score": "log score"}
    wide.columns = pd.Index([words.get(str(name), name) for name in wide.columns])
    return wide


def place_interval(
    values: np.ndarray,
    place_id: Sequence[Any] | np.ndarray,
    statistic: str = "mean",
    *,
    bootstrap: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """The mean or median of one value per clip, with a percentile interval of a bootstrap over places."""
    numbers = np.asarray(values, dtype=np.float64)
    if statistic not in ("mean", "median"):
        raise EvaluateError(f"statistic must be 'mean' or 'median', got {statistic!r}")
    if numbers.ndim != 1 or not len(numbers) or len(place_id) != len(numbers):
        raise EvaluateError(f"values has shape {numbers.shape} for {len(place_id)} clips: give one value per clip")
    cluster = np.unique(np.asarray(place_id).astype(str), return_inverse=True)[1].astype(np.int64)
    column = numbers[:, None]
    medians = column if statistic == "median" else column[:, :0]
    mean_draws, median_draws = resample(column, medians, cluster, count=bootstrap, seed=seed)
    draws = median_draws if statistic == "median" else mean_draws
    low, high = interval(draws, level) if cluster.max() > 0 else ([np.nan], [np.nan])
    value = np.median(numbers) if statistic == "median" else numbers.mean()
    return Interval(float(value), float(low[0]), float(high[0]))


def coverage(
    truth_mass: np.ndarray,
    place_id: Sequence[Any] | np.ndarray,
    *,
    levels: Sequence[float] = tuple(np.linspace(0.05, 0.95, 19).round(2)),
    bootstrap: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Calibration of credible regions: how often the region of each nominal mass holds the truth.

    `truth_mass` is, per clip, the mass of the smallest highest-density region that contains the true place,
    in [0, 1] (0: the truth is the mode). Returns columns nominal, observed, low, high (bootstrap by place).
    """
    mass = np.asarray(truth_mass, dtype=np.float64)
    if mass.ndim != 1 or not len(mass) or not bool(((mass >= 0) & (mass <= 1)).all()):
        raise EvaluateError("truth_mass must be a vector of masses in [0, 1], one per clip")
    if len(place_id) != len(mass):
        raise EvaluateError(f"place_id has {len(place_id)} entries for {len(mass)} clips: give one per clip")
    cluster = np.unique(np.asarray(place_id).astype(str), return_inverse=True)[1].astype(np.int64)
    inside = (mass[:, None] <= np.asarray(levels)[None, :]).astype(np.float64)
    draws, _ = resample(inside, np.empty((len(mass), 0)), cluster, count=bootstrap, seed=seed)
    low, high = interval(draws, level) if cluster.max() > 0 else (np.nan, np.nan)
    return pd.DataFrame({"nominal": levels, "observed": inside.mean(axis=0), "low": low, "high": high})


def _short(x: float) -> str:
    """Three digits, no exponent: 0.123, 1.23, 12.3, 123, 12345."""
    if math.isnan(x):
        return "–"
    size = abs(x)
    return f"{x:.{0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3}f}"


def _to_json(content: dict[str, Any], path: str | Path | None) -> str:
    text = json.dumps(content, indent=1, allow_nan=False)
    if path is not None:
        Path(path).write_text(text + "\n", encoding="utf-8")
    return text
