"""The comparison of ways to learn acoustic atoms: ours, five baselines and our ablations, over sparsities and seeds.

python benchmarks/atoms.py planted OUT.json       # superposed directions (avgeo.perceive.planted)
python benchmarks/atoms.py spectrogram OUT.json   # mixtures of parametric sounds under a logarithm
python benchmarks/atoms.py avg-sim OUT.json       # the world of the smoke profile, against its true sources
python benchmarks/atoms.py esc10 OUT.json         # real sound in $AVGEO_MIRROR, against its labels
python benchmarks/atoms.py all OUT.json           # one card of the four

Options: --seeds 5, --l0 8,16,32,64, --methods ours,TopK,..., --workers 2, --quick. A cell (task, method, L0, seed) that
is finished lies in OUT.cells/, so an interrupted run goes on where it was; a change of the recipe or of the code that
trains starts its cells anew. The card OUT.json is written at the end: data/results/atoms-<task>.json for the book.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from atoms_tasks import TASKS, Task, dictionary_of

from avgeo.artifacts import code_hash, run_card
from avgeo.engine import map_items
from avgeo.paths import write_text
from avgeo.perceive.atoms import reach
from avgeo.perceive.baselines import BatchTopKConfig, MatryoshkaConfig, NmfConfig
from avgeo.perceive.coder import CoderConfig
from avgeo.perceive.persistence import Listener, calibrated
from avgeo.perceive.sae import SparseAutoencoder, pursuit_config, recipe, topk_config
from avgeo.perceive.scores import across_seeds, paired_differences
from avgeo.perceive.stability import code_stability, stability
from avgeo.perceive.training import train_sae
from avgeo.profiles import AtomSettings

OURS = "ours"
UNTRAINED = "untrained"
L0 = {"planted": (8, 16), "spectrogram": (8, 16), "avg-sim": (8, 16, 32, 64), "esc10": (8, 16)}
ABLATED_AT = 16
RATES = {"TopK": 0.003, "BatchTopK": 0.003, "Matryoshka": 0.006, "matching pursuit": 0.012, "NMF": 0.003}
"""Each baseline's learning rate: the best of .003, .006 and .012 by MCC on AVG-Sim at L0 16, with seed 0.

Ours and its ablations keep the recipe's (.006), but "one stage", for which .003 was better."""
TRAINED_BY = tuple(
    f"perceive/{name}" for name in ("sae", "coder", "sparse", "baselines", "training", "encoders", "planted")
)

Make = Callable[[Task, AtomSettings, int], Listener]
"""A trained coder of a task, settings (with `at_a_time` as the L0) and a seed, as it hears clips."""


_kept: dict[str, Any] = {}


def _trained(key: tuple[object, ...], train: Callable[[], Any]) -> Any:
    """What `train()` gives, kept until another is asked for: one of ours serves every L0."""
    name = repr(key)
    if name not in _kept:
        _kept.clear()
        _kept[name] = train()
    return _kept[name]


def _heard(coder: Any, task: Task, settings: AtomSettings) -> Listener:
    assert task.clips is not None
    return calibrated(coder, task.clips, reach(settings), settings.at_a_time)


def _ours(
    persistence: bool = True, consistency: float | None = None, rate: float | None = None, **changed: Any
) -> Make:
    """Our recipe with parts of it changed; `rate` where such a change wants a learning rate of its own."""

    def make(task: Task, settings: AtomSettings, seed: int) -> Listener:
        persists = persistence and task.clips is not None
        weight = settings.consistency_weight if consistency is None else consistency
        settings = replace(
            settings, active=settings.active if persists else settings.at_a_time, consistency_weight=weight,
            learning_rate=rate or settings.learning_rate,
        )  # fmt: skip
        shape = recipe(task.x.shape[-1], settings)
        if "stages" in changed:
            shape = replace(shape, split=None)
        config = replace(shape, **changed)

        def train() -> Any:
            return train_sae(task.x, settings, seed, mixtures=task.mixtures if weight else None, config=config)[0]

        key = (id(task), config, replace(settings, at_a_time=0), seed)
        return _heard(_trained(key, train), task, settings) if persists else Listener(train())

    return make


