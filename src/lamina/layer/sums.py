"""What a layer's files are (`layers/NAME/sums`): digest and metadata by path, so that a later layer of the same instruction can share them.

Taken of the layer's own inodes when it was named, and they never change after that: what stands here need not be looked at again. A file
that cannot be read whole is as good as none: it only saves work.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from zlib import crc32

import msgspec

from lamina.layer.entry import Entry, Kind
from lamina.oci.unreadable import UNREADABLE

FEW = 64  # files; below this a layer is written faster than looked up
_FILE = Kind.FILE
_MAGIC = b"lamina-sums-2\n"


class Sum(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A regular file without extended attributes, all of it on disk as itself (nothing in the side table). `digest`: raw sha256."""

    digest: bytes
    size: int
    mode: int
    uid: int
    gid: int
    mtime: float  # as scan reads it: whole microseconds

    def entry(self, path: bytes) -> Entry:
        """What scan would say of the file under this name."""
        return Entry(path, _FILE, self.mode, self.uid, self.gid, self.size, self.mtime)


_decoder = msgspec.msgpack.Decoder(dict[bytes, Sum])


def write(layer_dir: Path, sums: Mapping[bytes, Sum]) -> None:
    """By path; further names of one inode are not in it."""
    body = msgspec.msgpack.encode(sums)
    (layer_dir / "sums").write_bytes(_MAGIC + crc32(body).to_bytes(4, "big") + body)


def read(layer_dir: Path) -> dict[bytes, Sum]:
    """Empty for a layer without."""
    try:
        data = (layer_dir / "sums").read_bytes()
    except OSError:
        return {}
    start = len(_MAGIC) + 4
    body = memoryview(data)[start:]
    if data[: len(_MAGIC)] != _MAGIC or crc32(body) != int.from_bytes(data[len(_MAGIC) : start], "big"):
        return {}
    try:
        return _decoder.decode(body)
    except UNREADABLE:
        return {}
