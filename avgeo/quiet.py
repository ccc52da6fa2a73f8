"""What a reader can do nothing about, kept off the screen: called by the command line and by every chapter."""

from __future__ import annotations

import os
import warnings


def quiet() -> None:
    """Call before transformers is imported: no bars for reading a file of five megabytes, no notes on trl's arguments.

    Errors, our own progress bars and every other warning stay.
    """
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # trl 1.16 still uses names that transformers 5 has deprecated
    warnings.filterwarnings("ignore", message=".*gradient_checkpointing.*", category=FutureWarning)
    # tqdm wants a widget library for bars that the book, executed headlessly, would not show
    warnings.filterwarnings("ignore", message="IProgress not found")
