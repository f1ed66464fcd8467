"""The other end of the shim's mailbox: takes calls, each on a thread, and answers through their pipes.

The mailbox belongs to the step: nothing in it is believed. Every name is opened below a descriptor, without following a link, and must be the pipe or the
file that it should be. A step that ends, or that is killed in the middle of a call, closes its ends; everything here then ends too.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import select
import stat
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, wait
from pathlib import Path

from lamina.pipelines.docker.options import Usage

_LARGEST = 8 << 20  # bytes of a call's words
_PIECE = 1 << 17
_LONGEST = 4096  # characters of a path: the pipe that tells the shim takes it at once
_FIND = 0.005  # seconds between looks at a pipe that nobody has opened yet
_PATIENCE = 30.0  # seconds until the shim must have opened it
_ASKED = re.compile(rb"(\d+\.\d+)( stop)?")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class CallGone(Exception):
    """The shim was killed, or the step is over."""


class Call:
    """One docker command of the step. Writers raise CallGone when its reader has left."""

    def __init__(self, desk: Desk, folder: int) -> None:
        self._desk = desk
        self._folder = folder
        self._stops: list[Callable[[], None]] = []
        self._lock = threading.Lock()
        self._control = self._pipe("ctl", os.O_RDWR | os.O_NONBLOCK)
        self._reply = self._pipe("rep", os.O_RDWR | os.O_NONBLOCK)
        self._outputs: dict[str, int] = {}
        self.cwd, self.config, *rest = self._words()
        self.words = rest

    # Output

    def out(self, data: bytes | str) -> None:
        self._put("out", data)

    def err(self, data: bytes | str) -> None:
        self._put("err", data)

    def _put(self, name: str, data: bytes | str) -> None:
        if name not in self._outputs:
            self._outputs[name] = self._writer(name)
        _write(self._outputs[name], data.encode(errors="surrogateescape") if isinstance(data, str) else data)

    # What only the step itself can reach

    def stdin(self) -> Iterator[bytes]:
        self._tell("stdin")
        return self._incoming()

    def file(self, path: str) -> Iterator[bytes] | None:
        """A file's bytes; None when the step cannot read it. To be read to its end."""
        return self._asked(f"read {self.absolute(path)}")

    def text(self, path: str) -> str | None:
        found = self.file(path)
        return None if found is None else _text(found)

    def folder(self, path: str) -> Iterator[bytes] | None:
        """A folder as a tar; None when there is none, or no tar program."""
        return self._asked(f"tar {self.absolute(path)}")

    def variable(self, name: str) -> str | None:
        if not _NAME.fullmatch(name):
            return None
        found = self._asked(f"var {name}")
        return None if found is None else _text(found)

    @contextlib.contextmanager
    def writing(self, path: str) -> Iterator[Callable[[bytes], None]]:
        """Usage when the step cannot write it."""
        if not self._agrees(f"write {self.absolute(path)}"):
            raise Usage(f"{path} cannot be written")
        writer = self._writer("file")
        try:
            yield lambda data: _write(writer, data)
        finally:
            os.close(writer)

    def absolute(self, path: str) -> str:
        found = os.path.join(self.cwd, path)
        if "\n" in found or "\0" in found or len(found) > _LONGEST:
            raise Usage("the path is too long, or has a line's end in it")
        return found

    def on_stop(self, act: Callable[[], None]) -> Callable[[], None]:
        """Call `act` when the shim got a signal; returns how to withdraw it."""
        with self._lock:
            self._stops.append(act)

        def withdraw() -> None:
            with self._lock, contextlib.suppress(ValueError):
                self._stops.remove(act)

        return withdraw

    def stop(self) -> None:
        with self._lock:
            acts = list(self._stops)
        for act in acts:
            act()

    def end(self, code: int) -> None:
        """The shim ends when it has passed on all output."""
        with contextlib.suppress(CallGone):
            for name in ("out", "err"):
                if name not in self._outputs:
                    self._outputs[name] = self._writer(name)
        for writer in self._outputs.values():
            os.close(writer)
        self._outputs = {}
        with contextlib.suppress(CallGone):
            self._tell(f"exit {code & 255}")

    def close(self) -> None:
        for descriptor in (*self._outputs.values(), self._control, self._reply, self._folder):
            os.close(descriptor)

    # Pipes

    def _words(self) -> list[str]:
        with contextlib.suppress(OSError):
            descriptor = os.open("words", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self._folder)
            with open(descriptor, "rb") as file:
                if stat.S_ISREG(os.fstat(descriptor).st_mode):
                    found = os.fsdecode(file.read(_LARGEST)).split("\0")[:-1]
                    if len(found) >= 2:
                        return found
        raise CallGone

    def _pipe(self, name: str, flags: int) -> int:
        try:
            found = os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._folder)
        except OSError as error:
            raise CallGone from error
        if not stat.S_ISFIFO(os.fstat(found).st_mode):
            os.close(found)
            raise CallGone
        return found

    def _writer(self, name: str) -> int:
        """Waits until the shim reads it."""
        for _ in range(int(_PATIENCE / _FIND)):
            try:
                found = os.open(name, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._folder)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise CallGone from error
            else:
                if not stat.S_ISFIFO(os.fstat(found).st_mode):
                    os.close(found)
                    raise CallGone
                return found
            if self._desk.ended.wait(_FIND):
                break
        raise CallGone

    def _tell(self, line: str) -> None:
        _write(self._control, (line + "\n").encode(errors="surrogateescape"))

    def _agrees(self, line: str) -> bool:
        self._tell(line)
        while not self._desk.ended.is_set():
            if _ready(self._reply, 0.2):
                return os.read(self._reply, 2)[:1] == b"y"
        raise CallGone

    def _asked(self, line: str) -> Iterator[bytes] | None:
        return self._incoming() if self._agrees(line) else None

    def _incoming(self) -> Iterator[bytes]:
        """What the step writes into `in`, until it closes it."""
        return self._pieces(self._pipe("in", os.O_RDONLY | os.O_NONBLOCK))

    def _pieces(self, pipe: int) -> Iterator[bytes]:
        # Linux tells of a hang-up only when a writer came and left after our open; before the first one a poll just waits.
        try:
            while not self._desk.ended.is_set():
                if not _ready(pipe, 0.2):
                    continue
                try:
                    data = os.read(pipe, _PIECE)
                except BlockingIOError:
                    continue
                if not data:
                    return
                yield data
        finally:
            os.close(pipe)


