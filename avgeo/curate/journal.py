"""What has been examined is remembered: an interrupted run goes on where it was."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from avgeo.artifacts import code_hash
from avgeo.curate.candidate import Candidate
from avgeo.curate.gates import GATES, OF_THE_CORPUS, Examined, examine
from avgeo.curate.sidecar import sidecars
from avgeo.curate.verdict import Verdict
from avgeo.engine import map_items
from avgeo.profiles import CurateSettings

_LATER = frozenset(name for gate in ("privacy", *OF_THE_CORPUS) for name in GATES[gate].thresholds)
"""Settings that do not change the examination of one item: how copies are told, and the benchmark's shape."""
_LIBRARIES = (
    "av", "exifread", "gpxpy", "imagehash", "mutagen", "numpy", "onnxruntime", "opencv-python-headless", "pillow",
    "scipy", "silero-vad",
)  # fmt: skip
_GRACE_S = 30.0  # beyond the time limit that the examination keeps itself, before its process is ended


def examine_all(
    items: Sequence[Candidate], settings: CurateSettings, journal: Path, engine: str, workers: int | None
) -> list[dict[str, Any]]:
    """The examination of every item as JSON values (`gates.Examined`), from the journal or made now."""
    known = _read(journal)
    keys = _keys(items, settings)
    todo = [(key, item) for key, item in zip(keys, items, strict=True) if key not in known]
    journal.parent.mkdir(parents=True, exist_ok=True)
    with open(journal, "ab") as log:
        if log.tell():
            log.write(b"\n")  # after the line that a killed run left unfinished
        results = map_items(
            partial(_examined, settings=settings),
            [item for _, item in todo],
            engine=engine,
            workers=workers,
            description="examining",
            unit="clip",
            failed=_lost,
            time_limit_s=settings.time_limit_s + _GRACE_S,
        )
        for (key, _), result in zip(todo, results, strict=True):
            known[key] = result
            if not result["in_passing"]:  # else the next run tries again: it may have been the machine's fault
                log.write(json.dumps({"key": key, "result": result}).encode() + b"\n")
                log.flush()
    return [known[key] for key in keys]


def _examined(candidate: Candidate, settings: CurateSettings) -> dict[str, Any]:
    try:
        return _plain(asdict(examine(candidate, settings)))
    except Exception as error:  # of a million files one will find what no test did; it must not cost the others
        return _lost(candidate, f"raised {type(error).__name__}: {' '.join(str(error).split())[:200]}")


def _lost(candidate: Candidate, why: str) -> dict[str, Any]:
    """The examination of an item that took its process with it, or that something failed on unforeseen."""
    return _plain(asdict(Examined([Verdict("readable", reason=f"examining it {why}")], in_passing=True)))


def _plain(value: Any) -> Any:
    """JSON values: NumPy's numbers as Python's, what is not finite as None."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, str | bool | int) or value is None:
        return value
    number = value.item() if hasattr(value, "item") else value
    return number if not isinstance(number, float) or math.isfinite(number) else None


def _keys(items: Sequence[Candidate], settings: CurateSettings) -> list[str]:
    """Each item's identity: its file, what lies beside it, what its source says, the thresholds and the code."""
    judged_by = {name: value for name, value in asdict(settings).items() if name not in _LATER}
    common = json.dumps([judged_by, code_hash("curate", "clips", "decode", "world"), _versions()])
    keys = []
    for item in items:
        stamps: list[Any] = []
        for path in [] if item.path is None else [item.path, *sidecars(item.path)]:
            try:
                status = path.stat()
            except OSError:
                stamps.append(None)
            else:
                name = os.fsencode(path.resolve()).decode("utf-8", "backslashreplace")
                # the change time too: an archive unpacks other files with the same names, sizes and times
                stamps.append([name, status.st_size, status.st_mtime_ns, status.st_ctime_ns])
        told = {name: value for name, value in asdict(item).items() if name != "path"}
        keys.append(hashlib.sha256(json.dumps([common, _plain(told), stamps]).encode()).hexdigest())
    return keys


def _versions() -> list[str | None]:
    """Of the libraries that measure; an extra that is installed later measures what was skipped before."""
    found: list[str | None] = []
    for name in _LIBRARIES:
        try:
            found.append(metadata.version(name))
        except metadata.PackageNotFoundError:
            found.append(None)
    return found


def _read(journal: Path) -> dict[str, dict[str, Any]]:
    known: dict[str, dict[str, Any]] = {}
    if journal.is_file():
        for line in journal.read_bytes().split(b"\n"):
            try:
                entry = json.loads(line)
                known[entry["key"]] = entry["result"]
            except (ValueError, KeyError, TypeError):  # the line that a killed run left unfinished
                continue
    return known
