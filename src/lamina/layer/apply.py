"""A layer's tar into a layer directory. The tar is an attacker's: nothing outside of the directory is touched, whatever it says.

Names: leading slashes and '.' are dropped, '..' is refused, links in parents are followed with the layer as root (as containerd does,
but only through links that this layer itself holds), hard links lead to names found the same way. Overlay's own marks cannot come in
(a character device 0:0, overlay xattrs). Whiteouts and opaque marks speak of lower layers only, so their order does not matter.
Of two members with one name the last wins.
"""

from __future__ import annotations

import errno
from pathlib import Path

import msgspec

from lamina.layer.entry import Entry, Kind
from lamina.layer.flavour import Flavour
from lamina.layer.links import MAX_LINKS
from lamina.layer.paths import MAX_PATH, LayerFault, join, show, split
from lamina.layer.tarread import BadTar, TarReader
from lamina.layer.tarwrite import OPAQUE
from lamina.layer.writer import WHITEOUT, EntryWriter, NoSuchLinkTarget, Readable, UnstorableName

_META = b".wh..wh."  # aufs' own names (.wh..wh.plnk …): no part of the image
_MAX_NAME = 255
_HOSTILE = (errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)


class LayerStats(msgspec.Struct, frozen=True):
    size: int  # bytes of regular files
    entries: int  # members of the tar that became something


def apply_tar(stream: Readable, layer_dir: Path, flavour: Flavour) -> LayerStats:
    """Unpack an uncompressed tar into `layer_dir` (`diff` exists and is empty; `extra` is written where needed).

    Reads up to the end mark; what follows is the caller's. BadTar for what is damaged, hostile or impossible, LayerFault for the
    machine's failures. After a failure the directory holds a part; the caller removes it.
    """
    reader = TarReader(stream)
    with EntryWriter(layer_dir, flavour) as writer:
        work = _Apply(writer)
        entries = 0
        for entry in reader:
            try:
                entries += work.member(entry, reader)
            except LayerFault as error:
                if isinstance(error.__cause__, OSError) and error.__cause__.errno in _HOSTILE:
                    raise BadTar(error.message) from error
                raise
            except (NoSuchLinkTarget, UnstorableName) as error:
                raise BadTar(f"the archive's {error.message}") from error
    return LayerStats(writer.size, entries)


