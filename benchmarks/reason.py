"""GRPO beside fine-tuning alone, over seeds and new places: accuracy, energy score, calibration of the rollouts.

python benchmarks/reason.py OUT.json                        # every run, three seeds
python benchmarks/reason.py OUT.json --runs "SFT;proper" --seeds 1

A seed is a world of its own (places, clips, splits) with its atoms, and a policy of its own. Every run of a seed starts
from the same fine-tuned policy, unless it says otherwise. It is put to validation places at each of `TEMPERATURES`; the
one with the best energy score is the run's own, and at that one it answers for new places. A finished run lies in
OUT.cells/, so an interrupted benchmark goes on where it was; a change of its code starts it anew.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from avgeo.artifacts import code_hash, run_card, tables_hash
from avgeo.engine import map_items
from avgeo.evaluate import HALF_CIRCUMFERENCE_KM, coverage, interval, place_interval
from avgeo.evaluate.bootstrap import bootstrap as resample
from avgeo.examples import of_another_place
from avgeo.paths import write_text
from avgeo.pipeline import Pipeline
from avgeo.profiles import ReasonSettings, get_profile
from avgeo.reason.grpo import RewardWeights, train_grpo
from avgeo.reason.policy import Policy, merge
from avgeo.reason.propose import Reasoner
from avgeo.reason.rollouts import Rollouts
from avgeo.reason.sft import corpus, train_sft
from avgeo.reason.sizes import build_policy, load_policy, save_policy
from avgeo.sphere import distance_km, from_table

TEMPERATURES = (0.4, 0.55, 0.7, 0.85, 1.0)
ROLLOUTS = 16
CLIPS = 2
"""Clips of each test place that are answered for; of a validation place, one."""
LEVELS = tuple(tenth / 10 for tenth in range(1, 10))
SFT = "SFT"


@dataclass(frozen=True)
class Run:
    """How a policy is made: what is left of its prompt, whether it is fine-tuned, what GRPO rewards (None: no GRPO)."""

    weights: RewardWeights | None = None
    fine_tuned: bool = True
    atoms: bool = True
    frames: bool = True
    shuffled: bool = False  # the atoms of another place's clip

    @property
    def base(self) -> str:
        """The part of it that fine-tuning needs to know, as a name for a folder."""
        return "-".join(
            ["sft" if self.fine_tuned else "drawn", *(name for name in ("atoms", "frames") if getattr(self, name)),
             *(["shuffled"] if self.shuffled else [])]
        )  # fmt: skip


PROPER, DISTANCE = RewardWeights(), RewardWeights(proper=0, distance=1)
RUNS = {
    SFT: Run(),
    "proper": Run(PROPER),
    "distance": Run(DISTANCE),
    "half proper, half distance": Run(RewardWeights(proper=0.5, distance=0.5)),
    "proper, no format reward": Run(replace(PROPER, format=0.0)),
    "proper, no groundedness reward": Run(replace(PROPER, groundedness=0.0)),
    "proper, no SFT": Run(PROPER, fine_tuned=False),
    "proper, no atoms": Run(PROPER, atoms=False),
    "proper, no frames": Run(PROPER, frames=False),
    "proper, atoms shuffled": Run(PROPER, shuffled=True),
}


@dataclass(frozen=True)
class Cell:
    """One run of one seed, and where its scores and its weights go."""

    name: str
    seed: int
    folder: Path

    @property
    def recipe(self) -> str:
        """A hash of what a finished cell rests on: its run, this file, the profile, code and tables."""
        code = code_hash("reason", "sphere", "examples", "perceive", "pipeline", "world", "evaluate")
        code += tables_hash("country_cues.csv", "language_voices.csv")
        about = [asdict(RUNS[self.name]), get_profile("smoke").as_dict(), Path(__file__).read_text(), code]
        return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:8]

    @property
    def file(self) -> Path:
        """Its scores, once it is finished."""
        slug = "".join(letter if letter.isalnum() else "_" for letter in self.name)
        return self.folder / f"{slug}-{self.seed}-{self.recipe}.json"


def settings() -> ReasonSettings:
    """The chapter's own."""
    return get_profile("smoke").reason


