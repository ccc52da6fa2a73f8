"""Downloads from a server that misbehaves: the file comes whole or a named reason does; nothing hangs or leaks."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import loopback
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avgeo.curate import polite
from avgeo.curate.addresses import bare_url, inside
from avgeo.curate.candidate import Candidate, CurateError
from avgeo.curate.download import LOG, Downloader, Outcome, file_name
from avgeo.curate.polite import Client, Limits, retry_after_s, url_problem

BODY = bytes(range(256)) * 2000  # 512,000 bytes
QUICK = Limits(max_bytes=1_000_000, item_s=60, connect_s=2, read_s=0.3, stall_s=0.3, attempts=3)
NOW = datetime(2024, 2, 1, 12, 0, 0, tzinfo=UTC)


@pytest.fixture
def server() -> Iterator[loopback.Server]:
    with loopback.running() as server:
        yield server


@pytest.fixture
def clock() -> loopback.Clock:
    return loopback.Clock()


@pytest.fixture
def getter(tmp_path: Path, clock: loopback.Clock) -> Downloader:
    """A downloader whose clock stands still but for its sleeps."""
    return Downloader(tmp_path / "got", client=Client(QUICK, clock, clock.sleep, lambda: NOW))


def real_time(tmp_path: Path, **limits: float) -> Downloader:
    """A downloader on the real clock, without pauses."""
    chosen = {**QUICK.__dict__, "interval_s": 0.0, "backoff_s": 0.01, **limits}
    return Downloader(tmp_path / "got", client=Client(Limits(**chosen)))


def whole(getter: Downloader, outcome: Outcome) -> bool:
    """The outcome's file is BODY, logged with its hash, and nothing else is left behind."""
    assert outcome.reason is None and outcome.file is not None
    assert outcome.sha256 == hashlib.sha256(BODY).hexdigest() and outcome.size == len(BODY)
    assert sorted(path.name for path in getter.folder.iterdir()) == sorted([outcome.file, LOG])
    return (getter.folder / outcome.file).read_bytes() == BODY


def failed(outcome: Outcome, kind: str, words: str) -> bool:
    """The outcome is this failure, in one line."""
    assert outcome.file is None and outcome.failure == kind, outcome
    assert outcome.reason and "\n" not in outcome.reason
    assert words in outcome.reason, outcome.reason
    return True


def test_a_plain_file(server: loopback.Server, getter: Downloader) -> None:
    server.pages["/a/clip.MP4"] = lambda h: h.say(200, BODY)
    url = server.url + "/a/clip.MP4?token=1"
    outcome = getter.fetch(url)
    assert whole(getter, outcome) and outcome.file == file_name(url) and file_name(url).endswith(".mp4")
    _, headers, _ = server.seen[0]
    assert headers["User-Agent"].startswith("avgeo/") and "http" in headers["User-Agent"]
    assert headers["Accept-Encoding"] == "identity" and "Range" not in headers
    assert "Cookie" not in headers and "Authorization" not in headers


def test_what_is_there_is_not_asked_for_again(server: loopback.Server, getter: Downloader) -> None:
    server.pages["/x.mp4"] = lambda h: h.say(200, BODY)
    first = getter.fetch(server.url + "/x.mp4")
    again = Downloader(getter.folder, client=getter.client).fetch(server.url + "/x.mp4")
    assert again == first and len(server.seen) == 1
    # killed between rename and log: the file is taken as it is
    (getter.folder / LOG).write_bytes(b'{"url": "' + server.url.encode())
    once_more = Downloader(getter.folder, client=getter.client)
    assert once_more.fetch(server.url + "/x.mp4") == first and len(server.seen) == 1
    assert json.loads((getter.folder / LOG).read_text().splitlines()[-1])["file"] == first.file
    assert Downloader(getter.folder, client=getter.client).fetch(server.url + "/x.mp4") == first
    # a file that lost its end is fetched anew
    (getter.folder / str(first.file)).unlink()
    assert Downloader(getter.folder, client=getter.client).fetch(server.url + "/x.mp4") == first
    assert len(server.seen) == 2


