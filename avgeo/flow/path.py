"""The conditional path of Riemannian flow matching on S² (Chen & Lipman 2024): geodesics from noise to the place."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from avgeo.sphere import exp_map, log_map

_LATEST = 1 - 1e-3  # the velocity is 0/0 at t = 1


def geodesic_path(
    start: Float[Tensor, "n 3"], end: Float[Tensor, "n 3"], time: Float[Tensor, " n"]
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 3"]]:
    """Point and velocity at `time` in [0, 1): x_t = exp_{x0}(t log_{x0} x1), u_t = log_{x_t}(x1) / (1 - t)."""
    point = exp_map(start, time[:, None] * log_map(start, end))
    return point, log_map(point, end) / (1 - time[:, None])


def sample_times(count: int, generator: torch.Generator) -> Float[Tensor, " n"]:
    """Half uniform, half leaning towards t = 1, where the velocity field is sharp; all below 1."""
    time = torch.rand(count, generator=generator)
    late = torch.rand(count, generator=generator) < 0.5
    return torch.where(late, 1 - (1 - time).square(), time).clamp_max(_LATEST)
