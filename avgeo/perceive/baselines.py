"""Other ways to code sparsely, in the same training loop: BatchTopK, Matryoshka and non-negative matrix factorisation.

TopK and matching pursuit are shapes of the autoencoder itself (`sae.topk_config`, `sae.pursuit_config`).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from avgeo.perceive.coder import CoderConfig, CoderError, Decomposition, SparseCoder
from avgeo.perceive.shards import Data, blocks
from avgeo.perceive.sparse import combine, products

_THRESHOLD_MEMORY = 0.99
_TINY = 1e-9


@dataclass(frozen=True)
class BatchTopKConfig(CoderConfig):
    """Shape of a BatchTopK autoencoder; `active` is the mean per input, which a single one may exceed."""


class BatchTopK(SparseCoder):
    """The k·batch greatest pre-activations of a whole batch fire (Bussmann, Leask & Nanda 2024).

    While training, the least that fired is averaged over batches into `threshold`; in evaluation an atom fires when it
    exceeds that, so that an input's code does not depend on its neighbours.
    """

    config_class: ClassVar[type[CoderConfig]] = BatchTopKConfig
    threshold: Tensor
    seen: Tensor

    def __init__(self, config: CoderConfig, seed: int = 0) -> None:
        super().__init__(config, seed)
        self.encoder = nn.Parameter(self.dictionary.detach().clone())
        self.offsets = nn.Parameter(torch.zeros(config.atoms))
        self.register_buffer("threshold", torch.zeros(()))
        self.register_buffer("seen", torch.zeros(()))

    @torch.no_grad()
    def scores(
        self, residual: Float[Tensor, "batch dim"], stage: int = -1, among: Int[Tensor, " some"] | None = None
    ) -> Float[Tensor, "batch some"]:
        """E r + c of every atom, or of those `among`."""
        which = slice(None) if among is None else among
        return (residual @ self.encoder[which].T).to(residual.dtype).add_(self.offsets[which])

    def values(
        self, residual: Float[Tensor, "batch dim"], index: Int[Tensor, "batch k"], stage: int = -1
    ) -> Float[Tensor, "batch k"]:
        """The same of chosen atoms, differentiable."""
        return products(residual, self.encoder, index) + self.offsets[index]

    def decompose(self, start: Float[Tensor, "batch dim"], gram: Tensor | None = None) -> Decomposition:
        """Code a batch; the codes are as wide as the fullest of its rows."""
        index, fires = self._choose(start)
        value = torch.relu(self.values(start, index)) * fires
        return Decomposition(index, value, start, self.residuals(start, index, value))

    def residuals(self, start: Tensor, index: Tensor, value: Tensor) -> list[Tensor]:
        """What the code leaves unexplained."""
        return [start - combine(value, index, self.dictionary)]

    @torch.no_grad()
    def _choose(self, start: Tensor) -> tuple[Tensor, Tensor]:
        """Atoms (batch, width) of each row's greatest scores, and which of them fire."""
        scores = torch.relu(self.scores(start))
        least = self.threshold
        if self.training:
            least = (
                scores.flatten().topk(min(self.config.active * len(start), scores.numel()), sorted=False).values.min()
            )
            fires = (scores >= least) & (scores > 0)
        else:
            fires = scores > least
        width = max(1, int(fires.sum(1).max())) if len(start) else 1
        value, index = scores.topk(width, dim=1, sorted=False)
        return index, (value > 0) & ((value >= least) if self.training else (value > least))

    @torch.no_grad()
    def observe(self, out: Decomposition) -> None:
        """Bring `threshold` up to date with the least that fired."""
        fired = out.value[out.value > 0]
        if len(fired):
            self.seen += 1
            # a plain mean at first, a running one later
            share = torch.maximum(1 / self.seen, self.seen.new_tensor(1 - _THRESHOLD_MEMORY))
            self.threshold += share * (fired.min() - self.threshold)


@dataclass(frozen=True)
class MatryoshkaConfig(CoderConfig):
    """Shape of a Matryoshka autoencoder: `prefixes` nested dictionaries, each half of the next one."""

    prefixes: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.prefixes <= self.atoms.bit_length():
            raise CoderError(f"prefixes={self.prefixes} must be 1 to {self.atoms.bit_length()} for {self.atoms} atoms")

    @property
    def ends(self) -> tuple[int, ...]:
        """Number of atoms in each prefix."""
        return tuple(self.atoms >> step for step in reversed(range(self.prefixes)))


