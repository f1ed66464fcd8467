"""A container's standard input: a pipe that exists before the process does, so that what is typed early is not lost."""

from __future__ import annotations

import os
import threading


class Stdin:
    """Thread-safe. The reading end goes to the process (or to its terminal); `close` is the end of the input."""

    def __init__(self) -> None:
        self.read_end, self._write_end = os.pipe2(os.O_CLOEXEC)
        self._lock = threading.Lock()

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

    def close_reader(self) -> None:
        """The process has it; our copy goes."""
        with self._lock:
            if self.read_end >= 0:
                os.close(self.read_end)
                self.read_end = -1
