"""The command line as a user meets it: help, one-line errors, exit codes, files written, and nothing slow to start."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfiles
from PIL import Image
from tiny import TINY, pictures, silent_video, tiny

from avgeo import cli, doctor, profiles
from avgeo.clips import write_clip

RATE = 16_000
COMMANDS = (
    "simulate", "curate", "verify", "embed", "atoms", "train", "evaluate", "locate", "gallery", "serve", "book",
    "doctor",
)  # fmt: skip


@pytest.fixture
def avgeo(monkeypatch, capfd):
    """Run `avgeo ARGUMENTS` in this process: (exit status, stdout, stderr). Nothing may escape but SystemExit."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["avgeo", *map(str, arguments)])
        capfd.readouterr()
        try:
            cli.main()
            status = 0
        except SystemExit as stop:
            status = int(stop.code or 0)
        out, err = capfd.readouterr()
        return status, out, err

    return run


def one_line(result: tuple[int, str, str], *parts: str) -> None:
    """Assert that a command failed as it should: status 2, one line, which holds these parts."""
    status, out, err = result
    assert status == 2 and out == ""
    assert err.startswith("avgeo: error: ") and err.count("\n") == 1 and "Traceback" not in err, err
    for part in parts:
        assert part in err


def sound(seconds: float = 1.5) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.1, round(seconds * RATE)).astype(np.float32)


@pytest.fixture(scope="module")
def media(tmp_path_factory) -> Path:
    """A folder of good and bad files."""
    folder = tmp_path_factory.mktemp("media")
    write_clip(folder / "good clip ünï.mp4", pictures(), 4, sound(), RATE)
    whole = (folder / "good clip ünï.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "stub.mp4").write_bytes(whole[:600])
    (folder / "zero.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("this is not a film\n" * 40)
    (folder / "folder.mp4").mkdir()
    Image.fromarray(pictures(1)[0]).save(folder / "photo.png")
    frames = [Image.fromarray(picture) for picture in pictures()]
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:], duration=200)
    silent_video(folder / "silent.mp4")
    return folder


# --- help and start ---


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(avgeo, command):
    status, out, _ = avgeo(command, "--help")
    assert status == 0 and "Usage: avgeo" in out and "--help" in out


def test_help_lists_every_command(avgeo):
    status, out, _ = avgeo("--help")
    assert status == 0
    assert [name for name in COMMANDS if f" {name} " not in out] == []
    assert {command.name or command.callback.__name__ for command in cli.app.registered_commands} == set(COMMANDS)


@pytest.mark.parametrize("arguments", ["nonsense", "locate", "locate a.mp4 --seed -1", "train --what"])
def test_wrong_usage_is_status_2(avgeo, arguments):
    status, _, err = avgeo(*arguments.split())
    assert status == 2 and "Usage: avgeo" in err and "Traceback" not in err


def subprocess_of(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    code = "from avgeo.cli import main; main()"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **options)


