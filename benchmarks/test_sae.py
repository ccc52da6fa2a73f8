"""Sparse autoencoders side by side: `pytest benchmarks/test_sae.py`; for the run card `python benchmarks/test_sae.py`.

TopK autoencoders, 512 -> 4096, k = 32, one epoch in float32 on one thread, over the same planted vectors (each the sum
of about 8 of 1024 unit directions, with noise): avgeo and the four peers that the extra `peers` installs.
*Time*: CPU seconds per million vectors of the training loop (avgeo's with scaling and set-up), all trainers in turn,
several rounds; the share of the fastest peer's time is taken round by round. *Recovery*: MMCS, the mean over true
directions of the greatest cosine with a learned atom; every trainer runs both at the setting of the peers' examples
(batch 1024, rate 1e-3) and at avgeo's (the same batch, rate 6e-3), so that no one is tuned alone.
Budgets, asserted where all peers are installed: at most 0.75 of the CPU time of the fastest peer, at an MMCS no worse
than that of the best peer in any setting. Recovery takes minutes: it is in the run card, and here when
`AVGEO_SAE_VECTORS=100000` asks for it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import io
import math
import os
import statistics
import sys
import time
import types
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", WANDB_MODE="disabled", HF_HUB_OFFLINE="1", SPARSIFY_DISABLE_TRITON="1")

import pytest
import torch
from torch import Tensor

from avgeo.perceive.sae import topk_config
from avgeo.perceive.training import train_sae
from avgeo.profiles import AtomSettings

DIM, ATOMS, ACTIVE, TRUE = 512, 4096, 32, 1024
SETTINGS = ((1024, 1e-3), (1024, 6e-3))
BUDGET = 0.75
COUNT = int(os.environ.get("AVGEO_SAE_VECTORS", "0"))
RACE_COUNT, ROUNDS = 20_480, 7
CARD_COUNT = 100_000
SEEDS = (0, 1, 2)  # of the card: other vectors, other beginnings


def planted(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Vectors (count, dim) and the directions (TRUE, dim) they are made of, the frequent ones first."""
    draw = torch.Generator().manual_seed(7 + seed)
    directions = torch.nn.functional.normalize(torch.randn(TRUE, DIM, generator=draw), dim=-1)
    often = torch.arange(1, TRUE + 1).float().rsqrt()
    index = torch.multinomial(often / often.sum(), count * 8, replacement=True, generator=draw).view(count, 8)
    strength = torch.rand(count, 8, generator=draw) + 0.5
    x = sum(strength[:, j, None] * directions[index[:, j]] for j in range(8))
    return x + 0.02 * torch.randn(count, DIM, generator=draw), directions


def shuffled(x: Tensor, batch: int, seed: int) -> Iterator[Tensor]:
    """One epoch of full batches."""
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    for start in range(0, len(x) - batch + 1, batch):
        yield x[order[start : start + batch]]


def avgeo(x: Tensor, batch: int, rate: float, seed: int) -> tuple[Tensor, Callable[[], Tensor]]:
    settings = replace(AtomSettings(), epochs=1, batch=batch, learning_rate=rate)
    kept: list[Tensor] = []

    def fit() -> None:
        coder, _ = train_sae(x, settings, seed, config=topk_config(DIM, ATOMS, ACTIVE, encoder_start=0.3))
        kept.append(coder.dictionary.detach())

    return fit, lambda: kept[-1]


def sparsify(x: Tensor, batch: int, rate: float, seed: int) -> Any:
    from sparsify import SparseCoder, SparseCoderConfig

    sae = SparseCoder(DIM, SparseCoderConfig(num_latents=ATOMS, k=ACTIVE))
    optimizer = torch.optim.Adam(sae.parameters(), lr=rate)
    silent = torch.zeros(ATOMS, dtype=torch.long)

    def fit() -> None:  # the loop of its trainer, which itself wants a language model
        for rows in shuffled(x, batch, seed):
            sae.set_decoder_norm_to_unit_norm()
            out = sae(rows, dead_mask=silent > 50_000)
            (out.fvu + out.auxk_loss / 32).backward()
            sae.remove_gradient_parallel_to_decoder_directions()
            optimizer.step()
            optimizer.zero_grad()
            silent.add_(batch)
            silent[out.latent_indices.flatten()] = 0

    return fit, lambda: sae.W_dec.detach()


