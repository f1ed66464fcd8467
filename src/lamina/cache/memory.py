"""RecordCache in memory: for tests, and the measure of what any other one does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lamina.cache.record import CacheKey, Place, Record


class MemoryRecordCache:
    """Not thread-safe."""

    def __init__(self) -> None:
        self._records: dict[CacheKey, list[Record]] = {}
        self._forgotten: dict[CacheKey, list[Record]] = {}

    def lookup(self, keys: Sequence[CacheKey]) -> Mapping[CacheKey, tuple[Record, ...]]:
        return {key: tuple(_newest_first(self._records[key])) for key in keys if self._records.get(key)}

    def publish(self, record: Record) -> None:
        records = self._records.setdefault(record.key, [])
        if record not in records and record not in self._forgotten.get(record.key, ()):
            records.append(record)

    def neighbours(self, place: Place, limit: int = 8) -> Sequence[Record]:
        records = _newest_first([r for kept in (self._records, self._forgotten) for rs in kept.values() for r in rs])
        same_place = [r for r in records if _spot(r.place) == _spot(place)]
        same_text = [r for r in records if r.place.text == place.text and _spot(r.place) != _spot(place)]
        # Each kind gets its share: an instruction that moved is found by its text although another stands at its place now.
        same_text.sort(key=lambda record: record.place.stage != place.stage)
        half = max(limit - len(same_text), (limit + 1) // 2)
        return (same_place[:half] + same_text)[:limit]

    def forget(self, keys: Sequence[CacheKey]) -> int:
        count = 0
        for key in keys:
            records = self._records.pop(key, [])
            count += len(records)
            self._forgotten.setdefault(key, []).extend(records)
        return count


def _newest_first(records: list[Record]) -> list[Record]:
    return sorted(records, key=lambda record: -record.created)


def _spot(place: Place) -> tuple[str, str, int]:
    return (place.dockerfile, place.stage, place.position)
