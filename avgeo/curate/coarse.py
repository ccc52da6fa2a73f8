"""Tables whose coordinates are coarse: positions, the names of places, heights, and numbers within reasons."""

from __future__ import annotations

import math
import re
from typing import Any

import pandas as pd

_PLACE = re.compile(r"[+-]\d{2}\.\d{4}[+-]\d{3}\.\d{4}")
_FINE = re.compile(r"(?<![\d.])(-?\d{1,3})\.(\d{2,})(?![\d.])")
_HEIGHT_M = 100.0
KM_PER_DEG = 111.2


def coarsened(
    table: pd.DataFrame, rejects: pd.DataFrame, places: pd.DataFrame | None, km: float
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame | None]:
    """Manifest, rejects and places with nothing finer than `km`.

    The manifest gains accuracy_km. A place's name holds its position, so places get new names, from their coarse
    position; those that come to share one are told apart by -2, -3 and so on. Heights are rounded to 100 m, and in
    reasons and flags place names are replaced and decimals shortened.
    """
    from avgeo.curate.privacy import coarsen

    named = pd.concat([table["place_id"], *([places["place_id"]] if places is not None else [])])
    names = _names(sorted(set(named.astype(str))), km)

    def scrub(text: Any) -> Any:
        if not isinstance(text, str):
            return text
        text = _PLACE.sub(lambda match: names.get(match[0]) or _rename(match[0], km), text)
        parts = re.split(f"({_PLACE.pattern})", text)  # the coarse names stay as they are
        digits = max(0, math.floor(math.log10(KM_PER_DEG / km)))
        parts[::2] = [_FINE.sub(lambda match: f"{float(match[0]):.{digits}f}", part) for part in parts[::2]]
        return "".join(parts)

    def moved(rows: pd.DataFrame) -> pd.DataFrame:
        found = [
            coarsen(float(latitude), float(longitude), km)
            for latitude, longitude in zip(rows["latitude_deg"], rows["longitude_deg"], strict=True)
        ]
        return rows.assign(
            latitude_deg=[float(at[0]) for at in found],
            longitude_deg=[float(at[1]) for at in found],
            accuracy_km=[float(at[2]) for at in found],
            place_id=[names[str(name)] for name in rows["place_id"]],
        )

    table = moved(table)
    if "altitude_m" in table:
        table["altitude_m"] = (table["altitude_m"].astype(float) / _HEIGHT_M).round() * _HEIGHT_M
    if "flags" in table:
        table["flags"] = [scrub(text) for text in table["flags"]]
    rejects = rejects.assign(reason=[scrub(text) for text in rejects["reason"]])
    if places is not None:
        places = moved(places).drop(columns="accuracy_km").sort_values("place_id").reset_index(drop=True)
    return table, rejects, places


def _names(places: list[str], km: float) -> dict[str, str]:
    """New names by old ones."""
    names: dict[str, str] = {}
    taken: dict[str, int] = {}
    for place in places:
        name = _rename(place, km)
        taken[name] = taken.get(name, 0) + 1
        names[place] = name if taken[name] == 1 else f"{name}-{taken[name]}"
    return names


def _rename(place: str, km: float) -> str:
    """The name of a place moved to its coarse position; one that is no position stays as it is."""
    from avgeo.curate.privacy import coarsen

    if not _PLACE.fullmatch(place):
        return place
    latitude, longitude, *_ = coarsen(float(place[:8]), float(place[8:]), km)
    return f"{float(latitude):+08.4f}{float(longitude):+09.4f}"
