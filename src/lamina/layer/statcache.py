"""What was known about a context's files when they were read last. It only saves reading: it never decides.

One file per context root, a record per folder. A folder's record holds a signature over (name, mode, size, mtime, ctime, inode,
device) of all names in it, so that an unchanged folder costs one comparison. A file's digest is believed only if its stat is the
same *and* its times are at least RACY before the moment of recording (else a second change within the clock's granularity
would go unseen; the rule is git's "racily clean"). ctime is among the fields, so an mtime set to an epoch is harmless.
"""

from __future__ import annotations

import os
import zlib
from contextlib import suppress
from pathlib import Path

import msgspec

from lamina.oci.unreadable import UNREADABLE

RACY = 2_000_000_000  # ns
_MAGIC = b"lamina-statcache-2\n"


class Node(msgspec.Struct, array_like=True, gc=False):
    """One name of a folder: stat, and what was read (`digest` raw sha256 or b"", `xattrs` None = not asked yet).

    `links`: how many names the file had when it was read; one more or less is another ctime.
    """

    name: bytes
    mode: int
    size: int
    mtime: int
    ctime: int
    inode: int
    device: int
    digest: bytes = b""
    link: bytes = b""
    xattrs: tuple[tuple[bytes, bytes], ...] | None = None
    rdev: int = 0
    links: int = 1

    def same_stat(self, other: Node) -> bool:
        return (
            self.ctime == other.ctime
            and self.mtime == other.mtime
            and self.size == other.size
            and self.inode == other.inode
            and self.mode == other.mode
            and self.device == other.device
        )

    def racy(self, when: int) -> bool:
        return self.ctime >= when - RACY or -RACY < self.mtime - when < RACY


class Summary(msgspec.Struct, array_like=True, gc=False):
    """For one way of looking (ignore rules, mode rules): digest over visible leaves; visible folders with their headers."""

    leaves: bytes
    folders: list[tuple[bytes, bytes]]


class FolderRecord(msgspec.Struct, array_like=True, gc=False):
    signature: bytes
    when: int  # ns, a moment before anything of this record was read
    racy: bool  # some node was changed shortly before `when`
    nodes: bytes  # list[Node] as msgpack: decoded only if needed
    summaries: dict[str, Summary]


_decode_records = msgspec.msgpack.Decoder(dict[bytes, FolderRecord])
_decode_nodes = msgspec.msgpack.Decoder(list[Node])
_encoder = msgspec.msgpack.Encoder()


def decode_nodes(data: bytes) -> list[Node]:
    return _decode_nodes.decode(data)


def encode_nodes(nodes: list[Node]) -> bytes:
    return _encoder.encode(nodes)


class StatCache:
    """Records by folder path. `path` None keeps nothing between runs. Any fault in the file reads as an empty cache."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._records: dict[bytes, FolderRecord] = {}
        self._changed = False
        if path is not None:
            self._records = _load(path)

    def get(self, folder: bytes) -> FolderRecord | None:
        return self._records.get(folder)

    def put(self, folder: bytes, record: FolderRecord) -> None:
        self._records[folder] = record
        self._changed = True

    def drop(self, folder: bytes) -> None:
        """Forget a folder that is gone, and all below it."""
        below = folder + b"/"
        gone = [path for path in self._records if path == folder or path.startswith(below)]
        for path in gone:
            del self._records[path]
            self._changed = True

    def save(self) -> None:
        """Replace the file in one step if anything changed. A cache that cannot be written is no failure."""
        if self._path is None or not self._changed:
            return
        body = _encoder.encode(self._records)
        temporary = self._path.with_name(f"{self._path.name}.{os.getpid()}.tmp")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(_MAGIC + zlib.crc32(body).to_bytes(4, "big") + body)
            temporary.replace(self._path)
        except OSError:
            with suppress(OSError):
                temporary.unlink()
        self._changed = False


def _load(path: Path) -> dict[bytes, FolderRecord]:
    try:
        data = path.read_bytes()
        start = len(_MAGIC) + 4
        if data[: len(_MAGIC)] != _MAGIC or zlib.crc32(memoryview(data)[start:]) != int.from_bytes(data[len(_MAGIC) : start], "big"):
            return {}
        return _decode_records.decode(memoryview(data)[start:])
    except (OSError, *UNREADABLE, ValueError):
        return {}
