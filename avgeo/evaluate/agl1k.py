"""Published answers on AGL1K put through the reasoner's own reward functions, which must give its published error.

AGL1K's answers are JSON with reason, city, country, continent, longitude and latitude, of which its authors publish the
fields as text (the models' raw words are left empty in the file). Ours are `<think>…</think><answer>{country, region,
latitude, longitude}</answer>`. So country becomes country, continent becomes region, the thought is empty, the city has
no counterpart, and the coordinates stay as published: text that is a JSON number is written as that number, any other
value as what it is, which our grammar refuses. Nothing is trimmed, rounded or guessed.

The distance reward exp(-d / tau) is invertible, so distances are read back from rewards. Two rules then make a mean:

- AGL1K's script (`analyze_new.py`): a refusal, such as a coordinate written 0, costs 10,000 km; what is no number is
  dropped; clips without an answer are not in its file; distances lie on the WGS 84 ellipsoid.
- Ours (`avgeo.evaluate`): every clip counts, 0 is a coordinate like any other, no place on Earth costs half the
  circumference; distances lie on a sphere.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float64

from avgeo.curate.balance import FAILURE_KM
from avgeo.evaluate.metrics import HALF_CIRCUMFERENCE_KM
from avgeo.evaluate.tables import EvaluateError
from avgeo.reason.prompts import Answer, parse
from avgeo.reason.rewards import TAU_KM, distance_reward, format_reward, groundedness_reward, hierarchy_reward
from avgeo.sphere import distance_km, from_degrees

PUBLISHED_KM = 5476.83
"""Mean distance error of Qwen2.5-Omni in AGL1K's README, km."""
REFUSALS = frozenset({"0", "0.0", "-1", "", "null", "none", "nan", "n/a", "na", "unknown", "unable", "cannot"})
"""What AGL1K's script takes for a refusal when a coordinate, as text, reads so."""

