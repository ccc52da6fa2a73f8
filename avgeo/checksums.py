"""Digests of files, and `SHA256SUMS`: a list of them that `sha256sum -c` reads."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from avgeo.paths import write_text

SUMS = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")


def sha256(path: Path) -> str:
    """The digest of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_sums(folder: Path, digests: Mapping[str, str]) -> None:
    """Write the digests of files, by their names relative to `folder`, in the order of the names."""
    write_text(folder / SUMS, "".join(f"{digests[name]}  {name}\n" for name in sorted(digests)))


def read_sums(folder: Path) -> tuple[dict[str, str], list[str]]:
    """Digests by name, and the lines that are none. Raises `OSError`."""
    lines = (folder / SUMS).read_text(encoding="utf-8", errors="replace").splitlines()
    found = {match[2]: match[1] for line in lines if (match := _LINE.fullmatch(line))}
    return found, [line for line in lines if line and not _LINE.fullmatch(line)]
