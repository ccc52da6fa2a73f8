"""A published folder describes itself truly, loads elsewhere, ends with the same bytes, and every damage is found."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import subprocess
import tarfile
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from avgeo.checksums import read_sums, sha256, write_sums
from avgeo.clips import probe, read_audio, write_clip
from avgeo.curate.candidate import CurateError
from avgeo.curate.coarse import WITHHELD, coarsened, scrub
from avgeo.curate.metadata import read_locations
from avgeo.curate.places import assign_places
from avgeo.curate.publish import publish, redistributable, strip_media
from avgeo.curate.quotas import choose, countries_of
from avgeo.curate.splits import assign_splits, audit_leakage
from avgeo.curate.verify import verify
from avgeo.manifest import read_manifest
from avgeo.profiles import CurateSettings, WorldSettings

DEFAULT = CurateSettings()
LICENCES = ["CC BY 4.0", "CC0", "unknown", "https://creativecommons.org/licenses/by-sa/3.0/", "All rights reserved"]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="session")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Ten clips, some of which state where they were made, by clip_id."""
    folder = tmp_path_factory.mktemp("originals")
    found = {}
    for number in range(10):
        rng = np.random.default_rng(number)
        path = folder / f"take {number}.MP4"
        frames = rng.integers(0, 255, (3, 32, 48, 3)).astype(np.uint8)
        write_clip(path, frames, 4, rng.uniform(-0.3, 0.3, 12_000).astype(np.float32), 16_000)
        if number % 2:
            _state(path, f"+{10 + 5 * number}.1234+020.5678/")
        found[f"take-{number}-{digest(path)[:12]}"] = path
    return found


def _state(path: Path, text: str) -> None:
    """Append QuickTime user data with coordinates to a movie that ends in its moov box, or has another at the end."""
    value = len(text).to_bytes(2, "big") + b"\x15\xc7" + text.encode()
    atom = (8 + len(value)).to_bytes(4, "big") + b"\xa9xyz" + value
    user = (8 + len(atom)).to_bytes(4, "big") + b"udta" + atom
    data = bytearray(path.read_bytes())
    at = 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] == b"moov" and at + size == len(data):
            data[at : at + 4] = (size + len(user)).to_bytes(4, "big")
            path.write_bytes(bytes(data) + user)
            return
        at += size
    path.write_bytes(bytes(data) + (8 + len(user)).to_bytes(4, "big") + b"moov" + user)


def benchmark(originals: dict[str, Path], settings: CurateSettings = DEFAULT):
    """What `curate` hands to `publish`."""
    number = range(len(originals))
    table = pd.DataFrame(
        {
            "clip_id": list(originals),
            "path": "",
            "latitude_deg": [10 + 5 * n + 0.1234 for n in number],
            "longitude_deg": 20.5678,
            "recorded_at": pd.Series(["2024-05-01T12:00:00+02:00", None] * 5, dtype="object"),
            "duration_s": 0.75,
            "source": "folder",
            "url": [f"https://example.org/{n}" for n in number],
            "licence": [LICENCES[n % 5] for n in number],
            "attribution": [f"Ann | {n}" for n in number],
            "altitude_m": 123.4,
            "location_kind": "quicktime",
            "sha256": [digest(path) for path in originals.values()],
            "kind": "video",
            "width": 48.0,
            "height": 32.0,
            "uploader": pd.Series([None, "bob"] * 5, dtype="object"),
            "original": pd.Series([None] * 10, dtype="object"),
            "title": ['=cmd("x")\nand | more', "<b>café</b>"] * 5,
            "flags": ["2 faces near 15.1234; plate", ""] * 5,
        }
    )
    table["country"] = countries_of(table)
    table["place_id"], _ = assign_places(table, settings)
    choice = choose(table, settings, 0)
    table["split"], leaks, remarks = assign_splits(table, [], settings, 0)
    assert not choice.dropped and not leaks
    rejects = pd.DataFrame(
        [
            ("a.txt", "media", "not media", ""),
            ("b.mp4", "surplus", f"place {table['place_id'][0]} has 34 clips, 20 are taken; at 15.1234", "silent"),
        ],
        columns=["item", "gate", "reason", "also"],
    )
    summary = {
        "source": "folder", "settings": asdict(settings), "seed": 0, "items": 12, "kept": 10, "rejected": 2,
        "by_gate": {"media": 1, "surplus": 1}, "places": table["place_id"].nunique(),
        "splits": {name: int((table["split"] == name).sum()) for name in ("train", "val", "test")},
        "not_measured": {"needs opencv: pip install 'avgeo[privacy]'": 10}, "benchmark": choice.summary,
        "leakage": audit_leakage(table).summary(), "notes": remarks,
    }  # fmt: skip
    return table, rejects, summary, dict(originals), settings, choice.places


