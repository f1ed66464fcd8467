"""The plug points of storage: small, with an in-memory twin (store/memory.py) and a suite (testing/conformance)."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import AbstractContextManager
from typing import BinaryIO, Protocol

from lamina.diagnostics.errors import LaminaError
from lamina.oci.digest import Digest


class StoreError(LaminaError):
    """The store cannot be read or written (full disk, read-only root, damage)."""

    code = "store/error"
    default_exit = 74


class BlobNotFound(StoreError):
    code = "store/blob-not-found"


class DigestMismatch(StoreError):
    """The bytes are not what their name says; nothing was kept."""

    code = "store/digest-mismatch"


class BlobWriter(Protocol):
    """Bytes on their way in. `commit` verifies, fsyncs and renames; without it nothing is visible. Idempotent per digest."""

    def write(self, data: bytes | memoryview) -> int: ...
    def commit(self) -> Digest: ...


class BlobStore(Protocol):
    def open(self, digest: Digest) -> BinaryIO:
        """The blob's bytes; raises BlobNotFound. Verified by the time of EOF where it may have been damaged."""
        ...

    def ingest(self, expect: Digest | None = None) -> AbstractContextManager[BlobWriter]:
        """A writer; leaving the block without commit discards. DigestMismatch from commit when `expect` differs."""
        ...

    def missing(self, digests: Collection[Digest]) -> set[Digest]: ...
    def size(self, digest: Digest) -> int: ...
    def delete(self, digest: Digest) -> None:
        """Idempotent."""
        ...
