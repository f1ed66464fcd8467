"""An image on its way in: all its bytes are blobs already, nothing names it yet."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import BinaryIO

import msgspec

from lamina.engine.images.errors import BadArchive
from lamina.engine.images.turns import Turn
from lamina.oci.digest import Digest
from lamina.oci.manifest import Descriptor
from lamina.store.protocols import BlobStore, DigestMismatch

CHUNK = 1 << 20


class IncomingImage(msgspec.Struct, frozen=True):
    """Raw bytes of manifest and config as they came; both are blobs too. `names`: as written in the source, not normalised."""

    manifest: bytes
    manifest_digest: Digest
    media_type: str
    config: bytes
    config_digest: Digest
    layers: tuple[Descriptor, ...]
    names: tuple[str, ...] = ()


def ingest_bytes(blobs: BlobStore, data: bytes, expect: Digest | None = None) -> Digest:
    """`expect` also says which algorithm the digest has (sha256 otherwise)."""
    with blobs.ingest(expect) as writer:
        writer.write(data)
        return writer.commit()


def ingest_exactly(blobs: BlobStore, read: Callable[[], BinaryIO | None], expect: Digest, size: int, what: str, turn: Turn) -> None:
    """`read` opens the source (None: it is missing) in `turn`, which is left before the bytes go to the disk. The source must have exactly `size` bytes with this digest; BadArchive otherwise, and nothing is kept."""
    with blobs.ingest(expect) as writer:
        left = size
        with turn:
            source = read()
            if source is None:
                raise BadArchive(f"{what} is missing")
            with source:
                while piece := source.read(min(CHUNK, left + 1)):
                    turn.go_on()
                    left -= len(piece)
                    if left < 0:
                        raise BadArchive(f"{what} is longer than the {size} bytes that are stated for it")
                    writer.write(piece)
        if left:
            raise BadArchive(f"{what} is shorter than the {size} bytes that are stated for it")
        try:
            writer.commit()
        except DigestMismatch as error:
            raise BadArchive(f"{what} is not what its digest says") from error


class Tally:
    """A writable that counts and hashes, and hands on where `then` is given. More than `limit` bytes are a BadArchive."""

    def __init__(self, then: Callable[[bytes], object] | None = None, limit: int | None = None) -> None:
        self.size = 0
        self._hash = hashlib.sha256()
        self._then = then
        self._limit = limit

    def write(self, data: bytes | memoryview) -> int:
        self.size += len(data)
        if self._limit is not None and self.size > self._limit:
            raise BadArchive(f"uncompressed, this is more than the {self._limit} bytes that are allowed")
        self._hash.update(data)
        if self._then:
            self._then(bytes(data))
        return len(data)

    def digest(self) -> Digest:
        return Digest("sha256:" + self._hash.hexdigest())
