"""Densities of flows: closed forms, Jacobians of the map, totals, Hutchinson's estimate, grids."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from tangent_fields import points_of, winding, winding_with_divergence

from avgeo.flow.base import Uniform
from avgeo.flow.likelihood import draw_probes, grid_probabilities, hutchinson, log_likelihood
from avgeo.flow.solver import METHODS, SolverError, integrate
from avgeo.sphere import (
    SPHERE_AREA,
    CoordinateError,
    exp_map,
    fibonacci_grid,
    log_map,
    normalize,
    project,
    sample_uniform,
    tangent_frame,
    uniform_log_density,
    vmf_log_prob,
)

POLE = torch.tensor([0.0, 0.0, 1.0]).double()
SPEED = 1.3


def climb(points, time):
    """a(t) grad z, for which dz/dt = a(t) (1 - z²): z_0 = tanh(atanh z_1 - ∫a)."""
    return 2 * SPEED * time * project(points, POLE.to(points).expand_as(points))


def climb_with_divergence(points, time, frame):
    slope = -2 * SPEED * time * points[:, 2]
    # <e, Dv·e> = -a z <e, e> for every tangent e
    return climb(points, time), slope * frame.square().sum((-1, -2))


def climbed(points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Origins and the log determinant, in closed form."""
    z1 = points[:, 2]
    z0 = torch.tanh(torch.atanh(z1) - SPEED)
    ring = torch.sqrt((1 - z0**2) / (1 - z1**2))
    return torch.stack([points[:, 0] * ring, points[:, 1] * ring, z0], -1), torch.log((1 - z0**2) / (1 - z1**2))


@pytest.mark.parametrize(("method", "steps", "tolerance"), [
    ("euler", 400, 2e-2), ("midpoint", 100, 2e-3), ("rk4", 20, 1e-5), ("adams", 40, 1e-5),
])  # fmt: skip
def test_density_known_in_closed_form(method, steps, tolerance):
    end = normalize(fibonacci_grid(500).double())
    origin, stretch = climbed(end)
    found = log_likelihood(climb, climb_with_divergence, end, steps, method=method)
    assert float((found - uniform_log_density() - stretch).abs().max()) < tolerance
    base = normalize(torch.tensor([0.3, -0.4, 0.2]).double())
    found = log_likelihood(
        climb, climb_with_divergence, end, steps, method=method, base=lambda x: vmf_log_prob(x, base, 4.0)
    )
    assert float((found - vmf_log_prob(origin, base, 4.0) - stretch).abs().max()) < 2 * tolerance


def test_density_is_the_jacobian_of_the_map():
    """The determinant of the flow's map between tangent planes, by differences: no divergence enters."""
    end = points_of(20)
    frame = tangent_frame(end)
    origin = integrate(winding, end, 100, backwards=True)
    step = 1e-5
    columns = []
    for e in frame.unbind(-1):
        ahead, behind = (integrate(winding, exp_map(end, sign * step * e), 100, backwards=True) for sign in (1, -1))
        columns.append((log_map(origin, ahead) - log_map(origin, behind)) / (2 * step))
    jacobian = tangent_frame(origin).transpose(1, 2) @ torch.stack(columns, -1)
    found = log_likelihood(winding, winding_with_divergence, end, 100)
    assert torch.allclose(found - uniform_log_density(), torch.linalg.det(jacobian).log(), atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_total_is_one(method):
    grid = normalize(fibonacci_grid(2000).double())
    steps = 150 if method == "euler" else 30
    density = log_likelihood(winding, winding_with_divergence, grid, steps, method=method).exp()
    assert float(density.mean() * SPHERE_AREA) == pytest.approx(1, abs=0.02 if method == "euler" else 1e-3)
    assert float(density.max() / density.min()) > 20


def test_hutchinson_is_unbiased_in_the_tangent_plane():
    """All four signs together give the divergence itself, at any point and in any frame; one alone does not."""
    points = points_of(30)
    frame = tangent_frame(points)
    exact = winding_with_divergence(points, 0.3, frame)[1]
    all_signs = [torch.tensor(signs).expand(30, 2) for signs in itertools.product([-1.0, 1.0], repeat=2)]
    estimates = []
    for probes in all_signs:
        velocity, estimate = hutchinson(winding_with_divergence, probes)(points, 0.3, frame)
        assert torch.equal(velocity, winding(points, 0.3))
        estimates.append(estimate)
    assert torch.allclose(torch.stack(estimates).mean(0), exact, atol=1e-12)
    assert float((estimates[0] - exact).abs().max()) > 0.1


def test_hutchinson_log_likelihood_is_unbiased_and_uses_one_tangent():
    end = points_of(6).repeat(300, 1)
    tangents = []

    def spied(points, time, frame):
        tangents.append(frame.shape[-1])
        return winding_with_divergence(points, time, frame)

    exact = log_likelihood(winding, winding_with_divergence, end[:6], 12)
    probes = draw_probes(len(end), torch.Generator().manual_seed(0))
    assert set(probes.flatten().tolist()) == {-1.0, 1.0}
    estimate = log_likelihood(winding, hutchinson(spied, probes), end, 12).view(300, 6)
    assert set(tangents) == {1}
    error = (estimate.mean(0) - exact) / (estimate.std(0) / math.sqrt(300) + 1e-6)
    assert float(error.abs().max()) < 4
    assert float(estimate.std(0).max()) > 0.05


def test_grid_probabilities_against_the_closed_form():
    for base in (Uniform().log_prob, lambda x: vmf_log_prob(x, POLE.to(x), 3.0)):
        points, found = grid_probabilities(climb, 4000, 30, base=base, like=POLE)
        assert float(found.sum()) == pytest.approx(1, abs=1e-6)
        assert torch.equal(points, fibonacci_grid(4000).double())
        origin, stretch = climbed(normalize(points))
        expected = torch.exp(stretch + base(origin)) * SPHERE_AREA / 4000
        assert float((found - expected).abs().sum() / 2) < 0.02
        assert float((found / expected).log().abs().max()) < 0.1


def test_bad_input_names_its_cure():
    for points in (torch.zeros(3, 3), torch.full((1, 3), math.nan), torch.zeros(0, 3), 2 * sample_uniform(4)):
        with pytest.raises(CoordinateError, match="points"):
            log_likelihood(climb, climb_with_divergence, points, 5)
    with pytest.raises(SolverError, match="count must be at least 100"):
        grid_probabilities(climb, 10, 5)
