"""A simulated world on disk: contract, truth, determinism, kills, resumption."""

from __future__ import annotations

import math
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from pvlib.solarposition import get_solarposition

from avgeo.clips import probe, read_audio, read_frames
from avgeo.manifest import read_manifest
from avgeo.profiles import WorldSettings
from avgeo.world.audible import voices
from avgeo.world.cues import CUES, NONE
from avgeo.world.geography import WorldError
from avgeo.world.integrity import SUMS, alone, is_complete
from avgeo.world.plan import JITTER_KM, ClipPlan, plan_clip, render_frames, render_sound
from avgeo.world.posterior import Likelihood
from avgeo.world.simulate import SETTINGS, SHARD, STAGES, TABLES, simulate
from avgeo.world.visible import SUNS, class_of_sun, sun_class

# three shards, the last one and the last round of places partial
SMALL = WorldSettings(places=12, clips_per_place=7, duration_s=1.0, width=64, height=48, pool=400)
CLIPS = 75
SEED = 3


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("world") / "w"
    done = simulate(SMALL, SEED, out, clips_limit=CLIPS)
    assert (done.clips, done.rendered) == (CLIPS, CLIPS) and set(done.seconds) == set(STAGES)
    return out


def table(folder: Path, name: str) -> pd.DataFrame:
    return pd.read_parquet(folder / f"{name}.parquet")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def plans(folder: Path, count: int) -> list[ClipPlan]:
    """Plans of the first clips, made from the folder's places alone."""
    records = [{str(k): v for k, v in place.items()} for place in table(folder, "places").to_dict("records")]
    clips = table(folder, "clips").head(count)
    return [plan_clip(records[row.place_number], SMALL, SEED, row.clip_number) for row in clips.itertuples()]


# --- the contract ---


def test_the_folder_holds_its_contract(world: Path) -> None:
    manifest, places, truth = read_manifest(world), table(world, "places"), table(world, "truth")
    assert len(manifest) == CLIPS and len(places) == SMALL.places
    assert set(manifest["licence"]) == {"CC0-1.0"} and set(manifest["source"]) == {"avg-sim"}
    assert set(manifest["path"]) == {str(p.relative_to(world)) for p in world.rglob("*.mp4")}
    assert manifest["path"].str.match(r"media/000[0-2]/sim3-[0-9a-f]{12}\.mp4$").all()
    merged = manifest.merge(places, on="place_id", suffixes=("", "_place"))
    assert len(merged) == CLIPS and (merged["split"] == merged["split_place"]).all()  # no place in two splits
    north_km = 111.2 * (merged["latitude_deg"] - merged["latitude_deg_place"])
    east_km = 111.2 * (merged["longitude_deg"] - merged["longitude_deg_place"])
    away_km = np.hypot(north_km, east_km * np.cos(np.radians(merged["latitude_deg"])))
    assert away_km.between(0, JITTER_KM + 0.01).all() and away_km.max() > 2 and away_km.std() > 0.3
    assert manifest["recorded_at"].isna().all()  # its UTC offset would tell the longitude
    clips = table(world, "clips")
    offsets = pd.Series([pd.Timestamp(text).utcoffset() for text in clips["recorded_at"]])
    assert offsets.notna().all() and offsets.nunique() > 3
    assert (clips["recorded_at"].str[5:7].astype(int) == clips["month"]).all()

    assert list(truth) == ["clip_id", "modality", "cue", "value", "source", "onset_s", "offset_s", "snr_db"]
    assert {cue: CUES[cue].sense for cue in truth["cue"]} == dict(zip(truth["cue"], truth["modality"], strict=True))
    audible = truth[truth["modality"] == "audible"]
    assert audible["snr_db"].between(10, 30).all() and truth.loc[truth["modality"] == "visible", "snr_db"].isna().all()
    assert ((truth["onset_s"] >= 0) & (truth["onset_s"] < truth["offset_s"]) & (truth["offset_s"] <= 1.0)).all()
    assert audible["onset_s"].nunique() > 20
    spoken = truth["cue"] == "voice"
    assert spoken.any() and (truth["source"] == truth["cue"] + ":" + truth["value"])[~spoken].all()
    assert (truth["source"] == "voice:" + truth["value"].map(voices()))[spoken].all()