def told(study: Pipeline, run: Run, *splits: str, per_place: int | None = None) -> tuple[pd.DataFrame, np.ndarray]:
    """Examples and frames of the clips in these splits, `per_place` at most of a place, as the run is shown them."""
    rows = study.rows_of(*splits)
    examples = study.examples.iloc[rows].reset_index(drop=True)
    frames = study.embedded.frames[rows]
    if run.shuffled:
        other = of_another_place(examples["place_id"], study.seed)
        examples = examples.assign(heard=examples["heard"].to_numpy()[other])
    if not run.atoms:
        examples = examples.assign(heard=None)
    if not run.frames:
        frames = frames[:, :0]
    if per_place is not None:
        kept = (examples.groupby("place_id").cumcount() < per_place).to_numpy()
        examples, frames = examples[kept].reset_index(drop=True), frames[kept]
    return examples, frames


def fine_tuned(study: Pipeline, run: Run, folder: Path) -> Policy:
    """The policy from which a run of this seed starts; made once for all runs that are shown the same."""
    place = folder / f"policy-{study.seed}-{run.base}-{Cell(SFT, study.seed, folder).recipe}"
    if not place.is_dir():
        work = place.with_suffix(".partial")
        examples, frames = told(study, run, "train")
        policy = build_policy(settings(), corpus(examples), study.seed)
        if run.fine_tuned:
            policy, _ = train_sft(policy, examples, frames, settings(), study.seed, work / "checkpoints")
        save_policy(policy, work / "model")
        (work / "model").rename(place)
        shutil.rmtree(work)
    return load_policy(place)


def prepare(cell: Cell) -> None:
    """Make the policy from which a run starts."""
    torch.set_num_threads(1)
    fine_tuned(Pipeline(get_profile("smoke"), cell.seed), RUNS[cell.name], cell.folder)


def run_cell(cell: Cell) -> dict[str, Any]:
    """Train and score one run, unless that is done."""
    if cell.file.is_file():
        return json.loads(cell.file.read_text())
    torch.set_num_threads(1)
    study, run = Pipeline(get_profile("smoke"), cell.seed), RUNS[cell.name]
    policy = fine_tuned(study, run, cell.folder)
    done: dict[str, Any] = {"run": cell.name, "seed": cell.seed}
    if run.weights is not None:
        work, began = cell.file.with_suffix(".work"), time.process_time()
        examples, frames = told(study, run, "train")
        policy, history = train_grpo(policy, examples, frames, settings(), cell.seed, work, run.weights)
        done |= {"grpo_cpu_min": (time.process_time() - began) / 60, "history": history.to_dict("list")}
        policy = merge(policy)
        shutil.rmtree(work)
    reasoner = Reasoner(policy)
    examples, frames = told(study, run, "val", per_place=1)
    tried = {}
    for temperature in TEMPERATURES:
        rollouts = sampled(reasoner, examples, frames, temperature, cell.seed)
        tried[temperature] = float(rollouts.energy_scores(from_table(examples)).mean())
    done |= {"by_temperature": tried, "temperature": min(tried, key=tried.__getitem__)}
    done |= tested(reasoner, *told(study, run, "test", per_place=CLIPS), done["temperature"], cell.seed)
    write_text(cell.file, json.dumps(done) + "\n")
    return done


def sampled(reasoner: Reasoner, examples: pd.DataFrame, frames: np.ndarray, temperature: float, seed: int) -> Rollouts:
    """`ROLLOUTS` answers to each clip."""
    return Rollouts.from_table(reasoner.sample(examples, frames, ROLLOUTS, temperature, seed, batch=48))


def tested(
    reasoner: Reasoner, examples: pd.DataFrame, frames: np.ndarray, temperature: float, seed: int
) -> dict[str, Any]:
    """Scores on new places, one value per clip: greedy and sampled."""
    truth = from_table(examples)
    greedy = reasoner.propose(examples, frames)
    away = distance_km(from_table(greedy), truth).numpy()
    rollouts = sampled(reasoner, examples, frames, temperature, seed)
    return {
        "place": examples["place_id"].tolist(),
        "km": np.where(greedy["parsed"], away, HALF_CIRCUMFERENCE_KM).round(1).tolist(),
        "energy": rollouts.energy_scores(truth).round(5).tolist(),
        "energy_valid": rollouts.valid_energy_scores(truth).round(5).tolist(),
        "rank": rollouts.ranks(truth, seed).round(5).tolist(),
        "parse_rate": rollouts.parse_rate,
        "greedy_parse_rate": float(greedy["parsed"].mean()),
    }


