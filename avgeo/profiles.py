"""Profiles: every setting of every stage, typed and frozen, at three sizes.

A profile is the only configuration there is. `smoke` runs on two CPU cores in minutes; `colab` is meant for one GPU,
`full` has the size of the paper's benchmark: neither has been run yet. The functions are the same; only numbers differ,
and the reasoner's policy: SmolLM2 in the larger two. What a step with Qwen2.5-Omni costs, benchmarks/omni.py measures.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from types import NoneType, UnionType
from typing import Any, get_args, get_type_hints

_BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


class ProfileError(ValueError):
    """An unknown profile or setting; the message names the valid ones."""


@dataclass(frozen=True)
class WorldSettings:
    """AVG-Sim: how many places and clips, and how a clip is written."""

    places: int = 600
    clips_per_place: int = 4
    pool: int = 4000
    min_separation_km: float = 25.0
    duration_s: float = 4.0
    sample_rate_hz: int = 16_000
    width: int = 128
    height: int = 96
    fps: int = 4
    speech: str = "formant"  # or "espeak", with the extra `voices`
    test_fraction: float = 0.25
    val_fraction: float = 0.25


@dataclass(frozen=True)
class CurateSettings:
    """Curation of real media: the gates' thresholds, and what the benchmark is to hold.

    `need` names modalities (picture, sound) that an item must have; none: any one will do. `licences` names those
    allowed (prefixes of SPDX-like names, e.g. CC0, CC-BY); none: any, and unknown ones too unless `licence_required`.
    """

    need: tuple[str, ...] = ()
    without: tuple[str, ...] = ()  # gates that do not judge
    # gates
    licences: tuple[str, ...] = ()
    licence_required: bool = False
    near_shore_km: float = 25.0
    agree_km: float = 5.0  # between two statements about one recording
    country_km: float = 100.0  # outside the country named
    clock_gap_min: float = 60.0  # between the stated UTC offset and the clocks kept near by
    min_duration_s: float = 0.5
    max_duration_s: float = 4 * 3600.0
    min_side_px: int = 48
    max_pixels: int = 120_000_000
    max_fps: float = 1000.0
    min_decoded: float = 0.95  # share of the announced duration that decodes
    frozen_share: float = 0.95  # of the time in which nothing moves
    black_luma: float = 20.0  # 0 to 255, of the brightest frame's 95th percentile
    silence_dbfs: float = -70.0
    silent_share: float = 0.9  # of the time below silence_dbfs
    clipped_share: float = 0.02
    voiceover_share: float = 0.8  # of the time in which someone speaks
    voiceover_db: float = 27.0  # speech above the quietest 5 % of its span; after 20 s of speech:
    voiceover_long_db: float = 15.0
    music_score: float = 0.75
    caption_score: float = 0.5
    picture_bits: float = 0.5  # per cell: less shows nothing
    sound_bits: float = 0.25  # per band and 0.26 s: less is steady noise
    duplicate_picture_bits: int = 7  # of 64, between perceptual hashes of pictures that are then compared
    duplicate_picture_share: float = 0.62  # of the parts of two pictures that agree
    duplicate_sound_share: float = 0.15  # of bits that differ between fingerprints
    # limits of one item's examination
    examine_s: float = 600.0  # of sound and picture that are looked at
    time_limit_s: float = 300.0
    # the benchmark
    place_radius_km: float = 1.0
    separation_km: float = 1.0
    places: int | None = None  # how many at most, None: all there are
    clips_per_place: int | None = None
    max_country_share: float = 1.0
    max_uploader_share: float = 1.0
    coarsen_km: float = 0.0
    test_fraction: float = 0.2
    val_fraction: float = 0.2


@dataclass(frozen=True)
class AtomSettings:
    """Perception: log-mel encoder, mixture-autoregressive sparse autoencoder, thumbnails and visible cues."""

    mels: int = 64
    hop_s: float = 0.016
    patch_frames: int = 10
    frames: int = 2
    frame_width: int = 64
    frame_height: int = 48
    atoms: int = 512
    experts: int = 1
    active: int = 24  # per patch
    release: float = 0.8  # share of the training in which the encoder is the dictionary
    persist_s: float = 1.5  # how far before and after an atom's strength is shared
    at_a_time: int = 32  # atoms of a moment after sharing, in the mean
    epochs: int = 12
    batch: int = 256
    learning_rate: float = 0.006
    auxk_weight: float = 1 / 32
    consistency_weight: float = 0.0
    mixtures: int = 400
    name_auroc: float = 0.7
    sight_epochs: int = 30
    sight_batch: int = 64
    sight_learning_rate: float = 3e-3


@dataclass(frozen=True)
class ReasonSettings:
    """The multimodal reasoner: which one, its size, supervised fine-tuning, GRPO.

    `policy` is "scratch", "smollm2" (extra `lm`), or a folder or hub name of Qwen2.5-Omni, Qwen2.5-VL or Qwen3-VL (see
    `avgeo.reason.sizes`). The sizes of the language model are for "scratch" alone, those of vision for "smollm2" too.
    """

    policy: str = "scratch"
    hidden: int = 160
    layers: int = 4
    heads: int = 4
    vocabulary: int = 700
    vision_hidden: int = 64
    vision_layers: int = 2
    image_px: int = 64
    patch_px: int = 16
    sft_steps: int = 400
    sft_batch: int = 16
    sft_learning_rate: float = 8e-3
    grpo_steps: int = 20
    grpo_prompts: int = 8
    grpo_generations: int = 8
    grpo_at_once: int = 64  # rollouts that learning holds in memory together, of all those of a step
    grpo_learning_rate: float = 1e-3
    grpo_beta: float = 0.02
    lora_rank: int = 16
    temperature: float = 1.0
    max_new_tokens: int = 96
    # Whether prompts tell when each atom sounds. Off: AVG-Sim draws onsets without regard to the place, so that times
    # would tell nothing, and cost 15 tokens on some 90 of frames, prompt and trace.
    prompt_times: bool = False


@dataclass(frozen=True)
class FlowSettings:
    """Conditional Riemannian flow matching on the sphere."""

    width: int = 128
    depth: int = 3
    scales: tuple[float, ...] = (1.0, 4.0, 12.0)  # of the Fourier features, radians per unit of chord
    condition: int = 192
    dropout: float = 0.5
    noise: float = 0.5
    steps: int = 1600
    batch: int = 64
    times_per_clip: int = 8
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.1
    ema: float = 0.995
    transport: int = 0  # rows among which noise and places are paired; for flows without a condition
    drop_sound: float = 0.3
    drop_sight: float = 0.3
    drop_proposal: float = 0.5
    jitter_kappa: float = 100.0
    solver_steps: int = 32
    samples: int = 64


@dataclass(frozen=True)
class EvaluateSettings:
    """How many resamples of places the intervals rest on, fresh clips the Bayes ceiling, fresh places recalibration."""

    bootstrap: int = 1000
    ceiling_clips: int = 2000
    calibration_places: int = 300


@dataclass(frozen=True)
class Profile:
    """All settings of one size of the product."""

    name: str
    world: WorldSettings = field(default_factory=WorldSettings)
    curate: CurateSettings = field(default_factory=CurateSettings)
    atoms: AtomSettings = field(default_factory=AtomSettings)
    reason: ReasonSettings = field(default_factory=ReasonSettings)
    flow: FlowSettings = field(default_factory=FlowSettings)
    evaluate: EvaluateSettings = field(default_factory=EvaluateSettings)

    def as_dict(self) -> dict[str, Any]:
        """Plain nested dictionaries, for run cards and cache keys."""
        return asdict(self)


def _profiles() -> dict[str, Profile]:
    smoke = Profile("smoke")
    colab = Profile(
        "colab",
        world=replace(smoke.world, places=1000, clips_per_place=8),
        atoms=replace(smoke.atoms, atoms=1024, epochs=30, mixtures=4000),
        # a trace is 60 to 120 of SmolLM2's tokens; fine-tuning on 16 of them takes 9 GB, so GRPO learns from 16 at once
        reason=replace(
            smoke.reason,
            policy="smollm2",
            max_new_tokens=160,
            lora_rank=16,
            sft_steps=4000,
            sft_learning_rate=1e-3,
            grpo_steps=200,
            grpo_prompts=16,
            grpo_at_once=16,
            grpo_learning_rate=2e-4,
        ),
        flow=replace(
            smoke.flow,
            width=384,
            depth=4,
            steps=12_000,
            batch=512,
            jitter_kappa=1e3,
            solver_steps=64,
            samples=256,
        ),
    )
    full = Profile(
        "full",
        curate=replace(
            smoke.curate,
            need=("picture", "sound"),
            licence_required=True,
            places=1000,
            clips_per_place=20,
            max_country_share=0.1,
            max_uploader_share=0.02,
        ),
        world=replace(colab.world, clips_per_place=20, duration_s=10.0, width=320, height=240, fps=8),
        atoms=replace(colab.atoms, atoms=2048, epochs=60, frames=4, mixtures=20_000),
        reason=replace(colab.reason, vision_hidden=192, vision_layers=4, sft_steps=20_000),
        flow=replace(colab.flow, width=512, steps=50_000, jitter_kappa=1e4),
        evaluate=replace(smoke.evaluate, bootstrap=10_000),
    )
    return {profile.name: profile for profile in (smoke, colab, full)}


PROFILES = _profiles()


def get_profile(name: str) -> Profile:
    """The profile called `name`; raises `ProfileError` naming the valid ones."""
    try:
        return PROFILES[name]
    except KeyError:
        raise ProfileError(f"unknown profile {name!r}: choose one of {', '.join(PROFILES)}") from None


def changed(settings: CurateSettings, assignments: Iterable[str]) -> CurateSettings:
    """`settings` with "name=value" texts applied; lists are joined by commas, "none" is None.

    Raises `ProfileError` for a name that there is not (it gives those there are) and for a value of another type.
    """
    kinds = get_type_hints(type(settings))
    values: dict[str, Any] = {}
    for assignment in assignments:
        name, separator, text = (part.strip() for part in assignment.partition("="))
        if not separator or name not in kinds:
            raise ProfileError(f"{assignment!r} is no setting: write NAME=VALUE with one of {', '.join(kinds)}")
        try:
            values[name] = _parsed(text, kinds[name])
        except ValueError:
            kind = getattr(kinds[name], "__name__", kinds[name])
            raise ProfileError(f"{name}={text}: not of the type {kind}") from None
    return replace(settings, **values)


def _parsed(text: str, kind: Any) -> Any:
    kinds = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    if NoneType in kinds and text.lower() == "none":
        return None
    if bool in kinds:
        if text.lower() not in _BOOLEANS:
            raise ValueError(text)
        return _BOOLEANS[text.lower()]
    if int in kinds:
        return int(text)
    if float in kinds:
        return float(text)
    return text if str in kinds else tuple(part.strip() for part in text.split(",") if part.strip())
