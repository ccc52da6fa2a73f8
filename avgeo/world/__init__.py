"""AVG-Sim, a simulated Earth whose truth is known: real places, explicit cue tables, synthetic clips."""

from __future__ import annotations

from avgeo.world import audible, visible  # they declare the cues
from avgeo.world.cues import CUES, NONE, Cue, cue_tables, sample_cues
from avgeo.world.geography import (
    EARTH_RADIUS_KM,
    WorldError,
    coast_km,
    countries,
    country_at,
    natural_earth,
    unit_vectors,
)
from avgeo.world.moment import Moment, sample_moment, sun_position
from avgeo.world.places import build_places, build_pool
from avgeo.world.posterior import Likelihood, observed
from avgeo.world.simulate import simulate
from avgeo.world.soundscape import stem_of

__all__ = [
    "CUES",
    "EARTH_RADIUS_KM",
    "NONE",
    "Cue",
    "Likelihood",
    "Moment",
    "WorldError",
    "audible",
    "build_places",
    "build_pool",
    "coast_km",
    "countries",
    "country_at",
    "cue_tables",
    "natural_earth",
    "observed",
    "sample_cues",
    "sample_moment",
    "simulate",
    "stem_of",
    "sun_position",
    "unit_vectors",
    "visible",
]
