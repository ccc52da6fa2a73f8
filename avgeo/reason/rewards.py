"""Rewards of a group of completions: pure functions, usable by trl's `GRPOTrainer` as they are.

Every function takes `completions` (strings or trl's chat messages), the true place in degrees (one value per
completion), what else it needs by keyword, ignores other keywords, and returns one float per completion.
`format`, `groundedness` and `proper` leave the optimum of the stated place calibrated. `hierarchy` and
`distance` are linear in the policy, so their optimum puts everything on the best single guess: they are sharp
to look at, and wrong to train a *sampled* answer with alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch

from avgeo.reason.prompts import Answer, completion_text, parse, same_cue
from avgeo.sphere import distance_km, from_degrees

Completion = str | Sequence[dict[str, Any]]

TAU_KM = 1000.0
"""Default scale of `distance_reward`, km."""
WORST_CHORD = 2.0
"""Chordal distance of antipodes, the largest there is: the cost of no answer."""


def format_reward(
    completions: Sequence[Completion], latitude_deg: Sequence[float], longitude_deg: Sequence[float], **_: Any
) -> list[float]:
    """1 for a completion that parses, else 0; its mean is the parse rate. No partial credit to hack."""
    return [float(answer is not None) for answer in _answers(completions, latitude_deg, longitude_deg)]


def hierarchy_reward(
    completions: Sequence[Completion],
    latitude_deg: Sequence[float],
    longitude_deg: Sequence[float],
    *,
    country: Sequence[str],
    region: Sequence[str],
    **_: Any,
) -> list[float]:
    """Half a point for the right region, half for the right country, in [0, 1]; 0 when nothing parses."""
    answers = _answers(completions, latitude_deg, longitude_deg, country=country, region=region)
    return [
        0.0 if answer is None else 0.5 * _same(answer.region, true_region) + 0.5 * _same(answer.country, true_country)
        for answer, true_country, true_region in zip(answers, country, region, strict=True)
    ]


def distance_reward(
    completions: Sequence[Completion],
    latitude_deg: Sequence[float],
    longitude_deg: Sequence[float],
    *,
    tau_km: float = TAU_KM,
    **_: Any,
) -> list[float]:
    """exp(-d / tau_km) of the great-circle distance d, in (0, 1], falling with d; 0 when nothing parses."""
    if not tau_km > 0:
        raise ValueError(f"tau_km must be positive, got {tau_km}")
    answers = _answers(completions, latitude_deg, longitude_deg)
    rewards = [0.0] * len(answers)
    valid = [index for index, answer in enumerate(answers) if answer is not None]
    away_km = distance_km(_points(answers, valid), _truths(latitude_deg, longitude_deg, valid))
    for index, reward in zip(valid, torch.exp(-away_km / tau_km).tolist(), strict=True):
        rewards[index] = reward
    return rewards


def groundedness_reward(
    completions: Sequence[Completion],
    latitude_deg: Sequence[float],
    longitude_deg: Sequence[float],
    *,
    heard: Sequence[Iterable[str]],
    seen: Sequence[Iterable[str]] | None = None,
    **_: Any,
) -> list[float]:
    """(supported - invented) / cited over the distinct cues cited, in [-1, 1]; 0 when none is.

    A heard cue is supported when it is among the prompt's atoms, `heard`; a sight when it is in `seen`
    (sights are not judged where `seen` is None). What does not parse gets -1, so an invention never pays by
    breaking the format.
    """
    answers = _answers(completions, latitude_deg, longitude_deg, heard=heard)
    sights: Sequence[Iterable[str] | None] = [None] * len(answers) if seen is None else seen
    rewards: list[float] = []
    for answer, atoms, visible in zip(answers, heard, sights, strict=True):
        if answer is None:
            rewards.append(-1.0)
            continue
        judged = [(answer.heard, atoms)] + ([] if visible is None else [(answer.seen, visible)])
        # sets made once each: asking for them cue by cue would be quadratic
        senses = [
            ({same_cue(label) for label in cited}, {same_cue(label) for label in there}) for cited, there in judged
        ]
        votes = [1 if cue in there else -1 for cited, there in senses for cue in cited]
        rewards.append(sum(votes) / len(votes) if votes else 0.0)
    return rewards


def proper_reward(
    completions: Sequence[Completion],
    latitude_deg: Sequence[float],
    longitude_deg: Sequence[float],
    *,
    clip_id: Sequence[str],
    **_: Any,
) -> list[float]:
    """Energy-score reward over the rollouts of each clip: r_i = -c(x_i, y) + sum_{j≠i} k(x_i, x_j) / (G - 2).

    c is the chordal distance |x - y| in [0, 2], an answer that does not parse costs 2; k = c between two
    parsed answers and 0 where one did not parse, so it stays out of the spread. r lies in [-2, 2 (G - 1)/(G -
    2)].

    Its expected GRPO update is (G - 1)/G times -∇ES, ES = E c(X, y) - E k(X, X')/2 being the energy score: the
    factor on the spread is 1, not 1/2, because a rollout stands in k twice, and its divisor is G - 2, not G - 1,
    because GRPO's mean reward holds that rollout, too. The advantages must not be divided by the group's
    standard deviation (trl: `scale_rewards="none"`), which leaves little but their sign. c is the chord because
    with the geodesic distance the score is not strictly proper (Gneiting & Raftery 2007, 5.1). Chapter 3 derives
    all four; `avgeo.reason.properness` computes them. With invalid mass q the score is still least at q = 0,
    because c never exceeds 2.

    Raises `ValueError` when a clip has fewer than three rollouts.
    """
    answers = _answers(completions, latitude_deg, longitude_deg, clip_id=clip_id)
    rewards = [-WORST_CHORD] * len(answers)
    for members, valid, apart in _groups(answers, clip_id):
        cost = (_points(answers, valid) - _truths(latitude_deg, longitude_deg, valid)).norm(dim=-1)
        spread = apart.sum(-1) / (len(members) - 2)
        for index, reward in zip(valid, (spread - cost).tolist(), strict=True):
            rewards[index] = reward
    return rewards


def diversity(
    completions: Sequence[Completion],
    latitude_deg: Sequence[float],
    longitude_deg: Sequence[float],
    *,
    clip_id: Sequence[str],
    **_: Any,
) -> list[float]:
    """Mean chord from each answer to its clip's others, in [0, 2]; to be watched, not to be trained.

    What does not parse is left out: it has 0, and so has an answer that stands alone. Near 0 throughout, the policy
    has collapsed: it always says the same. Raises `ValueError` as `proper_reward`.
    """
    answers = _answers(completions, latitude_deg, longitude_deg, clip_id=clip_id)
    found = [0.0] * len(answers)
    for _members, valid, apart in _groups(answers, clip_id):
        for index, mean in zip(valid, (apart.sum(-1) / max(1, len(valid) - 1)).tolist(), strict=True):
            found[index] = mean
    return found


def _groups(
    answers: Sequence[Answer | None], clip_id: Sequence[str]
) -> Iterator[tuple[list[int], list[int], torch.Tensor]]:
    """(rollouts, those that parse, chords between these) of each clip."""
    groups: dict[str, list[int]] = defaultdict(list)
    for index, clip in enumerate(clip_id):
        groups[clip].append(index)
    for clip, members in groups.items():
        if len(members) < 3:
            raise ValueError(f"clip_id: {clip!r} has {len(members)} completions, the proper reward needs at least 3")
        valid = [index for index in members if answers[index] is not None]
        points = _points(answers, valid)
        yield members, valid, (points[:, None] - points[None, :]).norm(dim=-1)


def _answers(completions: Sequence[Completion], *columns: Sequence[Any], **named: Sequence[Any]) -> list[Answer | None]:
    """The parsed answers, None where there is none; every column must have one value per completion."""
    for name, column in {"latitude_deg": columns[0], "longitude_deg": columns[1], **named}.items():
        if len(column) != len(completions):
            raise ValueError(f"{name}: has {len(column)} values for {len(completions)} completions")
    parsed = [parse(completion_text(completion)) for completion in completions]
    return [answer if isinstance(answer, Answer) else None for answer in parsed]


def _points(answers: Sequence[Answer | None], valid: Sequence[int]) -> torch.Tensor:
    """Unit vectors (n, 3), float64, of the answers at `valid`."""
    chosen = [answers[index] for index in valid]
    return from_degrees(
        torch.tensor([answer.latitude_deg for answer in chosen if answer], dtype=torch.float64),
        torch.tensor([answer.longitude_deg for answer in chosen if answer], dtype=torch.float64),
    )


def _truths(latitude_deg: Sequence[float], longitude_deg: Sequence[float], valid: Sequence[int]) -> torch.Tensor:
    return from_degrees(
        torch.tensor([latitude_deg[index] for index in valid], dtype=torch.float64),
        torch.tensor([longitude_deg[index] for index in valid], dtype=torch.float64),
    )


def _same(a: str, b: str) -> bool:
    return a.strip().casefold() == b.strip().casefold()
