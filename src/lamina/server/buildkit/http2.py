"""One HTTP/2 connection over bytes that somebody else carries: a taken-over connection, or a gRPC stream with another connection inside.

Either end: as server (/grpc, a client with prior knowledge) or as client (a session, where the docker CLI is the server). `run` reads and
belongs to one thread; streams are used from others. The protocol is the package h2's; here are the threads, the windows and the limits.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings

from lamina.server.errors import ClientGone

Headers = list[tuple[bytes, bytes]]

_STREAMS = 128  # that a client may have open at a time
_WINDOW = 2 << 20  # bytes that may wait for a reader of one stream
_WINDOW_ALL = 8 << 20
_HEADERS = 64 << 10
_RESETS = 2000  # streams that a client may give up on one connection
_QUEUED = 256 << 10  # bytes that wait for the carrier before who sends data waits too
_ANSWERS = 8 << 20  # bytes of our answers to a client that reads none of them (pings, settings): then it is sent away
_LAST_WORDS = 5.0  # seconds for what was said last


class Carrier(Protocol):
    """What the connection runs over. `read` gives b"" at the end; both raise ClientGone."""

    def read(self, limit: int = ..., /) -> bytes: ...
    def write(self, data: bytes | memoryview, /) -> int: ...


class Reset(Exception):
    """The other side gave the stream up, or the connection ended."""


class Stream:
    """One request and its answer. One thread reads, one writes; `cancel` from any."""

    def __init__(self, connection: Http2, number: int, headers: Headers) -> None:
        self.number = number
        self.headers = headers  # of the request as server; of the answer, once it has begun, as client
        self.trailers: Headers = []
        self._connection = connection
        self._parts: deque[tuple[bytes, int]] = deque()
        self._ended = False
        self._answered = False
        self._reset = False
        self._sent_end = False
        self._acts: list[Callable[[], None]] = []

    def read(self) -> bytes:
        """The next bytes, b"" at the end. Reset."""
        connection = self._connection
        with connection.changed:
            while not self._parts and not self._ended and not self._reset:
                connection.changed.wait()
            if self._parts:
                data, size = self._parts.popleft()
                connection.give_back(self, size)
                return data
            if self._ended:  # a reset after the end is about the other direction
                return b""
            raise Reset

    def answered(self) -> Headers:
        """As client: the answer's headers, waited for. Reset."""
        with self._connection.changed:
            while not self._answered and not self._reset:
                self._connection.changed.wait()
            if not self._answered:
                raise Reset
            return self.headers

    def send_headers(self, headers: Sequence[tuple[str, str]], *, end: bool = False) -> None:
        self._connection.send_headers(self, headers, end=end)
        self._sent_end = self._sent_end or end

    def write(self, data: bytes) -> None:
        """Waits while the other side takes nothing. Reset."""
        self._connection.send_data(self, data)

    def end(self) -> None:
        """Nothing more is written."""
        if not self._sent_end and not self._reset:
            self._sent_end = True
            self._connection.send_end(self)

    def cancel(self) -> None:
        """Give the stream up. Idempotent."""
        self._connection.give_up(self)

    def on_reset(self, act: Callable[[], None]) -> None:
        """Call `act` (from another thread, once) when the stream is given up by the other side or the connection ends before its end."""
        with self._connection.changed:
            if not self._reset:
                self._acts.append(act)
                return
        act()

    @property
    def reset(self) -> bool:
        return self._reset

    @property
    def ended(self) -> bool:
        """The other side has said everything."""
        return self._ended

    # The connection's side, with its lock held

    def took(self, data: bytes, size: int) -> None:
        self._parts.append((data, size))

    def began(self, headers: Headers) -> None:
        self.headers, self._answered = headers, True

    def finish(self) -> None:
        self._ended = True

    def broke(self) -> list[Callable[[], None]]:
        if self._reset:
            return []
        self._reset = True
        acts, self._acts = self._acts, []
        return acts

    def unread(self) -> int:
        """What nobody will read any more: bytes."""
        size = sum(size for _, size in self._parts)
        self._parts.clear()
        return size


