"""Reading the comparison's run cards (`benchmarks/atoms.py`): curves, tables, and what may be concluded from them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from avgeo.evaluate import Interval
from avgeo.perceive.scores import across_seeds

OURS = "ours"
BASELINES = ("TopK", "BatchTopK", "Matryoshka", "matching pursuit", "NMF")


@dataclass(frozen=True)
class AtomComparison:
    """One task of a card: `summary` (method, l0, metric, mean, low, high, seeds) and `ahead` (ours minus a method)."""

    summary: pd.DataFrame
    ahead: pd.DataFrame
    stability: pd.DataFrame

    @classmethod
    def of(cls, card: Mapping[str, Any], task: str) -> AtomComparison:
        """The part of a card that is about `task`; raises `KeyError` when it holds nothing of it."""
        parts: dict[str, Any] = {}
        for name in ("summary", "ours_minus", "stability"):
            table = pd.DataFrame(card["result"][name])
            parts[name] = table.loc[table["task"] == task].reset_index(drop=True) if len(table) else table
        if parts["summary"].empty:
            raise KeyError(f"the card holds no task {task!r}")
        return cls(parts["summary"], parts["ours_minus"], parts["stability"])

    def baselines(self) -> list[str]:
        """Those of `BASELINES` that were run at every L0 of ours."""
        run = self.summary.groupby("method")["l0"].agg(set)
        return [name for name in BASELINES if name in run.index and run.loc[name] >= run.loc[OURS]]

    def at(self, method: str, l0: int, metric: str) -> Interval:
        """The mean over seeds, with its interval."""
        rows: Any = self.summary.set_index(["method", "l0", "metric"])
        return Interval(*rows.loc[(method, l0, metric), ["mean", "low", "high"]].tolist())

    def table(self, methods: Sequence[str], metrics: Mapping[str, str], l0s: Sequence[int]) -> pd.DataFrame:
        """One row per method and L0; `metrics` maps a card's name to a column's. Cells: mean [95 % interval]."""
        return pd.DataFrame(
            {"method": method, "L0": l0}
            | {label: str(self.at(method, l0, metric)) for metric, label in metrics.items()}
            for method in methods
            for l0 in l0s
        )

    def curve(self, metrics: Sequence[str], methods: Sequence[str]) -> pd.DataFrame:
        """Rows for `plots.comparison_curves` over L0: line, panel, x, mean, low, high."""
        part = self.summary.loc[self.summary["metric"].isin(metrics) & self.summary["method"].isin(methods)]
        return part.rename(columns={"method": "line", "metric": "panel", "l0": "x"})

    def over_snr(self, measures: Mapping[str, str], methods: Sequence[str], l0: int) -> pd.DataFrame:
        """The same over the SNR in dB of mixtures; `measures` maps the cards' names to panels, e.g. "set F1"."""
        rows = []
        here = self.summary.loc[(self.summary["l0"] == l0) & self.summary["method"].isin(methods)]
        for row in here.to_dict("records"):
            found = re.fullmatch(r"(.+) ([+-]\d+) dB", str(row["metric"]))
            if found and found[1] in measures:
                rows.append(row | {"line": row["method"], "panel": measures[found[1]], "x": int(found[2])})
        return pd.DataFrame(rows)

    def verdict(self, metric: str, others: Sequence[str] = BASELINES) -> pd.DataFrame:
        """Ours against each of `others` at every L0: l0, other, ours, theirs, and whether the intervals are apart."""
        rows = []
        for l0 in sorted(map(int, self.summary.loc[self.summary["method"] == OURS, "l0"].unique())):
            own = self.at(OURS, l0, metric)
            for other in others:
                their = self.at(other, l0, metric)
                row = {"l0": l0, "other": other, "ours": own.value, "theirs": their.value}
                rows.append(row | {"ours is": standing(own, their)})
        return pd.DataFrame(rows)


def standing(own: Interval, other: Interval) -> str:
    """ "higher" or "lower" where the intervals do not overlap, else "not apart"."""
    return "higher" if own.low > other.high else "lower" if own.high < other.low else "not apart"


def told(scores: pd.DataFrame, other: str = "TopK", metrics: Sequence[str] = ("MCC", "F1")) -> str:
    """What one run's scores (`fitting.compared`) say of ours against another: a sentence for each metric."""
    at: Any = scores.set_index(["row", "metric"])[["value", "low", "high"]]
    sentences = []
    for metric in metrics:
        own, their = (Interval(*at.loc[(row, metric)].tolist()) for row in (OURS, other))
        sentences.append(f"{metric} of ours is {own}, of {other} {their}: {standing(own, their)}.")
    return " ".join(sentences)


