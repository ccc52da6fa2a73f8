"""The plan of one clip of AVG-Sim, and its sound and frames.

A plan holds everything about a clip but its samples and pixels, and follows from the seed, the place and the clip's
number alone: any clip can be planned, and made, without the others. Sound and frames follow from the cues' values and
from place-independent random numbers, so that they tell of the place what its cues tell and nothing more.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, UInt8

from avgeo.profiles import WorldSettings
from avgeo.world.audible import voices
from avgeo.world.cues import CUES, sample_cues
from avgeo.world.geography import EARTH_RADIUS_KM
from avgeo.world.guesses import JITTER_KM
from avgeo.world.moment import Moment, Place, sample_moment, sun_position
from avgeo.world.scene import draw_frames
from avgeo.world.soundscape import mix
from avgeo.world.visible import class_of_sun

# Sources that last as long as the clip; the others begin and end somewhere inside it.
_STEADY = ("mains_hum", "rain", "crickets", "cicadas", "frogs")
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

    @property
    def source(self) -> str:
        """The name of the source as stages learn it: a voice by its class, since languages of one class sound alike."""
        return f"voice:{voices()[self.value]}" if self.cue == "voice" else f"{self.cue}:{self.value}"


@dataclass(frozen=True)
class Sun:
    """A direction of the light, in degrees above the horizon and clockwise from north."""

    elevation_deg: float
    azimuth_deg: float


@dataclass(frozen=True)
class ClipPlan:
    """Everything about a clip but its pixels and samples; `seed` feeds their generators.

    `true_sun` is the sun over the clip. `sun` is the one in the picture, drawn inside the class that the cue "sun"
    names, so that the picture tells the class and no more; None when no sun is to be seen. Pictures look north but for
    `camera_heading_deg` (true minus picture azimuth, in [-180, 180)): turned by it, shadows point the true way.
    """

    clip_id: str
    place: Place
    latitude_deg: float
    longitude_deg: float
    moment: Moment
    cues: dict[str, str]
    events: tuple[Event, ...]
    true_sun: Sun
    sun: Sun | None
    seed: tuple[int, int, int]

    @property
    def camera_heading_deg(self) -> float:
        """True minus picture azimuth of the sun; NaN when no sun is to be seen."""
        return math.nan if self.sun is None else _wrapped(self.true_sun.azimuth_deg - self.sun.azimuth_deg)


def clip_id(seed: int, place_number: int, number: int) -> str:
    """The name of a place's `number`-th clip in the world of `seed`: it does not tell the place to who reads it."""
    name = hashlib.blake2b(f"{seed} {place_number} {number}".encode(), digest_size=6).hexdigest()
    return f"sim{seed}-{name}"


def plan_clip(place: Place, settings: WorldSettings, seed: int, number: int) -> ClipPlan:
    """The plan of a place's `number`-th clip; depends on its arguments alone."""
    place_number = int(place["place_id"].rsplit("-", 1)[1])
    key = (seed, 1 + place_number, number)
    rng = np.random.default_rng(key)
    moment = sample_moment(rng)
    cues = sample_cues(place, moment, rng)
    events = tuple(_event(cue, value, settings.duration_s, rng) for cue, value in cues.items())
    latitude, longitude = _nearby(place, rng)
    true_sun = Sun(*sun_position(moment.local(place), latitude, longitude))
    return ClipPlan(
        clip_id=clip_id(seed, place_number, number),
        place=place,
        latitude_deg=latitude,
        longitude_deg=longitude,
        moment=moment,
        cues=cues,
        events=events,
        true_sun=true_sun,
        sun=_sun_in_class(cues["sun"], rng) if "sun" in cues else None,
        seed=key,
    )


def _event(cue: str, value: str, duration_s: float, rng: np.random.Generator) -> Event:
    if CUES[cue].sense == "visible":
        return Event("visible", cue, value, 0.0, duration_s, math.nan)
    length_s = duration_s if cue in _STEADY else duration_s * rng.uniform(_SHORTEST, 1.0)
    onset_s = rng.uniform(0, duration_s - length_s)
    return Event(
        "audible", cue, value, round(onset_s, 3), round(onset_s + length_s, 3), round(rng.uniform(*_SNR_DB), 2)
    )


def _nearby(place: Place, rng: np.random.Generator) -> tuple[float, float]:
    """A point uniform in the disc about a place: latitude and longitude in degrees."""
    distance_km, bearing = JITTER_KM * math.sqrt(rng.random()), rng.uniform(0, 2 * math.pi)
    north_deg = math.degrees(distance_km * math.cos(bearing) / EARTH_RADIUS_KM)
    east_deg = math.degrees(distance_km * math.sin(bearing) / EARTH_RADIUS_KM)
    longitude = place["longitude_deg"] + east_deg / math.cos(math.radians(place["latitude_deg"]))
    return round(place["latitude_deg"] + north_deg, 6), round(_wrapped(longitude), 6)


def _sun_in_class(name: str, rng: np.random.Generator) -> Sun:
    elevations, azimuths = class_of_sun(name)
    return Sun(rng.uniform(*elevations), rng.uniform(*azimuths) % 360)


def _wrapped(angle_deg: float) -> float:
    return (angle_deg + 180) % 360 - 180


def render_sound(plan: ClipPlan, settings: WorldSettings) -> Float32[np.ndarray, " samples"]:
    """The sound track of a plan, in [-1, 1]: the same bytes on every run."""
    audible = [(e.cue, e.value, e.onset_s, e.offset_s, e.snr_db) for e in plan.events if e.modality == "audible"]
    rng = np.random.default_rng((*plan.seed, 1))
    return mix(audible, settings.duration_s, settings.sample_rate_hz, rng, speech=settings.speech)


def render_frames(plan: ClipPlan, settings: WorldSettings) -> UInt8[np.ndarray, "frames height width 3"]:
    """The frames of a plan, duration_s * fps of them and at least one."""
    visible = {e.cue: e.value for e in plan.events if e.modality == "visible"}
    sun = None if plan.sun is None else (plan.sun.elevation_deg, plan.sun.azimuth_deg)
    count = max(1, round(settings.duration_s * settings.fps))
    rng = np.random.default_rng((*plan.seed, 2))
    return draw_frames(visible, sun, count, settings.width, settings.height, rng)
