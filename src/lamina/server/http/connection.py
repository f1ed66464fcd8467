"""One client's connection: h11 for HTTP, then, when a handler takes it over, bytes in both directions.

Rules of the wire that no framework keeps: bytes that arrive before the 101 are the stream's first; a client that ends its side still
gets all of the answer; a refusal is sent while the client is still sending its body.
"""

from __future__ import annotations

import asyncio
import io
import select
import socket
from collections.abc import Callable
from concurrent.futures import Executor
from http import HTTPStatus
from typing import TYPE_CHECKING, BinaryIO, Protocol, cast
from urllib.parse import unquote

import h11

from lamina.server.errors import message_of
from lamina.server.http.messages import Answer, Hijack, Query, Reply, Request, Rows, Stream, answer
from lamina.server.http.pipes import BodyFile, Gone, Inlet, LoopDuplex, LoopOutlet

if TYPE_CHECKING:
    from lamina.server.http.messages import Duplex

_SMALL = 1 << 16  # a body of at most this size is read before the handler is called
_HEAD_LIMIT = 1 << 18
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_LINGER = 5.0  # seconds that a client has to take an answer while it is still sending
_ROWS_LIMIT = 16384  # rows that may wait for a client before it is given up

Serve = Callable[[Request], Reply]


class Source(Protocol):
    async def read(self, limit: int, /) -> bytes: ...


class Sink(Protocol):
    def write(self, data: bytes, /) -> None: ...
    async def drain(self) -> None: ...
    def can_write_eof(self) -> bool: ...
    def write_eof(self) -> None: ...
    def close(self) -> None: ...
    @property
    def transport(self) -> asyncio.WriteTransport: ...
    def get_extra_info(self, name: str, /) -> object: ...


