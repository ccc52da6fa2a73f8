"""Locating single files with the tiny system: what is accepted, what is refused, and whether the evidence is real."""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest
import shapely
import soundfiles
import torch
from PIL import Image
from tiny import pictures, silent_video, tiny

from avgeo import locate as exported_locate
from avgeo.clips import ClipError, write_clip
from avgeo.gazetteer import ranked_places
from avgeo.locate import LocateError, LocateModel, hear, locate, usable
from avgeo.perceive import sound_of
from avgeo.reason import Reasoner
from avgeo.report import write_report
from avgeo.sphere import from_degrees, sample_uniform, to_degrees
from avgeo.world import country_at

RATE = 16_000


@pytest.fixture(scope="module")
def model() -> LocateModel:
    return LocateModel.load(tiny().model)


@pytest.fixture(scope="module")
def clip() -> Path:
    """A simulated clip of a test place."""
    return tiny().media("test")


@pytest.fixture(scope="module")
def found(model, clip):
    return locate(clip, model)


def sound(seconds: float = 1.5, seed: int = 0) -> np.ndarray:
    time = np.arange(round(seconds * RATE)) / RATE
    noise = np.random.default_rng(seed).standard_normal(len(time))
    return (0.2 * np.sin(2 * np.pi * 900 * time) + 0.05 * noise).astype(np.float32)


def recording(path: Path, codec: str, seconds: float = 1.5, rate: int = RATE, layout: str = "mono") -> Path:
    """A file with sound alone."""
    return soundfiles.write(path, sound(seconds * rate / RATE), rate, codec, layout)


def with_location(source: Path, target: Path, iso6709: str) -> Path:
    """The same packets in a file that states where it was recorded."""
    with av.open(str(source)) as old, av.open(str(target), "w", format="mov") as new:
        new.metadata["location"] = iso6709
        streams = {stream.index: new.add_stream_from_template(stream) for stream in old.streams}
        for packet in old.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                new.mux(packet)
    return target


# --- what a located clip says ---


def test_a_simulated_clip_is_located(found):
    assert -90 <= found.latitude_deg <= 90 and -180 <= found.longitude_deg <= 180
    assert found.samples.shape == (1000, 3) and found.cells.total == pytest.approx(1)
    torch.testing.assert_close(found.samples.norm(dim=-1), torch.ones(1000), atol=1e-5, rtol=0)
    assert found.atoms and [atom.strength for atom in found.atoms] == sorted(
        (atom.strength for atom in found.atoms), reverse=True
    )
    assert [mass for mass, _ in found.regions] == [0.5, 0.9]
    assert 0 < found.regions[0][1] < found.regions[1][1] <= 511e6


def test_avgeo_locate_can_be_called_even_after_its_module_was_imported(model, clip, found):
    assert exported_locate(clip, model).as_dict() == found.as_dict()


def test_json_has_the_promised_keys_and_is_json(found, clip):
    text = json.dumps(found.as_dict(), allow_nan=False)
    answer = json.loads(text)
    promised = {"estimate", "regions", "places", "countries", "evidence", "metadata_location", "entropy_bits"}
    promised |= {"refused", "not_listened", "licences", "contradictions", "prior"}
    assert promised | {"model", "versions", "input", "atoms", "answer", "recalibration"} == set(answer)
    assert set(answer["estimate"]) == {"latitude_deg", "longitude_deg", "kind"}
    assert all(set(region) == {"mass", "area_km2"} for region in answer["regions"])
    assert all({"name", "country_code", "probability"} <= set(place) for place in answer["places"])
    keys = {"detector", "label", "start_s", "end_s", "bits", "shift_km"}
    assert answer["evidence"] and all(set(item) == keys for item in answer["evidence"])
    assert set(answer["model"]) == {"name", "trained_on", "keys", "commit"}
    assert answer["model"]["trained_on"] == "AVG-Sim"
    assert answer["input"]["sha256"] == hashlib.sha256(clip.read_bytes()).hexdigest()
    assert answer["input"]["seconds_used"] == pytest.approx(1.5, abs=0.1)
    assert answer["metadata_location"] is None
    assert set(answer["recalibration"]) == {"shown", "temperature", "floor"}


