"""What can be heard and seen at a place: explicit tables p(cue = value | place, month, hour).

A *cue* is a kind of evidence ("mains_hum", "script"); its *value* is what was observed ("50", "cyrillic")
or "none". Each table is a function of a place (a row of places.parquet) and a `Moment` (month and local
hour) that returns the whole distribution, so the tables can be enumerated. Given place and moment the cues
are independent of each other: the joint probability of a clip's cues is the product over `TABLES`, and
"none" counts as an observation.

Facts (mains, sirens, bells, roads, realms, languages) come from places.parquet and CLDR; how often a fact
shows itself is our choice and stands here as plain numbers. A fact that is unknown leaves its cue out:
p("none") = 1.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np

from avgeo.paths import data_dir
from avgeo.world.geography import languages, script_of

Place = Mapping[str, Any]
Distribution = dict[str, float]
NONE = "none"
YEAR = 2023


@dataclass(frozen=True)
class Moment:
    """AVG-Sim's clock: the 15th of a month at half past a local hour (12 x 24 positions: enumerable)."""

    month: int
    hour: int

    def local(self, place: Place) -> datetime:
        """The civil time with the place's UTC offset of that day."""
        return datetime(YEAR, self.month, 15, self.hour, 30, tzinfo=ZoneInfo(place["timezone"]))


# People film by day more than by night.
HOUR_WEIGHTS = np.array([1] * 6 + [8] * 12 + [4] * 2 + [1] * 4, dtype=float)


def sample_moment(rng: np.random.Generator) -> Moment:
    """A month, uniformly, and an hour by `HOUR_WEIGHTS`."""
    hour = rng.choice(24, p=HOUR_WEIGHTS / HOUR_WEIGHTS.sum())
    return Moment(int(rng.integers(1, 13)), int(hour))


# --- sun and climate ---


def sun_position(when: datetime, latitude_deg: float, longitude_deg: float) -> tuple[float, float]:
    """Solar elevation and azimuth (clockwise from north) in degrees; `when` is timezone-aware.

    Fourier series of Spencer (1971) for declination and equation of time: good to about half a degree.
    """
    utc = when.astimezone(UTC)
    hours = utc.hour + utc.minute / 60 + utc.second / 3600
    day = 2 * math.pi * (utc.timetuple().tm_yday - 1 + (hours - 12) / 24) / 365
    declination = (
        0.006918 - 0.399912 * math.cos(day) + 0.070257 * math.sin(day) - 0.006758 * math.cos(2 * day)
        + 0.000907 * math.sin(2 * day) - 0.002697 * math.cos(3 * day) + 0.00148 * math.sin(3 * day)
    )  # fmt: skip
    equation_min = 229.18 * (
        0.000075 + 0.001868 * math.cos(day) - 0.032077 * math.sin(day)
        - 0.014615 * math.cos(2 * day) - 0.040849 * math.sin(2 * day)
    )  # fmt: skip
    hour_angle = math.radians(15 * (hours - 12) + longitude_deg + equation_min / 4)
    latitude = math.radians(latitude_deg)
    east = -math.cos(declination) * math.sin(hour_angle)
    north = math.cos(latitude) * math.sin(declination) - math.sin(latitude) * math.cos(declination) * math.cos(
        hour_angle
    )
    up = math.sin(latitude) * math.sin(declination) + math.cos(latitude) * math.cos(declination) * math.cos(hour_angle)
    return math.degrees(math.atan2(up, math.hypot(east, north))), math.degrees(math.atan2(east, north)) % 360


# Annual mean and half the yearly range of temperature in deg C, by the longest prefix of the Koeppen class.
_CLIMATE = {
    "Af": (26, 1), "Am": (26, 1.5), "A": (26, 3), "BWh": (24, 9), "BWk": (11, 14), "BSh": (22, 7),
    "BSk": (10, 12), "Cs": (16, 7), "Cfa": (16, 10), "Cwa": (20, 7), "Cf": (10, 7), "Cw": (15, 3),
    "Dfa": (9, 15), "Dwa": (9, 15), "Ds": (7, 12), "Dfc": (0, 17), "Dwc": (-2, 20), "D": (5, 14),
    "E": (-6, 10),
}  # fmt: skip


def _northern_month(place: Place, moment: Moment) -> int:
    """The month that has the same season in the northern hemisphere."""
    return moment.month if place["latitude_deg"] >= 0 else (moment.month + 5) % 12 + 1


