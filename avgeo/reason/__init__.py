"""Reasoning: a small multimodal language model joins what is heard and seen into a place, and says why."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

# Here, because every module of this package imports it before transformers: a model is built or read from a folder,
# and a name reaches a hub only where the user has set this to 0.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from avgeo.reason.prompts import Answer, ParseFailure, parse, question, trace

if TYPE_CHECKING:
    from avgeo.reason.grpo import RewardWeights
    from avgeo.reason.propose import Reasoner, load_reasoner, train_reasoner

__all__ = [
    "Answer",
    "ParseFailure",
    "Reasoner",
    "RewardWeights",
    "load_reasoner",
    "parse",
    "question",
    "trace",
    "train_reasoner",
]


def __getattr__(name: str) -> Any:
    # transformers, trl and peft take seconds to import: only on first use
    if name in ("Reasoner", "load_reasoner", "train_reasoner"):
        from avgeo.reason import propose

        return getattr(propose, name)
    if name == "RewardWeights":
        from avgeo.reason.grpo import RewardWeights

        return RewardWeights
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
