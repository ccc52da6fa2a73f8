"""AVG-Sim: writes a simulated Earth as ordinary MP4 clips beside the truth about what is in them.

A clip is planned first (moment, cues, onsets, levels: cheap, from the seed alone) and rendered afterwards,
so that an interrupted run can keep the media it has and still write the same tables.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from avgeo.clips import write_clip
from avgeo.engine import map_items
from avgeo.manifest import write_manifest
from avgeo.profiles import WorldSettings
from avgeo.world.cues import AUDIBLE, Moment, sample_cues, sample_moment, sun_position
from avgeo.world.geography import EARTH_RADIUS_KM, WorldError, build_places
from avgeo.world.scene import draw_frames
from avgeo.world.soundscape import mix

SETTINGS = "world.json"
JITTER_KM = 3.0
# Sources that last as long as the clip; the others begin and end somewhere inside it.
_STEADY = ("mains_hum", "rain", "insects", "frogs")
_SNR_DB = (12.0, 26.0)
_SHORTEST = 0.55  # of the clip


@dataclass(frozen=True)
class Event:
    """One cue in a clip: audible ones have an onset, an offset and an SNR, visible ones last all along."""

    modality: str
    cue: str
    value: str
    onset_s: float
    offset_s: float
    snr_db: float


@dataclass(frozen=True)
class ClipPlan:
    """Everything about a clip but its pixels and samples; `seed` feeds their generators."""

    clip_id: str
    place: dict[str, Any]
    latitude_deg: float
    longitude_deg: float
    moment: Moment
    events: tuple[Event, ...]
    seed: tuple[int, int, int]


def plan_clip(place: dict[str, Any], settings: WorldSettings, seed: int, number: int) -> ClipPlan:
    """The plan of a place's `number`-th clip; depends on its arguments alone."""
    place_number = int(place["place_id"].rsplit("-", 1)[1])
    key = (seed, 1 + place_number, number)
    rng = np.random.default_rng(key)
    moment = sample_moment(rng)
    events = []
    for cue, value in sample_cues(place, moment, rng).items():
        if cue not in AUDIBLE:
            events.append(Event("visible", cue, value, 0.0, settings.duration_s, math.nan))
            continue
        length_s = settings.duration_s * (1.0 if cue in _STEADY else rng.uniform(_SHORTEST, 1.0))
        onset_s = rng.uniform(0, settings.duration_s - length_s) if length_s < settings.duration_s else 0.0
        snr_db = rng.uniform(*_SNR_DB)
        events.append(Event("audible", cue, value, round(onset_s, 3), round(onset_s + length_s, 3), round(snr_db, 2)))
    distance, bearing = JITTER_KM * math.sqrt(rng.random()), rng.uniform(0, 2 * math.pi)
    north_deg = math.degrees(distance * math.cos(bearing) / EARTH_RADIUS_KM)
    east_deg = math.degrees(distance * math.sin(bearing) / EARTH_RADIUS_KM)
    latitude = place["latitude_deg"] + north_deg
    longitude = place["longitude_deg"] + east_deg / math.cos(math.radians(place["latitude_deg"]))
    return ClipPlan(
        clip_id=f"sim{seed}-{place_number:05d}-{number:03d}",
        place=place,
        latitude_deg=round(latitude, 6),
        longitude_deg=round((longitude + 180) % 360 - 180, 6),
        moment=moment,
        events=tuple(events),
        seed=key,
    )


def render_sound(plan: ClipPlan, settings: WorldSettings) -> np.ndarray:
    """The sound track of a plan: float32 (samples,), the same bytes on every run."""
    audible = [(e.cue, e.value, e.onset_s, e.offset_s, e.snr_db) for e in plan.events if e.modality == "audible"]
    return mix(audible, settings.duration_s, settings.sample_rate_hz, np.random.default_rng((*plan.seed, 1)))


def render_frames(plan: ClipPlan, settings: WorldSettings) -> np.ndarray:
    """The frames of a plan: uint8 (duration_s * fps, height, width, 3)."""
    visible = {e.cue: e.value for e in plan.events if e.modality == "visible"}
    sun = sun_position(plan.moment.local(plan.place), plan.place["latitude_deg"], plan.place["longitude_deg"])
    count = max(1, round(settings.duration_s * settings.fps))
    rng = np.random.default_rng((*plan.seed, 2))
    return draw_frames(visible, sun, count, settings.width, settings.height, rng)