def test_redirects(server: loopback.Server, getter: Downloader) -> None:
    for step in range(5):
        server.pages[f"/{step}.mp4"] = lambda h, s=step: h.say(302, b"", Location=f"/{s + 1}.mp4")
    server.pages["/5.mp4"] = lambda h: h.say(200, BODY)
    server.pages["/6.mp4"] = lambda h: h.say(301, b"", Location="/0.mp4")
    server.pages["/loop"] = lambda h: h.say(307, b"", Location="/loop")
    assert whole(getter, getter.fetch(server.url + "/0.mp4"))
    assert failed(getter.fetch(server.url + "/6.mp4"), "redirect", "more than 5 redirects")
    assert failed(getter.fetch(server.url + "/loop"), "redirect", "more than 5 redirects")


@pytest.mark.parametrize(
    "where", ["file:///etc/passwd", "ftp://127.0.0.1/x.mp4", "javascript:alert(1)", "data:,x", "", "http://[::1"]
)
def test_redirects_that_are_not_followed(server: loopback.Server, getter: Downloader, where: str) -> None:
    server.pages["/x.mp4"] = lambda h: h.say(302, b"", Location=where)
    outcome = getter.fetch(server.url + "/x.mp4")
    assert failed(outcome, "redirect", "redirected to where it cannot be followed") and outcome.permanent
    assert len(server.seen) == 1


def test_the_body_of_a_redirect_is_not_read(server: loopback.Server, getter: Downloader) -> None:
    def endless(handler: loopback.Handler) -> None:
        handler.head(302, Location="/y.mp4")
        while True:
            handler.wfile.write(bytes(1 << 16))

    server.pages["/x.mp4"] = endless
    server.pages["/y.mp4"] = lambda h: h.say(200, BODY)
    assert whole(getter, getter.fetch(server.url + "/x.mp4"))


def test_retry_after_in_seconds_and_as_a_date(
    server: loopback.Server, getter: Downloader, clock: loopback.Clock
) -> None:
    dates = {1: "7", 2: (NOW + timedelta(seconds=40)).strftime("%a, %d %b %Y %H:%M:%S GMT")}
    server.pages["/x.mp4"] = lambda h: h.say(200, BODY) if h.count == 3 else h.say(429, b"", Retry_After=dates[h.count])
    assert whole(getter, getter.fetch(server.url + "/x.mp4"))
    assert clock.slept == [7, 40]


def test_a_longer_wait_than_allowed_is_not_waited_and_the_host_left_alone(
    server: loopback.Server, getter: Downloader, clock: loopback.Clock
) -> None:
    server.pages["/x.mp4"] = lambda h: h.say(429, b"", Retry_After=86400)
    outcome = getter.fetch(server.url + "/x.mp4")
    assert failed(outcome, "http-429", "HTTP 429 Too Many Requests") and not outcome.permanent
    assert failed(getter.fetch(server.url + "/y.mp4"), "host", "asked to be left alone for 86400 s")
    assert len(server.seen) == 1 and clock.slept == []
    server.pages["/x.mp4"] = lambda h: h.say(200, BODY)  # the next run asks again
    assert Downloader(getter.folder, QUICK).fetch(server.url + "/x.mp4").size == len(BODY)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_passing_failure_is_tried_again(
    server: loopback.Server, getter: Downloader, clock: loopback.Clock, status: int
) -> None:
    server.pages["/x.mp4"] = lambda h: h.say(200, BODY) if h.count > 2 else h.say(status, b"busy")
    assert whole(getter, getter.fetch(server.url + "/x.mp4"))
    assert len(clock.slept) == 2 and 0.5 <= clock.slept[0] <= 1.0 <= clock.slept[1] <= 2.0


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 451])
def test_a_lasting_failure_is_remembered(server: loopback.Server, getter: Downloader, status: int) -> None:
    server.pages["/x.mp4"] = lambda h: h.say(status, b"no")
    outcome = getter.fetch(server.url + "/x.mp4")
    assert failed(outcome, f"http-{status}", f"HTTP {status} ") and "127.0.0.1" in str(outcome.reason)
    assert Downloader(getter.folder, client=getter.client).fetch(server.url + "/x.mp4") == outcome
    assert len(server.seen) == 1


