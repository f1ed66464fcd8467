"""Clients' folders that are kept between builds, so that only what changed is sent again."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

_MOST = 16  # folders; the longest unused go


class KeptFolders:
    """Below one folder of the engine's own. Thread-safe: a folder that one build uses is not there for another, which gets an empty one.

    What goes is moved to a place of its own first: removing a tree puts folders beside it.
    """

    def __init__(self, root: Path) -> None:
        self._kept, self._once, self._going = (root / name for name in ("kept", "once", "going"))
        self._lock = threading.Lock()
        self._used: set[str] = set()
        self._swept = False

    @contextlib.contextmanager
    def borrow(self, key: str) -> Iterator[Path]:
        """`key` names a client's folder; "" for one that is not to be kept."""
        self._sweep()
        name = hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()[:32] if key else ""
        with self._lock:
            mine = bool(name) and name not in self._used
            if mine:
                self._used.add(name)
        place = self._kept / name if mine else self._once / os.urandom(8).hex()
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            yield place
        finally:
            if not mine:
                self._remove(place)
            else:
                with contextlib.suppress(OSError):
                    os.utime(place)
                with self._lock:
                    self._used.discard(name)
                self._thin_out(_MOST)

    def clear(self) -> int:
        """Remove all that no build uses; bytes freed."""
        return self._thin_out(0)

    def sizes(self) -> list[tuple[str, int, float, bool]]:
        """(name, bytes, last used, in use)"""
        with self._lock:
            used = set(self._used)
        found = []
        for place in self._places():
            with contextlib.suppress(OSError):
                found.append((place.name, _size(place), place.stat().st_mtime, place.name in used))
        return found

    def _places(self) -> list[Path]:
        return list(self._kept.iterdir()) if self._kept.is_dir() else []

    def _sweep(self) -> None:
        """What an engine at this place left that was killed."""
        from lamina.store.removal import remove

        with self._lock:
            if self._swept:
                return
            self._swept = True
            for place in (self._once, self._going):
                if place.exists():
                    remove(place)

    def _thin_out(self, keep: int) -> int:
        """Bytes freed."""
        with self._lock:
            idle = [place for place in self._places() if place.name not in self._used]
            idle.sort(key=lambda place: place.stat().st_mtime, reverse=True)
            moved = [self._moved(place) for place in idle[keep:]]
        freed = 0
        for place in moved:
            freed += _size(place)
            self._remove(place)
        return freed

    def _moved(self, place: Path) -> Path:
        self._going.mkdir(mode=0o700, parents=True, exist_ok=True)
        return place.rename(self._going / os.urandom(8).hex())

    def _remove(self, place: Path) -> None:
        from lamina.store.removal import remove

        if place.parent != self._going:
            place = self._moved(place)
        with contextlib.suppress(OSError):  # the next engine at this place takes it
            remove(place)


def _size(place: Path) -> int:
    """Bytes of the files in it; folders are as deep as they like."""
    total = 0
    todo = [place]
    while todo:
        with contextlib.suppress(OSError), os.scandir(todo.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    todo.append(Path(entry.path))
                else:
                    total += entry.stat(follow_symlinks=False).st_size
    return total
