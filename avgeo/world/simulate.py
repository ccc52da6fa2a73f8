"""AVG-Sim on disk: ordinary MP4 clips beside the truth about what is in them, made shard by shard.

A shard is the next `SHARD` clips, taken in rounds of places. It is one work item: it renders the media that are missing
and then writes its tables, in a folder that appears only when whole. At the end the shards' tables are streamed into
those of the world, and `SHA256SUMS` is written: a later run checks every file against it and mends what differs.
Everything follows from settings, seed and the number of clips, so that workers, engines, kills and resumption change no
byte; no process ever holds more than one shard.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from avgeo.artifacts import code_hash
from avgeo.clips import write_clip
from avgeo.engine import check_engine, map_items
from avgeo.paths import write_text
from avgeo.profiles import WorldSettings
from avgeo.world.geography import WorldError
from avgeo.world.integrity import SUMS, alone, damaged, is_complete, is_readable, write_sums, write_table
from avgeo.world.places import build_places
from avgeo.world.plan import clip_id, plan_clip, render_frames, render_sound
from avgeo.world.posterior import Likelihood
from avgeo.world.publish import CARD, CROISSANT, publish
from avgeo.world.soundscape import check_speech
from avgeo.world.truth import TABLES, posterior_table, shard_tables

SETTINGS = "world.json"
SHARD = 32
"""Clips in a shard."""
LONGEST_S = 600.0
_ROW_GROUP = 16  # shards in one row group of a finished table

STAGES = ("draw", "synthesise", "render", "encode", "posterior")


@dataclass(frozen=True)
class World:
    """What makes a world: its folder, settings, seed and number of clips."""

    out: Path
    settings: WorldSettings
    seed: int
    clips: int

    @property
    def shards(self) -> range:
        """The numbers of the shards."""
        return range(-(-self.clips // SHARD))

    def clips_of(self, shard: int) -> range:
        """The positions of a shard's clips."""
        return range(shard * SHARD, min((shard + 1) * SHARD, self.clips))

    def clip(self, position: int) -> tuple[int, int]:
        """(place, number) of the clip at a position: places take turns, in another order in every round."""
        number, turn = divmod(position, self.settings.places)
        return int(_turns(self.settings.places, self.seed, number)[turn]), number

    def media(self, position: int) -> Path:
        """Where a clip's file lies, relative to the folder."""
        return Path("media", f"{position // SHARD:04d}", f"{clip_id(self.seed, *self.clip(position))}.mp4")

    @property
    def files(self) -> list[str]:
        """Every file of the finished world but its checksums, relative to the folder."""
        tables = [f"{name}.parquet" for name in (*TABLES, "places")]
        return [SETTINGS, CARD, CROISSANT, *tables, *(self.media(clip).as_posix() for clip in range(self.clips))]

    def tables_of(self, shard: int) -> Path:
        """The folder of a shard's tables, there until the world is whole."""
        return self.out / "shards" / f"{shard:04d}"


@lru_cache(maxsize=64)
def _turns(places: int, seed: int, number: int) -> np.ndarray:
    """The order of the places in a round."""
    return np.random.default_rng([seed, 0, 4, number]).permutation(places)


@dataclass(frozen=True)
class Simulated:
    """What a run has done: clips in the world, clips rendered now, and CPU seconds by stage."""

    clips: int
    rendered: int
    seconds: dict[str, float]

    def __str__(self) -> str:
        if not self.rendered:
            return "nothing to render, every file is as its checksum says"
        per_clip = ", ".join(f"{stage} {1e3 * s / self.rendered:.0f}" for stage, s in self.seconds.items())
        speed = self.rendered / max(sum(self.seconds.values()), 1e-9)
        return f"{self.rendered} rendered, {speed:.1f} a second and core; ms a clip: {per_clip}"


