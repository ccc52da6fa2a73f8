"""One place, entropy, countries and the energy score, against closed forms and brute force."""

from __future__ import annotations

import math
from functools import cache

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from avgeo.flow.cells import CellDensity, PosteriorError, even_cells, refine
from avgeo.flow.posterior import (
    cell_mass,
    energy_score,
    entropy_bits,
    grid_entropy_bits,
    grid_probability_by,
    mode,
    probability_by,
    scatter,
)
from avgeo.sphere import (
    SPHERE_AREA,
    CoordinateError,
    distance_km,
    fibonacci_grid,
    from_degrees,
    normalize,
    sample_uniform,
    sample_vmf,
    to_degrees,
    uniform_log_density,
    vmf_log_prob,
)
from avgeo.world import country_at

HERE = normalize(torch.tensor([-0.6, 0.01, 0.8], dtype=torch.float64))  # a degree from the date line


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def vmf(kappa: float, n: int = 1000, at: torch.Tensor = HERE, seed: int = 0):
    """Log density (a function), and samples of it."""
    return lambda points: vmf_log_prob(points, at, kappa), sample_vmf(at.expand(n, 3), kappa, draw(seed))


@cache
def vmf_cells(kappa: float) -> CellDensity:
    return refine(*vmf(kappa, 300))


def vmf_bits(kappa: float) -> float:
    """Entropy of vMF against uniform in bits, to 50 digits: -(log C + κ (coth κ - 1/κ) + log 4π) / log 2."""
    with mpmath.workdps(50):
        k = mpmath.mpf(kappa)
        expected = mpmath.log(k / (4 * mpmath.pi * mpmath.sinh(k))) + k * (mpmath.coth(k) - 1 / k)
        return float(-(expected + mpmath.log(4 * mpmath.pi)) / mpmath.log(2))


# --- one place ---


@pytest.mark.parametrize("kappa", [0.5, 30.0, 1e4, 1e8])
def test_mode_is_found_to_a_few_metres(kappa):
    log_prob, _ = vmf(kappa)
    found, value = mode(vmf_cells(kappa), log_prob)
    assert float(distance_km(found, HERE)) < 0.01
    assert value == pytest.approx(float(log_prob(HERE[None])), abs=1e-9)
    assert value == pytest.approx(float(log_prob(found[None])), abs=1e-12)


@pytest.mark.parametrize("latitude_deg", [90.0, -89.999, 0.0])
def test_mode_is_the_higher_of_two_peaks_even_where_it_holds_less(latitude_deg):
    low, high = from_degrees(*torch.tensor([[0.0, latitude_deg], [60.0, 180.0]], dtype=torch.float64))

    def log_prob(points):
        return torch.logaddexp(
            vmf_log_prob(points, low, 100.0) + math.log(0.8), vmf_log_prob(points, high, 1e5) + math.log(0.2)
        )

    samples = torch.cat([sample_vmf(low.expand(400, 3), 100.0, draw()), sample_vmf(high.expand(100, 3), 1e5, draw())])
    found, value = mode(refine(log_prob, samples), log_prob)
    assert float(distance_km(found, high)) < 0.01
    on_grid = log_prob(fibonacci_grid(20_000).double())
    assert value >= float(on_grid.max())


@given(st.integers(0, 1000))
@settings(max_examples=15)
def test_mode_is_never_below_the_best_cell_on_rough_ground(seed):
    centres, heights = sample_uniform(12, draw(seed)).double(), torch.rand(12, generator=draw(seed)).double()

    def log_prob(points):
        return torch.logsumexp(vmf_log_prob(points[:, None], centres, 40.0) + heights, -1)

    cells = even_cells(800)
    found, value = mode(CellDensity(cells, log_prob(cells.points), len(cells)), log_prob)
    brute = float(log_prob(fibonacci_grid(30_000).double()).max())
    assert value >= brute - 1e-9
    assert float(found.norm()) == pytest.approx(1, abs=1e-12)


# --- how sure ---


@pytest.mark.parametrize("kappa", [0.1, 1.0, 30.0, 1e4, 1e8])
def test_entropy_of_a_von_mises_fisher_law(kappa):
    log_prob, samples = vmf(kappa, 4000)
    expected = vmf_bits(kappa)
    sampled = entropy_bits(log_prob(samples))
    assert abs(sampled.value - expected) < 4 * sampled.standard_error
    # log p falls by an exponential law of mean 1 where the density is sharp, so that its SD is 1 nat
    if kappa > 10:
        assert sampled.standard_error == pytest.approx(1 / math.log(2) / math.sqrt(4000), rel=0.1)
    found = vmf_cells(kappa)
    assert grid_entropy_bits(found.log_prob, found.cells.area) == pytest.approx(expected, abs=0.01)


