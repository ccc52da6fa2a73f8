"""Training of sparse coders: reconstruction, AuxK for dead atoms, consistency on sound mixtures.

One loop for all methods and machines: one process or several under torchrun, CPU or CUDA, interrupted or not.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from avgeo.perceive.coder import CoderConfig, CoderError, Decomposition, SparseCoder
from avgeo.perceive.encoders import patches
from avgeo.perceive.sae import recipe
from avgeo.perceive.shards import Data, batches, shards
from avgeo.perceive.sparse import combine, look_up, merge_repeats
from avgeo.profiles import AtomSettings

_DEAD_AFTER = 20_000  # inputs without firing
_WARMUP_STEPS = 50  # or a twentieth of a short run
_DECAY_SHARE = 0.3
_LOG_EVERY = 20


class DivergedError(CoderError):
    """The loss stopped being a number."""


@dataclass(frozen=True)
class Mixtures:
    """Patches of two sounds and of their sum as a *waveform*; encoders are not additive, so this is no identity."""

    first: Float[Tensor, "pairs dim"]
    second: Float[Tensor, "pairs dim"]
    both: Float[Tensor, "pairs dim"]


@dataclass(frozen=True)
class Execution:
    """How a run is carried out, which changes what it learns by rounding at most.

    `checkpoint`: a file written after every `every` steps, from which the same call continues. `bf16`: pre-activations
    from which atoms are chosen are bfloat16 (values, weights and the optimiser stay float32). `compile`:
    `torch.compile` the forward pass; on CUDA only.
    """

    checkpoint: Path | None = None
    every: int = 500
    bf16: bool = False
    compile: bool = False


def mix_waveforms(audio: Float[Tensor, "clips samples"], pairs: int, settings: AtomSettings, seed: int) -> Mixtures:
    """Patches of `pairs` random pairs of clips, scaled to equal loudness and summed in the air."""
    draw = torch.Generator().manual_seed(seed)
    audio = audio / audio.square().mean(-1, keepdim=True).sqrt().clamp_min(1e-4)
    first = audio[torch.randint(len(audio), (pairs,), generator=draw)]
    second = audio[torch.randint(len(audio), (pairs,), generator=draw)]
    return Mixtures(*(patches(sound, settings).flatten(0, 1) for sound in (first, second, first + second)))


def consistency_loss(model: SparseCoder, mixtures: Mixtures, index: Tensor) -> Tensor:
    """|encode(a + b) - max(encode(a), encode(b))|² over |max|²: a mixture should hold its parts' atoms."""
    return _share(*_consistency(model, mixtures, index))


def train_sae(
    x: Data,
    settings: AtomSettings,
    seed: int,
    *,
    mixtures: Mixtures | None = None,
    config: CoderConfig | None = None,
    coder: SparseCoder | None = None,
    execution: Execution | None = None,
) -> tuple[Any, pd.DataFrame]:
    """Fit a sparse coder to vectors `x`; returns it and its history (step, fvu, auxk, consistency, dead).

    `x` is (count, dim), or a sequence of such shards, which are read when needed. `coder` is an untrained coder, or
    `config` the shape of one; else it has the `recipe` of `settings`.
    Loss: weighted mean over stages of |r_s|² / Var(x), plus AuxK (the residual rebuilt from dead atoms, Gao et al.
    2024), plus the mixture consistency where `mixtures` are given. Adam, warm-up, linear decay over the last 30 %.
    Under torchrun every process takes its part of batches of `settings.batch` times the processes.
    Raises `CoderError` for bad input and `DivergedError` when the loss stops being finite.
    """
    if coder is None:
        coder = _coder_of(config or recipe(shards(x)[0].shape[-1], settings), seed)
    return _Training(coder, x, settings, seed, mixtures, execution or Execution()).run()


def _coder_of(config: CoderConfig, seed: int) -> SparseCoder:
    kinds = [kind for kind in SparseCoder.kinds.values() if kind.config_class is type(config)]
    return kinds[0](config, seed)  # pyright: ignore[reportAbstractUsage]


