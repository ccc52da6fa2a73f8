"""Perception: sound into acoustic atoms, sight into thumbnails."""

from avgeo.perceive.atoms import Atom, AtomModel, encode_clips, name_atoms, reach, spoken
from avgeo.perceive.baselines import BatchTopK, BatchTopKConfig, Matryoshka, MatryoshkaConfig, Nmf, NmfConfig
from avgeo.perceive.coder import CoderConfig, CoderError, SparseCoder
from avgeo.perceive.embedding import Corpus, EmbeddingError, Features, embed_corpus
from avgeo.perceive.encoders import (
    SAMPLE_RATE_HZ,
    Embedded,
    Encoder,
    EncoderError,
    LogMel,
    embed_clip,
    get_encoder,
    log_mel,
    patch_seconds,
    sight_of,
    sound_of,
)
from avgeo.perceive.fitting import compared, fit_atoms, named, waveform_mixtures
from avgeo.perceive.hub import export_sae_lens
from avgeo.perceive.inversion import InversionError, invert, render_atoms
from avgeo.perceive.persistence import Listener, calibrated, persist
from avgeo.perceive.sae import SaeConfig, SparseAutoencoder, pursuit_config, recipe, topk_config
from avgeo.perceive.scores import (
    auroc_error,
    auroc_matrix,
    fraction_unexplained,
    match_sources,
    score_atoms,
    source_activity,
)
from avgeo.perceive.sight import SightModel, train_sights, visible_sources
from avgeo.perceive.training import DivergedError, Execution, Mixtures, consistency_loss, mix_waveforms, train_sae

__all__ = [
    "SAMPLE_RATE_HZ",
    "Atom",
    "AtomModel",
    "BatchTopK",
    "BatchTopKConfig",
    "CoderConfig",
    "CoderError",
    "Corpus",
    "DivergedError",
    "Embedded",
    "EmbeddingError",
    "Encoder",
    "EncoderError",
    "Execution",
    "Features",
    "InversionError",
    "Listener",
    "LogMel",
    "Matryoshka",
    "MatryoshkaConfig",
    "Mixtures",
    "Nmf",
    "NmfConfig",
    "SaeConfig",
    "SightModel",
    "SparseAutoencoder",
    "SparseCoder",
    "auroc_error",
    "auroc_matrix",
    "calibrated",
    "compared",
    "consistency_loss",
    "embed_clip",
    "embed_corpus",
    "encode_clips",
    "export_sae_lens",
    "fit_atoms",
    "fraction_unexplained",
    "get_encoder",
    "invert",
    "log_mel",
    "match_sources",
    "mix_waveforms",
    "name_atoms",
    "named",
    "patch_seconds",
    "persist",
    "pursuit_config",
    "reach",
    "recipe",
    "render_atoms",
    "score_atoms",
    "sight_of",
    "sound_of",
    "source_activity",
    "spoken",
    "topk_config",
    "train_sae",
    "train_sights",
    "visible_sources",
    "waveform_mixtures",
]
