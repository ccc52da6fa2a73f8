"""Detectors: the grid they speak of, what they hear, and what that is made to say."""

from __future__ import annotations

import math

import numpy as np
import pytest
import soundfiles
import torch

from avgeo.clips import ClipError, probe
from avgeo.detect import DetectError, EarthGrid, Event, earth_grid
from avgeo.detect import gather as gathering
from avgeo.detect.birds import MOST, Birds, named, trusted
from avgeo.detect.calibration import calibrated
from avgeo.detect.gather import gather
from avgeo.detect.hum import RATE_HZ, Hum, heard_in, mains_likelihood
from avgeo.detect.litert import missing
from avgeo.detect.prior import log_prior
from avgeo.flow.cells import even_cells
from avgeo.locate import LocateError, locate
from avgeo.sphere import from_degrees
from avgeo.telling import located_lines

GRID = EarthGrid(even_cells(2500))
BIRDS = pytest.mark.skipif(missing() is not None, reason="the extra `detectors` is not installed")


def cell(latitude_deg: float, longitude_deg: float, grid: EarthGrid = GRID) -> int:
    place = from_degrees(torch.tensor(float(latitude_deg)), torch.tensor(float(longitude_deg))).double().numpy()
    return int((grid.points @ place).argmax())


def hum(mains_hz: float, seconds: float = 12, level: float = 0.5) -> np.ndarray:
    time = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    lines = sum(np.sin(2 * np.pi * mains_hz * k * time + k) / k for k in range(1, 9))
    return 0.1 * (level * lines + 0.3 * np.random.default_rng(0).standard_normal(len(time)))


# --- the grid ---


def test_cells_know_their_country_and_whether_there_is_land():
    grid = earth_grid()
    assert len(grid) == pytest.approx(40_000, rel=0.01) and grid is earth_grid()
    places = {"FR": (47, 2), "BR": (-10, -55), "AU": (-25, 135), "JP": (36, 138), "": (0, -30)}
    for code, (latitude, longitude) in places.items():
        at = cell(latitude, longitude, grid)
        assert grid.country[at] == code and grid.land[at] == bool(code)
        assert abs(grid.latitude_deg[at] - latitude) < 1 and abs(grid.longitude_deg[at] - longitude) < 1
    assert grid.country[cell(1.3, 103.8, grid)] in ("SG", "MY")  # islands by their cities
    assert grid.country[cell(32.65, -16.9, grid)] == "PT"
    assert 0.3 < grid.land.mean() < 0.36 and grid.land[grid.country != ""].all()
    np.testing.assert_allclose(np.exp(grid.log_area).sum(), 4 * math.pi)
    np.testing.assert_allclose(np.exp(grid.log_area), np.exp(grid.log_area[0]))


def test_the_prior_is_a_density_that_likes_land_and_people():
    density = np.exp(log_prior(GRID))
    assert (density * np.exp(GRID.log_area)).sum() == pytest.approx(1)
    delhi, sahara, ocean = (density[cell(*place)] for place in ((28.6, 77.2), (24, 8), (0, -30)))
    assert delhi > 2 * sahara > 20 * ocean > 0


# --- mains hum ---


@pytest.mark.parametrize("mains_hz", [50, 60])
def test_hum_is_told_from_its_harmonics(mains_hz):
    for off in (0.999, 1, 1.001):
        (event,) = heard_in(hum(mains_hz * off))
        assert event.label == f"{mains_hz} Hz" and event.details["mains_hz"] == mains_hz
        assert all(line % mains_hz == 0 for line in event.details["lines_hz"])


def test_what_is_no_hum_is_not_heard():
    time = np.arange(12 * RATE_HZ) / RATE_HZ
    noise = np.random.default_rng(1).standard_normal(len(time))
    assert heard_in(noise) == [] == heard_in(np.zeros(12 * RATE_HZ))
    assert heard_in(np.sin(2 * np.pi * 50 * time) + 0.1 * noise) == []  # one line is a note
    assert heard_in(hum(50, seconds=3)) == []  # too short to tell
    assert heard_in(hum(55)) == []
    assert heard_in(hum(50) + hum(60)) == []  # both: a mixture of recordings


def test_hum_says_which_countries():
    chance = np.exp(mains_likelihood(60, 0.1, GRID))
    found = {name: chance[cell(*at)] for name, at in {"US": (40, -100), "FR": (47, 2), "sea": (0, -30)}.items()}
    assert found == {"US": pytest.approx(0.9), "FR": pytest.approx(0.1), "sea": pytest.approx(0.5)}
    assert chance[cell(36, 138)] == pytest.approx(0.5)  # Japan has both
    np.testing.assert_allclose(chance + np.exp(mains_likelihood(50, 0.1, GRID)), 1)
    event = Event("mains hum", "60 Hz", details={"mains_hz": 60})
    expected = mains_likelihood(60, calibrated("mains hum", "false_alarm"), GRID)
    np.testing.assert_array_equal(Hum().likelihood(event, GRID), expected)


# --- birds ---


def test_scores_are_trusted_up_to_the_false_alarms():
    q = [trusted(score, 1.0, 0.05) for score in (0.0, 0.1, 0.5, 0.9, 1.0)]
    assert q == sorted(q) and q[0] < 1e-3 and q[-1] == pytest.approx(0.95, abs=1e-3)
    assert trusted(0.5, 3.0, 0.1) == pytest.approx(0.45)


