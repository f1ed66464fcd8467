"""A stack of layer directories as one tree, without mounting: whiteouts, opaque folders, type changes, links inside the root."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from lamina.layer.entry import Entry, Kind
from lamina.layer.extra import Extra, read_extra
from lamina.layer.flavour import Flavour
from lamina.layer.links import follow
from lamina.layer.ondisk import is_opaque, read_entry

_Place = tuple[int, bytes]
"""(number of the layer, host path)."""


class LayerView:
    """A FileTree over layers, bottom first. Layers are read-only, so what was read once is remembered. Not thread-safe."""

    def __init__(self, layers: Sequence[Path], flavour: Flavour) -> None:
        self._flavour = flavour
        self._roots = [os.fsencode(layer / "diff") for layer in layers]
        self._extras: list[Extra] = [read_extra(layer) for layer in layers]
        self._folders: dict[bytes, dict[bytes, _Place]] = {}
        self._stacks: dict[bytes, list[_Place]] = {b"": [(n, self._roots[n]) for n in reversed(range(len(layers)))]}

    # FileTree

    def entry(self, path: bytes) -> Entry | None:
        found = self.lookup(path)
        if found is not None or b"/" not in path:
            return found
        parent, _, name = path.rpartition(b"/")
        where = follow(self.lookup, parent)
        return None if where is None or where == parent else self.lookup(where + b"/" + name if where else name)

    def lookup(self, path: bytes) -> Entry | None:
        """Exactly this name; None where a parent is no folder."""
        if not path:
            return self._root()
        parent, _, name = path.rpartition(b"/")
        place = self._names(parent).get(name)
        return None if place is None else self._read(place, path)

    def resolve(self, path: bytes) -> bytes | None:
        return follow(self.lookup, path)

    def children(self, path: bytes) -> Sequence[bytes]:
        return sorted(self._names(path))

    def open(self, path: bytes) -> BinaryIO:
        return open(self.host(path), "rb")

    def content(self, path: bytes) -> str:
        with open(self.host(path), "rb", buffering=0) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    # Beyond the protocol

    def host(self, path: bytes) -> bytes:
        """The host path of a file. FileNotFoundError when there is none."""
        parent, _, name = path.rpartition(b"/")
        place = self._names(parent).get(name)
        if place is None:
            raise FileNotFoundError(2, "no such file in the layers", os.fsdecode(path))
        return place[1]

    def inode(self, path: bytes) -> tuple[int, int, int]:
        """(device, inode, links) of a file: names with equal ones are hard links of each other."""
        found = os.lstat(self.host(path))
        return found.st_dev, found.st_ino, found.st_nlink

    def walk(self, path: bytes = b"") -> Iterator[Entry]:
        """Everything below `path`, folders before what is in them, `path` itself left out."""
        pending = [path]
        while pending:
            folder = pending.pop()
            below = []
            for name in sorted(self._names(folder)):
                inner = folder + b"/" + name if folder else name
                entry = self.lookup(inner)
                if entry is None:
                    continue
                yield entry
                if entry.kind is Kind.DIRECTORY:
                    below.append(inner)
            pending.extend(reversed(below))

    def _root(self) -> Entry:
        for number, root in self._stacks[b""]:
            entry = read_entry(root, b"", os.lstat(root), self._flavour, self._extras[number])
            if entry is not None:
                return entry
        return Entry(b"", Kind.DIRECTORY, 0o755)

    def _read(self, place: _Place, path: bytes) -> Entry | None:
        number, host = place
        return read_entry(host, path, os.lstat(host), self._flavour, self._extras[number])

    def _names(self, folder: bytes) -> dict[bytes, _Place]:
        """Name -> the topmost place that shows it."""
        known = self._folders.get(folder)
        if known is not None:
            return known
        shown: dict[bytes, _Place] = {}
        hidden: set[bytes] = set()
        prefix = folder + b"/" if folder else b""
        for number, host in self._stack(folder):
            whiteouts: set[bytes] = set()
            with os.scandir(host) as names:
                for item in names:
                    name = item.name
                    if name in shown or name in hidden:
                        continue
                    if item.is_symlink() or item.is_dir(follow_symlinks=False) or item.is_file(follow_symlinks=False):
                        shown[name] = (number, host + b"/" + name)
                        continue
                    found = item.stat(follow_symlinks=False)
                    if stat.S_ISCHR(found.st_mode) and found.st_rdev == 0:
                        whiteouts.add(name)
                    elif not stat.S_ISSOCK(found.st_mode):
                        shown[name] = (number, host + b"/" + name)
            extra = self._extras[number]
            if extra.whiteouts:
                whiteouts |= {w[len(prefix) :] for w in extra.whiteouts if w.startswith(prefix) and b"/" not in w[len(prefix) :]}
            hidden |= whiteouts
        self._folders[folder] = shown
        return shown

    def _stack(self, folder: bytes) -> list[_Place]:
        """Host folders that make up `folder`, top first; empty when it is no folder."""
        known = self._stacks.get(folder)
        if known is not None:
            return known
        parent, _, name = folder.rpartition(b"/")
        found: list[_Place] = []
        for number, host in self._stack(parent):
            inner = host + b"/" + name
            extra = self._extras[number]
            if extra.whiteouts and folder in extra.whiteouts:
                break
            try:
                mode = os.lstat(inner).st_mode
            except FileNotFoundError:
                continue
            if not stat.S_ISDIR(mode):
                break
            found.append((number, inner))
            if is_opaque(inner, folder, self._flavour, extra):
                break
        self._stacks[folder] = found
        return found
