"""Atoms from a corpus: training on clips and mixtures of their waveforms, and names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from avgeo.clips import read_audio
from avgeo.perceive.atoms import AtomModel, encode_clips, name_atoms, reach
from avgeo.perceive.coder import SparseCoder
from avgeo.perceive.encoders import SAMPLE_RATE_HZ
from avgeo.perceive.persistence import Listener, calibrated
from avgeo.perceive.sae import SparseAutoencoder, topk_config
from avgeo.perceive.scores import Labelled, score_atoms
from avgeo.perceive.training import Mixtures, mix_waveforms, train_sae
from avgeo.profiles import AtomSettings

_CALIBRATED = 300


def waveform_mixtures(files: list[Path], settings: AtomSettings, seed: int) -> Mixtures:
    """Mixtures of these files' sounds, cut to the shortest."""
    sounds = [read_audio(file, SAMPLE_RATE_HZ) for file in files]
    shortest = min(map(len, sounds))
    audio = torch.from_numpy(np.stack([sound[:shortest] for sound in sounds]))
    return mix_waveforms(audio, settings.mixtures, settings, seed)


def vectors(patches: Float[np.ndarray, "clips time dim"]) -> Float[torch.Tensor, "count dim"]:
    """Patches of clips as one list of float32 vectors."""
    return torch.from_numpy(patches.astype(np.float32)).flatten(0, 1)


def fit_atoms(
    patches: Float[np.ndarray, "clips time dim"], files: list[Path], settings: AtomSettings, seed: int
) -> tuple[Listener, pd.DataFrame]:
    """The recipe trained on clips, hearing as many atoms at a time as the settings say; and its history.

    `files` are the clips' media; some are mixed in the air where the settings ask for mixture consistency.
    """
    mixtures = None
    if settings.consistency_weight:
        some = np.random.default_rng(seed).permutation(len(files))[: settings.mixtures]
        mixtures = waveform_mixtures([files[number] for number in some], settings, seed)
    coder, history = train_sae(vectors(patches), settings, seed, mixtures=mixtures)
    return listening(coder, patches, settings), history


def listening(coder: SparseCoder, patches: Float[np.ndarray, "clips time dim"], settings: AtomSettings) -> Listener:
    """A coder calibrated on these clips, or on some hundreds of them, evenly chosen."""
    some = patches[:: max(1, len(patches) // _CALIBRATED)]
    return calibrated(coder, torch.from_numpy(some.astype(np.float32)), reach(settings), settings.at_a_time)


def named(listener: Listener, held_out: Labelled, sources: list[str], settings: AtomSettings) -> AtomModel:
    """The trained autoencoder with names from held-out clips and what sounds in them."""
    codes = encode_clips(listener, held_out[0])
    table = name_atoms(codes, np.asarray(held_out[1].any(axis=1)), sources, settings.name_auroc)
    return AtomModel(listener, table, settings)


def compared(
    ours: Listener,
    patches: Float[np.ndarray, "clips time dim"],
    parts: tuple[Labelled, Labelled],
    place_id: list[str],
    settings: AtomSettings,
    *,
    bootstrap: int,
    seed: int,
) -> pd.DataFrame:
    """Scores of ours, of TopK with the same atoms at a time, of ours without persistence, and of no training at all.

    TopK is trained on `patches`; atoms are matched on the first of `parts` and scored on the second, whose clips come
    from `place_id`. Columns: metric, value, low, high, row.
    """
    dim, active = patches.shape[-1], settings.at_a_time
    x = vectors(patches)
    untrained = SparseAutoencoder(topk_config(dim, settings.atoms, active), seed)
    untrained.fit_scaling(x)
    topk, _ = train_sae(x, settings, seed, config=topk_config(dim, settings.atoms, active))
    models = {
        "ours": ours,
        "ours, no persistence": Listener(ours.coder),
        "TopK": Listener(topk),
        "untrained": Listener(untrained),
    }
    rows = [
        score_atoms(model, *parts, place_id, bootstrap=bootstrap, seed=seed).assign(row=name)
        for name, model in models.items()
    ]
    return pd.concat(rows, ignore_index=True)
