"""Figures: they draw with no network, their alt text says what the data say, odd data do not break them."""

from __future__ import annotations

import io
import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from avgeo import plots
from avgeo.evaluate import coverage
from avgeo.sphere import fibonacci_grid, from_degrees, sample_vmf, to_degrees, vmf_log_prob

GRID = fibonacci_grid(5000).double()
LATITUDE, LONGITUDE = (part.numpy() for part in to_degrees(GRID))


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """A figure that wants the network is a bug: maps come from vendored outlines."""

    def refuse(*args, **kwargs):
        raise AssertionError("a figure asked for the network")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("urllib.request.urlopen", refuse)


def pixels(figure) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(plots.png(figure, dpi=60))).convert("RGB"))


def hill(latitude: float, longitude: float, kappa: float) -> np.ndarray:
    mean = from_degrees(torch.tensor(latitude).double(), torch.tensor(longitude).double())
    return vmf_log_prob(GRID, mean, kappa).numpy()


def rows_table() -> pd.DataFrame:
    lines = []
    for row, value in (("constant", 5000.0), ("both $x^$", 400.0)):
        lines += [(row, f"accuracy_{r}km", r, r / 5000, r / 6000, r / 4000) for r in (25, 200, 2500)]
        lines += [(row, "median_km", math.nan, value, value * 0.9, value * 1.1)]
    return pd.DataFrame(lines, columns=["row", "metric", "radius_km", "value", "low", "high"])


def test_world_map_counts_its_groups():
    points = pd.DataFrame(
        {"latitude_deg": [10.0, 20, -30], "longitude_deg": [0.0, 179.9, -60], "split": ["a", "a", "b"]}
    )
    figure, alt = plots.world_map(points, "split", title="Three places")
    assert alt == "World map of 3 places by split: a 2, b 1; 67 % lie north of the equator."
    assert pixels(figure).std() > 5
    for few in (points.iloc[:1], points.iloc[:0]):
        figure, alt = plots.world_map(few)
        assert f"{len(few)} place" in alt
        pixels(figure)
    with pytest.raises(plots.PlotError, match="continent"):
        plots.world_map(points, "continent")


def test_density_map_paints_where_the_density_is():
    marks = {"estimate": (40.0, -100.0), "truth": (-33.9, 151.2)}
    figure, alt = plots.density_map(LATITUDE, LONGITUDE, hill(40, -100, 50.0), **marks)
    assert "estimate 40.0°N 100.0°W" in alt and "true place 33.9°S 151.2°E" in alt
    a, b = (np.radians(marks[name]) for name in ("estimate", "truth"))
    cosine = np.sin(a[0]) * np.sin(b[0]) + np.cos(a[0]) * np.cos(b[0]) * np.cos(a[1] - b[1])
    assert f"{6371.0088 * np.arccos(cosine):,.0f} km away" in alt
    hot = pixels(figure).astype(int)
    painted = (hot[..., 0] - hot[..., 2] > 60).mean()  # warm colours
    assert 0.005 < painted < 0.25


def test_density_map_of_the_uniform_law_draws_no_outline_and_says_so():
    figure, alt = plots.density_map(LATITUDE, LONGITUDE, np.full(5000, -2.531))
    assert "equal everywhere" in alt and "50 % region covers 255 million km²" in alt
    assert (pixels(figure).sum(-1) < 200).mean() < 0.05  # not covered by contour lines


def test_regular_and_scattered_grids_agree_on_areas():
    latitude, longitude = np.linspace(-89, 89, 90), np.linspace(-178, 178, 90)
    grid = from_degrees(*(torch.from_numpy(part) for part in np.meshgrid(latitude, longitude, indexing="ij")))
    mean = from_degrees(torch.tensor(70.0).double(), torch.tensor(30.0).double())
    regular = vmf_log_prob(grid, mean, 20.0).numpy()
    area = np.broadcast_to(np.cos(np.radians(latitude))[:, None], regular.shape)
    found = [share for _, share in plots.credible_levels(regular, area, (0.5, 0.9))]
    # vMF on S²: the cap of mass m has 1 - cos θ = -log(1 - m (1 - e^{-2κ})) / κ, half of which is its share
    exact = [-math.log(1 - mass) / 20 / 2 for mass in (0.5, 0.9)]
    assert found == pytest.approx(exact, rel=0.05)
    scattered = plots.credible_levels(hill(70, 30, 20.0), np.ones(5000), (0.5, 0.9))
    assert [share for _, share in scattered] == pytest.approx(exact, rel=0.05)


def test_a_gathered_density_gets_a_close_up():
    near, _ = plots.density_map(LATITUDE, LONGITUDE, hill(48, 2, 2000.0))
    far, _ = plots.density_map(LATITUDE, LONGITUDE, np.logaddexp(hill(48, 2, 2000.0), hill(-30, 20, 2000.0)))
    titles = [axes.get_title() for axes in near.axes]
    assert any("close-up" in title for title in titles)
    assert not any("close-up" in axes.get_title() for axes in far.axes)
    pixels(near)


