"""Figures of the book and the report: each function returns `(figure, alt)`, the alt text from the data.

Colours are safe for colour-blind readers, maps are equal-area, and nothing is downloaded.
"""

from __future__ import annotations

from avgeo.plots.atoms import comparison_curves
from avgeo.plots.clips import activation_map, atom_atlas, contact_sheet, spectrogram
from avgeo.plots.curation import gate_counts, taken_and_short
from avgeo.plots.curves import accuracy_curve, interval_plot, learning_curves, reliability, solver_errors
from avgeo.plots.maps import credible_levels, density_map, world_map
from avgeo.plots.reason import reward_ends
from avgeo.plots.style import PlotError, place_text, png
from avgeo.plots.world import clock_tables, information_bars, site_posteriors

__all__ = [
    "PlotError",
    "accuracy_curve",
    "activation_map",
    "atom_atlas",
    "clock_tables",
    "comparison_curves",
    "contact_sheet",
    "credible_levels",
    "density_map",
    "gate_counts",
    "information_bars",
    "interval_plot",
    "learning_curves",
    "place_text",
    "png",
    "reliability",
    "reward_ends",
    "site_posteriors",
    "solver_errors",
    "spectrogram",
    "taken_and_short",
    "world_map",
]
