"""Tangent fields on the sphere for tests of solvers and likelihoods."""

from __future__ import annotations

import math

import torch
from torch.func import jvp

from avgeo.sphere import normalize, project, sample_uniform


def points_of(count: int, seed: int = 0) -> torch.Tensor:
    return normalize(sample_uniform(count, torch.Generator().manual_seed(seed)).double())


def winding(points: torch.Tensor, time: float) -> torch.Tensor:
    """Turning, flowing and bending, faster than any trained flow: no symmetry that could hide a wrong term."""
    x, y, z = points.unbind(-1)
    push = torch.stack([y * z + math.cos(3 * time), x * x + 1, z * math.sin(2 * time) + 0.5], -1)
    turn = torch.linalg.cross(torch.tensor([0.3, 0, 2]).to(points).expand_as(points), points)
    return turn + project(points, push)


def winding_with_divergence(points, time, frame):
    changes = [jvp(lambda p: winding(p, time), (points,), (e,))[1] for e in frame.unbind(-1)]
    return winding(points, time), (torch.stack(changes, -1) * frame).sum((-1, -2))
