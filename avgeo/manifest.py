"""The manifest: one row per clip, checked whenever it is read or written.

Columns: `clip_id, path` (relative to the manifest's folder)`, latitude_deg, longitude_deg, recorded_at` (ISO 8601)`,
duration_s, place_id, split, source, url, licence, attribution`; further columns may follow.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

MANIFEST_COLUMNS = (
    "clip_id", "path", "latitude_deg", "longitude_deg", "recorded_at", "duration_s",
    "place_id", "split", "source", "url", "licence", "attribution",
)  # fmt: skip
SPLITS = ("train", "val", "test")
_NOT_NULL = ("clip_id", "path", "latitude_deg", "longitude_deg", "duration_s", "place_id", "split", "source")
_RANGES = {"latitude_deg": (-90, 90), "longitude_deg": (-180, 180), "duration_s": (0, np.inf)}


class ManifestError(ValueError):
    """A manifest that does not hold its contract; the message names the column and the cure."""


def check_manifest(table: pd.DataFrame, name: str = "manifest") -> pd.DataFrame:
    """`table` with its columns in order; or a `ManifestError` (columns, ranges, repeated ids)."""
    missing = [column for column in MANIFEST_COLUMNS if column not in table.columns]
    if missing:
        raise ManifestError(f"{name}: add the missing columns {', '.join(missing)}")
    for column in _NOT_NULL:
        empty = int(table[column].isna().to_numpy().sum())
        if empty:
            raise ManifestError(f"{name}: {column} is empty in {empty} rows; fill them")
    for column, (low, high) in _RANGES.items():
        values = pd.Series(pd.to_numeric(table[column], errors="coerce"))
        bad = table.loc[~values.between(low, high), "clip_id"]
        if len(bad):
            where = f"{len(bad)} clips, first {bad.iloc[0]!r}"
            raise ManifestError(f"{name}: {column} must lie in [{low}, {high}]; it does not for {where}")
    if not table["clip_id"].is_unique:
        twice = table.loc[table["clip_id"].duplicated(), "clip_id"].iloc[0]
        raise ManifestError(f"{name}: clip_id {twice!r} occurs more than once; ids must be unique")
    unknown = sorted(set(table["split"]) - set(SPLITS))
    if unknown:
        raise ManifestError(f"{name}: split {unknown[0]!r} is not one of {', '.join(SPLITS)}")
    extra = [column for column in table.columns if column not in MANIFEST_COLUMNS]
    return table.loc[:, [*MANIFEST_COLUMNS, *extra]]


def read_manifest(path: str | os.PathLike[str]) -> pd.DataFrame:
    """The manifest at `path` (Parquet, or a folder that holds `manifest.parquet`), checked."""
    file = Path(path)
    if file.is_dir():
        file = file / "manifest.parquet"
    if not file.is_file():
        raise ManifestError(f"{file}: no such manifest; make one with `avgeo simulate` or `avgeo curate`")
    try:
        table = pd.read_parquet(file)
    except (OSError, ValueError) as error:  # pyarrow's errors derive from these
        raise ManifestError(f"{file}: not a Parquet table ({' '.join(str(error).split())})") from None
    return check_manifest(table, str(file))


def write_manifest(table: pd.DataFrame, path: str | os.PathLike[str]) -> None:
    """Write a checked manifest atomically as Parquet."""
    file = Path(path)
    checked = check_manifest(table, str(file))
    file.parent.mkdir(parents=True, exist_ok=True)
    write_parquet(checked, file)


def write_parquet(table: pd.DataFrame, file: Path) -> None:
    """Write a table atomically; a column without any value holds texts, so that tables of one kind have one type."""
    whole = pa.Table.from_pandas(table, preserve_index=False)
    fields = [field.with_type(pa.string()) if pa.types.is_null(field.type) else field for field in whole.schema]
    partial = file.with_name(file.name + ".partial")
    pq.write_table(whole.cast(pa.schema(fields, metadata=whole.schema.metadata)), partial)
    partial.replace(file)