def _baseline(name: str, shape: Callable[..., CoderConfig], persistence: bool = False) -> Make:
    """Another method in the same training loop, with the same data, atoms, batches and steps."""

    def make(task: Task, settings: AtomSettings, seed: int) -> Listener:
        active = settings.active if persistence else settings.at_a_time
        config = shape(task.x.shape[-1], settings.atoms, active=active)
        coder, _ = train_sae(task.x, replace(settings, learning_rate=RATES[name]), seed, config=config)
        return _heard(coder, task, settings) if persistence else Listener(coder)

    return make


def _untrained(task: Task, settings: AtomSettings, seed: int) -> Listener:
    coder = SparseAutoencoder(topk_config(task.x.shape[-1], settings.atoms, settings.at_a_time), seed)
    coder.fit_scaling(task.x)
    return Listener(coder.eval())


METHODS: dict[str, Make] = {
    OURS: _ours(),
    "TopK": _baseline("TopK", topk_config),
    "BatchTopK": _baseline("BatchTopK", BatchTopKConfig),
    "Matryoshka": _baseline("Matryoshka", MatryoshkaConfig),
    "matching pursuit": _baseline("matching pursuit", pursuit_config),
    "NMF": _baseline("NMF", NmfConfig),
    UNTRAINED: _untrained,
}
ABLATIONS: dict[str, Make] = {
    "no persistence": _ours(persistence=False),
    "one stage": _ours(stages=1, rate=0.003),
    "never released": _ours(release=1.0),
    "never tied": _ours(tied=False, release=1.0),
    "two experts": _ours(experts=2),
    "mixture consistency": _ours(consistency=0.1),
    "TopK with persistence": _baseline("TopK", topk_config, persistence=True),
    "BatchTopK with persistence": _baseline("BatchTopK", BatchTopKConfig, persistence=True),
}
_STILL = [*METHODS, "one stage", "never released", "never tied"]  # for vectors without a course in time
DEFAULTS = {
    "planted": _STILL,
    "spectrogram": _STILL,
    "avg-sim": [*METHODS, *ABLATIONS],
    "esc10": [OURS, "TopK", UNTRAINED, "no persistence", "TopK with persistence"],
}


@dataclass(frozen=True)
class Cell:
    """One training run, and where its result goes."""

    task: str
    method: str
    l0: int
    seed: int
    quick: bool
    folder: Path
    recipe: str

    @property
    def file(self) -> Path:
        """Its scores, once it is finished; `.npz` beside it holds dictionary and codes."""
        name = f"{self.task}-{self.method}-{self.l0}-{self.seed}-{self.recipe}.json"
        return self.folder / name.replace(" ", "_")


def recipe_hash(task: str, settings: AtomSettings, quick: bool) -> str:
    """What a finished cell rests on, besides its own name."""
    described = json.dumps([task, asdict(settings), quick, code_hash(*TRAINED_BY)], sort_keys=True)
    return hashlib.sha256(described.encode()).hexdigest()[:8]


def run_cell(cell: Cell) -> dict[str, Any]:
    """Train and score one cell, unless it is there already."""
    if cell.file.is_file():
        return json.loads(cell.file.read_text())
    torch.set_num_threads(1)
    task = TASKS[cell.task].load(cell.quick, cell.seed)
    settings = replace(TASKS[cell.task].settings(cell.quick), at_a_time=cell.l0)
    began = time.process_time()
    coder = (METHODS | ABLATIONS)[cell.method](task, settings, cell.seed)
    trained = time.process_time()
    rows = task.score(coder, cell.l0, cell.seed)
    done = {"task": cell.task, "method": cell.method, "l0": cell.l0, "seed": cell.seed, "scores": rows}
    done |= {"train_cpu_s": round(trained - began, 1), "score_cpu_s": round(time.process_time() - trained, 1)}
    with torch.no_grad():
        codes = coder.coder.encode(task.probe_x).numpy().astype(np.float16)
    np.savez_compressed(cell.file.with_suffix(".npz"), codes=codes, dictionary=dictionary_of(coder, task.x.shape[-1]))
    write_text(cell.file, json.dumps(done) + "\n")  # last: a cell that has this file is whole
    return done


def _rounded(table: pd.DataFrame) -> list[dict[str, Any]]:
    rows = table.astype(object).where(table.notna(), None).to_dict("records")
    return [{name: float(f"{v:.5g}") if isinstance(v, float) else v for name, v in row.items()} for row in rows]


