"""The clock, the sun against an independent ephemeris, the classes of the sun, and the climate's seasons."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pvlib import solarposition, spa
from scipy.stats import chisquare

from avgeo.world.moment import (
    P_MOMENT,
    Moment,
    northern_month,
    rainfall,
    sample_moment,
    sun_angles,
    sun_clock,
    sun_position,
    temperature_c,
)
from avgeo.world.scene import shadow_direction
from avgeo.world.visible import SUNS, class_of_sun, sun_class

EPOCH_S = datetime(2000, 1, 1, 12, tzinfo=UTC).timestamp()


def directions(elevation_deg: np.ndarray, azimuth_deg: np.ndarray) -> np.ndarray:
    """Unit vectors (n, 3): east, north, up."""
    e, a = np.radians(elevation_deg), np.radians(azimuth_deg)
    return np.stack([np.cos(e) * np.sin(a), np.cos(e) * np.cos(a), np.sin(e)], axis=-1)


def test_sun_against_pvlib_at_a_thousand_places_and_times() -> None:
    """NREL's Solar Position Algorithm (Reda and Andreas 2004), geometric elevation: within 0.5 deg; it is 0.02."""
    rng = np.random.default_rng(0)
    latitude = np.degrees(np.arcsin(rng.uniform(-1, 1, 1000)))
    longitude = rng.uniform(-180, 180, 1000)
    seconds = rng.uniform(
        datetime(2000, 1, 1, tzinfo=UTC).timestamp(), datetime(2040, 1, 1, tzinfo=UTC).timestamp(), 1000
    )
    elevation, azimuth = sun_angles((seconds - EPOCH_S) / 86400, latitude, longitude)
    _, _, _, oracle_elevation, oracle_azimuth, _ = spa.solar_position_numpy(
        seconds, latitude, longitude, 0.0, 1013.25, 12.0, 67.0, 0.5667, 1
    )
    ours, theirs = directions(elevation, azimuth), directions(oracle_elevation, oracle_azimuth)
    apart_deg = np.degrees(2 * np.arcsin(np.linalg.norm(ours - theirs, axis=1) / 2))
    assert apart_deg.max() < 0.03
    assert np.abs(elevation - oracle_elevation).max() < 0.03


def test_sun_position_takes_any_time_zone() -> None:
    """One moment in three ways of writing it, against pvlib's own front door."""
    local = Moment(6, 15).local({"timezone": "Asia/Kathmandu"})  # UTC + 5:45
    elevation, azimuth = sun_position(local, 27.7, 85.3)
    assert (elevation, azimuth) == sun_position(local.astimezone(UTC), 27.7, 85.3)
    oracle = solarposition.spa_python(pd.DatetimeIndex([local]), 27.7, 85.3)
    assert elevation == pytest.approx(float(oracle["elevation"].iloc[0]), abs=0.03)
    assert azimuth == pytest.approx(float(oracle["azimuth"].iloc[0]), abs=0.05)
    place = {"timezone": "Asia/Kathmandu", "latitude_deg": 27.7, "longitude_deg": 85.3}
    table = sun_clock(place)
    assert table[0].shape == table[1].shape == (12, 24)
    assert (table[0][5, 15], table[1][5, 15]) == pytest.approx((elevation, azimuth), abs=1e-9)


@pytest.mark.parametrize(("latitude", "down"), [(52.5, False), (-34.6, True)])
def test_noon_shadows_point_away_from_the_equator(latitude: float, down: bool) -> None:
    """North (up the picture) in Berlin, south (down) in Buenos Aires."""
    _, azimuth = sun_position(datetime(2023, 3, 21, 12, 5, tzinfo=UTC), latitude, 0.0)
    right, below = shadow_direction(azimuth)
    assert (below > 0.95) == down and (below < -0.95) != down and abs(right) < 0.3


# --- the classes of the sun ---


@settings(max_examples=300)
@given(elevation=st.floats(-90, 90), azimuth=st.floats(0, 360, exclude_max=True))
def test_every_sun_lies_inside_the_bounds_of_its_class(elevation: float, azimuth: float) -> None:
    (low, high), (west, east) = class_of_sun(SUNS[int(sun_class(np.array(elevation), np.array(azimuth)))])
    assert low <= elevation <= high
    # half-open sectors: a direction on a border may be rounded to either side
    assert -1e-9 <= (azimuth - west + 1e-9) % 360 - 1e-9 <= east - west + 1e-9


def test_every_angle_inside_the_bounds_has_that_class() -> None:
    rng = np.random.default_rng(0)
    for index, name in enumerate(SUNS):
        (low, high), (west, east) = class_of_sun(name)
        elevation = rng.uniform(low, high, 500)
        azimuth = rng.uniform(west + 1e-9, east - 1e-9, 500)
        assert (sun_class(elevation, azimuth) == index).all() and (sun_class(elevation, azimuth % 360) == index).all()


def test_the_classes_share_out_the_sky() -> None:
    """Their solid angles add up to the whole sphere: no gap and no overlap."""
    total = 0.0
    for name in SUNS:
        (low, high), (west, east) = class_of_sun(name)
        total += math.radians(east - west) * (math.sin(math.radians(high)) - math.sin(math.radians(low)))
    assert total == pytest.approx(4 * math.pi)


# --- the clock ---


def test_moments_follow_their_probabilities() -> None:
    assert P_MOMENT.shape == (12, 24) and P_MOMENT.sum() == pytest.approx(1, abs=1e-12) and P_MOMENT.min() > 0
    rng, n = np.random.default_rng(0), 50_000
    counts = np.zeros((12, 24))
    for _ in range(n):
        moment = sample_moment(rng)
        counts[moment.month - 1, moment.hour] += 1
    assert chisquare(counts.ravel(), n * P_MOMENT.ravel()).pvalue > 0.01


def test_seasons_turn_with_the_hemisphere() -> None:
    north = {"koppen": "Cfb", "hemisphere": "north"}
    south = north | {"hemisphere": "south"}
    warm, cold = temperature_c(north), temperature_c(south)
    assert warm is not None and cold is not None and warm.shape == (12, 24)
    assert warm[6, 12] > warm[0, 12] + 10 and warm[6, 15] > warm[6, 3] + 5
    np.testing.assert_allclose(np.roll(warm, 6, axis=0), cold)
    assert sorted(northern_month(south)[:, 0]) == list(range(1, 13)) and northern_month(south)[0, 0] == 7
    assert temperature_c(north | {"koppen": ""}) is None


@pytest.mark.parametrize("koppen", ["Csa", "Aw", "Am"])
def test_the_rains_of_the_south_are_half_a_year_later(koppen: str) -> None:
    north, south = (rainfall({"koppen": koppen, "hemisphere": side}) for side in ("north", "south"))
    np.testing.assert_array_equal(np.roll(north, 6, axis=0), south)
    assert (north != south).any()
