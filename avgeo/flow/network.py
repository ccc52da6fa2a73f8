"""The velocity network: a tangent field on S², conditioned on sound, sight and the reasoner's proposal.

The field carries its own tangents: called with a frame, it returns the directional derivatives along both frame
vectors in the same pass, which is the cheapest exact way to its divergence (three forward passes' worth).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from avgeo.profiles import FlowSettings
from avgeo.sphere import project

MODALITIES = ("sound", "sight", "proposal")
_FEATURES_PER_SCALE = 24


class ConditionError(ValueError):
    """What is said to be known of a clip does not fit the flow; the message names the argument and the cure."""


@dataclass(frozen=True)
class Condition:
    """What is known of a batch of clips, each with a mask of which clips really have it.

    `sound` (batch, sounds) how strongly each atom is heard; `sight` (batch, sights) how surely each visible cue is
    seen; `proposal` (batch, 3) the reasoner's place as a unit vector. Masked-out rows may hold anything finite.
    """

    sound: Float[Tensor, "batch sounds"]
    sight: Float[Tensor, "batch sights"]
    proposal: Float[Tensor, "batch 3"]
    has_sound: Bool[Tensor, " batch"]
    has_sight: Bool[Tensor, " batch"]
    has_proposal: Bool[Tensor, " batch"]

    def __len__(self) -> int:
        return len(self.sound)

    @classmethod
    def nothing(cls, count: int, sounds: int = 1, sights: int = 1) -> Condition:
        """`count` clips of which nothing is known: with these a flow learns, and tells, p(x)."""
        known = torch.zeros(3, count, dtype=torch.bool)
        return cls(torch.zeros(count, sounds), torch.zeros(count, sights), torch.zeros(count, 3), *known)

    def __getitem__(self, index: Tensor | slice) -> Condition:
        return Condition(*(getattr(self, item.name)[index] for item in fields(self)))

    def only(self, *modalities: str) -> Condition:
        """The same clips with every modality but these hidden, e.g. `condition.only("sound")`; none hides all."""
        unknown = set(modalities) - set(MODALITIES)
        if unknown:
            raise ValueError(f"unknown modality {sorted(unknown)}: choose from {', '.join(MODALITIES)}")
        masks = [getattr(self, f"has_{name}") & (name in modalities) for name in MODALITIES]
        return Condition(self.sound, self.sight, self.proposal, *masks)

    def check(self, sounds: int, sights: int) -> None:
        """Raise `ConditionError` unless there are clips, of these widths, finite, and proposals are unit vectors.

        What a mask hides may be any finite number.
        """
        if not len(self):
            raise ConditionError("condition has no clips: give at least one")
        for name, width in zip(MODALITIES, (sounds, sights, 3), strict=True):
            values, known = getattr(self, name), getattr(self, f"has_{name}")
            if values.shape != (len(self), width) or known.shape != (len(self),):
                raise ConditionError(
                    f"condition.{name} has shape {tuple(values.shape)} and its mask {tuple(known.shape)} for "
                    f"{len(self)} clips: this flow takes ({len(self)}, {width}) and ({len(self)},)"
                )
            if not bool(torch.isfinite(values).all()):
                raise ConditionError(f"condition.{name} holds NaN or infinity: hide such clips, has_{name} false, as 0")
        length = self.proposal[self.has_proposal].norm(dim=-1)
        if not bool(((length - 1).abs() < 1e-3).all()):
            raise ConditionError("condition.proposal must be unit vectors where has_proposal: use from_degrees")


class ConditionEncoder(nn.Module):
    """Sound, sight and proposal into one vector (batch, condition); what is missing becomes a learned vector."""

    def __init__(self, settings: FlowSettings, sounds: int, sights: int) -> None:
        super().__init__()
        size, drop = settings.condition, settings.dropout
        for name, inputs in zip(MODALITIES, (sounds, sights, 3), strict=True):
            # one clip in a thousand holds many accidents: drop inputs gently and features hard
            layers = (
                nn.Dropout(drop / 2),
                nn.Linear(inputs, 2 * size),
                nn.SiLU(),
                nn.Dropout(drop),
                nn.Linear(2 * size, size),
            )
            self.add_module(name, nn.Sequential(*layers))
        self.missing = nn.ParameterDict({name: nn.Parameter(torch.zeros(size)) for name in MODALITIES})
        self.join = nn.Sequential(
            nn.SiLU(), nn.Dropout(drop), nn.Linear(3 * size, size), nn.SiLU(), nn.Linear(size, size)
        )

    def forward(self, condition: Condition) -> Float[Tensor, "batch condition"]:
        """One vector per clip, on the network's device and in its precision whatever the condition's."""
        parts = []
        for name in MODALITIES:
            missing = self.missing[name]
            present = getattr(condition, f"has_{name}")[:, None].to(missing.device)
            parts.append(torch.where(present, getattr(self, name)(getattr(condition, name).to(missing)), missing))
        return self.join(torch.cat(parts, dim=-1))


class VelocityField(nn.Module):
    """v(x, t, c), tangent at x: random spherical Fourier features at several scales, FiLM layers, projection."""

    frequencies: Tensor

    def __init__(self, settings: FlowSettings, seed: int = 0) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        blocks = [scale * torch.randn(_FEATURES_PER_SCALE, 3, generator=draw) for scale in settings.scales]
        self.register_buffer("frequencies", torch.cat(blocks))
        inputs = 3 + 2 * len(self.frequencies)
        width = settings.width
        self.embed = nn.Linear(inputs, width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(settings.depth))
        self.film = nn.Sequential(
            nn.Linear(settings.condition + 9, width), nn.SiLU(), nn.Linear(width, 2 * width * settings.depth)
        )
        self.head = nn.Linear(width, 3)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def _linears(self) -> list[nn.Linear]:
        return [layer for layer in self.layers if isinstance(layer, nn.Linear)]

    def modulation(self, time: Float[Tensor, " n"], code: Float[Tensor, "n condition"]) -> Float[Tensor, "n film"]:
        """The FiLM scales and shifts of every layer, which do not depend on x."""
        octaves = math.pi * time[:, None] * torch.tensor([0.5, 1.0, 2.0, 4.0], device=time.device)
        return self.film(torch.cat([code, time[:, None], torch.sin(octaves), torch.cos(octaves)], dim=-1))

    def forward(self, points: Float[Tensor, "n 3"], modulation: Float[Tensor, "#n film"]) -> Float[Tensor, "n 3"]:
        """Tangent velocities (n, 3) in radians per unit time."""
        return self._run(points, modulation, None)[0]

    def with_divergence(
        self,
        points: Float[Tensor, "n 3"],
        modulation: Float[Tensor, "#n film"],
        frame: Float[Tensor, "n 3 k"],
    ) -> tuple[Float[Tensor, "n 3"], Float[Tensor, " n"]]:
        """Velocity and its intrinsic divergence: sum_i <e_i, Dv·e_i> over an orthonormal tangent frame e_1, e_2.

        Over any other tangents the same sum, of which Hutchinson's estimate takes one.

        For a field tangent to the sphere this is the divergence on the sphere whatever smooth extension off the
        sphere the network happens to have, because only derivatives along the sphere enter.
        """
        velocity, derivatives = self._run(points, modulation, frame)
        assert derivatives is not None
        return velocity, (derivatives * frame).sum((-1, -2))

    def _run(self, x: Tensor, modulation: Tensor, frame: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The network and, with a frame (n, 3, k), its derivatives along it (n, 3, k).

        Tangents are carried as (k, n, width), so that each layer is one matrix product for all, like the value.
        """
        angles = x @ self.frequencies.T
        sine, cosine = torch.sin(angles), torch.cos(angles)
        hidden = self.embed(torch.cat([x, sine, cosine], dim=-1))
        slope = None
        if frame is not None:
            along = frame.permute(2, 0, 1)
            turn = along @ self.frequencies.T
            slope = torch.cat([along, cosine * turn, -sine * turn], dim=-1) @ self.embed.weight.T
        for layer, film in zip(self._linears(), modulation.chunk(len(self.layers), dim=-1), strict=True):
            scale, shift = film.chunk(2, dim=-1)
            inside = torch.addcmul(shift, layer(hidden), 1 + scale)
            gate = torch.sigmoid(inside)
            if slope is not None:
                slope = slope + (slope @ layer.weight.T) * ((1 + scale) * gate * (1 + inside * (1 - gate)))
            hidden = torch.addcmul(hidden, inside, gate)
        raw = self.head(hidden)
        velocity = project(x, raw)
        if slope is None or frame is None:
            return velocity, None
        # d(raw - <x, raw> x) along e = d raw - (<e, raw> + <x, d raw>) x - <x, raw> e; the x part drops out with <e, ·>
        change = (slope @ self.head.weight.T).permute(1, 2, 0)
        return velocity, change - (x * raw).sum(-1)[:, None, None] * frame
