"""Integrate a tangent field on the sphere, with or without its divergence, on a time grid that is finer towards t = 1.

All methods see the sphere as a plane that is rolled along the path, without slipping or twisting (Cartan's
development): beside each point travels an orthonormal tangent frame, velocities are two numbers in it, and steps are
short vectors of that plane. Geodesics at constant speed, the conditional paths of flow matching, become constants
there: the geodesic Euler step is exact for a law of one point, and higher orders extrapolate something nearly constant.

"euler" takes 1 evaluation of the field a step, "midpoint" 2, "rk4" 4, "adams" 1 and 4 more to begin. Back in time with
the divergence (3 evaluations' worth) "adams" evaluates the field alone once more a step, because backwards errors grow:
without it a few per cent of the points lost all accuracy. benchmarks/test_solver.py compares them on trained flows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from avgeo.sphere import EARTH_RADIUS_KM, sinc, tangent_frame

Field = Callable[[Tensor, float], Tensor]
"""(points (n, 3), time) to tangent velocities (n, 3), in radians per unit of time."""

FieldWithDivergence = Callable[[Tensor, float, Tensor], tuple[Tensor, Tensor]]
"""(points (n, 3), time, tangents e (n, 3, k)) to velocities (n, 3) and sum_i <e_i, Dv·e_i> (n,), with an orthonormal
frame the divergence on the sphere."""

GRADING = 1.4
_HISTORY = 3


# Inside, coordinates come first and points last, (3, n): sums over a leading dimension are several times faster.


@dataclass(frozen=True)
class _State:
    """Points (3, n), their two tangents (2, 3, n) and, where it is wanted, the running ∫ div v dt (n,)."""

    points: Tensor
    axes: Tensor
    total: Tensor | None


_Node = tuple[float, Tensor]
"""A time and the rates (2 or 3, n) there."""

_Rate = Callable[[_State, float, bool], Tensor]
"""(state, time, whether the divergence counts) to the velocity's two components and, where wanted, the divergence."""


@dataclass(frozen=True)
class _Tableau:
    """An explicit Runge–Kutta method: stages a, weights b, nodes c (Butcher)."""

    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    c: tuple[float, ...]


_TABLEAUS = {
    "euler": _Tableau(((),), (1.0,), (0.0,)),
    "midpoint": _Tableau(((), (1 / 2,)), (0.0, 1.0), (0.0, 1 / 2)),
    # Kutta's 3/8 rule
    "rk4": _Tableau(
        ((), (1 / 3,), (-1 / 3, 1.0), (1.0, -1.0, 1.0)), (1 / 8, 3 / 8, 3 / 8, 1 / 8), (0.0, 1 / 3, 2 / 3, 1.0)
    ),
}
METHODS = (*_TABLEAUS, "adams")


class SolverError(ValueError):
    """A solve that cannot be done as asked."""


def time_grid(steps: int, grading: float = GRADING) -> list[float]:
    """`steps + 1` times from 0 to 1, graded as 1 - (1 - s)^grading: the field is sharpest at the end."""
    if steps < 1:
        raise SolverError(f"steps must be at least 1, got {steps}")
    if not grading >= 1:
        raise SolverError(f"grading must be at least 1 (1 is a uniform grid), got {grading}")
    return [1 - (1 - step / steps) ** grading for step in range(steps + 1)]


def evaluation_times(steps: int, *, grading: float = GRADING, backwards: bool = False) -> list[float]:
    """The times at which "adams" asks for the field: a network can have what depends on time alone ready for all."""
    grid = time_grid(steps, grading)
    grid = grid[::-1] if backwards else grid
    return [grid[0], *(grid[0] + node * (grid[1] - grid[0]) for node in _TABLEAUS["rk4"].c[1:]), *grid[1:]]


def integrate(
    field: Field,
    start: Float[Tensor, "n 3"],
    steps: int,
    *,
    method: str = "adams",
    grading: float = GRADING,
    backwards: bool = False,
) -> Float[Tensor, "n 3"]:
    """Carry points (n, 3) from t = 0 to t = 1, or `backwards`, in `steps` steps; `method` is one of `METHODS`."""

    def rate(state: _State, time: float, _: bool) -> Tensor:
        return _components(state, field(_rows(state), time))

    grid = time_grid(steps, grading)
    return _solve(rate, start, grid[::-1] if backwards else grid, method, again=backwards, counts=False).points.T


def integrate_back(
    field: Field,
    with_divergence: FieldWithDivergence,
    end: Float[Tensor, "n 3"],
    steps: int,
    *,
    method: str = "adams",
    grading: float = GRADING,
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, " n"]]:
    """Carry points from t = 1 back to t = 0; returns them and ∫ div v dt along the way.

    Instantaneous change of variables on a manifold (Mathieu & Nickel 2020): log p_1(x_1) = log p_0(x_0) - ∫ div v dt.
    The integral is a third component of the same scheme, hence of the same order. `field` serves stages at which the
    divergence has no weight.
    """

    def rate(state: _State, time: float, counts: bool) -> Tensor:
        if counts:
            velocity, divergence = with_divergence(_rows(state), time, state.axes.permute(2, 1, 0))
        else:
            velocity = field(_rows(state), time)
            divergence = torch.zeros_like(velocity[:, 0])
        return torch.cat([_components(state, velocity), divergence[None]])

    done = _solve(rate, end, time_grid(steps, grading)[::-1], method, again=True, counts=True)
    assert done.total is not None
    return done.points.T, -done.total


