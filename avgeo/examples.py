"""What the reasoner is told and taught about clips: what is heard in them, and AVG-Sim's true cues for its traces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int64

from avgeo.perceive import AtomModel, spoken
from avgeo.world.cues import CUES
from avgeo.world.influence import influence
from avgeo.world.posterior import observed

_KEPT = ["clip_id", "place_id", "split", "latitude_deg", "longitude_deg", "country", "region"]


def listened(atoms: AtomModel, codes: np.ndarray, patches: np.ndarray, *, times: bool) -> dict[str, list]:
    """What prompts tell of the sound of clips, as columns of examples: `heard` and, if wanted, `times`.

    `codes` (clips, time, atoms) are the `patches` (clips, time, dim) as `atoms` encodes them.
    """
    columns: dict[str, list] = {"heard": [atoms.heard(code) for code in codes]}
    if times:
        # by moments, as `AtomModel.hear`: codes are shared with their neighbours and blur when
        moments = (atoms.listener.moments(torch.from_numpy(clip.astype(np.float32))).numpy() for clip in patches)
        columns["times"] = [atoms.times(code) for code in moments]
    return columns


def ranked_cues(example: pd.Series) -> pd.DataFrame:
    """What is truly in one clip, as a table: sense, cue, bits; the most telling first."""
    senses = {"told": "sound", "seen": "sight"}
    cues = [(sense, cue, bits) for column, sense in senses.items() for cue, bits in example[column].items()]
    found = pd.DataFrame(cues, columns=["sense", "cue", "bits"])
    return found.sort_values("bits", ascending=False, ignore_index=True, kind="stable")


def of_another_place(place_id: Sequence[object], seed: int) -> Int64[np.ndarray, " clips"]:
    """For every clip the row of another one, of another place; every row is taken once. For shuffled controls.

    Raises `ValueError` where one place has more than half of the clips, so that it cannot be done.
    """
    rng = np.random.default_rng(seed)
    number = np.unique(np.asarray(place_id).astype(str), return_inverse=True)[1]
    largest = int(np.bincount(number).max()) if len(number) else 0
    if 2 * largest > len(number):
        raise ValueError(f"place_id: one place has {largest} of {len(number)} clips; give clips of more places")
    # place by place, places in random order, clips too: as many steps on as the largest has clips is another place
    order = np.lexsort((rng.random(len(number)), rng.permutation(number.max() + 1)[number])) if len(number) else number
    other = np.empty(len(number), dtype=np.int64)
    other[order] = np.roll(order, largest)
    return other


def examples(manifest: pd.DataFrame, truth: pd.DataFrame, places: pd.DataFrame, sound: dict[str, list]) -> pd.DataFrame:
    """One row per clip of AVG-Sim in the manifest's order: place, country, region, the columns of `sound`, and truth.

    `told` and `seen` hold what truly sounds and what is truly in sight: label -> influence in bits, the greatest first
    (`avgeo.world.influence`, by sound and sight together). Bits are reckoned among the places of the clip's own split,
    so that nothing taught depends on places held out.
    """
    about = manifest.merge(places[["place_id", "country", "region"]], on="place_id", how="left")
    # what the media show of a cue is its source, "cue:value"
    source = truth["source"].str.partition(":")
    perceptible = truth.assign(cue=source[0], value=source[2])
    cues: dict[str, dict[str, dict[str, float]]] = {}
    for split, clips in about.groupby("split")["clip_id"]:
        there = observed(perceptible, clips)
        moved = influence(there, places[places["split"] == split].reset_index(drop=True))
        for clip, values, bits in zip(clips, there, moved, strict=True):
            cues[clip] = {"audible": {}, "visible": {}}
            for cue, moved_bits in bits.items():
                cues[clip][CUES[cue].sense][spoken(f"{cue}:{values[cue]}")] = moved_bits
    lists: dict[str, Any] = sound | {
        column: [cues[clip][sense] for clip in about["clip_id"]]
        for column, sense in (("told", "audible"), ("seen", "visible"))
    }
    return about[_KEPT].assign(**lists)
