"""The cache: made once, made again when a setting, a table or the code changes, resumed when interrupted."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass

import pytest

from avgeo import artifacts, paths, profiles


@dataclass(frozen=True)
class Settings:
    size: int = 1


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("AVGEO_CACHE", str(tmp_path))


def test_made_once_and_again_when_anything_changes():
    made = []

    def make(out):
        made.append(out)
        (out / "x").write_text("x")

    first = artifacts.build("stage", make, settings=Settings(), seed=0)
    assert artifacts.build("stage", make, settings=Settings(), seed=0) == first and len(made) == 1
    assert (first.path / "x").read_text() == "x"
    others = [
        artifacts.build("stage", make, settings=Settings(2), seed=0),
        artifacts.build("stage", make, settings=Settings(), seed=1),
        artifacts.build("stage", make, settings=Settings(), seed=0, inputs={"up": first}),
        artifacts.build("stage", make, settings=Settings(), seed=0, code=("sphere",)),
        artifacts.build("stage", make, settings=Settings(), seed=0, tables=("country_cues.csv",)),
    ]
    assert len({item.key for item in [first, *others]}) == 6 and len(made) == 6
    card = others[2].card()
    assert card["inputs"] == {"up": first.key} and card["settings"] == {"size": 1} and card["versions"]["torch"]


def test_an_interrupted_stage_finds_its_own_work():
    def make(out):
        (out / "half").touch()
        if not (out / "again").exists():
            (out / "again").touch()
            raise KeyboardInterrupt
        (out / "done").touch()

    with pytest.raises(KeyboardInterrupt):
        artifacts.build("stage", make, settings=1, seed=0)
    with pytest.raises(artifacts.NotBuiltError, match="no stage"):
        artifacts.build("stage", make, settings=1, seed=0, only_find=True)
    finished = artifacts.build("stage", make, settings=1, seed=0)
    assert (finished.path / "done").exists() and (finished.path / "half").exists()
    assert artifacts.build("stage", make, settings=1, seed=0, only_find=True) == finished


def test_code_hash_sees_modules_and_packages():
    assert artifacts.code_hash("sphere") != artifacts.code_hash("flow") != artifacts.code_hash("flow", "sphere")
    assert artifacts.code_hash("flow", "sphere") == artifacts.code_hash("sphere", "flow")
    with pytest.raises(FileNotFoundError):
        artifacts.code_hash("no_such_module")


def test_paths_and_profiles():
    assert (paths.data_dir() / "country_cues.csv").is_file()
    assert set(profiles.PROFILES) == {"smoke", "colab", "full"}
    full = profiles.get_profile("full").world
    assert full.places * full.clips_per_place == 20_000  # the size of the paper's benchmark
    with pytest.raises(profiles.ProfileError, match="smoke, colab, full"):
        profiles.get_profile("smok")


def test_a_run_card_says_what_made_it(tmp_path):
    path = tmp_path / "results" / "run.json"
    asked = {"what": "a test", "command": "pytest", "settings": Settings(3), "seed": 7}
    with artifacts.run_card(path, **asked) as card:
        time.sleep(0.2)
        card["result"] = {"km": 12.5}
    card = json.loads(path.read_text())
    assert card["settings"] == {"size": 3} and card["seed"] == 7 and card["result"] == {"km": 12.5}
    assert card["seconds"] >= 0.2 and card["machine"]["cores"] >= 1 and "torch" in card["machine"]["versions"]
    assert card["commit"] == artifacts.commit() and list(card)[-1] == "result"
    with pytest.raises(RuntimeError), artifacts.run_card(tmp_path / "none.json", **asked):
        raise RuntimeError("the run failed")
    assert not (tmp_path / "none.json").exists()
