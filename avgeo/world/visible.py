"""The visible cues: what a street or a field looks like at a place, and how often it shows."""

from __future__ import annotations

from functools import cache

import numpy as np

from avgeo.world.cues import Rates, cue, known, present
from avgeo.world.geography import languages, script_of
from avgeo.world.moment import HOURS, IS_DAY, Place, northern_month, rainfall, sun_clock, temperature_c

ROADS = {"wild": 0.35, "town": 1.0, "city": 1.0, "metropolis": 1.0}
"""How often a picture shows a road with its furniture, by settlement."""

# --- signs and traffic: the cues that tell most come first, because traces of the reasoner name only a few ---

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


@cue("visible", *sorted(set(SCRIPTS.values())), reads=("country_code", "settlement"))
def script(place: Place) -> Rates:
    """A lettered board in a script of the country's official languages."""
    rate = {"wild": 0.05, "town": 0.35, "city": 0.4, "metropolis": 0.4}[place["settlement"]]
    return present(rate, script_shares(place["country_code"]))


@cue("visible", "left", "right", reads=("driving_side", "settlement"))
def driving_side(place: Place) -> Rates:
    """A vehicle comes towards the camera on its side of the road."""
    return known(np.where(IS_DAY, 0.75, 0.6) * ROADS[place["settlement"]], place["driving_side"])


@cue("visible", "white", "yellow", reads=("centre_line", "settlement"))
def centre_line(place: Place) -> Rates:
    """Colour of the line between the two directions; many roads have none."""
    return known(0.7 * ROADS[place["settlement"]], place["centre_line"])


@cue("visible", "triangle", "diamond", reads=("warning_sign", "settlement"))
def warning_sign(place: Place) -> Rates:
    """A warning sign: red-rimmed triangle (Vienna Convention Aa) or diamond (Ab)."""
    return known(0.5 * ROADS[place["settlement"]], place["warning_sign"])


@cue("visible", "white", "yellow", "eu_band", "blue", "blue_top", "black", reads=("plate", "settlement"))
def plate(place: Place) -> Rates:
    """The front number plate of a parked car: its colours, not its characters."""
    return known(0.4 * (ROADS[place["settlement"]] == 1.0), place["plate"])


# --- the light ---

SECTORS = ("N", "NE", "E", "SE", "S", "SW", "W", "NW")
LOW_DEG, HIGH_DEG, TWILIGHT_DEG = 30.0, 70.0, -6.0
"""Bounds of the classes of the sun's elevation: low and high suns, and the end of civil twilight."""
SUNS = ("night", "twilight", *(f"{height}_{sector}" for height in ("low", "high") for sector in SECTORS), "overhead")


def sun_class(elevation_deg: np.ndarray, azimuth_deg: np.ndarray) -> np.ndarray:
    """Which of `SUNS` a sun is: index of the same shape. Below 70 deg it has one of eight sectors, 45 deg wide."""
    sector = np.round(np.asarray(azimuth_deg) / 45).astype(int) % 8
    high = np.asarray(elevation_deg) >= LOW_DEG
    kind = 2 + 8 * high + sector
    kind = np.where(np.asarray(elevation_deg) >= HIGH_DEG, len(SUNS) - 1, kind)
    kind = np.where(np.asarray(elevation_deg) < 0, 1, kind)
    return np.where(np.asarray(elevation_deg) < TWILIGHT_DEG, 0, kind)


def class_of_sun(name: str) -> tuple[tuple[float, float], tuple[float, float]]:
    """The bounds of a class in degrees: (elevation from, to), (azimuth from, to); azimuths may be negative."""
    if name in ("night", "twilight", "overhead"):
        return {"night": (-90.0, TWILIGHT_DEG), "twilight": (TWILIGHT_DEG, 0.0), "overhead": (HIGH_DEG, 90.0)}[name], (
            0.0,
            360.0,
        )
    height, sector = name.split("_")
    middle = 45.0 * SECTORS.index(sector)
    return (0.0, LOW_DEG) if height == "low" else (LOW_DEG, HIGH_DEG), (middle - 22.5, middle + 22.5)


