"""Geometry of S²: properties, geomstats, mpmath and closed forms as oracles, and the awkward points."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import SphericalVoronoi
from scipy.stats import kstest

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


def exact(vector: torch.Tensor, *, unit: bool = True):
    """The same numbers with 50 digits, scaled to unit length as the functions take for granted."""
    mpmath.mp.dps = 50
    found = mpmath.matrix([mpmath.mpf(x) for x in vector.tolist()])
    return found / mpmath.norm(found) if unit else found


def inner(a, b):
    return mpmath.fsum(x * y for x, y in zip(a, b, strict=True))


@given(
    st.integers(0, 10_000),
    st.one_of(
        st.floats(0.5, 20_015_000).map(lambda metres: metres / 6_371_009),
        st.sampled_from([1e-7, 1.6e-7, 1e-6, 1e-4]).flatmap(lambda x: st.sampled_from([x, math.pi - 10 * x])),
    ),
    st.sampled_from([*SPECIAL, None, None, None]),
    st.sampled_from([torch.float32, torch.float64]),
)
@settings(max_examples=150)
def test_geometry_against_fifty_digits(seed, separation, place, dtype):
    """Relative accuracy at every distance, from a metre to some metres from the antipode, in both types."""
    generator = torch.Generator().manual_seed(seed)
    a = draw(1, seed).double() if place is None else point(*place).double()
    a = sphere.normalize(a)
    turn = torch.rand(1, generator=generator).double() * 2 * math.pi
    frame = sphere.tangent_frame(a)
    b = sphere.exp_map(a, separation * (torch.cos(turn) * frame[..., 0] + torch.sin(turn) * frame[..., 1]))
    a, b = a.to(dtype), b.to(dtype)
    tangent = sphere.project(a, torch.randn(1, 3, generator=generator).to(dtype))
    eps = torch.finfo(dtype).eps
    x, y, v = exact(a[0]), exact(b[0]), exact(tangent[0], unit=False)
    across = y - inner(x, y) * x
    theta = 2 * mpmath.atan2(mpmath.norm(x - y), mpmath.norm(x + y))
    log = theta / mpmath.norm(across) * across
    # what rounding adds to the lengths counts as distance: 1 cm at 1 m in float32
    assert abs(float(sphere.angle(a, b)) - theta) < 4 * eps * theta + mpmath.hypot(theta, eps) - theta
    found = sphere.log_map(a, b)
    assert mpmath.norm(exact(found[0], unit=False) - log) < 4 * eps * theta
    u = exact(found[0], unit=False)
    length = mpmath.norm(u)
    walked = mpmath.cos(length) * x + mpmath.sin(length) / length * u
    assert mpmath.norm(exact(sphere.exp_map(a, found)[0], unit=False) - walked) < 4 * eps
    middle = (x + y) / mpmath.norm(x + y)  # transport along a geodesic: a reflection of tangents at its midpoint
    carried = v - 2 * inner(v, middle) * middle
    assert mpmath.norm(exact(sphere.transport(a, b, tangent)[0], unit=False) - carried) < 8 * eps * mpmath.norm(v)


@pytest.mark.parametrize(("latitude_deg", "longitude_deg"), SPECIAL)
def test_transport_to_the_antipode_goes_along_the_logarithm(latitude_deg, longitude_deg):
    here = point(latitude_deg, longitude_deg)
    along = sphere.log_map(here, -here) / math.pi
    assert torch.allclose(sphere.transport(here, -here, along), -along, atol=1e-6)
    across = torch.linalg.cross(here, along)
    assert torch.allclose(sphere.transport(here, -here, across), across, atol=1e-6)


@given(st.integers(0, 10_000))
@settings(max_examples=50)
def test_transport_keeps_lengths_and_angles_and_comes_back(seed):
    a, b = draw(20, seed).double(), draw(20, seed + 1).double()
    a, b = sphere.normalize(a), sphere.normalize(b)
    u, v = (sphere.project(a, draw(20, seed + k).double()) for k in (2, 3))
    there = sphere.transport(a, b, u)
    assert float((there * b).sum(-1).abs().max()) < 1e-12
    assert torch.allclose((there * sphere.transport(a, b, v)).sum(-1), (u * v).sum(-1), atol=1e-12)
    assert torch.allclose(sphere.transport(b, a, there), u, atol=1e-12)
    log = sphere.log_map(a, b)
    assert torch.allclose(sphere.transport(a, b, log), -sphere.log_map(b, a), atol=1e-12)


@given(
    st.one_of(st.floats(0, 1e8), st.floats(-12, 8).map(lambda power: 10.0**power)),
    st.floats(0, math.pi),
    st.sampled_from([torch.float32, torch.float64]),
)
@settings(max_examples=200)
def test_vmf_density_against_fifty_digits(kappa, angle, dtype):
    """Given the coordinates as they are: what the type rounds off them is not the function's."""
    mean = torch.tensor([0.0, 0.0, 1.0], dtype=dtype)
    where = torch.tensor([math.sin(angle), 0.0, math.cos(angle)], dtype=torch.float64).to(dtype)
    apart = exact(where, unit=False) - exact(mean, unit=False)
    k = mpmath.mpf(float(torch.tensor(kappa, dtype=dtype)))
    constant = mpmath.log(k / (2 * mpmath.pi * -mpmath.expm1(-2 * k))) if k else -mpmath.log(4 * mpmath.pi)
    expected = constant - k * inner(apart, apart) / 2
    found = float(sphere.vmf_log_prob(where, mean, kappa))
    assert abs(found - expected) < 8 * torch.finfo(dtype).eps * max(1, abs(expected), abs(constant))


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


