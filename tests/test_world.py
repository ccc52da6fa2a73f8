"""AVG-Sim's facts, tables, physics and stems, each held against something independent."""

from __future__ import annotations

import math
from collections import Counter
from datetime import UTC, datetime
from itertools import pairwise

import numpy as np
import pandas as pd
import pycountry
import pytest
import shapefile
from babel import Locale
from babel.core import UnknownLocaleError, get_global
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from avgeo.profiles import WorldSettings
from avgeo.world import (
    AUDIBLE,
    NONE,
    TABLES,
    VISIBLE,
    Moment,
    build_places,
    coast_km,
    country_at,
    cue_tables,
    natural_earth,
    sample_cues,
    sun_position,
)
from avgeo.world.cues import _voices, temperature_c
from avgeo.world.geography import countries, country_facts, main_language, script_of
from avgeo.world.scene import _GLYPHS, _PALETTES, draw_frames, shadow_direction
from avgeo.world.soundscape import NOISE_FLOOR, mix, stem_of

RATE = 16_000


@pytest.fixture(scope="module")
def places() -> pd.DataFrame:
    return build_places(WorldSettings(places=250), seed=7)


@pytest.fixture(scope="module")
def rows(places: pd.DataFrame) -> list[dict]:
    return places.to_dict("records")


# --- geography ---


def haversine_km(a: tuple[float, float], b: tuple[float, float]) -> float:
    (p, x), (q, y) = (map(math.radians, point) for point in (a, b))
    h = math.sin((q - p) / 2) ** 2 + math.cos(p) * math.cos(q) * math.sin((y - x) / 2) ** 2
    return 2 * 6371.0088 * math.asin(math.sqrt(h))


@pytest.mark.parametrize(
    "layer", ["land", "ocean", "coastline", "lakes", "admin_0_countries", "admin_0_boundary_lines_land"]
)
def test_natural_earth_is_whole(layer: str) -> None:
    for suffix in (".shp", ".shx", ".dbf", ".prj", ".cpg"):
        assert natural_earth(layer).with_suffix(suffix).is_file()
    with shapefile.Reader(str(natural_earth(layer))) as reader:
        assert len(reader) > 0 and reader.numRecords == len(reader.shapes())


def test_unknown_layer() -> None:
    with pytest.raises(ValueError, match="choose one of land"):
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
        vertices = [(y, x) for shape in reader.shapes() for x, y in shape.points]
    for point in ((52.1, 4.27), (41.88, -87.63), (-23.7, 133.9), (64.8, 179.9), (-16.5, -68.1)):
        to_vertex = min(haversine_km(point, vertex) for vertex in vertices)
        distance = float(coast_km(*point))
        assert distance <= to_vertex + 1e-6  # the line passes through its vertices
        assert distance >= to_vertex - 120  # and no segment near these points is longer than twice that


def test_places_hold_their_contract(places: pd.DataFrame) -> None:
    assert len(places) == 250 and places["place_id"].is_unique
    assert Counter(places["split"]) == {"train": 126, "val": 62, "test": 62}
    assert len(set(places["continent"])) == 6 and places["continent"].value_counts().max() < 0.35 * len(places)
    assert places["country_code"].nunique() > 60
    assert not places[["name", "country", "region", "timezone", "language", "realm", "script"]].isna().any().any()
    assert places["population"].min() >= 15_000
    points = list(zip(places["latitude_deg"], places["longitude_deg"], strict=True))
    nearest = min(haversine_km(a, b) for i, a in enumerate(points) for b in points[:i])
    assert nearest >= WorldSettings().min_separation_km
    found = country_at(places["latitude_deg"], places["longitude_deg"])
    assert np.mean(found == places["country"]) > 0.95  # border towns and small islands differ at 1:110m
    pd.testing.assert_frame_equal(places, build_places(WorldSettings(places=250), seed=7))
    assert set(build_places(WorldSettings(places=250), seed=8)["name"]) != set(places["name"])


def test_too_many_places() -> None:
    with pytest.raises(ValueError, match=r"only .* cities lie"):
        build_places(WorldSettings(places=400, min_separation_km=3000), seed=0)


# --- facts ---


