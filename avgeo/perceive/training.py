"""Training of the sparse autoencoder: staged reconstruction, AuxK for dead atoms, consistency on sound mixtures."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from avgeo.perceive.encoders import patches
from avgeo.perceive.sae import SaeConfig, SparseAutoencoder
from avgeo.profiles import AtomSettings

_DEAD_AFTER = 20_000  # inputs without firing
_WARMUP_STEPS = 50
_DECAY_SHARE = 0.3


@dataclass(frozen=True)
class Mixtures:
    """Patches of two sounds and of their sum as a *waveform*; encoders are not additive, so this is no identity."""

    first: Float[Tensor, "pairs dim"]
    second: Float[Tensor, "pairs dim"]
    both: Float[Tensor, "pairs dim"]


def mix_waveforms(audio: Float[Tensor, "clips samples"], pairs: int, settings: AtomSettings, seed: int) -> Mixtures:
    """Patches of `pairs` random pairs of clips, scaled to equal loudness and summed in the air."""
    draw = torch.Generator().manual_seed(seed)
    audio = audio / audio.square().mean(-1, keepdim=True).sqrt().clamp_min(1e-4)
    first = audio[torch.randint(len(audio), (pairs,), generator=draw)]
    second = audio[torch.randint(len(audio), (pairs,), generator=draw)]
    return Mixtures(*(patches(sound, settings).flatten(0, 1) for sound in (first, second, first + second)))


def consistency_loss(model: SparseAutoencoder, mixtures: Mixtures, index: Tensor) -> Tensor:
    """|encode(a + b) - max(encode(a), encode(b))|² over |max|²: a mixture should hold its parts' atoms."""
    with torch.no_grad():
        first, second = (model.encode(part[index].to(model.mean)) for part in (mixtures.first, mixtures.second))
        parts = torch.maximum(first, second)
    return (model.encode(mixtures.both[index].to(model.mean)) - parts).square().sum() / parts.square().sum().clamp_min(
        1e-6
    )


def train_sae(
    x: Float[Tensor, "count dim"],
    settings: AtomSettings,
    seed: int,
    *,
    mixtures: Mixtures | None = None,
    config: SaeConfig | None = None,
) -> tuple[SparseAutoencoder, pd.DataFrame]:
    """Fit an autoencoder to patches `x`; returns it and its history (step, fvu, auxk, consistency, dead).

    Loss: mean over stages of |r_s|² / Var(x), plus AuxK (the residual rebuilt from dead atoms, Gao et al. 2024), plus
    the mixture consistency where `mixtures` are given. Adam, warm-up, linear decay over the last 30 %.
    """
    config = config or SaeConfig(x.shape[-1], settings.atoms, settings.stages, settings.experts, settings.active)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    draw = torch.Generator().manual_seed(seed)
    model = SparseAutoencoder(config, seed)
    model.fit_scaling(x)
    model.to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.learning_rate)
    steps = max(1, settings.epochs * len(x) // settings.batch)
    total_variance = model.standardize(x.to(device)).var(0, unbiased=False).sum()
    silent_for = torch.zeros(config.atoms, device=device)
    history = []
    for step in tqdm(range(steps), desc="sparse autoencoder", unit="step", disable=None):
        rate = min(1.0, (step + 1) / _WARMUP_STEPS, (steps - step) / (_DECAY_SHARE * steps))
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * rate
        batch = x[torch.randint(len(x), (settings.batch,), generator=draw)].to(device)
        out = model(batch)
        fractions = [residual.square().sum(-1).mean() / total_variance for residual in out.residuals]
        loss = torch.stack(fractions).mean()
        dead = silent_for > _DEAD_AFTER
        auxk = _auxk(model, out.residuals[-1], out.preactivations[-1], dead)
        loss = loss + settings.auxk_weight * auxk
        consistency = torch.zeros(())
        if mixtures is not None and settings.consistency_weight:
            index = torch.randint(len(mixtures.both), (settings.batch // 4,), generator=draw)
            consistency = consistency_loss(model, mixtures, index)
            loss = loss + settings.consistency_weight * consistency
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model.normalize_dictionary()
        silent_for += len(batch)
        silent_for[(out.codes > 0).any(0)] = 0
        if step % 20 == 0 or step == steps - 1:
            row = {
                "fvu": fractions[-1],
                "auxk": auxk,
                "consistency": consistency,
                "dead": dead.float().mean(),
            }
            history.append({"step": step} | {name: value.item() for name, value in row.items()})
    return model.cpu().eval(), pd.DataFrame(history)


def _auxk(model: SparseAutoencoder, residual: Tensor, scores: Tensor, dead: Tensor) -> Tensor:
    """Share of the last residual that the dead atoms fail to rebuild when they alone are asked; 0 with none dead."""
    index = dead.nonzero()[:, 0]
    if len(index) == 0:
        return residual.new_zeros(())
    values, place = torch.relu(scores[:, index]).topk(min(2 * model.config.active, len(index)), dim=-1)
    rebuilt = torch.zeros_like(scores[:, index]).scatter(-1, place, values) @ model.dictionary[index]
    target = residual.detach()
    return (target - rebuilt).square().sum() / target.square().sum().clamp_min(1e-6)
