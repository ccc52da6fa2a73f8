"""Where rewards lead a policy, and the spectra of the distances they are made of."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.ticker import FuncFormatter

from avgeo.plots.style import INK, MARKERS, PALETTE, Drawn, PlotError, drawn, new_figure, styled

_SMALL = 0.01  # below this a coefficient's axis is linear, so that zero and minus can be drawn


def _look(at: int, size: float) -> dict[str, Any]:
    return {"color": PALETTE[at % len(PALETTE)], "marker": MARKERS[at % len(MARKERS)], "markersize": max(3, size)}


@styled
def reward_ends(ends: pd.DataFrame, coefficients: pd.DataFrame, truth: float, title: str | None = None) -> Drawn:
    """Left: the probability of the likelier of two places where training ends, by group size; right: spectra of costs.

    `ends` has columns reward, size, share, and `truth` is the share that would be right; `coefficients` has columns
    cost, degree, value. Raises `PlotError` where a column is missing or a table is empty.
    """
    for name, table, wanted in (
        ("ends", ends, ["reward", "size", "share"]),
        ("coefficients", coefficients, ["cost", "degree", "value"]),
    ):
        missing = [column for column in wanted if column not in table.columns]
        if missing or table.empty:
            raise PlotError(f"{name} must have columns {', '.join(wanted)} and at least one row; lacking {missing}")
    figure = new_figure(4.8 + (0.3 if title else 0))
    left, right = figure.subplots(1, 2)
    told = [f"Where training ends, the truth being {truth:g}"]
    left.axhline(truth, color=INK, linestyle="--", linewidth=1.2, label="truth", zorder=4)
    for at, (name, line) in enumerate(ends.groupby("reward", sort=False)):
        line = line.sort_values("size")
        # ends coincide: what is drawn later is thinner, so that what lies below shows around it
        left.plot(line["size"], line["share"], label=drawn(name), linewidth=max(1, 3 - at / 2), **_look(at, 8 - at))
        words = [f"{share:.3f}" for share in line["share"]]
        each = ", ".join(f"{share} at G = {size}" for share, size in zip(words, line["size"], strict=True))
        told.append(f"{name}: {words[0] + ' at every G' if len(set(words)) == 1 else each}")
    sizes = sorted(ends["size"].unique())
    left.set(xscale="log", xlabel="rollouts in a group, G", ylabel="share of the likelier place")
    left.set_xticks(sizes, [f"{size:g}" for size in sizes])
    left.minorticks_off()
    left.set_title("Where training ends")
    spectra = []
    right.axhline(0, color=INK, linewidth=0.8)
    for at, (name, line) in enumerate(coefficients.groupby("cost", sort=False)):
        line = line.sort_values("degree")
        right.plot(line["degree"], line["value"], label=drawn(name), linewidth=1.0, **_look(at, 5))
        zero = line.loc[line["value"].abs() < 1e-9 * line["value"].abs().max(), "degree"]
        below = line.loc[(line["value"] < 0) & ~line["degree"].isin(zero), "degree"]
        found = [
            f"{word} at degrees {', '.join(map(str, some))}"
            for word, some in (("zero", zero), ("negative", below))
            if len(some)
        ]
        spectra.append(f"{name}: {' and '.join(found) or 'all positive'}")
    right.set_yscale("symlog", linthresh=_SMALL)
    right.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    right.set_xticks(sorted(coefficients["degree"].unique()))
    right.set(xlabel="degree l", ylabel="Legendre coefficient of −cost")
    right.set_title("What a cost can see")
    for axes in (left, right):
        axes.grid(axis="y")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), fontsize=9)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=11.5)
    degrees = f"degree {coefficients['degree'].min()} to {coefficients['degree'].max()}"
    return figure, "; ".join(told) + f". Legendre coefficients of minus the cost, {degrees}: " + "; ".join(
        spectra
    ) + "."