def test_country_facts_are_countries_and_known_words() -> None:
    words = {
        "mains_hz": {"", "50", "60"},
        "driving_side": {"left", "right"},
        "siren": {"", "wail", "two_tone", "two_tone_high"},
        "centre_line": {"", "white", "yellow"},
        "warning_sign": {"", "triangle", "diamond"},
        "motorcycles": {"", "low", "medium", "high"},
    }
    facts = country_facts()
    assert set(facts) == {code for code in countries()["country_code"].dropna() if code not in ("AQ", "TF")}
    for code, row in facts.items():
        assert code == "XK" or pycountry.countries.get(alpha_2=code) is not None
        for column, allowed in words.items():
            assert row[column] in allowed, (code, column)
        assert set(row["worship"].split("+")) <= {"", "church_bell", "muezzin", "temple_bell"}
    realms = {row["realm"] for row in facts.values()} | {row["realm_other"] for row in facts.values()} - {""}
    assert realms == {"nearctic", "neotropical", "palearctic", "afrotropical", "indomalayan", "australasian"}


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
        ("siren", "two_tone", "DE FR AT NL"),
        ("worship", "muezzin", "SA TR ID EG PK"),
        ("worship", "temple_bell", "TH JP LK"),
    ],
)
def test_facts_spot_checks(column: str, value: str, codes: str) -> None:
    assert {code for code in codes.split() if country_facts()[code][column] != value} == set()


def test_languages_and_scripts_are_cldrs() -> None:
    names = Locale("en").languages
    for code in country_facts():
        language, share = main_language(code)
        assert language.split("_")[0] in names and 0 < share <= 1
        assert script_of(language, code) in Locale("en").scripts
    listed = {name.split("_")[0] for known in get_global("territory_languages").values() for name in known}
    unknown = set(_voices()) - listed
    assert unknown == set()
    assert (script_of("zh_Hant", "TW"), script_of("sr", "RS"), script_of("kk", "KZ")) == (
        "Hant",
        "Cyrl",
        "Cyrl",
    )
    with pytest.raises(UnknownLocaleError):
        Locale("xx")  # the oracle can say no


# --- tables ---


@settings(deadline=None, max_examples=60)
@given(index=st.integers(0, 249), month=st.integers(1, 12), hour=st.integers(0, 23))
def test_tables_are_distributions(rows: list[dict], index: int, month: int, hour: int) -> None:
    for cue, table in cue_tables(rows[index], Moment(month, hour)).items():
        assert math.isclose(sum(table.values()), 1, abs_tol=1e-12), cue
        assert all(0 <= p <= 1 for p in table.values()) and NONE in table


def test_every_value_can_be_heard_or_drawn(rows: list[dict]) -> None:
    assert len(AUDIBLE) >= 8 and len(VISIBLE) >= 6 and set(TABLES) == set(AUDIBLE) | set(VISIBLE)
    values: dict[str, set[str]] = {}
    for row in rows:
        for moment in (Moment(1, 5), Moment(4, 12), Moment(7, 22), Moment(10, 15)):
            for cue, table in cue_tables(row, moment).items():
                values.setdefault(cue, set()).update(v for v, p in table.items() if p > 0 and v != NONE)
    for cue in AUDIBLE:
        for value in values[cue]:
            stem = np.asarray(stem_of(cue, value)(RATE, RATE, np.random.default_rng(0)))
            assert stem.shape == (RATE,) and np.isfinite(stem).all() and np.mean(stem**2) > 0, (cue, value)
    assert values["script"] <= set(_GLYPHS) and values["vegetation"] <= set(_PALETTES)


def test_samples_follow_the_tables(rows: list[dict]) -> None:
    row = next(row for row in rows if row["country_code"] == "ID" and row["mains_hz"] == 50)
    moment, rng, n = Moment(4, 9), np.random.default_rng(0), 1500
    drawn = [sample_cues(row, moment, rng) for _ in range(n)]
    tested = 0
    for cue, table in cue_tables(row, moment).items():
        expected = {value: n * p for value, p in table.items() if n * p >= 5}
        if len(expected) > 1:
            counts = Counter(draw.get(cue, NONE) for draw in drawn)
            seen = np.array([counts[value] for value in expected], float)
            weights = np.array(list(expected.values()))
            assert chisquare(seen, weights * seen.sum() / weights.sum()).pvalue > 1e-4, cue
            tested += 1
    assert tested >= 8
    # Independence given place and moment: the joint of two cues is the product of their tables.
    both = np.mean([("voice" in draw) and ("driving_side" in draw) for draw in drawn])
    p = (1 - cue_tables(row, moment)["voice"][NONE]) * (1 - cue_tables(row, moment)["driving_side"][NONE])
    assert both == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / n))


def test_unknown_facts_leave_the_cue_out(rows: list[dict]) -> None:
    blank = dict(rows[0]) | {
        "mains_hz": math.nan, "siren": "", "worship": "", "centre_line": "", "warning_sign": "",
        "driving_side": "", "motorcycles": "", "koppen": "",
    }  # fmt: skip
    tables = cue_tables(blank, Moment(7, 12))
    for cue in (
        "mains_hum",
        "siren",
        "worship",
        "centre_line",
        "warning_sign",
        "driving_side",
        "traffic",
        "vegetation",
    ):
        assert tables[cue] == {NONE: 1.0}