def test_entropy_is_zero_anywhere_and_minus_one_on_a_hemisphere():
    assert grid_entropy_bits(torch.full((500,), uniform_log_density()), SPHERE_AREA / 500) == pytest.approx(0, abs=1e-6)
    grid = fibonacci_grid(1000)
    half = torch.where(grid[:, 2] > 0, -math.log(2 * math.pi), -math.inf)
    assert grid_entropy_bits(half, SPHERE_AREA / 1000) == pytest.approx(-1, abs=1e-6)
    assert entropy_bits(torch.full((10,), -math.log(2 * math.pi))).value == pytest.approx(-1, abs=1e-6)


@pytest.mark.parametrize("kappa", [0.5, 30.0, 3e3, 1e7])
def test_scatter_integrates_any_sharpness_at_any_temperature(kappa):
    log_prob, samples = vmf(kappa, 6000)
    samples = samples.reshape(30, 200, 3)
    points = scatter(samples, log_prob(samples))
    values = log_prob(points.points)
    area = points.areas(values)
    assert torch.equal(points.points[:, -200:], samples) and points.points.shape == (30, 600, 3)
    for temperature in (0.25, 1.0, 4.0, 16.0):
        # ∫ p^(1/T) dA of a vMF law: its constant to the 1/T, over the constant of vMF(κ/T)
        exact = float(log_prob(HERE[None])) / temperature - float(vmf_log_prob(HERE, HERE, kappa / temperature))
        found = torch.logsumexp(values / temperature + area.log(), -1)
        assert float(found.mean()) == pytest.approx(exact, abs=0.03)
        assert float(found.std()) < 0.15
    assert grid_entropy_bits(values[0], area[0]) == pytest.approx(vmf_bits(kappa), abs=0.4)


# --- which country ---


def test_shares_of_samples_sum_to_one_with_what_is_left():
    shares = probability_by(["Chad", None, "Chad", "Peru"])
    assert [(share.name, share.probability) for share in shares] == [("Chad", 0.5), ("sea", 0.25), ("Peru", 0.25)]
    assert shares[0].standard_error == pytest.approx(0.25)
    named = probability_by(np.array([None, "Peru"], dtype=object), other="other")
    assert {share.name for share in named} == {"other", "Peru"}


@pytest.mark.parametrize("kappa", [0.5, 30.0, 1e4])
def test_shares_of_halves_have_their_closed_form(kappa):
    # the meridians of HERE and opposite are a great circle through the mean: each side of it holds a half
    east_of = float(to_degrees(HERE)[1])
    shares = grid_probability_by(vmf_cells(kappa), lambda _, x: np.where((x - east_of) % 360 < 180, "east", "west"))
    assert sum(share.probability for share in shares) == pytest.approx(1, abs=1e-12)
    assert shares[0].probability == pytest.approx(0.5, abs=2e-3)


@pytest.mark.parametrize(("latitude_deg", "longitude_deg", "kappa"), [(47.5, 8.5, 3e3), (66.0, 179.0, 300.0)])
def test_countries_over_cells_agree_with_countries_of_samples(latitude_deg, longitude_deg, kappa):
    at = from_degrees(*torch.tensor([latitude_deg, longitude_deg], dtype=torch.float64))
    log_prob, samples = vmf(kappa, 20_000, at)
    shares = grid_probability_by(refine(log_prob, samples[:300]), country_at)
    assert sum(share.probability for share in shares) == pytest.approx(1, abs=1e-12)
    assert [share.probability for share in shares] == sorted((share.probability for share in shares), reverse=True)
    sampled = {share.name: share for share in probability_by(country_at(*(x.numpy() for x in to_degrees(samples))))}
    assert len(sampled) > 2
    for share in shares:
        if share.probability > 0.01:
            other = sampled[share.name]
            assert abs(share.probability - other.probability) < 4 * other.standard_error + 1e-3


# --- how good a forecast ---


def brute_energy(samples: torch.Tensor, truth: torch.Tensor) -> float:
    rows = samples.tolist()
    n = len(rows)
    miss = sum(math.dist(row, truth.tolist()) for row in rows) / n
    pairs = sum(math.dist(a, b) for i, a in enumerate(rows) for j, b in enumerate(rows) if i != j)
    return miss - pairs / (n * (n - 1)) / 2