def test_one_host_is_asked_once_per_interval(
    server: loopback.Server, getter: Downloader, clock: loopback.Clock
) -> None:
    for name in "abc":
        server.pages[f"/{name}.mp4"] = lambda h: h.say(200, b"x" * 10)
        getter.fetch(f"{server.url}/{name}.mp4")
    assert clock.slept == [1.0, 1.0]


def test_a_host_that_keeps_failing_is_left_alone(server: loopback.Server, tmp_path: Path) -> None:
    getter = real_time(tmp_path, attempts=1, host_failures=3)
    outcomes = [getter.fetch(f"http://127.0.0.1:1/{number}.mp4") for number in range(5)]
    assert [outcome.failure for outcome in outcomes] == ["connection"] * 3 + ["host"] * 2
    assert "127.0.0.1 cannot be reached: Connection refused" in str(outcomes[0].reason)
    assert "failed 3 times in a row" in str(outcomes[4].reason) and not outcomes[4].permanent


def ranged(handler: loopback.Handler, **headers: str) -> None:
    """Serve BODY as a server with ranges does."""
    start = handler.asked_from()
    if start is None or (handler.headers.get("If-Range") or headers.get("ETag")) != headers.get("ETag"):
        handler.say(200, BODY, **headers)
    else:
        span = f"bytes {start}-{len(BODY) - 1}/{len(BODY)}"
        handler.say(206, BODY[start:], Content_Range=span, **headers)


def half(handler: loopback.Handler, **headers: str) -> None:
    """Announce all of BODY, send less than half of it."""
    handler.head(200, Content_Length=len(BODY), **headers)
    handler.wfile.write(BODY[:200_000])


@pytest.mark.parametrize("headers", [{"ETag": '"v1"'}, {"Last_Modified": "Thu, 01 Feb 2024 12:00:00 GMT"}])
def test_truncation_is_resumed(server: loopback.Server, getter: Downloader, headers: dict[str, str]) -> None:
    server.pages["/x.mp4"] = lambda h: half(h, **headers) if h.count == 1 else ranged(h, **headers)
    assert whole(getter, getter.fetch(server.url + "/x.mp4"))
    _, asked, _ = server.seen[1]
    assert asked["Range"] == "bytes=200000-" and asked["If-Range"] == next(iter(headers.values()))


def test_without_an_identity_or_with_a_weak_one_it_starts_afresh(server: loopback.Server, getter: Downloader) -> None:
    for path, headers in (("/a.mp4", {}), ("/b.mp4", {"ETag": 'W/"v1"'})):
        server.pages[path] = lambda h, told=headers: half(h, **told) if h.count == 1 else h.say(200, BODY, **told)
        assert getter.fetch(server.url + path).sha256 == hashlib.sha256(BODY).hexdigest()
    assert not any("Range" in headers for _, headers, _ in server.seen)


def test_a_new_version_is_fetched_whole(server: loopback.Server, getter: Downloader) -> None:
    old = bytes(len(BODY))

    def page(handler: loopback.Handler) -> None:
        if handler.count == 1:
            handler.head(200, Content_Length=len(old), ETag='"old"')
            handler.wfile.write(old[:300_000])
        else:
            ranged(handler, ETag='"new"')

    server.pages["/x.mp4"] = page
    assert whole(getter, getter.fetch(server.url + "/x.mp4"))


