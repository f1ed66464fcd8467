"""One job as a process on this worker, under a guard (`guard.py`) that leaves nothing of it behind."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

PIECE = 64 << 10  # bytes
ERRORS = 8 << 10  # bytes of standard error that are kept, the last ones
LEASE = 20.0  # seconds that a job lives without being spoken for
_GUARD = Path(__file__).with_name("guard.py")


def lamina_command() -> tuple[str, ...]:
    """What a job is on this machine."""
    return (sys.executable, "-m", "lamina", "pipeline", "step-job")


class Ended(msgspec.Struct, frozen=True):
    """`code` as subprocess has it (negative: the signal). `failed`: why the command could not be started, else empty. `errors`: the end of standard error."""

    code: int
    errors: bytes = b""
    failed: str = ""


def run_job(command: Sequence[str], payload: bytes, said: Callable[[bytes], None], lease: float = 1e9) -> Ended:
    """Run to the end. `said` gets standard output piece by piece; while it does not return, the job's pipe fills and the job waits."""
    process = Process(command, payload, lease)
    try:
        while piece := process.read():
            said(piece)
        return process.end()
    finally:
        process.kill()


class Process:
    """A job's process. It is killed with all of its descendants by `kill`, when this process ends however that happens, and when `renew` was not called for `lease` seconds."""

    def __init__(self, command: Sequence[str], payload: bytes, lease: float) -> None:
        """The command starts at once, in a session of its own, with the payload as its input. OSError."""
        self._lock = threading.Lock()
        self._tail: deque[bytes] = deque()
        self._kept = 0
        self._news = b""
        self._ended = False
        opened: list[int] = []
        given: list[int] = []
        try:
            told = os.memfd_create("payload")
            given.append(told)
            _write_all(told, payload)
            os.lseek(told, 0, os.SEEK_SET)
            for _ in range(4):
                read, write = os.pipe()
                opened.append(read)
                given.append(write)
            # The lifeline goes the other way: the worker holds its writing end.
            opened[3], given[4] = given[4], opened[3]
            self._output, self._errors, self._status, self._lifeline = opened
            _, output, errors, status, lifeline = given
            words = [sys.executable, "-I", "-S", str(_GUARD), str(lifeline), str(status), str(os.getpid()), str(lease), *command]
            subprocess.run(words, stdin=told, stdout=output, stderr=errors, pass_fds=(lifeline, status), check=True, cwd="/")
        except BaseException:
            for number in opened:
                os.close(number)
            raise
        finally:
            for number in given:
                os.close(number)
        self._open = True
        os.set_blocking(self._lifeline, False)
        self._selector = selectors.DefaultSelector()
        for number in (self._output, self._errors, self._status):
            os.set_blocking(number, False)
            self._selector.register(number, selectors.EVENT_READ)

    def read(self) -> bytes:
        """The next piece of standard output. Empty when the job has ended and everything was read."""
        while not self._ended:
            ready = {key.fd for key, _ in self._selector.select()}
            if self._errors in ready:
                self._take_errors()
            if self._output in ready:
                piece = _read(self._output)
                if piece:
                    return piece
                if piece is not None:
                    self._selector.unregister(self._output)
            if self._status in ready:
                news = _read(self._status)
                self._news += news or b""
                if news == b"":
                    self._finish()
        return self._rest()

    def renew(self) -> None:
        """Somebody still wants the job."""
        with self._lock:
            if self._open:
                try:
                    os.write(self._lifeline, b".")
                except OSError:  # it has ended, or the guard has many of them unread
                    pass

    def kill(self) -> None:
        """Begin to kill; `read` and `end` tell when nothing is left. Idempotent, from any thread."""
        with self._lock:
            if self._open:
                self._open = False
                os.close(self._lifeline)

    def end(self) -> Ended:
        """After `read` gave an empty piece. Once."""
        self.kill()
        self._take_errors()
        for number in (self._output, self._errors, self._status):
            os.close(number)
        self._selector.close()
        said = dict(line.partition(" ")[::2] for line in self._news.decode(errors="replace").splitlines())
        errors = b"".join(self._tail)[-ERRORS:]
        if "failed" in said:
            return Ended(127, errors, said["failed"])
        return Ended(int(said.get("ended", -signal.SIGKILL)), errors)

    def _rest(self) -> bytes:
        return _read(self._output) or b""

    def _finish(self) -> None:
        """The guard is gone. Where it did not say that all is over it was killed, and its command with it; the session's others are killed here."""
        self._ended = True
        if b"\nended " not in self._news and b"failed " not in self._news and self._news.startswith(b"guard "):
            _kill_session(int(self._news.split()[1]))

    def _take_errors(self) -> None:
        while piece := _read(self._errors):
            self._tail.append(piece)
            self._kept += len(piece)
            while self._kept - len(self._tail[0]) >= ERRORS:
                self._kept -= len(self._tail.popleft())
        if piece == b"" and self._errors in self._selector.get_map():
            self._selector.unregister(self._errors)


def _kill_session(session: int) -> None:
    for _ in range(100):
        found = [pid for pid in _processes() if _session(pid) == session and pid != session]
        if not found:
            return
        for pid in found:
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                pass


def _processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:
        return -1


def _read(descriptor: int) -> bytes | None:
    """None where there is nothing now."""
    try:
        return os.read(descriptor, PIECE)
    except BlockingIOError:
        return None


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
