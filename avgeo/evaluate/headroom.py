"""How far a model is from the best possible: its rows beside the Bayes ceiling of the same clips."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pandas as pd

from avgeo.evaluate.tables import EvaluateError


def headroom(
    scored: pd.DataFrame, ceiling: pd.DataFrame, senses: Mapping[str, str], protocol: str = "new places"
) -> pd.DataFrame:
    """Each row of `evaluate_rows` beside the ceiling (`avgeo.world.ceiling`) of what it was shown.

    `senses` says what each row was shown: "sound", "sight" or "both". Metrics that the ceiling lacks are left out.
    Returns row, metric, value, low, high, best, best_low, best_high, and `beats`: whether the row's interval lies
    wholly above the ceiling's. `scored` and `ceiling` must be of the same clips. On 150 places an honest model that
    sits at the ceiling is flagged in under 1 % of runs; a leak in a tenth of the clips is seen, one in a twentieth
    often not, and a model below its ceiling hides more. So a flag is an alarm, and its absence no proof.
    """
    best = ceiling[ceiling["protocol"] == protocol]
    if best.empty:
        raise EvaluateError(f"ceiling has no protocol {protocol!r}: it has {', '.join(ceiling['protocol'].unique())}")
    unknown = sorted(set(scored["row"]) - senses.keys())
    if unknown:
        raise EvaluateError(f"senses does not say what row {unknown[0]!r} was shown: add it as sound, sight or both")
    best = best.rename(columns={"value": "best", "low": "best_low", "high": "best_high"})
    found = scored.assign(sense=scored["row"].map(senses)).merge(
        best[["sense", "metric", "best", "best_low", "best_high"]], on=["sense", "metric"], how="inner"
    )
    found["beats"] = found["low"] > found["best_high"]
    return found[["row", "metric", "value", "low", "high", "best", "best_low", "best_high", "beats"]]


def distance_bits(reached: Mapping[str, float], ceiling: pd.DataFrame, protocol: str = "new places") -> pd.DataFrame:
    """How far mean log scores are from the ceiling, in bits, and how much of that is information in the clips.

    `reached` is by sense, in bits against the uniform law. The ceiling knows the list of sites, at one of which every
    clip was recorded; a model that knows only the clip cannot make up for it. Columns sense, ceiling, reached,
    distance, sites (what that list is worth) and information (the rest).
    """
    best = ceiling[ceiling["protocol"] == protocol].set_index(["sense", "metric"])["value"]
    rows = []
    for sense, own in reached.items():
        if (sense, "log_score") not in best.index:
            raise EvaluateError(f"ceiling has no log_score of sense {sense!r} in protocol {protocol!r}")
        top = (best[sense, "log_score"] + math.log(4 * math.pi)) / math.log(2)
        sites = top - best[sense, "information_bits"]
        rows.append((sense, top, own, top - own, sites, top - own - sites))
    return pd.DataFrame(rows, columns=pd.Index(["sense", "ceiling", "reached", "distance", "sites", "information"]))
