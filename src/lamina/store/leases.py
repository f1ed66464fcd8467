"""Leases: what a live process uses cannot be collected.

Every open store holds a file `leases/<id>`, locked (flock) as long as the process lives; the kernel lets go when it dies.
- Names in `tmp/` and `active/` begin with their owner's lease id: they live as long as the lease.
- The file lists the layers and blobs that its owner has looked at ("pins"). A pin is written under a shared lock of `locks/gc`
  before the name is looked up; the collector reads all pins and takes its victims away under the exclusive lock. So a name is
  either seen pinned by the collector or gone before its user looks.
- A lease that can be locked belongs to a process that died or failed half-way; the next one to open the store clears up.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lamina.store.layout import Layout
from lamina.store.protocols import StoreError


class Lease:
    """Held from construction to `close`. Thread-safe."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._lock = threading.Lock()
        self._pinned: set[str] = set()
        self._count = 0
        self._suspect = False
        self._pid = os.getpid()
        self.id, self._file = _new(layout.leases)
        try:
            self._gate = _open_gate(layout)
        except BaseException:
            os.close(self._file)
            raise

    def name(self) -> str:
        """A fresh name for something in `tmp/` or `active/`."""
        with self._lock:
            self._count += 1
            return f"{self.id}.{os.getpid()}.{self._count}"

    def pin(self, names: Iterable[str]) -> None:
        """Protect layers and blobs. What is there when this returns stays while the lease is held: look afterwards."""
        with self._lock:
            fresh = [name for name in names if name not in self._pinned]
            if not fresh:
                return
            if self._file < 0:
                raise StoreError("the store is closed")
            if self._pid != os.getpid():
                # After a fork the lease is common, as it should be; the gate must not be: an unlock would be for both.
                self._gate, self._pid = _open_gate(self._layout), os.getpid()
            fcntl.flock(self._gate, fcntl.LOCK_SH)
            try:
                # Begins with an end of line: a write that a full disk cut off must not swallow the next one.
                data = "\n" + "".join(f"{name}\n" for name in fresh)
                if os.write(self._file, data.encode()) != len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            finally:
                fcntl.flock(self._gate, fcntl.LOCK_UN)
            self._pinned.update(fresh)

    def release(self, kept: Iterable[str]) -> None:
        """Give up all pins but these. The caller knows that nothing else of what was pinned is in use; what is looked up again is pinned again."""
        with self._lock:
            if self._file < 0:
                raise StoreError("the store is closed")
            names = set(kept) & self._pinned
            fcntl.flock(self._gate, fcntl.LOCK_EX)
            try:
                os.ftruncate(self._file, 0)
                self._pinned = set()
                data = "\n" + "".join(f"{name}\n" for name in sorted(names))
                if os.write(self._file, data.encode()) != len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                self._pinned = names
            finally:
                fcntl.flock(self._gate, fcntl.LOCK_UN)

    @contextmanager
    def careful(self) -> Iterator[None]:
        """An error inside leaves work for `recover`: the lease file stays when the lease is closed, as after a kill."""
        try:
            yield
        except BaseException:
            self._suspect = True
            raise

    def close(self) -> None:
        """Give the lease back. What it still has in `tmp/` and `active/` is garbage from now on. Idempotent."""
        with self._lock:
            if self._file < 0:
                return
            file, gate, self._file, self._gate = self._file, self._gate, -1, -1
            if not self._suspect:
                with contextlib.suppress(OSError):  # a file that stays is cleared up as that of a dead process
                    (self._layout.leases / self.id).unlink(missing_ok=True)
            for descriptor in (file, gate):
                with contextlib.suppress(OSError):
                    os.close(descriptor)


def hand_over(layout: Layout, names: Iterable[str]) -> tuple[str, int]:
    """A lease with these pins that lives as long as some process has the descriptor open, which is the caller's: (its id, the descriptor)."""
    lease = Lease(layout)
    try:
        lease.pin(names)
        return lease.id, os.dup(lease._file)
    finally:
        lease._suspect = True  # the file stays
        lease.close()


def forget(layout: Layout, identifier: str) -> None:
    """End a lease that was handed over, and owns nothing."""
    if identifier.isalnum():
        (layout.leases / identifier).unlink(missing_ok=True)


@contextmanager
def standstill(layout: Layout, *, wait: bool = True) -> Iterator[bool]:
    """For the collector: nobody pins inside the block. Keep it short. Yields False at once when `wait` is off and it is taken."""
    gate = _open_gate(layout)
    try:
        try:
            fcntl.flock(gate, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True
    finally:
        os.close(gate)


def live(layout: Layout) -> dict[str, frozenset[str]]:
    """Pins of each living lease. Inside `standstill` they are complete."""
    found: dict[str, frozenset[str]] = {}
    for path in layout.leases.iterdir():
        file = _seize(path)
        if file >= 0:
            os.close(file)
        elif file == _ALIVE:
            found[path.name] = _pins(path)
    return found


@contextmanager
def dead(layout: Layout) -> Iterator[dict[str, frozenset[str]]]:
    """Leases of dead processes with their pins, each held by us inside the block and removed after it."""
    held: list[tuple[Path, int]] = []
    try:
        found: dict[str, frozenset[str]] = {}
        for path in layout.leases.iterdir():
            file = _seize(path)
            if file >= 0:
                held.append((path, file))
                found[path.name] = _pins(path)
        yield found
        for path, _ in held:
            path.unlink(missing_ok=True)
    finally:
        for _, file in held:
            os.close(file)


def _open_gate(layout: Layout) -> int:
    return os.open(layout.locks / "gc", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _new(folder: Path) -> tuple[str, int]:
    while True:
        identifier = os.urandom(8).hex()
        path = folder / identifier
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)  # somebody took it for a dead one between our two calls
            continue
        if os.fstat(file).st_nlink:
            return identifier, file
        os.close(file)


_ALIVE, _GONE = -1, -2


def _seize(path: Path) -> int:
    """A locked descriptor when the owner is dead; else _ALIVE or _GONE."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return _GONE
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return _ALIVE
    if not os.fstat(file).st_nlink:
        os.close(file)
        return _GONE
    return file


def _pins(path: Path) -> frozenset[str]:
    try:
        # A pin cut off by a full disk or a kill has no end of line and was never relied upon.
        return frozenset(filter(None, path.read_bytes().decode("ascii", "replace").split("\n")[:-1]))
    except FileNotFoundError:
        return frozenset()