@pytest.mark.parametrize(
    "answer",
    [
        {"status": 200},  # the range ignored
        {"status": 206, "Content_Range": f"bytes 5-{len(BODY) - 1}/{len(BODY)}"},
        {"status": 206, "Content_Range": "bytes */12"},
        {"status": 206, "Content_Range": "nonsense"},
        {"status": 206},
        {"status": 416, "Content_Range": f"bytes */{len(BODY)}"},
        {"status": 206, "Content_Range": f"bytes 200000-{len(BODY) - 1}/{len(BODY)}", "ETag": '"other"'},
    ],
)
def test_a_range_answered_wrongly(server: loopback.Server, getter: Downloader, answer: dict[str, str]) -> None:
    def page(handler: loopback.Handler) -> None:
        if handler.count == 1:
            half(handler, ETag='"v1"')
        elif handler.count == 2:
            told = {"ETag": '"v1"', **answer}
            handler.say(int(told.pop("status")), BODY, **told)
        else:
            ranged(handler, ETag='"v1"')

    server.pages["/x.mp4"] = page
    assert whole(getter, getter.fetch(server.url + "/x.mp4"))


def test_a_range_that_ends_early_is_gone_on_with(server: loopback.Server, getter: Downloader) -> None:
    def page(handler: loopback.Handler) -> None:
        if handler.count == 1:
            half(handler, ETag='"v1"')
        elif handler.count == 2:  # its length is right for what it sends, but not for what it announces
            span = f"bytes 200000-{len(BODY) - 1}/{len(BODY)}"
            handler.say(206, BODY[200_000:300_000], Content_Range=span, ETag='"v1"')
        else:
            ranged(handler, ETag='"v1"')

    server.pages["/x.mp4"] = page
    assert whole(getter, getter.fetch(server.url + "/x.mp4"))
    assert server.seen[2][1]["Range"] == "bytes=300000-"


def test_an_announced_length_that_never_comes(server: loopback.Server, getter: Downloader) -> None:
    server.pages["/x.mp4"] = lambda h: h.say(200, BODY, Content_Length=len(BODY) + 1)
    outcome = getter.fetch(server.url + "/x.mp4")
    assert failed(outcome, "broken", "fewer bytes than announced") or failed(outcome, "length", "ended after")
    assert not outcome.permanent and len(server.seen) == 3
    assert not [path for path in getter.folder.iterdir() if path.suffix == ".mp4"]


def test_bytes_beyond_the_announced_length_do_not_reach_the_next_file(
    server: loopback.Server, getter: Downloader
) -> None:
    # In HTTP a body is as long as announced: the excess is nobody's, and the media gates judge what came.
    server.pages["/x.mp4"] = lambda h: h.say(200, BODY + b"HTTP/1.1 200 OK\r\n\r\nEVIL", Content_Length=1000)
    server.pages["/y.mp4"] = lambda h: h.say(200, BODY)
    assert (getter.folder / str(getter.fetch(server.url + "/x.mp4").file)).read_bytes() == BODY[:1000]
    assert server.seen[0][1]["Connection"] == "close"
    assert (getter.folder / str(getter.fetch(server.url + "/y.mp4").file)).read_bytes() == BODY


def test_a_reset_connection(server: loopback.Server, getter: Downloader) -> None:
    server.pages["/x.mp4"] = lambda h: h.reset() if h.count == 1 else ranged(h)
    server.pages["/y.mp4"] = lambda h: h.reset()
    assert whole(getter, getter.fetch(server.url + "/x.mp4"))
    assert failed(getter.fetch(server.url + "/y.mp4"), "connection", "127.0.0.1 cannot be reached")


def drip(handler: loopback.Handler, body: bytes, pause_s: float) -> None:
    for byte in body:
        handler.wfile.write(bytes([byte]))
        time.sleep(pause_s)


def test_slow_drip_of_a_body(server: loopback.Server, tmp_path: Path) -> None:
    def page(handler: loopback.Handler) -> None:
        handler.head(200, Content_Length=100_000)
        drip(handler, BODY[:100], 0.02)

    server.pages["/x.mp4"] = page
    began = time.monotonic()
    outcome = real_time(tmp_path, attempts=1, min_bytes_per_s=1000).fetch(server.url + "/x.mp4")
    assert failed(outcome, "slow", "too slow: ") and time.monotonic() - began < 1.5


