"""A container's output on disk. Attaching, `logs` and following are all readings of it: a slow client costs no memory and stops nobody.

It is bounded: after so many bytes a new file is begun, and only so many are kept.

Frames: stream (1 byte), 3 zero bytes, length (4 bytes), nanoseconds since the epoch (8 bytes), big-endian; then the data.
"""

from __future__ import annotations

import contextlib
import os
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

_HEAD = struct.Struct(">BxxxIQ")
STDOUT, STDERR = 1, 2
_STUCK = 30.0  # seconds after which a reader that does not move is not waited for


class Frame(msgspec.Struct, frozen=True):
    stream: int
    nano: int
    data: bytes
    end: int  # offset of the next frame


class Log:
    """Thread-safe; one process writes, this one (`append`) or another that tells (`grown`, `filled`). `most` bytes in a file (0: no limit), `files` of them are kept; offsets go on counting over them.

    The files are `path`, `path.1`, `path.2` …, the newest last; what an engine left is read by the next one.
    """

    def __init__(self, path: Path, most: int = 0, files: int = 1) -> None:
        self._path = path
        self._most, self._files = most, files
        self._changed = threading.Condition(threading.RLock())
        self._file = -1
        self._readers: list[Reader] = []
        self._hurry = False
        numbers = sorted(int(name.suffix[1:] or 0) for name in path.parent.glob(path.name + "*") if (name.suffix[1:] or "0").isdecimal())
        self._number = numbers[-1] if numbers else 0
        self.size = 0  # where the next frame goes
        self._kept: deque[tuple[int, int]] = deque()  # (number, offset of its first byte)
        for number in numbers or [0]:
            self._kept.append((number, self.size))
            self.size += self._place(number).stat().st_size if numbers else 0

    def _place(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}") if number else self._path

    def append(self, stream: int, data: bytes, nano: int) -> None:
        """Waits for attached readers that are a whole log behind; one that does not move for a while is not waited for."""
        with self._changed:
            if self._most and self.size - self._kept[-1][1] >= self._most:
                self._rotate()
            if self._file < 0:
                self._file = os.open(self._place(self._number), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            view = memoryview(_HEAD.pack(stream, len(data), nano) + data)
            written = 0
            try:
                while written < len(view):
                    written += os.write(self._file, view[written:])
            except OSError:
                os.ftruncate(self._file, self.size - self._kept[-1][1])  # a full disk: what does not fit is lost, the container goes on
                return
            self.size += len(view)
            self._changed.notify_all()

    def grown(self, number: int, size: int) -> None:
        """Another process writes: the newest file, and its bytes. Before it begins one after it, it calls `filled`."""
        with self._changed:
            if number > self._number:
                self._number = number
                self._begun()
                while len(self._kept) > self._files:
                    self._kept.popleft()  # it has removed it
            self.size = self._kept[-1][1] + size
            self._changed.notify_all()

    def filled(self, number: int, size: int) -> None:
        """Another process wants to begin a new file: returns when it may."""
        self.grown(number, size)
        with self._changed:
            self._wait_for_readers()

    def look_again(self) -> None:
        """The other process that wrote has ended, perhaps before it could tell all."""
        with self._changed, contextlib.suppress(OSError):
            number = self._number + 1 if self._place(self._number + 1).exists() else self._number
            self.grown(number, self._place(number).stat().st_size)

    def mend(self) -> None:
        """Who wrote was killed: a last frame that is not whole goes. No reader may be there."""
        with self._changed, contextlib.suppress(OSError), open(self._place(self._number), "r+b") as file:
            whole, there = 0, file.seek(0, os.SEEK_END)
            file.seek(0)
            while len(head := file.read(_HEAD.size)) == _HEAD.size:
                end = whole + _HEAD.size + _HEAD.unpack(head)[1]
                if end > there:
                    break
                whole = file.seek(end)
            file.truncate(whole)
            self.size = self._kept[-1][1] + whole

    def _wait_for_readers(self) -> None:
        for reader in self._readers:
            while reader.waited_for and reader.behind >= self._files and not self._hurry:
                before = reader.behind
                if not self._changed.wait(_STUCK) and reader.behind >= before:
                    reader.waited_for = False

    def _begun(self) -> None:
        self._kept.append((self._number, self.size))
        for reader in self._readers:
            with contextlib.suppress(FileNotFoundError):  # the container is being removed
                reader.add(self.size, _opened(self._place(self._number), 0), self._files)

    def _rotate(self) -> None:
        """Begin a new file; the oldest goes. Under the lock."""
        self._wait_for_readers()
        if self._file >= 0:
            os.close(self._file)
        self._number += 1
        try:
            self._file = os.open(self._place(self._number), os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError:
            self._file = -1  # the container is being removed
            self._number -= 1
            return
        self._begun()
        while len(self._kept) > self._files:
            self._place(self._kept.popleft()[0]).unlink(missing_ok=True)

    def reader(self, *, waited_for: bool = False) -> Reader:
        """Sees all that is kept, also after the container and its files are gone. `waited_for`: it loses nothing, the writer waits instead."""
        with self._changed:
            made = Reader(self, waited_for)
            for number, base in self._kept:
                made.add(base, _opened(self._place(number), os.O_CREAT if number == self._number else 0), self._files)
            self._readers.append(made)
            return made

    def leave(self, reader: Reader) -> None:
        with self._changed:
            if reader in self._readers:
                self._readers.remove(reader)
            self._changed.notify_all()

    def moved(self) -> None:
        """A reader has come to another file."""
        with self._changed:
            self._changed.notify_all()

    def hurry(self) -> None:
        """Nobody is waited for any more: the container is to go."""
        with self._changed:
            self._hurry = True
            self._changed.notify_all()

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


def _opened(place: Path, flags: int) -> BinaryIO:
    return open(os.open(place, os.O_RDONLY | os.O_CLOEXEC | flags, 0o600), "rb")


class Reader:
    """One reading of a log. For one thread; `close` when it is over."""

    def __init__(self, log: Log, waited_for: bool) -> None:
        self._log = log
        self._lock = threading.Lock()
        self._files: deque[tuple[int, BinaryIO]] = deque()
        self.waited_for = waited_for

    @property
    def behind(self) -> int:
        """How many files it has still before it."""
        return len(self._files)

    def add(self, base: int, file: BinaryIO, most: int) -> None:
        """The log's: another file, whose first byte is at `base`. Who is not waited for loses the oldest of more than `most`."""
        with self._lock:
            self._files.append((base, file))
            while len(self._files) > most and not self.waited_for:
                self._files.popleft()[1].close()

    def frames(self, offset: int, end: int | None = None) -> Iterator[Frame]:
        """What is there now from `offset` (a frame's) on; from the first that is kept where it is not any more."""
        end = self._log.size if end is None else end
        while offset < end:
            frame = self._frame(offset)
            if frame is None:
                return
            offset = frame.end
            yield frame

    def _frame(self, offset: int) -> Frame | None:
        passed = False
        with self._lock:
            while len(self._files) > 1 and self._files[1][0] <= offset:
                self._files.popleft()[1].close()
                passed = True
            if not self._files:
                return None
            base, file = self._files[0]
            offset = max(offset, base)
            if file.tell() != offset - base:
                file.seek(offset - base)
            head = file.read(_HEAD.size)
            if len(head) == _HEAD.size:
                stream, length, nano = _HEAD.unpack(head)
                found = Frame(stream, nano, file.read(length), offset + _HEAD.size + length)
            else:
                found = None
        if passed:
            self._log.moved()
        return found

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
        self._log.leave(self)
        with self._lock:
            for _, file in self._files:
                file.close()
            self._files.clear()


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
