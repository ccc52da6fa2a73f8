"""Xeno-canto through its API, version 3 (xeno-canto.org/explore/api): JSON pages, a key of one's own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from avgeo.curate.candidate import UNKNOWN, Candidate, CurateError
from avgeo.curate.licence import normalise
from avgeo.curate.listings import Names, tidy
from avgeo.curate.polite import Client, DownloadError, url_problem
from avgeo.curate.sidecar import row_location

API = "https://xeno-canto.org/api/3/recordings"
KEY = "XENO_CANTO_KEY"
_PER_PAGE = 100
_MOST_PAGES = 100_000  # more than there are recordings: a service that never ends is stopped


def _full(address: object) -> str:
    """An address that may lack its scheme, as version 2 of the API gave them."""
    text = str(address or "").strip()
    return f"https:{text}" if text.startswith("//") else text


def _candidate(recording: dict[str, Any], name: Names) -> Candidate:
    said = {key: str(value).strip() for key, value in recording.items() if value not in (None, "")}
    number = tidy(said.get("id"), 20)
    item = f"XC{number}" if number else None
    url = _full(said.get("file"))
    species = " ".join(part for part in (said.get("gen"), said.get("sp")) if part)
    title = f"{said['en']} ({species})" if said.get("en") and species else said.get("en") or species
    page = _full(said.get("url")) or (f"https://xeno-canto.org/{number}" if number else "")
    row = {"latitude": said.get("lat"), "longitude": said.get("lon") or said.get("lng"), "altitude": said.get("alt")}
    row |= {"date": said.get("date"), "time": said.get("time")}
    stated = row_location("xeno-canto", {key: value for key, value in row.items() if value})
    withheld = "Xeno-canto gives no file: recordings of threatened species are restricted"
    return Candidate(
        name(item, url, "a recording without a number"),
        None,
        "xeno-canto",
        None if url_problem(url) else url,
        normalise(said.get("lic")) or tidy(said.get("lic")) or UNKNOWN,
        ", ".join(part for part in (tidy(said.get("rec")), item, tidy(page)) if part) or UNKNOWN,
        tidy(title),
        tidy(said.get("rec")),
        item,
        tidy(said.get("cnt")),
        (stated,) if stated else (),
        url_problem(url) if url else withheld,
    )


def xeno_canto(
    where: str | Path, endpoint: str | None = None, client: Client | None = None, key: str | None = None
) -> Iterator[Candidate]:
    """Xeno-canto: a query with its tags, as 'cnt:brazil grp:birds q:A'; needs a key in $XENO_CANTO_KEY.

    `endpoint` (or $AVGEO_XENO_CANTO_URL) stands in for the API. Raises `CurateError` without a key, for a query that
    the service refuses and for a service that fails.
    """
    key = key or os.environ.get(KEY)
    if not key:
        raise CurateError(f"xeno-canto: needs your key; it is on xeno-canto.org/account, set {KEY} to it")
    if not str(where).strip():
        raise CurateError("xeno-canto: no query; give one with tags, as 'cnt:brazil q:A'")
    endpoint = endpoint or os.environ.get("AVGEO_XENO_CANTO_URL") or API
    client, name, page, pages = client or Client(), Names(), 1, 1
    while page <= min(pages, _MOST_PAGES):
        query = {"query": str(where), "page": page, "per_page": _PER_PAGE, "key": key}
        try:
            answer = client.json(f"{endpoint}?{urlencode(query)}")
        except DownloadError as error:
            cure = "check the query and the key" if error.permanent else "try again later"
            raise CurateError(f"xeno-canto: {error.reason}; {cure}") from None
        found = answer.get("recordings") if isinstance(answer, dict) else None
        if not isinstance(found, list):
            said = tidy(answer.get("message") or answer.get("error"), 120) if isinstance(answer, dict) else None
            raise CurateError(f"xeno-canto: the service answered {said or 'nothing usable'}; check query and key")
        for recording in found:
            if isinstance(recording, dict):
                yield _candidate(recording, name)
            else:
                yield Candidate(name("a recording"), None, "xeno-canto", problem="the service described it unreadably")
        try:
            pages = int(answer.get("numPages") or 1) if found else 0
        except (TypeError, ValueError):
            pages = 0
        page += 1
