"""Media from addresses into one folder: resumable, size- and time-limited, every outcome written down.

A file's name is a hash of its address, so a server cannot choose where anything is written. It grows as
`<name>.partial` beside `<name>.partial.json` (what the server said identifies it) and is renamed when whole, so a run
may be killed at any moment. `downloads.jsonl` has one line per outcome; the next run repeats only what failed for a
reason that may have passed. To have everything asked for again, delete it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import requests
from tqdm import tqdm

from avgeo.curate.candidate import Candidate, CurateError
from avgeo.curate.folder import EXTENSIONS
from avgeo.curate.polite import Client, DownloadError, Limits, url_problem
from avgeo.curate.verdict import Verdict
from avgeo.paths import write_text

LOG = "downloads.jsonl"
Fetcher = Callable[[str, Path, Limits], Path]


@dataclass(frozen=True)
class Outcome:
    """What became of one address: `file` (a name in the folder), or the `failure`'s kind and its `reason`."""

    url: str
    file: str | None = None
    sha256: str | None = None
    size: int | None = None
    failure: str | None = None
    reason: str | None = None
    permanent: bool = False


def file_name(url: str) -> str:
    """The name under which `url` is kept: 32 hexadecimal digits of its hash, and its suffix if that is a medium's."""
    digest = hashlib.sha256(url.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    try:
        suffix = PurePosixPath(unquote(urlsplit(url).path)).suffix.lower()
    except ValueError:
        suffix = ""
    return digest + (suffix if suffix.lstrip(".") in EXTENSIONS else "")


def _read_log(log: Path) -> dict[str, Outcome]:
    known: dict[str, Outcome] = {}
    if log.is_file():
        for line in log.read_bytes().split(b"\n"):
            try:
                outcome = Outcome(**json.loads(line))
            except (ValueError, TypeError):  # the line that a killed run left unfinished
                continue
            known[outcome.url] = outcome
    return known


def downloaded_files(folder: Path) -> list[str]:
    """Names of what a downloader wrote into `folder`: its media, whole or not, and its log."""
    names = {outcome.file for outcome in _read_log(folder / LOG).values() if outcome.file} if folder.is_dir() else set()
    names = {name for name in names if PurePosixPath(name).name == name}
    partial = {path.name for path in folder.glob("*.partial*")} if folder.is_dir() else set()
    return sorted(names | partial | {LOG})


class Downloader:
    """Downloads into `folder`, which is made if need be.

    `fetchers` take over the candidates of the sources they are named by (yt-dlp); the rest goes through `client`.
    Raises `CurateError` when the folder cannot be written.
    """

    def __init__(
        self,
        folder: Path | str,
        limits: Limits | None = None,
        client: Client | None = None,
        fetchers: dict[str, Fetcher] | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.client = client or Client(limits)
        self.limits = limits or self.client.limits
        self._fetchers = fetchers or {}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._known = _read_log(self.folder / LOG)
        except OSError as error:
            raise self._unwritable(error) from None

    def fetch_all(self, candidates: Iterable[Candidate]) -> Iterator[tuple[Candidate, Verdict]]:
        """Each candidate with its path filled in, and the verdict of the gate `download`, in the order given.

        A candidate that has a path, a problem or no address passes through. A failed one keeps `path` None and its
        verdict says why.
        """
        listed: Sequence[Candidate] = candidates if isinstance(candidates, Sequence) else list(candidates)
        for candidate in tqdm(listed, desc="downloading", unit="file", disable=None):
            if candidate.path is not None or candidate.problem is not None or candidate.url is None:
                yield candidate, Verdict("download", skipped="nothing to download")
                continue
            outcome = self.fetch(candidate.url, candidate.source)
            measured = {"size_bytes": outcome.size, "sha256": outcome.sha256, "failure": outcome.failure}
            path = self.folder / outcome.file if outcome.file else None
            yield replace(candidate, path=path), Verdict("download", measured, outcome.reason)

    def fetch(self, url: str, source: str = "") -> Outcome:
        """The outcome for one address; only what is not known yet, or failed in passing, is asked of the server."""
        known = self._known.get(url)
        if known is not None and (known.permanent or self._is_whole(known)):
            return known
        name = file_name(url)
        try:
            problem = url_problem(url)
            if problem:
                raise DownloadError("address", problem, permanent=True)
            target = self.folder / name
            if not target.is_file():  # else a run was killed between the rename and the log
                if source in self._fetchers:
                    target = self._fetchers[source](url, target, self.limits)
                else:
                    self.client.persist(url, lambda deadline: self._attempt(url, target, deadline))
            with open(target, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            outcome = Outcome(url, target.name, digest, target.stat().st_size)
        except DownloadError as error:
            outcome = Outcome(url, failure=error.kind, reason=error.reason, permanent=error.permanent)
            if error.permanent:
                for end in (".partial", ".partial.json"):
                    (self.folder / (name + end)).unlink(missing_ok=True)
        except OSError as error:
            raise self._unwritable(error) from None
        self._remember(outcome)
        return outcome

    def _is_whole(self, outcome: Outcome) -> bool:
        # A log that someone edited must not point out of the folder.
        if outcome.file is None or PurePosixPath(outcome.file).name != outcome.file:
            return False
        file = self.folder / outcome.file
        return file.is_file() and file.stat().st_size == outcome.size

    def _remember(self, outcome: Outcome) -> None:
        self._known[outcome.url] = outcome
        try:
            with open(self.folder / LOG, "ab+") as log:
                if log.tell():  # end the line that a killed run left unfinished
                    log.seek(-1, 2)
                    if log.read(1) != b"\n":
                        log.write(b"\n")
                log.write(json.dumps(asdict(outcome)).encode() + b"\n")
        except OSError as error:
            raise self._unwritable(error) from None

    def _unwritable(self, error: OSError) -> CurateError:
        return CurateError(f"{self.folder}: cannot be written ({error.strerror}); make room or choose another folder")

    # --- one attempt at one file ---

    def _attempt(self, url: str, target: Path, deadline: float) -> None:
        partial, note = (target.with_name(target.name + end) for end in (".partial", ".partial.json"))
        have, validator = _resumable(partial, note)
        asked = {"Range": f"bytes={have}-", "If-Range": validator} if have else {}
        with self.client.get(url, asked, deadline) as response:
            start, total = self._extent(response, have, validator, partial)
            if not start:
                partial.unlink(missing_ok=True)
                write_text(note, json.dumps({"url": url, "validator": _validator(response)}))
            size = start
            most = self.limits.max_bytes - start
            with open(partial, "ab") as file:
                for piece in self.client.pieces(response, most, deadline):
                    if size == 0:
                        _check_medium(response, piece)
                    file.write(piece)
                    size += len(piece)
            if total is not None and size != total:
                raise DownloadError("length", f"ended after {size} of {total} bytes")
        partial.replace(target)
        note.unlink(missing_ok=True)

    def _extent(
        self, response: requests.Response, have: int, validator: str | None, partial: Path
    ) -> tuple[int, int | None]:
        """Where the body starts in the file, and the file's size if announced; the answer is checked against what was
        asked. A range that does not fit discards what is there, so that the next attempt starts afresh.
        """
        headers, status = response.headers, response.status_code
        encoding = headers.get("Content-Encoding", "identity").strip().lower()
        if encoding not in ("", "identity"):
            raise DownloadError("encoding", f"sent as {encoding[:20]!r} although asked not to be", retry=False)
        length = headers.get("Content-Length", "")
        length = int(length) if length.isascii() and length.isdigit() and len(length) < 19 else None
        if status == 200:
            start, total = 0, length
        else:
            span = re.fullmatch(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", headers.get("Content-Range", "").strip())
            same = validator is None or _validator(response) in (None, validator)
            fits = status == 206 and span is not None and int(span[1]) == have and same
            if not fits or span is None or int(span[2]) < have:
                partial.unlink(missing_ok=True)
                what = "HTTP 416 to a range" if status == 416 else "a range that was not asked for"
                raise DownloadError("range", f"the server answered with {what}", permanent=not have and status == 416)
            start = have
            total = int(span[2]) + 1 if span[3] == "*" else int(span[3])
        if total is not None and total > self.limits.max_bytes:
            partial.unlink(missing_ok=True)
            reason = f"announces {total} bytes, more than {self.limits.max_bytes}"
            raise DownloadError("too-large", reason, permanent=True)
        return start, total


def downloader(folder: Path | str, limits: Limits | None = None) -> Downloader:
    """A `Downloader` for the candidates of every source there is."""
    from avgeo.curate import youtube

    return Downloader(folder, limits, fetchers={"yt-dlp": youtube.fetch})


def _validator(response: requests.Response) -> str | None:
    """What identifies this version of the file: a strong ETag, else Last-Modified (RFC 9110, 13.1.5)."""
    tag = response.headers.get("ETag", "")
    return tag if tag.startswith('"') else response.headers.get("Last-Modified")


def _resumable(partial: Path, note: Path) -> tuple[int, str | None]:
    """How many bytes of a file are there already, and of which version; none unless the version is known."""
    try:
        validator: Any = json.loads(note.read_text(encoding="utf-8"))["validator"]
        have = partial.stat().st_size
    except (OSError, ValueError, KeyError, TypeError):
        return 0, None
    usable = isinstance(validator, str) and validator.isprintable() and validator.isascii()
    return (have, validator) if usable else (0, None)


def _check_medium(response: requests.Response, head: bytes) -> None:
    """A login page, an error page or a captive portal in a medium's place is not saved as one."""
    kind = response.headers.get("Content-Type", "").split(";")[0].strip().lower()
    if kind in ("text/html", "application/xhtml+xml") and head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        raise DownloadError("web-page", f"the server sent a web page ({kind}), no medium", retry=False)
