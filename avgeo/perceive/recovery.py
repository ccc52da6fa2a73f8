"""Mixture recovery: does the code of two sounds heard together hold the atoms of each heard alone?

Encoders are not additive, so this is no identity of the decoder, and it is measured on *waveform* mixtures. With the
sets of atoms A, B and M of the first sound, of the second and of the mixture in one patch, the score is the F1 of M
against A ∪ B, 2 |M ∩ (A ∪ B)| / (|M| + |A ∪ B|). Two conventions:

- "strongest": A and B are the k/2 strongest active atoms of each part, M the k strongest of the mixture. This is the
  main one: a method that keeps exactly k atoms cannot hold the 2k of its two parts.
- "support": all active atoms of each. With k of k + k atoms its F1 is at most 2/3.

Chance is the same score against the parts of *another* pair: atoms that fire for everything earn nothing. What counts
is the score above chance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from avgeo.evaluate import interval, resamples

Encode = Callable[[Tensor], Tensor]
"""Codes (pairs, time, atoms) of sounds (pairs, time, dim)."""
Embed = Callable[[Tensor], Tensor]
"""Frames (time, dim) of sound (samples,)."""

SNR_DB = (-10.0, -5.0, 0.0, 5.0, 10.0)
_QUIET_DB = 40.0  # a patch this far below the loudest of its sound is a pause
_SILENT_RMS = 1e-4  # -80 dBFS, where the encoder, too, stops
_BLOCK = 4096


class RecoveryError(ValueError):
    """Sounds that make no mixtures; the message names the argument and the cure."""


@dataclass(frozen=True)
class Triples:
    """Frames of two sounds alone and of their mixture, and in which of them both sound (the others are not scored)."""

    first: Float[Tensor, "pairs time dim"]
    second: Float[Tensor, "pairs time dim"]
    both: Float[Tensor, "pairs time dim"]
    together: Bool[Tensor, "pairs time"]

    @classmethod
    def of_vectors(
        cls, first: Float[Tensor, "pairs dim"], second: Float[Tensor, "pairs dim"], both: Float[Tensor, "pairs dim"]
    ) -> Triples:
        """Pairs without a course in time: one frame each."""
        return cls(first[:, None], second[:, None], both[:, None], torch.ones(len(first), 1, dtype=torch.bool))


def sounding(audio: Float[Tensor, " samples"], frames: int) -> Bool[Tensor, " frames"]:
    """In which of so many equal stretches of time a sound is no pause: within 40 dB of the loudest, and no silence."""
    size = len(audio) // frames
    level = audio[: frames * size].reshape(frames, size).square().mean(1).sqrt()
    return (level > level.max() * 10 ** (-_QUIET_DB / 20)) & (level > _SILENT_RMS)


def mix_at(
    first: Float[Tensor, " samples"], second: Float[Tensor, " others"], snr_db: float
) -> Float[Tensor, " samples"]:
    """The two sounds in the air together, the first `snr_db` above the second.

    A sound's level is its RMS where it sounds (stretches of 0.1 s at 16 kHz, `sounding`), so that a bark in a second of
    silence is as loud as rain. Raises `RecoveryError` for unequal lengths, a silent sound or one that is not finite.
    """
    if first.shape != second.shape:
        raise RecoveryError(f"first has {len(first)} samples, second {len(second)}: cut them to one length")
    return first / _level(first, "first") + second / _level(second, "second") * 10 ** (-snr_db / 20)


def _level(audio: Tensor, name: str) -> Tensor:
    if not torch.isfinite(audio).all():
        raise RecoveryError(f"{name} holds NaN or infinite samples: give finite sound")
    stretches = max(1, len(audio) // 1600)
    heard = sounding(audio, stretches)
    if not heard.any():
        raise RecoveryError(f"{name} is silent: leave it out of the mixtures")
    size = len(audio) // stretches
    return audio[: stretches * size].reshape(stretches, size)[heard].square().mean().sqrt()


def mixture_triples(
    first: Sequence[Float[Tensor, " samples"]],
    second: Sequence[Float[Tensor, " samples"]],
    snr_db: float,
    embed: Embed,
) -> Triples:
    """Frames of every pair of sounds, alone and mixed at `snr_db`, where both of them sound.

    `embed` is an encoder, e.g. `lambda audio: patches(audio, settings)`. All sounds have one length. Pairs that never
    sound together are not scored. Raises `RecoveryError` if none does, or for lists of unequal length.
    """
    if len(first) != len(second):
        raise RecoveryError(f"{len(first)} first sounds for {len(second)} second: give one each")
    lengths = {len(sound) for sounds in (first, second) for sound in sounds}
    if len(lengths) > 1:
        raise RecoveryError(f"sounds of {min(lengths)} to {max(lengths)} samples: cut them to one length")
    rows: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    for one, other in zip(first, second, strict=True):
        mixed = embed(mix_at(one, other, snr_db))
        rows.append((embed(one), embed(other), mixed, sounding(one, len(mixed)) & sounding(other, len(mixed))))
    if not any(bool(row[-1].any()) for row in rows):
        raise RecoveryError("no pair of sounds is heard at the same time: give longer or steadier sounds")
    return Triples(*(torch.stack(part) for part in zip(*rows, strict=True)))


def strongest(codes: Float[Tensor, "*count atoms"], keep: int) -> Bool[Tensor, "*count atoms"]:
    """Which atoms are among the `keep` strongest active ones of each row."""
    index = codes.topk(min(keep, codes.shape[-1]), dim=-1).indices
    return torch.zeros_like(codes, dtype=torch.bool).scatter_(-1, index, True) & (codes > 0)


def set_f1(parts: Bool[Tensor, "count atoms"], mixture: Bool[Tensor, "count atoms"]) -> Float[Tensor, " count"]:
    """F1 of each row's sets; 0 where both are empty, since nothing was recovered."""
    return 2 * (parts & mixture).sum(-1) / (parts.sum(-1) + mixture.sum(-1)).clamp_min(1)


