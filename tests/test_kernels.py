"""Kernel densities: exactly normalised, exactly sampled, weighted by places that made no kernel."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from torch import Tensor

from avgeo.flow.integral import integral
from avgeo.flow.kernels import (
    BRIDGES,
    FAMILIES,
    NEIGHBOURS,
    SMALLEST_KM,
    WIDTHS,
    DensityError,
    KernelMixture,
    Kernels,
    bridges,
    disc_probability,
    em_weights,
    fit_kernels,
    fit_plain,
    fixed,
    local_pca,
    nearest,
    neighbours,
    sum_kernels,
)
from avgeo.flow.mixture import fit_vmf_mixture
from avgeo.sphere import EARTH_RADIUS_KM, SPHERE_AREA, CoordinateError, angle, normalize, tangent_frame, vmf_log_prob

LEAST = (SMALLEST_KM / EARTH_RADIUS_KM) ** 2


def spread(count: int, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(count, 3, dtype=torch.float64, generator=draw))


def arc(count: int, width_km: float, seed: int = 0) -> Tensor:
    """Places along a third of the equator, `width_km` (1 SD) to its sides."""
    rng = np.random.default_rng(seed)
    along = torch.from_numpy(rng.uniform(0, 2 * math.pi / 3, count))
    across = torch.from_numpy(rng.normal(0, width_km / EARTH_RADIUS_KM, count))
    return normalize(torch.stack([torch.cos(along), torch.sin(along), across], 1))


def one(center: Tensor, v1: float, v2: float, turn: float = 0.0) -> KernelMixture:
    frame = tangent_frame(center)
    axis = math.cos(turn) * frame[:, 0] + math.sin(turn) * frame[:, 1]
    return KernelMixture(center[None], axis[None], torch.tensor([[v1, v2]], dtype=torch.float64), torch.ones(1))


def about(center: Tensor, theta: Tensor, phi: Tensor) -> Tensor:
    """Points at polar coordinates round a centre: the sphere itself, not the chart."""
    frame = tangent_frame(center)
    ring = torch.sin(theta)[..., None]
    tangent = torch.cos(phi)[..., None] * frame[:, 0] + torch.sin(phi)[..., None] * frame[:, 1]
    return torch.cos(theta)[..., None] * center + ring * tangent


# --- the kernel ---


@settings(max_examples=60)
@given(st.integers(0, 10_000), st.floats(-1, 8), st.floats(0, 7))
def test_equal_variances_are_von_mises_fisher(seed: int, log_kappa: float, sigmas: float) -> None:
    kappa = 10**log_kappa
    center = spread(1, seed)[0]
    theta = torch.tensor([min(math.pi, sigmas / math.sqrt(kappa))], dtype=torch.float64)
    point = normalize(about(center, theta, torch.tensor([seed / 7], dtype=torch.float64)))
    found = one(center, 1 / kappa, 1 / kappa).log_prob(point)
    assert torch.allclose(found, vmf_log_prob(point, center, kappa), atol=1e-6, rtol=1e-7)


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.floats(-4, 0.7), st.floats(-1.5, 0), st.floats(0, math.pi))
def test_a_kernel_integrates_to_one(seed: int, log_wide: float, log_ratio: float, turn: float) -> None:
    v1 = 10**log_wide
    v2 = v1 * 10**log_ratio
    center = spread(1, seed)[0]
    nodes, weights = (torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(120))
    last = min(math.pi, 9 * math.sqrt(v1))
    theta = last * (nodes + 1) / 2
    phi = torch.arange(256, dtype=torch.float64) * (2 * math.pi / 256)
    points = about(center, *torch.meshgrid(theta, phi, indexing="ij")).reshape(-1, 3)
    density = one(center, v1, v2, turn).log_prob(normalize(points)).exp().reshape(120, 256)
    total = (density.mean(1) * 2 * math.pi * torch.sin(theta) * weights * last / 2).sum()
    assert abs(float(total) - 1) < 1e-6


@given(st.floats(-3, 2), st.floats(-2, 0))
def test_the_chart_holds_this_share_of_a_normal(log_wide: float, log_ratio: float) -> None:
    v1 = 10**log_wide
    v2 = v1 * 10**log_ratio
    half = lambda u: math.erf(math.sqrt(max(0.0, 4 - u * u) / (2 * v2)))  # noqa: E731
    line = lambda u: math.exp(-u * u / (2 * v1)) / math.sqrt(2 * math.pi * v1) * half(u)  # noqa: E731
    reference = 2 * quad(line, 0, min(2, 12 * math.sqrt(v1)), epsabs=1e-11, limit=300)[0]
    assert float(disc_probability(torch.tensor([v1, v2], dtype=torch.float64))) == pytest.approx(reference, abs=1e-7)


def test_the_extremes_of_a_kernel() -> None:
    center = spread(1, 3)[0]
    narrow, broad = one(center, LEAST, LEAST / 4), one(center, 1e4, 1e4)
    peak = -math.log(2 * math.pi * LEAST / 2)
    assert narrow.log_prob(center[None]).item() == pytest.approx(peak, abs=1e-9)
    assert narrow.log_prob(center[None].float()).item() == pytest.approx(peak, abs=1e-3)  # 0.4 m of rounding
    assert narrow.log_prob(-center[None]).item() == -math.inf
    ends = torch.stack([center, -center])
    assert torch.allclose(broad.log_prob(ends), vmf_log_prob(ends, center, 1e-4), rtol=0, atol=1e-9)
    assert len(broad.sample(200, torch.Generator().manual_seed(0))) == 200  # by rejection, yet it ends
    antipode = one(center, 1.0, 1.0).log_prob(-center[None]).item()
    assert antipode == pytest.approx(float(vmf_log_prob(-center, center, 1.0)), abs=1e-9)


@pytest.mark.parametrize(("v1", "v2"), [(1e-4, 1e-6), (0.3, 0.02), (3.0, 0.5)])
def test_samples_follow_the_density(v1: float, v2: float) -> None:
    center = spread(1, 5)[0]
    kernel = one(center, v1, v2, turn=0.7)
    drawn = kernel.sample(40_000, torch.Generator().manual_seed(1))
    assert torch.allclose(drawn.norm(dim=-1), torch.ones(()).double())
    nodes, weights = (torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(160))
    last = min(math.pi, 9 * math.sqrt(v1))
    theta, phi = last * (nodes + 1) / 2, torch.arange(256, dtype=torch.float64) * (2 * math.pi / 256)
    points = normalize(about(center, *torch.meshgrid(theta, phi, indexing="ij")).reshape(-1, 3))
    area = (torch.sin(theta) * weights * last / 2 * 2 * math.pi / 256)[:, None].expand(-1, 256).reshape(-1)
    mass = kernel.log_prob(points).exp() * area
    axis = kernel.axis[0]
    for feature in (
        lambda y: 1 - y @ center,
        lambda y: (y @ axis) ** 2,
        lambda y: (y @ torch.linalg.cross(center, axis)) ** 2,
    ):
        values = feature(drawn)
        error = values.std() / math.sqrt(len(values))
        assert abs(values.mean() - (mass * feature(points)).sum()) < 4 * error


# --- mixtures ---


def mixture(count: int, seed: int = 0) -> KernelMixture:
    places = torch.cat([spread(count, seed), arc(count, 50, seed)])
    made = [family(places, LEAST) for family in (fixed(800.0), neighbours(3, 0.5), local_pca(6, 0.8, 0.1))]
    center, axis, variance = (
        torch.cat([getattr(one, name) for one in made]) for name in ("center", "axis", "variance")
    )
    weight = torch.rand(len(center), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return KernelMixture(center, axis, variance, 0.97 * weight / weight.sum())


def test_sums_over_halved_points_are_the_plain_sums() -> None:
    model = mixture(40)
    points = torch.cat([spread(900, 8), model.center[:50], -model.center[:5]])
    cosine = points @ model.center.T
    across = torch.linalg.cross(model.center, model.axis)
    chart = (2 / (1 + cosine).clamp_min(1e-12)).sqrt()  # the chart's own coordinates, u = y·e √(2/(1 + cos θ))
    u1, u2 = chart * (points @ model.axis.T), chart * (points @ across.T)
    v1, v2 = model.variance.unbind(-1)
    kernels = torch.exp(-(u1**2 / v1 + u2**2 / v2) / 2) / (2 * math.pi * (v1 * v2).sqrt())
    kernels = torch.where(cosine < -1 + 1e-9, torch.zeros_like(kernels), kernels / disc_probability(model.variance))
    reference = kernels @ model.weight + model.uniform_share / SPHERE_AREA
    assert torch.allclose(model.log_prob(points), reference.log(), atol=1e-7)
    part = torch.arange(len(model.weight)) % 4
    by_part = sum_kernels(points, Kernels(model.center, model.axis, model.variance), model.weight, part, 4)
    whole = sum_kernels(points, Kernels(model.center, model.axis, model.variance), model.weight, 0 * part, 1)
    assert torch.allclose(by_part.sum(1), whole[:, 0])
    assert model.log_prob(points[:0]).shape == (0,)


def test_a_mixture_survives_storing_and_draws_what_it_says() -> None:
    model = mixture(30)
    points = spread(50, 4)
    again = KernelMixture.of_tensors(dict(model.state_dict()))
    assert torch.allclose(again.log_prob(points), model.log_prob(points), rtol=0, atol=1e-12)
    one_draw, same = (model.sample(2000, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one_draw, same)
    assert model.sample(0).shape == (0, 3)
    far = KernelMixture(model.center[:1], model.axis[:1], 0 * model.variance[:1] + LEAST, torch.tensor([0.25]))
    near = angle(far.sample(4000, torch.Generator().manual_seed(0)), model.center[:1]) < 0.01
    assert float(near.double().mean()) == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize("factor", [1.0, 1.05])
def test_both_integrals_are_one_and_tell_when_not(factor: float) -> None:
    model = mixture(20)
    own = torch.cat([model.center, model.sample(500, torch.Generator().manual_seed(1))])
    found = integral(lambda y: model.log_prob(y) + math.log(factor), own, count=20_000)
    assert found.grid == pytest.approx(factor, abs=1e-3)
    assert found.sampling_se < 4e-3 and abs(found.sampling - factor) < 4 * found.sampling_se
    assert found.evaluations > 25_000


def test_both_integrals_find_a_spike() -> None:
    spike = one(spread(1, 9)[0], LEAST, LEAST)
    found = integral(spike.log_prob, spike.sample(300, torch.Generator().manual_seed(0)))
    assert found.grid == pytest.approx(1, abs=1e-3) and abs(found.sampling - 1) < 4 * found.sampling_se


# --- families ---


def test_nearest_is_brute_force_and_leaves_the_place_itself_out() -> None:
    places = torch.cat([spread(40), spread(40)[:7], spread(40)[:3]])  # pairs and triples of copies
    chord, index = nearest(places, 5)
    distance = (places[:, None] - places).norm(dim=-1)
    distance.fill_diagonal_(math.inf)
    assert torch.allclose(chord, distance.sort(1)[0][:, :5], atol=1e-12)
    assert not bool((index == torch.arange(len(places))[:, None]).any())
    assert nearest(places[:3], 9)[0].shape == (3, 2)


@pytest.mark.parametrize("family", [WIDTHS[0], NEIGHBOURS[0], local_pca(1, 0.5, 0.1), BRIDGES[0]])
def test_no_kernel_is_narrower_than_stated(family) -> None:
    places = torch.cat([spread(20), spread(20)])  # every place has a copy, so widths of zero are asked for
    made = family(places, 4 * LEAST)
    assert float(made.variance.min()) == pytest.approx(4 * LEAST)
    assert torch.allclose((made.center * made.axis).sum(-1), torch.zeros(40).double(), atol=1e-9)
    assert torch.allclose(made.axis.norm(dim=-1), torch.ones(40).double())


def test_directed_kernels_lie_along_the_arc() -> None:
    places = arc(300, 5)
    for family in (local_pca(12, 1.0, 0.0), bridges(2, 0.5, 0.05)):
        made = family(places, 1e-12)
        wide = made.variance.argmax(1)
        direction = torch.where((wide == 0)[:, None], made.axis, torch.linalg.cross(made.center, made.axis))
        assert float(direction[:, 2].abs().median()) < 0.2  # the arc lies in z = 0
        assert float((made.variance.amax(1) / made.variance.amin(1)).median()) > 10


def test_a_bridge_stands_midway() -> None:
    places = spread(60, 2)
    chord, index = nearest(places, 2)
    made = bridges(2, 0.5, 0.1)(places, LEAST)
    other = places[index[:, 1]]
    assert torch.allclose(angle(made.center, places), angle(made.center, other))
    assert torch.allclose(made.variance[:, 0].sqrt(), 0.5 * chord[:, 1])
    ends = torch.stack([spread(1)[0], -spread(1)[0]])  # antipodes have no middle
    assert bool(torch.isfinite(bridges(1, 0.5, 0.1)(ends, LEAST).axis).all())


# --- weights ---


def test_em_finds_the_best_weights() -> None:
    draw = torch.Generator().manual_seed(0)
    likelihood = torch.rand(400, 5, dtype=torch.float64, generator=draw) ** 3
    weight = em_weights(likelihood, torch.zeros(5).double(), tolerance=1e-13)
    assert float(weight.sum()) == pytest.approx(1)
    slope = (likelihood / (likelihood @ weight)[:, None]).mean(0)  # 1 where a weight is positive, else below
    assert float(slope.max()) < 1 + 1e-3
    assert torch.allclose(slope[weight > 1e-3], torch.ones(()).double(), atol=1e-3)
    much = em_weights(likelihood, torch.tensor([1e6, 0, 0, 0, 0]).double())
    assert float(much[0]) > 0.99


def test_no_place_is_scored_by_kernels_that_knew_it() -> None:
    train, val = spread(60), spread(9, 1)
    shown: list[Tensor] = []

    def spy(places: Tensor, least: float) -> Kernels:
        shown.append(places)
        return fixed(500.0)(places, least)

    def rounded(places: Tensor) -> set[tuple[float, ...]]:
        return {tuple(row) for row in places.numpy().round(9).tolist()}

    fit_kernels(train, val, families=[spy], folds=6)
    assert [len(places) for places in shown] == [50] * 6 + [60]
    missing = [rounded(train) - rounded(places) for places in shown[:-1]]
    assert sum(map(len, missing)) == 60 and len(set.union(*missing)) == 60


def test_weights_prefer_what_holds_for_new_places() -> None:
    train, val, test = arc(240, 8, 0), arc(30, 8, 1), arc(300, 8, 2)
    plain = fit_plain(train, val)
    best = fit_kernels(train, val, families=FAMILIES[::2])
    gain = best.log_prob(test) - plain.log_prob(test)
    assert float(gain.mean()) > 0.2 and float(gain.mean() / gain.std() * math.sqrt(len(test))) > 3
    assert float(best.log_prob(test).mean()) < math.log(1 / (2 * math.pi / 3 * 8 / EARTH_RADIUS_KM * 4.13))  # the truth
    assert best.uniform_share > 0 and float(best.weight.sum()) + best.uniform_share == pytest.approx(1)


def test_places_without_structure_give_the_uniform_law() -> None:
    train, val, test = spread(300), spread(60, 1), spread(500, 2)
    for model in (fit_plain(train, val), fit_kernels(train, val, families=WIDTHS + NEIGHBOURS)):
        assert -float(model.log_prob(test).mean()) == pytest.approx(math.log(SPHERE_AREA), abs=0.03)


def test_copies_make_spikes_no_narrower_than_stated() -> None:
    places = spread(50)
    twice = torch.cat([places, places, places])
    for smallest_km in (2.0, 20.0):
        peak = -math.log(2 * math.pi * (smallest_km / EARTH_RADIUS_KM) ** 2)
        for model in (
            fit_plain(twice, places, smallest_km=smallest_km),
            fit_kernels(twice, places, families=FAMILIES[::5], smallest_km=smallest_km),
            fit_vmf_mixture(twice, 40, smallest_km=smallest_km),
        ):
            assert float(model.variance.sqrt().min()) * EARTH_RADIUS_KM == pytest.approx(smallest_km, rel=1e-6)
            assert float(model.log_prob(places).max()) < peak


def test_a_mixture_of_few_finds_them() -> None:
    centers = spread(3, 6)
    draw = torch.Generator().manual_seed(0)
    truth = KernelMixture(
        centers, tangent_frame(centers)[..., 0], torch.tensor([[0.01, 0.01], [0.001, 0.001], [0.03, 0.03]]),
        torch.tensor([0.5, 0.2, 0.2]),
    )  # fmt: skip
    train, test = truth.sample(3000, draw), truth.sample(3000, draw)
    fits = [fit_vmf_mixture(train, 3, seed=seed) for seed in range(5)]  # EM ends where it ends: the best of several
    found = max(fits, key=lambda fit: float(fit.log_prob(train).mean()))
    order = (found.center @ centers.T).argmax(0)
    assert torch.allclose(found.weight[order], truth.weight, atol=0.03)
    assert torch.allclose(found.variance[order], truth.variance, rtol=0.25)
    assert float((truth.log_prob(test) - found.log_prob(test)).mean()) < 0.01


def test_bad_input_is_named() -> None:
    places = spread(20)
    wrong = places.clone()
    wrong[3] = math.nan
    for bad in (wrong, 2 * places):
        with pytest.raises(CoordinateError, match="of 20 train are no unit vectors"):
            fit_plain(bad, places)
        with pytest.raises(CoordinateError, match="of 20 points are no unit vectors"):
            mixture(5).log_prob(bad)
    with pytest.raises(DensityError, match=r"smallest_km must be above 0, got 0\.0"):
        fit_kernels(places, places, smallest_km=0.0)
    with pytest.raises(DensityError, match="folds must lie between 2 and places less 2, got 19 for 20"):
        fit_kernels(places, places, folds=19)
    with pytest.raises(DensityError, match="components must lie between 1 and the 20"):
        fit_vmf_mixture(places, 21)
    with pytest.raises(DensityError, match="neighbours need at least 2"):
        nearest(places[:1], 1)
    axis = tangent_frame(places)[..., 0]
    with pytest.raises(DensityError, match="variance must be finite and above 0"):
        KernelMixture(places, axis, torch.zeros(20, 2), torch.ones(20) / 20)
    for beyond in (1e-15, 1e5):
        with pytest.raises(DensityError, match="variance must lie between 1e-14 and 10000"):
            KernelMixture(places, axis, torch.full((20, 2), beyond), torch.ones(20) / 20)
    with pytest.raises(DensityError, match="axis must be tangent at center"):
        KernelMixture(places, places, torch.ones(20, 2), torch.ones(20) / 21)
    with pytest.raises(DensityError, match="sum to at most 1"):
        KernelMixture(places, axis, torch.ones(20, 2), torch.ones(20))