class Desk:
    """Of one step. `folder` is the mailbox; `serve` does a call and gives its exit code."""

    def __init__(self, folder: Path, pool: Executor, serve: Callable[[Call], int]) -> None:
        self._pool = pool
        self._serve = serve
        self.ended = threading.Event()
        self._calls: dict[bytes, Call] = {}
        self._lock = threading.Lock()
        self._running: list[Future[None]] = []
        os.mkfifo(folder / "ask", 0o666)
        (folder / "ask").chmod(0o666)
        self._folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        # Opened for both ways: it never reaches its end when a writer leaves.
        self._ask = os.open(folder / "ask", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._wake = os.pipe2(os.O_CLOEXEC)
        self._listener = pool.submit(self._listen)

    def end(self) -> None:
        """When no process of the step is left: no call is taken any more, those that go on are stopped."""
        if self.ended.is_set():
            return
        self.ended.set()
        os.write(self._wake[1], b"x")
        self._listener.result()
        with self._lock:
            calls = list(self._calls.values())
        for call in calls:
            call.stop()

    def join(self) -> None:
        """When the engine has ended, and all its answers with it. `end` was called."""
        wait(self._running)
        for descriptor in (self._ask, self._folder, *self._wake):
            os.close(descriptor)

    def _listen(self) -> None:
        poll = select.poll()
        poll.register(self._ask, select.POLLIN)
        poll.register(self._wake[0], select.POLLIN)
        rest = b""
        while True:
            poll.poll()
            if self.ended.is_set():
                return
            *lines, rest = (rest + os.read(self._ask, 4096))[-8192:].split(b"\n")
            for line in lines:
                match = _ASKED.fullmatch(line)
                if match is None:
                    continue
                if match[2] is not None:
                    with self._lock:
                        call = self._calls.get(match[1])
                    if call is not None:
                        self._pool.submit(call.stop)
                else:
                    self._running = [run for run in self._running if not run.done()]
                    self._running.append(self._pool.submit(self._take, match[1]))

    def _take(self, name: bytes) -> None:
        try:
            folder = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._folder)
        except OSError:
            return
        try:
            call = Call(self, folder)
        except CallGone:
            os.close(folder)
            return
        with self._lock:
            if name in self._calls:
                call.close()
                return
            self._calls[name] = call
        try:
            call.end(self._serve(call))
        except CallGone:
            pass
        finally:
            with self._lock:
                del self._calls[name]
            call.close()


def _ready(pipe: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def _write(pipe: int, data: bytes) -> None:
    view = memoryview(data)
    poll = select.poll()
    poll.register(pipe, select.POLLOUT)
    while view:
        try:
            view = view[os.write(pipe, view) :]
        except BlockingIOError:
            poll.poll(1000)
        except OSError as error:
            raise CallGone from error


def _text(pieces: Iterator[bytes]) -> str:
    found = bytearray()
    for data in pieces:
        found += data
        if len(found) > _LARGEST:
            raise Usage("the file is too large")
    return found.decode(errors="surrogateescape")
