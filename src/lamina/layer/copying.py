"""Write files upon a filesystem: what COPY, ADD and WORKDIR do, as entries of one new layer.

The rules are fsutil's copy as BuildKit uses it (observed with Docker): the destination is resolved through the links of the root,
inside of it; missing parents are made 0755 and get --chown's owner; a folder's contents are merged into the destination, whose own
mode stays when it exists and is 0755 when it is made (with its parent's setgid bit, as mkdir(2) does); folders below take over the source's metadata; a file never replaces a folder
nor a folder a file. An existing parent appears in the new layer with the metadata it has below, as an overlay's upper needs it.
"""

from __future__ import annotations

import os
from typing import BinaryIO, Protocol

from lamina.diagnostics.errors import LaminaError
from lamina.layer.context import ContextTree
from lamina.layer.entry import Entry, Kind
from lamina.layer.links import clean, follow
from lamina.layer.modes import ModeRule
from lamina.layer.selection import Match, Selection
from lamina.layer.statcache import Node
from lamina.layer.tree import FileTree

Ids = tuple[int, int]
_SETGID = 0o2000
_FILE, _DIRECTORY = Kind.FILE, Kind.DIRECTORY


class Reuse(Protocol):
    """Files that need not be written again. Asked for each regular file; the last one of a name counts."""

    def find(self, entry: Entry, content: bytes) -> bytes | None:
        """Host path of a read-only file with the same bytes (`content`: raw sha256, b"" for not to be shared), mode, owner, mtime and xattrs."""
        ...

    def taken(self, path: bytes) -> None:
        """What was found for `path` stands in the new layer now."""
        ...


class CopyFailed(LaminaError):
    """The files cannot be put where the instruction wants them."""

    code = "copy/failed"


class LayerWriter(Protocol):
    """Makes entries in a new layer directory. Parents are put before what is in them. Nothing is written through a link."""

    def put(self, entry: Entry, data: BinaryIO | None = None) -> None:
        """Make the entry; one that this layer has already is replaced, a folder keeps what is in it and gets the new metadata."""
        ...

    def share(self, entry: Entry, path: bytes) -> bool:
        """Make a regular file as a further name of the host file `path`, whose bytes and metadata are the entry's. False: it cannot be."""
        ...

    def remove(self, path: bytes) -> None:
        """Take an entry, and all below it, out of this layer again."""
        ...


