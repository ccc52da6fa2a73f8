"""A folder of clips: each file ends as a report or a named refusal, and what is done is not done again."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_curate_fuzz import mutated, originals

from avgeo.batch import BatchError, locate_all
from avgeo.clips import read_audio
from avgeo.locate import usable
from avgeo.report import html_report

HOSTILE = "<b onclick=x>&.wav"


def quick(file: Path, name: str, settings):
    """Reads a file as `locate` does, and says that it is in Null Island."""
    data = file.read_bytes()
    if data == b"kill":
        os._exit(7)
    usable(file, sight_only=settings["sight_only"])
    if not settings["sight_only"]:
        read_audio(file, 8000, 2.0)
    with (Path(settings["log"])).open("a") as log:
        log.write(name + "\n")
    located = {"estimate": {"latitude_deg": 0.0, "longitude_deg": 0.0}, "input": {"name": name}, "model": "AVG-Sim"}
    return located, html_report(located)


def wav(path: Path, seed: int) -> None:
    import wave

    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as out:
        out.setparams((1, 2, 8000, 0, "NONE", ""))
        out.writeframes(np.random.default_rng(seed).integers(-99, 99, 8000).astype("<i2").tobytes())


def test_a_folder_is_located_once_and_bad_files_are_named(tmp_path):
    clips, out = tmp_path / "clips", tmp_path / "clips" / "out"
    wav(clips / "a.wav", 1)
    wav(clips / "deep" / HOSTILE, 2)
    (clips / "broken.mp4").write_bytes(b"no film")
    (clips / "kill.wav").write_bytes(b"kill")
    settings = {"sight_only": False, "log": str(tmp_path / "log")}
    done = locate_all(clips, out, settings, locate_one=quick)
    assert done.located == 2 and done.kept == 0
    assert list(done.rejects["name"]) == ["broken.mp4", "kill.wav"]
    assert "exit status 7" in done.rejects["reason"][1] and str(tmp_path) not in done.rejects["reason"][0]
    page = done.index.read_text()
    assert "simulated Earth" in page
    assert "&lt;b onclick=x&gt;&amp;.wav" in page and "<b onclick" not in page and "broken.mp4" in page
    assert len(list(out.glob("clips/*/report.html"))) == len(list(out.glob("clips/*/where.json"))) == 2
    assert list(pd.read_csv(out / "rejects.csv")["name"]) == ["broken.mp4", "kill.wav"]

    wav(clips / "new.wav", 3)
    again = locate_all(clips, out, settings, locate_one=quick)
    assert again.located == 3 and again.kept == 3  # all but the new one and the one that killed its process
    assert sorted((tmp_path / "log").read_text().split("\n")) == ["", "a.wav", f"deep/{HOSTILE}", "new.wav"]
    (clips / "kill.wav").unlink()  # it would kill this process
    other = locate_all(clips, out, settings | {"seed": 1}, locate_one=quick, engine="local")
    assert other.kept == 0  # other settings, other results


def test_two_hundred_odd_files_each_end_as_a_report_or_a_named_refusal(tmp_path):
    rng, files = np.random.default_rng(0), originals()
    kinds = list(files)
    names = []
    for number in range(200):
        suffix = kinds[number % len(kinds)]
        other = files[kinds[int(rng.integers(len(kinds)))]]
        names.append(f"{number:03d}{suffix}")
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / names[-1]).write_bytes(mutated(suffix, files[suffix], other, rng))
    settings = {"sight_only": False, "log": str(tmp_path / "log")}
    done = locate_all(tmp_path / "in", tmp_path / "out", settings, locate_one=quick, time_limit_s=30)
    assert done.located + len(done.rejects) == 200
    assert done.rejects["reason"].str.len().min() > 5 and not (done.rejects["reason"] == "left no result").any()
    assert 0 < done.located < 200
    assert set(done.rejects["name"]) <= set(names)


def test_a_folder_without_files_is_an_error(tmp_path):
    with pytest.raises(BatchError, match="holds no file"):
        locate_all(tmp_path, tmp_path / "out", {})
    with pytest.raises(BatchError, match="is no folder"):
        locate_all(tmp_path / "none", tmp_path / "out", {})