def test_geojson_is_longitude_first_and_in_range(found):
    shape = json.loads(json.dumps(found.geojson(), allow_nan=False))
    assert shape["type"] == "FeatureCollection"
    *regions, cloud, point = (feature["geometry"] for feature in shape["features"])
    roles = [feature["properties"]["role"] for feature in shape["features"]]
    assert roles == ["credible region", "credible region", "samples", "estimate"]
    assert all(region["type"] == "MultiPolygon" for region in regions)
    drawn = [feature["properties"] for feature in shape["features"][:2]]
    assert [(one["mass"], one["area_km2"]) for one in drawn] == found.regions[::-1]
    assert all(feature["type"] == "Feature" for feature in shape["features"])
    assert point == {"type": "Point", "coordinates": [found.longitude_deg, found.latitude_deg]}
    assert cloud["type"] == "MultiPoint" and len(cloud["coordinates"]) == 1000
    longitude, latitude = np.array(cloud["coordinates"]).T
    assert np.abs(longitude).max() <= 180 and np.abs(latitude).max() <= 90
    again = from_degrees(torch.tensor(latitude), torch.tensor(longitude)).float()
    torch.testing.assert_close(again, found.samples, atol=1e-5, rtol=0)


def test_regions_and_countries_are_those_of_the_samples(found):
    """Cells and samples tell the same law: each region holds its mass of samples, each country its share."""
    outlines = [shapely.geometry.shape(feature["geometry"]) for feature in found.outlines[::-1]]
    latitude_deg, longitude_deg = (part.numpy() for part in to_degrees(found.samples))
    for (mass, _), outline in zip(found.regions, outlines, strict=True):
        assert shapely.contains_xy(outline, longitude_deg, latitude_deg).mean() == pytest.approx(mass, abs=0.06)
    assert sum(share["probability"] for share in found.countries) == pytest.approx(1)
    names = country_at(latitude_deg, longitude_deg)
    for share in found.countries[:5]:
        among = np.mean([(name or "sea") == share["name"] for name in names])
        assert among == pytest.approx(share["probability"], abs=0.06)


def test_places_share_the_samples(found):
    shares = [place["probability"] for place in found.places]
    assert shares == sorted(shares, reverse=True) and 0 < sum(shares) <= 1 + 1e-9
    assert len({place["name"] for place in found.places}) == len(shares) <= 10
    # near one city, that city has it all
    here = from_degrees(torch.tensor([35.7] * 50), torch.tensor([139.7] * 50))
    (only,) = ranked_places(here)
    assert only["country_code"] == "JP" and only["probability"] == 1
    everywhere = ranked_places(sample_uniform(5000, torch.Generator().manual_seed(0)), limit=100_000)
    assert sum(place["probability"] for place in everywhere) == pytest.approx(1)


def test_one_seed_gives_one_answer_and_another_seed_another(model, clip, found):
    assert locate(clip, model).as_dict() == found.as_dict()
    other = locate(clip, model, seed=1)
    assert not torch.equal(other.samples, found.samples)
    assert other.answer == found.answer and other.atoms == found.atoms  # perception and words draw nothing


def test_max_s_is_what_is_heard(model, clip):
    short = locate(clip, model, max_s=0.5, samples=16)
    assert short.input["seconds_used"] == 0.5
    assert max(atom.end_s for atom in short.atoms) <= 0.5 + 1e-9
    assert hear(clip, model, max_s=0.5) == short.atoms


# --- evidence ---


