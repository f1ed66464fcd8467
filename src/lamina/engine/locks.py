"""Waiting for a lock that another thread or process holds, with an eye on cancellation."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lamina.diagnostics.errors import LaminaError
from lamina.sandbox.protocols import CancelToken


class Cancelled(LaminaError):
    """The build was stopped (Ctrl-C, or another step failed)."""

    code = "engine/cancelled"
    default_exit = 130


def try_lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def wait_lock(descriptor: int, kind: int, cancel: CancelToken, what: str) -> None:
    """Take a flock; raises Cancelled when `cancel` is set meanwhile."""
    pause = 0.002
    while not try_lock(descriptor, kind):
        if cancel.cancelled():
            raise Cancelled(f"cancelled while waiting for {what}")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.25)


@contextmanager
def exclusive(path: Path, cancel: CancelToken, what: str) -> Iterator[bool]:
    """Hold the lock file `path` exclusively; yields whether it had to be waited for. The file is removed while it is held, safely:
    who opened the removed file sees that it is no longer the one under that name and starts again."""
    waited = False
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if not try_lock(descriptor, fcntl.LOCK_EX):
                waited = True
                wait_lock(descriptor, fcntl.LOCK_EX, cancel, what)
            try:
                same = os.fstat(descriptor).st_ino == os.stat(path).st_ino
            except FileNotFoundError:
                same = False
            if not same:
                waited = True
                continue
            try:
                yield waited
            finally:
                os.unlink(path)
            return
        finally:
            os.close(descriptor)