def integrate_adaptive(
    field: Field, start: Float[Tensor, "n 3"], tolerance_km: float, *, max_steps: int = 1000
) -> tuple[Float[Tensor, "n 3"], int]:
    """Carry points from t = 0 to t = 1 in steps that the batch itself chooses; returns them and the evaluations taken.

    Adams steps that compare orders 3 and 4: a step of length h is kept when they differ by at most h · `tolerance_km`
    (root mean square over the batch), so that the estimates sum to no more than the tolerance. Raises `SolverError`
    after `max_steps` steps, kept or not.
    """
    if not tolerance_km > 0:
        raise SolverError(f"tolerance_km must be positive, got {tolerance_km}")
    evaluations = 0

    def rate(state: _State, time: float, _: bool) -> Tensor:
        nonlocal evaluations
        evaluations += 1
        return _components(state, field(_rows(state), time))

    state, now, length = _start(start, counts=False), 0.0, 1 / 32
    nodes: list[_Node] = []
    pending = torch.zeros_like(state.points[:2])
    for _ in range(max_steps):
        left = 1 - now
        # two equal last steps rather than a full one and a sliver
        length = left if length >= left else min(length, left / 2) if length > left / 2 else length
        then = 1.0 if length == left else now + length
        if nodes:
            moved, later, more = _adams_step(rate, state, pending, nodes, now, then, again=False)
            difference = _quadrature(more, now, then) - _quadrature(more[1:], now, then)
        else:
            step, _ = _runge_kutta(_TABLEAUS["rk4"], rate, state, now, then)
            middle, first = _runge_kutta(_TABLEAUS["midpoint"], rate, state, now, then)
            moved, later, more = _roll(state, step), torch.zeros_like(step), [(now, first)]
            difference = step - middle
        error_km = EARTH_RADIUS_KM * float(difference.square().sum(0).mean().sqrt())
        if not math.isfinite(error_km):
            raise SolverError(f"the field is not finite near t = {now:.6f}: check its weights and the points given")
        wanted = tolerance_km * (then - now)
        if error_km <= wanted:
            if then == 1:
                return _unit(_roll(moved, later).points).T, evaluations
            if not nodes:
                more.append((then, rate(moved, then, False)))
            state, pending, nodes, now = moved, later, more[-_HISTORY:], then
        length *= min(2.0, max(0.3, 0.9 * (wanted / max(error_km, 1e-300)) ** (1 / 3)))
    raise SolverError(
        f"the solver did not reach t = 1 within max_steps={max_steps} (t = {now:.6f}): allow more, or a tolerance_km "
        f"above {tolerance_km:g}; float32 fields cannot keep much below 0.01 km"
    )


def _solve(rate: _Rate, start: Tensor, grid: list[float], method: str, again: bool, counts: bool) -> _State:
    if method not in METHODS:
        raise SolverError(f"unknown method {method!r}: choose from {', '.join(METHODS)}")
    state = _start(start, counts)
    if method == "adams":
        state = _adams(rate, state, grid, again)
    else:
        for now, then in pairwise(grid):
            state = _roll(state, _runge_kutta(_TABLEAUS[method], rate, state, now, then)[0])
    return replace(state, points=_unit(state.points))


def _start(points: Tensor, counts: bool) -> _State:
    axes = tangent_frame(points).permute(2, 1, 0).contiguous()
    return _State(points.T.contiguous(), axes, torch.zeros_like(points[:, 0]) if counts else None)


def _unit(points: Tensor) -> Tensor:
    """Rotations keep lengths but for rounding. By columns: a norm of rows takes ten times as long on this layout."""
    return points / points.square().sum(0).sqrt()


def _rows(state: _State) -> Tensor:
    """Points (n, 3), contiguous: a network is slower on a transposed view than it takes to copy it."""
    return state.points.T.contiguous()


def _components(state: _State, velocity: Tensor) -> Tensor:
    """Velocities (n, 3) in the frame: (2, n)."""
    return (state.axes * velocity.T).sum(1)


