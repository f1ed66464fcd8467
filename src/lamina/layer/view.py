"""A stack of layer directories as one file tree, without any mount: what an overlay of them would show.

Whiteouts, opaque folders and changes of type are honoured as overlayfs does: a folder is merged with those of the layers below it down
to the first layer where the name is removed, is no folder, or is an opaque folder. Links are followed inside the stack, by name.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from hashlib import sha256
from io import FileIO
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from lamina.diagnostics.errors import LaminaError
from lamina.layer.entry import Entry, Kind
from lamina.layer.extra import read_extra
from lamina.layer.flavour import Flavour
from lamina.layer.inodes import DIRECTORY_CODE, FILE_CODE, WHITEOUT_CODE, Inodes, listing
from lamina.layer.links import follow
from lamina.layer.paths import FILE, Folders, fault, join, show, split

_PIECE = 1 << 20


class NotThere(LaminaError):
    """A path that was asked for is not a regular file of the tree."""

    code = "layer/not-there"
    default_exit = 66


class _Merged(NamedTuple):
    """One folder of the view. `layers`: those that are merged, topmost first. `names`: base name -> (layer, code)."""

    layers: tuple[int, ...]
    names: dict[bytes, tuple[int, str]]


class LayerView:
    """A FileTree over layer directories (each with `diff`, maybe `extra`), bottom first. They do not change meanwhile.

    Thread-safe; what was listed is remembered per object. Hard links are shown as files. Errors: LayerFault, ForeignLayer.
    """

    def __init__(self, layers: Sequence[Path], flavour: Flavour) -> None:
        self._inodes = [Inodes(flavour, read_extra(layer)) for layer in layers]
        self._folders = Folders([layer / "diff" for layer in layers])
        self._gone: list[dict[bytes, list[bytes]]] = []
        for inodes in self._inodes:
            gone: dict[bytes, list[bytes]] = {}
            for path in inodes.extra.whiteouts:
                folder, name = split(path)
                gone.setdefault(folder, []).append(name)
            self._gone.append(gone)
        self._merged: dict[bytes, _Merged | None] = {}
        self._listings: dict[tuple[int, bytes], dict[bytes, str]] = {}
        self._contents: dict[bytes, str] = {}
        self._lock = threading.RLock()

    def close(self) -> None:
        """Close open folders. The view stays usable."""
        with self._lock:
            self._folders.close()

    def __enter__(self) -> LayerView:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if "_folders" in self.__dict__:
            self._folders.close()

    # -- FileTree

    def entry(self, path: bytes) -> Entry | None:
        found = self.lookup(path)
        if found is not None or b"/" not in path:
            return found
        folder, name = split(path)
        where = follow(self.lookup, folder)
        return None if where is None or where == folder else self.lookup(join(where, name))

    def lookup(self, path: bytes) -> Entry | None:
        """As entry(), but no link is followed, not in the parents either."""
        with self._lock:
            if not path:
                return self._root()
            folder, name = split(path)
            merged = self._folder(folder)
            found = merged.names.get(name) if merged is not None else None
            return None if found is None else self._read(found[0], found[1], folder, name, path)

    def resolve(self, path: bytes) -> bytes | None:
        return follow(self.lookup, path)

    def children(self, path: bytes) -> Sequence[bytes]:
        with self._lock:
            merged = self._folder(path)
        if merged is None:
            where = self.resolve(path)
            if where is None or where == path:
                return ()
            with self._lock:
                merged = self._folder(where)
        return () if merged is None else sorted(merged.names)

    def open(self, path: bytes) -> BinaryIO:
        return cast(BinaryIO, FileIO(self.open_fd(path), "rb"))

    def open_fd(self, path: bytes) -> int:
        """A descriptor of a regular file; the caller closes it. NotThere."""
        with self._lock:
            for where in self._spellings(path):
                folder, name = split(where)
                merged = self._folder(folder)
                found = merged.names.get(name) if merged is not None else None
                if found is not None and found[1] is FILE_CODE:
                    try:
                        return os.open(name, FILE, dir_fd=self._folders.fd(folder, found[0]))
                    except OSError as error:
                        raise fault("read", path, error) from error
        raise NotThere(f"{show(path)} is not a file there")

    def content(self, path: bytes) -> str:
        known = self._contents.get(path)
        if known is None:
            found = sha256()
            fd = self.open_fd(path)
            try:
                while piece := os.read(fd, _PIECE):
                    found.update(piece)
            except OSError as error:
                raise fault("read", path, error) from error
            finally:
                os.close(fd)
            known = self._contents[path] = found.hexdigest()
        return known

    def walk(self, path: bytes = b"") -> Iterator[tuple[bytes, Entry]]:
        """All names below the folder `path` (without links), folders before what they hold, names in byte order."""
        stack = [iter([join(path, name) for name in self.children(path)])]
        while stack:
            for here in stack[-1]:
                entry = self.lookup(here)
                if entry is None:
                    continue
                yield here, entry
                if entry.kind is Kind.DIRECTORY:
                    stack.append(iter([join(here, name) for name in self.children(here)]))
                    break
            else:
                stack.pop()

    # -- merging

    def _spellings(self, path: bytes) -> Iterator[bytes]:
        yield path
        folder, name = split(path)
        where = follow(self.lookup, folder) if folder else None
        if where is not None and where != folder:
            yield join(where, name)

    def _folder(self, path: bytes) -> _Merged | None:
        """The merged folder; None when there is no folder (links are not followed)."""
        try:
            return self._merged[path]
        except KeyError:
            pass
        todo = []
        here = path
        while here not in self._merged and here:
            todo.append(here)
            here = split(here)[0]
        try:
            if here not in self._merged:
                self._merged[b""] = self._merge(b"", tuple(range(len(self._inodes) - 1, -1, -1)))
            for here in reversed(todo):
                self._merged[here] = self._merge_below(here)
        except OSError as error:
            raise fault("read", here, error) from error
        return self._merged[path]

    def _merge_below(self, path: bytes) -> _Merged | None:
        folder, name = split(path)
        parent = self._merged[folder]
        if parent is None:
            return None
        found = parent.names.get(name)
        if found is None or found[1] is not DIRECTORY_CODE:
            return None
        layers = []
        for layer in parent.layers:
            code = self._listings[(layer, folder)].get(name)
            if code is DIRECTORY_CODE:
                layers.append(layer)
            elif code is not None:
                break
        return self._merge(path, tuple(layers))

    def _merge(self, path: bytes, layers: tuple[int, ...]) -> _Merged:
        used: list[int] = []
        names: dict[bytes, tuple[int, str]] = {}
        for layer in layers:
            used.append(layer)
            for name, code in self._list(layer, path).items():
                if name not in names:
                    names[name] = (layer, code)
            if self._inodes[layer].opaque(path, self._folders.fd(path, layer)):
                break
        return _Merged(tuple(used), {name: found for name, found in names.items() if found[1] is not WHITEOUT_CODE})

    def _list(self, layer: int, path: bytes) -> dict[bytes, str]:
        fd = self._folders.fd(path, layer)
        names: dict[bytes, str] = {}
        for name, code in listing(fd, self._gone[layer].get(path, ())):
            if code not in (FILE_CODE, DIRECTORY_CODE, WHITEOUT_CODE):
                special = self._inodes[layer].other(b"", name, fd, os.stat(name, dir_fd=fd, follow_symlinks=False))
                if special is None:
                    continue
                if special.kind is Kind.WHITEOUT:
                    code = WHITEOUT_CODE
            names[name] = code
        self._listings[(layer, path)] = names
        return names

    def _root(self) -> Entry:
        if not self._inodes:
            return Entry(b"", Kind.DIRECTORY, 0o755)
        return self._read(len(self._inodes) - 1, DIRECTORY_CODE, b"", b"", b"")

    def _read(self, layer: int, code: str, folder: bytes, name: bytes, path: bytes) -> Entry:
        inodes = self._inodes[layer]
        try:
            if code is DIRECTORY_CODE:
                fd = self._folders.fd(path, layer)
                return inodes.opened(path, fd, os.fstat(fd))
            parent = self._folders.fd(folder, layer)
            if code is FILE_CODE:
                fd = os.open(name, FILE, dir_fd=parent)
                try:
                    return inodes.opened(path, fd, os.fstat(fd))
                finally:
                    os.close(fd)
            found = inodes.other(path, name, parent, os.stat(name, dir_fd=parent, follow_symlinks=False))
        except OSError as error:
            raise fault("read", path, error) from error
        assert found is not None, "sockets were left out of the listing"
        return found
