"""What the flow is told of clips that were heard, seen and, where it is allowed, put to the reasoner."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool

from avgeo.flow import MODALITIES, Condition, ConditionError
from avgeo.perceive import AtomModel, SightModel
from avgeo.sphere import from_table

SHOWN = {
    "sound only": ("sound",),
    "sight only": ("sight",),
    "both": ("sound", "sight"),
    "both + proposal": ("sound", "sight", "proposal"),
}
"""The conditional rows of the evaluation: what the same flow is shown."""


def told(
    atoms: AtomModel,
    sights: SightModel,
    codes: np.ndarray,
    frames: np.ndarray,
    proposals: pd.DataFrame,
    allowed: Bool[np.ndarray, " clips"],
) -> Condition:
    """The condition of clips with `codes` (clips, time, atoms) and `frames`; a proposal only where it was parsed and is
    `allowed`.
    """
    known = torch.ones(len(codes), dtype=torch.bool)
    return Condition(
        sound=torch.from_numpy(atoms.sound_vector(codes)),
        sight=torch.from_numpy(sights.look(frames)),
        proposal=from_table(proposals).nan_to_num().float(),
        has_sound=known,
        has_sight=known,
        has_proposal=torch.from_numpy(proposals["parsed"].to_numpy(bool) & allowed),
    )


def row_of(condition: Condition) -> str:
    """The row of `SHOWN` that one clip's condition belongs to; `ConditionError` where it is none of them."""
    given = tuple(name for name in MODALITIES if bool(getattr(condition, f"has_{name}").all()))
    for row, shown in SHOWN.items():
        if shown == given:
            return row
    raise ConditionError(f"condition knows {' and '.join(given) or 'nothing'}: avgeo knows {', '.join(SHOWN)}")
