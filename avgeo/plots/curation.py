"""Figures of a curation: which places were taken and which fell short, and at which gates items were refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from avgeo.plots.maps import world_axes
from avgeo.plots.style import FAINT, INK, MARKERS, PALETTE, Drawn, PlotError, drawn, new_figure, readable, styled

_STATES = {"surplus": (FAINT, "x", 20), "short": (PALETTE[1], MARKERS[4], 45), "taken": (PALETTE[0], MARKERS[0], 36)}
"""Colour, marker and size of a place's state, in the order of drawing."""


@styled
def taken_and_short(places: pd.DataFrame, title: str | None = None) -> Drawn:
    """A world map of the places that a curation found: taken, short of the clips wanted, or surplus.

    `places` has latitude_deg, longitude_deg, found, taken (clips), state and continent, as `avgeo.curate` writes into
    places.parquet. Raises `PlotError` for other columns or states.
    """
    import cartopy.crs as ccrs

    wanted = ("latitude_deg", "longitude_deg", "found", "taken", "state", "continent")
    missing = [name for name in wanted if name not in places]
    if missing:
        raise PlotError(f"places has no column {missing[0]!r}; give the table places.parquet of a curated folder")
    odd = sorted(set(places["state"]) - set(_STATES))
    if odd:
        raise PlotError(f"places: state {odd[0]!r} is not one of {', '.join(_STATES)}")
    figure = new_figure(4.5)
    axes = world_axes(figure)
    counts = places["state"].value_counts()
    for state, (colour, marker, size) in _STATES.items():
        part = places[places["state"] == state]
        if len(part):
            look: dict[str, Any] = {} if marker == "x" else {"edgecolor": "white"}
            axes.scatter(
                part["longitude_deg"], part["latitude_deg"], s=size, color=colour, marker=marker, linewidth=0.5,
                transform=ccrs.PlateCarree(), zorder=4, label=f"{state} ({len(part):,})", **look,
            )  # fmt: skip
    if len(places):
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=len(_STATES), markerscale=1.4)
    if title:
        axes.set_title(title)
    told = ", ".join(f"{counts[state]:,} {state}" for state in reversed(_STATES) if state in counts)
    alt = f"World map of {len(places):,} place{'s' * (len(places) != 1)} found: {told or 'none'}"
    if len(places):
        alt += f"; {int(places['taken'].sum()):,} of {int(places['found'].sum()):,} clips are taken"
    in_use = places[places["taken"] > 0]
    by = in_use["continent"].fillna("unknown").value_counts().sort_index().sort_values(ascending=False, kind="stable")
    if len(by):
        alt += "; places taken by continent: " + ", ".join(f"{name} {count:,}" for name, count in by.items())
    return figure, alt + "."


@styled
def gate_counts(by_gate: Mapping[str, int], kept: int, title: str | None = None) -> Drawn:
    """How many items each gate refused, in the gates' order, and how many were kept: a bar each.

    The bars' lengths are on a square-root scale, so that a few items show beside many.
    """
    if kept < 0 or any(count < 0 for count in by_gate.values()):
        raise PlotError("by_gate, kept: counts must be 0 or more")
    rows = [*by_gate.items(), ("kept", kept)]
    total = sum(count for _, count in rows)
    figure = new_figure(0.9 + 0.3 * len(rows))
    axes = figure.subplots()
    for at, (name, count) in enumerate(rows):
        last = at == len(rows) - 1
        axes.barh(at, count, color=PALETTE[2] if last and name == "kept" else PALETTE[0], alpha=0.8, height=0.66)
        share = f"{count:,} ({100 * count / total:.1f} %)" if total else "0"
        axes.annotate(share, (count, at), xytext=(4, 0), textcoords="offset points", va="center", fontsize=9, color=INK)
    axes.set_xscale("function", functions=(lambda x: abs(x) ** 0.5, lambda x: x**2))
    axes.set_yticks(range(len(rows)), [drawn(name) for name, _ in rows])
    axes.set(ylim=(len(rows) - 0.5, -0.5), xlim=(0, 1.35 * max((count for _, count in rows), default=1) or 1))
    axes.set_xlabel("items (square-root scale)")
    if title:
        axes.set_title(title)
    told = ", ".join(f"{readable(name)} {count:,}" for name, count in by_gate.items()) or "none"
    return figure, f"Of {total:,} items {kept:,} were kept. Refused, by gate: {told}."
