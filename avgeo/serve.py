"""`avgeo serve`: a page on this machine that takes a clip and shows its report. Nothing leaves the machine.

One clip is located at a time, in a process of its own, so that a damaged one costs only itself; some wait in a queue. A
clip lies in a temporary file of our own naming until it is located. Requests must name this server in `Host` (against
DNS rebinding) and uploads carry a header that no other site's page may send (no CORS is granted).
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import queue
import re
import secrets
import tempfile
import threading
import urllib.parse
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from avgeo.batch import TIME_LIMIT_S, LocateOne, locate_and_report
from avgeo.engine import map_items
from avgeo.untrusted import shown

MAX_BYTES = 500 << 20
WAITING = 8
KEPT = 32
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_IDLE_S = 60.0  # a client that says nothing for so long is dropped

_SCRIPT = """
const file = document.getElementById("clip"), said = document.getElementById("said");
document.getElementById("go").addEventListener("click", async () => {
  if (!file.files.length) { said.textContent = "Choose a clip first."; return; }
  said.textContent = "Reading the clip…";
  const sent = await fetch("clips", {method: "POST", body: file.files[0],
    headers: {"X-Avgeo-Name": encodeURIComponent(file.files[0].name)}}).catch(() => null);
  const answer = sent ? await sent.json() : {error: "The clip is too large, or the server was stopped."};
  if (answer.error) said.textContent = answer.error; else location = answer.address;
});
"""
_DIGEST = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
_POLICY = (
    f"default-src 'none'; script-src 'sha256-{_DIGEST}'; connect-src 'self'; style-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_STYLE = """body{margin:0 auto;max-width:40rem;padding:1.5rem;font:16px/1.5 system-ui,sans-serif;color:#1b2733;
background:#f6f8fa;overflow-wrap:anywhere}button,input{font:inherit;max-width:100%}a{color:#005f9e}"""


class ServeError(ValueError):
    """A server that cannot be started as asked; the message names the argument and the cure."""


@dataclass
class Job:
    """One clip that was sent: its name (text, never a path), and what became of it."""

    name: str
    file: Path
    key: str
    page: str | None = None
    refused: str | None = None


class LocateServer(ThreadingHTTPServer):
    """The server and its queue; `locate_one` and `engine` as in `avgeo.batch.locate_all`. Use it as a context."""

    daemon_threads = True

    def __init__(
        self,
        settings: Mapping[str, Any],
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        max_bytes: int = MAX_BYTES,
        locate_one: LocateOne = locate_and_report,
        engine: str = "process",
        time_limit_s: float = TIME_LIMIT_S,
    ):
        if max_bytes < 1:
            raise ServeError(f"max_bytes must be at least 1, got {max_bytes}")
        super().__init__((host, port), _Handler)
        self.names = {f"{name}:{self.server_port}" for name in (host, *_LOOPBACK[:2])}
        self.settings, self.max_bytes, self.locate_one = dict(settings), max_bytes, locate_one
        self.engine, self.time_limit_s = engine, time_limit_s
        self.jobs: OrderedDict[str, Job] = OrderedDict()
        self.waiting: queue.Queue[Job] = queue.Queue(WAITING)
        self.uploading = threading.Semaphore(2)
        self.lock = threading.Lock()
        self.folder = tempfile.TemporaryDirectory(prefix="avgeo-serve-")
        threading.Thread(target=self._work, daemon=True).start()

    def server_close(self) -> None:
        """Stop listening, and remove whatever was sent."""
        super().server_close()
        self.folder.cleanup()

    def take(self, job: Job) -> bool:
        """Put a job into the queue, or say that it is full."""
        with self.lock:
            try:
                self.waiting.put_nowait(job)
            except queue.Full:
                return False
            self.jobs[job.key] = job
            while len(self.jobs) > KEPT + WAITING:
                self.jobs.popitem(last=False)
        return True

    def _work(self) -> None:
        while True:
            job = self.waiting.get()
            try:
                (job.page, job.refused), = map_items(
                    _Located(self.locate_one, self.settings), [(job.file, job.name)], engine=self.engine, workers=1,
                    description="locate", unit="clip", failed=_failed, time_limit_s=self.time_limit_s,
                )  # fmt: skip
            except Exception as error:
                job.refused = f"{type(error).__name__}: {error}"
            finally:
                job.file.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Located:
    locate_one: LocateOne
    settings: dict[str, Any]

    def __call__(self, item: tuple[Path, str]) -> tuple[str | None, str | None]:
        file, name = item
        try:
            return self.locate_one(file, name, self.settings)[1], None
        except Exception as error:
            return None, (str(error) or type(error).__name__).replace(str(file), "the clip")


def _failed(item: tuple[Path, str], why: str) -> tuple[str | None, str | None]:
    return None, f"the clip {why}"


class _Handler(BaseHTTPRequestHandler):
    server: LocateServer  # pyright: ignore[reportIncompatibleVariableOverride]  # the one that made it
    timeout = _IDLE_S
    server_version, sys_version = "avgeo", ""

    def do_GET(self) -> None:
        """The page with the upload, or what became of a clip."""
        if not self._ours():
            return
        if self.path == "/":
            self._answer(200, _page("Where was it recorded?", self._form(), _SCRIPT))
            return
        match = re.fullmatch(r"/clips/([\w-]{10,40})", self.path)
        job = self.server.jobs.get(match[1]) if match else None
        if job is None:
            self._answer(404, _page("Not here", '<p><a href="/">Back to the start</a></p>'))
        elif job.page is not None:
            from avgeo.report.page import POLICY

            self._answer(200, job.page, policy=POLICY + "; frame-ancestors 'none'")
        elif job.refused is not None:
            said = html.escape(shown(job.refused, 500))
            self._answer(200, _page("No answer", f'<p>{said}</p><p><a href="/">Another clip</a></p>'))
        else:
            name = html.escape(shown(job.name, 200))
            said = f"<p>{name} is waiting or being located. This page asks again by itself.</p>"
            self._answer(200, _page("Working", said), Refresh="2")

    def do_POST(self) -> None:
        """Take a clip, or say in one line of JSON why not."""
        if not self._ours():
            return
        name = self.headers.get("X-Avgeo-Name")
        origin = self.headers.get("Origin")
        length = self.headers.get("Content-Length", "")
        if self.path != "/clips":
            self._say(404, "there is nothing to post to here")
        elif name is None or (origin is not None and origin.removeprefix("http://") not in self.server.names):
            self._say(403, "only this server's own page may send clips")
        elif not re.fullmatch(r"[0-9]{1,15}", length) or int(length) == 0:
            self._say(411, "an upload must say its length, more than 0 bytes")
        elif int(length) > self.server.max_bytes:
            self._say(413, f"the clip is larger than {self.server.max_bytes:,} bytes")
        elif self.server.waiting.full() or not self.server.uploading.acquire(blocking=False):
            self._say(503, "too many clips are waiting; try again later")
        else:
            try:
                self._receive(urllib.parse.unquote(name, errors="replace"), int(length))
            finally:
                self.server.uploading.release()

    def _receive(self, name: str, length: int) -> None:
        key = secrets.token_urlsafe(16)
        job = Job(name[:300], Path(self.server.folder.name, key), key)
        taken = False
        try:
            with job.file.open("wb") as file:
                left = length
                while left and (part := self.rfile.read(min(left, 1 << 20))):
                    file.write(part)
                    left -= len(part)
            if left:
                self._say(400, "the upload broke off")
                return
            taken = self.server.take(job)
        finally:
            if not taken:
                job.file.unlink(missing_ok=True)
        if taken:
            self._answer(202, json.dumps({"address": f"/clips/{job.key}"}), kind="application/json")
        else:
            self._say(503, "too many clips are waiting; try again later")

    def _ours(self) -> bool:
        if self.headers.get("Host") in self.server.names:
            return True
        self._say(421, "this server answers to its own name only")
        return False

    def _form(self) -> str:
        return (
            '<p>The clip stays on this machine and is removed once it is located.</p><p><label for="clip">A video or '
            f'sound recording, at most {self.server.max_bytes >> 20} MiB</label></p><p><input type="file" id="clip"> '
            '<button type="button" id="go">Locate</button></p><p id="said" role="status"></p>'
        )

    def _say(self, status: int, error: str) -> None:
        self._answer(status, json.dumps({"error": error}), kind="application/json")

    def _answer(self, status: int, text: str, *, kind: str = "text/html", policy: str = _POLICY, **more: str) -> None:
        body = text.encode("utf-8", "backslashreplace")
        self.close_connection = True
        self.send_response(status)
        headers = {
            "Content-Type": f"{kind}; charset=utf-8", "Content-Length": str(len(body)), "Connection": "close",
            "Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff", "Cache-Control": "no-store",
            "Referrer-Policy": "no-referrer", "Cross-Origin-Resource-Policy": "same-origin",
        }  # fmt: skip
        for name, value in (headers | more).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is logged: what was located is nobody's business."""


def loopback(host: str) -> bool:
    """Whether only this machine can reach a server at `host`."""
    return host in _LOOPBACK


def _page(title: str, body: str, script: str = "") -> str:
    tail = f"<script>{script}</script>" if script else ""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        f'content="width=device-width, initial-scale=1"><title>{title}</title><style>{_STYLE}</style></head><body>'
        f"<main><h1>{title}</h1>{body}</main>{tail}</body></html>"
    )