def test_seasons_turn_with_the_hemisphere(rows: list[dict]) -> None:
    north = dict(rows[0]) | {"koppen": "Cfb", "latitude_deg": 50.0}
    south = north | {"latitude_deg": -50.0}
    july, january = temperature_c(north, Moment(7, 12)), temperature_c(north, Moment(1, 12))
    assert july is not None and january is not None and july > january + 10
    assert temperature_c(south, Moment(1, 12)) == pytest.approx(july)
    assert "autumn" in TABLES["vegetation"](north, Moment(10, 12))
    assert "autumn" in TABLES["vegetation"](south, Moment(4, 12))


# --- the sun ---


def low_precision_sun(when: datetime, latitude: float, longitude: float) -> tuple[float, float]:
    """The Astronomical Almanac's low-precision solar coordinates: another algorithm than the package's."""
    n = (when - datetime(2000, 1, 1, 12, tzinfo=UTC)).total_seconds() / 86400
    mean, anomaly = 280.460 + 0.9856474 * n, math.radians(357.528 + 0.9856003 * n)
    ecliptic = math.radians(mean + 1.915 * math.sin(anomaly) + 0.020 * math.sin(2 * anomaly))
    tilt = math.radians(23.439 - 0.0000004 * n)
    ascension = math.atan2(math.cos(tilt) * math.sin(ecliptic), math.cos(ecliptic))
    declination = math.asin(math.sin(tilt) * math.sin(ecliptic))
    sidereal = math.radians((280.46062 + 360.98564737 * n + longitude) % 360)
    angle, phi = sidereal - ascension, math.radians(latitude)
    elevation = math.asin(
        math.sin(phi) * math.sin(declination) + math.cos(phi) * math.cos(declination) * math.cos(angle)
    )
    azimuth = math.atan2(-math.sin(angle), math.tan(declination) * math.cos(phi) - math.sin(phi) * math.cos(angle))
    return math.degrees(elevation), math.degrees(azimuth) % 360


@settings(deadline=None, max_examples=200)
@given(
    latitude=st.floats(-75, 75), longitude=st.floats(-180, 180),
    month=st.integers(1, 12), day=st.integers(1, 28), hour=st.integers(0, 23),
)  # fmt: skip
def test_sun_against_another_algorithm(latitude: float, longitude: float, month: int, day: int, hour: int) -> None:
    when = datetime(2023, month, day, hour, tzinfo=UTC)
    elevation, azimuth = sun_position(when, latitude, longitude)
    other_elevation, other_azimuth = low_precision_sun(when, latitude, longitude)
    assert elevation == pytest.approx(other_elevation, abs=0.8)
    if abs(elevation) < 80:
        turn = (azimuth - other_azimuth + 180) % 360 - 180
        assert abs(turn) * math.cos(math.radians(elevation)) < 0.8


@pytest.mark.parametrize(("name", "latitude", "down"), [("Berlin", 52.5, False), ("Buenos Aires", -34.6, True)])
def test_shadows_point_away_from_the_equator(name: str, latitude: float, down: bool) -> None:
    """At noon shadows fall north (up the picture) in Berlin and south (down) in Buenos Aires."""
    _, azimuth = sun_position(datetime(2023, 3, 21, 12, 5, tzinfo=UTC), latitude, 0.0)
    right, below = shadow_direction(azimuth)
    assert (below > 0.95) == down and (below < -0.95) != down and abs(right) < 0.3


def test_the_drawn_shadow_follows(rows: list[dict]) -> None:
    """Pixels: the ground is darkened west of things in the morning and east of them in the evening."""
    cues = {"vegetation": "steppe", "horizon": "flat"}
    darker_left, darker_right = [], []
    for seed in range(20):  # other plants stand elsewhere each time; the bollard at column 115 stays
        morning, evening = (
            draw_frames(cues | {"sun": light}, sun, 1, 128, 96, np.random.default_rng(seed))[0].astype(int)
            for light, sun in (("east", (30.0, 90.0)), ("west", (30.0, 270.0)))
        )
        difference = (morning - evening)[75:79].sum(-1).mean(0)
        darker_left.append(difference[100:112].mean())
        darker_right.append(difference[119:].mean())
    assert np.mean(darker_left) < -50 and np.mean(darker_right) > 50