def temperature_c(place: Place, moment: Moment) -> float | None:
    """A climatological air temperature: warmest in July (north), and at 15 h; None for an unknown climate."""
    prefix = max((key for key in _CLIMATE if place["koppen"].startswith(key)), key=len, default=None)
    if prefix is None:
        return None
    mean, half_range = _CLIMATE[prefix]
    season = math.cos(2 * math.pi * (_northern_month(place, moment) - 7) / 12)
    return mean + half_range * season + 4 * math.cos(2 * math.pi * (moment.hour - 15) / 24)


def _is_day(moment: Moment) -> bool:
    return 6 <= moment.hour < 19


# --- helpers: every table returns a distribution over its values and "none" ---


def _present(probability: float, weights: Mapping[str, float]) -> Distribution:
    """Present with `probability`, then by `weights`; absent when there is nothing to choose from."""
    total = sum(weights.values())
    if total <= 0 or probability <= 0:
        return {NONE: 1.0}
    table = {value: probability * weight / total for value, weight in weights.items() if weight > 0}
    return table | {NONE: 1 - probability}


def _known(probability: float, value: str) -> Distribution:
    return _present(probability, {value: 1.0} if value else {})


# --- audible cues ---


def mains_hum(place: Place, moment: Moment) -> Distribution:
    """Hum of transformers and lamps at the mains frequency; louder lives at night."""
    frequency = place["mains_hz"]
    return _known(0.85 if _is_day(moment) else 0.9, "" if math.isnan(frequency) else f"{frequency:.0f}")


def siren(place: Place, moment: Moment) -> Distribution:
    """Emergency siren: American-type services alternate wail and yelp, others keep one pattern."""
    weights = {"wail": 0.65, "yelp": 0.35} if place["siren"] == "wail" else {place["siren"]: 1.0}
    return _present(0.3 if place["siren"] else 0.0, weights)


@cache
def _voices() -> dict[str, str]:
    with (data_dir() / "language_voices.csv").open(newline="", encoding="utf-8") as file:
        return {row["language"]: row["voice"] for row in csv.DictReader(file)}


@cache
def voice_shares(country_code: str) -> dict[str, float]:
    """Weights of voice classes by CLDR population shares; a language without status counts a fifth."""
    weights: dict[str, float] = {}
    for code, (share, official) in sorted(languages(country_code).items()):
        voice = _voices().get(code.split("_")[0])
        if voice is not None:
            weights[voice] = weights.get(voice, 0.0) + share * (1.0 if official else 0.2)
    total = sum(weights.values())
    return {voice: weight for voice, weight in weights.items() if weight >= 0.03 * total}


def voice(place: Place, moment: Moment) -> Distribution:
    """People talking: the class of rhythm and melody of a language of the country."""
    return _present(0.5 if _is_day(moment) else 0.4, voice_shares(place["country_code"]))


_PRAYER_HOURS = (5, 12, 13, 15, 16, 18, 19, 20)


def worship(place: Place, moment: Moment) -> Distribution:
    """Church bells and temple bells by day, the muezzin about the prayer times; mixed countries have both."""
    kinds = [kind for kind in place["worship"].split("+") if kind]
    table: Distribution = {}
    for kind in kinds:
        if kind == "muezzin":
            rate = 0.5 if moment.hour in _PRAYER_HOURS else 0.1
        else:
            rate = 0.4 if 7 <= moment.hour < 20 else 0.1
        table[kind] = rate / len(kinds)
    return table | {NONE: 1 - sum(table.values())}


def surf(place: Place, moment: Moment) -> Distribution:
    """Breaking waves, within reach of a coast (the 1:110m line is coarse, hence two steps)."""
    return _known(0.45 if place["coast_km"] < 12 else 0.2 if place["coast_km"] < 40 else 0.0, "waves")


def rain(place: Place, moment: Moment) -> Distribution:
    """Rain by the second letter of the climate: f all year, m monsoon, w summer, s winter; deserts hardly."""
    climate, summer = place["koppen"], 5 <= _northern_month(place, moment) <= 10
    if not climate or climate.startswith("E"):
        return {NONE: 1.0}
    if climate.startswith("B"):
        rate = 0.03 if climate[1] == "W" else 0.1
    else:
        rate = {
            "f": 0.3,
            "m": 0.45 if summer else 0.2,
            "w": 0.4 if summer else 0.05,
            "s": 0.04 if summer else 0.35,
        }[climate[1]]
    return _known(rate, "rain")


