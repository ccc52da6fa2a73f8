"""Sources list every item they see, with what is known of it; what cannot be used says why."""

from __future__ import annotations

import bz2
import gzip
import importlib.util
import itertools
import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import loopback
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from avgeo.curate import sources, youtube
from avgeo.curate.candidate import UNKNOWN, Candidate, CurateError
from avgeo.curate.commons import commons, plain
from avgeo.curate.download import Downloader, downloader
from avgeo.curate.folder import folder
from avgeo.curate.listings import Names, aporee, manifest, yfcc100m
from avgeo.curate.polite import Client, Limits
from avgeo.curate.xenocanto import xeno_canto
from avgeo.fetch import FetchError, fetch


@pytest.fixture
def server() -> Iterator[loopback.Server]:
    with loopback.running() as server:
        yield server


def quick() -> Client:
    clock = loopback.Clock()
    return Client(Limits(attempts=3), clock, clock.sleep)


def table(path: Path, text: str) -> list[Candidate]:
    path.write_text(text, encoding="utf-8")
    return list(manifest(path))


# --- the registry ---


def test_the_registry_names_its_sources() -> None:
    assert list(sources.SOURCES) == ["folder", "manifest", "commons", "yfcc100m", "aporee", "xeno-canto", "yt-dlp"]
    lines = sources.described().splitlines()
    assert len(lines) == 7 and all(len(line) > 40 for line in lines)
    with pytest.raises(CurateError, match=r"unknown source 'flickr': choose one of folder, .*yt-dlp"):
        sources.candidates("flickr", "x")


# --- manifest ---

ROW = "url,lat,lng,licence,author,uploader,recorded_at,country,id,title\n"


def test_a_manifest_row_fills_a_candidate(tmp_path: Path) -> None:
    row = "https://a.org/x.mp4,52.5,13.4,http://creativecommons.org/licenses/by/4.0/,Ann,u1,2020-05-01T10:00:00Z,DE,k1,Café"
    (found,) = table(tmp_path / "t.csv", ROW + row + "\n")
    (place,) = found.stated
    assert (place.latitude_deg, place.longitude_deg, place.kind) == (52.5, 13.4, "manifest")
    assert place.recorded_at == "2020-05-01T10:00:00Z"
    assert found == Candidate(
        "k1", None, "manifest", "https://a.org/x.mp4", "CC-BY-4.0", "Ann", "Café", "u1", None, "DE", (place,)
    )


def test_one_table_in_every_form(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"url": ["https://a.org/x.mp4", None], "latitude": [1.5, 2.5], "longitude": [3, 4], "id": ["a", "b"]}
    )
    frame.to_csv(tmp_path / "t.csv", index=False)
    frame.to_csv(tmp_path / "t.tsv", index=False, sep="\t")
    frame.to_csv(tmp_path / "s.csv", index=False, sep=";")
    frame.to_csv(tmp_path / "t.csv.gz", index=False)
    frame.to_csv(tmp_path / "u.csv", index=False, encoding="utf-16")
    frame.to_csv(tmp_path / "crlf.csv", index=False, lineterminator="\r\n")
    frame.to_parquet(tmp_path / "t.parquet")
    frame.to_json(tmp_path / "t.jsonl", orient="records", lines=True)
    found = {path.name: list(manifest(path)) for path in sorted(tmp_path.iterdir())}
    assert len(found) == 8
    first = found["t.csv"]
    assert [(one.item, one.url, one.problem) for one in first] == [
        ("a", "https://a.org/x.mp4", None), ("b", None, "no address"),
    ]  # fmt: skip
    assert first[0].stated[0].longitude_deg == 3
    for name, candidates in found.items():
        assert candidates == first, name


