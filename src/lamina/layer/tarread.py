"""Reads a tar as a stream: ustar, GNU long names and base-256 numbers, pax headers, GNU and pax sparse files.

Own code because header parsing is half of what tarfile costs, and because archives are hostile: extended headers have a size limit,
each number a range, and whatever is wrong is one BadTar. Names are given as they stand in the archive; apply.py cleans them.
Global pax headers are read and ignored, as Docker does.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from zlib import adler32

from lamina.diagnostics.errors import LaminaError
from lamina.layer.entry import Entry, Kind
from lamina.layer.paths import show
from lamina.layer.writer import PIECE, Readable

BLOCK = 512
MAX_EXTENDED = 1 << 20  # bytes of one extended header, as Go's archive/tar
_MAX_SIZE = 1 << 62
_MAX_ID = (1 << 32) - 2  # 2**32-1 means "leave it" to chown
_MAX_TIME = 1 << 53
_MAX_HOLES = 1 << 16  # pieces of one sparse file
_XATTR = b"SCHILY.xattr."
_header = struct.Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12x").unpack_from
_EMPTY = bytes(BLOCK)
_KINDS = {
    b"0": Kind.FILE,
    b"\0": Kind.FILE,
    b"7": Kind.FILE,
    b"S": Kind.FILE,
    b"1": Kind.HARDLINK,
    b"2": Kind.SYMLINK,
    b"3": Kind.CHARACTER,
    b"4": Kind.BLOCK,
    b"5": Kind.DIRECTORY,
    b"6": Kind.FIFO,
}
Pax = dict[bytes, bytes]
Hole = tuple[int, int]  # (offset, length) of bytes that are present


class BadTar(LaminaError):
    """Not a tar, damaged, cut off, or with something in it that nobody may unpack."""

    code = "layer/bad-tar"
    default_exit = 65


class TarReader:
    """Iterate for entries; `read` gives the bytes of the file that was yielded last, as far as one wants them. Errors are BadTar."""

    def __init__(self, stream: Readable) -> None:
        self._stream = stream
        self._data = b""
        self._at = 0
        self._left = 0  # bytes of the current body not read yet
        self._padding = 0
        self._map: list[Hole] | None = None
        self._place = 0  # in a sparse file
        self._length = 0

    def read(self, size: int, /) -> bytes:
        if self._map is not None:
            return self._sparse(size)
        return self._body(size)

    def __iter__(self) -> Iterator[Entry]:
        pax: Pax = {}
        long_name = long_link = b""
        while True:
            self._skip()
            head = self._header_block()
            if head is None:
                if pax or long_name or long_link:
                    raise BadTar("the archive ends after an extended header")
                return
            (name, mode, uid, gid, size, mtime, checksum, flag, link, magic, _, _, major, minor, prefix) = _header(head)
            # adler32's low half is exact for a sum of 256 bytes.
            total = (adler32(head[:256]) & 0xFFFF) + (adler32(head[256:]) & 0xFFFF) - 2
            stated = _number(checksum, "checksum")
            total += 256 - sum(checksum)
            if stated != total and stated != total - 256 * sum(byte > 127 for byte in head[:148] + head[156:]):
                raise BadTar("not a tar archive, or a damaged one: a header's checksum is wrong")
            length = _number(size, "size")
            if length < 0 or length > _MAX_SIZE:
                raise BadTar("a member has an impossible size")
            if flag in b"xgLKX":
                raw = self._extended(length)
                if flag in b"xX":
                    pax.update(_pax(raw))
                elif flag == b"L":
                    long_name = raw.partition(b"\0")[0]
                elif flag == b"K":
                    long_link = raw.partition(b"\0")[0]
                else:
                    _pax(raw)
                continue
            kind = _KINDS.get(flag)
            if kind is None:
                raise BadTar(f"the archive has a member of unknown type {flag!r}")
            name = long_name or name.partition(b"\0")[0]
            if magic[:6] == b"ustar\0" and prefix[0] and not long_name:
                name = prefix.partition(b"\0")[0] + b"/" + name
            link = long_link or link.partition(b"\0")[0]
            when = float(_number(mtime, "time"))
            owner, group = _number(uid, "owner"), _number(gid, "group")
            xattrs: tuple[tuple[bytes, bytes], ...] = ()
            self._map = None
            if pax:
                name = pax.get(b"path", name)
                link = pax.get(b"linkpath", link)
                length = _decimal(pax, b"size", length)
                owner, group = _decimal(pax, b"uid", owner), _decimal(pax, b"gid", group)
                if b"mtime" in pax:
                    when = _time(pax[b"mtime"])
                xattrs = tuple(
                    sorted((key[len(_XATTR) :], value) for key, value in pax.items() if len(key) > len(_XATTR) and key.startswith(_XATTR))
                )
            if not 0 <= length <= _MAX_SIZE:
                raise BadTar("a member has an impossible size")
            if flag == b"\0" and name.endswith(b"/"):
                kind = Kind.DIRECTORY  # as archives older than POSIX say it; only now is the whole name known
            # Directories, links and devices have no body, whatever the size field says, except in pax' old reading of hard links.
            self._left = length if kind is Kind.FILE else 0
            self._padding = -self._left % BLOCK
            real = self._left
            if kind is Kind.FILE and (flag == b"S" or pax):
                name, real = self._sparse_header(flag, head, pax, name, real)
            if not 0 <= owner <= _MAX_ID or not 0 <= group <= _MAX_ID:
                raise BadTar(f"{show(name)} has an impossible owner")
            if not -_MAX_TIME < when < _MAX_TIME:
                raise BadTar(f"{show(name)} has an impossible time")
            device = kind is Kind.CHARACTER or kind is Kind.BLOCK
            numbers = (_device(major, name), _device(minor, name)) if device else (0, 0)
            yield Entry(
                name,
                kind,
                _number(mode, "mode") & 0o7777,
                owner,
                group,
                real,
                when,
                link if kind is Kind.SYMLINK or kind is Kind.HARDLINK else b"",
                *numbers,
                xattrs,
            )
            pax = {}
            long_name = long_link = b""

    # -- bytes

    def _fill(self, wanted: int) -> bool:
        """Have at least `wanted` bytes ready; False at the end of the stream."""
        while len(self._data) - self._at < wanted:
            more = self._stream.read(PIECE)
            if not more:
                return False
            self._data = self._data[self._at :] + more if self._at < len(self._data) else more
            self._at = 0
        return True

    def _header_block(self) -> bytes | None:
        """The next header; None at the end (two blocks of zeros, or the end of the stream at a block)."""
        zeros = 0
        while True:
            if not self._fill(BLOCK):
                if len(self._data) != self._at:
                    raise BadTar("the archive is cut off")
                return None
            head = self._data[self._at : self._at + BLOCK]
            self._at += BLOCK
            if head != _EMPTY:
                if zeros:
                    raise BadTar("not a tar archive, or a damaged one: a block of zeros between members")
                return head
            zeros += 1
            if zeros == 2:
                return None

    def _body(self, size: int) -> bytes:
        if self._left <= 0 or size == 0:
            return b""
        if self._at >= len(self._data) and not self._fill(1):
            raise BadTar("the archive is cut off")
        at = self._at
        wanted = min(size, self._left) if size > 0 else self._left
        if wanted == self._left <= PIECE and len(self._data) - at < wanted:
            # Small files come in one piece even where a border of the stream's pieces cuts them.
            if not self._fill(wanted):
                raise BadTar("the archive is cut off")
            at = self._at
        piece = self._data[at : at + wanted]
        self._at = at + len(piece)
        self._left -= len(piece)
        return piece

    def _skip(self) -> None:
        todo = self._left + self._padding
        self._left = self._padding = 0
        while todo:
            ready = len(self._data) - self._at
            if ready >= todo:
                self._at += todo
                return
            todo -= ready
            self._at = len(self._data)
            if not self._fill(1):
                raise BadTar("the archive is cut off")

    def _extended(self, length: int) -> bytes:
        if length > MAX_EXTENDED:
            raise BadTar(f"an extended header of {length} bytes is longer than the {MAX_EXTENDED} that are allowed")
        self._left, self._padding, self._map = length, -length % BLOCK, None
        raw = self._body(length) if length else b""
        self._skip()
        return raw

    # -- sparse files

    def _sparse_header(self, flag: bytes, head: bytes, pax: Pax, name: bytes, stored: int) -> tuple[bytes, int]:
        """(name, real size); sets the map when the file is sparse. The formats: GNU tar manual, appendix "Storing Sparse Files"."""
        if flag == b"S":
            parts, real = self._old_map(head)
        elif pax.get(b"GNU.sparse.major") == b"1" and pax.get(b"GNU.sparse.minor") == b"0":
            parts = self._new_map()
            real = _decimal(pax, b"GNU.sparse.realsize", -1)
        elif b"GNU.sparse.map" in pax:
            numbers = [_digits(word) for word in pax[b"GNU.sparse.map"].split(b",")]
            parts = list(zip(numbers[::2], numbers[1::2]))
            real = _decimal(pax, b"GNU.sparse.size", -1)
        elif any(key.startswith(b"GNU.sparse.") for key in pax):
            raise BadTar(f"{show(name)} is a sparse file in a form that is not known here", hint="make the archive without --sparse")
        else:
            return name, stored
        name = pax.get(b"GNU.sparse.name", name)
        end = 0
        for offset, length in parts:
            if offset < end or length < 0:
                raise BadTar(f"{show(name)}: the map of a sparse file goes backwards")
            end = offset + length
        if not end <= real <= _MAX_SIZE or sum(length for _, length in parts) != self._left:
            raise BadTar(f"{show(name)}: the map of a sparse file does not fit its size")
        self._map = [part for part in parts if part[1]]
        self._map.reverse()
        self._place, self._length = 0, real
        return name, real

    def _old_map(self, head: bytes) -> tuple[list[Hole], int]:
        parts: list[Hole] = []
        block, at, count, more = head, 386, 4, head[482]
        while True:
            for index in range(at, at + 24 * count, 24):
                if not block[index]:
                    break
                parts.append((_number(block[index : index + 12], "sparse map"), _number(block[index + 12 : index + 24], "sparse map")))
            if not more:
                return parts, _number(head[483:495], "size")
            if len(parts) > _MAX_HOLES or not self._fill(BLOCK):
                raise BadTar("the archive is cut off inside the map of a sparse file")
            block, at, count = self._data[self._at : self._at + BLOCK], 0, 21
            more = block[504]
            self._at += BLOCK

    def _new_map(self) -> list[Hole]:
        """Version 1.0: decimal lines (count, then offset and length of each) in front of the data, padded to a block."""
        text = b""
        lines, wanted = 0, -1
        while wanted < 0 or lines <= 2 * wanted:
            block = self._body(BLOCK)
            if len(block) < BLOCK or b"\n" not in block:
                raise BadTar("the archive is cut off inside the map of a sparse file")
            text += block
            lines += block.count(b"\n")
            if wanted < 0:
                wanted = _digits(text.partition(b"\n")[0])
                if wanted > _MAX_HOLES:
                    raise BadTar("the map of a sparse file is too long")
        numbers = [_digits(line) for line in text.split(b"\n", 2 * wanted + 1)[1 : 2 * wanted + 1]]
        return list(zip(numbers[::2], numbers[1::2]))

    def _sparse(self, size: int) -> bytes:
        assert self._map is not None
        size = min(size if size > 0 else PIECE, PIECE, self._length - self._place)
        if size <= 0:
            return b""
        if not self._map or self._place < self._map[-1][0]:
            until = self._map[-1][0] if self._map else self._length
            piece = bytes(min(size, until - self._place))
        else:
            offset, length = self._map.pop()
            piece = self._body(min(size, length))
            if len(piece) < length:
                self._map.append((offset + len(piece), length - len(piece)))
        self._place += len(piece)
        return piece


def _number(field: bytes, what: str) -> int:
    """Octal text, or GNU's base-256 (first bit set; two's complement)."""
    first = field[0]
    if first & 0x80:
        value = int.from_bytes(field, "big") & ((1 << (8 * len(field) - 1)) - 1)
        return value - (1 << (8 * len(field) - 1)) if first & 0x40 else value
    text = field.partition(b"\0")[0].strip() or field.strip(b" \0")
    if not text:
        return 0
    try:
        value = int(text, 8)
    except ValueError:
        value = -1
    if value < 0 or b"_" in text:
        raise BadTar(f"not a tar archive, or a damaged one: a header's {what} is no number")
    return value


def _device(field: bytes, name: bytes) -> int:
    value = _number(field, "device")
    if not 0 <= value < 1 << 20:
        raise BadTar(f"{show(name)} has an impossible device number")
    return value


def _digits(text: bytes) -> int:
    if not text.isdigit() or len(text) > 20:
        raise BadTar("not a tar archive, or a damaged one: an extended header's number is none")
    return int(text)


def _decimal(pax: Pax, key: bytes, default: int) -> int:
    return _digits(pax[key]) if key in pax else default


def _time(text: bytes) -> float:
    """Seconds with a fraction, maybe negative. Parsed by hand: float() would take "nan" and "1e300"."""
    sign, digits = (-1, text[1:]) if text.startswith(b"-") else (1, text)
    whole, _, fraction = digits.partition(b".")
    if fraction and not fraction.isdigit():
        raise BadTar("not a tar archive, or a damaged one: an extended header's time is none")
    value = float(_digits(whole))
    return sign * (value + float(b"0." + fraction[:9]) if fraction else value)


def _pax(raw: bytes) -> Pax:
    """`LENGTH KEY=VALUE\\n` records; a later one wins."""
    found: Pax = {}
    at = 0
    while at < len(raw):
        space = raw.find(b" ", at, at + 20)
        if space < 0 or not raw[at:space].isdigit():
            if not raw[at:].strip(b"\0"):
                break
            raise BadTar("not a tar archive, or a damaged one: a broken extended header")
        end = at + int(raw[at:space])
        key, equals, value = raw[space + 1 : end - 1].partition(b"=")
        if end > len(raw) or end <= space or raw[end - 1 : end] != b"\n" or not equals or not key:
            raise BadTar("not a tar archive, or a damaged one: a broken extended header")
        if b"\0" in key or (key in (b"path", b"linkpath", b"GNU.sparse.name") and b"\0" in value):
            raise BadTar("a name in an extended header holds a zero byte")
        if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
            # Version 0.0 repeats these; kept as the map of version 0.1.
            found[b"GNU.sparse.map"] = found[b"GNU.sparse.map"] + b"," + value if b"GNU.sparse.map" in found else value
        elif value or not key.startswith((b"path", b"linkpath", b"size", b"uid", b"gid", b"mtime")):
            found[key] = value
        else:
            found.pop(key, None)
        at = end
    return found