@BIRDS
def test_the_surest_window_names_a_species():
    logits = np.full((4, 6522), -9.0, np.float32)
    logits[1, 100], logits[3, 100], logits[2, 7] = 0.5, 3.0, 1.0
    first, second = named(logits)
    assert (first.start_s, first.end_s, first.details["class"]) == (9.0, 12.0, 100)
    assert [window["start_s"] for window in first.details["windows"]] == [3.0, 9.0]
    assert first.score == pytest.approx(1 / (1 + math.exp(-3))) and second.start_s == 6.0
    assert len(named(np.full((1, 6522), 3.0, np.float32))) == MOST and named(logits - 20) == []


@BIRDS
def test_a_bird_is_heard_where_it_lives(mirror):
    birds = Birds()
    event = birds.detect(mirror / "xeno_canto" / "XC440134.mp3")[0]
    assert event.details["species"] == "Opisthocomus hoazin" and event.score is not None and event.score > 0.9
    values = birds.likelihood(event, GRID)
    amazon, europe, sea = (values[cell(*at)] for at in ((-4, -65), (50, 10), (0, -30)))
    assert amazon > europe + 3 and np.isfinite(values).all()
    assert min(europe, sea, values.min()) >= math.log(calibrated("birds", "false_alarm"))
    siren = Event(
        "birds", "Siren", 0.9, details={"class": next(i for i, (a, _) in enumerate(_labels()) if a == "Siren")}
    )
    assert not birds.likelihood(siren, GRID).any()


@BIRDS
def test_a_second_of_song_is_enough_to_ask(mirror):
    assert Birds().logits(mirror / "xeno_canto" / "XC474563.mp3").shape == (1, 6522)


def _labels():
    from avgeo.detect.litert import labels

    return labels()


# --- all of them ---


@pytest.fixture
def humming(tmp_path):
    return soundfiles.write(tmp_path / "hum.wav", np.float32(hum(60)), RATE_HZ, "pcm_s16le", "mono")


@pytest.fixture
def no_birds(monkeypatch):
    monkeypatch.setattr(gathering.litert, "missing", lambda: "pip install 'avgeo[detectors]'")


def test_a_clip_is_located_without_a_model_and_says_what_was_not_asked(humming, no_birds):
    found = locate(humming, samples=100)
    assert "birds: pip install 'avgeo[detectors]'" in found.gathered.not_listened
    (item,) = [item for item in found.evidence if item.detector == "mains hum"]
    assert item.label == "60 Hz" and item.shift_km > 500
    america = sum(share["probability"] for share in found.countries if share["name"] in ("Brazil", "Canada"))
    assert america > 0.08
    told = located_lines(found)
    assert "not listened for: birds: pip install 'avgeo[detectors]'" in told and "prior: land and people" in told
    assert found.as_dict()["not_listened"] == found.gathered.not_listened
    assert found.as_dict()["model"]["name"] == "detectors"


def test_without_evidence_the_prior_is_the_answer(humming, no_birds):
    found = locate(humming, samples=100, without=["mains hum"])
    assert found.fused is not None and not any(item.bits for item in found.evidence)
    refused = locate(humming, samples=100, without=["60 Hz"])
    assert refused.gathered.refused == [{"detector": "mains hum", "label": "60 Hz", "reason": "--without"}]
    assert torch.equal(found.cells.log_prob, refused.cells.log_prob)
    uniform = locate(humming, samples=100, without=["mains hum"], prior=False)
    assert uniform.entropy_bits == pytest.approx(0, abs=1e-9) and found.entropy_bits < -0.5
    with pytest.raises(
        DetectError, match=r"--without rain: no such evidence; there is birds, mains hum, speech, 60 Hz"
    ):
        locate(humming, without=["rain"])


def test_a_hint_is_a_clue_like_any_other(humming, no_birds):
    hint = Event("hint", "mains=50"), lambda grid: mains_likelihood(50, 0.02, grid)
    found = locate(humming, samples=100, hints=[hint])
    assert {item.label for item in found.evidence} >= {"60 Hz", "mains=50"}
    alone = locate(humming, samples=100, hints=[hint], without=["60 Hz"])
    assert not torch.equal(found.cells.log_prob, alone.cells.log_prob)


def test_weeks_and_detectors_of_a_model_are_checked(humming):
    with pytest.raises(DetectError, match="week must be 1 to 48"):
        locate(humming, week=49)
    with pytest.raises(LocateError, match="detectors=True"):
        locate(humming, detectors=False, without=["birds"])
    with pytest.raises(DetectError, match="no such_thing of birds"):
        calibrated("birds", "such_thing")


def test_bad_files_are_one_error(tmp_path):
    (tmp_path / "no.mp3").write_bytes(b"nothing")
    with pytest.raises(ClipError, match=r"no\.mp3"):
        locate(tmp_path / "no.mp3")


def test_what_has_no_sound_is_answered_by_the_prior(tmp_path):
    from tiny import silent_video

    path = silent_video(tmp_path / "silent.mp4")
    found = gather(path, probe(path), GRID, max_s=60.0)
    assert found.clues == [] and found.not_listened == [
        f"{name}: the file has no sound" for name in ("birds", "mains hum", "speech")
    ]
    assert locate(path, samples=50).evidence == []