class Target:
    """The filesystem that is written upon: `lower` (None = empty) plus what `writer` got so far. `now` dates what has no date."""

    def __init__(self, lower: FileTree | None, writer: LayerWriter, now: float) -> None:
        self._lower = lower
        self._writer = writer
        self._now = now
        self._written: dict[bytes, Entry] = {}
        self._fresh: set[bytes] = set()  # folders of this layer that show nothing of the lower
        root = lower.entry(b"") if lower is not None else None
        self._put(root or Entry(b"", Kind.DIRECTORY, 0o755, mtime=now))

    def lookup(self, path: bytes) -> Entry | None:
        """Exactly this name, whose parents are real folders."""
        found = self._written.get(path)
        if found is not None or self._lower is None:
            return found
        parent = path.rpartition(b"/")[0]
        if parent in self._fresh:
            return None
        while parent:
            above = self._written.get(parent)
            if above is not None:
                if parent in self._fresh or above.kind is not Kind.DIRECTORY:
                    return None
                break
            parent = parent.rpartition(b"/")[0]
        return self._lower.entry(path)

    def locate(self, path: bytes) -> bytes:
        """The name without links; absent names stay as they are. CopyFailed for a loop of links."""
        found = follow(self.lookup, path, missing=True)
        if found is None:
            raise CopyFailed(f"too many links in {_show(path)}")
        return found

    def make_folders(self, path: bytes, owner: Ids | None, mode: int = 0o755) -> None:
        """Make what is missing of a path without links. What exists stays as it is."""
        missing: list[bytes] = []
        here = path
        while (entry := self.lookup(here)) is None:
            missing.append(here)
            if not here:
                break
            here = here.rpartition(b"/")[0]
        if entry is not None and entry.kind is not Kind.DIRECTORY:
            raise CopyFailed(f"{_show(here)} is not a folder")
        uid, gid = owner or (0, 0)
        if entry is not None:
            mode |= entry.mode & _SETGID
        for here in reversed(missing):
            self.put(Entry(here, Kind.DIRECTORY, mode, uid, gid, mtime=self._now), fresh=True)

    def put(self, entry: Entry, data: BinaryIO | None = None, *, fresh: bool = False) -> None:
        """Write an entry, after giving this layer the entries of its existing parents. `fresh`: a folder that was not there."""
        self._parents(entry.path)
        self._put(entry, data, fresh)

    def share(self, entry: Entry, path: bytes) -> bool:
        self._parents(entry.path)
        if not self._writer.share(entry, path):
            return False
        self._written[entry.path] = entry
        return True

    def replace(self, path: bytes) -> None:
        """Take away whatever is at `path`, so that something of another kind can stand there."""
        if path in self._written:
            below = path + b"/"
            for name in [name for name in self._written if name == path or name.startswith(below)]:
                del self._written[name]
                self._fresh.discard(name)
            self._writer.remove(path)

    def hides_folder(self, path: bytes) -> bool:
        """Whether the lower has a folder there that a new folder of this layer would show again."""
        entry = self._lower.entry(path) if self._lower is not None else None
        return entry is not None and entry.kind is Kind.DIRECTORY

    def written(self, path: bytes) -> bool:
        return path in self._written

    def open_lower(self, path: bytes) -> BinaryIO:
        assert self._lower is not None
        return self._lower.open(path)

    def _parents(self, path: bytes) -> None:
        missing: list[bytes] = []
        parent = path.rpartition(b"/")[0]
        while parent not in self._written:  # the root always is
            missing.append(parent)
            parent = parent.rpartition(b"/")[0]
        for parent in reversed(missing):
            entry = self._lower.entry(parent) if self._lower is not None else None
            self._put(_at(entry, parent) if entry is not None else Entry(parent, Kind.DIRECTORY, 0o755, mtime=self._now))

    def _put(self, entry: Entry, data: BinaryIO | None = None, fresh: bool = False) -> None:
        self._writer.put(entry, data)
        self._written[entry.path] = entry
        if fresh:
            self._fresh.add(entry.path)


def copy(
    target: Target,
    selection: Selection,
    match: Match,
    dest: bytes,
    *,
    owner: Ids | None = None,
    mode: ModeRule | None = None,
    dir_contents: bool = True,
    reuse: Reuse | None = None,
) -> None:
    """Copy a match to `dest` (absolute; a trailing slash means "into this folder"). `owner` None keeps the source's."""
    _Copier(target, selection, match, owner, mode, reuse).run(dest, dir_contents)


def prepare(target: Target, dest: bytes, owner: Ids | None) -> bytes:
    """Make the folder that `dest` names (trailing slash) or lies in; returns `dest` without links."""
    folder = dest if dest.rpartition(b"/")[2] in (b"", b".") else dest.rpartition(b"/")[0]
    target.make_folders(target.locate(folder), owner)
    return target.locate(dest)


