"""Coders as files: safetensors, configuration and model card; the Hugging Face Hub; and export to sae-lens."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from avgeo.paths import write_text
from avgeo.perceive.baselines import BatchTopK
from avgeo.perceive.coder import CoderError, SparseCoder
from avgeo.perceive.sae import SparseAutoencoder

WEIGHTS, CONFIG, CARD = "sae.safetensors", "config.json", "README.md"


def save(
    coder: SparseCoder,
    folder: str | Path,
    *,
    numbers: Mapping[str, float | str] | None = None,
    licence: str = "apache-2.0",
    about: str = "",
) -> None:
    """Write `sae.safetensors`, `config.json` and a model card `README.md` into `folder`.

    `numbers` are scores to print in the card, measured by the caller; `about` says on what the coder was trained;
    `licence` is an identifier of the hub.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in coder.state_dict().items()}, folder / WEIGHTS)
    config = {"method": type(coder).__name__} | asdict(coder.config)
    write_text(folder / CONFIG, json.dumps(config, indent=1) + "\n")
    write_text(folder / CARD, _card(coder, numbers or {}, licence, about))


def load(path_or_hub_id: str | Path) -> SparseCoder:
    """The coder in a folder, or in a Hugging Face repository when no such folder exists; in evaluation mode."""
    folder = Path(path_or_hub_id)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        folder = Path(snapshot_download(str(path_or_hub_id), allow_patterns=[WEIGHTS, CONFIG]))
    if not (folder / CONFIG).is_file() or not (folder / WEIGHTS).is_file():
        raise CoderError(f"{path_or_hub_id} holds no coder: expected {CONFIG} and {WEIGHTS}, as save_pretrained writes")
    config: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    method = config.pop("method", "SparseAutoencoder")
    if method not in SparseCoder.kinds:
        raise CoderError(f"{folder / CONFIG} names method {method!r}: one of {', '.join(sorted(SparseCoder.kinds))}")
    kind = SparseCoder.kinds[method]
    config = {name: tuple(value) if isinstance(value, list) else value for name, value in config.items()}
    try:
        coder = kind(kind.config_class(**config))
    except TypeError as problem:
        raise CoderError(f"{folder / CONFIG} does not fit {method}: {problem}") from None
    coder.load_state_dict(load_file(folder / WEIGHTS))
    return coder.eval()


def push(coder: SparseCoder, repo_id: str, **card: Any) -> str:
    """Upload a coder with its card to the Hugging Face Hub (credentials as `huggingface_hub` finds them).

    Takes `save`'s keyword arguments; returns the address of the commit.
    """
    import tempfile

    from huggingface_hub import HfApi

    with tempfile.TemporaryDirectory() as folder:
        save(coder, folder, **card)
        api = HfApi()
        api.create_repo(repo_id, exist_ok=True)
        return str(api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message="Add sparse coder"))


def _card(coder: SparseCoder, numbers: Mapping[str, float | str], licence: str, about: str) -> str:
    config = coder.config
    shape = ", ".join(f"{name} {value}" for name, value in asdict(config).items())
    rows = [
        f"| {name} | {value:.4g} |" if isinstance(value, float) else f"| {name} | {value} |"
        for name, value in numbers.items()
    ]
    table = ["", "| measure | value |", "|---|---|", *rows] if rows else ["", "No measurements were given."]
    text = [
        "---", "library_name: avgeo", f"license: {licence}", "tags:", "- sparse-autoencoder", "- audio", "---", "",
        f"# {type(coder).__name__}: {config.atoms} acoustic atoms", "",
        about or "A sparse coder trained with avgeo.", "", f"Shape: {shape}.", *table, "", "## Use", "",
        "```python", "from avgeo.perceive import SparseCoder", "",
        'coder = SparseCoder.from_pretrained("path or repository")',
        f"codes = coder.encode(x)  # x: (batch, {config.dim}) floats; codes: (batch, {config.atoms}), none negative",
        "again = coder.decode(codes)", "```", "",
    ]  # fmt: skip
    return "\n".join(text)


def export_sae_lens(coder: SparseCoder, folder: str | Path) -> None:
    """Write `coder` as `sae_lens.SAE.load_from_disk(folder)` reads it, with equal outputs.

    Scaling and bias are folded into the weights, so that the exported one takes x in its own units. One stage with one
    expert becomes a TopK SAE, and BatchTopK or Matryoshka, at their learned threshold, a JumpReLU SAE: activations are
    equal. Matching pursuit becomes sae-lens's, whose tied decoder cannot hold the scale: reconstructions are equal,
    activations are `coder.scale` times ours. Other staged or mixed coders have no counterpart there and are refused.
    """
    folder = Path(folder)
    config, weights = _sae_lens(coder)
    config |= {
        "d_in": coder.config.dim, "d_sae": coder.config.atoms, "dtype": "float32", "device": "cpu",
        "apply_b_dec_to_input": True, "normalize_activations": "none", "reshape_activations": "none", "metadata": {},
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: tensor.detach().float().contiguous() for name, tensor in weights.items()},
        folder / "sae_weights.safetensors",
    )
    write_text(folder / "cfg.json", json.dumps(config, indent=1) + "\n")


@torch.no_grad()
def _sae_lens(coder: SparseCoder) -> tuple[dict[str, Any], dict[str, Tensor]]:
    config = coder.config
    decoder = coder.dictionary * coder.scale
    center = coder.unstandardize(coder.bias[None])[0]
    if isinstance(coder, BatchTopK):
        weights = {"W_enc": _into(coder, coder.encoder), "b_enc": coder.offsets, "W_dec": decoder, "b_dec": center}
        threshold = coder.threshold.expand(config.atoms)
        return {"architecture": "jumprelu"}, weights | {"threshold": threshold}
    if isinstance(coder, SparseAutoencoder) and coder.config.stages == coder.config.experts == 1:
        encoder = coder.dictionary if coder.config.tied else coder.experts[0]
        offsets = coder.offsets[0] if coder.config.offsets else torch.zeros(config.atoms)
        weights = {"W_enc": _into(coder, encoder), "b_enc": offsets, "W_dec": decoder, "b_dec": center}
        return {"architecture": "topk", "k": config.active, "rescale_acts_by_decoder_norm": False}, weights
    if isinstance(coder, SparseAutoencoder) and coder.config.pursuit and coder.scale.ndim == 0:
        stops = {"residual_threshold": 0.0, "max_iterations": config.active, "stop_on_duplicate_support": False}
        return {"architecture": "matching_pursuit"} | stops, {"W_dec": coder.dictionary, "b_dec": center}
    raise CoderError(
        f"sae-lens has no counterpart of this {type(coder).__name__} ({config}): it knows one stage with one expert, "
        "BatchTopK, Matryoshka, and matching pursuit with scaling='rms'"
    )


def _into(coder: SparseCoder, encoder: Tensor) -> Tensor:
    """The encoder (atoms, dim) of standardized inputs as one (dim, atoms) of inputs in their own units."""
    return (encoder / coder.scale).T