def mixture_recovery(
    encode: Encode, triples: Triples, active: int, *, bootstrap: int = 1000, level: float = 0.95, seed: int = 0
) -> pd.DataFrame:
    """How well mixtures hold the atoms of their parts; one row per convention ("strongest", "support").

    `active` is k, the number of atoms that the method may use at once. Columns: convention, f1, chance, recovery
    (f1 - chance), low, high (its percentile interval from a bootstrap over pairs), kappa (recovery as a share of what
    chance leaves to win, 1 - chance: fairer between methods of unlike chance), first, second (the shares of the atoms
    of either part that the mixture holds), pairs. Rows of one pair are averaged first. Raises `RecoveryError`
    for fewer than two pairs.
    """
    numbers, pair = np.unique(triples.together.nonzero()[:, 0].numpy(), return_inverse=True)
    if len(numbers) < 2:
        raise RecoveryError(f"{len(numbers)} pair: chance needs at least two to compare with")
    size = np.bincount(pair)
    other = torch.from_numpy(_rows_of_others(pair, np.random.default_rng(seed)))
    half = max(1, active // 2)
    parts = [_sets(encode, part, triples.together, half) for part in (triples.first, triples.second)]
    both = _sets(encode, triples.both, triples.together, active)
    draws = np.concatenate(list(resamples(len(numbers), bootstrap, seed))) / len(numbers)
    out = []
    for column, name in enumerate(("strongest", "support")):
        a, b, mixed = parts[0][column], parts[1][column], both[column]
        held = [(part & mixed).sum(-1) / part.sum(-1).clamp_min(1) for part in (a, b)]
        by_row = [set_f1(a | b, mixed), set_f1(a[other] | b[other], mixed), *held]
        f1, chance, first, second = (np.bincount(pair, values.double().numpy()) / size for values in by_row)
        low, high = (ends[0] for ends in interval((draws @ (f1 - chance))[:, None], level))
        means = {"f1": f1, "chance": chance, "recovery": f1 - chance}
        shares = {"first": first.mean(), "second": second.mean(), "pairs": len(numbers)}
        row = {key: value.mean() for key, value in means.items()}
        row["kappa"] = row["recovery"] / (1 - row["chance"]) if row["chance"] < 1 else 0.0
        out.append({"convention": name, **row, "low": low, "high": high, **shares})
    return pd.DataFrame(out)


def recovery_curve(
    encode: Encode, triples: dict[float, Triples], active: int, *, bootstrap: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """`mixture_recovery` at every SNR of `triples` (dB -> mixtures), with a column snr_db."""
    parts = [
        mixture_recovery(encode, mixed, active, bootstrap=bootstrap, seed=seed).assign(snr_db=snr_db)
        for snr_db, mixed in triples.items()
    ]
    return pd.concat(parts, ignore_index=True)


def _rows_of_others(pair: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """For every row a row of another pair, drawn anew: a random row of the pair that follows in a random circle."""
    rows = [np.flatnonzero(pair == number) for number in range(pair.max() + 1)]
    circle = rng.permutation(len(rows))
    follower = np.empty_like(circle)
    follower[circle] = np.roll(circle, -1)
    return np.array([rng.choice(rows[follower[number]]) for number in pair])


def _sets(encode: Encode, x: Tensor, scored: Tensor, keep: int) -> tuple[Tensor, Tensor]:
    """Which atoms (count, atoms) are among the `keep` strongest of each scored frame, and which are active at all."""
    kept, active = [], []
    pairs = max(1, _BLOCK // x.shape[1])
    for block, rows in zip(x.split(pairs), scored.split(pairs), strict=True):
        with torch.no_grad():
            codes = encode(block)[rows]
        kept.append(strongest(codes, keep))
        active.append(codes > 0)
    return torch.cat(kept), torch.cat(active)
