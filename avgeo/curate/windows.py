"""Evenly spaced windows of a long sound: what is asked of a whole recording can be asked of a part of it."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32

from avgeo.curate.signals import RATE_HZ


def windows(samples: Float32[np.ndarray, " samples"], count: int, seconds: float) -> list[Float32[np.ndarray, " part"]]:
    """`count` views of `seconds` each at the middles of equal parts; the whole where it is no longer than these."""
    size = round(seconds * RATE_HZ)
    if len(samples) <= count * size:
        return [samples]
    part = len(samples) / count
    starts = [round(part * (number + 0.5) - size / 2) for number in range(count)]
    return [samples[start : start + size] for start in starts]
