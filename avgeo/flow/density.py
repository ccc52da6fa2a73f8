"""`SphereFlow`: a conditional probability density over the Earth, to sample from, evaluate and draw."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from avgeo.flow.base import Base, Uniform
from avgeo.flow.cells import CellDensity, refine
from avgeo.flow.integral import Integral, integral
from avgeo.flow.likelihood import draw_probes, grid_probabilities, hutchinson, log_likelihood
from avgeo.flow.network import Condition, ConditionEncoder, VelocityField
from avgeo.flow.solver import evaluation_times, integrate
from avgeo.paths import write_text
from avgeo.profiles import FlowSettings
from avgeo.sphere import SPHERE_AREA, geodesic_median

_WEIGHTS = "flow.safetensors"
_CONFIG = "config.json"
_CHUNK = 8192
_CELL_LIMIT = 200_000  # a density as rough as the network can make it asks for 20,000 evaluations


class SphereFlow(nn.Module):
    """p(place | sound, sight, proposal) as the flow of a tangent field from a base law on S², uniform by default.

    `guidance` g, wherever it is asked for, flows along v(x) + g (v(x | c) - v(x)), v(x) being the field of no condition
    (Ho & Salimans 2022): 1 is the learned law, above 1 the condition counts for more. Whatever g, what is sampled and
    what `log_prob` tells are one law that integrates to one; for g other than 1 it is no longer the learned posterior.
    `steps` are the solver's ("adams" of `avgeo.flow.solver`), `settings.solver_steps` by default.
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
        start = self.base.sample(len(condition) * n, torch.Generator().manual_seed(seed)).to(self.field.frequencies)
        owner = torch.arange(len(condition)).repeat_interleave(n)
        times = evaluation_times(self._steps(steps))
        places = [
            integrate(field, start[rows], self._steps(steps))
            for rows, field in self._fields(condition, owner, guidance, times)
        ]
        return torch.cat([*places, start[:0]]).reshape(len(condition), n, 3)

    @torch.no_grad()
    def log_prob(
        self,
        points: Float[Tensor, "n 3"],
        condition: Condition,
        *,
        steps: int | None = None,
        guidance: float = 1.0,
        hutchinson_seed: int | None = None,
    ) -> Float[Tensor, " n"]:
        """log p(point | condition) in nats with respect to the unit sphere's area: one clip a point, or one for all.

        Exact, unless `hutchinson_seed` asks for the unbiased estimate that costs two thirds
        (`avgeo.flow.likelihood.hutchinson`). Raises `CoordinateError` for points that are not on the sphere.
        """
        if len(condition) not in (1, len(points)):
            raise ValueError(
                f"points has {len(points)} rows and condition {len(condition)}: give one clip for all, or one a point"
            )
        points = points.to(self.field.frequencies)
        probes = None
        if hutchinson_seed is not None:
            probes = draw_probes(len(points), torch.Generator().manual_seed(hutchinson_seed)).to(points)
        owner = torch.arange(len(points)) if len(condition) > 1 else torch.zeros(len(points), dtype=torch.long)
        out = []
        times = evaluation_times(self._steps(steps), backwards=True)
        for rows, field in self._fields(condition, owner, guidance, times):
            divergence = field.with_divergence if probes is None else hutchinson(field.with_divergence, probes[rows])
            found = log_likelihood(field, divergence, points[rows], self._steps(steps), base=self.base.log_prob)
            out.append(found)
        return torch.cat([*out, points[:0, 0]])

    @torch.no_grad()
    def density_grid(
        self, condition: Condition, *, count: int = 6000, steps: int | None = None, guidance: float = 1.0
    ) -> tuple[Float[Tensor, "count 3"], Float[Tensor, "batch count"]]:
        """Each clip's mean log densities over the cells of an equal-area grid, for maps: (points, log densities).

        From the probability that flows into every cell (`avgeo.flow.likelihood.grid_probabilities`): half the cost of
        `log_prob` there, and no peak falls between the points.
        """
        steps, like = self._steps(steps), self.field.frequencies
        times, each = evaluation_times(steps, backwards=True), torch.arange(len(condition))
        found = [
            grid_probabilities(field, count, steps, base=self.base.log_prob, like=like)
            for _, field in self._fields(condition, each, guidance, times, chunk=1)
        ]
        return found[0][0], torch.stack([mass for _, mass in found]).log() + math.log(count / SPHERE_AREA)

    @torch.no_grad()
    def cell_density(
        self,
        condition: Condition,
        samples: Float[Tensor, "n 3"],
        *,
        steps: int | None = None,
        guidance: float = 1.0,
        tolerance: float = 2e-2,
    ) -> CellDensity:
        """One clip's exact density on cells that are small where it is large (`avgeo.flow.cells.refine`).

        `samples` of it say where that is. For credible regions with outlines, countries, the mode.
        """

        def log_prob(points: Tensor) -> Tensor:
            return self.log_prob(points, condition, steps=steps, guidance=guidance)

        if len(condition) != 1:
            raise ValueError(f"condition has {len(condition)} clips: cells are of one")
        return refine(log_prob, samples, tolerance=tolerance, cell_mass=2e-3, limit=_CELL_LIMIT)

    def _steps(self, steps: int | None) -> int:
        return self.settings.solver_steps if steps is None else steps

    def _fields(
        self, condition: Condition, owner: Tensor, guidance: float, times: Sequence[float], chunk: int = _CHUNK
    ) -> Iterator[tuple[slice, _Guided]]:
        """The points in chunks, each with its field; `owner` (n,) says which clip each point is of.

        `times` are those at which the fields will be asked.
        """
        if not (math.isfinite(guidance) and guidance >= 0):
            raise ValueError(f"guidance must be a number of at least 0, got {guidance}")
        condition.check(self.sounds, self.sights)
        code = self.encoder(condition)
        free = None
        if guidance != 1:
            free = _Told.of(self.field, self.encoder(condition[:1].only()), owner[:0].to(code.device), times)
        for start in range(0, len(owner), chunk):
            rows = slice(start, min(start + chunk, len(owner)))
            clips, which = owner[rows].unique(return_inverse=True)
            own = _Told.of(self.field, code[clips], which.to(code.device), times)
            yield rows, _Guided(self.field, own, free, guidance)

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
class _Told:
    """What the field is told of the clips its points belong to: codes (clips, condition), and whose each point is."""

    field: VelocityField
    code: Tensor
    owner: Tensor
    ready: dict[float, Tensor]

    @classmethod
    def of(cls, field: VelocityField, code: Tensor, owner: Tensor, times: Sequence[float]) -> _Told:
        """One clip's modulations at all `times` are made at once: one by one they cost as much as the solver's work."""
        if len(code) > 1 or not times:
            return cls(field, code, owner, {})
        films = field.modulation(torch.tensor(times, device=code.device), code.expand(len(times), -1))
        return cls(field, code, owner, dict(zip(times, films.split(1), strict=True)))

    def at(self, time: float) -> Tensor:
        """The modulation at a time, once a clip; one clip's serves all points as it is."""
        found = self.ready.get(time)
        if found is None:
            found = self.field.modulation(torch.full((len(self.code),), time, device=self.code.device), self.code)
        return found if len(self.code) == 1 else found[self.owner]


