"""Solvers: measured orders, scipy as the oracle, exactness on geodesics, evaluations, tolerances, bad arguments."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from tangent_fields import points_of, winding, winding_with_divergence

from avgeo.flow.solver import METHODS, SolverError, integrate, integrate_adaptive, integrate_back, time_grid
from avgeo.sphere import distance_km, exp_map, log_map, normalize, project

ORDERS = {"euler": 1, "midpoint": 2, "rk4": 4, "adams": 4}


class Counted:
    """A field that counts its evaluations."""

    def __init__(self, field=winding):
        self.field, self.count = field, 0

    def __call__(self, *arguments):
        self.count += 1
        return self.field(*arguments)


@pytest.fixture(scope="module")
def truth() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Twelve points, where scipy's order 8 carries them in R³, and back, with ∫ div v dt."""
    start = points_of(12)

    def run(begin, first, last):
        def slope(time, state):
            state = torch.from_numpy(state.reshape(12, 4))
            here = normalize(state[:, :3])
            frame = torch.linalg.svd(here[:, None])[2].transpose(1, 2)[:, :, 1:]
            velocity, divergence = winding_with_divergence(here, time, frame.contiguous())
            return torch.cat([velocity, divergence[:, None]], 1).flatten().numpy()

        state = torch.cat([begin, torch.zeros(12, 1)], 1).flatten().numpy()
        done = solve_ivp(slope, (first, last), state, method="DOP853", rtol=1e-10, atol=1e-11)
        last_state = torch.from_numpy(done.y[:, -1].reshape(12, 4))
        return normalize(last_state[:, :3]), last_state[:, 3]

    forward, _ = run(start, 0.0, 1.0)
    back, total = run(start, 1.0, 0.0)
    return start, forward, back, -total


@pytest.mark.parametrize("grading", [1.0, 1.8])
@pytest.mark.parametrize("method", METHODS)
def test_methods_have_their_orders(method, grading, truth):
    start, forward, back, total = truth
    errors = []
    for steps in (20, 40, 80):
        place = integrate(winding, start, steps, method=method, grading=grading)
        origin, gained = integrate_back(winding, winding_with_divergence, start, steps, method=method, grading=grading)
        errors.append([distance_km(place, forward), distance_km(origin, back), (gained - total).abs()])
    sizes = np.array([[float(part.square().mean().sqrt()) for part in row] for row in errors])
    measured = np.log2(sizes[:-1] / sizes[1:])
    assert (measured[-1] > ORDERS[method] - 0.35).all(), measured
    if ORDERS[method] == 4:
        assert sizes[-1, 0] < 0.05 and sizes[-1, 2] < 5e-5


@pytest.mark.parametrize("method", ["euler", "midpoint"])
def test_flow_to_one_place_is_exact_in_any_number_of_steps(method):
    start, end = points_of(50), points_of(1, 1).expand(50, 3)
    for steps in (1, 2, 7):
        found = integrate(lambda x, t: log_map(x, end) / (1 - t), start, steps, method=method)
        assert float(distance_km(found, end).max()) < 1e-6


@pytest.mark.parametrize("method", METHODS)
def test_turning_the_problem_turns_the_solution(method):
    """No method may know where the poles are, although tangent frames do."""
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(3)).double())[0]
    start = torch.cat([points_of(20), torch.tensor([[0.0, 0, 1], [0, 0, -1], [-1, 0, 0]]).double()])
    plain = integrate(winding, start, 6, method=method) @ turn.T
    turned = integrate(lambda x, t: winding(x @ turn, t) @ turn.T, start @ turn.T, 6, method=method)
    assert float((plain - turned).abs().max()) < 1e-12


@pytest.mark.parametrize("method", METHODS)
def test_float32_keeps_a_hundred_metres_over_many_steps(method):
    start = points_of(100)
    exact, rounded = (integrate(winding, s, 400, method=method) for s in (start, start.float()))
    assert rounded.dtype == torch.float32
    assert float(rounded.norm(dim=-1).sub(1).abs().max()) < 1e-6
    assert float(distance_km(rounded.double(), exact).max()) < 0.1


@pytest.mark.parametrize(("method", "expected"), [("euler", 9), ("midpoint", 18), ("rk4", 36), ("adams", 13)])
def test_evaluations_are_as_documented(method, expected):
    field, both = Counted(), Counted(winding_with_divergence)
    integrate(field, points_of(3), 9, method=method)
    assert field.count == expected
    field.count = 0
    integrate_back(field, both, points_of(3), 9, method=method)
    # the divergence where it has weight: midpoints only, and at corrected points of Adams steps
    assert (field.count, both.count) == {"euler": (0, 9), "midpoint": (9, 9), "rk4": (0, 36), "adams": (8, 13)}[method]


