"""The RecordCache plug point. A remote cache is RecordCache + BlobStore, nothing more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from lamina.cache.record import CacheKey, Place, Record


class RecordCache(Protocol):
    """Write-once: publishing the same record twice is one record; several records under one key are a set, newest first."""

    def lookup(self, keys: Sequence[CacheKey]) -> Mapping[CacheKey, tuple[Record, ...]]: ...
    def publish(self, record: Record) -> None:
        """Only after the record's layers and blobs are in place."""
        ...

    def neighbours(self, place: Place, limit: int = 8) -> Sequence[Record]:
        """Earlier records of the same place (same Dockerfile, stage, position; else same text), newest first."""
        ...

    def forget(self, keys: Sequence[CacheKey]) -> int:
        """Records of these keys are never found again; returns how many."""
        ...