def test_bad_rows_are_listed_with_their_problem(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "secret.mp4").write_bytes(b"x")
    (tmp_path / "in" / "here.mp4").write_bytes(b"x")
    (tmp_path / "in" / "notes.txt").write_bytes(b"x")
    (tmp_path / "in" / "link.mp4").symlink_to(tmp_path / "secret.mp4")
    cases = {
        ",": "no address",
        "file:///etc/passwd,": "scheme is 'file'",
        "ftp://a.org/x.mp4,": "scheme is 'ftp'",
        "javascript:alert(1),": "scheme is 'javascript'",
        "http://,": "no host",
        "http://a.org/a b.mp4,": "characters that a URL cannot have",
        "http://a.org/\0.mp4,": "characters that a URL cannot have",
        f"http://a.org/{'x' * 300_000},": "has 300013 characters",
        ",../secret.mp4": "leads out of the table's folder",
        f",{tmp_path / 'secret.mp4'}": "leads out of the table's folder",
        ",link.mp4": "leads out of the table's folder",
        ",no.mp4": "no such file: no.mp4",
        ",notes.txt": "not media: .txt",
        ",a\0b.mp4": "the path is no path",
        "http://a.org/" + "y" * 2_000_000 + ",": "cannot be read",
        ",here.mp4": None,
        "https://a.org/x.mp4,no.mp4": None,
        "https://a.org/x.mp4,here.mp4": None,
    }
    found = table(tmp_path / "in" / "t.csv", "url,path,id\n" + "".join(f"{case},same\n" for case in cases))
    assert len(found) == len(cases)
    for candidate, (case, words) in zip(found, cases.items(), strict=True):
        if words is None:
            assert candidate.problem is None and (candidate.path or candidate.url), case
        else:
            assert candidate.problem and words in candidate.problem and candidate.path is None, case
            assert len(candidate.problem) < 200 and candidate.problem.isprintable()
    assert len({candidate.item for candidate in found}) == len(found)
    assert [candidate.item for candidate in found][:3] == ["same", "same (2)", "same (3)"]
    assert found[15].path == (tmp_path / "in" / "here.mp4").resolve() and found[15].url is None
    assert found[17].path is not None and found[17].url == "https://a.org/x.mp4"


def test_texts_are_one_printable_line(tmp_path: Path) -> None:
    rows = b'id,url,title,author\n"a\nb",https://a.org/1.mp4,"' + b"long " * 5000 + b'","\x00\x1b[31mAnn\xff"\n'
    (tmp_path / "t.csv").write_bytes(rows)
    (found,) = manifest(tmp_path / "t.csv")
    assert found.item == "a b" and found.title and len(found.title) == 500
    assert found.attribution == "[31mAnn\\xff"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300))
def test_any_bytes_make_candidates_or_one_clear_error(tmp_path: Path, noise: bytes) -> None:
    for name in ("t.csv", "t.jsonl", "t.parquet", "t.csv.gz", "t.csv.bz2"):
        (tmp_path / name).write_bytes(b"url,path\n" * name.endswith(".csv") + noise)
        try:
            found = list(manifest(tmp_path / name))
        except CurateError as error:
            assert str(tmp_path / name) in str(error)
        else:
            assert len({candidate.item for candidate in found}) == len(found)
            assert all(candidate.problem or candidate.url or candidate.path for candidate in found)


