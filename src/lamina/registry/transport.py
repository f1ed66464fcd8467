"""HTTP for registries: one border where urllib3's exceptions become ours.

Retries only what may go away by waiting (no connection, time-outs, 408, 429, 5xx), follows redirects itself and leaves
credentials behind when the host changes, never goes from https to http. urllib3 is imported by the first request.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import SplitResult, urljoin, urlsplit

from lamina.registry.errors import RegistryError, RegistryProtocolError, RegistryUnreachable, shown
from lamina.registry.hosts import Proxies, is_loopback
from lamina.registry.trust import context_for, own_certificates
from lamina.version import __version__

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse, PoolManager

TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_PRIVATE = ("authorization", "cookie", "proxy-authorization")
_MAX_REDIRECTS = 5
_MAX_WAIT = 30.0  # seconds; a registry that asks for more is reported, not waited for
_CHUNK = 1 << 18
_SLOWEST = 1 << 10  # bytes in a second

_T = TypeVar("_T")
Body = bytes | Callable[[], Iterable[bytes]]
"""What is sent: bytes, or pieces that can be asked for again when a request has to be repeated (the caller gives Content-Length)."""


@dataclass(frozen=True, slots=True)
class TransportSettings:
    """All that the outside decides. `plain_http`: hosts (with port) that may be spoken to without TLS, beside loopback.

    `ca_file` is trusted beside the system's authorities; `certificates` are folders as /etc/docker/certs.d (see registry/trust.py).
    """

    proxies: Proxies = field(default_factory=Proxies)
    plain_http: frozenset[str] = frozenset()
    ca_file: Path | None = None
    certificates: tuple[Path, ...] = ()
    connect_timeout: float = 15.0  # seconds
    read_timeout: float = 60.0  # seconds without a byte
    attempts: int = 4
    patience: float | None = None  # seconds; a request that took longer is not repeated
    user_agent: str = field(default=f"lamina/{__version__}")
    connections: int = 8


class Torn(RegistryUnreachable):
    """The connection ended inside a body; what was read so far is good."""


class Trickle(Torn):
    """It did not end, but there is no waiting for it."""


class Response:
    """An open answer. Header names are matched without case; the body is read once, as it was sent (no decoding)."""

    def __init__(self, raw: BaseHTTPResponse, url: str, patience: float = 60.0) -> None:
        self._raw = raw
        self._patience = patience
        self.url = url
        self.status = raw.status

    def header(self, name: str) -> str:
        return self._raw.headers.get(name, "")

    def headers(self, name: str) -> list[str]:
        return list(self._raw.headers.getlist(name))

    def chunks(self) -> Iterator[bytes]:
        """The body in pieces; raises Torn when it ends early, or trickles on: less than 1 KiB for each second that it was waited for.

        The caller limits the sum.
        """
        from urllib3.exceptions import HTTPError

        waited, got = 0.0, 0
        while True:
            begun = time.monotonic()
            try:
                piece = self._raw.read1(_CHUNK, decode_content=False)
            except HTTPError as error:
                raise Torn(f"the connection to {shown(self.url)} broke: {_plain(error)}") from error
            if not piece:
                return
            waited, got = waited + time.monotonic() - begun, got + len(piece)
            if waited > self._patience:
                if got < waited * _SLOWEST:
                    raise Trickle(f"{shown(self.url)} sends less than {_SLOWEST} bytes in a second")
                waited, got = 0.0, 0
            yield piece

    def read(self, limit: int) -> bytes:
        """The whole body, at most `limit` bytes; a longer one is a RegistryProtocolError."""
        pieces: list[bytes] = []
        total = 0
        for piece in self.chunks():
            total += len(piece)
            if total > limit:
                raise RegistryProtocolError(f"{shown(self.url)} sent more than the {limit} bytes that are allowed there")
            pieces.append(piece)
        return b"".join(pieces)


class Transport:
    """Thread-safe. `sleep` is replaced in tests; `random` spreads the retries of many clients."""

    def __init__(self, settings: TransportSettings | None = None, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self.settings = settings or TransportSettings()
        self._sleep = sleep
        self._pools: dict[tuple[str, str], PoolManager] = {}
        self._lock = threading.Lock()

    def plain_allowed(self, host: str) -> bool:
        return is_loopback(host) or host in self.settings.plain_http

    @contextmanager
    def request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None = None,
        *,
        body: Body | None = None,
        retry: bool = True,
        redirects: bool = True,
    ) -> Iterator[Response]:
        """The final answer after redirects, whatever its status (statuses that may go away are retried first). Closed on exit.

        With retry=False such a status is the answer. `redirects=False` leaves a redirect to the caller: for bodies that are secret.
        Raises RegistryUnreachable, RegistryProtocolError (redirect loops, unsafe redirects, not HTTP).
        """
        attempts = self.settings.attempts if retry else 1
        raw, final = self._follow(method, url, dict(headers or {}), body, attempts, redirects=redirects)
        try:
            yield Response(raw, final, self.settings.read_timeout)
        finally:
            # An unread body may be endless: closing the socket is cheaper than draining it.
            if raw.closed:
                raw.release_conn()
            else:
                raw.close()

    def pause(self, attempt: int, asked: str = "") -> bool:
        """Wait before attempt `attempt` + 1: as long as the Retry-After value `asked` says, else longer each time.

        False, without waiting, when the attempts are used up or the wait asked for is too long.
        """
        wait = _retry_after(asked)
        if attempt >= self.settings.attempts or (wait is not None and wait > _MAX_WAIT):
            return False
        self._sleep(wait if wait is not None else _backoff(attempt))
        return True

    def whole(self, work: Callable[[], _T]) -> _T:
        """`work`, which asks and reads a small answer to its end; from the beginning again when that broke off."""
        attempt = 0
        while True:
            attempt += 1
            try:
                return work()
            except Torn as torn:
                if isinstance(torn, Trickle) or not self.pause(attempt):
                    raise

    def _follow(
        self, method: str, url: str, headers: dict[str, str], body: Body | None, attempts: int, *, redirects: bool
    ) -> tuple[BaseHTTPResponse, str]:
        headers = {"User-Agent": self.settings.user_agent, "Accept-Encoding": "identity", **headers}
        first = url
        for _ in range(_MAX_REDIRECTS + 1):
            raw = self._send(method, url, headers, body, attempts)
            location = raw.headers.get("Location", "")
            if raw.status not in _REDIRECTS or not location or not redirects:
                return raw, url
            raw.close()
            target = joined(url, location)
            if origin(target) != origin(url):
                headers = {k: v for k, v in headers.items() if k.lower() not in _PRIVATE}
                if urlsplit(url).scheme == "https" and urlsplit(target).scheme != "https":
                    raise RegistryProtocolError(f"{shown(url)} redirects to {shown(target)}, away from https")
            if raw.status == 303 and method != "HEAD":
                method, body = "GET", None
                headers = {k: v for k, v in headers.items() if not k.lower().startswith("content-")}
            url = target
        raise RegistryProtocolError(f"{shown(first)} redirects more than {_MAX_REDIRECTS} times")

    def _send(self, method: str, url: str, headers: Mapping[str, str], body: Body | None, attempts: int) -> BaseHTTPResponse:
        from urllib3.exceptions import HTTPError

        self._check(url)
        pool = self._pool(url)
        attempt = 0
        begun = time.monotonic()
        while True:
            attempt += 1
            last = attempt >= attempts
            data = body() if callable(body) else body
            try:
                raw = pool.request(method, url, body=data, headers=dict(headers), retries=False, redirect=False, preload_content=False)
            except HTTPError as error:
                mapped = _mapped(error, url)
                wait = _backoff(attempt)
                if last or not mapped.transient or self._too_long(begun, wait):
                    raise mapped from error
                self._sleep(wait)
                continue
            if raw.status not in TRANSIENT or (last and attempts == 1):
                return raw
            asked = raw.headers.get("Retry-After", "")
            status = raw.status
            raw.close()
            said = _retry_after(asked)
            wait = said if said is not None else _backoff(attempt)
            if last or wait > _MAX_WAIT or self._too_long(begun, wait):
                raise come_back_later(url, status, asked)
            self._sleep(wait)

    def _too_long(self, begun: float, wait: float) -> bool:
        patience = self.settings.patience
        return patience is not None and time.monotonic() - begun + wait > patience

    def _check(self, url: str) -> None:
        parts = taken_apart(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise RegistryProtocolError(f"{shown(url)} is not an http(s) address")
        host = parts.netloc.rpartition("@")[2]
        if parts.scheme == "http" and not self.plain_allowed(host):
            hint = "name the host as an insecure registry if its network is trusted (--insecure-registry)"
            raise RegistryProtocolError(f"{host} asks for plain http", hint=hint)

    def _pool(self, url: str) -> PoolManager:
        import urllib3

        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        proxy = self.settings.proxies.url_for(parts.scheme, host)
        own = own_certificates(self.settings.certificates, host) if parts.scheme == "https" and self.settings.certificates else None
        key = (proxy, host if own else "")
        with self._lock:
            pool = self._pools.get(key)
            if pool is None:
                timeout = urllib3.Timeout(connect=self.settings.connect_timeout, read=self.settings.read_timeout)
                context = context_for(self.settings.ca_file, own)
                size = self.settings.connections
                if proxy:
                    pool = urllib3.ProxyManager(
                        proxy, maxsize=size, timeout=timeout, ssl_context=context, proxy_headers=_proxy_headers(proxy)
                    )
                else:
                    pool = urllib3.PoolManager(maxsize=size, timeout=timeout, ssl_context=context)
                self._pools[key] = pool
            return pool

    def close(self) -> None:
        with self._lock:
            for pool in self._pools.values():
                pool.clear()
            self._pools.clear()


_PHRASES = {
    408: "request time-out",
    429: "too many requests",
    500: "internal error",
    502: "bad gateway",
    503: "unavailable",
    504: "gateway time-out",
}


def come_back_later(url: str, status: int, asked: str = "") -> RegistryUnreachable:
    """The error for a status that may go away; `asked` is its Retry-After."""
    wait = _retry_after(asked)
    again = f"; it asks to wait {wait:.0f} s" if wait is not None else ""
    hint = "the registry limits how often it may be asked; try later, or log in" if status == 429 else None
    return RegistryUnreachable(f"{shown(url)} answers {status} ({_PHRASES[status]}){again}", hint=hint)


def origin(url: str) -> tuple[str, str, int]:
    """(scheme, host, port): credentials for one are for no other."""
    parts = taken_apart(url)
    return parts.scheme, (parts.hostname or "").lower(), parts.port or (443 if parts.scheme == "https" else 80)


def taken_apart(url: str) -> SplitResult:
    """An address that somebody else may have written; RegistryProtocolError where it cannot be read."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # read when it is asked for
    except ValueError as error:
        raise RegistryProtocolError("the registry names an address that cannot be read") from error
    return parts


