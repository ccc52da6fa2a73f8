"""A folder of clips, located one by one: a report each, a gallery over them, and a table of what was refused and why.

What is done is kept under a key of the file's bytes and the settings, so that a second run only does what is missing.
A file that kills its process, or takes too long, is refused by name; the others go on.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from avgeo.engine import map_items
from avgeo.paths import write_bytes
from avgeo.untrusted import shown

TIME_LIMIT_S = 300.0
"""What one file may take."""

Report = tuple[Mapping[str, Any], str]  # the JSON form, and the page
LocateOne = Callable[[Path, str, Mapping[str, Any]], Report]

_STYLE = """body{margin:0 auto;max-width:70rem;padding:1rem;font:16px/1.5 system-ui,sans-serif;color:#1b2733;
background:#f6f8fa}ul{list-style:none;padding:0;display:grid;gap:1rem;
grid-template-columns:repeat(auto-fill,minmax(15rem,1fr))}li{background:#fff;border:1px solid #d5dde4;border-radius:9px;
padding:.8rem;overflow-wrap:anywhere}li img{width:100%;border-radius:8px}li p{margin:.3rem 0;color:#4f5d6b}
table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.3rem .8rem .3rem 0;overflow-wrap:anywhere;
border-bottom:1px solid #d5dde4;vertical-align:top}a{color:#005f9e}"""


class BatchError(ValueError):
    """A folder that cannot be located; the message names it and the cure."""


@dataclass(frozen=True)
class Batch:
    """What became of a folder: how many files have a report, which were refused and why, how many were kept of old."""

    index: Path
    located: int
    rejects: pd.DataFrame
    kept: int


@dataclass(frozen=True)
class _Task:
    file: Path
    name: str
    folder: Path
    key: str


def locate_all(
    folder: str | Path,
    out: str | Path,
    settings: Mapping[str, Any],
    *,
    locate_one: LocateOne | None = None,
    engine: str = "process",
    workers: int | None = 1,
    time_limit_s: float = TIME_LIMIT_S,
) -> Batch:
    """Locate every file under `folder`, recursively; write reports, JSON, `index.html` and `rejects.csv` to `out`.

    `settings` go to `locate_one` (default: `locate_and_report`) with the file and the name to show; they must be JSON,
    and are part of the key under which a result is kept. Every file ends as a report or as a line of the rejects.
    Links are not followed. Raises `BatchError` for a folder without files.
    """
    folder, out = Path(folder), Path(out)
    if not folder.is_dir():
        raise BatchError(f"{folder}: is no folder; give the folder of the clips")
    files = _files(folder, out)
    if not files:
        raise BatchError(f"{folder}: holds no file; give the folder of the clips")
    tasks, rows = [], []
    for file in files:
        name = str(file.relative_to(folder))
        try:
            key = _key(file, settings)
        except OSError as error:
            rows.append({"name": name, "reason": f"cannot be read ({error.strerror})"})
            continue
        tasks.append(_Task(file, name, out / "clips" / key, key))
    waiting = list({task.key: task for task in tasks if not _done(task)}.values())  # copies of a file are done once
    function = functools.partial(_do, locate_one=locate_one or locate_and_report, settings=dict(settings))
    why = dict(
        map_items(
            function, waiting, engine=engine, workers=workers, description="locate", unit="file", failed=_failed,
            time_limit_s=time_limit_s,
        )
    )  # fmt: skip
    found = []
    for task in tasks:
        state = _done(task) or {"reason": why.get(task.key) or "left no result"}
        if "reason" in state:
            rows.append({"name": task.name, "reason": state["reason"]})
        else:
            found.append((task, state))
    rejects = pd.DataFrame(rows, columns=["name", "reason"]).sort_values("name", ignore_index=True)
    shown_rejects = rejects.map(shown)  # names that are no UTF-8 cannot be written as they are
    write_bytes(out / "rejects.csv", shown_rejects.to_csv(index=False).encode())
    write_bytes(out / "index.html", _gallery(found, shown_rejects).encode())
    done_before = len(tasks) - sum(task.key in why for task in tasks)
    return Batch(out / "index.html", len(found), rejects, done_before)


def locate_and_report(file: Path, name: str, settings: Mapping[str, Any]) -> Report:
    """The JSON form and the report page of one file, by the detectors or by the trained model that `settings` name.

    `settings`: model (a folder, "here" for the one trained on this machine, or None), profile, seed, sight_only, max_s.
    """
    from avgeo.locate import locate
    from avgeo.report import write_report

    named = settings["model"]
    model = None if named is None else _model(named, settings["profile"], settings["seed"])
    found = locate(
        file, model, sight_only=settings["sight_only"], seed=settings["seed"], max_s=settings["max_s"]
    )  # fmt: skip
    located = found.as_dict()
    renamed = located | {"input": dict(located["input"]) | {"name": name}}
    return renamed, write_report(file, found, max_s=settings["max_s"], name=name)


@functools.cache
def _model(named: str, profile: str, seed: int) -> Any:
    """Loaded once a process."""
    from avgeo.locate import LocateModel

    return LocateModel.trained_here(profile, seed) if named == "here" else LocateModel.load(Path(named))


def _files(folder: Path, out: Path) -> list[Path]:
    """Every regular file, in order; not what an earlier run wrote."""
    found, own = [], out.resolve()
    for here, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if Path(here, name).resolve() != own)
        found += [Path(here, name) for name in sorted(names)]
    return [file for file in found if file.is_file() and not file.is_symlink()]


