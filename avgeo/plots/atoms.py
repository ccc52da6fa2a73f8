"""Ways to learn atoms side by side: scores over sparsity or signal-to-noise ratio, with their intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from avgeo.plots.style import MARKERS, PALETTE, Drawn, PlotError, drawn, new_figure, readable, styled

_WANTED = ("line", "panel", "x", "mean", "low", "high")


@styled
def comparison_curves(
    rows: pd.DataFrame,
    x_label: str,
    *,
    lines: Sequence[str] | None = None,
    panels: Sequence[str] | None = None,
    log_x: bool = False,
    title: str | None = None,
) -> Drawn:
    """One panel per score: each method's mean over seeds with its interval, against `x`.

    `rows` has columns line, panel, x, mean, low, high. `lines` and `panels` give their order; the first line is drawn
    strongest. Raises `PlotError` for a missing column or nothing to draw.
    """
    missing = [name for name in _WANTED if name not in rows.columns]
    if missing or rows.empty:
        raise PlotError(f"rows must have columns {', '.join(_WANTED)} and at least one row; lacking {missing}")
    lines = list(lines or rows["line"].unique())
    panels = list(panels or rows["panel"].unique())
    across = min(2, len(panels))
    down = math.ceil(len(panels) / across)
    figure = new_figure(2.75 * down + 0.7 + (0.3 if title else 0))
    grid = figure.subplots(down, across, squeeze=False)
    told = []
    for at, axes in enumerate(grid.flat):
        if at >= len(panels):
            axes.set_axis_off()
            continue
        part = rows.loc[rows["panel"] == panels[at]]
        for number, name in enumerate(lines):
            line = part.loc[part["line"] == name].sort_values("x")
            if line.empty:
                continue
            colour, first = PALETTE[number % len(PALETTE)], number == 0
            mean = line["mean"].to_numpy(float)
            spread = [mean - line["low"].to_numpy(float), line["high"].to_numpy(float) - mean]
            axes.errorbar(
                line["x"], mean, yerr=spread, color=colour, marker=MARKERS[number % len(MARKERS)], capsize=2.5,
                markersize=6 if first else 4.5, linewidth=2.4 if first else 1.3, elinewidth=1, label=drawn(name),
                zorder=3 if first else 2,
            )  # fmt: skip
            told.append(
                f"{panels[at]}, {name}: " + ", ".join(f"{m:.3g} at {x:g}" for x, m in zip(line["x"], mean, strict=True))
            )
        axes.set_title(readable(panels[at]))
        axes.set_xlabel(x_label)
        if log_x:
            axes.set_xscale("log", base=2)
        ticks = sorted(part["x"].unique())
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.grid(axis="y")
    handles, labels = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)))
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=11.5)
    return figure, f"Scores against {x_label}, mean over seeds with 95 % intervals. " + "; ".join(told) + "."
