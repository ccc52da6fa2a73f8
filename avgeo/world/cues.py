"""What a cue is: a kind of evidence with an explicit table p(value | place, month, hour).

A *cue* is a kind of evidence ("mains_hum", "script"); its *value* is what was observed ("50", "cyrillic") or "none".
Its table reads a few attributes of the place (`reads`: a row of places.parquet) and gives the whole distribution at
every moment of the clock, so that it can be enumerated. Given place and moment the cues are independent of each other:
the joint probability of a clip's cues is the product over `CUES`, and "none" counts as an observation.

Facts (mains, sirens, bells, roads, realms, languages) come from places.parquet and CLDR; how often a fact shows itself
is our choice and stands as plain numbers in `audible.py` and `visible.py`. A fact that is unknown leaves its cue out:
p("none") = 1. Sound and picture are made from the values alone, so that nothing else in them tells of the place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float64

from avgeo.world.moment import Moment, Place

NONE = "none"
Table = Float64[np.ndarray, "months hours values"]
Rate = float | np.ndarray
Rates = Mapping[str, Rate]


@dataclass(frozen=True)
class Cue:
    """A kind of evidence: its possible values ("none" last), the attributes it reads, and its rates.

    `rates(place)` gives the probability of each value, as arrays that broadcast to (12 months, 24 hours); what it does
    not name has probability 0, and "none" takes the rest.
    """

    name: str
    sense: str
    values: tuple[str, ...]
    reads: tuple[str, ...]
    rates: Callable[[Place], Rates]

    def table(self, place: Place) -> Table:
        """p(value | place, month, hour): (1 or 12, 1 or 24, values), every row a distribution."""
        # a NaN is not equal to itself and would never be found in the cache
        facts = (place[name] for name in self.reads)
        return _table(self, tuple(None if fact != fact else fact for fact in facts))


@lru_cache(maxsize=4096)
def _table(cue: Cue, facts: tuple[object, ...]) -> Table:
    rates = {
        value: np.atleast_2d(np.asarray(rate, float))
        for value, rate in cue.rates(dict(zip(cue.reads, facts, strict=True))).items()
    }
    unknown = sorted(rates.keys() - set(cue.values[:-1]))
    if unknown:
        raise ValueError(f"cue {cue.name}: value {unknown[0]!r} is not among its values; add it where it is declared")
    shape = np.broadcast_shapes((1, 1), *(rate.shape for rate in rates.values()))
    table = np.zeros((*shape, len(cue.values)))
    for value, rate in rates.items():
        table[..., cue.values.index(value)] = rate
    table[..., -1] = 1 - table[..., :-1].sum(-1)
    if table.min() < -1e-12 or table.max() > 1 + 1e-12:
        raise ValueError(f"cue {cue.name}: its rates at {facts} are no distribution")
    table = table.clip(0, 1)
    table.flags.writeable = False
    return table


CUES: dict[str, Cue] = {}
"""Every cue by name, the audible ones first: filled by `audible.py` and `visible.py`."""


def cue(sense: str, *values: str, reads: tuple[str, ...]) -> Callable[[Callable[[Place], Rates]], Cue]:
    """Declare the decorated function's rates as a cue of its name."""

    def declare(rates: Callable[[Place], Rates]) -> Cue:
        CUES[rates.__name__] = Cue(rates.__name__, sense, (*values, NONE), reads, rates)
        return CUES[rates.__name__]

    return declare


def present(probability: Rate, weights: Mapping[str, float]) -> Rates:
    """Present with `probability`, then by `weights`; absent when there is nothing to choose from."""
    total = sum(weights.values())
    if total <= 0:
        return {}
    return {value: np.asarray(probability) * weight / total for value, weight in weights.items()}


def known(probability: Rate, value: str) -> Rates:
    """Present with `probability` where the fact is known, never where it is not."""
    return {value: probability} if value else {}


def cue_tables(place: Place, moment: Moment) -> dict[str, dict[str, float]]:
    """All distributions at a place and moment: cue -> value -> probability, values of probability 0 left out."""
    return {
        name: {value: float(p) for value, p in zip(item.values, _at(item.table(place), moment), strict=True) if p > 0}
        for name, item in CUES.items()
    }


def sample_cues(place: Place, moment: Moment, rng: np.random.Generator) -> dict[str, str]:
    """One draw from every table, independently; cue -> value, "none" left out."""
    drawn = {}
    for (name, item), u in zip(CUES.items(), rng.random(len(CUES)), strict=True):
        row = np.cumsum(_at(item.table(place), moment))
        value = item.values[min(int(np.searchsorted(row, u * row[-1], side="right")), len(row) - 1)]
        if value != NONE:
            drawn[name] = value
    return drawn


def _at(table: Table, moment: Moment) -> Float64[np.ndarray, " values"]:
    return table[(moment.month - 1) % table.shape[0], moment.hour % table.shape[1]]
