"""Cells: exactly equal areas, and refinement that finds and integrates densities of any sharpness."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest

from avgeo.flow.cells import Cells, PosteriorError, even_cells, refine
from avgeo.flow.integral import integral_by_grid, integral_by_sampling
from avgeo.flow.kernels import KernelMixture
from avgeo.sphere import (
    EARTH_RADIUS_KM,
    SPHERE_AREA,
    from_degrees,
    sample_uniform,
    sample_vmf,
    tangent_frame,
    vmf_log_prob,
)

Parts = list[tuple[float, tuple[float, float], float]]  # share, (latitude, longitude) in degrees, kappa

MIXTURES: dict[str, Parts] = {
    "flat": [(1.0, (0.0, 0.0), 0.0)],
    "broad": [(1.0, (50.0, 10.0), 1.0)],
    "continent": [(1.0, (50.0, 10.0), 30.0)],
    "date line": [(1.0, (-20.0, 179.999), 1e5)],
    "a kilometre": [(1.0, (51.0, 7.0), 1e8)],
    "on the pole": [(1.0, (90.0, 0.0), 1e4)],
    "by the pole": [(1.0, (-89.99, 40.0), 1e6)],
    "a spike on a plain": [(0.5, (0.0, 0.0), 3.0), (0.5, (40.0, 100.0), 1e7)],
    "three": [(0.3, (60.0, 179.0), 200.0), (0.3, (-70.0, -170.0), 50.0), (0.4, (10.0, 10.0), 5e4)],
}


def place(latitude_deg: float, longitude_deg: float) -> torch.Tensor:
    return from_degrees(*(torch.tensor(x, dtype=torch.float64) for x in (latitude_deg, longitude_deg)))


def log_density(parts: Parts):
    """The log density of a vMF mixture, as a function of points (n, 3)."""
    return lambda points: torch.logsumexp(
        torch.stack([vmf_log_prob(points, place(*at), kappa) + math.log(share) for share, at, kappa in parts]), 0
    )


def drawn(parts: Parts, n: int, seed: int = 0) -> torch.Tensor:
    """About `n` draws from the mixture, float64."""
    draw = torch.Generator().manual_seed(seed)
    found = [
        sample_vmf(place(*at).expand(round(share * n), 3), kappa, draw)
        if kappa
        else sample_uniform(round(share * n), draw).double()
        for share, at, kappa in parts
    ]
    return torch.cat(found)


@given(st.integers(6, 4000))
def test_even_cells_have_one_area_and_make_the_sphere(count):
    cells = even_cells(count)
    assert len(cells) == pytest.approx(count, rel=0.35)
    assert float(cells.area.sum()) == pytest.approx(4 * math.pi, rel=1e-12)
    assert float(cells.area.max() - cells.area.min()) < 1e-12
    west, east, south, north = cells.bounds.unbind(-1)
    assert float(west.min()) == -math.pi and float(east.max()) == math.pi  # the date line is a border
    assert float(south.min()) == pytest.approx(-1, abs=1e-12) and float(north.max()) == 1
    assert float(cells.points.norm(dim=-1).sub(1).abs().max()) < 1e-12


@given(st.integers(6, 500), st.integers(0, 2**30))
def test_quarters_are_a_quarter_each_and_lie_within(count, seed):
    cells = even_cells(count)
    quarters = cells.quartered()
    assert float((quarters.area.reshape(-1, 4) - cells.area[:, None] / 4).abs().max()) < 1e-12
    inside = quarters.bounds.reshape(-1, 4, 4)
    assert bool((inside[..., [0, 2]] >= cells.bounds[:, None, [0, 2]]).all())
    assert bool((inside[..., [1, 3]] <= cells.bounds[:, None, [1, 3]]).all())
    points = sample_uniform(200, torch.Generator().manual_seed(seed))
    owner = cells.at(points, torch.arange(len(cells)).expand(200, -1))
    child = quarters.at(points, torch.arange(len(quarters)).expand(200, -1))
    assert torch.equal(child // 4, owner)
    west, east, south, north = cells.bounds[owner].unbind(-1)
    longitude = torch.atan2(points[:, 1], points[:, 0])
    assert bool(((west <= longitude + 1e-6) & (longitude <= east + 1e-6)).all())
    assert bool(((south <= points[:, 2] + 1e-6) & (points[:, 2] <= north + 1e-6)).all())


def test_cells_stay_nearly_square_however_often_they_are_quartered_at_a_pole():
    cells = even_cells(50)
    for _ in range(12):
        top = cells.bounds[:, 3].argmax()
        cells = Cells(cells.bounds[top][None]).quartered()
    west, east, south, north = cells.bounds.unbind(-1)
    height = north.clamp(max=1).acos().sub(south.acos()).abs()
    width = (east - west) * (1 - ((south + north) / 2) ** 2).sqrt()
    assert float((width / height).min()) > 0.2 and float((width / height).max()) < 5


@pytest.mark.parametrize("name", MIXTURES)
def test_integral_is_one_to_a_thousandth(name):
    parts = MIXTURES[name]
    found = refine(log_density(parts), drawn(parts, 500).float())
    assert found.total == pytest.approx(1, abs=1e-3)
    assert float(found.cells.area.sum()) == pytest.approx(4 * math.pi, rel=1e-9)
    assert torch.equal(found.log_prob, log_density(parts)(found.cells.points))
    assert found.evaluations < 20_000  # an even grid as fine as "a kilometre" needs would have 1e10 points


def test_a_spike_that_no_cell_sees_needs_samples():
    parts = MIXTURES["a spike on a plain"]
    assert refine(log_density(parts)).total == pytest.approx(0.5, abs=1e-3)  # half of the mass is missing, and it shows


def test_cells_do_not_depend_on_the_units_of_the_density():
    parts = MIXTURES["three"]
    samples = drawn(parts, 200)
    plain = refine(log_density(parts), samples)
    shifted = refine(lambda points: log_density(parts)(points) - 500.0, samples)
    assert len(plain.cells) == pytest.approx(len(shifted.cells), rel=0.01)  # but for rounding of the last few
    assert math.log(shifted.total) == pytest.approx(math.log(plain.total) - 500, abs=1e-5)


def test_an_atom_and_coincident_samples_end():
    here = place(10.0, 20.0)
    found = refine(lambda points: vmf_log_prob(points, here, 1e11), here.expand(100, 3))
    assert float(found.cells.area.min()) >= 1e-13 and found.evaluations < 20_000


@pytest.mark.parametrize("name", ["date line", "on the pole", "three"])
def test_samples_of_cells_follow_the_density(name):
    parts = MIXTURES[name]
    found = refine(log_density(parts), drawn(parts, 500))
    mine, theirs = found.sample(4000, seed=1), drawn(parts, 4000, seed=2)
    for axis in range(3):
        assert kstest(mine[:, axis].numpy(), theirs[:, axis].numpy()).pvalue > 1e-3
    assert torch.equal(mine, found.sample(4000, seed=1)) and not torch.equal(mine, found.sample(4000, seed=2))


def test_bad_densities_are_refused():
    with pytest.raises(PosteriorError, match="NaN or infinity"):
        refine(lambda points: torch.full((len(points),), math.nan))
    with pytest.raises(PosteriorError, match="one value each"):
        refine(lambda points: torch.zeros(3))
    with pytest.raises(PosteriorError, match="-inf at every cell and sample"):
        refine(lambda points: torch.full((len(points),), -math.inf))
    with pytest.raises(PosteriorError, match="raise limit"):
        refine(log_density(MIXTURES["broad"]), limit=2000)
    with pytest.raises(PosteriorError, match="count must be at least 6"):
        even_cells(5)
    found = refine(lambda points: torch.where(points[:, 2] > 0, -math.log(2 * math.pi), -math.inf))
    assert found.total == pytest.approx(1, abs=0.02)  # a hemisphere: -inf beyond its edge is no error
    assert np.isfinite(found.log_prob[found.cells.points[:, 2] > 0].numpy()).all()


def needles(count: int = 20, km: float = 1.0) -> KernelMixture:
    places = sample_uniform(count, torch.Generator().manual_seed(2)).double()
    variance = torch.full((count, 2), (km / EARTH_RADIUS_KM) ** 2, dtype=torch.float64)
    return KernelMixture(places, tangent_frame(places)[..., 0], variance, torch.full((count,), 1 / count))


def test_one_sample_leads_to_its_peak():
    law = needles()
    found = refine(law.log_prob, law.center, limit=200_000)
    assert found.total == pytest.approx(1, abs=0.02)
    alone = refine(needles(1).log_prob, needles(1).center)  # and where all else is -inf
    assert alone.total == pytest.approx(1, abs=0.02)
    with pytest.raises(PosteriorError, match="-inf at every cell and sample"):
        refine(needles(1).log_prob, -needles(1).center)


def test_no_integral_passes_over_nan_and_no_sample_is_none():
    def broken(points):
        values = torch.zeros(len(points), dtype=torch.float64) - math.log(SPHERE_AREA)
        return torch.where((points[:, 2] - 0.5).abs() < 1e-2, math.nan, values)

    cells = even_cells(400)
    with pytest.raises(PosteriorError, match="NaN"):
        integral_by_grid(broken, Cells(cells.bounds).quartered().quartered())
    flat = refine(lambda points: torch.full((len(points),), -math.log(SPHERE_AREA), dtype=torch.float64))
    with pytest.raises(PosteriorError, match="NaN"):
        integral_by_sampling(broken, flat, 50_000, torch.Generator().manual_seed(0))
    with pytest.raises(PosteriorError, match="n must be at least 1, got 0"):
        flat.sample(0)
