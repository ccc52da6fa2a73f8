"""`SphereFlow`: a conditional probability density over the Earth, to sample from, evaluate and draw."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from avgeo.flow.base import Base, Uniform
from avgeo.flow.network import Condition, ConditionEncoder, VelocityField
from avgeo.flow.solver import integrate, integrate_back
from avgeo.paths import write_text
from avgeo.profiles import FlowSettings
from avgeo.sphere import (
    EARTH_AREA_KM2,
    SPHERE_AREA,
    fibonacci_grid,
    geodesic_median,
    sample_uniform,
    sample_vmf,
    uniform_log_density,
    vmf_log_prob,
)

_WEIGHTS = "flow.safetensors"
_CONFIG = "config.json"
_CHUNK = 8192


class SphereFlow(nn.Module):
    """p(place | sound, sight, proposal) as the flow of a tangent field from a base law on S², uniform by default.

    `guidance` g, wherever it is asked for, flows along v(x) + g (v(x | c) - v(x)), v(x) being the field of no condition
    (Ho & Salimans 2022): 1 is the learned law, above 1 the condition counts for more. Whatever g, what is sampled and
    what `log_prob` tells are one law that integrates to one; for g other than 1 it is no longer the learned posterior.
    """

    def __init__(
        self, settings: FlowSettings, sounds: int, sights: int, seed: int = 0, base: Base | None = None
    ) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.settings = settings
        self.sounds = sounds
        self.sights = sights
        self.base = base or Uniform()
        self.encoder = ConditionEncoder(settings, sounds, sights)
        self.field = VelocityField(settings, seed)

    @torch.no_grad()
    def sample(
        self, condition: Condition, n: int, *, seed: int = 0, steps: int | None = None, guidance: float = 1.0
    ) -> Float[Tensor, "batch n 3"]:
        """`n` places drawn for each clip of `condition`: (batch, n, 3) unit vectors."""
        code, free = self._codes(condition, guidance)
        start = self.base.sample(len(code) * n, torch.Generator().manual_seed(seed)).to(code)
        places = []
        for rows, owner in _chunks(len(code), n):
            field = _Guided(self.field, code[owner], free, guidance)
            places.append(integrate(field, start[rows], steps or self.settings.solver_steps))
        return torch.cat(places).reshape(len(code), n, 3) if places else start.reshape(len(code), n, 3)

    @torch.no_grad()
    def log_prob(
        self,
        points: Float[Tensor, "batch 3"],
        condition: Condition,
        *,
        steps: int | None = None,
        guidance: float = 1.0,
    ) -> Float[Tensor, " batch"]:
        """log p(point | condition), one point per clip, in nats with respect to the unit sphere's area."""
        if len(points) != len(condition):
            raise ValueError(f"points has {len(points)} rows and condition {len(condition)}: give one point per clip")
        return self._log_prob(points, *self._codes(condition, guidance), steps, guidance)

    @torch.no_grad()
    def density_grid(
        self, condition: Condition, *, count: int = 6000, steps: int | None = None, guidance: float = 1.0
    ) -> tuple[Float[Tensor, "count 3"], Float[Tensor, "batch count"]]:
        """Each clip on an equal-area grid: (points, log densities in nats with respect to the unit sphere's area)."""
        code, free = self._codes(condition, guidance)
        grid = fibonacci_grid(count).to(code)
        rows = [self._log_prob(grid, row.expand(count, -1), free, steps, guidance) for row in code]
        return grid, torch.stack(rows)

    def _codes(self, condition: Condition, guidance: float) -> tuple[Tensor, Tensor | None]:
        """The condition's code, and that of no condition (1, condition) where guidance needs it."""
        if not (math.isfinite(guidance) and guidance >= 0):
            raise ValueError(f"guidance must be a number of at least 0, got {guidance}")
        code = self.encoder(condition)
        return code, None if guidance == 1 else self.encoder(condition[:1].only())

    def _log_prob(
        self, points: Tensor, code: Tensor, free: Tensor | None, steps: int | None, guidance: float
    ) -> Tensor:
        out = []
        for start in range(0, len(points), _CHUNK):
            rows = slice(start, start + _CHUNK)
            field = _Guided(self.field, code[rows], free, guidance)
            back, total = integrate_back(
                field, field.with_divergence, points[rows], steps or self.settings.solver_steps
            )
            out.append(self.base.log_prob(back) - total)
        return torch.cat(out) if out else points[:, 0]

    def save_pretrained(self, folder: Path) -> None:
        """Write `flow.safetensors` and `config.json`."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.contiguous() for name, tensor in self.state_dict().items()}, folder / _WEIGHTS)
        config = {"settings": asdict(self.settings), "sounds": self.sounds, "sights": self.sights}
        write_text(folder / _CONFIG, json.dumps(config | {"base": type(self.base).__name__}, indent=1) + "\n")

    @classmethod
    def from_pretrained(cls, folder: Path) -> SphereFlow:
        """Load what `save_pretrained` wrote."""
        config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
        settings: dict[str, Any] = config["settings"]
        settings["scales"] = tuple(settings["scales"])
        weights = load_file(folder / _WEIGHTS)
        own = {name.removeprefix("base."): tensor for name, tensor in weights.items() if name.startswith("base.")}
        base = Base.kinds[config["base"]].of_tensors(own)
        flow = cls(FlowSettings(**settings), config["sounds"], config["sights"], base=base)
        flow.load_state_dict(weights)
        return flow.eval()


@dataclass(frozen=True)
class _Guided:
    """The field given one code per point; with `free`, pushed away from the field of that code."""

    field: VelocityField
    code: Tensor
    free: Tensor | None
    guidance: float

    def __call__(self, points: Tensor, time: float) -> Tensor:
        """Velocities (n, 3)."""
        velocity = self.field(points, self._modulation(self.code, time))
        if self.free is None:
            return velocity
        without = self.field(points, self._modulation(self.free, time))
        return without + self.guidance * (velocity - without)

    def with_divergence(self, points: Tensor, time: float, frame: Tensor) -> tuple[Tensor, Tensor]:
        """Velocities (n, 3) and divergences (n,)."""
        found = self.field.with_divergence(points, self._modulation(self.code, time), frame)
        if self.free is None:
            return found
        without = self.field.with_divergence(points, self._modulation(self.free, time), frame)
        velocity, divergence = (free + self.guidance * (own - free) for own, free in zip(found, without, strict=True))
        return velocity, divergence

    def _modulation(self, code: Tensor, time: float) -> Tensor:
        return self.field.modulation(torch.full((len(code),), time, device=code.device), code)


def _chunks(batch: int, n: int):
    """Slices of the flattened (batch * n) samples, each with the clip that owns every sample."""
    for start in range(0, batch * n, _CHUNK):
        stop = min(start + _CHUNK, batch * n)
        yield slice(start, stop), torch.arange(start, stop) // n


@dataclass(frozen=True)
class Summary:
    """One posterior in a few numbers: a point, credible regions (mass, area in km²) and its entropy in bits."""

    estimate: Tensor
    regions: list[tuple[float, float]]
    entropy_bits: float


def point_estimate(samples: Float[Tensor, "*batch n 3"]) -> Float[Tensor, "*batch 3"]:
    """The geodesic median of the samples: the place with least expected distance in km."""
    return geodesic_median(samples)


def summarize(
    samples: Float[Tensor, "n 3"], log_prob: Float[Tensor, " n"], masses: tuple[float, ...] = (0.5, 0.9)
) -> Summary:
    """Point, highest-density regions and entropy from samples and their own log densities, at any resolution.

    A region of mass m is {p >= q}, q the (1 - m) quantile of p over its own samples; its area is the importance
    estimate E_p[1{p >= q} / p]. The entropy is relative to the uniform law: 0 bits is "anywhere on Earth", -k bits a
    region 2^k times smaller.
    """
    regions = []
    for mass in masses:
        inside = log_prob >= torch.quantile(log_prob, 1 - mass)
        steradians = torch.where(inside, torch.exp(-log_prob), 0.0).mean()
        regions.append((mass, min(float(steradians) / SPHERE_AREA, 1.0) * EARTH_AREA_KM2))
    entropy_bits = float(uniform_log_density() - log_prob.mean()) / math.log(2)
    return Summary(point_estimate(samples), regions, entropy_bits)


def total_probability(
    flow: SphereFlow,
    condition: Condition,
    *,
    count: int = 4000,
    seed: int = 0,
    steps: int | None = None,
    guidance: float = 1.0,
) -> tuple[float, float]:
    """∫ p dA for one clip by importance sampling, and its standard error: it must be 1 on every trained model.

    The proposal is half uniform, half vMF kernels of three widths around samples of the flow itself, because a grid
    misses a density that is sharper than its cells.
    """
    draw = torch.Generator().manual_seed(seed)
    centers = flow.sample(condition, 256, seed=seed + 1, steps=steps, guidance=guidance)[0]
    kappas = (30.0, 1e3, 3e4)
    picked = centers[torch.randint(len(centers), (count // 2,), generator=draw)]
    near = torch.cat([sample_vmf(part, kappa, draw) for part, kappa in zip(picked.chunk(3), kappas, strict=True)])
    points = torch.cat([sample_uniform(count - len(near), draw), near])
    kernels = [
        torch.logsumexp(vmf_log_prob(points[:, None], centers[None], kappa), -1) - math.log(len(centers) * len(kappas))
        for kappa in kappas
    ]
    uniform = torch.full((count,), uniform_log_density())
    log_proposal = torch.logaddexp(uniform, torch.logsumexp(torch.stack(kernels), 0)) + math.log(0.5)
    rows = torch.zeros(count, dtype=torch.long)
    ratio = torch.exp(flow.log_prob(points, condition[rows], steps=steps, guidance=guidance) - log_proposal)
    return float(ratio.mean()), float(ratio.std() / math.sqrt(count))