def simulate(
    settings: WorldSettings,
    seed: int,
    out: str | os.PathLike[str],
    workers: int = 1,
    clips_limit: int | None = None,
    engine: str = "process",
) -> Simulated:
    """Write the world of `settings` and `seed` to the folder `out`, or what is missing of it.

    `manifest.parquet` and `media/` are what a real corpus has. Only a simulation knows the rest: `truth.parquet` (one
    row per cue and clip), `clips.parquet` (moment, sun, camera, seeds and the value of every cue), `posterior.parquet`
    (the exact posterior over the places, see `avgeo.world.posterior`) and `places.parquet`. `README.md` and
    `croissant.json` describe the folder. `workers` and `engine` (see `avgeo.engine`) change nothing but the time;
    `clips_limit` stops after that many clips, taken in rounds of places. Raises `WorldError` for bad arguments and for
    a folder that holds another world.
    """
    check_engine(engine)
    world = World(Path(out), settings, seed, _checked(settings, seed, workers, clips_limit))
    places = build_places(settings, seed)
    _claim(world)
    with alone(world.out / SETTINGS):
        return _run(world, places, workers, engine)


def _run(world: World, places: pd.DataFrame, workers: int, engine: str) -> Simulated:
    changed = damaged(world.out, world.files)
    if changed == []:
        return Simulated(world.clips, 0, dict.fromkeys(STAGES, 0.0))
    whole = changed is not None and not any(name.endswith(".parquet") for name in changed)
    (world.out / SUMS).unlink(missing_ok=True)
    for name in changed or ():
        (world.out / name).unlink(missing_ok=True)
    if not whole:
        write_table(pa.Table.from_pandas(places, preserve_index=False), world.out / "places.parquet")
    broken = [shard for shard in world.shards if not _finished(world, shard, whole)]
    sizes = [len(world.clips_of(shard)) for shard in broken]
    rendered = 0
    seconds: dict[str, float] = dict.fromkeys(STAGES, 0.0)
    job = partial(make_shard, world, whole)
    for count, spent in map_items(
        job, broken, engine=engine, workers=workers, description="simulate", unit="clip", sizes=sizes
    ):
        rendered += count
        for stage, cpu_s in spent.items():
            seconds[stage] += cpu_s
    if not whole:
        for name in TABLES:
            _stream(world, name)
    shutil.rmtree(world.out / "shards", ignore_errors=True)
    publish(world.out, world.seed, asdict(world.settings))
    write_sums(world.out, world.files)
    return Simulated(world.clips, rendered, seconds)


def _checked(settings: WorldSettings, seed: int, workers: int, clips_limit: int | None) -> int:
    """The number of clips, if the arguments make sense."""
    positive = {"workers": workers, "clips_limit": 1 if clips_limit is None else clips_limit}
    names = ("places", "clips_per_place", "duration_s", "sample_rate_hz", "width", "height", "fps")
    for name, value in (positive | {name: getattr(settings, name) for name in names}).items():
        if value <= 0:
            raise WorldError(f"{name}={value}: give a number above 0")
    if not math.isfinite(settings.duration_s) or settings.duration_s > LONGEST_S:
        raise WorldError(f"duration_s={settings.duration_s}: give {LONGEST_S:g} s or less")
    for name in ("width", "height"):
        if getattr(settings, name) % 2:
            raise WorldError(f"{name}={getattr(settings, name)}: give an even number, as H.264 needs")
    check_speech(settings.speech)
    if seed < 0:
        raise WorldError(f"seed={seed}: give 0 or more")
    clips = settings.places * settings.clips_per_place
    return clips if clips_limit is None else min(clips_limit, clips)


def _claim(world: World) -> None:
    """Mark the folder as this world's; refuse one that holds another world."""
    mine = {"generator": code_hash("clips", "world")[:16], "seed": world.seed, "clips": world.clips}
    mine |= asdict(world.settings)
    file = world.out / SETTINGS
    if file.is_file():
        try:
            theirs = json.loads(file.read_text())
        except ValueError:
            raise WorldError(f"out={world.out}: its {SETTINGS} is damaged; choose or empty a folder") from None
        changed = [
            f"{name} ({theirs.get(name)}, not {mine.get(name)})"
            for name in sorted(mine.keys() | theirs.keys())
            if mine.get(name) != theirs.get(name)
        ]
        if changed:
            raise WorldError(
                f"out={world.out}: holds a world of another {', '.join(changed)}; choose or empty a folder"
            )
    elif world.out.exists() and not world.out.is_dir():
        raise WorldError(f"out={world.out}: is a file; choose a folder")
    elif world.out.is_dir() and any(world.out.iterdir()):
        raise WorldError(f"out={world.out}: holds files but no world; choose or empty a folder")
    world.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(mine, indent=1) + "\n"
    if not file.is_file() or file.read_text() != text:  # not every time: another run may hold it
        write_text(file, text)


