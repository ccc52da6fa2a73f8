"""AVG-Sim, a simulated Earth whose truth is known: real places, explicit cue tables, synthetic clips."""

from __future__ import annotations

from avgeo.world.cues import AUDIBLE, NONE, TABLES, VISIBLE, Moment, cue_tables, sample_cues, sun_position
from avgeo.world.geography import WorldError, build_places, coast_km, countries, country_at, natural_earth
from avgeo.world.simulate import ClipPlan, Event, plan_clip, render_frames, render_sound, simulate

__all__ = [
    "AUDIBLE",
    "NONE",
    "TABLES",
    "VISIBLE",
    "ClipPlan",
    "Event",
    "Moment",
    "WorldError",
    "build_places",
    "coast_km",
    "countries",
    "country_at",
    "cue_tables",
    "natural_earth",
    "plan_clip",
    "render_frames",
    "render_sound",
    "sample_cues",
    "simulate",
    "sun_position",
]