def insects(place: Place, moment: Moment) -> Distribution:
    """Crickets on warm nights (13 deg C or more), cicadas on hot days (22 deg C or more)."""
    temperature = temperature_c(place, moment)
    if temperature is None:
        return {NONE: 1.0}
    if _is_day(moment):
        return _known(0.4 if temperature >= 26 else 0.2 if temperature >= 22 else 0.0, "cicada")
    return _known(0.5 if temperature >= 17 else 0.25 if temperature >= 13 else 0.0, "cricket")


def birds(place: Place, moment: Moment) -> Distribution:
    """A song in the grammar of the zoogeographic realm; most at dawn, few at night, few when it is cold."""
    temperature = temperature_c(place, moment)
    if temperature is None:
        return {NONE: 1.0}
    rate = 0.65 if 5 <= moment.hour < 10 else 0.5 if _is_day(moment) else 0.1
    return _known(rate * (1.0 if temperature > 8 else 0.5 if temperature > 0 else 0.2), place["realm"])


def traffic(place: Place, moment: Moment) -> Distribution:
    """A passing engine: how often it is a motorcycle follows the country's share of two-wheelers."""
    share = {"low": 0.08, "medium": 0.4, "high": 0.8}.get(place["motorcycles"])
    if share is None:
        return {NONE: 1.0}
    rate = 0.6 if _is_day(moment) else 0.4
    return _present(rate, {"car": 1 - share, "motorcycle": share})


def frogs(place: Place, moment: Moment) -> Distribution:
    """Frogs calling in warm, wet nights."""
    temperature, wet = temperature_c(place, moment), rain(place, moment).get("rain", 0.0) >= 0.2
    return _known(
        0.5 if temperature is not None and temperature > 15 and wet and not _is_day(moment) else 0.0, "chorus"
    )


def wind(place: Place, moment: Moment) -> Distribution:
    """Gusts: near coasts, on steppe, in the cold; seldom in rainforest climates."""
    if not place["koppen"]:
        return {NONE: 1.0}
    open_land = place["koppen"].startswith(("BS", "BW", "E")) or place["coast_km"] < 40
    return _known(0.3 if open_land else 0.05 if place["koppen"] in ("Af", "Am") else 0.12, "gusts")


# --- visible cues ---

# What a landscape is mistaken for: its neighbours share the tenth that its own palette leaves.
_LIKE = {
    "rainforest": ("savanna_green",), "savanna_green": ("rainforest", "temperate_green"),
    "savanna_dry": ("steppe", "savanna_green"), "desert": ("steppe",), "steppe": ("savanna_dry", "desert"),
    "mediterranean": ("steppe", "temperate_green"), "temperate_green": ("conifer", "mediterranean"),
    "autumn": ("bare", "temperate_green"), "bare": ("autumn", "steppe"), 
    "conifer": ("temperate_green", "tundra"), "snow": ("bare",), "tundra": ("steppe", "conifer"),
}  # fmt: skip


def landscape(place: Place, month: int) -> str:
    """The palette of a climate in a (northern) month."""
    climate = place["koppen"]
    if climate in ("Af", "Am"):
        return "rainforest"
    if climate.startswith("A") or (climate == "Cwa" and abs(place["latitude_deg"]) < 30):
        return "savanna_green" if 5 <= month <= 10 else "savanna_dry"
    if climate.startswith("BW"):
        return "desert"
    if climate.startswith("BS"):
        return "steppe" if climate == "BSk" else "savanna_dry"
    if climate[1:2] == "s":
        return "mediterranean"
    if climate.startswith("C"):
        if abs(place["latitude_deg"]) < 25:  # tropical highlands keep their leaves
            return "temperate_green"
        return "temperate_green" if 4 <= month <= 9 else "autumn" if month in (10, 11) else "bare"
    if climate.startswith("D"):
        if month in (12, 1, 2, 3) or (climate[2:3] in ("c", "d") and month in (11, 4)):
            return "snow"
        if climate[2:3] in ("c", "d"):
            return "conifer"
        return "temperate_green" if 5 <= month <= 9 else "autumn" if month in (10, 11) else "bare"
    return "tundra" if 5 <= month <= 9 else "snow"


def vegetation(place: Place, moment: Moment) -> Distribution:
    """The landscape's palette by climate and season; a tenth of the clips show the town instead."""
    if not place["koppen"]:
        return {NONE: 1.0}
    own = landscape(place, _northern_month(place, moment))
    others = _LIKE[own]
    return _present(0.95, {own: 0.9} | {other: 0.1 / len(others) for other in others})


