"""Figures of a curation say what the tables say."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from avgeo import plots
from avgeo.plots.curation import gate_counts, taken_and_short


def pixels(figure) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(plots.png(figure, dpi=60))).convert("RGB"))


def places() -> pd.DataFrame:
    return pd.DataFrame(
        [
            (48.9, 2.4, 30, 20, "taken", "Europe"),
            (52.5, 13.4, 20, 20, "taken", "Europe"),
            (-1.3, 36.8, 7, 7, "short", "Africa"),
            (-40.0, -170.0, 2, 2, "short", None),
            (10.0, 10.0, 1, 0, "surplus", "Africa"),
        ],
        columns=["latitude_deg", "longitude_deg", "found", "taken", "state", "continent"],
    )


def test_the_map_counts_places_and_clips():
    figure, alt = taken_and_short(places(), title="Taken $and$ short")
    assert alt == (
        "World map of 5 places found: 2 taken, 2 short, 1 surplus; 49 of 60 clips are taken; places taken by "
        "continent: Europe 2, Africa 1, unknown 1."
    )
    (legend,) = [axes.get_legend() for axes in figure.axes]
    assert {text.get_text() for text in legend.get_texts()} == {"taken (2)", "short (2)", "surplus (1)"}
    assert pixels(figure).std() > 5


def test_the_map_draws_few_places_and_refuses_other_tables():
    for few in (places().iloc[4:], places().iloc[:0]):
        figure, alt = taken_and_short(few)
        assert f"{len(few)} place" in alt and pixels(figure).std() > 5
    with pytest.raises(plots.PlotError, match="state"):
        taken_and_short(places().drop(columns="state"))
    with pytest.raises(plots.PlotError, match="'lost' is not one of"):
        taken_and_short(places().assign(state="lost"))


def test_gates_are_bars_in_their_order():
    figure, alt = gate_counts({"media": 2, "silent": 1200}, kept=798, title="Gates")
    assert alt == "Of 2,000 items 798 were kept. Refused, by gate: media 2, silent 1,200."
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["media", "silent", "kept"]
    assert [bar.get_width() for bar in axes.patches] == [2, 1200, 798]
    assert pixels(figure).std() > 5
    figure, alt = gate_counts({}, kept=0)
    assert alt == "Of 0 items 0 were kept. Refused, by gate: none."
    pixels(figure)
    with pytest.raises(plots.PlotError, match="0 or more"):
        gate_counts({"media": -1}, kept=1)