def test_rounds_of_places_and_shards(world: Path) -> None:
    clips = table(world, "clips")
    for start in range(0, CLIPS, SMALL.places):  # every place once in a round, in another order in each
        taken = clips["place_number"][start : start + SMALL.places]
        assert taken.is_unique and taken.tolist() != sorted(taken)
    assert clips["clip_number"].tolist() == [clip // SMALL.places for clip in range(CLIPS)]
    shards = table(world, "manifest")["path"].str.split("/").str[1].astype(int)
    assert shards.tolist() == [clip // SHARD for clip in range(CLIPS)]
    for name in TABLES:
        if name != "truth":
            assert table(world, name)["clip_id"].tolist() == clips["clip_id"].tolist()
    assert not (world / "shards").exists() and not list(world.rglob("*.partial"))


def test_the_cue_table_is_what_the_events_say(world: Path) -> None:
    clips, truth = table(world, "clips").set_index("clip_id"), table(world, "truth")
    assert not truth.duplicated(["clip_id", "cue"]).any()
    wide = (
        truth.pivot(index="clip_id", columns="cue", values="value")
        .reindex(index=clips.index, columns=list(CUES))
        .astype(object)
    )
    assert (wide.fillna(NONE) == clips[list(CUES)]).all(axis=None)
    assert 2 <= (truth["modality"] == "audible").sum() / CLIPS <= 7


def test_the_posterior_is_the_likelihoods(world: Path) -> None:
    clips, found = table(world, "clips"), table(world, "posterior")
    likelihood = Likelihood(table(world, "places"))
    assert (
        str(pq.read_schema(world / "posterior.parquet").field("both_log_p").type)
        == "fixed_size_list<element: float>[12]"
    )
    for row in range(0, CLIPS, 7):
        cues = {name: clips[name][row] for name in CUES if clips[name][row] != NONE}
        for sense, expected in likelihood.log_posterior(cues).items():
            log_p = np.array(found[f"{sense}_log_p"][row])
            np.testing.assert_allclose(log_p, expected, rtol=1e-6, atol=1e-6)
            p = np.exp(log_p.astype(float))
            assert p.sum() == pytest.approx(1, abs=1e-5)
            assert found[f"{sense}_p_true"][row] == pytest.approx(p[clips["place_number"][row]], abs=1e-6)
            bits = -(p[p > 0] * np.log2(p[p > 0])).sum()
            assert found[f"{sense}_entropy_bits"][row] == pytest.approx(bits, abs=1e-4)
    p_true = found[["sound_p_true", "sight_p_true", "both_p_true"]]
    assert (p_true > 0).all(axis=None) and p_true.mean().idxmax() == "both_p_true"


# --- the sun ---


def test_the_true_sun_is_an_independent_ephemeris_one(world: Path) -> None:
    """pvlib's NREL algorithm, at the coordinates and the time that the manifest states."""
    clips, manifest = table(world, "clips"), read_manifest(world)
    for row, clip in zip(clips.itertuples(), manifest.itertuples(), strict=True):
        sun = get_solarposition(pd.DatetimeIndex([row.recorded_at]), clip.latitude_deg, clip.longitude_deg).iloc[0]
        off = angle_between(row.sun_elevation_deg, row.sun_azimuth_deg, sun["elevation"], sun["azimuth"])
        assert off < 0.5, row.clip_id


def angle_between(elevation_a: float, azimuth_a: float, elevation_b: float, azimuth_b: float) -> float:
    (ea, aa), (eb, ab) = np.radians((elevation_a, azimuth_a)), np.radians((elevation_b, azimuth_b))
    return np.degrees(np.arccos(np.clip(np.sin(ea) * np.sin(eb) + np.cos(ea) * np.cos(eb) * np.cos(aa - ab), -1, 1)))


def test_the_picture_tells_the_suns_class_and_no_more(world: Path) -> None:
    clips = table(world, "clips")
    shown = clips[clips["sun"] != NONE]
    assert 0.5 < len(shown) / CLIPS < 1
    hidden = clips.loc[
        clips["sun"] == NONE, ["picture_sun_elevation_deg", "picture_sun_azimuth_deg", "camera_heading_deg"]
    ]
    assert hidden.isna().all(axis=None)
    heading = shown["camera_heading_deg"]
    assert heading.between(-180, 180, inclusive="left").all()
    turn = shown["picture_sun_azimuth_deg"] + heading - shown["sun_azimuth_deg"]
    assert np.allclose((turn + 180) % 360 - 180, 0, atol=1e-9)
    assert heading.abs().median() > 3  # the picture does not show the true sun
    classes = sun_class(shown["picture_sun_elevation_deg"].to_numpy(), shown["picture_sun_azimuth_deg"].to_numpy())
    assert [SUNS[index] for index in classes] == shown["sun"].tolist()


@pytest.mark.parametrize("name", ["low_N", "high_SW", "overhead", "twilight", "night"])
def test_the_pictures_sun_is_uniform_in_its_class(world: Path, name: str) -> None:
    from scipy.stats import kstest

    from avgeo.world.plan import _sun_in_class

    rng = np.random.default_rng(0)
    suns = [_sun_in_class(name, rng) for _ in range(2000)]
    (low, high), (start, stop) = class_of_sun(name)
    assert kstest([s.elevation_deg for s in suns], "uniform", (low, high - low)).pvalue > 0.01
    assert kstest([(s.azimuth_deg - start) % 360 for s in suns], "uniform", (0, stop - start)).pvalue > 0.01


# --- the media ---


def test_media_are_ordinary_and_sound_as_planned(world: Path) -> None:
    for row, plan in zip(read_manifest(world).head(4).itertuples(), plans(world, 4), strict=True):
        path = world / str(row.path)
        info = probe(path)
        assert (info.video_codec, info.audio_codec, info.width, info.height) == ("h264", "aac", 64, 48)
        assert info.duration_s == pytest.approx(1.0, abs=0.1)
        frames, planned_frames = read_frames(path, 4, 64, 48), render_frames(plan, SMALL)
        assert frames.std() > 5 and np.abs(frames.astype(float) - planned_frames).mean() < 12
        assert plan.clip_id == row.clip_id
        written, planned = read_audio(path, 16_000), render_sound(plan, SMALL)
        assert len(written) == len(planned) and np.corrcoef(written, planned)[0, 1] > 0.9


def test_all_files_have_one_size(world: Path) -> None:
    assert len({path.stat().st_size for path in world.rglob("*.mp4")}) == 1


# --- determinism ---


def test_two_runs_and_two_workers_agree(world: Path, tmp_path: Path) -> None:
    """Not a byte differs: neither the sound nor the pictures nor the tables."""
    done = simulate(SMALL, SEED, tmp_path / "w", workers=2, clips_limit=CLIPS)
    assert done.rendered == CLIPS and contents(tmp_path / "w") == contents(world)


def test_cues_and_samples_depend_on_the_seed_alone(world: Path) -> None:
    place = plans(world, 1)[0].place
    first, again = (plan_clip(place, SMALL, SEED, 0) for _ in range(2))
    assert first == again and render_sound(first, SMALL).tobytes() == render_sound(again, SMALL).tobytes()
    assert render_frames(first, SMALL).tobytes() == render_frames(again, SMALL).tobytes()
    for other in (plan_clip(place, SMALL, SEED, 1), plan_clip(place, SMALL, SEED + 1, 0)):
        assert render_sound(other, SMALL).tobytes() != render_sound(first, SMALL).tobytes()


def test_nothing_of_the_place_but_its_cues_enters_the_media(world: Path) -> None:
    """The same cues at the antipode, in another time zone: the same samples and pixels."""
    plan = plans(world, 1)[0]
    place = {**plan.place, "latitude_deg": -plan.place["latitude_deg"], "country_code": "XX", "koppen": "EF"}
    moved = replace(plan, place=place, moment=replace(plan.moment, month=13 - plan.moment.month), latitude_deg=0.0)
    assert render_sound(moved, SMALL).tobytes() == render_sound(plan, SMALL).tobytes()
    assert render_frames(moved, SMALL).tobytes() == render_frames(plan, SMALL).tobytes()


# --- kills and damage ---

_RUN = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_simulate import CLIPS, SEED, SMALL
from avgeo.world.simulate import simulate
if __name__ == "__main__":
    simulate(SMALL, SEED, Path(sys.argv[1]), workers=int(sys.argv[2]), clips_limit=CLIPS)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL to send")
@pytest.mark.parametrize(("workers", "kills"), [(1, 10), (2, 3)])
def test_killed_at_random_moments_and_resumed_it_is_the_same_world(
    world: Path, tmp_path: Path, workers: int, kills: int
) -> None:
    out, script = tmp_path / "w", tmp_path / "run.py"
    script.write_text(_RUN.format(tests=str(Path(__file__).parent)))
    command = [sys.executable, str(script), str(out), str(workers)]
    rng = np.random.default_rng(workers)
    for _ in range(kills):
        running = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        before, until = _progress(out), time.monotonic() + 30
        while _progress(out) == before and running.poll() is None and time.monotonic() < until:
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.15))
        running.send_signal(signal.SIGKILL)
        running.wait()
    kept = {path: path.stat().st_mtime_ns for path in out.rglob("*.mp4") if is_complete(path)}
    assert 5 <= len(kept) < CLIPS  # the kills came in the middle
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    assert contents(out) == contents(world)
    assert all(path.stat().st_mtime_ns == time_ns for path, time_ns in kept.items())


