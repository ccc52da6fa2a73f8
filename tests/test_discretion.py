"""Coarse answers hold nothing finer than asked for, and voices alone are not located."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from soundfiles import write

from avgeo.curate import CurateError
from avgeo.curate.privacy import coarsen
from avgeo.detect import Event
from avgeo.discretion import SPOKEN, WITHHELD, coarsened, refusal
from avgeo.hints import read_hint, read_hints
from avgeo.locate import Posterior, locate
from avgeo.sphere import distance_km, to_degrees
from avgeo.telling import located_lines
from avgeo.trail import audit_trail

DEAF = ("birds", "mains hum", "speech")
HINTS = ["near=52.5163,13.3777,40", "sun=elevation=34±3,time=2026-05-01T10:00Z", "language=de", "country=DE"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second of silence whose name tells a place."""
    path = tmp_path_factory.mktemp("clip") / "gate 52.51628N 13.37771E.wav"
    write(path, np.zeros(16_000), 16_000)
    return path


@pytest.fixture(scope="module")
def fine(clip: Path) -> Posterior:
    found = locate(clip, hints=read_hints(HINTS), without=DEAF)
    place = {"latitude_deg": 52.51628, "longitude_deg": 13.37771, "altitude_m": 34.5, "recorded_at": "2026-05-01T10:00",
             "kind": "exif", "fault": None}  # fmt: skip
    return replace(found, metadata_location=place, answer='{"latitude": 52.5, "longitude": 13.4}')


def points_of(found: Posterior) -> list[tuple[float, float]]:
    """Every pair of coordinates that JSON and GeoJSON tell as points."""
    told: dict[str, Any] = found.as_dict()
    pairs = [told["estimate"], *told["places"], told["metadata_location"]]
    points = [(pair["latitude_deg"], pair["longitude_deg"]) for pair in pairs]
    for feature in found.geojson()["features"]:
        kind, coordinates = feature["geometry"]["type"], feature["geometry"]["coordinates"]
        if kind in ("Point", "MultiPoint"):
            points += [(y, x) for x, y in ([coordinates] if kind == "Point" else coordinates)]
    return points


@pytest.mark.parametrize("km", [25.0, 300.0, 2000.0])
def test_every_point_is_the_middle_of_a_coarse_cell(fine: Posterior, km: float) -> None:
    points = points_of(coarsened(fine, km))
    assert len(points) > 1000
    for latitude, longitude in points:
        at = coarsen(latitude, longitude, km)
        assert np.allclose(at[:2], (latitude, longitude), atol=1e-3)
    assert not all(np.allclose(coarsen(*at, km)[:2], at, atol=1e-3) for at in points_of(fine))


@pytest.mark.parametrize("km", [300.0, 2000.0])
def test_the_density_is_even_over_coarse_cells_and_keeps_their_mass(fine: Posterior, km: float) -> None:
    coarse = coarsened(fine, km)
    area = fine.cells.cells.area.numpy()
    latitude, longitude = (angle.tolist() for angle in to_degrees(fine.cells.cells.points))
    cells: dict[tuple[float, float], list[int]] = {}
    for cell, at in enumerate(zip(latitude, longitude, strict=True)):
        cells.setdefault(coarsen(*at, km)[:2], []).append(cell)
    before, after = np.exp(fine.cells.log_prob.numpy()), np.exp(coarse.cells.log_prob.numpy())
    for members in cells.values():
        assert np.ptp(after[members]) == 0
        assert (after * area)[members].sum() == pytest.approx((before * area)[members].sum(), rel=1e-9)
    assert coarse.entropy_bits > fine.entropy_bits
    assert coarse.cells.total == pytest.approx(1)


def test_no_text_tells_the_place(fine: Posterior) -> None:
    """Neither JSON, nor the terminal's lines, nor the audit trail; the fine ones do."""
    coarse = coarsened(fine, 300)
    for found, hidden in ((coarse, True), (fine, False)):
        text = "\n".join([json.dumps(found.as_dict()), *located_lines(found), json.dumps(audit_trail(found))])
        for told in ("52.51", "13.37", "52.5163", "13.3777", "34.5", "elevation=34", "country=DE", "T10:00"):
            assert (told in text) is not hidden, told
    assert coarse.answer == WITHHELD
    assert coarse.metadata_location is not None and coarse.metadata_location["altitude_m"] is None
    assert {item.label for item in coarse.evidence} >= {f"near ({WITHHELD})", "spoken language: German"}
    assert all(item.shift_km % 300 == 0 and item.bits == round(item.bits, 1) for item in coarse.evidence)
    trail = audit_trail(coarse)
    assert trail["result"]["density_sha256"] is None
    assert [row["likelihood_sha256"] is None for row in trail["taken"]] == [True, True, False, True]


def test_coarse_twice_is_coarse_once(fine: Posterior) -> None:
    once = coarsened(fine, 300)
    twice = coarsened(once, 300)
    # the same mean, summed again, may differ in its last bit
    told = [json.loads(json.dumps(one.as_dict()), parse_float=lambda x: round(float(x), 12)) for one in (twice, once)]
    assert told[0] == told[1]
    assert torch.allclose(twice.cells.log_prob, once.cells.log_prob)


def test_the_estimate_moves_less_than_a_cell(fine: Posterior) -> None:
    coarse = coarsened(fine, 300)
    assert fine.fused is not None and coarse.fused is not None
    assert float(distance_km(fine.fused.estimate, coarse.fused.estimate)) <= 300


@pytest.mark.parametrize("km", [0, -5, 5001, float("nan")])
def test_sizes_that_are_none_are_told(fine: Posterior, km: float) -> None:
    with pytest.raises(CurateError, match="no cells of this size"):
        coarsened(fine, km)


# --- voices ---

SPEECH = Event("speech", "someone speaks", 0.9, 0.0, 5.0)
LANGUAGE = Event("spoken language", "German", 0.8)
BIRD = Event("birds", "Eurasian Blackbird", 0.7, 0.0, 3.0)


@pytest.mark.parametrize(
    ("events", "refused"),
    [
        ([], False),
        ([SPEECH], True),
        ([LANGUAGE], True),
        ([SPEECH, LANGUAGE], True),
        ([SPEECH, read_hint("language=de").event], True),
        ([read_hint("language=de").event], False),  # nobody is heard: the analyst asks about a language
        ([SPEECH, BIRD], False),
        ([SPEECH, LANGUAGE, read_hint("driving=left").event], False),
    ],
)
def test_voices_alone_are_refused(events: list[Event], refused: bool) -> None:
    told = refusal(events, has_sight=False)
    assert (told is not None) is refused
    assert told is None or ("agreed" in told and "\n" not in told)


@settings(max_examples=100)
@given(
    st.lists(st.sampled_from([SPEECH, LANGUAGE, BIRD, Event("mains hum", "50 Hz"), read_hint("language=de").event])),
    st.booleans(),
    st.booleans(),
)
def test_refusal_is_the_rule_of_the_page(events: list[Event], has_sight: bool, speakers_agreed: bool) -> None:
    """Whatever the order: voices, nothing else, no picture, nobody's consent."""
    told = refusal(events, has_sight=has_sight, speakers_agreed=speakers_agreed)
    heard = {event.detector for event in events}
    rule = bool(heard & SPOKEN) and heard <= SPOKEN | {"hint"} and not has_sight and not speakers_agreed
    assert (told is not None) == rule
    assert refusal(events[::-1], has_sight=has_sight, speakers_agreed=speakers_agreed) == told