def test_energy_score_is_the_double_sum_and_its_error_the_jackknife():
    samples, truth = vmf(20.0, 12)[1], sample_uniform(1, draw(5))[0].double()
    found = energy_score(samples, truth)
    assert found.value == pytest.approx(brute_energy(samples, truth), abs=1e-12)
    left_out = np.array([brute_energy(samples[torch.arange(12) != i], truth) for i in range(12)])
    assert found.standard_error == pytest.approx(math.sqrt(11 * left_out.var()), rel=1e-9)


def test_energy_score_of_the_uniform_law_is_two_thirds_everywhere_and_its_error_is_right():
    # E|X - y| = 4/3 for X uniform, whatever y; so is E|X - X'|
    found = [energy_score(sample_uniform(60, draw(seed)), torch.tensor([0.0, 0.0, 1.0])) for seed in range(300)]
    values, errors = np.array([[item.value, item.standard_error] for item in found]).T
    assert abs(values.mean() - 2 / 3) < 4 * values.std() / math.sqrt(300)  # unbiased: with i = j it is 0.011 too much
    assert errors.mean() == pytest.approx(values.std(), rel=0.2)


def test_energy_score_prefers_the_truth_to_too_sure_and_too_unsure():
    truths = vmf(20.0, 150, seed=9)[1]
    mean = {
        kappa: np.mean([energy_score(vmf(kappa, 400, seed=seed)[1], truth).value for seed, truth in enumerate(truths)])
        for kappa in (5.0, 20.0, 100.0)
    }
    assert mean[20.0] < mean[5.0] - 0.005 and mean[20.0] < mean[100.0] - 0.005


def test_the_chord_tells_two_poles_from_the_uniform_law():
    # with the distance along the ground both score π/4 against a truth at a pole; see the docstring
    poles = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, -1.0]]).repeat(500, 1)
    on_poles = energy_score(poles, poles[0]).value
    anywhere = energy_score(sample_uniform(1000, draw()), poles[0]).value
    assert on_poles == pytest.approx(0.5, abs=0.002) and anywhere == pytest.approx(2 / 3, abs=0.03)


# --- bad input ---


def test_bad_input_is_named():
    values = torch.full((10,), uniform_log_density())
    with pytest.raises(PosteriorError, match="log_prob is empty"):
        entropy_bits(torch.empty(0))
    with pytest.raises(PosteriorError, match="NaN or infinity"):
        entropy_bits(torch.tensor([0.0, math.nan]))
    with pytest.raises(PosteriorError, match="NaN or infinity"):
        cell_mass(torch.tensor([0.0, math.inf]), 1.0)
    with pytest.raises(PosteriorError, match="one steradian each"):
        cell_mass(values, torch.ones(9))
    for area in (torch.zeros(10), torch.full((10,), math.nan), -1.0):
        with pytest.raises(PosteriorError, match="area must be positive and finite"):
            cell_mass(values, area)
    with pytest.raises(PosteriorError, match=r"∫ p dA is 0\.5"):
        cell_mass(values, SPHERE_AREA / 20)
    sharp = vmf_log_prob(fibonacci_grid(500).double(), HERE, 1e6)
    with pytest.raises(PosteriorError, match="use `refine`"):
        cell_mass(sharp, SPHERE_AREA / 500)
    with pytest.raises(CoordinateError, match="samples are no unit vectors"):
        energy_score(torch.ones(5, 3), torch.tensor([0.0, 0, 1]))
    with pytest.raises(CoordinateError, match="truth are no unit"):
        energy_score(sample_uniform(5), torch.full((3,), math.nan))
    with pytest.raises(PosteriorError, match="at least 3"):
        energy_score(sample_uniform(2), torch.tensor([0.0, 0, 1]))
    with pytest.raises(PosteriorError, match="labels is empty"):
        probability_by([])
    with pytest.raises(PosteriorError, match="3 labels for"):
        grid_probability_by(vmf_cells(30.0), lambda *_: np.array(["a", "b", "c"]))
    with pytest.raises(CoordinateError, match="samples are no unit"):
        scatter(torch.ones(5, 3), torch.zeros(5))
    with pytest.raises(CoordinateError, match="samples is empty"):
        scatter(torch.ones(0, 3), torch.zeros(0))
