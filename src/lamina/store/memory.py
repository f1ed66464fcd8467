"""BlobStore in memory: for tests and for callers that keep nothing."""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import BinaryIO

from lamina.oci.digest import Digest, parse_digest
from lamina.store.protocols import BlobNotFound, BlobWriter, DigestMismatch


class MemoryBlobs:
    """Behaves as LocalBlobs, without a disk. Thread-safe."""

    def __init__(self) -> None:
        self._blobs: dict[Digest, bytes] = {}
        self._lock = threading.Lock()

    def open(self, digest: Digest) -> BinaryIO:
        return io.BytesIO(self._get(digest))

    def ingest(self, expect: Digest | None = None) -> AbstractContextManager[BlobWriter]:
        return self._ingest(expect)

    @contextmanager
    def _ingest(self, expect: Digest | None) -> Iterator[BlobWriter]:
        yield _MemoryWriter(self, None if expect is None else parse_digest(expect))

    def missing(self, digests: Collection[Digest]) -> set[Digest]:
        with self._lock:
            return {digest for digest in digests if digest not in self._blobs}

    def size(self, digest: Digest) -> int:
        return len(self._get(digest))

    def delete(self, digest: Digest) -> None:
        with self._lock:
            self._blobs.pop(digest, None)

    def keep(self, digest: Digest, data: bytes) -> None:
        """Take bytes that were verified."""
        with self._lock:
            self._blobs[digest] = data

    def _get(self, digest: Digest) -> bytes:
        with self._lock:
            data = self._blobs.get(digest)
        if data is None:
            raise BlobNotFound(f"the store has no blob {digest}")
        return data


class _MemoryWriter:
    def __init__(self, store: MemoryBlobs, expect: Digest | None) -> None:
        self._store = store
        self._expect = expect
        self._data = bytearray()

    def write(self, data: bytes | memoryview) -> int:
        self._data += data
        return memoryview(data).nbytes

    def commit(self) -> Digest:
        algorithm = self._expect.partition(":")[0] if self._expect else "sha256"
        data = bytes(self._data)
        digest = parse_digest(f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}")
        if self._expect is not None and digest != self._expect:
            raise DigestMismatch(
                f"the bytes have the digest {digest}, not {self._expect}", hint="the source is damaged or was changed on its way"
            )
        self._store.keep(digest, data)
        return digest