def test_tables_that_are_none(tmp_path: Path) -> None:
    cases = {"": "no column", "a,b\n1,2\n": "it needs one of url, media_url", "url,lat\n": "has no rows"}
    for text, words in cases.items():
        with pytest.raises(CurateError, match=words):
            table(tmp_path / "t.csv", text)
    with pytest.raises(CurateError, match=r"no such file"):
        list(manifest(tmp_path / "none.csv"))
    with pytest.raises(CurateError, match=r"no such file"):
        list(manifest(tmp_path))
    whole = gzip.compress(b"url\n" + b"https://a.org/x.mp4\n" * 1000)
    (tmp_path / "t.csv.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CurateError, match="cannot be read"):
        list(manifest(tmp_path / "t.csv.gz"))


@given(st.lists(st.sampled_from(["a", "a (2)", "b", "x" * 300, "", "a\n"])))
def test_names_are_unique_and_repeatable(wishes: list[str]) -> None:
    names, again = Names(), Names()
    given_names = [names(wish) for wish in wishes]
    assert len(set(given_names)) == len(wishes) and all(0 < len(name) <= 210 for name in given_names)
    assert given_names == [again(wish) for wish in wishes]


# --- YFCC100M ---


def yfcc_line(hashed: bool, **cells: str) -> str:
    """A line in the order of the data set's description."""
    names = (
        "number", "id", "hash", "user", "nick", "taken", "uploaded", "device", "title", "description", "tags",
        "machine_tags", "longitude", "latitude", "accuracy", "page", "url", "licence_name", "licence", "server", "farm",
        "secret", "secret_original", "ext", "marker",
    )  # fmt: skip
    told = {
        "number": "7", "id": "6985418911", "hash": "4e2f7a26", "user": "39019111%40N00", "nick": "gu%C3%A9+ckxzs",
        "taken": "2012-02-16 09:56:37.0", "uploaded": "1331840483", "title": "IMG+0520+%26",
        "longitude": "-81.804885", "latitude": "24.550558", "accuracy": "16", "ext": "mp4", "marker": "1",
        "page": "http://www.flickr.com/photos/39019111@N00/6985418911/",
        "url": "http://www.flickr.com/videos/6985418911/play/orig/a%20b/",
        "licence_name": "Attribution-NonCommercial License",
        "licence": "http://creativecommons.org/licenses/by-nc/2.0/", **cells,
    }  # fmt: skip
    kept = [name for name in names if hashed or name not in ("number", "hash")]
    return "\t".join(told.get(name, "") for name in kept)


@pytest.mark.parametrize("hashed", [True, False])
@pytest.mark.parametrize("suffix", ["", ".bz2", ".gz"])
def test_yfcc100m(tmp_path: Path, hashed: bool, suffix: str) -> None:
    lines = [
        yfcc_line(hashed),
        yfcc_line(hashed, marker="0", id="2", ext="jpg"),
        yfcc_line(hashed, id="3", longitude="", latitude=""),
        yfcc_line(hashed, id="4", accuracy="6"),
        yfcc_line(hashed, id="5", url="file:///etc/passwd"),
        yfcc_line(hashed, id="6", marker="x"),
        "too\tshort",
        yfcc_line(hashed, marker="0", id="7"),
    ]
    raw = ("\n".join(lines) + "\n").encode()
    pack = {"": bytes, ".bz2": bz2.compress, ".gz": gzip.compress}[suffix]
    file = tmp_path / f"yfcc100m_dataset{suffix}"
    file.write_bytes(pack(raw))
    found = list(yfcc100m(file))
    good = found[0]
    assert (good.item, good.url) == ("6985418911", "http://www.flickr.com/videos/6985418911/play/orig/a%20b/")
    assert (good.licence, good.title, good.uploader) == ("CC-BY-NC-2.0", "IMG 0520 &", "39019111@N00")
    assert good.attribution == "gué ckxzs, http://www.flickr.com/photos/39019111@N00/6985418911/"
    (place,) = good.stated
    assert (place.latitude_deg, place.longitude_deg, place.fault) == (24.550558, -81.804885, None)
    assert place.recorded_at == "2012-02-16T09:56:37"
    assert [one.item for one in found] == ["6985418911", "3", "4", "5", "6", "line 7", "2 photos"]
    assert found[1].stated == () and found[1].problem is None
    assert "accuracy 6 of 16" in str(found[2].stated[0].fault)
    assert [bool(one.problem) for one in found] == [False, False, False, True, True, True, True]
    everything = list(yfcc100m(f"photos:{file}"))
    assert len(everything) == len(lines) and [one.item for one in everything][:3] == ["6985418911", "2", "3"]


# --- Radio Aporee ---


def test_aporee_on_the_real_table() -> None:
    try:
        file = fetch("agl1k/geoLocalization_schema.csv")
    except FetchError as error:  # not listed, or not at hand; a mirror may have it all the same
        file = Path(os.environ.get("AVGEO_MIRROR", "none")) / "agl1k" / "geoLocalization_schema.csv"
        if not file.is_file():
            pytest.skip(f"AGL1K's table is not at hand: {error}")
    found = list(aporee(file))
    assert len(found) == len({one.item for one in found}) == 1444
    assert all(one.problem is None and one.stated[0].fault is None for one in found)
    assert {one.licence for one in found} == {UNKNOWN} and {one.uploader for one in found} == {None}
    assert found[0].item == "aporee_43130_49161" and found[0].country == "United Kingdom"
    assert found[0].url == "https://archive.org/download/aporee_43130_49161/PrestonStation.mp3"
    assert (round(found[0].stated[0].latitude_deg, 3), round(found[0].stated[0].longitude_deg, 3)) == (53.755, -2.706)
    assert Counter(one.country for one in found).most_common(1) == [("Germany", 251)]


def test_aporee_with_odd_rows(tmp_path: Path) -> None:
    head = "key,short_key,longitude,latitude,title,mp3name,mp3seconds,city,country\n"
    (tmp_path / "t.csv").write_text(
        head + "k/1,1,13.4,52.5,T,a b#?.mp3,9,Berlin,Germany\n,2,1,2,T,x.mp3,9,B,G\nk2,3,x,y,T,,9,B,G\n"
    )
    found = list(aporee(tmp_path / "t.csv", "http://127.0.0.1:9/d/"))
    assert found[0].url == "http://127.0.0.1:9/d/k%2F1/a%20b%23%3F.mp3"
    assert [one.problem for one in found] == [None, "no address", "no address"]
    assert found[2].stated[0].fault is not None
    (tmp_path / "t.csv").write_text("url,latitude\nhttps://a.org/x.mp4,5\n")
    with pytest.raises(CurateError, match="no columns key and mp3name"):
        list(aporee(tmp_path / "t.csv"))


# --- Wikimedia Commons ---


def commons_page(number: int, **changes: Any) -> dict[str, Any]:
    said = {
        "LicenseShortName": "CC BY-SA 4.0", "LicenseUrl": "https://creativecommons.org/licenses/by-sa/4.0",
        "Artist": '<a href="//commons.wikimedia.org/wiki/User:Ann" title="x>y">Ann &amp; Bob</a>',
        "DateTimeOriginal": "2019-06-02 14:30:00", "ObjectName": f"Street {number}",
    }  # fmt: skip
    info = {
        "url": f"https://upload.wikimedia.org/v/{number}.webm", "mime": "video/webm",
        "user": "Uploader", "sha1": "ab12",
        "descriptionurl": f"https://commons.wikimedia.org/wiki/File:{number}.webm",
        "extmetadata": {key: {"value": value, "source": "commons-desc-page"} for key, value in said.items()},
    }  # fmt: skip
    point = {"lat": 52.5, "lon": 13.4, "primary": True, "globe": "earth"}
    page = {"pageid": number, "ns": 6, "title": f"File:{number}.webm", "imageinfo": [info], "coordinates": [point]}
    return {**page, **changes}


def test_commons_pages_through_a_category(server: loopback.Server) -> None:
    first, image = commons_page(1), commons_page(3)
    image["imageinfo"][0]["mime"] = "image/jpeg"
    answers = [
        {"error": {"code": "maxlag", "info": "Waiting for a database server: 6 seconds lagged."}},
        # the properties of one page may come in several answers
        {"continue": {"iistart": "x", "continue": "||"}, "query": {"pages": [{**first, "coordinates": None}]}},
        {
            "batchcomplete": True, "continue": {"gcmcontinue": "file|2", "continue": "gcmcontinue||"},
            "query": {"pages": [{**first, "imageinfo": None}]},
        },
        {"batchcomplete": True, "query": {"pages": [commons_page(2, coordinates=None), image, {"title": "File:Gone"}]}},
    ]  # fmt: skip

    def page(handler: loopback.Handler) -> None:
        body = json.dumps(answers[handler.count - 1]).encode()
        handler.say(200, body, Content_Type="application/json", **({"Retry_After": 5} if handler.count == 1 else {}))

    server.pages["/api"] = page
    client = quick()
    found = list(commons("Category:Videos of Berlin", server.url + "/api", client))
    asked = [parse_qs(urlsplit(path).query) for path, _, _ in server.seen]
    assert len(asked) == 4 and asked[0] == asked[1]
    assert asked[0]["generator"] == ["categorymembers"] and asked[0]["gcmtitle"] == ["Category:Videos of Berlin"]
    assert asked[0]["maxlag"] == ["5"] and asked[2]["iistart"] == ["x"] and asked[3]["gcmcontinue"] == ["file|2"]
    assert client.sleep.__self__.slept[0] == 5  # pyright: ignore[reportFunctionMemberAccess]
    assert "+http" in server.seen[0][1]["User-Agent"]
    assert [one.item for one in found] == ["File:1.webm", "File:2.webm", "File:Gone", "1 files"]
    good = found[0]
    assert (good.licence, good.uploader, good.title, good.original) == (
        "CC-BY-SA-4.0",
        "Uploader",
        "Street 1",
        "sha1:ab12",
    )
    assert good.attribution == "Ann & Bob, https://commons.wikimedia.org/wiki/File:1.webm"
    assert (good.stated[0].latitude_deg, good.stated[0].recorded_at) == (52.5, "2019-06-02T14:30:00")
    assert found[1].stated == () and found[1].problem is None
    assert "missing or deleted" in str(found[2].problem) and "neither sound nor video" in str(found[3].problem)


def test_commons_around_a_point_and_by_words(server: loopback.Server) -> None:
    many = {"query": {"pages": [commons_page(number) for number in range(500)]}, "batchcomplete": True}
    server.pages["/api"] = lambda h: h.say(200, json.dumps(many).encode())
    found = list(commons("geo:52.5,13.4,10", server.url + "/api", quick()))
    assert len(found) == 501 and "the API lists 500" in str(found[-1].problem)
    asked = parse_qs(urlsplit(server.seen[-1][0]).query)
    assert (asked["generator"], asked["ggscoord"]) == (["geosearch"], ["52.500000|13.400000"])
    assert asked["ggsradius"] == ["10000"]
    list(commons("tram filetype:video", server.url + "/api", quick()))
    assert parse_qs(urlsplit(server.seen[-1][0]).query)["gsrsearch"] == ["tram filetype:video"]


@pytest.mark.parametrize("where", ["geo:52,13", "geo:a,b,c", "geo:91,0,1", "geo:0,0,11", "geo:nan,0,1", ""])
def test_commons_queries_that_are_none(where: str) -> None:
    with pytest.raises(CurateError, match=r"commons|circle|give -90"):
        list(commons(where, "http://127.0.0.1:1", quick()))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"error": {"code": "invalidtitle", "info": "Bad <b>title</b>"}}', "Bad title; check the query"),
        (b"<html>", "127.0.0.1 sent no JSON"),
        (b"[]", "nothing usable"),
        (b"[" * 100_000, "sent no JSON"),
    ],
)
def test_commons_that_fails(server: loopback.Server, body: bytes, words: str) -> None:
    server.pages["/api"] = lambda h: h.say(200, body)
    with pytest.raises(CurateError) as caught:
        list(commons("Category:X", server.url + "/api", quick()))
    assert words in str(caught.value)