@cue("visible", *SUNS, reads=("latitude_deg", "longitude_deg", "timezone", "koppen"))
def sun(place: Place) -> Rates:
    """Where the light comes from, by date, hour and place; clouds hide it, and night nothing hides."""
    classes = sun_class(*sun_clock(place))
    clear = 0.95 if place["koppen"].startswith("BW") else 0.75
    return {name: (classes == index) * (1.0 if name == "night" else clear) for index, name in enumerate(SUNS)}


# --- the land ---

# What a landscape is mistaken for: its neighbours share the tenth that its own palette leaves.
LANDSCAPES = {
    "rainforest": ("savanna_green",), "savanna_green": ("rainforest", "temperate_green"),
    "savanna_dry": ("steppe", "savanna_green"), "desert": ("steppe",), "steppe": ("savanna_dry", "desert"),
    "mediterranean": ("steppe", "temperate_green"), "temperate_green": ("conifer", "mediterranean"),
    "autumn": ("bare", "temperate_green"), "bare": ("autumn", "steppe"),
    "conifer": ("temperate_green", "tundra"), "snow": ("bare",), "tundra": ("steppe", "conifer"),
}  # fmt: skip


def landscape(climate: str, tropics: bool, month: int) -> str:
    """The palette of a climate in a (northern) month."""
    if climate in ("Af", "Am"):
        return "rainforest"
    if climate.startswith("A") or (climate == "Cwa" and tropics):
        return "savanna_green" if 5 <= month <= 10 else "savanna_dry"
    if climate.startswith("BW"):
        return "desert"
    if climate.startswith("BS"):
        return "steppe" if climate == "BSk" else "savanna_dry"
    if climate[1:2] == "s":
        return "mediterranean"
    if climate.startswith("C"):
        if tropics:  # tropical highlands keep their leaves
            return "temperate_green"
        return "temperate_green" if 4 <= month <= 9 else "autumn" if month in (10, 11) else "bare"
    if climate.startswith("D"):
        if month in (12, 1, 2, 3) or (climate[2:3] in ("c", "d") and month in (11, 4)):
            return "snow"
        if climate[2:3] in ("c", "d"):
            return "conifer"
        return "temperate_green" if 5 <= month <= 9 else "autumn" if month in (10, 11) else "bare"
    return "tundra" if 5 <= month <= 9 else "snow"


@cue("visible", *LANDSCAPES, reads=("koppen", "tropics", "hemisphere"))
def vegetation(place: Place) -> Rates:
    """The landscape's palette by climate and season; sometimes walls hide it."""
    if not place["koppen"]:
        return {}
    rates = {name: np.zeros((12, 1)) for name in LANDSCAPES}
    for row, month in enumerate(northern_month(place)[:, 0]):
        own = landscape(place["koppen"], place["tropics"], int(month))
        rates[own][row] += 0.9 * 0.95
        for other in LANDSCAPES[own]:
            rates[other][row] += 0.9 * 0.05 / len(LANDSCAPES[own])
    return rates


@cue("visible", "sea", "mountain", "hills", "flat", reads=("coast", "relief"))
def horizon(place: Place) -> Rates:
    """Sea near a coast, else the relief of the land around."""
    sea = {"shore": 0.55, "near": 0.15, "inland": 0.0}[place["coast"]]
    land = {
        "mountainous": {"mountain": 0.6, "hills": 0.25, "flat": 0.05},
        "hilly": {"mountain": 0.1, "hills": 0.55, "flat": 0.25},
        "flat": {"mountain": 0.02, "hills": 0.18, "flat": 0.7},
    }[place["relief"]]
    return {"sea": sea} | {shape: (1 - sea) * rate for shape, rate in land.items()}


