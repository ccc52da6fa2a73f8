"""The planted corpus is what its key says, by other means than curation's gates; and the score counts right."""

from __future__ import annotations

import csv
import math
import os
import stat
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import av
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from avgeo.curate import planted
from avgeo.curate.candidate import CurateError
from avgeo.curate.metadata import read_locations
from avgeo.curate.planted import FAULTS, TABLE, plant, score
from avgeo.curate.planted_files import MAKERS, hostile_name, unstorable_name
from avgeo.curate.planted_media import HEIGHT, WIDTH, Take, decoded

CLIPS, SEED, SHARE = 36, 3, 0.7


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame]:
    folder = tmp_path_factory.mktemp("planted") / "corpus"
    return folder, plant(folder, CLIPS, SEED, SHARE, workers=1)


def path_of(folder: Path, item: str) -> Path:
    """The file of an item, also when its name is shown in another way than it is stored."""
    (found,) = [folder / name for name in os.listdir(folder) if planted._shown(name) == item]
    return found


def places() -> dict[int, dict]:
    return {job.number: dict(job.place) for job in planted._jobs(CLIPS, SEED, SHARE, FAULTS)}


def test_every_item_is_in_the_key_once(corpus: tuple[Path, pd.DataFrame]) -> None:
    folder, key = corpus
    names = [planted._shown(name) for name in os.listdir(folder)]
    assert sorted(names) == sorted([*key["item"], TABLE])
    assert len(key) == CLIPS and set(key["fault"].dropna()) == set(FAULTS)
    assert key["fault"].notna().sum() == round(SHARE * CLIPS)
    assert set(key.loc[key["gate"] == "", "fault"].dropna()) == {"misnamed", "hostile name"}


def test_sound_clips_tell_place_and_time(corpus: tuple[Path, pd.DataFrame]) -> None:
    folder, key = corpus
    here, zoned = places(), 0
    for number, (item, fault) in enumerate(zip(key["item"], key["fault"], strict=True)):
        if fault is not None:
            continue
        found = read_locations(folder / item)
        place = here[number]
        assert found and all(location.fault is None for location in found)
        for location in found:
            north_km = 111.2 * (location.latitude_deg - place["latitude_deg"])
            east_km = 111.2 * (location.longitude_deg - place["longitude_deg"])
            assert math.hypot(north_km, east_km * math.cos(math.radians(place["latitude_deg"]))) < 30
        (stamp,) = {location.recorded_at for location in found if location.recorded_at}
        when = datetime.fromisoformat(stamp)
        assert when.year == 2023 and when.tzinfo is not None
        if not stamp.endswith("Z"):
            zoned += 1
            assert when.utcoffset() == when.astimezone(ZoneInfo(place["timezone"])).utcoffset()
    assert zoned >= 5


def test_sound_clips_move_and_sound(corpus: tuple[Path, pd.DataFrame]) -> None:
    folder, key = corpus
    for item in key.loc[key["fault"].isna(), "item"]:
        take = decoded(folder / item)
        assert take.frames.shape == (32, HEIGHT, WIDTH, 3)
        assert moved(take).mean() > 0.3 and np.sqrt(np.mean(take.sound**2)) > 1e-3


def moved(take: Take) -> np.ndarray:
    """Mean absolute change from frame to frame, in grey levels."""
    return np.abs(np.diff(take.frames.astype(np.int16), axis=0)).mean((1, 2, 3))


def test_faults_are_there(corpus: tuple[Path, pd.DataFrame]) -> None:
    folder, key = corpus
    items = {fault: path_of(folder, group["item"].iloc[0]) for fault, group in key.groupby("fault")}
    assert np.abs(decoded(items["silence"]).sound).max() < 1e-3
    assert decoded(items["black picture"]).frames[:, ::8, ::8].mean() < 12
    assert moved(decoded(items["frozen picture"]))[1:].max() < 1.5
    cuts = moved(decoded(items["slide show"]))
    assert np.median(cuts) < 1 < 5 < cuts.max()
    assert items["misnamed"].read_bytes()[4:8] in (b"ftyp", b"wide", b"moov")
    assert items["truncated"].stat().st_size < 200_000
    status = os.lstat(items["no file"]).st_mode
    assert stat.S_ISLNK(status) or stat.S_ISFIFO(status)
    assert all(path.lstat().st_size < 1 << 20 for path in folder.iterdir())