def test_slow_drip_of_headers(server: loopback.Server, tmp_path: Path) -> None:
    server.pages["/x.mp4"] = lambda h: drip(h, b"HTTP/1.1 200 OK\r\nX-A: " + b"a" * 1000, 0.05)
    began = time.monotonic()
    outcome = real_time(tmp_path, attempts=1).fetch(server.url + "/x.mp4")
    assert failed(outcome, "connection", "127.0.0.1 cannot be reached") and time.monotonic() - began < 2.0


def test_silence_and_the_limit_of_time(server: loopback.Server, tmp_path: Path) -> None:
    server.pages["/mute.mp4"] = lambda h: time.sleep(1.0)

    def steady(handler: loopback.Handler) -> None:
        handler.head(200)
        for _ in range(100):
            handler.wfile.write(BODY[:2000])
            time.sleep(0.05)

    server.pages["/long.mp4"] = steady
    outcome = real_time(tmp_path, attempts=1).fetch(server.url + "/mute.mp4")
    assert failed(outcome, "connection", "no answer in time")
    outcome = real_time(tmp_path, item_s=0.5).fetch(server.url + "/long.mp4")
    assert failed(outcome, "time", "not there within 0.5 s") and not outcome.permanent


def test_files_that_are_too_large(server: loopback.Server, getter: Downloader) -> None:
    sent = []

    def endless(handler: loopback.Handler) -> None:
        handler.head(200)
        while True:
            handler.wfile.write(bytes(1 << 16))
            sent.append(1)

    server.pages["/announced.mp4"] = lambda h: h.say(200, b"x", Content_Length=1_000_001)
    server.pages["/endless.mp4"] = endless
    for name in ("announced", "endless"):
        outcome = getter.fetch(f"{server.url}/{name}.mp4")
        assert failed(outcome, "too-large", "1000000") and outcome.permanent
    assert [path.name for path in getter.folder.iterdir()] == [LOG] and len(sent) < 1000


def test_chunks_and_no_length_at_all(server: loopback.Server, getter: Downloader) -> None:
    def chunks(handler: loopback.Handler, end: bytes) -> None:
        handler.head(200, Transfer_Encoding="chunked")
        for at in range(0, len(BODY), 100_000):
            piece = BODY[at : at + 100_000]
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        handler.wfile.write(end)

    server.pages["/x.mp4"] = lambda h: chunks(h, b"0\r\n\r\n")
    server.pages["/cut.mp4"] = lambda h: chunks(h, b"fff\r\nabc")
    assert whole(getter, getter.fetch(server.url + "/x.mp4"))
    assert failed(getter.fetch(server.url + "/cut.mp4"), "broken", "broke off after")


def test_compression_is_not_undone(server: loopback.Server, getter: Downloader) -> None:
    bomb = gzip.compress(bytes(50_000_000))
    server.pages["/x.mp4"] = lambda h: h.say(200, bomb, Content_Encoding="gzip")
    assert failed(getter.fetch(server.url + "/x.mp4"), "encoding", "sent as 'gzip'")
    assert len(server.seen) == 1 and max(path.stat().st_size for path in getter.folder.iterdir()) < 10_000


def test_a_web_page_instead_of_media(server: loopback.Server, getter: Downloader) -> None:
    server.pages["/x.mp4"] = lambda h: h.say(
        200, b"\n <!DOCTYPE html><title>Log in</title>", Content_Type="Text/HTML; charset=utf-8"
    )
    server.pages["/y.mp4"] = lambda h: h.say(200, BODY, Content_Type="text/html")  # a medium under a wrong label
    outcome = getter.fetch(server.url + "/x.mp4")
    assert failed(outcome, "web-page", "web page") and not outcome.permanent and len(server.seen) == 1
    assert getter.fetch(server.url + "/y.mp4").size == len(BODY)


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd", "ftp://example.org/x.mp4", "javascript:alert(1)", "", "x.mp4", "http://", "//a/b",
        "http://a b/", "http://a/\0", "http://[::1", "http://a:99999/", "http://a/" + "x" * 5000, "http://a/\ud800",
    ],
)  # fmt: skip
def test_addresses_that_are_none(url: str, getter: Downloader) -> None:
    assert url_problem(url)
    outcome = getter.fetch(url)
    assert failed(outcome, "address", "address") and outcome.permanent
    assert len(str(outcome.reason)) < 200


