"""Tables whose coordinates are coarse: positions, the names of places, heights, and whatever texts say of positions.

What other people wrote is read as text only: a street's name stays. Addresses (url) stay too, since credit needs them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

_PLACE = re.compile(r"[+-]\d{2}\.\d{4}[+-]\d{3}\.\d{4}")
_HEIGHT_M = 100.0
_GONE = "…"
_SIGN = r"(?<!\d)[+\-−]?"
_POSITIONS = (
    r"(?<!\d)[+\-−]\d{2,}(?:[.,]\d*)?[+\-−]\d{3,}(?:[.,]\d*)?[+\-−\d.,]*/?",  # ISO 6709
    rf"{_SIGN}\d+(?:[.,]\d+)?\s*(?:°|º|˚|deg\b|degrees?\b)[\s\d.,'’′\"”″]*[NSEWO]?\b",  # degrees, minutes, seconds
    rf"{_SIGN}\d[\d.,'’′\"”″ ]*[NSEWX]\b",  # 52,31.12345N, 521234N
    r"\b[NSEW]\s?\d[\d.,'’′\"”″]*",
    r"(?<!\d)\d{1,3}[-_ ]\d{5,}",  # 52-123456 in a file's name
)
_TWO = re.compile("|".join((*_POSITIONS, rf"{_SIGN}\d+(?:[.,٫·]\d+)*[.,٫·]\d{{2,}}")))
_ONE = re.compile("|".join((*_POSITIONS, rf"{_SIGN}\d+(?:[.,٫·]\d+)+")))
_OTHERS = re.compile(r"^(same bytes as|same original as|near-duplicate of) .*", re.DOTALL)
_KEPT = frozenset({"clip_id", "path", "place_id", "split", "url", "licence", "sha256", "recorded_at", "kind",
                   "location_kind", "country"})  # fmt: skip
_CREDIT = ("title", "attribution")  # here a single decimal goes as well
_KEYS = ("uploader", "original")  # what is one must stay one, and what is two, two
WITHHELD = "coordinates: withheld in a coarsened corpus"


def scrub(text: Any, pattern: re.Pattern[str] = _TWO) -> Any:
    """A text without positions: numbers with two decimals or more, degrees, hemispheres, in any notation."""
    return pattern.sub(_GONE, text) if isinstance(text, str) else text


def scrubbed(value: Any) -> Any:
    """A report (JSON) whose texts are without positions; its names of fields stay."""
    if isinstance(value, Mapping):
        return {name: scrubbed(one) for name, one in value.items()}
    return [scrubbed(one) for one in value] if isinstance(value, list | tuple) else scrub(value)


def coarsened(
    table: pd.DataFrame, rejects: pd.DataFrame, places: pd.DataFrame | None, km: float
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame | None]:
    """Manifest, rejects and places with nothing finer than `km` but what addresses lead to.

    The manifest gains accuracy_km. A place's name holds its position, so places get new names, from their coarse
    position; those that come to share one are told apart by -2, -3 and so on. Heights are rounded to 100 m. Texts lose
    every number that may be part of a position; uploaders and originals with such get numbers instead. Rejects are
    called by their row, since names of files hold positions too, and tell nothing of coordinates or of other items.
    """
    from avgeo.curate.privacy import coarsen

    named = pd.concat([table["place_id"], *([places["place_id"]] if places is not None else [])])
    names = _names(sorted(set(named.astype(str))), km)

    def told(text: Any) -> Any:
        if not isinstance(text, str):
            return text
        text = _PLACE.sub(lambda match: names.get(match[0]) or _rename(match[0], km), text)
        parts = re.split(f"({_PLACE.pattern})", text)  # the coarse names stay as they are
        parts[::2] = [scrub(part) for part in parts[::2]]
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
    for name in table.columns.difference([*_KEPT]):
        if table[name].dtype == object or pd.api.types.is_string_dtype(table[name]):
            table[name] = pd.Series(_texts(name, table[name].tolist()), index=table.index, dtype="object")
    reasons = [_reason(gate, reason, told) for gate, reason in zip(rejects["gate"], rejects["reason"], strict=True)]
    rejects = rejects.assign(item=[f"item-{row:06d}" for row in range(1, len(rejects) + 1)], reason=reasons)
    if places is not None:
        places = moved(places).drop(columns="accuracy_km").sort_values("place_id").reset_index(drop=True)
    return table, rejects, places


def _texts(name: str, texts: list[Any]) -> list[Any]:
    if name not in _KEYS:
        return [scrub(text, _ONE if name in _CREDIT else _TWO) for text in texts]
    telling = sorted({text for text in texts if scrub(text) != text and not _is_address(text)})
    numbers = {text: f"{name}-{number:04d}" for number, text in enumerate(telling, 1)}
    return [numbers.get(text, text) if isinstance(text, str) else text for text in texts]


def _is_address(text: Any) -> bool:
    return isinstance(text, str) and re.match(r"https?://\S+$", text) is not None


def _reason(gate: Any, reason: Any, told: Callable[[Any], Any]) -> Any:
    if gate == "coordinates":
        return WITHHELD
    if isinstance(reason, str) and (found := _OTHERS.match(reason)):
        return f"{found[1]} another item"
    return told(reason)


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
    """The name of a place moved to its coarse position; one that is no position loses what may be part of one."""
    from avgeo.curate.privacy import coarsen

    if not _PLACE.fullmatch(place):
        return str(scrub(place))
    latitude, longitude, *_ = coarsen(float(place[:8]), float(place[8:]), km)
    return f"{float(latitude):+08.4f}{float(longitude):+09.4f}"
