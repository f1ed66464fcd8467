"""Websockets: frames in, frames out, and clients that do not keep to the rules."""

from __future__ import annotations

import io
import os
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.server.errors import BadRequest, ClientGone
from lamina.server.http.messages import Query, Request
from lamina.server.http.websocket import WebSocket, accepted
from lamina.testing.engineapi import Client


def frame(kind: int, data: bytes, *, last: bool = True, mask: bytes | None = b"\x01\x02\x03\x04") -> bytes:
    length = len(data)
    size = bytes([length]) if length < 126 else struct.pack(">BH", 126, length) if length < 1 << 16 else struct.pack(">BQ", 127, length)
    head = bytes([(128 if last else 0) | kind, size[0] | (128 if mask else 0)]) + size[1:]
    if mask is None:
        return head + data
    return head + mask + bytes(byte ^ mask[number % 4] for number, byte in enumerate(data))


class Pieces(Client):
    """A client whose bytes come in pieces of a size."""

    def __init__(self, data: bytes, size: int) -> None:
        super().__init__()
        self._data, self._size = data, size

    def read(self, limit: int = 65536, /) -> bytes:
        piece, self._data = self._data[: self._size], self._data[self._size :]
        return piece


def all_of(client: Client) -> bytes:
    socket = WebSocket(client)
    found = b""
    while data := socket.read():
        found += data
    return found


@given(st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=300))), st.integers(1, 50), st.binary(min_size=4, max_size=4))
def test_messages_are_a_stream_whatever_pieces_they_come_in(messages: list[tuple[int, bytes]], size: int, mask: bytes) -> None:
    data = b"".join(frame(kind, content, mask=mask) for kind, content in messages)
    assert all_of(Pieces(data, size)) == b"".join(content for _, content in messages)


def test_long_messages_and_parts() -> None:
    long = os.urandom(70_000)
    data = frame(2, b"a", last=False) + frame(0, b"b") + frame(2, long) + frame(1, b"x" * 200)
    assert all_of(Pieces(data, 4096)) == b"ab" + long + b"x" * 200


def test_what_is_written_is_binary_messages() -> None:
    client = Client()
    socket = WebSocket(client)
    for size in (1, 125, 126, 65535, 65536):
        client.got.clear()
        socket.write(b"y" * size)
        assert bytes(client.got) == frame(2, b"y" * size, mask=None)


def test_a_ping_is_answered_and_a_close_too() -> None:
    client = Pieces(frame(9, b"here?") + frame(2, b"in") + frame(8, struct.pack(">H", 1000)) + frame(2, b"late"), 7)
    socket = WebSocket(client)
    gone: list[int] = []
    socket.on_gone(lambda: gone.append(1))
    assert socket.read() + socket.read() + socket.read() == b"in"
    assert bytes(client.got) == frame(10, b"here?", mask=None) + frame(8, struct.pack(">H", 1000), mask=None)
    assert gone
    with pytest.raises(ClientGone):
        socket.write(b"more")


@pytest.mark.parametrize(
    "data",
    [
        frame(2, b"not masked", mask=None),
        bytes([0xC2]) + frame(2, b"a")[1:],
        frame(3, b"no such kind"),
        frame(9, b"x" * 126),
        frame(8, b"", last=False),
    ],
)
def test_what_is_no_frame_ends_it(data: bytes) -> None:
    client = Client(data + frame(2, b"never"))
    assert all_of(client) == b""
    assert bytes(client.got) == frame(8, struct.pack(">H", 1002), mask=None)


@given(st.binary(max_size=200))
def test_anything_ends(data: bytes) -> None:
    all_of(Pieces(data, 9))


def asked(**headers: str) -> Request:
    found = {name.replace("_", "-"): value for name, value in headers.items()}
    return Request("GET", "/x", Query(""), found, io.BytesIO(), upgrade=found.get("upgrade", ""))


def test_a_request_is_agreed_to() -> None:
    found = accepted(asked(upgrade="WebSocket", sec_websocket_key="dGhlIHNhbXBsZSBub25jZQ==", sec_websocket_version="13"))
    assert found == (("Sec-WebSocket-Accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),)  # RFC 6455, 1.3


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"upgrade": "h2c", "sec_websocket_key": "dGhlIHNhbXBsZSBub25jZQ==", "sec_websocket_version": "13"},
        {"upgrade": "websocket", "sec_websocket_key": "short", "sec_websocket_version": "13"},
        {"upgrade": "websocket", "sec_websocket_key": "dGhlIHNhbXBsZSBub25jZQ==", "sec_websocket_version": "8"},
    ],
)
def test_what_is_none_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(BadRequest, match="websocket"):
        accepted(asked(**headers))
