"""A step's engine over its socket: plain requests, bodies that stream, connections that are taken over."""

from __future__ import annotations

import base64
import http.client
import json
import socket
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, cast
from urllib.parse import quote, urlencode

from lamina.diagnostics.errors import LaminaError

PIECE = 1 << 17
_VERSION = "/v1.41"
Query = Iterable[tuple[str, str]]
Json = dict[str, object]


class EngineError(LaminaError):
    """What the engine said, in its words. `status` 0: it does not answer."""

    code = "pipeline/docker"

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, place: Path) -> None:
        super().__init__("localhost")
        self._place = place

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self._place))


class Answer:
    """Of one request, still to be read. Use as a context manager."""

    def __init__(self, connection: UnixConnection, response: http.client.HTTPResponse) -> None:
        self._connection = connection
        self._response = response

    def __enter__(self) -> Answer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._response.close()
        self._connection.close()

    def read(self, size: int = -1) -> bytes:
        """EngineError when the engine went away."""
        try:
            return self._response.read(size) if size >= 0 else self._response.read()
        except (OSError, http.client.HTTPException) as error:
            raise EngineError("the docker service went away") from error

    def pieces(self) -> Iterator[bytes]:
        """As they come."""
        while True:
            try:
                data = self._response.read1(PIECE)
            except (OSError, http.client.HTTPException) as error:
                raise EngineError("the docker service went away") from error
            if not data:
                return
            yield data

    def rows(self) -> Iterator[Json]:
        """JSON documents, one a line."""
        rest = b""
        for data in self.pieces():
            *lines, rest = (rest + data).split(b"\n")
            for line in (*lines,):
                if line.strip():
                    yield json.loads(line)
        if rest.strip():
            yield json.loads(rest)


class Engine:
    """Thread-safe: every request has a connection of its own."""

    def __init__(self, place: Path) -> None:
        self._place = place

    def ask(
        self,
        method: str,
        path: str,
        query: Query = (),
        *,
        body: bytes | Iterable[bytes] | BinaryIO | None = None,
        kind: str = "application/json",
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """EngineError for every status from 400 on. `body` other than bytes is sent in pieces."""
        connection = UnixConnection(self._place)
        given = dict(headers or {}) | ({} if body is None else {"Content-Type": kind})
        whole = body is None or isinstance(body, bytes)
        try:
            try:
                connection.request(method, _target(path, query), body=_sent(body), headers=given, encode_chunked=not whole)
            except BrokenPipeError:
                pass  # it has answered before it had read everything
            response = connection.getresponse()
            if response.status >= 400:
                data = response.read()
                connection.close()
                raise EngineError(message_of(data), response.status)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise EngineError(f"the docker service does not answer: {error}") from error
        return Answer(connection, response)

    def document(self, method: str, path: str, query: Query = (), *, body: object = None) -> object:
        """The answer as JSON; None when there is none."""
        data = None if body is None else json.dumps(body).encode()
        with self.ask(method, path, query, body=data) as answer:
            text = answer.read()
        return json.loads(text) if text.strip() else None

    def take_over(self, method: str, path: str, query: Query = (), body: object = None) -> tuple[socket.socket, bytes]:
        """A raw stream after the engine's 101 or 200: the connection, and what had come already. The caller closes it."""
        link = socket.socket(socket.AF_UNIX)
        data = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {_target(path, query)} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        try:
            link.connect(str(self._place))
            link.sendall(head.encode() + data)
            got = b""
            while b"\r\n\r\n" not in got:
                more = link.recv(PIECE)
                if not more:
                    raise OSError("it closed the connection")
                got += more
            begin, _, rest = got.partition(b"\r\n\r\n")
            status = int(begin.split(b" ", 2)[1])
            if status >= 400:
                link.settimeout(5)
                raise EngineError(message_of(rest or link.recv(PIECE)), status)
        except (OSError, ValueError, IndexError) as error:
            link.close()
            raise EngineError(f"the docker service does not answer: {error}") from error
        except EngineError:
            link.close()
            raise
        return link, rest


def _target(path: str, query: Query) -> str:
    words = urlencode(list(query))
    return _VERSION + quote(path, safe="/:@%") + (f"?{words}" if words else "")


def _sent(body: bytes | Iterable[bytes] | BinaryIO | None) -> bytes | Iterable[bytes] | None:
    if body is None or isinstance(body, bytes):
        return body
    if hasattr(body, "read"):
        file = cast(BinaryIO, body)
        return iter(lambda: file.read(PIECE), b"")
    return body


def message_of(answer: bytes) -> str:
    try:
        return str(json.loads(answer)["message"])
    except (ValueError, KeyError, TypeError):
        return answer[:200].decode(errors="replace") or "no reason was given"


def packed(document: object) -> str:
    """For X-Registry-Auth and X-Registry-Config."""
    return base64.urlsafe_b64encode(json.dumps(document).encode()).decode()
