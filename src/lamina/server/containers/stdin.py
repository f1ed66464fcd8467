"""A container's standard input: a pipe that exists before the process does, so that what is typed early is not lost."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable


class Stdin:
    """Thread-safe. The reading end goes to the process (or to its terminal); `close` is the end of the input."""

    def __init__(self, write_end: int = -1) -> None:
        """`write_end`: that of a pipe whose reading end a process has already; ours from now on."""
        self.read_end, self._write_end = (-1, write_end) if write_end >= 0 else os.pipe2(os.O_CLOEXEC)
        self._lock = threading.Lock()
        self.on_close: Callable[[], None] = lambda: None  # others who hold the pipe are to let go of it

    def write(self, data: bytes) -> bool:
        """All of it, waiting for the reader; False when nobody reads any more."""
        with self._lock:
            if self._write_end < 0:
                return False
            descriptor = os.dup(self._write_end)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            return True
        except OSError:
            return False
        finally:
            os.close(descriptor)

    def close(self) -> None:
        with self._lock:
            if self._write_end >= 0:
                os.close(self._write_end)
                self._write_end = -1
        self.on_close()

    def other_end(self) -> int:
        """A descriptor to write with, the caller's own; -1 after `close`."""
        with self._lock:
            return os.dup(self._write_end) if self._write_end >= 0 else -1

    def close_reader(self) -> None:
        """The process has it; our copy goes."""
        with self._lock:
            if self.read_end >= 0:
                os.close(self.read_end)
                self.read_end = -1