def _progress(out: Path) -> int:
    return sum(1 for _ in out.rglob("*.mp4"))


def test_a_second_run_mends_what_is_missing_or_cut(world: Path, tmp_path: Path) -> None:
    out = tmp_path / "w"
    simulate(SMALL, SEED, out, clips_limit=CLIPS)
    files = sorted((out / "media").rglob("*.mp4"))
    files[0].unlink()
    files[1].write_bytes(files[1].read_bytes()[:-500])
    files[2].write_bytes(b"")
    files[40].with_name(files[40].name + ".99999.partial").write_bytes(b"left by a crash")
    files[40].unlink()
    kept = files[4].stat().st_mtime_ns
    done = simulate(SMALL, SEED, out, clips_limit=CLIPS)
    assert done.rendered == 4 and contents(out) == contents(world) and files[4].stat().st_mtime_ns == kept

    (out / "truth.parquet").unlink()
    (out / "posterior.parquet").write_bytes((out / "posterior.parquet").read_bytes()[:-9])
    (out / "places.parquet").unlink()
    (out / "croissant.json").unlink()
    done = simulate(SMALL, SEED, out, clips_limit=CLIPS)
    assert done.rendered == 0 and contents(out) == contents(world)


def test_a_shard_cut_short_keeps_its_media(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the middle of the second shard."""
    module = sys.modules[simulate.__module__]  # the package exports the function under the module's name

    out, written = tmp_path / "w", []

    def interrupted(path: Path, *rest: object) -> None:
        if len(written) == SHARD + 5:
            raise KeyboardInterrupt
        written.append(path)
        write_clip(path, *rest)

    write_clip = module.write_clip
    monkeypatch.setattr(module, "write_clip", interrupted)
    with pytest.raises(KeyboardInterrupt):
        simulate(SMALL, SEED, out, clips_limit=CLIPS)
    assert (out / "shards" / "0000").is_dir() and not (out / "shards" / "0001").exists()
    assert not (out / "manifest.parquet").exists() and not list(out.rglob("*.partial"))
    monkeypatch.undo()
    assert simulate(SMALL, SEED, out, clips_limit=CLIPS).rendered == CLIPS - SHARD - 5
    assert contents(out) == contents(world)


def test_a_finished_world_is_left_alone(world: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in world.rglob("*.*") if path.suffix in (".mp4", ".parquet")}
    done = simulate(SMALL, SEED, world, clips_limit=CLIPS)
    assert done.rendered == 0 and "nothing to render" in str(done)
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.parametrize("name", [*(f"{name}.parquet" for name in TABLES), "places.parquet", "media", "README.md"])
def test_a_changed_byte_is_noticed_and_mended(world: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "w"
    shutil.copytree(world, out)
    file = sorted(out.rglob("*.mp4"))[10] if name == "media" else out / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)
    done = simulate(SMALL, SEED, out, clips_limit=CLIPS)
    assert done.rendered == (1 if name == "media" else 0) and contents(out) == contents(world)


def test_a_damaged_shard_of_a_half_made_world_is_made_again(world: Path, tmp_path: Path) -> None:
    out = tmp_path / "w"
    shutil.copytree(world, out)
    for name in (SUMS, "manifest.parquet"):
        (out / name).unlink()
    (out / "shards" / "0001").mkdir(parents=True)
    for name in TABLES:
        (out / "shards" / "0001" / f"{name}.parquet").write_bytes((world / f"{name}.parquet").read_bytes()[:-400])
    simulate(SMALL, SEED, out, clips_limit=CLIPS)
    assert contents(out) == contents(world)


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="no sha256sum on this machine")
def test_a_damaged_list_of_sums_condemns_nothing_and_certifies_nothing(world: Path, tmp_path: Path) -> None:
    out, bystander = tmp_path / "w", tmp_path / "bystander"
    shutil.copytree(world, out)
    bystander.write_text("mine")
    lines = (world / SUMS).read_text().splitlines(keepends=True)
    for text in (lines[0], "".join(lines) + "0  ../bystander\n", "no digests\n", "".join(lines[::-1])):
        (out / SUMS).write_text(text)
        (out / "truth.parquet").write_bytes(b"damaged")
        assert simulate(SMALL, SEED, out, clips_limit=CLIPS).rendered == 0
        assert contents(out) == contents(world) and bystander.read_text() == "mine"
    (out / SETTINGS).write_text((world / SETTINGS).read_text().replace(" ", ""))  # the same, laid out otherwise
    simulate(SMALL, SEED, out, clips_limit=CLIPS)
    assert contents(out) == contents(world)


def test_the_sums_are_those_of_sha256sum(world: Path) -> None:
    done = subprocess.run(["sha256sum", "--check", "--quiet", SUMS], cwd=world, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    listed = {line.partition("  ")[2] for line in (world / SUMS).read_text().splitlines()}
    assert listed == set(contents(world)) - {SUMS}


# --- refusals ---


@pytest.mark.skipif(sys.platform == "win32", reason="no such locks")
def test_two_runs_in_one_folder_are_refused(world: Path) -> None:
    with alone(world / SETTINGS), pytest.raises(WorldError, match="another run is writing here"):
        simulate(SMALL, SEED, world, clips_limit=CLIPS)


def test_a_refused_run_claims_nothing(tmp_path: Path) -> None:
    for settings, options, says in (
        (SMALL, {"engine": "fog"}, "unknown engine 'fog'"),
        (replace(SMALL, places=500), {}, "places=500"),
        (replace(SMALL, duration_s=math.inf), {}, "duration_s=inf"),
        (replace(SMALL, speech="song"), {}, "speech='song'"),
    ):
        with pytest.raises(ValueError, match=says):
            simulate(settings, SEED, tmp_path / "w", **options)
        assert not (tmp_path / "w").exists()
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / SETTINGS).write_text('{"seed"')
    with pytest.raises(WorldError, match="damaged"):
        simulate(SMALL, SEED, tmp_path / "w")


def test_another_world_in_the_same_folder_is_refused(world: Path, tmp_path: Path) -> None:
    before = contents(world)
    with pytest.raises(WorldError, match="another seed"):
        simulate(SMALL, SEED + 1, world, clips_limit=CLIPS)
    with pytest.raises(WorldError, match="another clips"):
        simulate(SMALL, SEED, world, clips_limit=CLIPS + 1)
    assert contents(world) == before
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(WorldError, match="holds files but no world"):
        simulate(SMALL, SEED, tmp_path)
    with pytest.raises(WorldError, match="is a file"):
        simulate(SMALL, SEED, tmp_path / "README.md")
    assert (tmp_path / "README.md").read_text() == "mine"


@pytest.mark.parametrize(
    ("change", "arguments", "says"),
    [
        ({}, {"clips_limit": 0}, "clips_limit=0"),
        ({}, {"workers": 0}, "workers=0"),
        ({}, {"seed": -1}, "seed=-1"),
        ({"duration_s": 0.0}, {}, "duration_s=0"),
        ({"fps": 0}, {}, "fps=0"),
        ({"width": 63}, {}, "width=63: give an even"),
        ({"clips_per_place": 0}, {}, "clips_per_place=0"),
    ],
)
def test_bad_arguments_are_named_before_anything_is_written(
    tmp_path: Path, change: dict, arguments: dict, says: str
) -> None:
    with pytest.raises(WorldError, match=says):
        simulate(replace(SMALL, **change), **{"seed": SEED, "out": tmp_path / "w", **arguments})
    assert not os.listdir(tmp_path)
