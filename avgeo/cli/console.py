"""What every command shares: the app itself, options, printing, files, the clip and the model that are asked for."""

from __future__ import annotations

import errno
import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from avgeo.paths import write_bytes
from avgeo.untrusted import shown

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ProfileOption = Annotated[str, typer.Option(help="Size of every stage: smoke, colab or full.")]
HERE = "here"
"""`--model here`: the model that the book or `avgeo train` has trained on this machine."""
SeedOption = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of everything random.")]


def say(message: str) -> None:
    """One line on stderr, where a script that reads the result does not look."""
    print(f"avgeo: {shown(message)}", file=sys.stderr)


def echo(*lines: str) -> None:
    """Print lines of a result: what files and models are called is shown, and no terminal obeys it."""
    for line in lines:
        typer.echo(shown(line))


def writable(*paths: Path | None) -> None:
    """Tell of a place that cannot be written before the work, not after; makes the folders that are missing."""
    for path in paths:
        if path is not None:
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, "Is a directory; name a file to write", str(path))
            path.parent.mkdir(parents=True, exist_ok=True)


def write(path: Path, content: str | bytes) -> None:
    """Write a result whole or not at all, and say where it is."""
    # a file name that is no UTF-8 holds lone surrogates: JSON has escapes for them
    write_bytes(path, content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content)
    say(f"wrote {path}")


def probe_file(file: Path) -> Any:
    """What the file holds; tells of a bad one at once, before torch and the model are loaded."""
    from avgeo.clips import ClipError, probe

    if re.match(r"[a-z][a-z0-9+.-]+:/", str(file)):
        raise ClipError(f"{file}: is an address, not a file; download it and give the file")
    return probe(file)


def load_model(loader: Any, folder: Path | None, profile: str, seed: int) -> Any:
    """The model of `folder`, or the one that was trained on this machine."""
    return loader.load(folder) if folder is not None else loader.trained_here(profile, seed)
