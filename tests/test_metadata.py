"""Every way in which a file states its place: on files built here, and on real ones from a mirror."""

from __future__ import annotations

import csv
import math
import os
import socket
import struct
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from avgeo.clips import write_clip
from avgeo.curate import gpmf
from avgeo.curate.boxes import movie_locations
from avgeo.curate.location import coordinate_fault, parse_iso6709, parse_time
from avgeo.curate.metadata import read_location, read_locations
from avgeo.curate.signals import _bytes_beyond  # pyright: ignore[reportPrivateUsage]
from avgeo.curate.tags import comment_location, sound_locations, tag_locations
from avgeo.curate.xmp import xmp_locations

LATITUDES = st.floats(-90, 90)
LONGITUDES = st.floats(-180, 180)


def box(kind: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I4s", 8 + len(body), kind) + body


FTYP = box(b"ftyp", b"isom\0\0\2\0isommp41")


# --- coordinates ---


@pytest.mark.parametrize(
    ("text", "latitude", "longitude", "altitude"),
    [
        ("+52.3693+006.6761+10.534988/", 52.3693, 6.6761, 10.534988),
        ("+33.1268-117.3273/", 33.1268, -117.3273, None),
        ("+40-075CRSWGS_84/", 40, -75, None),
        ("-0030.5-07830.25/", -30.5 / 60, -78 - 30.25 / 60, None),
        ("+401213.1-0750015.1+2.79CRSWGS_84/", 40 + 12 / 60 + 13.1 / 3600, -75 - 15.1 / 3600, 2.79),
        ("-33.9+18.4-12", -33.9, 18.4, -12),
        ("+5.5+7.25/\0", 5.5, 7.25, None),
        ("+00-025/", 0, -25, None),
    ],
)
def test_iso6709_forms(text: str, latitude: float, longitude: float, altitude: float | None) -> None:
    found = parse_iso6709(text)
    assert found[:2] == pytest.approx((latitude, longitude), abs=1e-9)
    assert found[2] == (None if altitude is None else pytest.approx(altitude))


@pytest.mark.parametrize(
    "text", ["", "nonsense", "+5260.0+00600.0/", "52.1+4.2/", "+5212+006/", "+52.1", "+52+006CRSMoon/"]
)
def test_iso6709_refuses(text: str) -> None:
    with pytest.raises(ValueError, match=r"ISO 6709|mixes forms|60 or more|WGS 84"):
        parse_iso6709(text)


@given(LATITUDES, LONGITUDES)
def test_iso6709_round_trip(latitude: float, longitude: float) -> None:
    def dms(value: float, width: int) -> str:
        hundredths = round(abs(value) * 360_000)
        degrees, rest = divmod(hundredths, 360_000)
        minutes, seconds = divmod(rest, 6000)
        return f"{'-' if value < 0 else '+'}{degrees:0{width}d}{minutes:02d}{seconds / 100:05.2f}"

    found = parse_iso6709(f"{dms(latitude, 2)}{dms(longitude, 3)}/")
    assert found[:2] == pytest.approx((latitude, longitude), abs=0.5 / 360_000 + 1e-12)


@given(st.text(max_size=60))
def test_iso6709_only_ever_raises_value_error(text: str) -> None:
    try:
        parse_iso6709(text)
    except ValueError:
        return
    assert text.strip(" \t\r\n\0")[0] in "+-"


def test_coordinate_faults_are_named() -> None:
    assert coordinate_fault(52.0, 4.0) is None
    assert coordinate_fault(0.0, 30.0) is None  # the equator is a place
    assert "latitude" in (coordinate_fault(90.01, 0.5) or "")
    assert "longitude" in (coordinate_fault(10.0, -180.5) or "")
    assert "not numbers" in (coordinate_fault(math.nan, 3.0) or "")
    assert "null island" in (coordinate_fault(0.0, 0.0) or "")


def test_times() -> None:
    assert parse_time("2014:07:12 16:17:10") == "2014-07-12T16:17:10"
    assert parse_time("2020-02-03T04:05:06+0200") == "2020-02-03T04:05:06+02:00"
    assert parse_time("2020-02-03 04:05Z") == "2020-02-03T04:05:00Z"
    assert parse_time("2020-02-03") == "2020-02-03"
    for never in ("1904-01-01T00:00:00Z", "1970:01:01 00:00:00", "2020:13:01 00:00:00", "9999-01-01", "soon"):
        assert parse_time(never) is None


# --- MP4 and QuickTime ---


def xyz(text: bytes) -> bytes:
    return box(b"\xa9xyz", struct.pack(">HH", len(text), 0x15C7), text)


def loci(latitude: float, longitude: float, altitude: float, body: bytes = b"earth", name: bytes = b"x\0") -> bytes:
    fixed = struct.pack(">iii", *(round(value * 65536) for value in (longitude, latitude, altitude)))
    return box(b"loci", b"\0\0\0\0\x15\xc7", name, b"\0", fixed, body + b"\0\0")


def mdta(version: bool, **values: str) -> bytes:
    names = [f"com.apple.quicktime.{name.replace('__', '.')}".encode() for name in values]
    keys = box(b"keys", b"\0\0\0\0", struct.pack(">I", len(names)), *(box(b"mdta", name) for name in names))
    items = [
        box(struct.pack(">I", number), box(b"data", b"\0\0\0\1\0\0\0\0", value.encode()))
        for number, value in enumerate(values.values(), start=1)
    ]
    hdlr = box(b"hdlr", b"\0" * 8, b"mdta", b"\0" * 12)
    return box(b"meta", b"\0\0\0\0" if version else b"", hdlr, keys, box(b"ilst", *items))


def mvhd(moment: datetime) -> bytes:
    seconds = int((moment - datetime(1904, 1, 1, tzinfo=UTC)).total_seconds())
    return box(b"mvhd", struct.pack(">III", 0, seconds, seconds), b"\0" * 88)


def written(path: Path, *boxes: bytes) -> Path:
    path.write_bytes(b"".join(boxes))
    return path


def test_xyz_atom_and_movie_time(tmp_path: Path) -> None:
    moov = box(b"moov", mvhd(datetime(2021, 5, 6, 7, 8, 9, tzinfo=UTC)), box(b"udta", xyz(b"-33.8568+151.2153+5/")))
    location = read_location(written(tmp_path / "a.mov", FTYP, box(b"mdat", b"\0" * 99), moov))
    assert location is not None
    assert (location.latitude_deg, location.longitude_deg, location.altitude_m) == (-33.8568, 151.2153, 5)
    assert (location.kind, location.recorded_at) == ("quicktime", "2021-05-06T07:08:09Z")


@pytest.mark.parametrize("version", [True, False])
def test_mdta_keys(tmp_path: Path, version: bool) -> None:
    meta = mdta(version, creationdate="2022-08-01T18:00:00+0200", location__ISO6709="+48.8584+002.2945+035.0/")
    location = read_location(written(tmp_path / "a.mov", FTYP, box(b"moov", meta)))
    assert location is not None
    assert (location.latitude_deg, location.longitude_deg) == (48.8584, 2.2945)
    assert location.recorded_at == "2022-08-01T18:00:00+02:00"


@pytest.mark.parametrize("name", [b"place\0", b"\0", b"\xfe\xff\0p\0l\0\0"])
def test_loci_box(tmp_path: Path, name: bytes) -> None:
    location = read_location(
        written(tmp_path / "a.3gp", FTYP, box(b"moov", box(b"udta", loci(-12.5, 130.75, 3, name=name))))
    )
    assert location is not None
    assert (location.latitude_deg, location.longitude_deg, location.altitude_m) == (-12.5, 130.75, 3)
    assert location.kind == "3gpp"


def test_loci_of_another_body_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "a.3gp", FTYP, box(b"moov", box(b"udta", loci(1.5, 30.5, 0, b"mars"))))
    assert read_location(path) is None
    assert "mars" in (read_locations(path)[0].fault or "")


