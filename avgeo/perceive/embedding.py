"""A corpus embedded: its clips' frames of sound and thumbnails, in shards on disk; an interrupted run goes on.

A folder holds `features-00000.safetensors`, … (`sound`, the frames of consecutive clips, float16; `sight`, thumbnails),
`index.parquet` (where each clip lies), `failed.parquet` (clips that could not be embedded, with the reason) and
`embedding.json` (what was asked for). A shard is written whole or not at all and says in its header what it holds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float16
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from avgeo import engine as engines
from avgeo.clips import ClipError, probe, read_audio
from avgeo.manifest import write_parquet
from avgeo.paths import write_text
from avgeo.perceive.encoders import Encoder, EncoderError, get_encoder, sight_of
from avgeo.profiles import AtomSettings

SHARD_S = 1200.0
SHARD_CLIPS = 512
CLIP_LIMIT_S = 1800.0
_CARD, _INDEX, _FAILED, _HEADER = "embedding.json", "index.parquet", "failed.parquet", "clips"
_SHARD = "features-{:05d}.safetensors"


class EmbeddingError(ValueError):
    """An embedded corpus that cannot be made, continued or read; the message names the folder and the cure."""


@dataclass(frozen=True)
class _Job:
    path: Path
    encoder: str
    settings: AtomSettings
    max_s: float | None


@dataclass(frozen=True)
class _Result:
    """What became of a clip: its frames and thumbnails (empty without a picture), or why there are none."""

    sound: np.ndarray
    sight: np.ndarray
    reason: str | None = None


@lru_cache(maxsize=1)
def _encoder(name: str, settings: AtomSettings) -> Encoder:
    """One encoder in each process that embeds."""
    return get_encoder(name, settings)


def _embed(job: _Job) -> _Result:
    encoder = _encoder(job.encoder, job.settings)
    try:
        info = probe(job.path)
        audio = read_audio(job.path, encoder.sample_rate_hz, job.max_s)
        frames = encoder(torch.from_numpy(audio)).numpy()
        with np.errstate(over="ignore"):
            sound = frames.astype(np.float16)
        if not np.isfinite(sound).all():
            raise EncoderError(f"{job.path}: {job.encoder} gives frames beyond the range of float16")
        return _Result(sound, sight_of(job.path, job.settings) if info.has_video else _no_sight(job.settings))
    except (ClipError, EncoderError, OSError) as error:
        return _lost(job, str(error))


def _lost(job: _Job, reason: str) -> _Result:
    return _Result(np.empty((0, 0), np.float16), _no_sight(job.settings), " ".join(reason.split()))


def _no_sight(settings: AtomSettings) -> np.ndarray:
    return np.empty((0, settings.frame_height, settings.frame_width, 3), np.uint8)


def embed_corpus(
    manifest: pd.DataFrame,
    root: Path,
    settings: AtomSettings,
    out: Path,
    *,
    encoder: str = "log-mel",
    engine: str = "process",
    workers: int | None = None,
    shard_s: float = SHARD_S,
    complete: bool = False,
) -> Corpus:
    """Embed into `out` the sound of each clip of `manifest` (paths relative to `root`), and its sight where it has any.

    Resumes at the first shard that is missing; raises `EmbeddingError` when `out` was begun for another manifest,
    encoder or settings. A shard holds clips of at most `shard_s` seconds together, or one longer clip, which bounds the
    memory needed. A clip that cannot be embedded is listed with the reason in `failed.parquet`; with `complete`, an
    `EmbeddingError` is raised in the end when there is any. With one worker all is done in this process; with more, a
    clip that kills its worker or takes half an hour costs that worker alone.
    """
    engines.check_engine(engine)
    if not len(manifest):
        raise EmbeddingError("manifest: holds no clip; give one that does")
    if not shard_s > 0:
        raise EmbeddingError(f"shard_s={shard_s}: give the seconds of sound in one shard, more than 0")
    model = _encoder(encoder, settings)
    workers = workers or (1 if encoder.startswith("hf:") and torch.cuda.is_available() else engines.default_workers())
    out.mkdir(parents=True, exist_ok=True)
    _begin(out, manifest, settings, model, shard_s)
    plan = _plan(manifest["duration_s"].to_numpy(float), shard_s)
    missing = [number for number in range(len(plan)) if not (out / _SHARD.format(number)).is_file()]
    rows = [row for number in missing for row in plan[number]]
    paths, lengths = manifest["path"].tolist(), manifest["duration_s"].tolist()
    jobs = [_Job(root / paths[row], encoder, settings, lengths[row] or None) for row in rows]
    isolated = engine != "local" and workers > 1
    results = engines.map_items(
        _embed, jobs, engine=engine, workers=workers, description="embed", unit="clip",
        failed=_lost if isolated else None, time_limit_s=CLIP_LIMIT_S if isolated else None,
    )  # fmt: skip
    clip_id = manifest["clip_id"].tolist()
    for number in missing:
        clips = [clip_id[row] for row in plan[number]]
        _write(out / _SHARD.format(number), clips, list(islice(results, len(clips))), model.dim)
    if missing:
        next(results, None)  # lets the progress bar end
    _finish(out, len(plan))
    corpus = Corpus(out)
    if complete and len(corpus.failed):
        first = corpus.failed.iloc[0]
        raise EmbeddingError(
            f"{out}: {len(corpus.failed)} of {len(manifest)} clips cannot be embedded, first {first['clip_id']}: "
            f"{first['reason']}; mend them or take them out of the manifest, and delete this folder"
        )
    return corpus


def _plan(duration_s: np.ndarray, shard_s: float) -> list[range]:
    """The rows of each shard."""
    plan, start, total = [], 0, 0.0
    for row, seconds in enumerate(duration_s):
        if row > start and (total + seconds > shard_s or row - start >= SHARD_CLIPS):
            plan.append(range(start, row))
            start, total = row, 0.0
        total += seconds
    return [*plan, range(start, len(duration_s))]


def _begin(out: Path, manifest: pd.DataFrame, settings: AtomSettings, encoder: Encoder, shard_s: float) -> None:
    """Write down what is asked for, or see that an earlier run was asked for the same."""
    table = manifest[["clip_id", "path", "duration_s"]].to_csv(index=False)
    asked: dict[str, Any] = {
        "encoder": encoder.name, "dim": encoder.dim, "frame_s": encoder.frame_s,
        "sample_rate_hz": encoder.sample_rate_hz, "shard_s": shard_s, "settings": asdict(settings),
        "clips": len(manifest), "manifest": hashlib.sha256(table.encode()).hexdigest(),
    }  # fmt: skip
    if (out / _CARD).is_file():
        begun = _card(out)
        other = [name for name, value in asked.items() if begun.get(name) != value]
        if other:
            raise EmbeddingError(
                f"{out}: was begun with another {', '.join(other)} (its encoder is {begun.get('encoder')}); "
                "give another --out, or delete this folder"
            )
    elif list(out.glob(_SHARD.format(0).replace("00000", "*"))):
        raise EmbeddingError(f"{out}: holds features, but no {_CARD} says which; give another --out, or delete them")
    else:
        write_text(out / _CARD, json.dumps(asked, indent=1) + "\n")


def _card(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / _CARD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise EmbeddingError(f"{folder}: no embedded corpus there; make one with `avgeo embed`") from None


def _write(file: Path, clips: Sequence[str], results: Sequence[_Result], dim: int) -> None:
    """One shard: `sound` (frames, dim), `sight` (clips that have it, count, height, width, 3), and what lies where."""
    done = [(clip, result) for clip, result in zip(clips, results, strict=True) if result.reason is None]
    ends = np.cumsum([0, *(len(result.sound) for _, result in done)])
    seen = [result.sight for _, result in done if len(result.sight)]
    numbers = iter(range(len(seen)))
    header = {
        "done": [
            {"clip_id": clip, "offset": int(start), "count": len(result.sound),
             "sight": next(numbers) if len(result.sight) else -1}
            for (clip, result), start in zip(done, ends, strict=False)
        ],
        "failed": [
            {"clip_id": clip, "reason": result.reason}
            for clip, result in zip(clips, results, strict=True) if result.reason is not None
        ],
    }  # fmt: skip
    sound = np.concatenate([np.empty((0, dim), np.float16), *(result.sound for _, result in done)])
    sight = np.stack(seen) if seen else np.empty((0, *results[0].sight.shape), np.uint8)
    partial = file.with_name(file.name + ".partial")
    save_file({"sound": sound, "sight": sight}, partial, {_HEADER: json.dumps(header)})
    partial.replace(file)


def _finish(out: Path, shards: int) -> None:
    """Gather the shards' headers into `index.parquet` and `failed.parquet`."""
    card = _card(out)
    done, failed = [], []
    for number in range(shards):
        file = out / _SHARD.format(number)
        try:
            with safe_open(file, "numpy") as shard:
                header = json.loads(shard.metadata()[_HEADER])
        except (SafetensorError, OSError, TypeError, KeyError) as error:
            raise EmbeddingError(f"{file}: damaged ({error}); delete it and run the same again") from None
        done += [row | {"shard": number} for row in header["done"]]
        failed += header["failed"]
    columns = ["clip_id", "shard", "offset", "count", "sight"]
    index = pd.DataFrame(done, columns=pd.Index(columns)).astype(dict.fromkeys(columns[1:], "int64"))
    write_parquet(index.assign(frame_s=float(card["frame_s"]), encoder=card["encoder"]), out / _INDEX)
    write_parquet(pd.DataFrame(failed, columns=pd.Index(["clip_id", "reason"])), out / _FAILED)


