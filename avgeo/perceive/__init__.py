"""Perception: sound into acoustic atoms, sight into thumbnails."""

from avgeo.perceive.atoms import Atom, AtomModel, encode_clips, name_atoms, spoken
from avgeo.perceive.encoders import (
    SAMPLE_RATE_HZ,
    Embedded,
    Features,
    embed_clip,
    embed_corpus,
    log_mel,
    patch_seconds,
    sight_of,
    sound_of,
)
from avgeo.perceive.sae import SaeConfig, SparseAutoencoder
from avgeo.perceive.scores import (
    auroc_error,
    auroc_matrix,
    fraction_unexplained,
    match_sources,
    score_atoms,
    source_activity,
)
from avgeo.perceive.sight import SightModel, train_sights, visible_sources
from avgeo.perceive.training import Mixtures, consistency_loss, mix_waveforms, train_sae

__all__ = [
    "SAMPLE_RATE_HZ",
    "Atom",
    "AtomModel",
    "Embedded",
    "Features",
    "Mixtures",
    "SaeConfig",
    "SightModel",
    "SparseAutoencoder",
    "auroc_error",
    "auroc_matrix",
    "consistency_loss",
    "embed_clip",
    "embed_corpus",
    "encode_clips",
    "fraction_unexplained",
    "log_mel",
    "match_sources",
    "mix_waveforms",
    "name_atoms",
    "patch_seconds",
    "score_atoms",
    "sight_of",
    "sound_of",
    "source_activity",
    "spoken",
    "train_sae",
    "train_sights",
    "visible_sources",
]