class _Copier:
    """One match on its way. Hard links among the source's names stay hard links, as far as this match goes."""

    def __init__(
        self, target: Target, selection: Selection, match: Match, owner: Ids | None, mode: ModeRule | None, reuse: Reuse | None
    ) -> None:
        self._target = target
        self._selection = selection
        self._match = match
        self._owner = owner
        self._mode = mode
        self._reuse = reuse
        self._links: dict[tuple[int, int], bytes] = {}

    def run(self, dest: bytes, dir_contents: bool) -> None:
        target, match = self._target, self._match
        where = prepare(target, dest, self._owner)
        there = target.lookup(where)
        folder = match.entry.kind is Kind.DIRECTORY
        if there is not None and ((folder and not dir_contents) or (not folder and there.kind is Kind.DIRECTORY)):
            where = where + b"/" + match.name if where else match.name
            there = target.lookup(where)
        if not folder:
            self._leaf(match.path, match.entry, where, there)
            return
        if there is None and dir_contents:
            target.make_folders(where, self._owner)
        elif there is None:
            target.put(self._changed(match.entry, where), fresh=True)
        elif there.kind is not Kind.DIRECTORY:
            raise CopyFailed(f"cannot copy a folder to {_show(where)}: it is not a folder there")
        self._contents(b"", where)

    def _contents(self, relative: bytes, where: bytes) -> None:
        target, match = self._target, self._match
        selection = self._selection
        stack = [(relative, where, iter(selection.below(match, relative)), selection.nodes(match, relative))]
        while stack:
            relative, where, names, nodes = stack[-1]
            for name, entry in names:
                inner = relative + b"/" + name if relative else name
                place = where + b"/" + name if where else name
                there = target.lookup(place)
                if entry.kind is _DIRECTORY:
                    if there is not None and there.kind is not _DIRECTORY:
                        raise CopyFailed(f"cannot copy a folder to {_show(place)}: it is not a folder there")
                    target.put(self._changed(entry, place), fresh=there is None)
                    stack.append((inner, place, iter(selection.below(match, inner)), selection.nodes(match, inner)))
                    break
                self._leaf(match.path + b"/" + inner if match.path else inner, entry, place, there, nodes.get(name))
            else:
                stack.pop()

    def _leaf(self, source: bytes, entry: Entry, place: bytes, there: Entry | None, node: Node | None = None) -> None:
        if there is not None and there.kind is _DIRECTORY:
            raise CopyFailed(f"cannot replace the folder {_show(place)} with a file")
        target = self._target
        made = self._changed(entry, place)
        if made.kind is not _FILE:
            target.put(made)
            return
        tree = self._selection.tree
        if self._reuse is not None:
            found = self._reuse.find(made, self._sharable(tree, source, node))
            if found is not None and target.share(made, found):
                self._reuse.taken(place)
                return
        with tree.open(source) as data:
            identity = _shared_inode(data)
            if identity is not None:
                first = self._links.setdefault(identity, place)
                if first != place:
                    target.put(_hard_link(made, first))
                    return
            target.put(made, data)

    def _sharable(self, tree: FileTree, source: bytes, node: Node | None) -> bytes:
        """The file's digest where another layer's file may stand for it. One of several names goes the way on which the others find it."""
        if node is not None and node.digest:
            return b"" if node.links > 1 else node.digest
        if not isinstance(tree, ContextTree):
            return b""
        content = bytes.fromhex(tree.content(source))
        return b"" if tree.several_names(source) else content

    def _changed(self, entry: Entry, place: bytes) -> Entry:
        kind = _FILE if entry.kind is Kind.HARDLINK else entry.kind
        mode = entry.mode
        if self._mode is not None and kind is not Kind.SYMLINK:
            mode = self._mode.apply(mode, kind is _DIRECTORY)
        uid, gid = self._owner or (entry.uid, entry.gid)
        link = b"" if kind is _FILE else entry.link
        return Entry(place, kind, mode, uid, gid, entry.size, entry.mtime, link, entry.major, entry.minor, entry.xattrs)


def _shared_inode(data: BinaryIO) -> tuple[int, int] | None:
    """What identifies a file that has several names; None for others and for what is not on a disk."""
    try:
        found = os.fstat(data.fileno())
    except (OSError, AttributeError):
        return None
    return (found.st_dev, found.st_ino) if found.st_nlink > 1 else None


def _hard_link(entry: Entry, first: bytes) -> Entry:
    return Entry(entry.path, Kind.HARDLINK, entry.mode, entry.uid, entry.gid, entry.size, entry.mtime, first, xattrs=entry.xattrs)


def _at(entry: Entry, path: bytes) -> Entry:
    return Entry(path, entry.kind, entry.mode, entry.uid, entry.gid, mtime=entry.mtime, xattrs=entry.xattrs)


def _show(path: bytes) -> str:
    return "/" + clean(path).decode("utf-8", "backslashreplace")