def test_starting_imports_neither_torch_nor_transformers():
    code = (
        "import sys, avgeo; from avgeo import cli\n"
        "try: cli.app(['--help'])\n"
        "except SystemExit: pass\n"
        "print('LOADED', sorted({'torch', 'transformers', 'trl', 'av', 'cartopy', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip().endswith("LOADED []"), done.stdout


def test_as_a_process_an_error_is_one_line_and_status_2(media):
    done = subprocess_of("locate", media / "zero.mp4")
    one_line((done.returncode, done.stdout, done.stderr), "zero.mp4: is empty (0 bytes)")


def test_located_as_a_process_leaves_stderr_to_avgeo(media, tmp_path):
    """No library's progress bar or deprecation reaches the user."""
    file = media / "good clip ünï.mp4"
    done = subprocess_of("locate", file, "--model", tiny().model, "--json", tmp_path / "new" / "where is it.json")
    assert done.returncode == 0
    assert done.stderr == f"avgeo: wrote {tmp_path / 'new' / 'where is it.json'}\n"
    assert done.stdout.startswith("estimate  ") and "note: trained on a simulated Earth only" in done.stdout
    assert json.loads((tmp_path / "new" / "where is it.json").read_text("utf-8"))["input"]["name"] == file.name


def test_a_reader_that_goes_away_is_no_error(media):
    code = "from avgeo.cli import main; main()"
    command = [sys.executable, "-c", code, "curate", "--help"]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    os.close(writer)
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to send")
def test_ctrl_c_says_how_to_go_on(tmp_path):
    code = "from avgeo.cli import main; main()"
    arguments = ["simulate", "--out", str(tmp_path / "out"), "--places", "40", "--clips", "4000", "--workers", "1"]
    running = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # a runner in the background may itself ignore Ctrl-C, which children inherit
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        until = time.monotonic() + 60
        while not list(tmp_path.glob("out/media/*/*.mp4")) and time.monotonic() < until:
            time.sleep(0.1)
        for _ in range(20):  # one that lands inside FFmpeg can be lost, for a person too
            running.send_signal(signal.SIGINT)
            time.sleep(1)
            if running.poll() is not None:
                break
        _, err = running.communicate(timeout=60)
    finally:
        running.kill()
    assert running.returncode == 130
    assert err.splitlines()[-1] == "avgeo: interrupted; run the same command again to continue"
    assert "Traceback" not in err


# --- files that cannot be used ---

BAD = {
    "missing.mp4": "missing.mp4: no such file",
    "folder.mp4": "folder.mp4: is a directory",
    "zero.mp4": "zero.mp4: is empty (0 bytes)",
    "text.mp4": "text.mp4: ",
    "stub.mp4": "stub.mp4: ",
    "cut.mp4": "cut.mp4: ",
    "silent.mp4": "silent.mp4: has no sound",
    "photo.png": "photo.png: has no sound",
    "moving.gif": "moving.gif: has no sound",
}


@pytest.mark.parametrize(("name", "wrong"), BAD.items())
@pytest.mark.parametrize("command", ["locate", "atoms"])
def test_a_file_that_cannot_be_used_is_one_line(avgeo, media, command, name, wrong):
    one_line(avgeo(command, media / name, "--model", tiny().model), wrong)


def test_a_file_is_judged_before_any_model_is_looked_for(avgeo, media, tmp_path, monkeypatch):
    monkeypatch.setenv("AVGEO_CACHE", str(tmp_path / "none"))
    one_line(avgeo("locate", media / "silent.mp4", "--model", "here"), "--sight-only")
    one_line(avgeo("atoms", media / "zero.mp4"), "0 bytes")
    here = avgeo("locate", media / "good clip ünï.mp4", "--model", "here")
    one_line(here, "no model is trained here", "avgeo train --profile smoke")
    one_line(avgeo("locate", media / "good clip ünï.mp4", "--model", tmp_path), "no model.json")


def test_an_address_is_no_file(avgeo):
    one_line(avgeo("locate", "https://example.org/clip.mp4"), "is an address, not a file; download it")


def test_every_truncation_is_one_line_or_a_report(avgeo, media, tmp_path):
    whole = (media / "good clip ünï.mp4").read_bytes()
    fates = set()
    for share in (0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98):
        (tmp_path / "cut.mp4").write_bytes(whole[: int(len(whole) * share)])
        result = avgeo("locate", tmp_path / "cut.mp4", "--model", tiny().model)
        fates.add(result[0])
        if result[0]:
            one_line(result, "cut.mp4: ")
    assert 2 in fates


# --- other arguments that cannot be used ---


def test_unknown_profiles_sources_and_chapters_name_the_valid_ones(avgeo, media, tmp_path):
    for command in (("train",), ("book",), ("locate", media / "good clip ünï.mp4", "--model", "here")):
        one_line(avgeo(*command, "--profile", "huge"), "'huge'", "smoke, colab, full")
    one_line(avgeo("curate", media, "--out", tmp_path, "--source", "web"), "'web'", "folder")
    one_line(avgeo("curate", media, "--out", tmp_path, "--need", "smell"), "'smell'", "picture, sound")
    one_line(avgeo("book", "--chapters", "99"), "'99'", "06_locate")


def test_places_that_cannot_be_written_are_one_line(avgeo, media, tmp_path):
    file = tmp_path / "a file"
    file.write_text("mine")
    one_line(avgeo("simulate", "--out", file, "--clips", 1), "a file")
    one_line(avgeo("curate", media, "--out", tmp_path, "--without", "readable"), "'readable'", "captions")
    one_line(avgeo("curate", media, "--out", tmp_path, "--set", "loudness=3"), "'loudness=3'", "silence_dbfs")
    one_line(avgeo("curate", media, "--out", tmp_path, "--set", "min_side_px=much"), "min_side_px=much", "int")
    one_line(avgeo("curate", media, "--out", tmp_path, "--engine", "spark"), "'spark'", "process")
    one_line(avgeo("curate", "--explain", tmp_path / "gone.mp4"), "gone.mp4", "no such file")
    one_line(avgeo("curate", "cnt:peru", "--source", "xeno-canto", "--out", tmp_path), "XENO_CANTO_KEY")
    one_line(avgeo("curate", media, "--out", file / "below"), "a file")
    one_line(avgeo("curate", media, "--out", media / "inside"), "choose another")
    # these are told before any work is done: no model is loaded or trained here
    one_line(avgeo("train", "--out", file), "a file")
    one_line(avgeo("atoms", media / "good clip ünï.mp4", "--json", tmp_path), "Is a directory")
    clip = media / "good clip ünï.mp4"
    for option in ("--json", "--html", "--geojson"):
        for target in (tmp_path, file / "x"):
            one_line(avgeo("locate", clip, option, target), str(target if target == tmp_path else file))
    assert file.read_text() == "mine"
    assert not list(tmp_path.rglob("*.partial"))


def test_tables_that_cannot_be_scored_are_one_line(avgeo, tmp_path):
    truth, wrong, empty = tmp_path / "truth.csv", tmp_path / "wrong.csv", tmp_path / "empty.csv"
    pd.DataFrame({"clip_id": ["a"], "latitude_deg": [1.0], "longitude_deg": [2.0]}).to_csv(truth, index=False)
    pd.DataFrame({"clip_id": ["a"], "where": ["here"]}).to_csv(wrong, index=False)
    empty.write_text("")
    one_line(avgeo("evaluate", wrong, "--truth", truth), "latitude")
    one_line(avgeo("evaluate", truth, "--truth", wrong), "latitude")
    one_line(avgeo("evaluate", tmp_path / "none.csv", "--truth", truth), "none.csv")
    one_line(avgeo("evaluate", truth, "--truth", tmp_path), str(tmp_path))
    one_line(avgeo("evaluate", empty, "--truth", truth), "empty.csv")
    (tmp_path / "bad.parquet").write_text("no parquet")
    one_line(avgeo("evaluate", tmp_path / "bad.parquet", "--truth", truth), "bad.parquet")
    one_line(avgeo("evaluate", truth, "--truth", truth, "--split", "test"), "split")


def test_what_is_a_bug_keeps_its_traceback(avgeo, monkeypatch):
    """One line is for what a user can cure; anything else must not be hidden."""

    def broken():
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(doctor, "diagnose", broken)
    with pytest.raises(ZeroDivisionError):
        avgeo("doctor")


# --- commands that do their work ---


def test_the_analysts_own_clue_counts_and_a_misspelt_one_is_told(avgeo, media, tmp_path):
    clip, where = media / "good clip ünï.mp4", tmp_path / "where.json"
    status, out, _ = avgeo("locate", clip, "--hint", "country=KE", "--json", where)
    assert status == 0 and "hint: " in out
    located = json.loads(where.read_text())
    assert located["countries"][0]["name"] == "Kenya"
    assert any(item["detector"] == "hint" and item["bits"] > 1 for item in located["evidence"])
    one_line(avgeo("locate", clip, "--hint", "contry=KE"), "contry=KE", "country")


def test_a_coarse_answer_and_its_trail(avgeo, media, tmp_path):
    from avgeo.trail import unchanged

    audit, where = tmp_path / "audit.json", tmp_path / "where.json"
    hint = ("--hint", "near=-1.28,36.82,200")
    status, out, _ = avgeo(
        "locate", media / "good clip ünï.mp4", *hint, "--coarsen", 500, "--audit", audit, "--json", where
    )
    assert status == 0 and "36.82" not in out + where.read_text() + audit.read_text()
    trail = json.loads(audit.read_text())
    assert unchanged(trail) and not unchanged(trail | {"cells": 1})
    assert [item["detector"] for item in trail["taken"]].count("hint") == 1 and trail["settings"]["coarsen_km"] == 500
    one_line(avgeo("locate", media / "good clip ünï.mp4", "--coarsen", -1), "-1")


def test_locate_writes_what_it_is_asked_for(avgeo, media, tmp_path):
    clip, outputs = media / "good clip ünï.mp4", [tmp_path / name for name in ("a.json", "b.html", "c.geojson")]
    status, out, err = avgeo(
        "locate", clip, "--model", tiny().model, "--json", outputs[0], "--html", outputs[1], "--geojson", outputs[2]
    )
    assert status == 0 and [f"avgeo: wrote {path}" in err for path in outputs] == [True] * 3
    answer = json.loads(outputs[0].read_text("utf-8"), parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
    latitude, longitude = answer["estimate"]["latitude_deg"], answer["estimate"]["longitude_deg"]
    assert out.startswith(f"estimate  {latitude:.2f}, {longitude:.2f}")
    assert all(f"{place['probability']:.1%}  {place['name']}" in out for place in answer["places"])
    assert "metadata says" not in out and "tiny" in out
    assert outputs[1].read_text("utf-8").startswith("<!doctype html>")
    assert json.loads(outputs[2].read_text())["features"][-1]["geometry"]["coordinates"] == [longitude, latitude]
    again = avgeo("locate", clip, "--model", tiny().model)
    assert again[:2] == (0, out)


@pytest.mark.parametrize("name", ["silent.mp4", "photo.png", "moving.gif"])
def test_sight_only_locates_what_has_no_sound(avgeo, media, name):
    status, out, err = avgeo("locate", media / name, "--sight-only", "--model", tiny().model)
    assert (status, err) == (0, "") and "atoms heard\n  none" in out


def test_atoms_lists_and_writes_what_is_heard(avgeo, media, tmp_path):
    status, out, _ = avgeo("atoms", media / "good clip ünï.mp4", "--model", tiny().model, "--json", tmp_path / "a.json")
    atoms = json.loads((tmp_path / "a.json").read_text())
    assert status == 0 and atoms and len(out.splitlines()) == len(atoms)
    assert {"name", "start_s", "end_s", "strength"} <= set(atoms[0])


@pytest.mark.parametrize(
    ("name", "codec", "rate", "layout"),
    [
        ("a.wav", "pcm_s16le", 8000, "stereo"),
        ("b.wav", "pcm_s24le", 96_000, "stereo"),
        ("c.flac", "flac", 96_000, "mono"),
        ("d.mp3", "libmp3lame", 44_100, "stereo"),
        ("e.ogg", "libopus", 48_000, "stereo"),
        ("f.m4a", "aac", 44_100, "stereo"),
        ("g.mov", "aac", 22_050, "mono"),
        ("h.webm", "libopus", 48_000, "mono"),
    ],
)
def test_atoms_of_any_kind_of_file(avgeo, tmp_path, name, codec, rate, layout):
    """Two seconds of noise, one of near silence, one of noise: the pause is told from the noise in every format."""
    time = np.arange(4 * rate) / rate
    audio = np.random.default_rng(0).normal(0, 0.1, len(time)) * np.where((time >= 2) & (time < 3), 1e-3, 1)
    soundfiles.write(tmp_path / name, audio.astype(np.float32), rate, codec, layout)
    status, _, err = avgeo("atoms", tmp_path / name, "--model", tiny().model, "--json", tmp_path / "a.json")
    found = json.loads((tmp_path / "a.json").read_text())
    assert status == 0 and found and err == f"avgeo: wrote {tmp_path / 'a.json'}\n"
    assert all(0 <= atom["start_s"] < atom["end_s"] <= 4.01 and atom["strength"] > 0 for atom in found)
    # atoms begin and end everywhere in noise, but nowhere so many as where it stops and where it begins again
    edges = np.array([atom[side] for atom in found for side in ("start_s", "end_s")])
    changes = np.histogram(edges, np.arange(1, 25) * 0.16 - 0.08)[0]
    two, three = changes[10:13].sum(), changes[16:19].sum()
    assert min(two, three) > 3 * np.median(changes)


def test_atoms_are_limited_drawn_and_nameless_where_they_have_no_name(avgeo, media, tmp_path):
    clip, options = media / "good clip ünï.mp4", ("--model", tiny().model)
    whole = avgeo("atoms", clip, *options)[1].splitlines()
    assert len(whole) > 2 and any(line.split()[-2] == "atom" and line.split()[-1].isdigit() for line in whole)
    strengths = [float(line.split()[line.split().index("s") + 1]) for line in whole]
    assert strengths == sorted(strengths, reverse=True)
    status, out, err = avgeo("atoms", clip, *options, "--limit", 2, "--png", tmp_path / "new" / "a.png")
    assert status == 0 and out.splitlines() == whole[:2] and err == f"avgeo: wrote {tmp_path / 'new' / 'a.png'}\n"
    with Image.open(tmp_path / "new" / "a.png") as picture:
        assert picture.width > 800 and len(set(picture.convert("L").resize((64, 64)).tobytes())) > 20
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.png"]
    short = avgeo("atoms", clip, *options, "--max-seconds", 0.5)[1].splitlines()
    assert short and max(float(line.split("-")[1].split()[0]) for line in short) <= 0.5
    one_line(avgeo("atoms", clip, *options, "--png", tmp_path), "Is a directory")


def test_all_of_a_long_file_is_heard(avgeo, tmp_path):
    audio = np.random.default_rng(0).normal(0, 0.1, 200 * RATE).astype(np.float32)
    soundfiles.write(tmp_path / "long.wav", audio, RATE)
    status, out, _ = avgeo("atoms", tmp_path / "long.wav", "--model", tiny().model)
    ends = [float(line.split("-")[1].split()[0]) for line in out.splitlines()]
    assert status == 0 and 199.5 < max(ends) <= 200


def test_a_silent_file_has_no_atoms(avgeo, tmp_path):
    soundfiles.write(tmp_path / "mute.wav", np.zeros(RATE, np.float32), RATE)
    one_line(avgeo("atoms", tmp_path / "mute.wav", "--model", tiny().model), "mute.wav: ", "digital silence")


def test_embed_writes_shards_and_says_what_failed(avgeo, tmp_path):
    world = tmp_path / "world"
    assert avgeo("simulate", "--out", world, "--places", 4, "--clips", 4, "--workers", 1, "--duration", 1)[0] == 0
    table = pd.read_parquet(world / "manifest.parquet")
    options = ("--out", tmp_path / "out", "--engine", "local")
    status, out, err = avgeo("embed", world, *options)
    assert status == 0 and out.startswith("embedded 4 of 4 clips with log-mel: 24 frames of 640, one per 0.16 s"), err
    index = pd.read_parquet(tmp_path / "out" / "index.parquet")
    assert index["clip_id"].tolist() == table["clip_id"].tolist()
    assert avgeo("embed", world / "manifest.parquet", *options)[1] == out
    (world / table["path"].iloc[1]).write_text("no film")
    again = ("--out", tmp_path / "again", "--engine", "local")
    status, out, err = avgeo("embed", world, *again)
    assert status == 0 and out.startswith("embedded 3 of 4 clips") and f"failed: 1, first {table['clip_id'][1]}" in out
    one_line(avgeo("embed", world, *options, "--encoder", "clap"), "unknown encoder 'clap'", "log-mel, birdnet, or hf:")
    one_line(avgeo("embed", world, *options, "--encoder", f"hf:{tmp_path / 'none'}"), "no such folder")
    one_line(avgeo("embed", tmp_path / "none", *options), "no such manifest")
    one_line(avgeo("embed", world, "--out", world / "manifest.parquet"), "manifest.parquet")
    table.assign(clip_id=[f"other{n}" for n in range(4)]).to_parquet(world / "manifest.parquet")
    one_line(avgeo("embed", world, *options), "begun with another manifest", "give another --out")
    for path in table["path"]:
        (world / path).write_text("no film")
    status, out, err = avgeo("embed", world, "--out", tmp_path / "none left", "--engine", "local")
    assert status == 1 and "embedded 0 of 4" in out and err.endswith("could be embedded\n")


def test_train_reuses_the_cache_and_writes_the_model(avgeo, tmp_path, monkeypatch):
    monkeypatch.setenv("AVGEO_CACHE", str(tiny().cache))
    wrong = replace(TINY, reason=replace(TINY.reason, policy="scratsch"))
    monkeypatch.setitem(profiles.PROFILES, "tiny", wrong)
    one_line(
        avgeo("train", "--profile", "tiny", "--out", tmp_path / "none"), "'scratsch' is neither scratch nor smollm2"
    )
    assert not (tmp_path / "none").exists()
    monkeypatch.setitem(profiles.PROFILES, "tiny", TINY)
    status, _, err = avgeo("train", "--profile", "tiny", "--out", tmp_path / "model")
    assert status == 0 and f"avgeo: model: {tmp_path / 'model'}" in err
    for stage in ("world", "atoms", "reasoner", "flow", "predictions"):
        assert str(getattr(tiny().study, stage).path) in err
    files = {path.relative_to(tiny().model): path.read_bytes() for path in tiny().model.rglob("*") if path.is_file()}
    made = {path.relative_to(tmp_path / "model"): path for path in (tmp_path / "model").rglob("*") if path.is_file()}
    assert set(files) == set(made)
    assert all(made[name].read_bytes() == content for name, content in files.items() if name.name != "model.json")


def test_simulate_curate_evaluate(avgeo, tmp_path):
    world = tmp_path / "world"
    status, _, err = avgeo("simulate", "--out", world, "--places", 8, "--clips", 12, "--workers", 1, "--seed", 3)
    assert status == 0 and "12 clips from 8 places" in err
    truth = pd.read_parquet(world / "manifest.parquet")
    assert len(truth) == 12 and truth["place_id"].nunique() == 8

    # the same media as a stranger's folder: the coordinates in a table beside them, and one file that is none
    table = truth.assign(filename=[Path(path).name for path in truth["path"]])
    shard = world / "media" / "0000"
    (shard / "notes.mp4").write_text("not a film")
    table[["filename", "latitude_deg", "longitude_deg"]].to_csv(shard / "index.csv", index=False)
    # in some clips of AVG-Sim nothing moves, in four seconds of some a train's horn is a chord
    still = ("--need", "picture,sound", "--without", "frozen,music")
    status, out, _ = avgeo("curate", shard, "--out", tmp_path / "curated", *still)
    assert status == 0 and out.startswith("kept 12 of 14") and "rejected by media: 1" in out
    found = pd.read_parquet(tmp_path / "curated" / "manifest.parquet")
    assert sorted(found["latitude_deg"].round(4)) == sorted(truth["latitude_deg"].round(4))

    truth[["clip_id", "latitude_deg", "longitude_deg"]].iloc[1:].to_csv(tmp_path / "p.csv", index=False)
    status, out, _ = avgeo(
        "evaluate", tmp_path / "p.csv", "--truth", world / "manifest.parquet", "--json", tmp_path / "m.json",
        "--bootstrap", 20,
    )  # fmt: skip
    metrics = json.loads((tmp_path / "m.json").read_text())
    assert status == 0 and "truth 12, missing 1" in out
    assert metrics["n_missing"] == 1 and metrics["accuracy"]["1"]["value"] == pytest.approx(11 / 12)
    assert metrics["median_km"]["value"] == pytest.approx(0, abs=1e-3)


def test_a_folder_without_any_place_is_status_1(avgeo, media, tmp_path):
    status, out, err = avgeo("curate", media, "--out", tmp_path / "out")
    assert status == 1 and out.startswith("kept 0 of 8") and "nothing in" in err and "Traceback" not in err
    assert len(pd.read_parquet(tmp_path / "out" / "rejects.parquet")) == 8  # folder.mp4 is walked, not an item


def test_doctor_is_healthy_here_and_ill_without_a_codec(avgeo, monkeypatch):
    status, out, _ = avgeo("doctor")
    assert status == 0 and "codecs      libx264, aac" in out and "MISSING" not in out
    monkeypatch.setenv("AVGEO_CACHE", str(tiny().cache))
    assert "2 world, 2 features, 1 atoms, 1 sights, 1 reasoner" in avgeo("doctor")[1]
    monkeypatch.setattr(doctor, "_CODECS", ("libx264", "no such codec"))
    status, out, _ = avgeo("doctor")
    assert status == 1 and "MISSING no such codec" in out


# --- real media ---


def test_a_real_video_is_located_and_its_metadata_only_told(avgeo, mirror, tmp_path):
    outputs = [tmp_path / name for name in ("k.json", "k.html", "k.geojson")]
    status, out, _ = avgeo(
        "locate", mirror / "video" / "karma.mp4", "--model", tiny().model,
        "--json", outputs[0], "--html", outputs[1], "--geojson", outputs[2],
    )  # fmt: skip
    assert status == 0 and "metadata says 33.1" in out and ", -117.3" in out and "not used above" in out
    answer = json.loads(outputs[0].read_text("utf-8"))
    assert answer["metadata_location"]["latitude_deg"] == pytest.approx(33.125, abs=0.01)
    assert answer["metadata_location"]["longitude_deg"] == pytest.approx(-117.331, abs=0.01)
    assert "Metadata says" in outputs[1].read_text("utf-8") and outputs[2].stat().st_size > 1000


def test_truncated_copies_of_a_real_video_never_crash(avgeo, mirror, tmp_path):
    whole = (mirror / "video" / "karma.mp4").read_bytes()
    for share in (0.001, 0.05, 0.4, 0.8, 0.999):
        (tmp_path / "karma.mp4").write_bytes(whole[: int(len(whole) * share)])
        result = avgeo("locate", tmp_path / "karma.mp4", "--model", tiny().model)
        if result[0]:
            one_line(result, "karma.mp4: ")


def test_real_videos_are_curated(avgeo, mirror, tmp_path):
    status, out, _ = avgeo("curate", "--source", "folder", mirror / "video", "--out", tmp_path / "out")
    assert status == 0 and out.startswith("kept 3 of 3")
    found = pd.read_parquet(tmp_path / "out" / "manifest.parquet")
    places = {Path(row["path"]).name: (row["latitude_deg"], row["longitude_deg"]) for _, row in found.iterrows()}
    assert places["karma.mp4"] == pytest.approx((33.125, -117.331), abs=0.01)
    assert places["max-heromode.mp4"] == pytest.approx((33.127, -117.327), abs=0.01)
    assert places["issue-515-java.mp4"] == pytest.approx((52.369, 6.676), abs=0.01)


def test_a_clip_is_explained_gate_by_gate(avgeo, media):
    status, out, err = avgeo("curate", "--explain", media / "good clip ünï.mp4", "--set", "silence_dbfs=0")
    assert status == 0 and err == ""
    verdicts = dict(line.split()[:2] for line in out.splitlines() if not line.startswith(" "))
    assert verdicts["silent"] == "CLOSED" and verdicts["readable"] == verdicts["clipped"] == "open"
    assert "thresholds: silence_dbfs 0" in out and "level_dbfs -20" in out


def test_what_was_published_is_verified_and_damage_is_named(avgeo, media, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "clip.mp4").write_bytes((media / "good clip ünï.mp4").read_bytes())
    (tmp_path / "in" / "metadata.csv").write_text("file_name,latitude,longitude\nclip.mp4,52.0,5.0\n")
    where = tmp_path / "out"
    options = ("--copy", "--engine", "local", "--without", "localisable")  # the clip is noise
    status, out, err = avgeo("curate", tmp_path / "in", "--out", where, *options)
    assert status == 0 and "kept 1 of 2" in out, err
    assert avgeo("verify", where)[0] == 0
    (medium,) = (where / "media").iterdir()
    medium.write_bytes(medium.read_bytes()[:-1])
    status, out, err = avgeo("verify", where)
    assert status == 1 and medium.name in out and "problem" in err