KEYS = (
    "query pages imageinfo extmetadata coordinates error title url mime lat lon value Artist batchcomplete continue "
    "recordings numPages file lic id lng date"
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS.split()), inner, max_size=5),
    max_leaves=25,
)


@settings(max_examples=200, deadline=None)
@given(JSON)
def test_any_answer_makes_candidates_or_one_clear_error(answer: Any) -> None:
    client = Client()
    client.json = lambda *_: answer  # type: ignore[method-assign]
    for listing in (commons("x", client=client), xeno_canto("x", client=client, key="k")):
        try:
            assert all(candidate.problem or candidate.url for candidate in itertools.islice(listing, 50))
        except CurateError as error:
            assert str(error).startswith(("commons: ", "xeno-canto: "))


def test_html_becomes_text() -> None:
    assert plain("<p>A&nbsp;<b>b</b>\n&lt;c&gt;</p>") == "A b <c>" and plain(None) is None and plain("<") == "<"


# --- Xeno-canto ---

RECORDING = {
    "id": "694038", "gen": "Troglodytes", "sp": "troglodytes", "en": "Eurasian Wren",
    "rec": "A Recordist", "cnt": "Spain",
    "lat": "42.8373", "lon": "-8.652", "alt": "30", "url": "//xeno-canto.org/694038",
    "file": "https://xeno-canto.org/694038/download", "lic": "//creativecommons.org/licenses/by-nc-sa/4.0/",
    "time": "08:00", "date": "2022-01-26",
}  # fmt: skip


