"""ADD of a local archive: unpack it upon a filesystem, as Docker does for tar, plain or compressed with gzip, bzip2, xz or zstd.

Owners, modes and times are the archive's. Parents that it does not name are made 0755 root. The entry "." changes nothing.
Nothing leaves the destination: names are cleaned as text ('a/../b' and '/../b' are 'b', as Docker has it), '../b' is refused,
links in parents are followed with the destination as root.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO, cast

from lamina.layer.copying import CopyFailed, Target
from lamina.layer.entry import Entry, Kind
from lamina.layer.links import follow

if TYPE_CHECKING:
    from collections.abc import Iterator
    from tarfile import TarFile, TarInfo
    from types import ModuleType

_XATTR = "SCHILY.xattr."
_FREE = 1 << 30  # bytes that any archive may come to
_RATIO = 200


def is_archive(data: BinaryIO) -> bool:
    """Whether a first tar header can be read from it (what Docker asks). An empty tar is none; leaves the position anywhere."""
    head = data.read(512)
    data.seek(0)
    if not _compression(head) and not _tar_header(head):
        return False
    try:
        with _tar(data) as archive:
            return archive is not None
    except CopyFailed:
        return False


def looks_packed(head: bytes) -> bool:
    """Whether a stream that begins with these 512 bytes is an archive, good or damaged, and not a text."""
    return bool(_compression(head)) or _tar_header(head)


def allowed(packed: int) -> int:
    """What an archive of so many bytes from a stranger may come to: no honest one is so much smaller than its files."""
    return max(_FREE, _RATIO * packed)


def unpack(target: Target, data: BinaryIO, where: bytes, limit: int | None = None) -> None:
    """Unpack into `where`, an existing folder without links. CopyFailed for a damaged or hostile archive, and for one whose tar has more than
    `limit` bytes."""
    with _tar(data, limit) as archive:
        for item in archive:
            _member(target, archive, item, where)


def _member(target: Target, archive: TarFile, item: TarInfo, where: bytes) -> None:
    relative = _parts(item.name)
    if not relative:
        return
    parent = follow(lambda path: target.lookup(_join(where, path)), b"/".join(relative[:-1]), missing=True)
    if parent is None:
        raise CopyFailed(f"too many links in the archive's {item.name!r}")
    folder = _join(where, parent)
    target.make_folders(folder, None)
    place = _join(folder, relative[-1])
    there = target.lookup(place)
    kind = _kind(item)
    if kind is None:
        return
    reopened = False
    if there is not None and (there.kind is Kind.DIRECTORY) != (kind is Kind.DIRECTORY):
        reopened = kind is Kind.DIRECTORY and target.written(place) and target.hides_folder(place)
        target.replace(place)
        there = None
    xattrs = tuple(
        sorted(
            (key[len(_XATTR) :].encode("utf-8", "surrogateescape"), value.encode("utf-8", "surrogateescape"))
            for key, value in item.pax_headers.items()
            if key.startswith(_XATTR)
        )
    )
    entry = Entry(
        place,
        kind,
        0o777 if kind is Kind.SYMLINK else item.mode & 0o7777,
        item.uid,
        item.gid,
        item.size if kind is Kind.FILE else 0,
        float(item.mtime),
        _bytes(item.linkname) if kind is Kind.SYMLINK else b"",
        item.devmajor,
        item.devminor,
        xattrs,
    )
    if kind is Kind.HARDLINK:
        _hard_link(target, entry, item, where)
    elif kind is Kind.FILE:
        body = archive.extractfile(item)
        assert body is not None
        target.put(entry, cast(BinaryIO, body))
    else:
        target.put(entry, fresh=kind is Kind.DIRECTORY and there is None)
        if reopened:
            target.put(Entry(place, Kind.OPAQUE))


def _hard_link(target: Target, entry: Entry, item: TarInfo, where: bytes) -> None:
    named = follow(lambda path: target.lookup(_join(where, path)), b"/".join(_parts(item.linkname)), last=False)
    first = _join(where, named) if named is not None else b""
    found = target.lookup(first) if named is not None else None
    if found is None or found.kind is Kind.DIRECTORY:
        raise CopyFailed(f"the archive's {item.name!r} is a hard link to {item.linkname!r}, which is not there")
    if first == entry.path:
        return
    plain = Kind.FILE if found.kind is Kind.HARDLINK else found.kind
    if target.written(first) or plain is not Kind.FILE:
        made = Kind.HARDLINK if plain is Kind.FILE else plain
        link = first if plain is Kind.FILE else found.link
        target.put(
            Entry(entry.path, made, found.mode, found.uid, found.gid, found.size, found.mtime, link, found.major, found.minor, found.xattrs)
        )
        return
    with target.open_lower(first) as data:
        target.put(Entry(entry.path, Kind.FILE, found.mode, found.uid, found.gid, found.size, found.mtime, xattrs=found.xattrs), data)


def _parts(name: str) -> list[bytes]:
    parts: list[bytes] = []
    for part in _bytes(name).split(b"/"):
        if part == b"..":
            if not parts and not name.startswith("/"):
                raise CopyFailed(f"the archive's {name!r} points out of the folder it is unpacked to")
            del parts[-1:]
        elif part not in (b"", b"."):
            parts.append(part)
    return parts


def _kind(item: TarInfo) -> Kind | None:
    if item.isreg():
        return Kind.FILE
    if item.isdir():
        return Kind.DIRECTORY
    if item.issym():
        return Kind.SYMLINK
    if item.islnk():
        return Kind.HARDLINK
    if item.isfifo():
        return Kind.FIFO
    if item.ischr():
        return Kind.CHARACTER
    return Kind.BLOCK if item.isblk() else None


class _Limited:
    """What a tar is read from, up to a number of bytes."""

    def __init__(self, data: BinaryIO, limit: int) -> None:
        self._data = data
        self._limit = self._left = limit

    def read(self, size: int = -1) -> bytes:
        piece = self._data.read(size)
        self._left -= len(piece)
        if self._left < 0:
            raise CopyFailed(f"the archive is refused: unpacked it is more than {self._limit >> 20} MB, far more than its size says")
        return piece


@contextmanager
def _tar(data: BinaryIO, limit: int | None = None) -> Iterator[TarFile]:
    """An archive to be read from start to end; faults of the archive inside the block are CopyFailed."""
    import lzma
    import tarfile
    import zlib

    faults: tuple[type[Exception], ...] = (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, ValueError, OSError)
    plain = _plain(data)
    if type(plain).__name__ == "ZstdFile":
        faults = (*faults, _zstd().ZstdError)
    try:
        source = plain if limit is None else cast(BinaryIO, _Limited(plain, limit))
        with tarfile.open(fileobj=source, mode="r|", errorlevel=2, encoding="utf-8", errors="surrogateescape") as archive:
            yield archive
    except faults as error:
        raise CopyFailed(f"cannot unpack the archive: {error}") from error


def _plain(data: BinaryIO) -> BinaryIO:
    head = data.read(512)
    data.seek(0)
    match _compression(head):
        case "gzip":
            import gzip

            return cast(BinaryIO, gzip.GzipFile(fileobj=data))
        case "bzip2":
            import bz2

            return cast(BinaryIO, bz2.BZ2File(data))
        case "xz":
            import lzma

            return cast(BinaryIO, lzma.LZMAFile(data))
        case "zstd":
            return cast(BinaryIO, _zstd().ZstdFile(data))
    return data


def _zstd() -> ModuleType:
    from importlib import import_module

    return import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")


def _compression(head: bytes) -> str:
    for magic, name in ((b"\x1f\x8b\x08", "gzip"), (b"BZh", "bzip2"), (b"\xfd7zXZ\0", "xz"), (b"\x28\xb5\x2f\xfd", "zstd")):
        if head.startswith(magic):
            return name
    return ""


def _tar_header(head: bytes) -> bool:
    """A valid checksum, as tar readers ask for; also of old formats without a magic word. A block of zeros ends an empty tar."""
    if len(head) < 512:
        return False
    if not any(head):
        return False
    try:
        stated = int(head[148:156].strip(b" \0") or b"x", 8)
    except ValueError:
        return False
    return stated == sum(head[:148]) + sum(head[156:512]) + 8 * 32


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _join(folder: bytes, name: bytes) -> bytes:
    return folder + b"/" + name if folder and name else folder or name
