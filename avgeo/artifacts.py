"""Content-addressed results: a stage's output folder is named by its settings, its code and its inputs.

Asking twice costs nothing; changing a setting, a line of the stage's code or anything upstream gives a new folder.
A stage writes into `<name>-<key>.partial`, which is renamed when it is complete: an interrupted run leaves the
partial folder, and a stage that can continue finds its own work there.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from avgeo.paths import cache_dir, data_dir, repository, write_text

CARD = "card.json"
_CODE = (".py", ".html", ".css", ".js")
_VERSIONED = ("torch", "transformers", "trl", "peft", "numpy", "av")


class NotBuiltError(ValueError):
    """A result was asked for without leave to make it, and it is not there."""


@dataclass(frozen=True)
class Artifact:
    """A finished stage: its folder and the key that names it."""

    stage: str
    key: str
    path: Path

    def card(self) -> dict[str, Any]:
        """What made this artifact: settings, seed, inputs, code, versions, machine, seconds."""
        return json.loads((self.path / CARD).read_text())


def code_hash(*names: str) -> str:
    """Hash of the package's modules or subpackages named, e.g. `code_hash("sphere", "flow")`."""
    package = Path(__file__).parent
    digest = hashlib.sha256()
    for name in sorted(names):
        target = package.joinpath(*name.split("/"))
        files = [target.with_suffix(".py")]
        if target.is_dir():  # pages and their scripts are code, too
            files = sorted(file for file in target.iterdir() if file.suffix in _CODE)
        for file in files:
            digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def tables_hash(*names: str) -> str:
    """Hash of tables under `data/`, so that a corrected fact rebuilds what rests on it."""
    digest = hashlib.sha256()
    for name in sorted(names):
        digest.update(name.encode() + b"\0" + (data_dir() / name).read_bytes())
    return digest.hexdigest()


def commit() -> str | None:
    """The checkout's commit, with `+` when files differ from it; None outside a checkout."""
    root = repository()
    if root is None:
        return None
    try:
        head = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"],
            cwd=root, capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip()


def machine() -> dict[str, Any]:
    """The hardware and versions a result was made with, for its run card."""
    import torch

    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
        "versions": {name: metadata.version(name) for name in _VERSIONED},
    }


def build(
    stage: str,
    make: Callable[[Path], None],
    *,
    settings: Any,
    seed: int,
    inputs: Mapping[str, Artifact] | None = None,
    code: Sequence[str] = (),
    tables: Sequence[str] = (),
    only_find: bool = False,
) -> Artifact:
    """The artifact of `stage`, made by `make(folder)` unless it is already there.

    `settings` is a dataclass or JSON value; `inputs` are upstream artifacts (their keys enter this key); `code` names
    modules of avgeo and `tables` files under `data/` on which the result rests, besides the source of `make` itself.
    With `only_find`, an absent artifact raises `NotBuiltError` instead of being made.
    """
    described = {
        "stage": stage,
        "settings": _plain(settings),
        "seed": seed,
        "inputs": {name: item.key for name, item in sorted((inputs or {}).items())},
        "code": code_hash(*code),
        "make": hashlib.sha256(inspect.getsource(make).encode()).hexdigest(),
        "tables": tables_hash(*tables),
    }
    key = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]
    final = cache_dir() / f"{stage}-{key}"
    if not (final / CARD).is_file():
        if only_find:
            raise NotBuiltError(f"no {stage} for these settings and this version of avgeo in {cache_dir()}")
        partial = final.with_name(final.name + ".partial")
        partial.mkdir(parents=True, exist_ok=True)
        began = time.perf_counter()
        make(partial)
        card = described | {"seconds": round(time.perf_counter() - began, 1), "commit": commit()} | machine()
        (partial / CARD).write_text(json.dumps(card, indent=1) + "\n")
        if final.exists():  # an earlier process died between its rename and here
            shutil.rmtree(final)
        partial.rename(final)
    return Artifact(stage, key, final)


@contextlib.contextmanager
def run_card(path: Path, *, what: str, command: str, settings: Any, seed: int) -> Iterator[dict[str, Any]]:
    """Around a run that no build repeats: writes the card of what made it, on which machine, and what came out.

    Put the outcome into the dictionary that is given, under "result". The commit is the one at the start. Cards lie in
    `data/results/`, from where chapters may show them; a run that fails leaves none.
    """
    began = time.time()
    card = {
        "what": what,
        "command": command,
        "settings": _plain(settings),
        "seed": seed,
        "commit": commit(),
        "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began)),
    }
    yield card
    result = card.pop("result")
    card |= {"seconds": round(time.time() - began, 1), "machine": machine() | {"cores": os.cpu_count()}}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(card | {"result": result}, indent=1) + "\n")


def read_card(name: str) -> dict[str, Any]:
    """The run card `data/results/<name>.json`; raises `NotBuiltError` naming those there are."""
    folder = data_dir() / "results"
    file = folder / f"{name}.json"
    if not file.is_file():
        raise NotBuiltError(
            f"no run card {name!r}: choose one of {', '.join(sorted(c.stem for c in folder.glob('*.json')))}"
        )
    return json.loads(file.read_text(encoding="utf-8"))


def _plain(settings: Any) -> Any:
    """Settings as JSON has them: a dataclass as a dictionary."""
    return asdict(settings) if is_dataclass(settings) and not isinstance(settings, type) else settings
