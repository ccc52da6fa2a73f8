"""Evaluation of anyone's predictions, baselines, calibration. `from avgeo.evaluate import evaluate`."""

from __future__ import annotations

from avgeo.evaluate.baselines import BaselineError, KernelDensity, best_constant, kernel_density
from avgeo.evaluate.bootstrap import interval, resamples
from avgeo.evaluate.headroom import distance_bits, headroom
from avgeo.evaluate.metrics import (
    GEOSCORE_SCALE_KM,
    HALF_CIRCUMFERENCE_KM,
    LOG_SCORE_FLOOR,
    RADII_KM,
    Comparison,
    Interval,
    Metrics,
    compare,
    coverage,
    display_rows,
    evaluate,
    evaluate_rows,
    place_interval,
)
from avgeo.evaluate.tables import EvaluateError

__all__ = [
    "GEOSCORE_SCALE_KM",
    "HALF_CIRCUMFERENCE_KM",
    "LOG_SCORE_FLOOR",
    "RADII_KM",
    "BaselineError",
    "Comparison",
    "EvaluateError",
    "Interval",
    "KernelDensity",
    "Metrics",
    "best_constant",
    "compare",
    "coverage",
    "display_rows",
    "distance_bits",
    "evaluate",
    "evaluate_rows",
    "headroom",
    "interval",
    "kernel_density",
    "place_interval",
    "resamples",
]
