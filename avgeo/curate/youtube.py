"""Explicit addresses of videos through yt-dlp (extra `download`): first what a site says of each, later its media.

yt-dlp runs as a process of its own: it can then be stopped at the limits of time and size whatever a site does, and
a site's oddities cannot bring curation down. Only addresses that the user lists are asked for, never a playlist.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from avgeo.curate.addresses import bare_url, url_problem
from avgeo.curate.candidate import UNKNOWN, Candidate, CurateError
from avgeo.curate.folder import EXTENSIONS
from avgeo.curate.licence import normalise
from avgeo.curate.listings import PAGE, URL, Names, credit, rows, tidy
from avgeo.curate.location import Location
from avgeo.curate.polite import DownloadError, Limits
from avgeo.curate.sidecar import first, row_location

_TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".pq")
_ALWAYS = (
    "--ignore-config", "--no-cache-dir", "--no-playlist", "--flat-playlist", "--no-warnings", "--no-progress",
    "--retries", "3", "--extractor-retries", "2", "--sleep-requests", "1",
)  # fmt: skip
_PAIR = re.compile(r"\s*([-+]?\d{1,2}\.\d+)\s*[,;\s]\s*([-+]?\d{1,3}\.\d+)\s*")
_MOST_WORDS = 32 << 20  # of metadata about one video


def _need_yt_dlp() -> None:
    if importlib.util.find_spec("yt_dlp") is None:
        raise CurateError("yt-dlp: is not installed; pip install 'avgeo[download]'")


def _run(arguments: Sequence[str], folder: Path | None, limits: Limits) -> str:
    """What yt-dlp prints; stopped when its time is over or `folder` outgrows the limit. Raises `DownloadError`."""
    command = [sys.executable, "-m", "yt_dlp", *_ALWAYS, "--socket-timeout", f"{limits.read_s:g}", *arguments]
    deadline = time.monotonic() + limits.item_s
    # Files, not pipes: a pipe that nobody reads while we watch the clock would fill up and stop yt-dlp.
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True)
        try:
            while process.poll() is None:
                if time.monotonic() > deadline:
                    raise DownloadError("time", f"yt-dlp was not done within {limits.item_s:g} s", retry=False)
                if folder and _size(folder) > limits.max_bytes:
                    raise DownloadError("too-large", f"larger than {limits.max_bytes} bytes", permanent=True)
                time.sleep(0.05)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # with the programs that it started
                process.wait()
        out.seek(0)
        err.seek(0)
        said = out.read(_MOST_WORDS).decode("utf-8", "replace")
        complaint = err.read(1 << 16).decode("utf-8", "replace")
    if process.returncode:
        found = re.findall(r"ERROR:\s*(.*)", complaint)
        why = tidy(re.sub(r"https?://\S+", "", found[-1]).split("; please report")[0], 200) if found else None
        raise DownloadError("yt-dlp", f"yt-dlp: {why or f'ended with status {process.returncode}'}", retry=False)
    return said


def _size(folder: Path) -> int:
    total = 0
    for file in folder.iterdir():
        try:
            total += file.stat().st_size
        except OSError:  # renamed while we look
            continue
    return total


def _listed(where: str) -> Iterator[dict[str, str]]:
    """Rows with an address: of a table, of a text with one address a line, or the address itself."""
    if re.match(r"https?://", where):
        yield {"url": where}
        return
    file = Path(where)
    if file.suffix.lower() in _TABLES:
        yield from rows(file)
        return
    try:
        lines = file.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    except OSError as error:
        raise CurateError(f"{where}: cannot be read ({error.strerror}); give a list of addresses, one a line") from None
    kept = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not kept:
        raise CurateError(f"{where}: lists no address; give one a line")
    yield from ({"url": line} for line in kept)


def _place(info: dict[str, Any]) -> tuple[Location, ...]:
    """The coordinates that a site gives: numbers of their own, or a location that is a pair of numbers, not a name."""
    row = {name: str(info[name]) for name in ("latitude", "longitude") if info.get(name) is not None}
    pair = _PAIR.fullmatch(str(info.get("location") or ""))
    if pair and len(row) < 2:
        row = {"latitude": pair[1], "longitude": pair[2]}
    # A site knows when a video came out, not when it was recorded.
    found = row_location("yt-dlp", row)
    return (found,) if found else ()


def _candidate(row: dict[str, str], name: Names, limits: Limits) -> Candidate:
    url = bare_url(first(row, (*URL, *PAGE)) or "")
    told = credit({key: value for key, value in row.items() if key not in PAGE})
    stated = row_location("yt-dlp", row)
    problem, info = url_problem(url), {}
    if problem is None:
        try:
            info = json.loads(_run(["--dump-single-json", "--", url], None, limits))
        except DownloadError as error:
            problem = error.reason
        except ValueError:
            problem = "yt-dlp describes it unreadably"
    info = info if isinstance(info, dict) else {}
    if info.get("_type") in ("playlist", "multi_video"):
        problem = "it is a list of videos; give the address of each"
    elif info.get("is_live"):
        problem = "it is a live stream"
    key = f"{info.get('extractor_key') or 'video'}:{info['id']}" if info.get("id") else None
    uploader = info.get("channel_id") or info.get("uploader_id") or info.get("uploader")
    site = normalise(info.get("license")) or tidy(info.get("license"))
    author = ", ".join(
        part for part in (tidy(info.get("uploader")), tidy(bare_url(str(info.get("webpage_url") or "")))) if part
    )
    return Candidate(
        name(first(row, ("id", "item", "clip_id")), key, url, "an empty row"),
        None,
        "yt-dlp",
        url if url and not url_problem(url) else None,
        told["licence"] if told["licence"] != UNKNOWN else site or UNKNOWN,
        told["attribution"] if told["attribution"] != UNKNOWN else author or UNKNOWN,
        told["title"] or tidy(info.get("title")),
        told["uploader"] or tidy(uploader),
        told["original"] or tidy(key),
        told["country"],
        (stated,) if stated else _place(info),
        problem,
    )


def yt_dlp(where: str | Path, limits: Limits | None = None) -> Iterator[Candidate]:
    """Videos that yt-dlp can reach: a text with one address a line, or a table like manifest's (extra `download`).

    Raises `CurateError` when yt-dlp is not installed or the list cannot be read.
    """
    _need_yt_dlp()
    name = Names()
    for row in _listed(str(where)):
        yield _candidate(row, name, limits or Limits())


def fetch(url: str, target: Path, limits: Limits) -> Path:
    """Download one video as a single file; gives its path: `target` with the suffix of what came.

    It grows in a folder of its own beside `target`, where the next run finds it. Raises `DownloadError`.
    """
    _need_yt_dlp()
    for known in sorted(target.parent.glob(f"{target.stem}.*")):
        if known.is_file() and known.suffix.lstrip(".") in EXTENSIONS:
            return known
    folder = target.with_name(f"{target.stem}.yt-dlp")
    folder.mkdir(exist_ok=True)
    # One file with sound and picture where there is one: merging needs the ffmpeg program.
    wanted = ("--format", "best[acodec!=none][vcodec!=none]/best", "--max-filesize", str(limits.max_bytes))
    where = ("--paths", str(folder), "--output", "media.%(ext)s", "--match-filters", "!is_live")
    try:
        _run([*wanted, *where, "--", url], folder, limits)
        found = [file for file in sorted(folder.glob("media.*")) if file.suffix.lstrip(".").lower() in EXTENSIONS]
        if not found:
            why = f"it is live, larger than {limits.max_bytes} bytes, or no medium"
            raise DownloadError("yt-dlp", f"yt-dlp left no file: {why}", retry=False)
        whole = target.with_name(target.stem + found[0].suffix.lower())
        found[0].replace(whole)
    except DownloadError as error:
        if error.permanent:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)
    return whole
