"""Sparse coders: their arithmetic against dense formulas, exact reductions, properties, baselines, and their files."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import nnls

from avgeo.perceive.baselines import (
    BatchTopK,
    BatchTopKConfig,
    Matryoshka,
    MatryoshkaConfig,
    Nmf,
    NmfConfig,
    multiplicative,
)
from avgeo.perceive.coder import SCALINGS, CoderError, SparseCoder
from avgeo.perceive.hub import export_sae_lens
from avgeo.perceive.sae import SaeConfig, SparseAutoencoder, pursuit_config, topk_config
from avgeo.perceive.sparse import combine, dense, look_up, merge_repeats, products, spread, strongest

DIM, ATOMS = 12, 30


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def every_coder(**others: object) -> list[SparseCoder]:
    """One of each kind, with weights that are no special case."""
    coders: list[SparseCoder] = [
        SparseAutoencoder(SaeConfig(DIM, ATOMS, 5, **others)),
        SparseAutoencoder(SaeConfig(DIM, ATOMS, 5, stages=3, experts=3, tied=True, split=(3, 1, 1), **others)),
        SparseAutoencoder(SaeConfig(DIM, ATOMS, 5, experts=3, weights="last", **others)),
        SparseAutoencoder(topk_config(DIM, ATOMS, 5, **others)),
        SparseAutoencoder(pursuit_config(DIM, ATOMS, 5, **others)),
        BatchTopK(BatchTopKConfig(DIM, ATOMS, 5, **others)),
        Matryoshka(MatryoshkaConfig(DIM, ATOMS, 5, prefixes=3, **others)),
        Nmf(NmfConfig(DIM, ATOMS, 5, **others)),
    ]
    for coder in coders:
        for name in ("offsets", "bias"):
            if getattr(getattr(coder, name, None), "requires_grad", False):
                torch.nn.init.normal_(getattr(coder, name), std=0.1)
        coder.eval()
    return coders


# --- arithmetic ---


@given(seed=st.integers(0, 999), atoms=st.sampled_from([30, 64, 256, 512]), k=st.integers(1, 32))
def test_the_strongest_atoms_are_those_of_a_full_sort(seed, atoms, k):
    scores = drawn(5, atoms, seed=seed)
    k = min(k, atoms)
    assert torch.equal(strongest(scores, k).sort(-1).values, scores.topk(k, dim=-1).indices.sort(-1).values)
    tied = (2 * scores).round()  # where scores are equal any of the equal ones will do
    assert torch.equal(tied.gather(1, strongest(tied, k)).sort(-1).values, tied.topk(k, dim=-1).values.sort(-1).values)
    assert all(len(set(row)) == k for row in strongest(tied, k).tolist())


def test_sparse_products_and_their_gradients_are_those_of_the_dense_formulas():
    x, rows = drawn(6, 7).double().requires_grad_(), drawn(11, 7, seed=1).double().requires_grad_()
    value = drawn(6, 4, seed=2).double().requires_grad_()
    index = torch.randint(11, (6, 4), generator=torch.Generator().manual_seed(3))
    index[0] = 5  # one atom in every slot
    code = dense(index, value, 11)
    assert torch.allclose(products(x, rows, index), (x @ rows.T).gather(1, index))
    assert torch.allclose(combine(value, index, rows), code @ rows)
    assert torch.allclose(spread(value, index, x, 11), code.T @ x)
    assert torch.autograd.gradcheck(lambda x, rows: products(x, rows, index), (x, rows))
    assert torch.autograd.gradcheck(lambda value, rows: combine(value, index, rows), (value, rows))
    upstream = drawn(6, 7, seed=4).double()
    ours = torch.autograd.grad(combine(torch.relu(products(x, rows, index)), index, rows), (x, rows), upstream)
    direct = torch.autograd.grad(
        dense(index, torch.relu((x @ rows.T).gather(1, index)), 11) @ rows, (x, rows), upstream
    )
    assert all(torch.allclose(a, b) for a, b in zip(ours, direct, strict=True))


def test_the_path_without_sampled_products_gives_the_same(monkeypatch):
    x, rows, index = drawn(9, 7), drawn(11, 7, seed=1), torch.randint(11, (9, 4))
    direct = (x @ rows.T).gather(1, index)
    monkeypatch.setattr("avgeo.perceive.sparse._GATHERED", 60)  # two rows at a time
    monkeypatch.setattr("avgeo.perceive.sparse._has_sampled", lambda x: False)
    assert torch.allclose(products(x, rows, index), direct, atol=1e-6)


@given(st.integers(1, 6), st.integers(1, 8), st.integers(0, 100))
def test_repeats_merge_and_values_are_looked_up(batch, k, seed):
    draw = torch.Generator().manual_seed(seed)
    index, value = torch.randint(6, (batch, k), generator=draw), torch.rand(batch, k, generator=draw) + 0.1
    merged_index, merged = merge_repeats(index, value)
    assert torch.allclose(dense(merged_index, merged, 6), dense(index, value, 6), atol=1e-6)
    assert int((merged > 0).sum()) == int((dense(index, value, 6) > 0).sum())
    wanted = torch.arange(6).expand(batch, 6)
    assert torch.allclose(look_up(index, value, wanted), dense(index, value, 6), atol=1e-6)


# --- exact reductions ---


@pytest.mark.parametrize("tied", [False, True])
def test_one_stage_and_one_expert_is_topk(tied):
    model = SparseAutoencoder(topk_config(20, 50, 5, tied=tied), seed=1)
    torch.nn.init.normal_(model.offsets, std=0.1)
    torch.nn.init.normal_(model.bias, std=0.1)
    x = drawn(30, 20)
    encoder = model.dictionary if tied else model.experts[0]
    scores = ((x - model.bias) @ encoder.T + model.offsets[0]).detach()
    kept = torch.zeros_like(scores)
    for row in range(len(x)):  # the definition, spelt out
        for atom in sorted(range(50), key=lambda a, row=row: -float(scores[row, a]))[:5]:
            kept[row, atom] = max(float(scores[row, atom]), 0.0)
    assert torch.allclose(model.encode(x), kept, atol=1e-6)
    assert torch.allclose(model.decode(kept), kept @ model.dictionary + model.bias, atol=1e-6)


@pytest.mark.parametrize("rows", [4, 30])  # below and above where D Dᵀ pays
def test_k_tied_stages_are_matching_pursuit(rows):
    model = SparseAutoencoder(pursuit_config(20, 50, 6), seed=1)
    assert (model.gram(rows) is not None) == (rows == 30)
    x = drawn(rows, 20)
    out = model(x)
    codes = model.encode(x)
    for row in range(rows):
        residual, code = x[row].clone(), torch.zeros(50)
        for _ in range(6):
            correlation = model.dictionary @ residual
            best = int(correlation.argmax())
            gain = max(correlation[best].item(), 0.0)
            code[best] += gain
            residual = residual - gain * model.dictionary[best]
        assert torch.allclose(codes[row], code.detach(), atol=1e-5)
        assert torch.allclose(out.residuals[-1][row], residual.detach(), atol=1e-5)


@given(st.integers(1, 6), st.integers(0, 50))
def test_the_gram_matrix_changes_nothing(stages, seed):
    model = SparseAutoencoder(SaeConfig(16, 40, 12, stages=stages, experts=1, tied=True), seed=seed)
    torch.nn.init.normal_(model.offsets, std=0.1)
    start = drawn(25, 16, seed=seed)
    gram = model.dictionary @ model.dictionary.T
    fast, slow = model.decompose(start, gram.detach()), model.decompose(start)
    assert torch.allclose(dense(fast.index, fast.value, 40), dense(slow.index, slow.value, 40), atol=1e-5)
    for one, other in zip(fast.residuals, slow.residuals, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_expert_zero_is_the_dictionary_when_tied_and_gates_mix_the_experts():
    model = SparseAutoencoder(SaeConfig(DIM, ATOMS, 4, stages=1, experts=3, tied=True), seed=0)
    assert len(model.experts) == 2
    r = drawn(9, DIM)
    gates = torch.softmax(r @ model.gate.T, -1)
    each = torch.stack([r @ rows.T for rows in (model.dictionary, *model.experts)], 1)
    assert torch.allclose(model.scores(r), (gates[:, :, None] * each).sum(1) + model.offsets[0], atol=1e-5)
    some = torch.tensor([3, 17, 5])
    assert torch.allclose(model.scores(r, among=some), model.scores(r)[:, some], atol=1e-6)
    assert torch.allclose(model.values(r, some.expand(9, 3)), model.scores(r)[:, some], atol=1e-5)


# --- properties ---


@given(st.integers(1, 4), st.integers(1, 3), st.integers(4, 9), st.booleans())
def test_code_is_sparse_non_negative_and_explains_what_it_says(stages, experts, active, tied):
    model = SparseAutoencoder(SaeConfig(DIM, ATOMS, active, stages=stages, experts=experts, tied=tied), seed=0)
    assert sum(model.config.shares) == active
    x = drawn(17, DIM, seed=stages)
    out, codes = model(x), model.encode(x)
    assert bool((codes >= 0).all()) and int((codes > 0).sum(-1).max()) <= active
    assert torch.allclose(x - model.decode(codes), out.residuals[-1], atol=1e-5)
    assert len(out.residuals) == stages
    index, value = model.encode_sparse(x)
    assert torch.allclose(dense(index, value, ATOMS), codes, atol=1e-6)
    assert [len(set(row[v > 0].tolist())) for row, v in zip(index, value, strict=True)] == (value > 0).sum(1).tolist()


@given(st.integers(1, 12), st.integers(0, 1000), st.floats(1e-3, 1e3))
def test_in_the_matching_pursuit_limit_the_residual_never_grows(active, seed, size):
    model = SparseAutoencoder(pursuit_config(DIM, ATOMS, active), seed=seed)
    out = model(size * drawn(20, DIM, seed=seed))
    norms = torch.stack([r.norm(dim=-1) for r in (out.start, *out.residuals)])
    assert bool((norms.diff(dim=0) <= 1e-5 * norms[0]).all())


@pytest.mark.parametrize("scaling", SCALINGS)
def test_codes_do_not_depend_on_units_nor_on_the_order_of_atoms_and_dimensions(scaling):
    x = 3 + drawn(200, DIM) @ drawn(DIM, DIM, seed=1)
    for coder in every_coder(scaling=scaling):
        coder.fit_scaling(x)
        codes = coder.encode(x)
        coder.fit_scaling(1e-4 * x)
        # two scores that tie within rounding may swap: compare strengths where both fire, and count the rest
        assert torch.allclose(codes, coder.encode(1e-4 * x), atol=2e-3), type(coder).__name__
        assert torch.allclose(coder.decode(codes), 1e-4 * coder.decode(codes) * 1e4, atol=1e-6)
    model = SparseAutoencoder(SaeConfig(DIM, ATOMS, 5, scaling=scaling), seed=3)
    model.fit_scaling(x)
    codes = model.encode(x)
    atoms, dims = torch.randperm(ATOMS), torch.randperm(DIM)
    with torch.no_grad():
        for name in ("dictionary", "experts"):
            getattr(model, name).copy_(getattr(model, name)[..., atoms, :][..., dims])
        model.offsets.copy_(model.offsets[:, atoms])
        model.gate.copy_(model.gate[..., dims])
    model.fit_scaling(x[:, dims])
    assert torch.allclose(model.encode(x[:, dims]), codes[:, atoms], atol=1e-4)


@pytest.mark.parametrize("scaling", SCALINGS)
def test_scaling_is_undone_exactly_and_does_what_it_says(scaling):
    x = (5 + drawn(500, DIM) @ drawn(DIM, DIM, seed=1)).double()
    model = SparseAutoencoder(SaeConfig(DIM, ATOMS, 4, scaling=scaling)).double()
    told = model.fit_scaling(x)
    y = model.standardize(x)
    assert torch.allclose(model.unstandardize(y), x, atol=1e-9)
    assert told == pytest.approx(float(y.var(0, unbiased=False).sum()))
    assert torch.allclose(y.mean(0), torch.zeros(DIM, dtype=y.dtype), atol=1e-9)
    deviation = x.std(0, unbiased=False).numpy()
    expected = deviation if scaling == "dimension" else np.sqrt((deviation**2).mean())
    assert np.allclose(model.scale.numpy(), expected)
    parts = SparseAutoencoder(SaeConfig(DIM, ATOMS, 4, scaling=scaling)).double()
    parts.fit_scaling([x[:100], x[100:130], x[130:]])
    assert torch.allclose(parts.scale, model.scale) and torch.allclose(parts.mean, model.mean)


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("level", [0.0, 3.7])
def test_what_never_varies_codes_to_finite_numbers(scaling, level):
    x = torch.full((40, DIM), level)
    for coder in every_coder(scaling=scaling):
        coder.fit_scaling(x)
        codes = coder.encode(x)
        assert bool(torch.isfinite(codes).all()) and bool(torch.isfinite(coder.decode(codes)).all())
    silent = SparseAutoencoder(SaeConfig(DIM, ATOMS, 4, scaling=scaling))
    silent.fit_scaling(x)
    assert int((silent.encode(x) > 1e-4).sum()) == 0  # what is always there is no event


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_refused_by_name(bad):
    x = drawn(5, DIM)
    x[3, 2] = bad
    for coder in every_coder():
        for use in (coder.encode, coder.encode_sparse, coder.fit_scaling):
            with pytest.raises(CoderError, match=r"x holds NaN or infinite values: remove"):
                use(x)
    with pytest.raises(CoderError, match=rf"x must have shape \(rows, {DIM}\), got \(5, 3\)"):
        SparseAutoencoder(SaeConfig(DIM, ATOMS)).encode(x[:, :3])


@pytest.mark.parametrize(
    ("wrong", "names"),
    [
        ({"stages": 9}, "stages=9"),
        ({"active": 99}, "active=99"),
        ({"experts": 0}, "experts=0"),
        ({"stages": 2, "split": (3, 2)}, "split"),
        ({"stages": 2, "split": (4, 0)}, "split"),
        ({"scaling": "log"}, "scaling"),
        ({"weights": "some"}, "weights"),
        ({"encoder_start": 0.0}, "encoder_start"),
    ],
)
def test_impossible_shapes_are_refused(wrong, names):
    with pytest.raises(CoderError, match=names):
        SaeConfig(**({"dim": 8, "atoms": 16, "active": 4} | wrong))


def test_an_empty_batch_has_an_empty_code_and_many_rows_code_as_few():
    x = drawn(5000, DIM)  # more than one block
    for coder in every_coder():
        assert coder.encode(x[:0]).shape == (0, ATOMS)
        assert torch.allclose(coder.encode(x)[4090:4100], coder.encode(x[4090:4100]), atol=1e-5), type(coder).__name__


# --- baselines ---


def test_batchtopk_fires_the_greatest_of_the_batch_and_later_what_exceeds_the_threshold():
    coder = BatchTopK(BatchTopKConfig(DIM, ATOMS, 3), seed=0).train()
    x = drawn(40, DIM)
    scores = torch.relu(coder.scores(x))
    least = sorted(scores.flatten().tolist())[-3 * 40]
    out = coder(x)
    assert torch.allclose(dense(out.index, out.value, ATOMS), scores * (scores >= least), atol=1e-6)
    for _ in range(5):
        coder.observe(out)
    assert float(coder.threshold) == pytest.approx(least, rel=1e-5)
    coder.eval()
    alone = torch.cat([coder.encode(row[None]) for row in x])
    assert torch.allclose(alone, scores * (scores > coder.threshold), atol=1e-6)


def test_matryoshka_counts_every_nested_prefix():
    coder = Matryoshka(MatryoshkaConfig(DIM, 32, 4, prefixes=3), seed=0).train()
    assert coder.config.ends == (8, 16, 32)
    out = coder(drawn(20, DIM))
    codes = dense(out.index, out.value, 32)
    for end, residual in zip(coder.config.ends, out.residuals, strict=True):
        assert torch.allclose(out.start - codes[:, :end] @ coder.dictionary[:end], residual, atol=1e-5)
    with pytest.raises(CoderError, match="prefixes=9"):
        MatryoshkaConfig(DIM, 32, 4, prefixes=9)


def test_multiplicative_updates_never_raise_the_error_and_reach_least_squares():
    rng = np.random.default_rng(0)
    x, rows = rng.random((20, DIM)), rng.random((7, DIM))
    tensors = [torch.from_numpy(a) for a in (rng.random((20, 7)) + 0.1, x @ rows.T, rows @ rows.T)]
    errors = [
        np.square(x - multiplicative(*tensors, rounds).numpy() @ rows).sum() for rounds in (0, 1, 3, 10, 30, 3000)
    ]
    assert all(later <= earlier + 1e-9 for earlier, later in pairwise(errors))
    assert errors[-1] == pytest.approx(sum(nnls(rows.T, row)[1] ** 2 for row in x), rel=1e-3)


def test_nmf_is_non_negative_throughout():
    x = drawn(200, DIM)
    coder = Nmf(NmfConfig(DIM, ATOMS, 4))
    coder.fit_scaling(x)
    assert float(coder.standardize(x).min()) >= 0
    with torch.no_grad():
        coder.dictionary[0] = -1
    coder.normalize_dictionary()
    assert float(coder.dictionary.min()) >= 0
    assert torch.allclose(coder.dictionary.norm(dim=-1), torch.ones(ATOMS), atol=1e-6)
    codes = coder.encode(x)
    assert float(codes.min()) >= 0 and int((codes > 0).sum(1).max()) <= 4


# --- files ---


@pytest.mark.parametrize("scaling", SCALINGS)
def test_every_coder_round_trips_with_its_card(tmp_path, scaling):
    x = drawn(30, DIM)
    for coder in every_coder(scaling=scaling):
        coder.fit_scaling(x)
        coder.save_pretrained(tmp_path, numbers={"FVU": 0.25, "clips": "40"}, licence="cc-by-4.0", about="On noise.")
        again = SparseCoder.from_pretrained(tmp_path)
        assert type(again) is type(coder) and again.config == coder.config
        assert torch.equal(again.encode(x), coder.encode(x))
        card = (tmp_path / "README.md").read_text()
        assert all(said in card for said in ("license: cc-by-4.0", "| FVU | 0.25 |", "On noise.", type(coder).__name__))


def test_foreign_folders_are_refused(tmp_path):
    with pytest.raises(CoderError, match="holds no coder"):
        SparseCoder.from_pretrained(tmp_path)
    SparseAutoencoder(SaeConfig(DIM, ATOMS)).save_pretrained(tmp_path)
    with pytest.raises(CoderError, match="holds a SparseAutoencoder, not a Nmf"):
        Nmf.from_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"method": "PCA"}))
    with pytest.raises(CoderError, match="PCA"):
        SparseCoder.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config | {"flavour": 1}))
    with pytest.raises(CoderError, match="does not fit"):
        SparseCoder.from_pretrained(tmp_path)


def test_push_sends_what_save_writes(monkeypatch):
    sent: dict[str, object] = {}

    class Api:
        def create_repo(self, repo_id, exist_ok):
            sent["repo"] = repo_id

        def upload_folder(self, repo_id, folder_path, commit_message):
            from pathlib import Path

            sent["files"] = sorted(file.name for file in Path(folder_path).iterdir())
            return f"https://example.org/{repo_id}"

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    assert (
        SparseAutoencoder(SaeConfig(DIM, ATOMS)).push_to_hub("me/atoms", licence="mit")
        == "https://example.org/me/atoms"
    )
    assert sent == {"repo": "me/atoms", "files": ["README.md", "config.json", "sae.safetensors"]}


def exported_by_definition(folder, x):
    """What sae-lens computes from such a folder, by its definitions: (activations, reconstruction)."""
    from safetensors.torch import load_file

    config, w = json.loads((folder / "cfg.json").read_text()), load_file(folder / "sae_weights.safetensors")
    inside = x - w["b_dec"]
    if config["architecture"] == "matching_pursuit":
        acts = torch.zeros(len(x), len(w["W_dec"]))
        for _ in range(config["max_iterations"]):
            best, at = (inside @ w["W_dec"].T).max(1)
            acts[torch.arange(len(x)), at] += best.relu()
            inside = inside - best.relu()[:, None] * w["W_dec"][at]
        return acts, acts @ w["W_dec"] + w["b_dec"]
    pre = inside @ w["W_enc"] + w["b_enc"]
    if config["architecture"] == "topk":
        value, index = pre.topk(config["k"], dim=-1)
        acts = dense(index, value.relu(), pre.shape[1])
    else:
        acts = pre.relu() * (pre > w["threshold"])
    return acts, acts @ w["W_dec"] + w["b_dec"]


def exportable(scaling: str) -> list[tuple[SparseCoder, torch.Tensor]]:
    x = 2 + drawn(60, DIM) @ drawn(DIM, DIM, seed=5)
    found = []
    for coder in every_coder(scaling=scaling):
        coder.fit_scaling(x)
        if isinstance(coder, BatchTopK):
            coder.threshold.fill_(0.8)
        one = isinstance(coder, SparseAutoencoder) and coder.config.stages * coder.config.experts == 1
        pursuit = isinstance(coder, SparseAutoencoder) and coder.config.pursuit and scaling == "rms"
        if one or pursuit or isinstance(coder, BatchTopK):
            found.append((coder, x))
    return found


@pytest.mark.parametrize("scaling", SCALINGS)
def test_export_to_sae_lens_gives_equal_outputs(tmp_path, scaling):
    lens = pytest.importorskip("sae_lens", reason="sae-lens is not installed: `pip install avgeo[peers]`")
    for coder, x in exportable(scaling):
        export_sae_lens(coder, tmp_path)
        theirs = lens.SAE.load_from_disk(tmp_path)
        codes = coder.encode(x)
        unit = coder.scale if isinstance(coder, SparseAutoencoder) and coder.config.pursuit else 1
        assert torch.allclose(theirs.encode(x), codes * unit, atol=1e-4), type(theirs).__name__
        assert torch.allclose(theirs(x), coder.decode(codes), atol=1e-4)


@pytest.mark.parametrize("scaling", SCALINGS)
def test_export_folds_scaling_and_bias_into_the_weights(tmp_path, scaling):
    coders = exportable(scaling)
    assert len(coders) == (4 if scaling == "rms" else 3)
    for coder, x in coders:
        export_sae_lens(coder, tmp_path)
        acts, again = exported_by_definition(tmp_path, x)
        codes = coder.encode(x)
        unit = coder.scale if isinstance(coder, SparseAutoencoder) and coder.config.pursuit else 1
        assert torch.allclose(acts, codes * unit, atol=1e-4) and torch.allclose(again, coder.decode(codes), atol=1e-4)


def test_what_sae_lens_cannot_hold_is_refused(tmp_path):
    with pytest.raises(CoderError, match="no counterpart"):
        export_sae_lens(SparseAutoencoder(SaeConfig(DIM, ATOMS, 4, stages=2)), tmp_path)
    with pytest.raises(CoderError, match="no counterpart"):
        export_sae_lens(SparseAutoencoder(pursuit_config(DIM, ATOMS, 4, scaling="dimension")), tmp_path)
