"""A container's output on disk. Attaching, `logs` and following are all readings of it: a slow client costs no memory and stops nobody.

Frames: stream (1 byte), 3 zero bytes, length (4 bytes), nanoseconds since the epoch (8 bytes), big-endian; then the data.
"""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

_HEAD = struct.Struct(">BxxxIQ")
STDOUT, STDERR = 1, 2


class Frame(msgspec.Struct, frozen=True):
    stream: int
    nano: int
    data: bytes
    end: int  # offset of the next frame


class Log:
    """Thread-safe; one process writes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._changed = threading.Condition()
        self._file = -1
        self.size = path.stat().st_size if path.exists() else 0

    def append(self, stream: int, data: bytes, nano: int) -> None:
        with self._changed:
            if self._file < 0:
                self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            view = memoryview(_HEAD.pack(stream, len(data), nano) + data)
            written = 0
            try:
                while written < len(view):
                    written += os.write(self._file, view[written:])
            except OSError:
                os.ftruncate(self._file, self.size)  # a full disk: what does not fit is lost, the container goes on
                return
            self.size += len(view)
            self._changed.notify_all()

    def reader(self) -> Reader:
        """Sees all of the log, also after the container and its files are gone."""
        return Reader(self, open(os.open(self._path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600), "rb"))

    def wait(self, offset: int, over: Callable[[], bool]) -> None:
        """Until there is more than `offset`, or `over()`; it is asked again after each `wake`."""
        with self._changed:
            while self.size <= offset and not over():
                self._changed.wait()

    def wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        """Until something is written again."""
        with self._changed:
            if self._file >= 0:
                os.close(self._file)
                self._file = -1
            self._changed.notify_all()


class Reader:
    """One reading of a log. For one thread; `close` when it is over."""

    def __init__(self, log: Log, file: BinaryIO) -> None:
        self._log = log
        self._file = file

    def frames(self, offset: int, end: int | None = None) -> Iterator[Frame]:
        """What is there now from `offset` (a frame's) on."""
        end = self._log.size if end is None else end
        self._file.seek(offset)
        while offset < end:
            head = self._file.read(_HEAD.size)
            if len(head) < _HEAD.size:
                return
            stream, length, nano = _HEAD.unpack(head)
            data = self._file.read(length)
            offset += _HEAD.size + length
            yield Frame(stream, nano, data, offset)

    def follow(self, offset: int, over: Callable[[], bool]) -> Iterator[Frame]:
        """What is there and what comes, until `over()`."""
        while True:
            done = over()
            for frame in self.frames(offset):
                offset = frame.end
                yield frame
            if done and self._log.size <= offset:
                return
            self._log.wait(offset, over)

    def close(self) -> None:
        self._file.close()


class Line(msgspec.Struct, frozen=True):
    stream: int
    nano: int  # when it began
    data: bytes  # with its end of line, but for a last one without


class Lines:
    """Frames into lines, each stream for itself."""

    def __init__(self) -> None:
        self._rest: dict[int, tuple[int, bytes]] = {}

    def feed(self, frame: Frame) -> list[Line]:
        nano, rest = self._rest.pop(frame.stream, (frame.nano, b""))
        found = []
        for piece in _split(rest + frame.data):
            if piece.endswith(b"\n") or len(piece) > 1 << 14:
                found.append(Line(frame.stream, nano, piece))
                nano = frame.nano
            else:
                self._rest[frame.stream] = (nano, piece)
        return found

    def rest(self) -> list[Line]:
        """What ended without an end of line."""
        found = [Line(stream, nano, data) for stream, (nano, data) in self._rest.items()]
        self._rest.clear()
        return found


def _split(data: bytes) -> list[bytes]:
    """At \\n only."""
    pieces = data.split(b"\n")
    return [piece + b"\n" for piece in pieces[:-1]] + ([pieces[-1]] if pieces[-1] else [])
