"""How good are the atoms? Reconstruction, sparsity, and agreement with sources that are known to sound.

Everything here asks of a method only that it can `encode` and `decode` (`Coder`), and never holds the codes of a whole
corpus: 2,000 atoms of 20,000 clips would be tens of gigabytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment
from scipy.stats import rankdata, t
from torch import Tensor

from avgeo.evaluate import resamples

Labelled = tuple[np.ndarray, np.ndarray]
"""Patches (clips, time, dim) and which source is active in which (clips, time, sources)."""
_BLOCK = 2048  # patches encoded at a time: 2,000 atoms of them are 16 MB


class ScoreError(ValueError):
    """Data that cannot be scored; the message names the argument and the cure."""


@runtime_checkable
class Coder(Protocol):
    """What is scored: `encode` gives codes (…, time, atoms) >= 0 of clips (…, time, dim), `decode` what they say x was.

    `avgeo.perceive.Listener` makes one of any sparse coder.
    """

    def encode(self, x: Tensor) -> Tensor: ...

    def decode(self, codes: Tensor) -> Tensor: ...


@torch.no_grad()
def fraction_unexplained(model: Coder, x: Float[Tensor, "count dim"]) -> float:
    """FVU: mean over dimensions of residual variance over variance, about each dimension's own mean.

    Dimensions that do not vary are left out.
    """
    error = torch.zeros(x.shape[-1], dtype=torch.float64)
    for block in x.split(_BLOCK):
        error += (block - model.decode(model.encode(block))).square().sum(0).double()
    variance = x.var(0, unbiased=False)
    return float((error / len(x) / variance.clamp_min(1e-8))[variance > 1e-8].mean())


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


def best_cut(strength: Float[np.ndarray, " count"], label: Bool[np.ndarray, " count"]) -> float:
    """The positive observed strength from which on "it sounds" has its best F1; infinity when none is ever right."""
    order = np.argsort(-strength, kind="stable")
    values = strength[order]
    last = np.append(values[1:] != values[:-1], True) & (values > 0)  # a cut cannot part equal strengths
    hits = np.cumsum(label[order])
    f1 = np.where(last, 2 * hits / (np.arange(1, len(label) + 1) + label.sum()), 0.0)
    best = int(f1.argmax()) if len(f1) else 0
    return float(values[best]) if len(f1) and f1[best] > 0 else float("inf")


@dataclass(frozen=True)
class Detectors:
    """Sources and the atoms that speak for them, as chosen on one set of clips; -1 where there was no atom to choose.

    `atom` is the one-to-one match by correlation over patches (Hungarian), `cut` the strength from which on it counts
    as a detection, `clip_atom` the atom whose mean strength over a clip has the greatest AUROC (several sources may
    share it). `source` numbers columns of the activity.
    """

    source: Int[np.ndarray, " sources"]
    atom: Int[np.ndarray, " sources"]
    correlation: Float[np.ndarray, " sources"]
    cut: Float[np.ndarray, " sources"]
    clip_atom: Int[np.ndarray, " sources"]


def choose_detectors(
    model: Coder,
    patches: Float[np.ndarray, "clips time dim"],
    active: Bool[np.ndarray, "clips time sources"],
    source: Int[np.ndarray, " some"],
) -> Detectors:
    """`Detectors` for these sources (columns of `active`), chosen on these clips.

    Raises `ScoreError` when there are fewer atoms than sources.
    """
    wanted, sums, clips = active[..., source], None, []
    for rows, codes in _encoded(model, patches):
        a = codes.reshape(-1, codes.shape[-1]).astype(np.float64)
        b = wanted[rows].reshape(len(a), -1).astype(np.float64)
        part = (a.sum(0), np.square(a).sum(0), b.sum(0), b.T @ a)
        sums = part if sums is None else tuple(old + new for old, new in zip(sums, part, strict=True))
        clips.append(codes.mean(1))
    if sums is None:
        raise ScoreError("no clips to choose atoms on: give at least one in the matching split")
    if sums[0].shape[0] < len(source):
        raise ScoreError(f"{sums[0].shape[0]} atoms cannot be matched with {len(source)} sources: train more atoms")
    n = wanted.shape[0] * wanted.shape[1]
    correlation = _correlation(n, *sums)
    row, atom = linear_sum_assignment(-correlation)
    matched = np.concatenate([codes[..., atom].reshape(-1, len(atom)) for _, codes in _encoded(model, patches)])
    labels = wanted.reshape(n, -1)[:, row]
    cut = np.array([best_cut(matched[:, column], labels[:, column]) for column in range(len(row))])
    area = np.nan_to_num(auroc_matrix(np.concatenate(clips), np.asarray(wanted.any(axis=1))), nan=-1.0)
    return Detectors(source[row], atom, correlation[row, atom], cut, area.argmax(0)[row])


def score_atoms(
    model: Coder,
    fit: Labelled,
    held_out: Labelled,
    place_id: Sequence[str],
    *,
    bootstrap: int,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """FVU, L0, dead share, and agreement with the true sources: metric, value, low, high.

    MCC: correlation of each source with its atom over patches. F1: the atom above its cut as a detector of the source;
    "F1 fires": the atom above zero, which punishes methods whose atoms are seldom quite silent. AUROC: mean strength
    over a clip as a detector of the source's presence. Each is a mean over sources. Atoms and cuts are chosen on `fit`
    and scored on `held_out`, whose clips come from `place_id`; intervals are percentiles of a bootstrap over places.
    Sources that are not heard in both sets (or never silent in one) are left out. Raises `ScoreError` if none is left.
    """
    rates = [labels.mean((0, 1)) for labels in (fit[1], held_out[1])]
    source = np.flatnonzero(np.all([(rate > 0) & (rate < 1) for rate in rates], axis=0))
    if not len(source):
        raise ScoreError("no source is heard in both splits: give more clips, or check the activity's columns")
    if len(place_id) != len(held_out[0]):
        raise ScoreError(f"{len(place_id)} place_id for {len(held_out[0])} clips of held_out: give one each")
    chosen = choose_detectors(model, *fit, source)
    places, cluster = np.unique(np.asarray(place_id), return_inverse=True)
    sums, clip_strength, dead = _held_out_sums(model, held_out, chosen, cluster, len(places))
    present = np.asarray(held_out[1][..., chosen.source].any(axis=1))
    value = _scores({name: part.sum(0)[None] for name, part in sums.items()})
    value["AUROC"] = _area(clip_strength, present, np.ones((1, len(present))))
    spread: dict[str, list[np.ndarray]] = {name: [] for name in value}
    for draws in resamples(len(places), bootstrap, seed, width=len(cluster)):
        found = _scores({name: draws @ part for name, part in sums.items()})
        found["AUROC"] = _area(clip_strength, present, draws[:, cluster])
        for name, part in found.items():
            spread[name].append(part)
    tail = (1 - level) / 2
    rows = []
    for name in value:
        low, high = np.nanquantile(np.concatenate(spread[name]), [tail, 1 - tail])
        rows.append({"metric": name, "value": value[name][0], "low": low, "high": high})
    return pd.DataFrame([*rows, {"metric": "dead atoms", "value": dead, "low": np.nan, "high": np.nan}])


def _held_out_sums(
    model: Coder, held_out: Labelled, chosen: Detectors, cluster: np.ndarray, places: int
) -> tuple[dict[str, np.ndarray], np.ndarray, float]:
    """Sums per place of all that the scores need, strengths per clip of the clips' detectors, share of dead atoms.

    Any resample of places is then a weighted sum of rows.
    """
    patches, active = held_out
    sums: dict[str, np.ndarray] = {}
    clips, fired = [], np.zeros(0, bool)
    for rows, codes in _encoded(model, patches):
        x = patches[rows].astype(np.float64)
        with torch.no_grad():
            decoded = model.decode(torch.from_numpy(codes)).numpy()
        a, b = codes[..., chosen.atom].astype(np.float64), active[rows][..., chosen.source].astype(float)
        fires, above = (a > 0).astype(float), (a >= chosen.cut).astype(float)
        parts = {
            "n": np.full((len(x), 1), x.shape[1], float), "x": x.sum(1), "xx": np.square(x).sum(1),
            "ee": np.square(x - decoded).sum(1), "l0": (codes > 0).sum((1, 2))[:, None].astype(float),
            "a": a.sum(1), "aa": np.square(a).sum(1), "b": b.sum(1), "ab": (a * b).sum(1),
            "f": fires.sum(1), "fb": (fires * b).sum(1), "c": above.sum(1), "cb": (above * b).sum(1),
        }  # fmt: skip
        for name, part in parts.items():
            np.add.at(sums.setdefault(name, np.zeros((places, part.shape[1]))), cluster[rows], part)
        clips.append(codes[..., chosen.clip_atom].mean(1))
        fires_here = np.asarray((codes > 0).any(axis=(0, 1)))
        fired = fired | fires_here if len(fired) else fires_here
    return sums, np.concatenate(clips), float(1 - fired.mean())


def _scores(s: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Metrics of each row of sums."""
    n = s["n"]
    variance = s["xx"] / n - np.square(s["x"] / n)
    kept = variance.min(0) > 1e-8
    covariance = s["ab"] / n - s["a"] * s["b"] / n**2
    spread = (s["aa"] / n - np.square(s["a"] / n)) * (s["b"] / n) * (1 - s["b"] / n)
    return {
        "FVU": (s["ee"] / n / np.maximum(variance, 1e-8))[:, kept].mean(1),
        "L0": s["l0"][:, 0] / n[:, 0],
        "MCC": (covariance / np.sqrt(np.maximum(spread, 1e-12))).mean(1),
        "F1": (2 * s["cb"] / np.maximum(s["c"] + s["b"], 1)).mean(1),
        "F1 fires": (2 * s["fb"] / np.maximum(s["f"] + s["b"], 1)).mean(1),
    }


