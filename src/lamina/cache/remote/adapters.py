"""The two older plug points over any ObjectStore: "a remote cache is RecordCache + BlobStore, nothing more"."""

from __future__ import annotations

import hashlib
import io
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import BinaryIO

from lamina.cache.record import CacheKey, Place, Record
from lamina.cache.remote.errors import ObjectGone
from lamina.cache.remote.names import blob_name
from lamina.cache.remote.protocols import PIECE, Body, ObjectStore
from lamina.cache.remote.shared import Publication, SharedCache
from lamina.oci.digest import Digest, parse_digest
from lamina.store.memory import MemoryBlobs
from lamina.store.protocols import BlobNotFound, BlobWriter, DigestMismatch

_IN_MEMORY = 8 << 20  # bytes; a larger blob on its way in is spooled to a temporary file


class RemoteRecords:
    """RecordCache over a SharedCache: believed records only, published without blobs."""

    def __init__(self, cache: SharedCache) -> None:
        self._cache = cache
        self._forgotten: list[Record] = []

    def lookup(self, keys: Sequence[CacheKey]) -> Mapping[CacheKey, tuple[Record, ...]]:
        answers = self._cache.lookup(keys)
        return {key: tuple(offer.record for offer in answer.offers) for key, answer in answers.items() if answer.offers}

    def publish(self, record: Record) -> None:
        if record not in self._forgotten:
            self._cache.publish([Publication(record)], MemoryBlobs(), places=True)

    def neighbours(self, place: Place, limit: int = 8) -> Sequence[Record]:
        """By place and by text, as SharedCache.neighbours."""
        return self._cache.neighbours(place, limit)

    def forget(self, keys: Sequence[CacheKey]) -> int:
        """They are deleted for everybody; that the same record is not published again is remembered here only."""
        answers = self._cache.lookup(keys)
        self._forgotten += [offer.record for answer in answers.values() for offer in answer.offers]
        return self._cache.forget(keys)


class RemoteBlobs:
    """BlobStore over an ObjectStore."""

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects

    def open(self, digest: Digest) -> BinaryIO:
        """Verified at the end of the stream."""
        pieces = self._objects.stream(blob_name(digest))
        try:
            first = next(pieces, b"")
        except ObjectGone as error:
            raise BlobNotFound(error.message) from error
        return io.BufferedReader(_Pieces(digest, first, pieces), PIECE)

    def ingest(self, expect: Digest | None = None) -> AbstractContextManager[BlobWriter]:
        return self._ingest(expect)

    @contextmanager
    def _ingest(self, expect: Digest | None) -> Iterator[BlobWriter]:
        with tempfile.SpooledTemporaryFile(_IN_MEMORY) as spool:
            yield _Writer(self._objects, spool, None if expect is None else parse_digest(expect))

    def missing(self, digests: Collection[Digest]) -> set[Digest]:
        there = self._objects.exists([blob_name(digest) for digest in digests])
        return {digest for digest in digests if blob_name(digest) not in there}

    def size(self, digest: Digest) -> int:
        name = blob_name(digest)
        found = self._objects.stat([name])
        if name not in found:
            raise BlobNotFound(f"{self._objects.where} has no blob {digest}")
        return found[name].size

    def delete(self, digest: Digest) -> None:
        self._objects.delete([blob_name(digest)])


class _Writer:
    def __init__(self, objects: ObjectStore, spool: tempfile.SpooledTemporaryFile[bytes], expect: Digest | None) -> None:
        self._objects = objects
        self._spool = spool
        self._expect = expect
        self._algorithm = expect.partition(":")[0] if expect else "sha256"
        self._hash = hashlib.new(self._algorithm)
        self._size = 0

    def write(self, data: bytes | memoryview) -> int:
        self._hash.update(data)
        count = memoryview(data).nbytes
        self._size += count
        self._spool.write(data)
        return count

    def commit(self) -> Digest:
        digest = parse_digest(f"{self._algorithm}:{self._hash.hexdigest()}")
        if self._expect is not None and digest != self._expect:
            raise DigestMismatch(
                f"the bytes have the digest {digest}, not {self._expect}", hint="the source is damaged or was changed on its way"
            )
        self._objects.put(blob_name(digest), Body(self._size, self._pieces))
        return digest

    def _pieces(self) -> Iterator[bytes]:
        self._spool.seek(0)
        while piece := self._spool.read(PIECE):
            yield piece


class _Pieces(io.RawIOBase):
    """An iterator as a file; its end raises DigestMismatch when the bytes were other ones."""

    def __init__(self, digest: Digest, first: bytes, rest: Iterator[bytes]) -> None:
        self._digest = digest
        self._left = memoryview(first)
        self._rest = rest
        self._hash = hashlib.new(digest.partition(":")[0])
        self._hash.update(first)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer)  # type: ignore[arg-type]  # RawIOBase's buffer protocol type is only in typeshed's private module
        while not self._left:
            piece = next(self._rest, None)
            if piece is None:
                if f"{self._digest.partition(':')[0]}:{self._hash.hexdigest()}" != self._digest:
                    raise DigestMismatch(f"the blob {self._digest} came damaged")
                return 0
            self._hash.update(piece)
            self._left = memoryview(piece)
        count = min(len(view), len(self._left))
        view[:count] = self._left[:count]
        self._left = self._left[count:]
        return count