def horizon(place: Place, moment: Moment) -> Distribution:
    """Sea near a coast, mountains in highland climates, else flat land."""
    sea = 0.6 if place["coast_km"] < 12 else 0.2 if place["coast_km"] < 40 else 0.0
    tropical_highland = place["koppen"].startswith("C") and abs(place["latitude_deg"]) < 23
    highland = tropical_highland or place["koppen"] in ("ET", "Cwb", "Cwc", "Csc", "Dsa", "Dsb")
    mountain, flat = (0.7, 0.2) if highland else (0.2, 0.7)
    land = 1 - sea
    return {"sea": sea, "mountain": land * mountain, "flat": land * flat, NONE: land * 0.1}


def driving_side(place: Place, moment: Moment) -> Distribution:
    """A vehicle comes towards the camera on its side of the road."""
    return _known(0.9 if _is_day(moment) else 0.75, place["driving_side"])


def centre_line(place: Place, moment: Moment) -> Distribution:
    """Colour of the line between the two directions; some roads have none."""
    return _known(0.85, place["centre_line"])


SCRIPTS = {
    "Latn": "latin", "Cyrl": "cyrillic", "Grek": "greek", "Arab": "arabic", "Hebr": "hebrew", "Hans": "han",
    "Hant": "han", "Jpan": "kana", "Kore": "hangul", "Deva": "devanagari", "Beng": "bengali", "Thai": "thai",
    "Laoo": "thai", "Khmr": "khmer", "Geor": "georgian", "Armn": "armenian", "Ethi": "ethiopic",
    "Tibt": "tibetan", "Taml": "round_indic", "Telu": "round_indic", "Knda": "round_indic",
    "Mlym": "round_indic", "Sinh": "round_indic", "Mymr": "round_indic", "Orya": "round_indic",
    "Gujr": "devanagari", "Guru": "devanagari",
}  # fmt: skip


@cache
def script_shares(country_code: str) -> dict[str, float]:
    """Weights of scripts on signs: official languages by population share, and 0.15 of Latin everywhere."""
    spoken = languages(country_code)
    official = {code: share for code, (share, status) in spoken.items() if status}
    weights: dict[str, float] = {}
    for code, share in sorted((official or {code: share for code, (share, _) in spoken.items()}).items()):
        style = SCRIPTS.get(script_of(code, country_code))
        if style is not None:
            weights[style] = weights.get(style, 0.0) + share
    total = sum(weights.values())
    shares = {style: 0.85 * weight / total for style, weight in weights.items() if weight >= 0.03 * total}
    return shares | {"latin": shares.get("latin", 0.0) + 0.15} if shares else {}


def script(place: Place, moment: Moment) -> Distribution:
    """A lettered board in a script of the country's official languages."""
    return _present(0.35, script_shares(place["country_code"]))


def warning_sign(place: Place, moment: Moment) -> Distribution:
    """A warning sign: red-rimmed triangle (Vienna Convention) or diamond."""
    return _known(0.75, place["warning_sign"])


def sun(place: Place, moment: Moment) -> Distribution:
    """Where the light comes from (the camera looks north); shadows fall away from it, clouds hide it."""
    elevation, azimuth = sun_position(moment.local(place), place["latitude_deg"], place["longitude_deg"])
    if elevation < -3:
        return {"night": 1.0, NONE: 0.0}
    quarter = ("north", "east", "south", "west")[round(azimuth / 90) % 4]
    cloudy = 0.05 if place["koppen"].startswith("BW") else 0.2
    return {"overhead" if elevation > 72 else quarter: 1 - cloudy, NONE: cloudy}


AUDIBLE: dict[str, Callable[[Place, Moment], Distribution]] = {
    table.__name__: table
    for table in (mains_hum, siren, voice, worship, surf, rain, insects, birds, traffic, frogs, wind)
}
VISIBLE: dict[str, Callable[[Place, Moment], Distribution]] = {
    table.__name__: table for table in (vegetation, horizon, driving_side, centre_line, script, warning_sign, sun)
}
TABLES = AUDIBLE | VISIBLE


def cue_tables(place: Place, moment: Moment) -> dict[str, Distribution]:
    """All distributions at a place and moment, by cue; each sums to 1."""
    return {cue: table(place, moment) for cue, table in TABLES.items()}


def sample_cues(place: Place, moment: Moment, rng: np.random.Generator) -> dict[str, str]:
    """One draw from every table, independently; cue -> value, "none" left out."""
    drawn = {}
    for cue, table in cue_tables(place, moment).items():
        values = list(table)
        weights = np.array([table[value] for value in values])
        value = values[int(rng.choice(len(values), p=weights / weights.sum()))]
        if value != NONE:
            drawn[cue] = value
    return drawn
