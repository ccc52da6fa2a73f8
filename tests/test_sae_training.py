"""The training loop: recovery, determinism, resuming, several processes, sparse arithmetic against dense, errors."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.decomposition import MiniBatchNMF

from avgeo.perceive import SAMPLE_RATE_HZ, fraction_unexplained, match_sources, mix_waveforms
from avgeo.perceive.baselines import BatchTopKConfig, MatryoshkaConfig, Nmf, NmfConfig
from avgeo.perceive.coder import CoderError
from avgeo.perceive.sae import SaeConfig, SparseAutoencoder, pursuit_config, recipe, topk_config
from avgeo.perceive.shards import batches
from avgeo.perceive.training import DivergedError, Execution, Mixtures, _auxk, consistency_loss, train_sae
from avgeo.profiles import AtomSettings

DIM, ATOMS, K = 40, 32, 4
SETTINGS = replace(AtomSettings(), atoms=ATOMS, active=K, epochs=20, batch=128, learning_rate=1e-2)
SHORT = replace(SETTINGS, epochs=2)
SHAPES = [
    SaeConfig(DIM, ATOMS, K),
    SaeConfig(DIM, ATOMS, K, tied=True, experts=2, scaling="dimension"),
    topk_config(DIM, ATOMS, K),
    pursuit_config(DIM, ATOMS, K),
    BatchTopKConfig(DIM, ATOMS, K),
    MatryoshkaConfig(DIM, ATOMS, K, prefixes=3),
    NmfConfig(DIM, ATOMS, K),
]
NAMES = ["staged", "tied-scaled", "topk", "pursuit", "batchtopk", "matryoshka", "nmf"]

MANY = SaeConfig(DIM, 400, K, stages=1)  # more atoms than a batch can fire


def planted(count: int = 3000, atoms: int = 24, seed: int = 123) -> tuple[torch.Tensor, torch.Tensor]:
    """Sparse non-negative mixtures of known directions: (x, which are active)."""
    draw = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(atoms, DIM, generator=draw), dim=-1)
    active = torch.rand(count, atoms, generator=draw) < 3 / atoms
    strength = (1 + torch.rand(count, atoms, generator=draw)) * active
    return strength @ directions + 0.01 * torch.randn(count, DIM, generator=draw), active


def mixed(x: torch.Tensor, pairs: int = 400) -> Mixtures:
    return Mixtures(x[:pairs], x[pairs : 2 * pairs], torch.maximum(x[:pairs], x[pairs : 2 * pairs]))


@pytest.mark.parametrize("config", SHAPES, ids=NAMES)
def test_every_method_recovers_planted_atoms_in_the_same_loop(config):
    x, active = planted()
    coder, history = train_sae(x, SETTINGS, seed=0, config=config)
    untrained = type(coder)(config, seed=0)
    untrained.fit_scaling(x)
    with torch.no_grad():
        matched, chance = (
            match_sources(model.encode(x).numpy(), active.numpy())["correlation"].mean() for model in (coder, untrained)
        )
    assert matched > max(0.6, chance + 0.1)
    assert fraction_unexplained(coder, x) < 0.3
    assert float((coder.dictionary.detach().norm(dim=-1) - 1).abs().max()) < 1e-5
    assert history.columns.tolist() == ["step", "fvu", "auxk", "consistency", "dead"]
    assert history["fvu"].iloc[-1] < 0.5 * history["fvu"].iloc[0]


def test_inference_of_batchtopk_fires_about_as_often_as_asked():
    x, _ = planted()
    coder, _ = train_sae(x, SETTINGS, seed=0, config=BatchTopKConfig(DIM, ATOMS, K))
    with torch.no_grad():
        assert float((coder.encode(x) > 0).float().sum(1).mean()) == pytest.approx(K, rel=0.3)


def test_nmf_explains_about_as_much_as_sklearns():
    draw = torch.Generator().manual_seed(0)
    x = torch.rand(2000, 6, generator=draw) @ torch.rand(6, DIM, generator=draw) ** 4
    coder, _ = train_sae(x, SETTINGS, seed=0, config=NmfConfig(DIM, 6, 6))
    assert isinstance(coder, Nmf)
    theirs = MiniBatchNMF(6, init="random", random_state=0, max_iter=200, batch_size=128).fit(x.numpy())
    error = (x - torch.from_numpy(theirs.inverse_transform(theirs.transform(x.numpy()))).float()).square().sum()
    with torch.no_grad():
        ours = (x - coder.decode(coder.encode(x))).square().sum()
    spread = (x - x.mean(0)).square().sum()
    assert float(ours / spread) < float(error / spread) + 0.02


@pytest.mark.parametrize("config", SHAPES, ids=NAMES)
def test_the_seed_decides_everything(config):
    x, _ = planted(800)
    runs = [train_sae(x, SHORT, seed, mixtures=mixed(x), config=config) for seed in (0, 0, 1)]
    pd.testing.assert_frame_equal(runs[0][1], runs[1][1])
    assert torch.equal(runs[0][0].dictionary, runs[1][0].dictionary)
    assert not torch.equal(runs[0][0].dictionary, runs[2][0].dictionary)


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("config", SHAPES, ids=NAMES)
def test_no_atom_drifts_from_unit_length(config, bf16):
    x, _ = planted(600)
    coder, history = train_sae(x, replace(SHORT, learning_rate=0.1), 0, config=config, execution=Execution(bf16=bf16))
    assert coder.dictionary.dtype == torch.float32
    assert float((coder.dictionary.detach().norm(dim=-1) - 1).abs().max()) < 1e-5
    assert bool(history["fvu"].notna().all())


class Interrupted(Exception):
    """What a test's data raise in place of a power cut."""


