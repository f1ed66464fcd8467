"""Attaching over a websocket, at a real `lamina serve`."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamina.testing import bases, soak

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="containers of this test run as root"),
    pytest.mark.skipif(bases.why_not() is not None, reason=bases.why_not() or ""),
]

KEY = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[soak.Engine]:
    with soak.served(Path(tmp_path_factory.mktemp("websocket"))) as engine:
        yield engine


def attach(engine: soak.Engine, path: str, headers: str = KEY, upgrade: str = "websocket") -> tuple[socket.socket, bytes]:
    """(the connection, the head of the answer)."""
    connection = engine.connect()
    connection.sendall(f"GET /v1.41{path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: {upgrade}\r\n{headers}\r\n".encode())
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += connection.recv(1)
    return connection, head


def sent(kind: int, data: bytes) -> bytes:
    return bytes([128 | kind, 128 | len(data)]) + b"\0\0\0\0" + data


def received(connection: socket.socket) -> tuple[int, bytes]:
    first, length = _exactly(connection, 2)
    return first & 15, _exactly(connection, length)


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = connection.recv(count - len(data))
        assert piece, "the engine has closed"
        data += piece
    return data


def test_what_is_typed_comes_back_and_a_close_ends_it(engine: soak.Engine) -> None:
    identifier = soak.create(engine, "cat", OpenStdin=True)
    connection, head = attach(engine, f"/containers/{identifier}/attach/ws?stream=1&stdin=1&stdout=1")
    with connection:
        assert head.startswith(b"HTTP/1.1 101 ")
        assert b"sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n" in head.lower()
        connection.sendall(sent(1, b"typed\n"))
        assert received(connection) == (2, b"typed\n")
        connection.sendall(sent(9, b"there?"))
        assert received(connection) == (10, b"there?")
        connection.sendall(sent(8, b""))
        assert received(connection) == (8, b"\x03\xe8")
        assert connection.recv(1) == b""
    assert engine.good("GET", f"/containers/{identifier}/json")["State"]["Running"]
    engine.good("DELETE", f"/containers/{identifier}?force=1")


def test_both_outputs_are_one_stream_and_the_end_is_a_close(engine: soak.Engine) -> None:
    identifier = soak.create(engine, "sh", "-c", "read line; echo out; sleep 0.1; echo err >&2", OpenStdin=True)
    reading, _ = attach(engine, f"/containers/{identifier}/attach/ws?stream=1&stdout=1&stderr=1")
    typing, _ = attach(engine, f"/containers/{identifier}/attach/ws?stream=1&stdin=1")
    with reading, typing:
        typing.sendall(sent(2, b"go\n"))
        found = b""
        while (message := received(reading))[0] == 2:
            found += message[1]
        assert (found, message) == (b"out\nerr\n", (8, b"\x03\xe8"))
    engine.good("DELETE", f"/containers/{identifier}?force=1")


def test_who_is_no_websocket_is_told_so(engine: soak.Engine) -> None:
    identifier = soak.create(engine, "sleep", "100")
    path = f"/containers/{identifier}/attach/ws?stream=1&stdout=1"
    for headers, upgrade in (("", "websocket"), (KEY, "tcp")):
        connection, head = attach(engine, path, headers, upgrade)
        with connection:
            assert head.startswith(b"HTTP/1.1 400 ")
    connection, head = attach(engine, path, KEY + "Origin: http://somewhere\r\n")
    with connection:
        assert head.startswith(b"HTTP/1.1 403 ")
    status, body = engine.call("GET", path)
    assert (status, b"this path is a websocket" in body) == (400, True)
    engine.good("DELETE", f"/containers/{identifier}?force=1")
