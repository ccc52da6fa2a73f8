"""A folder becomes a manifest: each item is kept or rejected for a named reason; a rerun changes nothing."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from avgeo.clips import write_clip
from avgeo.curate import CurateError, CurateReport, curate, gates, journal, signals, sources
from avgeo.manifest import read_manifest
from avgeo.profiles import CurateSettings

HZ = 16_000


def curated(where: Path, out: Path, *, copy: bool = False, **changes: object) -> CurateReport:
    """In this process, so that tests can watch it."""
    return curate("folder", where, out, replace(CurateSettings(), **changes), copy=copy, engine="local")


def clip(path: Path, seed: int = 0, level: float = 0.3, seconds: float = 1.0) -> Path:
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 255, (int(4 * seconds), 64, 64, 3)).astype(np.uint8)
    samples = (level * rng.uniform(-1, 1, int(HZ * seconds))).astype(np.float32)
    write_clip(path, frames, 4, samples, HZ)
    return path


def wav(path: Path, seed: int = 0) -> Path:
    import wave

    with wave.open(str(path), "wb") as out:
        out.setparams((1, 2, HZ, 0, "NONE", ""))
        out.writeframes(np.random.default_rng(seed).integers(-9000, 9000, HZ).astype("<i2").tobytes())
    return path


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """One item or more for every gate."""
    where = tmp_path / "source"
    (where / "deep" / "er").mkdir(parents=True)
    clip(where / "good.mp4", 1)
    clip(where / "deep" / "far.mp4", 2)
    clip(where / "no-place.mp4", 3)
    clip(where / "hushed.mp4", 4, level=0)
    clip(where / "blink.mp4", 5, seconds=0.25)
    clip(where / "null.mp4", 6)
    wav(where / "song.wav")
    (where / "again.mp4").write_bytes((where / "good.mp4").read_bytes())
    whole = (where / "good.mp4").read_bytes()
    (where / "cut.mp4").write_bytes(whole[: len(whole) // 3])
    (where / "text.mp4").write_text("this is no video\n")
    (where / "empty.mp4").touch()
    (where / "notes.txt").write_text("hello")
    (where / ".hidden.mp4").write_text("x")
    clip(where / "x.mp4", 7).rename(where / "no-extension")
    Image.fromarray(np.random.default_rng(9).integers(0, 255, (6, 8, 3), np.uint8)).resize((64, 48)).save(
        where / "photo.jpg"
    )
    (where / "metadata.csv").write_text(
        "file_name,latitude,longitude,licence,recordist,url\n"
        "good.mp4,52.0,4.0,CC BY 4.0,Ann,https://example.org/1\nagain.mp4,52.0,4.0,,,\nhushed.mp4,52.0,4.0,,,\n"
        "blink.mp4,52.0,4.0,,,\nnull.mp4,0,0,,,\nsong.wav,-33.9,18.4,,,\ncut.mp4,52,4,,,\nphoto.jpg,52.001,4.001,,,\n"
        "text.mp4,52,4,,,\nempty.mp4,52,4,,,\nno-extension,10,20,,,\n"
    )
    (where / "deep" / "index.csv").write_text("path,lat,lon\ndeep/far.mp4,35.0,139.0\n")
    return where


EXPECTED_GATES = {
    "again.mp4": None, "blink.mp4": "duration", "cut.mp4": "readable", "deep/far.mp4": None,
    "deep/index.csv": "media", "empty.mp4": "readable", "good.mp4": "duplicate", "hushed.mp4": "silent",
    "metadata.csv": "media", "no-extension": None, "no-place.mp4": "coordinates", "notes.txt": "media",
    "null.mp4": "coordinates", "photo.jpg": None, "song.wav": None, "text.mp4": "readable",
}  # fmt: skip


def tree(folder: Path) -> dict[str, bytes]:
    names = ("manifest.parquet", "rejects.parquet", "report.json")
    return {name: (folder / name).read_bytes() for name in names}


def test_every_item_is_accounted_for(mixed: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in mixed.rglob("*")}
    report = curated(mixed, tmp_path / "out")
    manifest, rejects = read_manifest(report.manifest), pd.read_parquet(report.rejects)
    found = dict(zip(rejects["item"], rejects["gate"], strict=True))
    assert found == {item: gate for item, gate in EXPECTED_GATES.items() if gate}
    assert report.kept == len(manifest) == sum(gate is None for gate in EXPECTED_GATES.values())
    assert report.kept + report.rejected == len(EXPECTED_GATES)
    assert sum(report.by_gate.values()) == report.rejected
    reasons = dict(zip(rejects["item"], rejects["reason"], strict=True))
    assert "null island" in reasons["null.mp4"]
    assert reasons["good.mp4"] == "same bytes as again.mp4"
    assert "0 bytes" in reasons["empty.mp4"]
    assert all(reason and "\n" not in reason and str(mixed) not in reason for reason in reasons.values())
    for path in manifest["path"]:
        assert (report.manifest.parent / path).is_file()
    near = manifest.set_index("location_kind").loc["csv"]
    assert len(near) == report.kept
    together = manifest[manifest["latitude_deg"].between(51.9, 52.1)]
    assert len(together) == 2  # the clip and the photo, 130 m apart
    assert len(set(together["place_id"])) == len(set(together["split"])) == 1
    assert {path: path.stat().st_mtime_ns for path in mixed.rglob("*")} == before
    summary = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (summary["items"], summary["kept"], summary["by_gate"]) == (16, report.kept, report.by_gate)


def test_licence_and_credit_come_from_the_table(mixed: Path, tmp_path: Path) -> None:
    (mixed / "again.mp4").unlink()
    report = curated(mixed, tmp_path / "out", licence_required=True)
    (row,) = read_manifest(report.manifest).to_dict("records")
    assert (row["licence"], row["attribution"], row["url"]) == ("CC BY 4.0", "Ann", "https://example.org/1")
    assert report.by_gate["licence"] >= 4


def test_needing_both_modalities(mixed: Path, tmp_path: Path) -> None:
    report = curated(mixed, tmp_path / "out", need=("picture", "sound"))
    rejects = pd.read_parquet(report.rejects).set_index("item")
    assert rejects.loc["photo.jpg"].tolist() == ["streams", "has no sound", ""]
    assert rejects.loc["song.wav"].tolist() == ["streams", "has no picture", ""]
    assert report.kept == 3


def test_a_second_run_gives_the_same_bytes_and_decodes_nothing(
    mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    curated(mixed, tmp_path / "out")
    first = tree(tmp_path / "out")
    monkeypatch.setattr(journal, "examine", lambda *_: pytest.fail("an item was examined twice"))
    curated(mixed, tmp_path / "out")
    assert tree(tmp_path / "out") == first


@pytest.mark.parametrize("after", [0, 1, 7, 12])
def test_an_interrupted_run_goes_on(mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    curated(mixed, tmp_path / "whole")
    real, calls = gates.examine, []

    def dying(candidate: sources.Candidate, chosen: CurateSettings) -> gates.Examined:
        if len(calls) == after:
            raise KeyboardInterrupt
        calls.append(candidate.item)
        return real(candidate, chosen)

    monkeypatch.setattr(journal, "examine", dying)
    with pytest.raises(KeyboardInterrupt):
        curated(mixed, tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.parquet").exists()
    log = tmp_path / "out" / ".work" / "journal.jsonl"
    log.write_bytes(log.read_bytes()[:-3])  # the kill came in the middle of a line
    again: list[str] = []
    monkeypatch.setattr(journal, "examine", lambda one, chosen: again.append(one.item) or real(one, chosen))
    curated(mixed, tmp_path / "out")
    reached = [item for item, gate in EXPECTED_GATES.items() if gate != "media"]
    assert len(again) == len(reached) - max(after - 1, 0)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_a_changed_sidecar_is_noticed(mixed: Path, tmp_path: Path) -> None:
    curated(mixed, tmp_path / "out")
    (mixed / "deep" / "index.csv").write_text("path,lat,lon\ndeep/far.mp4,-35.00,139.0\n")
    manifest = read_manifest(curated(mixed, tmp_path / "out").manifest)
    assert -35.0 in set(manifest["latitude_deg"])
    assert 35.0 not in set(manifest["latitude_deg"])


def test_copying_media(mixed: Path, tmp_path: Path) -> None:
    report = curated(mixed, tmp_path / "out", copy=True)
    manifest = read_manifest(report.manifest)
    copies = [tmp_path / "out" / path for path in manifest["path"]]
    assert all(path.parent.name == "media" and gates.sha256(path) == digest
               for path, digest in zip(copies, manifest["sha256"], strict=True))  # fmt: skip
    stamps = [path.stat().st_mtime_ns for path in copies]
    copies[0].write_bytes(copies[0].read_bytes()[:-1])
    curated(mixed, tmp_path / "out", copy=True)
    assert gates.sha256(copies[0]) == manifest["sha256"][0]
    assert [path.stat().st_mtime_ns for path in copies][1:] == stamps[1:]


def test_what_cannot_be_curated(tmp_path: Path) -> None:
    empty, file = tmp_path / "empty", tmp_path / "file.mp4"
    empty.mkdir()
    file.touch()
    cases = [
        (lambda: curate("folder", tmp_path / "nowhere", tmp_path / "out"), "no such folder"),
        (lambda: curate("folder", file, tmp_path / "out"), "is a file"),
        (lambda: curate("folder", empty, tmp_path / "out"), "nothing in it"),
        (lambda: curate("cloud", tmp_path, tmp_path / "out"), "choose one of folder"),
        (lambda: curate("folder", tmp_path, tmp_path / "out"), "inside the source"),
        (lambda: curated(tmp_path, tmp_path.parent / "out", need=("smell",)), "picture, sound"),
        (lambda: curated(tmp_path, tmp_path.parent / "out", min_duration_s=-1.0), "min_duration_s"),
        (lambda: curated(tmp_path, tmp_path.parent / "out", without=("readable",)), "unknown gate"),
        (lambda: curate("folder", tmp_path, file), "cannot be made|inside the source"),
    ]
    for call, message in cases:
        with pytest.raises(CurateError, match=message) as raised:
            call()
        assert "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_nobody_elses_folder_is_written_into(mixed: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    (theirs / "media").mkdir(parents=True)
    (theirs / "thesis.txt").write_text("mine")
    with pytest.raises(CurateError, match="not of a curation"):
        curated(mixed, theirs)
    (theirs / "thesis.txt").unlink()
    report = curated(mixed, tmp_path / "out")
    with pytest.raises(CurateError, match="holds the source"):
        curate("manifest", report.manifest, tmp_path / "out")
    inside = tmp_path / "out" / "media"
    inside.mkdir(exist_ok=True)
    with pytest.raises(CurateError, match="holds the source"):
        curated(inside, tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "value"),
    [("separation_km", 0.0), ("places", 0), ("max_country_share", 0.0), ("coarsen_km", 6000.0),
     ("silence_dbfs", float("nan")), ("time_limit_s", float("inf")), ("test_fraction", 0.9), ("without", ("surplus",))],
)  # fmt: skip
def test_settings_are_refused_before_any_work(
    mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: object
) -> None:
    monkeypatch.setattr(journal, "examine", lambda *_: pytest.fail("an item was examined"))
    with pytest.raises(CurateError, match="surplus" if name == "without" else name):
        curated(mixed, tmp_path / "out", **{name: value})
    assert not (tmp_path / "out").exists()


def test_what_failed_in_passing_is_tried_again(mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk or a killed worker is not the file's fault; the same command later ends like any other."""
    curated(mixed, tmp_path / "whole")
    real = gates.examine
    monkeypatch.setattr(journal, "examine", lambda one, chosen: (_ for _ in ()).throw(OSError(28, "disk full")))
    report = curated(mixed, tmp_path / "out")
    assert report.kept == 0 and "disk full" in " ".join(pd.read_parquet(report.rejects)["reason"])
    monkeypatch.setattr(journal, "examine", real)
    curated(mixed, tmp_path / "out")
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