def concluded(verdict: pd.DataFrame, metric: str) -> str:
    """A verdict in words: in how many comparisons ours is higher, lower or not apart, and where it is not higher."""
    higher = int((verdict["ours is"] == "higher").sum())
    text = f"{metric}: ours is higher in {higher} of {len(verdict)} comparisons"
    for says in ("not apart", "lower"):
        rows = verdict.loc[verdict["ours is"] == says]
        if len(rows):
            where = ", ".join(f"{other} at L0 {l0}" for other, l0 in rows[["other", "l0"]].itertuples(index=False))
            text += f"; {says} from {where}" if says == "not apart" else f"; {says} than {where}"
    return text + "."


def settled(found: AtomComparison, metrics: Sequence[str] = ("MCC", "F1")) -> str:
    """The ledger's word: "confirmed" or "refuted" where every comparison with a baseline says so, else "undecided"."""
    said = {word for metric in metrics for word in found.verdict(metric, found.baselines())["ours is"]}
    return {("higher",): "confirmed", ("lower",): "refuted"}.get(tuple(said), "undecided")


def ablations(card: Mapping[str, Any], task: str, l0: int = 16) -> pd.DataFrame:
    """Ours and what it is without each part: MCC, F1, mixtures at 0 dB, and ours less the row in MCC and F1."""
    found = AtomComparison.of(card, task)
    metrics = {"MCC": "MCC", "F1": "F1", "support F1 +0 dB": "mixture, set F1", "support kappa +0 dB": "kappa"}
    there = found.summary.loc[found.summary["l0"] == l0, "method"].unique()
    names = [OURS] + [name for name in there if name not in (OURS, "untrained", *BASELINES)] + ["TopK"]
    ahead: Any = found.ahead.set_index(["method", "l0", "metric"])
    table = found.table(names, metrics, [l0]).drop(columns="L0")
    for metric in ("MCC", "F1"):
        cells = [""]
        for name in names[1:]:
            gap = Interval(*ahead.loc[(name, l0, metric), ["difference", "low", "high"]].tolist())
            cells.append(str(gap))
        table[f"ours less it, {metric}"] = cells
    return table


def stabilities(found: AtomComparison, l0: int) -> pd.DataFrame:
    """Stability of dictionaries and of codes at one L0, less that of untrained ones: a row per method."""
    rows = []
    for method, part in found.stability.loc[found.stability["l0"] == l0].groupby("method", sort=False):
        row: dict[str, Any] = {"method": method}
        for item in part.to_dict("records"):
            row[f"{item['of']}, {item['metric']}"] = str(Interval(item["value"], item["low"], item["high"]))
        rows.append(row)
    return pd.DataFrame(rows)


def trainers(card: Mapping[str, Any]) -> pd.DataFrame:
    """Recovery of every trainer and setting in the card of `benchmarks/test_sae.py`: mean [t-interval]; median time."""
    measures = {"mmcs": "MMCS", "found": "found (cosine above 0.9)"}
    runs = pd.DataFrame(card["result"]["trainers"])[["trainer", "batch", "rate", "seed", *measures]]
    long = runs.melt(["trainer", "batch", "rate", "seed"], var_name="measure")
    means = across_seeds(long)
    means["cell"] = [str(Interval(*row)) for row in means[["mean", "low", "high"]].itertuples(index=False)]
    wide = means.pivot(index=["trainer", "batch", "rate"], columns="measure", values="cell")
    wide = wide[list(measures)].rename(columns=measures).reset_index().rename_axis(columns=None)
    cost = pd.DataFrame(card["result"]["race"]).groupby("trainer")["cpu_s_per_million"].median()
    return wide.assign(**{"CPU s per million vectors": wide["trainer"].map(cost).round(0)})


def raced(card: Mapping[str, Any]) -> str:
    """What that card says of avgeo against the fastest and the best peer."""
    runs = pd.DataFrame(card["result"]["recovery"])
    ahead = runs["mmcs"] - runs["mmcs_of_best_peer"]
    share = card["result"]["pace"]["time_over_fastest_peer"]
    return (
        f"avgeo takes {share:.2f} of the fastest peer's CPU time (median over rounds). "
        f"Its MMCS is {runs['mmcs'].mean():.3f}, the best peer's {runs['mmcs_of_best_peer'].mean():.3f}: over "
        f"{len(runs)} seeds ours less theirs is {ahead.min():+.3f} to {ahead.max():+.3f}."
    )
