"""A simulated world on disk: contract, determinism, resumption."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from avgeo.clips import probe, read_audio, read_frames
from avgeo.manifest import read_manifest
from avgeo.profiles import WorldSettings
from avgeo.world import AUDIBLE, VISIBLE, build_places, plan_clip, render_sound, simulate

SMALL = WorldSettings(places=12, clips_per_place=2, duration_s=2.0, width=64, height=48, min_separation_km=100)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("world")
    simulate(SMALL, 3, out)
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_folder_holds_its_contract(world: Path) -> None:
    manifest = read_manifest(world)
    assert len(manifest) == 24 and set(manifest["licence"]) == {"CC0-1.0"} and set(manifest["source"]) == {"avg-sim"}
    places = pd.read_parquet(world / "places.parquet")
    truth = pd.read_parquet(world / "truth.parquet")
    assert set(manifest["place_id"]) == set(places["place_id"])
    merged = manifest.merge(places, on="place_id", suffixes=("", "_place"))
    assert (merged["split"] == merged["split_place"]).all()
    assert (manifest.groupby("place_id")["split"].nunique() == 1).all()  # no place in two splits
    assert (merged["latitude_deg"] - merged["latitude_deg_place"]).abs().between(1e-9, 0.03).all()
    offsets = pd.Series([pd.Timestamp(text).utcoffset() for text in manifest["recorded_at"]])
    assert offsets.notna().all() and offsets.nunique() > 3
    assert set(truth["modality"]) == {"audible", "visible"} and set(truth["clip_id"]) <= set(manifest["clip_id"])
    assert (truth["source"] == truth["cue"] + ":" + truth["value"]).all() and not (truth["value"] == "none").any()
    assert set(truth.loc[truth["modality"] == "audible", "cue"]) <= set(AUDIBLE)
    assert set(truth.loc[truth["modality"] == "visible", "cue"]) <= set(VISIBLE)
    audible = truth[truth["modality"] == "audible"]
    assert audible["snr_db"].between(10, 30).all() and truth.loc[truth["modality"] == "visible", "snr_db"].isna().all()
    assert ((truth["onset_s"] >= 0) & (truth["onset_s"] < truth["offset_s"]) & (truth["offset_s"] <= 2.0)).all()
    assert 2 <= audible.groupby("clip_id").size().mean() <= 6


def test_media_are_ordinary_and_sound_as_planned(world: Path) -> None:
    places = {row["place_id"]: row for row in build_places(SMALL, 3).to_dict("records")}
    for row in read_manifest(world).head(4).itertuples():
        path = world / str(row.path)
        info = probe(path)
        assert (info.video_codec, info.audio_codec, info.width, info.height) == ("h264", "aac", 64, 48)
        assert info.duration_s == pytest.approx(2.0, abs=0.1)
        assert read_frames(path, 2, 64, 48).std() > 5
        plan = plan_clip({str(k): v for k, v in places[row.place_id].items()}, SMALL, 3, int(row.clip_id[-3:]))
        assert plan.clip_id == row.clip_id
        written, planned = read_audio(path, 16_000), render_sound(plan, SMALL)
        assert len(written) == len(planned) and np.corrcoef(written, planned)[0, 1] > 0.9


def test_workers_change_nothing(world: Path, tmp_path: Path) -> None:
    """Not a byte: neither the sound nor the pictures nor the tables."""
    simulate(SMALL, 3, tmp_path / "w", workers=2)
    assert contents(tmp_path / "w") == contents(world)


def test_sound_depends_on_the_seed_alone() -> None:
    place = {str(k): v for k, v in build_places(SMALL, 3).to_dict("records")[0].items()}
    first, second = (render_sound(plan_clip(place, SMALL, 3, 0), SMALL) for _ in range(2))
    assert first.tobytes() == second.tobytes()
    assert render_sound(plan_clip(place, SMALL, 3, 1), SMALL).tobytes() != first.tobytes()
    assert render_sound(plan_clip(place, SMALL, 4, 0), SMALL).tobytes() != first.tobytes()


def test_a_second_run_mends_what_is_missing_or_cut(tmp_path: Path) -> None:
    out = tmp_path / "w"
    simulate(SMALL, 5, out, clips_limit=6)
    before = contents(out)
    files = sorted((out / "media").glob("*.mp4"))
    files[0].unlink()
    files[1].write_bytes(files[1].read_bytes()[:-500])
    files[2].write_bytes(b"")
    (out / "media" / (files[3].name + ".partial")).write_bytes(b"left by a crash")
    files[3].unlink()
    kept = files[4].stat().st_mtime_ns
    (out / "truth.parquet").unlink()
    simulate(SMALL, 5, out, clips_limit=6)
    assert contents(out) == before
    assert files[4].stat().st_mtime_ns == kept


def test_another_world_in_the_same_folder_is_refused(world: Path, tmp_path: Path) -> None:
    before = contents(world)
    with pytest.raises(ValueError, match="another seed"):
        simulate(SMALL, 4, world)
    assert contents(world) == before
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file"):
        simulate(SMALL, 4, tmp_path / "file")
    with pytest.raises(ValueError, match="clips_limit=0"):
        simulate(SMALL, 4, tmp_path / "w", clips_limit=0)
