"""`SphereFlow` as its users call it: one clip or many, exact or estimated, on a grid, on cells; and what it refuses."""

from __future__ import annotations

import math
from dataclasses import replace

import jaxtyping
import pytest
import torch

from avgeo.flow import (
    Condition,
    ConditionError,
    SphereFlow,
    fit_plain,
    fit_recalibration,
    hold_out,
    total_probability,
    train_flow,
)
from avgeo.flow.recalibration import Recalibration
from avgeo.profiles import FlowSettings
from avgeo.sphere import CoordinateError, fibonacci_grid, normalize, sample_uniform, sample_vmf

SETTINGS = FlowSettings(
    width=48, depth=2, condition=16, steps=150, batch=64, times_per_clip=4, jitter_kappa=100.0, dropout=0.0, noise=0.0
)
HERE, THERE = torch.tensor([1.0, 0, 0]), torch.tensor([0, 0.6, 0.8])


def clips(count: int) -> tuple[Condition, torch.Tensor]:
    """Sound tells which of two places, mostly; and where each clip was recorded."""
    draw = torch.Generator().manual_seed(0)
    kind = torch.randint(2, (count,), generator=draw)
    sound = torch.nn.functional.one_hot(kind, 2).float()
    nothing = torch.zeros(count, dtype=torch.bool)
    condition = Condition(sound, torch.zeros(count, 1), torch.zeros(count, 3), ~nothing, nothing, nothing)
    return condition, sample_vmf(torch.stack([HERE, THERE])[kind], 60.0, draw)


@pytest.fixture(scope="module")
def flow() -> SphereFlow:
    condition, places = clips(400)
    return train_flow(places, condition, SETTINGS, 0)[0]


def test_one_clip_for_all_points_is_that_clip_repeated(flow):
    condition, _ = clips(3)
    points = sample_uniform(50, torch.Generator().manual_seed(1))
    repeated = flow.log_prob(points, condition[torch.zeros(50, dtype=torch.long)])
    assert torch.allclose(flow.log_prob(points, condition[:1]), repeated, atol=1e-4)
    mixed = torch.tensor([2, 0, 1] * 10)
    together = flow.log_prob(points[:30], condition[mixed])
    alone = torch.cat(
        [flow.log_prob(points[row : row + 1], condition[mixed[row] : mixed[row] + 1]) for row in range(30)]
    )
    assert torch.allclose(together, alone, atol=1e-4)


def test_chunks_do_not_show(flow, monkeypatch):
    condition, _ = clips(7)
    points = sample_uniform(7, torch.Generator().manual_seed(1))
    whole = (
        flow.log_prob(points, condition),
        flow.sample(condition, 5),
        flow.log_prob(points, condition, hutchinson_seed=0),
    )
    monkeypatch.setattr("avgeo.flow.density._CHUNK", 3)
    parts = (
        flow.log_prob(points, condition),
        flow.sample(condition, 5),
        flow.log_prob(points, condition, hutchinson_seed=0),
    )
    for one, other in zip(whole, parts, strict=True):
        assert torch.allclose(one, other, atol=1e-4)


def test_hutchinson_has_the_exact_mean(flow):
    condition, _ = clips(1)
    points = sample_uniform(4, torch.Generator().manual_seed(2))
    exact = flow.log_prob(points, condition)
    draws = torch.stack([flow.log_prob(points, condition, hutchinson_seed=seed) for seed in range(64)]).double()
    error = draws.std(0) / 8
    assert bool((draws.std(0) > 0).all()) and bool(((draws.mean(0) - exact).abs() < 4 * error + 1e-3).all())


def test_the_grid_of_a_map_is_the_density(flow):
    condition, _ = clips(2)
    grid, found = flow.density_grid(condition, count=12_000)
    assert found.shape == (2, 12_000) and torch.equal(grid, fibonacci_grid(12_000))
    assert found.double().exp().mean(-1).tolist() == pytest.approx([1 / (4 * math.pi)] * 2, rel=1e-4)
    exact = flow.log_prob(grid, condition[:1])
    dense = exact > exact.max() - 4
    assert float((found[0] - exact)[dense].abs().mean()) < 0.1  # a mean over each cell


def test_cells_integrate_to_one_and_hold_what_samples_hold(flow):
    condition, _ = clips(2)
    samples = flow.sample(condition[:1], 2000)[0]
    cells = flow.cell_density(condition[:1], samples)
    assert cells.total == pytest.approx(1, abs=0.02)
    mass = torch.softmax(cells.log_prob + cells.cells.area.log(), 0)
    for centre in (HERE, THERE):
        near = float((samples @ centre > 0.9).float().mean())
        assert float(mass[cells.cells.points @ centre.double() > 0.9].sum()) == pytest.approx(near, abs=0.04)
    with pytest.raises(ValueError, match="condition has 2 clips: cells are of one"):
        flow.cell_density(condition, samples)


