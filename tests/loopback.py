"""A real HTTP server on loopback that does as it is told, however wrong; and a clock that nobody waits for."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Page = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Pages are functions of the handler; `count` says which visit of the path this is, from 1."""

    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        with self.server.lock:
            self.server.seen.append((self.path, dict(self.headers), time.monotonic()))
            self.count = sum(seen.split("?")[0] == path for seen, _, _ in self.server.seen)
        page = self.server.pages.get(path)
        self.close_connection = True
        with suppress(BrokenPipeError, ConnectionResetError):
            page(self) if page else self.say(404, b"nothing here")

    do_HEAD = do_GET

    def head(self, status: int, **headers: Any) -> None:
        """The status line and headers; underscores stand for hyphens."""
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        if self.close_connection:  # unsaid, the client's next request would race with the closing
            self.send_header("Connection", "close")
        self.end_headers()

    def say(self, status: int, body: bytes, **headers: Any) -> None:
        """A whole answer with its right length, unless `headers` say otherwise."""
        self.head(status, **{"Content_Length": len(body), "Content_Type": "video/mp4", **headers})
        if self.command != "HEAD":
            self.wfile.write(body)

    def asked_from(self) -> int | None:
        """The first byte of the Range that was asked for."""
        span = self.headers.get("Range")
        return int(span.removeprefix("bytes=").rstrip("-")) if span else None

    def reset(self) -> None:
        """Break the connection with a TCP reset."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        # The socket is closed for good only when its last user lets go.
        self.wfile.flush()
        self.rfile.close()
        self.wfile.close()
        self.connection.close()

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    """`pages` maps paths to functions; `seen` lists (path with query, headers, time) of every request."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.pages: dict[str, Page] = {}
        self.seen: list[tuple[str, dict[str, str], float]] = []
        self.lock = threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


@contextmanager
def running() -> Iterator[Server]:
    """A server in a thread of its own, shut down at the end."""
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=[0.01], daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Clock:
    """Time that passes only by sleeping; `slept` lists the waits in seconds."""

    def __init__(self) -> None:
        self.time_s = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.time_s

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time_s += seconds