def _key(file: Path, settings: Mapping[str, Any]) -> str:
    from avgeo import __version__

    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    said = json.dumps([digest, __version__, dict(settings)], sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()[:24]


def _done(task: _Task) -> dict[str, Any] | None:
    try:
        return json.loads((task.folder / "done.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _do(task: _Task, *, locate_one: LocateOne, settings: Mapping[str, Any]) -> tuple[str, str]:
    """Locate one file and write what came of it, `done.json` last; returns its key and why it was refused, or ""."""
    task.folder.mkdir(parents=True, exist_ok=True)
    try:
        located, page = locate_one(task.file, task.name, settings)
    except MemoryError:
        return task.key, "takes more memory than one file may"
    except Exception as error:  # whatever a damaged file brings up is its own refusal, and said
        reason = shown(str(error).replace(str(task.file), "the file") or type(error).__name__, 500)
        if not isinstance(error, ValueError):
            return task.key, f"{type(error).__name__}: {reason}"  # not kept: the next run tries again
        _write(task.folder / "done.json", json.dumps({"reason": reason}))
        return task.key, reason
    _write(task.folder / "report.html", page)
    _write(task.folder / "where.json", json.dumps(located, indent=1, ensure_ascii=False) + "\n")
    picture = _thumbnail(task.file)
    if picture is not None:
        write_bytes(task.folder / "thumbnail.jpg", picture)
    from avgeo.report import simulated

    first = (located.get("places") or [{}])[0]
    state = {
        "estimate": located["estimate"], "place": first, "picture": picture is not None,
        "simulated": simulated(located),
    }  # fmt: skip
    _write(task.folder / "done.json", json.dumps(state))
    return task.key, ""


def _failed(task: _Task, why: str) -> tuple[str, str]:
    return task.key, why


def _write(path: Path, text: str) -> None:
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def _thumbnail(file: Path) -> bytes | None:
    """One picture of the clip, 320 px wide, or None where there is none."""
    import io

    from PIL import Image

    from avgeo.clips import ClipError, probe, read_frames

    try:
        info = probe(file)
        if not (info.width and info.height):
            return None
        frame = read_frames(file, 1, 320, max(1, min(480, round(320 * info.height / info.width))))[0]
    except ClipError:
        return None
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def _gallery(found: list[tuple[_Task, dict[str, Any]]], rejects: pd.DataFrame) -> str:
    from avgeo.plots import place_text
    from avgeo.report import escape

    items = ""
    for task, state in found:
        base = f"clips/{task.key}"
        picture = f'<img src="{base}/thumbnail.jpg" alt="" loading="lazy">' if state.get("picture") else ""
        where = place_text(state["estimate"]["latitude_deg"], state["estimate"]["longitude_deg"])
        place = state["place"]
        guess = f"{100 * place['probability']:.1f} % {place['name']}" if place.get("name") else ""
        items += (
            f'<li>{picture}<a href="{base}/report.html">{escape(task.name)}</a>'
            f"<p>{escape(where)}</p><p>{escape(guess)}</p></li>\n"
        )
    warning = (
        "<p><strong>The model was trained on a simulated Earth (AVG-Sim): this is not evidence about real places."
        "</strong></p>"
        if any(state.get("simulated") for _, state in found)
        else ""
    )
    lines = "".join(f'<tr><th scope="row">{escape(n)}</th><td>{escape(w)}</td></tr>\n' for n, w in rejects.to_numpy())
    table = (
        f'<h2 id="rejects">Refused: {len(rejects)}</h2><table aria-labelledby="rejects"><thead><tr><th scope="col">file'
        f'</th><th scope="col">why</th></tr></thead><tbody>{lines}</tbody></table>'
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src 'self'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>Located clips</title>
<style>{_STYLE}</style></head><body><main>
<h1>Located: {len(found)} of {len(found) + len(rejects)} files</h1>
{warning}<ul>{items}</ul>
{table if len(rejects) else ""}
</main></body></html>
"""
