"""Real data comes from a mirror or a server (here one on this machine), and only with the right hash."""

from __future__ import annotations

import hashlib
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from avgeo import fetch as module
from avgeo.fetch import FetchError, SourceFile, fetch, source_files

CONTENT = b"sea waves" * 1000


@pytest.fixture
def server() -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            good = self.path == "/good"
            self.send_response(404 if self.path == "/missing" else 200)
            body = CONTENT if good else b"something else"
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    httpd.server_close()


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Make one file known, at the address given."""
    monkeypatch.setenv("AVGEO_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("AVGEO_MIRROR", raising=False)

    def add(url: str) -> None:
        digest = hashlib.sha256(CONTENT).hexdigest()
        row = SourceFile("waves.ogg", "sound/waves.ogg", digest, len(CONTENT), url, "CC0", "waves")
        monkeypatch.setattr(module, "source_files", lambda: {row.name: row})

    return add


def test_the_table() -> None:
    table = source_files()
    assert {"karma.mp4", "max-heromode.mp4", "issue-515-java.mp4", "flir-iphone-device.jpg"} <= set(table)
    for row in table.values():
        assert len(row.sha256) == 64
        assert row.url.startswith("https://")
        assert row.licence and row.bytes > 0
        assert not Path(row.path).is_absolute() and ".." not in row.path
        assert Path(row.path).name == row.name


def test_downloads_once(server: str, listed, tmp_path: Path) -> None:
    listed(f"{server}/good")
    path = fetch("waves.ogg")
    assert path.read_bytes() == CONTENT
    assert path.is_relative_to(tmp_path / "cache")
    listed("http://127.0.0.1:9/never")
    assert fetch("sound/waves.ogg") == path
    path.write_bytes(b"damaged")
    with pytest.raises(FetchError, match="delete it and fetch again"):
        fetch("waves.ogg")


@pytest.mark.parametrize(("address", "message"), [("/bad", "not the file listed"), ("/missing", "cannot be reached")])
def test_wrong_answers(server: str, listed, tmp_path: Path, address: str, message: str) -> None:
    listed(server + address)
    with pytest.raises(FetchError, match=message):
        fetch("waves.ogg")
    assert not (tmp_path / "cache" / "downloads" / "sound" / "waves.ogg").exists()


def test_offline(listed) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        listed(f"http://127.0.0.1:{closed.getsockname()[1]}/x")
        with pytest.raises(FetchError, match="check the network, or set AVGEO_MIRROR") as raised:
            fetch("waves.ogg")
    assert "\n" not in str(raised.value)


def test_mirror(listed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    listed("http://127.0.0.1:9/never")
    monkeypatch.setenv("AVGEO_MIRROR", str(tmp_path / "mirror"))
    with pytest.raises(FetchError, match=r"has no sound/waves\.ogg"):
        fetch("waves.ogg")
    file = tmp_path / "mirror" / "sound" / "waves.ogg"
    file.parent.mkdir(parents=True)
    file.write_bytes(CONTENT)
    assert fetch("waves.ogg") == file
    file.write_bytes(b"other")
    with pytest.raises(FetchError, match="SHA-256"):
        fetch("waves.ogg")


def test_unknown_name() -> None:
    with pytest.raises(FetchError, match=r"choose one of karma\.mp4"):
        fetch("nothing.mp4")
