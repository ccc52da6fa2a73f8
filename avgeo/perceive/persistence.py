"""Persistence: what sounds now was most likely sounding a moment ago and goes on, so codes lend strength to their like.

An autoencoder sees one patch (0.16 s) at a time, and a patch's speckle decides which of several coherent atoms fires. A
source lasts longer than a patch. The *autoregressive* part of our reading therefore runs over time as well as over
stages: an atom's strength is its mean over the patches within `reach` before and after, and it is heard where that mean
is above a threshold. This is the two-sided moving-average form of the temporal prior of slow feature analysis
(Wiskott & Sejnowski 2002); temporal sparse autoencoders (Bhalla et al. 2025) build the same prior into the loss. One
threshold for all atoms, in place of a fixed number for each moment, is BatchTopK's (Bussmann et al. 2024).
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
    """A coder that hears a clip as a whole: `coder` patch by patch, then `persist` with `reach` and `threshold`.

    With neither it is the coder alone.
    """

    coder: SparseCoder
    reach: int = 0
    threshold: float = 0.0

    @torch.no_grad()
    def encode(self, x: Float[Tensor, "*clips time dim"]) -> Float[Tensor, "*clips time atoms"]:
        """Codes of whole clips, patch by patch, each atom's strength shared with its neighbours in time."""
        flat = x.reshape(-1, x.shape[-1])
        codes = torch.cat([self.coder.encode(block) for block in flat.split(_PATCHES)]).reshape(*x.shape[:-1], -1)
        return persist(codes, self.reach, self.threshold) if self.reach or self.threshold else codes

    @torch.no_grad()
    def moments(self, x: Float[Tensor, "*clips time dim"]) -> Float[Tensor, "*clips time atoms"]:
        """The coder's own codes where `encode` hears them: sharing tells which atoms sound, and blurs when."""
        alone = Listener(self.coder).encode(x)
        return alone * (persist(alone, self.reach, self.threshold) > 0)

    @torch.no_grad()
    def decode(self, codes: Float[Tensor, "*clips time atoms"]) -> Float[Tensor, "*clips time dim"]:
        """What the codes say the patches were."""
        return self.coder.decode(codes.flatten(0, -2)).reshape(*codes.shape[:-1], -1)


def calibrated(
    coder: SparseCoder, clips: Float[Tensor, "clips time dim"], reach: int, at_a_time: int | float
) -> Listener:
    """The listener whose moments hold `at_a_time` atoms in the mean over these clips, or all that fire, if fewer do.

    Raises `CoderError` for no clips or a number of atoms that is not positive.
    """
    if not len(clips) or at_a_time <= 0:
        raise CoderError(f"calibrate on clips, to at_a_time > 0 atoms; got {len(clips)} clips, at_a_time={at_a_time}")
    strength = torch.cat([Listener(coder, reach).encode(block).flatten() for block in clips.split(64)])
    strength = strength[strength > 0]
    wanted = round(at_a_time * clips.shape[0] * clips.shape[1])
    if wanted >= len(strength):
        return Listener(coder, reach)
    # the middle between the last that is kept and the first that is not
    edge = strength.kthvalue(len(strength) - wanted).values
    return Listener(coder, reach, float((edge + strength[strength > edge].min()) / 2 if wanted else edge))


def persist(
    codes: Float[Tensor, "*clips time atoms"], reach: int, threshold: float = 0.0
) -> Float[Tensor, "*clips time atoms"]:
    """Each atom's mean over the patches at most `reach` away (fewer at the ends), where it is at least `threshold`.

    With `reach` 0 and no threshold, codes come back as they are. A clip of one patch is its own neighbourhood. Raises
    `CoderError` for a negative reach or threshold.
    """
    if reach < 0 or threshold < 0:
        raise CoderError(f"need reach >= 0 patches and threshold >= 0, got reach={reach}, threshold={threshold}")
    time = codes.shape[-2]
    # float64, and counts beside the sums: a difference of running sums leaves dust where an atom is silent
    sums = torch.nn.functional.pad(codes.double().cumsum(-2), (0, 0, 1, 0))
    fired = torch.nn.functional.pad((codes > 0).long().cumsum(-2), (0, 0, 1, 0))
    at = torch.arange(time, device=codes.device)
    first, last = (at - reach).clamp_min(0), (at + reach + 1).clamp_max(time)
    heard = fired.index_select(-2, last) > fired.index_select(-2, first)
    total = sums.index_select(-2, last) - sums.index_select(-2, first)
    mean = torch.where(heard, total, 0.0) / (last - first).unsqueeze(-1)
    return torch.where(mean >= threshold, mean, 0.0).to(codes.dtype)
