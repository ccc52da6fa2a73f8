"""What of a world on disk can be trusted: whole MP4s, readable tables, and the checksums of a finished world."""

from __future__ import annotations

import contextlib
import hashlib
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from avgeo.paths import write_text
from avgeo.world.geography import WorldError

SUMS = "SHA256SUMS"
"""Digests of every file of a finished world, as `sha256sum -c` reads them."""


def is_complete(path: Path) -> bool:
    """Whether `path` is an MP4 whose boxes are all there and end where the file ends (nothing is decoded)."""
    if not path.is_file():
        return False
    size, at, boxes = path.stat().st_size, 0, set()
    with path.open("rb") as file:
        while at + 8 <= size:
            file.seek(at)
            length, name = struct.unpack(">I4s", file.read(8))
            if length < 8:  # 64-bit and open-ended boxes: `write_clip` makes neither
                return False
            boxes.add(name)
            at += length
    return at == size and {b"ftyp", b"moov", b"mdat"} <= boxes


def write_table(table: pa.Table, path: Path) -> None:
    """Write a Parquet file whose pages carry checksums; it appears only when whole."""
    draft = path.with_name(path.name + ".partial")
    pq.write_table(table, draft, write_page_checksum=True)
    draft.replace(path)


def is_readable(path: Path) -> bool:
    """Whether a Parquet file of `write_table` reads from end to end."""
    try:
        return pq.read_table(path, page_checksum_verification=True).num_rows > 0
    except (OSError, pa.ArrowException):
        return False


def write_sums(folder: Path, names: Iterable[str]) -> None:
    """Write the digests of the files `names`, relative to `folder`."""
    write_text(folder / SUMS, "".join(f"{sha256(folder / name)}  {name}\n" for name in names))


def damaged(folder: Path, names: Iterable[str]) -> list[str] | None:
    """Which of the files `names` are missing or not as `write_sums` found them.

    None where the world was never finished, or where the list of digests itself is not one of these files.
    """
    file = folder / SUMS
    if not file.is_file():
        return None
    lines = (line.partition("  ") for line in file.read_text(errors="replace").splitlines())
    digests = {name: digest for digest, _, name in lines}
    if digests.keys() != set(names):
        return None
    bar = tqdm(digests.items(), desc="verify", unit="file", disable=None)
    return [name for name, digest in bar if not (folder / name).is_file() or sha256(folder / name) != digest]


def sha256(path: Path) -> str:
    """The digest of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def alone(file: Path) -> Iterator[None]:
    """Hold `file` for this process: two runs in one folder would take each other's drafts away.

    Where the system has no such locks (Windows), nothing is held.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    with file.open() as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise WorldError(f"out={file.parent}: another run is writing here; wait until it ends") from None
        yield