def test_evidence_is_finite_and_sorted_by_what_it_does(found):
    bits = [abs(item.bits) for item in found.evidence]
    assert bits == sorted(bits, reverse=True)
    assert all(math.isfinite(item.bits) and 0 <= item.shift_km <= 20016 for item in found.evidence)
    assert all(0 <= item.start_s <= item.end_s <= 1.5 + 0.2 for item in found.evidence)
    assert {"everything heard", "everything seen"} <= {item.label for item in found.evidence}
    assert any(item.bits for item in found.evidence), "no evidence does anything"


@pytest.fixture(scope="module")
def telling(model):
    """A located clip that has a named atom among its evidence."""
    for split in ("test", "val", "train"):
        for number in range(len(tiny().study.rows_of(split))):
            path = tiny().media(split, number)
            if any(not atom.name.startswith("atom ") for atom in hear(path, model)):
                return path, locate(path, model)
    raise AssertionError("the tiny model names no atom that is heard: lower name_auroc in tiny.py")


def test_an_atoms_evidence_is_what_its_codes_did(model, telling):
    """Silencing the atom in the codes themselves, then pooling and asking the flow again, gives the same bits."""
    path, answer = telling
    codes = model.atoms.encode(sound_of(path, model.atoms.settings)[None])[0]
    here = from_degrees(torch.tensor([answer.latitude_deg]), torch.tensor([answer.longitude_deg])).float()
    atoms = [item for item in answer.evidence if item.detector == "atom"]
    assert atoms
    for item in atoms:
        silenced = codes.copy()
        silenced[:, [index for index in range(codes.shape[1]) if model.atoms.name(index) == item.label]] = 0
        assert (silenced != codes).any()
        without = replace(answer.condition, sound=torch.from_numpy(model.atoms.sound_vector(silenced))[None])
        nats = model.flow.log_prob(here, answer.condition) - model.flow.log_prob(here, without)
        assert item.bits == pytest.approx(float(nats) / math.log(2), abs=1e-4)
        heard = [atom for atom in answer.atoms if atom.name == item.label]
        assert item.start_s == min(atom.start_s for atom in heard)
        assert item.end_s == max(atom.end_s for atom in heard)


def test_what_the_flow_does_not_use_is_no_evidence(model, telling):
    """A flow that is deaf gets 0 bits and 0 km from every sound: the shift has no noise of its own."""
    path, _ = telling
    deaf = LocateModel.load(tiny().model)
    forward = deaf.flow.encoder.forward
    deaf.flow.encoder.forward = lambda condition: forward(condition.only("sight", "proposal"))
    answer = locate(path, deaf, samples=64)
    sounds = [item for item in answer.evidence if item.detector == "atom" or item.label == "everything heard"]
    assert len(sounds) >= 2
    assert [(item.bits, item.shift_km) for item in sounds] == [(0, 0)] * len(sounds)
    assert any(item.bits for item in answer.evidence if item.detector != "atom")


def test_a_reasoner_that_answers_is_heard_and_weighed(model, clip, found):
    class Sure(Reasoner):
        def __init__(self) -> None: ...

        def propose(self, examples, frames, *, batch=128):
            row = {"latitude_deg": 35.7, "longitude_deg": 139.7, "country": "Japan", "parsed": True}
            return pd.DataFrame([{"clip_id": "clip", **row, "completion": "Tokyo.", "failure": None}])

    assert found.answer is not None and not found.condition.has_proposal.any()  # it could not answer
    sure = locate(clip, replace(model, reasoner=Sure()))
    assert sure.answer == "Tokyo." and sure.condition.has_proposal.all()
    assert "the reasoner's answer" in {item.label for item in sure.evidence}
    tokyo = from_degrees(torch.tensor([35.7]), torch.tensor([139.7])).float()
    torch.testing.assert_close(sure.condition.proposal, tokyo)
    assert not torch.equal(sure.samples, found.samples)


