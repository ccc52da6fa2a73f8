"""On the nat-sound2loc benchmark's own truth, `evaluate` gives the numbers that its script's definitions give."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from avgeo.evaluate import evaluate


@pytest.mark.parametrize("name", ["xcdc_gold.csv", "inat_test_gold.csv"])
def test_equals_the_definitions_of_the_script(name: str) -> None:
    """Haversine on a sphere of 6,371 km, inclusive radii, numpy's mean and median; every clip answered."""
    path = Path(os.environ.get("AVGEO_MIRROR", "")) / "nat_sound" / name
    if not path.is_file():
        pytest.skip("AVGEO_MIRROR has no nat_sound")
    truth = pd.read_csv(path)
    rng = np.random.default_rng(0)
    there = truth[["latitude", "longitude"]].to_numpy(float)
    guess = np.clip(there + rng.lognormal(0, 2, there.shape) * rng.choice([-1, 1], there.shape), -90, 90)
    found = evaluate(
        truth[["audio_id"]].assign(lat=guess[:, 0], lon=guess[:, 1]).sample(frac=1, random_state=0), path, bootstrap=1
    )
    (phi, lam), (phi_guess, lam_guess) = np.radians(there.T), np.radians(guess.T)
    half = np.sin((phi_guess - phi) / 2) ** 2 + np.cos(phi) * np.cos(phi_guess) * np.sin((lam_guess - lam) / 2) ** 2
    km = 2 * 6371 * np.arcsin(np.sqrt(half))
    assert found.mean_km.value == pytest.approx(km.mean(), rel=1e-5)
    assert found.median_km.value == pytest.approx(np.median(km), rel=1e-5)
    for radius, accuracy in found.accuracy.items():
        assert accuracy.value == pytest.approx((km <= float(radius)).mean(), abs=1e-4)
