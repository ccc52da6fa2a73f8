"""A polite HTTP client: http and https only, slowly, one connection per host, with limits on everything.

It asks a host for one thing at a time and at most once per interval, says who it is, comes back later when told to,
and gives up on a host that keeps failing. `robots.txt` is not read: every address is one that a person or a list
named, nothing is crawled. What it cannot have it names in one line (`DownloadError`).
"""

from __future__ import annotations

import hashlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from http.cookiejar import DefaultCookiePolicy
from typing import Any
from urllib.parse import urljoin

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection

from avgeo import __version__
from avgeo.curate.addresses import host_of, inside, url_problem

USER_AGENT = f"avgeo/{__version__} (+https://github.com/avgeo/avgeo)"
_REDIRECTS = (301, 302, 303, 307, 308)
_LATER = (408, 425, 429, *range(500, 600))
_NEVER_LATER = (501, 505)


class DownloadError(Exception):
    """Why something could not be had, in one line. `kind` sorts it; `permanent`: asking again is useless;
    `retry`: asking again soon may help; `wait_s` is how long the server asked us to wait.
    """

    def __init__(
        self, kind: str, reason: str, *, permanent: bool = False, retry: bool = True, wait_s: float | None = None
    ) -> None:
        super().__init__(reason)
        self.kind, self.reason, self.wait_s = kind, reason, wait_s
        self.permanent, self.retry = permanent, retry and not permanent


@dataclass(frozen=True)
class Limits:
    """How patient and how greedy the client is: seconds, bytes, counts."""

    max_bytes: int = 512 << 20  # of one file
    item_s: float = 1800.0  # for one file, with all its attempts and waits
    connect_s: float = 15.0
    read_s: float = 30.0  # without a byte; all response headers together may take half as long again
    stall_s: float = 30.0  # the window in which the rate below must be met
    min_bytes_per_s: float = 2048.0
    attempts: int = 5
    backoff_s: float = 1.0  # doubled each time
    max_wait_s: float = 300.0  # who asks for a longer wait is asked again by the next run
    interval_s: float = 1.0  # between two requests to one host
    max_redirects: int = 5
    host_failures: int = 5  # in a row, after which a host is left alone for this run


def retry_after_s(value: str | None, now: datetime) -> float | None:
    """Seconds that a Retry-After header asks for, given as seconds or as an HTTP date; None when it says nothing."""
    if not value:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        moment = parsedate_to_datetime(value)
    except (TypeError, ValueError):
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (moment - now).total_seconds())


# --- connections that leave the local network alone, and whose headers cannot drip for ever ---


class _Peer(threading.local):
    """Whether the connection made last was to the `inside`, and whether the next must not be (`guarded`)."""

    inside = guarded = False


_PEER = _Peer()


def _check_peer(address: str) -> None:
    _PEER.inside = inside(address)
    if _PEER.inside and _PEER.guarded:
        raise DownloadError("redirect", "redirected from the internet to the local network", permanent=True)


class _Careful:
    """Mixed into a connection: its peer is checked before anything is sent, so that what a name stands for a moment
    earlier is of no account; it is shut when its response headers, together, take 1.5 times the read timeout.
    """

    def _new_conn(self) -> socket.socket:
        sock = super()._new_conn()  # pyright: ignore[reportAttributeAccessIssue]
        if getattr(self, "proxy", None) is None:  # a proxy may well be near
            try:
                _check_peer(str(sock.getpeername()[0]))
            except BaseException:
                sock.close()
                raise
        return sock

    def getresponse(self) -> Any:
        timeout, sock = (getattr(self, name) for name in ("timeout", "sock"))
        watch = threading.Timer(1.5 * timeout, _shut, [sock])
        watch.daemon = True
        watch.start()
        try:
            return super().getresponse()  # pyright: ignore[reportAttributeAccessIssue]
        finally:
            watch.cancel()


def _shut(sock: socket.socket) -> None:
    # socket's own shutdown: that of an SSL socket forgets its state, which the waiting thread still needs
    with suppress(OSError, TypeError):  # gone, or a proxy's wrapper
        socket.socket.shutdown(sock, socket.SHUT_RDWR)


class _PlainConnection(_Careful, HTTPConnection):
    pass


class _SecureConnection(_Careful, HTTPSConnection):
    pass


class _PlainPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _PlainConnection  # pyright: ignore[reportAssignmentType]


class _SecurePool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _SecureConnection  # pyright: ignore[reportAssignmentType]


