"""Bytes to disk: temporary name, fsync, rename, fsync of the folder."""

from __future__ import annotations

import os
from pathlib import Path

_WRITEBACK = 8 << 20  # bytes


def sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def replace(path: Path, data: bytes, temporary: Path) -> None:
    """Put `data` at `path` atomically and durably, by way of `temporary` (same file system; gone afterwards)."""
    try:
        with open(temporary, "xb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


class Writeback:
    """Has the disk begin with what was written to a large file: its fsync then waits for the end of it, and the network need not wait for
    the disk. Only a hint."""

    __slots__ = ("_begun", "_handle", "_written")

    def __init__(self, handle: int) -> None:
        self._handle = handle
        self._begun = 0
        self._written = 0

    def wrote(self, count: int) -> None:
        self._written += count
        if self._written - self._begun >= _WRITEBACK:
            # What is dirty is on its way from now on; it stays in memory, as only clean pages would be dropped.
            try:
                os.posix_fadvise(self._handle, self._begun, self._written - self._begun, os.POSIX_FADV_DONTNEED)
            except OSError:
                pass  # a file system that cannot be told
            self._begun = self._written
