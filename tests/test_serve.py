"""The local page, over loopback: what it takes, what it refuses, and what it leaves behind."""

from __future__ import annotations

import json
import threading
import time
from http.client import HTTPConnection
from pathlib import Path

import pytest

from avgeo.serve import LocateServer, ServeError, loopback

NAME = "..%2F..%2Fetc%2F%3Cb%3Epasswd"


def told(file: Path, name: str, settings):
    """Stands in for locating: a page that says what was received."""
    if b"bad" in file.read_bytes():
        raise ValueError(f"{file}: is <b>damaged</b>")
    return {}, f"<!doctype html><p>{len(file.read_bytes())} bytes</p>"


@pytest.fixture
def server():
    with LocateServer({}, max_bytes=1000, locate_one=told, engine="local") as running:
        thread = threading.Thread(target=running.serve_forever, args=[0.01], daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def ask(server, method, path, body=None, **headers):
    connection = HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    connection.request(method, path, body, {k.replace("_", "-"): v for k, v in headers.items()})
    answer = connection.getresponse()
    return answer.status, answer.read().decode(), dict(answer.headers)


def sent(server, body):
    status, said, _ = ask(server, "POST", "/clips", body, X_Avgeo_Name=NAME)
    assert status == 202
    address = json.loads(said)["address"]
    deadline = time.monotonic() + 20
    while "being located" in (page := ask(server, "GET", address))[1]:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return page


def test_a_clip_is_located_and_its_file_is_gone(server):
    status, text, headers = sent(server, b"x" * 900)
    assert status == 200 and "900 bytes" in text
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    deadline = time.monotonic() + 5
    while left := list(Path(server.folder.name).iterdir()):
        assert time.monotonic() < deadline, left


def test_a_damaged_clip_is_refused_in_escaped_words_without_our_path(server):
    _, text, _ = sent(server, b"bad")
    assert "the clip: is &lt;b&gt;damaged&lt;/b&gt;" in text and server.folder.name not in text
    assert "1 bytes" in sent(server, b"x")[1]  # and the next one is taken


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "localhost:1", "127.0.0.1:80@evil.example"])
def test_another_host_is_refused(server, host):
    assert ask(server, "GET", "/", Host=host)[0] == 421
    assert ask(server, "POST", "/clips", b"x", Host=host, X_Avgeo_Name="a")[0] == 421


def test_another_site_cannot_send(server):
    assert ask(server, "POST", "/clips", b"x")[0] == 403
    assert ask(server, "POST", "/clips", b"x", X_Avgeo_Name="a", Origin="http://evil.example")[0] == 403
    assert ask(server, "OPTIONS", "/clips")[0] == 501  # no preflight is granted
    assert "Access-Control-Allow-Origin" not in ask(server, "GET", "/")[2]
    assert not server.jobs


def test_sizes_are_limited(server):
    assert ask(server, "POST", "/clips", b"x" * 1001, X_Avgeo_Name="a")[0] == 413
    assert ask(server, "POST", "/clips", b"", X_Avgeo_Name="a")[0] == 411
    assert ask(server, "POST", "/clips", b"", X_Avgeo_Name="a", Content_Length="-5")[0] == 411
    assert list(Path(server.folder.name).iterdir()) == []


@pytest.mark.parametrize("path", ["/clips/../../etc/passwd", "/etc/passwd", "/clips/", "/clips", "/clips/" + "a" * 22])
def test_nothing_else_is_there(server, path):
    assert ask(server, "GET", path)[0] == 404


def test_the_folder_goes_with_the_server():
    with LocateServer({}, locate_one=told, engine="local") as running:
        folder = Path(running.folder.name)
        assert folder.is_dir() and running.server_address[0] == "127.0.0.1"
    assert not folder.exists()
    with pytest.raises(ServeError, match="max_bytes"):
        LocateServer({}, max_bytes=0)
    assert loopback("localhost") and not loopback("0.0.0.0")
