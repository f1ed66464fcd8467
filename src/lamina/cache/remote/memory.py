"""ObjectStore in memory: for tests, and the measure of what any other one does."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Sequence

from lamina.cache.remote.errors import CacheError, ObjectGone
from lamina.cache.remote.names import checked, checked_prefix
from lamina.cache.remote.parallel import gather_by_listing
from lamina.cache.remote.protocols import SMALL, Body, Entry, Stat


class MemoryObjects:
    where = "memory"

    def __init__(self, now: Callable[[], float] = lambda: 0.0) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._objects: dict[str, tuple[bytes, float]] = {}

    def put(self, name: str, body: Body) -> bool:
        data = b"".join(body.pieces())
        if len(data) != body.size:
            raise CacheError(f"{self.where}: {len(data)} bytes came in place of {body.size}")
        with self._lock:
            return self._objects.setdefault(checked(name), kept := (data, self._now())) is kept

    def get(self, name: str, limit: int = SMALL) -> bytes | None:
        found = self._objects.get(checked(name))
        if found is not None and len(found[0]) > limit:
            raise CacheError(f"{self.where}: {name} has more than {limit} bytes")
        return None if found is None else found[0]

    def stream(self, name: str) -> Iterator[bytes]:
        found = self._objects.get(checked(name))
        if found is None:
            raise ObjectGone(f"{self.where} has no {name}")
        yield found[0]

    def gather(self, prefixes: Sequence[str]) -> dict[str, dict[str, bytes]]:
        return gather_by_listing(self, prefixes)

    def exists(self, names: Collection[str]) -> set[str]:
        return {name for name in names if checked(name) in self._objects}

    def stat(self, names: Collection[str]) -> dict[str, Stat]:
        with self._lock:
            found = {name: self._objects.get(checked(name)) for name in names}
        return {name: Stat(len(each[0]), each[1]) for name, each in found.items() if each is not None}

    def list(self, prefix: str) -> Iterator[Entry]:
        checked_prefix(prefix)
        with self._lock:
            found = [(name, each) for name, each in self._objects.items() if name.startswith(prefix)]
        for name, (data, modified) in found:
            yield Entry(name, len(data), modified)

    def delete(self, names: Collection[str]) -> None:
        with self._lock:
            for name in names:
                self._objects.pop(checked(name), None)

    def sweep(self, older_than: float) -> int:
        return 0

    def close(self) -> None:
        pass