class Connection:
    """`serve` is called on threads of `pool`; it answers errors itself and never raises."""

    def __init__(self, reader: Source, writer: Sink, serve: Serve, pool: Executor, headers: tuple[tuple[str, str], ...]) -> None:
        self._reader = reader
        self._writer = writer
        self._serve = serve
        self._pool = pool
        self._fixed = headers
        self._loop = asyncio.get_running_loop()
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=_HEAD_LIMIT)
        self._gone = Gone()

    async def run(self) -> None:
        """Serve requests until one side closes. Never raises."""
        try:
            early = await self._beginning()
            if early.startswith(_PREFACE):
                await self._prior_knowledge(early)
                return
            self._http.receive_data(early)
            while await self._one():
                self._http.start_next_cycle()
        except (h11.RemoteProtocolError, h11.LocalProtocolError) as error:
            await self._refuse(error)
        except (ConnectionError, TimeoutError):
            pass
        finally:
            self._gone.tell()
            self._writer.close()

    async def _beginning(self) -> bytes:
        """The first bytes: enough of them to tell HTTP/2 (RFC 9113 3.3) from a request line."""
        data = b""
        while len(data) < len(_PREFACE) and _PREFACE.startswith(data):
            piece = await self._reader.read(65536)
            if not piece:
                break
            data += piece
        return data

    async def _prior_knowledge(self, early: bytes) -> None:
        """A client that speaks HTTP/2 from its first byte on: the connection is taken over without a word."""
        request = Request("PRI", "*", Query(""), {}, io.BytesIO(), upgrade="h2c")
        reply = await self._loop.run_in_executor(self._pool, self._serve, request)
        if isinstance(reply, Hijack):
            await self._take_over(reply, early, closed=False)

    async def _refuse(self, error: h11.ProtocolError) -> None:
        if self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        status = getattr(error, "error_status_hint", 400) or 400
        try:
            self._send_answer(answer({"message": f"bad request: {error}"}, status), "GET", close=True)
            if self._writer.can_write_eof():
                self._writer.write_eof()
            await asyncio.wait_for(self._discard(), _LINGER)
        except (h11.ProtocolError, ConnectionError, TimeoutError):
            pass

    async def _discard(self) -> None:
        while await self._reader.read(65536):
            pass

    async def _event(self) -> object:
        while True:
            event = self._http.next_event()
            if event is not h11.NEED_DATA:
                return event
            self._http.receive_data(await self._reader.read(65536))

    async def _one(self) -> bool:
        """One request and its answer; whether another may follow."""
        event = await self._event()
        if not isinstance(event, h11.Request):
            return False
        self._gone = Gone()
        if self._http.they_are_waiting_for_100_continue:
            self._writer.write(self._http.send(h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue")) or b"")
        headers: dict[str, str] = {}
        for name, value in event.headers:  # of a name that comes again the values are a list (RFC 9110 5.3)
            key, text = name.decode("latin-1"), value.decode("latin-1")
            headers[key] = f"{headers[key]}, {text}" if key in headers else text
        inlet = Inlet(self._loop)
        small = _is_small(headers)
        listener: asyncio.Task[None] | None = None
        body: BinaryIO
        if small:
            body = io.BytesIO(await self._small_body())
        else:
            body = cast(BinaryIO, io.BufferedReader(BodyFile(inlet), 1 << 17))
        request = _request(event, headers, body)
        listener = asyncio.create_task(self._listen(inlet, ended=small))
        try:
            reply = await self._loop.run_in_executor(self._pool, self._serve, request)
            if isinstance(reply, Hijack):
                await self._hijack(reply, request, inlet, listener)
                return False
            return await self._reply(reply, request, inlet, listener)
        finally:
            inlet.abandon()
            listener.cancel()
            await asyncio.gather(listener, return_exceptions=True)

    async def _small_body(self) -> bytes:
        parts = []
        while True:
            event = await self._event()
            if isinstance(event, h11.Data):
                parts.append(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                return b"".join(parts)
            else:
                raise ConnectionError

    async def _listen(self, inlet: Inlet, *, ended: bool) -> None:
        """Hand the body on; after it, notice that the client leaves."""
        try:
            while not ended:
                event = await self._event()
                if isinstance(event, h11.Data):
                    await inlet.put(bytes(event.data))
                elif isinstance(event, h11.EndOfMessage):
                    inlet.end()
                    ended = True
                else:
                    raise ConnectionError
            waiting = 0
            while waiting < _HEAD_LIMIT:
                data = await self._reader.read(65536)
                self._http.receive_data(data)
                waiting += len(data)
                if not data:
                    self._gone.tell()
                    return
        except (h11.ProtocolError, ConnectionError, TimeoutError):
            inlet.end(broken=True)
            self._gone.tell()

    # Answers

    async def _reply(self, reply: Answer | Stream | Rows, request: Request, inlet: Inlet, listener: asyncio.Task[None]) -> bool:
        unread = self._http.their_state is h11.SEND_BODY
        if isinstance(reply, Answer):
            self._send_answer(reply, request.method, close=unread)
            await self._writer.drain()
        else:
            self._send_head(reply.status if isinstance(reply, Stream) else 200, reply.content_type, getattr(reply, "headers", ()))
            await self._drained()
            complete = request.method == "HEAD" or await (self._stream(reply) if isinstance(reply, Stream) else self._rows(reply))
            if not complete:
                return False
            self._writer.write(self._http.send(h11.EndOfMessage()) or b"")
            await self._writer.drain()
        if self._http.their_state is h11.SEND_BODY:
            await self._linger(inlet, listener)
        return self._http.our_state is h11.DONE and self._http.their_state is h11.DONE and not self._gone.happened

    def _send_head(self, status: int, content_type: str, headers: tuple[tuple[str, str], ...], length: int | None = None) -> None:
        lines = [*self._fixed, *headers]
        if content_type:
            lines.append(("Content-Type", content_type))
        if length is not None:
            lines.append(("Content-Length", str(length)))
        response = h11.Response(status_code=status, headers=lines, reason=_reason(status))
        self._writer.write(self._http.send(response) or b"")

    def _send_answer(self, reply: Answer, method: str, *, close: bool) -> None:
        headers = (*reply.headers, ("Connection", "close")) if close else reply.headers
        bodiless = reply.status in (204, 304)
        self._send_head(reply.status, reply.content_type, headers, None if bodiless else len(reply.body))
        if not bodiless and method != "HEAD":
            self._writer.write(self._http.send(h11.Data(data=reply.body)) or b"")
        self._writer.write(self._http.send(h11.EndOfMessage()) or b"")

    async def _linger(self, inlet: Inlet, listener: asyncio.Task[None]) -> None:
        """The answer is out, the client still sends: closing now would destroy what it has not read yet."""
        inlet.abandon()
        if self._writer.can_write_eof():
            self._writer.write_eof()
        await asyncio.wait([listener], timeout=_LINGER)

    async def _drained(self) -> None:
        """Before a handler's stream. It runs also when the client has left already: it may hold what only it can close."""
        try:
            await self._writer.drain()
        except ConnectionError:
            self._gone.tell()

    def _drain(self) -> asyncio.Future[None] | None:
        if self._writer.transport.get_write_buffer_size() < 1 << 16:
            return None
        return asyncio.ensure_future(self._writer.drain())

    async def _stream(self, reply: Stream) -> bool:
        def send(data: bytes) -> None:
            if self._writer.transport.is_closing():
                raise ConnectionError
            self._writer.write(self._http.send(h11.Data(data=data)) or b"")

        outlet = LoopOutlet(self._loop, send, self._drain, self._gone)
        return await self._loop.run_in_executor(self._pool, _attempt, reply.run, outlet)

    async def _rows(self, reply: Rows) -> bool:
        rows: asyncio.Queue[bytes | None] = asyncio.Queue()

        def push(row: bytes | None) -> None:
            try:
                self._loop.call_soon_threadsafe(rows.put_nowait, row)
            except RuntimeError:  # the loop has ended
                pass

        withdraw = reply.subscribe(push, lambda: push(None))
        self._gone.on_gone(lambda: push(None))
        try:
            while (row := await rows.get()) is not None and not self._gone.happened:
                if rows.qsize() > _ROWS_LIMIT:
                    return False
                self._writer.write(self._http.send(h11.Data(data=row)) or b"")
                await self._writer.drain()
        finally:
            withdraw()
        return not self._gone.happened

    # Taking over

    async def _hijack(self, reply: Hijack, request: Request, inlet: Inlet, listener: asyncio.Task[None]) -> None:
        if self._http.their_state is h11.SEND_BODY:
            inlet.abandon()
            await asyncio.wait([listener])
        listener.cancel()
        await asyncio.gather(listener, return_exceptions=True)
        if self._gone.happened and not request.upgrade:
            self._gone = Gone()  # without the word "upgrade" an ended client side is a half-close too
        early, closed = self._http.trailing_data
        more = "".join(f"{name}: {value}\r\n" for name, value in (("Content-Type", reply.content_type), *reply.headers) if value)
        head = f"HTTP/1.1 101 UPGRADED\r\n{more}Connection: Upgrade\r\nUpgrade: {request.upgrade}\r\n\r\n"
        if not request.upgrade:
            head = f"HTTP/1.1 200 OK\r\nContent-Type: {reply.content_type}\r\n\r\n"
        self._writer.write(head.encode("ascii"))
        await self._take_over(reply, bytes(early), closed=closed)

    async def _take_over(self, reply: Hijack, early: bytes, *, closed: bool) -> None:
        raw = Inlet(self._loop)
        self._gone = Gone()
        reading = asyncio.create_task(self._raw(raw, early, closed))

        def send(data: bytes) -> None:
            if self._writer.transport.is_closing():
                raise ConnectionError
            self._writer.write(data)

        duplex: Duplex = LoopDuplex(self._loop, send, self._drain, self._gone, raw)
        try:
            await self._drained()
            await self._loop.run_in_executor(self._pool, _attempt, reply.talk, duplex)
            await self._writer.drain()
            raw.abandon()
            if self._writer.can_write_eof() and not reading.done():
                self._writer.write_eof()
                await asyncio.wait([reading], timeout=_LINGER)
        finally:
            raw.abandon()
            reading.cancel()

    async def _raw(self, inlet: Inlet, early: bytes, closed: bool) -> None:
        try:
            if early:
                await inlet.put(early)
            while not closed:
                data = await self._reader.read(65536)
                if not data:
                    break
                await inlet.put(data)
            inlet.end()
            while not self._peer_closed():
                await asyncio.sleep(1.0)
        except (ConnectionError, TimeoutError):
            inlet.end()
        self._gone.tell()

    def _peer_closed(self) -> bool:
        """After the client's EOF: whether it closed altogether (POLLHUP) or only its writing side."""
        found = self._writer.get_extra_info("socket")
        if not hasattr(found, "fileno") or not hasattr(found, "family") or self._writer.transport.is_closing():
            return True
        number = found.fileno()
        if number < 0:
            return True
        poll = select.poll()
        poll.register(number, 0)
        return bool(poll.poll(0)) and found.family == socket.AF_UNIX


def _attempt(run: Callable[..., None], outlet: object) -> bool:
    """Whether it went to its end. A failure cuts the stream off, which a client sees as an error."""
    from lamina.server.errors import ClientGone

    try:
        run(outlet)
        return True
    except ClientGone:
        return False
    except Exception as error:
        import sys

        print(f"lamina serve: a stream ended early: {message_of(error)}", file=sys.stderr)
        return False


def _is_small(headers: dict[str, str]) -> bool:
    if "transfer-encoding" in headers:
        return False
    length = headers.get("content-length", "0")
    return length.isascii() and length.isdecimal() and int(length[:20]) <= _SMALL


def _request(event: h11.Request, headers: dict[str, str], body: BinaryIO) -> Request:
    path, _, query = event.target.decode("latin-1").partition("?")
    wants = "upgrade" in headers.get("connection", "").lower()
    upgrade = headers.get("upgrade", "") if wants else ""
    if not (upgrade.isascii() and upgrade.replace(".", "").replace("/", "").isalnum()):
        upgrade = ""
    try:
        asked = Query(query)
    except ValueError:
        raise h11.RemoteProtocolError("the query has too many fields") from None
    return Request(event.method.decode("ascii"), unquote(path), asked, headers, body, upgrade=upgrade)


def _reason(status: int) -> bytes:
    try:
        return HTTPStatus(status).phrase.encode()
    except ValueError:
        return b""
