"""How training went and how well it did: learning curves, accuracy against radius, intervals, calibration."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator

from avgeo.plots.style import (
    FAINT,
    INK,
    MARKERS,
    PALETTE,
    Drawn,
    PlotError,
    drawn,
    new_figure,
    readable,
    styled,
)


@styled
def learning_curves(
    history: pd.DataFrame | Sequence[Mapping[str, Any]],
    columns: Sequence[str],
    x: str = "step",
    title: str | None = None,
) -> Drawn:
    """Each of `columns` of a training history against column `x`; long noisy curves get a running median."""
    table = pd.DataFrame(history)
    missing = [name for name in (x, *columns) if name not in table.columns]
    if missing or not columns:
        raise PlotError(
            f"history has no column {(missing or ['to draw'])[0]!r}: it has {', '.join(map(str, table.columns))}"
        )
    across = min(3, len(columns))
    rows = math.ceil(len(columns) / across)
    figure = new_figure(2.35 * rows + (0.3 if title else 0))
    grid = figure.subplots(rows, across, squeeze=False)
    told = []
    for at, axes in enumerate(grid.flat):
        if at >= len(columns):
            axes.set_axis_off()
            continue
        part = cast(pd.DataFrame, table[[x, columns[at]]]).dropna().sort_values(x)
        colour = PALETTE[at % len(PALETTE)]
        long = len(part) > 60
        thin: dict[str, Any] = {"linewidth": 0.8, "alpha": 0.35} if long else {}
        dots: dict[str, Any] = {"marker": "o", "markersize": 4} if len(part) < 15 else {}
        axes.plot(part[x], part[columns[at]], color=colour, **thin, **dots)
        if long:
            smooth = part[columns[at]].rolling(max(5, len(part) // 20), center=True, min_periods=1).median()
            axes.plot(part[x], smooth, color=colour)
        axes.set_title(readable(columns[at]))
        axes.set_xlabel(readable(x))
        axes.grid(axis="y")
        if len(part):
            first, last = float(part[columns[at]].iloc[0]), float(part[columns[at]].iloc[-1])
            told.append(f"{readable(columns[at])} from {first:.3g} to {last:.3g}")
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=11.5)
    span = f" over {readable(x)} {table[x].min():g} to {table[x].max():g}" if len(table) else ""
    return figure, f"Learning curves{span}: " + "; ".join(told) + "."


def _rows_of(table: pd.DataFrame, pattern: str) -> pd.DataFrame:
    if not {"row", "metric", "value", "low", "high"} <= set(table.columns):
        raise PlotError("rows must be the table that avgeo.evaluate.evaluate_rows returns")
    part = table.loc[table["metric"].str.match(pattern)]
    if part.empty:
        raise PlotError(f"rows has no metric {pattern.rstrip('$')!r}: it has {', '.join(table['metric'].unique())}")
    return part


@styled
def accuracy_curve(rows: pd.DataFrame, title: str | None = None) -> Drawn:
    """Share of clips placed within a radius, against the radius, a line per row with its bootstrap band.

    `rows` is the table of `avgeo.evaluate.evaluate_rows`; pass more `radii_km` there for a smoother curve.
    """
    part = _rows_of(rows, "accuracy_")
    figure = new_figure(3.7)
    axes = figure.subplots()
    told = []
    for at, name in enumerate(part["row"].unique()):
        line = part.loc[part["row"] == name].sort_values(by=["radius_km"])
        colour = PALETTE[at % len(PALETTE)]
        axes.fill_between(
            line["radius_km"], 100 * line["low"], 100 * line["high"], color=colour, alpha=0.16, linewidth=0
        )
        shape = MARKERS[at % len(MARKERS)]
        value = 100 * line["value"]
        axes.plot(line["radius_km"], value, color=colour, marker=shape, markersize=5, label=drawn(name))
        told.append(
            f"{name} "
            + ", ".join(f"{100 * v:.0f} % within {r:g} km" for r, v in line[["radius_km", "value"]].to_numpy())
        )
    radii = sorted(part["radius_km"].unique())
    axes.set(xscale="log", xlabel="radius (km)", ylabel="clips placed within it (%)", ylim=(0, 100))
    shown = radii if len(radii) <= 8 else [1, 10, 100, 1000, 10_000]
    axes.set_xticks(shown, [f"{radius:g}" for radius in shown])
    axes.minorticks_off()
    axes.grid(axis="y")
    axes.legend(loc="upper left")
    if title:
        axes.set_title(title)
    return figure, "Accuracy against radius: " + "; ".join(told) + "."


@styled
def interval_plot(rows: pd.DataFrame, metric: str = "median_km", title: str | None = None) -> Drawn:
    """A metric with its interval for each row of `evaluate_rows`, one under the other."""
    part = _rows_of(rows, f"{metric}$")
    figure = new_figure(0.95 + 0.36 * len(part))
    axes = figure.subplots()
    values, low, high = (np.asarray(part[name], dtype=float) for name in ("value", "low", "high"))
    low, high = np.where(np.isnan(low), values, low), np.where(np.isnan(high), values, high)
    told = []
    for at, (row, value, left, right) in enumerate(zip(part["row"], values, low, high, strict=True)):
        colour = PALETTE[at % len(PALETTE)]
        axes.plot([left, right], [at, at], color=colour, linewidth=3.2, alpha=0.55, solid_capstyle="round")
        shape = MARKERS[at % len(MARKERS)]
        axes.plot(value, at, shape, color=colour, markersize=8, markeredgecolor="white")
        text = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
        axes.annotate(text, (1.01, at), xycoords=("axes fraction", "data"), va="center", fontsize=9.5, color=INK)
        told.append(f"{row} {value:.4g} ({left:.4g} to {right:.4g})")
    if metric.endswith("_km") and float(low.min()) > 0 and float(high.max()) > 8 * float(low.min()):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
        axes.minorticks_off()
    axes.set_yticks(range(len(part)), [drawn(name) for name in part["row"]])
    axes.set(ylim=(len(part) - 0.5, -0.5), xlabel=readable(metric))
    axes.grid(axis="x")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    if title:
        axes.set_title(title)
    return figure, f"{readable(metric).capitalize()} with intervals: " + "; ".join(told) + "."


@styled
def reliability(table: pd.DataFrame, title: str | None = None, regions: str = "credible regions") -> Drawn:
    """How often `regions` hold the truth, against the mass that they claim; the diagonal is ideal.

    `table` is the one of `avgeo.evaluate.coverage`: nominal, observed, low, high.
    """
    if not {"nominal", "observed", "low", "high"} <= set(table.columns) or table.empty:
        raise PlotError("table must be the one that avgeo.evaluate.coverage returns")
    table = table.sort_values("nominal")
    figure = new_figure(4.2, 4.6)
    axes: Axes = figure.subplots()
    axes.plot([0, 100], [0, 100], color=FAINT, linestyle="--", linewidth=1.2, label="calibrated")
    axes.fill_between(
        100 * table["nominal"],
        100 * table["low"],
        100 * table["high"],
        color=PALETTE[0],
        alpha=0.18,
        linewidth=0,
    )
    axes.plot(
        100 * table["nominal"],
        100 * table["observed"],
        color=PALETTE[0],
        marker="o",
        markersize=4,
        label="observed",
    )
    axes.set(
        xlabel="mass the region claims (%)",
        ylabel="truths inside it (%)",
        xlim=(0, 100),
        ylim=(0, 100),
        aspect="equal",
    )
    axes.grid()
    axes.legend(loc="upper left")
    if title:
        axes.set_title(title)
    nominal = table["nominal"].to_numpy(dtype=float)
    gap = table["observed"].to_numpy(dtype=float) - nominal
    worst = int(np.abs(gap).argmax())
    side = "too wide" if gap[worst] > 0 else "too narrow"
    alt = f"Coverage of {regions} against the mass they claim; "
    alt += f"at most {100 * abs(gap[worst]):.0f} points off"
    return figure, f"{alt}, at {100 * nominal[worst]:.0f} %, where they are {side}."


@styled
def solver_errors(rows: pd.DataFrame, title: str | None = None) -> Drawn:
    """Error against evaluations of the network, both logarithmic, with a panel for each flow.

    `rows` has columns flow, solver, evaluations, median_km. Raises `PlotError` where one is missing.
    """
    missing = {"flow", "solver", "evaluations", "median_km"} - set(rows.columns)
    if missing or rows.empty:
        raise PlotError(f"rows must have at least one row and no column missing; lacking {sorted(missing)}")
    flows, solvers = rows["flow"].unique(), rows["solver"].unique()
    figure = new_figure(3.9 + (0.3 if title else 0))
    grid = figure.subplots(1, len(flows), squeeze=False, sharey=True)
    told = []
    for axes, flow in zip(grid.flat, flows, strict=True):
        for at, solver in enumerate(solvers):
            line = rows.loc[(rows["flow"] == flow) & (rows["solver"] == solver)].sort_values(by=["evaluations"])
            axes.plot(
                line["evaluations"], line["median_km"], color=PALETTE[at % len(PALETTE)], markersize=4.5,
                marker=MARKERS[at % len(MARKERS)], label=drawn(solver), linewidth=1.4,
            )  # fmt: skip
            best = line.iloc[-1]
            told.append(f"{flow}, {solver}: {best['median_km']:.2g} km at {best['evaluations']:g}")
        axes.set(xscale="log", yscale="log", xlabel="evaluations of the network")
        axes.set_title(readable(flow))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        axes.grid(axis="both")
    grid.flat[0].set_ylabel("median error (km)")
    handles, labels = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(3, len(labels)))
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=11.5)
    return figure, "Median error of solvers by evaluations of the network; " + "; ".join(told) + "."
