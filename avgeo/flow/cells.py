"""A density on cells that are small where its mass is: an equal-area grid of the Earth, refined where it must be.

A cell is a rectangle in longitude and z = sin(latitude). By Archimedes' hat-box theorem its area is its width times
its height, exactly, so that halving either side halves the area, at the poles as anywhere. No cell crosses the date
line, and in degrees every cell is again a rectangle, so that a set of cells is a GeoJSON polygon as it stands.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float64, Int64
from scipy.spatial import KDTree
from torch import Tensor

from avgeo.sphere import check_points

LogDensity = Callable[[Float64[Tensor, "n 3"]], Float[Tensor, " n"]]
"""Unit vectors (n, 3), float64, to log densities (n,) in nats with respect to the unit sphere's area."""

_LEAST_AREA = 1e-12  # steradians, 6 m across: less is below what float32 points can tell apart
_SAMPLES_IN_CELL = 4
_NEIGHBOURS, _STEEP, _SHARE_UNSEEN = 4, 1.5, 0.1


class PosteriorError(ValueError):
    """A posterior that cannot be read; the message names the argument and the cure."""


@dataclass(frozen=True)
class Cells:
    """Rectangles (west, east, south, north): longitudes in radians from -π to π, south and north as sin(latitude)."""

    bounds: Float64[Tensor, "n 4"]

    def __len__(self) -> int:
        return len(self.bounds)

    @property
    def area(self) -> Float64[Tensor, " n"]:
        """Steradians; all cells together make 4π."""
        west, east, south, north = self.bounds.unbind(-1)
        return (east - west) * (north - south)

    @property
    def points(self) -> Float64[Tensor, "n 3"]:
        """Each cell's middle (by area), unit vectors."""
        middle = torch.full((len(self),), 0.5, dtype=torch.float64)
        return self.inside(middle, middle)

    def inside(self, across: Float64[Tensor, " n"], up: Float64[Tensor, " n"]) -> Float64[Tensor, "n 3"]:
        """A point of each cell, at these shares of the way from west to east and from south to north, by area."""
        west, east, south, north = self.bounds.unbind(-1)
        return _unit(west + across * (east - west), south + up * (north - south))

    def quartered(self) -> Cells:
        """Every cell in four of a quarter of its area, as square as can be; those of cell i at 4i to 4i + 3."""
        return Cells(_halved(_halved(self.bounds)))

    def at(self, points: Float[Tensor, "m 3"], among: Int64[Tensor, "m few"]) -> Int64[Tensor, " m"]:
        """Which of the cells `among` (numbers of cells, one of which must hold the point) each point lies in."""
        longitude = torch.atan2(points[:, 1], points[:, 0])[:, None].double()
        west, east, south, north = self.bounds[among].unbind(-1)
        z = points[:, 2:].double()
        # How far outside: 0 within, and the least where rounding has put a point of the border outside of all.
        outside = (west - longitude).relu() + (longitude - east).relu() + (south - z).relu() + (z - north).relu()
        return torch.take_along_dim(among, outside.argmin(-1, keepdim=True), -1).squeeze(-1)


@dataclass(frozen=True)
class CellDensity:
    """A density known at the middle of every cell and taken as constant over it, and what it cost to know it."""

    cells: Cells
    log_prob: Float64[Tensor, " n"]
    evaluations: int

    @property
    def total(self) -> float:
        """∫ p dA as the cells see it, by the midpoint rule: 1 for a density, to the rule's accuracy."""
        return float(torch.exp(torch.logsumexp(self.log_prob + self.cells.area.log(), 0)))

    def sample(self, n: int, *, seed: int = 0) -> Float64[Tensor, "n 3"]:
        """`n` places: a cell by its mass, and a place in it by area."""
        return self.draw(n, torch.Generator().manual_seed(seed))[0]

    def draw(self, n: int, generator: torch.Generator) -> tuple[Float64[Tensor, "n 3"], Float64[Tensor, " n"]]:
        """`n` places and their log densities by the cells, made to integrate to one."""
        if n < 1:
            raise PosteriorError(f"n must be at least 1, got {n}")
        log_area = self.cells.area.log()
        log_mass = torch.log_softmax(self.log_prob + log_area, 0)
        chosen = torch.multinomial(log_mass.exp(), n, True, generator=generator)
        at = torch.rand(2, n, generator=generator, dtype=torch.float64)
        return Cells(self.cells.bounds[chosen]).inside(*at), (log_mass - log_area)[chosen]


