"""Laws that a flow starts from: drawn from cheaply, and with a density that is known exactly."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from avgeo.sphere import sample_uniform, uniform_log_density


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
