"""WebDataset shards: tar files that hold each clip's media beside a JSON file of its manifest row.

The bytes follow from the clips alone: entries in the order of their names, without times or owners. A shard appears
only when it is whole, and one that is there with the right contents is left as it is.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from avgeo.curate.candidate import CurateError
from avgeo.curate.quotas import known
from avgeo.manifest import SPLITS

FOLDER = "shards"
SHARD_BYTES = 1 << 30
_BEGUN = rf"({'|'.join(SPLITS)})-\d{{6}}\.tar\.partial"
_KEY = re.compile(r"[A-Za-z0-9_+-]{1,200}")


@dataclass(frozen=True)
class _Entry:
    """One clip as a shard holds it."""

    key: str
    extension: str
    media: Path
    size: int
    row: bytes
    digest: str | None

    @property
    def bytes(self) -> int:
        """What it takes in a tar file: two headers, and contents in blocks of 512 bytes."""
        return 1024 + sum(-(-size // 512) * 512 for size in (self.size, len(self.row)))


def write_shards(
    out: Path,
    table: pd.DataFrame,
    media: Mapping[str, Path],
    shard_bytes: int = SHARD_BYTES,
    earlier: Collection[str] = (),
) -> list[str]:
    """Write `shards/{split}-{000000}.tar` into `out` for the clips of `table`, whose files `media` names by clip_id.

    No shard exceeds `shard_bytes`, unless a single clip does. Of the files that an earlier run has published, named in
    `earlier` relative to `out`, shards that do not belong are deleted, and so are shards that were begun and left.
    Returns the names, relative to `out`. Raises `CurateError` for a clip_id that cannot be a key.
    """
    if shard_bytes < 1:
        raise CurateError(f"shard_bytes={shard_bytes}: give the greatest size of a shard, in bytes")
    folder = out / FOLDER
    plan = dict(_plan(table, media, shard_bytes))
    for old in folder.iterdir() if folder.is_dir() else ():
        stale = old.name not in plan and f"{FOLDER}/{old.name}" in earlier
        if stale or re.fullmatch(_BEGUN, old.name):
            old.unlink()
    for name, entries in tqdm(plan.items(), desc="sharding", unit="shard", disable=None):
        folder.mkdir(exist_ok=True)
        if not _holds(folder / name, entries):
            _write(folder / name, entries)
    return [f"{FOLDER}/{name}" for name in plan]


def row_json(row: Mapping[Any, Any]) -> bytes:
    """A manifest row as JSON; missing values are null."""
    values = {name: None if pd.api.types.is_scalar(value) and pd.isna(value) else value for name, value in row.items()}
    return (json.dumps(values, ensure_ascii=False, default=_plain) + "\n").encode("utf-8", "replace")


def _plain(value: Any) -> Any:
    """A number of NumPy as Python has it, anything else as text."""
    return value.item() if hasattr(value, "item") else str(value)


def extension(path: Path) -> str:
    """The suffix by which a shard's reader tells what a file is, without its dot; "bin" where there is none."""
    suffix = path.suffix.lower()
    return suffix[1:] if re.fullmatch(r"\.[a-z0-9]{1,5}", suffix) and suffix != ".json" else "bin"


def _plan(table: pd.DataFrame, media: Mapping[str, Path], limit: int) -> Iterator[tuple[str, list[_Entry]]]:
    for split in SPLITS:
        number, entries, total = 0, [], 0
        part = table[table["split"] == split].sort_values("clip_id", kind="stable")
        for row in part.to_dict("records"):
            clip_id = str(row["clip_id"])
            if not _KEY.fullmatch(clip_id):
                raise CurateError(f"clip_id {clip_id[:60]!r} cannot be a shard's key: use letters, digits, _, + and -")
            path = media[clip_id]
            entry = _Entry(clip_id, extension(path), path, path.stat().st_size, row_json(row), known(row.get("sha256")))
            if entries and total + entry.bytes > limit:
                yield f"{split}-{number:06d}.tar", entries
                number, entries, total = number + 1, [], 0
            entries.append(entry)
            total += entry.bytes
        if entries:
            yield f"{split}-{number:06d}.tar", entries


def _members(entry: _Entry) -> list[tuple[str, int]]:
    return [(f"{entry.key}.{entry.extension}", entry.size), (f"{entry.key}.json", len(entry.row))]


def _holds(path: Path, entries: list[_Entry]) -> bool:
    """Whether a shard is whole and has the bytes of these clips, by their digests, and these rows."""
    wanted = [member for entry in entries for member in _members(entry)]
    rows = {f"{entry.key}.json": entry.row for entry in entries}
    digests = {f"{entry.key}.{entry.extension}": entry.digest for entry in entries}
    try:
        with tarfile.open(path, "r:") as tar:
            if [(member.name, member.size) for member in tar] != wanted:
                return False
            for member in tar.getmembers():
                file = tar.extractfile(member)
                if file is None:
                    return False
                if member.name in rows and file.read() != rows[member.name]:
                    return False
                digest = digests.get(member.name)
                if digest and hashlib.file_digest(file, "sha256").hexdigest() != digest:  # type: ignore[arg-type]
                    return False
    except (OSError, EOFError, tarfile.TarError):
        return False
    return True


def _write(path: Path, entries: list[_Entry]) -> None:
    partial = path.with_name(path.name + ".partial")
    with tarfile.open(partial, "w", format=tarfile.GNU_FORMAT) as tar:
        for entry in entries:
            (media, size), (row, length) = _members(entry)
            with entry.media.open("rb") as file:
                tar.addfile(_header(media, size), file)
            tar.addfile(_header(row, length), io.BytesIO(entry.row))
    partial.replace(path)


def _header(name: str, size: int) -> tarfile.TarInfo:
    header = tarfile.TarInfo(name)
    header.size, header.mode, header.mtime = size, 0o644, 0
    return header
