"""Locate 30 real recordings of Xeno-canto by the detectors: `python benchmarks/locate.py FOLDER`, minutes.

FOLDER holds `xeno_canto/` and its `index.csv` (path, latitude, longitude). Three numbers are fitted by the mean log
density at the true places, the most cautious within one standard error of the best: the slope and the false-alarm rate
of BirdNET's scores, and how far species count as independent. They go into `data/detectors.csv`; what the run card
`data/results/locate-xeno-canto.json` says of accuracy is *held out*: every site (recordings within 500 km of one
another) with the numbers fitted on all the others. The estimate's radius of 1,000 km was chosen on the same recordings
(of 11 point estimates compared), and is not held out.
BirdNET was trained on Xeno-canto, so that it may know these very recordings: better than it will do on others.
"""

from __future__ import annotations

import csv
import itertools
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float64

from avgeo.artifacts import run_card
from avgeo.detect import EarthGrid, earth_grid
from avgeo.detect.birds import Birds, trusted
from avgeo.detect.calibration import calibrated
from avgeo.detect.prior import log_prior
from avgeo.flow import grid_entropy_bits
from avgeo.fusion import Clue, estimated, fuse
from avgeo.paths import data_dir, write_text
from avgeo.sphere import distance_km, from_table

SLOPES, FALSE_ALARMS, INDEPENDENCES = (0.5, 0.75, 1.0, 1.5, 2.0), (0.02, 0.05, 0.1, 0.2), (0.25, 0.5, 0.75, 1.0)
SITE_KM = 500.0
CONSTANTS = 10_000  # places, the best of which for these recordings is the constant
HELD = (0.5, 0.9)
CONTAMINATED = "BirdNET was trained on Xeno-canto: these recordings may be among those it learned from"

Setting = tuple[float, float, float]


@dataclass(frozen=True)
class Heard:
    """The species of one recording: scores, surest first, and how much likelier each is at every cell."""

    scores: list[float]
    ratios: list[Float64[np.ndarray, " n"]]

    def log_mass(self, grid: EarthGrid, setting: Setting) -> Float64[np.ndarray, " n"]:
        """The posterior as `avgeo.fusion` makes it, for numbers that are not in the table yet."""
        slope, false_alarm, independence = setting
        total = log_prior(grid) + grid.log_area
        for rank, (score, ratio) in enumerate(zip(self.scores, self.ratios, strict=True)):
            q = trusted(score, slope, false_alarm)
            total = total + ((rank + 1) ** independence - rank**independence) * np.log(1 - q + q * ratio)
        top = float(total.max())
        return total - top - math.log(float(np.exp(total - top).sum()))


def sites(points: torch.Tensor) -> Float64[np.ndarray, " clips"]:
    """A number for each recording, the same for those that a chain of steps of at most `SITE_KM` joins."""
    site = np.arange(len(points))
    for a, b in itertools.combinations(range(len(points)), 2):
        if float(distance_km(points[a], points[b])) <= SITE_KM:
            site[site == site[b]] = site[a]
    return site


def sharpness(
    grid: EarthGrid, heard: list[Heard], truth: torch.Tensor, settings: list[Setting]
) -> tuple[Float64[np.ndarray, "settings clips"], Float64[np.ndarray, "settings clips"]]:
    """Log mass of the true cell, and entropy in nats, of every recording under every setting."""
    score, width = np.zeros((2, len(settings), len(heard)))
    for clip, place in enumerate(truth.numpy()):
        cell = int((grid.points @ place).argmax())
        for number, setting in enumerate(settings):
            log_mass = heard[clip].log_mass(grid, setting)
            score[number, clip] = log_mass[cell]
            width[number, clip] = -(np.exp(log_mass) * log_mass).sum()
    return score, width


def cautious(score: Float64[np.ndarray, "settings clips"], width: Float64[np.ndarray, "settings clips"]) -> int:
    """The widest setting whose mean log score is within one standard error of the best (Breiman et al. 1984).

    The error is that of the paired difference: few recordings cannot tell such settings apart.
    """
    worse = score[score.mean(1).argmax()] - score
    error = worse.std(1, ddof=1) / math.sqrt(score.shape[1])
    return int(np.where(worse.mean(1) <= error, width.mean(1), -np.inf).argmax())


def one(grid: EarthGrid, log_mass: Float64[np.ndarray, " n"], truth: torch.Tensor) -> dict[str, float]:
    """Error, the mass of the smallest region that holds the truth, log density there, and entropy."""
    cell = int((grid.points @ truth.numpy()).argmax())
    level = float(np.exp(log_mass[log_mass >= log_mass[cell]]).sum())
    density = torch.from_numpy(log_mass - grid.log_area)
    return {
        "error_km": round(float(distance_km(estimated(grid, log_mass), truth)), 1),
        "level": round(level, 4),
        "log_density": round(float(density[cell]), 4),
        "entropy_bits": round(grid_entropy_bits(density, grid.cells.area), 3),
    }


