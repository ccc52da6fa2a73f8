"""Reading the run cards of densities: tables, and what may be concluded from them.

Scores of the Earth benchmark (`benchmarks/earth.py`) are negative log-likelihoods of test places, nats a place with
respect to the unit sphere's area: lower is better. Intervals are t-intervals over seeds (95 %), of differences over
splits in pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from avgeo.evaluate import Interval
from avgeo.flow.earth import FILES

PLAIN = "plain vMF kernels"
OURS = "kernels: all"
UNIFORM_BASE = "flow, uniform base"

Card = Mapping[str, Any]


def scores(card: Card, protocol: str = "deduplicated", methods: Sequence[str] | None = None) -> pd.DataFrame:
    """Mean over seeds with its interval: a row per method, a column per set."""
    return _spread(_part(card, "summary", protocol, methods), "mean")


def differences(card: Card, key: str = "minus_plain", methods: Sequence[str] | None = None) -> pd.DataFrame:
    """What every method gains (below 0) or loses on one other, on the same splits without copies.

    `key` names the other: "minus_plain", "minus_ours" or "minus_uniform_base".
    """
    return _spread(_part(card, key, "deduplicated", methods), "difference")


def published(card: Card) -> pd.DataFrame:
    """The raw protocol: our rows as in `scores`, and below them what papers print."""
    rows = pd.DataFrame({"method": name} | found for name, found in card["result"]["published"].items())
    return pd.concat([scores(card, "raw"), rows], ignore_index=True).reindex(columns=["method", *FILES])


def minutes(card: Card) -> pd.DataFrame:
    """CPU minutes that the dearest fit of every method took, parts and the choice of widths and weights included."""
    cells = pd.DataFrame(card["result"]["cells"])
    table = cells.pivot_table(index="method", columns="set", values="fit_cpu_min", aggfunc="max", sort=False)
    return table.reindex(columns=list(FILES)).rename_axis(columns=None).reset_index()


def leaked(card: Card) -> pd.DataFrame:
    """What training gives away of the test rows, by set and protocol (means over seeds)."""
    names = {
        "set": "set", "protocol": "protocol", "rows": "rows", "unique_rows": "unique rows",
        "copied_in_test": "test rows with a copy in training", "nearest_km_median": "median km to training",
        "on_tenths": "unique rows on a 0.1° lattice",
    }  # fmt: skip
    found = pd.DataFrame(card["result"]["leaks"])[list(names)].astype({"rows": int, "unique_rows": int})
    return found.sort_values("set", key=lambda column: column.map(list(FILES).index), kind="stable").rename(
        columns=names
    )


def integrals(card: Card) -> pd.DataFrame:
    """∫p of the densities that were checked: by method, how many, the farthest from 1 by the grid, the farthest by
    importance sampling, that in its standard errors, and the most evaluations.
    """
    checked = [cell for cell in card["result"]["cells"] if "integral" in cell]
    rows = []
    for method in dict.fromkeys(cell["method"] for cell in checked):
        found = pd.DataFrame([cell["integral"] for cell in checked if cell["method"] == method])
        off = (found["sampling"] - 1).abs()
        told = {"method": method, "densities": len(found)}
        told |= {"grid: farthest from 1": float((found["grid"] - 1).abs().max())}
        told |= {"sampling: farthest from 1": float(off.max())}
        told |= {"in standard errors": float((off / found["sampling_se"]).max())}
        rows.append(told | {"evaluations": int(found["evaluations"].max())})
    return pd.DataFrame(rows)


def concluded(card: Card, method: str, key: str = "minus_plain") -> str:
    """In words: on which sets `method` is better or worse than the other of `differences`, by intervals clear of 0.

    One split has no interval: nothing is concluded from it.
    """
    other = {"minus_plain": PLAIN, "minus_ours": OURS, "minus_uniform_base": UNIFORM_BASE}[key]
    said: dict[str, list[str]] = {"better": [], "worse": [], "not apart": [], "one split only": []}
    for row in _part(card, key, "deduplicated", [method]).to_dict("records"):
        if pd.isna(row["low"]):
            word = "one split only"
        elif row["low"] * row["high"] <= 0:
            word = "not apart"
        else:
            word = "better" if row["difference"] < 0 else "worse"
        said[word].append(str(row["set"]))
    told = [f"{word} on {', '.join(sets)}" for word, sets in said.items() if sets]
    return f"{method} against {other}: {'; '.join(told)}."


def solved(card: Card, evaluations: int = 64) -> pd.DataFrame:
    """Of `benchmarks/test_solver.py`: each solver's errors in km after so many evaluations, on each flow."""
    errors = pd.DataFrame(card["result"]["errors"])
    rows = errors[errors["evaluations"] == evaluations].pivot_table(
        index="solver", columns="flow", values=["median_km", "p99_km"], sort=False
    )
    names = {"median_km": "median", "p99_km": "99th percentile"}
    rows.columns = [f"{flow}: {names[kind]}, km" for kind, flow in rows.columns]
    return rows.sort_values(rows.columns[0]).reset_index()


_FITTED = {"as trained": "as trained", "log_score": "best log score", "coverage": "best coverage"}


def calibrated(card: Card) -> pd.DataFrame:
    """Of `benchmarks/calibration.py`: how often (%) each region held the truth, as trained and recalibrated."""
    rows = []
    for sense, told in card["result"]["senses"].items():
        for name, label in _FITTED.items():
            this = told[name]
            row = {"shown": sense, "fitted for": label}
            row |= {"T": f"{this.get('temperature', 1):.2f}", "ε": f"{this.get('floor', 0):.3f}"}
            for level in this["coverage"]:
                observed, low, high = (100 * level[key] for key in ("observed", "low", "high"))
                row[f"{level['nominal']:.0%}"] = f"{observed:.1f} [{low:.0f}, {high:.0f}]"
            bits = this["bits"]
            rows.append(row | {"bits": f"{bits['value']:.2f} [{bits['low']:.2f}, {bits['high']:.2f}]"})
    return pd.DataFrame(rows)


def farthest_off(card: Card) -> dict[str, float]:
    """By what was fitted ("as trained", "log_score", "coverage"): the region farthest off what it claims, in points."""
    return {
        name: max(
            100 * abs(level["observed"] - level["nominal"])
            for told in card["result"]["senses"].values()
            for level in told[name]["coverage"]
        )
        for name in _FITTED
    }


def _part(card: Card, key: str, protocol: str, methods: Sequence[str] | None) -> pd.DataFrame:
    rows = [row for row in card["result"][key] if row["protocol"] == protocol]
    return pd.DataFrame([row for row in rows if methods is None or row["method"] in methods])


def _spread(rows: pd.DataFrame, value: str) -> pd.DataFrame:
    """A row per method, a column per set; where there is one seed, it says so in place of an interval."""
    table: dict[str, dict[str, str]] = {}
    for row in rows.to_dict("records"):
        cell = f"{row[value]:.3g} (one seed)"
        if row["seeds"] > 1:
            few = "" if row["seeds"] == 5 else f" ({row['seeds']} seeds)"
            cell = f"{Interval(row[value], row['low'], row['high'])}{few}"
        table.setdefault(str(row["method"]), {})[str(row["set"])] = cell
    sets = [name for name in FILES if any(name in found for found in table.values())]
    return pd.DataFrame(
        {"method": method} | {name: found.get(name) for name in sets} for method, found in table.items()
    )
