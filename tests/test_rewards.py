"""Rewards: range, sign, monotonicity; the proper reward's gradient against brute force; attempts to cheat."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from avgeo.reason import prompts, rewards
from avgeo.reason.prompts import question

latitudes, longitudes = st.floats(-90, 90), st.floats(-180, 180)
places = st.tuples(latitudes, longitudes)
junk = st.sampled_from(["", "<think></think>", "0, 0", "<think></think><answer>{}</answer>"])

COLUMNS = {
    "country": "Kenya",
    "region": "Eastern Africa",
    "heard": ["surf", "rain"],
    "seen": ["sun high"],
    "clip_id": "c",
}
PARTS = ("format", "hierarchy", "distance", "groundedness", "proper")
WORST = {"format": 0.0, "hierarchy": 0.0, "distance": 0.0, "groundedness": -1.0, "proper": -2.0}


def say(latitude_deg, longitude_deg, country="Kenya", region="Eastern Africa", heard="surf", seen="sun high"):
    body = {"country": country, "region": region, "latitude": latitude_deg, "longitude": longitude_deg}
    return f"<think>heard: {heard}\nseen: {seen}</think><answer>{json.dumps(body)}</answer>"


def reward(part, completions, truth=(-1.3, 36.8), **changed):
    columns = {name: [value] * len(completions) for name, value in (COLUMNS | changed).items()}
    latitude_deg, longitude_deg = ([value] * len(completions) for value in truth)
    return getattr(rewards, f"{part}_reward")(completions, latitude_deg, longitude_deg, prompts=None, **columns)


def chord(a, b):
    """The chordal distance by the haversine formula: an oracle that shares no code with the rewards."""
    (lat1, lon1), (lat2, lon2) = np.deg2rad(a), np.deg2rad(b)
    half = np.sin((lat2 - lat1) / 2) ** 2 + np.cos(lat1) * np.cos(lat2) * np.sin((lon2 - lon1) / 2) ** 2
    return 2 * math.sqrt(half)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.one_of(places.map(lambda at: say(*at)), junk), min_size=3, max_size=8), places)
def test_ranges(completions, truth):
    size = len(completions)
    bounds = {part: (0, 1) for part in PARTS} | {
        "groundedness": (-1, 1),
        "proper": (-2, 2 * (size - 1) / (size - 2)),
    }
    for part, (low, high) in bounds.items():
        got = reward(part, completions, truth)
        assert len(got) == size and all(type(value) is float for value in got)
        assert all(low - 1e-9 <= value <= high + 1e-9 for value in got)


@settings(deadline=None, max_examples=50)
@given(st.lists(places, min_size=3, max_size=6))
def test_chat_messages_and_strings_earn_the_same(answers):
    texts = [say(*at) for at in answers]
    chats = [[{"role": "assistant", "content": text}] for text in texts]
    for part in PARTS:
        assert reward(part, texts) == reward(part, chats)


@settings(deadline=None, max_examples=50)
@given(places, places, places)
def test_distance_falls_with_distance(truth, a, b):
    near, far = sorted((a, b), key=lambda at: chord(at, truth))
    got = reward("distance", [say(*near), say(*far), say(*truth)], truth)
    assert got[0] >= got[1] - 1e-9
    assert got[2] == pytest.approx(1.0)
    km = 2 * 6371.0088 * math.asin(min(1.0, chord(near, truth) / 2))
    assert got[0] == pytest.approx(math.exp(-km / rewards.TAU_KM), abs=1e-6)


def test_distance_scale():
    near, far = (rewards.distance_reward([say(0.0, 1.0)], [0.0], [0.0], tau_km=tau) for tau in (100.0, 1000.0))
    assert near[0] < far[0]
    with pytest.raises(ValueError, match="tau_km"):
        rewards.distance_reward([say(0.0, 1.0)], [0.0], [0.0], tau_km=0.0)


def test_hierarchy_counts_region_and_country():
    told = [
        say(0.0, 0.0),
        say(0.0, 0.0, country="Uganda"),
        say(0.0, 0.0, country="Peru", region="South America"),
        "",
    ]
    assert reward("hierarchy", told) == [1.0, 0.5, 0.0, 0.0]
    assert reward("hierarchy", [say(0.0, 0.0, country=" kenya", region="eastern africa ")]) == [1.0]


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 4), st.integers(1, 4))
def test_an_invention_always_costs(true_cues, inventions):
    atoms = [f"cue {index}" for index in range(4)]
    invented = [f"made up {index}" for index in range(inventions)]
    said = [
        say(0.0, 0.0, heard="; ".join(atoms[:true_cues] + invented[:count]), seen="none")
        for count in range(inventions + 1)
    ]
    got = reward("groundedness", said, heard=atoms)
    assert all(more < less for less, more in itertools.pairwise(got)) or true_cues == 0
    assert got[-1] < got[0]


def test_groundedness_judges_sound_and_sight():
    said = [
        say(0.0, 0.0, heard="surf; rain", seen="sun high"),
        say(0.0, 0.0, heard="surf; surf; surf; whale", seen="none"),  # repeating a true cue buys nothing
        say(0.0, 0.0, heard="none", seen="none"),
        say(0.0, 0.0, heard="Surf", seen="palm"),
        say(0.0, 0.0, heard="sun high", seen="surf"),  # the right words by the wrong sense
        "nothing",
    ]
    assert reward("groundedness", said) == [1.0, 0.0, 0.0, 0.0, -1.0, -1.0]
    blind = rewards.groundedness_reward(said[3:4], [0.0], [0.0], heard=[["surf"]])
    assert blind == [1.0]  # sights are not judged where none are given


def test_groundedness_reads_every_cue_once(monkeypatch):
    """Counted, not timed: cues and atoms are each spelled once, so that both may be many."""
    monkeypatch.setattr(prompts, "MAX_CHARACTERS", 10**7)
    read = []
    monkeypatch.setattr(rewards, "same_cue", lambda label: (read.append(label), prompts.same_cue(label))[1])
    cited, atoms = [f"cue {index}" for index in range(4000)], [f"cue {index}" for index in range(2000)]
    got = reward("groundedness", [say(0.0, 0.0, heard=";".join(cited), seen="none")], heard=atoms)
    assert got == [0.0]
    assert len(read) == len(cited) + len(atoms) + len(COLUMNS["seen"])


@settings(deadline=None, max_examples=50)
@given(st.lists(places, min_size=3, max_size=6), places)
def test_the_proper_reward_is_its_formula(answers, truth):
    size = len(answers)
    want = [-chord(x, truth) + sum(chord(x, other) for other in answers) / (size - 2) for x in answers]
    np.testing.assert_allclose(reward("proper", [say(*at) for at in answers], truth), want, atol=1e-7)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.one_of(places, st.none()), min_size=3, max_size=6))
def test_diversity_is_the_mean_chord_to_the_others(answers):
    texts = ["no answer" if at is None else say(*at) for at in answers]
    got = rewards.diversity(texts, [0.0] * len(texts), [0.0] * len(texts), clip_id=["c"] * len(texts))
    valid = [at for at in answers if at is not None]
    want = [
        0.0 if at is None or len(valid) < 2 else sum(chord(at, x) for x in valid) / (len(valid) - 1) for at in answers
    ]
    np.testing.assert_allclose(got, want, atol=1e-7)


def test_groups_are_by_clip_in_any_order():
    answers, truths = [(0.0, 0.0), (10.0, 5.0), (-40.0, 100.0)], [(1.0, 2.0), (50.0, -80.0)]
    apart = [reward("proper", [say(*at) for at in answers], truth) for truth in truths]
    pairs = list(itertools.product(range(3), range(2)))  # interleaved
    mixed = rewards.proper_reward(
        [say(*answers[i]) for i, _ in pairs],
        [truths[k][0] for _, k in pairs], [truths[k][1] for _, k in pairs],
        clip_id=[f"clip {k}" for _, k in pairs],
    )  # fmt: skip
    np.testing.assert_allclose(mixed, [apart[k][i] for i, k in pairs], atol=1e-12)
    with pytest.raises(ValueError, match="clip_id"):
        reward("proper", [say(0.0, 0.0)] * 2)


# --- the derivation in proper_reward's docstring, by enumerating every group a small policy can draw

OUTCOMES = [say(0.0, 0.0), say(10.0, 60.0), say(-45.0, 170.0), "no answer"]
TRUTHS = [((0.0, 0.0), 0.6), ((10.0, 60.0), 0.3), ((-45.0, 170.0), 0.1)]


def energy_score(p, truths):
    """E c(X, y) - E k(X, X')/2 from the definition; the last outcome is invalid."""
    at = [(0.0, 0.0), (10.0, 60.0), (-45.0, 170.0)]
    cost = torch.tensor([sum(weight * chord(x, y) for y, weight in truths) for x in at] + [2.0], dtype=p.dtype)
    kernel = torch.zeros(4, 4, dtype=p.dtype)
    kernel[:3, :3] = torch.tensor([[chord(a, b) for b in at] for a in at])
    return p @ cost - p @ kernel @ p / 2


def expected_update(p, size, divide_by_std=False):
    """E[(1/G) sum_i (r_i - mean r) ∇_logits log p(x_i)], exactly, with the product's own reward function."""
    total = np.zeros(len(p))
    for truth, weight in TRUTHS:
        for group in itertools.product(range(len(p)), repeat=size):
            r = np.array(reward("proper", [OUTCOMES[x] for x in group], truth))
            advantage = r - r.mean()
            if divide_by_std:
                advantage = advantage / (r.std(ddof=1) + 1e-4)
            update = sum(a * (np.eye(len(p))[x] - p) for a, x in zip(advantage, group, strict=True)) / size
            total += weight * math.prod(p[list(group)]) * update
    return total


@pytest.mark.parametrize("size", [3, 4])
def test_grpos_expected_update_is_minus_the_energy_scores_gradient(size):
    logits = torch.tensor([0.3, -0.2, 0.1, -0.5], dtype=torch.float64, requires_grad=True)
    p = torch.softmax(logits, 0)
    (gradient,) = torch.autograd.grad(energy_score(p, TRUTHS), logits)
    np.testing.assert_allclose(
        expected_update(p.detach().numpy(), size), -(size - 1) / size * gradient.numpy(), atol=1e-7
    )  # the oracle's haversine is good to 1e-8


def test_the_update_vanishes_at_the_truth_and_dividing_by_the_deviation_breaks_that():
    p = np.array([weight for _, weight in TRUTHS] + [0.0])
    np.testing.assert_allclose(expected_update(p, 3), 0, atol=1e-7)
    assert np.abs(expected_update(p, 4, divide_by_std=True)).max() > 0.01


@pytest.mark.parametrize("invalid", [0.1, 0.5, 0.9])
def test_saying_nothing_never_pays(invalid):
    rng = np.random.default_rng(0)
    for valid in rng.dirichlet(np.ones(3), size=20):
        p = torch.tensor([*(1 - invalid) * valid, invalid], requires_grad=True)
        (slope,) = torch.autograd.grad(energy_score(p, TRUTHS), p)
        toward_silence = slope[3] - (slope[:3] * torch.tensor(valid)).sum()
        assert toward_silence > 0


# --- cheating

CHEATS = {
    "empty": "",
    "white space": " \n\t",
    "prompt echo": question([("surf", 1.0), ("rain", 0.5)]),
    "two answers": say(-1.3, 36.8) + say(-60.0, 100.0),
    "answer list": "<think></think><answer>[" + ", ".join(['{"latitude": -1.3, "longitude": 36.8}'] * 9) + "]</answer>",
    "two countries": say(-1.3, 36.8).replace('"country": "Kenya"', '"country": "Kenya", "country": "Peru"'),
    "pole beyond the pole": say(-91.3, 36.8),
    "another turn round": say(-1.3, 36.8 + 360),
    "not a number": say(math.nan, 36.8),
    "answer without thought": say(-1.3, 36.8).partition("</think>")[2],
    "thought after answer": say(-1.3, 36.8) + "<think>or not</think>",
    "flattery": "You are so clever. " + say(-1.3, 36.8),
}


@pytest.mark.parametrize("cheat", CHEATS)
def test_cheats_earn_the_worst(cheat):
    group = [CHEATS[cheat], say(0.0, 0.0), say(30.0, 30.0)]
    for part in PARTS:
        assert reward(part, group)[0] == WORST[part]


def test_invalid_answers_stay_out_of_the_spread():
    alone = reward("proper", [say(-1.3, 36.8), "", ""])
    assert alone == pytest.approx([0.0, -2.0, -2.0])


def test_columns_must_match_the_completions():
    for part in PARTS:
        with pytest.raises(ValueError, match="latitude_deg"):
            getattr(rewards, f"{part}_reward")(
                [say(0.0, 0.0)] * 3, [0.0], [0.0] * 3, **{k: [v] * 3 for k, v in COLUMNS.items()}
            )


def test_no_completions_no_rewards():
    for part in PARTS:
        assert reward(part, []) == []