def make(out: Path, originals: dict[str, Path], settings: CurateSettings = DEFAULT, **options):
    table, rejects, summary, media, settings, places = benchmark(originals, settings)
    return publish(out, table, rejects, summary, media, settings, places=places, **options)


@pytest.fixture(scope="session")
def whole(originals: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with copies and small shards; tests do not change it."""
    out = tmp_path_factory.mktemp("published") / "out"
    make(out, originals, copy=True, shards=True, shard_bytes=60_000)
    return out


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- what is there ---


def test_a_published_folder_is_in_order(whole: Path) -> None:
    assert verify(whole) == []
    done = subprocess.run(["sha256sum", "--strict", "-c", "SHA256SUMS"], cwd=whole, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in whole.iterdir()} == {
        "manifest.parquet", "rejects.parquet", "places.parquet", "report.json", "README.md", "CREDITS.csv",
        "croissant.json", "SHA256SUMS", "media", "shards",
    }  # fmt: skip
    published = json.loads((whole / "report.json").read_text())["published"]
    assert published["withheld_from_shards"] == 4 == published["clips_without_a_free_licence"]
    assert published["clips_in_shards"] == 6 and published["media_copied"] == 10


def test_mlcroissant_finds_nothing_to_say_and_reads_the_records(whole: Path) -> None:
    mlcroissant = pytest.importorskip("mlcroissant", reason="a development dependency")
    dataset = mlcroissant.Dataset(jsonld=str(whole / "croissant.json"))
    issues = dataset.metadata.ctx.issues
    assert not issues.errors and not issues.warnings
    manifest = read_manifest(whole)
    records = list(dataset.records(record_set="manifest"))
    assert [record["manifest/clip_id"].decode() for record in records] == manifest["clip_id"].tolist()
    assert [record["manifest/latitude_deg"] for record in records] == manifest["latitude_deg"].tolist()
    assert len(list(dataset.records(record_set="rejects"))) == 2
    assert len(list(dataset.records(record_set="places"))) == 10


def test_the_context_is_that_of_the_simulated_worlds() -> None:
    from avgeo import croissant
    from avgeo.world import publish as world

    assert croissant.CONTEXT == world._CONTEXT and croissant.CONFORMS_TO == world.CONFORMS_TO
    assert croissant.RELEASED == world.RELEASED


def test_datasets_loads_the_tables(whole: Path, tmp_path: Path) -> None:
    from datasets import load_dataset

    for name in ("manifest", "rejects", "places"):
        loaded = load_dataset(str(whole), name, split="full", cache_dir=str(tmp_path))
        expected = pd.read_parquet(whole / f"{name}.parquet")
        assert loaded.column_names == list(expected) and len(loaded) == len(expected)


def test_webdataset_reads_clips_that_decode(whole: Path, tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset", reason="the extra curate")
    manifest = read_manifest(whole).set_index("clip_id")
    shards = sorted(str(path) for path in (whole / "shards").glob("*.tar"))
    assert len(shards) > len({Path(shard).name.split("-")[0] for shard in shards})  # cut by size
    seen = []
    for sample in webdataset.WebDataset(shards, shardshuffle=False, empty_check=False):
        row = json.loads(sample["json"])
        assert row["clip_id"] == sample["__key__"]
        assert Path(sample["__url__"]).name.startswith(row["split"])
        assert hashlib.sha256(sample["mp4"]).hexdigest() == row["sha256"] == manifest.loc[row["clip_id"], "sha256"]
        assert row["attribution"].startswith("Ann | ") and row["original"] is None
        path = tmp_path / "clip.mp4"
        path.write_bytes(sample["mp4"])
        assert probe(path).kind == "video" and len(read_audio(path, 16_000)) > 8000
        seen.append(row["clip_id"])
    free = manifest["licence"].map(redistributable)
    assert sorted(seen) == sorted(manifest.index[free]) and len(seen) == 6


def test_shards_hold_no_clock_and_no_owner(whole: Path) -> None:
    for path in (whole / "shards").glob("*.tar"):
        with tarfile.open(path) as tar:
            members = tar.getmembers()
        assert [(m.mtime, m.uid, m.gid, m.uname, m.mode) for m in members] == [(0, 0, 0, "", 0o644)] * len(members)
        names = [member.name.partition(".")[0] for member in members]
        assert names == sorted(names)


def test_the_card_states_the_facts(whole: Path) -> None:
    text = (whole / "README.md").read_text(encoding="utf-8")
    front = yaml.safe_load(text.split("---\n")[1])
    assert {item["config_name"] for item in front["configs"]} == {"manifest", "rejects", "places"}
    assert {"unknown", "other", "cc-by-4.0", "cc0-1.0", "cc-by-sa-3.0"} == set(front["license"])
    assert "10 clips at 10 places" in text and "from 12 items" in text
    assert "**4 clips have no licence that lets copies be passed on**" in text
    assert "| CC-BY-4.0 | 2 |" in text and "| unknown | 2 |" in text
    assert "| surplus | Do its place, country and uploader have room for it? |" in text
    assert "separation_km = 1" in text and "pip install" in text
    assert "| n faces near n | 5 |" in text and "Nearest clips of two splits" in text
    assert "| folder | 10 |" in text and "Africa" in text and "0.1 minutes" in text
    assert "<" not in text.replace("<b>", "")  # nothing was left to fill in


def test_credits_name_everyone_and_hold_no_formula(whole: Path) -> None:
    credits = pd.read_csv(whole / "CREDITS.csv")
    assert credits["attribution"].tolist() == [f"Ann | {number}" for number in range(10)]
    assert credits["title"][0] == '\'=cmd("x") and | more'


@pytest.mark.parametrize(
    ("licence", "free"),
    [
        ("CC-BY-4.0", True), ("cc by-nc-nd 2.0", True), ("CC0", True), ("public domain", True), ("PDM 1.0", True),
        ("unknown", False), ("", False), (None, False), (float("nan"), False), ("All rights reserved", False),
        ("no known copyright restrictions", False), ("my own licence", False),
    ],
)  # fmt: skip
def test_which_licences_let_copies_be_passed_on(licence, free) -> None:
    assert redistributable(licence) is free


# --- the same bytes ---


def test_a_second_run_changes_nothing_and_mends_what_differs(
    originals: dict[str, Path], whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    before = tree(out)
    shards = sorted((out / "shards").glob("*.tar"))
    stamps = {path: path.stat().st_mtime_ns for path in [*shards, *(out / "media").iterdir()]}
    damaged = [shards[0], sorted((out / "media").iterdir())[0]]
    for path in damaged:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(bytes(data))
    shards[1].unlink()
    (out / "shards" / "train-999999.tar").write_bytes(b"old")
    (out / "shards" / "test-000000.tar.partial").write_bytes(b"killed")
    (out / ".work" / "strip" / ".strip-xyz").mkdir(parents=True)
    (out / ".work" / "strip" / ".strip-xyz" / "copy.mp4").write_bytes(b"killed")
    (out / "media" / "gone-0123456789ab.mp4").write_bytes(b"of an earlier run")
    earlier = {"media/gone-0123456789ab.mp4": "0" * 64, "shards/train-999999.tar": "0" * 64}
    write_sums(out, read_sums(out)[0] | earlier)
    make(out, originals, copy=True, shards=True, shard_bytes=60_000)
    assert not [*(out / ".work").iterdir()] and tree(out) == before
    assert all(path.stat().st_mtime_ns == stamps[path] for path in stamps if path not in [*damaged, shards[1]])


def test_a_killed_run_goes_on(
    originals: dict[str, Path], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.replace
    for kill_at in (0, 3, 12, 15, 20):
        out = tmp_path / f"out-{kill_at}"
        left = [kill_at]

        def replace_or_die(self: Path, target: Path, left: list[int] = left) -> Path:
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            return real(self, target)

        monkeypatch.setattr(Path, "replace", replace_or_die)
        with pytest.raises(KeyboardInterrupt):
            make(out, originals, copy=True, shards=True, shard_bytes=60_000)
        monkeypatch.setattr(Path, "replace", real)
        make(out, originals, copy=True, shards=True, shard_bytes=60_000)
        assert tree(out) == tree(whole)


def test_without_copies_the_manifest_points_at_the_originals(originals: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    make(out, originals)
    manifest = read_manifest(out)
    assert all(
        (out / path).samefile(originals[clip]) for clip, path in zip(manifest.clip_id, manifest.path, strict=True)
    )
    assert not (out / "media").exists() and not (out / "shards").exists()
    assert verify(out) == []


def test_unknown_licences_on_request(originals: dict[str, Path], tmp_path: Path) -> None:
    published = make(tmp_path, originals, shards=True, redistribute_unknown=True)
    assert published["clips_in_shards"] == 10 and published["withheld_from_shards"] == 0
    assert "at the request of whoever ran this" in (tmp_path / "README.md").read_text()
    assert verify(tmp_path) == []


def test_a_clip_without_a_file_is_an_error(originals: dict[str, Path], tmp_path: Path) -> None:
    table, rejects, summary, media, settings, _ = benchmark(originals)
    del media[table["clip_id"][3]]
    with pytest.raises(CurateError, match="media: no file is named for 1 clips"):
        publish(tmp_path, table, rejects, summary, media, settings)


# --- coarse coordinates ---


def test_coarse_folders_state_no_exact_place(originals: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    make(out, originals, replace(DEFAULT, coarsen_km=20.0), shards=True)
    manifest = read_manifest(out)
    assert manifest["accuracy_km"].max() < 40 and (manifest["accuracy_km"] > 0).all()
    assert not np.isclose(manifest["latitude_deg"] % 5, 0.1234, atol=0.005).any()
    for path, found in zip(manifest["path"], manifest["sha256"], strict=True):
        assert digest(out / path) == found
        assert not [place for place in read_locations(out / path) if place.fault is None]
        assert probe(out / path).kind == "video"
    stated = [path for path in originals.values() if any(x.fault is None for x in read_locations(path))]
    assert len(stated) == 5  # the originals do, and are as they were
    for name, data in tree(out).items():
        assert b"15.1234" not in data and b".5678" not in data, name
    reason = pd.read_parquet(out / "rejects.parquet")["reason"][1]
    assert reason == f"place {manifest['place_id'][0]} has 34 clips, 20 are taken; at …"
    assert manifest["clip_id"].tolist() == [f"clip-{digest(out / path)[:12]}" for path in manifest["path"]]
    assert pd.read_parquet(out / "rejects.parquet")["item"].tolist() == ["item-000001", "item-000002"]
    assert "Who follows the addresses (column url) finds what was coarsened" in (out / "README.md").read_text()
    assert verify(out) == []

    (out / "downloads").mkdir()
    _state(sorted((out / "media").iterdir())[0], "+15.1234+020.5678/")
    problems = verify(out)
    assert any("states coordinates" in problem for problem in problems)
    assert any(problem.startswith("downloads/: may hold exact coordinates") for problem in problems)


def test_what_cannot_be_stripped_is_named_beforehand(originals: dict[str, Path], tmp_path: Path) -> None:
    first, *others = originals
    odd = tmp_path / "odd.xyz"
    odd.write_bytes(originals[first].read_bytes())
    table, rejects, summary, media, settings, _ = benchmark(originals, replace(DEFAULT, coarsen_km=20.0))
    out = tmp_path / "out"
    with pytest.raises(CurateError, match=r"odd[.]xyz: .*cannot be removed"):
        publish(out, table, rejects, summary, media | {first: odd}, settings)
    stripped, failed = strip_media(media | {first: odd}, out)
    assert set(stripped) == set(others) and list(failed) == [first] and str(tmp_path) not in failed[first]
    publish(out, table[1:], rejects, summary, stripped, settings)
    assert sorted(path.name for path in (out / "media").iterdir()) == sorted(path.name for path in stripped.values())
    at_once = tmp_path / "at once"
    publish(at_once, table[1:], rejects, summary, media, settings)
    assert tree(at_once) == tree(out)


def test_places_that_become_one_cell_keep_names_of_their_own() -> None:
    table = pd.DataFrame({"place_id": ["+15.1234+020.5678", "+15.1500+020.5678"], "latitude_deg": [15.1234, 15.15],
                          "longitude_deg": 20.5678})  # fmt: skip
    rejects = pd.DataFrame(
        {"item": ["a"], "gate": "surplus", "reason": ["lies 0.84 km from a clip of place +15.1500+020.5678"]}
    )
    found, told, none = coarsened(table, rejects, None, 50.0)
    assert found["place_id"].nunique() == 2 and found["latitude_deg"].nunique() == 1 and none is None
    assert found["place_id"][1] == f"{found['place_id'][0]}-2" and found["place_id"][1] in told["reason"][0]


TELLING = [
    "At 52.123456 N 13.404954 E", "by me 52,123456, 13,404954", "52,31.12345X", "+521234.567+0131234.567X", "521234N",
    "34.08 N 118.25 W", "52°31'12\" N, 13°24' E", "home-52-123456", "52.520008", "−33.86 151.21", "+52.5+013.4/",
]  # fmt: skip


@pytest.mark.parametrize("text", TELLING)
@pytest.mark.parametrize("km", [10.0, 100.0, 500.0])
def test_texts_of_a_coarse_folder_tell_no_position(
    originals: dict[str, Path], tmp_path: Path, text: str, km: float
) -> None:
    table, _, _, _, _, places = benchmark(originals)
    table["title"], table["attribution"], table["original"] = text, f"Ann, {text}", [f"{text} {n}" for n in range(10)]
    table["clip_id"] = [f"home-52-123456-13-404954-{number:012x}" for number in range(10)]
    rejects = pd.DataFrame({"item": f"{text}.jpg", "gate": ["coordinates", "duplicate", "captions"], "also": ""})
    rejects["reason"] = [f"quicktime: {text!r}", f"same bytes as {text}.jpg", f"says {text}"]
    found, told, _ = coarsened(table, rejects, places, km)
    assert told["reason"][0] == WITHHELD and told["reason"][1] == "same bytes as another item"
    wrote = [*found["title"], *found["attribution"], *found["original"], *told["item"], *told["reason"]]
    for digits in ("1234", "404954", "12", "08", "520008", "86", "5+", "34"):
        assert not [line for line in map(str, wrote) if digits in line and "-000" not in line], digits
    assert found["attribution"].str.startswith("Ann, ").all() and found["original"].nunique() == 10


@pytest.mark.parametrize("text", ["Rue de l'Est, 12 rue X", "34 clips, 20 are taken", "2024-05-01", "CC BY", "1 face"])
def test_other_texts_stay(text: str) -> None:
    assert scrub(text) == text


def test_files_of_others_are_left_alone(originals: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    for folder, name in (
        ("media", "123e4567-e89b-12d3-a456-426614174000.jpg"), ("media", "partial-thesis-0123456789ab.pdf"),
        ("shards", "backup-000001.tar"),
    ):  # fmt: skip
        (out / folder).mkdir(parents=True, exist_ok=True)
        (out / folder / name).write_text("mine")
    write_sums(out, {"media/123e4567-e89b-12d3-a456-426614174000.jpg": "0" * 64})  # a list, but no list of ours
    for ours in (False, True, False):
        make(out, originals, copy=ours, shards=ours)
        assert sorted(path.name for path in (out / "media").iterdir() if path.read_bytes() == b"mine") == [
            "123e4567-e89b-12d3-a456-426614174000.jpg", "partial-thesis-0123456789ab.pdf",
        ]  # fmt: skip
        assert (out / "shards" / "backup-000001.tar").read_text() == "mine"
    assert len(list((out / "media").iterdir())) == 2  # our own copies went


@pytest.mark.parametrize("km", [0.0, 20.0])
def test_nothing_is_written_through_a_link(originals: dict[str, Path], tmp_path: Path, km: float) -> None:
    out, victim = tmp_path / "out", tmp_path / "victim"
    settings = replace(DEFAULT, coarsen_km=km)
    make(out, originals, settings, copy=True)
    names = [path.name for path in (out / "media").iterdir()]
    shutil.rmtree(out)
    (out / "media").mkdir(parents=True)
    victim.write_text("mine")
    for name in names:
        (out / "media" / f"partial-{name}").symlink_to(victim)
        (out / "media" / name).symlink_to(victim)
    make(out, originals, settings, copy=True)
    assert victim.read_text() == "mine" and not any((out / "media" / name).is_symlink() for name in names)
    (out / ".work").symlink_to(tmp_path)
    with pytest.raises(CurateError, match="is a link"):
        make(out, originals, settings, copy=True)
    assert victim.exists()


def test_a_killed_stripping_leaves_no_copy(
    originals: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, settings = tmp_path / "out", replace(DEFAULT, coarsen_km=20.0)
    left = out / ".work" / "strip" / ".strip-abc"
    left.mkdir(parents=True)
    (left / "copy.mp4").write_bytes(b"+15.1234+020.5678/")
    make(out, originals, settings)
    assert not left.parent.exists() and [*(out / ".work").iterdir()] == []  # which the caller made and removes
    (out / ".work").rmdir()
    assert verify(out) == []
    (out / "media" / ".strip-abc").mkdir()
    (out / "media" / ".strip-abc" / "copy.mp4").write_bytes(b"x")
    (out / ".work").mkdir()
    problems = verify(out)
    for name in (".work/: may hold", "media/.strip-abc/: may hold", "media/.strip-abc/copy.mp4: is not in"):
        assert any(problem.startswith(name) for problem in problems), problems


def test_of_clips_that_are_the_same_when_stripped_one_is_made(tmp_path: Path) -> None:
    media = {}
    for number in range(2):
        path = media[f"b-{number}"] = tmp_path / f"{number}.mp4"
        write_clip(path, np.full((3, 32, 48, 3), 90, np.uint8), 4, np.zeros(12_000, np.float32), 16_000)
        _state(path, f"+1{number}.1234+020.5678/")
    found, failed = strip_media(media, tmp_path / "out")
    assert list(found) == ["b-0"] and list(failed) == ["b-1"] and "same file as another" in failed["b-1"]


# --- every damage is found ---


def _rewrite(name: str, change: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[Path], object]:
    def damage(out: Path) -> None:
        change(pd.read_parquet(out / name)).to_parquet(out / name, index=False)

    return damage


def _flip(pattern: str) -> Callable[[Path], object]:
    def damage(out: Path) -> None:
        path = sorted(out.glob(pattern))[0]
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 0xFF
        path.write_bytes(bytes(data))

    return damage


def _report(**changes: object) -> Callable[[Path], object]:
    def damage(out: Path) -> None:
        report = json.loads((out / "report.json").read_text())
        (out / "report.json").write_text(json.dumps(report | changes))

    return damage


def _swap_splits(table: pd.DataFrame) -> pd.DataFrame:
    bob = table.index[table["uploader"] == "bob"]
    split = table.loc[bob[0], "split"]
    table.loc[bob[0], "split"] = "test" if split != "test" else "val"
    return table


def _first(column: str, value: object) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def change(table: pd.DataFrame) -> pd.DataFrame:
        table.loc[0, column] = value
        return table

    return change


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda out: (out / "SHA256SUMS").unlink(), "SHA256SUMS: is missing"),
        (lambda out: (out / "SHA256SUMS").write_bytes(b"\xff\x00 nonsense\n"), "lines are no digests"),
        (lambda out: (out / "SHA256SUMS").write_text(f"{'0' * 64}  ../../secret\n"), "outside this folder"),
        (lambda out: (out / "notes.txt").write_text("x"), "notes.txt: is not in SHA256SUMS"),
        (lambda out: (out / "README.md").unlink(), "README.md: is missing"),
        (lambda out: (out / "CREDITS.csv").write_text("x"), "CREDITS.csv: has changed"),
        (lambda out: (out / "manifest.parquet").unlink(), "no such manifest"),
        (lambda out: (out / "rejects.parquet").unlink(), "rejects.parquet: is missing"),
        (lambda out: (out / "report.json").unlink(), "report.json: is missing"),
        (lambda out: (out / "report.json").write_text("{"), "report.json: is no JSON"),
        (lambda out: (out / "report.json").write_text("[1]"), "report.json: holds no report"),
        (lambda out: (out / "croissant.json").unlink(), "croissant.json: is missing"),
        (lambda out: (out / "croissant.json").write_text('{"distribution": [1]}'), "describes no files"),
        (_report(kept=11), "kept is 11, the tables say 10"),
        (_report(by_gate={"media": 2}), "by_gate"),
        (_report(splits={}), "splits is {}"),
        (_flip("media/*"), "is not the file that the manifest's sha256"),
        (_flip("shards/*.tar"), "has changed since SHA256SUMS"),
        (lambda out: sorted((out / "media").iterdir())[0].unlink(), "is missing"),
        (lambda out: sorted((out / "media").iterdir())[0].write_bytes(b""), "is empty"),
        (lambda out: sorted((out / "shards").iterdir())[0].unlink(), "clips are in no shard"),
        (lambda out: sorted((out / "shards").iterdir())[0].write_bytes(b"garbage" * 200), "is no whole tar file"),
        (lambda out: (out / "shards" / "odd.tar").write_bytes(b""), "is no shard"),
        (
            lambda out: (s := sorted((out / "shards").iterdir()))[0].rename(s[0].with_name("test-000099.tar")),
            "belongs to",
        ),
        (
            lambda out: (
                (s := sorted((out / "shards").iterdir()))[0]
                .with_name("train-000099.tar")
                .write_bytes(s[0].read_bytes())
            ),
            "occur more than once",
        ),
        (_rewrite("manifest.parquet", _first("latitude_deg", 0.001)), "is not the manifest's row"),
        (_rewrite("manifest.parquet", lambda t: t.assign(latitude_deg=0.0, longitude_deg=0.0)), "null island"),
        (_rewrite("manifest.parquet", _first("longitude_deg", 999.0)), "longitude_deg must lie in"),
        (_rewrite("manifest.parquet", _first("split", "dev")), "'dev' is not one of"),
        (_rewrite("manifest.parquet", lambda t: t.drop(columns="place_id")), "add the missing columns place_id"),
        (_rewrite("manifest.parquet", lambda t: t.assign(path=t["path"][0])), "is the file of 10 clips"),
        (_rewrite("manifest.parquet", lambda t: t.assign(sha256=t["sha256"][0])), "content in more than one split"),
        (_rewrite("manifest.parquet", _swap_splits), "1 uploader in more than one split"),
        (_rewrite("manifest.parquet", lambda t: t.assign(licence="unknown")), "no licence to be passed on"),
        (_rewrite("rejects.parquet", lambda t: t.drop(columns="also")), "has no column also"),
        (_rewrite("rejects.parquet", _first("gate", "mood")), "gate 'mood' is not known"),
        (_rewrite("rejects.parquet", _first("reason", " ")), "1 items have no reason"),
        (_rewrite("rejects.parquet", lambda t: t.assign(item="a")), "occurs more than once"),
    ],
)
def test_every_damage_is_found(whole: Path, tmp_path: Path, damage: Callable[[Path], object], message: str) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    damage(out)
    problems = verify(out)
    assert any(message in problem for problem in problems), problems
    assert all("\n" not in problem and str(tmp_path) not in problem for problem in problems)


def _sealed(damage: Callable[[Path], object]) -> Callable[[Path], object]:
    """A change that all digests were made to agree with."""

    def lie(out: Path) -> None:
        damage(out)
        described = json.loads((out / "croissant.json").read_text())
        for item in described["distribution"]:
            if "sha256" in item:
                item["sha256"] = sha256(out / item["contentUrl"])
        (out / "croissant.json").write_text(json.dumps(described))
        write_sums(out, {name: sha256(out / name) for name in read_sums(out)[0]})

    return lie


def _leakage(out: Path) -> None:
    report = json.loads((out / "report.json").read_text())
    (out / "report.json").write_text(json.dumps(report | {"leakage": {}}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda out: (out / "CREDITS.csv").write_text("x"), "CREDITS.csv: does not hold the manifest's credits"),
        (lambda out: (out / "README.md").write_text(""), "does not say that there are 10 clips at 10 places"),
        (_leakage, "leakage: shared_places is None, the manifest says 0"),
        (_report(benchmark={"taken": {"clips": 9, "places": 10}}), "9 clips taken, the manifest says 10"),
        (_rewrite("places.parquet", lambda t: t.assign(taken=999)), "says 999 of 1 clips taken"),
        (_rewrite("places.parquet", _first("state", "surplus")), "surplus; the manifest has 1, taken"),
        (_rewrite("places.parquet", _first("place_id", "nowhere")), "places.parquet: has no row for +"),
        (_rewrite("places.parquet", lambda t: t.assign(latitude_deg=1.0)), "does not lie where"),
        (_rewrite("places.parquet", lambda t: t.drop(columns="found")), "places.parquet: has no column found"),
        (_rewrite("manifest.parquet", lambda t: t.assign(country="Narnia")), "not in 'Narnia'"),
        (_rewrite("manifest.parquet", lambda t: t.assign(duration_s=5e5)), "lasts 0.8 s, the manifest says 500000.0 s"),
        (_rewrite("manifest.parquet", lambda t: t.assign(kind="audio")), "is of kind video, the manifest says audio"),
    ],
)
def test_lies_that_all_digests_agree_with_are_found(
    whole: Path, tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    _sealed(damage)(out)
    problems = verify(out)
    assert any(message in problem for problem in problems), problems


def test_no_damage_makes_it_crash(whole: Path, tmp_path: Path) -> None:
    """Seeded: any file truncated, filled with noise or flipped gives problems, never an exception."""
    draw = random.Random(0)
    names = sorted(tree(whole))
    kinds: Counter[str] = Counter()
    for round_ in range(24):
        out = tmp_path / str(round_)
        shutil.copytree(whole, out)
        # Often all listings lie too, so that the parsers behind them get the bytes.
        name = draw.choice([*names, *["manifest.parquet", "rejects.parquet", "croissant.json", "report.json"] * 4])
        data = bytearray((out / name).read_bytes())
        kind = draw.choice(["cut", "noise", "flip", "empty"])
        kinds[kind] += 1
        if kind == "cut":
            data = data[: draw.randrange(len(data))]
        elif kind == "noise":
            data = bytearray(draw.randbytes(200))
        elif kind == "flip":
            for _ in range(20):
                data[draw.randrange(len(data))] = draw.randrange(256)
        else:
            data = bytearray()
        (out / name).write_bytes(bytes(data))
        assert verify(out), (name, kind)
        shutil.rmtree(out)
    assert len(kinds) == 4


def test_it_says_when_there_is_no_folder(tmp_path: Path) -> None:
    (problem,) = verify(tmp_path / "nowhere")
    assert "no such folder" in problem
    assert any("no such manifest" in line for line in verify(tmp_path))


def test_a_simulated_world_is_in_order_too(tmp_path: Path) -> None:
    from avgeo.world import simulate

    out = tmp_path / "world"
    simulate(WorldSettings(places=6, clips_per_place=1, duration_s=0.5, width=64, height=48, pool=150), 5, out)
    assert verify(out) == []
    clip = sorted((out / "media").rglob("*.mp4"))[0]
    clip.write_bytes(clip.read_bytes()[:-9])
    (problem,) = verify(out)
    assert problem.startswith(f"{clip.relative_to(out).as_posix()}: has changed")