def test_every_statement_is_reported_with_its_fault(tmp_path: Path) -> None:
    udta = box(b"udta", xyz(b"+00.0000+000.0000/"), xyz(b"+91.0000+000.0000/"), xyz(b"+10.0000+020.0000/"))
    found = read_locations(written(tmp_path / "a.mp4", FTYP, box(b"moov", udta)))
    assert [location.fault is None for location in found] == [False, False, True]
    assert "null island" in (found[0].fault or "")
    assert "latitude 91" in (found[1].fault or "")


def test_location_written_by_ffmpeg(tmp_path: Path) -> None:
    import av

    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as out:
        out.metadata["location"] = "+35.6586+139.7454/"
        stream = out.add_stream("aac", rate=16_000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16_000
        out.mux([*stream.encode(frame), *stream.encode(None)])
    location = read_location(path)
    assert location is not None
    # FFmpeg writes `loci`, whose fixed point is good to 1.7 m.
    assert (location.latitude_deg, location.longitude_deg) == pytest.approx((35.6586, 139.7454), abs=2**-16)


def test_boxes_that_lie_about_their_size(tmp_path: Path) -> None:
    good = box(b"udta", xyz(b"+10.5+020.5/"))
    for lie in (struct.pack(">I4s", 0xFFFFFFF0, b"trak"), struct.pack(">I4s", 3, b"trak"), b"\0\0\0\1wide"):
        path = written(tmp_path / "a.mp4", FTYP, box(b"moov", good, lie))
        assert read_location(path) is not None
    assert read_locations(written(tmp_path / "b.mp4", FTYP, struct.pack(">I4sQ", 1, b"moov", 1 << 63))) == []


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_movies_never_crash(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    whole = bytearray(
        FTYP + box(b"moov", box(b"udta", xyz(b"+10.5+020.5/"), loci(1, 2, 3)), mdta(True, x="y"), telemetry())
    )
    for _ in range(data.draw(st.integers(1, 6))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("fuzz") / "a.mp4"
    path.write_bytes(bytes(whole[: data.draw(st.integers(0, len(whole)))]))
    movie_locations(path)


# --- GoPro ---


def klv(key: bytes, kind: bytes, size: int, *rows: bytes) -> bytes:
    data = b"".join(rows)
    return struct.pack(">4scBH", key, kind, size, len(data) // size) + data + b"\0" * (-len(data) % 4)


def nested(key: bytes, *parts: bytes) -> bytes:
    return klv(key, b"\0", 1, *parts)


GPS5_SCALE = (10_000_000, 10_000_000, 1000, 1000, 100)
GPS9_SCALE = (10_000_000, 10_000_000, 1000, 1000, 100, 1, 1000, 100, 1)


def gps5(
    points: list[tuple[float, float, float]],
    fix: int = 3,
    dop: float = 1.5,
    time: bytes = b"190102030405.500",
) -> bytes:
    rows = [
        struct.pack(">5i", *(round(v * s) for v, s in zip((*point, 1, 1), GPS5_SCALE, strict=True))) for point in points
    ]
    return nested(
        b"STRM",
        klv(b"STNM", b"c", 1, b"GPS (Lat., Long., Alt., 2D speed, 3D speed)"),
        klv(b"GPSF", b"L", 4, struct.pack(">I", fix)),
        klv(b"GPSU", b"U", 16, time),
        klv(b"GPSP", b"S", 2, struct.pack(">H", round(dop * 100))),
        klv(b"SCAL", b"l", 4, *(struct.pack(">i", scale) for scale in GPS5_SCALE)),
        klv(b"GPS5", b"l", 20, *rows),
    )  # fmt: skip


def gps9(points: list[tuple[float, float, float]], fix: int = 3, dop: float = 1.5) -> bytes:
    rows = []
    for point in points:
        values = (*point, 0, 0, 8000, 3661.5, dop, fix)
        rows.append(struct.pack(">7i2H", *(round(v * s) for v, s in zip(values, GPS9_SCALE, strict=True))))
    return nested(
        b"STRM",
        klv(b"TYPE", b"c", 1, b"lllllllSS"),
        klv(b"SCAL", b"l", 4, *(struct.pack(">i", scale) for scale in GPS9_SCALE)),
        klv(b"GPS9", b"?", 32, *rows),
    )


def telemetry(payload: bytes = b"", offset: int = 0) -> bytes:
    """A track of one `gpmd` sample."""
    stbl = box(
        b"stbl",
        box(b"stsd", b"\0\0\0\0\0\0\0\1", box(b"gpmd", b"\0" * 8)),
        box(b"stsc", struct.pack(">IIIII", 0, 1, 1, 1, 1)),
        box(b"stsz", struct.pack(">IIII", 0, 0, 1, len(payload))),
        box(b"stco", struct.pack(">III", 0, 1, offset)),
    )
    return box(b"trak", box(b"mdia", box(b"minf", stbl)))


def test_gps5_is_the_median_of_samples_with_a_fix() -> None:
    lost = gps5([(0, 0, 0), (45, 90, 0)], fix=0)
    poor = gps5([(33.2, -117.9, 0)], dop=40)
    good = gps5([(33.10, -117.30, 10), (33.12, -117.32, 12), (33.15, -117.33, 19)])
    payloads = [nested(b"DEVC", part) for part in (lost, poor, good)]
    location = gpmf.track_location(payloads)
    assert location is not None
    assert (location.latitude_deg, location.longitude_deg) == pytest.approx((33.12, -117.32))
    assert location.altitude_m == pytest.approx(12)
    assert location.recorded_at == "2019-01-02T03:04:05Z"


def test_gps9_has_its_time_and_fix_in_each_sample() -> None:
    location = gpmf.track_location([nested(b"DEVC", gps9([(0, 0, 0)], fix=0), gps9([(-41.3, 174.8, 7)]))])
    assert location is not None
    assert (location.latitude_deg, location.longitude_deg) == pytest.approx((-41.3, 174.8))
    assert location.recorded_at == "2021-11-26T01:01:01Z"


def test_telemetry_without_a_fix_is_a_fault_and_without_gps_nothing() -> None:
    location = gpmf.track_location([nested(b"DEVC", gps5([(10, 20, 0)], fix=0))])
    assert location is not None
    assert "none of 1 GPS samples has a fix" in (location.fault or "")
    assert gpmf.track_location([nested(b"DEVC", klv(b"ACCL", b"s", 2, b"\0\1"))]) is None


def test_track_across_the_antimeridian() -> None:
    location = gpmf.track_location([gps5([(-17, 179.99, 0), (-17, -179.99, 0), (-17, -179.98, 0)])])
    assert location is not None
    assert location.longitude_deg == pytest.approx(-179.99)


@given(st.lists(st.tuples(LATITUDES, LONGITUDES, st.floats(-400, 8000)), min_size=1, max_size=9), st.booleans())
def test_gpmf_round_trip(points: list[tuple[float, float, float]], nine: bool) -> None:
    found = list(gpmf.samples(nested(b"DEVC", (gps9 if nine else gps5)(points))))
    stated = [(sample.latitude_deg, sample.longitude_deg, sample.altitude_m) for sample in found]
    assert np.allclose(stated, points, rtol=0, atol=1e-3)
    assert np.allclose(np.array(stated)[:, :2], np.array(points)[:, :2], rtol=0, atol=1e-7)
    assert {(sample.fix, sample.precision) for sample in found} == {(3, 1.5)}


@given(st.sampled_from("bBsSlLfdjJ"), st.data())
def test_gpmf_numbers_are_big_endian(kind: str, data: st.DataObject) -> None:
    letter = {
        "b": "i1",
        "B": "u1",
        "s": "i2",
        "S": "u2",
        "l": "i4",
        "L": "u4",
        "f": "f4",
        "d": "f8",
        "j": "i8",
        "J": "u8",
    }[kind]
    raw = np.frombuffer(data.draw(st.binary(min_size=24, max_size=24)), dtype=f">{letter}")
    width = raw.itemsize
    (entry,) = gpmf.entries(klv(b"TEST", kind.encode(), width, raw.tobytes()))
    assert np.array_equal(
        np.array(gpmf.numbers(entry)).ravel(),
        raw.astype(float) if letter[0] == "f" else raw,
        equal_nan=letter[0] == "f",
    )


def test_gpmf_fixed_point() -> None:
    (entry,) = gpmf.entries(klv(b"TEST", b"q", 4, struct.pack(">i", -3 << 15)))
    assert gpmf.numbers(entry) == [[-1.5]]


@given(st.binary(max_size=400))
def test_gpmf_garbage_never_crashes(garbage: bytes) -> None:
    gpmf.track_location([garbage, nested(b"DEVC", garbage), nested(b"DEVC", gps5([(1, 2, 3)])[:-3] + garbage)])


@settings(max_examples=200)
@given(st.data())
def test_gpmf_damage_never_crashes(data: st.DataObject) -> None:
    payload = bytearray(nested(b"DEVC", gps5([(1, 2, 3)]), gps9([(1, 2, 3)])))
    for _ in range(data.draw(st.integers(1, 8))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    location = gpmf.track_location([bytes(payload)])
    assert location is None or location.kind == "gpmf"


def test_telemetry_track_inside_a_movie(tmp_path: Path) -> None:
    payload = nested(b"DEVC", gps5([(47.5, 8.5, 400)]))
    udta = box(b"udta", xyz(b"+47.0+008.0/"))
    path = written(
        tmp_path / "a.mp4", FTYP, box(b"mdat", payload), box(b"moov", udta, telemetry(payload, len(FTYP) + 8))
    )
    found = read_locations(path)
    assert [location.kind for location in found] == ["gpmf", "quicktime"]
    assert (found[0].latitude_deg, found[0].longitude_deg) == (47.5, 8.5)


# --- photos ---


def photo(path: Path, gps: dict[int, Any], exif: dict[int, Any] | None = None) -> Path:
    tags = Image.Exif()
    tags[0x8825] = gps
    if exif:
        tags[0x8769] = exif
    if path.suffix == ".tif":  # an EXIF block is a small TIFF file
        path.write_bytes(tags.tobytes().removeprefix(b"Exif\0\0"))
    else:
        Image.new("RGB", (8, 8)).save(path, exif=tags)
    return path


def dms(value: float) -> tuple[float, float, float]:
    degrees, rest = divmod(abs(value) * 3600, 3600)
    return degrees, rest // 60, rest % 60


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize(("latitude", "longitude"), [(48.85, 2.29), (40.7, -74.01), (-33.86, 151.2), (-22.95, -43.21)])
def test_exif_hemispheres(tmp_path: Path, suffix: str, latitude: float, longitude: float) -> None:
    gps = {
        1: "N" if latitude > 0 else "S", 2: dms(latitude),
        3: "E" if longitude > 0 else "W", 4: dms(longitude), 5: b"\1", 6: 28.5,
    }  # fmt: skip
    location = read_location(photo(tmp_path / f"a.{suffix}", gps, {0x9003: "2019:03:04 05:06:07"}))
    assert location is not None
    assert (location.latitude_deg, location.longitude_deg) == pytest.approx((latitude, longitude), abs=1e-6)
    assert (location.kind, location.altitude_m, location.recorded_at) == (
        "exif",
        -28.5,
        "2019-03-04T05:06:07",
    )


@pytest.mark.parametrize(
    ("gps", "reason"),
    [
        ({2: (10, 0, 0), 3: "E", 4: (20, 0, 0)}, "GPSLatitudeRef is 'missing'"),
        ({1: "N", 2: (10, 0, 0), 4: (20, 0, 0)}, "GPSLongitudeRef is 'missing'"),
        ({1: "N", 2: (10, 0, 0), 3: "?", 4: (20, 0, 0)}, "not E or W"),
        ({1: "N", 2: (95, 0, 0), 3: "E", 4: (20, 0, 0)}, "outside -90..90"),
        ({1: "N", 2: (10, 75, 0), 3: "E", 4: (20, 0, 0)}, "not degrees, minutes, seconds"),
        ({1: "N", 2: (0, 0, 0), 3: "E", 4: (0, 0, 0)}, "null island"),
        ({1: "N", 2: (10, 0, 0), 3: "E"}, "no GPSLongitude"),
    ],
)
def test_exif_is_refused_rather_than_guessed(tmp_path: Path, gps: dict[int, Any], reason: str) -> None:
    path = photo(tmp_path / "a.jpg", gps)
    assert read_location(path) is None
    assert reason in (read_locations(path)[0].fault or "")


def test_exif_zero_over_zero(tmp_path: Path) -> None:
    path = photo(tmp_path / "a.jpg", {1: "N", 2: (10, 0, 0), 3: "E", 4: (20, 7 / 11, 0)})
    data = path.read_bytes()
    ratio = struct.pack(">II" if b"Exif\0\0MM" in data else "<II", 7, 11)
    assert data.count(ratio) == 1
    path.write_bytes(data.replace(ratio, bytes(8)))
    assert read_location(path) is None
    assert "not a coordinate" in (read_locations(path)[0].fault or "")


def test_photo_times(tmp_path: Path) -> None:
    gps = {1: "N", 2: (10, 0, 0), 3: "E", 4: (20, 0, 0), 7: (3, 4, 5)}
    cases = [
        ({0x9003: "2019:03:04 05:06:07", 0x9011: "+02:00"}, "2019:03:04", "2019-03-04T05:06:07+02:00"),
        ({0x9003: "2019:03:04 05:06:07"}, "2019:03:04", "2019-03-04T03:04:05Z"),
        ({0x9003: "2019:03:09 05:06:07"}, "2019:03:04", "2019-03-09T05:06:07"),  # a fix of five days before
    ]
    for number, (exif, day, expected) in enumerate(cases):
        location = read_location(photo(tmp_path / f"{number}.jpg", gps | {29: day}, exif))
        assert location is not None
        assert location.recorded_at == expected


def flir(latitude: float, longitude: float, letters: bytes) -> bytes:
    record = struct.pack("<I4s2s2s4xddf4x", 1, b"\0" * 4, letters[:1], letters[1:], latitude, longitude, 9.0)
    header = b"FFF\0".ljust(0x14, b"\0") + struct.pack(">III", 100, 64, 1)
    entry = struct.pack(">HHIIII12x", 0x2B, 0, 0, 0, 96, len(record))
    body = b"FLIR\0\1\0\0" + header.ljust(64, b"\0") + entry + record
    return b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body


@pytest.mark.parametrize(
    ("longitude", "letter", "usable"), [(20.5, b"E", True), (-20.5, b"W", True), (20.5, b"W", False)]
)
def test_flir_block(tmp_path: Path, longitude: float, letter: bytes, usable: bool) -> None:
    path = tmp_path / "a.jpg"
    Image.new("RGB", (8, 8)).save(path)
    data = path.read_bytes()
    path.write_bytes(data[:2] + flir(10.25, longitude, b"N" + letter) + data[2:])
    (location,) = read_locations(path)
    assert (location.kind, location.latitude_deg, location.longitude_deg) == ("flir", 10.25, longitude)
    assert (location.fault is None) == usable


def test_xmp_forms() -> None:
    packet = b'<rdf:Description exif:GPSLatitude="53,21.5679S" exif:GPSLongitude="6,15,29.5W"/>'
    (location,) = xmp_locations(packet)
    assert (location.latitude_deg, location.longitude_deg) == pytest.approx((-53.359465, -6.2581944), abs=1e-6)
    packet = b"<drone-dji:GpsLatitude>+22.5</drone-dji:GpsLatitude><drone-dji:GpsLongtitude>-113.9<"
    (location,) = xmp_locations(packet)
    assert (location.latitude_deg, location.longitude_deg) == (22.5, -113.9)
    (location,) = xmp_locations(b'exif:GPSLatitude="53.2" exif:GPSLongitude="6.1"')
    assert location.fault is not None


# --- sounds ---


def sound(path: Path) -> Path:
    import av

    with av.open(str(path), "w") as out:
        codec = {".mp3": "libmp3lame", ".flac": "flac"}.get(path.suffix, "pcm_s16le")
        stream = cast(Any, out.add_stream(codec, rate=16_000))
        noise = np.random.default_rng(0).integers(-3000, 3000, (1, 16_000)).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(noise, format="s16", layout="mono")
        frame.sample_rate = 16_000
        from av.audio.resampler import AudioResampler

        shaper = AudioResampler(stream.format, "mono", 16_000, frame_size=stream.codec_context.frame_size or 0)
        for part in [*shaper.resample(frame), *shaper.resample(None)]:
            out.mux(stream.encode(part))
        out.mux(stream.encode(None))
    return path


def test_xeno_canto_comment_in_an_mp3(tmp_path: Path) -> None:
    from mutagen.id3 import COMM, ID3, TIT2

    path = sound(tmp_path / "XC1.mp3")
    tags = ID3()
    place = "Lokat (Little Valley), Jammu (34.3728, -74.0325), India"
    text = f"XC1 © A. B. // {place} // 120m // 5:58h, 2019-06-28 // call (1.5, 2.5)"
    tags.add(COMM(encoding=3, lang="eng", desc="", text=[text]))
    tags.add(TIT2(encoding=3, text=["Dunnock"]))
    tags.save(path)
    location = read_location(path)
    assert location is not None
    assert (location.latitude_deg, location.longitude_deg, location.altitude_m) == (34.3728, -74.0325, 120)
    assert (location.kind, location.recorded_at) == ("id3", "2019-06-28T05:58:00")


@pytest.mark.parametrize(
    "text",
    [
        "take (1, 2)",
        "see (12.5, 13.5) for details",
        "XC5 © A // somewhere, France // 9m // 07:00h, 2020-01-01 // x",
        "-12.5 dB",
    ],
)
def test_comments_without_coordinates_give_none(text: str) -> None:
    assert comment_location("id3", text) is None


def test_generic_tags() -> None:
    def only(texts: dict[str, str]) -> tuple[float, float] | None:
        found, _ = tag_locations("vorbis", texts)
        return (found[0].latitude_deg, found[0].longitude_deg) if found else None

    assert only({"TXXX:GPS_Latitude": "51.5", "TXXX:GPS_Longitude": "-0.1"}) == (51.5, -0.1)
    assert only({"LOCATION": "+51.5-000.1/"}) == (51.5, -0.1)
    assert only({"geo": "51.5;-0.1"}) == (51.5, -0.1)
    assert only({"comment": "dawn, lat: 51.5, lon: -0.1"}) == (51.5, -0.1)
    assert only({"location": "Berlin, 10115"}) is None
    assert only({"title": "51.5, -0.1", "bpm": "120"}) is None


def test_vorbis_and_guano(tmp_path: Path) -> None:
    from mutagen.flac import FLAC

    path = sound(tmp_path / "a.flac")
    flac = FLAC(path)
    flac["LATITUDE"], flac["LONGITUDE"], flac["DATE"] = "-1.5", "36.5", "2020-05-06"
    flac.save()
    location = read_location(path)
    assert location is not None
    assert (location.kind, location.latitude_deg, location.recorded_at) == ("vorbis", -1.5, "2020-05-06")
    path = sound(tmp_path / "a.wav")
    guano = b"GUANO|Version: 1.0\nTimestamp: 2023-07-01T21:30:00+01:00\nLoc Position: 52.25 -1.5\n"
    path.write_bytes(path.read_bytes() + struct.pack("<4sI", b"guan", len(guano)) + guano)
    location = read_location(path)
    assert location is not None
    assert (location.kind, location.latitude_deg, location.longitude_deg) == ("guano", 52.25, -1.5)
    assert location.recorded_at == "2023-07-01T21:30:00+01:00"


# --- beside the file ---


def gpx(path: Path, *points: tuple[float, float, str]) -> None:
    body = "".join(f'<trkpt lat="{lat}" lon="{lon}"><time>{time}</time></trkpt>' for lat, lon, time in points)
    path.write_text(f'<gpx version="1.1" creator="x"><trk><trkseg>{body}</trkseg></trk></gpx>')


def test_gpx_at_the_recording_time(tmp_path: Path) -> None:
    gpx(tmp_path / "a.gpx", (10, 20, "2021-05-06T07:00:00Z"), (14, 24, "2021-05-06T08:00:00Z"))
    path = written(tmp_path / "a.mp4", FTYP, box(b"moov", mvhd(datetime(2021, 5, 6, 7, 15, tzinfo=UTC))))
    location = read_location(path)
    assert location is not None
    assert (location.kind, location.latitude_deg, location.longitude_deg) == ("gpx", 11, 21)
    written(path, FTYP, box(b"moov", mvhd(datetime(2021, 5, 7, tzinfo=UTC))))
    assert "does not cover" in (read_locations(path)[0].fault or "")


def test_gpx_without_a_recording_time(tmp_path: Path) -> None:
    path = sound(tmp_path / "a.wav")
    gpx(tmp_path / "a.gpx", (10, 179.999, "2021-05-06T07:00:00Z"), (10, -179.999, "2021-05-06T07:01:00Z"))
    location = read_location(path)
    assert location is not None
    assert abs(location.longitude_deg) == pytest.approx(180, abs=1e-6)
    gpx(tmp_path / "a.gpx", (10, 20, "2021-05-06T07:00:00Z"), (12, 20, "2021-05-06T09:00:00Z"))
    assert "strays 111 km" in (read_locations(path)[0].fault or "")
    (tmp_path / "a.gpx").write_text("<gpx")
    assert "cannot be read" in (read_locations(path)[0].fault or "")


def test_table_of_the_folder(tmp_path: Path) -> None:
    path = sound(tmp_path / "a.wav")
    (tmp_path / "metadata.csv").write_text("file_name;Latitude;LON;date\nb.wav;1;2;\na.wav;3.5;4.5;2020-02-03\n")
    location = read_location(path)
    assert location is not None
    assert (location.kind, location.latitude_deg, location.longitude_deg) == ("csv", 3.5, 4.5)
    (tmp_path / "index.csv").write_text("path,lat,lon\nx/a.wav,1,2\ny/a.wav,3,4\n")
    found = read_locations(path)
    assert "differ" in (found[-1].fault or "")
    assert read_location(path) is None


def test_a_clip_of_ours_has_no_location(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mp4", np.zeros((2, 32, 32, 3), np.uint8), 2, np.zeros(16_000, np.float32), 16_000)
    assert read_locations(tmp_path / "a.mp4") == []


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from([
        b"", b"\xff\xd8\xff\xe1\0\x20Exif\0\0II*\0", b"RIFF\0\0\0\0WAVE", b"ID3\4\0\0\0\0\1\0",
        b"II*\0\x08\0\0\0", b"OggS", b"RIFF\0\0\0\0WEBP", b"\x89PNG\r\n\x1a\n",
    ]),
    st.binary(max_size=300),
)  # fmt: skip
def test_garbage_files_never_crash(tmp_path_factory: pytest.TempPathFactory, head: bytes, tail: bytes) -> None:
    path = tmp_path_factory.mktemp("garbage") / "a.bin"
    path.write_bytes(head + tail)
    assert all(location.fault for location in read_locations(path) if math.isnan(location.latitude_deg))


# --- real files ---


@pytest.fixture
def mirror() -> Path:
    folder = os.environ.get("AVGEO_MIRROR")
    if not folder:
        pytest.skip("AVGEO_MIRROR names no folder of real files")
    return Path(folder)


@pytest.mark.parametrize(
    ("name", "latitude", "longitude", "kind", "time"),
    [
        ("karma.mp4", 33.125, -117.331, "gpmf", "2017-04-17T19:2"),
        ("max-heromode.mp4", 33.127, -117.327, "gpmf", "2019-11-18T23:4"),
        ("issue-515-java.mp4", 52.369, 6.676, "3gpp", "2020-11-20T14:04:36Z"),
    ],
)
def test_real_videos(mirror: Path, name: str, latitude: float, longitude: float, kind: str, time: str) -> None:
    location = read_location(mirror / "video" / name)
    assert location is not None
    assert (location.latitude_deg, location.longitude_deg) == pytest.approx((latitude, longitude), abs=0.001)
    assert location.kind == kind
    assert (location.recorded_at or "").startswith(time)


def test_real_photos(mirror: Path) -> None:
    # The degrees, minutes and seconds in the files, as read from their raw rationals.
    expected = {
        "apple-iphone-5": ((47, 37.63, 0), (-122, 20.24, 0)),
        "fujifilm-finepixs1pro-1": ((54, 59.38, 0), (-1, 54.85, 0)),
        "nexus-4": ((51, 33, 44.8764), (-0.0, 4, 38.3959)),
        "nokia-lumia-800": ((53, 21, 34.074), (-6, 15, 29.633)),
        "olympus-fe230-x790": ((50, 57, 417772811 / 16777216), (-118, 6, 439395287 / 16777216)),
        "samsung-sm-n900a-galaxy-note-3": ((36, 7, 27.322), (-115, 10, 11.5264)),
    }
    for name, angles in expected.items():
        pair = [math.copysign(abs(d) + m / 60 + s / 3600, d) for d, m, s in angles]
        location = read_location(mirror / "photo" / f"{name}.jpg")
        assert location is not None, name
        assert (location.latitude_deg, location.longitude_deg) == pytest.approx(pair, abs=1e-8), name
    (flir_photo,) = read_locations(mirror / "photo" / "flir-iphone-device.jpg")
    assert (flir_photo.latitude_deg, flir_photo.longitude_deg) == pytest.approx((34.0754, 118.2543), abs=1e-3)
    assert "hemisphere W" in (flir_photo.fault or "")


def test_real_xeno_canto(mirror: Path) -> None:
    with open(mirror / "xeno_canto" / "index.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) >= 30
    for row in rows:
        location = next(item for item in read_locations(mirror / row["path"]) if item.kind == "id3")
        assert location.fault is None
        assert (location.latitude_deg, location.longitude_deg) == (
            float(row["latitude"]),
            float(row["longitude"]),
        )
        assert location.recorded_at is not None


def test_a_file_called_like_an_address_opens_no_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.2)
        path = Path(f"http:/127.0.0.1:{listener.getsockname()[1]}/x.mkv")
        path.parent.mkdir(parents=True)
        path.write_bytes(b"\x1aE\xdf\xa3 no Matroska")
        (found,) = sound_locations(path)[0]
        assert found.fault is not None and "tags cannot be read" in found.fault
        with pytest.raises(TimeoutError):
            listener.accept()


def test_times_are_bounded_by_fixed_days() -> None:
    times = ("1994-12-31 00:00:00", "1995-01-01 00:00:00", "2099-12-31 23:59:59", "2100-01-01 00:00:00")
    assert [parse_time(text) for text in times] == [None, "1995-01-01T00:00:00", "2099-12-31T23:59:59", None]


def test_boxes_without_end_are_not_all_followed(tmp_path: Path) -> None:
    head = struct.pack(">I4s", 16, b"ftyp") + b"isom\0\0\0\0"
    cut = struct.pack(">I4s", 1000, b"mdat")
    file = tmp_path / "boxes.mp4"
    file.write_bytes(head + struct.pack(">I4s", 8, b"free") * 1000 + cut)
    assert _bytes_beyond(file) == 992
    file.write_bytes(head + struct.pack(">I4s", 8, b"free") * 100_000 + cut)
    assert _bytes_beyond(file) == 0
