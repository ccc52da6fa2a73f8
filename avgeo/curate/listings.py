"""Sources that are tables: a manifest of addresses, YFCC100M's metadata, Radio Aporee through AGL1K's table.

A row that cannot be used becomes a candidate with a `problem`: counted and explained, never dropped, never a crash.
"""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import hashlib
import io
import json
import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote, unquote_plus

from avgeo.curate.addresses import bare_url, url_problem
from avgeo.curate.candidate import UNKNOWN, Candidate, CurateError
from avgeo.curate.folder import file_problem, tidy
from avgeo.curate.licence import normalise
from avgeo.curate.location import Location, locate, parse_time
from avgeo.curate.sidecar import CREDIT, FILE, first, row_location

URL = ("url", "media_url", "download_url", "downloadurl", "file_url", "audio_url", "video_url")
PAGE = ("page", "page_url", "pageurl", "webpage_url", "webpage", "source_url", "link")
_NAMED = ("id", "item", "clip_id", "item_id", "video_id", "key")
_LONGEST_FIELD = 1 << 20
_LONGEST_NAME = 200
APOREE_URL = "https://archive.org/download"  # AGL1K's own download script: <this>/<key>/<mp3name>


class Names:
    """Item names, each given once: a name seen before gets " (2)", " (3)", … in the source's order."""

    def __init__(self) -> None:
        self._seen: dict[str, int] = {}

    def __call__(self, *wishes: object) -> str:
        name = next((text for text in (tidy(wish, 10 * _LONGEST_NAME) for wish in wishes) if text), "item")
        if len(name) > _LONGEST_NAME:
            name = f"{name[: _LONGEST_NAME - 16]}…{hashlib.sha256(name.encode()).hexdigest()[:12]}"
        count = self._seen[name] = self._seen.get(name, 0) + 1
        return name if count == 1 else self(f"{name} ({count})")


def unlisted(source: str, count: int, what: str, cure: str) -> Iterator[Candidate]:
    """One candidate that stands for `count` things a source passed over, so that the rejects name them."""
    if count:
        yield Candidate(f"{count} {what}", None, source, problem=f"{count} {what} were passed over: {cure}")


# --- tables as rows ---


@contextmanager
def _opened(table: Path) -> Iterator[IO[bytes]]:
    """A table's bytes, decompressed in stream if it is .gz or .bz2; `CurateError` if it cannot be read."""
    try:
        if not table.is_file():
            raise CurateError(f"{table}: no such file; give a table of media")
        opener = {".gz": gzip.open, ".bz2": bz2.open}.get(table.suffix.lower(), open)
        with opener(table, "rb") as file:
            yield file  # pyright: ignore[reportReturnType]
    except (OSError, EOFError, zlib.error) as error:
        raise CurateError(f"{table}: cannot be read ({error}); check the file and its rights") from None


def _lines(file: IO[bytes]) -> Iterator[str]:
    """Lines of UTF-8, or of UTF-16 with its mark; bytes that are neither stay recognisable (surrogateescape)."""
    head = file.read(4)
    file.seek(0)
    wide = head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    # UTF-16 knows no surrogateescape
    yield from io.TextIOWrapper(
        file, "utf-16" if wide else "utf-8-sig", "replace" if wide else "surrogateescape", newline="\n"
    )