def joined(base: str, location: str) -> str:
    """Where a Location header leads; RegistryProtocolError where that cannot be read."""
    try:
        return urljoin(base, location)
    except ValueError as error:
        raise RegistryProtocolError(f"{shown(base)} leads to an address that cannot be read") from error


def _backoff(attempt: int) -> float:
    return min(8.0, 0.25 * 2.0**attempt) * (0.75 + random.random() / 2)


def _retry_after(value: str) -> float | None:
    """Seconds (the form registries send); the date form is read too. None when absent or unreadable."""
    value = value.strip()
    if not value:
        return None
    if value.isascii() and value.isdigit():
        return float(value[:9])
    from email.utils import parsedate_to_datetime

    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _proxy_headers(proxy: str) -> dict[str, str] | None:
    from urllib.parse import unquote

    import urllib3

    user, at, _ = urlsplit(proxy).netloc.rpartition("@")
    return urllib3.make_headers(proxy_basic_auth=unquote(user)) if at else None


def _plain(error: BaseException) -> str:
    """urllib3's text without object reprs and nested argument lists."""
    from urllib3.exceptions import IncompleteRead, ReadTimeoutError

    for inner in (error, *getattr(error, "args", ())):
        if isinstance(inner, IncompleteRead):
            return "the body ended early"
        if isinstance(inner, ReadTimeoutError):
            return "no answer in time"
        if isinstance(inner, OSError) and inner.strerror:
            return inner.strerror
    text = str(error)
    return text.rsplit(": ", 1)[-1].strip("()'\"") or type(error).__name__