def test_xeno_canto_pages(server: loopback.Server) -> None:
    withheld = {**RECORDING, "id": "2", "file": "", "lat": None, "lon": None, "date": "2005-00-00", "time": "?"}
    old = {name: value for name, value in RECORDING.items() if name != "lon"} | {"id": "3", "lng": "-8.7"}
    pages = [
        {"numRecordings": "4", "numPages": 2, "page": 1, "recordings": [RECORDING, withheld]},
        {"numRecordings": "4", "numPages": 2, "page": 2, "recordings": [old, "odd"]},
    ]
    server.pages["/3"] = lambda h: h.say(200, json.dumps(pages[h.count - 1]).encode())
    found = list(xeno_canto('cnt:spain q:"A"', server.url + "/3", quick(), key="secret"))
    asked = [parse_qs(urlsplit(path).query) for path, _, _ in server.seen]
    assert [one["page"] for one in asked] == [["1"], ["2"]]
    assert (asked[0]["query"], asked[0]["key"]) == (['cnt:spain q:"A"'], ["secret"])
    good = found[0]
    assert good == Candidate(
        "XC694038", None, "xeno-canto", "https://xeno-canto.org/694038/download", "CC-BY-NC-SA-4.0",
        "A Recordist, XC694038, https://xeno-canto.org/694038", "Eurasian Wren (Troglodytes troglodytes)",
        "A Recordist", "XC694038", "Spain", good.stated,
    )  # fmt: skip
    (place,) = good.stated
    assert (place.latitude_deg, place.longitude_deg, place.altitude_m) == (42.8373, -8.652, 30)
    assert place.recorded_at == "2022-01-26T08:00:00"
    assert "restricted" in str(found[1].problem) and found[1].stated == ()
    assert found[2].stated[0].longitude_deg == -8.7 and found[3].problem is not None


