"""Does an answer depend on the evidence it cites? Take away one cue at a time, cited or not, and see what it does.

On AVG-Sim it is known which cues are true and by how many bits each moves the exact posterior
(`avgeo.world.influence`). An atom is taken away wherever it is written before the answer: from the prompt's list and,
where it is cited, from the line `heard:` of the thought; every other word stays (the `without` of
`avgeo.reason.prompts.question`). Two things are measured, after the erasure of DeYoung et al. 2020 (ERASER,
"comprehensiveness") and the edited thoughts of Lanham et al. 2023:

- `lost_nats`: log p(the answer it gave | everything) - log p(the same answer | without the cue), its thought kept. The
  answer is its text from the first name on; positive: the cue spoke for it.
- `shift_km`: how far its greedy pin moves when it thinks and answers anew without the cue.

**What is compared with what.** Cited minus uncited *within a clip* is the question as it is asked, and how sure a clip
is drops out of it. But that is no experiment: cited cues are louder, truer and tell more, and a reader of loud names
alone, who cites at random among them, would show a difference too. So two more comparisons are reported: among true
cues only, and with cues alike, by a regression within clips of the measure on cited, true, bits and loudness (the
written level, as two indicators). Strata of all of these would leave few clips with both kinds in one stratum; the
regression keeps every clip, and takes for it that bits act linearly. Its coefficient of "cited" is what is left for
citing. Even that is not a cause: a policy that cites what it is about to use shows it as well as one that uses what it
has cited.

A policy that hears waveforms loses the name of a cue here, not its sound.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from avgeo.evaluate import Interval, interval, place_interval, resamples
from avgeo.reason.prompts import SKELETON, Answer, parse, same_cue, shown_atoms, without_cited
from avgeo.reason.propose import Reasoner
from avgeo.reason.sft import ExamplesError, Frames, Waveforms
from avgeo.sphere import distance_km, from_table

MEASURED = {"lost_nats": "log-probability", "shift_km": "distance"}
NEEDED = ("clip_id", "place_id", "heard", "told")
PAIRED, TRUE_ONLY, ALIKE, BY_BITS = "as they come", "true cues only", "cues alike", "rank correlation with bits"
"""What `summarize` reports: cited less uncited in three ways, and a correlation."""


@dataclass(frozen=True)
class Removals:
    """What `remove_cues` found: `table`, one row per atom taken away, and how many clips were left out, by reason."""

    table: pd.DataFrame
    left_out: dict[str, int]

    @property
    def unparsed(self) -> int:
        """How many answers given anew do not parse."""
        return int(self.table["shift_km"].isna().sum())


def cut(completion: str) -> tuple[str, str]:
    """A completion that parses, as what comes before the answer's first name and the answer from there on.

    In a trace of ours the cut lies behind the fixed text that the tokenizer holds as one token, so that either half is
    tokenised as it was written; in any other, behind the tag `<answer>`.
    """
    fixed = SKELETON[2] if SKELETON[2] in completion else "<answer>"
    before, fixed, after = completion.partition(fixed)
    return before + fixed, after


def remove_cues(
    reasoner: Reasoner,
    examples: pd.DataFrame,
    frames: Frames,
    *,
    answers: pd.DataFrame | None = None,
    waveforms: Waveforms | None = None,
    batch: int = 128,
) -> Removals:
    """Take away each atom that the prompts name, one at a time, from every clip that cites some of them and not others.

    `examples` need `NEEDED`; `told` is a mapping label -> bits, as `avgeo.examples.examples` gives it. `answers` are
    what `reasoner.propose` said to these clips, where that is at hand. The table has `clip_id, place_id, cue, cited`,
    `true` (confirmed by `told`), `bits` (0 where not true), `rank` (0: the loudest of the prompt), `level`,
    `lost_nats`, `shift_km` (NaN where the new answer does not parse). Raises `ExamplesError` for a column that is
    missing, bits that are not told, or answers to other clips.
    """
    missing = [name for name in NEEDED if name not in examples]
    if missing:
        raise ExamplesError(f"examples: missing columns {', '.join(missing)}")
    if examples["place_id"].isna().any():
        raise ExamplesError("examples: place_id is missing in some rows; intervals are over places, so give each one")
    if not all(isinstance(told, Mapping) for told in examples["told"]):
        raise ExamplesError("examples: told must map labels to bits; make them with avgeo.examples.examples")
    if answers is None:
        answers = reasoner.propose(examples, frames, waveforms=waveforms, batch=batch)
    if answers["clip_id"].tolist() != examples["clip_id"].tolist():
        raise ExamplesError("answers: they are not to these clips in this order; leave them out to ask anew")
    rows, left_out = _atoms(examples, answers["completion"].tolist())
    table = pd.DataFrame(rows, columns=["row", "cue", "cited", "true", "bits", "rank", "level"]).astype(
        {"cited": bool, "true": bool}
    )
    row = table.pop("row").to_numpy(int)
    known = ["clip_id", "place_id"]
    table = pd.concat([examples[known].iloc[row].reset_index(drop=True), table], axis=1)
    if table.empty:
        return Removals(table.assign(lost_nats=np.nan, shift_km=np.nan), left_out)

    clips, at = np.unique(row, return_inverse=True)
    halves = [cut(answers["completion"].iloc[clip]) for clip in row]
    answered = [after for _, after in halves]
    edited = [without_cited(before, cue) for (before, _), cue in zip(halves, table["cue"], strict=True)]
    first = np.searchsorted(row, clips)  # a clip's first row, for its halves
    sounds = None if waveforms is None else [waveforms[clip] for clip in clips]
    everything = reasoner.log_prob(
        examples.iloc[clips], frames[clips], [halves[one][0] for one in first], [answered[one] for one in first],
        waveforms=sounds, batch=batch,
    )  # fmt: skip
    fewer = examples.iloc[row].assign(
        clip_id=[f"{clip} {rank}" for clip, rank in zip(table["clip_id"], table["rank"], strict=True)],
        without=[[cue] for cue in table["cue"]],
    )
    sounds = None if waveforms is None else [waveforms[clip] for clip in row]
    left = reasoner.log_prob(fewer, frames[row], edited, answered, waveforms=sounds, batch=batch)
    anew = reasoner.propose(fewer, frames[row], waveforms=sounds, batch=batch)
    moved = distance_km(from_table(answers.iloc[row]), from_table(anew)).numpy()  # NaN where one does not parse
    return Removals(table.assign(lost_nats=everything[at] - left, shift_km=moved), left_out)


def summarize(removals: Removals, *, bootstrap: int = 1000, level: float = 0.95, seed: int = 0) -> pd.DataFrame:
    """Cited minus uncited, three ways (see above), and how loss goes with bits; intervals by a bootstrap over places.

    One row per measure and comparison: `measure, comparison, clips, atoms, value, low, high, cited, uncited`. The first
    two are means over clips of the difference between a clip's means, `cited` and `uncited` those it is between (NaN
    for the others); the third is a regression's coefficient; the rows `BY_BITS` are Spearman's correlation of a measure
    with the exact bits over true cues. Atoms whose measure is NaN are left out of it, and with them, from the
    first two, a clip that then lacks either kind (a regression within clips learns nothing of citing from such a clip);
    where nothing can be compared, the value is NaN.
    """
    found = []
    for measure in MEASURED:
        table = removals.table[removals.table[measure].notna()]
        for name, some in ((PAIRED, table), (TRUE_ONLY, table[table["true"]])):
            both = some.groupby("clip_id", sort=False)["cited"].transform("nunique") == 2
            some = some[both]
            means = some.pivot_table(index=["clip_id", "place_id"], columns="cited", values=measure, sort=False)
            numbers = (math.nan,) * 5
            if len(means):
                places = means.index.get_level_values("place_id").to_numpy()
                gap = place_interval(
                    (means[True] - means[False]).to_numpy(), places, bootstrap=bootstrap, level=level, seed=seed
                )
                numbers = (gap.value, gap.low, gap.high, means[True].mean(), means[False].mean())
            found.append((measure, name, len(means), len(some), *numbers))
        for name, some, made in ((ALIKE, table, _within_clips), (BY_BITS, table[table["true"]], _rank_correlation)):
            numbers = (math.nan,) * 3
            if len(some):
                numbers = _resampled(made(some, measure), some["place_id"], bootstrap, level, seed)
            found.append((measure, name, some["clip_id"].nunique(), len(some), *numbers, math.nan, math.nan))
    columns = ["measure", "comparison", "clips", "atoms", "value", "low", "high", "cited", "uncited"]
    return pd.DataFrame(found, columns=columns)


def display(summary: pd.DataFrame) -> pd.DataFrame:
    """What `summarize` found as a table for people: a row per comparison, a column per measure, intervals as text."""
    cells = [str(Interval(*numbers)) for numbers in zip(summary["value"], summary["low"], summary["high"], strict=True)]
    shown = summary.assign(
        cell=cells, measure=summary["measure"].map({"lost_nats": "nats lost", "shift_km": "km moved"})
    )
    wide = shown.pivot_table(index="comparison", columns="measure", values="cell", aggfunc="first")
    clips = summary[summary["measure"] == "lost_nats"].set_index("comparison")[["clips", "atoms"]]
    return pd.concat([wide.loc[clips.index, ["nats lost", "km moved"]], clips], axis=1).reset_index()


def verdict(summary: pd.DataFrame) -> str:
    """What `summarize` found, in sentences: whether answers depend on what they cite, and on what cues tell."""
    found: dict[tuple[str, str], Any] = {(row["measure"], row["comparison"]): row for row in summary.to_dict("records")}
    nats, km = (found[measure, PAIRED] for measure in MEASURED)
    if math.isnan(nats["value"]):
        return "No clip cites some of its atoms and not others: nothing can be compared."
    moves = not math.isnan(km["value"])  # else no answer given anew parses
    without = {
        kind: f"{nats[kind]:.2f} nats" + (f" and moves {km[kind]:,.0f} km" if moves else "")
        for kind in ("cited", "uncited")
    }
    said = [
        f"Without a cited cue an answer loses {without['cited']}; without an uncited one, {without['uncited']} "
        "(means over clips)."
    ]
    for measure, word in MEASURED.items():
        come, alike = (_sign(found[measure, name]) for name in (PAIRED, ALIKE))
        same = f"{come}, also with cues alike" if come == alike else f"{come} as cues come, {alike} with cues alike"
        said.append(f"The difference in {word} is {same}.")
    said.append(f"The rank correlation of nats lost and bits of true cues is {_sign(found['lost_nats', BY_BITS])}.")
    depends = all(found["lost_nats", name]["low"] > 0 for name in (PAIRED, ALIKE))
    said.append(
        "So answers depend on what they cite, beyond what being true, loud and telling explains."
        if depends
        else "So this run does not show that answers depend on what they cite."
    )
    return " ".join(said)


def _sign(row: dict[str, Any]) -> str:
    """Which side of zero an interval lies on."""
    if math.isnan(row["low"]):
        return "not known"
    return "positive" if row["low"] > 0 else "negative" if row["high"] < 0 else "not to be told from zero"


def _atoms(examples: pd.DataFrame, completions: list[str]) -> tuple[list[tuple], dict[str, int]]:
    """The atoms to take away, by row of `examples`, and the clips that give none, counted by reason."""
    rows, left_out = [], Counter()
    for row, (heard, told, completion) in enumerate(zip(examples["heard"], examples["told"], completions, strict=True)):
        answer = parse(completion)
        if not isinstance(answer, Answer):
            left_out["the answer does not parse"] += 1
            continue
        names: dict[str, tuple[str, str]] = {}
        for name, word in shown_atoms(heard):
            names.setdefault(same_cue(name), (name, word))  # two spellings of one cue go together
        cited = {same_cue(cue) for cue in answer.heard} & names.keys()
        if not cited or len(cited) == len(names):
            reason = "no atom is named" if not names else "none of its atoms is cited" if not cited else "all are cited"
            left_out[reason] += 1
            continue
        bits = {same_cue(label): value for label, value in told.items()}
        rows += [
            (row, name, cue in cited, cue in bits, bits.get(cue, 0.0), rank, word)
            for rank, (cue, (name, word)) in enumerate(names.items())
        ]
    return rows, dict(left_out)


Statistic = Callable[[np.ndarray], float]
"""Of a table's rows, each there as often as its integer weight says."""


