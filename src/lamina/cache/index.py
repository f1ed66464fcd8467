"""RecordCache of one machine: records as write-once JSON documents in the store's database.

A record is named by the sha256 of its document. A record that was forgotten or evicted stays as a tombstone: it is not
found by its key any more, but it still explains a miss (`fates`, and `neighbours` as before).
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import msgspec

from lamina.cache.record import CacheKey, Place, Record
from lamina.oci.unreadable import UNREADABLE
from lamina.store.database import Database

Fate = Literal["forgotten", "evicted", "expired"]
_CHUNK = 500  # SQLite's default limit of variables is 999


class _Doc(msgspec.Struct, array_like=True):
    id: str
    doc: bytes


_FATES: dict[str, Fate] = {"forgotten": "forgotten", "evicted": "evicted", "expired": "expired"}


class _Tomb(msgspec.Struct, array_like=True):
    key: CacheKey
    fate: str


class LocalRecords:
    """See RecordCache. Thread-safe; processes on one store see each other's records at once."""

    def __init__(self, database: Database, now: Callable[[], float]) -> None:
        self._database = database
        self._now = now
        self._lock = threading.Lock()
        self._used: set[str] = set()
        self._decoder = msgspec.json.Decoder(Record)

    def lookup(self, keys: Sequence[CacheKey]) -> Mapping[CacheKey, tuple[Record, ...]]:
        """One query for all keys; only keys that have a record are in the answer. What is found counts as used."""
        found: dict[CacheKey, list[Record]] = {}
        for chunk in _chunks(list(dict.fromkeys(keys))):
            rows = self._database.all(
                _Doc,
                f"SELECT id, doc FROM records WHERE fate IS NULL AND key IN ({_marks(chunk)}) ORDER BY created DESC, id",
                chunk,
            )
            for row in rows:
                record = self._decode(row.doc)
                if record is not None:
                    found.setdefault(record.key, []).append(record)
            with self._lock:
                self._used.update(row.id for row in rows)
        return {key: tuple(records) for key, records in found.items()}

    def publish(self, record: Record) -> None:
        """Idempotent. A record that was evicted comes back with its layers; one that was forgotten does not."""
        doc = msgspec.json.encode(record)
        identifier = hashlib.sha256(doc).hexdigest()
        place = record.place
        with self._database.write() as transaction:
            transaction.run(
                "INSERT INTO records VALUES (?,?,?,?,?,?,?,?,NULL,?) "
                "ON CONFLICT(id) DO UPDATE SET fate=NULL, last_used=excluded.last_used WHERE fate IS NOT 'forgotten'",
                (
                    identifier,
                    record.key,
                    place.dockerfile,
                    place.stage,
                    place.position,
                    _text(place.text),
                    record.created,
                    self._now(),
                    doc,
                ),
            )

    def neighbours(self, place: Place, limit: int = 8) -> Sequence[Record]:
        """Same Dockerfile, stage and position first; then same text, those of the same stage before others; each newest first.

        Each kind gets its share: an instruction that moved is found by its text although another one stands at its place now.
        Tombstones count too: they are what a step is compared with after `cache forget`.
        """
        spot = (place.dockerfile, place.stage, place.position)
        there = self._database.all(
            _Doc,
            "SELECT id, doc FROM records WHERE dockerfile=? AND stage=? AND position=? ORDER BY created DESC, id LIMIT ?",
            (*spot, limit),
        )
        alike = self._database.all(
            _Doc,
            "SELECT id, doc FROM records WHERE text=? AND NOT (dockerfile=? AND stage=? AND position=?) "
            "ORDER BY stage=? DESC, created DESC, id LIMIT ?",
            (_text(place.text), *spot, place.stage, limit),
        )
        share = max(limit - len(alike), (limit + 1) // 2)
        decoded = (self._decode(row.doc) for row in (there[:share] + alike)[:limit])
        return [record for record in decoded if record is not None]

    def forget(self, keys: Sequence[CacheKey]) -> int:
        """These keys' records are not found again, also when the same record is published once more."""
        return self._bury(keys, "forgotten")

    def evict(self, keys: Sequence[CacheKey], fate: Literal["evicted", "expired"] = "evicted") -> int:
        """What they point to is gone (or too old); publishing a record again revives it."""
        return self._bury(keys, fate)

    def fates(self, keys: Sequence[CacheKey]) -> Mapping[CacheKey, Fate]:
        """Why keys without a living record had one once: the newest tombstone of each."""
        found: dict[CacheKey, Fate] = {}
        for chunk in _chunks(list(dict.fromkeys(keys))):
            for row in self._database.all(
                _Tomb,
                f"SELECT key, fate FROM records r WHERE fate IS NOT NULL AND key IN ({_marks(chunk)}) "
                "AND NOT EXISTS (SELECT 1 FROM records WHERE key=r.key AND fate IS NULL) ORDER BY created",
                chunk,
            ):
                found[row.key] = _FATES.get(row.fate, "evicted")  # one that a later lamina knows: gone is gone
        return found

    def records(self) -> list[Record]:
        """Every living record, newest first (`cache ls`, selectors of `cache forget`)."""
        rows = self._database.all(_Doc, "SELECT id, doc FROM records WHERE fate IS NULL ORDER BY created DESC, id")
        decoded = (self._decode(row.doc) for row in rows)
        return [record for record in decoded if record is not None]

    def flush(self) -> None:
        """Write which records were used since the last time; call it once at the end of a build."""
        with self._lock:
            used, self._used = self._used, set()
        if used:
            now = self._now()
            with self._database.write() as transaction:
                transaction.many("UPDATE records SET last_used=? WHERE id=? AND last_used<?", [(now, one, now) for one in sorted(used)])

    def _bury(self, keys: Sequence[CacheKey], fate: Fate) -> int:
        count = 0
        with self._database.write() as transaction:
            for chunk in _chunks(list(dict.fromkeys(keys))):
                count += transaction.run(f"UPDATE records SET fate=? WHERE fate IS NULL AND key IN ({_marks(chunk)})", (fate, *chunk))
        return count

    def _decode(self, doc: bytes) -> Record | None:
        """None for a document of another schema: it is as good as absent."""
        try:
            return self._decoder.decode(doc)
        except UNREADABLE:
            return None


def _text(text: str) -> str:
    """Instructions can be long (heredocs); the index compares their hash."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _marks(values: Sequence[str]) -> str:
    return ",".join("?" * len(values))


def _chunks(keys: list[CacheKey]) -> list[list[CacheKey]]:
    return [keys[start : start + _CHUNK] for start in range(0, len(keys), _CHUNK)]