def test_xeno_canto_needs_a_key_and_never_tells_it(server: loopback.Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XENO_CANTO_KEY", raising=False)
    with pytest.raises(CurateError, match="set XENO_CANTO_KEY"):
        list(xeno_canto("cnt:spain"))
    monkeypatch.setenv("XENO_CANTO_KEY", "s3cr3t")
    server.pages["/refused"] = lambda h: h.say(401, b'{"error": "client_error", "message": "bad key"}')
    server.pages["/error"] = lambda h: h.say(200, b'{"error": "client_error", "message": "bad query"}')
    for path, words in (("/refused", "HTTP 401"), ("/error", "bad query"), ("/none", "HTTP 404")):
        monkeypatch.setenv("AVGEO_XENO_CANTO_URL", server.url + path)
        with pytest.raises(CurateError) as caught:
            list(xeno_canto("cnt:spain", client=quick()))
        assert words in str(caught.value) and "s3cr3t" not in str(caught.value)
    monkeypatch.setenv("AVGEO_XENO_CANTO_URL", "http://127.0.0.1:1/3")
    with pytest.raises(CurateError) as caught:
        list(xeno_canto("cnt:spain", client=quick()))
    assert "cannot be reached" in str(caught.value) and "s3cr3t" not in str(caught.value)


# --- yt-dlp ---


def test_without_yt_dlp_the_cure_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(CurateError, match=r"pip install 'avgeo\[download\]'"):
        list(sources.candidates("yt-dlp", tmp_path / "list.txt"))


@pytest.mark.skipif(importlib.util.find_spec("yt_dlp") is None, reason="yt-dlp is not installed")
@pytest.mark.slow
def test_yt_dlp_on_loopback(server: loopback.Server, tmp_path: Path) -> None:
    """The real yt-dlp, its generic extractor and a direct address: described first, downloaded later."""
    body = bytes(range(256)) * 1000
    server.pages["/clip.mp4"] = lambda h: h.say(200, body)
    rows = f"url,lat,lon,licence\n{server.url}/clip.mp4,52.5,13.4,CC BY 4.0\n{server.url}/gone.mp4,1,2,\nfile:///etc/passwd,1,2,\n"
    (tmp_path / "list.csv").write_text(rows)
    found = list(sources.candidates("yt-dlp", tmp_path / "list.csv"))
    assert [bool(one.problem) for one in found] == [False, True, True]
    assert "404" in str(found[1].problem) and "scheme" in str(found[2].problem)
    assert (found[0].licence, found[0].stated[0].latitude_deg) == ("CC-BY-4.0", 52.5)
    assert server.url not in str(found[1].problem)
    getter = downloader(tmp_path / "got")
    ((done, verdict),) = getter.fetch_all([found[0]])
    assert verdict.reason is None and done.path is not None and done.path.read_bytes() == body
    assert done.path.suffix == ".mp4" and len(list((tmp_path / "got").iterdir())) == 2
    small = Downloader(tmp_path / "small", Limits(max_bytes=1000), fetchers={"yt-dlp": youtube.fetch})
    ((done, verdict),) = small.fetch_all([found[0]])
    assert done.path is None and "larger than 1000 bytes" in str(verdict.reason)


def test_a_list_of_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = {
        "id": "abc", "extractor_key": "Youtube", "title": "A walk", "uploader": "Ann", "channel_id": "UC1",
        "license": "Creative Commons Attribution license (reuse allowed)", "location": "48.8566, 2.3522",
        "upload_date": "20200101", "webpage_url": "https://v.org/abc",
    }  # fmt: skip
    answers = iter([said, {"_type": "playlist", "entries": []}, {**said, "is_live": True, "location": "Paris"}])
    monkeypatch.setattr(youtube, "_run", lambda *_: json.dumps(next(answers)))
    monkeypatch.setattr(youtube, "_need_yt_dlp", lambda: None)
    (tmp_path / "list.txt").write_text(
        "# my list\nhttps://v.org/abc\n\nhttps://v.org/list\nhttps://v.org/live\nnonsense\n"
    )
    found = list(sources.candidates("yt-dlp", tmp_path / "list.txt"))
    assert (found[0].item, found[0].licence, found[0].uploader) == ("Youtube:abc", "CC-BY-3.0", "UC1")
    assert found[0].attribution == "Ann, https://v.org/abc"
    assert found[0].stated[0].latitude_deg == 48.8566 and found[0].stated[0].recorded_at is None
    assert "list of videos" in str(found[1].problem) and "live" in str(found[2].problem) and found[2].stated == ()
    assert "scheme" in str(found[3].problem)
    for text, words in (("# none\n", "lists no address"), (None, "cannot be read")):
        (tmp_path / "list.txt").write_text(text) if text else (tmp_path / "list.txt").unlink()
        with pytest.raises(CurateError, match=words):
            list(sources.candidates("yt-dlp", tmp_path / "list.txt"))


def test_halves_of_surrogate_pairs_can_be_stored(tmp_path: Path) -> None:
    table = tmp_path / "t.jsonl"
    table.write_text(r'{"url": "https://a.org/1.mp4", "id": "\ud800", "title": "a\udfffb", "author": "\ud83d\ude00"}')
    (found,) = manifest(table)
    assert (found.item, found.title, found.attribution) == (r"\ud800", r"a\udfffb", "\U0001f600")
    assert plain("\ud800<b>x</b>") == r"\ud800 x"


def test_texts_of_a_folders_table_are_tidy(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"x")
    title = "x" * 100_015
    rows = f'path,title,author,url,source_id\na.jpg,{title},"A\nB\x01",https://me:secret@a.org/1.jpg,youtube\n'
    (tmp_path / "index.csv").write_text(rows)
    (found,) = (each for each in folder(tmp_path) if each.item == "a.jpg")
    assert found.title is not None and len(found.title) == 500
    assert (found.attribution, found.url) == ("A B", "https://a.org/1.jpg")
    assert found.original is None  # a column of one value, such as youtube, would make all files copies of one


def test_file_names_stay_apart_as_items(tmp_path: Path) -> None:
    for name in (b"\xff.jpg", rb"\xff.jpg", rb"\\xff.jpg", "Zoë 1.jpg".encode()):
        (tmp_path / os.fsdecode(name)).write_bytes(b"x")
    assert {each.item for each in folder(tmp_path)} == {r"\xff.jpg", r"\\xff.jpg", r"\\\\xff.jpg", "Zoë 1.jpg"}


def test_no_source_shows_a_user_name_in_an_address(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("url,page\nhttps://me:secret@a.org/1.mp4,https://me:secret@a.org/1\n")
    (found,) = manifest(table)
    assert found.url == "https://a.org/1.mp4" and found.problem is None
    assert "secret" not in repr(found)