Kind = Literal["missing", "refused", "unparsable", "out of range", "exact zero", "answered"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""What may have become of a clip: no answer in the file; a word of `REFUSALS`; a coordinate that is no number; one that
is off the globe; a latitude or longitude of exactly 0; a place."""

_FIELDS = ("question_id", "predicted_country", "predicted_continent", "predicted_latitude", "predicted_longitude")
_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?", re.ASCII)  # JSON's grammar


def read_published(path: Path | str) -> list[dict[str, Any]]:
    """AGL1K's `seed_42_progress_fixed.json`: one dictionary per answer, values as published.

    Raises `EvaluateError` for a file that is not such a list, or that answers a clip twice.
    """
    try:
        rows = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError:
        rows = None
    if not isinstance(rows, list) or not all(isinstance(row, dict) and set(_FIELDS) <= set(row) for row in rows):
        raise EvaluateError(f"answers: {Path(path).name} is no list with {', '.join(_FIELDS)}: fetch it again")
    (clip, count), *_ = Counter(row["question_id"] for row in rows).most_common(1) or [("", 0)]
    if count > 1:
        raise EvaluateError(f"answers: clip {clip!r} is answered {count} times: keep one of them")
    return rows


def completion_of(answer: Mapping[str, Any] | None) -> str:
    """A published answer in our grammar, unrepaired; "" where there is none."""
    if answer is None:
        return ""
    country, region, latitude, longitude = (answer[name] for name in _FIELDS[1:])
    body = (
        f'{{"country": {json.dumps(country)}, "region": {json.dumps(region)}, '
        f'"latitude": {_coordinate(latitude)}, "longitude": {_coordinate(longitude)}}}'
    )
    return f"<think></think><answer>{body}</answer>"


def _coordinate(value: Any) -> str:
    """The JSON of a coordinate; its models were asked for a number, of which the file keeps the characters."""
    return value if isinstance(value, str) and _NUMBER.fullmatch(value) else json.dumps(value)


def refused_by_agl1k(answer: Mapping[str, Any]) -> bool:
    """Whether AGL1K's script counts `FAILURE_KM` for this answer: a coordinate that reads like one of `REFUSALS`."""
    return any(str(answer[name]).strip().lower() in REFUSALS for name in _FIELDS[3:])


def kind_of(answer: Mapping[str, Any] | None) -> Kind:
    """What an answer is, by its text and by our parser; the kinds exclude each other."""
    if answer is None:
        return "missing"
    parsed = parse(completion_of(answer))
    if isinstance(parsed, Answer) and 0 in (parsed.latitude_deg, parsed.longitude_deg):
        return "exact zero"
    if refused_by_agl1k(answer):
        return "refused"
    if isinstance(parsed, Answer):
        return "answered"
    return "out of range" if parsed.reason == "out of range" else "unparsable"


def recovered_km(rewards: Sequence[float], tau_km: float = TAU_KM) -> Float64[np.ndarray, " clips"]:
    """Distances from `distance_reward`'s values: d = -tau ln r in km; NaN where the reward is 0 (no answer)."""
    earned = np.asarray(rewards, dtype=np.float64)
    return -tau_km * np.log(np.where(earned > 0, earned, np.nan))


def ellipsoid_km(truth_deg: np.ndarray, guess_deg: np.ndarray) -> Float64[np.ndarray, " clips"]:
    """Geodesic distance in km on WGS 84 between (n, 2) arrays of latitude and longitude in degrees; NaN stays NaN."""
    from cartopy.geodesic import Geodesic

    found = np.full(len(truth_deg), np.nan)
    known = np.isfinite(guess_deg).all(axis=1)
    if known.any():
        ends = (np.ascontiguousarray(deg[known][:, ::-1], dtype=np.float64) for deg in (truth_deg, guess_deg))
        found[known] = np.asarray(Geodesic().inverse(*ends))[:, 0] / 1000
    return found


def reward_published(table: pd.DataFrame, answers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Rewards and mean distances of published answers; aggregates only, for JSON.

    `table` is `avgeo.curate.balance.read_agl1k`'s: clip_id, latitude_deg, longitude_deg, country, continent; `answers`
    are `read_published`'s. Answers to clips that the table lacks are counted and left out. `mean_km` climbs from
    AGL1K's rule to ours, one change at a time. The proper reward is not asked: it needs three answers to each clip.
    """
    given = {answer["question_id"]: answer for answer in answers}
    found = [given.get(clip) for clip in table["clip_id"]]
    if not any(found):
        raise EvaluateError("answers: none is about a clip of the table: give the two files of one benchmark")
    completions = [completion_of(answer) for answer in found]
    truth: dict[str, Any] = {name: table[name].tolist() for name in ("latitude_deg", "longitude_deg")}
    names = {"country": table["country"].tolist(), "region": table["continent"].tolist()}
    rewards = {
        "format": format_reward(completions, **truth),
        "hierarchy": hierarchy_reward(completions, **truth, **names),
        "distance": distance_reward(completions, **truth),
        "groundedness": groundedness_reward(completions, **truth, heard=[[]] * len(table)),
    }
    # asked for one name alone, half a point is a hit
    blank: dict[str, Any] = {name: [""] * len(table) for name in names}
    hits = {name: hierarchy_reward(completions, **truth, **(blank | {name: names[name]})) for name in names}
    km, kinds = recovered_km(rewards["distance"]), [kind_of(answer) for answer in found]
    truth_deg, guess_deg = table[["latitude_deg", "longitude_deg"]].to_numpy(float), _published_degrees(found)
    parsed = np.array(rewards["format"]) == 1
    direct_km = distance_km(_points(guess_deg[parsed]), _points(truth_deg[parsed])).numpy()
    there = np.array([answer is not None for answer in found])
    refused = np.array([answer is not None and refused_by_agl1k(answer) for answer in found])
    zero, answered = (np.array([kind == wanted for kind in kinds]) for wanted in ("exact zero", "answered"))
    both = zero & (guess_deg == 0).all(axis=1)
    scored = there & (parsed | refused)
    reasons = Counter(
        failure.reason for text, is_there in zip(completions, there, strict=True)
        if is_there and not isinstance(failure := parse(text), Answer)
    )  # fmt: skip
    return {
        "clips": len(table),
        "answers": len(answers),
        "not_in_table": len(given) - int(there.sum()),
        "kinds": {kind: kinds.count(kind) for kind in KINDS},
        "parse_failures": dict(reasons),
        "zero": {"latitude_and_longitude": int(both.sum()), "one_of_them": int((zero & ~both).sum())},
        "script": {"scored": int(scored.sum()), "refused": int(refused.sum()), "dropped": int((there & ~scored).sum())},
        "zero_but_not_refused_by_script": int((zero & ~refused).sum()),
        "rewards": {name: float(np.mean(values)) for name, values in rewards.items()},
        "hits": {name: 2 * float(np.mean(values)) for name, values in hits.items()},
        "largest_difference_km": float(np.abs(km[parsed] - direct_km).max()) if parsed.any() else None,
        "published_km": PUBLISHED_KM,
        "mean_km": {
            "agl1k_on_the_ellipsoid": _mean(np.where(refused, FAILURE_KM, ellipsoid_km(truth_deg, guess_deg))[scored]),
            "agl1k": _mean(np.where(refused, FAILURE_KM, km)[scored]),
            "every_clip_counts": _mean(np.where(parsed & ~refused, km, FAILURE_KM)),
            "zero_is_a_coordinate": _mean(np.where(parsed, km, FAILURE_KM)),
            "ours": _mean(np.where(parsed, km, HALF_CIRCUMFERENCE_KM)),
            "ours_zeros_refused": _mean(np.where(answered, km, HALF_CIRCUMFERENCE_KM)),
            "answered": _mean(km[answered]),
            "exact_zero": _mean(km[zero]),
        },
    }


def _published_degrees(answers: Sequence[Mapping[str, Any] | None]) -> Float64[np.ndarray, "clips 2"]:
    """Latitude and longitude read from the published text, without our parser; NaN where they are no place."""
    raw = [[None, None] if answer is None else [answer[name] for name in _FIELDS[3:]] for answer in answers]
    degrees = pd.DataFrame(raw, dtype=object).apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
    return np.where((np.abs(degrees) <= (90, 180)).all(axis=1, keepdims=True), degrees, np.nan)


def _points(degrees: np.ndarray) -> torch.Tensor:
    return from_degrees(*torch.tensor(degrees, dtype=torch.float64).T)


def _mean(km: np.ndarray) -> float | None:
    return float(km.mean()) if len(km) else None
