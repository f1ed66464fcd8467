"""A file tree and a layer writer that live in memory, for tests of selections and copies."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from io import BytesIO
from typing import BinaryIO

from msgspec.structs import replace

from lamina.layer.entry import Entry, Kind
from lamina.layer.links import follow


class MemoryTree:
    """FileTree and LayerWriter in one: what was put can be read. Paths are given as text."""

    def __init__(self) -> None:
        self.entries: dict[bytes, Entry] = {b"": Entry(b"", Kind.DIRECTORY, 0o755)}
        self.bytes: dict[bytes, bytes] = {}
        self.shared: dict[bytes, bytes] = {}

    def file(self, path: str, data: bytes = b"", mode: int = 0o644, uid: int = 0, gid: int = 0, mtime: float = 0.0) -> MemoryTree:
        return self._add(Entry(path.encode(), Kind.FILE, mode, uid, gid, len(data), mtime), data)

    def folder(self, path: str, mode: int = 0o755, uid: int = 0, gid: int = 0) -> MemoryTree:
        return self._add(Entry(path.encode(), Kind.DIRECTORY, mode, uid, gid))

    def link(self, path: str, to: str) -> MemoryTree:
        return self._add(Entry(path.encode(), Kind.SYMLINK, 0o777, link=to.encode()))

    def add(self, entry: Entry) -> MemoryTree:
        return self._add(entry)

    def _add(self, entry: Entry, data: bytes | None = None) -> MemoryTree:
        parts = entry.path.split(b"/")
        for count in range(1, len(parts)):
            parent = b"/".join(parts[:count])
            self.entries.setdefault(parent, Entry(parent, Kind.DIRECTORY, 0o755))
        self.entries[entry.path] = entry
        if data is not None:
            self.bytes[entry.path] = data
        return self

    def entry(self, path: bytes) -> Entry | None:
        found = self.entries.get(path)
        if found is not None or b"/" not in path:
            return found
        parent, _, name = path.rpartition(b"/")
        where = follow(self.entries.get, parent)
        return None if where is None else self.entries.get(where + b"/" + name if where else name)

    def resolve(self, path: bytes) -> bytes | None:
        return follow(self.entries.get, path)

    def children(self, path: bytes) -> Sequence[bytes]:
        base = path + b"/" if path else b""
        return sorted({name[len(base) :] for name in self.entries if name and name.startswith(base) and b"/" not in name[len(base) :]})

    def open(self, path: bytes) -> BinaryIO:
        entry = self.entries[path]
        return BytesIO(self.bytes[entry.link if entry.kind is Kind.HARDLINK else path])

    def content(self, path: bytes) -> str:
        with self.open(path) as data:
            return sha256(data.read()).hexdigest()

    def put(self, entry: Entry, data: BinaryIO | None = None) -> None:
        parent = entry.path.rpartition(b"/")[0]
        assert self.entries[parent].kind is Kind.DIRECTORY, f"{parent!r} must be a folder of this layer"
        if entry.kind is Kind.OPAQUE:
            self.shared[entry.path] = b"opaque"
            return
        before = self.entries.get(entry.path)
        assert before is None or (before.kind is Kind.DIRECTORY) == (entry.kind is Kind.DIRECTORY), f"{entry.path!r} was not removed"
        if data is not None:
            self.bytes[entry.path] = data.read()
            entry = replace(entry, size=len(self.bytes[entry.path]))
        self.entries[entry.path] = entry

    def share(self, entry: Entry, path: bytes) -> bool:
        self.entries[entry.path] = entry
        self.shared[entry.path] = path
        return True

    def remove(self, path: bytes) -> None:
        for name in [name for name in self.entries if name == path or name.startswith(path + b"/")]:
            del self.entries[name]
            self.bytes.pop(name, None)
