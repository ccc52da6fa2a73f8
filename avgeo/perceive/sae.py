"""The mixture-autoregressive sparse autoencoder (our reading of arXiv 2603.05708, whose abstract only names it).

*Mixture*: the encoder is a gated mixture of linear experts. *Autoregressive*: atoms are chosen in S stages, each of
which sees what the earlier ones have left unexplained. With one unit-norm dictionary D for all stages,

    r_0 = (x - mean) / scale - b
    z_s = TopK_{k_s}( ReLU( sum_m pi_m(r_{s-1}) E_m r_{s-1} + c_s ) )
    r_s = r_{s-1} - D z_s,                 s = 1..S,   z = sum_s z_s,   sum_s k_s = k.

S = 1 and M = 1 is the TopK autoencoder (Gao et al. 2024); S = k with one tied expert and no offsets is matching
pursuit (Mallat & Zhang 1993). Tests hold both reductions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from avgeo.perceive.coder import CoderConfig, CoderError, Decomposition, SparseCoder
from avgeo.perceive.sparse import combine, products, strongest
from avgeo.profiles import AtomSettings


@dataclass(frozen=True)
class SaeConfig(CoderConfig):
    """Shape of the autoencoder: S `stages`, M `experts`, k `active` atoms in all.

    `tied`: the first expert is Dᵀ itself, the others are free. `split`: k_s of each stage, by default as equal as they
    can be with the rest to the earlier ones. `offsets`: c_s. `weights`: the loss counts every stage's residual
    ("uniform") or only the "last". `release`: the share of the training after which a tied expert becomes free,
    starting from the dictionary; 1 is never. A released coder says tied=False.
    `encoder_start`: length of the free experts' rows at first, where the dictionary's is 1; a short encoder begins with
    faint codes that must grow, not with loud ones that overshoot, and short runs then find more atoms.
    """

    stages: int = 2
    experts: int = 2
    tied: bool = False
    offsets: bool = True
    split: tuple[int, ...] | None = None
    weights: str = "uniform"
    release: float = 1.0
    encoder_start: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.stages <= self.active:
            raise CoderError(f"need 1 <= stages <= active, got stages={self.stages}, active={self.active}")
        if not 0 <= self.release <= 1:
            raise CoderError(f"release={self.release} is no share of the training: choose one from 0 to 1")
        if self.experts < 1:
            raise CoderError(f"need at least one expert, got experts={self.experts}")
        if self.weights not in ("uniform", "last"):
            raise CoderError(f"weights={self.weights!r} is unknown: choose uniform or last")
        if self.encoder_start <= 0:
            raise CoderError(f"encoder_start={self.encoder_start} must be above 0")
        if self.split is not None:
            object.__setattr__(self, "split", tuple(self.split))
            if len(self.split) != self.stages or sum(self.split) != self.active or min(self.split) < 1:
                raise CoderError(
                    f"split={self.split} must have stages={self.stages} parts of at least 1 that sum to {self.active}"
                )

    @property
    def shares(self) -> tuple[int, ...]:
        """k_s: the active atoms of each stage."""
        if self.split is not None:
            return self.split
        share, rest = divmod(self.active, self.stages)
        return tuple(share + (stage < rest) for stage in range(self.stages))

    @property
    def pursuit(self) -> bool:
        """Whether this shape is matching pursuit."""
        return self.tied and self.experts == 1 and not self.offsets and self.stages == self.active


def recipe(dim: int, settings: AtomSettings) -> SaeConfig:
    """Our shape, one rule for all data: a stage for every four atoms, at least two; of two, the first takes 3 of 4.

    The loss is on the last residual alone, and the encoder is the dictionary until `release` of the training is over:
    tied it finds directions, freed it learns to tell coherent ones apart. Chosen on planted atoms, spectrogram mixtures
    and AVG-Sim together (chapter 2).
    """
    active = settings.active
    stages = min(active, max(2, active // 4))
    first = -(-3 * active // 4)
    return SaeConfig(
        dim, settings.atoms, active, stages=stages, experts=settings.experts, weights="last",
        tied=True, release=settings.release, split=(first, active - first) if stages == 2 < active else None,
    )  # fmt: skip


def topk_config(dim: int, atoms: int, active: int, **others: object) -> SaeConfig:
    """The TopK autoencoder (Gao et al. 2024): one stage, one free expert."""
    return SaeConfig(dim, atoms, active, stages=1, experts=1, **others)  # pyright: ignore[reportArgumentType]


def pursuit_config(dim: int, atoms: int, active: int, **others: object) -> SaeConfig:
    """Matching pursuit (Mallat & Zhang 1993), its dictionary trained through the unrolled choices on the last residual.

    That is the matching-pursuit autoencoder (Costa et al. 2025): k tied stages of one atom each.
    """
    chosen = {"weights": "last"} | others
    return SaeConfig(
        dim, atoms, active, stages=active, experts=1, tied=True, offsets=False, **chosen  # pyright: ignore[reportArgumentType]
    )  # fmt: skip


class SparseAutoencoder(SparseCoder):
    """Encode x (batch, dim) into at most k non-negative atoms of a unit-norm dictionary (atoms, dim)."""

    config_class: ClassVar[type[CoderConfig]] = SaeConfig
    config: SaeConfig

    def __init__(self, config: SaeConfig, seed: int = 0) -> None:
        super().__init__(config, seed)
        draw = torch.Generator().manual_seed(seed + 1)
        # a place for the tied expert, too, where it is to be released
        free = config.experts - (config.tied and config.release == 1)
        if free:
            noise = 0.02 * torch.randn(free, config.atoms, config.dim, generator=draw)
            if not config.tied:
                noise[0] = 0
            self.experts = nn.Parameter(config.encoder_start * (self.dictionary.detach() + noise))
        if config.experts > 1:
            self.gate = nn.Parameter(0.1 * torch.randn(config.experts, config.dim, generator=draw))
        if config.offsets:
            self.offsets = nn.Parameter(torch.zeros(config.stages, config.atoms))

    @torch.no_grad()
    def progress(self, share: float) -> None:
        """Free the tied expert once `release` of the training is over."""
        config = self.config
        if config.tied and config.release < 1 and share >= config.release:
            self.experts[0] = self.dictionary
            self.config = replace(config, tied=False)

    @property
    def loss_weights(self) -> list[float]:
        """Weight of each stage's residual in the loss."""
        stages = self.config.stages
        return [1 / stages] * stages if self.config.weights == "uniform" else [0.0] * (stages - 1) + [1.0]

    def _encoders(self) -> list[Tensor]:
        """E_m (atoms, dim), the tied one first."""
        if not self.config.tied:
            return list(self.experts)
        others = self.config.experts - 1
        return [self.dictionary, *(self.experts[-others:] if others else [])]

    def _gates(self, residual: Tensor) -> list[Tensor]:
        """pi_m(r) (batch, 1) of each of several experts."""
        return list(torch.softmax(residual @ self.gate.T, dim=-1).split(1, dim=-1))

    @torch.no_grad()
    def scores(
        self, residual: Float[Tensor, "batch dim"], stage: int = -1, among: Int[Tensor, " some"] | None = None
    ) -> Float[Tensor, "batch some"]:
        """sum_m pi_m(r) E_m r + c of every atom, or of those `among`."""
        which = slice(None) if among is None else among
        encoders = [rows[which] for rows in self._encoders()]
        offsets = self.offsets[stage][which] if self.config.offsets else residual.new_zeros(())
        if len(encoders) == 1:
            return torch.addmm(offsets, residual, encoders[0].T).to(residual.dtype)  # bfloat16 under autocast
        total = offsets.expand(len(residual), len(encoders[0]))
        for gate, encoder in zip(self._gates(residual), encoders, strict=True):
            total = torch.addcmul(total, gate, (residual @ encoder.T).to(residual.dtype))
        return total

    def values(
        self,
        residual: Float[Tensor, "batch dim"],
        index: Int[Tensor, "batch k"],
        stage: int = -1,
        scores: Tensor | None = None,
    ) -> Float[Tensor, "batch k"]:
        """The same of chosen atoms, differentiable; `scores` saves a single expert from computing them again."""
        offsets = self.offsets[stage][index] if self.config.offsets else residual.new_zeros(())
        encoders = self._encoders()
        if len(encoders) == 1:
            known = None if scores is None else scores.gather(1, index) - offsets.detach()
            return products(residual, encoders[0], index, known) + offsets
        gates = self._gates(residual)
        terms = [gate * products(residual, rows, index) for gate, rows in zip(gates, encoders, strict=True)]
        return torch.stack(terms).sum(0) + offsets

    @torch.no_grad()
    def gram(self, batch: int) -> Float[Tensor, "atoms atoms"] | None:
        """D Dᵀ for a purely tied encoder of many stages: D r_s = D r_{s-1} - (D Dᵀ) z_s needs no product with r_s."""
        config = self.config
        pays = (config.stages - 1) * batch > config.atoms and max(config.shares) < config.dim
        return self.dictionary @ self.dictionary.T if config.tied and config.experts == 1 and pays else None

    def decompose(self, start: Float[Tensor, "batch dim"], gram: Tensor | None = None) -> Decomposition:
        """Choose k_s atoms in every stage from what the stages before have left."""
        residual, residuals, indices, values = start, [], [], []
        explained = None
        for stage, active in enumerate(self.config.shares):
            if gram is None:
                scores = self.scores(residual, stage)
            else:
                scores = explained = self._after(explained, gram, start, indices, values)
                if self.config.offsets:
                    scores = scores + self.offsets[stage].detach()
            index = strongest(scores, active)
            # what was rounded to choose by is computed anew
            exact = gram is None and not torch.is_autocast_enabled(start.device.type)
            value = torch.relu(self.values(residual, index, stage, scores if exact else None))
            residual = residual - combine(value, index, self.dictionary)
            residuals.append(residual)
            indices.append(index)
            values.append(value)
        return Decomposition(torch.cat(indices, 1), torch.cat(values, 1), start, residuals)

    @torch.no_grad()
    def _after(
        self, before: Tensor | None, gram: Tensor, start: Tensor, indices: list[Tensor], values: list[Tensor]
    ) -> Tensor:
        """D r of the residual at hand, from D r of the one before it."""
        if before is None:
            return start @ self.dictionary.T
        if indices[-1].shape[1] == 1:  # matching pursuit
            return before.sub_(values[-1] * gram[indices[-1][:, 0]])
        return before.sub_(combine(values[-1], indices[-1], gram))
