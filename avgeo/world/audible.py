"""The audible cues: what sounds at a place, and how often."""

from __future__ import annotations

from functools import cache

import numpy as np

from avgeo.world.cues import Rates, cue, known, present
from avgeo.world.geography import country_facts, languages, voice_rows
from avgeo.world.moment import HOURS, IS_DAY, Place, rainfall, temperature_c

BUILT = {"wild": 0.0, "town": 0.8, "city": 1.0, "metropolis": 1.1}
"""How much of what people build and do is heard, by settlement."""


@cue("audible", "50", "60", reads=("mains_hz", "settlement"))
def mains_hum(place: Place) -> Rates:
    """Hum of transformers and lamps at the mains frequency; louder lives at night."""
    rate = np.where(IS_DAY, 0.7, 0.8) * BUILT[place["settlement"]]
    return known(rate, f"{place['mains_hz']:.0f}" if place["mains_hz"] else "")


SIRENS = ("wail", "yelp", "two_tone_fourth", "two_tone_third", "two_tone_sixth")


@cue("audible", *SIRENS, reads=("siren", "settlement"))
def siren(place: Place) -> Rates:
    """Emergency siren: American-type services alternate wail and yelp, others keep one interval."""
    weights = {"wail": 0.65, "yelp": 0.35} if place["siren"] == "wail" else {place["siren"]: 1.0}
    return present(0.25 * BUILT[place["settlement"]], weights) if place["siren"] else {}


@cue("audible", "rapid_tick", "percussive", "beeps", "cuckoo", reads=("crossing", "settlement"))
def crossing(place: Place) -> Rates:
    """The signal for blind pedestrians at traffic lights: silent at night, unknown in most countries."""
    rate = {"wild": 0.0, "town": 0.1, "city": 0.25, "metropolis": 0.3}[place["settlement"]]
    return known(np.where((HOURS >= 7) & (HOURS < 21), rate, 0.0), place["crossing"])


@cue("audible", "chime", "two_tone", "uic", "single", reads=("train_horn", "settlement"))
def train_horn(place: Place) -> Rates:
    """A locomotive's horn: a chord of five (North America), two tones, or one."""
    return known(0.12 * (BUILT[place["settlement"]] > 0), place["train_horn"])


@cache
def voices() -> dict[str, str]:
    """CLDR language code -> class of rhythm and melody (`data/language_voices.csv`)."""
    return {code: row["voice"] for code, row in voice_rows().items()}


@cache
def language_shares(country_code: str) -> dict[str, float]:
    """Weights of spoken languages by CLDR population shares; a language without status counts a fifth."""
    weights: dict[str, float] = {}
    for code, (share, official) in sorted(languages(country_code).items()):
        base = code.split("_")[0]
        if base in voices():
            weights[base] = weights.get(base, 0.0) + share * (1.0 if official else 0.2)
    total = sum(weights.values())
    return {code: weight for code, weight in weights.items() if weight >= 0.03 * total}


@cache
def spoken() -> tuple[str, ...]:
    """The languages that are heard in some country of the cue table, in alphabetical order."""
    return tuple(sorted({code for country in country_facts() for code in language_shares(country)}))


@cue("audible", *spoken(), reads=("country_code", "settlement"))
def voice(place: Place) -> Rates:
    """People talking in a language of the country."""
    rate = np.where(IS_DAY, 0.5, 0.4) if place["settlement"] != "wild" else 0.1
    return present(rate, language_shares(place["country_code"]))


_PRAYER_HOURS = (5, 12, 13, 15, 16, 18, 19, 20)


@cue("audible", "church_bell", "muezzin", "temple_bell", reads=("worship", "settlement"))
def worship(place: Place) -> Rates:
    """Church and temple bells by day, the muezzin about the prayer times; mixed countries have both."""
    kinds = [kind for kind in place["worship"].split("+") if kind]
    near = 0.0 if place["settlement"] == "wild" else 1.0 / max(len(kinds), 1)
    bells = np.where((HOURS >= 7) & (HOURS < 20), 0.35, 0.1)
    call = np.where(np.isin(HOURS, _PRAYER_HOURS), 0.5, 0.1)
    return {kind: near * (call if kind == "muezzin" else bells) for kind in kinds}


@cue("audible", "car", "motorcycle", reads=("motorcycles", "settlement"))
def traffic(place: Place) -> Rates:
    """A passing engine: how often it is a motorcycle follows the country's share of two-wheelers."""
    share = {"low": 0.08, "medium": 0.4, "high": 0.8}.get(place["motorcycles"])
    if share is None:
        return {}
    rate = np.where(IS_DAY, 0.55, 0.35) * (BUILT[place["settlement"]] or 0.2)
    return {"car": rate * (1 - share), "motorcycle": rate * share}


# --- water and weather ---


@cue("audible", "waves", reads=("coast",))
def surf(place: Place) -> Rates:
    """Breaking waves, within reach of a coast (the 1:110m line is coarse, hence two steps)."""
    return known({"shore": 0.45, "near": 0.2, "inland": 0.0}[place["coast"]], "waves")


