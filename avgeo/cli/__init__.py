"""The command line, `avgeo COMMAND`: simulate, curate, verify, embed, atoms, train, evaluate, locate, gallery, ...

Errors that a user can cure are one line on stderr and exit status 2; anything else is a bug and keeps its traceback.
"""

from __future__ import annotations

import os
import sys

# Each module adds its commands to the app; help lists them in the order of `_ORDER`.
from avgeo.cli import corpus, house, model, place, score, serve  # noqa: F401
from avgeo.cli.console import app, say
from avgeo.quiet import quiet

_INTERRUPTED = 130
_ORDER = (
    "simulate",
    "curate",
    "verify",
    "embed",
    "atoms",
    "train",
    "evaluate",
    "locate",
    "gallery",
    "serve",
    "book",
    "doctor",
)
app.registered_commands.sort(key=lambda command: _ORDER.index(getattr(command.callback, "__name__", "")))


def main() -> None:
    """Entry point: avgeo's own errors, and the system's about files, become one line and exit status 2."""
    # the models here are tiny: threads that wait for each other cost more than they compute
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    quiet()
    try:
        app(prog_name="avgeo")
    except SystemExit as stop:
        if stop.code == _INTERRUPTED:  # typer's, without a word, for Ctrl-C
            say("interrupted; run the same command again to continue")
        raise
    except Exception as error:
        if not (type(error).__module__.startswith("avgeo.") or isinstance(error, OSError)):
            raise
        say(f"error: {' '.join(str(error).split())}")
        sys.exit(2)
