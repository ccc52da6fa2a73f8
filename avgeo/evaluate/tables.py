"""Anyone's tables in: predictions and truth as data frames or files, checked, and aligned clip by clip.

Nothing is dropped. A clip of the truth without a usable prediction stays in the denominator, with a reason
why.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64, Int64

NAMES: Mapping[str, tuple[str, ...]] = {
    "clip_id": ("clip_id", "audio_id", "video_id", "key", "id"),
    "latitude_deg": ("latitude_deg", "latitude", "lat"),
    "longitude_deg": ("longitude_deg", "longitude", "lon", "lng", "long"),
    "refused": ("refused",),
    "log_prob": ("log_prob",),
    "place_id": ("place_id",),
    "split": ("split",),
    "row": ("row",),
}
"""Column names understood for each role, the preferred first; case and blanks around do not matter."""

Table = pd.DataFrame | str | PathLike[str]

_TRUE = {"true", "yes", "1", "1.0"}
_FALSE = {"false", "no", "0", "0.0", "", "nan", "none", "<na>"}


class EvaluateError(ValueError):
    """A table that cannot be scored; one line that names the table, the column and the cure."""


@dataclass(frozen=True)
class Aligned:
    """Truth and predictions side by side, one entry per clip of the truth, in the truth's order."""

    clip_id: list[str]
    truth_deg: Float64[np.ndarray, "clips 2"]
    predicted_deg: Float64[np.ndarray, "clips 2"]  # NaN where there is no answer
    answered: Bool[np.ndarray, " clips"]
    log_prob: Float64[np.ndarray, " clips"] | None  # NaN: no density; None: no such column
    cluster: Int64[np.ndarray, " clips"]  # 0 .. clusters-1
    clustering: str
    n_missing: int
    n_refused: int
    n_invalid: int
    n_extra: int


def read_table(source: object, what: str) -> pd.DataFrame:
    """`source` as a data frame: given as one, or a path ending in .csv, .parquet or .jsonl.

    CSV cells stay text until a column's role is known, so that a clip called `007` keeps its name.
    """
    if isinstance(source, pd.DataFrame):
        table = source
    elif isinstance(source, (str, PathLike)):
        table = _read_file(Path(fspath(source)), what)
    else:
        raise EvaluateError(f"{what} is a {type(source).__name__}: give a pandas DataFrame or the path of a table")
    if table.empty:
        raise EvaluateError(f"{what} has no rows: give a table with one row per clip")
    return table


def _read_file(path: Path, what: str) -> pd.DataFrame:
    if not path.is_file():
        state = "is a directory" if path.is_dir() else "does not exist"
        raise EvaluateError(f"{what}: {path} {state}: give the path of a CSV, Parquet or JSONL file")
    kind = path.suffix.lower()
    try:
        if kind == ".csv":
            return pd.read_csv(path, dtype=str, keep_default_na=False, skipinitialspace=True)
        if kind in {".parquet", ".pq"}:
            return pd.read_parquet(path)
        if kind in {".jsonl", ".ndjson"}:
            lines = path.read_text(encoding="utf-8").splitlines()
            return pd.DataFrame.from_records([dict(json.loads(line)) for line in lines if line.strip()])
    except (ValueError, TypeError, OSError) as error:  # pandas' and pyarrow's parser errors are both kinds
        cause = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise EvaluateError(f"{what}: cannot read {path} as {kind[1:]} ({cause}): mend or convert the file") from None
    raise EvaluateError(f"{what}: {path} ends in {kind or 'nothing'!r}: save it as .csv, .parquet or .jsonl")


def column(table: pd.DataFrame, role: str) -> str | None:
    """The table's own name for the column of `role`, or None; raises `EvaluateError` when it occurs twice."""
    known = {}
    for name in table.columns:
        known.setdefault(str(name).strip().lower(), []).append(name)
    for wanted in NAMES[role]:
        if wanted in known:
            if len(known[wanted]) > 1 or int((table.columns == known[wanted][0]).sum()) > 1:
                raise EvaluateError(f"column {wanted!r} occurs twice: keep one of them")
            return known[wanted][0]
    return None


def required(table: pd.DataFrame, role: str, what: str) -> pd.Series:
    """The column of `role`; raises `EvaluateError` naming the names that would do."""
    name = column(table, role)
    if name is None:
        present = ", ".join(map(str, table.columns[:12]))
        raise EvaluateError(
            f"{what} has no column {role!r}: call it one of {', '.join(NAMES[role])} (columns: {present})"
        )
    return cast(pd.Series, table[name])


def identifiers(table: pd.DataFrame, what: str) -> pd.Series:
    """Clip ids as text, unique; raises `EvaluateError` naming the first empty or repeated one."""
    ids = _as_text(required(table, "clip_id", what))
    if bool((ids == "").any()):
        raise EvaluateError(f"{what} has {int((ids == '').sum())} rows with an empty clip_id: give every clip its id")
    repeated = ids.to_numpy()[ids.duplicated().to_numpy(dtype=bool)]
    if len(repeated):
        raise EvaluateError(
            f"{what} has clip_id {repeated[0]!r} twice ({len(repeated)} repeats): keep one row per clip"
        )
    return ids.reset_index(drop=True)


