"""The tables of a world: what a real corpus would have, and the truth that only a simulation knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
from scipy.special import entr

from avgeo.manifest import check_manifest
from avgeo.profiles import WorldSettings
from avgeo.world.cues import CUES, NONE
from avgeo.world.plan import ClipPlan
from avgeo.world.posterior import SENSES, Likelihood

_TEXT, _REAL, _WHOLE = pa.string(), pa.float64(), pa.int64()
_COLUMNS: dict[str, dict[str, pa.DataType]] = {
    "manifest": {
        "clip_id": _TEXT, "path": _TEXT, "latitude_deg": _REAL, "longitude_deg": _REAL, "recorded_at": _TEXT,
        "duration_s": _REAL, "place_id": _TEXT, "split": _TEXT, "source": _TEXT, "url": _TEXT, "licence": _TEXT,
        "attribution": _TEXT,
    },
    "truth": {
        "clip_id": _TEXT, "modality": _TEXT, "cue": _TEXT, "value": _TEXT, "source": _TEXT, "onset_s": _REAL,
        "offset_s": _REAL, "snr_db": _REAL,
    },
    "clips": {
        "clip_id": _TEXT, "place_id": _TEXT, "seed": _WHOLE, "place_number": _WHOLE, "clip_number": _WHOLE,
        "month": _WHOLE, "hour": _WHOLE, "recorded_at": _TEXT, "sun_elevation_deg": _REAL, "sun_azimuth_deg": _REAL,
        "picture_sun_elevation_deg": _REAL, "picture_sun_azimuth_deg": _REAL, "camera_heading_deg": _REAL,
    } | {name: _TEXT for name in CUES},
}  # fmt: skip
TABLES = (*_COLUMNS, "posterior")
"""The tables of a world that have rows by clip; `places.parquet` stands beside them."""


def shard_tables(plans: Sequence[ClipPlan], paths: Sequence[str], settings: WorldSettings) -> dict[str, pa.Table]:
    """The manifest, the truth and the clips' own table of these plans, whose media lie at `paths`."""
    rows = {
        "manifest": [
            {
                "clip_id": plan.clip_id,
                "path": path,
                "latitude_deg": plan.latitude_deg,
                "longitude_deg": plan.longitude_deg,
                "duration_s": float(settings.duration_s),
                "place_id": plan.place["place_id"],
                "split": plan.place["split"],
                "source": "avg-sim",
                "licence": "CC0-1.0",
                "attribution": "AVG-Sim (avgeo)",
            }
            for plan, path in zip(plans, paths, strict=True)
        ],
        "truth": [
            {"clip_id": plan.clip_id, **asdict(event), "source": event.source}
            for plan in plans
            for event in plan.events
        ],
        "clips": [_clip_row(plan) for plan in plans],
    }
    tables = {name: pa.Table.from_pylist(rows[name], schema=pa.schema(columns)) for name, columns in _COLUMNS.items()}
    check_manifest(tables["manifest"].to_pandas())
    return tables


def _clip_row(plan: ClipPlan) -> dict[str, Any]:
    seed, place, number = plan.seed
    shown = (plan.sun.elevation_deg, plan.sun.azimuth_deg) if plan.sun else (np.nan, np.nan)
    return {
        "clip_id": plan.clip_id,
        "place_id": plan.place["place_id"],
        "seed": seed,
        "place_number": place - 1,
        "clip_number": number,
        "month": plan.moment.month,
        "hour": plan.moment.hour,
        "recorded_at": plan.moment.local(plan.place).isoformat(),
        "sun_elevation_deg": plan.true_sun.elevation_deg,
        "sun_azimuth_deg": plan.true_sun.azimuth_deg,
        "picture_sun_elevation_deg": shown[0],
        "picture_sun_azimuth_deg": shown[1],
        "camera_heading_deg": plan.camera_heading_deg,
        **{name: plan.cues.get(name, NONE) for name in CUES},
    }


def posterior_table(plans: Sequence[ClipPlan], likelihood: Likelihood) -> pa.Table:
    """One row per plan: for sound, sight and both the exact log posterior (nats) over the places in their order,
    its entropy in bits, and the probability of the true place."""
    columns: dict[str, Any] = {"clip_id": pa.array([plan.clip_id for plan in plans], _TEXT)}
    found = [likelihood.log_posterior(plan.cues) for plan in plans]
    true = [plan.seed[1] - 1 for plan in plans]
    for sense in SENSES:
        log_p = np.stack([item[sense] for item in found])
        p = np.exp(log_p)
        columns[f"{sense}_log_p"] = pa.FixedSizeListArray.from_arrays(
            log_p.astype(np.float32).reshape(-1), log_p.shape[1]
        )
        columns[f"{sense}_entropy_bits"] = entr(p).sum(1) / np.log(2)
        columns[f"{sense}_p_true"] = p[np.arange(len(true)), true]
    return pa.table(columns)
