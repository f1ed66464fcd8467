"""A build context in which some files are taken to be changed, and some to be new; on disk nothing is."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from io import BytesIO
from typing import BinaryIO

import msgspec

from lamina.dockerfile.ignore import IgnoreRules
from lamina.layer.context import ContextTree
from lamina.layer.entry import Entry, Kind
from lamina.layer.links import clean, follow

NEW = b"lamina-new-file"


class ChangedTree:
    """A FileTree over `tree`. `changed`: a folder stands for each file in it and a new one; a name that is not there is a file that is added."""

    def __init__(self, tree: ContextTree, changed: Sequence[str], rules: IgnoreRules | None = None) -> None:
        self._tree = tree
        self._paths: list[bytes] = []
        self._added: dict[bytes, set[bytes]] = {}  # folder -> names that it has more
        self._new: set[bytes] = set()
        for text in changed:
            path = clean(text.encode("utf-8", "surrogateescape"))
            entry = tree.entry(path)
            self._paths.append(path)
            if entry is not None and entry.kind is not Kind.DIRECTORY:
                continue
            new = path + b"/" + NEW if path and (entry is not None or text.endswith("/")) else path or NEW
            if rules is None or not rules.ignored(new.decode("utf-8", "surrogateescape")):
                self._add(new)

    def _add(self, path: bytes) -> None:
        self._new.add(path)
        while path:
            folder, _, name = path.rpartition(b"/")
            self._added.setdefault(folder, set()).add(name)
            if self._tree.entry(folder) is not None:
                return
            path = folder

    def entry(self, path: bytes) -> Entry | None:
        found = self._lookup(path)
        if found is not None and found.kind is Kind.SYMLINK and self._is_changed(path):
            return msgspec.structs.replace(found, link=found.link + b" (changed)")
        return found

    def resolve(self, path: bytes) -> bytes | None:
        return follow(self._lookup, path)

    def children(self, path: bytes) -> Sequence[bytes]:
        below = self._tree.children(path) if self._tree.entry(path) is not None else ()
        return sorted({*below, *self._added.get(path, ())})

    def open(self, path: bytes) -> BinaryIO:
        return BytesIO() if path in self._new else self._tree.open(path)

    def content(self, path: bytes) -> str:
        if path in self._new:
            return sha256(b"new").hexdigest()
        content = self._tree.content(path)
        return sha256(b"changed " + content.encode()).hexdigest() if self._is_changed(path) else content

    def _lookup(self, path: bytes) -> Entry | None:
        found = self._tree.lookup(path)
        if found is None and path in self._new:
            return Entry(path, Kind.FILE, 0o644)
        if found is None and path in self._added:
            return Entry(path, Kind.DIRECTORY, 0o755)
        return found

    def _is_changed(self, path: bytes) -> bool:
        return any(not changed or path == changed or path.startswith(changed + b"/") for changed in self._paths)