class Http2:
    """`accept`: as server, called on a thread of its own for each request; None as client."""

    def __init__(self, carrier: Carrier, accept: Callable[[Stream], None] | None) -> None:
        self.changed = threading.Condition(threading.RLock())
        self._carrier = carrier
        self._accept = accept
        self._streams: dict[int, Stream] = {}
        self._resets = 0
        self._acts: list[Callable[[], None]] = []
        self.closed = False
        self._queue: deque[bytes] = deque()  # for the carrier
        self._queued = 0
        self._broken = False  # the carrier takes no more
        self._writer = threading.Thread(target=self._write, daemon=True)
        client = accept is None
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=client, header_encoding=None))
        codes = h2.settings.SettingCodes
        initial = {
            codes.MAX_CONCURRENT_STREAMS: _STREAMS,
            codes.INITIAL_WINDOW_SIZE: _WINDOW,
            codes.MAX_HEADER_LIST_SIZE: _HEADERS,
            codes.ENABLE_PUSH: 0,
        }
        self._h2.local_settings = h2.settings.Settings(client=client, initial_values=initial)
        with self.changed:
            self._h2.initiate_connection()
            self._h2.increment_flow_control_window(_WINDOW_ALL - 65535)
            self._flush()
        self._writer.start()

    def run(self) -> None:
        """Read until the connection ends, whoever ends it. Never raises."""
        try:
            while not self.closed and (data := self._carrier.read(65536)):
                self._receive(data)
        except (ClientGone, Reset):
            pass
        finally:
            self.close()
            self._writer.join(_LAST_WORDS)

    def open(self, headers: Sequence[tuple[str, str]]) -> Stream:
        """As client: begin a request. Reset."""
        with self.changed:
            if self.closed:
                raise Reset
            number = 0
            try:
                number = self._h2.get_next_available_stream_id()
                stream = self._streams[number] = Stream(self, number, [])
                self._h2.send_headers(number, _encoded(headers))
                self._flush()
            except (h2.exceptions.ProtocolError, ClientGone) as error:
                self._streams.pop(number, None)
                raise Reset from error
        return stream

    def close(self) -> None:
        """Say goodbye, end what is open. Idempotent."""
        with self.changed:
            if self.closed:
                return
            try:
                self._h2.close_connection()
                self._flush()
            except (h2.exceptions.ProtocolError, ClientGone):
                pass
            self.closed = True
            acts = [act for stream in self._streams.values() for act in stream.broke()]
            acts += self._acts
            self._acts = []
            self._streams.clear()
            self.changed.notify_all()
        for act in acts:
            act()

    def on_close(self, act: Callable[[], None]) -> None:
        """Call `act` (from another thread, once) when the connection has ended."""
        with self.changed:
            if not self.closed:
                self._acts.append(act)
                return
        act()

    # What comes in

    def _receive(self, data: bytes) -> None:
        acts: list[Callable[[], None]] = []
        with self.changed:
            try:
                events = self._h2.receive_data(data)
            except h2.exceptions.ProtocolError:
                self._flush()  # h2 has put a GOAWAY with the reason there
                raise ClientGone from None
            for event in events:
                acts += self._take(event)
            self._flush()
            self.changed.notify_all()
        for act in acts:
            act()

    def _take(self, event: h2.events.Event) -> list[Callable[[], None]]:
        match event:
            case h2.events.RequestReceived():
                assert self._accept is not None
                stream = self._streams[event.stream_id] = Stream(self, event.stream_id, _decoded(event.headers))
                threading.Thread(target=self._answer, args=(self._accept, stream), daemon=True).start()
            case h2.events.ResponseReceived():
                if (found := self._streams.get(event.stream_id)) is not None:
                    found.began(_decoded(event.headers))
            case h2.events.TrailersReceived():
                if (found := self._streams.get(event.stream_id)) is not None:
                    found.trailers = _decoded(event.headers)
            case h2.events.DataReceived():
                found = self._streams.get(event.stream_id)
                if found is None or found.reset:
                    self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                else:
                    found.took(event.data, event.flow_controlled_length)
            case h2.events.StreamEnded():
                if (found := self._streams.get(event.stream_id)) is not None:
                    found.finish()
            case h2.events.StreamReset():
                self._resets += 1
                if self._resets > _RESETS and self._accept is not None:
                    raise ClientGone
                if (found := self._streams.get(event.stream_id)) is not None:
                    return found.broke()
            case h2.events.ConnectionTerminated():
                raise ClientGone
        return []

    def _answer(self, accept: Callable[[Stream], None], stream: Stream) -> None:
        try:
            accept(stream)
        except (Reset, ClientGone):
            pass
        finally:
            self.give_up(stream)

    # What streams ask for

    def give_back(self, stream: Stream, size: int) -> None:
        """With the lock held: a reader has taken so many bytes."""
        self._acknowledge(stream, size)
        try:
            self._flush()
        except ClientGone:
            pass  # the reader notices by itself when nothing follows

    def send_headers(self, stream: Stream, headers: Sequence[tuple[str, str]], *, end: bool) -> None:
        with self.changed:
            self._sending(stream, lambda: self._h2.send_headers(stream.number, _encoded(headers), end_stream=end))

    def send_data(self, stream: Stream, data: bytes) -> None:
        view = memoryview(data)
        while len(view):
            with self.changed:
                while not self.closed and not stream.reset and (self._queued > _QUEUED or self._room(stream) <= 0):
                    self.changed.wait()
                size = min(self._room(stream), len(view), self._h2.max_outbound_frame_size)
                piece, view = view[:size], view[size:]
                self._sending(stream, lambda piece=piece: self._h2.send_data(stream.number, bytes(piece)))  # type: ignore[misc]  # the default binds the piece

    def send_end(self, stream: Stream) -> None:
        with self.changed:
            self._sending(stream, lambda: self._h2.end_stream(stream.number))

    def give_up(self, stream: Stream) -> None:
        with self.changed:
            if self._streams.pop(stream.number, None) is None or self.closed:
                return
            self._acknowledge(stream, stream.unread())
            try:
                self._h2.reset_stream(stream.number, h2.errors.ErrorCodes.CANCEL)
            except h2.exceptions.ProtocolError:
                pass  # both sides had ended it
            stream.broke()
            try:
                self._flush()
            except ClientGone:
                pass
            self.changed.notify_all()

    def _room(self, stream: Stream) -> int:
        if self.closed or stream.reset:
            raise Reset
        try:
            return self._h2.local_flow_control_window(stream.number)
        except h2.exceptions.ProtocolError:
            raise Reset from None

    def _sending(self, stream: Stream, act: Callable[[], None]) -> None:
        if self.closed or stream.reset:
            raise Reset
        try:
            act()
            self._flush()
        except (h2.exceptions.ProtocolError, ClientGone) as error:
            raise Reset from error

    def _acknowledge(self, stream: Stream, size: int) -> None:
        if size and not self.closed:
            try:
                self._h2.acknowledge_received_data(size, stream.number)
            except h2.exceptions.ProtocolError:
                pass  # the connection is ending

    def _flush(self) -> None:
        """With the lock held, so that frames go out in their order. Never waits: who reads must not wait for who writes."""
        data = self._h2.data_to_send()
        if data and not self._broken:
            self._queue.append(data)
            self._queued += len(data)
            self.changed.notify_all()
        if self._broken or self._queued > _ANSWERS:
            raise ClientGone

    def _write(self) -> None:
        """The writer's thread."""
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self._queue or self.closed)
                if not self._queue:
                    return
                data = b"".join(self._queue)
                self._queue.clear()
            try:
                self._carrier.write(data)
            except ClientGone:
                with self.changed:
                    self._broken = True
                    self.changed.notify_all()
                self.close()
                return
            with self.changed:
                self._queued -= len(data)
                self.changed.notify_all()


def _encoded(headers: Sequence[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.encode("ascii"), value.encode("ascii", "replace")) for name, value in headers]


def _decoded(headers: Sequence[tuple[bytes | str, bytes | str]]) -> Headers:
    def raw(text: bytes | str) -> bytes:
        return text if isinstance(text, bytes) else text.encode("utf-8", "replace")

    return [(raw(name), raw(value)) for name, value in headers]