def _as_text(values: pd.Series) -> pd.Series:
    if pd.api.types.is_float_dtype(values):  # whole numbers that a gap turned into floats
        whole = values.dropna()
        if bool((whole == whole.round()).all()):
            values = values.astype("Int64")
    return values.map(lambda value: "" if pd.isna(value) else str(value).strip()).astype(object)


def _numbers(values: pd.Series) -> Float64[np.ndarray, " rows"]:
    numbers = cast(pd.Series, pd.to_numeric(values.reset_index(drop=True), errors="coerce"))
    return numbers.to_numpy(dtype=np.float64, na_value=np.nan)


def degrees(table: pd.DataFrame, what: str) -> Float64[np.ndarray, "rows 2"]:
    """(latitude, longitude) in degrees; both NaN where a cell is empty, not a number, or out of range."""
    latitude = _numbers(required(table, "latitude_deg", what))
    longitude = _numbers(required(table, "longitude_deg", what))
    good = (np.abs(latitude) <= 90) & (np.abs(longitude) <= 180)  # False for NaN
    return np.where(good[:, None], np.stack([latitude, longitude], axis=1), np.nan)


def _refusals(table: pd.DataFrame) -> Bool[np.ndarray, " rows"]:
    name = column(table, "refused")
    if name is None:
        return np.zeros(len(table), dtype=bool)
    text = ["" if pd.isna(value) else str(value).strip().lower() for value in table[name]]
    unknown = [value for value in text if value not in _TRUE | _FALSE]
    if unknown:
        raise EvaluateError(f"predictions: column 'refused' holds {unknown[0]!r}: write true or false")
    return np.array([value in _TRUE for value in text])


def _clusters(truth: pd.DataFrame, truth_deg: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, str]:
    name = column(truth, "place_id")
    if name is not None:
        places = _as_text(cast(pd.Series, truth[name])).to_numpy()[chosen]
        if (places == "").any():
            raise EvaluateError(
                f"truth has {int((places == '').sum())} clips without place_id: fill or drop the column"
            )
        return np.unique(places.astype(str), return_inverse=True)[1].astype(np.int64), "place_id"
    rounded = np.round(truth_deg[chosen], 2) + 0.0  # + 0.0 makes one place of 0.0 and -0.0
    return np.unique(rounded, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64), (
        "truth has no place_id: clips with equal coordinates, rounded to 0.01 degrees, are one place"
    )


def align(predictions: Table, truth: Table, split: str | None = None) -> Aligned:
    """Check both tables and put each prediction beside its truth; `split` keeps one split of the truth.

    A prediction is *refused* when its column `refused` says so, else *invalid* when its coordinates are not a
    place. Raises `EvaluateError` when a table cannot be scored at all.
    """
    truth, predictions = read_table(truth, "truth"), read_table(predictions, "predictions")
    truth_ids, truth_deg = identifiers(truth, "truth"), degrees(truth, "truth")
    chosen = np.arange(len(truth))
    if split is not None:
        chosen = np.flatnonzero(_as_text(required(truth, "split", "truth")).to_numpy() == split)
        if not len(chosen):
            raise EvaluateError(f"truth has no clip in split {split!r}: name a split that its column 'split' holds")
    wrong = chosen[np.isnan(truth_deg[chosen]).any(axis=1)]
    if len(wrong):
        raise EvaluateError(
            f"truth: latitude_deg or longitude_deg of clip {truth_ids[wrong[0]]!r} is no place on Earth "
            f"({len(wrong)} such clips): give degrees within [-90, 90] and [-180, 180]"
        )
    ids, refused = identifiers(predictions, "predictions"), _refusals(predictions)
    predicted_deg = degrees(predictions, "predictions")
    kept = truth_ids.to_numpy()[chosen]
    at = pd.Index(ids).get_indexer(pd.Index(kept))  # -1: the clip has no prediction
    there = at >= 0
    if not there.any():
        raise EvaluateError(
            f"no clip_id of predictions ({ids[0]!r}, ...) is in truth ({kept[0]!r}, ...): use the same ids"
        )
    refused_here = there & refused[at]
    invalid_here = there & ~refused_here & np.isnan(predicted_deg[at]).any(axis=1)
    answered = there & ~refused_here & ~invalid_here
    log_prob = _log_probs(predictions)
    cluster, clustering = _clusters(truth, truth_deg, chosen)
    return Aligned(
        clip_id=list(kept),
        truth_deg=truth_deg[chosen],
        predicted_deg=np.where(answered[:, None], predicted_deg[at], np.nan),
        answered=answered,
        log_prob=None if log_prob is None else np.where(answered, log_prob[at], np.nan),
        cluster=cluster,
        clustering=clustering,
        n_missing=int((~there).sum()),
        n_refused=int(refused_here.sum()),
        n_invalid=int(invalid_here.sum()),
        n_extra=int(len(ids) - there.sum()),
    )


def _log_probs(predictions: pd.DataFrame) -> Float64[np.ndarray, " rows"] | None:
    name = column(predictions, "log_prob")
    if name is None:
        return None
    values = _numbers(cast(pd.Series, predictions[name]))
    if np.isposinf(values).any():
        raise EvaluateError("predictions: column 'log_prob' holds +infinity: give nats per unit-sphere area")
    return None if np.isnan(values).all() else values