def sae_lens(x: Tensor, batch: int, rate: float, seed: int) -> Any:
    from sae_lens import LoggingConfig, SAETrainer, TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.config import SAETrainerConfig

    sae = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=DIM, d_sae=ATOMS, k=ACTIVE, device="cpu", dtype="float32"))
    chosen: dict[str, Any] = {
        "total_training_samples": len(x) // batch * batch, "train_batch_size_samples": batch, "device": "cpu",
        "autocast": False, "lr": rate, "lr_end": rate, "lr_scheduler_name": "constant", "lr_warm_up_steps": 0,
        "lr_decay_steps": 0, "adam_beta1": 0.9, "adam_beta2": 0.999, "n_restart_cycles": 1, "dead_feature_window": 50,
        "feature_sampling_window": 1000, "n_checkpoints": 0, "checkpoint_path": None, "save_final_checkpoint": False,
        "logger": LoggingConfig(log_to_wandb=False),
    }  # fmt: skip
    known = inspect.signature(SAETrainerConfig).parameters
    config = SAETrainerConfig(**{name: value for name, value in chosen.items() if name in known})
    trainer = SAETrainer(cfg=config, sae=sae, data_provider=shuffled(x, batch, seed))
    return trainer.fit, lambda: sae.W_dec.detach()


def overcomplete(x: Tensor, batch: int, rate: float, seed: int) -> Any:
    _stand_in_for_torchvision()
    from overcomplete.sae import TopKSAE
    from overcomplete.sae import train_sae as fit_sae
    from torch.utils.data import DataLoader, TensorDataset

    sae = TopKSAE(DIM, nb_concepts=ATOMS, top_k=ACTIVE, device="cpu")
    optimizer = torch.optim.Adam(sae.parameters(), lr=rate)
    rows = DataLoader(TensorDataset(x), batch_size=batch, shuffle=True, drop_last=True)

    def error(x: Tensor, again: Tensor, *_: Any) -> Tensor:
        return (x - again).square().mean()

    return lambda: fit_sae(
        sae, rows, error, optimizer, nb_epochs=1, device="cpu"
    ), lambda: sae.get_dictionary().detach()


def _stand_in_for_torchvision() -> None:
    """overcomplete imports torchvision for its image models only, and a function that matplotlib 3.9 removed."""
    import matplotlib
    import matplotlib.cm

    if "torchvision" not in sys.modules and importlib.util.find_spec("torchvision") is None:
        sys.modules["torchvision"] = torchvision = types.ModuleType("torchvision")
        torchvision.__path__ = []
        torchvision.transforms = sys.modules["torchvision.transforms"] = types.ModuleType("torchvision.transforms")
    if not hasattr(matplotlib.cm, "get_cmap"):
        matplotlib.cm.get_cmap = lambda name=None, lut=None: (
            matplotlib.colormaps[name] if isinstance(name, str) else name
        )


