"""Do the flow's credible regions hold what they claim at places it has never seen, before and after recalibration?

python benchmarks/calibration.py [--profile smoke] [--fit 2] [--test 2] [--clips 2] [--first 1000]

The model of seed 0 (trained on first use) is asked about clips of fresh worlds: other places, drawn by other seeds,
none within the worlds' own separation of a place the model was trained on. One temperature and floor for each sense is
fitted on the worlds --fit, and judged on the worlds --test. Writes data/results/flow-calibration.json. What was asked
lies in the artifact cache, so that an interrupted run goes on where it was.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from avgeo.artifacts import build, run_card
from avgeo.evaluate import coverage, place_interval
from avgeo.flow import (
    Condition,
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
from avgeo.sphere import distance_km, fibonacci_grid

SENSES = {"sound": ("sound",), "sight": ("sight",), "both": ("sound", "sight")}
MASSES = (0.5, 0.9, 0.95)
POINTS = {"samples": 60, "even": 60, "halo": 60}
GRID, DRAWS, STEPS = 50_000, 2000, 40


@dataclass(frozen=True)
class Asked:
    """The clips of one world and sense, with their places."""

    held_out: HeldOut
    places: list[str]


def fresh(study: Pipeline, seed: int, clips: int) -> tuple[Pipeline, np.ndarray]:
    """A world of other places, and its clips of places that are far enough from every place the model has seen."""
    world = Pipeline(replace(study.profile, world=replace(study.profile.world, clips_per_place=clips)), seed)
    seen = study.points[study.rows_of("train", "val")].unique(dim=0)
    apart = torch.stack([distance_km(point, seen).min() for point in world.points])
    return world, np.flatnonzero((apart >= study.profile.world.min_separation_km).numpy())


def heard_and_seen(study: Pipeline, world: Pipeline, rows: np.ndarray) -> Condition:
    """What the study's own atoms and sights make of another world's clips."""
    codes = study.atom_model.encode(world.embedded.patches[rows])
    known, unknown = torch.ones(len(rows), dtype=torch.bool), torch.zeros(len(rows), dtype=torch.bool)
    return Condition(
        torch.from_numpy(study.atom_model.sound_vector(codes)),
        torch.from_numpy(study.sight_model.look(world.embedded.frames[rows])),
        torch.zeros(len(rows), 3),
        known,
        known,
        unknown,
    )


def ask(study: Pipeline, seed: int, clips: int) -> dict[str, Asked]:
    """The flow's densities at one fresh world's clips, for every sense."""
    world, rows = fresh(study, seed, clips)

    def make(out: Path) -> None:
        condition = heard_and_seen(study, world, rows)
        tensors: dict[str, Tensor] = {}
        for sense, shown in SENSES.items():
            found = hold_out(study.sphere_flow, world.points[rows], condition.only(*shown), seed=seed, **POINTS)
            tensors |= {f"{sense}.{name}": tensor.contiguous() for name, tensor in vars(found).items()}
        save_file(tensors, out / "asked.safetensors")

    done = build(
        "calibration", make, settings=POINTS | {"clips": clips}, seed=seed,
        inputs={"flow": study.flow, "features": world.features}, code=("flow", "sphere", "perceive"),
    )  # fmt: skip
    tensors = load_file(done.path / "asked.safetensors")
    names = ("truth_log_prob", "log_prob", "area")
    places = [f"{seed} {name}" for name in world.manifest["place_id"].iloc[rows]]
    return {sense: Asked(HeldOut(*(tensors[f"{sense}.{name}"] for name in names)), places) for sense in SENSES}


def integrals(study: Pipeline, seed: int, clips: int) -> dict[str, Any]:
    """∫ p dA of the unconditional law and of 100 clips, senses in turn: by chance, and every tenth on an even grid.

    A grid must be fine, since learned densities have structure far below their width; chance is off by some per cents
    for each clip, and by little in the mean over them.
    """
    world, rows = fresh(study, seed, clips)
    condition = heard_and_seen(study, world, rows[:: max(1, len(rows) // 100)][:100])
    grid = fibonacci_grid(GRID)
    found: list[dict[str, Any]] = []
    for row in tqdm(range(-1, 100), desc="∫ p dA", unit="clip", disable=None):
        shown = () if row < 0 else list(SENSES.values())[row % 3]
        one = condition[max(row, 0) :][:1].only(*shown)
        total, error = total_probability(study.sphere_flow, one, count=DRAWS, seed=row + 1, steps=STEPS)
        line: dict[str, Any] = {"shown": " and ".join(shown), "chance": total, "chance_se": error}
        if row < 0 or not row % 10:
            log_prob = study.sphere_flow.log_prob(grid, one, steps=STEPS)
            line["grid"] = float(log_prob.double().exp().mean()) * 4 * math.pi
        found.append(line)
    chance = np.array([[line["chance"], line["chance_se"]] for line in found])
    mean, error = float(chance[:, 0].mean()), float(np.sqrt(np.square(chance[:, 1]).sum()) / len(found))
    worst = max(abs(line["grid"] - 1) for line in found if "grid" in line)
    apart = float((np.abs(chance[:, 0] - 1) / chance[:, 1]).max())
    return {"each": found, "worst_by_grid": worst, "chance_mean": mean, "chance_mean_se": error, "worst_in_se": apart}


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
    settings = vars(chosen) | POINTS | {"grid": GRID, "draws": DRAWS, "integral_steps": STEPS}
    with run_card(
        file, what="Credible regions at new places of AVG-Sim", command=command, settings=settings, seed=0
    ) as card:
        study = Pipeline(get_profile(chosen.profile), 0)
        worlds = [ask(study, chosen.first + number, chosen.clips) for number in range(chosen.fit + chosen.test)]
        result: dict[str, Any] = {}
        for sense in SENSES:
            fit = together([world[sense] for world in worlds[: chosen.fit]])
            test = together([world[sense] for world in worlds[chosen.fit :]])
            result[sense] = {"clips": {"fit": len(fit.places), "test": len(test.places)},
                             "places": {"fit": len(set(fit.places)), "test": len(set(test.places))},
                             "as trained": judged(test, Recalibration())}  # fmt: skip
            for objective in ("log_score", "coverage"):
                fitted = fit_recalibration(fit.held_out, objective)
                intervals = recalibration_intervals(fit.held_out, fit.places, objective)
                result[sense][objective] = fitted.as_dict() | {"intervals": intervals} | judged(test, fitted)
        card["result"] = {"senses": result, "integrals": integrals(study, chosen.first, chosen.clips)}


if __name__ == "__main__":
    main()
