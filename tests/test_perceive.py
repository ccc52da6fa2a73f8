"""Perception: patches, the autoencoder's exact reductions, its scores, names and events."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from scipy.stats import mannwhitneyu

from avgeo.perceive import (
    SAMPLE_RATE_HZ,
    AtomModel,
    Features,
    SaeConfig,
    SparseAutoencoder,
    auroc_error,
    auroc_matrix,
    consistency_loss,
    encode_clips,
    fraction_unexplained,
    log_mel,
    match_sources,
    mix_waveforms,
    name_atoms,
    patch_seconds,
    score_atoms,
    source_activity,
    train_sae,
)
from avgeo.perceive.encoders import patches
from avgeo.profiles import AtomSettings

SETTINGS = AtomSettings()
TINY = replace(SETTINGS, atoms=32, active=4, epochs=20, batch=128, learning_rate=1e-2)


def tone(frequency_hz: float, seconds: float = 2.0) -> torch.Tensor:
    time = torch.arange(int(seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    return torch.sin(2 * torch.pi * frequency_hz * time)


def planted(count: int = 3000, atoms: int = 24, dim: int = 40, seed: int = 123) -> tuple[torch.Tensor, np.ndarray]:
    """Sparse non-negative mixtures of known directions: (x, which are active)."""
    draw = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(atoms, dim, generator=draw), dim=-1)
    active = torch.rand(count, atoms, generator=draw) < 3 / atoms
    strength = (1 + torch.rand(count, atoms, generator=draw)) * active
    return strength @ directions + 0.01 * torch.randn(count, dim, generator=draw), active.numpy()


@pytest.mark.parametrize("frequency_hz", [200.0, 1000.0, 4000.0])
def test_a_tone_lights_its_mel_band(frequency_hz):
    spectrogram = log_mel(tone(frequency_hz), SETTINGS)
    mel = 2595 * np.log10(1 + np.array([50.0, frequency_hz, 8000.0]) / 700)
    expected = (mel[1] - mel[0]) / (mel[2] - mel[0]) * (SETTINGS.mels + 1) - 1
    assert abs(int(spectrogram.mean(0).argmax()) - expected) <= 1.5
    assert float(spectrogram.min()) >= 0


def test_loudness_does_not_matter_and_silence_stays_silent():
    sound = tone(700) * 0.3 + 0.01 * torch.randn(2 * SAMPLE_RATE_HZ, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(log_mel(sound, SETTINGS), log_mel(0.1 * sound, SETTINGS), atol=1e-3)
    assert float(log_mel(torch.zeros(SAMPLE_RATE_HZ), SETTINGS).max()) == 0


@given(st.integers(1, 3 * SAMPLE_RATE_HZ))
def test_patches_of_any_length(samples):
    got = patches(torch.ones(samples), SETTINGS)
    assert got.shape[-1] == SETTINGS.patch_frames * SETTINGS.mels
    assert 1 <= len(got) <= samples / SAMPLE_RATE_HZ / patch_seconds(SETTINGS) + 1


def test_one_stage_and_one_expert_is_topk():
    model = SparseAutoencoder(SaeConfig(20, 50, stages=1, experts=1, active=5), seed=1)
    torch.nn.init.normal_(model.offsets, std=0.1)
    x = torch.randn(30, 20, generator=torch.Generator().manual_seed(0))
    scores = ((x - model.bias) @ model.experts[0].T + model.offsets[0]).detach()
    kept = torch.zeros_like(scores)
    for row in range(len(x)):  # the definition, spelt out
        for atom in sorted(range(50), key=lambda a, row=row: -float(scores[row, a]))[:5]:
            kept[row, atom] = max(float(scores[row, atom]), 0.0)
    assert torch.allclose(model.encode(x), kept, atol=1e-6)
    assert torch.allclose(model.decode(kept), kept @ model.dictionary + model.bias, atol=1e-6)


def test_k_tied_stages_are_matching_pursuit():
    config = SaeConfig(20, 50, stages=6, experts=1, active=6, tied=True, offsets=False)
    model = SparseAutoencoder(config, seed=1)
    x = torch.randn(30, 20, generator=torch.Generator().manual_seed(0))
    for row in range(len(x)):
        residual, code = x[row].clone(), torch.zeros(50)
        for _ in range(6):
            correlation = model.dictionary @ residual
            best = int(correlation.argmax())
            gain = max(correlation[best].item(), 0.0)
            code[best] += gain
            residual = residual - gain * model.dictionary[best]
        assert torch.allclose(model.encode(x[row : row + 1])[0], code.detach(), atol=1e-5)
        assert torch.allclose(model(x[row : row + 1]).residuals[-1][0], residual.detach(), atol=1e-5)


@given(st.integers(1, 4), st.integers(1, 3), st.integers(4, 9))
def test_code_is_sparse_non_negative_and_explains_what_it_says(stages, experts, active):
    model = SparseAutoencoder(SaeConfig(12, 30, stages=stages, experts=experts, active=active), seed=0)
    assert sum(model.config.split()) == active
    x = torch.randn(17, 12, generator=torch.Generator().manual_seed(stages))
    out = model(x)
    assert bool((out.codes >= 0).all()) and int((out.codes > 0).sum(-1).max()) <= active
    assert torch.allclose(x - model.decode(out.codes), out.residuals[-1], atol=1e-5)
    assert len(out.residuals) == stages


@pytest.mark.parametrize("wrong", [{"stages": 9}, {"active": 99}, {"tied": True, "experts": 2}])
def test_impossible_shapes_are_refused(wrong):
    with pytest.raises(ValueError, match=r"stages|expert"):
        SaeConfig(**({"dim": 8, "atoms": 16, "active": 4} | wrong))


def test_training_recovers_planted_atoms_repeats_and_round_trips(tmp_path):
    x, active = planted()
    model, _ = train_sae(x, TINY, seed=0)
    matched = match_sources(model.encode(x).detach().numpy(), active)
    untrained = SparseAutoencoder(model.config, seed=0)
    chance = match_sources(untrained.encode(x).detach().numpy(), active)
    assert matched["correlation"].mean() > 0.75 > chance["correlation"].mean() + 0.15
    assert fraction_unexplained(model, x) < 0.25 < fraction_unexplained(untrained, x)
    _, again = train_sae(x, replace(TINY, epochs=2), seed=0)
    _, same = train_sae(x, replace(TINY, epochs=2), seed=0)
    pd.testing.assert_frame_equal(again, same)
    assert float((model.dictionary.norm(dim=-1) - 1).abs().max()) < 1e-5
    model.save_pretrained(tmp_path)
    assert torch.equal(SparseAutoencoder.from_pretrained(tmp_path).encode(x), model.encode(x))


def test_mixture_consistency_is_zero_exactly_when_a_mixture_holds_its_parts():
    audio = torch.stack([tone(300), tone(3000)])
    mixtures = mix_waveforms(audio, 4, SETTINGS, seed=0)
    model = SparseAutoencoder(SaeConfig(mixtures.both.shape[-1], 16, active=4), seed=0)
    model.fit_scaling(mixtures.both)
    every = torch.arange(len(mixtures.both))
    same = replace(mixtures, second=mixtures.first, both=mixtures.first)
    assert float(consistency_loss(model, same, every)) == 0
    assert float(consistency_loss(model, mixtures, every)) > 0


def test_auroc_against_scipy():
    rng = np.random.default_rng(0)
    scores = np.round(rng.random((60, 4)), 1)  # with ties
    labels = rng.random((60, 3)) < 0.4
    labels[:, 2] = True
    area = auroc_matrix(scores, labels)
    for atom in range(4):
        for source in range(2):
            on, off = scores[labels[:, source], atom], scores[~labels[:, source], atom]
            assert area[atom, source] == pytest.approx(mannwhitneyu(on, off).statistic / (len(on) * len(off)))
    assert np.isnan(area[:, 2]).all()


def test_match_is_the_best_assignment_of_correlations():
    rng = np.random.default_rng(1)
    labels = rng.random((200, 5)) < 0.3
    strength = np.maximum(labels[:, [3, 1, 4, 0, 2]] + 0.2 * rng.normal(size=(200, 5)), 0)
    strength = np.concatenate([strength, rng.random((200, 3))], axis=1)
    found = match_sources(strength, labels)
    assert dict(zip(found["source"], found["atom"], strict=True)) == {3: 0, 1: 1, 4: 2, 0: 3, 2: 4}
    full = np.corrcoef(labels.T.astype(float), strength.T)[:5, 5:]
    rows, columns = linear_sum_assignment(-full)
    assert found["correlation"].sum() == pytest.approx(full[rows, columns].sum())


def test_source_activity_counts_patches_that_are_mostly_covered():
    truth = pd.DataFrame(
        {
            "clip_id": ["a", "a", "b", "elsewhere"],
            "modality": ["audible", "audible", "visible", "audible"],
            "source": ["rain:light", "siren:wail", "sun:high", "frog:x"],
            "onset_s": [0.0, 0.24, 0.0, 0.0],
            "offset_s": [0.32, 0.50, 1.0, 1.0],
        }
    )
    names, active = source_activity(truth, ["a", "b"], 4, 0.16)
    assert names == ["frog:x", "rain:light", "siren:wail"]
    assert active[0, :, 1].tolist() == [True, True, False, False]
    assert active[0, :, 2].tolist() == [False, True, True, False]
    assert not active[1].any()


def model_of(codes: np.ndarray, labels: np.ndarray, threshold: float = 0.75) -> AtomModel:
    table = name_atoms(codes, labels, ["surf:surf", "siren:two_tone"], threshold)
    sae = SparseAutoencoder(SaeConfig(4, codes.shape[-1], active=2), seed=0)
    return AtomModel(sae, table, SETTINGS)


def test_names_come_from_held_out_agreement_or_not_at_all(tmp_path):
    rng = np.random.default_rng(0)
    labels = rng.random((200, 2)) < 0.3
    noise = rng.random((200, 10)) < 0.1
    codes = np.stack([np.repeat(2.0 * labels[:, [1]], 10, 1), np.repeat(0.5 * labels[:, [0]], 10, 1), noise], axis=-1)
    model = model_of(codes.astype(np.float32), labels)
    assert [model.name(atom) for atom in range(3)] == ["siren two tone", "surf", "atom 2"]
    assert model.table["auroc"].iloc[0] == 1
    model.save(tmp_path)
    assert AtomModel.load(tmp_path, SETTINGS).name(2) == "atom 2"
    few = np.zeros((200, 2), dtype=bool)
    few[0] = True  # one clip proves nothing, however well it is predicted
    alone = np.zeros((200, 10, 3), dtype=np.float32)
    alone[0] = 1
    assert model_of(alone, few).name(0) == "atom 0"


def test_auroc_error_covers_the_truth():
    rng = np.random.default_rng(0)
    true_area, positives, negatives = 0.76025, 15, 60  # two unit normals one apart: Phi(1 / sqrt 2)
    labels = np.arange(positives + negatives)[:, None] < positives
    inside = 0
    for _ in range(400):
        area = auroc_matrix(rng.normal(size=labels.shape) + labels, labels)
        error = auroc_error(area, labels.sum(0), (~labels).sum(0))
        inside += abs(float(area) - true_area) < 1.96 * float(error)
    assert 0.93 < inside / 400 <= 1


def test_events_are_the_runs_of_an_atom_and_heard_is_relative_to_the_typical():
    labels = np.repeat([[True, False], [False, False]], 50, axis=0)
    codes = np.zeros((100, 5, 3), dtype=np.float32)
    codes[:50, [0, 1, 3], 1] = [1.0, 3.0, 2.0]
    model = model_of(codes, labels)
    events = model.events(codes[0])
    assert [(e.index, round(e.start_s, 2), round(e.end_s, 2), e.strength) for e in events] == [
        (1, 0, 0.32, 3),
        (1, 0.48, 0.64, 2),
    ]
    assert model.heard(codes[0]) == [("surf", pytest.approx(1.0))]
    assert model.events(codes[99]) == [] and model.heard(codes[99]) == []
    vector = model.sound_vector(codes)
    assert vector.shape == (100, 6) and vector[0, 1] > 0 and not vector[99].any()


def test_features_round_trip_and_clips_encode_in_batches(tmp_path):
    rng = np.random.default_rng(0)
    features = Features(
        ["a", "b", "c"],
        rng.random((3, 5, 8)).astype(np.float16),
        rng.integers(0, 255, (3, 2, 6, 8, 3), dtype=np.uint8),
    )
    features.save(tmp_path)
    loaded = Features.load(tmp_path)
    assert loaded.clip_id == features.clip_id and np.array_equal(loaded.patches, features.patches)
    assert np.array_equal(loaded.frames, features.frames)
    sae = SparseAutoencoder(SaeConfig(8, 12, active=3), seed=0)
    assert np.allclose(
        encode_clips(sae, loaded.patches, batch=1), encode_clips(sae, loaded.patches, batch=64), atol=1e-6
    )


def test_scores_with_intervals_agree_with_their_definitions():
    x, active = planted(1200)
    model = SparseAutoencoder(SaeConfig(40, 32, active=4), seed=0)
    model.fit_scaling(x)
    clips = x.reshape(60, 20, 40).numpy()
    labels = active.reshape(60, 20, 24)
    half = (clips[:30], labels[:30]), (clips[30:], labels[30:])
    places = [f"place {number // 3}" for number in range(30)]
    found = score_atoms(model, *half, places, bootstrap=200).set_index("metric")
    test = x[600:]
    codes = model.encode(test).detach().numpy()
    assert found.loc["FVU", "value"] == pytest.approx(fraction_unexplained(model, test), rel=1e-4)
    assert found.loc["L0", "value"] == pytest.approx((codes > 0).sum(1).mean())
    pairs = match_sources(model.encode(x[:600]).detach().numpy(), active[:600])
    expected = [
        np.corrcoef(codes[:, a], active[600:, s])[0, 1] for s, a in zip(pairs["source"], pairs["atom"], strict=True)
    ]
    assert found.loc["MCC", "value"] == pytest.approx(np.mean(expected), rel=1e-4)
    for metric in ("FVU", "L0", "MCC", "F1"):
        assert found.loc[metric, "low"] <= found.loc[metric, "value"] <= found.loc[metric, "high"]
    assert found.loc["MCC", "low"] < found.loc["MCC", "high"]
    assert 0 <= found.loc["dead atoms", "value"] <= 1
