"""Atoms of a file drawn on its spectrogram, and the band of frequencies where an atom lies."""

from __future__ import annotations

from pathlib import Path

import matplotlib.patches
import numpy as np
import pytest
import soundfiles
import torch
from tiny import tiny

from avgeo.hearing import atom_band_hz, draw_heard
from avgeo.locate import LocateModel, hear
from avgeo.perceive.encoders import band_hz, patches
from avgeo.plots.clips import atoms_heard
from avgeo.plots.style import PlotError
from avgeo.profiles import AtomSettings

RATE = 16_000
SETTINGS = AtomSettings()


@pytest.mark.parametrize("frequency_hz", [250.0, 1000.0, 4000.0])
def test_the_band_of_a_tone_is_where_the_tone_is(frequency_hz):
    audio = 0.3 * torch.sin(2 * torch.pi * frequency_hz * torch.arange(RATE) / RATE)
    low, high = band_hz(patches(audio, SETTINGS)[2], SETTINGS)
    assert low <= frequency_hz * 1.1 and high >= frequency_hz / 1.1 and high / low < 1.5


def test_the_band_of_nothing_is_all_there_is():
    low, high = band_hz(-torch.ones(SETTINGS.mels * SETTINGS.patch_frames), SETTINGS)
    assert low < 100 and high > 7000


def event(name: str, start_s: float, end_s: float, strength: float, **more: float) -> dict[str, object]:
    return {"name": name, "start_s": start_s, "end_s": end_s, "strength": strength, **more}


def test_atoms_are_drawn_strongest_first_and_said_in_words():
    audio = np.random.default_rng(0).normal(0, 0.1, 2 * RATE)
    found = [
        event("rain", 0.0, 2.0, 3.0, low_hz=500.0, high_hz=4000.0),
        event("atom 17", 0.5, 0.7, 9.0, low_hz=1000.0, high_hz=2000.0),
        event("rain", 0.0, 0.2, 1.0, low_hz=500.0, high_hz=4000.0),
    ]
    figure, alt = atoms_heard(audio, RATE, found, title="a.wav")
    sound, lanes = figure.axes[:2]
    assert [label.get_text() for label in lanes.get_yticklabels()] == ["atom 17", "rain"]
    boxes = [patch for patch in sound.patches if isinstance(patch, matplotlib.patches.Rectangle)]
    assert [(box.get_x(), round(box.get_width(), 6)) for box in boxes] == [(0.5, 0.2), (0.0, 2.0)]
    assert boxes[0].get_height() < boxes[1].get_height()
    assert "atom 17 0.5–0.7 s (9), rain 0.0–2.0 s (3)." in alt
    many = [event(f"atom {n}", 0.0, 1.0, 1.0 + n) for n in range(14)]
    figure, alt = atoms_heard(audio, RATE, many, limit=10)
    assert "and 4 more not drawn" in alt and len(figure.axes[1].get_yticklabels()) == 10 and not figure.axes[0].patches
    assert "no atom fires" in atoms_heard(audio, RATE, [])[1]
    with pytest.raises(PlotError, match="name, start_s, end_s and strength"):
        atoms_heard(audio, RATE, [{"name": "x"}])


def test_a_file_with_its_atoms(tmp_path: Path):
    model = LocateModel.load(tiny().model)
    audio = np.random.default_rng(0).normal(0, 0.1, 2 * RATE).astype(np.float32)
    path = soundfiles.write(tmp_path / "noise.wav", audio, RATE)
    found = hear(path, model)
    figure, alt = draw_heard(path, found, model.atoms)
    assert alt.startswith("Log-mel spectrogram of 2.0 s") and figure.axes[0].patches
    assert figure.axes[0].get_title(loc="left") == "noise.wav"
    for atom in {atom.index for atom in found}:
        low, high = atom_band_hz(model.atoms, atom)
        assert 0 < low <= high < 8000
    short = hear(path, model, max_s=0.5)
    assert "of 0.5 s" in draw_heard(path, short, model.atoms, max_s=0.5)[1]