class _Training:
    """One run: what it holds between steps, and how to take one."""

    def __init__(
        self, coder: SparseCoder, x: Data, settings: AtomSettings, seed: int, mixtures: Mixtures | None, how: Execution
    ) -> None:
        self.x, self.settings, self.seed, self.mixtures, self.how = x, settings, seed, mixtures, how
        self.rank, self.processes, self.device = _place()
        self.coder = coder
        self.variance = coder.fit_scaling(x) or 1.0
        coder.to(self.device).train()
        if how.compile and self.device.type == "cuda":
            coder.compile()
        self.optimizer = torch.optim.Adam(
            [p for p in coder.parameters() if p.requires_grad], lr=settings.learning_rate, fused=True
        )
        count = sum(len(shards(x)[number]) for number in range(len(shards(x))))
        self.steps = max(1, settings.epochs * count // (settings.batch * self.processes))
        self.silent_for = torch.zeros(coder.config.atoms, device=self.device)
        self.draw = torch.Generator().manual_seed(seed)
        self.history: list[dict[str, float]] = []
        self.made = json.dumps(
            [type(coder).__name__, asdict(coder.config), asdict(settings), seed, count, self.processes]
        )

    def run(self) -> tuple[SparseCoder, pd.DataFrame]:
        """Take all steps that are left."""
        first = self._resume()
        size = self.settings.batch
        source = batches(self.x, size * self.processes, self.seed, first)
        quiet = True if self.rank else None
        for step in tqdm(
            range(first, self.steps),
            desc="sparse autoencoder",
            unit="step",
            disable=quiet,
            initial=first,
            total=self.steps,
        ):
            batch = next(source)[self.rank * size : (self.rank + 1) * size]
            self._step(step, batch.to(self.device, torch.float32, non_blocking=True))
            if (step + 1) % self.how.every == 0 or step + 1 == self.steps:
                self._save(step + 1)
        return self.coder.cpu().eval(), pd.DataFrame(self.history)

    def _step(self, step: int, batch: Tensor) -> None:
        coder, settings = self.coder, self.settings
        rate = min(
            1.0,
            (step + 1) / min(_WARMUP_STEPS, 1 + self.steps // 20),
            (self.steps - step) / (_DECAY_SHARE * self.steps),
        )
        for group in self.optimizer.param_groups:
            group["lr"] = settings.learning_rate * rate
        coder.progress(step / self.steps)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.how.bf16):
            out = coder(batch)
            fractions = [residual.square().sum(-1).mean() / self.variance for residual in out.residuals]
            loss = torch.stack([w * f for w, f in zip(coder.loss_weights, fractions, strict=True) if w]).sum()
            dead = self.silent_for > _DEAD_AFTER
            auxk = consistency = torch.zeros((), device=self.device)
            if settings.auxk_weight and bool(dead.any()):
                auxk = _share(*_auxk(coder, out, dead))
                loss = loss + settings.auxk_weight * auxk
            if self.mixtures is not None and settings.consistency_weight:
                part = settings.batch // 4
                index = torch.randint(len(self.mixtures.both), (part * self.processes,), generator=self.draw)
                index = index[self.rank * part : (self.rank + 1) * part]
                consistency = _share(*_consistency(coder, self.mixtures, index))
                loss = loss + settings.consistency_weight * consistency
        told = step % _LOG_EVERY == 0 or step == self.steps - 1
        # on CUDA a look at the loss waits for the device, so one is taken only when a row is written anyway
        if (told or self.device.type == "cpu") and not bool(torch.isfinite(loss)):
            raise DivergedError(
                f"training diverged at step {step}: choose a smaller learning_rate than {settings.learning_rate:g}"
            )
        self.optimizer.zero_grad()
        loss.backward()
        for parameter in coder.parameters():
            if parameter.grad is not None:
                _mean(parameter.grad)
        self.optimizer.step()
        coder.normalize_dictionary()
        coder.observe(out)
        fired = torch.zeros_like(self.silent_for)
        fired[out.index[out.value > 0]] = 1
        if dist.is_initialized():
            dist.all_reduce(fired, dist.ReduceOp.MAX)
        self.silent_for = (self.silent_for + len(batch) * self.processes) * (1 - fired)
        if told:
            row = _mean(torch.stack([fractions[-1], auxk, consistency, dead.float().mean()]).detach())
            names = ("fvu", "auxk", "consistency", "dead")
            row_of: dict[str, float] = dict(zip(names, row.tolist(), strict=True))
            self.history.append({"step": step, **row_of})

    def _save(self, step: int) -> None:
        file = self.how.checkpoint
        if file is None or self.rank:
            return
        draft = file.with_name(file.name + ".partial")
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(
            {
                "made": self.made, "step": step, "coder": self.coder.state_dict(), "history": self.history,
                "optimizer": self.optimizer.state_dict(), "silent_for": self.silent_for, "draw": self.draw.get_state(),
            },
            draft,
        )  # fmt: skip
        draft.replace(file)

    def _resume(self) -> int:
        """The step to continue from: 0, or that of the checkpoint."""
        file = self.how.checkpoint
        if file is None or not file.is_file():
            return 0
        held = torch.load(file, map_location=self.device, weights_only=True)
        if held["made"] != self.made:
            raise CoderError(
                f"checkpoint {file} is of another run (shape, settings, seed or data): remove it or name another"
            )
        self.coder.progress((held["step"] - 1) / self.steps)
        self.coder.load_state_dict(held["coder"])
        self.optimizer.load_state_dict(held["optimizer"])
        self.silent_for, self.history = held["silent_for"], held["history"]
        self.draw.set_state(held["draw"].cpu())
        return held["step"]


def _auxk(coder: SparseCoder, out: Decomposition, dead: Tensor) -> tuple[Tensor, Tensor]:
    """Square of what the dead atoms fail to rebuild of the last residual when they alone are asked; and its own."""
    among = dead.nonzero()[:, 0]
    given, target = out.before_last.detach(), out.residuals[-1].detach()
    scores = coder.scores(given, among=among)
    index = among[scores.topk(min(2 * coder.config.active, len(among)), dim=-1, sorted=False).indices]
    rebuilt = combine(torch.relu(coder.values(given, index)), index, coder.dictionary)
    return (target - rebuilt).square().sum(), target.square().sum()


def _consistency(model: SparseCoder, mixtures: Mixtures, index: Tensor) -> tuple[Tensor, Tensor]:
    """|z(a + b) - m|² and |m|² with m the greater of z(a) and z(b), by the slots in which they are not 0."""
    device = model.mean.device
    with torch.no_grad():
        parts = [model(part[index].to(device)) for part in (mixtures.first, mixtures.second)]
        (i_a, a), (i_b, b) = (merge_repeats(part.index, part.value) for part in parts)
        in_a = torch.maximum(a, look_up(i_b, b, i_a)) * (a > 0)
        only_b = b * (look_up(i_a, a, i_b) == 0)
        target, at = torch.cat([in_a, only_b], 1), torch.cat([i_a, i_b], 1)
    out = model(mixtures.both[index].to(device))
    at_ab, z = merge_repeats(out.index, out.value)
    # |z - m|² = |z|² - 2 z·m + |m|²
    cross = (z * look_up(at, target, at_ab)).sum()
    size = target.square().sum()
    return z.square().sum() - 2 * cross + size, size


def _share(part: Tensor, whole: Tensor) -> Tensor:
    """part / whole, where `whole` counts the mean over processes, so that their gradients' mean is that of all rows."""
    return part / _mean(whole.detach().clone()).clamp_min(1e-6)


def _mean(x: Tensor) -> Tensor:
    """`x`, in place, as the mean over all processes."""
    if dist.is_initialized():
        dist.all_reduce(x)
        x /= dist.get_world_size()
    return x


def _place() -> tuple[int, int, torch.device]:
    """(rank, processes, device) of this process; joins the others when started by torchrun."""
    cuda = torch.cuda.is_available()
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if cuda else torch.device("cpu")
    if processes == 1:
        return 0, 1, device
    if not dist.is_initialized():
        dist.init_process_group("nccl" if cuda else "gloo")
    return dist.get_rank(), processes, device
