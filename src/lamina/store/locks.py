"""One flock file per thing that only one process at a time should do: a step with a given cache key, a pull of a layer."""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lamina.store.errors import border
from lamina.store.layout import Layout
from lamina.store.protocols import StoreError


class LockCancelled(StoreError):
    code = "store/cancelled"
    default_exit = 130


class Locks:
    """`flock` by open file: two threads of one process exclude each other too. A killed holder lets go at once."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    @contextmanager
    def key(self, key: str, cancelled: Callable[[], bool], on_wait: Callable[[], None] | None = None) -> Iterator[bool]:
        """Hold the lock of a cache key. Yields whether others held it meanwhile: then look again, they may have done the work.

        `on_wait` is called once before waiting. LockCancelled when `cancelled` turns true.
        """
        path = self._layout.locks / f"key-{hashlib.sha256(key.encode()).hexdigest()[:32]}"
        with border(self._layout.root):
            held, waited = _acquire(path, cancelled, on_wait)
        try:
            yield waited
        finally:
            # Removed while held. Who waits on the removed file sees that it has no name any more and begins again.
            with border(self._layout.root):
                try:
                    path.unlink(missing_ok=True)
                finally:
                    os.close(held)


def _acquire(path: Path, cancelled: Callable[[], bool], on_wait: Callable[[], None] | None) -> tuple[int, bool]:
    waited = False
    pause = 0.002
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            while not _try(file):
                if cancelled():
                    raise LockCancelled("cancelled while another process ran the same step")
                if not waited and on_wait is not None:
                    on_wait()
                waited = True
                time.sleep(pause)
                pause = min(pause * 1.5, 0.1)
            if _same(file, path):
                return file, waited
        except BaseException:
            os.close(file)
            raise
        os.close(file)


def _try(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _same(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold a lock file that is never removed."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)
