"""Minibatch transport: which noise is carried to which place, chosen so that paths cross less (Tong et al. 2024)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from avgeo.sphere import angle


def paired(start: Float[Tensor, "n 3"], end: Float[Tensor, "n 3"], block: int) -> Float[Tensor, "n 3"]:
    """`start` in another order: within each block of rows the one with the least sum of squared distances to `end`.

    Both marginals stay what they were, and the pairs become the optimal transport of the block (Pooladian et al. 2023),
    so that the marginal velocity is straighter. Only for rows of one and the same condition: across conditions it would
    give each condition a noise of its own, and the law that is sampled from uniform noise would be wrong.
    """
    from scipy.optimize import linear_sum_assignment

    if block < 1:
        raise ValueError(f"block must be at least 1, got {block}")
    parts = []
    for first in range(0, len(start), block):
        here, there = start[first : first + block], end[first : first + block]
        cost = angle(there[:, None], here[None]).square()
        _, chosen = linear_sum_assignment(cost.numpy(force=True))
        parts.append(here[torch.from_numpy(chosen).to(here.device)])
    return torch.cat(parts) if parts else start
