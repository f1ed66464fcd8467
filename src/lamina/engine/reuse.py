"""Files that an earlier layer of the same instruction has already: shared by a hard link in place of written again.

Layer directories are read-only once they have their name, below an overlay too, so a second name of an inode is safe. Shared is only
what is equal in bytes, mode, owner and mtime and has no xattrs: the new layer is the one that a copy would have made.
"""

from __future__ import annotations

import os
from pathlib import Path

from lamina.graph.ops import CopyAction, FileOp
from lamina.layer import sums
from lamina.layer.entry import Entry
from lamina.layer.sums import Sum


class Earlier:
    """A layer.copying.Reuse over one layer directory. `known`: what was shared, by path."""

    def __init__(self, layer_dir: Path, files: dict[bytes, Sum]) -> None:
        self._root = os.fsencode(layer_dir / "diff") + b"/"
        self._files = files
        self.known: dict[bytes, Sum] = {}

    def find(self, entry: Entry, content: bytes) -> bytes | None:
        path = entry.path
        self.known.pop(path, None)
        found = self._files.get(path)
        if (
            found is None
            or found.digest != content
            or found.mode != entry.mode
            or found.uid != entry.uid
            or found.gid != entry.gid
            or entry.xattrs
            or found.mtime != int(entry.mtime * 1_000_000_000) // 1000 / 1_000_000
        ):
            return None
        return self._root + path

    def taken(self, path: bytes) -> None:
        self.known[path] = self._files[path]


def earlier(op: FileOp, layer_dir: Path | None) -> Earlier | None:
    """None where nothing can be shared: no layer, none with sums, or actions that write files without asking."""
    if layer_dir is None or not all(isinstance(action, CopyAction) and not action.unpack for action in op.actions):
        return None
    files = sums.read(layer_dir)
    return Earlier(layer_dir, files) if files else None
