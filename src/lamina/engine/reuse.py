"""Files that an earlier layer of the same instruction has already: shared by a hard link in place of written again.

Layer directories are read-only once they have their name, below an overlay too, so a second name of an inode is safe. Shared is only
what is equal in bytes, mode, owner, xattrs and mtime: the new layer is the one that a copy would have made.
"""

from __future__ import annotations

import os
from pathlib import Path

from lamina.graph.ops import CopyAction, FileOp
from lamina.layer import sums
from lamina.layer.entry import Entry


class Earlier:
    """A layer.copying.Reuse over one layer directory. `known`: digests (hex) of what was shared, by path."""

    def __init__(self, layer_dir: Path, digests: dict[bytes, bytes]) -> None:
        self._root = os.fsencode(layer_dir / "diff") + b"/"
        self._digests = digests
        self.known: dict[bytes, str] = {}

    def __call__(self, entry: Entry, content: str) -> bytes | None:
        """Asked for every file that is written, the last one of a name counts. Modes, owners and xattrs are the writer's to compare."""
        self.known.pop(entry.path, None)
        found = self._digests.get(entry.path)
        if found is None or found.hex() != content:
            return None
        path = self._root + entry.path
        try:
            if os.stat(path, follow_symlinks=False).st_mtime_ns != int(entry.mtime * 1_000_000_000):
                return None
        except OSError:
            return None
        self.known[entry.path] = content
        return path


def earlier(op: FileOp, layer_dir: Path | None) -> Earlier | None:
    """None where nothing can be shared: no layer, none with digests, or actions that write files without asking."""
    if layer_dir is None or not all(isinstance(action, CopyAction) and not action.unpack for action in op.actions):
        return None
    digests = sums.read(layer_dir)
    return Earlier(layer_dir, digests) if digests else None