def test_backwards_undoes_forwards():
    start = points_of(30)
    end = integrate(winding, start, 100)
    assert float(distance_km(integrate(winding, end, 100, backwards=True), start).max()) < 0.05
    same, _ = integrate_back(winding, winding_with_divergence, end, 100)
    assert torch.allclose(same, integrate(winding, end, 100, backwards=True), atol=1e-12)


def test_grid_runs_from_0_to_1_and_is_finer_at_the_end():
    grid = time_grid(10, 2.0)
    assert grid[0] == 0 and grid[-1] == 1 and len(grid) == 11
    lengths = np.diff(grid)
    assert (np.diff(lengths) < 0).all()
    assert np.allclose(np.diff(time_grid(10, 1.0)), 0.1)


@pytest.mark.parametrize("tolerance_km", [30.0, 1.0, 0.05])
def test_adaptive_keeps_its_tolerance(tolerance_km, truth):
    start, forward, _, _ = truth
    field = Counted()
    found, evaluations = integrate_adaptive(field, start, tolerance_km)
    assert evaluations == field.count
    error = float(distance_km(found, forward).square().mean().sqrt())
    assert tolerance_km / 500 < error < tolerance_km
    assert evaluations < 60 / tolerance_km ** (1 / 3) + 30


def test_adaptive_finds_what_a_fixed_grid_passes_over():
    def pulse(points, time):
        return winding(points, time) * (0.2 + 8 * math.exp(-(((time - 0.37) / 0.02) ** 2)))

    start = points_of(20)
    exact = integrate(pulse, start, 800, grading=1.0)
    found, evaluations = integrate_adaptive(pulse, start, 10.0)
    assert float(distance_km(found, exact).median()) < 2
    fixed = integrate(pulse, start, evaluations - 4)
    assert float(distance_km(fixed, exact).median()) > 20


def test_adaptive_gives_up_clearly():
    start = points_of(5)
    with pytest.raises(SolverError, match=r"max_steps=10 .*allow more, or a tolerance_km above 0.001"):
        integrate_adaptive(winding, start, 1e-3, max_steps=10)
    with pytest.raises(SolverError, match=r"tolerance_km must be positive, got 0\.0"):
        integrate_adaptive(winding, start, 0.0)
    with pytest.raises(SolverError, match="tolerance_km must be positive, got nan"):
        integrate_adaptive(winding, start, math.nan)
    with pytest.raises(SolverError, match="the field is not finite"):
        integrate_adaptive(lambda x, t: x * math.nan, start, 1.0)


def test_bad_arguments_name_their_cure():
    start = points_of(5)
    with pytest.raises(SolverError, match="choose from euler, midpoint, rk4, adams"):
        integrate(winding, start, 5, method="heun")
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        integrate(winding, start, 0)
    with pytest.raises(SolverError, match="grading must be at least 1"):
        integrate(winding, start, 5, grading=0.5)


def test_one_step_of_any_method_is_finite():
    start = points_of(50)
    for method in METHODS:
        for steps in (1, 2):
            found = integrate(lambda x, t: 3 * winding(x, t), start, steps, method=method)
            assert bool(torch.isfinite(found).all())
            assert float(found.norm(dim=-1).sub(1).abs().max()) < 1e-12


def test_a_geodesic_is_followed_at_constant_speed():
    start = points_of(40)
    direction = project(start, points_of(40, 1))
    end = exp_map(start, direction)

    def along(points, time):
        # the velocity field of the geodesics that leave `start`, on these very paths
        here = exp_map(start, time * direction)
        return project(points, torch.cos(direction.norm(dim=-1, keepdim=True) * time) * direction
                       - torch.sin(direction.norm(dim=-1, keepdim=True) * time) * direction.norm(dim=-1, keepdim=True)
                       * start) + 0 * here  # fmt: skip

    for method in METHODS:
        assert float(distance_km(integrate(along, start, 5, method=method), end).max()) < 1e-6


def test_gradients_through_a_solve_are_numbers_where_nothing_moves():
    scale = torch.zeros((), dtype=torch.float64, requires_grad=True)
    pole = torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]], dtype=torch.float64)

    def field(points, time):
        return scale * project(points, pole[:1].expand_as(points))

    for method in METHODS:
        end = integrate(field, pole, 6, method=method)
        (slope,) = torch.autograd.grad(end[1, 2], scale)
        assert float(slope) == pytest.approx(1)  # dz/dscale at z = 0, for a unit of time