def is_complete(path: Path) -> bool:
    """Whether `path` is an MP4 whose boxes are all there and end where the file ends (nothing is decoded)."""
    if not path.is_file():
        return False
    size, at, boxes = path.stat().st_size, 0, set()
    with path.open("rb") as file:
        while at + 8 <= size:
            file.seek(at)
            length, name = struct.unpack(">I4s", file.read(8))
            if length < 8:  # 64-bit and open-ended boxes: `write_clip` makes neither
                return False
            boxes.add(name)
            at += length
    return at == size and {b"ftyp", b"moov", b"mdat"} <= boxes


def _render(job: tuple[ClipPlan, WorldSettings, str]) -> bool:
    """Write one clip unless it is there; True when it was written."""
    plan, settings, path = job
    if is_complete(Path(path)):
        return False
    write_clip(
        path,
        render_frames(plan, settings),
        settings.fps,
        render_sound(plan, settings),
        settings.sample_rate_hz,
    )
    return True


def _claim(out: Path, settings: WorldSettings, seed: int) -> None:
    """Mark `out` as this world's folder; refuse a folder that holds another world."""
    mine = {"seed": seed, **asdict(settings)}
    file = out / SETTINGS
    if file.is_file():
        theirs = json.loads(file.read_text())
        changed = sorted(name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name))
        if changed:
            raise WorldError(f"out={out}: holds a world of another {', '.join(changed)}; choose or empty a folder")
    elif out.exists() and not out.is_dir():
        raise WorldError(f"out={out}: is a file; choose a folder")
    out.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(mine, indent=1) + "\n")


def _write_table(table: pd.DataFrame, path: Path) -> None:
    partial = path.with_name(path.name + ".partial")
    table.to_parquet(partial, index=False)
    partial.replace(path)


def simulate(
    settings: WorldSettings,
    seed: int,
    out: Path,
    workers: int = 1,
    clips_limit: int | None = None,
    engine: str = "process",
) -> pd.DataFrame:
    """Write the world of `settings` and `seed` to the folder `out`; returns its manifest.

    `manifest.parquet` and `media/*.mp4` are what a real corpus has; `truth.parquet` (one row per cue and
    clip) and `places.parquet` are what only a simulation knows. Complete media are kept on a second run;
    `workers` and `engine` (see `avgeo.engine`) change nothing but the time; `clips_limit` stops after that
    many clips, taken in rounds of places.
    """
    if workers < 1 or (clips_limit is not None and clips_limit < 1):
        raise WorldError(f"workers={workers} and clips_limit={clips_limit} must be at least 1")
    if settings.clips_per_place < 1 or settings.duration_s <= 0 or settings.fps < 1:
        raise WorldError("clips_per_place, duration_s and fps must be positive")
    _claim(out, settings, seed)
    places = build_places(settings, seed)
    records = places.to_dict("records")
    plans = [
        plan_clip({str(k): v for k, v in place.items()}, settings, seed, number)
        for number in range(settings.clips_per_place)
        for place in records
    ][:clips_limit]
    (out / "media").mkdir(exist_ok=True)
    jobs = [(plan, settings, str(out / "media" / f"{plan.clip_id}.mp4")) for plan in plans]
    for _ in map_items(_render, jobs, engine=engine, workers=workers, description="simulate", unit="clip"):
        pass
    manifest = pd.DataFrame(
        {
            "clip_id": plan.clip_id,
            "path": f"media/{plan.clip_id}.mp4",
            "latitude_deg": plan.latitude_deg,
            "longitude_deg": plan.longitude_deg,
            "recorded_at": plan.moment.local(plan.place).isoformat(),
            "duration_s": float(settings.duration_s),
            "place_id": plan.place["place_id"],
            "split": plan.place["split"],
            "source": "avg-sim",
            "url": None,
            "licence": "CC0-1.0",
            "attribution": "AVG-Sim (avgeo)",
        }
        for plan in plans
    )
    truth = pd.DataFrame(
        {"clip_id": plan.clip_id, **asdict(event), "source": f"{event.cue}:{event.value}"}
        for plan in plans
        for event in plan.events
    )
    columns = ["clip_id", "modality", "cue", "value", "source", "onset_s", "offset_s", "snr_db"]
    _write_table(pd.DataFrame(truth, columns=columns), out / "truth.parquet")
    _write_table(places, out / "places.parquet")
    write_manifest(manifest, out / "manifest.parquet")
    return manifest