@pytest.mark.parametrize(
    "error", [MemoryError(), OSError(5, "I/O error"), signals.TooSlowError("takes longer than 1 s")]
)
def test_what_stops_the_decoder_may_be_the_machine(
    mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def stopped(*_: object) -> None:
        raise error

    monkeypatch.setattr(gates, "read_signals", stopped)
    assert curated(mixed, tmp_path / "out").by_gate["readable"] > 3
    monkeypatch.undo()
    assert curated(mixed, tmp_path / "out").kept == sum(gate is None for gate in EXPECTED_GATES.values())


def test_an_extra_that_is_installed_later_measures_what_was_skipped(
    mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    curated(mixed, tmp_path / "out")
    seen: list[str] = []
    real = gates.examine
    monkeypatch.setattr(journal, "examine", lambda one, chosen: seen.append(one.item) or real(one, chosen))
    monkeypatch.setattr(journal, "_LIBRARIES", (*journal._LIBRARIES, "pytest"))
    curated(mixed, tmp_path / "out")
    assert len(seen) == len([gate for gate in EXPECTED_GATES.values() if gate != "media"])


def test_only_rejects_still_gives_a_manifest(tmp_path: Path) -> None:
    where = tmp_path / "source"
    where.mkdir()
    (where / "a.txt").write_text("a")
    report = curated(where, tmp_path / "out")
    assert (report.kept, report.by_gate, report.places) == (0, {"media": 1}, 0)
    assert len(read_manifest(report.manifest)) == 0


def test_odd_directory_entries(tmp_path: Path) -> None:
    where = tmp_path / "source"
    (where / "a").mkdir(parents=True)
    (where / "a" / "loop").symlink_to(where)
    (where / "gone.mp4").symlink_to(tmp_path / "nothing")
    (where / "-rf; \n$(x).mp4").write_bytes(b"x")
    os.mkfifo(where / "pipe.mp4")
    with open(os.fsencode(where) + b"/caf\xe9.mp4", "wb") as file:
        file.write(b"x")
    found = {candidate.item: candidate.problem for candidate in sources.folder(where)}
    assert len(found) == 4
    assert found["gone.mp4"] == "broken link"
    assert found["pipe.mp4"] == "not a regular file"
    assert "UTF-8" in (found["caf\\xe9.mp4"] or "")
    report = curated(where, tmp_path / "out")
    assert (report.kept, report.rejected) == (0, 4)


@pytest.mark.parametrize(
    ("name", "kept", "by_gate"),
    [
        ("video", 3, {}),
        ("photo", 6, {"coordinates": 1}),
        ("xeno_canto", 29, {"media": 1, "duplicate": 1}),  # one recording was uploaded twice
        ("esc10", 0, {"media": 1, "coordinates": 400}),
    ],
)
def test_real_folders(name: str, kept: int, by_gate: dict[str, int], tmp_path: Path) -> None:
    mirror = os.environ.get("AVGEO_MIRROR")
    if not mirror:
        pytest.skip("AVGEO_MIRROR names no folder of real files")
    report = curate("folder", Path(mirror) / name, tmp_path / "out")
    assert (report.kept, report.by_gate) == (kept, by_gate)
    read_manifest(report.manifest)