class Shards(list):
    """Shards whose reading fails after so many."""

    def __init__(self, parts: list[torch.Tensor], reads: float = float("inf")) -> None:
        super().__init__(parts)
        self.left = reads

    def __getitem__(self, number):
        self.left -= 1
        if self.left < 0:
            raise Interrupted
        return super().__getitem__(number)


@pytest.mark.parametrize("config", SHAPES, ids=NAMES)
def test_an_interrupted_run_ends_bit_for_bit_as_an_uninterrupted_one(config, tmp_path):
    x, _ = planted(900)
    parts = list(x.split(200))
    how = Execution(checkpoint=tmp_path / "run.pt", every=3)
    settings = replace(SHORT, batch=64, epochs=4)
    whole, expected = train_sae(parts, settings, 0, mixtures=mixed(x), config=config)
    for reads in range(20, 200, 7):  # the first ones end before a single batch
        try:
            resumed, history = train_sae(
                Shards(parts, reads), settings, 0, mixtures=mixed(x), config=config, execution=how
            )
            break
        except Interrupted:
            continue
    else:
        raise AssertionError("never finished")
    assert reads > 27  # it was interrupted at least twice
    pd.testing.assert_frame_equal(history, expected)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    with pytest.raises(CoderError, match="another run"):
        train_sae(parts, replace(settings, learning_rate=0.5), 0, mixtures=mixed(x), config=config, execution=how)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=5), st.integers(1, 40), st.integers(0, 12))