def compare(done: list[dict[str, Any]], cells: list[Cell]) -> dict[str, Any]:
    """The card's result: every cell's scores, their means over seeds, ours minus each other, and stability."""
    keys = ("task", "method", "l0", "seed")
    long = pd.DataFrame(
        [
            {key: item[key] for key in keys} | {"metric": row["metric"], "value": row["value"]}
            for item in done
            for row in item["scores"]
            if row["value"] is not None
        ]
    )
    scores = [
        {key: item[key] for key in (*keys, "train_cpu_s", "score_cpu_s")}
        | {row["metric"]: None if row["value"] is None else float(f"{row['value']:.5g}") for row in item["scores"]}
        for item in done
    ]
    result = {"cells": scores, "summary": _rounded(across_seeds(long))}
    if (long["method"] == OURS).any():
        result["ours_minus"] = _rounded(paired_differences(long, OURS))
    result["stability"] = _rounded(_stability(cells))
    return result


def _stability(cells: list[Cell]) -> pd.DataFrame:
    """Over the seeds of every task, method and L0: dictionaries and codes, less those of untrained ones."""
    by: dict[tuple[str, str, int], list[Cell]] = {}
    for cell in cells:
        if TASKS[cell.task].same_data:
            by.setdefault((cell.task, cell.method, cell.l0), []).append(cell)
    rows = []
    for (task, method, l0), runs in by.items():
        chance = by.get((task, UNTRAINED, l0))
        if method == UNTRAINED or len(runs) < 2 or chance is None:
            continue
        own, none = ([np.load(cell.file.with_suffix(".npz")) for cell in part] for part in (runs, chance))
        for measure, name in ((stability, "dictionary"), (code_stability, "codes")):
            key = "dictionary" if measure is stability else "codes"
            parts = [[run[key].astype(np.float32) for run in part] for part in (own, none)]
            found = measure(*parts).assign(task=task, method=method, l0=l0, of=name)
            rows.append(found)
    return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame()


def main() -> None:
    """Run what is missing of the comparison and write its card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=[*TASKS, "all"])
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=100, help="first seed; the recipe was chosen with seeds below 100")
    parser.add_argument("--l0", help=f"comma-separated; default {L0}, ablations {ABLATED_AT}")
    parser.add_argument("--methods", help="comma-separated; default: those that fit the task")
    parser.add_argument("--workers", type=int, default=1, choices=(1, 2))
    parser.add_argument("--quick", action="store_true", help="little data and training: to see that it runs")
    chosen = parser.parse_args()
    names = list(TASKS) if chosen.task == "all" else [chosen.task]
    if unknown := [name for name in (chosen.methods or "").split(",") if name and name not in METHODS | ABLATIONS]:
        parser.error(f"unknown methods {', '.join(unknown)}: choose among {', '.join(METHODS | ABLATIONS)}")
    folder = chosen.out.with_suffix(".cells")
    folder.mkdir(parents=True, exist_ok=True)
    cells = []
    for task in names:
        methods = chosen.methods.split(",") if chosen.methods else DEFAULTS[task]
        l0s = [int(l0) for l0 in chosen.l0.split(",")] if chosen.l0 else L0[task]
        recipe = recipe_hash(task, TASKS[task].settings(chosen.quick), chosen.quick)
        cells += [
            Cell(task, method, l0, seed, chosen.quick, folder, recipe)
            for seed in range(chosen.first, chosen.first + chosen.seeds)
            for method in methods
            for l0 in ([ABLATED_AT] if method in ABLATIONS and not chosen.l0 else l0s)
        ]
    settings = {name: asdict(TASKS[name].settings(chosen.quick)) for name in names} | {"quick": chosen.quick}
    what = f"Acoustic atoms: ours, baselines and ablations on {', '.join(names)}"
    command = f"python benchmarks/atoms.py {chosen.task} OUT.json --seeds {chosen.seeds} --first {chosen.first}"
    for option, given in (("--l0", chosen.l0), ("--methods", chosen.methods and f'"{chosen.methods}"')):
        command += f" {option} {given}" if given else ""
    command += " --quick" * chosen.quick
    with run_card(chosen.out, what=what, command=command, settings=settings, seed=chosen.first) as card:
        there = sum(cell.file.is_file() for cell in cells)
        print(f"{len(cells)} cells, {there} of them finished earlier")
        done = list(map_items(run_cell, cells, workers=chosen.workers, description="atoms", unit="cell"))
        card["result"] = compare(done, cells) | {"reused_cells": there}
        card["result"]["references"] = {name: TASKS[name].reference(chosen.quick, chosen.seeds) for name in names}


if __name__ == "__main__":
    main()
