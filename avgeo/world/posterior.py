"""Which of finitely many sites a clip comes from, exactly: Bayes' rule on the very tables that drew its cues.

A clip's cues c_1..c_K are independent given site s and moment (m, h); "none" counts as an observation. Hence

    p(c | s) = sum_{m,h} p(m, h) prod_k p(c_k | s, m, h)        p(s | c) = p(s) p(c | s) / sum_t p(t) p(c | t)

for the cues of one sense or of both. Sound and sight share the moment, so that p(c_sound, c_sight | s) is *not* the
product of p(c_sound | s) and p(c_sight | s). The sum over 12 months x 24 hours is done, not sampled.

Speed: a cue's table depends on neither month nor hour, on one of them, or on both. With a_s, b_s(m), d_s(h) and
e_s(m, h) the products over the cues of each kind, p(c | s) = a_s sum_{m,h} p(m, h) b_s(m) d_s(h) e_s(m, h), and each
product is worked out once per distinct combination of facts, not once per site.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import pandas as pd
from jaxtyping import Float64, Int64, UInt
from numpy.typing import ArrayLike
from tqdm import tqdm

from avgeo.world.cues import CUES, NONE, Cue
from avgeo.world.geography import WorldError
from avgeo.world.moment import P_MOMENT, Moment

SENSES: dict[str, tuple[str, ...]] = {"sound": ("audible",), "sight": ("visible",), "both": ("audible", "visible")}
"""What is observed: the kinds of cue (`Cue.sense`) that each name stands for."""

Observed = Mapping[str, str]
"""A clip's cues, name -> value; a cue that is not named was observed to be absent."""

Sites = Float64[np.ndarray, " sites"]
_SHAPES = ((1, 1), (12, 1), (1, 24), (12, 24))
_ONE = np.ones((1, 1, 1))
_BLOCK = 256  # sites at a time, so that their 12 x 24 moments stay in the processor's cache
_LEAST = 1e-280  # products of probabilities stay far above float64's smallest, 2e-308


@dataclass(frozen=True)
class _Table:
    """One cue at every site, packed: its few distinct distributions, and which of them holds where and when.

    p(value | s, m, h) = rows[row[signature[s], m, h], value]. Exact, and small even for the sun: its distributions
    over the clock differ from site to site, but each of their 288 rows is one of some forty.
    """

    cue: Cue
    signature: Int64[np.ndarray, " sites"]
    row: UInt[np.ndarray, "signatures months hours"]
    rows: Float64[np.ndarray, "distinct values"]

    @property
    def shape(self) -> tuple[int, int]:
        """(1 or 12, 1 or 24): what of the clock it depends on."""
        return self.row.shape[1], self.row.shape[2]

    def column(self, value: str) -> Float64[np.ndarray, " distinct"]:
        """p(value) in each distinct distribution."""
        return self.rows[:, self.cue.values.index(value)]


def _pack(cue: Cue, records: Sequence[dict]) -> _Table:
    signatures: dict[tuple, int] = {}
    codes: dict[bytes, int] = {}  # a distribution -> its place among the distinct ones
    signature, row = np.empty(len(records), dtype=np.int64), []
    for site, record in enumerate(records):
        facts = tuple(None if fact != fact else fact for fact in (record[name] for name in cue.reads))
        signature[site] = signatures.setdefault(facts, len(signatures))
        if len(signatures) > len(row):
            table = cue.table(record)
            flat = [codes.setdefault(p.tobytes(), len(codes)) for p in table.reshape(-1, table.shape[-1])]
            row.append(np.array(flat).reshape(table.shape[:2]))
    shape = np.broadcast_shapes(*(item.shape for item in row))
    packed = np.stack([np.broadcast_to(item, shape) for item in row])
    rows = np.frombuffer(b"".join(codes), dtype=np.float64).reshape(len(codes), -1)
    return _Table(cue, signature, packed.astype(np.min_scalar_type(len(codes))), rows)


class _Product:
    """The product over some cues at a block of sites, worked out on their distinct combinations of facts."""

    def __init__(self, tables: Sequence[_Table], block: slice) -> None:
        signatures = np.stack([table.signature[block] for table in tables], axis=1)
        combinations, site = np.unique(signatures, axis=0, return_inverse=True)
        self.site: Int64[np.ndarray, " sites"] | None = site.reshape(-1)
        if len(combinations) == len(signatures):  # nothing is shared (the sun): keep the sites' own order, copy nothing
            combinations, self.site = signatures, None
        self.tables = tables
        self.row = [table.row[of] for table, of in zip(tables, combinations.T, strict=True)]

    def __call__(self, cues: Observed, without: str | None = None) -> Float64[np.ndarray, "sites months hours"]:
        """prod_k p(c_k | s, m, h) at every site; months and hours have length 1 where nothing depends on them.

        The cue `without` is unobserved. Leaving out its factor sums it out: its values' probabilities sum to 1.
        """
        factors = [
            table.column(cues.get(table.cue.name, NONE))[row]
            for table, row in zip(self.tables, self.row, strict=True)
            if table.cue.name != without
        ]
        if not factors:
            return _ONE
        product = reduce(np.multiply, factors)
        return product if self.site is None else product[self.site]


