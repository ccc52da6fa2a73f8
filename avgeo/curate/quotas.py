"""Which clips the benchmark takes: so many places, so many clips of each, no country or uploader above its share.

What is taken follows from the contents of the clips and the seed: equal candidates are ordered by a hash of their
bytes, never by a file's name or position.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from avgeo.curate.candidate import UNKNOWN, CurateError
from avgeo.curate.places import unit_vectors
from avgeo.profiles import CurateSettings

_LEAST_KEPT = 0.5
_STEP = 1.25
_ROUNDS = 200


@dataclass(frozen=True)
class Choice:
    """What was taken: reasons of the clips that were not, a summary (JSON), and one row per place that was found.

    `places` has place_id, latitude_deg, longitude_deg, country, continent, found and taken (clips), and state: taken,
    short (of clips_per_place) or surplus (no clip taken).
    """

    dropped: dict[str, str]
    summary: dict[str, Any]
    places: pd.DataFrame


@dataclass
class _Taking:
    """Clips taken so far, and how many of each country, uploader and place."""

    clips: set[int] = field(default_factory=set)
    countries: Counter[str] = field(default_factory=Counter)
    uploaders: Counter[str] = field(default_factory=Counter)
    places: Counter[str] = field(default_factory=Counter)
    rooms: Mapping[str, int] = field(default_factory=dict)


def choose(table: pd.DataFrame, settings: CurateSettings, seed: int) -> Choice:
    """Choose among the clips of `table`: clip_id, place_id, latitude_deg, longitude_deg, and, where there are such
    columns, sha256, uploader and country.

    Places that can give `clips_per_place` clips come first, then the larger ones; within a place the uploaders take
    turns. `max_country_share` and `max_uploader_share` are shares of what is taken, so they are applied until they hold
    of the result; each country and uploader may have one clip, and those unknown are not limited. A share that would
    cost more than half of the clips (too few countries or uploaders) is raised until it does not, and a note in the
    summary says so. Without limits everything is taken. Raises `CurateError` for limits that make no sense.
    """
    check_limits(settings)
    clips = _candidates(table, seed)
    taken, used, notes = _within_shares(clips, settings)
    places = _places(clips, taken, settings)
    dropped = _reasons(clips, taken, settings, used)
    return Choice(dropped, _summary(clips, places, taken, settings, notes), places)


def outcome(table: pd.DataFrame, kept: Iterable[str], settings: CurateSettings, choice: Choice) -> Choice:
    """`choice` among the clips of `table` as it ended: with the counts of the clips `kept` (their clip_id) after all
    that came later."""
    clips, wanted = _candidates(table, 0), set(kept)
    left = clips[clips["clip_id"].isin(wanted)]
    taken = _Taking(set(left.index), *(Counter(left[name].dropna()) for name in ("country", "uploader", "place_id")))
    places = _places(clips, taken, settings)
    return Choice(choice.dropped, _summary(clips, places, taken, settings, choice.summary["notes"]), places)


def check_limits(settings: CurateSettings) -> None:
    """Raise `CurateError` for limits that make no sense."""
    for name in ("places", "clips_per_place"):
        value = getattr(settings, name)
        if value is not None and value < 1:
            raise CurateError(f"{name}={value}: give 1 or more, or leave it out for no limit")
    for name in ("max_country_share", "max_uploader_share"):
        if not 0 < getattr(settings, name) <= 1:
            raise CurateError(f"{name}={getattr(settings, name)}: give a share above 0, at most 1 (no limit)")


def known(value: Any) -> str | None:
    """A text that says something, else None: empty, unknown and missing values all say nothing."""
    text = value.strip() if isinstance(value, str) else ""
    return text if text and text.lower() != UNKNOWN else None


def countries_of(table: pd.DataFrame) -> pd.Series:
    """The country of every clip by its coordinates (Natural Earth's names), else by its column country, else None."""
    from avgeo.world import country_at

    named = table["country"] if "country" in table else [None] * len(table)
    found = country_at(table["latitude_deg"].to_numpy(dtype=float), table["longitude_deg"].to_numpy(dtype=float))
    values = [here if here is not None else known(stated) for here, stated in zip(found, named, strict=True)]
    return pd.Series(values, index=table.index, dtype="object")


def _candidates(table: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Clips in the order in which they are taken: best places first, and in a place the uploaders in turn."""
    uploaders = table["uploader"] if "uploader" in table else [None] * len(table)
    content = table["sha256"] if "sha256" in table else table["clip_id"]
    clips = pd.DataFrame(
        {
            "clip_id": table["clip_id"].astype(str),
            "place_id": table["place_id"].astype(str),
            "latitude_deg": table["latitude_deg"].astype(float),
            "longitude_deg": table["longitude_deg"].astype(float),
            "country": countries_of(table),
            # As objects: a column of texts would turn None into NaN, which is true.
            "uploader": pd.Series([known(name) for name in uploaders], index=table.index, dtype="object"),
            "draw": [_draw(seed, text) for text in content],
        }
    )
    clips = clips.sort_values(["draw", "clip_id"], kind="stable").reset_index(drop=True)
    who = clips["uploader"].where(clips["uploader"].notna(), clips["clip_id"])
    clips["turn"] = clips.groupby([clips["place_id"], who]).cumcount()
    return clips.sort_values("turn", kind="stable").reset_index(drop=True)


def _draw(seed: int, text: object) -> str:
    return hashlib.sha256(f"{seed}:{text}".encode()).hexdigest()


# --- shares of the whole ---


def _within_shares(clips: pd.DataFrame, settings: CurateSettings) -> tuple[_Taking, dict[str, float], list[str]]:
    """What is taken, the shares that were applied, and remarks about them."""
    cap = settings.clips_per_place
    order = _order(clips, cap)
    members: dict[str, list[int]] = {}
    for at, place in enumerate(clips["place_id"]):
        members.setdefault(place, []).append(at)
    ranked = [(place, members[place]) for place in sorted(members, key=lambda place: order[place])]
    who = {"country": clips["country"].tolist(), "uploader": clips["uploader"].tolist()}
    wanted = {"country": settings.max_country_share, "uploader": settings.max_uploader_share}
    free = _take(ranked, who, cap, settings.places, {})
    if all(share >= 1 for share in wanted.values()):
        return free, wanted, []
    goal = _LEAST_KEPT * len(free.clips)
    within = clips[clips.groupby("place_id").cumcount() < (cap or len(clips) + 1)]
    used = dict(wanted)
    for name in used:
        while used[name] < 1 and _attainable(within[name], used[name]) < goal:
            used[name] = min(1.0, used[name] * _STEP)
    while (taken := _settle(ranked, who, settings, used, within, len(free.clips))) is None or len(taken.clips) < goal:
        used = {name: min(1.0, share * _STEP) if share < 1 else share for name, share in used.items()}
    remarks = [
        f"max_{name}_share {wanted[name]:g} would cost more than half of the clips with "
        f"{count} known {name if count == 1 else _PLURAL[name]}; {used[name]:.3g} was used"
        for name, count in ((name, clips[name].nunique()) for name in used)
        if used[name] != wanted[name]
    ]
    return taken, used, remarks


_PLURAL = {"country": "countries", "uploader": "uploaders"}


def _room(share: float, total: int) -> int:
    return max(1, int(share * total + 1e-9))


def _attainable(names: pd.Series, share: float) -> int:
    """The largest number of clips of which no name has more than its share: T = unknown + Σ min(n, share T)."""
    counts, unknown = names.value_counts().to_numpy(), int(names.isna().sum())
    total = len(names)
    for _ in range(_ROUNDS):
        following = unknown + int(np.minimum(counts, _room(share, total)).sum())
        if following >= total:
            break
        total = following
    return total


def _settle(
    ranked: Sequence[tuple[str, list[int]]],
    who: Mapping[str, list[str | None]],
    settings: CurateSettings,
    used: Mapping[str, float],
    within: pd.DataFrame,
    total: int,
) -> _Taking | None:
    """Take with rooms that follow from the total until they hold of the total that comes out; None: they never do."""
    total = min(total, *(_attainable(within[name], share) for name, share in used.items() if share < 1), total)
    for _ in range(_ROUNDS):
        rooms = {name: _room(share, total) for name, share in used.items() if share < 1}
        taken = _take(ranked, who, settings.clips_per_place, settings.places, rooms)
        counts = {"country": taken.countries, "uploader": taken.uploaders}
        if all(max(counts[name].values(), default=0) <= _room(used[name], len(taken.clips)) for name in rooms):
            return taken
        total = min(total - 1, len(taken.clips))
        if total < 1:
            return None
    return None


def _order(clips: pd.DataFrame, cap: int | None) -> dict[str, tuple[int, str]]:
    """Rank of every place: as many clips as are wanted first, then by a hash that follows from its clips."""
    sizes = clips.groupby("place_id", sort=False).size()
    first = clips.groupby("place_id", sort=False)["draw"].min()
    return {
        str(place): (-min(int(size), cap or int(size)), str(draw))
        for place, size, draw in zip(sizes.index, sizes, first[sizes.index], strict=True)
    }


def _take(
    ranked: Sequence[tuple[str, list[int]]],
    who: Mapping[str, list[str | None]],
    cap: int | None,
    places: int | None,
    rooms: Mapping[str, int],
) -> _Taking:
    """Places in their order while there is room: first those that can give all that is wanted of them, then others."""
    taken = _Taking(rooms=rooms)
    countries, uploaders = who["country"], who["uploader"]
    no_limit = 1 << 60
    country_room, uploader_room = rooms.get("country", no_limit), rooms.get("uploader", no_limit)
    for whole in (True, False):
        for place, members in ranked:
            if place in taken.places:
                continue
            if places is not None and len(taken.places) >= places:
                return taken
            picked: list[int] = []
            enough = min(len(members), cap or len(members))
            more_countries: Counter[str] = Counter()
            more_uploaders: Counter[str] = Counter()
            for at in members:
                if len(picked) == enough:
                    break
                country, uploader = countries[at], uploaders[at]
                if country and taken.countries[country] + more_countries[country] >= country_room:
                    continue
                if uploader and taken.uploaders[uploader] + more_uploaders[uploader] >= uploader_room:
                    continue
                picked.append(at)
                more_countries.update([country] if country else [])
                more_uploaders.update([uploader] if uploader else [])
            if picked and (len(picked) == enough or not whole):
                taken.clips.update(picked)
                taken.countries.update(more_countries)
                taken.uploaders.update(more_uploaders)
                taken.places[place] = len(picked)
    return taken


# --- what came of it ---


def _reasons(
    clips: pd.DataFrame, taken: _Taking, settings: CurateSettings, used: Mapping[str, float]
) -> dict[str, str]:
    sizes = clips["place_id"].value_counts().to_dict()
    reasons: dict[str, str] = {}
    for at, (clip_id, place, country, uploader) in enumerate(
        zip(clips["clip_id"], clips["place_id"], clips["country"], clips["uploader"], strict=True)
    ):
        if at in taken.clips:
            continue
        size = f"{sizes[place]} clip{'s' * (sizes[place] != 1)}"
        if settings.clips_per_place is not None and taken.places[place] >= settings.clips_per_place:
            reason = f"place {place} has {size}, {taken.places[place]} are taken"
        elif country and taken.countries[country] >= taken.rooms.get("country", len(clips) + 1):
            reason = f"country {country} has its share of {100 * used['country']:.3g} %"
        elif uploader and taken.uploaders[uploader] >= taken.rooms.get("uploader", len(clips) + 1):
            reason = f"uploader {uploader} has their share of {100 * used['uploader']:.3g} %"
        else:
            reason = f"place {place} ({size}) is beyond the {settings.places} places wanted"
        reasons[clip_id] = " ".join(reason.split())
    return dict(sorted(reasons.items()))


def _places(clips: pd.DataFrame, taken: _Taking, settings: CurateSettings) -> pd.DataFrame:
    from avgeo.world import countries

    continent = dict(zip(countries()["country"], countries()["continent"], strict=True))
    rows = []
    for place, group in clips.groupby("place_id", sort=True):
        middle = unit_vectors(group["latitude_deg"].to_numpy(), group["longitude_deg"].to_numpy()).sum(axis=0)
        named = sorted(group["country"].dropna().value_counts().items(), key=lambda item: (-item[1], item[0]))
        country, count = (str(named[0][0]) if named else None), taken.places[str(place)]
        state = "surplus" if not count else "short" if count < (settings.clips_per_place or 0) else "taken"
        rows.append(
            {
                "place_id": place,
                "latitude_deg": float(np.rad2deg(np.arctan2(middle[2], np.hypot(middle[0], middle[1])))),
                "longitude_deg": float(np.rad2deg(np.arctan2(middle[1], middle[0]))),
                "country": country,
                "continent": continent.get(country) if country else None,
                "found": len(group),
                "taken": count,
                "state": state,
            }
        )
    return pd.DataFrame(rows, columns=list(PLACE_COLUMNS)).astype({"country": "object", "continent": "object"})


PLACE_COLUMNS = ("place_id", "latitude_deg", "longitude_deg", "country", "continent", "found", "taken", "state")


def _summary(
    clips: pd.DataFrame, places: pd.DataFrame, taken: _Taking, settings: CurateSettings, notes: list[str]
) -> dict[str, Any]:
    """Wanted against found and taken, and what is short, in all, by continent and by country."""
    names = ("places", "clips_per_place", "max_country_share", "max_uploader_share")
    in_use = places[places["taken"] > 0]
    short = {
        "places": max(0, (settings.places or 0) - len(in_use)),
        "clips_at_places_taken": _missing(in_use, settings),
    }
    return {
        "wanted": {name: getattr(settings, name) for name in names},
        "found": {"places": len(places), "clips": len(clips)},
        "taken": {
            "places": len(in_use),
            "full_places": int((in_use["state"] == "taken").sum()),
            "clips": len(taken.clips),
        },
        "short": short,
        "largest_country": _largest(taken.countries, len(taken.clips)),
        "largest_uploader": _largest(taken.uploaders, len(taken.clips)),
        "by_continent": _tally(places, "continent", settings),
        "by_country": _tally(places, "country", settings),
        "notes": notes,
    }


def _missing(places: pd.DataFrame, settings: CurateSettings) -> int:
    return int(((settings.clips_per_place or 0) - places["taken"]).clip(lower=0).sum())


def _largest(counts: Counter[str], total: int) -> dict[str, Any] | None:
    if not counts:
        return None
    name, count = min(counts.items(), key=lambda item: (-item[1], item[0]))
    return {"name": name, "clips": count, "share": round(count / total, 4)}


def _tally(places: pd.DataFrame, name: str, settings: CurateSettings) -> dict[str, dict[str, int]]:
    found = {}
    for value, group in places.fillna({name: UNKNOWN}).groupby(name, sort=True):
        in_use = group[group["taken"] > 0]
        found[str(value)] = {
            "places_found": len(group),
            "places_taken": len(in_use),
            "clips_found": int(group["found"].sum()),
            "clips_taken": int(group["taken"].sum()),
            "clips_short": _missing(in_use, settings),
        }
    return found
