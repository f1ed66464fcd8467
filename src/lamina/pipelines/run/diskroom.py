"""A step that fills the disk is ended before the machine has none left. Looks at the file system while steps run, and into their folders only when room is short."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from lamina.pipelines.run.files import walk

FLOOR = 512 << 20  # bytes that stay free …
SHARE = 50  # … or this part of a small disk
LEAST = 256 << 20  # bytes that a step must have written: who wrote less is not the one who filled it
_LOOK = 0.25  # seconds


class DiskRoom:
    """`place` lies on the file system that is watched. Thread-safe."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._lock = threading.Lock()
        self._watched: dict[Path, Callable[[str], None]] = {}
        self._changed = threading.Event()
        self._thread: threading.Thread | None = None

    @contextlib.contextmanager
    def watch(self, folder: Path, act: Callable[[str], None]) -> Iterator[None]:
        """Meanwhile: `act` is called, once and from another thread, when what lies in `folder` has used up the disk. It is told so in words."""
        with self._lock:
            self._watched[folder] = act
            if self._thread is None:
                self._thread = threading.Thread(target=self._look, name="lamina-disk", daemon=True)
                self._thread.start()
        try:
            yield
        finally:
            with self._lock:
                self._watched.pop(folder, None)
                if not self._watched:
                    self._changed.set()

    def _look(self) -> None:
        while True:
            self._changed.wait(_LOOK)
            with self._lock:
                self._changed.clear()
                if not self._watched:
                    self._thread = None
                    return
                folders = list(self._watched)
            try:
                found = os.statvfs(self._place)
            except OSError:  # the last step ended just now
                continue
            free, whole = found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
            if free >= min(FLOOR, whole // SHARE):
                continue
            sizes = {folder: written(folder) for folder in folders}
            largest = max(sizes, key=lambda folder: sizes[folder])
            if sizes[largest] < min(LEAST, whole // 4):
                continue
            with self._lock:
                act = self._watched.pop(largest, None)
            if act is not None:
                act(f"it was ended because the disk is full: it has written {sizes[largest] >> 20} MB, and {free >> 20} MB were left")


def written(folder: Path) -> int:
    """Bytes on the disk below `folder`; no link is followed."""
    return sum(found.st_blocks * 512 for _, found in walk(folder))
