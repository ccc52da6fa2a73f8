"""Qwen's models of a few thousand random weights, and clips for them to see and hear."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from datasets import Dataset
from transformers import Qwen2_5_VLConfig, Qwen2_5OmniThinkerConfig, Qwen3VLConfig

from avgeo.reason.audio import with_sound
from avgeo.reason.policy import Policy
from avgeo.reason.qwen import omni
from avgeo.reason.sft import rows

RATE_HZ = 16_000
ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
TEXT: dict[str, Any] = dict(
    vocab_size=300, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, rope_parameters=ROPE, initializer_range=0.1,
)  # fmt: skip
VISION: dict[str, Any] = dict(
    depth=1, hidden_size=32, intermediate_size=64, num_heads=2, out_hidden_size=64, initializer_range=0.1
)
WINDOWS: dict[str, Any] = dict(fullatt_block_indexes=[0], window_size=56)
EARS: dict[str, Any] = dict(
    num_mel_bins=32, encoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=64, d_model=32, output_dim=64,
    n_window=50, initializer_range=0.1,
)  # fmt: skip


def thinker() -> Qwen2_5OmniThinkerConfig:
    return Qwen2_5OmniThinkerConfig(
        text_config=TEXT, vision_config=VISION | WINDOWS, audio_config=EARS, initializer_range=0.1
    )


def vl25() -> Qwen2_5_VLConfig:
    return Qwen2_5_VLConfig(text_config=TEXT, vision_config=VISION | WINDOWS)


def vl3() -> Qwen3VLConfig:
    text = TEXT | {"head_dim": 16, "rope_parameters": ROPE | {"mrope_interleaved": True}}
    vision = VISION | {"deepstack_visual_indexes": [0], "num_position_embeddings": 64}
    return Qwen3VLConfig(text_config=text, vision_config=vision)


def tiny_omni() -> Policy:
    return omni(thinker(), longest_s=3)


def examples(clips: int, frames: int = 2, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray]:
    """Clips with frames of noise; each prompt is one of a kind (an atom bears the clip's number)."""
    rng = np.random.default_rng(seed)
    table = pd.DataFrame({
        "clip_id": [f"clip {clip}" for clip in range(clips)], "split": "train",
        "latitude_deg": rng.uniform(-60, 60, clips), "longitude_deg": rng.uniform(-180, 180, clips),
        "country": "Peru", "region": "Cusco", "heard": [[(f"atom {clip}", 1.0)] for clip in range(clips)],
        "told": [[]] * clips, "seen": [["snow"]] * clips,
    })  # fmt: skip
    return table, rng.integers(0, 255, (clips, frames, 24, 32, 3), dtype=np.uint8)


def sounds(clips: int, seed: int = 0, *, equal: bool = False) -> list[np.ndarray]:
    """Noise of different colours; of different lengths too (1 s and more), unless `equal`."""
    rng = np.random.default_rng(seed)
    found = []
    for clip in range(clips):
        samples = RATE_HZ if equal else RATE_HZ + 2345 * (clip % 7)
        tone = np.sin(2 * np.pi * rng.uniform(100, 4000) * np.arange(samples) / RATE_HZ)
        found.append((tone + 0.3 * rng.normal(size=samples)).astype(np.float32))
    return found


def sounding(policy: Policy, clips: int, *, frames: int = 2, equal: bool = False, seed: int = 0) -> Dataset:
    """Rows for trl with frames (none, if `frames` is 0) and sound."""
    table, pictures = examples(clips, max(frames, 1))
    made = rows(table, pictures, 56)
    if not frames:
        made = made.remove_columns("images")
    return with_sound(made, sounds(clips, seed, equal=equal), RATE_HZ, policy)