def _roll(state: _State, step: Tensor) -> _State:
    """Roll along a step (2 or 3, n): two components in the frame, in radians, and the gain of the total."""
    w = step[:2]
    # Rodrigues' rotation about the axis across the step: sin θ/θ and (1 - cos θ)/θ² from half the angle
    # kept above zero, where neither the ratio nor a gradient through the norm is a number
    half = torch.hypot(w[0], w[1].abs().clamp_min(torch.finfo(w.dtype).tiny ** 0.5)) / 2
    sine = torch.sin(half)
    ratio = sine / half
    slope = ratio * torch.cos(half)
    ahead = torch.addcmul(state.axes[0] * w[0], state.axes[1], w[1])
    bend = torch.addcmul(slope * state.points, ratio.square(), ahead, value=0.5)
    # cos θ = 1 - 2 sin² θ/2
    points = torch.addcmul(torch.addcmul(state.points, sine.square(), state.points, value=-2), slope, ahead)
    total = None if state.total is None else state.total + step[2]
    return _State(points, torch.addcmul(state.axes, bend, w[:, None], value=-1), total)


def _combine(weights: Sequence[float], rates: list[Tensor]) -> Tensor:
    """Σ weight · rate."""
    total = weights[0] * rates[0]
    for weight, rate in zip(weights[1:], rates[1:], strict=True):
        if weight:
            total = torch.add(total, rate, alpha=weight)
    return total


def _runge_kutta(tableau: _Tableau, rate: _Rate, state: _State, now: float, then: float) -> tuple[Tensor, Tensor]:
    """One step in normal coordinates at the point it starts from, and the rate there.

    In the chart exp_x(u) the field's part along u stays and the part across it is stretched by |u| / sin |u| (the
    inverse of the differential of exp), so that a method keeps its order, as in Munthe-Kaas (1999).
    """
    length = then - now
    stages = [rate(state, now, tableau.b[0] != 0)]
    for row, weight, node in zip(tableau.a[1:], tableau.b[1:], tableau.c[1:], strict=True):
        u = _combine([length * a for a in row], stages)
        found = rate(_roll(state, u), now + node * length, weight != 0)
        stages.append(_to_chart(u[:2], found))
    return _combine([length * b for b in tableau.b], stages), stages[0]


def _to_chart(u: Tensor, rate: Tensor) -> Tensor:
    squared = u.square().sum(0).clamp_min(torch.finfo(u.dtype).tiny)
    # the chart ends at |u| = π, where the stretch has a pole that a wild stage of a long step could hit
    stretch = 1 / sinc(squared.sqrt()).clamp_min(0.1)
    along = (u * rate[:2]).sum(0) * (1 - stretch) / squared
    inside = torch.addcmul(stretch * rate[:2], along, u)
    return inside if len(rate) == 2 else torch.cat([inside, rate[2:]])


def _adams(rate: _Rate, state: _State, grid: list[float], again: bool) -> _State:
    """Adams steps over a grid; a Runge–Kutta step opens the history."""
    step, first = _runge_kutta(_TABLEAUS["rk4"], rate, state, grid[0], grid[1])
    state, pending = _roll(state, step), torch.zeros_like(step)
    nodes = [(grid[0], first), (grid[1], rate(state, grid[1], True))]
    for now, then in pairwise(grid[1:]):
        state, pending, nodes = _adams_step(rate, state, pending, nodes[-_HISTORY:], now, then, again)
    return _roll(state, pending)


def _adams_step(
    rate: _Rate, state: _State, pending: Tensor, nodes: list[_Node], now: float, then: float, again: bool
) -> tuple[_State, Tensor, list[_Node]]:
    """Adams–Bashforth of order 3 predicts, one evaluation, Adams–Moulton of order 4 corrects, on any grid.

    The rate at the predicted point serves the next steps (PEC; Hairer, Nørsett & Wanner 1993, III.1 and III.5) or, with
    `again`, is taken anew at the corrected one (PECE). The correction, of order h⁴, is `pending`: it is made together
    with the next step. That frames roll along chords and not along the path turns a node's rate by an angle that grows
    as the nodes' distance; this cancels Magnus' second term (h⁴), so that the order on the sphere is that in the plane.
    """
    guess = _quadrature(nodes, now, then)
    state = _roll(state, pending + guess)
    nodes = [*nodes, (then, rate(state, then, not again))]
    pending = _quadrature(nodes, now, then) - guess
    if again:
        state = _roll(state, pending)
        nodes[-1] = (then, rate(state, then, True))
        late = _quadrature(nodes, now, then)[2:] - guess[2:] - pending[2:]
        pending = torch.cat([torch.zeros_like(pending[:2]), late])
    return state, pending, nodes


def _quadrature(nodes: list[_Node], now: float, then: float) -> Tensor:
    """∫ of the polynomial through the nodes (time, rate) over [now, then]."""
    weights = _weights(tuple(time - now for time, _ in nodes), then - now)
    return _combine(weights, [rate for _, rate in nodes])


@lru_cache(4096)
def _weights(offsets: tuple[float, ...], length: float) -> list[float]:
    """Weights of the rule over [0, length] that is exact for polynomials through the offsets."""
    # in units of the step, in float64: the offsets of late steps are tiny
    powers = np.vander(np.asarray(offsets) / length, increasing=True).T
    moments = 1 / np.arange(1, len(offsets) + 1)
    return (length * np.linalg.solve(powers, moments)).tolist()