def even_cells(count: int) -> Cells:
    """About `count` cells of exactly equal area, nearly square, in rings about the poles (after Leopardi 2006)."""
    if count < 6:
        raise PosteriorError(f"count must be at least 6, got {count}: 1500 cells are 580 km across")
    rings = round(math.sqrt(math.pi * count) / 2)
    middle = (torch.arange(rings, dtype=torch.float64) + 0.5) * math.pi / rings
    in_ring = (2 * rings * middle.sin()).round().clamp_min(3).long()
    edge = 1 - 2 * torch.cat([torch.zeros(1), in_ring.cumsum(0)]).double() / int(in_ring.sum())
    bounds = []
    for north, south, number in zip(edge[:-1], edge[1:], in_ring.tolist(), strict=True):
        longitude = torch.linspace(-math.pi, math.pi, number + 1, dtype=torch.float64)
        rows = south.expand(number), north.expand(number)
        bounds.append(torch.stack([longitude[:-1], longitude[1:], *rows], -1))
    return Cells(torch.cat(bounds))


def refine(
    log_prob: LogDensity,
    samples: Float[Tensor, "m 3"] | None = None,
    *,
    count: int = 400,
    cell_mass: float = 1 / 1000,
    tolerance: float = 1e-3,
    limit: int = 50_000,
) -> CellDensity:
    """A density on cells that hold at most `cell_mass` each and integrate it well, from few evaluations.

    Starts from `count` even cells, quartered once, and quarters (i) cells that hold more than a few of the `samples`,
    or one where the density is far above that in the cell's middle, (ii) cells of more than `cell_mass` of the whole,
    and (iii) the worst cells, until the errors of all, taken as positive, sum to at most `tolerance` of the whole. A
    cell's error is estimated from the last quartering (Richardson), or, where the density falls off steeply from a cell
    beside it, from what it may hide. Without `samples` a peak much narrower than the first cells is missed beside a
    broad one: give some of the density's own.
    Raises `PosteriorError` on NaN and beyond `limit` evaluations, `CoordinateError` for samples off the sphere.
    """
    if samples is None:
        samples = torch.zeros(0, 3, dtype=torch.float64)
    else:
        check_points(samples, "samples")
        samples = samples.cpu()
    heights = values_at(log_prob, samples.double())
    cells = even_cells(count)
    parents = values_at(log_prob, cells.points)
    spent = len(cells) + len(samples)
    parent_mass = parents + cells.area.log()
    cells = cells.quartered()
    values = values_at(log_prob, cells.points)
    spent += len(cells)
    error = _log_error(parent_mass, values + cells.area.log())
    owner = cells.at(samples, torch.arange(len(cells)).expand(len(samples), -1))
    while True:
        log_mass = values + cells.area.log()
        whole = torch.logsumexp(log_mass, 0)
        nowhere = bool(torch.isneginf(whole))  # yet: samples may lead there
        whole = torch.zeros(()) if nowhere else whole
        split = (log_mass - whole).exp() > cell_mass
        split |= torch.bincount(owner, minlength=len(cells)) > _SAMPLES_IN_CELL
        split[owner[heights - values[owner] > _STEEP]] = True
        unseen = _cliff(cells, values) + cells.area.log() + math.log(_SHARE_UNSEEN)
        split |= _worst((torch.maximum(error, unseen) - whole).exp(), tolerance)
        split &= cells.area > _LEAST_AREA
        if not bool(split.any()):
            if nowhere:
                raise PosteriorError("log_prob is -inf at every cell and sample: give samples of it, to find the mass")
            return CellDensity(cells, values, spent)
        spent += 4 * int(split.sum())
        if spent > limit:
            raise PosteriorError(
                f"log_prob needs more than limit={limit} evaluations: raise limit, cell_mass or tolerance"
            )
        children = Cells(cells.bounds[split]).quartered()
        fresh = values_at(log_prob, children.points)
        owner = _handed_down(owner, split, samples, children)
        kept = ~split
        error = torch.cat([error[kept], _log_error(log_mass[split], fresh + children.area.log())])
        values = torch.cat([values[kept], fresh])
        cells = Cells(torch.cat([cells.bounds[kept], children.bounds]))


