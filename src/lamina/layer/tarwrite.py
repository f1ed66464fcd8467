"""Entries as tar headers: ustar, and a pax header only for what ustar cannot hold. The same entry is the same bytes, always.

Times are whole seconds (as Docker's and containerd's differs write them), names of users and groups are left empty.
"""

from __future__ import annotations

import struct
from math import floor
from zlib import adler32

from lamina.layer.entry import Entry, Kind
from lamina.layer.writer import WHITEOUT

BLOCK = 512
OPAQUE = b".wh..wh..opq"
END = bytes(2 * BLOCK)
_MAX_ID = 0o7777777
_MAX_NUMBER = 0o77777777777
_FLAGS = {
    Kind.FILE: b"0",
    Kind.HARDLINK: b"1",
    Kind.SYMLINK: b"2",
    Kind.CHARACTER: b"3",
    Kind.BLOCK: b"4",
    Kind.DIRECTORY: b"5",
    Kind.FIFO: b"6",
    Kind.WHITEOUT: b"0",
    Kind.OPAQUE: b"0",
}
_FILE, _DIRECTORY, _SYMLINK, _HARDLINK = Kind.FILE, Kind.DIRECTORY, Kind.SYMLINK, Kind.HARDLINK
_CHARACTER, _BLOCK, _WHITEOUT, _OPAQUE = Kind.CHARACTER, Kind.BLOCK, Kind.WHITEOUT, Kind.OPAQUE
_header = struct.Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12x").pack
_SPACES = b" " * 8
_USTAR = b"ustar\x0000"
_NO_DEVICE = b"0000000\0"


def padding(size: int) -> bytes:
    """What follows a body of `size` bytes."""
    return bytes(-size % BLOCK)


def header(entry: Entry) -> bytes:
    """All header blocks of an entry. A FILE's `size` bytes and their padding must follow."""
    kind, path = entry.kind, entry.path
    if kind is _DIRECTORY:
        path += b"/"
    elif kind is _WHITEOUT:
        folder, slash, name = path.rpartition(b"/")
        path = folder + slash + WHITEOUT + name
    elif kind is _OPAQUE:
        path = path + b"/" + OPAQUE if path else OPAQUE
    size = entry.size if kind is _FILE else 0
    mtime = floor(entry.mtime)
    uid, gid, link = entry.uid, entry.gid, entry.link
    extended: list[tuple[bytes, bytes]] = []
    name, prefix = path, b""
    if len(path) > 100:
        cut = path.find(b"/", max(len(path) - 101, 1), 156)
        if cut > 0 and cut < len(path) - 1:
            prefix, name = path[:cut], path[cut + 1 :]
        else:
            extended.append((b"path", path))
            name = path[:100]
    if len(link) > 100:
        extended.append((b"linkpath", link))
        link = link[:100]
    if uid > _MAX_ID:
        extended.append((b"uid", b"%d" % uid))
        uid = 0
    if gid > _MAX_ID:
        extended.append((b"gid", b"%d" % gid))
        gid = 0
    if not 0 <= mtime <= _MAX_NUMBER:
        extended.append((b"mtime", b"%d" % mtime))
        mtime = 0
    written = size
    if size > _MAX_NUMBER:
        extended.append((b"size", b"%d" % size))
        written = 0
    if entry.xattrs and kind is not _HARDLINK:
        extended += [(b"SCHILY.xattr." + key, value) for key, value in entry.xattrs]
    device = kind is _CHARACTER or kind is _BLOCK
    block = _block(
        name,
        entry.mode & 0o7777,
        uid,
        gid,
        written,
        mtime,
        _FLAGS[kind],
        link if kind is _SYMLINK or kind is _HARDLINK else b"",
        b"%07o\0" % entry.major if device else _NO_DEVICE,
        b"%07o\0" % entry.minor if device else _NO_DEVICE,
        prefix,
    )
    if not extended:
        return block
    body = b"".join(_record(*pair) for pair in sorted(extended))
    head = _block(b"././@PaxHeader", 0o644, 0, 0, len(body), 0, b"x", b"", _NO_DEVICE, _NO_DEVICE, b"")
    return head + body + padding(len(body)) + block


def _block(
    name: bytes,
    mode: int,
    uid: int,
    gid: int,
    size: int,
    mtime: int,
    flag: bytes,
    link: bytes,
    major: bytes,
    minor: bytes,
    prefix: bytes,
) -> bytes:
    raw = _header(
        name,
        b"%07o\0" % mode,
        b"%07o\0" % uid,
        b"%07o\0" % gid,
        b"%011o\0" % size,
        b"%011o\0" % mtime,
        _SPACES,
        flag,
        link,
        _USTAR,
        b"",
        b"",
        major,
        minor,
        prefix,
    )
    # adler32's low half is exact for a sum of 256 bytes.
    total = (adler32(raw[:256]) & 0xFFFF) + (adler32(raw[256:]) & 0xFFFF) - 2
    return raw[:148] + b"%06o\0 " % total + raw[156:]


def _record(key: bytes, value: bytes) -> bytes:
    """The length counts itself."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    if len(str(length)) > len(str(rest)):
        length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, key, value)
