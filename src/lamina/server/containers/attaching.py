"""Clients at a container's streams: attach and logs, both readings of its log."""

from __future__ import annotations

import struct
import threading
from collections import deque
from collections.abc import Iterable

import msgspec

from lamina.server.clock import nano
from lamina.server.containers.container import Container
from lamina.server.containers.log import STDOUT, Frame, Line, Lines, Reader
from lamina.server.errors import ClientGone
from lamina.server.http.messages import Duplex, Outlet

RAW = "application/vnd.docker.raw-stream"
FRAMED = "application/vnd.docker.multiplexed-stream"


def content_type(version: tuple[int, int], tty: bool) -> str:
    return RAW if tty or version < (1, 42) else FRAMED


def framed(stream: int, data: bytes) -> bytes:
    return struct.pack(">BxxxI", stream, len(data)) + data


class Wanted(msgspec.Struct, frozen=True):
    """What of a log a client asked for. Times in seconds since the epoch."""

    stdout: bool = True
    stderr: bool = True
    follow: bool = False
    timestamps: bool = False
    tail: int = -1  # -1 = all
    since: float | None = None
    until: float | None = None
    details: str = ""  # in front of each line

    def has(self, stream: int) -> bool:
        return self.stdout if stream == STDOUT else self.stderr


def write_logs(container: Container, reader: Reader, wanted: Wanted, out: Outlet) -> None:
    """What was written and, following, what comes until the container's run has ended."""
    gone = threading.Event()
    out.on_gone(lambda: (gone.set(), container.log.wake())[0])  # type: ignore[func-returns-value]  # two calls in one lambda
    here = container.log.size
    lines = Lines()
    past: Iterable[Line] = (line for frame in reader.frames(0, here) for line in lines.feed(frame))
    chosen: Iterable[Line] = (line for line in past if wanted.has(line.stream) and _in_time(line, wanted))
    if wanted.tail >= 0:
        chosen = iter(deque(chosen, wanted.tail))
    for line in chosen:
        out.write(_shown(line, wanted, container.tty))
    if wanted.follow:
        run = container.run
        for frame in reader.follow(here, lambda: gone.is_set() or container.removed or not container.running or container.run != run):
            if gone.is_set():
                raise ClientGone
            for line in lines.feed(frame):
                if wanted.has(line.stream) and _in_time(line, wanted):
                    out.write(_shown(line, wanted, container.tty))
    for line in lines.rest():
        if wanted.tail != 0 and wanted.has(line.stream) and _in_time(line, wanted):
            out.write(_shown(line, wanted, container.tty))


def _in_time(line: Line, wanted: Wanted) -> bool:
    seconds = line.nano / 10**9
    return (wanted.since is None or seconds >= wanted.since) and (wanted.until is None or seconds <= wanted.until)


def _shown(line: Line, wanted: Wanted, tty: bool) -> bytes:
    head = (nano(line.nano) + " " if wanted.timestamps else "") + (wanted.details + " " if wanted.details else "")
    data = head.encode() + line.data
    return data if tty else framed(line.stream, data)


class AttachOptions(msgspec.Struct, frozen=True):
    stream: bool = True
    logs: bool = False
    stdin: bool = False
    stdout: bool = False
    stderr: bool = False
    detach_keys: bytes = b"\x10\x11"  # ctrl-p, ctrl-q
    raw: bool = False  # without frames, though two streams come

    def has(self, stream: int) -> bool:
        return self.stdout if stream == STDOUT else self.stderr


def attach(container: Container, reader: Reader, options: AttachOptions, start: int, run: int, duplex: Duplex) -> None:
    """Until the run that goes on (or, before a start, the next one) has ended. `start`: where in the log the client begins."""
    gone = threading.Event()
    detached = threading.Event()

    def leave() -> None:
        gone.set()
        container.notify()

    duplex.on_gone(leave)
    if options.stdin and options.stream and container.stdin is not None:
        threading.Thread(target=_feed, args=(container, duplex, options, detached), daemon=True).start()

    def over() -> bool:
        return gone.is_set() or detached.is_set() or container.removed or container.ended >= run

    def send(frame: Frame) -> None:
        if options.has(frame.stream) or container.tty:
            duplex.write(frame.data if container.tty or options.raw else framed(frame.stream, frame.data))

    if not options.stream:
        for frame in reader.frames(start):
            send(frame)
        return
    for frame in reader.follow(start, over):
        if gone.is_set():
            raise ClientGone
        if detached.is_set():
            return
        send(frame)


def _feed(container: Container, duplex: Duplex, options: AttachOptions, detached: threading.Event) -> None:
    """The client's bytes to standard input; its end is the input's end when the container was made so (StdinOnce)."""
    stdin = container.stdin
    if stdin is None:
        return
    keys = DetachKeys(options.detach_keys if container.tty else b"")
    try:
        while data := duplex.read():
            data, leaving = keys.feed(data)
            if data and not stdin.write(data):
                return
            if leaving:
                detached.set()
                container.notify()
                return
    except ClientGone:
        pass
    if container.record.config["StdinOnce"] and not container.tty:
        stdin.close()


class DetachKeys:
    """Finds the sequence in what is typed and keeps it from the container."""

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._seen = b""

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """(what to pass on, whether the sequence is complete)."""
        if not self._keys:
            return data, False
        out = bytearray()
        for byte in data:
            self._seen += bytes([byte])
            if self._seen == self._keys:
                return bytes(out), True
            while self._seen and not self._keys.startswith(self._seen):
                out.append(self._seen[0])
                self._seen = self._seen[1:]
        return bytes(out), False


def detach_keys(text: str) -> bytes:
    """`ctrl-p,ctrl-q` as bytes."""
    if not text:
        return AttachOptions().detach_keys
    found = bytearray()
    for key in text.split(","):
        if key.startswith("ctrl-") and len(key) == 6:
            found.append(ord(key[5].upper()) & 0x1F)
        elif len(key) == 1 and key.isascii():
            found.append(ord(key))
        else:
            from lamina.server.errors import BadRequest

            raise BadRequest(f"Invalid detach keys ({text}) provided")
    return bytes(found)