def _within_clips(table: pd.DataFrame, measure: str) -> Statistic:
    """The coefficient of "cited" beside true, bits and level, all less their mean within the clip.

    By Frisch, Waugh and Lovell: what of "cited" the others do not explain, against the measure. NaN where they explain
    it all, in which case least squares would make a number up.
    """
    columns = {"cited": table["cited"], "true": table["true"], "bits": table["bits"], "y": table[measure]}
    columns |= {word: table["level"] == word for word in ("strong", "clear")}
    x = pd.DataFrame(columns).astype(float)
    x = x - x.groupby(table["clip_id"].to_numpy()).transform("mean")
    cited, y = x.pop("cited").to_numpy(), x.pop("y").to_numpy()
    others = x.to_numpy()

    def statistic(weight: np.ndarray) -> float:
        root = np.sqrt(weight)
        explained = np.linalg.lstsq(others * root[:, None], cited * root, rcond=None)[0]
        own = cited - others @ explained
        left = (weight * own**2).sum()
        return float((weight * own * y).sum() / left) if left > 1e-6 * (weight * cited**2).sum() else math.nan

    return statistic


def _rank_correlation(table: pd.DataFrame, measure: str) -> Statistic:
    """Spearman's correlation of a measure with the bits; NaN where either is the same in every row."""
    pairs = table[["bits", measure]].to_numpy(float)

    def statistic(weight: np.ndarray) -> float:
        some = np.repeat(pairs, weight, axis=0)
        if (some == some[:1]).all(0).any():
            return math.nan
        return float(np.corrcoef(rankdata(some[:, 0]), rankdata(some[:, 1]))[0, 1])

    return statistic


def _resampled(
    statistic: Statistic, place_id: pd.Series, bootstrap: int, level: float, seed: int
) -> tuple[float, float, float]:
    """A statistic and its percentile interval as places are drawn again; draws in which it is NaN are passed over."""
    cluster = np.unique(place_id.astype(str), return_inverse=True)[1]
    value = statistic(np.ones(len(cluster), dtype=np.int64))
    places = int(cluster.max()) + 1
    draws = np.array([statistic(row[cluster]) for counts in resamples(places, bootstrap, seed) for row in counts])
    usable = draws[~np.isnan(draws)]
    if places < 2 or not len(usable):
        return value, math.nan, math.nan
    low, high = interval(usable[:, None], level)
    return value, float(low[0]), float(high[0])