@given(st.text() | st.text().map("http://h/".__add__))
def test_file_names_are_safe(url: str) -> None:
    name = file_name(url)
    stem, _, suffix = name.partition(".")
    assert len(stem) == 32 and set(stem) <= set("0123456789abcdef")
    assert suffix == "" or (suffix.isalnum() and suffix.isascii() and len(suffix) <= 4)


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_retry_after_reads_both_forms(seconds: int, ago: int) -> None:
    moment = NOW + timedelta(seconds=seconds)
    assert retry_after_s(str(seconds), NOW) == seconds
    assert retry_after_s(moment.strftime("%a, %d %b %Y %H:%M:%S GMT"), NOW) == seconds
    assert retry_after_s((NOW - timedelta(seconds=ago)).strftime("%a, %d %b %Y %H:%M:%S GMT"), NOW) == 0
    assert retry_after_s("soon", NOW) is retry_after_s(None, NOW) is None


def test_back_off_doubles_within_its_jitter_and_repeats() -> None:
    client = Client(Limits(backoff_s=2.0, max_wait_s=50.0))
    for attempt, most in enumerate((2, 4, 8, 16, 32, 50, 50), 1):
        waits = {client.backoff_s(f"http://h/{number}", attempt) for number in range(200)}
        assert most / 2 <= min(waits) < 0.6 * most and 0.9 * most < max(waits) <= most and len(waits) == 200
    assert client.backoff_s("http://h/", 3) == Client(Limits(backoff_s=2.0)).backoff_s("http://h/", 3)


def test_all_candidates_come_back_in_order(server: loopback.Server, getter: Downloader, tmp_path: Path) -> None:
    server.pages["/x.mp4"] = lambda h: h.say(200, BODY)
    (tmp_path / "here.mp4").write_bytes(b"x")
    given_ones = [
        Candidate("local", tmp_path / "here.mp4", "s", server.url + "/x.mp4"),
        Candidate("good", None, "s", server.url + "/x.mp4"),
        Candidate("gone", None, "s", server.url + "/gone.mp4"),
        Candidate("bad row", None, "s", problem="no address"),
        Candidate("twin", None, "s", server.url + "/x.mp4"),
    ]
    found = list(getter.fetch_all(iter(given_ones)))
    assert [candidate.item for candidate, _ in found] == [candidate.item for candidate in given_ones]
    verdicts = [verdict for _, verdict in found]
    assert {verdict.gate for verdict in verdicts} == {"download"}
    assert [bool(verdict.skipped) for verdict in verdicts] == [True, False, False, True, False]
    assert [verdict.reason for verdict in verdicts] == [None, None, "HTTP 404 Not Found from 127.0.0.1", None, None]
    paths = [candidate.path for candidate, _ in found]
    assert paths[1] == paths[4] and paths[1] is not None and paths[1].read_bytes() == BODY
    assert paths[2] is paths[3] is None and found[2][0].problem is None and len(server.seen) == 2


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(CurateError, match="cannot be written"):
        Downloader(tmp_path / "file" / "folder")


