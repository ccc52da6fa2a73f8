"""Recalibration: the exact temperature of von Mises-Fisher laws, coverage on new places, and honest intervals."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from avgeo.evaluate import coverage
from avgeo.flow.cells import PosteriorError, refine
from avgeo.flow.posterior import scatter
from avgeo.flow.recalibration import HeldOut, Recalibration, fit_recalibration, recalibration_intervals
from avgeo.flow.regions import credible_regions
from avgeo.sphere import (
    SPHERE_AREA,
    normalize,
    sample_uniform,
    sample_vmf,
    uniform_log_density,
    vmf_log_prob,
)

CENTRE = normalize(torch.tensor([-1.0, 0.01, 0.5]).double())


def clips_of(true_kappa: float, stated_kappa: float, count: int, seed: int, astray: float = 0.0) -> HeldOut:
    """Clips whose places follow vMF(true_kappa) about what a model states as vMF(stated_kappa); some led astray.

    All about one centre, because only log densities are passed on, and two hundred sets of points serve all clips.
    """
    draw = torch.Generator().manual_seed(seed)
    truth = sample_vmf(CENTRE.expand(count, 3), true_kappa, draw)
    lost = torch.rand(count, generator=draw) < astray
    truth = torch.where(lost[:, None], sample_uniform(count, draw).double(), truth)
    samples = sample_vmf(CENTRE.expand(200, 150, 3), stated_kappa, draw)
    points = scatter(samples, vmf_log_prob(samples, CENTRE, stated_kappa), even=150, halo=150, seed=seed)
    log_prob = vmf_log_prob(points.points, CENTRE, stated_kappa)
    rows = torch.arange(count) % 200
    return HeldOut(vmf_log_prob(truth, CENTRE, stated_kappa), log_prob[rows], points.areas(log_prob)[rows])


def covered(held_out: HeldOut, fitted: Recalibration) -> np.ndarray:
    found = coverage(held_out.levels(fitted).numpy(), range(len(held_out.truth_log_prob)), levels=(0.5, 0.9, 0.95))
    return found["observed"].to_numpy()


CASES = [
    # true, stated, astray: too sure, right, too unsure, very sharp, and led astray one time in ten
    (50.0, 200.0, 0.0),
    (50.0, 50.0, 0.0),
    (200.0, 50.0, 0.0),
    (1e5, 1e6, 0.0),
    (50.0, 200.0, 0.1),
    (1e3, 1e3, 0.1),
]


@pytest.mark.parametrize(
    ("true_kappa", "stated_kappa", "astray", "objective"),
    [(*case, "log_score") for case in CASES] + [(*case, "coverage") for case in CASES[:1] + CASES[-1:]],
)
def test_coverage_is_restored_on_new_places(true_kappa, stated_kappa, astray, objective):
    # vMF(κ)^(1/T) is vMF(κ/T): the right temperature is stated/true exactly
    fitted = fit_recalibration(
        clips_of(true_kappa, stated_kappa, 4000, 0, astray), objective
    )  # so that fitting errs by half a point
    assert fitted.temperature == pytest.approx(stated_kappa / true_kappa, rel=0.06)
    assert fitted.floor == pytest.approx(astray, abs=0.025)
    new = clips_of(true_kappa, stated_kappa, 6000, 1, astray)
    assert np.abs(covered(new, fitted) - (0.5, 0.9, 0.95)).max() < 0.02
    if stated_kappa != true_kappa or astray:
        assert np.abs(covered(new, Recalibration()) - (0.5, 0.9, 0.95)).max() > 0.04
        assert float(new.scores(fitted).mean()) > float(new.scores(Recalibration()).mean()) + 0.2


def test_without_a_floor_a_few_strays_ruin_the_temperature():
    strays = clips_of(1e3, 1e3, 1000, 0, astray=0.1)
    assert fit_recalibration(strays, floor=False).temperature > 10
    assert fit_recalibration(strays).temperature == pytest.approx(1, abs=0.1)


def test_best_temperature_is_where_expected_and_true_log_densities_agree():
    held_out = clips_of(50.0, 200.0, 500, 3)
    fitted = fit_recalibration(held_out, floor=False)
    mass = torch.softmax(held_out.log_prob / fitted.temperature + held_out.area.log(), -1)
    expected = (mass * held_out.log_prob).sum(-1).mean()
    assert float(held_out.truth_log_prob.mean()) == pytest.approx(float(expected), abs=2e-3)
    for other in (0.97, 1.03):  # and by brute force it is the best
        worse = held_out.scores(Recalibration(fitted.temperature * other)).mean()
        assert float(worse) < float(held_out.scores(fitted).mean())


@pytest.mark.parametrize("temperature", [0.5, 1.0, 8.0])
def test_recalibrated_cells_are_the_flatter_law_and_integrate_to_one(temperature):
    mean = normalize(torch.tensor([-1.0, 1e-3, 0.4]).double())
    found = refine(lambda points: vmf_log_prob(points, mean, 400.0))
    tempered = Recalibration(temperature).apply(found)
    expected = vmf_log_prob(found.cells.points, mean, 400.0 / temperature)
    near = expected > expected.max() - 6
    assert float((tempered.log_prob - expected)[near].abs().max()) < 2e-3 * max(1, temperature)
    assert tempered.total == pytest.approx(1, abs=1e-12)
    mixed = Recalibration(temperature, 0.3).apply(found)
    assert mixed.total == pytest.approx(1, abs=1e-9)
    assert float(mixed.log_prob.min()) >= math.log(0.3) + uniform_log_density() - 1e-12
    assert torch.equal(mixed.log_prob.argsort(stable=True)[-50:], found.log_prob.argsort(stable=True)[-50:])
    whole = {r.mass: r.area_km2 for r in credible_regions(tempered.log_prob, found.cells.area, (0.5,))}
    assert whole[0.5] == pytest.approx(math.log(2) * temperature / 400 * 2 * math.pi * 6371.0088**2, rel=0.05)


def test_no_recalibration_is_none():
    found = refine(lambda points: vmf_log_prob(points, normalize(torch.ones(3).double()), 20.0))
    same = Recalibration().apply(found)
    assert float((same.log_prob - found.log_prob).abs().max()) < 1e-3  # but for the integral, which becomes 1
    assert Recalibration(2.0, 0.1).as_dict() == {"temperature": 2.0, "floor": 0.1}


def test_levels_are_those_of_the_recalibrated_density():
    held_out = clips_of(50.0, 200.0, 300, 5)
    fitted = Recalibration(3.0, 0.2)
    log_prob = fitted.log_prob(held_out.log_prob, held_out.log_prob, held_out.area)
    mass = log_prob.exp() * held_out.area
    truth = held_out.scores(fitted)[:, None]
    above = torch.where(log_prob > truth, mass, 0.0).sum(-1) / mass.sum(-1)
    assert float((held_out.levels(fitted) - above).abs().max()) < 0.02  # the two integrate the floor over one grid


def test_padding_with_nothing_changes_nothing():
    held_out = clips_of(50.0, 200.0, 300, 5)
    padded = HeldOut(
        held_out.truth_log_prob,
        torch.nn.functional.pad(held_out.log_prob, (0, 7), value=-math.inf),
        torch.nn.functional.pad(held_out.area, (0, 7), value=1e-3),
    )
    one, two = (fit_recalibration(item, floor=False) for item in (held_out, padded))
    assert one.temperature == pytest.approx(two.temperature, rel=1e-6)


def test_intervals_by_place_hold_the_truth_and_are_not_fooled_by_copies():
    held_out = clips_of(50.0, 200.0, 250, 2)
    place_id = np.arange(250)
    found = recalibration_intervals(held_out, place_id, floor=False, bootstrap=100)
    low, high = found["temperature"]
    assert low < 4 < high and high - low == pytest.approx(2 * 1.96 * 4 / math.sqrt(250), rel=0.35)
    assert found["floor"] == (0, 0)
    thrice = HeldOut(*(getattr(held_out, name).repeat_interleave(3, 0) for name in vars(held_out)))
    copies = recalibration_intervals(thrice, place_id.repeat(3), floor=False, bootstrap=100)
    assert copies["temperature"] == pytest.approx((low, high), rel=1e-3)
    assert recalibration_intervals(held_out, place_id, floor=False, bootstrap=100) == found


def test_a_useless_density_gives_way_to_the_floor():
    nonsense = clips_of(1e3, 1e3, 500, 0, astray=1.0)
    fitted = fit_recalibration(nonsense)
    assert float(nonsense.scores(fitted).mean()) == pytest.approx(uniform_log_density(), abs=0.02)
    assert np.abs(covered(clips_of(1e3, 1e3, 4000, 1, astray=1.0), fitted) - (0.5, 0.9, 0.95)).max() < 0.03


def test_bad_input_is_named():
    held_out = clips_of(50.0, 50.0, 10, 0)
    for bad in ({"temperature": 0.0}, {"temperature": math.nan}, {"floor": 1.0}, {"floor": -0.1}):
        with pytest.raises(PosteriorError, match="temperature must be positive and floor"):
            Recalibration(**bad)
    with pytest.raises(PosteriorError, match="truth_log_prob is -inf"):
        replace(held_out, truth_log_prob=torch.full((10,), -math.inf))
    with pytest.raises(PosteriorError, match="one row per clip"):
        replace(held_out, truth_log_prob=torch.zeros(9))
    with pytest.raises(PosteriorError, match="latter two alike"):
        replace(held_out, area=torch.ones(10, 3))
    with pytest.raises(PosteriorError, match="∫ p dA"):
        replace(held_out, area=torch.full_like(held_out.area, SPHERE_AREA))
    with pytest.raises(PosteriorError, match="objective must be"):
        fit_recalibration(held_out, "accuracy")
    for weights in (np.ones(9), -np.ones(10), np.zeros(10)):
        with pytest.raises(PosteriorError, match="weights must be 10"):
            fit_recalibration(held_out, weights=weights)
    with pytest.raises(PosteriorError, match="one place"):
        recalibration_intervals(held_out, ["here"] * 10)
    with pytest.raises(PosteriorError, match="place_id has 9"):
        recalibration_intervals(held_out, range(9))
