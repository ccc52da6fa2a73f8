"""What was heard in a file, drawn: its atoms on its spectrogram, each where it lies in time and frequency."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from avgeo.clips import read_audio
from avgeo.perceive import SAMPLE_RATE_HZ, Atom, AtomModel
from avgeo.perceive.encoders import band_hz
from avgeo.plots.clips import atoms_heard
from avgeo.plots.style import Drawn


def draw_heard(path: Path, atoms: Sequence[Atom], model: AtomModel, *, max_s: float | None = None) -> Drawn:
    """The file's spectrogram with these of its atoms (see `avgeo.locate.hear`), as (figure, alt text)."""
    bands = {index: atom_band_hz(model, index) for index in {atom.index for atom in atoms}}
    rows = [atom.as_dict() | dict(zip(("low_hz", "high_hz"), bands[atom.index], strict=True)) for atom in atoms]
    return atoms_heard(read_audio(path, SAMPLE_RATE_HZ, max_s), SAMPLE_RATE_HZ, rows, title=path.name)


@torch.no_grad()
def atom_band_hz(model: AtomModel, atom: int) -> tuple[float, float]:
    """Between which frequencies lies the middle half of what an atom adds to a decoded patch."""
    codes = torch.zeros(2, len(model.table))
    codes[1, atom] = 1.0
    without, with_atom = model.sae.decode(codes)
    return band_hz(with_atom - without, model.settings)
