"""Mixture recovery, sparse probes and the share of a geolocation loss: against brute force and scikit-learn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from avgeo.perceive.encoders import patches
from avgeo.perceive.probes import (
    ProbeError,
    best_probe,
    constant_loss,
    fit_probe,
    loss_recovered,
    pool,
    sparse_accuracy,
    sparse_probes,
    tell_apart,
)
from avgeo.perceive.recovery import (
    RecoveryError,
    Triples,
    mix_at,
    mixture_recovery,
    mixture_triples,
    recovery_curve,
    set_f1,
    sounding,
    strongest,
)
from avgeo.profiles import AtomSettings

RATE = 16_000
SETTINGS = AtomSettings()


def tone(hz: float, seconds: float = 1.0) -> torch.Tensor:
    return torch.sin(2 * torch.pi * hz * torch.arange(round(RATE * seconds)) / RATE)


def embed(audio: torch.Tensor) -> torch.Tensor:
    return patches(audio, SETTINGS)


# --- mixing ---


@given(st.floats(-20, 20), st.floats(1e-2, 10), st.floats(1e-2, 10))
def test_sounds_stand_at_their_snr_however_loud_they_were(snr_db, loud, louder):
    first, second = loud * tone(500), louder * tone(1500)
    mixed = mix_at(first, second, snr_db)
    parts = torch.linalg.lstsq(torch.stack([tone(500), tone(1500)], 1), mixed[:, None]).solution[:, 0]
    assert 20 * float(torch.log10(parts[0] / parts[1])) == pytest.approx(snr_db, abs=1e-2)


def test_a_sounds_level_is_that_of_where_it_sounds():
    bark = torch.cat([tone(500, 0.2), torch.zeros(round(0.8 * RATE))])
    steady = tone(500)
    mixed = mix_at(bark, tone(1500), 0.0)
    assert torch.allclose(mixed[:1600], mix_at(steady, tone(1500), 0.0)[:1600], rtol=1e-3, atol=1e-3)
    assert sounding(bark, 10).tolist() == [True] * 2 + [False] * 8
    assert not sounding(torch.zeros(1000), 10).any()
    assert sounding(bark * 1e-6, 10).sum() == 0  # below what the encoder hears


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (torch.zeros(RATE), "second is silent"),
        (torch.full((RATE,), torch.nan), "NaN"),
        (tone(500, 0.5), "cut them to one length"),
    ],
)
def test_what_cannot_be_mixed_says_so(wrong, says):
    with pytest.raises(RecoveryError, match=says):
        mix_at(tone(300), wrong, 0.0)


def test_triples_hold_the_patches_in_which_both_sound():
    half, silence = 3 * 0.16, torch.zeros(round(3 * 0.16 * RATE))
    early, late = torch.cat([tone(500, half), silence]), torch.cat([silence, tone(900, half)])
    one, other = tone(500, 2 * half), tone(900, 2 * half)
    found = mixture_triples([early, early, one], [other, late, other], 0.0, embed)
    whole = len(embed(one))
    assert found.together.sum(1).tolist() == [3, 0, whole]
    assert torch.allclose(found.both[2], embed(mix_at(one, other, 0.0)))
    assert torch.allclose(found.first[2], embed(one))
    with pytest.raises(RecoveryError, match="one length"):
        mixture_triples([one, tone(500, half)], [other, tone(900, half)], 0.0, embed)
    with pytest.raises(RecoveryError, match="no pair"):
        mixture_triples([early], [late], 0.0, embed)
    with pytest.raises(RecoveryError, match="one each"):
        mixture_triples([early], [], 0.0, embed)


# --- sets ---

CODES = hnp.arrays(np.float32, (6, 8), elements=st.sampled_from(np.float32([0, 0, 0, 0.5, 1, 2, 3])))


@settings(max_examples=40)
@given(CODES, CODES, CODES, st.integers(1, 8))
def test_recovery_is_what_pythons_sets_make_of_it(first, second, both, active):
    pair = np.array([0, 0, 1, 1, 1, 2])
    # pair 0 has its frames apart in time, with one between that is not scored
    together = torch.tensor([[1, 0, 1], [1, 1, 1], [0, 1, 0]], dtype=torch.bool)

    def in_time(part: np.ndarray) -> torch.Tensor:
        out = torch.full((3, 3, 8), 9.0)
        out[together] = torch.from_numpy(part)
        return out

    triples = Triples(*(in_time(part) for part in (first, second, both)), together)
    found = mixture_recovery(lambda x: x, triples, active, bootstrap=20).set_index("convention")

    def support(row: np.ndarray) -> set[int]:
        return {atom for atom in range(8) if row[atom] > 0}

    by_pair: dict[int, list[float]] = {0: [], 1: [], 2: []}
    held: dict[int, list[float]] = {0: [], 1: [], 2: []}
    for row in range(6):
        parts, mixed = support(first[row]) | support(second[row]), support(both[row])
        by_pair[pair[row]].append(2 * len(parts & mixed) / max(1, len(parts) + len(mixed)))
        held[pair[row]].append(len(support(first[row]) & mixed) / max(1, len(support(first[row]))))
    assert found.loc["support", "f1"] == pytest.approx(np.mean([np.mean(part) for part in by_pair.values()]), abs=1e-6)
    assert found.loc["support", "first"] == pytest.approx(np.mean([np.mean(part) for part in held.values()]), abs=1e-6)
    kept = strongest(torch.from_numpy(both), active).numpy()
    for row in range(6):
        chosen = {atom for atom in range(8) if kept[row, atom]}
        assert chosen <= support(both[row]) and len(chosen) == min(active, len(support(both[row])))
        rest = [both[row, atom] for atom in support(both[row]) - chosen]
        assert not rest or not chosen or max(rest) <= min(both[row, atom] for atom in chosen)
    assert np.allclose(found["recovery"], found["f1"] - found["chance"])
    assert (found["pairs"] == 3).all()


def disjoint(pairs: int, each: int) -> Triples:
    """Codes themselves: every pair has atoms of its own, `each` in either part, all of them in the mixture."""
    first, second = torch.zeros(2, pairs, pairs * 2 * each)
    for pair in range(pairs):
        at = pair * 2 * each
        first[pair, at : at + each] = 1
        second[pair, at + each : at + 2 * each] = 1
    return Triples.of_vectors(first, second, first + second)


def test_a_perfect_code_recovers_all_and_a_constant_one_nothing():
    triples = disjoint(20, 4)
    perfect = mixture_recovery(lambda x: x, triples, 8).set_index("convention")
    assert (perfect["f1"] == 1).all() and (perfect["chance"] == 0).all() and (perfect["low"] == 1).all()
    assert (perfect["kappa"] == 1).all()
    same = mixture_recovery(lambda x: torch.ones(*x.shape[:2], 30), triples, 8)
    assert (
        (same["kappa"] == 0).all()
        and (same["recovery"] == 0).all()
        and (same["low"] == 0).all()
        and (same["f1"] > 0).all()
    )


def test_a_code_of_k_atoms_cannot_hold_two_ks():
    triples = disjoint(20, 8)

    def topk(x: torch.Tensor) -> torch.Tensor:  # the 8 strongest, ties broken at random but in the same way
        jitter = torch.rand(x.shape[-1], generator=torch.Generator().manual_seed(0))
        return x * strongest(x + 1e-3 * jitter * (x > 0), 8)

    found = mixture_recovery(topk, triples, 8).set_index("convention")
    assert found.loc["support", "f1"] == pytest.approx(2 / 3)
    assert found.loc["strongest", "f1"] <= 1
    assert float(set_f1(torch.zeros(1, 3, dtype=torch.bool), torch.zeros(1, 3, dtype=torch.bool))) == 0


def test_the_interval_is_over_pairs_and_not_over_rows():
    rng = torch.Generator().manual_seed(0)
    few = Triples.of_vectors(*(torch.rand(30, 40, generator=rng).sub(0.7).clamp_min(0) for _ in range(3)))
    repeated = Triples(*(part.repeat_interleave(9, 1) for part in (few.first, few.second, few.both, few.together)))
    widths = []
    for triples in (few, repeated):
        found = mixture_recovery(lambda x: x, triples, 8).set_index("convention").loc["support"]
        widths.append(found["high"] - found["low"])
    assert widths[1] > 0.8 * widths[0]  # nine rows of one pair know no more than one
    with pytest.raises(RecoveryError, match="1 pair"):
        mixture_recovery(lambda x: x, replace(few, together=few.together & (torch.arange(30) == 3)[:, None]), 8)


def test_a_mixture_of_tones_holds_both_until_one_drowns():
    pitches = np.geomspace(300, 6000, 12)
    first, second = [tone(hz) for hz in pitches[::2]], [tone(hz) for hz in pitches[1::2]]
    triples = {snr_db: mixture_triples(first, second, snr_db, embed) for snr_db in (-40.0, 0.0, 40.0)}

    def bands(x: torch.Tensor) -> torch.Tensor:  # the log-mel bands themselves as atoms
        return (x.unflatten(-1, (SETTINGS.patch_frames, -1)).mean(-2) - 1.5).clamp_min(0)

    found = recovery_curve(bands, triples, 8)
    at = found[found["convention"] == "strongest"].set_index("snr_db")
    assert at.loc[0.0, "recovery"] > 0.6
    assert at.loc[0.0, "recovery"] > max(at.loc[40.0, "recovery"], at.loc[-40.0, "recovery"]) + 0.1
    assert at.loc[40.0, "first"] > at.loc[40.0, "second"] + 0.3
    assert at.loc[-40.0, "second"] > at.loc[-40.0, "first"] + 0.3


# --- probes ---


def test_the_probe_is_scikit_learns():
    linear = pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(0)
    x, label = rng.normal(3, 2, (120, 4)), rng.integers(0, 3, 120)
    x[:, 0] += 2 * label
    probe = fit_probe(x, label, 3, l2=0.05)
    standard = (x - x.mean(0)) / x.std(0)
    peer = linear.LogisticRegression(C=1 / (0.05 * 120), tol=1e-8).fit(standard, label)
    ours = np.exp(probe(x) - probe(x).max(1, keepdims=True))
    assert np.allclose(ours / ours.sum(1, keepdims=True), peer.predict_proba(standard), atol=5e-3)
    assert probe.loss(x, label).mean() < constant_loss(label, label, 3).mean() - 0.1


def test_a_probe_knows_nothing_of_a_class_or_a_feature_that_never_varies():
    rng = np.random.default_rng(0)
    x, label = rng.normal(size=(60, 3)), rng.integers(0, 2, 60)
    x[:, 2] = 7
    probe = fit_probe(x, label, 3, l2=0.01)  # class 2 is never seen
    odd = x.copy()
    odd[:, 2] = 1e9
    assert np.allclose(probe(x), probe(odd)) and np.isfinite(probe(x)).all()
    never = probe.loss(x, np.full(60, 2))
    assert (never > 3).all() and np.isfinite(never).all()


def clips(seed: int, count: int = 200, atoms: int = 30) -> tuple[np.ndarray, np.ndarray]:
    """One of four labels each; labels 0 to 2 have an atom of their own (5, 6, 7), label 3 has two weak ones (8, 9)."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 4, count)
    strength = rng.exponential(1.0, (count, atoms))
    for number in range(3):
        strength[:, 5 + number] = 5 * (label == number) + 0.1 * rng.random(count)
    strength[:, [8, 9]] += 1.5 * (label == 3)[:, None]
    return strength, label[:, None] == np.arange(4)


