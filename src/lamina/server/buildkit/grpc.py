"""gRPC over our HTTP/2: messages with their length before them, a status at the end. Both ends, without compression."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar
from urllib.parse import quote, unquote

from lamina.diagnostics.errors import LaminaError
from lamina.server.buildkit.http2 import Headers, Http2, Reset, Stream
from lamina.server.buildkit.wire import Message, WireError, decode, encode
from lamina.server.errors import ClientGone, message_of

M = TypeVar("M", bound=Message)

_LIMIT = 16 << 20  # bytes of a message that comes in
OK, CANCELED, UNKNOWN, INVALID, NOT_FOUND, ALREADY_EXISTS, PRECONDITION, UNIMPLEMENTED, INTERNAL, UNAVAILABLE = (
    0,
    1,
    2,
    3,
    5,
    6,
    9,
    12,
    13,
    14,
)


class RpcError(LaminaError):
    """A call's status that is not OK."""

    code = "server/grpc"

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class _Messages:
    """The messages that come on a stream."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._data = bytearray()

    def next(self) -> bytes | None:
        """None at the end. Reset, RpcError."""
        if not self._fill(5):
            if self._data:
                raise RpcError(INTERNAL, "a message is cut off")
            return None
        size = int.from_bytes(self._data[1:5], "big")
        if self._data[0]:
            raise RpcError(UNIMPLEMENTED, "compressed messages are not taken")
        if size > _LIMIT:
            raise RpcError(INVALID, f"a message of {size} bytes is too large")
        if not self._fill(5 + size):
            raise RpcError(INTERNAL, "a message is cut off")
        with memoryview(self._data) as view:
            message = bytes(view[5 : 5 + size])
        del self._data[: 5 + size]
        return message

    def _fill(self, size: int) -> bool:
        while len(self._data) < size:
            piece = self._stream.read()
            if not piece:
                return False
            self._data += piece
        return True


def _framed(message: Message) -> bytes:
    data = encode(message)
    return b"\0" + len(data).to_bytes(4, "big") + data


# As client


class ClientCall:
    """A call that we made. One thread sends, one receives."""

    def __init__(self, connection: Http2, method: str, metadata: Sequence[tuple[str, str]]) -> None:
        self._method = method
        try:
            self._stream = connection.open(
                [
                    (":method", "POST"),
                    (":scheme", "http"),
                    (":path", method),
                    (":authority", "localhost"),
                    ("content-type", "application/grpc"),
                    ("te", "trailers"),
                    ("user-agent", "lamina"),
                    *metadata,
                ]
            )
        except Reset:
            raise _left() from None
        self._messages = _Messages(self._stream)

    def send(self, message: Message) -> None:
        """RpcError, also when the other side has ended the call by itself."""
        try:
            self._stream.write(_framed(message))
        except Reset:
            if not self._stream.ended:
                raise _left() from None
        else:
            return
        status, text = _status(self._stream.trailers or self._stream.headers)
        raise RpcError(status, text) if status != OK else RpcError(UNKNOWN, f"the client ended {self._method} early")

    def end(self) -> None:
        """Nothing more is sent. The other side may have ended the call by itself: `receive` tells."""
        try:
            self._stream.end()
        except Reset:
            pass

    def receive(self, kind: type[M]) -> M | None:
        """None at the end of a call that went well. RpcError."""
        try:
            data = self._messages.next()
            if data is not None:
                return decode(kind, data)
            headers = self._stream.trailers or self._stream.answered()
        except Reset:
            raise _left() from None
        status, message = _status(headers)
        if status != OK:
            raise RpcError(status, message)
        return None

    def cancel(self) -> None:
        self._stream.cancel()

    def close(self) -> None:
        """Give up what is left of it."""
        self._stream.cancel()


def call(connection: Http2, method: str, request: Message, kind: type[M], metadata: Sequence[tuple[str, str]] = ()) -> M:
    """One message there, one back. RpcError."""
    made = ClientCall(connection, method, metadata)
    try:
        made.send(request)
        made.end()
        answer = made.receive(kind)
        if answer is None:
            raise RpcError(INTERNAL, f"{method} gave no answer")
        return answer
    finally:
        made.close()


def _left() -> RpcError:
    return RpcError(UNAVAILABLE, "the client left")


def _status(headers: Headers) -> tuple[int, str]:
    values = dict(headers)
    if values.get(b":status", b"200") != b"200":
        return UNKNOWN, f"HTTP status {values[b':status'].decode('latin-1')}"
    text = values.get(b"grpc-status", b"2").decode("latin-1")
    message = unquote(values.get(b"grpc-message", b"").decode("latin-1"), errors="replace")
    return int(text) if text.isdecimal() and len(text) < 4 else UNKNOWN, message


# As server


class ServerCall:
    """A call that a client made: what a method is given."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._messages = _Messages(stream)
        self._begun = False
        self.metadata: dict[str, list[str]] = {}
        for name, value in stream.headers:
            self.metadata.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1"))

    def value(self, name: str) -> str:
        """The first value of a piece of metadata."""
        return self.metadata.get(name, [""])[0]

    def receive(self, kind: type[M]) -> M | None:
        data = self._messages.next()
        return None if data is None else decode(kind, data)

    def raw(self) -> bytes:
        """The one message of a call, as it came."""
        found = self._messages.next()
        if found is None:
            raise RpcError(INVALID, "a call without its message")
        return found

    def request(self, kind: type[M]) -> M:
        """The one message of a call that has one."""
        found = self.receive(kind)
        if found is None:
            raise RpcError(INVALID, "a call without its message")
        return found

    def send(self, message: Message) -> None:
        self._begin()
        self._stream.write(_framed(message))

    def on_gone(self, act: Callable[[], None]) -> None:
        """Call `act` (once, from another thread) when the client gives the call up."""
        self._stream.on_reset(act)

    def finish(self, status: int, message: str = "") -> None:
        trailers = [("grpc-status", str(status))]
        if message:
            trailers.append(("grpc-message", quote(message[:8000], safe=" !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~")))
        if self._begun:
            self._stream.send_headers(trailers, end=True)
        else:
            self._stream.send_headers([(":status", "200"), ("content-type", "application/grpc"), *trailers], end=True)

    def _begin(self) -> None:
        if not self._begun:
            self._begun = True
            self._stream.send_headers([(":status", "200"), ("content-type", "application/grpc")])


Method = Callable[[ServerCall], None]


def acceptor(methods: Mapping[str, Method]) -> Callable[[Stream], None]:
    """Answers the calls of one connection. What is not in `methods` is UNIMPLEMENTED."""

    def accept(stream: Stream) -> None:
        made = ServerCall(stream)
        path = made.value(":path")
        method = methods.get(path)
        try:
            if made.value(":method") != "POST" or not made.value("content-type").startswith("application/grpc"):
                stream.send_headers([(":status", "415")], end=True)
                return
            if method is None:
                raise RpcError(UNIMPLEMENTED, f"{path} is not known here")
            method(made)
        except (Reset, ClientGone):
            return
        except Exception as error:
            made.finish(_status_of(error), message_of(error))
            return
        made.finish(OK)

    return accept


def _status_of(error: Exception) -> int:
    if isinstance(error, RpcError):
        return error.status
    if isinstance(error, WireError):
        return INVALID
    if not isinstance(error, (LaminaError, OSError)):
        print("lamina serve: " + "".join(traceback.format_exception(error)), file=sys.stderr, end="")
    return UNKNOWN
