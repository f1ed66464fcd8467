"""Entries -> tar bytes: ustar headers packed by hand, pax records only where ustar has no room. Byte-stable for equal entries."""

from __future__ import annotations

import math
from typing import BinaryIO, Protocol

from lamina.layer.entry import Entry, Kind

_TYPES = {
    Kind.FILE: b"0", Kind.HARDLINK: b"1", Kind.SYMLINK: b"2", Kind.CHARACTER: b"3", Kind.BLOCK: b"4", Kind.DIRECTORY: b"5", Kind.FIFO: b"6",
    Kind.WHITEOUT: b"0", Kind.OPAQUE: b"0",
}  # fmt: skip
_ZEROS = bytes(512)
_CHUNK = 1 << 20
_OCTAL7 = 0o7777777


class Sink(Protocol):
    def write(self, data: bytes | memoryview, /) -> object: ...


class TarWriter:
    """Writes entries as they come. `close` ends the archive (two zero blocks) and nothing else."""

    def __init__(self, out: Sink) -> None:
        self._out = out
        self._buffer = memoryview(bytearray(_CHUNK))

    def add(self, entry: Entry, data: BinaryIO | None = None) -> None:
        """`data` must have exactly `entry.size` bytes for a FILE; a shorter one is an error (the file changed meanwhile)."""
        self._out.write(header(entry))
        if entry.kind is not Kind.FILE or not entry.size:
            return
        left = entry.size
        assert data is not None
        if left <= _CHUNK:
            body = data.read(left)
            left -= len(body)
            self._out.write(body)
        else:
            while left:
                count = data.readinto(self._buffer[: min(left, _CHUNK)])  # type: ignore[attr-defined]  # raw files have it
                if not count:
                    break
                self._out.write(self._buffer[:count])
                left -= count
        if left:
            raise OSError(f"{entry.path.decode(errors='replace')} became shorter while it was read")
        rest = entry.size % 512
        if rest:
            self._out.write(_ZEROS[rest:])

    def close(self) -> None:
        self._out.write(_ZEROS * 2)


def header(entry: Entry) -> bytes:
    """The header blocks of one entry. Deletions are written as docker does: `.wh.NAME`, `.wh..wh..opq`."""
    name, link = entry.path, entry.link
    if entry.kind is Kind.DIRECTORY:
        name += b"/"
    elif entry.kind is Kind.WHITEOUT:
        folder, slash, base = name.rpartition(b"/")
        name = folder + slash + b".wh." + base
    elif entry.kind is Kind.OPAQUE:
        name += b"/.wh..wh..opq"
    mtime = math.floor(entry.mtime)
    size = entry.size if entry.kind is Kind.FILE else 0
    records: list[tuple[bytes, bytes]] = []
    prefix, short = _split(name)
    if short is None:
        records.append((b"path", name))
        prefix, short = b"", name[:100].replace(b"\xff", b"?")
    if len(link) > 100 or not link.isascii():
        records.append((b"linkpath", link))
    for key, value, limit in ((b"uid", entry.uid, _OCTAL7), (b"gid", entry.gid, _OCTAL7), (b"size", size, 0o77777777777)):
        if value > limit:
            records.append((key, b"%d" % value))
    if not 0 <= mtime <= 0o77777777777:
        records.append((b"mtime", b"%d" % mtime))
    records.extend((b"SCHILY.xattr." + key, value) for key, value in entry.xattrs)
    block = _block(short, prefix, entry, size, mtime, link[:100])
    if not records:
        return block
    body = b"".join(_record(key, value) for key, value in sorted(records))
    pax = _raw(b"PaxHeaders.0/" + short.rpartition(b"/")[2][:80], b"", 0o644, 0, 0, len(body), 0, b"x", b"", 0, 0)
    return pax + body + _ZEROS[: -len(body) % 512] + block


def _block(name: bytes, prefix: bytes, entry: Entry, size: int, mtime: int, link: bytes) -> bytes:
    return _raw(
        name, prefix, entry.mode & 0o7777, min(entry.uid, _OCTAL7), min(entry.gid, _OCTAL7), min(size, 0o77777777777),
        min(max(mtime, 0), 0o77777777777), _TYPES[entry.kind], link, entry.major, entry.minor,
    )  # fmt: skip


def _raw(
    name: bytes, prefix: bytes, mode: int, uid: int, gid: int, size: int, mtime: int, kind: bytes, link: bytes, major: int, minor: int
) -> bytes:
    head = b"%-100s%07o\0%07o\0%07o\0%011o\0%011o\0" % (name.ljust(100, b"\0"), mode, uid, gid, size, mtime)
    tail = b"%s%s%s%s%s%s%s%s%s" % (
        kind, link.ljust(100, b"\0"), b"ustar\0", b"00", bytes(32), bytes(32), b"%07o\0" % major, b"%07o\0" % minor, prefix.ljust(155, b"\0"),
    )  # fmt: skip
    block = head + b"        " + tail + bytes(12)
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def _split(name: bytes) -> tuple[bytes, bytes | None]:
    """ustar's (prefix, name), or (b"", None) when it does not fit or is not ASCII."""
    if not name.isascii():
        return b"", None
    if len(name) <= 100:
        return b"", name
    cut = name.rfind(b"/", 0, min(156, len(name) - 1))
    if cut > 0 and len(name) - cut - 1 <= 100:
        return name[:cut], name[cut + 1 :]
    return b"", None


def _record(key: bytes, value: bytes) -> bytes:
    body = b" %s=%s\n" % (key, value)
    length = len(body)
    total = length + len(str(length))
    total = length + len(str(total))
    return b"%d%s" % (total, body)