class Likelihood:
    """p(cues | site) and p(site | cues) for the sites of a table, by enumeration.

    `places` has one row per site with the columns that the cues read; `cues` are the kinds of evidence (default: all
    of `CUES`). Raises `WorldError` for a missing column or an empty table.
    """

    def __init__(self, places: pd.DataFrame, cues: Iterable[Cue] | None = None) -> None:
        kinds = list(CUES.values() if cues is None else cues)
        missing = sorted({name for cue in kinds for name in cue.reads} - set(places.columns))
        if missing or not len(places):
            what = f"lacks column {missing[0]!r}" if missing else "has no rows"
            raise WorldError(f"places: {what}: give a table of sites such as build_places returns")
        records = [{str(name): fact for name, fact in row.items()} for row in places.to_dict("records")]
        self.sites = len(records)
        self._tables = {cue.name: _pack(cue, records) for cue in kinds}
        least = sum(np.log10(t.rows[t.rows > 0].min()) for t in self._tables.values())
        if least < np.log10(_LEAST):
            raise WorldError(f"cues: their joint probability can fall to 1e{least:.0f}: give fewer or less rare ones")
        kinds = {(sense, shape): [] for sense in SENSES["both"] for shape in _SHAPES}
        for table in self._tables.values():
            kinds[table.cue.sense, table.shape].append(table)
        self._blocks = [
            {kind: _Product(alike, slice(start, start + _BLOCK)) for kind, alike in kinds.items() if alike}
            for start in range(0, self.sites, _BLOCK)
        ]

    def probability(self, cues: Observed) -> dict[str, Sites]:
        """p(cues | site), the moment summed out, for "sound", "sight" and "both": each (sites,), zeros included."""
        self._check(cues)
        total = {sense: np.empty(self.sites) for sense in SENSES}
        for number, products in enumerate(self._blocks):
            found = {kind: product(cues) for kind, product in products.items()}
            for sense in SENSES:
                total[sense][number * _BLOCK : (number + 1) * _BLOCK] = _of_sense(sense, found)
        return total

    def log_likelihood(self, cues: Observed) -> dict[str, Sites]:
        """log p(cues | site) in nats, -inf where the cues cannot occur; (sites,) for each sense."""
        with np.errstate(divide="ignore"):
            return {sense: np.log(p) for sense, p in self.probability(cues).items()}

    def log_likelihood_at(self, cues: Observed, moment: Moment, sense: str = "both") -> Sites:
        """log p(cues of a sense | site, moment) in nats; (sites,)."""
        self._check(cues)
        total = np.zeros(self.sites)
        with np.errstate(divide="ignore"):
            for name, table in self._tables.items():
                if table.cue.sense in SENSES[sense]:
                    months, hours = table.shape
                    row = table.row[table.signature, (moment.month - 1) % months, moment.hour % hours]
                    total += np.log(table.column(cues.get(name, NONE)))[row]
        return total

    def posterior(self, cues: Observed, prior: ArrayLike | None = None) -> dict[str, Sites]:
        """p(site | cues) for each sense, each (sites,) with sum 1.

        `prior` holds nonnegative weights of the sites (default: all alike; a mask will do). Raises `WorldError` naming
        the cue when no site of the prior can produce these cues.
        """
        weights = self._prior(prior)
        found = {}
        for sense, p in self.probability(cues).items():
            joint = weights * p
            if not joint.any():
                raise WorldError(self._culprit(cues, sense, weights))
            found[sense] = joint / joint.sum()
        return found

    def log_posterior(self, cues: Observed, prior: ArrayLike | None = None) -> dict[str, Sites]:
        """log p(site | cues) in nats, -inf where a site is excluded; otherwise as `posterior`."""
        with np.errstate(divide="ignore"):
            return {sense: np.log(p) for sense, p in self.posterior(cues, prior).items()}

    def leave_one_out(self, cues: Observed, prior: ArrayLike | None = None) -> dict[str, Sites]:
        """p(site | both senses but one cue), by the cue left out: *unobserved*, which is not the same as absent.

        One (sites,) with sum 1 for each of `cues`; what `cues` does not name stays observed to be absent. Only the
        product in which a cue stands is worked out again. Errors as `posterior`.
        """
        self._check(cues)
        weights = self._prior(prior)
        joint = {name: np.empty(self.sites) for name in cues}
        for number, products in enumerate(self._blocks):
            block = slice(number * _BLOCK, (number + 1) * _BLOCK)
            whole = {kind: product(cues) for kind, product in products.items()}
            for name in cues:
                kind = self._tables[name].cue.sense, self._tables[name].shape
                left = whole | {kind: products[kind](cues, without=name)}
                joint[name][block] = weights[block] * _of_sense("both", left)
        if not all(p.any() for p in joint.values()):  # then with that cue it is impossible, too
            raise WorldError(self._culprit(cues, "both", weights))
        return {name: p / p.sum() for name, p in joint.items()}

    def _prior(self, prior: ArrayLike | None) -> Sites:
        weights = np.ones(self.sites) if prior is None else np.asarray(prior, float)
        if weights.shape != (self.sites,) or not np.isfinite(weights).all() or weights.min() < 0 or not weights.any():
            raise WorldError(f"prior: give {self.sites} nonnegative weights, one per site, that are not all zero")
        return weights / weights.sum()

    def _check(self, cues: Observed) -> None:
        for name, value in cues.items():
            if name not in self._tables:
                raise WorldError(f"cues: {name!r} is no cue of this world: it has {', '.join(self._tables)}")
            values = self._tables[name].cue.values
            if value not in values:
                raise WorldError(f"cues: {name} has no value {value!r}: it has {', '.join(values)}")

    def _culprit(self, cues: Observed, sense: str, weights: Sites) -> str:
        """Which cue makes an observation impossible: the first that leaves no site and moment for those before it."""
        left = np.broadcast_to(weights[:, None, None] * P_MOMENT, (self.sites, 12, 24))
        before: list[str] = []
        for name, table in self._tables.items():
            if table.cue.sense in SENSES[sense]:
                value = cues.get(name, NONE)
                left = left * table.column(value)[table.row][table.signature]
                if not left.any():
                    beside = f" together with {', '.join(before)}" if before else ""
                    return f"cues: {name}={value!r} cannot occur at any of the sites{beside}: check the truth's tables"
                before.append(f"{name}={value!r}")
        raise AssertionError("an impossible observation has a cue that makes it so")


