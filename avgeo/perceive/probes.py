"""What a code still knows: k-sparse probes for labels, and the share of a geolocation probe's loss that it keeps.

A k-sparse probe reads a label from the k atoms that best tell it (Gurnee et al. 2023, arXiv 2305.01610; found the most
reliable of the usual probes in arXiv 2605.18229). Good atoms need few. "Loss recovered" asks the opposite: how much of
what the features say about the *place* survives in the code, named or not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from scipy.optimize import minimize
from scipy.special import logsumexp

from avgeo.evaluate import interval, resamples
from avgeo.perceive.scores import auroc_matrix, best_cut

SPARSITIES = (1, 2, 5, 16)
STRENGTHS = (0.03, 0.1, 0.3, 1.0, 3.0)
"""L2 penalties among which the geolocation probe chooses on its own split."""


class ProbeError(ValueError):
    """Data that no probe can be fitted to; the message names the argument and the cure."""


@dataclass(frozen=True)
class Probe:
    """A softmax regression on standardised features: log odds (count, classes) of features (count, dim)."""

    weight: Float[np.ndarray, "dim classes"]
    bias: Float[np.ndarray, " classes"]
    mean: Float[np.ndarray, " dim"]
    scale: Float[np.ndarray, " dim"]

    def __call__(self, features: Float[np.ndarray, "count dim"]) -> Float[np.ndarray, "count classes"]:
        return (features - self.mean) / self.scale @ self.weight + self.bias

    def loss(
        self, features: Float[np.ndarray, "count dim"], label: Int[np.ndarray, " count"]
    ) -> Float[np.ndarray, " count"]:
        """-log p(label) of every row, in nats."""
        scores = self(features)
        return logsumexp(scores, axis=1) - scores[np.arange(len(label)), label]


def fit_probe(
    features: Float[np.ndarray, "count dim"], label: Int[np.ndarray, " count"], classes: int, l2: float
) -> Probe:
    """The softmax regression that minimises the mean of -log p(label) plus l2/2 |weight|² (L-BFGS).

    Features are standardised first; one that is constant gets no say. Classes without an example are held down by
    the penalty and by half an example, spread over all classes, in the bias's prior.
    """
    mean, spread = features.mean(0, dtype=np.float64), features.std(0, dtype=np.float64)
    scale = np.where(spread > 1e-9, spread, np.inf)
    x = (features - mean) / scale
    count, dim = x.shape
    target = np.eye(classes)[label]
    prior = 0.5 / classes / count  # keeps the bias of an absent class finite

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weight, bias = flat[: dim * classes].reshape(dim, classes), flat[dim * classes :]
        scores = x @ weight + bias
        logs = scores - logsumexp(scores, axis=1, keepdims=True)
        usual = bias - logsumexp(bias)
        loss = -(target * logs).sum() / count + l2 / 2 * np.square(weight).sum() - prior * usual.sum()
        error = (np.exp(logs) - target) / count
        bias_slope = error.sum(0) - prior * (1 - classes * np.exp(usual))
        return loss, np.concatenate([(x.T @ error + l2 * weight).ravel(), bias_slope])

    start = np.concatenate([np.zeros(dim * classes), np.log(target.mean(0) + prior)])
    found = minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": 500})
    return Probe(found.x[: dim * classes].reshape(dim, classes), found.x[dim * classes :], mean, scale)


def tell_apart(
    strength: Float[np.ndarray, "clips atoms"], label: Bool[np.ndarray, " clips"]
) -> Float[np.ndarray, " atoms"]:
    """How far apart the means of each atom are with and without the label, in units of its spread within either."""
    on, off = strength[label], strength[~label]
    within = np.sqrt((len(on) * on.var(0) + len(off) * off.var(0)) / len(label))
    return np.abs(on.mean(0) - off.mean(0)) / np.maximum(within, 1e-3 * strength.std(0) + 1e-9)


def sparse_probes(
    train: tuple[Float[np.ndarray, "clips atoms"], Bool[np.ndarray, "clips labels"]],
    test: tuple[Float[np.ndarray, "clips2 atoms"], Bool[np.ndarray, "clips2 labels"]],
    *,
    sparsities: Sequence[int] = SPARSITIES,
    l2: float = 1e-2,
) -> pd.DataFrame:
    """Logistic probes on the k atoms that best tell each label on `train`: label, k, auroc, f1, positives.

    Strengths are clip means; atoms are ranked by `tell_apart` and the cut of F1 is chosen on `train` as well, scores
    are those on `test`. Labels that are constant in either set have no rows.
    Raises `ProbeError` when none is left.
    """
    (strength, labels), (strength2, labels2) = train, test
    usable = [
        number
        for number in range(labels.shape[1])
        if 0 < labels[:, number].sum() < len(labels) and 0 < labels2[:, number].sum() < len(labels2)
    ]
    if not usable:
        raise ProbeError("no label is both present and absent in train and test: give more clips")
    rows = []
    for number in usable:
        for k, scores, scores2 in _probe_scores(strength, labels[:, number], strength2, sparsities, l2):
            heard = scores2 >= best_cut(scores, labels[:, number])
            true = labels2[:, number]
            f1 = 2 * (heard & true).sum() / max(1, int(heard.sum() + true.sum()))
            auroc = auroc_matrix(scores2[:, None], true[:, None])[0, 0]
            rows.append({"label": number, "k": k, "auroc": auroc, "f1": f1, "positives": int(true.sum())})
    return pd.DataFrame(rows)


def sparse_accuracy(
    train: tuple[Float[np.ndarray, "clips atoms"], Bool[np.ndarray, "clips labels"]],
    test: tuple[Float[np.ndarray, "clips2 atoms"], Bool[np.ndarray, "clips2 labels"]],
    *,
    sparsities: Sequence[int] = SPARSITIES,
    l2: float = 1e-2,
) -> dict[int, float]:
    """Share of test clips whose one label is that of the surest of the k-sparse probes, by k.

    Every clip has exactly one label, or `ProbeError` is raised.
    """
    (strength, labels), (strength2, labels2) = train, test
    if not ((labels.sum(1) == 1).all() and (labels2.sum(1) == 1).all()):
        raise ProbeError("accuracy is of one label a clip: use `sparse_probes` for clips with several or none")
    surest: dict[int, list[np.ndarray]] = {k: [] for k in sparsities}
    for number in range(labels.shape[1]):
        for k, _, scores2 in _probe_scores(strength, labels[:, number], strength2, sparsities, l2):
            surest[k].append(scores2)
    return {k: float((np.stack(found, 1).argmax(1) == labels2.argmax(1)).mean()) for k, found in surest.items()}


def _probe_scores(
    strength: np.ndarray, label: np.ndarray, strength2: np.ndarray, sparsities: Sequence[int], l2: float
) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """(k, probability on train, probability on test) of the probes of one label."""
    ranked = np.argsort(-tell_apart(strength, label), kind="stable")
    found = []
    for k in sparsities:
        atoms = ranked[:k]
        probe = fit_probe(strength[:, atoms], label.astype(np.int64), 2, l2)
        odds = [np.diff(probe(part[:, atoms]), axis=1)[:, 0] for part in (strength, strength2)]
        # the cut needs positive scores; monotone, so ranks stay
        found.append((k, *(1 / (1 + np.exp(-part)) for part in odds)))
    return found


def pool(frames: Float[np.ndarray, "clips time dim"]) -> Float[np.ndarray, "clips two_dim"]:
    """A clip's frames as one vector: their mean and their standard deviation over time."""
    return np.concatenate([frames.mean(1, dtype=np.float64), frames.std(1, dtype=np.float64)], axis=1)


