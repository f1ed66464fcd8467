"""Reading single files of a context: bytes, attributes, stat. Errors name the path inside the context."""

from __future__ import annotations

import os
from hashlib import sha256
from operator import attrgetter

import msgspec

from lamina.diagnostics.errors import LaminaError
from lamina.layer import merkle
from lamina.layer.links import clean
from lamina.layer.statcache import Node

CHUNK = 1 << 20  # bytes; files of this size and more are large
Facts = tuple[int, int, int, int, int, int]
"""What a signature counts of a name: Node's fields from `mode` to `device`."""
facts_of = attrgetter("st_mode", "st_size", "st_mtime_ns", "st_ctime_ns", "st_ino", "st_dev")
_pack = msgspec.msgpack.Encoder().encode


class ContextUnreadable(LaminaError):
    """A file or folder of the context cannot be read; the message names it."""

    code = "context/unreadable"
    default_exit = 66


class ContextChanged(LaminaError):
    """A file of the context was changed between the moment its digest was taken and its use."""

    code = "context/changed"


def digest_file(fd: int, node: Node) -> None:
    """Read a file to its end, close it, and note digest and stat as they are now."""
    try:
        hasher = sha256()
        data = os.read(fd, CHUNK if node.size >= CHUNK else node.size + 1)
        while data:
            hasher.update(data)
            data = os.read(fd, CHUNK)
        found = os.fstat(fd)
        now = node_now(node.name, found)
    finally:
        os.close(fd)
    if not node.same_stat(now):
        raise ContextChanged(f"{show(node.name)} was changed while it was read", hint="run the build again")
    node.digest, node.links = hasher.digest(), found.st_nlink


def node_now(name: bytes, found: os.stat_result) -> Node:
    return Node(name, *facts_of(found))


def plain(facts: list[str | Facts]) -> bytes:
    try:
        return _pack(facts)
    except UnicodeEncodeError:
        return _pack([os.fsencode(item) if isinstance(item, str) else item for item in facts])


def read_xattrs(path: bytes) -> tuple[tuple[bytes, bytes], ...]:
    """Those that count; () where the filesystem has none or will not say."""
    try:
        names = os.listxattr(path)
    except OSError:
        return ()
    if not names:
        return ()
    found: list[tuple[bytes, bytes]] = []
    for text in names:
        name = os.fsencode(text)
        if merkle.counted_xattr(name):
            try:
                found.append((name, os.getxattr(path, text)))
            except OSError:
                continue
    return tuple(sorted(found))


def show(path: bytes) -> str:
    return clean(path).decode("utf-8", "backslashreplace") or "."
