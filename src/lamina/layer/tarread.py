"""Tar bytes -> entries, streaming: ustar, GNU long names, pax (global too), base-256 numbers. Foreign bytes: nothing is believed."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import BinaryIO, Protocol, cast

from lamina.diagnostics.errors import LaminaError
from lamina.layer.entry import Entry, Kind

_KINDS = {
    b"0": Kind.FILE, b"\0": Kind.FILE, b"7": Kind.FILE, b"1": Kind.HARDLINK, b"2": Kind.SYMLINK, b"3": Kind.CHARACTER, b"4": Kind.BLOCK,
    b"5": Kind.DIRECTORY, b"6": Kind.FIFO,
}  # fmt: skip
_CHUNK = 1 << 20
_HEADER_LIMIT = 1 << 20  # bytes of a pax or long-name header
_XATTR = b"SCHILY.xattr."


class BadTar(LaminaError):
    """The archive is cut off, damaged or holds something that no layer may hold."""

    code = "layer/bad-tar"
    default_exit = 65


class Source(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


class Body(io.RawIOBase):
    """The bytes of one member; what is left over is skipped by the reader."""

    def __init__(self, source: Source, size: int, name: bytes) -> None:
        self._source = source
        self._name = name
        self.left = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]  # readinto is given a buffer
        count = min(len(view), self.left)
        if not count:
            return 0
        data = self._source.read(count)
        if not data:
            raise BadTar(f"the archive ends inside {self._name.decode(errors='replace')!r}")
        view[: len(data)] = data
        self.left -= len(data)
        return len(data)

    def readall(self) -> bytes:
        parts = []
        while self.left:
            data = self._source.read(min(self.left, _CHUNK))
            if not data:
                raise BadTar(f"the archive ends inside {self._name.decode(errors='replace')!r}")
            self.left -= len(data)
            parts.append(data)
        return parts[0] if len(parts) == 1 else b"".join(parts)


def read_tar(source: Source) -> Iterator[tuple[Entry, BinaryIO | None]]:
    """(entry, body of a FILE). Names are as they stand in the archive (the caller cleans them); deletions are not yet told from files.

    Raises BadTar for a header whose checksum is wrong, a cut-off archive, sparse members and unknown types.
    """
    overall: dict[bytes, bytes] = {}
    pending: dict[bytes, bytes] = {}
    seen = False
    while True:
        block = _exactly(source, 512, seen)
        if block is None:
            return
        if block == bytes(512):
            # GNU tar pads with zero blocks; whatever follows is not part of the archive, but the stream is read to its end by the caller
            return
        if not _checksum_holds(block):
            raise BadTar("not a tar archive: a header's checksum is wrong" if seen else "not a tar archive")
        seen = True
        kind = block[156:157]
        size = _number(block[124:136])
        if kind in b"xgLK" and size > _HEADER_LIMIT:
            raise BadTar("a header of the archive is larger than 1 MiB")
        if kind == b"x":
            pending.update(_pax(_read_padded(source, size)))
            continue
        if kind == b"g":
            overall.update(_pax(_read_padded(source, size)))
            continue
        if kind == b"L":
            pending.setdefault(b"path", _read_padded(source, size).rstrip(b"\0"))
            continue
        if kind == b"K":
            pending.setdefault(b"linkpath", _read_padded(source, size).rstrip(b"\0"))
            continue
        entry = _entry(block, kind, size, {**overall, **pending})
        pending = {}
        if entry.kind is Kind.FILE:
            body = Body(source, entry.size, entry.path)
            yield entry, cast(BinaryIO, body)
            while body.left:
                body.readall()
            padding = -entry.size % 512
            if padding:
                _exactly(source, padding, True)
        else:
            if size and entry.kind is not Kind.HARDLINK:
                _read_padded(source, min(size, _HEADER_LIMIT))
            yield entry, None


def _entry(block: bytes, kind: bytes, size: int, pax: dict[bytes, bytes]) -> Entry:
    if kind == b"S" or any(key.startswith(b"GNU.sparse.") for key in pax):
        raise BadTar("the archive has sparse members, which image layers do not have", hint="pack it without --sparse")
    found = _KINDS.get(kind)
    if found is None:
        raise BadTar(f"the archive has a member of the unknown type {kind!r}")
    path = pax.get(b"path")
    if path is None:
        path = _text(block[:100])
        prefix = _text(block[345:500]) if block[257:262] == b"ustar" else b""
        if prefix and block[263:265] != b" \0":
            path = prefix + b"/" + path
    link = pax.get(b"linkpath", _text(block[157:257]))
    if found is Kind.FILE and kind in b"0\0" and path.endswith(b"/"):
        found = Kind.DIRECTORY  # how old tars write folders
    try:
        size = int(pax.get(b"size", size))
        uid = int(pax.get(b"uid", _number(block[108:116])))
        gid = int(pax.get(b"gid", _number(block[116:124])))
        mtime = float(pax.get(b"mtime", _number(block[136:148])))
    except ValueError:
        raise BadTar(f"{path.decode(errors='replace')!r} has a header that is no number") from None
    if size < 0 or not 0 <= uid < 2**32 or not 0 <= gid < 2**32 or not -(2**62) < mtime < 2**62:
        raise BadTar(f"{path.decode(errors='replace')!r} has an impossible size, owner or time")
    xattrs = tuple(sorted((key[len(_XATTR) :], value) for key, value in pax.items() if key.startswith(_XATTR)))
    return Entry(
        path,
        found,
        _number(block[100:108]) & 0o7777,
        uid,
        gid,
        size if found is Kind.FILE else 0,
        mtime,
        link,
        _number(block[329:337]),
        _number(block[337:345]),
        xattrs,
    )


def _exactly(source: Source, count: int, begun: bool) -> bytes | None:
    parts = []
    left = count
    while left:
        data = source.read(left)
        if not data:
            if left == count and not begun:
                raise BadTar("the archive is empty")
            if left == count and count == 512:
                return None  # some writers leave the closing blocks away
            raise BadTar("the archive is cut off")
        parts.append(data)
        left -= len(data)
    return b"".join(parts)


def _read_padded(source: Source, size: int) -> bytes:
    data = _exactly(source, size, True) if size else b""
    if -size % 512:
        _exactly(source, -size % 512, True)
    return data or b""


def _checksum_holds(block: bytes) -> bool:
    try:
        stored = int(block[148:156].strip(b" \0") or b"0", 8)
    except ValueError:
        return False
    plain = sum(block) - sum(block[148:156]) + 8 * 32
    if stored == plain:
        return True
    signed = sum(b - 256 if b > 127 else b for b in block[:148] + block[156:]) + 8 * 32
    return stored == signed


def _number(field: bytes) -> int:
    if field[:1] in (b"\x80", b"\xff"):
        value = int.from_bytes(field[1:], "big")
        return value - (1 << (8 * (len(field) - 1))) if field[:1] == b"\xff" else value
    text = field.split(b"\0", 1)[0].strip()
    if not text:
        return 0
    try:
        return int(text, 8)
    except ValueError:
        raise BadTar("a header of the archive has a field that is no number") from None


def _text(field: bytes) -> bytes:
    return field.split(b"\0", 1)[0]


def _pax(data: bytes) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    position = 0
    while position < len(data) and data[position] != 0:
        space = data.find(b" ", position, position + 20)
        try:
            length = int(data[position:space]) if space > 0 else 0
        except ValueError:
            length = 0
        record = data[space + 1 : position + length]
        key, equals, value = record.partition(b"=")
        if length <= 0 or position + length > len(data) or not equals or not value.endswith(b"\n"):
            raise BadTar("a pax header of the archive is damaged")
        found[key] = value[:-1]
        position += length
    return found