class _Adapter(HTTPAdapter):
    _pools = {"http": _PlainPool, "https": _SecurePool}  # noqa: RUF012

    def init_poolmanager(self, *args: Any, **settings: Any) -> None:
        super().init_poolmanager(*args, **settings)
        self.poolmanager.pool_classes_by_scheme = self._pools

    def proxy_manager_for(self, *args: Any, **settings: Any) -> Any:
        manager = super().proxy_manager_for(*args, **settings)
        manager.pool_classes_by_scheme = self._pools
        return manager


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> None:
        """Nowhere: the client follows redirects; requests would first read their bodies, however long."""


def _session() -> requests.Session:
    session = _Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, _Adapter(pool_maxsize=1, pool_block=True, max_retries=0))
    session.headers["User-Agent"] = USER_AGENT
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    session.auth = lambda request: request  # else requests would send what ~/.netrc has for the host
    return session


class Client:
    """Requests under `limits`. `clock` (seconds, monotonic), `sleep` and `now` can be replaced, so that tests never
    wait. Not for several threads at once.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.limits = limits or Limits()
        self.clock, self.sleep, self.now = clock, sleep, now
        self._session = _session()
        self._ready: dict[str, float] = {}  # host -> when it may be asked again
        self._failures: dict[str, int] = {}  # host -> things it failed to give, in a row
        self._given_up: dict[str, str] = {}  # host -> why it is left alone for the rest of this run

    @contextmanager
    def get(self, url: str, headers: dict[str, str], deadline: float) -> Iterator[requests.Response]:
        """The response to a GET of `url`, its body not yet read, after at most `max_redirects` redirects.

        `deadline` is on the client's clock. Raises `DownloadError` for every status but 200, 206 and 416, and for a
        redirect from the internet to a private, loopback or link-local address.
        """
        guarded = False
        for _ in range(self.limits.max_redirects + 1):
            response = self._ask(url, headers, deadline, guarded)
            guarded = not _PEER.inside
            try:
                if response.status_code not in _REDIRECTS:
                    self._check_status(response, host_of(url))
                    yield response
                    return
                location = response.headers.get("Location", "")
            finally:
                response.close()
            # requests hands headers over as Latin-1; addresses that are not ASCII come as UTF-8
            location = location.encode("latin-1", "replace").decode("utf-8", "replace").strip()
            try:
                url = urljoin(url, location)
            except ValueError:
                url = location
            problem = url_problem(url) if location else "it names no address"
            if problem:
                raise DownloadError("redirect", f"redirected to where it cannot be followed: {problem}", permanent=True)
        raise DownloadError("redirect", f"more than {self.limits.max_redirects} redirects", permanent=True)

    def _ask(self, url: str, headers: dict[str, str], deadline: float, guarded: bool) -> requests.Response:
        host = host_of(url)
        _PEER.guarded = guarded
        _check_peer(host)  # as far as its name tells; that must do where a proxy asks for us
        wait_s = self._ready.get(host, 0.0) - self.clock()
        if self.clock() + max(0.0, wait_s) >= deadline:
            raise self.out_of_time()
        if wait_s > 0:
            self.sleep(wait_s)
        # Closed after each answer: bytes beyond a wrong Content-Length cannot leak into the next one.
        told = {"Accept": "*/*", "Accept-Encoding": "identity", "Connection": "close", **headers}
        timeout = (self.limits.connect_s, self.limits.read_s)
        try:
            return self._session.get(url, headers=told, timeout=timeout, stream=True, allow_redirects=False)
        except (requests.exceptions.InvalidURL, UnicodeError) as error:
            raise DownloadError("address", f"the address is not a URL: {_named(error)}", permanent=True) from None
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise DownloadError("connection", f"{host} cannot be reached: {_named(error)}") from None
        finally:
            self._ready[host] = self.clock() + self.limits.interval_s

    def _check_status(self, response: requests.Response, host: str) -> None:
        status = response.status_code
        if status in (200, 206, 416):
            return
        name = next((f" {known.phrase}" for known in HTTPStatus if known == status), "")
        reason = f"HTTP {status}{name} from {host}"
        if status not in _LATER:
            raise DownloadError(f"http-{status}", reason, permanent=True)
        raise self._later(f"http-{status}", reason, response, status not in _NEVER_LATER)

    def _later(self, kind: str, reason: str, response: requests.Response, retry: bool = True) -> DownloadError:
        wait_s = retry_after_s(response.headers.get("Retry-After"), self.now())
        if wait_s is not None and wait_s > self.limits.max_wait_s:
            return DownloadError(kind, f"{reason}; it asks for a wait of {wait_s:.0f} s", retry=False, wait_s=wait_s)
        return DownloadError(kind, reason, wait_s=wait_s, retry=retry)

    def pieces(self, response: requests.Response, most: int, deadline: float) -> Iterator[bytes]:
        """The body as it comes, not decompressed; raises `DownloadError` when it is slow, late, too much, or breaks.

        Slow is: fewer than `min_bytes_per_s` over `stall_s` seconds.
        """
        limits, received = self.limits, 0
        since, then = self.clock(), 0
        while True:
            try:
                piece = response.raw.read1(1 << 16, decode_content=False)
            except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
                raise DownloadError("broken", f"broke off after {received} bytes: {_named(error)}") from None
            if not piece:
                return
            received += len(piece)
            if received > most:
                raise DownloadError("too-large", f"larger than {limits.max_bytes} bytes", permanent=True)
            yield piece
            now = self.clock()
            if now >= deadline:
                raise self.out_of_time()
            if now - since >= limits.stall_s:
                if received - then < limits.min_bytes_per_s * (now - since):
                    rate = (received - then) / (now - since)
                    raise DownloadError("slow", f"too slow: {rate:.0f} bytes a second for {now - since:.0f} s")
                since, then = now, received

    def out_of_time(self) -> DownloadError:
        """The error of an item that took longer than `item_s`."""
        return DownloadError("time", f"not there within {self.limits.item_s:g} s", retry=False)

    def backoff_s(self, url: str, attempt: int) -> float:
        """The wait after failed attempt 1, 2, …: doubled each time, between half and all of it by a hash of the address
        (many clients that failed together then do not come back together; yet a run is reproducible).
        """
        share = int.from_bytes(hashlib.sha256(f"{attempt}:{url}".encode("utf-8", "replace")).digest()[:8]) / 2**64
        return min(self.limits.max_wait_s, self.limits.backoff_s * 2 ** (attempt - 1)) * (0.5 + 0.5 * share)

    def persist(self, url: str, attempt: Callable[[float], Any]) -> Any:
        """What `attempt(deadline)` returns, tried again as long as the failure, the limits and the host allow."""
        limits, host = self.limits, host_of(url)
        if host in self._given_up:
            raise DownloadError("host", self._given_up[host], retry=False)
        deadline = self.clock() + limits.item_s
        for number in range(1, limits.attempts + 1):
            try:
                found = attempt(deadline)
            except DownloadError as error:
                last = number == limits.attempts or not error.retry
                wait_s = self.backoff_s(url, number) if error.wait_s is None else error.wait_s
                if not last and self.clock() + wait_s >= deadline:
                    error, last = DownloadError(error.kind, f"{error.reason}; no time is left to try again"), True
                if last:
                    self._count_failure(host, error)
                    raise error from None
                self._ready[host] = max(self._ready.get(host, 0.0), self.clock() + wait_s)
            else:
                self._failures[host] = 0
                return found
        raise AssertionError("attempts must be 1 or more")

    def _count_failure(self, host: str, error: DownloadError) -> None:
        self._failures[host] = 0 if error.permanent else self._failures.get(host, 0) + 1
        if error.wait_s is not None and error.wait_s > self.limits.max_wait_s:
            self._given_up[host] = f"{host} asked to be left alone for {error.wait_s:.0f} s; the next run tries again"
        elif self._failures[host] >= self.limits.host_failures:
            self._given_up[host] = f"{host} failed {self._failures[host]} times in a row; the next run tries again"

    def json(self, url: str, busy: Callable[[Any], bool] = lambda _: False, most: int = 64 << 20) -> Any:
        """The JSON at `url`; an answer of which `busy` says True is asked for again. Raises `DownloadError`."""

        def attempt(deadline: float) -> Any:
            with self.get(url, {"Accept": "application/json"}, deadline) as response:
                if response.status_code != 200:
                    raise DownloadError("http-status", f"HTTP {response.status_code} from {host_of(url)}")
                body = b"".join(self.pieces(response, most, deadline))
                try:
                    found = json.loads(body)
                except (ValueError, RecursionError):
                    raise DownloadError("json", f"{host_of(url)} sent no JSON") from None
                if busy(found):
                    raise self._later("busy", f"{host_of(url)} is busy", response)
                return found

        return self.persist(url, attempt)


def _named(error: BaseException) -> str:
    """An error's innermost cause in words, without addresses, which may hold keys."""
    for _ in range(8):
        parts = (getattr(error, "reason", None), *error.args, error.__cause__)
        inner = next((part for part in parts if isinstance(part, BaseException)), None)
        if inner is None:
            break
        error = inner
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    known = {
        "NameResolutionError": "its name is not known",
        "NewConnectionError": "no connection",
        "ConnectTimeoutError": "no connection in time",
        "ReadTimeoutError": "no answer in time",
        "TimeoutError": "no answer in time",
        "RemoteDisconnected": "it closed the connection without an answer",
        "IncompleteRead": "fewer bytes than announced",
        "SSLError": "its certificate or TLS is not in order",
        "SSLCertVerificationError": "its certificate is not valid",
    }
    return known.get(type(error).__name__, type(error).__name__)
