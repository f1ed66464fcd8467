"""What a handler gets and what it gives back. Nothing here knows a socket: handlers are called with these, on worker threads."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, Protocol
from urllib.parse import parse_qs, unquote

import msgspec

from lamina.oci import typed
from lamina.server.errors import BadRequest

_FALSE = ("", "0", "no", "false", "none")
_BODY_LIMIT = 8 << 20  # bytes of a JSON body


class Query:
    """The query of a request: repeated keys keep their order."""

    def __init__(self, text: str) -> None:
        self._values = parse_qs(text, keep_blank_values=True, errors="surrogateescape", max_num_fields=4096)

    def get(self, name: str, default: str = "") -> str:
        return self._values.get(name, [default])[0]

    def all(self, name: str) -> list[str]:
        return self._values.get(name, [])

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def flag(self, name: str, default: bool = False) -> bool:
        """docker's reading: everything but "", 0, no, false and none is true."""
        return self.get(name).strip().lower() not in _FALSE if name in self else default

    def integer(self, name: str, default: int = 0) -> int:
        text = self.get(name)
        if not text:
            return default
        try:
            return int(text)
        except ValueError:
            raise BadRequest(f"{name}={text}: not a number") from None

    def json(self, name: str, default: Any) -> Any:
        text = self.get(name)
        if not text:
            return default
        try:
            return _loads(text)
        except (ValueError, RecursionError):
            raise BadRequest(f"{name}: this is not JSON: {text[:80]}") from None


class Request(msgspec.Struct):
    """`path` without the version's prefix. `body` blocks until the client has sent more."""

    method: str
    path: str
    query: Query
    headers: Mapping[str, str]  # names in lower case
    body: BinaryIO
    version: tuple[int, int] = (1, 41)
    upgrade: str = ""  # "tcp", "h2c": the client asks to take over the connection and says so

    @property
    def traced(self) -> tuple[str, str]:
        """The client's traceparent and tracestate, "" without."""
        return self.headers.get("traceparent", ""), self.headers.get("tracestate", "")

    def json(self) -> dict[str, Any]:
        """The body as a JSON object; {} where there is none. BadRequest."""
        data = self.body.read(_BODY_LIMIT + 1)
        if len(data) > _BODY_LIMIT:
            raise BadRequest("the body is too large", 413)
        if not data.strip():
            return {}
        try:
            found = _loads(data)
        except (ValueError, RecursionError) as error:
            raise BadRequest(f"invalid JSON: {error}") from None
        if found is None:
            return {}
        if not isinstance(found, dict):
            raise BadRequest("invalid JSON: an object is expected")
        return found


def _loads(text: str | bytes) -> Any:
    """What a body says, with U+FFFD for halves of surrogate pairs: no text could be written or encoded with them."""
    found = json.loads(text)
    return typed.encodable(found) if isinstance(text, str) or b"\\ud" in text.lower() else found


def request(
    method: str, target: str, body: bytes | BinaryIO = b"", headers: Mapping[str, str] | None = None, version: tuple[int, int] = (1, 41)
) -> Request:
    """A request as the connection would make it; for callers without one."""
    path, _, query = target.partition("?")
    stream = io.BytesIO(body) if isinstance(body, bytes) else body
    return Request(method, unquote(path), Query(query), dict(headers or {}), stream, version)


class Answer(msgspec.Struct, frozen=True):
    """A whole answer."""

    status: int = 200
    body: bytes = b""
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()


def answer(value: object, status: int = 200, headers: tuple[tuple[str, str], ...] = ()) -> Answer:
    return Answer(status, json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace") + b"\n", headers=headers)


def nothing(status: int = 204) -> Answer:
    return Answer(status, content_type="")


class Outlet(Protocol):
    """Where a stream goes. `write` blocks while the client is slow and raises ClientGone once it has left."""

    def write(self, data: bytes | memoryview, /) -> int: ...
    def on_gone(self, act: Callable[[], None]) -> None:
        """Call `act` (from another thread, once) when the client leaves."""
        ...


class Duplex(Outlet, Protocol):
    """A connection that was taken over. `read` gives b"" once the client has ended its side; the other side stays open then."""

    def read(self, limit: int = 65536, /) -> bytes: ...


class Stream(msgspec.Struct, frozen=True):
    """The head goes out at once; then `run` writes the body on a thread of its own. An error of `run` cuts the body off."""

    run: Callable[[Outlet], None]
    content_type: str = "application/json"
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()


class Rows(msgspec.Struct, frozen=True):
    """Rows that come when they come and cost no thread meanwhile.

    `subscribe(push, end)` gives how to withdraw; `push` and `end` may be called from any thread.
    """

    subscribe: Callable[[Callable[[bytes], None], Callable[[], None]], Callable[[], None]]
    content_type: str = "application/json"


class Hijack(msgspec.Struct, frozen=True):
    """The connection becomes a raw stream in both directions: 101 when the client asked to upgrade, else 200 without any length."""

    talk: Callable[[Duplex], None]
    content_type: str = "application/vnd.docker.raw-stream"
    headers: tuple[tuple[str, str], ...] = ()


Reply = Answer | Stream | Rows | Hijack