class Matryoshka(BatchTopK):
    """BatchTopK whose first atoms must reconstruct alone, at several sizes (Bussmann et al. 2025).

    `residuals` are those of the nested prefixes, all of which the loss counts alike.
    """

    config_class: ClassVar[type[CoderConfig]] = MatryoshkaConfig
    config: MatryoshkaConfig

    @property
    def loss_weights(self) -> list[float]:
        """The same for every prefix."""
        return [1 / self.config.prefixes] * self.config.prefixes

    def residuals(self, start: Tensor, index: Tensor, value: Tensor) -> list[Tensor]:
        """What each prefix leaves unexplained."""
        found, residual = [], start
        for first, end in pairwise((0, *self.config.ends)):
            within = (index >= first) & (index < end)
            residual = residual - combine(value * within, index, self.dictionary)
            found.append(residual)
        return found


@dataclass(frozen=True)
class NmfConfig(CoderConfig):
    """Shape of a non-negative factorisation; `rounds` of multiplicative updates find a code, half of them `active`."""

    rounds: int = 40


class Nmf(SparseCoder):
    """Non-negative matrix factorisation X = Z D with codes cut to the k strongest atoms.

    Codes follow the multiplicative updates of Lee & Seung (2001), from the projections on all atoms, then again on the
    k strongest; the dictionary follows the gradient with codes held, projected on what is not negative. Inputs are
    moved to start at 0: `mean` is each dimension's least value where that is negative, and what is smaller still counts
    as that.
    """

    config_class: ClassVar[type[CoderConfig]] = NmfConfig
    config: NmfConfig

    def __init__(self, config: NmfConfig, seed: int = 0) -> None:
        super().__init__(config, seed)
        self.bias.requires_grad_(False)
        with torch.no_grad():
            self.dictionary.abs_()

    @torch.no_grad()
    def fit_scaling(self, x: Data) -> float:
        """Set the scale, and as `mean` the least value of each dimension, or 0 where none is negative."""
        variance = super().fit_scaling(x)
        least = torch.stack([block.min(0).values for block in blocks(x)]).min(0).values
        self.mean.copy_(least.clamp_max(0))
        return variance

    @torch.no_grad()
    def normalize_dictionary(self) -> None:
        """Put every atom back to non-negative and unit length; one that lost everything becomes flat."""
        self.dictionary.clamp_(min=0)
        self.dictionary[self.dictionary.sum(1) == 0] = 1
        super().normalize_dictionary()

    def standardize(self, x: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
        """x from its least value on, scaled."""
        return super().standardize(x).clamp_min(0)

    @torch.no_grad()
    def scores(
        self, residual: Float[Tensor, "batch dim"], stage: int = -1, among: Int[Tensor, " some"] | None = None
    ) -> Float[Tensor, "batch some"]:
        """D r of every atom, or of those `among`."""
        return (residual @ (self.dictionary if among is None else self.dictionary[among]).T).to(residual.dtype)

    @torch.no_grad()
    def gram(self, batch: int) -> Float[Tensor, "atoms atoms"]:
        """D Dᵀ."""
        return self.dictionary @ self.dictionary.T

    def decompose(self, start: Float[Tensor, "batch dim"], gram: Tensor | None = None) -> Decomposition:
        """Code non-negative inputs."""
        with torch.no_grad():
            gram = self.gram(len(start)) if gram is None else gram
            target = self.scores(start)
            code = multiplicative(target / self.config.atoms, target, gram, self.config.rounds)
            code, index = code.topk(self.config.active, dim=1)
            few = gram[index[:, :, None], index[:, None, :]]
            value = multiplicative(code, target.gather(1, index), few, self.config.rounds)
        return Decomposition(index, value, start, [start - combine(value, index, self.dictionary)])


def multiplicative(code: Tensor, target: Tensor, gram: Tensor, rounds: int) -> Tensor:
    """Lee & Seung's updates of the codes for |x - z D|²: z <- z · (D x) / (z D Dᵀ), which never raise it.

    `target` is D x (batch, k); `gram` (k, k), or (batch, k, k) where every row has atoms of its own.
    """
    for _ in range(rounds):
        whole = torch.einsum("bk,bkl->bl", code, gram) if gram.ndim == 3 else code @ gram
        code = code * target / (whole + _TINY)
    return code