def test_sparse_probes_find_the_atoms_that_tell():
    train, test = clips(0), clips(1)
    assert tell_apart(train[0], train[1][:, 1]).argmax() == 6
    found = sparse_probes(train, test).set_index(["label", "k"])
    assert (found.loc[(slice(0, 2), 1), ["auroc", "f1"]] == 1).all().all()
    assert 0.6 < found.loc[(3, 1), "auroc"] < found.loc[(3, 2), "auroc"]
    accuracy = sparse_accuracy(train, test)
    assert accuracy[1] > 0.9 and set(accuracy) == {1, 2, 5, 16}
    chance = sparse_probes((train[0][:, 10:], train[1]), (test[0][:, 10:], test[1]))
    assert abs(chance["auroc"].mean() - 0.5) < 0.08


@given(st.lists(st.floats(0.01, 100), min_size=30, max_size=30), st.permutations(range(30)))
def test_ranking_ignores_units_and_order(gains, order):
    strength, labels = clips(0, 60)
    plain = tell_apart(strength, labels[:, 0])
    assert np.allclose(tell_apart(strength[:, order] * np.array(gains), labels[:, 0]), plain[list(order)])


def test_what_cannot_be_probed_says_so():
    train, test = clips(0), clips(1)
    with pytest.raises(ProbeError, match="both present and absent"):
        sparse_probes(train, (test[0], np.zeros_like(test[1])))
    with pytest.raises(ProbeError, match="one label a clip"):
        sparse_accuracy(train, (test[0], np.ones_like(test[1])))


