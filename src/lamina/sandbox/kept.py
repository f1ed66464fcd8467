"""Our side of containers that outlive us: what their helpers (standalone/kept.py) are asked, how the next engine finds them.

A helper locks `keeper` in the container's folder as long as it lives; who finds it locked finds the helper behind `keeper.sock` there.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from lamina.diagnostics.errors import LaminaError
from lamina.oci import typed
from lamina.sandbox.containers import Ended, Process

_PATIENCE = 10.0
_MOST_DESCRIPTORS = 253  # of one message


class Keep(msgspec.Struct, frozen=True):
    """Where a container is kept, and the bounds of its log: bytes of a file (0: none), files."""

    folder: Path
    most: int
    files: int

    def document(self) -> dict[str, Any]:
        return {"folder": str(self.folder), "most": self.most, "files": self.files}


class Keeper(msgspec.Struct, frozen=True):
    """A helper: its pid with the time of its start, in ticks since the machine began. Both together are never used again."""

    pid: int
    started: int

    def alive(self) -> bool:
        try:
            with open(f"/proc/{self.pid}/stat") as file:
                return int(file.read().rpartition(")")[2].split()[19]) == self.started
        except (OSError, IndexError, ValueError):
            return False

    def kill(self) -> None:
        """With its container."""
        with contextlib.suppress(OSError):
            descriptor = os.pidfd_open(self.pid)  # from here on it means this process, whatever comes at its number
            try:
                if self.alive():
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            finally:
                os.close(descriptor)


class Hello(msgspec.Struct, frozen=True):
    """What a helper says to who comes in. `log`: (number of the file, its bytes); `note`: what an engine wanted to find again."""

    pid: int
    started: int
    groups: tuple[str, ...]
    began: float
    log: tuple[int, int]
    note: str
    descriptors: tuple[str, ...]


class Left(msgspec.Struct, frozen=True):
    """How a container ended, as its helper wrote it down."""

    exit_code: int
    began: float
    finished: float
    oom: bool = False
    note: str = ""


class _Line(msgspec.Struct, frozen=True):
    log: tuple[int, int] | None = None
    rotate: tuple[int, int] | None = None
    exit_code: int | None = None


class KeeperSilent(LaminaError):
    """A helper lives, but does not answer."""

    code = "sandbox/keeper-silent"


def find(folder: Path) -> Keeper | None:
    """The helper that keeps the container of this folder; None when there is none (any more)."""
    try:
        descriptor = os.open(folder / "keeper", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    with open(descriptor, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            with contextlib.suppress(ValueError):
                pid, started = file.read(64).split()
                return Keeper(int(pid), int(started))
    return None


def how_it_ended(folder: Path) -> Left | None:
    """What the helper of the last run left; None when it was killed, or an engine has read it already (`forget`)."""
    try:
        return typed.json((folder / "exit.json").read_bytes(), type=Left)
    except (OSError, msgspec.MsgspecError):
        return None


def forget(folder: Path) -> None:
    (folder / "exit.json").unlink(missing_ok=True)


class KeptProcess(Process):
    """As Process; what its container writes is in the log when `on_log` is told so, and a file of it is full when `on_rotate` is: the container
    waits until that returns. Both get (number of the file, bytes in it), on the thread that waits."""

    def __init__(self, connection: socket.socket, pid: int, terminal: int | None, rest: bytes, groups: tuple[str, ...]) -> None:
        super().__init__(connection, pid, terminal, rest, groups)
        self._sending = threading.Lock()
        self.left = False
        self.on_log: Callable[[int, int], None] = lambda number, size: None
        self.on_rotate: Callable[[int, int], None] = lambda number, size: None

    def signal(self, number: int) -> None:
        self._ask(b"S", bytes([number]))

    def keep(self, wanted: bool) -> None:
        """Whether it goes on when we end."""
        self._ask(b"K", b"\1" if wanted else b"\0")

    def close_stdin(self) -> None:
        self._ask(b"C")

    def note(self, text: str) -> None:
        self._ask(b"N", text.encode())

    def hold(self, name: str, descriptor: int) -> None:
        """The helper keeps a copy of the descriptor open, for the next engine."""
        with self._sending, contextlib.suppress(OSError):
            socket.send_fds(self._connection, [struct.pack(">cI", b"H", len(name)) + name.encode()], [descriptor])

    def let_go(self) -> None:
        """We end, it goes on: `wait` returns, and means nothing."""
        self.left = True
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    def wait(self) -> Ended:
        """Also returns after `let_go`. When the helper was killed its container was, too: 137."""
        rest = self._rest
        try:
            while True:
                while b"\n" not in rest:
                    data = self._connection.recv(1 << 16)
                    if not data:
                        return Ended(137, 9)
                    rest += data
                text, _, rest = rest.partition(b"\n")
                found = typed.json(text, type=_Line)
                if found.log is not None:
                    self.on_log(*found.log)
                elif found.rotate is not None:
                    self.on_rotate(*found.rotate)
                    self._ask(b"A")
                elif found.exit_code is not None:
                    return typed.json(text, type=Ended)
        except (OSError, msgspec.MsgspecError):
            return Ended(137, 9)
        finally:
            self._connection.close()

    def _ask(self, kind: bytes, content: bytes = b"") -> None:
        with self._sending, contextlib.suppress(OSError):
            self._connection.sendall(struct.pack(">cI", kind, len(content)) + content)


def take_over(folder: Path, keeper: Keeper) -> tuple[KeptProcess, Hello, dict[str, int]]:
    """Come in at a helper: (its process, what it says, the descriptors that it held by their names, ours from now on). KeeperSilent."""
    connection = socket.socket(socket.AF_UNIX)
    descriptors: list[int] = []
    try:
        connection.settimeout(_PATIENCE)
        place = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            connection.connect(f"/proc/self/fd/{place}/keeper.sock")
        finally:
            os.close(place)
        data = b""
        while b"\n" not in data:
            piece, found, _, _ = socket.recv_fds(connection, 1 << 16, _MOST_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC)
            descriptors += found
            if not piece:
                raise ConnectionResetError(104, os.strerror(104))
            data += piece
        line, _, rest = data.partition(b"\n")
        hello = typed.json(line, type=dict[str, Hello])["hello"]
        connection.settimeout(None)
    except (OSError, KeyError, msgspec.MsgspecError) as error:
        connection.close()
        for number in descriptors:
            os.close(number)
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise KeeperSilent(f"process {keeper.pid}, which keeps the container {folder.name[:12]}, does not answer: {why}") from error
    named = dict(zip(hello.descriptors, descriptors))
    return KeptProcess(connection, hello.pid, named.pop("terminal", None), rest, hello.groups), hello, named


def end(folder: Path, keeper: Keeper) -> None:
    """Kill a helper with its container, and wait until both are gone."""
    keeper.kill()
    deadline = time.monotonic() + _PATIENCE
    while find(folder) is not None and time.monotonic() < deadline:
        time.sleep(0.01)


def running_in(containers: Path) -> Mapping[Path, Keeper]:
    """Of a folder of containers: those that somebody keeps."""
    try:
        folders = sorted(containers.iterdir())
    except OSError:
        return {}
    return {folder: keeper for folder in folders if (keeper := find(folder)) is not None}