@dataclass(frozen=True)
class Corpus:
    """An embedded corpus on disk. Rows count the clips that could be embedded, in the manifest's order."""

    folder: Path

    @cached_property
    def card(self) -> dict[str, Any]:
        """What was asked for: encoder, dim, frame_s, sample_rate_hz, settings and more."""
        return _card(self.folder)

    @cached_property
    def index(self) -> pd.DataFrame:
        """One row per clip: clip_id, shard, offset, count (of frames), sight (row in the shard, or -1), …"""
        return self._table(_INDEX)

    @cached_property
    def failed(self) -> pd.DataFrame:
        """Clips that could not be embedded: clip_id, reason."""
        return self._table(_FAILED)

    def frames_of(self, rows: Sequence[int] | np.ndarray | None = None) -> Iterator[Float16[np.ndarray, "time dim"]]:
        """The frames of these rows' sound (default: all) in the order given, read clip by clip; keep the order
        ascending, or shards are opened again and again."""
        for shard, row in self._read(rows):
            start = int(row["offset"])
            yield shard.get_slice("sound")[start : start + int(row["count"])]

    def load(self) -> Features:
        """All of it in memory; clips of unequal length are cut to the shortest."""
        if not len(self.index):
            raise EmbeddingError(f"{self.folder}: none of its clips could be embedded; see {_FAILED} there")
        blind = int((self.index["sight"] < 0).sum())
        if 0 < blind < len(self.index):
            raise EmbeddingError(
                f"{self.folder}: {blind} of {len(self.index)} clips have no picture; curate with "
                "--need sound,picture, or read the sound alone with Corpus.frames_of"
            )
        time = int(self.index["count"].min())
        settings = self.card["settings"]
        patches = np.empty((len(self.index), time, self.card["dim"]), np.float16)
        shape = (0 if blind else settings["frames"], settings["frame_height"], settings["frame_width"], 3)
        frames = np.empty((len(self.index), *shape), np.uint8)
        for at, (shard, row) in enumerate(self._read()):
            start = int(row["offset"])
            patches[at] = shard.get_slice("sound")[start : start + time]
            if not blind:
                frames[at] = shard.get_slice("sight")[int(row["sight"])]
        clips = self.index["clip_id"].tolist()
        return Features(clips, patches, frames, float(self.card["frame_s"]), str(self.card["encoder"]))

    def _read(self, rows: Sequence[int] | np.ndarray | None = None) -> Iterator[tuple[Any, dict[str, Any]]]:
        """Each row's open shard, and where in it the clip lies."""
        chosen = self.index if rows is None else self.index.iloc[np.asarray(rows, dtype=int)]
        records = chosen[["shard", "offset", "count", "sight"]].to_dict("records")
        at = 0
        while at < len(records):
            number = records[at]["shard"]
            with safe_open(self.folder / _SHARD.format(number), "numpy") as shard:
                while at < len(records) and records[at]["shard"] == number:
                    yield shard, {str(name): value for name, value in records[at].items()}
                    at += 1

    def _table(self, name: str) -> pd.DataFrame:
        if not (self.folder / name).is_file():
            raise EmbeddingError(f"{self.folder}: its embedding is not finished; run the same `avgeo embed` again")
        return pd.read_parquet(self.folder / name)


@dataclass(frozen=True)
class Features:
    """A corpus in memory: `patches` (clips, time, dim) float16, `frames` (clips, count, height, width, 3) uint8.

    `frames` has count 0 when no clip has a picture. One frame of sound stands for `frame_s` seconds.
    """

    clip_id: list[str]
    patches: np.ndarray
    frames: np.ndarray
    frame_s: float = 0.0
    encoder: str = "log-mel"

    @classmethod
    def load(cls, folder: Path) -> Features:
        """Read what `embed_corpus` wrote into `folder`, all of it."""
        return Corpus(folder).load()
