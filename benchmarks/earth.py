"""The Earth benchmark: densities of volcanoes, earthquakes, floods and fires, on stored splits, over five seeds.

python benchmarks/earth.py OUT.json                      # every set, protocol and method
python benchmarks/earth.py OUT.json --sets volcano,flood --protocols deduplicated --methods "plain vMF kernels"

The four files come from $AVGEO_MIRROR or are downloaded. Options: --seeds 5, --finished. A cell (set, protocol,
method, seed) that is finished lies in OUT.cells/, so an interrupted run goes on where it was; a change of its code
starts it anew. Scores are nats a place with respect to the unit sphere's area: lower is better, uniform is 2.531.
Another method is one more row of `METHODS`, which says, too, on which protocols it is run.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import earth_flows as flows
import earth_models as models
import pandas as pd
import torch

from avgeo.artifacts import code_hash, run_card, tables_hash
from avgeo.engine import map_items
from avgeo.fetch import fetch
from avgeo.flow.benchmark import OURS, PLAIN, UNIFORM_BASE
from avgeo.flow.earth import FILES, PROTOCOLS, SEEDS, EarthData, leaks, load_earth, read_table, stored_split
from avgeo.flow.integral import integral
from avgeo.flow.kernels import BRIDGES, DIRECTED, NEIGHBOURS, SMALLEST_KM, WIDTHS
from avgeo.paths import write_text
from avgeo.perceive.scores import across_seeds, paired_differences

DRAWS = 10_000
"""By which importance sampling asks for ∫p."""

PUBLISHED = {
    "RFM (Chen & Lipman 2024)": {"volcano": -7.93, "earthquake": -0.28, "flood": 0.42, "fire": -1.86},
    "best since": {"volcano": -4.96, "earthquake": -1.08, "flood": -0.88, "fire": -2.48},
}
"""Test NLL in nats as papers print it, on splits of their own of the raw rows, without a stated smallest scale."""


@dataclass(frozen=True)
class Method:
    """A way to make a density.

    `fit` gets training places (n, 3), validation places (m, 3), a seed, and then the densities of the methods named in
    `parts`, of the same places and seed. Training places make the density; validation places only choose (widths,
    weights). `code` names the modules of avgeo on which finished cells rest. Integrals are checked on the sets in
    `checked`, to this `tolerance` of the cells, led by so many draws (`peaks`) besides the places: a kernel that none
    has led to is missed (see `avgeo.flow.integral`).
    """

    fit: Callable[..., models.Density]
    code: tuple[str, ...] = ("flow/kernels", "flow/mixture", "flow/base", "sphere")
    protocols: tuple[str, ...] = ("deduplicated",)
    parts: tuple[str, ...] = ()
    checked: tuple[str, ...] = ("volcano",)  # kernels are normalised in closed form; these are the sharpest
    tolerance: float = 0.01
    peaks: int = 20_000


_FLOW = ("flow/kernels", "flow/base", "flow/density", "flow/likelihood", "flow/mixture", "flow/network", "flow/path",
         "flow/solver", "flow/training", "flow/transport", "sphere")  # fmt: skip


def _flow(fit: Callable[..., models.Density], *parts: str, checked: bool = True) -> Method:
    return Method(fit, _FLOW, parts=parts, checked=tuple(FILES) if checked else (), tolerance=0.03, peaks=2000)


METHODS = {
    PLAIN: Method(models.plain, protocols=PROTOCOLS),
    OURS: Method(models.kernels(*WIDTHS, *NEIGHBOURS, *DIRECTED, *BRIDGES), protocols=PROTOCOLS),
    "kernels: widths": Method(models.kernels(*WIDTHS)),
    "kernels: widths, neighbours": Method(models.kernels(*WIDTHS, *NEIGHBOURS)),
    "kernels: widths, neighbours, directed": Method(models.kernels(*WIDTHS, *NEIGHBOURS, *DIRECTED)),
    "vMF mixture (EM)": Method(models.few_vmf),
    UNIFORM_BASE: _flow(flows.flow(None)),
    "flow, vMF mixture base": _flow(flows.flow(flows.few_base)),
    "flow, kernel base": _flow(flows.flow(flows.kernel_base)),
    "flow, uniform base, ten times as long": _flow(flows.flow(None, 10)),
    "flow and kernels": _flow(flows.mixed, "flow, kernel base", OURS, checked=False),
}


@dataclass(frozen=True)
class Cell:
    """One density, and where its scores go."""

    name: str
    protocol: str
    method: str
    seed: int
    folder: Path

    @property
    def file(self) -> Path:
        """Its scores, once it is finished."""
        known = METHODS[self.method]
        checks = (
            [DRAWS, known.tolerance, known.peaks, code_hash("flow/integral", "flow/cells")]
            if self.name in known.checked
            else []
        )
        about = [self.name, self.protocol, *checks, *known.parts]
        made = inspect.getsource(inspect.getmodule(known.fit) or models)
        code = code_hash("flow/earth", *known.code) + tables_hash("splits/earth.npz")
        recipe = hashlib.sha256(json.dumps([about, made, code]).encode()).hexdigest()[:8]
        slug = "".join(letter if letter.isalnum() else "_" for letter in self.method)
        return self.folder / f"{self.name}-{self.protocol}-{slug}-{self.seed}-{recipe}.json"


@lru_cache(maxsize=8)
def fitted(name: str, protocol: str, method: str, seed: int) -> tuple[EarthData, models.Density, float]:
    """(places, density, CPU minutes of fitting it and its parts); kept, as a method may be part of a later one."""
    data, known = load_earth(name, protocol, seed), METHODS[method]
    parts = [fitted(name, protocol, part, seed) for part in known.parts]
    began = time.process_time()
    density = known.fit(data.train, data.val, seed, *(part for _, part, _ in parts))
    minutes = (time.process_time() - began) / 60
    return data, density, minutes + sum(spent for _, _, spent in parts)


def run_cell(cell: Cell) -> dict[str, Any]:
    """Fit and score one density, unless that is done; with its integrals on the sets where they are checked."""
    file = cell.file
    if file.is_file():
        return json.loads(file.read_text())
    torch.set_num_threads(1)
    data, density, minutes = fitted(cell.name, cell.protocol, cell.method, cell.seed)
    done: dict[str, Any] = {"set": cell.name, "protocol": cell.protocol, "method": cell.method, "seed": cell.seed}
    done |= {"nll": -float(density.log_prob(data.test).double().mean()), "fit_cpu_min": minutes}
    known = METHODS[cell.method]
    if cell.name in known.checked and isinstance(density, models.Sampled):
        began = time.process_time()
        peaks = torch.cat([data.train, density.sample(known.peaks, torch.Generator().manual_seed(cell.seed))])
        found = integral(
            density.log_prob, peaks, count=DRAWS, seed=cell.seed, tolerance=known.tolerance, limit=3_000_000
        )
        done["integral"] = asdict(found)
        done["integral_cpu_min"] = (time.process_time() - began) / 60
    write_text(file, json.dumps(done) + "\n")
    return done


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    rows = table.astype(object).where(table.notna(), None).to_dict("records")
    return [{str(name): float(f"{v:.5g}") if isinstance(v, float) else v for name, v in row.items()} for row in rows]


def compare(done: list[dict[str, Any]]) -> dict[str, Any]:
    """Cells, means over seeds, paired differences to the plain kernels and to our best, leaks, the published rows."""
    scores = pd.DataFrame(done)[["set", "protocol", "method", "seed", "nll"]].rename(columns={"nll": "value"})
    result: dict[str, Any] = {"cells": done, "summary": _rows(across_seeds(scores))}
    for key, name in (("minus_plain", PLAIN), ("minus_ours", OURS), ("minus_uniform_base", UNIFORM_BASE)):
        if (scores["method"] == name).any() and scores["method"].nunique() > 1:
            # paired_differences subtracts the others from the one named; a reader wants what each gains on it
            found = paired_differences(scores, name)
            low, high = -found["high"], -found["low"]
            result[key] = _rows(found.assign(difference=-found["difference"], low=low, high=high))
    found = []
    for name, protocol in sorted({(item["set"], item["protocol"]) for item in done}):
        table = read_table(fetch(FILES[name]))
        parts = pd.DataFrame([leaks(table, stored_split(name, protocol, seed)) for seed in range(SEEDS)])
        found.append({"set": name, "protocol": protocol} | parts.mean().to_dict())
    return result | {"leaks": _rows(pd.DataFrame(found)), "published": PUBLISHED}


def main() -> None:
    """Run what is missing of the comparison and write its card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--sets", default=",".join(FILES))
    parser.add_argument("--protocols", default=",".join(PROTOCOLS))
    parser.add_argument("--methods", default=";".join(METHODS), help="separated by ; (names have commas)")
    parser.add_argument("--seeds", type=int, default=SEEDS, choices=range(1, SEEDS + 1))
    parser.add_argument("--finished", action="store_true", help="only collect what an interrupted run left")
    parser.add_argument("--workers", type=int, default=1)
    chosen = parser.parse_args()
    asked = {"sets": chosen.sets.split(","), "protocols": chosen.protocols.split(","),
             "methods": chosen.methods.split(";")}  # fmt: skip
    for what, known in (("sets", FILES), ("protocols", PROTOCOLS), ("methods", METHODS)):
        if unknown := [name for name in asked[what] if name not in known]:
            parser.error(f"unknown {what} {', '.join(unknown)}: choose among {'; '.join(known)}")
    folder = chosen.out.with_suffix(".cells")
    folder.mkdir(parents=True, exist_ok=True)
    cells = [
        Cell(name, protocol, method, seed, folder)
        for name in asked["sets"]
        for protocol in asked["protocols"]
        for seed in range(chosen.seeds)
        for method in asked["methods"]
        if protocol in METHODS[method].protocols
    ]
    settings = {"smallest_km": SMALLEST_KM, "seeds": chosen.seeds, "flow": asdict(flows.FLOW)} | asked
    what, command = "Densities on the Earth benchmark", f"python benchmarks/earth.py OUT.json --seeds {chosen.seeds}"
    given = {name: getattr(chosen, name) for name in asked if getattr(chosen, name) != parser.get_default(name)}
    command += "".join(f' --{name} "{value}"' for name, value in given.items())
    with run_card(chosen.out, what=what, command=command, settings=settings, seed=0) as card:
        there = [cell for cell in cells if cell.file.is_file()]
        print(f"{len(cells)} cells, {len(there)} of them finished earlier")
        cells = there if chosen.finished else cells
        done = list(map_items(run_cell, cells, workers=chosen.workers, description="earth", unit="cell"))
        card["result"] = compare(done) | {"reused_cells": len(there)}


if __name__ == "__main__":
    main()