def summary(rows: list[dict[str, float]]) -> dict[str, float]:
    """What the recordings come to."""
    table = pd.DataFrame(rows)
    found = {
        "median_km": float(table["error_km"].median()),
        "within_2500_km": float((table["error_km"] <= 2500).mean()),
        "mean_log_density": float(table["log_density"].mean()),
        "median_entropy_bits": float(table["entropy_bits"].median()),
    }
    return found | {f"region_{mass:g}_holds": float((table["level"] <= mass).mean()) for mass in HELD}


def main(folder: Path) -> None:
    """Write the table and the card."""
    index = pd.read_csv(folder / "xeno_canto" / "index.csv")
    truth = from_table(index.rename(columns={"latitude": "latitude_deg", "longitude": "longitude_deg"}))
    grid, birds, site = earth_grid(), Birds(), sites(truth)
    heard, events = [], []
    for path in index["path"]:
        events.append([event for event in birds.detect(folder / path) if event.score is not None])
        ratios = [birds.ratio(event, grid) for event in events[-1]]
        heard.append(Heard([float(event.score or 0) for event in events[-1]], ratios))
    settings = list(itertools.product(SLOPES, FALSE_ALARMS, INDEPENDENCES))
    score, width = sharpness(grid, heard, truth, settings)
    held_out, chosen = [], {}
    for number in range(len(heard)):
        others = site != site[number]
        best = settings[cautious(score[:, others], width[:, others])]
        chosen[best] = chosen.get(best, 0) + 1
        held_out.append(one(grid, heard[number].log_mass(grid, best), truth[number]))
    fitted = settings[cautious(score, width)]
    write_table(fitted)
    shipped = [
        one(grid, fuse_mass(grid, birds, found), place) for found, place in zip(events, truth, strict=True)
    ]  # fmt: skip
    errors = distance_km(earth_grid(CONSTANTS).cells.points[:, None], truth).numpy()
    constant = errors[np.median(errors, 1).argmin()]
    alone = [one(grid, Heard([], []).log_mass(grid, fitted), place) for place in truth]
    names = ("score_slope", "false_alarm", "independence")
    result: dict[str, Any] = {
        "recordings": len(heard),
        "sites": len(set(site.tolist())),
        "caveat": CONTAMINATED,
        "not_held_out": "the estimate's radius of 1,000 km and the prior's shares were chosen on these recordings",
        "fitted": dict(zip(names, fitted, strict=True)),
        "held_out": summary(held_out),
        "held_out_chosen": [dict(zip(names, best, strict=True)) | {"recordings": n} for best, n in chosen.items()],
        "in_sample": summary(shipped),
        "prior_alone": summary(alone),
        "best_constant": {
            "median_km": float(np.median(constant)),
            "within_2500_km": float((constant <= 2500).mean()),
        },
        "clips": [{"path": path} | row for path, row in zip(index["path"], held_out, strict=True)],
    }
    what = "30 recordings of Xeno-canto, located by the detectors; three numbers fitted, every site held out in turn"
    file = data_dir() / "results" / "locate-xeno-canto.json"
    choices = {"slopes": SLOPES, "false_alarms": FALSE_ALARMS, "independences": INDEPENDENCES, "site_km": SITE_KM}
    with run_card(file, what=what, command="python benchmarks/locate.py FOLDER", settings=choices, seed=0) as card:
        card["result"] = result
    for name in ("fitted", "held_out", "in_sample", "prior_alone", "best_constant"):
        print(name, {key: round(value, 3) for key, value in result[name].items()})


def fuse_mass(grid: EarthGrid, birds: Birds, events: list[Any]) -> Float64[np.ndarray, " n"]:
    """What `avgeo locate` makes of these events with the table as it now is."""
    clues = [Clue(event, birds.likelihood(event, grid), "birds") for event in events]
    return fuse(grid, clues, log_prior(grid)).density.log_prob.numpy() + grid.log_area


def write_table(fitted: Setting) -> None:
    """Put the fitted numbers in their rows; the others stay."""
    file = data_dir() / "detectors.csv"
    slope, false_alarm, independence = fitted
    new = {
        ("birds", "score_slope"): slope, ("birds", "false_alarm"): false_alarm,
        ("fusion", "independence"): independence,
    }  # fmt: skip
    with file.open(newline="", encoding="utf-8") as opened:
        rows = [(row["detector"], row["parameter"], row["value"]) for row in csv.DictReader(opened)]
    lines = [f"{detector},{name},{new.get((detector, name), value)}" for detector, name, value in rows]
    write_text(file, "\n".join(["detector,parameter,value", *lines]) + "\n")
    calibrated.cache_clear()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
