"""Listings of selections: made on demand (a hit never needs one), and where the names in them stand in the source."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from typing import TYPE_CHECKING

import msgspec

from lamina.layer.context import ContextTree
from lamina.layer.entry import Kind
from lamina.layer.globbing import has_wildcard
from lamina.layer.selection import Selection

if TYPE_CHECKING:
    from lamina.cache.differences import FileChange
    from lamina.engine.beside import Beside, Later


class Changed(msgspec.Struct, frozen=True):
    """A FileChange whose path is a whole one."""

    path: bytes
    change: str
    detail: str


class Listed:
    """`choose` finds the selection again (it may read files), `encode` lists it (listing.encode); `lock` is held while its files are read;
    `written` is the source as the Dockerfile has it, absolute. `relative`: paths are told without a leading slash, as those of a context."""

    def __init__(
        self,
        choose: Callable[[], Selection],
        encode: Callable[[Selection], bytes],
        lock: AbstractContextManager[object],
        written: str,
        *,
        relative: bool,
    ) -> None:
        self._choose = choose
        self._encode = encode
        self._lock = lock
        self._written = written
        self._mark = b"./" if relative else b"/"
        self._selection: Selection | None = None
        self._encoded: bytes | None = None
        self._packed: Later[bytes] | None = None

    def encoded(self) -> bytes:
        """The listing as a comparison takes it."""
        with self._lock:
            if self._encoded is None:
                self._encoded = self._encode(self._selected())
            return self._encoded

    def pack_beside(self, beside: Beside) -> None:
        """Make the document while something else is done. Nothing where the build has been given up."""
        from lamina.layer.listing import pack  # as below: only where something runs

        encoded = self.encoded()
        with suppress(RuntimeError):
            self._packed = self._packed or beside.submit(lambda: pack(encoded))

    def document(self) -> bytes:
        """The listing as it is kept."""
        from lamina.layer.listing import pack

        return self._packed.result() if self._packed is not None else pack(self.encoded())

    def whole(self, path: bytes) -> bytes:
        """`./dir/one` or `/dir/one` for a path of the listing: patterns and followed links resolved. A name that is gone from a pattern's
        matches is put where the pattern looks."""
        with self._lock:
            selection = self._selected()
        several = selection.pattern or len(selection.matches) != 1
        for match in selection.matches:
            name = match.shown or match.name
            if not several and match.entry.kind is Kind.DIRECTORY:
                return self._mark + b"/".join(part for part in (match.path, path) if part)
            if path == name:
                return self._mark + match.path
            if path.startswith(name + b"/"):
                return self._mark + match.path + path[len(name) :]
        parts = [part for part in self._written.encode("utf-8", "surrogateescape").split(b"/") if part]
        fixed = itertools.takewhile(lambda part: not has_wildcard(part), parts if selection.pattern else parts[:-1])
        return self._mark + b"/".join([*fixed, path])

    def told(self, change: FileChange, ignore_file: str) -> Changed:
        """The change with its whole path; of a name that is gone but still on disk, what leaves it out."""
        path, detail, tree = self.whole(change.path), change.detail, self._selected().tree
        if change.change == "removed" and isinstance(tree, ContextTree):
            with self._lock:
                if tree.hidden(path.removeprefix(b"./")):
                    detail = f"left out by {ignore_file}"
        return Changed(path, change.change, detail)

    def _selected(self) -> Selection:
        if self._selection is None:
            self._selection = self._choose()
        return self._selection
