"""What one gate found about one item."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Verdict:
    """What a gate measured (JSON values), and why the item is kept out: `reason`, or None if it may pass.

    `flags` are remarks that do not keep an item out; `skipped` says why nothing could be measured (a photo has no
    sound), and is never set together with `reason`.
    """

    gate: str
    measured: Mapping[str, float | int | str | None] = field(default_factory=dict)
    reason: str | None = None
    flags: tuple[str, ...] = ()
    skipped: str | None = None