@dataclass(frozen=True)
class _Guided:
    """The field of points that belong to few clips; with `free`, pushed away from the field of that code."""

    field: VelocityField
    own: _Told
    free: _Told | None
    guidance: float

    def __call__(self, points: Tensor, time: float) -> Tensor:
        """Velocities (n, 3)."""
        velocity = self.field(points, self.own.at(time))
        if self.free is None:
            return velocity
        without = self.field(points, self.free.at(time))
        return without + self.guidance * (velocity - without)

    def with_divergence(self, points: Tensor, time: float, frame: Tensor) -> tuple[Tensor, Tensor]:
        """Velocities (n, 3) and divergences (n,)."""
        found = self.field.with_divergence(points, self.own.at(time), frame)
        if self.free is None:
            return found
        without = self.field.with_divergence(points, self.free.at(time), frame)
        velocity, divergence = (free + self.guidance * (own - free) for own, free in zip(found, without, strict=True))
        return velocity, divergence


def point_estimate(samples: Float[Tensor, "*batch n 3"]) -> Float[Tensor, "*batch 3"]:
    """The geodesic median of the samples: the place with least expected distance in km."""
    return geodesic_median(samples)


def total_probability(
    flow: SphereFlow,
    condition: Condition,
    *,
    count: int = 4000,
    seed: int = 0,
    steps: int | None = None,
    guidance: float = 1.0,
) -> Integral:
    """∫ p dA for one clip (`avgeo.flow.integral`): it must be 1 on every trained model."""

    def log_prob(points: Tensor) -> Tensor:
        return flow.log_prob(points, condition, steps=steps, guidance=guidance)

    samples = flow.sample(condition, 256, seed=seed, steps=steps, guidance=guidance)[0]
    return integral(log_prob, samples, count=count, seed=seed)