@cue("visible", "red", "brown", "black", "pale", reads=("koppen", "tropics"))
def soil(place: Place) -> Rates:
    """Bare earth beside the road: red in the wet tropics, pale in deserts, black on grassland, else brown."""
    climate = place["koppen"]
    if not climate:
        return {}
    if climate.startswith("A") or (climate.startswith("Cw") and place["tropics"]):
        weights = {"red": 0.75, "brown": 0.25}
    elif climate.startswith("BW") or climate == "BSh":
        weights = {"pale": 0.75, "red": 0.15, "brown": 0.1}
    elif climate in ("BSk", "Dfa", "Dfb", "Dwa"):
        weights = {"black": 0.5, "brown": 0.35, "pale": 0.15}
    else:
        weights = {"brown": 0.8, "black": 0.1, "red": 0.1}
    return present(0.5, weights)


# --- what people build and leave standing ---


@cue("visible", "towers", "blocks", "houses", "huts", reads=("settlement", "koppen"))
def skyline(place: Place) -> Rates:
    """What people have built in view, by the size of the settlement."""
    huts = 0.15 if place["koppen"].startswith("A") else 0.0  # thatch: some towns of the tropics
    built = {
        "wild": {},
        "town": {"houses": 0.8, "blocks": 0.1, "huts": huts},
        "city": {"houses": 0.5, "blocks": 0.45, "towers": 0.05},
        "metropolis": {"towers": 0.45, "blocks": 0.45, "houses": 0.1},
    }
    return present(0.6, built[place["settlement"]])


@cue("visible", "asphalt", "gravel", reads=("settlement", "motorcycles"))
def road_surface(place: Place) -> Rates:
    """Asphalt or a dirt road; the share of motorcycles stands in for how much of the network is paved."""
    gravel = {"low": 0.05, "medium": 0.2, "high": 0.35}.get(place["motorcycles"], 0.2)
    gravel = min(0.9, gravel + (0.4 if place["settlement"] == "wild" else 0.0))
    return present(0.9 * ROADS[place["settlement"]], {"asphalt": 1 - gravel, "gravel": gravel})


@cue("visible", "two_wheeler", "rickshaw", "pickup", reads=("motorcycles", "realm", "settlement"))
def parked(place: Place) -> Rates:
    """What else stands by the road: two-wheelers where they are many, auto-rickshaws in tropical Asia and Africa."""
    share = {"low": 0.1, "medium": 0.4, "high": 0.8}.get(place["motorcycles"], 0.0)
    rickshaw = 0.3 * share if place["realm"] in ("indomalayan", "afrotropical") else 0.0
    rate = 0.45 * (ROADS[place["settlement"]] == 1.0)
    return {"two_wheeler": rate * (share - rickshaw), "rickshaw": rate * rickshaw, "pickup": rate * 0.2 * (1 - share)}


# --- weather and lamps ---


@cue("visible", "wet", reads=("koppen", "hemisphere"))
def wetness(place: Place) -> Rates:
    """Puddles and rain on the lens, by climate and season."""
    return known(0.8 * rainfall(place), "wet")


@cue("visible", "lying", "flakes", reads=("koppen", "hemisphere"))
def snowfall(place: Place) -> Rates:
    """Snow that falls or lies in patches, where the mean of the day is under 1 deg C."""
    temperature = temperature_c(place)
    if temperature is None:
        return {}
    frost = temperature.mean(1, keepdims=True) < 1
    return {"flakes": 0.2 * frost, "lying": 0.3 * frost}


@cue("visible", "lamps", reads=("settlement",))
def street_light(place: Place) -> Rates:
    """Street lamps that burn, from dusk to dawn."""
    rate = {"wild": 0.0, "town": 0.5, "city": 0.8, "metropolis": 0.9}[place["settlement"]]
    return known(np.where((HOURS < 6) | (HOURS >= 19), rate, 0.0), "lamps")