def test_density_map_survives_the_date_line_a_pole_and_minus_infinity():
    for latitude, longitude in ((0.0, 180.0), (90.0, 0.0), (-90.0, 0.0)):
        values = hill(latitude, longitude, 300.0)
        values[values < -100] = -np.inf
        pixels(plots.density_map(LATITUDE, LONGITUDE, values, estimate=(latitude, longitude))[0])
    with pytest.raises(plots.PlotError, match="log_prob"):
        plots.density_map(LATITUDE, LONGITUDE, np.zeros(3))


def test_a_close_up_keeps_the_height_of_a_peak():
    """Interpolated from cells of 320 km, a hill 450 km wide is right to a tenth of a nat."""
    from avgeo.plots.maps import _cubic

    mean = from_degrees(torch.tensor(48.0).double(), torch.tensor(2.0).double())
    around = sample_vmf(mean.expand(500, 3), 200.0, torch.Generator().manual_seed(0))
    found = _cubic(GRID.numpy(), hill(48, 2, 200.0), around.numpy())
    assert np.abs(found - vmf_log_prob(around, mean, 200.0).numpy()).max() < 0.1


def test_a_missing_outline_is_named_and_nothing_is_fetched(monkeypatch, tmp_path):
    monkeypatch.setattr("avgeo.paths.data_dir", lambda: tmp_path)
    with pytest.raises(plots.PlotError, match="Natural Earth"):
        plots.density_map(LATITUDE, LONGITUDE, hill(0, 0, 5.0))


def test_spectrogram_finds_a_tone_and_lists_events():
    rate = 16_000
    time_s = np.arange(2 * rate) / rate
    tone = np.where(time_s > 1, np.sin(2 * np.pi * 2000 * time_s), 0)
    events = [
        {"name": "siren_wail", "start_s": 1.0, "end_s": 2.0},
        {"name": "$broken^", "start_s": 0, "end_s": 2},
    ]
    figure, alt = plots.spectrogram(tone, rate, events)
    loudest = float(alt.split("loudest near ")[1].split(" Hz")[0])
    assert loudest == pytest.approx(2000, rel=0.05)
    assert float(alt.split(" Hz at ")[1].split(" s")[0]) >= 0.9
    assert "siren wail 1.0–2.0 s" in alt
    pixels(figure)
    table = pd.DataFrame({"source": ["siren:wail"], "onset_s": [1.0], "offset_s": [2.0]})
    assert "siren: wail" in plots.spectrogram(tone, rate, table)[1]
    assert "silent" in plots.spectrogram(np.zeros(400), rate)[1]
    assert (
        "3 more not drawn"
        in plots.spectrogram(
            tone, rate, [{"name": str(at), "start_s": 0, "end_s": at + 1} for at in range(5)], limit=2
        )[1]
    )


@pytest.mark.parametrize("samples", [16, 17, 500, 44_100 * 61])
def test_spectrogram_takes_any_length(samples):
    figure, alt = plots.spectrogram(np.random.default_rng(0).normal(size=samples) / 9, 44_100)
    assert f"{samples / 44_100:.1f} s" in alt
    pixels(figure)


def test_bad_sound_and_events_are_named():
    for audio in (np.zeros(3), np.zeros((2, 100)), np.full(100, np.nan)):
        with pytest.raises(plots.PlotError, match="audio"):
            plots.spectrogram(audio, 16_000)
    with pytest.raises(plots.PlotError, match="onset_s"):
        plots.spectrogram(np.zeros(100), 16_000, [{"name": "x"}])


def test_activation_map_names_the_strongest_atoms_in_order():
    codes = np.zeros((50, 30))
    codes[10:20, 7], codes[5, 3] = 2.0, 1.5
    figure, alt = plots.activation_map(codes, 0.1, [f"atom {at}" for at in range(30)], top=5)
    assert "2 strongest of 2 active atoms: atom 7 (peak 2 at 1.0 s), atom 3 (peak 1.5 at 0.5 s)" in alt
    pixels(figure)
    pixels(plots.activation_map(np.zeros((5, 4)), 0.1)[0])
    with pytest.raises(plots.PlotError, match="names"):
        plots.activation_map(codes, 0.1, ["one"])


@given(count=st.integers(1, 30))
@settings(max_examples=5)
def test_atlas_draws_any_number_of_atoms(count):
    patches = np.random.default_rng(count).normal(size=(count, 16, 5))
    figure, alt = plots.atom_atlas(patches, [f"a {at}" for at in range(count)], hop_s=0.016)
    assert f"{min(count, 24)} of {count} dictionary atoms" in alt
    assert sum(axes.has_data() for axes in figure.axes) == min(count, 24)