@cue("audible", "rain", reads=("koppen", "hemisphere"))
def rain(place: Place) -> Rates:
    """Rain, by climate and season."""
    return known(0.8 * rainfall(place), "rain")


@cue("audible", "rolling", reads=("koppen", "hemisphere"))
def thunder(place: Place) -> Rates:
    """Thunder on wet afternoons and evenings that are warm (18 deg C or more)."""
    temperature = temperature_c(place)
    if temperature is None:
        return {}
    late = np.where((HOURS >= 13) & (HOURS < 23), 0.5, 0.15)
    return known(late * rainfall(place) * (temperature >= 18), "rolling")


@cue("audible", "gusts", reads=("koppen", "coast"))
def wind(place: Place) -> Rates:
    """Gusts: near coasts, on steppe, in the cold; seldom in rainforest climates."""
    if not place["koppen"]:
        return {}
    open_land = place["koppen"].startswith(("BS", "BW", "E")) or place["coast"] != "inland"
    return known(0.3 if open_land else 0.05 if place["koppen"] in ("Af", "Am") else 0.12, "gusts")


@cue("audible", "snow", "gravel", reads=("koppen", "hemisphere", "settlement"))
def footsteps(place: Place) -> Rates:
    """Steps that crunch: on snow where the mean of the day is below -2 deg C, on gravel elsewhere off the pavements."""
    temperature = temperature_c(place)
    if temperature is None:
        return {}
    frost = temperature.mean(1, keepdims=True) < -2
    return {"snow": 0.35 * frost, "gravel": np.where(frost, 0.0, 0.25 if place["settlement"] == "wild" else 0.08)}


# --- animals ---

CRICKETS_C = {"slow": (13, 18), "medium": (18, 23), "fast": (23, 28), "faster": (28, 33)}
"""Classes of chirp rate and the temperatures they stand for (deg C)."""


@cue("audible", *CRICKETS_C, reads=("koppen", "hemisphere"))
def crickets(place: Place) -> Rates:
    """Crickets on warm nights; Dolbear's law makes their chirp rate a thermometer (Am. Nat. 31:970, 1897)."""
    temperature = temperature_c(place)
    if temperature is None:
        return {}
    return {
        name: np.where(IS_DAY, 0.0, 0.5) * ((temperature >= low) & (temperature < high))
        for name, (low, high) in CRICKETS_C.items()
    }


@cue("audible", "rasp", reads=("koppen", "hemisphere"))
def cicadas(place: Place) -> Rates:
    """Cicadas on hot days (22 deg C or more)."""
    temperature = temperature_c(place)
    if temperature is None:
        return {}
    return known(IS_DAY * np.where(temperature >= 26, 0.4, np.where(temperature >= 22, 0.2, 0.0)), "rasp")


REALMS = ("nearctic", "neotropical", "palearctic", "afrotropical", "indomalayan", "australasian")


@cue("audible", *(f"{realm}_{habitat}" for realm in REALMS for habitat in ("open", "forest")),
     reads=("koppen", "hemisphere", "realm"))  # fmt: skip
def birds(place: Place) -> Rates:
    """A song of one of two species per zoogeographic realm, one of open and dry land, one of forest climates.

    Most sing at dawn, few at night, few when it is cold.
    """
    temperature = temperature_c(place)
    if temperature is None:
        return {}
    rate = np.where((HOURS >= 5) & (HOURS < 10), 0.65, np.where(IS_DAY, 0.45, 0.08))
    rate = rate * np.where(temperature > 8, 1.0, np.where(temperature > 0, 0.5, 0.2))
    dry = place["koppen"].startswith(("B", "Aw", "Cs", "E"))
    return {
        f"{place['realm']}_open": rate * (0.8 if dry else 0.25),
        f"{place['realm']}_forest": rate * (0.2 if dry else 0.75),
    }


@cue("audible", "calls", reads=("koppen", "coast"))
def gulls(place: Place) -> Rates:
    """Gulls by day on coasts outside the tropics."""
    there = place["koppen"][:1] in ("B", "C", "D", "E") and place["coast"] != "inland"
    return known(IS_DAY * (0.4 if place["coast"] == "shore" else 0.2) * there, "calls")


@cue("audible", "chorus", reads=("koppen", "hemisphere"))
def frogs(place: Place) -> Rates:
    """Frogs calling in warm, wet nights."""
    temperature = temperature_c(place)
    if temperature is None:
        return {}
    return known(0.5 * ((temperature > 15) & (rainfall(place) >= 0.2) & ~IS_DAY), "chorus")


@cue("audible", "crow", reads=("settlement",))
def rooster(place: Place) -> Rates:
    """Cocks crowing before and after dawn, where people keep hens: towns more than cities."""
    rate = {"wild": 0.0, "town": 0.4, "city": 0.15, "metropolis": 0.05}[place["settlement"]]
    return known(rate * np.where((HOURS >= 3) & (HOURS < 8), 1.0, np.where(IS_DAY, 0.2, 0.0)), "crow")
