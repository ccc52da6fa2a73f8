"""Perception: patches, the autoencoder's exact reductions, its scores, names and events."""

from __future__ import annotations

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
    Listener,
    SaeConfig,
    SparseAutoencoder,
    auroc_error,
    auroc_matrix,
    log_mel,
    match_sources,
    name_atoms,
    patch_seconds,
    source_activity,
)
from avgeo.perceive.encoders import patches
from avgeo.profiles import AtomSettings

SETTINGS = AtomSettings()


def tone(frequency_hz: float, seconds: float = 2.0) -> torch.Tensor:
    time = torch.arange(int(seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    return torch.sin(2 * torch.pi * frequency_hz * time)


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
    return AtomModel(Listener(sae), table, SETTINGS)


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
