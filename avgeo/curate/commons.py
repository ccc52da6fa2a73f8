"""Wikimedia Commons through its API: the files of a category, around a point, or of a search.

The API's etiquette (mediawiki.org/wiki/API:Etiquette): one request at a time, `maxlag`, a User-Agent with a contact.
Licence, author and time come from `extmetadata` (mediawiki.org/wiki/Extension:CommonsMetadata), whose values are HTML.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from avgeo.curate.addresses import bare_url, url_problem
from avgeo.curate.candidate import UNKNOWN, Candidate, CurateError
from avgeo.curate.licence import normalise
from avgeo.curate.listings import Names, tidy, unlisted
from avgeo.curate.location import Location
from avgeo.curate.polite import Client, DownloadError
from avgeo.curate.sidecar import row_location

API = "https://commons.wikimedia.org/w/api.php"
_MOST_AROUND = 500  # the API lists no more around a point, and goes no further than 10 km
_FARTHEST_KM = 10.0
_BATCH = 50  # as many as extmetadata is given for at once
_DETAILS = {
    "action": "query", "format": "json", "formatversion": "2", "maxlag": "5", "prop": "imageinfo|coordinates",
    "iiprop": "url|size|mime|mediatype|sha1|user|timestamp|extmetadata", "colimit": "max", "coprop": "type|globe",
}  # fmt: skip


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []

    def handle_data(self, data: str) -> None:
        self.parts.append(data)


def plain(markup: object) -> str | None:
    """HTML as one line of text."""
    parser = _Text()
    parser.feed(str(markup or "")[:20_000])
    parser.close()
    return tidy(" ".join(parser.parts))


def _dict(value: Any) -> dict[str, Any]:
    """`value` if it is a JSON object, else an empty one: the service is believed, not trusted."""
    return value if isinstance(value, dict) else {}


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [part for part in value if isinstance(part, dict)] if isinstance(value, list) else []


def _generator(where: str) -> dict[str, str]:
    """The API's parameters for what to list."""
    if where.lower().startswith("geo:"):
        try:
            latitude_deg, longitude_deg, radius_km = (float(part) for part in where[4:].split(","))
        except ValueError:
            raise CurateError(f"{where}: is no circle; write geo:LATITUDE,LONGITUDE,KM, as geo:52.5,13.4,10") from None
        if not (abs(latitude_deg) <= 90 and abs(longitude_deg) <= 180 and 0.01 <= radius_km <= _FARTHEST_KM):
            raise CurateError(f"{where}: give -90..90, -180..180 and 0.01 to {_FARTHEST_KM:g} km, as Commons does")
        centre = f"{latitude_deg:.6f}|{longitude_deg:.6f}"
        around = {"ggsradius": f"{1000 * radius_km:.0f}", "ggslimit": str(_MOST_AROUND), "ggsnamespace": "6"}
        return {"generator": "geosearch", "ggscoord": centre, **around}
    if re.match(r"category:.", where, re.IGNORECASE):
        listed = {"gcmtype": "file", "gcmlimit": str(_BATCH)}
        return {"generator": "categorymembers", "gcmtitle": where, **listed}
    if not where.strip():
        raise CurateError("commons: no query; give Category:NAME, geo:LATITUDE,LONGITUDE,KM, or words to search for")
    return {"generator": "search", "gsrsearch": where, "gsrnamespace": "6", "gsrlimit": str(_BATCH)}


def _busy(answer: Any) -> bool:
    return _dict(_dict(answer).get("error")).get("code") in ("maxlag", "ratelimited")


def _pages(client: Client, endpoint: str, query: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Every page of a query; what the API gives of one page over several answers is put together."""
    go_on: dict[str, str] = {}
    batch: dict[str, dict[str, Any]] = {}
    while True:
        try:
            answer = client.json(f"{endpoint}?{urlencode({**_DETAILS, **query, **go_on})}", _busy)
        except DownloadError as error:
            raise CurateError(f"commons: {error.reason}; try again later") from None
        if not isinstance(answer, dict) or "error" in answer:
            said = plain(_dict(_dict(answer).get("error")).get("info")) or "nothing usable"
            raise CurateError(f"commons: the API answered {said}; check the query")
        for page in _dicts(_dict(answer.get("query")).get("pages")):
            whole = batch.setdefault(str(page.get("title")), {})
            whole.update({name: value for name, value in page.items() if value or name not in whole})
        following = {name: str(value) for name, value in _dict(answer.get("continue")).items()}
        if answer.get("batchcomplete", not following):
            yield from batch.values()
            batch = {}
        if not following or following == go_on:
            yield from batch.values()
            return
        go_on = following


def _place(page: dict[str, Any], said: dict[str, Any]) -> tuple[Location, ...]:
    points = _dicts(page.get("coordinates"))
    here = next((point for point in points if point.get("primary")), points[0] if points else {})
    row = {"latitude": here.get("lat", said.get("GPSLatitude")), "longitude": here.get("lon", said.get("GPSLongitude"))}
    row["recorded_at"] = plain(said.get("DateTimeOriginal"))
    if here.get("globe", "earth") != "earth":
        return ()
    found = row_location("commons", {name: str(value) for name, value in row.items() if value not in (None, "")})
    return (found,) if found else ()


def _candidate(page: dict[str, Any], name: Names) -> Candidate:
    title = tidy(page.get("title")) or "a page without a title"
    info = next(iter(_dicts(page.get("imageinfo"))), {})
    said = {key: _dict(entry).get("value") for key, entry in _dict(info.get("extmetadata")).items()}
    licence = normalise(plain(said.get("LicenseUrl"))) or normalise(plain(said.get("LicenseShortName")))
    url = bare_url(str(info.get("url") or ""))
    author = plain(said.get("Artist")) or plain(said.get("Credit"))
    credit = ", ".join(part for part in (author, tidy(bare_url(str(info.get("descriptionurl") or "")))) if part)
    return Candidate(
        name(title),
        None,
        "commons",
        None if url_problem(url) else url,
        licence or plain(said.get("LicenseShortName")) or UNKNOWN,
        credit or UNKNOWN,
        plain(said.get("ObjectName")) or title,
        tidy(info.get("user")),
        tidy(f"sha1:{info['sha1']}") if info.get("sha1") else None,
        stated=_place(page, said),
        problem=url_problem(url) if info else "Commons tells nothing of this file: it is missing or deleted",
    )


def commons(
    where: str | Path, endpoint: str | None = None, client: Client | None = None, images: bool = False
) -> Iterator[Candidate]:
    """Wikimedia Commons: Category:NAME (its own files), geo:LATITUDE,LONGITUDE,KM (at most 10 km), or words to search.

    Sound and video, with `images` also pictures. `endpoint` (or $AVGEO_COMMONS_URL) stands in for the API. Raises
    `CurateError` for a query it cannot make sense of and for a service that fails: half a list would be no list.
    """
    query = _generator(str(where))
    endpoint = endpoint or os.environ.get("AVGEO_COMMONS_URL") or API
    name, passed, seen = Names(), 0, 0
    for page in _pages(client or Client(), endpoint, query):
        seen += 1
        info = next(iter(_dicts(page.get("imageinfo"))), {})
        kind = str(info.get("mime") or "")
        if info and not images and not kind.startswith(("audio/", "video/", "application/ogg")):
            passed += 1
        else:
            yield _candidate(page, name)
    if query["generator"] == "geosearch" and seen >= _MOST_AROUND:
        yield from unlisted("commons", 1, "or more files around the point", "the API lists 500; ask for less")
    yield from unlisted("commons", passed, "files", "they are neither sound nor video")