def test_batches_cover_every_epoch_once_and_start_anywhere(sizes, batch, start):
    total = sum(sizes)
    parts = list(torch.arange(total).split(sizes))
    count = start + 3 * total // batch + 2
    source = batches(parts, batch, 7)
    drawn = [next(source) for _ in range(count)]
    assert all(len(rows) == batch for rows in drawn)
    flat = torch.cat(drawn)
    for epoch in range(len(flat) // total):
        assert sorted(flat[epoch * total : (epoch + 1) * total].tolist()) == list(range(total))
    later = batches(parts, batch, 7, start)
    assert all(torch.equal(next(later), rows) for rows in drawn[start:])


def test_shards_need_not_be_tensors(tmp_path):
    import numpy as np

    x, _ = planted(500)
    np.save(tmp_path / "x.npy", x.numpy())
    mapped = [np.load(tmp_path / "x.npy", mmap_mode="c")]
    one, _ = train_sae(mapped, SHORT, 0, config=SHAPES[0])
    other, _ = train_sae(x, SHORT, 0, config=SHAPES[0])
    assert torch.equal(one.dictionary, other.dictionary)


_PROCESS = """
import sys, torch
sys.path.insert(0, {tests!r})
from dataclasses import replace
from test_sae_training import MANY, SHORT, mixed, planted
from avgeo.perceive import training
training._DEAD_AFTER = 100
x, _ = planted(800)
coder, history = training.train_sae(x, replace(SHORT, batch=64), 0, mixtures=mixed(x), config=MANY)
if torch.distributed.get_rank() == 0:
    torch.save([coder.state_dict(), history.to_dict("list")], {out!r})
torch.distributed.destroy_process_group()
"""


def test_two_processes_learn_what_one_does_from_doubled_batches(tmp_path, monkeypatch):
    script = tmp_path / "process.py"
    script.write_text(_PROCESS.format(tests=os.path.dirname(__file__), out=str(tmp_path / "out")))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", str(script)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    state, history = torch.load(tmp_path / "out", weights_only=True)
    monkeypatch.setattr("avgeo.perceive.training._DEAD_AFTER", 100)
    x, _ = planted(800)
    coder, expected = train_sae(x, replace(SHORT, batch=128), 0, mixtures=mixed(x), config=MANY)
    for name, tensor in coder.state_dict().items():
        assert torch.allclose(tensor, state[name], atol=2e-3), name
    pd.testing.assert_frame_equal(pd.DataFrame(history), expected, rtol=1e-2, atol=1e-3)
    assert float(expected["dead"].max()) > 0 < float(expected["auxk"].max())  # or nothing was compared


def test_auxk_is_the_dense_formula_on_the_dead_atoms():
    x, _ = planted(200)
    coder = SparseAutoencoder(SaeConfig(DIM, ATOMS, K))
    dead = torch.zeros(ATOMS, dtype=torch.bool)
    dead[[1, 4, 7, 9, 12, 13, 20, 21, 22, 23, 30]] = True
    out = coder(x)
    part, whole = _auxk(coder, out, dead)
    given, target = out.residuals[-2].detach(), out.residuals[-1].detach()
    gates = torch.softmax(given @ coder.gate.T, -1)
    scores = sum(gates[:, [m]] * (given @ coder.experts[m].T) for m in range(2)) + coder.offsets[-1]
    scores = torch.where(dead, scores, -torch.inf)
    value, index = scores.topk(2 * K)
    rebuilt = torch.zeros_like(scores).scatter(1, index, value.relu()) @ coder.dictionary
    assert float(part.detach()) == pytest.approx(float((target - rebuilt).detach().square().sum()), rel=1e-5)
    assert float(whole) == pytest.approx(float(target.square().sum()), rel=1e-6)
    part.backward()
    assert set(coder.dictionary.grad.abs().sum(1).nonzero()[:, 0].tolist()) <= set(dead.nonzero()[:, 0].tolist())


@pytest.mark.parametrize("config", SHAPES[:4], ids=NAMES[:4])
def test_mixture_consistency_is_the_dense_formula_with_its_gradient(config):
    x, _ = planted(300)
    coder = SparseAutoencoder(config)
    coder.fit_scaling(x)
    mixtures, index = mixed(x, 100), torch.randperm(100)[:40]
    loss = consistency_loss(coder, mixtures, index)
    loss.backward()
    ours = {name: p.grad for name, p in coder.named_parameters() if p.grad is not None}
    coder.zero_grad()
    with torch.no_grad():
        target = torch.maximum(coder.encode(mixtures.first[index]), coder.encode(mixtures.second[index]))
    direct = (coder.encode(mixtures.both[index]) - target).square().sum() / target.square().sum()
    direct.backward()
    assert float(loss.detach()) == pytest.approx(float(direct.detach()), rel=1e-4)
    assert "bias" in ours
    for name, gradient in ours.items():
        assert torch.allclose(gradient, coder.get_parameter(name).grad, atol=1e-5), name


def test_mixture_consistency_is_zero_exactly_when_a_mixture_holds_its_parts():
    time = torch.arange(2 * SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ
    audio = torch.stack([torch.sin(2 * torch.pi * hertz * time) for hertz in (300, 3000)])
    mixtures = mix_waveforms(audio, 4, AtomSettings(), seed=0)
    model = SparseAutoencoder(SaeConfig(mixtures.both.shape[-1], 16, active=4), seed=0)
    model.fit_scaling(mixtures.both)
    every = torch.arange(len(mixtures.both))
    same = replace(mixtures, second=mixtures.first, both=mixtures.first)
    assert float(consistency_loss(model, same, every)) == pytest.approx(0, abs=1e-6)
    assert float(consistency_loss(model, mixtures, every)) > 0


def test_a_diverged_run_names_the_learning_rate():
    x, _ = planted(600)
    with pytest.raises(DivergedError, match=r"step \d+: choose a smaller learning_rate than 1e\+30"):
        train_sae(x, replace(SHORT, learning_rate=1e30), 0)


def test_bad_vectors_are_refused_before_training():
    x, _ = planted(600)
    x[17, 3] = float("nan")
    with pytest.raises(CoderError, match="x holds NaN"):
        train_sae([x[:10], x[10:]], SHORT, 0)


def test_silence_trains_to_finite_numbers():
    coder, history = train_sae(torch.zeros(300, DIM), SHORT, 0)
    assert bool(torch.isfinite(coder.dictionary).all()) and bool(history["fvu"].notna().all())
    assert int((coder.encode(torch.zeros(5, DIM)) > 0.05).sum()) == 0


def test_a_tied_expert_is_the_dictionary_until_its_release_and_then_goes_its_own_way(tmp_path):
    x = torch.randn(600, 12, generator=torch.Generator().manual_seed(5))
    settings = replace(AtomSettings(), atoms=24, active=4, epochs=6, batch=50, learning_rate=1e-2)
    seen: list[tuple[float, bool, bool]] = []

    class Watched(SparseAutoencoder):
        def progress(self, share: float) -> None:
            super().progress(share)
            seen.append((share, self.config.tied, self._encoders()[0] is self.dictionary))

    config = replace(recipe(12, settings), release=0.5)
    model, _ = train_sae(x, settings, 0, coder=Watched(config, 0))
    assert len(seen) == 72 and all(tied == own == (share < 0.5) for share, tied, own in seen)
    assert not model.config.tied and not torch.allclose(model.experts[0], model.dictionary, atol=1e-3)
    # until then it is the tied coder, to the last bit
    half = replace(settings, epochs=3)
    tied, _ = train_sae(x, half, 0, config=replace(config, release=1.0))
    same, _ = train_sae(x, half, 0, config=replace(config, release=0.999))
    assert torch.equal(tied.dictionary, same.dictionary)
    # it resumes on either side of its release, and is found again on disk as what it has become
    whole, told = train_sae(x, settings, 0, config=config)
    for every in (20, 60):
        how = Execution(checkpoint=tmp_path / f"{every}.pt", every=every)
        stop = SparseAutoencoder(config, 0)
        interrupted = stop.decompose
        left = iter(range(every + 5))

        def until(*given, interrupted=interrupted, left=left):
            if next(left, None) is None:
                raise KeyboardInterrupt
            return interrupted(*given)

        stop.decompose = until
        with pytest.raises(KeyboardInterrupt):
            train_sae(x, settings, 0, coder=stop, execution=how)
        again, retold = train_sae(x, settings, 0, config=config, execution=how)
        assert torch.equal(again.dictionary, whole.dictionary) and torch.equal(again.experts, whole.experts)
        pd.testing.assert_frame_equal(told, retold)
    whole.save_pretrained(tmp_path / "saved")
    found = SparseAutoencoder.from_pretrained(tmp_path / "saved")
    assert not found.config.tied and torch.equal(found.encode(x), whole.encode(x))


@pytest.mark.parametrize(("active", "split"), [(1, (1,)), (2, (1, 1)), (4, (3, 1)), (8, (6, 2)), (16, (4, 4, 4, 4))])
def test_the_recipe_is_front_loaded_and_fits_any_sparsity(active, split):
    config = recipe(20, replace(AtomSettings(), atoms=64, active=active))
    assert config.shares == split and sum(config.shares) == active and config.weights == "last" and config.tied