def test_held_out_clips_tell_how_wide_the_flow_should_have_been(flow):
    condition, places = clips(60)
    asked = hold_out(flow, places, condition, samples=40, even=60, halo=40)
    scores = asked.scores(Recalibration())
    assert torch.allclose(scores, flow.log_prob(places, condition).double(), atol=0.6)  # ∫ p from 140 points a clip
    scattered = sample_vmf(places, 10.0, torch.Generator().manual_seed(3))
    wider = fit_recalibration(hold_out(flow, scattered, condition, samples=40, even=60, halo=40), floor=False)
    assert wider.temperature > 1.3 * fit_recalibration(asked, floor=False).temperature


BAD = [
    ({"sound": torch.zeros(2, 3)}, r"condition.sound has shape \(2, 3\).* takes \(2, 2\)"),
    ({"sound": torch.full((2, 2), math.nan)}, "condition.sound holds NaN"),
    ({"sight": torch.full((2, 1), math.inf)}, "condition.sight holds NaN or infinity"),
    ({"has_proposal": torch.ones(2, dtype=torch.bool)}, "condition.proposal must be unit vectors"),
]


@pytest.mark.parametrize(("wrong", "message"), BAD)
def test_a_condition_that_does_not_fit_is_refused(flow, wrong, message):
    condition = replace(clips(2)[0], **wrong)
    asked = [
        lambda: flow.sample(condition, 2),
        lambda: flow.log_prob(sample_uniform(2), condition),
        lambda: flow.density_grid(condition, count=200),
    ]
    for ask in asked:
        with pytest.raises(ConditionError, match=message):
            ask()


def test_points_and_emptiness_are_refused(flow):
    condition, places = clips(2)
    with pytest.raises(ConditionError, match="no clips"):
        flow.sample(condition[:0], 3)
    with pytest.raises(CoordinateError, match="unit vectors"):
        flow.log_prob(2 * sample_uniform(2), condition)
    with pytest.raises(CoordinateError):
        flow.log_prob(torch.full((2, 3), math.nan), condition)
    with pytest.raises(CoordinateError, match="places"):
        train_flow(torch.zeros(2, 3), condition, SETTINGS, 0)
    with pytest.raises(CoordinateError, match="samples are no unit vectors"):
        flow.cell_density(condition[:1], 2 * places[:2])
    with pytest.raises(ValueError, match="steps must be at least 1"):
        flow.sample(condition, 2, steps=0)
    with pytest.raises(ValueError, match="count must be at least 10"):
        total_probability(flow, condition[:1], count=5)
    with pytest.raises(ValueError, match="guidance"):
        flow.sample(condition, 2, guidance=math.nan)
    almost = normalize(torch.tensor([[1.0, 1e-7, 0.0], [0.0, 0.0, -1.0]]))
    assert bool(torch.isfinite(flow.log_prob(almost, condition)).all())


def test_points_are_rows(flow, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # a user's Python checks no shapes by itself
    condition, places = clips(2)
    with pytest.raises(CoordinateError, match=r"points has shape \(3,\)"):
        flow.log_prob(HERE, condition[:1])
    with pytest.raises(CoordinateError, match=r"places has shape \(2, 1, 3\)"):
        train_flow(places[:2, None], condition, SETTINGS, 0)


def test_a_flow_may_start_from_kernels(tmp_path):
    condition, places = clips(40)
    draw = torch.Generator().manual_seed(0)
    base = fit_plain(places[:30].double(), places[30:].double())
    flow, _ = train_flow(places, condition, replace(SETTINGS, steps=3), 0, base)
    samples = flow.sample(condition[:2], 5)
    assert samples.dtype == torch.float32 and bool(torch.isfinite(flow.log_prob(samples[0], condition[:1])).all())
    flow.save_pretrained(tmp_path)
    again = SphereFlow.from_pretrained(tmp_path)
    points = sample_uniform(4, draw)
    assert torch.equal(again.log_prob(points, condition[:4]), flow.log_prob(points, condition[:4]))


def test_numpy_precision_is_taken():
    """float64, as NumPy and pandas give it, for places, points and conditions."""
    condition, places = clips(20)
    wide = replace(condition, **{name: getattr(condition, name).double() for name in ("sound", "sight", "proposal")})
    flow, _ = train_flow(places.double(), wide, replace(SETTINGS, steps=2), 0)
    again, _ = train_flow(places, condition, replace(SETTINGS, steps=2), 0)
    assert torch.equal(flow.log_prob(places.double(), wide), again.log_prob(places, condition))