def test_vehicles_keep_their_side() -> None:
    """The oncoming car, the only thing that moves, stays right of the middle where traffic keeps left."""
    for side, on_right in (("left", True), ("right", False)):
        frames = draw_frames({"driving_side": side}, (40, 180), 16, 128, 96, np.random.default_rng(0)).astype(int)
        moving = np.abs(np.diff(frames, axis=0)).sum((0, 1, 3))
        middle = (moving * np.arange(128)).sum() / moving.sum()
        assert (middle > 64) == on_right


def test_scenes_differ_where_they_should() -> None:
    base = {"vegetation": "temperate_green", "sun": "south", "horizon": "flat"}

    def draw(**cues: str) -> np.ndarray:
        return draw_frames(base | cues, (40, 180), 1, 128, 96, np.random.default_rng(1))[0].astype(int)

    assert (draw() == draw()).all()
    yellow, white = (
        draw(centre_line="yellow")[90, 63:65].mean(0),
        draw(centre_line="white")[90, 63:65].mean(0),
    )
    assert yellow[2] < 60 < 200 < white[2]
    assert draw(sun="night").mean() < 0.6 * draw().mean()
    boards = {name: draw(script=name)[8:34, 3:56] for name in _GLYPHS}
    for a, b in pairwise(boards.values()):
        assert np.abs(a - b).mean() > 15


# --- stems ---


@pytest.mark.parametrize("mains_hz", [50, 60])
def test_mains_hum_by_its_spectrum(mains_hz: int) -> None:
    track = mix([("mains_hum", str(mains_hz), 0.0, 4.0, 24.0)], 4.0, RATE, np.random.default_rng(0))
    spectrum = np.abs(np.fft.rfft(track * np.hanning(len(track))))
    resolution_hz = RATE / len(track)
    assert abs(np.argmax(spectrum) * resolution_hz - 2 * mains_hz) < 0.5  # the second harmonic leads
    other = 110 - mains_hz
    for harmonic in (2, 4, 6, 8):
        mine, theirs = (spectrum[round(harmonic * f / resolution_hz)] for f in (mains_hz, other))
        assert mine > 10 * theirs


def dominant_hz(track: np.ndarray, frame: int = 800) -> np.ndarray:
    frames = track[: len(track) // frame * frame].reshape(-1, frame) * np.hanning(frame)
    return np.argmax(np.abs(np.fft.rfft(frames, 8 * frame)), axis=1) * RATE / (8 * frame)


@pytest.mark.parametrize(
    ("pattern", "high", "low", "period_s"), [("two_tone", 587, 440, 1.0), ("two_tone_high", 960, 770, 1.3)]
)
def test_siren_intervals(pattern: str, high: float, low: float, period_s: float) -> None:
    track = np.asarray(stem_of("siren", pattern)(8 * RATE, RATE, np.random.default_rng(0)))
    pitch = dominant_hz(track)
    near_high, near_low = np.abs(pitch - high) < 12, np.abs(pitch - low) < 12
    assert np.mean(near_high | near_low) > 0.85
    rises = np.flatnonzero(np.diff(near_high.astype(int)) == 1)
    assert np.diff(rises).mean() * 0.05 == pytest.approx(period_s, rel=0.06)
    if pattern == "two_tone":
        assert 12 * math.log2(high / low) == pytest.approx(5, abs=0.05)  # a fourth, as DIN 14610 asks


def test_wail_is_slow_and_yelp_is_fast() -> None:
    swings = {}
    for pattern in ("wail", "yelp"):
        pitch = dominant_hz(np.asarray(stem_of("siren", pattern)(8 * RATE, RATE, np.random.default_rng(0))), 400)
        assert pitch.min() < 700 and pitch.max() > 1250
        swings[pattern] = np.sum(np.abs(np.diff(pitch)) > 300) / 8
    assert swings["wail"] < 0.2 and swings["yelp"] == pytest.approx(3.3, abs=0.5)


def test_mix_puts_each_stem_at_its_level_and_time() -> None:
    quiet = mix([], 4.0, RATE, np.random.default_rng(5))
    assert np.sqrt(np.mean(quiet**2)) == pytest.approx(NOISE_FLOOR, rel=0.01)
    track = mix([("siren", "wail", 1.0, 3.0, 20.0)], 4.0, RATE, np.random.default_rng(5))
    power = (track.astype(float) ** 2).reshape(8, -1).mean(1)
    assert power[[0, 1, 6, 7]].max() < 2 * NOISE_FLOOR**2 < power[2:6].min()
    snr_db = 10 * np.log10(power[2:6].mean() / NOISE_FLOOR**2 - 1)
    assert snr_db == pytest.approx(20, abs=0.3)
    loud = mix([("rain", "rain", 0.0, 4.0, 60.0)], 4.0, RATE, np.random.default_rng(5))
    assert np.abs(loud).max() == pytest.approx(0.9, abs=1e-3)
