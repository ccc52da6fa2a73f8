"""Ways to the divergence of a tangent field, side by side: `pytest benchmarks --benchmark-group-by=func`.

Read the ratios, not the seconds: these machines are noisy. All ways give the same numbers (checked before timing).
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.func import jacrev, jvp, vmap

from avgeo.flow import VelocityField
from avgeo.profiles import FlowSettings
from avgeo.sphere import sample_uniform, tangent_frame

BATCH = 1024
SETTINGS = FlowSettings()


def _problem() -> tuple[VelocityField, Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    field = VelocityField(SETTINGS, seed=0).requires_grad_(False)
    field.head.weight.normal_(generator=draw)
    points = sample_uniform(BATCH, draw)
    modulation = torch.randn(BATCH, 2 * SETTINGS.width * SETTINGS.depth, generator=draw)
    return field, points, modulation, tangent_frame(points)


def forward_only(field: VelocityField, points: Tensor, modulation: Tensor, frame: Tensor) -> Tensor:
    """One evaluation of the field: the unit in which the others are read."""
    return field(points, modulation)


def carried_tangents(field: VelocityField, points: Tensor, modulation: Tensor, frame: Tensor) -> Tensor:
    """Ours: the value and both tangents in one pass."""
    return field.with_divergence(points, modulation, frame)[1]


def two_jvps(field: VelocityField, points: Tensor, modulation: Tensor, frame: Tensor) -> Tensor:
    """Forward-mode automatic differentiation along each tangent."""
    total = torch.zeros(len(points))
    for tangent in frame.unbind(-1):
        _, change = jvp(lambda p: field(p, modulation), (points,), (tangent,))
        total = total + (change * tangent).sum(-1)
    return total


def full_jacobian(field: VelocityField, points: Tensor, modulation: Tensor, frame: Tensor) -> Tensor:
    """Reverse-mode 3 x 3 Jacobians, then the trace in the tangent plane."""
    jacobian = vmap(jacrev(lambda p, m: field(p[None], m[None])[0]))(points, modulation)
    return torch.einsum("nai,nab,nbi->n", frame, jacobian, frame)


@pytest.mark.benchmark(group="divergence")
@pytest.mark.parametrize("way", [forward_only, carried_tangents, two_jvps, full_jacobian], ids=lambda way: way.__name__)
def test_divergence(benchmark: Callable, way: Callable) -> None:
    problem = _problem()
    if way is not forward_only:
        assert torch.allclose(way(*problem), carried_tangents(*problem), atol=1e-3)
    benchmark(way, *problem)
