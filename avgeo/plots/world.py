"""Figures of AVG-Sim itself: a cue's table over the year and the day, exact posteriors over its sites, information."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.colors import LogNorm

from avgeo.plots.maps import world_axes
from avgeo.plots.style import ACTIVE, FAINT, HEAT, INK, PALETTE, Drawn, PlotError, drawn, new_figure, readable, styled

LEAST = 1e-4
"""Sites less probable than this are drawn as grey dots."""


@styled
def clock_tables(tables: Mapping[str, Float[np.ndarray, "12 24"]], title: str | None = None) -> Drawn:
    """Probabilities over the months (down) and the local hours (across), one panel per entry, on one scale."""
    if not tables or any(np.shape(table) != (12, 24) for table in tables.values()):
        raise PlotError("tables must hold arrays of 12 months by 24 hours, one per panel")
    figure = new_figure(2.6)
    most = max(float(np.max(table)) for table in tables.values()) or 1.0
    grid = figure.subplots(1, len(tables), sharey=True, squeeze=False)[0]
    image, told = None, []
    for axes, (name, table) in zip(grid, tables.items(), strict=True):
        image = axes.imshow(table, aspect="auto", cmap=ACTIVE, vmin=0, vmax=most, extent=(0, 24, 12.5, 0.5))
        axes.set_title(drawn(name), fontsize=9.5, fontweight="normal")
        axes.set(xlabel="local hour", xticks=(0, 6, 12, 18, 24))
        month, hour = np.unravel_index(int(np.argmax(table)), np.shape(table))
        told.append(
            f"{readable(name)}: at most {np.max(table):.2f} (month {month + 1}, hour {hour})"
            if np.max(table) > 0
            else f"{readable(name)}: never"
        )
    grid[0].set(ylabel="month", yticks=(1, 4, 7, 10))
    assert image is not None  # there is a panel
    figure.colorbar(image, ax=grid, pad=0.01, aspect=18).set_label("probability")
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=11.5)
    return figure, "Probability by month and local hour. " + "; ".join(told) + "."


@styled
def site_posteriors(
    sites: pd.DataFrame, posteriors: Mapping[str, Float[np.ndarray, " sites"]], true: int, title: str | None = None
) -> Drawn:
    """Exact posteriors over the same sites, a map under the other; a ring marks the true site (row `true`).

    `sites` has name, latitude_deg and longitude_deg; each posterior sums to 1.
    """
    import cartopy.crs as ccrs

    figure = new_figure(3.3 * len(posteriors))
    grid = figure.add_gridspec(len(posteriors), 1)
    told = []
    for row, (name, p) in enumerate(posteriors.items()):
        p = np.asarray(p, float)
        if p.shape != (len(sites),) or not np.isclose(p.sum(), 1, atol=1e-4):
            raise PlotError(f"posterior {name!r} must be {len(sites)} probabilities that sum to 1")
        axes = world_axes(figure, grid[row, 0])
        look: dict[str, Any] = {"transform": ccrs.PlateCarree(), "zorder": 4}
        order = np.argsort(p)
        likely = order[p[order] >= LEAST]
        axes.scatter(sites["longitude_deg"], sites["latitude_deg"], s=2, color=FAINT, linewidth=0, **look)
        shades = axes.scatter(
            sites["longitude_deg"].iloc[likely], sites["latitude_deg"].iloc[likely], c=p[likely],
            s=6 + 90 * np.sqrt(p[likely]), cmap=HEAT, norm=LogNorm(LEAST, 1), linewidth=0, **look,
        )  # fmt: skip
        here = sites.iloc[true]
        axes.plot(
            here["longitude_deg"], here["latitude_deg"], "o", color=PALETTE[0], markersize=13, fillstyle="none",
            markeredgewidth=2, **look,
        )  # fmt: skip
        bits = abs(float((p[p > 0] * np.log2(p[p > 0])).sum()))
        axes.set_title(f"{drawn(name)}: {bits:.1f} bits left, {100 * p[true]:.3g} % on the truth")
        best = sites["name"].iloc[int(p.argmax())]
        told.append(
            f"from {name}, {bits:.1f} of {np.log2(len(p)):.1f} bits remain, the likeliest site is {best} with "
            f"{100 * p.max():.3g} %, and the true one, {here['name']}, has {100 * p[true]:.3g} %"
        )
        figure.colorbar(shades, ax=axes, pad=0.01, aspect=16).set_label("probability")
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=11.5)
    return figure, f"World maps of the exact posterior over {len(sites)} sites: " + "; ".join(told) + "."


@styled
def information_bars(rows: pd.DataFrame, title: str | None = None) -> Drawn:
    """Bits about the place, a bar with its interval per line of `rows` (label, value, low, high)."""
    missing = {"label", "value", "low", "high"} - set(rows.columns)
    if missing:
        raise PlotError(f"rows has no column {min(missing)!r}")
    figure = new_figure(0.9 + 0.4 * len(rows))
    axes = figure.subplots()
    told = []
    for at, row in enumerate(rows.to_dict("records")):
        axes.barh(at, row["value"], color=PALETTE[at % len(PALETTE)], alpha=0.75, height=0.62)
        axes.plot([row["low"], row["high"]], [at, at], color=INK, linewidth=2.2, solid_capstyle="butt")
        axes.annotate(
            f"{row['value']:.2f}", (1.01, at), xycoords=("axes fraction", "data"), va="center", fontsize=9.5, color=INK
        )
        told.append(f"{row['label']} {row['value']:.2f} ({row['low']:.2f} to {row['high']:.2f})")
    axes.set_yticks(range(len(rows)), [drawn(label) for label in rows["label"]])
    axes.set(ylim=(len(rows) - 0.5, -0.5), xlabel="bits about the place")
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    if title:
        axes.set_title(title)
    return figure, "Information in bits: " + "; ".join(told) + "."