def constant_loss(
    train: Int[np.ndarray, " count"], test: Int[np.ndarray, " count2"], classes: int
) -> Float[np.ndarray, " count2"]:
    """-log of the frequency in `train` (half an example spread over all classes) of every label in `test`."""
    frequency = np.bincount(train, minlength=classes) + 0.5 / classes
    return -np.log(frequency / frequency.sum())[test]


def loss_recovered(
    constant: Float[np.ndarray, " clips"],
    original: Float[np.ndarray, " clips"],
    replaced: Float[np.ndarray, " clips"],
    place_id: Sequence[str],
    *,
    bootstrap: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Share of a geolocation probe's gain that is kept when its features are replaced: metric, value, low, high.

    The three are losses of the test clips, in nats (`constant_loss`, `Probe.loss`): of a constant answer, of the probe
    on the original features, and of what stands in for it: the same probe on reconstructions, or one fitted anew to
    codes. "recovered" is (constant - replaced) / (constant - original), with a percentile interval from a bootstrap
    over places. It is NaN where the original features do not beat the constant, since nothing is there to recover,
    and so is its interval when they fail to in some resample.
    """
    losses = np.stack([constant, original, replaced, np.ones(len(constant))], 1)
    places, cluster = np.unique(np.asarray(place_id), return_inverse=True)
    sums = np.zeros((len(places), 4))
    np.add.at(sums, cluster, losses)
    draws = np.concatenate(list(resamples(len(places), bootstrap, seed)))
    value, (low, high) = _recovered(sums.sum(0)[None]), interval(_recovered(draws @ sums), level)
    names = ["constant", "original", "replaced", "recovered"]
    return pd.DataFrame({"metric": names, "value": value[0], "low": low, "high": high})


def _recovered(sums: Float[np.ndarray, "draws 4"]) -> Float[np.ndarray, "draws 4"]:
    constant, original, replaced = (sums[:, :3] / sums[:, 3:]).T
    gain = constant - original
    share = np.where(gain > 0, (constant - replaced) / np.where(gain > 0, gain, 1), np.nan)
    return np.stack([constant, original, replaced, share], 1)


def best_probe(features: Sequence[np.ndarray], label: Sequence[np.ndarray], classes: int) -> Probe:
    """The probe of the train part whose penalty, among `STRENGTHS`, does best on the validation part."""
    probes = [fit_probe(features[0], label[0], classes, l2) for l2 in STRENGTHS]
    return min(probes, key=lambda probe: float(probe.loss(features[1], label[1]).mean()))
