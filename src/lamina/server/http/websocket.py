"""A websocket (RFC 6455) at a connection that was taken over: its messages are a stream of bytes, both ways."""

from __future__ import annotations

import base64
import binascii
import hashlib
import struct
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from lamina.server.errors import BadRequest, ClientGone

if TYPE_CHECKING:
    from lamina.server.http.messages import Duplex, Request

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 1.3
_MORE, _TEXT, _BINARY, _CLOSE, _PING, _PONG = 0, 1, 2, 8, 9, 10
_NORMAL, _PROTOCOL_ERROR = 1000, 1002
_CONTROL = 125  # bytes that a control frame has at most


def accepted(request: Request) -> tuple[tuple[str, str], ...]:
    """The headers by which a request for a websocket is agreed to. BadRequest when it is none."""
    key = request.headers.get("sec-websocket-key", "")
    try:
        fits = len(base64.b64decode(key, validate=True)) == 16
    except (binascii.Error, ValueError):
        fits = False
    if request.upgrade.lower() != "websocket" or not fits:
        raise BadRequest("this path is a websocket: Connection: Upgrade, Upgrade: websocket and Sec-WebSocket-Key are needed")
    if request.headers.get("sec-websocket-version", "") != "13":
        raise BadRequest("websockets of version 13 are spoken here (RFC 6455)")
    return (("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key.encode() + _GUID).digest()).decode()),)


class WebSocket:
    """A Duplex. One thread reads, others write. What the client sends in text and binary messages is one stream; each write is a binary message."""

    def __init__(self, duplex: Duplex) -> None:
        self._duplex = duplex
        self._writing = threading.Lock()
        self._closed = False
        self._acts: list[Callable[[], None]] = []
        self._rest = b""
        self._left = 0  # bytes of the message's frame that are still to come
        self._mask = b""

    def on_gone(self, act: Callable[[], None]) -> None:
        self._acts.append(act)
        self._duplex.on_gone(act)

    def write(self, data: bytes | memoryview, /) -> int:
        if self._closed:
            raise ClientGone
        self._send(_BINARY, bytes(data))
        return len(data)

    def close(self, code: int = _NORMAL) -> None:
        """Idempotent."""
        if not self._closed:
            self._closed = True
            try:
                self._send(_CLOSE, struct.pack(">H", code))
            except ClientGone:
                pass

    def read(self, limit: int = 65536, /) -> bytes:
        """b"" when the client has closed; then nothing can be written any more either."""
        while not self._closed:
            try:
                if self._left:
                    return self._content(min(self._left, limit))
                self._frame()
            except _Crooked:
                self._end(_PROTOCOL_ERROR)
            except EOFError:
                self._end(None)
        return b""

    def _frame(self) -> None:
        """The head of a frame, and all of one that says something about the connection itself."""
        first, second = self._exactly(2)
        kind, length = first & 15, second & 127
        if first & 0x70 or not second & 128 or kind not in (_MORE, _TEXT, _BINARY, _CLOSE, _PING, _PONG):
            raise _Crooked
        if kind >= _CLOSE and (length > _CONTROL or not first & 128):
            raise _Crooked
        if length == 126:
            (length,) = struct.unpack(">H", self._exactly(2))
        elif length == 127:
            (length,) = struct.unpack(">Q", self._exactly(8))
        self._mask = self._exactly(4)
        if kind < _CLOSE:
            self._left = length
            return
        content = _masked(self._exactly(length), self._mask)
        if kind == _CLOSE:
            self._end(_NORMAL)
        elif kind == _PING:
            self._send(_PONG, content)

    def _content(self, most: int) -> bytes:
        if not self._rest:
            self._rest = self._more()
        piece, self._rest = self._rest[:most], self._rest[most:]
        self._left -= len(piece)
        found = _masked(piece, self._mask)
        turn = len(piece) % 4
        self._mask = self._mask[turn:] + self._mask[:turn]
        return found

    def _exactly(self, count: int) -> bytes:
        while len(self._rest) < count:
            self._rest += self._more()
        found, self._rest = self._rest[:count], self._rest[count:]
        return found

    def _more(self) -> bytes:
        data = self._duplex.read()
        if not data:
            raise EOFError
        return data

    def _end(self, code: int | None) -> None:
        if code is None:
            self._closed = True
        self.close(code or _NORMAL)
        for act in self._acts:
            act()

    def _send(self, kind: int, content: bytes) -> None:
        length = len(content)
        head = struct.pack(">BB", 128 | kind, length) if length < 126 else struct.pack(">BBH", 128 | kind, 126, length & 0xFFFF)
        if length >= 1 << 16:
            head = struct.pack(">BBQ", 128 | kind, 127, length)
        with self._writing:
            self._duplex.write(head + content)


class _Crooked(Exception):
    """No frame of a client's."""


def _masked(data: bytes, mask: bytes) -> bytes:
    key = (mask * (len(data) // 4 + 1))[: len(data)]
    return (int.from_bytes(data, "big") ^ int.from_bytes(key, "big")).to_bytes(len(data), "big")