def test_copies_differ_in_bytes_and_agree_in_content(corpus: tuple[Path, pd.DataFrame]) -> None:
    folder, key = corpus
    copies = key[key["copy_of"].notna()]
    assert set(copies["fault"]) == {"re-encoded", "cropped"}
    assert key.set_index("item").loc[copies["copy_of"], "fault"].isna().all()
    for item, original in zip(copies["item"], copies["copy_of"], strict=True):
        ours, theirs = decoded(folder / item), decoded(folder / original)
        assert (folder / item).read_bytes() != (folder / original).read_bytes()
        grey = [np.asarray(Image.fromarray(take.frames[9]).convert("L").resize((16, 12))) for take in (ours, theirs)]
        assert np.corrcoef(grey[0].ravel(), grey[1].ravel())[0, 1] > 0.6
        other = decoded(folder / next(name for name in key.loc[key["fault"].isna(), "item"] if name != original))
        assert peak(ours.sound, theirs.sound) > 0.5 > peak(ours.sound, other.sound)


def peak(a: np.ndarray, b: np.ndarray) -> float:
    """The greatest normalised cross-correlation over all shifts: codecs delay the sound a little."""
    size = 1 << 17
    spectrum = np.fft.rfft(a, size) * np.conj(np.fft.rfft(b, size))
    return float(np.abs(np.fft.irfft(spectrum)).max() / (np.linalg.norm(a) * np.linalg.norm(b)))


def test_wrong_places_are_wrong_and_contradicted(tmp_path: Path) -> None:
    key = plant(tmp_path / "x", 16, SEED, 1.0, workers=1, faults=("wrong sign", "swapped", "null island", "no place"))
    jobs = planted._jobs(16, SEED, 1.0, ("wrong sign", "swapped", "null island", "no place"))
    table = {row["file_name"]: row for row in csv.DictReader((tmp_path / "x" / TABLE).read_text().splitlines())}
    for job, item, detail in zip(jobs, key["item"], key["detail"], strict=True):
        told = [(said.latitude_deg, said.longitude_deg) for said in read_locations(tmp_path / "x" / item)]
        told = [pair if np.isfinite(pair).all() else (999.0, 999.0) for pair in told]  # no latitude has three digits
        assert key["gate"].eq("coordinates").all()
        right = (job.place["latitude_deg"], job.place["longitude_deg"])
        off = [max(abs(a - b) for a, b in zip(pair, right, strict=True)) for pair in told]
        match job.fault:
            case "no place":
                assert told == [] and table[item]["latitude"] == ""
            case "null island":
                assert all(max(map(abs, pair)) < 0.01 for pair in told)
            case _:
                assert max(off) > 1 and "contradicted by" in detail and not detail.endswith("by ")
                if "against" in detail:
                    assert min(off) < 0.5  # one of the two is right
                else:
                    assert min(off) > 1
                if "the stated country" in detail:
                    assert table[item]["country"] == job.place["country"]


def test_bombs_are_small_and_claim_to_be_large() -> None:
    rng = np.random.default_rng(0)
    take = Take(np.zeros((4, 48, 64, 3), np.uint8), np.zeros(8000, np.float32))
    found = {}
    while len({detail.split()[0] for detail in found}) < 8:
        planted_file = MAKERS["bomb"](take, {}, rng)
        found[planted_file.detail] = planted_file
        assert len(planted_file.data) < 1 << 20 and planted_file.gates
    flac = next(bomb for detail, bomb in found.items() if detail.startswith("FLAC"))
    assert flac.data[:4] == b"fLaC"
    samples = int.from_bytes(flac.data[18:26], "big") & (1 << 36) - 1
    assert samples > 5 * 3600 * 8000
    for detail, bomb in found.items():
        if bomb.suffix in (".png", ".jpg", ".gif"):
            assert int(detail.split()[-2]) >= 12_000 or int(detail.split()[-4]) >= 12_000, detail


def test_frame_rates_are_absurd(tmp_path: Path) -> None:
    take = Take(np.zeros((4, 48, 64, 3), np.uint8), np.zeros(8000, np.float32))
    for seed in range(6):
        made = MAKERS["frame rate"](take, {}, np.random.default_rng(seed))
        (tmp_path / "x.mov").write_bytes(made.data)
        with av.open(str(tmp_path / "x.mov")) as container:
            rate = float(container.streams.video[0].average_rate or 0)
        assert rate > 1000 or rate < 0.01


