"""How good are the atoms? Reconstruction, sparsity, and agreement with sources that are known to sound."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from scipy.optimize import linear_sum_assignment
from scipy.stats import rankdata
from torch import Tensor

from avgeo.perceive.sae import SparseAutoencoder


def fraction_unexplained(model: SparseAutoencoder, x: Float[Tensor, "count dim"]) -> float:
    """FVU: mean over dimensions of residual variance over variance, about each dimension's own mean."""
    with torch.no_grad():
        error = (x - model.decode(model.encode(x))).square().mean(0)
    variance = x.var(0, unbiased=False)
    return float((error / variance.clamp_min(1e-8))[variance > 1e-8].mean())


def source_activity(
    truth: pd.DataFrame, clip_id: list[str], time: int, patch_s: float
) -> tuple[list[str], Bool[np.ndarray, "clips time sources"]]:
    """Which audible source sounds in which patch: (source names, activity), from the stems' onsets and offsets.

    A source is active in a patch when it sounds for at least half of it.
    """
    audible = truth.loc[truth["modality"] == "audible"]
    names = sorted(audible["source"].unique())
    row_of = {clip: row for row, clip in enumerate(clip_id)}
    active = np.zeros((len(clip_id), time, len(names)), dtype=bool)
    starts = np.arange(time) * patch_s
    column_of = {name: column for column, name in enumerate(names)}
    wanted = audible.loc[audible["clip_id"].isin(list(row_of))]
    for clip, source, onset, offset in wanted[["clip_id", "source", "onset_s", "offset_s"]].itertuples(index=False):
        overlap = np.minimum(starts + patch_s, offset) - np.maximum(starts, onset)
        active[row_of[clip], :, column_of[source]] |= overlap >= patch_s / 2
    return names, active


def auroc_matrix(
    scores: Float[np.ndarray, "count atoms"], labels: Bool[np.ndarray, "count sources"]
) -> Float[np.ndarray, "atoms sources"]:
    """AUROC of every atom's strength as a detector of every source (Mann–Whitney, ties by mid-ranks).

    NaN for a source that is always or never active.
    """
    ranks = rankdata(scores, axis=0)
    positives = labels.sum(0).astype(float)
    negatives = len(labels) - positives
    with np.errstate(divide="ignore", invalid="ignore"):
        area = (ranks.T @ labels - positives * (positives + 1) / 2) / (positives * negatives)
    area[:, (positives == 0) | (negatives == 0)] = np.nan
    return area


def auroc_error(
    area: Float[np.ndarray, "atoms sources"], positives: np.ndarray, negatives: np.ndarray
) -> Float[np.ndarray, "atoms sources"]:
    """Standard error of AUROCs from (sources,) counts of positives and negatives (Hanley & McNeil 1982, eq. 2).

    Half a positive is added as a continuity correction: at an area of exactly 1 the formula alone claims no error.
    """
    both_positive, both_negative = area / (2 - area), 2 * area**2 / (1 + area)
    spread = (
        area * (1 - area) + (positives - 1) * (both_positive - area**2) + (negatives - 1) * (both_negative - area**2)
    )
    return np.sqrt(np.maximum(spread, 0) / np.maximum(positives * negatives, 1)) + 0.5 / np.maximum(positives, 1)


def match_sources(
    strength: Float[np.ndarray, "count atoms"], labels: Bool[np.ndarray, "count sources"]
) -> pd.DataFrame:
    """The best one-to-one pairing of sources with atoms (Hungarian, by correlation): source, atom, correlation, f1.

    The mean of `correlation` is the mean correlation coefficient (MCC) of the identifiability literature; `f1` calls
    an atom a detection when it fires at all.
    """
    a = (strength - strength.mean(0)) / np.maximum(strength.std(0), 1e-8)
    b = (labels - labels.mean(0)) / np.maximum(labels.std(0), 1e-8)
    correlation = (b.T @ a) / len(labels)
    source, atom = linear_sum_assignment(-correlation)
    fires = strength[:, atom] > 0
    true = labels[:, source]
    hits = (fires & true).sum(0)
    f1 = 2 * hits / np.maximum(fires.sum(0) + true.sum(0), 1)
    return pd.DataFrame({"source": source, "atom": atom, "correlation": correlation[source, atom], "f1": f1})


