"""The outer tar of an image archive: an index of members for reading, and a deterministic writer.

Layers inside an archive are read and written by lamina.layer; here a member is only a name and a range of bytes. Own code because
a hostile archive must cost nothing before it is believed: no member is read, linked or created while the index is made, extended
headers have a size limit, and a truncated file is one error.
"""

from __future__ import annotations

import io
import posixpath
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import BinaryIO

import msgspec

from lamina.engine.images.errors import BadArchive

_BLOCK = 512
_MAX_MEMBERS = 100_000
_MAX_EXTENDED = 1 << 20
_ZEROS = bytes(_BLOCK)
_REGULAR = (b"\x00", b"0", b"7")


class Member(msgspec.Struct, frozen=True):
    """A regular file: `size` bytes at `offset`. Or a link to another member (`link`, already normalised)."""

    offset: int
    size: int
    link: str = ""


class TarIndex:
    """Members of a seekable tar by normalised name; of several of one name the last counts. The file stays the caller's."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._moving = threading.Lock()
        self.members: Mapping[str, Member] = scan(file)

    def find(self, name: str) -> Member | None:
        """The regular file of this name; links inside the archive are followed (docker save makes them), at most 8."""
        for _ in range(8):
            member = self.members.get(name)
            if member is None or not member.link:
                return member
            name = member.link
        raise BadArchive(f"links in the archive go in circles at {name!r}")

    def read(self, name: str, limit: int) -> bytes | None:
        """The whole of a small member; None when absent, BadArchive when larger than `limit`."""
        member = self.find(name)
        if member is None:
            return None
        if member.size > limit:
            raise BadArchive(f"{name} has {member.size} bytes; at most {limit} are expected there")
        return self.open(member).read()

    def open(self, member: Member) -> BinaryIO:
        """The bytes of a member, buffered. Several may be read at a time, each by a thread of its own."""
        return io.BufferedReader(Window(self._file, self._moving, member.offset, member.size), 1 << 18)


class Window(io.RawIOBase):
    """A range of a seekable file as a file of its own; raises BadArchive when the file ends inside it. `moving` is held while the file's
    position is ours."""

    def __init__(self, file: BinaryIO, moving: threading.Lock, offset: int, size: int) -> None:
        self._file, self._moving, self._at, self._left = file, moving, offset, size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer)  # type: ignore[arg-type]  # RawIOBase's buffer protocol type is only in typeshed's private module
        wanted = min(len(view), self._left)
        if not wanted:
            return 0
        with self._moving:
            self._file.seek(self._at)
            data = self._file.read(wanted)
        if not data:
            raise BadArchive("the archive is cut off")
        view[: len(data)] = data
        self._at += len(data)
        self._left -= len(data)
        return len(data)


def scan(file: BinaryIO, most: int = _MAX_MEMBERS) -> dict[str, Member]:
    """The members of a whole tar, from its headers. BadArchive when it is none, damaged, cut off or has more than `most`."""
    end = file.seek(0, io.SEEK_END)
    at = 0
    members: dict[str, Member] = {}
    headers = Headers(most)
    while at < end:
        file.seek(at)
        header = file.read(_BLOCK)
        if header == _ZEROS:
            break
        kind, size = headers.begin(header, at)
        if at + _BLOCK + size > end:
            raise BadArchive("the archive is cut off")
        body = at + _BLOCK
        at = body + -(-size // _BLOCK) * _BLOCK
        if kind in EXTENDED:
            headers.extend(kind, size, file.read)
            continue
        found = headers.named(header, kind)
        if found is not None:
            name, link = found
            members[name] = Member(body, 0 if link else size, link)
    return members


EXTENDED = (b"x", b"L", b"K")


class Headers:
    """Header blocks of a tar, one after the other, with what extended ones say about the next. BadArchive."""

    def __init__(self, most: int = _MAX_MEMBERS) -> None:
        self._most = most
        self._seen = 0
        self._extended: dict[str, str] = {}

    def begin(self, header: bytes, at: int) -> tuple[bytes, int]:
        """(kind, bytes that follow) of the block at byte `at`."""
        if len(header) < _BLOCK:
            raise BadArchive("the archive is cut off")
        if not _checksum_holds(header):
            raise BadArchive("this is not a tar archive" if at == 0 else f"the archive is damaged at byte {at}")
        self._seen += 1
        if self._seen > self._most:
            raise BadArchive(f"the archive has more than {self._most} members")
        kind = header[156:157]
        size = _number(header[124:136])
        if kind not in (*EXTENDED, b"g") and "size" in self._extended:
            size = _decimal(self._extended["size"])
        if size < 0:
            raise BadArchive("the archive is cut off")
        return kind, size

    def extend(self, kind: bytes, size: int, read: Callable[[int], bytes]) -> None:
        """The block is about the next one."""
        if size > _MAX_EXTENDED:
            raise BadArchive(f"an extended header of {size} bytes is more than a name needs")
        data = read(size)
        if len(data) < size:
            raise BadArchive("the archive is cut off")
        if kind == b"x":
            self._extended |= _pax(data)
        else:
            self._extended["path" if kind == b"L" else "linkpath"] = _text(data)

    def named(self, header: bytes, kind: bytes) -> tuple[str, str] | None:
        """(name, where a link leads), both normalised; None for what is neither file nor link."""
        if kind == b"g":
            return None
        extended, self._extended = self._extended, {}
        name = _normal(extended.get("path") or _name(header))
        link = extended.get("linkpath") or _text(header[157:257])
        if kind in _REGULAR:
            return name, ""
        if kind == b"1":
            return name, _normal(link)
        return (name, _normal(posixpath.join(posixpath.dirname(name), link))) if kind == b"2" else None


def _checksum_holds(header: bytes) -> bool:
    try:
        stated = int(header[148:156].strip(b" \0") or b"0", 8)
    except ValueError:
        return False
    return stated == sum(header[:148]) + 8 * 32 + sum(header[156:])


def _number(field: bytes) -> int:
    if field[0] & 0x80:
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    try:
        return int(field.strip(b" \0") or b"0", 8)
    except ValueError as error:
        raise BadArchive("a size in the archive cannot be read") from error


def _decimal(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise BadArchive("a size in the archive cannot be read")
    return int(text)


def _text(data: bytes) -> str:
    return data.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def _name(header: bytes) -> str:
    prefix = _text(header[345:500]) if header[257:263] == b"ustar\0" else ""
    return f"{prefix}/{_text(header[:100])}" if prefix else _text(header[:100])


def _normal(name: str) -> str:
    return posixpath.normpath("/" + name).lstrip("/")


def _pax(data: bytes) -> dict[str, str]:
    out: dict[str, str] = {}
    while data:
        digits, blank, _ = data.partition(b" ")
        if not blank or not digits.isdigit() or len(digits) > 9 or not len(digits) + 1 < int(digits) <= len(data):
            raise BadArchive("an extended header of the archive is damaged")
        record, data = data[len(digits) + 1 : int(digits)], data[int(digits) :]
        key, _, value = record.removesuffix(b"\n").partition(b"=")
        if key in (b"path", b"linkpath", b"size"):
            out[key.decode()] = value.decode("utf-8", "surrogateescape")
    return out


class Counted:
    """Lets `size` bytes through."""

    def __init__(self, out: BinaryIO, name: str, size: int) -> None:
        self._out, self._name, self.left = out, name, size

    def write(self, data: bytes | memoryview, /) -> int:
        self.left -= len(data)
        if self.left < 0:
            raise BadArchive(f"{self._name} is longer than it was when it was measured")
        self._out.write(data)
        return len(data)


class TarOut:
    """Writes members with mode 0644/0755, owner 0:0 and mtime 0: the same members in the same order are the same bytes."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out

    def folder(self, name: str) -> None:
        self._out.write(_header(name + "/", 0, b"5", 0o755))

    def data(self, name: str, data: bytes) -> None:
        with self.member(name, len(data)) as out:
            out.write(data)

    @contextmanager
    def member(self, name: str, size: int) -> Iterator[Counted]:
        """A writer for exactly `size` bytes; BadArchive when more or fewer come (their source changed while it was read)."""
        self._out.write(_header(name, size, b"0", 0o644))
        counted = Counted(self._out, name, size)
        yield counted
        if counted.left:
            raise BadArchive(f"{name} is {counted.left} bytes shorter than it was when it was measured")
        self._out.write(bytes(-size % _BLOCK))

    def close(self) -> None:
        """End of the archive; the file below stays open."""
        self._out.write(bytes(2 * _BLOCK))


def _header(name: str, size: int, kind: bytes, mode: int) -> bytes:
    """ustar; names here are at most 100 bytes. Sizes beyond 8 GiB as GNU base-256, which every reader knows."""
    raw = name.encode()
    if len(raw) > 100:
        raise ValueError(name)
    number = b"%011o\0" % size if size < 1 << 33 else b"\x80" + size.to_bytes(11, "big")
    head = raw.ljust(100, b"\0") + b"%07o\0" % mode + b"%07o\0" % 0 * 2 + number + b"%011o\0" % 0
    tail = kind + bytes(100) + b"ustar\00000" + bytes(64) + bytes(16) + bytes(155) + bytes(12)
    block = head + b" " * 8 + tail
    return head + b"%06o\0 " % sum(block) + tail