def _hung_up(error: Exception) -> bool:
    """TLS ended before it was agreed upon: the server is going away or starting again, and has said nothing of certificates."""
    import ssl

    return any(isinstance(inner, ssl.SSLEOFError | ssl.SSLZeroReturnError) for inner in error.args)


def _mapped(error: Exception, url: str) -> RegistryError:
    """The one table from urllib3's exceptions to ours."""
    from urllib3 import exceptions as u

    host = urlsplit(url).netloc.rpartition("@")[2]
    if isinstance(error, u.NameResolutionError):
        hint = "check the registry's name, the network and the proxy settings"
        return RegistryUnreachable(f"the name {host} cannot be resolved", hint=hint)
    if isinstance(error, u.ProxyError):
        return RegistryUnreachable(f"the proxy on the way to {host} does not answer: {_plain(error)}")
    if isinstance(error, u.NewConnectionError):  # before its own base class, ConnectTimeoutError
        return RegistryUnreachable(f"no connection to {host}: {_plain(error)}")
    if isinstance(error, u.ConnectTimeoutError | u.ReadTimeoutError):
        return RegistryUnreachable(f"{host} does not answer in time")
    if isinstance(error, u.SSLError) and not _hung_up(error):
        text = _plain(error)
        hint = "a private certificate authority is named with --registry-ca FILE"
        return RegistryProtocolError(f"the TLS connection to {host} failed: {text}", hint=hint)
    if isinstance(error, u.LocationParseError | u.LocationValueError):
        return RegistryProtocolError(f"{host}: no address that can be asked", hint="a port is a number up to 65535")
    return RegistryUnreachable(f"the connection to {host} broke: {_plain(error)}")