def test_loss_recovered_is_one_for_the_same_and_zero_for_a_constant():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, 240)
    x = rng.normal(size=(240, 5)) + 2 * np.eye(3, 5)[label]
    part = [slice(0, 120), slice(120, 160), slice(160, 240)]
    places = [f"place {number // 4}" for number in range(80)]
    probe = best_probe([x[p] for p in part], [label[p] for p in part], 3)
    constant = constant_loss(label[part[0]], label[part[2]], 3)
    original = probe.loss(x[part[2]], label[part[2]])

    def recovered(replaced: np.ndarray) -> tuple[float, float, float]:
        found = loss_recovered(constant, original, replaced, places).set_index("metric").loc["recovered"]
        return found["value"], found["low"], found["high"]

    assert recovered(original) == (1, 1, 1) and recovered(constant) == (0, 0, 0)
    half = recovered((original + constant) / 2)
    assert np.allclose(half, 0.5)
    noisy = recovered(probe.loss(x[part[2]] + rng.normal(size=(80, 5)), label[part[2]]))
    assert noisy[1] < noisy[0] < noisy[2] and noisy[0] < 1
    nothing = loss_recovered(original, constant, original, places).set_index("metric")
    assert np.isnan(nothing.loc["recovered", "value"])  # the features are worse than a constant
    assert nothing.loc["replaced", "value"] == pytest.approx(original.mean())


def test_pooling_is_mean_and_deviation():
    frames = np.random.default_rng(0).normal(size=(3, 7, 2))
    assert np.allclose(pool(frames), np.concatenate([frames.mean(1), frames.std(1)], 1))
