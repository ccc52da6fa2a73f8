"""What all sparse coders share: scaling of the input, a dictionary of unit atoms, codes, and their files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from avgeo.perceive.shards import Data, blocks
from avgeo.perceive.sparse import dense, merge_repeats, products

SCALINGS = ("rms", "dimension")
Coder = TypeVar("Coder", bound="SparseCoder")
_BLOCK = 4096  # rows encoded at once: bounds memory to a few (block, atoms) arrays


class CoderError(ValueError):
    """A sparse coder was asked for something impossible, or given numbers that are none."""


@dataclass(frozen=True)
class CoderConfig:
    """Shape of a coder: `dim` inputs, `atoms`, `active` of them per input, and how the input is scaled.

    `scaling`: "rms" (centred, one scale) or "dimension" (centred, each dimension by its own RMS).
    """

    dim: int
    atoms: int
    active: int = 8
    scaling: str = "rms"

    def __post_init__(self) -> None:
        if not (self.dim >= 1 and 1 <= self.active <= self.atoms):
            raise CoderError(
                f"need dim >= 1 and 1 <= active <= atoms, got dim={self.dim}, active={self.active}, atoms={self.atoms}"
            )
        if self.scaling not in SCALINGS:
            raise CoderError(f"scaling={self.scaling!r} is unknown: choose one of {', '.join(SCALINGS)}")


@dataclass
class Decomposition:
    """One pass over standardized inputs.

    `index`, `value` (batch, k): the atoms of every stage side by side, value 0 where a slot is unused; an atom chosen
    in two stages has two slots, which add up. `start` and `residuals` (batch, dim): the input less its bias, and what
    is unexplained after each stage (or nested prefix).
    """

    index: Tensor
    value: Tensor
    start: Tensor
    residuals: list[Tensor]

    @property
    def before_last(self) -> Tensor:
        """What the last choice of atoms was made from."""
        return self.residuals[-2] if len(self.residuals) > 1 else self.start


class SparseCoder(nn.Module, ABC):
    """Encode x (batch, dim) into few non-negative atoms of a unit-norm dictionary (atoms, dim)."""

    kinds: ClassVar[dict[str, type[SparseCoder]]] = {}
    config_class: ClassVar[type[CoderConfig]]
    config: Any  # each kind names its own
    mean: Tensor
    scale: Tensor

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        SparseCoder.kinds[cls.__name__] = cls

    def __init__(self, config: CoderConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        directions = torch.randn(config.atoms, config.dim, generator=torch.Generator().manual_seed(seed))
        self.dictionary = nn.Parameter(nn.functional.normalize(directions, dim=-1))
        self.bias = nn.Parameter(torch.zeros(config.dim))
        self.register_buffer("mean", torch.zeros(config.dim))
        self.register_buffer("scale", torch.ones(()) if config.scaling == "rms" else torch.ones(config.dim))

    @abstractmethod
    def decompose(self, start: Float[Tensor, "batch dim"], gram: Tensor | None = None) -> Decomposition:
        """Choose atoms for standardized inputs less their bias; `gram` is `self.gram()`, where the caller has one."""

    @abstractmethod
    def scores(
        self, residual: Float[Tensor, "batch dim"], stage: int = -1, among: Int[Tensor, " some"] | None = None
    ) -> Float[Tensor, "batch some"]:
        """Pre-activations in one stage of every atom (or those `among`), dense; for choosing, so without gradient."""

    def values(
        self, residual: Float[Tensor, "batch dim"], index: Int[Tensor, "batch k"], stage: int = -1
    ) -> Float[Tensor, "batch k"]:
        """Pre-activations of chosen atoms, differentiable; those of a tied encoder unless a subclass has its own."""
        return products(residual, self.dictionary, index)

    def gram(self, batch: int) -> Float[Tensor, "atoms atoms"] | None:
        """D Dᵀ where encoding `batch` rows is cheaper with it, else None."""
        return None

    def progress(self, share: float) -> None:
        """Called by the trainer before each step with the share of the training that is over."""

    def observe(self, out: Decomposition) -> None:
        """Called by the trainer after each step with that step's decomposition."""

    @property
    def loss_weights(self) -> list[float]:
        """Weight of each residual's mean square in the loss, summing to 1."""
        return [1.0]

    def forward(self, x: Float[Tensor, "batch dim"]) -> Decomposition:
        """Decompose x (batch, dim), given in its own units; residuals are in standardized units."""
        return self.decompose(self.standardize(x) - self.bias, self.gram(len(x)))

    def encode(self, x: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch atoms"]:
        """Non-negative codes (batch, atoms), differentiable unless under `torch.no_grad`."""
        self.check(x)
        return torch.cat([dense(out.index, out.value, self.config.atoms) for out in self._blocks(x)])

    @torch.no_grad()
    def encode_sparse(self, x: Float[Tensor, "batch dim"]) -> tuple[Int[Tensor, "batch k"], Float[Tensor, "batch k"]]:
        """The same codes as (index, value), each atom once per row; value 0 marks an unused slot."""
        self.check(x)
        parts = [merge_repeats(out.index, out.value) for out in self._blocks(x)]
        width = max(index.shape[1] for index, _ in parts)
        padded = [[nn.functional.pad(part, (0, width - part.shape[1])) for part in both] for both in parts]
        return torch.cat([index for index, _ in padded]), torch.cat([value for _, value in padded])

    def _blocks(self, x: Tensor) -> Iterator[Decomposition]:
        gram = self.gram(len(x))
        for start in range(0, max(len(x), 1), _BLOCK):
            yield self.decompose(self.standardize(x[start : start + _BLOCK]) - self.bias, gram)

    def decode(self, codes: Float[Tensor, "batch atoms"]) -> Float[Tensor, "batch dim"]:
        """What the codes say x was (batch, dim), in x's own units."""
        return self.unstandardize(codes @ self.dictionary + self.bias)

    def standardize(self, x: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
        """x in the units in which atoms are unit vectors and losses are measured."""
        return (x.to(self.mean.dtype) - self.mean) / self.scale

    def unstandardize(self, y: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
        """The inverse of `standardize`."""
        return y * self.scale + self.mean

    @torch.no_grad()
    def fit_scaling(self, x: Data) -> float:
        """Set the input's mean and scale, so that learning rates and thresholds do not depend on its units.

        Returns the variance of standardized inputs, all dimensions together. What does not vary keeps scale 1. Moments
        of blocks small enough for the cache are joined in float64.
        """
        count, mean, scatter = 0, *torch.zeros(2, self.config.dim, dtype=torch.float64)
        for block in blocks(x, _BLOCK):
            self.check(block)
            block = block.cpu().to(self.mean.dtype)
            center = block.mean(0)
            off = block - center
            rest = off.mean(0).double()  # what rounding has left of the mean
            within = off.square().sum(0).double() - len(block) * rest.square()
            step, total = center.double() + rest - mean, count + len(block)
            # Chan, Golub & LeVeque 1983
            scatter = scatter + within + step.square() * (count * len(block) / total)
            mean, count = mean + step * (len(block) / total), total
        if count == 0:
            raise CoderError("x has no rows: give at least one to fit the scaling")
        variance = scatter / count
        none = 1e-14 * (variance + mean.square()).mean()  # below this a variance is rounding
        scaled_by = variance.mean() if self.config.scaling == "rms" else variance
        scale = torch.where(scaled_by > none, scaled_by, torch.ones_like(scaled_by)).sqrt()
        self.mean.copy_(mean)
        self.scale.copy_(scale)
        return float((variance / scale.square()).sum())

    @torch.no_grad()
    def normalize_dictionary(self) -> None:
        """Put every atom back to unit length (after each optimiser step)."""
        self.dictionary.div_(self.dictionary.norm(dim=-1, keepdim=True).clamp_min(1e-12))

    def check(self, x: Tensor) -> None:
        """Raise `CoderError` unless `x` is (rows, dim) and finite."""
        if x.ndim != 2 or x.shape[1] != self.config.dim:
            raise CoderError(f"x must have shape (rows, {self.config.dim}), got {tuple(x.shape)}")
        # one pass where all is well: a sum that is finite has finite parts
        if not bool(torch.isfinite(x.sum())) and not bool(torch.isfinite(x).all()):
            raise CoderError("x holds NaN or infinite values: remove or repair those rows before coding")

    def save_pretrained(self, folder: str | Path, **card: Any) -> None:
        """Write weights, configuration and model card (`avgeo.perceive.hub.save`)."""
        from avgeo.perceive import hub

        hub.save(self, folder, **card)

    def push_to_hub(self, repo_id: str, **card: Any) -> str:
        """Upload what `save_pretrained` writes; returns the address (`avgeo.perceive.hub.push`)."""
        from avgeo.perceive import hub

        return hub.push(self, repo_id, **card)

    @classmethod
    def from_pretrained(cls: type[Coder], path_or_hub_id: str | Path) -> Coder:
        """Load from a folder, or from a Hugging Face repository when no such folder exists (`hub.load`)."""
        from avgeo.perceive import hub

        found = hub.load(path_or_hub_id)
        if not isinstance(found, cls):
            raise CoderError(f"{path_or_hub_id} holds a {type(found).__name__}, not a {cls.__name__}")
        return found