def values_at(log_prob: LogDensity, points: Float64[Tensor, "n 3"]) -> Float64[Tensor, " n"]:
    """Log densities at points, in float64; `PosteriorError` unless they are one number each below infinity."""
    if not len(points):
        return points.new_zeros(0)
    values = log_prob(points).cpu().double()
    if values.shape != (len(points),):
        raise PosteriorError(f"log_prob returned shape {tuple(values.shape)} for {len(points)} points: one value each")
    if bool((values.isnan() | (values == math.inf)).any()):
        raise PosteriorError("log_prob returned NaN or infinity: check the model and its condition")
    return values


def _log_error(parent: Float64[Tensor, " m"], children: Float64[Tensor, " 4*m"]) -> Float64[Tensor, " 4*m"]:
    """Log of each child's share of what the midpoint rule is off by: (parent - Σ children) / 3 over the four."""
    by_parent = children.reshape(-1, 4)
    top = torch.maximum(parent, by_parent.amax(-1)).clamp_min(-1e300)  # so that -inf less -inf is no NaN
    off = ((parent - top).exp() - (by_parent - top[:, None]).exp().sum(-1)).abs() / 12
    return (off.log() + top).repeat_interleave(4)


def _cliff(cells: Cells, values: Float64[Tensor, " n"]) -> Float64[Tensor, " n"]:
    """The highest log density beside each cell where that is so much above its own that it may hide mass, else -inf."""
    west, east, south, north = cells.bounds.T[..., None]
    # Asked from its corners and edges: a wide cell's own middle is far from small cells that touch it.
    rim = torch.tensor([[x, y] for x in (0.0, 0.5, 1.0) for y in (0.0, 0.5, 1.0) if (x, y) != (0.5, 0.5)]).double()
    looks = _unit(west + (east - west) * rim[:, 0], south + (north - south) * rim[:, 1]).numpy()
    near = torch.from_numpy(KDTree(cells.points.numpy()).query(looks, k=_NEIGHBOURS)[1])
    highest = values[near].reshape(len(cells), -1).amax(-1)
    return torch.where(highest - values > _STEEP, highest, -math.inf)


def _worst(error: Float64[Tensor, " n"], tolerance: float) -> Bool[Tensor, " n"]:
    """The cells with the largest errors, without which the errors sum to less than `tolerance`."""
    if float(error.sum()) <= tolerance:
        return torch.zeros_like(error, dtype=torch.bool)
    order = error.argsort()
    worst = torch.empty_like(error, dtype=torch.bool)
    worst[order] = error[order].cumsum(0) > 0.8 * tolerance
    return worst


def _handed_down(
    owner: Int64[Tensor, " m"], split: Bool[Tensor, " n"], samples: Float[Tensor, "m 3"], children: Cells
) -> Int64[Tensor, " m"]:
    """The cell of each sample once the cells `split` have been replaced, at the end, by their `children`."""
    kept = int((~split).sum())
    number = torch.where(split, split.cumsum(0) - 1, (~split).cumsum(0) - 1)  # among the split, or among the kept
    found = number[owner]
    moved = split[owner]
    among = 4 * found[moved][:, None] + torch.arange(4)
    found[moved] = kept + children.at(samples[moved], among)
    return found


def _halved(bounds: Float64[Tensor, "n 4"]) -> Float64[Tensor, "m 4"]:
    """Every cell in two, across its longer side."""
    west, east, south, north = bounds.unbind(-1)
    longitude, z = (west + east) / 2, (south + north) / 2
    wide = (east - west) * (1 - z * z).sqrt() > north.asin() - south.asin()
    first = torch.stack([west, torch.where(wide, longitude, east), south, torch.where(wide, north, z)], -1)
    second = torch.stack([torch.where(wide, longitude, west), east, torch.where(wide, south, z), north], -1)
    return torch.stack([first, second], 1).reshape(-1, 4)


def _unit(longitude: Float64[Tensor, "*n"], z: Float64[Tensor, "*n"]) -> Float64[Tensor, "*n 3"]:
    ring = ((1 - z) * (1 + z)).sqrt()
    return torch.stack([ring * longitude.cos(), ring * longitude.sin(), z], -1)
