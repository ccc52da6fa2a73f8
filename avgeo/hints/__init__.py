"""The analyst's own clues, `avgeo locate --hint kind=value`: likelihoods like any other, each with a reliability.

A hint that is right with probability s (0.95, unless `,sure=0.8` or `@0.8` says otherwise) holds at a share m(x) of the
places about x, and is otherwise no clue: p(hint | x) ∝ 1 - s + s · m(x) / mean m, the mean being over the prior. With
this hint alone, a statement that holds in a region has probability s + (1 - s) · P(region): it never counts against
itself, and a region never gets less than 1 - s of what it had. Where nothing is known, the hint says nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from avgeo.detect import EarthGrid, Event
from avgeo.detect.prior import log_prior
from avgeo.hints.kinds import KINDS, Share
from avgeo.hints.reading import SURE, HintError, Written, read

__all__ = ["KINDS", "SURE", "Hint", "HintError", "Likelihood", "cannot_both_hold", "read_hint", "read_hints"]


@dataclass(frozen=True)
class Likelihood:
    """log p(hint | place) on a grid, and the share of each cell's places where the hint holds."""

    written: Written
    share: Share

    def __call__(self, grid: EarthGrid) -> Float64[np.ndarray, " n"]:
        """Nats up to a constant, finite; raises `HintError` where the hint holds nowhere."""
        share = self.share(grid)
        known = ~np.isnan(share)
        weight = np.exp(log_prior(grid) + grid.log_area)[known]
        mean = float((weight * share[known]).sum()) / float(weight.sum()) if known.any() else 0.0
        if not mean > 0:
            raise self.written.wrong("holds nowhere on the map: check its numbers, or say near=LAT,LON,KM")
        ratio = np.ones(len(grid))
        ratio[known] = share[known] / mean
        return np.log(1 - self.written.sure + self.written.sure * ratio)


class Hint(NamedTuple):
    """What the analyst said, as an event of the detector "hint", and its log p(event | place)."""

    event: Event
    likelihood: Likelihood


def read_hint(text: str) -> Hint:
    """A hint such as `language=ar`, `mains=60@0.8` or `sun=elevation=34±3,azimuth=210±10,time=2026-05-01T10:00Z`.

    Raises `HintError`, which names the hint and the cure, for whatever cannot be read to its last character.
    """
    written = read(text, KINDS)
    label, share = KINDS[written.kind](written)
    details = {"hint": written.text, "kind": written.kind, "sure": written.sure}
    return Hint(Event("hint", label, written.sure, details=details), Likelihood(written, share))


def read_hints(texts: Sequence[str]) -> list[Hint]:
    """`read_hint` of each, in their order."""
    return [read_hint(text) for text in texts]


def cannot_both_hold(hints: Sequence[Hint], grid: EarthGrid) -> list[tuple[Hint, Hint]]:
    """Pairs of hints of which no cell can have both, however sure each is; what is unknown can be.

    `avgeo.fusion.contradictions` weighs clues by their reliabilities, and so passes over two hints that exclude each
    other when their author doubts them; this does not.
    """
    shares = [np.nan_to_num(hint.likelihood.share(grid), nan=1.0) > 0 for hint in hints]
    return [(hints[a], hints[b]) for a, b in combinations(range(len(hints)), 2) if not np.any(shares[a] & shares[b])]
