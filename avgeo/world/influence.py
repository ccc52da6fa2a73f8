"""How much each cue of a clip tells of its place: the bits by which it moves the exact posterior.

The influence of a cue c_k among all cues c of a clip is

    KL( p(s | c) || p(s | c without c_k) ) = sum_s p(s | c) log2 [ p(s | c) / p(s | c without c_k) ]   in bits,

where "without" means that nobody looked for it: it is summed out, not taken for absent. What the clip does not hold
stays observed to be absent in both posteriors.

Why not log2 p(y | c) - log2 p(y | c without c_k) at the true site y? Its expectation over the sites that the cues leave
possible *is* the divergence above (y ~ p(s | c), for clips of the world), which is thus the same in the mean, with the
luck of the draw taken out (Rao-Blackwell). It is never negative, and it follows from the cues alone: whoever reads the
clip can see why the cue comes first without knowing the answer. Two cues that say the same thing have little influence
each, since either would do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import rel_entr

from avgeo.world.audible import voices
from avgeo.world.cues import CUES, NONE, Cue, Rates
from avgeo.world.moment import Place
from avgeo.world.posterior import Likelihood, Observed


@cache
def perceptible() -> tuple[Cue, ...]:
    """`CUES` as the media show them: languages of one class sound alike, so the voice's values are the classes.

    They are the cues of a truth table's `source`, "cue:value".
    """
    spoken = CUES["voice"]
    classes = tuple(sorted({voices()[language] for language in spoken.values[:-1]}))

    def rates(place: Place) -> Rates:
        found: dict[str, np.ndarray | float] = {}
        for language, rate in spoken.rates(place).items():
            found[voices()[language]] = found.get(voices()[language], 0.0) + rate
        return found

    voice = replace(spoken, values=(*classes, NONE), rates=rates)
    return tuple(voice if cue is spoken else cue for cue in CUES.values())


def influence(
    clips: Sequence[Observed], places: pd.DataFrame | Likelihood, prior: ArrayLike | None = None
) -> list[dict[str, float]]:
    """The influence in bits of every cue that each clip holds, the greatest first (of equal ones by name).

    `places` is a table of sites (read by the `perceptible` cues) or a `Likelihood` made of one; `clips` are
    dictionaries cue -> value and `prior` the sites' weights. Errors as `Likelihood.posterior`.
    """
    likelihood = places if isinstance(places, Likelihood) else Likelihood(places, perceptible())
    found = []
    for cues in clips:
        all_told = likelihood.posterior(cues, prior)["both"]
        left_out = likelihood.leave_one_out(cues, prior)
        # Without the dust of float64, so that cues which tell nothing are equal; adding 0.0 turns -0.0 into 0.0.
        bits = {cue: round(float(rel_entr(all_told, p).sum() / np.log(2)), 9) + 0.0 for cue, p in left_out.items()}
        found.append(dict(sorted(bits.items(), key=lambda item: (-item[1], item[0]))))
    return found
