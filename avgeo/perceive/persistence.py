"""Persistence: what sounds now was most likely sounding a moment ago and goes on, so codes lend strength to their like.

An autoencoder sees one patch (0.16 s) at a time, and a patch's speckle decides which of several coherent atoms fires. A
source lasts longer than a patch. The *autoregressive* part of our reading therefore runs over time as well as over
stages: an atom's strength is its mean over the patches within `reach` before and after, and only the strongest stay.
This is the two-sided moving-average form of the temporal prior of slow feature analysis (Wiskott & Sejnowski 2002);
temporal sparse autoencoders (Bhalla et al. 2025) build the same prior into the loss.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from avgeo.perceive.coder import CoderError, SparseCoder

_PATCHES = 4096  # encoded at once: bounds memory


@dataclass(frozen=True)
class Listener:
    """A coder that hears a clip as a whole: `coder` patch by patch, then `persist` with `reach` and `limit`.

    `reach` 0 is the coder alone; `limit` None keeps every atom that fired.
    """

    coder: SparseCoder
    reach: int = 0
    limit: int | None = None

    @torch.no_grad()
    def encode(self, x: Float[Tensor, "*clips time dim"]) -> Float[Tensor, "*clips time atoms"]:
        """Codes of whole clips, patch by patch, each atom's strength shared with its neighbours in time."""
        flat = x.reshape(-1, x.shape[-1])
        codes = torch.cat([self.coder.encode(block) for block in flat.split(_PATCHES)]).reshape(*x.shape[:-1], -1)
        if not self.reach and self.limit is None:
            return codes
        return persist(codes, self.reach, self.limit or codes.shape[-1])

    @torch.no_grad()
    def decode(self, codes: Float[Tensor, "*clips time atoms"]) -> Float[Tensor, "*clips time dim"]:
        """What the codes say the patches were."""
        return self.coder.decode(codes.flatten(0, -2)).reshape(*codes.shape[:-1], -1)


def persist(codes: Float[Tensor, "*clips time atoms"], reach: int, limit: int) -> Float[Tensor, "*clips time atoms"]:
    """Each atom's mean over the patches at most `reach` away (fewer at the ends); the `limit` strongest of a patch.

    With `reach` 0 and a `limit` that no patch exceeds, codes come back as they are. A clip of one patch is its own
    neighbourhood. Raises `CoderError` for a negative reach or a limit below 1.
    """
    if reach < 0 or limit < 1:
        raise CoderError(f"need reach >= 0 patches and limit >= 1 atoms, got reach={reach}, limit={limit}")
    time = codes.shape[-2]
    # float64, and counts beside the sums: a difference of running sums leaves dust where an atom is silent
    sums = torch.nn.functional.pad(codes.double().cumsum(-2), (0, 0, 1, 0))
    at = torch.arange(time, device=codes.device)
    first, last = (at - reach).clamp_min(0), (at + reach + 1).clamp_max(time)
    fired = torch.nn.functional.pad((codes > 0).long().cumsum(-2), (0, 0, 1, 0))
    heard = fired.index_select(-2, last) > fired.index_select(-2, first)
    total = sums.index_select(-2, last) - sums.index_select(-2, first)
    mean = torch.where(heard, total, 0.0) / (last - first).unsqueeze(-1)
    kept = mean.to(codes.dtype)
    if limit < codes.shape[-1]:
        values, index = kept.topk(limit, dim=-1)
        kept = torch.zeros_like(kept).scatter(-1, index, values)
    return kept
