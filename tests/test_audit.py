"""The audit for shortcuts finds those that are planted, and none in the simulated world's files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from avgeo.clips import write_clip
from avgeo.profiles import WorldSettings
from avgeo.world.audit import GROUPS, audit_shortcuts, clip_features, measure
from avgeo.world.geography import WorldError
from avgeo.world.simulate import simulate


def corpus(places: int, clips: int, seed: int = 0) -> pd.DataFrame:
    """A table as `measure` makes it, with features of noise."""
    rng = np.random.default_rng(seed)
    place = np.repeat(np.arange(places), clips)
    latitude, longitude = np.degrees(np.arcsin(rng.uniform(-0.8, 0.8, places))), rng.uniform(-180, 180, places)
    table = pd.DataFrame({"place_id": place, "latitude_deg": latitude[place], "longitude_deg": longitude[place]})
    for name in ("container/tags", "size/bytes", "loudness/rms_db", "silence/share", "codec/audio_spread"):
        table[name] = rng.normal(size=len(table))
    return table


def test_noise_is_no_shortcut() -> None:
    found = audit_shortcuts(corpus(200, 3))
    assert list(found.index) == [*GROUPS, "all"]
    assert (found["bits_low"] <= 0).all() and (found["geoscore_gain_low"] <= 0).all()
    assert found.loc["size", "constant_median_km"] > 4000


@pytest.mark.parametrize("group", ["container", "size", "loudness", "silence", "codec"])
def test_a_planted_shortcut_is_found(group: str) -> None:
    """A feature that follows the longitude, under as much noise as signal: in its group and in no other."""
    table = corpus(600, 3)
    name = next(column for column in table if column.startswith(group))
    table[name] = table["longitude_deg"] / 104 + table[name]  # 104 deg: the spread of longitudes
    found = audit_shortcuts(table)
    assert found.loc[group, "bits_low"] > 0.02
    assert (found.drop(index=[group, "all"])["bits_low"] <= 0).all()
    assert found.loc[group, "median_km"] < found.loc[group, "constant_median_km"]


def test_features_that_identify_a_place_are_no_shortcut_across_places() -> None:
    """Folds keep a place's clips together: what only tells a place's clips from others does not pay."""
    table = corpus(200, 3)
    table["size/bytes"] = np.random.default_rng(1).permutation(200)[table["place_id"]].astype(float)
    assert audit_shortcuts(table).loc["size", "bits_low"] <= 0


def test_constants_predict_exactly_the_constant() -> None:
    table = corpus(40, 2)
    table["size/bytes"] = 7.0
    row = audit_shortcuts(table).loc["size"]
    assert (
        row["varying"] == 0
        and row["bits"] == row["geoscore_gain"] == 0
        and row["median_km"] == row["constant_median_km"]
    )
    with pytest.raises(WorldError, match="9 places are too few"):
        audit_shortcuts(corpus(9, 2))


def test_features_see_what_they_are_named_after(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (4, 48, 64, 3), dtype=np.uint8)
    loud = (0.2 * rng.standard_normal(16_000)).astype(np.float32)
    gap = loud * (np.arange(16_000) < 8000)
    write_clip(tmp_path / "a.mp4", frames, 4, loud, 16_000)
    write_clip(tmp_path / "b.mp4", np.zeros_like(frames), 4, gap, 16_000)
    a, b = clip_features(tmp_path / "a.mp4"), clip_features(tmp_path / "b.mp4")
    assert {name.split("/")[0] for name in a} == set(GROUPS)
    assert a["loudness/rms_db"] == pytest.approx(-14, abs=0.5)
    assert a["loudness/rms_db"] - b["loudness/rms_db"] == pytest.approx(3, abs=0.3)
    assert a["silence/share"] == 0 and b["silence/share"] == pytest.approx(0.5, abs=0.1)
    assert a["filler/video_coded"] > 2 * b["filler/video_coded"]
    assert a["filler/audio_coded"] > 1.5 * b["filler/audio_coded"]
    for name in a:
        if name.startswith(("container", "size", "codec")):  # noise and blackness look alike from outside
            assert a[name] == b[name], name


@pytest.mark.parametrize(("places", "clips"), [(150, 2), pytest.param(600, 4, marks=pytest.mark.slow)])
def test_the_simulated_worlds_files_hold_no_shortcut(tmp_path: Path, places: int, clips: int) -> None:
    settings = WorldSettings(places=places, clips_per_place=clips, duration_s=0.5, width=64, height=48, pool=800)
    simulate(settings, 1, tmp_path / "w")
    table = measure(tmp_path / "w")
    found = audit_shortcuts(table)
    assert (found.loc[["container", "size", "codec"], "varying"] == 0).all()
    assert (found["varying"] > 0).sum() == 4  # loudness, silence, filler, all
    assert (found["bits_low"] <= 0).all() and (found["geoscore_gain_low"] <= 0).all()
    # the same files, were their size to tell the climate: the audit would say so
    sites = pd.read_parquet(tmp_path / "w" / "places.parquet").set_index("place_id")
    leaky = table.assign(
        **{"size/bytes": sites.loc[table["place_id"], "koppen"].astype("category").cat.codes.to_numpy()}
    )
    assert audit_shortcuts(leaky).loc["size", "bits_low"] > 0
