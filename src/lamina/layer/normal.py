"""The normalised diff of a layer: its identity without times. Byte form: docs/dev/keys.md, "Normalised diff"."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Mapping, Sequence
from hashlib import sha256
from math import floor
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from lamina.layer.entry import Entry, Kind
from lamina.layer.extra import Extra, read_extra
from lamina.layer.flavour import Flavour
from lamina.layer.scan import scan
from lamina.layer.sums import Sum

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

HEAD = b"lamina-normal-diff-1\n"
_LARGE = 1 << 20  # bytes from which a thread is worth it
_PIECE = 1 << 20
_WAITING = 64  # files that may be open for the threads
_LONG = 3900  # bytes of a path
_FILE, _DIRECTORY, _SYMLINK, _HARDLINK = Kind.FILE, Kind.DIRECTORY, Kind.SYMLINK, Kind.HARDLINK
_PLAIN = (_FILE, _DIRECTORY, _SYMLINK)


class NormalDiff(msgspec.Struct, frozen=True):
    digest: str  # "sha256:HEX"
    size: int  # bytes of regular files, each inode once
    entries: int
    on_disk: tuple[int, int] | None = (
        None  # (names, bytes of all regular files), where each entry is one name with bytes of its own; sockets are not counted
    )
    as_told: bool = False  # the tar of the entries that were told is the tar of the layer, as far as headers go


def normalise(
    layer_dir: Path,
    flavour: Flavour,
    known: Mapping[bytes, Sum] | None = None,
    sums: dict[bytes, Sum] | None = None,
    told: Sequence[Entry] | None = None,
) -> NormalDiff:
    """Read the layer directory. `known`: what need not be looked at again, by path. Errors as scan.

    `sums` is filled with what a later layer may share. `told`: the entries that somebody expects, see `NormalDiff.as_told`.
    """
    result = sha256(HEAD)
    size = entries = 0
    plain = True  # each entry is a name on disk, and no bytes have two names
    pool: ThreadPoolExecutor | None = None
    waiting: deque[tuple[Entry, str | Future[str]]] = deque()
    open_files = 0

    def settle(limit: int) -> None:
        """Hash records in their order, until at most `limit` files wait for a thread."""
        nonlocal open_files
        while waiting and (open_files > limit or isinstance(waiting[0][1], str)):
            entry, content = waiting.popleft()
            if not isinstance(content, str):
                open_files -= 1
                content = content.result()
            add(entry, content)

    known = known or {}
    expected = told
    beside = read_extra(layer_dir) if sums is not None else Extra()
    sharable = sums is not None and not (beside.modes or beside.owners or beside.devices or beside.xattrs)

    def add(entry: Entry, content: str) -> None:
        result.update(record(entry, content))
        if sums is None:
            return
        if entry.kind is _HARDLINK:
            sums.pop(entry.link, None)  # of several names none is shared
        elif content and sharable and not entry.xattrs:
            sums[entry.path] = known.get(entry.path) or Sum(
                bytes.fromhex(content), entry.size, entry.mode, entry.uid, entry.gid, entry.mtime
            )

    try:
        for entry, fd in scan(layer_dir, flavour, known, reading=False):
            if expected is not None and not (entries < len(expected) and _same_header(entry, expected[entries])):
                expected = None
            entries += 1
            # A path that nearly fills what a system call takes is for the walk over the disk, which refuses the layer that cannot be walked.
            plain = plain and entry.kind in _PLAIN and len(entry.path) < _LONG
            content: str | Future[str] = ""
            if entry.kind is _FILE:
                size += entry.size
                there = known.get(entry.path)
                if there is not None:
                    content = there.digest.hex()
                elif entry.size < _LARGE:
                    content = _content(fd, entry.size)
                else:
                    if pool is None:
                        from concurrent.futures import ThreadPoolExecutor

                        pool = ThreadPoolExecutor(min(4, os.cpu_count() or 1), thread_name_prefix="lamina-hash")
                    content = pool.submit(_content_of, os.dup(fd))
                    open_files += 1
            if not waiting and isinstance(content, str):
                add(entry, content)
            else:
                waiting.append((entry, content))
                settle(_WAITING)
        settle(0)
    finally:
        if pool is not None:
            pool.shutdown(wait=True)
    on_disk = (entries, size) if plain else None
    return NormalDiff("sha256:" + result.hexdigest(), size, entries, on_disk, expected is not None and len(expected) == entries)


def _same_header(one: Entry, other: Entry) -> bool:
    return (
        one.path == other.path
        and one.kind is other.kind
        and one.mode == other.mode
        and one.uid == other.uid
        and one.gid == other.gid
        and floor(one.mtime) == floor(other.mtime)
        and one.link == other.link
        and (one.size == other.size or one.kind is not _FILE)
        and not one.xattrs
        and not other.xattrs
    )


def record(entry: Entry, content: str) -> bytes:
    """One line of the byte form. `content`: sha256 hex of a FILE's bytes."""
    kind, path = entry.kind, entry.path
    if kind is _FILE and not entry.xattrs:
        return b"f %d:%s %o %d %d %d %s\n" % (len(path), path, entry.mode, entry.uid, entry.gid, entry.size, content.encode())
    if kind is _HARDLINK:
        return b"h %d:%s %d:%s\n" % (len(path), path, len(entry.link), entry.link)
    if kind is Kind.WHITEOUT or kind is Kind.OPAQUE:
        return b"%s %d:%s\n" % (kind.value.encode(), len(path), path)
    mode = 0 if kind is _SYMLINK else entry.mode
    line = b"%s %d:%s %o %d %d" % (kind.value.encode(), len(path), path, mode, entry.uid, entry.gid)
    if kind is _FILE:
        line += b" %d %s" % (entry.size, content.encode())
    elif kind is _SYMLINK:
        line += b" %d:%s" % (len(entry.link), entry.link)
    elif kind is Kind.CHARACTER or kind is Kind.BLOCK:
        line += b" %d %d" % (entry.major, entry.minor)
    for name, value in entry.xattrs:
        line += b" %d:%s=%d:%s" % (len(name), name, len(value), value)
    return line + b"\n"


def _content(fd: int, size: int) -> str:
    first = os.read(fd, size + 1) if size < _PIECE else b""
    if len(first) == size:
        return sha256(first).hexdigest()
    found = sha256(first)
    while piece := os.read(fd, _PIECE):
        found.update(piece)
    return found.hexdigest()


def _content_of(fd: int) -> str:
    try:
        return _content(fd, _LARGE)
    finally:
        os.close(fd)
