"""The smallest whole system: every stage of the pipeline, trained in seconds on 24 places, shared by the tests."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import av
import numpy as np
import transformers.utils.logging

from avgeo.pipeline import Pipeline
from avgeo.profiles import Profile, get_profile

STAGES = (
    "world",
    "features",
    "atoms",
    "sights",
    "atom_scores",
    "atlas",
    "reasoner",
    "proposals",
    "flow",
    "recalibration",
    "predictions",
    "ceiling",
)

_SMOKE = get_profile("smoke")
TINY: Profile = replace(
    _SMOKE,
    name="tiny",
    world=replace(_SMOKE.world, places=24, pool=120, clips_per_place=3, duration_s=1.5, width=64, height=48),
    # the bar for a name is so low that some atoms get one: what a name is worth is tested in test_perceive.py
    atoms=replace(
        _SMOKE.atoms, mels=32, atoms=32, epochs=4, batch=64, mixtures=8, name_auroc=0.3, frame_width=32,
        frame_height=24, sight_epochs=4, sight_batch=16,
    ),
    reason=replace(
        _SMOKE.reason, hidden=32, layers=1, heads=2, vocabulary=400, vision_hidden=16, vision_layers=1, image_px=32,
        patch_px=16, sft_steps=4, sft_batch=4, grpo_steps=1, grpo_prompts=2, grpo_generations=3, lora_rank=2,
        max_new_tokens=16,
    ),
    flow=replace(
        _SMOKE.flow, width=32, depth=2, condition=16, steps=150, batch=16, times_per_clip=4, learning_rate=5e-3,
        ema=0.9, solver_steps=8, samples=16,
    ),
    evaluate=replace(_SMOKE.evaluate, bootstrap=50, ceiling_clips=40, calibration_places=12),
)  # fmt: skip


@dataclass(frozen=True)
class Tiny:
    """A finished tiny system: its pipeline, the cache it lies in, and its exported model."""

    study: Pipeline
    cache: Path
    model: Path

    def media(self, split: str = "test", number: int = 0) -> Path:
        """The file of one of its clips."""
        row = self.study.rows_of(split)[number]
        return self.study.world.path / str(self.study.manifest["path"].iloc[row])


@cache
def tiny() -> Tiny:
    """Build all of it, once per process, in this process, into a temporary cache that is removed at exit."""
    transformers.utils.logging.disable_progress_bar()  # as `avgeo.quiet` does where nothing is imported yet
    folder = Path(tempfile.mkdtemp(prefix="avgeo-tiny-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with (
        mock.patch.dict(os.environ, {"AVGEO_CACHE": str(folder / "cache")}),
        mock.patch("avgeo.pipeline.default_workers", lambda: 1),
        mock.patch("avgeo.engine.default_workers", lambda: 1),
    ):
        study = Pipeline(TINY, 0)
        for stage in STAGES:
            getattr(study, stage)
        study.export(folder / "model")
    return Tiny(study, folder / "cache", folder / "model")


def pictures(count: int = 6, seed: int = 0) -> np.ndarray:
    """Frames of noise (count, 48, 64, 3)."""
    return np.random.default_rng(seed).integers(0, 255, (count, 48, 64, 3), dtype=np.uint8)


def silent_video(path: Path) -> Path:
    """A video without a sound track."""
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream("libx264", rate=4)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for picture in pictures():
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(stream.encode(None))
    return path
