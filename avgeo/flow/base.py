"""Laws that a flow starts from: drawn from cheaply, and with a density that is known exactly."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from avgeo.sphere import sample_uniform, sample_vmf, uniform_log_density, vmf_log_prob

_PAIRS = 2**23  # distances that are held at once


class Base(nn.Module, ABC):
    """A law on S². Its tensors are buffers, so that they lie in the flow's own safetensors."""

    kinds: ClassVar[dict[str, type[Base]]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        Base.kinds[cls.__name__] = cls

    @abstractmethod
    def log_prob(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        """Log density, nats with respect to the unit sphere's area."""

    @abstractmethod
    def sample(self, count: int, generator: torch.Generator | None = None) -> Float[Tensor, "n 3"]:
        """`count` draws."""

    @classmethod
    def of_tensors(cls, tensors: dict[str, Tensor]) -> Base:
        """The law whose buffers these are."""
        return cls(**tensors)


class Uniform(Base):
    """Anywhere on Earth."""

    def log_prob(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        """-log 4π everywhere."""
        return torch.full_like(points[:, 0], uniform_log_density())

    def sample(self, count: int, generator: torch.Generator | None = None) -> Float[Tensor, "n 3"]:
        """Uniform by area."""
        return sample_uniform(count, generator)


class VmfMixture(Base):
    """sum_j w_j vMF(μ_j, κ_j), w = softmax(log_weight); a kernel estimate is one whose means are the places seen."""

    mean: Tensor
    kappa: Tensor
    log_weight: Tensor

    def __init__(
        self, mean: Float[Tensor, "k 3"], kappa: Float[Tensor, " k"], log_weight: Float[Tensor, " k"] | None = None
    ) -> None:
        super().__init__()
        if not len(mean) or mean.shape[-1] != 3 or len(kappa) != len(mean):
            raise ValueError(f"mean {tuple(mean.shape)} and kappa {tuple(kappa.shape)} must be (k, 3) and (k,), k >= 1")
        if not bool(((kappa >= 0) & torch.isfinite(kappa)).all()):
            raise ValueError("kappa must be finite and at least 0")
        self.register_buffer("mean", mean)
        self.register_buffer("kappa", kappa)
        weight = torch.zeros_like(kappa) if log_weight is None else log_weight
        self.register_buffer("log_weight", torch.log_softmax(weight, 0))

    def log_prob(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        """By log-sum-exp over the components."""
        rows = max(1, _PAIRS // len(self.mean))
        parts = [
            torch.logsumexp(vmf_log_prob(part[:, None], self.mean[None], self.kappa) + self.log_weight, -1)
            for part in points.split(rows)
        ]
        return torch.cat(parts)

    def sample(self, count: int, generator: torch.Generator | None = None) -> Float[Tensor, "n 3"]:
        """A component by its weight, then a draw from it."""
        if count == 0:
            return self.mean.new_empty(0, 3)
        chosen = torch.multinomial(self.log_weight.exp().cpu(), count, replacement=True, generator=generator)
        return sample_vmf(self.mean[chosen], self.kappa[chosen], generator)