def dictionary_learning(x: Tensor, batch: int, rate: float, seed: int) -> Any:
    from dictionary_learning.trainers.top_k import TopKTrainer

    trainer = TopKTrainer(
        steps=len(x) // batch, activation_dim=DIM, dict_size=ATOMS, k=ACTIVE, layer=0, lm_name="none", lr=rate,
        warmup_steps=min(5, len(x) // batch - 1), decay_start=None, device="cpu", seed=seed,
    )  # fmt: skip

    def fit() -> None:
        for step, rows in enumerate(shuffled(x, batch, seed)):
            trainer.update(step, rows)

    return fit, lambda: trainer.ae.decoder.weight.detach().T


PEERS = {
    "sparsify": sparsify,
    "sae_lens": sae_lens,
    "overcomplete": overcomplete,
    "dictionary_learning": dictionary_learning,
}


@dataclass(frozen=True)
class Outcome:
    """One training: who, how, how long, and how much of the truth it found."""

    trainer: str
    seed: int
    batch: int
    rate: float
    cpu_s_per_million: float
    wall_s_per_million: float
    mmcs: float
    found: float


def trial(name: str, x: Tensor, directions: Tensor, seed: int, batch: int, rate: float) -> Outcome:
    """Train once; `found` is the share of directions with a cosine above 0.9."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    fit, dictionary = (avgeo if name == "avgeo" else PEERS[name])(x, batch, rate, seed)
    wall, cpu = time.perf_counter(), time.process_time()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        fit()
    spent = time.process_time() - cpu, time.perf_counter() - wall
    done = 1e6 / (len(x) // batch * batch)
    best = (torch.nn.functional.normalize(dictionary().float(), dim=-1) @ directions.T).max(0).values
    found = float(best.mean()), float((best > 0.9).float().mean())
    return Outcome(name, seed, batch, rate, spent[0] * done, spent[1] * done, *found)


def installed() -> list[str]:
    """avgeo, and the peers that are there."""
    return ["avgeo", *(name for name in PEERS if importlib.util.find_spec(name))]


def race(seed: int = 0) -> list[Outcome]:
    """Every trainer in turn, over and over: what slows the machine for a while then slows them all alike."""
    x, directions = planted(RACE_COUNT, seed)
    trial("avgeo", x[:2048], directions, seed, 256, 1e-3)  # the first call pays for what later ones find
    return [trial(name, x, directions, seed, *SETTINGS[1]) for _ in range(ROUNDS) for name in installed()]


def recover(count: int, seed: int = 0) -> list[Outcome]:
    """Every trainer in both settings, on the same vectors."""
    x, directions = planted(count, seed)
    return [trial(name, x, directions, seed, *setting) for setting in SETTINGS for name in installed()]


def pace(raced: list[Outcome]) -> dict[str, float]:
    """avgeo's CPU time and its share of the fastest peer's: medians over rounds, the share taken round by round."""
    cost = {name: [o.cpu_s_per_million for o in raced if o.trainer == name] for name in installed()}
    fastest = [min(times) for times in zip(*(cost[name] for name in cost if name != "avgeo"), strict=True)]
    shares = [own / peer for own, peer in zip(cost["avgeo"], fastest, strict=bool(fastest))]
    return {
        "cpu_s_per_million": statistics.median(cost["avgeo"]),
        "time_over_fastest_peer": statistics.median(shares) if shares else math.nan,
    }


def recovery(outcomes: list[Outcome]) -> dict[str, float]:
    """avgeo's MMCS at its own setting, and that of the best peer at any."""
    ours = next(o for o in outcomes if (o.trainer, o.batch, o.rate) == ("avgeo", *SETTINGS[1]))
    best = max((o.mmcs for o in outcomes if o.trainer != "avgeo"), default=math.nan)
    return {"mmcs": ours.mmcs, "mmcs_of_best_peer": best}


def test_training_against_peers(benchmark: Callable) -> None:
    raced: list[Outcome] = []
    benchmark.group = "sparse autoencoders"
    benchmark.pedantic(lambda: raced.extend(race()), rounds=1)
    told = pace(raced)
    if COUNT:
        told |= recovery(recover(COUNT))
    benchmark.extra_info |= told
    print(f"\n{told}")
    if set(installed()) < {"avgeo", *PEERS}:
        pytest.skip("not all peers are installed (`pip install avgeo[peers]`): nothing to compare with")
    assert told["time_over_fastest_peer"] <= BUDGET, told
    if COUNT:
        assert told["mmcs"] >= told["mmcs_of_best_peer"], told


def card() -> None:
    """Leave `data/results/sae-peers.json`: the race, and recovery from `CARD_COUNT` vectors over several seeds."""
    from importlib import metadata

    from tqdm import tqdm

    from avgeo.artifacts import run_card
    from avgeo.paths import data_dir

    settings = {"dim": DIM, "atoms": ATOMS, "active": ACTIVE, "vectors": CARD_COUNT, "true": TRUE}
    settings |= {"batch and rate": SETTINGS, "seeds": SEEDS, "rounds": ROUNDS, "vectors of a round": RACE_COUNT}
    what, command = "TopK autoencoders trained side by side", "python benchmarks/test_sae.py"
    path = data_dir() / "results" / "sae-peers.json"
    with run_card(path, what=what, command=command, settings=settings, seed=SEEDS[0]) as made:
        raced = race()
        runs = [recover(CARD_COUNT, seed) for seed in tqdm(SEEDS, "seeds")]
        packages = ("eai-sparsify", "sae-lens", "overcomplete", "dictionary-learning")
        made["result"] = {
            "pace": pace(raced),
            "race": [asdict(outcome) for outcome in raced],
            "recovery": [{"seed": seed} | recovery(outcomes) for seed, outcomes in zip(SEEDS, runs, strict=True)],
            "trainers": [asdict(outcome) for outcomes in runs for outcome in outcomes],
            "versions": {name: metadata.version(name) for name in packages},
        }


if __name__ == "__main__":
    card()
