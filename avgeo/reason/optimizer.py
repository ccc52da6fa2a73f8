"""Muon for matrices, AdamW for the rest: on the small reasoner it needs a third of the steps of AdamW alone.

Muon (Jordan et al. 2024) replaces the momentum of a weight matrix by its nearest orthogonal matrix, so that
every direction is learned at the same speed. torch's own version orthogonalises in bfloat16, which is slow on
a CPU; this one works in float32 and takes matrices of one shape together.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

# Quintic Newton-Schulz coefficients of Jordan et al.: steep at 0, so singular values end in about [0.7, 1.2].
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalize(matrices: Float[Tensor, "n rows columns"], steps: int = 5) -> Float[Tensor, "n rows columns"]:
    """Nearest (semi-)orthogonal matrices U Vᵀ of U S Vᵀ, roughly: singular values end near 1, not at 1."""
    wide = matrices if matrices.shape[-2] <= matrices.shape[-1] else matrices.mT
    x = wide / wide.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-7)
    a, b, c = _COEFFICIENTS
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if matrices.shape[-2] <= matrices.shape[-1] else x.mT


def gradient_of(weight: nn.Parameter) -> Tensor:
    """The gradient of a weight that has one."""
    assert weight.grad is not None
    return weight.grad


class MuonAdamW(torch.optim.Optimizer):
    """Muon on linear layers, AdamW on embeddings, norms, biases and convolutions, at one learning rate.

    A matrix moves by 0.2 sqrt(max(rows, columns)) times its orthogonalised Nesterov momentum, whose root mean
    square is that of an AdamW step (Liu et al. 2025), so `lr` and `weight_decay` mean the same in both
    halves.
    """

    def __init__(
        self, model: nn.Module, lr: float, weight_decay: float = 0.01, momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.98), eps: float = 1e-8,
    ) -> None:  # fmt: skip
        tied = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
        linear = {id(module.weight) for module in model.modules() if isinstance(module, nn.Linear)} - tied
        trained = [weight for weight in model.parameters() if weight.requires_grad]
        groups = [
            {"params": [weight for weight in trained if id(weight) in linear], "muon": True},
            {
                "params": [weight for weight in trained if id(weight) not in linear],
                "muon": False,
                "weight_decay": 0.0,
            },
        ]
        defaults = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "betas": betas, "eps": eps}
        super().__init__([group for group in groups if group["params"]], defaults)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One update of every weight that has a gradient."""
        if closure is not None:
            raise ValueError("closure: MuonAdamW takes none")
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            for weight in weights:
                weight.mul_(1 - group["lr"] * group["weight_decay"])
            (self._muon if group["muon"] else self._adam)(weights, group)

    def _muon(self, weights: list[nn.Parameter], group: dict[str, Any]) -> None:
        shapes: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
        for weight in weights:
            shapes[weight.shape].append(weight)
        for shape, alike in shapes.items():
            looked_ahead = []
            for weight in alike:
                gradient, state = gradient_of(weight), self.state[weight]
                momentum = state.setdefault("momentum", torch.zeros_like(weight))
                momentum.lerp_(gradient, 1 - group["momentum"])
                looked_ahead.append(torch.lerp(gradient, momentum, group["momentum"]))
            updates = orthogonalize(torch.stack(looked_ahead))
            for weight, update in zip(alike, updates, strict=True):
                weight.sub_(update, alpha=0.2 * group["lr"] * max(shape) ** 0.5)

    def _adam(self, weights: list[nn.Parameter], group: dict[str, Any]) -> None:
        (first_beta, second_beta), eps = group["betas"], group["eps"]
        for weight in weights:
            gradient, state = gradient_of(weight), self.state[weight]
            if not state:
                state.update(step=0, first=torch.zeros_like(weight), second=torch.zeros_like(weight))
            state["step"] += 1
            state["first"].lerp_(gradient, 1 - first_beta)
            state["second"].lerp_(gradient.square(), 1 - second_beta)
            scale = (state["second"] / (1 - second_beta ** state["step"])).sqrt_().add_(eps)
            weight.addcdiv_(state["first"], scale, value=-group["lr"] / (1 - first_beta ** state["step"]))