def summary(done: list[dict[str, Any]]) -> dict[str, Any]:
    """Every run over all its seeds, beside `SFT` on the same clips; intervals by a bootstrap over places."""
    rows, plain = [], {one["seed"]: one for one in done if one["run"] == SFT}
    for name in dict.fromkeys(one["run"] for one in done):
        cells = [one for one in done if one["run"] == name]
        clusters = [f"{one['seed']}/{place}" for one in cells for place in one["place"]]
        row: dict[str, Any] = {"run": name, "seeds": len(cells)}
        row |= {key: float(np.mean([one[key] for one in cells])) for key in ("parse_rate", "greedy_parse_rate")}
        row["temperatures"] = [one["temperature"] for one in cells]
        for metric, statistic in (("km", "median"), ("energy", "mean"), ("energy_valid", "mean")):
            values = np.concatenate([one[metric] for one in cells])
            row[metric] = _interval(values, clusters, statistic)
            if name != SFT and all(one["seed"] in plain for one in cells):
                base = np.concatenate([plain[one["seed"]][metric] for one in cells])
                row[f"{metric}_less_sft"] = _difference(values, base, clusters, statistic)
        ranks = np.concatenate([one["rank"] for one in cells])
        known = ~np.isnan(ranks)
        if known.any():
            within = coverage(ranks[known], np.array(clusters)[known], levels=LEVELS)
            row["reliability"] = within.to_dict("records")
            row["miscalibration"] = float((within["observed"] - within["nominal"]).abs().mean())
        rows.append(row)
    return {"runs": rows}


def _interval(values: np.ndarray, clusters: list[str], statistic: str) -> dict[str, float] | None:
    """Over the clips that have a value: one with fewer than two valid answers has no score of its valid answers."""
    known = ~np.isnan(values)
    return asdict(place_interval(values[known], np.array(clusters)[known], statistic)) if known.any() else None


def _difference(
    values: np.ndarray, base: np.ndarray, clusters: list[str], statistic: str
) -> dict[str, float | int] | None:
    """Statistic of `values` less that of `base`, both of the same resampled places, over the clips that have both."""
    known = ~(np.isnan(values) | np.isnan(base))
    if not known.any():
        return None
    pair = np.stack([values[known], base[known]], axis=1)
    cluster = np.unique(np.array(clusters)[known], return_inverse=True)[1].astype(np.int64)
    means, medians = resample(pair, pair, cluster, count=2000, seed=0)
    draws = medians if statistic == "median" else means
    low, high = interval(draws[:, :1] - draws[:, 1:], 0.95)
    own, other = np.median(pair, axis=0) if statistic == "median" else pair.mean(axis=0)
    return {"value": float(own - other), "low": float(low[0]), "high": float(high[0]), "clips": int(known.sum())}


def main() -> None:
    """Run what is missing of the comparison and write its card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--runs", default=";".join(RUNS), help="separated by ; (names have commas)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--finished", action="store_true", help="only collect what an interrupted run left")
    parser.add_argument("--workers", type=int, default=1)
    chosen = parser.parse_args()
    names = chosen.runs.split(";")
    if unknown := [name for name in names if name not in RUNS]:
        parser.error(f"unknown runs {'; '.join(unknown)}: choose among {'; '.join(RUNS)}")
    folder = chosen.out.with_suffix(".cells")
    folder.mkdir(parents=True, exist_ok=True)
    cells = [Cell(name, seed, folder) for seed in range(chosen.seeds) for name in names]
    about = {"reason": asdict(settings()), "temperatures": TEMPERATURES, "rollouts": ROLLOUTS, "clips": CLIPS}
    command = f"python benchmarks/reason.py OUT.json --seeds {chosen.seeds}"
    command += f' --runs "{chosen.runs}"' if chosen.runs != parser.get_default("runs") else ""
    with run_card(chosen.out, what="GRPO beside fine-tuning", command=command, settings=about, seed=0) as card:
        there = [cell for cell in cells if cell.file.is_file()]
        print(f"{len(cells)} cells, {len(there)} of them finished earlier")
        cells = there if chosen.finished else cells
        if not chosen.finished:  # what cells share is made before workers could make it beside one another
            for seed in range(chosen.seeds):
                _ = Pipeline(get_profile("smoke"), seed).examples
            bases = {(cell.seed, RUNS[cell.name].base): cell for cell in cells if not cell.file.is_file()}
            list(map_items(prepare, list(bases.values()), workers=chosen.workers, description="SFT", unit="policy"))
        done = list(map_items(run_cell, cells, workers=chosen.workers, description="reason", unit="cell"))
        card["result"] = summary(done) | {"reused_cells": len(there)}


if __name__ == "__main__":
    main()