def _correlation(
    n: int, a: np.ndarray, aa: np.ndarray, b: np.ndarray, ab: np.ndarray
) -> Float[np.ndarray, "sources atoms"]:
    """Correlations from sums over n patches of atoms, their squares, sources and products; 0 for what never varies."""
    atom_spread = np.maximum(aa / n - np.square(a / n), 0) * (aa > 0)
    spread = atom_spread * ((b / n) * (1 - b / n))[:, None]
    covariance = ab / n - b[:, None] * a / n**2
    return np.where(spread > 1e-16, covariance / np.sqrt(np.maximum(spread, 1e-16)), 0.0)


def _area(
    strength: Float[np.ndarray, "clips sources"],
    present: Bool[np.ndarray, "clips sources"],
    weights: np.ndarray,
) -> Float[np.ndarray, " draws"]:
    """Mean over sources of the AUROC with clips weighted by each row (draws, clips); ties count half."""
    areas = []
    for values, label in zip(strength.T, present.T, strict=True):
        order = np.argsort(values, kind="stable")
        _, start, size = np.unique(values[order], return_index=True, return_counts=True)
        negative = np.cumsum(weights[:, order] * ~label[order], axis=1)
        through = negative[:, start + size - 1]
        below = np.concatenate([np.zeros((len(weights), 1)), through[:, :-1]], axis=1)
        positive = np.add.reduceat(weights[:, order] * label[order], start, axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            areas.append((positive * (below + through) / 2).sum(1) / (positive.sum(1) * negative[:, -1]))
    drawn = np.stack(areas, 1)  # a resample may lack a rare source: NaN there
    known = ~np.isnan(drawn)
    return np.where(known, drawn, 0).sum(1) / np.where(known.any(1), known.sum(1), np.nan)


def _encoded(model: Coder, patches: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Codes (some, time, atoms) of some clips at a time, with the clips' rows."""
    clips = max(1, _BLOCK // patches.shape[1])
    for start in range(0, len(patches), clips):
        rows = slice(start, start + clips)
        block = torch.from_numpy(patches[rows].astype(np.float32))
        with torch.no_grad():
            codes = model.encode(block).numpy()
        yield rows, codes


def t_interval(values: Float[np.ndarray, " seeds"], level: float = 0.95) -> tuple[float, float, float]:
    """(mean, low, high) of the mean of independent runs, by Student's t; low and high are NaN for fewer than two."""
    mean, n = float(np.mean(values)), len(values)
    if n < 2:
        return mean, float("nan"), float("nan")
    half = float(t.ppf((1 + level) / 2, n - 1) * np.std(values, ddof=1) / np.sqrt(n))
    return mean, mean - half, mean + half


def across_seeds(cells: pd.DataFrame, level: float = 0.95) -> pd.DataFrame:
    """Mean and t-interval over seeds of every score: the columns of `cells` but seed and value, mean, low, high, seeds.

    `cells` has one row per run and metric: any describing columns (method, l0, metric, ...), seed, value.
    """
    by = [name for name in cells.columns if name not in ("seed", "value")]
    rows = []
    for key, part in cells.groupby(by, sort=False, dropna=False):
        mean, low, high = t_interval(part["value"].to_numpy(float), level)
        described = dict(zip(by, key, strict=True))
        rows.append(described | {"mean": mean, "low": low, "high": high, "seeds": len(part)})
    return pd.DataFrame(rows)


def paired_differences(cells: pd.DataFrame, ours: str, level: float = 0.95) -> pd.DataFrame:
    """`ours` minus every other method over runs of equal seed: describing columns, difference, low, high, seeds.

    Runs of a method without a counterpart of ours leave no row. Raises `ScoreError` when there is no run of ours.
    """
    by = [name for name in cells.columns if name not in ("method", "seed", "value")]
    own = cells.loc[cells["method"] == ours].drop(columns="method")
    if own.empty:
        raise ScoreError(f"no runs of {ours!r} among {', '.join(map(str, cells['method'].unique()))}")
    others = cells.loc[cells["method"] != ours]
    both = others.merge(own, on=[*by, "seed"], suffixes=("_other", ""))
    table = both.assign(value=both["value"] - both["value_other"]).drop(columns="value_other")
    found = across_seeds(table, level) if len(table) else pd.DataFrame(columns=[*by, "method", "mean"])
    return found.rename(columns={"mean": "difference"})
