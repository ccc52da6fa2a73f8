"""What held-out clips say of each atom: how often it fires, how strongly, when most, and at which places."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

COLUMNS = ("clip_id", "latitude_deg", "longitude_deg")


class AtlasError(ValueError):
    """Codes or clips of which no atlas can be made; the message names the argument and the cure."""


@dataclass(frozen=True)
class AtomFacts:
    """Per atom, over the clips given. `by_place` is its mean strength over the clips of each row of `places`.

    `fires` is the share of frames, `strength` the mean where it fires (the median of the others' for one that never
    does), `clip` and `frame` say where it is strongest (-1 when it never fires). `places` holds latitude_deg,
    longitude_deg and label, one row per place.
    """

    fires: Float[np.ndarray, " atoms"]
    strength: Float[np.ndarray, " atoms"]
    clip: Int[np.ndarray, " atoms"]
    frame: Int[np.ndarray, " atoms"]
    by_place: Float[np.ndarray, "places atoms"]
    places: pd.DataFrame


def atom_facts(codes: Float[np.ndarray, "clips time atoms"], clips: pd.DataFrame) -> AtomFacts:
    """The facts about every atom; raises `AtlasError` when codes and clips do not belong together."""
    _check(codes, clips)
    count, time, atoms = codes.shape
    fires, total, best, at = (np.zeros(atoms) for _ in range(4))
    by_clip = np.empty((count, atoms), np.float32)
    best -= 1
    for clip, code in enumerate(codes):  # clip by clip: no second array of this size
        by_clip[clip] = code.mean(0)
        fires += (code > 0).sum(0)
        total += code.sum(0)
        highest = code.max(0)
        better = highest > best
        best[better], at[better] = highest[better], clip * time + code.argmax(0)[better]
    alive = fires > 0
    strength = np.divide(total, fires, out=np.zeros(atoms), where=alive)
    strength[~alive] = np.median(strength[alive]) if alive.any() else 1.0
    keys = [clips[name] for name in (("place_id",) if "place_id" in clips.columns else COLUMNS[1:])]
    group = clips.groupby(keys, sort=False).ngroup().to_numpy()
    by_place = np.zeros((group.max() + 1, atoms))
    np.add.at(by_place, group, by_clip)
    return AtomFacts(
        fires=fires / (count * time),
        strength=strength,
        clip=np.where(alive, at // time, -1).astype(np.int64),
        frame=np.where(alive, at % time, -1).astype(np.int64),
        by_place=by_place / np.bincount(group)[:, None],
        places=_labelled(clips.assign(group=group).drop_duplicates("group")),
    )


def _labelled(rows: pd.DataFrame) -> pd.DataFrame:
    """latitude_deg, longitude_deg and label: place and country where the table names them, with the coordinates."""
    from avgeo.plots import place_text

    labels = []
    for row in rows.to_dict("records"):
        named = [row[key] for key in ("place", "country") if isinstance(row.get(key), str) and row[key]]
        where = place_text(float(row["latitude_deg"]), float(row["longitude_deg"]))
        labels.append(", ".join([*named, where]))
    return rows[["latitude_deg", "longitude_deg"]].assign(label=labels).reset_index(drop=True)


def _check(codes: np.ndarray, clips: pd.DataFrame) -> None:
    missing = [name for name in COLUMNS if name not in clips.columns]
    if missing:
        raise AtlasError(f"clips has no column {missing[0]!r}: give the manifest's rows")
    if codes.ndim != 3 or 0 in codes.shape:
        raise AtlasError(f"codes has shape {codes.shape}: give (clips, time, atoms), none of them 0")
    if len(codes) != len(clips):
        raise AtlasError(f"codes holds {len(codes)} clips and the table {len(clips)}: give the rows that were encoded")
    nowhere = int((~np.isfinite(clips[list(COLUMNS[1:])].to_numpy(float))).any(1).sum())
    if nowhere:
        raise AtlasError(f"{nowhere} clips have no coordinates: leave them out of codes and clips")
    if not all(np.isfinite(code).all() and (code >= 0).all() for code in codes):
        raise AtlasError("codes holds negative, NaN or infinite values: give what the autoencoder encodes")