# --- one shard ---


def make_shard(world: World, whole: bool, shard: int) -> tuple[int, dict[str, float]]:
    """Render a shard's missing media and write its tables (not when the world's are `whole`).

    Returns how many clips were rendered, and CPU seconds by stage.
    """
    watch = _Stopwatch()
    settings = world.settings
    records = _records(world)
    (world.out / "media" / f"{shard:04d}").mkdir(parents=True, exist_ok=True)
    plans, rendered = [], 0
    for clip in world.clips_of(shard):
        place, number = world.clip(clip)
        plans.append(plan_clip(records[place], settings, world.seed, number))
        watch.lap("draw")
        path = world.out / world.media(clip)
        if not is_complete(path):
            for left in path.parent.glob(f"{path.name}.*.partial"):  # by a killed run
                left.unlink(missing_ok=True)
            sound = render_sound(plans[-1], settings)
            watch.lap("synthesise")
            frames = render_frames(plans[-1], settings)
            watch.lap("render")
            write_clip(path, frames, settings.fps, sound, settings.sample_rate_hz)
            watch.lap("encode")
            rendered += 1
    if not whole:
        folder = world.tables_of(shard)
        draft = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
        for old in folder.parent.glob(f"{folder.name}*"):
            shutil.rmtree(old)
        draft.mkdir(parents=True)
        paths = [world.media(clip).as_posix() for clip in world.clips_of(shard)]
        for name, table in shard_tables(plans, paths, settings).items():
            write_table(table, draft / f"{name}.parquet")
        watch.lap("draw")
        likelihood = _likelihood(world)
        watch.lap("")  # once per process, not per clip
        write_table(posterior_table(plans, likelihood), draft / "posterior.parquet")
        watch.lap("posterior")
        draft.replace(folder)
    return rendered, watch.seconds


class _Stopwatch:
    """CPU seconds by stage, of this process."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.process_time()

    def lap(self, stage: str) -> None:
        """Count the time since the last lap for `stage`, or for nothing."""
        now = time.process_time()
        if stage:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._last
        self._last = now


@lru_cache(maxsize=1)
def _records(world: World) -> list[dict[str, Any]]:
    """The places of a world as the folder has them, one dictionary each; read once per process."""
    places = pd.read_parquet(world.out / "places.parquet").to_dict("records")
    return [{str(name): value for name, value in place.items()} for place in places]


@lru_cache(maxsize=1)
def _likelihood(world: World) -> Likelihood:
    return Likelihood(pd.read_parquet(world.out / "places.parquet"))


# --- what is on disk ---


def _finished(world: World, shard: int, whole: bool) -> bool:
    """Whether a shard has its media and, unless the world's tables are `whole`, its own."""
    tables = whole or all(is_readable(world.tables_of(shard) / f"{name}.parquet") for name in TABLES)
    return tables and all(is_complete(world.out / world.media(clip)) for clip in world.clips_of(shard))


def _stream(world: World, name: str) -> None:
    """Join the shards' tables of one kind; a few shards at a time are in memory."""
    path = world.out / f"{name}.parquet"
    draft = path.with_name(path.name + ".partial")
    files = (world.tables_of(shard) / f"{name}.parquet" for shard in world.shards)
    writer = None
    for group in _batches(files, _ROW_GROUP):
        table = pa.concat_tables([pq.read_table(file) for file in group])
        writer = writer or pq.ParquetWriter(draft, table.schema, compression="zstd", write_page_checksum=True)
        writer.write_table(table)
    assert writer is not None  # a world has clips
    writer.close()
    draft.replace(path)


def _batches(items: Iterator[Path], size: int) -> Iterator[list[Path]]:
    while batch := list(itertools.islice(items, size)):
        yield batch
