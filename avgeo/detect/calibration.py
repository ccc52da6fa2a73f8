"""The detectors' fitted numbers, from the table `data/detectors.csv` that `benchmarks/locate.py` writes."""

from __future__ import annotations

import csv
from functools import cache

from avgeo.detect.event import DetectError
from avgeo.paths import data_dir


@cache
def calibrated(detector: str, parameter: str) -> float:
    """One number of the table; raises `DetectError` where it is not there."""
    file = data_dir() / "detectors.csv"
    with file.open(newline="", encoding="utf-8") as opened:
        for row in csv.DictReader(opened):
            if (row["detector"], row["parameter"]) == (detector, parameter):
                return float(row["value"])
    raise DetectError(f"{file.name} has no {parameter} of {detector}: make it again with benchmarks/locate.py")
