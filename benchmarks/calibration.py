"""Do the flow's credible regions hold what they claim at places it has never seen, before and after recalibration?

python benchmarks/calibration.py [--profile smoke] [--fit 2] [--test 2] [--clips 2] [--first 1000]

The model of seed 0 (trained on first use) is asked about clips of fresh worlds: other places, voices and noises, drawn
by other seeds, none within the worlds' own separation of a place the model was trained on. One temperature and floor
for each set of senses is fitted on the worlds --fit, and judged on the worlds --test, at places that are as far from
those of the fit, too. Writes data/results/flow-calibration.json. What was asked lies in the artifact cache, so that an
interrupted run goes on where it was.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from avgeo.artifacts import build, run_card
from avgeo.conditions import SHOWN
from avgeo.evaluate import coverage, place_interval
from avgeo.flow import (
    HeldOut,
    Recalibration,
    fit_recalibration,
    hold_out,
    recalibration_intervals,
    total_probability,
)
from avgeo.paths import data_dir
from avgeo.pipeline import Pipeline
from avgeo.profiles import get_profile
from avgeo.recalibrate import POINTS, apart, fresh_world, perceived

MASSES = (0.5, 0.9, 0.95)
LAWS, DRAWS = 100, 4000


@dataclass(frozen=True)
class Asked:
    """The clips of one world and sense, with their places."""

    held_out: HeldOut
    places: list[str]


def ask(study: Pipeline, world: Pipeline, others: list[Pipeline]) -> dict[str, Asked]:
    """The flow's densities at one fresh world's clips, apart from those of `others`, for every set of senses."""
    rows = apart(study, world, *others)

    def make(out: Path) -> None:
        condition = perceived(study, world, rows)
        tensors: dict[str, Tensor] = {}
        for sense, shown in SHOWN.items():
            found = hold_out(study.sphere_flow, world.points[rows], condition.only(*shown), seed=world.seed, **POINTS)
            tensors |= {f"{sense}.{name}": tensor.contiguous() for name, tensor in vars(found).items()}
        save_file(tensors, out / "asked.safetensors")

    done = build(
        "calibration", make, settings=POINTS | {"shown": SHOWN}, seed=world.seed,
        inputs={"flow": study.flow, "features": world.features}
        | {f"apart from {number}": other.features for number, other in enumerate(others)},
        code=("conditions", "flow", "recalibrate", "sphere", "perceive"),
    )  # fmt: skip
    tensors = load_file(done.path / "asked.safetensors")
    names = ("truth_log_prob", "log_prob", "area")
    places = [f"{world.seed} {name}" for name in world.manifest["place_id"].iloc[rows]]
    return {sense: Asked(HeldOut(*(tensors[f"{sense}.{name}"] for name in names)), places) for sense in SHOWN}


def integrals(study: Pipeline, world: Pipeline) -> dict[str, Any]:
    """∫ p dA of the unconditional law and of 100 clips, sets of senses in turn, with as many steps as everywhere."""
    rows = apart(study, world)
    condition = perceived(study, world, rows[:: max(1, len(rows) // LAWS)][:LAWS])
    found: list[dict[str, Any]] = []
    for row in tqdm(range(-1, len(condition)), desc="∫ p dA", unit="law", disable=None):
        shown = () if row < 0 else list(SHOWN.values())[row % len(SHOWN)]
        one = condition[max(row, 0) :][:1].only(*shown)
        total = total_probability(study.sphere_flow, one, count=DRAWS, seed=row + 1)
        found.append({"shown": " and ".join(shown)} | asdict(total))
    table = pd.DataFrame(found)
    chance, error = table["sampling"] - 1, table["sampling_se"]
    return {
        "each": found,
        "worst_by_grid": float((table["grid"] - 1).abs().max()),
        "sampling_mean": float(table["sampling"].mean()),
        "sampling_mean_se": float(np.sqrt(error.pow(2).sum()) / len(table)),
        "worst_in_se": float((chance.abs() / error).max()),
    }


def together(parts: list[Asked]) -> Asked:
    """Several worlds as one."""
    fields = zip(*(vars(part.held_out).values() for part in parts), strict=True)
    return Asked(HeldOut(*(torch.cat(field) for field in fields)), [place for part in parts for place in part.places])


def judged(asked: Asked, recalibration: Recalibration) -> dict[str, Any]:
    """Coverage at `MASSES` and the mean log score in bits against uniform, with intervals by place."""
    levels = asked.held_out.levels(recalibration).numpy()
    bits = (asked.held_out.scores(recalibration).numpy() + math.log(4 * math.pi)) / math.log(2)
    score = place_interval(bits, asked.places)
    rows = coverage(levels, asked.places, levels=MASSES).to_dict("records")
    return {"coverage": rows, "bits": {"value": score.value, "low": score.low, "high": score.high}}


def main() -> None:
    """Ask, fit, judge, and write the card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="smoke")
    parser.add_argument("--fit", type=int, default=2, help="worlds")
    parser.add_argument("--test", type=int, default=2, help="worlds")
    parser.add_argument("--clips", type=int, default=2, help="of each place")
    parser.add_argument("--first", type=int, default=1000, help="seed of the first fresh world")
    chosen = parser.parse_args()
    file = data_dir() / "results" / "flow-calibration.json"
    command = "python benchmarks/calibration.py " + " ".join(
        f"--{name} {value}" for name, value in vars(chosen).items()
    )
    settings = vars(chosen) | POINTS | {"laws": LAWS, "draws": DRAWS}
    with run_card(
        file, what="Credible regions at new places of AVG-Sim", command=command, settings=settings, seed=0
    ) as card:
        study = Pipeline(get_profile(chosen.profile), 0)
        seeds = range(chosen.first, chosen.first + chosen.fit + chosen.test)
        worlds = [fresh_world(study, seed, clips=chosen.clips) for seed in seeds]
        fitted_on, judged_on = worlds[: chosen.fit], worlds[chosen.fit :]
        to_fit = [ask(study, world, []) for world in fitted_on]
        to_judge = [ask(study, world, fitted_on) for world in judged_on]
        result: dict[str, Any] = {}
        for sense in SHOWN:
            fit, test = together([asked[sense] for asked in to_fit]), together([asked[sense] for asked in to_judge])
            result[sense] = {"clips": {"fit": len(fit.places), "test": len(test.places)},
                             "places": {"fit": len(set(fit.places)), "test": len(set(test.places))},
                             "as trained": judged(test, Recalibration())}  # fmt: skip
            for objective in ("log_score", "coverage"):
                fitted = fit_recalibration(fit.held_out, objective)
                intervals = recalibration_intervals(fit.held_out, fit.places, objective)
                result[sense][objective] = fitted.as_dict() | {"intervals": intervals} | judged(test, fitted)
        card["result"] = {"senses": result, "integrals": integrals(study, worlds[0])}


if __name__ == "__main__":
    main()