def _of_sense(sense: str, found: Mapping[tuple[str, tuple[int, int]], np.ndarray]) -> np.ndarray:
    """p(cues of a sense | site) of a block, from its products by (kind of cue, shape); (sites or 1,)."""
    by_shape = [[found[part, shape] for part in SENSES[sense] if (part, shape) in found] for shape in _SHAPES]
    return _sum_over_moments(*(reduce(np.multiply, factors) if factors else _ONE for factors in by_shape))


def _sum_over_moments(static: np.ndarray, monthly: np.ndarray, hourly: np.ndarray, full: np.ndarray) -> np.ndarray:
    """a_s sum_{m,h} p(m, h) b_s(m) d_s(h) e_s(m, h), from arrays (sites or 1, 1 or 12, 1 or 24); (sites or 1,)."""
    hours = np.broadcast_to(hourly, (len(hourly), 1, 24)).transpose(0, 2, 1)
    by_month = np.matmul(full * P_MOMENT, hours)  # (sites, 12, 1): the hours are summed out
    return static[:, 0, 0] * (by_month * monthly).sum((1, 2))


def posteriors(
    clips: Sequence[Observed], places: pd.DataFrame | Likelihood, prior: ArrayLike | None = None
) -> dict[str, Float64[np.ndarray, "clips sites"]]:
    """p(site | cues) of every clip for "sound", "sight" and "both": float64 (clips, sites), rows that sum to 1.

    `places` is a table of sites or a `Likelihood` made of one; `clips` are dictionaries cue -> value (`observed` reads
    them from a truth table). Raises `WorldError` as `Likelihood.posterior`.
    """
    likelihood = places if isinstance(places, Likelihood) else Likelihood(places)
    found = {sense: np.empty((len(clips), likelihood.sites)) for sense in SENSES}
    for row, cues in enumerate(tqdm(clips, desc="posterior", unit="clip", disable=None)):
        for sense, p in likelihood.posterior(cues, prior).items():
            found[sense][row] = p
    return found


def mass_above(
    p: Float64[np.ndarray, "clips sites"], true: Int64[np.ndarray, " clips"], rng: np.random.Generator
) -> Float64[np.ndarray, " clips"]:
    """Posterior mass of the sites likelier than the true one, with a random share of its own and of those tied with it.

    Uniform on [0, 1] when the posterior is right; the smallest set that holds a share q of the probability holds the
    truth exactly when this is below q (the last site taken by lot). `p` may be float32: ties are to six digits.
    """
    own = p[np.arange(len(p)), true][:, None]
    tied = np.isclose(p, own, rtol=1e-6, atol=0)
    return np.where((p > own) & ~tied, p, 0).sum(1) + rng.random(len(p)) * np.where(tied, p, 0).sum(1)


def observed(truth: pd.DataFrame, clip_ids: Iterable[str]) -> list[dict[str, str]]:
    """The cues of each clip, cue -> value, from a truth table with one row per event (clip_id, cue, value).

    A clip without a row in the truth has no cues; a cue twice with two values raises `WorldError`.
    """
    clips: dict[str, dict[str, str]] = {clip_id: {} for clip_id in clip_ids}
    for clip_id, cue, value in zip(truth["clip_id"], truth["cue"], truth["value"], strict=True):
        if clip_id in clips and clips[clip_id].setdefault(cue, value) != value:
            raise WorldError(f"truth: clip {clip_id} has {cue}={clips[clip_id][cue]!r} and {value!r}: keep one of them")
    return list(clips.values())