@pytest.mark.parametrize("times", [False, True])
def test_the_reasoner_is_asked_as_it_was_trained(model, clip, monkeypatch, times):
    asked, propose = [], Reasoner.propose

    def listening(self, clips, frames):
        asked.append(clips)
        return propose(self, clips, frames)

    monkeypatch.setattr(Reasoner, "propose", listening)
    profile = model.card["profile"] | {"reason": model.card["profile"]["reason"] | {"prompt_times": times}}
    locate(clip, replace(model, card=model.card | {"profile": profile}), samples=8)
    assert list(asked[0].columns) == ["clip_id", "heard", *["times"] * times]
    for first_s, last_s in asked[0]["times"][0].values() if times else ():
        assert 0 <= first_s < last_s <= 1.6  # the clip lasts 1.5 s, and a patch 0.16 s


# --- metadata ---


def test_an_embedded_location_is_reported_and_not_used(model, clip, tmp_path):
    told = with_location(clip, tmp_path / "told.mov", "+12.3456+098.7654/")
    lied = with_location(clip, tmp_path / "lied.mov", "-45.0000-012.0000/")
    plain = with_location(clip, tmp_path / "plain.mov", "")
    first, second, third = (locate(path, model) for path in (told, lied, plain))
    assert third.metadata_location is None
    assert first.metadata_location is not None and second.metadata_location is not None
    assert first.metadata_location["latitude_deg"] == pytest.approx(12.3456)
    assert second.metadata_location["longitude_deg"] == pytest.approx(-12)
    drop = ("metadata_location", "input")
    answers = [{k: v for k, v in item.as_dict().items() if k not in drop} for item in (first, second, third)]
    assert answers[0] == answers[1] == answers[2]
    assert torch.equal(first.samples, third.samples)
    json.dumps(first.as_dict(), allow_nan=False)


# --- kinds of input ---


@pytest.mark.parametrize(
    ("name", "codec", "rate", "layout"),
    [
        ("a.wav", "pcm_s16le", RATE, "mono"),
        ("phone.wav", "pcm_s16le", 8000, "mono"),
        ("studio.wav", "pcm_s16le", 44_100, "stereo"),
        ("a.mp3", "libmp3lame", 44_100, "mono"),
    ],
)
def test_a_sound_file_is_located_by_sound_alone(model, tmp_path, name, codec, rate, layout):
    answer = locate(recording(tmp_path / name, codec, rate=rate, layout=layout), model, samples=32)
    assert answer.atoms and answer.embedded.frames is None and answer.answer is None
    assert answer.condition.has_sound.all() and not answer.condition.has_sight.any()
    assert {item.detector for item in answer.evidence} <= {"modality", "atom"}
    with pytest.raises(LocateError, match="has no picture"):
        locate(tmp_path / name, model, sight_only=True)


def test_a_photo_is_located_by_sight_alone(model, tmp_path):
    for name in ("photo.jpg", "photo.png"):
        Image.fromarray(pictures(1)[0]).save(tmp_path / name)
        with pytest.raises(ClipError, match="--sight-only"):
            locate(tmp_path / name, model)
        answer = locate(tmp_path / name, model, sight_only=True, samples=32)
        assert answer.atoms == [] and answer.condition.has_sight.all() and not answer.condition.has_sound.any()
        json.dumps(answer.as_dict(), allow_nan=False)


def test_a_silent_video_is_refused_unless_told_to_look_only(model, tmp_path):
    path = silent_video(tmp_path / "silent.mp4")
    with pytest.raises(ClipError, match=r"silent\.mp4: has no sound; .*--sight-only"):
        locate(path, model)
    answer = locate(path, model, sight_only=True, samples=32)
    assert answer.condition.has_sight.all() and not answer.condition.has_sound.any()
    with pytest.raises(ClipError, match="no sound"):
        hear(path, model)


