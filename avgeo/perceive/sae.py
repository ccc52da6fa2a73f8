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

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

_WEIGHTS = "sae.safetensors"
_CONFIG = "config.json"


@dataclass(frozen=True)
class SaeConfig:
    """Shape of the autoencoder: `dim` inputs, `atoms`, S `stages`, M `experts`, k `active`; `tied` uses E = Dᵀ."""

    dim: int
    atoms: int
    stages: int = 2
    experts: int = 2
    active: int = 8
    tied: bool = False
    offsets: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.stages <= self.active <= self.atoms:
            raise ValueError(f"need 1 <= stages <= active <= atoms, got {self.stages}, {self.active}, {self.atoms}")
        if self.tied and self.experts != 1:
            raise ValueError(f"a tied encoder has one expert, got experts={self.experts}")

    def split(self) -> list[int]:
        """k_s: the active atoms of each stage, as equal as they can be, the earlier stages taking the rest."""
        share, rest = divmod(self.active, self.stages)
        return [share + (stage < rest) for stage in range(self.stages)]


@dataclass
class Decomposition:
    """One pass: `codes` (batch, atoms) ≥ 0, and the residual (batch, dim) and pre-activation after each stage."""

    codes: Tensor
    residuals: list[Tensor]
    preactivations: list[Tensor]


class SparseAutoencoder(nn.Module):
    """Encode x (batch, dim) into at most k non-negative atoms of a unit-norm dictionary (atoms, dim)."""

    mean: Tensor
    scale: Tensor

    def __init__(self, config: SaeConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        draw = torch.Generator().manual_seed(seed)
        directions = torch.randn(config.atoms, config.dim, generator=draw)
        self.dictionary = nn.Parameter(nn.functional.normalize(directions, dim=-1))
        self.bias = nn.Parameter(torch.zeros(config.dim))
        if not config.tied:
            noise = 0.02 * torch.randn(config.experts, config.atoms, config.dim, generator=draw)
            noise[0] = 0
            self.experts = nn.Parameter(self.dictionary.detach() + noise)
        if config.experts > 1:
            self.gate = nn.Parameter(0.1 * torch.randn(config.experts, config.dim, generator=draw))
        if config.offsets:
            self.offsets = nn.Parameter(torch.zeros(config.stages, config.atoms))
        self.register_buffer("mean", torch.zeros(config.dim))
        self.register_buffer("scale", torch.ones(()))

    @torch.no_grad()
    def fit_scaling(self, x: Float[Tensor, "batch dim"]) -> None:
        """Set the input's mean and global RMS, so that learning rates and thresholds do not depend on its units."""
        self.mean.copy_(x.mean(0))
        self.scale.copy_((x - self.mean).square().mean().sqrt().clamp_min(1e-6))

    @torch.no_grad()
    def normalize_dictionary(self) -> None:
        """Put every atom back to unit length (after each optimiser step)."""
        self.dictionary.copy_(nn.functional.normalize(self.dictionary, dim=-1))

    def standardize(self, x: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
        """(x - mean) / scale, the units in which losses are measured."""
        return (x - self.mean) / self.scale

    def _preactivation(self, residual: Tensor, stage: int) -> Tensor:
        if self.config.tied:
            scores = residual @ self.dictionary.T
        elif self.config.experts == 1:
            scores = residual @ self.experts[0].T
        else:
            weights = torch.softmax(residual @ self.gate.T, dim=-1)  # (batch, experts)
            scores = torch.einsum("bm,bma->ba", weights, torch.einsum("bd,mad->bma", residual, self.experts))
        return scores + self.offsets[stage] if self.config.offsets else scores

    def forward(self, x: Float[Tensor, "batch dim"]) -> Decomposition:
        """Decompose x (batch, dim), given in its own units; residuals are in standardized units."""
        residual = self.standardize(x) - self.bias
        codes = torch.zeros(len(x), self.config.atoms, dtype=x.dtype, device=x.device)
        residuals, preactivations = [], []
        for stage, active in enumerate(self.config.split()):
            scores = self._preactivation(residual, stage)
            values, index = scores.topk(active, dim=-1)
            chosen = torch.zeros_like(scores).scatter(-1, index, torch.relu(values))
            residual = residual - chosen @ self.dictionary
            codes = codes + chosen
            residuals.append(residual)
            preactivations.append(scores)
        return Decomposition(codes, residuals, preactivations)

    def encode(self, x: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch atoms"]:
        """Non-negative codes (batch, atoms), at most k of them above zero."""
        return self(x).codes

    def decode(self, codes: Float[Tensor, "batch atoms"]) -> Float[Tensor, "batch dim"]:
        """What the codes say x was (batch, dim), in x's own units."""
        return (codes @ self.dictionary + self.bias) * self.scale + self.mean

    def save_pretrained(self, folder: Path) -> None:
        """Write `sae.safetensors` and `config.json`."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.contiguous() for name, tensor in self.state_dict().items()}, folder / _WEIGHTS)
        (folder / _CONFIG).write_text(json.dumps(asdict(self.config), indent=1) + "\n")

    @classmethod
    def from_pretrained(cls, path_or_hub_id: str | Path) -> SparseAutoencoder:
        """Load from a folder, or from a Hugging Face repository when no such folder exists."""
        folder = Path(path_or_hub_id)
        if not folder.is_dir():
            from huggingface_hub import snapshot_download

            folder = Path(snapshot_download(str(path_or_hub_id), allow_patterns=[_WEIGHTS, _CONFIG]))
        model = cls(SaeConfig(**json.loads((folder / _CONFIG).read_text())))
        model.load_state_dict(load_file(folder / _WEIGHTS))
        return model.eval()
