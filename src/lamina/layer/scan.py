"""A layer directory, or the upper of an overlay, as entries: what pack, the normalised diff and listings walk over."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from lamina.layer.entry import Entry, Kind
from lamina.layer.extra import read_extra
from lamina.layer.flavour import Flavour
from lamina.layer.inodes import DIRECTORY_CODE, FILE_CODE, WHITEOUT_CODE, ForeignLayer, Inodes, listing
from lamina.layer.paths import FILE, MAX_PATH, Folders, fault, show, split
from lamina.layer.sums import Sum
from lamina.layer.writer import WHITEOUT, UnstorableName

__all__ = ["ForeignLayer", "Found", "scan"]


class Found(NamedTuple):
    entry: Entry
    fd: int  # of a FILE, at its start, good until the next step of the iteration; else -1


def scan(layer_dir: Path, flavour: Flavour, known: Mapping[bytes, Sum] | None = None, *, reading: bool = True) -> Iterator[Found]:
    """All entries below `diff`: folders before what they hold, names in byte order, an OPAQUE right after its folder's entry.

    The root's own metadata is not part of a layer (its OPAQUE is). Of the names of one inode the first is the FILE, the others are
    HARDLINKs to it. Sockets are left out, as Docker does. Files that are `known` (sums.py) are not looked at; with `reading` they are opened. UnstorableName for names that begin with `.wh.`, ForeignLayer, LayerFault.
    """
    inodes = Inodes(flavour, read_extra(layer_dir))
    gone: dict[bytes, list[bytes]] = {}
    for path in inodes.extra.whiteouts:
        folder, name = split(path)
        gone.setdefault(folder, []).append(name)
    first: dict[tuple[int, int], bytes] = {}
    here = b""
    with Folders([layer_dir / "diff"]) as folders:
        try:
            root = folders.fd(b"")
            if inodes.opaque(b"", root):
                yield Found(Entry(b"", Kind.OPAQUE), -1)
            stack = [(b"", iter(listing(root, gone.get(b"", ()))))]
            while stack:
                folder, names = stack[-1]
                for name, code in names:
                    here = folder + b"/" + name if folder else name
                    if name.startswith(WHITEOUT):
                        raise UnstorableName(
                            f"{show(here)}: a layer cannot hold names that begin with .wh.", hint="rename or remove it in the same step"
                        )
                    if len(here) > MAX_PATH:
                        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
                    if code is FILE_CODE:
                        told = known.get(here) if known is not None else None
                        if told is not None and not reading:
                            yield Found(told.entry(here), -1)
                            continue
                        fd = os.open(name, FILE, dir_fd=folders.fd(folder))
                        try:
                            if told is not None:
                                yield Found(told.entry(here), fd)
                                continue
                            found = os.fstat(fd)
                            entry = inodes.opened(here, fd, found)
                            if found.st_nlink > 1 and entry.kind is Kind.FILE:
                                entry = _linked(entry, found, first)
                            yield Found(entry, fd if entry.kind is Kind.FILE else -1)
                        finally:
                            os.close(fd)
                    elif code is DIRECTORY_CODE:
                        fd = folders.fd(here)
                        yield Found(inodes.opened(here, fd, os.fstat(fd)), -1)
                        fd = folders.fd(here)
                        if inodes.opaque(here, fd):
                            yield Found(Entry(here, Kind.OPAQUE), -1)
                            fd = folders.fd(here)
                        stack.append((here, iter(listing(fd, gone.get(here, ())))))
                        break
                    elif code is WHITEOUT_CODE:
                        yield Found(Entry(here, Kind.WHITEOUT), -1)
                    else:
                        parent = folders.fd(folder)
                        found = os.stat(name, dir_fd=parent, follow_symlinks=False)
                        special = inodes.other(here, name, parent, found)
                        if special is not None:
                            if found.st_nlink > 1 and special.kind is not Kind.WHITEOUT:
                                special = _linked(special, found, first)
                            yield Found(special, -1)
                else:
                    stack.pop()
        except OSError as error:
            raise fault("read", here, error) from error


def _linked(entry: Entry, found: os.stat_result, first: dict[tuple[int, int], bytes]) -> Entry:
    name = first.setdefault((found.st_dev, found.st_ino), entry.path)
    if name == entry.path:
        return entry
    return Entry(entry.path, Kind.HARDLINK, entry.mode, entry.uid, entry.gid, entry.size, entry.mtime, name, 0, 0, entry.xattrs)


def entries(layer_dir: Path, flavour: Flavour) -> Iterator[Entry]:
    """As scan, without the bytes."""
    for found in scan(layer_dir, flavour):
        yield found.entry
