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
    """Below one folder of the engine's own. Thread-safe: a folder that one build uses is not there for another, which gets an empty one."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._used: set[str] = set()

    @contextlib.contextmanager
    def borrow(self, key: str) -> Iterator[Path]:
        """`key` names a client's folder; "" for one that is not to be kept."""
        from lamina.store.removal import remove

        name = hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()[:32] if key else ""
        with self._lock:
            if not name or name in self._used:
                name = f"once-{os.urandom(8).hex()}"
            self._used.add(name)
        place = self._root / name
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            yield place
        finally:
            if name.startswith("once-"):
                remove(place)
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
        return list(self._root.iterdir()) if self._root.is_dir() else []

    def _thin_out(self, keep: int) -> int:
        from lamina.store.removal import remove

        with self._lock:
            idle = [place for place in self._places() if place.name not in self._used]
            lost = [place for place in idle if place.name.startswith("once-")]  # of an engine that was killed
            kept = sorted(set(idle).difference(lost), key=lambda place: place.stat().st_mtime, reverse=True)
            going = lost + kept[keep:]
            self._used.update(place.name for place in going)
        freed = 0
        try:
            for place in going:
                size = _size(place)
                with contextlib.suppress(OSError):  # a later one takes it
                    remove(place)
                    freed += size
        finally:
            with self._lock:
                self._used.difference_update(place.name for place in going)
        return freed


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
