"""Between the event loop and handlers' threads: bounded, so that a fast side waits for a slow one."""

from __future__ import annotations

import asyncio
import io
import threading
from collections import deque
from collections.abc import Callable

from lamina.server.errors import ClientGone

_FULL = 1 << 20  # bytes that wait for a handler


class Inlet:
    """Bytes from the client. The loop feeds, one thread reads."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._parts: deque[bytes] = deque()
        self._size = 0
        self._ended = False
        self._broken = False
        self._abandoned = False
        self._changed = threading.Condition()
        self._room = asyncio.Event()
        self._room.set()

    # The loop's side

    async def put(self, data: bytes) -> None:
        with self._changed:
            if self._abandoned:
                return
            self._parts.append(data)
            self._size += len(data)
            if self._size >= _FULL:
                self._room.clear()
            self._changed.notify()
        await self._room.wait()

    def end(self, *, broken: bool = False) -> None:
        """No more comes. `broken`: the client left in the middle."""
        with self._changed:
            self._ended = True
            self._broken = self._broken or broken
            self._changed.notify()

    def abandon(self) -> None:
        """Nobody reads any more: what comes is thrown away."""
        with self._changed:
            self._abandoned = True
            self._parts.clear()
            self._size = 0
            self._ended = True
            self._changed.notify()
        self._room.set()

    # The thread's side

    def read(self, limit: int = 65536) -> bytes:
        """At least one byte, at most `limit`; b"" at the end. ClientGone when the client left before it."""
        with self._changed:
            while not self._parts and not self._ended:
                self._changed.wait()
            if not self._parts:
                if self._broken:
                    raise ClientGone
                return b""
            part = self._parts.popleft()
            if len(part) > limit:
                self._parts.appendleft(part[limit:])
                part = part[:limit]
            self._size -= len(part)
            waiting = not self._room.is_set() and self._size < _FULL // 2
        if waiting:
            self._loop.call_soon_threadsafe(self._room.set)
        return part


class BodyFile(io.RawIOBase):
    """An Inlet as a file."""

    def __init__(self, inlet: Inlet) -> None:
        self._inlet = inlet

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer)  # type: ignore[arg-type]  # RawIOBase's buffer protocol type is only in typeshed's private module
        data = self._inlet.read(len(view))
        view[: len(data)] = data
        return len(data)


class Gone:
    """Whether the client has left, and who wants to be told. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._acts: list[Callable[[], None]] = []
        self.happened = False

    def on_gone(self, act: Callable[[], None]) -> None:
        with self._lock:
            if not self.happened:
                self._acts.append(act)
                return
        act()

    def tell(self) -> None:
        with self._lock:
            self.happened, acts, self._acts = True, self._acts, []
        for act in acts:
            act()


class LoopOutlet:
    """Writes of a handler's thread, done on the loop; each waits until the transport has room again."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, send: Callable[[bytes], None], drain: Callable[[], asyncio.Future[None] | None], gone: Gone
    ) -> None:
        self._loop = loop
        self._send = send
        self._drain = drain
        self._gone = gone

    def write(self, data: bytes | memoryview, /) -> int:
        if self._gone.happened:
            raise ClientGone
        if len(data):
            try:
                asyncio.run_coroutine_threadsafe(self._write(bytes(data)), self._loop).result()
            except (ConnectionError, RuntimeError, asyncio.CancelledError):
                raise ClientGone from None
        return len(data)

    async def _write(self, data: bytes) -> None:
        self._send(data)
        waiting = self._drain()
        if waiting is not None:
            await waiting

    def on_gone(self, act: Callable[[], None]) -> None:
        self._gone.on_gone(act)


class LoopDuplex(LoopOutlet):
    """A connection that was taken over."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        send: Callable[[bytes], None],
        drain: Callable[[], asyncio.Future[None] | None],
        gone: Gone,
        inlet: Inlet,
    ) -> None:
        super().__init__(loop, send, drain, gone)
        self._inlet = inlet

    def read(self, limit: int = 65536, /) -> bytes:
        return self._inlet.read(limit)