def test_sight_only_does_not_listen(model, clip, tmp_path):
    frames = pictures()
    for name, seed in (("one.mp4", 1), ("two.mp4", 2)):
        write_clip(tmp_path / name, frames, 4, sound(seed=seed), RATE)
    one, two = (locate(tmp_path / name, model, sight_only=True, samples=32) for name in ("one.mp4", "two.mp4"))
    assert torch.equal(one.samples, two.samples)
    heard = (locate(tmp_path / name, model, samples=32) for name in ("one.mp4", "two.mp4"))
    assert not torch.equal(*(item.condition.sound for item in heard))


def test_digital_silence_is_no_sound(model, tmp_path):
    write_clip(tmp_path / "mute.mp4", pictures(), 4, np.zeros(RATE, np.float32), RATE)
    with pytest.raises(ClipError, match="digital silence"):
        locate(tmp_path / "mute.mp4", model)
    assert locate(tmp_path / "mute.mp4", model, sight_only=True, samples=8).atoms == []


def test_one_picture_and_a_blink_of_sound_are_enough(model, tmp_path):
    write_clip(tmp_path / "blink.mp4", pictures(1), 4, sound(0.05), RATE)
    assert math.isfinite(locate(tmp_path / "blink.mp4", model, samples=16).entropy_bits)


def test_a_long_video_is_located(model, tmp_path):
    """Far apart frames are reached by seeking, again and again in one file."""
    write_clip(tmp_path / "long.mp4", pictures(120), 1, sound(120), RATE)
    answer = locate(tmp_path / "long.mp4", model, samples=16)
    assert answer.input["duration_s"] == pytest.approx(120, abs=1) and answer.input["seconds_used"] == 60


def test_usable_needs_no_model(tmp_path, clip):
    assert usable(clip).has_audio
    for path, wrong in ((tmp_path, "is a directory"), (tmp_path / "none.mp4", "no such file")):
        with pytest.raises(ClipError, match=wrong):
            usable(path)


# --- models ---


def test_a_folder_that_is_no_model_says_so(tmp_path, clip, monkeypatch):
    with pytest.raises(LocateError, match=r"no model\.json.*avgeo train --out"):
        LocateModel.load(tmp_path)
    card = json.loads((tiny().model / "model.json").read_text())
    for text in ("", "[]", "{}", json.dumps(card)):  # the last is right, but its parts are missing
        (tmp_path / "model.json").write_text(text)
        with pytest.raises(LocateError, match="incomplete, damaged or of another version"):
            LocateModel.load(tmp_path)
    monkeypatch.setenv("AVGEO_CACHE", str(tmp_path / "empty"))
    with pytest.raises(LocateError, match=r"no model is trained here.*avgeo train --profile smoke --seed 0"):
        LocateModel.trained_here()


# --- the report ---


class Links(HTMLParser):
    """Every address a page would fetch, and its tags."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "srcset", "data") and value]


def test_the_report_of_a_real_answer_is_one_file(found, clip):
    page = write_report(clip, found)
    links = Links()
    links.feed(page)
    assert all(address.startswith(("data:", "#")) for address in links.addresses)
    # the one script has no address, and the policy allows it by its hash alone (tests/test_report.py)
    assert (
        {"link", "iframe"}.isdisjoint(links.tags)
        and page.count("<script>") == 1
        and {"audio", "img", "table"} <= links.tags
    )
    assert not re.search(r"@import|url\((?!['\"]?data:)", page)
    assert clip.name in page and "simulated Earth" in page
    for place in found.places[:3]:
        assert place["name"] in page


def test_reports_of_one_modality_have_no_player_or_no_picture(model, tmp_path):
    audible = recording(tmp_path / "a.wav", "pcm_s16le")
    page = write_report(audible, locate(audible, model, samples=32))
    assert "<audio" in page and "rests on sound alone" in page
    visible = silent_video(tmp_path / "v.mp4")
    page = write_report(visible, locate(visible, model, sight_only=True, samples=32))
    assert "<audio" not in page and "rests on sight alone" in page


def test_no_samples_is_an_error_before_any_work(clip, model):
    with pytest.raises(LocateError, match="samples must be at least 1, got 0"):
        locate(clip, model, samples=0)
