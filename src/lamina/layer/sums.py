"""Digests of a layer's files, kept beside it (`layers/NAME/sums`), so that a later layer of the same instruction can share what is equal.

They were taken of the layer's own bytes when it was named. A file that cannot be read whole is as good as none: it only saves work.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from zlib import crc32

import msgspec

from lamina.oci.unreadable import UNREADABLE

FEW = 64  # files; below this a layer is written faster than looked up
_MAGIC = b"lamina-sums-1\n"
_decoder = msgspec.msgpack.Decoder(dict[bytes, bytes])


def write(layer_dir: Path, sums: Mapping[bytes, str]) -> None:
    """`sums`: sha256 hex of regular files by path; further names of one inode are not in it."""
    body = msgspec.msgpack.encode({path: bytes.fromhex(digest) for path, digest in sums.items()})
    (layer_dir / "sums").write_bytes(_MAGIC + crc32(body).to_bytes(4, "big") + body)


def read(layer_dir: Path) -> dict[bytes, bytes]:
    """Raw sha256 by path; empty for a layer without."""
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