def test_hostile_names_fit_and_are_what_they_say() -> None:
    rng = np.random.default_rng(0)
    names = {hostile_name(number, ".mov", rng) for number in range(400)}
    assert len(names) == 400
    assert all(len(name.encode()) <= 255 and "/" not in name and "\0" not in name for name in names)
    assert not any(name.startswith(".") for name in names)  # hidden files are no items
    assert {"\n", "%", "$", "<", "\u202e"} <= set("".join(names))
    for number in range(20):
        with pytest.raises(UnicodeEncodeError):
            unstorable_name(number, ".mov", rng).encode()


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_same_arguments_same_bytes(tmp_path: Path, workers: int) -> None:
    faults = ("cropped", "captions", "voice-over", "bomb", "wrong sign", "hostile name")
    keys = [
        plant(tmp_path / name, 9, SEED, 0.6, workers=count, faults=faults) for name, count in (("a", 1), ("b", workers))
    ]
    pd.testing.assert_frame_equal(*keys)
    trees = [{p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("a", "b")]
    assert trees[0] == trees[1]


@pytest.mark.parametrize(
    ("clips", "seed", "share", "faults", "message"),
    [
        (0, 0, 0.5, FAULTS, "clips=0"), (5, -1, 0.5, FAULTS, "seed=-1"), (5, 0, 1.5, FAULTS, "share=1.5"),
        (5, 0, 0.5, ("rust",), "unknown 'rust'"),
    ],
)  # fmt: skip
def test_bad_arguments(tmp_path: Path, clips: int, seed: int, share: float, faults: tuple, message: str) -> None:
    with pytest.raises(CurateError, match=message):
        plant(tmp_path / "x", clips, seed, share, workers=1, faults=faults)


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(CurateError, match="holds something"):
        plant(tmp_path, 2, 0)


# --- the score ---

KEY = pd.DataFrame(
    [
        ("a", None, "", "", None), ("b", None, "", "", None), ("c", None, "", "", None), ("d", None, "", "", None),
        ("a2", "cropped", "duplicate", "", "a"), ("b2", "cropped", "duplicate", "", "b"),
        ("c2", "cropped", "duplicate", "", "c"), ("s1", "silence", "silent", "", None),
        ("s2", "silence", "silent", "", None), ("x", "no duration", "duration,frozen", "", None),
        ("n", "hostile name", "", "", None),
    ],
    columns=list(planted.KEY_COLUMNS),
)  # fmt: skip


def judged(*rejects: tuple[str, str, str | None]) -> pd.DataFrame:
    table = pd.DataFrame(
        [(item, gate, "why", also) for item, gate, also in rejects], columns=["item", "gate", "reason", "also"]
    )
    manifest = pd.DataFrame({"clip_id": [item for item in KEY["item"] if item not in set(table["item"])]})
    return score(table, manifest, KEY).set_index(["of", "name"])


def test_a_perfect_curation_scores_one() -> None:
    found = judged(("a2", "duplicate", None), ("b", "duplicate", None), ("c2", "duplicate", None),
                   ("s1", "silent", None), ("s2", "black", "silent,captions"), ("x", "frozen", None))  # fmt: skip
    assert (found["recall"].dropna() == 1).all() and (found["false_alarms"] == 0).all()
    assert found.loc[("fault", "cropped"), ["n", "caught"]].tolist() == [3, 3]  # b stands in for its copy
    assert found.loc[("gate", "captions"), "stray"] == 1
    assert math.isnan(found.loc[("gate", "captions"), "recall"]) and found.loc[("gate", "frozen"), "n"] == 0


def test_misses_and_false_alarms_are_counted() -> None:
    found = judged(("a", "duplicate", None), ("a2", "duplicate", None), ("d", "silent", None), ("s1", "silent", None),
                   ("n", "media", None))  # fmt: skip
    assert found.loc[("fault", "cropped"), ["n", "caught", "false_alarms"]].tolist() == [
        3,
        1,
        1,
    ]  # a is lost with its copy
    assert found.loc[("gate", "silent"), ["n", "caught", "false_alarms"]].tolist() == [2, 1, 1]
    assert found.loc[("gate", "silent"), "precision"] == 0.5
    assert found.loc[("fault", "hostile name"), "caught"] == 0 and found.loc[("gate", "media"), "false_alarms"] == 1
    assert found.loc[("fault", "no duration"), "recall"] == 0
    # Wilson's interval in its closed form
    z, n, p = 1.959964, 3, 1 / 3
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    bounds = found.loc[("fault", "cropped"), ["recall_low", "recall_high"]].tolist()
    assert bounds == pytest.approx([(middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)], rel=1e-6)


def test_an_item_that_vanished_is_an_error() -> None:
    rejects = pd.DataFrame([("s1", "silent", "why", None)], columns=["item", "gate", "reason", "also"])
    with pytest.raises(CurateError, match="10 of 11 items"):
        score(rejects, pd.DataFrame({"clip_id": ["only one"]}), KEY)