def test_learning_curves_skip_gaps_and_say_where_they_end():
    history = [{"step": at, "loss": 4 / (at + 1), "reward": at if at % 10 == 0 else None} for at in range(200)]
    figure, alt = plots.learning_curves(history, ["loss", "reward"])
    assert "loss from 4 to 0.02" in alt and "reward from 0 to 190" in alt and "step 0 to 199" in alt
    pixels(figure)
    pixels(plots.learning_curves(history[:1], ["loss"])[0])
    with pytest.raises(plots.PlotError, match="entropy"):
        plots.learning_curves(history, ["entropy"])


def test_evaluation_figures_say_their_numbers():
    rows = rows_table()
    figure, alt = plots.accuracy_curve(rows)
    assert "constant 0 % within 25 km, 4 % within 200 km, 50 % within 2500 km" in alt
    pixels(figure)
    figure, alt = plots.interval_plot(rows)
    assert "constant 5000 (4500 to 5500)" in alt and "both $x^$ 400 (360 to 440)" in alt
    pixels(figure)
    _, alt = plots.interval_plot(rows, "accuracy_25km")  # not accuracy_2500km as well
    assert alt.count("constant") == 1
    pixels(plots.interval_plot(rows.assign(low=np.nan, high=np.nan))[0])
    with pytest.raises(plots.PlotError, match="log_score"):
        plots.interval_plot(rows, "log_score")
    with pytest.raises(plots.PlotError, match="evaluate_rows"):
        plots.accuracy_curve(pd.DataFrame({"a": [1]}))


def test_reliability_says_which_way_regions_err():
    rng = np.random.default_rng(0)
    for power, side in ((2.0, "too wide"), (0.5, "too narrow")):
        figure, alt = plots.reliability(coverage(rng.uniform(size=500) ** power, np.arange(500)))
        assert side in alt
    pixels(figure)


def test_contact_sheet_shows_every_frame():
    frames = np.zeros((7, 12, 16, 3), dtype=np.uint8)
    frames[3] = 255
    figure, alt = plots.contact_sheet(frames, [0.5 * at for at in range(7)])
    assert alt == "7 frames of 16 by 12 pixels from 0.0 to 3.0 s; mean brightness 0 to 100 %."
    assert sum(axes.has_data() for axes in figure.axes) == 7
    for wrong in (frames[:0], frames.astype(float), frames[0]):
        with pytest.raises(plots.PlotError, match="frames"):
            plots.contact_sheet(wrong)


def test_drawing_changes_no_global_style():
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    plots.contact_sheet(np.zeros((1, 4, 4, 3), dtype=np.uint8))
    assert dict(mpl.rcParams) == before


# --- AVG-Sim ---


def test_clock_tables_say_where_the_peak_is():
    table = np.zeros((12, 24))
    table[6, 21] = 0.5
    _, alt = plots.clock_tables({"here": table, "there": np.zeros((12, 24))})
    assert "here: at most 0.50 (month 7, hour 21)" in alt and "there: never" in alt
    with pytest.raises(plots.PlotError, match="12 months"):
        plots.clock_tables({"here": table.T})


def test_site_posteriors_count_their_bits():
    sites = pd.DataFrame({"name": list("abcd"), "latitude_deg": [0, 10, 20, 30], "longitude_deg": [0, 10, 20, 30]})
    figure, alt = plots.site_posteriors(sites, {"sound": np.full(4, 0.25), "both": np.array([0, 0, 1.0, 0])}, true=2)
    assert "from sound, 2.0 of 2.0 bits remain" in alt and "from both, 0.0 of 2.0 bits remain" in alt
    assert len([axes for axes in figure.axes if hasattr(axes, "projection")]) == 2
    with pytest.raises(plots.PlotError, match="sum to 1"):
        plots.site_posteriors(sites, {"sound": np.full(4, 0.3)}, true=0)


def test_information_bars_have_their_intervals_in_words():
    rows = pd.DataFrame({"label": ["I(L;A)", "I(L;V)"], "value": [2.0, 3.5], "low": [1.9, 3.4], "high": [2.1, 3.6]})
    _, alt = plots.information_bars(rows)
    assert "I(L;A) 2.00 (1.90 to 2.10)" in alt
    with pytest.raises(plots.PlotError, match="'high'"):
        plots.information_bars(rows.drop(columns="high"))


def test_solver_errors_draws_every_solver_in_every_panel():
    rows = pd.DataFrame(
        [
            (flow, solver, n, 100 / n**order)
            for flow in ("a", "b")
            for solver, order in (("first", 1), ("third", 3))
            for n in (8, 16)
        ],
        columns=["flow", "solver", "evaluations", "median_km"],
    )
    figure, alt = plots.solver_errors(rows, title="Solvers")
    assert len(figure.axes) == 2 and all(len(axes.lines) == 2 for axes in figure.axes)
    assert "b, third: 0.024 km at 16" in alt
    pixels(figure)
    with pytest.raises(plots.PlotError, match="median_km"):
        plots.solver_errors(rows.drop(columns="median_km"))