class _Apply:
    def __init__(self, writer: EntryWriter) -> None:
        self._writer = writer
        self._made: set[bytes] = {b""}  # folders of this layer
        self._links: dict[bytes, bytes] = {}  # symbolic links of this layer
        self._parents: dict[bytes, bytes] = {}  # as written -> without links

    def member(self, entry: Entry, reader: TarReader) -> bool:
        """Whether it became something."""
        path = _clean(entry.path)
        folder, name = split(path)
        if name.startswith(WHITEOUT) or b"/" + WHITEOUT in path or path.startswith(WHITEOUT):
            return self._mark(path, folder, name)
        if not path:
            if entry.kind is Kind.DIRECTORY:
                self._writer.put(msgspec.structs.replace(entry, path=b""))
            return False
        parent = self._parent(folder)
        where = join(parent, name)
        if parent not in self._made:
            self._make(parent, entry.mtime)
        if where != entry.path:
            entry = msgspec.structs.replace(entry, path=where)
        kind = entry.kind
        if kind is Kind.DIRECTORY:
            if where not in self._made:
                self._replaced(where)
                self._made.add(where)
            self._writer.put(entry)
            return True
        if kind is Kind.HARDLINK:
            entry = self._target(entry)
        elif (kind is Kind.SYMLINK and len(entry.link) > MAX_PATH) or b"\0" in entry.link:
            raise BadTar(f"{show(path)} is a link to an impossible name")
        elif kind is Kind.SYMLINK and not entry.link:
            raise BadTar(f"{show(path)} is a link to nothing")
        linked = self._links.get(entry.link) if kind is Kind.HARDLINK else entry.link if kind is Kind.SYMLINK else None
        self._replaced(where)
        self._writer.put(entry, reader if kind is Kind.FILE else None)
        if linked is not None:
            self._links[where] = linked
            self._parents.clear()
        return True

    def _mark(self, path: bytes, folder: bytes, name: bytes) -> bool:
        """A whiteout or an opaque mark."""
        if any(part.startswith(_META) and part != OPAQUE for part in path.split(b"/")):
            return False
        if (b"/" + folder).find(b"/" + WHITEOUT) >= 0:
            raise BadTar(f"{show(path)} lies in a folder whose name marks a removed one")
        parent = self._parent(folder)
        if parent != folder:
            raise BadTar(f"{show(path)} removes something through a link")
        if name == OPAQUE:
            self._make(parent, 0.0)
            self._writer.put(Entry(parent, Kind.OPAQUE))
            return True
        gone = name[len(WHITEOUT) :]
        if gone in (b"", b".", b".."):
            raise BadTar(f"{show(path)} removes no name")
        self._make(parent, 0.0)
        self._writer.put(Entry(join(parent, gone), Kind.WHITEOUT))
        return True

    def _target(self, entry: Entry) -> Entry:
        folder, name = split(_clean(entry.link))
        if not name:
            raise BadTar(f"{show(entry.path)} is a hard link to the root")
        target = join(self._parent(folder), name)
        if target.startswith(entry.path + b"/"):
            raise BadTar(f"{show(entry.path)} is a hard link to a name below itself")
        return msgspec.structs.replace(entry, link=target)

    def _parent(self, folder: bytes) -> bytes:
        """`folder` without links, as far as this layer has any."""
        if not self._links or not folder:
            return folder
        found = self._parents.get(folder)
        if found is None:
            found = self._parents[folder] = self._resolve(folder)
        return found

    def _resolve(self, folder: bytes) -> bytes:
        todo = folder.split(b"/")[::-1]
        done: list[bytes] = []
        budget = MAX_LINKS
        while todo:
            part = todo.pop()
            if part in (b"", b"."):
                continue
            if part == b"..":
                if done:
                    done.pop()
                continue
            done.append(part)
            link = self._links.get(b"/".join(done))
            if link is not None:
                budget -= 1
                if budget < 0 or len(todo) > MAX_PATH:
                    raise BadTar(f"{show(folder)}: links go in circles")
                done = [] if link.startswith(b"/") else done[:-1]
                todo += link.split(b"/")[::-1]
        found = b"/".join(done)
        if len(found) > MAX_PATH:
            raise BadTar("a name in the archive is too long")
        if found.startswith(WHITEOUT) or b"/" + WHITEOUT in found:
            raise BadTar(f"{show(folder)} leads to a name that marks a removed one")
        return found

    def _make(self, folder: bytes, mtime: float) -> None:
        """Folders that the tar does not name: 0755 root, as Docker makes them."""
        todo = []
        while folder not in self._made:
            todo.append(folder)
            folder = split(folder)[0]
        for path in reversed(todo):
            self._replaced(path)
            self._writer.put(Entry(path, Kind.DIRECTORY, 0o755, mtime=mtime))
            self._made.add(path)

    def _replaced(self, path: bytes) -> None:
        """Something else comes where `path` is."""
        if self._links.pop(path, None) is not None:
            self._parents.clear()
        if path in self._made:
            below = path + b"/"
            self._made = {known for known in self._made if known != path and not known.startswith(below)}
            for link in [link for link in self._links if link.startswith(below)]:
                del self._links[link]
            self._parents.clear()


def _clean(path: bytes) -> bytes:
    """Relative, without '.' and empty parts. BadTar for '..' and for names that no Linux can have."""
    if len(path) > MAX_PATH:
        raise BadTar("a name in the archive is too long")
    if path.startswith((b"/", b"./")) or path.endswith(b"/") or b"//" in path or b"/./" in path or path.endswith(b"/.") or path == b".":
        path = b"/".join([part for part in path.split(b"/") if part not in (b"", b".")])
    if b".." in path and b".." in path.split(b"/"):
        raise BadTar(f"{show(path)} points out of the layer")
    if len(path) > _MAX_NAME and any(len(part) > _MAX_NAME for part in path.split(b"/")):
        raise BadTar("a name in the archive is too long")
    return path
