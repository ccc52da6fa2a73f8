"""Drones write where they are as subtitles: every layout, the first fix, and films' dialogue is no place."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avgeo.curate.metadata import read_locations
from avgeo.curate.sidecar import sidecars, subtitle_locations

CUE = "{n}\n00:00:0{n},000 --> 00:00:0{n},033\n{text}\n\n"
LAYOUTS = {
    # Mavic 2, Air 2S, Mini 3 and later; above sea level is stated
    "keyed": (
        '<font size="28">SrtCnt : 1, DiffTime : 33ms\n2023-08-15 09:18:24.655\n[iso : 200] [ev : 1.3] '
        "[latitude: 22.532100] [longitude: 113.936500] [rel_alt: 1.300 abs_alt: 19.624] [ct : 5490] </font>",
        (22.5321, 113.9365, 19.624, "2023-08-15T09:18:24"),
    ),
    # early firmware spells it wrong, and its altitude does not say above what
    "misspelt": (
        "[iso : 110] [latitude : 22.532100] [longtitude : 113.936500] [altitude: 55.0]",
        (22.5321, 113.9365, None, None),
    ),
    "commas in the clock": (
        '<font size="36">SrtCnt : 1, DiffTime : 16ms\n2023-01-06 18:56:48,380,821\n[focal_len : 240] '
        "[latitude: -33.85] [longitude: 151.21] [altitude: 0.000000] </font>",
        (-33.85, 151.21, None, "2023-01-06T18:56:48"),
    ),
    # Phantom 4, Mavic Pro: longitude first; the third number counts satellites
    "legacy": (
        "HOME(149.0251,-20.2532) 2017.08.05 14:11:51\nGPS(149.0260,-20.2533,16) BAROMETER:1.9\nISO:100 Fnum:2.2",
        (-20.2533, 149.0260, None, "2017-08-05T14:11:51"),
    ),
    "compact": (
        "F/2.8, SS 206, ISO 100, EV 0, GPS (113.86, 22.53, 19), D 0.2m, H 1.5m, H.S 0.00m/s, V.S 0.00m/s",
        (22.53, 113.86, None, None),
    ),
    "compact, both small": (
        "F/3.5, SS 1000, ISO 100, EV 0, GPS (8.6499, 53.1665, 18), D 24.26m, H 6.00m",
        (53.1665, 8.6499, None, None),
    ),
    # Matrice 300: latitude first, metres last
    "metres": (
        "2022.06.21 16:06:17\nGPS(36.6146,-6.1120,0.0M) BAROMETER:0.3M",
        (36.6146, -6.1120, None, "2022-06-21T16:06:17"),
    ),
    "latitude first by its range": ("GPS (-33.8688, 151.2093, 19)", (-33.8688, 151.2093, None, None)),
}


def written(folder: Path, *texts: str, name: str = "DJI_0001.SRT", newline: str = "\n", mark: str = "") -> Path:
    text = mark + "".join(CUE.format(n=number, text=text) for number, text in enumerate(texts, 1))
    (folder / name).write_bytes(text.replace("\n", newline).encode())
    return folder / "DJI_0001.MP4"


@pytest.mark.parametrize(("newline", "mark"), [("\n", ""), ("\r\n", "\ufeff")])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(tmp_path: Path, layout: str, newline: str, mark: str) -> None:
    text, (latitude_deg, longitude_deg, altitude_m, recorded_at) = LAYOUTS[layout]
    (found,) = subtitle_locations(written(tmp_path, text, newline=newline, mark=mark))
    assert (found.kind, found.fault) == ("srt", None)
    assert (found.latitude_deg, found.longitude_deg) == (latitude_deg, longitude_deg)
    assert (found.altitude_m, found.recorded_at) == (altitude_m, recorded_at)


def test_the_first_fix_counts_and_its_own_clock(tmp_path: Path) -> None:
    keyed = "2024-05-0{} 10:00:00.000\n[latitude: {}] [longitude: {}]"
    clip = written(
        tmp_path, keyed.format(1, 0.0, 0.0), keyed.format(2, "0.000000", "0.000000"), keyed.format(3, 47.5, 8.5),
        keyed.format(4, 48.5, 9.5),
    )  # fmt: skip
    (found,) = subtitle_locations(clip)
    assert (found.latitude_deg, found.longitude_deg, found.recorded_at) == (47.5, 8.5, "2024-05-03T10:00:00")


def test_no_fix_at_all_is_said(tmp_path: Path) -> None:
    (found,) = subtitle_locations(written(tmp_path, "GPS(0.0000,0.0000,0) BAROMETER:1.0", "GPS(0,0,0)"))
    assert found.fault is not None and "null island" in found.fault
    (found,) = subtitle_locations(written(tmp_path, "[latitude: 222.5] [longitude: 13.1]"))
    assert found.fault is not None and "outside" in found.fault


@pytest.mark.parametrize(
    "words",
    [
        "I love you.\n- I know.",
        "Our GPS (the old one) says 12, 13, 14.",
        "He was born at latitude 51.5, longitude -0.1.",
        "HOME(149.0251,-20.2532)",
        "[latitude: high] [longitude: low]",
        "GPS(12.5)",
        "",
    ],
)
def test_dialogue_is_no_place(tmp_path: Path, words: str) -> None:
    assert subtitle_locations(written(tmp_path, words, words)) == []


def test_which_subtitles_belong(tmp_path: Path) -> None:
    text = LAYOUTS["keyed"][0]
    clip = written(tmp_path, text, name="DJI_0001.srt")
    assert len(subtitle_locations(clip)) == 1 and tmp_path / "DJI_0001.srt" in sidecars(clip)
    assert subtitle_locations(tmp_path / "DJI_0002.MP4") == []
    assert subtitle_locations(tmp_path / "DJI_0001.srt") == []  # of itself it says nothing


def test_they_are_among_a_files_statements(tmp_path: Path) -> None:
    clip = written(tmp_path, LAYOUTS["keyed"][0])
    clip.write_bytes(b"no medium, but read_locations looks beside it")
    assert [location.kind for location in read_locations(clip) if location.fault is None] == ["srt"]


def test_odd_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip, track = tmp_path / "DJI_0001.MP4", tmp_path / "DJI_0001.SRT"
    for content in (b"", b"\xff\xfe\x00\x81" * 1000, b"1\n" * 1000, b"GPS (" + b"9" * 100_000, b"[latitude: " * 50_000):
        track.write_bytes(content)
        assert subtitle_locations(clip) == []
    monkeypatch.setattr("avgeo.curate.sidecar._MAX_BYTES", 1 << 20)
    track.write_bytes(bytes((1 << 20) + 1))
    (found,) = subtitle_locations(clip)
    assert found.fault is not None and "larger than 1 MiB" in found.fault and math.isnan(found.latitude_deg)


@settings(max_examples=50, deadline=None)
@given(
    st.floats(-90, 90), st.floats(-180, 180),
    st.sampled_from(["[latitude: {0:.6f}] [longitude: {1:.6f}]", "[longtitude: {1:.6f}] [latitude: {0:.6f}]"]),
)  # fmt: skip
def test_keyed_values_come_back(tmp_path_factory: pytest.TempPathFactory, lat: float, lon: float, layout: str) -> None:
    (found,) = subtitle_locations(written(tmp_path_factory.mktemp("srt"), layout.format(lat, lon)))
    assert abs(found.latitude_deg - lat) < 1e-6 and abs(found.longitude_deg - lon) < 1e-6