def test_a_log_that_points_elsewhere_is_not_believed(server: loopback.Server, getter: Downloader) -> None:
    server.pages["/x.mp4"] = lambda h: h.say(200, BODY)
    secret = getter.folder.parent / "secret"
    secret.write_bytes(b"x")
    entry = Outcome(server.url + "/x.mp4", "../secret", "0" * 64, 1)
    (getter.folder / LOG).write_text(json.dumps(entry.__dict__) + "\n")
    assert whole(getter, Downloader(getter.folder, client=getter.client).fetch(server.url + "/x.mp4"))


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_killed_half_way_it_goes_on(server: loopback.Server, tmp_path: Path, how: signal.Signals) -> None:
    """A run killed in the middle of a file is continued by the next one from where it was, to the same bytes."""

    def slow(handler: loopback.Handler) -> None:
        if handler.asked_from() is None:
            handler.head(200, Content_Length=len(BODY), ETag='"v1"')
            handler.wfile.write(BODY[:300_000])
            time.sleep(20)
        else:
            ranged(handler, ETag='"v1"')

    server.pages["/x.mp4"] = slow
    # what a shell starts in the background ignores SIGINT, and so would this program
    program = f"""
        import signal
        signal.signal(signal.SIGINT, signal.default_int_handler)
        from avgeo.curate.download import Downloader
        Downloader({str(tmp_path / "got")!r}).fetch({server.url + "/x.mp4"!r})
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], stderr=subprocess.DEVNULL)
    partial = tmp_path / "got" / (file_name(server.url + "/x.mp4") + ".partial")
    for _ in range(1000):
        if partial.exists() and partial.stat().st_size > 250_000:
            break
        time.sleep(0.02)
    os.kill(process.pid, how)
    process.wait(10)
    had = partial.stat().st_size
    assert 250_000 < had < len(BODY)
    getter = Downloader(tmp_path / "got", client=Client(QUICK))
    assert whole(getter, getter.fetch(server.url + "/x.mp4"))
    assert server.seen[-1][1]["Range"] == f"bytes={had}-"


@pytest.mark.parametrize(
    ("address", "near"),
    [
        ("127.0.0.1", True), ("10.1.2.3", True), ("192.168.1.1", True), ("169.254.169.254", True), ("0.0.0.0", True),
        ("100.64.0.1", True), ("::1", True), ("fe80::1%eth0", True), ("fd00::1", True), ("::ffff:127.0.0.1", True),
        ("localhost", True), ("8.8.8.8", False), ("2606:4700::1111", False), ("example.org", False),
    ],
)  # fmt: skip
def test_addresses_of_the_local_network(address: str, near: bool) -> None:
    assert inside(address) is near


def test_the_internet_does_not_redirect_into_the_local_network(
    server: loopback.Server, getter: Downloader, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = server.server_port
    server.pages["/near.mp4"] = lambda h: h.say(200, BODY)
    server.pages["/go"] = lambda h: h.say(302, b"", Location=f"http://localhost:{port}/near.mp4")
    # The server stands for one of the internet, its host's name for the local network.
    monkeypatch.setattr(polite, "inside", lambda address: address == "localhost")
    outcome = getter.fetch(server.url + "/go")
    assert failed(outcome, "redirect", "redirected from the internet to the local network") and outcome.permanent
    # A name that looks like any other is known by the address it leads to, before anything is sent there.
    asked: list[str] = []
    monkeypatch.setattr(polite, "inside", lambda address: asked.append(address) or len(asked) > 3)
    assert failed(getter.fetch(server.url + "/go?again"), "redirect", "to the local network")
    assert asked == ["127.0.0.1", "127.0.0.1", "localhost", "127.0.0.1"]
    assert [path for path, _, _ in server.seen] == ["/go", "/go?again"]


def test_user_names_in_addresses_are_neither_sent_nor_shown(server: loopback.Server, getter: Downloader) -> None:
    assert bare_url("https://me:secret@a.org/x@y.mp4?z=a@b") == "https://a.org/x@y.mp4?z=a@b"
    assert bare_url("https://a.org//b@c/d.mp4") == "https://a.org//b@c/d.mp4"
    assert failed(getter.fetch(server.url.replace("//", "//me:secret@") + "/a.mp4"), "address", "holds a user name")
    server.pages["/go"] = lambda h: h.say(302, b"", Location=server.url.replace("//", "//me:secret@") + "/a.mp4")
    assert failed(getter.fetch(server.url + "/go"), "redirect", "holds a user name")
    assert [path for path, _, _ in server.seen] == ["/go"]
