"""Train a `SphereFlow`: regress the velocity of geodesics from noise to places, dropping modalities at random."""

from __future__ import annotations

import copy
from dataclasses import replace

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from avgeo.flow.base import Base
from avgeo.flow.density import SphereFlow
from avgeo.flow.network import MODALITIES, Condition
from avgeo.flow.path import geodesic_path, sample_times
from avgeo.flow.transport import paired
from avgeo.profiles import FlowSettings
from avgeo.sphere import CoordinateError, check_points, sample_vmf

_WARMUP_STEPS = 50


def drop_modalities(condition: Condition, settings: FlowSettings, generator: torch.Generator) -> Condition:
    """Hide each modality of each clip independently, so that one network learns p(x), p(x|a), p(x|v) and p(x|a, v)."""
    masks = []
    for name in MODALITIES:
        keep = torch.rand(len(condition), generator=generator) >= getattr(settings, f"drop_{name}")
        masks.append(getattr(condition, f"has_{name}") & keep.to(condition.has_sound.device))
    return Condition(condition.sound, condition.sight, condition.proposal, *masks)


def vary(condition: Condition, settings: FlowSettings, generator: torch.Generator) -> Condition:
    """Perturb what was perceived by `noise`: louder or softer atoms, surer or less sure sights."""
    gain = 1 + settings.noise * (2 * torch.rand(condition.sound.shape, generator=generator) - 1).to(condition.sound)
    doubt = settings.noise * torch.randn(condition.sight.shape, generator=generator).to(condition.sight)
    return replace(condition, sound=condition.sound * gain, sight=condition.sight + doubt)


def train_flow(
    places: Float[Tensor, "count 3"],
    condition: Condition,
    settings: FlowSettings,
    seed: int,
    base: Base | None = None,
) -> tuple[SphereFlow, pd.DataFrame]:
    """Fit a flow to `places` (count, 3) given their `condition`; returns its averaged weights and (step, loss).

    Loss: |v(x_t, t, c) - u_t|² with x_t on a geodesic from a draw of the `base` (uniform by default) to the place,
    jittered by vMF(κ = `jitter_kappa`) so that the density stays finite. AdamW, warm-up, cosine decay, exponential
    moving average. Raises `ValueError` for places that do not fit the condition, and for minibatch transport where
    something is known of a clip (`avgeo.flow.transport.paired` says why).
    """
    if len(places) != len(condition) or not len(places):
        raise ValueError(f"places has {len(places)} rows and condition {len(condition)}: give as many, at least one")
    if settings.transport and bool((condition.has_sound | condition.has_sight | condition.has_proposal).any()):
        raise ValueError("settings.transport pairs rows across conditions: set it to 0 where something is known")
    condition.check(condition.sound.shape[-1], condition.sight.shape[-1])
    check_points(places, "places")
    if places.ndim != 2:
        raise CoordinateError(f"places has shape {tuple(places.shape)}: give rows (count, 3)")
    places = places.float()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    draw = torch.Generator().manual_seed(seed)
    flow = SphereFlow(settings, condition.sound.shape[-1], condition.sight.shape[-1], seed, copy.deepcopy(base)).to(
        device
    )
    average = copy.deepcopy(flow).requires_grad_(False)
    optimizer = torch.optim.AdamW(flow.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.SequentialLR(
        optimizer,
        [
            torch.optim.lr_scheduler.LinearLR(optimizer, 0.05, 1.0, _WARMUP_STEPS),
            torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, settings.steps - _WARMUP_STEPS)),
        ],
        [_WARMUP_STEPS],
    )
    history = []
    for step in tqdm(range(settings.steps), desc="flow matching", unit="step", disable=None):
        index = torch.randint(len(places), (settings.batch,), generator=draw)
        shown = drop_modalities(vary(condition[index], settings, draw), settings, draw)
        code = flow.encoder(shown).repeat_interleave(settings.times_per_clip, 0)
        end = places[index].repeat_interleave(settings.times_per_clip, 0)
        end = sample_vmf(end, settings.jitter_kappa, draw)
        start = flow.base.sample(len(end), draw).to(end)  # a law of kernels draws in float64
        if settings.transport:
            start = paired(start, end, settings.transport)
        time = sample_times(len(end), draw)
        point, target = (part.to(device) for part in geodesic_path(start, end, time))
        velocity = flow.field(point, flow.field.modulation(time.to(device), code))
        loss = (velocity - target).square().sum(-1).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(flow.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        _update_average(average, flow, min(settings.ema, (step + 1) / (step + 10)))
        if step % 20 == 0 or step == settings.steps - 1:
            history.append({"step": step, "loss": loss.item()})
    return average.cpu().eval(), pd.DataFrame(history)


@torch.no_grad()
def _update_average(average: SphereFlow, flow: SphereFlow, decay: float) -> None:
    for kept, new in zip(average.parameters(), flow.parameters(), strict=True):
        kept.lerp_(new, 1 - decay)