def _csv_rows(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    lines = iter(lines)
    head = next((line for line in lines if line.strip()), "")
    delimiter = max(",;\t", key=head.count)
    names = [name.strip().lower() for name in next(csv.reader([head], delimiter=delimiter), [])]
    yield dict.fromkeys(names)  # the header, as the first row
    csv.field_size_limit(_LONGEST_FIELD)  # the default of 128 KiB is too short for descriptions
    reader = csv.reader(lines, delimiter=delimiter)
    while True:
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield {"problem": f"cannot be read: {error}"}
            continue
        if any(value.strip() for value in values):
            yield dict(zip(names, values, strict=False))


def _json_rows(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            yield {str(name).strip().lower(): value for name, value in row.items()}
        else:
            yield {"problem": "is no JSON object"}


def _parquet_rows(table: Path) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet as pq
    from pyarrow import ArrowException

    try:
        file = pq.ParquetFile(table)
        yield dict.fromkeys(name.strip().lower() for name in file.schema_arrow.names)
        for batch in file.iter_batches(4096):
            for row in batch.to_pylist():
                yield {name.strip().lower(): value for name, value in row.items()}
    except (ArrowException, OSError, ValueError) as error:
        raise CurateError(f"{table}: is no readable Parquet file ({tidy(error, 120)})") from None


def rows(table: Path) -> Iterator[dict[str, str]]:
    """Rows of a CSV (comma, semicolon or tab), JSONL or Parquet table: lower-case names and texts, NULs and all.

    A row that cannot be read is {"problem": why}. Raises `CurateError` for a table that is missing or has no rows.
    """
    kind = Path(table.stem).suffix.lower() if table.suffix.lower() in (".gz", ".bz2") else table.suffix.lower()
    if kind in (".parquet", ".pq"):
        with _opened(table):
            yield from _texts(table, _parquet_rows(table), header=True)
        return
    with _opened(table) as file:
        if kind in (".jsonl", ".ndjson"):
            yield from _texts(table, _json_rows(_lines(file)), header=False)
        else:
            yield from _texts(table, _csv_rows(_lines(file)), header=True)


def _texts(table: Path, found: Iterator[dict[str, Any]], header: bool) -> Iterator[dict[str, str]]:
    if header:
        names = next(found, {})
        if not any(set(names) & set(wanted) for wanted in (URL, PAGE, FILE, ("key",))):
            raise CurateError(
                f"{table}: has no column with an address or a path; it needs one of {', '.join((*URL, *FILE))}"
            )
    count = 0
    for count, row in enumerate(found, 1):  # noqa: B007
        yield {name: str(value).strip() for name, value in row.items() if name and value not in (None, "")}
    if not count:
        raise CurateError(f"{table}: has no rows; give a table with one medium a row")


# --- manifest ---


def credit(row: dict[str, str]) -> dict[str, Any]:
    """A candidate's fields that a row fills: licence (under its one name if recognised), attribution with page, …"""
    found: dict[str, Any] = {field: tidy(first(row, names)) for field, names in CREDIT.items()}
    found["licence"] = normalise(found["licence"]) or found["licence"] or UNKNOWN
    page = tidy(bare_url(first(row, PAGE) or ""))
    found["attribution"] = ", ".join(part for part in (found["attribution"], page) if part) or UNKNOWN
    return found


def _local(row: dict[str, str], table: Path) -> tuple[Path | None, str | None]:
    """The file that a row names, relative to its table's folder, and what is wrong with it."""
    name = first(row, FILE)
    if name is None:
        return None, None
    if "\0" in name or len(name) > 4096:
        return None, "the path is no path"
    folder = table.parent.resolve()
    try:
        path = (folder / os.fsdecode(os.fsencode(name.replace("\\", "/")))).resolve()
        if not path.is_relative_to(folder):
            return None, f"the path leads out of the table's folder: {tidy(name, 80)}"
        return path, file_problem(path) if path.exists() else f"no such file: {tidy(name, 80)}"
    except (OSError, ValueError) as error:
        return None, f"the path cannot be followed: {tidy(error, 80)}"


def manifest(where: str | Path) -> Iterator[Candidate]:
    """A table (CSV, JSONL, Parquet) of media: a column url or path, and latitude, longitude, licence, uploader, …"""
    table, name = Path(where), Names()
    for number, row in enumerate(rows(table), 1):
        url = bare_url(first(row, URL) or "") or None
        path, problem = _local(row, table)
        item = name(first(row, _NAMED), first(row, FILE), url, f"row {number}")
        if "problem" in row and len(row) == 1:
            problem = f"row {number} {row['problem']}"
        elif path is None or problem:
            problem = problem if url is None and problem else url_problem(url or "")
            path = None
        stated = row_location("manifest", row)
        address = url if url and not url_problem(url) else None
        yield Candidate(
            item, path, "manifest", address, **credit(row), stated=(stated,) if stated else (), problem=problem
        )


# --- YFCC100M ---

# Columns counted from the end, because the first release lacks two at the front (23 instead of 25): from the data set's
# own description (Thomee et al. 2016, arXiv 1503.01817; multimediacommons.wordpress.com/yfcc100m-core-dataset).
_YFCC = {
    "nickname": -21, "taken": -20, "title": -17, "longitude": -13, "latitude": -12, "accuracy": -11, "page": -10,
    "url": -9, "licence": -7, "marker": -1,
}  # fmt: skip
_LEAST_ACCURACY = 12  # Flickr: 1 world, 3 country, 6 region, 11 city, 16 street


def yfcc100m(where: str | Path) -> Iterator[Candidate]:
    """YFCC100M's metadata (yfcc100m_dataset, also .bz2 or .gz): its videos; photos:FILE lists the photos too.

    Tab-separated, texts URL-encoded. A position less accurate than Flickr's level 12 (finer than a city) is a fault.
    """
    photos = str(where).startswith("photos:")
    table, name, passed = Path(str(where).removeprefix("photos:")), Names(), 0
    number = 0
    with _opened(table) as file:
        for number, line in enumerate(_lines(file), 1):
            cells = line.rstrip("\r\n").split("\t")
            if len(cells) in (23, 25) and cells[-1].strip() == "0" and not photos:
                passed += 1
                continue
            yield _yfcc_row(cells, number, name)
    if not number:
        raise CurateError(f"{table}: has no rows; give YFCC100M's metadata, one item a line")
    yield from unlisted("yfcc100m", passed, "photos", f"photos:{table.name} lists them too")


def _yfcc_row(cells: list[str], number: int, name: Names) -> Candidate:
    if len(cells) not in (23, 25):
        problem = f"line {number} has {len(cells)} columns; YFCC100M has 23 or 25, separated by tabs"
        return Candidate(name(f"line {number}"), None, "yfcc100m", problem=problem)
    cell = {field: unquote_plus(cells[at]).strip() for field, at in _YFCC.items()}
    first_cell = len(cells) - 23
    key, user = cells[1 if first_cell else 0].strip(), unquote_plus(cells[1 + first_cell]).strip()
    url, problem = bare_url(cells[_YFCC["url"]].strip()), None  # not decoded: its escapes are part of an address
    if cell["marker"] not in ("0", "1"):
        problem = f"line {number}: marker {tidy(cell['marker'], 20)!r} is neither 0 (photo) nor 1 (video)"
    problem = problem or url_problem(url)
    author = ", ".join(part for part in (tidy(cell["nickname"]), tidy(bare_url(cell["page"]))) if part)
    return Candidate(
        name(key, url, f"line {number}"),
        None,
        "yfcc100m",
        None if url_problem(url) else url,
        normalise(cell["licence"]) or tidy(cell["licence"]) or UNKNOWN,
        author or UNKNOWN,
        tidy(cell["title"]),
        tidy(user),
        tidy(f"flickr:{key}") if key else None,
        stated=_yfcc_place(cell),
        problem=problem,
    )


def _yfcc_place(cell: dict[str, str]) -> tuple[Location, ...]:
    found = row_location("yfcc100m", {"latitude": cell["latitude"], "longitude": cell["longitude"]})
    if found is None or found.fault:
        return (found,) if found else ()
    accuracy = cell["accuracy"]
    fault = None
    if accuracy.isascii() and accuracy.isdigit() and int(accuracy[:4]) < _LEAST_ACCURACY:
        fault = f"accuracy {accuracy} of 16 is that of a city or worse"
    time = parse_time(cell["taken"])
    return (locate("yfcc100m", found.latitude_deg, found.longitude_deg, None, time, fault),)


# --- Radio Aporee through AGL1K ---


def aporee(where: str | Path, base_url: str | None = None) -> Iterator[Candidate]:
    """Radio Aporee's recordings in AGL1K's table (geoLocalization_schema.csv), from archive.org.

    The table names no licence and no recordist: they are on each recording's page, which the attribution gives.
    `base_url` (or $AVGEO_APOREE_URL) stands in for archive.org.
    """
    base = (base_url or os.environ.get("AVGEO_APOREE_URL") or APOREE_URL).rstrip("/")
    table, name, checked = Path(where), Names(), False
    for number, row in enumerate(rows(table), 1):
        if not checked and not {"key", "mp3name"} <= set(row):
            raise CurateError(f"{table}: has no columns key and mp3name; give AGL1K's geoLocalization_schema.csv")
        checked = True
        key, file = row.get("key", ""), row.get("mp3name", "")
        place, leaf = (quote(part, safe="", errors="replace") for part in (key, file))
        url = f"{base}/{place}/{leaf}" if place and leaf else ""
        page = f"https://archive.org/details/{place}"
        stated = row_location("aporee", row)
        problem = f"row {number} {row['problem']}" if "problem" in row and len(row) == 1 else url_problem(url)
        fields = credit({**row, "page": page} if key else row)
        fields["original"] = tidy(key)
        yield Candidate(
            name(key, file, f"row {number}"), None, "aporee", url or None, **fields,
            stated=(stated,) if stated else (), problem=problem,
        )  # fmt: skip