@pytest.mark.parametrize("kappa", [0.0, 1e-40])
def test_vmf_without_concentration_is_uniform(kappa):
    got = sphere.sample_vmf(torch.tensor([0.6, 0.0, 0.8]).expand(20_000, 3), kappa, torch.Generator().manual_seed(0))
    for axis in range(3):  # Archimedes: each coordinate is uniform on [-1, 1]
        assert kstest(got[:, axis].numpy(), "uniform", (-1, 2)).pvalue > 1e-3
    assert float(sphere.vmf_log_prob(got, got[:1], kappa).sub(sphere.uniform_log_density()).abs().max()) == 0


def test_vmf_of_many_concentrations_at_once():
    kappa = torch.tensor([0.0, 1e-3, 1.0, 40.0, 1e4, 1e8])
    mean = torch.tensor([0.6, 0.0, 0.8])
    got = sphere.sample_vmf(mean.expand(5000, 6, 3), kappa, torch.Generator().manual_seed(0))
    assert got.shape == (5000, 6, 3)
    drop = (got - mean).double().square().sum(-1) / 2
    exact = torch.where(kappa > 0, -torch.expm1(-kappa * drop) / -torch.expm1(-2 * kappa.double()), drop / 2)
    for column in exact.unbind(1):
        assert kstest(column.numpy(), "uniform").pvalue > 1e-3
    azimuth = torch.atan2(got[:, 3, 1], got[:, 3, 0] * 0.8 - got[:, 3, 2] * 0.6).double() / (2 * math.pi) + 0.5
    assert kstest(azimuth.numpy(), "uniform").pvalue > 1e-3
    alone = sphere.vmf_log_prob(got, mean, kappa)
    assert torch.equal(alone[:, 4], sphere.vmf_log_prob(got[:, 4], mean, 1e4))


@pytest.mark.parametrize("kappa", [-1.0, math.nan, math.inf])
def test_impossible_concentrations_are_refused(kappa):
    mean = draw(4)
    for call in (lambda: sphere.sample_vmf(mean, kappa), lambda: sphere.vmf_log_prob(mean, mean, kappa)):
        with pytest.raises(ValueError, match="kappa must be finite and at least 0"):
            call()


def test_points_are_checked_at_the_entrances():
    sphere.check_points(draw(5).reshape(5, 1, 3))
    cases = {
        "2 of 4 places are no unit vectors.*nan": torch.tensor(
            [[1.0, 0, 0], [math.nan, 0, 1], [0, 1, 0], [0, 1.01, 0]]
        ),
        "places is empty": torch.zeros(0, 3),
        "places must be unit vectors": torch.zeros(3, 2),
        "torch.int64: make them with from_degrees": torch.tensor([[1, 0, 0]]),
    }
    for message, points in cases.items():
        with pytest.raises(sphere.CoordinateError, match=message):
            sphere.check_points(points, "places")


@pytest.mark.parametrize("count", [500, 6000])
def test_grid_has_equal_area_cells(count):
    grid = sphere.normalize(sphere.fibonacci_grid(count).double())
    # the cells nearest to the poles are the worst, whatever the count; all others come closer as the count grows
    area = SphericalVoronoi(grid.numpy(), threshold=1e-9).calculate_areas() * count / sphere.SPHERE_AREA
    assert np.abs(area - 1).max() < 0.06
    assert np.quantile(np.abs(area - 1), 0.95) < 0.45 / math.sqrt(count)
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


def test_the_date_line_is_one_meridian():
    west = torch.tensor([[-1.0, -0.0, 0.0], [-1.0, 0.0, 0.0], [-1.0, -1e-20, 0.0], [-0.6, -0.0, 0.8]])
    assert sphere.to_degrees(west)[1].tolist() == [180.0] * 4
    assert float(sphere.to_degrees(torch.tensor([-1.0, -1e-4, 0.0]))[1]) < -179.9


def test_the_medoid_is_the_same_whatever_is_held_at_once(monkeypatch):
    draw = torch.Generator().manual_seed(0)
    points, weights = sphere.sample_uniform(60, draw).reshape(2, 30, 3), torch.rand(2, 30, generator=draw)
    distances = sphere.angle(points[:, :, None], points[:, None])
    for by, total in ((None, distances.sum(-1)), (weights, (distances * weights[:, None]).sum(-1))):
        expected = points[torch.arange(2), total.argmin(-1)]
        for pairs in (2**22, 700, 1):
            monkeypatch.setattr(sphere, "_PAIRS", pairs)
            assert torch.equal(sphere.medoid(points, by), expected)


def test_points_of_a_table():
    table = pd.DataFrame({"latitude_deg": [10, math.nan, -90], "longitude_deg": [20, math.nan, 0], "other": "x"})
    points = sphere.from_table(table)
    assert points.dtype == torch.float64 and bool(points[1].isnan().all())
    expected = sphere.from_degrees(torch.tensor([10.0, -90.0]).double(), torch.tensor([20.0, 0.0]).double())
    torch.testing.assert_close(points[[0, 2]], expected)
    for wrong in ({"latitude_deg": [91.0]}, {"latitude_deg": [math.nan]}, {"longitude_deg": [math.nan]}):
        with pytest.raises(sphere.CoordinateError, match="latitude_deg must lie in"):  # half a place is none
            sphere.from_table(pd.DataFrame({"latitude_deg": [1.0], "longitude_deg": [2.0]} | wrong))
    assert sphere.from_table(table[:0]).shape == (0, 3)
