"""Geometry of S²: properties, geomstats and mpmath-free closed forms as oracles, and the awkward points."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from avgeo import sphere

latitudes = st.floats(-90, 90, width=32)
longitudes = st.floats(-180, 180, width=32)
SPECIAL = [(90.0, 0.0), (-90.0, 0.0), (0.0, 180.0), (0.0, -180.0), (0.0, 0.0), (0.0, 90.0), (51.5, -0.1)]


def point(latitude_deg: float, longitude_deg: float) -> torch.Tensor:
    return sphere.from_degrees(torch.tensor([latitude_deg]), torch.tensor([longitude_deg]))


def draw(count: int, seed: int = 0) -> torch.Tensor:
    return sphere.sample_uniform(count, torch.Generator().manual_seed(seed))


@given(latitudes, longitudes)
def test_degrees_round_trip(latitude_deg, longitude_deg):
    here = point(latitude_deg, longitude_deg)
    again = sphere.from_degrees(*sphere.to_degrees(here))
    assert float(sphere.distance_km(here, again)) < 0.01
    assert abs(float(here.norm()) - 1) < 1e-6


@pytest.mark.parametrize("latitude_deg", [90.01, -91.0, float("nan")])
def test_impossible_latitude_is_refused(latitude_deg):
    with pytest.raises(sphere.CoordinateError, match="latitude_deg"):
        point(latitude_deg, 0.0)


@given(latitudes, longitudes, latitudes, longitudes)
@settings(max_examples=200)
def test_log_then_exp_returns(lat_a, lon_a, lat_b, lon_b):
    a, b = point(lat_a, lon_a), point(lat_b, lon_b)
    tangent = sphere.log_map(a, b)
    assert abs(float((tangent * a).sum())) < 2e-6
    assert float(sphere.distance_km(sphere.exp_map(a, tangent), b)) < 0.02
    assert math.isclose(float(tangent.norm()), float(sphere.angle(a, b)), abs_tol=1e-6)


def test_distance_against_haversine_in_float64():
    a, b = draw(5000), draw(5000, 1)
    (lat_a, lon_a), (lat_b, lon_b) = (
        (np.radians(part.numpy().astype(float)) for part in sphere.to_degrees(points.double())) for points in (a, b)
    )
    half = np.sin((lat_b - lat_a) / 2) ** 2 + np.cos(lat_a) * np.cos(lat_b) * np.sin((lon_b - lon_a) / 2) ** 2
    expected = 2 * sphere.EARTH_RADIUS_KM * np.arcsin(np.sqrt(half))
    assert np.abs(sphere.distance_km(a, b).numpy() - expected).max() < 0.01


@pytest.mark.parametrize(("latitude_deg", "longitude_deg"), SPECIAL)
def test_a_metre_apart_in_float32(latitude_deg, longitude_deg):
    # bare acos gives 0 here: cos of 1.6e-7 rad rounds to 1
    here = point(latitude_deg, longitude_deg)
    there = sphere.exp_map(here, sphere.tangent_frame(here)[..., 0] * (0.001 / sphere.EARTH_RADIUS_KM))
    assert 0.0004 < float(sphere.distance_km(here, there)) < 0.0016


@pytest.mark.parametrize(("latitude_deg", "longitude_deg"), SPECIAL)
def test_same_point_and_antipode_are_finite_with_gradients(latitude_deg, longitude_deg):
    here = point(latitude_deg, longitude_deg)
    assert float(sphere.log_map(here, here).norm()) == 0
    opposite = sphere.log_map(here, -here)
    assert math.isclose(float(opposite.norm()), math.pi, rel_tol=1e-6)
    assert float((opposite * here).sum().abs()) < 1e-6
    moving = here.clone().requires_grad_()
    (sphere.log_map(moving, here).sum() + sphere.exp_map(moving, torch.zeros(1, 3)).sum()).backward()
    assert moving.grad is not None and bool(torch.isfinite(moving.grad).all())
    assert float(sphere.distance_km(here, -here)) == pytest.approx(math.pi * sphere.EARTH_RADIUS_KM, rel=1e-6)


def test_exp_log_and_transport_agree_with_geomstats():
    pytest.importorskip("geomstats")
    from geomstats.geometry.hypersphere import Hypersphere

    space = Hypersphere(2)
    a, b = draw(200).double().numpy(), draw(200, 1).double().numpy()
    a, b = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (a, b))
    ours_a, ours_b = torch.from_numpy(a), torch.from_numpy(b)
    log = space.metric.log(b, a)
    assert np.abs(sphere.log_map(ours_a, ours_b).numpy() - log).max() < 1e-7
    assert np.abs(sphere.exp_map(ours_a, torch.from_numpy(log)).numpy() - b).max() < 1e-9
    tangent = space.to_tangent(np.random.default_rng(0).normal(size=(200, 3)), a)
    expected = space.metric.parallel_transport(tangent, a, end_point=b)
    assert np.abs(sphere.transport(ours_a, ours_b, torch.from_numpy(tangent)).numpy() - expected).max() < 1e-7


def test_tangent_frames_are_orthonormal_everywhere():
    points = torch.cat([draw(1000), torch.tensor([[0.0, 0, 1], [0, 0, -1], [1, 0, 0], [0, -1, 0]])])
    frame = sphere.tangent_frame(points)
    assert float((frame.transpose(-1, -2) @ frame - torch.eye(2)).abs().max()) < 1e-5
    assert float((frame * points[..., None]).sum(-2).abs().max()) < 1e-6


@pytest.mark.parametrize("kappa", [0.0, 1e-6, 1e-3, 0.5, 10.0, 500.0])
def test_vmf_integrates_to_one(kappa):
    grid = sphere.fibonacci_grid(20_000).double()
    mean = torch.tensor([0.6, 0.0, 0.8]).double()
    total = sphere.vmf_log_prob(grid, mean, kappa).exp().mean() * sphere.SPHERE_AREA
    assert float(total) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("kappa", [1e3, 1e6, 1e8])
def test_sharp_vmf_has_its_closed_form_at_the_mean(kappa):
    mean = torch.tensor([0.6, 0.0, 0.8])
    assert float(sphere.vmf_log_prob(mean, mean, kappa)) == pytest.approx(math.log(kappa / (2 * math.pi)), rel=1e-6)


@pytest.mark.parametrize("kappa", [0.3, 5.0, 1e3, 1e6])
def test_vmf_samples_have_the_right_mean_cosine(kappa):
    mean = torch.tensor([[0.6, 0.0, 0.8]]).double().expand(40_000, 3)
    got = sphere.sample_vmf(mean, kappa, torch.Generator().manual_seed(0))
    spread = (got - mean).square().sum(-1) / 2  # 1 - cos θ
    expected = 1 - (1 / math.tanh(kappa) - 1 / kappa)
    assert float(spread.mean()) == pytest.approx(expected, rel=0.03)


def test_grid_has_equal_area_cells():
    grid = sphere.fibonacci_grid(5000).double()
    for power in (1, 2, 3, 4):  # moments of z under the uniform law: 0, 1/3, 0, 1/5
        expected = 0 if power % 2 else 1 / (power + 1)
        assert float((grid[:, 2] ** power).mean()) == pytest.approx(expected, abs=1e-3)
        assert float((grid[:, 0] ** power).mean()) == pytest.approx(expected, abs=1e-3)


@given(st.integers(0, 10_000), st.integers(3, 40))
@settings(max_examples=30, deadline=None)
def test_geodesic_median_is_no_worse_than_any_sample_or_grid_point(seed, count):
    points = sphere.sample_vmf(draw(1, seed).expand(count, 3), 8.0, torch.Generator().manual_seed(seed))
    median = sphere.geodesic_median(points)
    cost = sphere.angle(median, points).mean()
    candidates = torch.cat([points, sphere.fibonacci_grid(400)])
    assert float(cost) <= float(sphere.angle(candidates[:, None], points).mean(-1).min()) + 1e-3
