"""Fusion: a product that does not know the order of its clues, and an explanation that is its parts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from avgeo.detect import EarthGrid, Event
from avgeo.detect.hum import mains_likelihood
from avgeo.flow import Cells
from avgeo.flow.cells import even_cells, refine
from avgeo.fusion import Clue, FusionError, contradictions, estimated, fuse, weigh_group
from avgeo.sphere import distance_km, from_degrees

GRID = EarthGrid(even_cells(400))


def near(latitude_deg: float, longitude_deg: float, km: float, group: str = "", score: float | None = None) -> Clue:
    """A clue that holds within some distance of a place, wrong one time in a hundred."""
    place = from_degrees(torch.tensor(float(latitude_deg)), torch.tensor(float(longitude_deg))).double()
    apart = distance_km(torch.from_numpy(GRID.points), place).numpy()
    label = f"near {latitude_deg:g}, {longitude_deg:g}"
    return Clue(Event("test", label, score), np.log(0.01 + np.exp(-((apart / km) ** 2))), group or label)


def clues() -> st.SearchStrategy[list[Clue]]:
    one = st.builds(
        near, st.floats(-89, 89), st.floats(-179, 179), st.floats(500, 9000), st.sampled_from(["", "a", "b"]),
        st.none() | st.floats(0, 1),
    )  # fmt: skip
    return st.lists(one, min_size=2, max_size=6)


@settings(max_examples=30)
@given(clues(), st.randoms())
def test_the_order_of_clues_does_not_matter_bit_for_bit(given_clues, random):
    mixed = list(given_clues)
    random.shuffle(mixed)
    one, other = fuse(GRID, given_clues), fuse(GRID, mixed)
    assert torch.equal(one.density.log_prob, other.density.log_prob) and torch.equal(one.estimate, other.estimate)
    told = {id(clue): weight for clue, weight in zip(other.clues, other.weights, strict=True)}
    assert [told[id(clue)] for clue in one.clues] == one.weights


@settings(max_examples=20)
@given(clues(), clues())
def test_what_is_taken_away_leaves_no_trace(kept, added):
    before = fuse(GRID, kept)
    assert not torch.equal(fuse(GRID, [*added, *kept]).density.log_prob, before.density.log_prob)
    with_all = fuse(GRID, [*added, *kept])
    again = fuse(GRID, [clue for clue in with_all.clues if not any(clue is one for one in added)])
    assert torch.equal(again.density.log_prob, before.density.log_prob)


@settings(max_examples=20)
@given(clues())
def test_a_weight_is_the_map_with_the_clue_less_the_map_without(given_clues):
    found = fuse(GRID, given_clues)
    here = int((GRID.points @ found.estimate.numpy()).argmax())
    for number, weight in enumerate(found.weights):
        without = fuse(GRID, given_clues[:number] + given_clues[number + 1 :])
        bits = float(found.density.log_prob[here] - without.density.log_prob[here]) / math.log(2)
        assert weight.bits == pytest.approx(bits, abs=1e-9)
        assert weight.shift_km == pytest.approx(float(distance_km(found.estimate, without.estimate)), abs=1e-3)


def test_clues_of_their_own_groups_multiply_with_the_prior_and_integrate_to_one():
    prior = np.random.default_rng(0).normal(size=len(GRID))
    one, other = near(40, 20, 3000), near(35, 40, 2000)
    found = fuse(GRID, [one, other], prior)
    by_hand = np.exp(prior + one.log_likelihood + other.log_likelihood)
    by_hand /= (by_hand * np.exp(GRID.log_area)).sum()
    np.testing.assert_allclose(found.density.log_prob.exp().numpy(), by_hand, rtol=1e-9)
    assert found.density.total == pytest.approx(1)


def test_repeats_count_more_than_one_and_less_than_independent_clues():
    alone = fuse(GRID, [near(40, 20, 3000, "birds")])
    repeated = fuse(GRID, [near(40, 20, 3000, "birds") for _ in range(4)])
    independent = fuse(GRID, [near(40, 20, 3000, f"birds {number}") for number in range(4)])
    top = [float(found.density.log_prob.max()) for found in (alone, repeated, independent)]
    assert top[0] < top[1] <= top[2]


def test_a_clue_that_says_nothing_has_no_bits_and_moves_nothing():
    flat = Clue(Event("speech", "someone speaks"), np.zeros(len(GRID)), "speech")
    found = fuse(GRID, [near(10, 10, 2000), flat])
    assert (found.weights[1].bits, found.weights[1].shift_km) == (0, 0)
    assert weigh_group(found, "speech") == found.weights[1]


def test_a_group_weighs_what_all_its_clues_do():
    birds = [near(-30, 140, 2000, "birds", 0.9), near(-35, 145, 2000, "birds", 0.5)]
    found = fuse(GRID, birds)
    together = weigh_group(found, "birds")
    assert together.bits > max(weight.bits for weight in found.weights) > 0
    assert together.shift_km == pytest.approx(float(distance_km(found.estimate, fuse(GRID, []).estimate)), abs=1e-3)


def test_contradictions_are_pairs_that_no_place_explains():
    mains = [Clue(Event("hint", f"mains={hz}"), mains_likelihood(hz, 0.02, GRID), f"mains {hz}") for hz in (50, 60)]
    paris, lima, berlin = near(48.9, 2.4, 500), near(-12, -77, 500), near(52.5, 13.4, 1500)
    assert contradictions(fuse(GRID, [paris, berlin])) == []
    found = contradictions(fuse(GRID, [paris, berlin, lima]))
    assert {frozenset((one.event.label, other.event.label)) for one, other, _ in found} == {
        frozenset((lima.event.label, europe.event.label)) for europe in (paris, berlin)
    }
    assert [bits for *_, bits in found] == sorted(bits for *_, bits in found)
    on_land = np.where(GRID.land, 0.0, -20.0)
    ((one, other, _),) = contradictions(fuse(GRID, [paris, mains[1], mains[0]], on_land))
    assert (one, other) == (paris, mains[1])  # not 50 with 60 Hz: Japan has both


def test_clues_of_one_group_do_not_contradict_each_other():
    assert contradictions(fuse(GRID, [near(48.9, 2.4, 500, "birds"), near(-12, -77, 500, "birds")])) == []


@pytest.mark.parametrize("wrong", [-math.inf, math.nan])
def test_a_likelihood_that_rules_a_place_out_is_refused(wrong):
    values = np.zeros(len(GRID))
    values[3] = wrong
    with pytest.raises(FusionError, match=r"'here' must be \d+ finite numbers.*false alarms"):
        fuse(GRID, [Clue(Event("test", "here"), values, "g")])
    with pytest.raises(FusionError, match="log_prior"):
        fuse(GRID, [], values)


def test_the_estimate_is_where_the_mass_is():
    found = fuse(GRID, [near(48.9, 2.4, 500)])
    place = from_degrees(torch.tensor(48.9), torch.tensor(2.4)).double()
    assert float(distance_km(found.estimate, place)) < 1200  # a cell is 1,130 km across
    two = fuse(GRID, [near(0, 20, 800, "g"), near(0, 150, 800, "g", 0.9)])
    ends = [from_degrees(torch.tensor(0.0), torch.tensor(at)).double() for at in (20.0, 150.0)]
    assert min(float(distance_km(two.estimate, end)) for end in ends) < 1200  # not between them
    lone = np.full(len(GRID), -1000.0)
    lone[7] = 0.0
    torch.testing.assert_close(estimated(GRID, lone), torch.from_numpy(GRID.points[7]))


def test_a_models_own_cells_serve_as_well():
    peak = from_degrees(torch.tensor(10.0), torch.tensor(20.0)).double()
    density = refine(lambda points: 50 * (points @ peak - 1) + math.log(50 / (2 * math.pi)), count=100)
    grid = EarthGrid(Cells(density.cells.bounds))
    same = fuse(grid, [], density.log_prob.numpy())
    assert float(distance_km(same.estimate, peak)) < 100
    torch.testing.assert_close(same.density.log_prob, density.log_prob, atol=1e-2, rtol=0)