def score_atoms(
    model: SparseAutoencoder,
    fit: tuple[Float[np.ndarray, "clips time dim"], Bool[np.ndarray, "clips time sources"]],
    held_out: tuple[Float[np.ndarray, "clips2 time dim"], Bool[np.ndarray, "clips2 time sources"]],
    place_id: list[str],
    *,
    bootstrap: int,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """FVU, L0, dead share, mean correlation (MCC) and F1 with the true sources: metric, value, low, high.

    Sources are matched with atoms on `fit` (patches, activity) and scored on `held_out`, whose clips come from
    `place_id`; intervals are percentiles of a bootstrap over those places. Sources never heard in one of the two
    sets are left out of MCC and F1.
    """
    codes_fit, _ = _encode(model, fit[0])
    heard = fit[1].any((0, 1)) & held_out[1].any((0, 1))
    pairs = match_sources(codes_fit.reshape(-1, codes_fit.shape[-1]), fit[1][..., heard].reshape(-1, int(heard.sum())))
    codes, errors = _encode(model, held_out[0])
    strength = codes[..., pairs["atom"].to_numpy()]
    active = held_out[1][..., heard][..., pairs["source"].to_numpy()].astype(float)
    fires = (strength > 0).astype(float)
    x = held_out[0].astype(np.float64)
    # sufficient statistics, summed over each clip's patches: any resample of places is then a weighted sum
    parts = {
        "n": np.full((len(x), 1), x.shape[1], float),
        "x": x.sum(1), "xx": np.square(x).sum(1), "ee": errors.sum(1), "l0": (codes > 0).sum((1, 2))[:, None],
        "a": strength.sum(1), "aa": np.square(strength).sum(1), "b": active.sum(1), "ab": (strength * active).sum(1),
        "f": fires.sum(1), "fb": (fires * active).sum(1),
    }  # fmt: skip
    places, cluster = np.unique(place_id, return_inverse=True)
    sums = {
        name: np.stack([np.bincount(cluster, column, len(places)) for column in part.T], 1)
        for name, part in parts.items()
    }
    draws = np.random.default_rng(seed).multinomial(len(places), np.full(len(places), 1 / len(places)), bootstrap)
    value = _scores({name: part.sum(0)[None] for name, part in sums.items()})
    spread = _scores({name: draws @ part for name, part in sums.items()})
    tail = (1 - level) / 2
    rows = [
        {
            "metric": name,
            "value": value[name][0],
            "low": np.quantile(spread[name], tail),
            "high": np.quantile(spread[name], 1 - tail),
        }
        for name in value
    ]
    dead = float((codes.max((0, 1)) == 0).mean())
    return pd.DataFrame([*rows, {"metric": "dead atoms", "value": dead, "low": np.nan, "high": np.nan}])


def _scores(s: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Metrics of each row of sufficient statistics."""
    n = s["n"]
    variance = s["xx"] / n - np.square(s["x"] / n)
    kept = variance.min(0) > 1e-8
    covariance = s["ab"] / n - s["a"] * s["b"] / n**2
    spread = (s["aa"] / n - np.square(s["a"] / n)) * (s["b"] / n) * (1 - s["b"] / n)
    return {
        "FVU": (s["ee"] / n / np.maximum(variance, 1e-8))[:, kept].mean(1),
        "L0": s["l0"][:, 0] / n[:, 0],
        "MCC": (covariance / np.sqrt(np.maximum(spread, 1e-12))).mean(1),
        "F1": (2 * s["fb"] / np.maximum(s["f"] + s["b"], 1)).mean(1),
    }


def _encode(model: SparseAutoencoder, patches: np.ndarray, batch: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Codes (clips, time, atoms) and squared errors (clips, time, dim), float64."""
    codes, errors = [], []
    with torch.no_grad():
        for start in range(0, len(patches), batch):
            block = torch.from_numpy(patches[start : start + batch].astype(np.float32))
            flat = block.flatten(0, 1)
            code = model.encode(flat)
            codes.append(code.reshape(*block.shape[:2], -1).double().numpy())
            errors.append((flat - model.decode(code)).square().reshape(block.shape).double().numpy())
    return np.concatenate(codes), np.concatenate(errors)
