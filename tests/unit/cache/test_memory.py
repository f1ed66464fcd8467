import msgspec
import pytest

from lamina.cache.memory import MemoryRecordCache
from lamina.cache.protocols import RecordCache
from lamina.cache.record import CacheKey, KeyParts, Place, Record
from lamina.oci.digest import StateId
from lamina.testing.conformance.recordcache import RecordCacheSuite


class TestMemoryRecordCache(RecordCacheSuite):
    @pytest.fixture
    def records(self) -> RecordCache:
        return MemoryRecordCache()


def record(key: str = "k", *, created: float = 1.0, position: int = 1, text: str = "RUN x") -> Record:
    place = Place("Dockerfile", "s", position, position, text)
    return Record(CacheKey(key), KeyParts(1, {}, ()), place, StateId("state:a"), (), "d", created, 1.0, "h", "b")


def test_lookup_gives_sets_newest_first_and_one_record_once() -> None:
    cache: RecordCache = MemoryRecordCache()
    old, new = record(created=1.0), record(created=2.0)
    for it in (old, new, old):
        cache.publish(it)
    assert cache.lookup([CacheKey("k"), CacheKey("other")]) == {"k": (new, old)}


def test_forgotten_records_are_not_found_but_explain() -> None:
    cache = MemoryRecordCache()
    it = record()
    cache.publish(it)
    assert cache.forget([CacheKey("k"), CacheKey("other")]) == 1
    assert cache.lookup([CacheKey("k")]) == {}
    assert list(cache.neighbours(it.place)) == [it]


def test_neighbours_are_of_the_same_place_then_of_the_same_text() -> None:
    cache = MemoryRecordCache()
    here = [record(f"h{n}", created=n) for n in range(10)]
    elsewhere = record("e", created=99, position=5)
    stranger = record("x", position=7, text="RUN y")
    for it in (*here, elsewhere, stranger):
        cache.publish(it)
    found = list(cache.neighbours(here[0].place, limit=4))
    assert found == [here[9], here[8], here[7], elsewhere]


def test_records_survive_being_written_down() -> None:
    it = record()
    assert msgspec.json.decode(msgspec.json.encode(it), type=Record) == it
