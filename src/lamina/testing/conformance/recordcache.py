"""What every RecordCache must do. Derive a test class and give it a fixture `records` that yields an empty cache."""

from __future__ import annotations

import threading

from lamina.cache.protocols import RecordCache
from lamina.cache.record import CacheKey, InputPart, KeyParts, LayerRef, Place, Record
from lamina.oci.digest import LayerId, StateId


def key(number: int) -> CacheKey:
    return CacheKey(f"sha256:{number:064x}")


def record(
    number: int = 1,
    *,
    created: float = 1000.0,
    dockerfile: str = "Dockerfile",
    stage: str = "build",
    position: int = 1,
    text: str = "RUN make",
    layer: int = 1,
) -> Record:
    """A record for tests: same arguments, same record."""
    return Record(
        key=key(number),
        parts=KeyParts(1, {"op": "exec", "argv": ["make"]}, (InputPart("filesystem", f"state:{number:064x}", "debian:12"),)),
        place=Place(dockerfile, stage, position, position + 1, text),
        state=StateId(f"state:{number + 1:064x}"),
        layers=(LayerRef(LayerId(f"diff:{layer:064x}"), 12),),
        diff=f"sha256:{layer:064x}",
        created=created,
        seconds=1.5,
        host="here",
        build="b1",
    )


class RecordCacheSuite:
    """Run by pytest; needs nothing but the fixture."""

    def test_empty(self, records: RecordCache) -> None:
        assert dict(records.lookup([key(1), key(2)])) == {}
        assert dict(records.lookup([])) == {}
        assert list(records.neighbours(record().place)) == []

    def test_a_record_comes_back_whole(self, records: RecordCache) -> None:
        records.publish(record(1))
        assert dict(records.lookup([key(1), key(2), key(1)])) == {key(1): (record(1),)}

    def test_the_same_record_twice_is_one(self, records: RecordCache) -> None:
        records.publish(record(1))
        records.publish(record(1))
        assert len(records.lookup([key(1)])[key(1)]) == 1

    def test_records_of_one_key_newest_first(self, records: RecordCache) -> None:
        for created in (20.0, 30.0, 10.0):
            records.publish(record(1, created=created, layer=int(created)))
        assert [found.created for found in records.lookup([key(1)])[key(1)]] == [30.0, 20.0, 10.0]

    def test_many_keys_at_once(self, records: RecordCache) -> None:
        for number in range(50):
            records.publish(record(number))
        found = records.lookup([key(number) for number in range(2000)])
        assert set(found) == {key(number) for number in range(50)}

    def test_neighbours_of_the_same_place_newest_first(self, records: RecordCache) -> None:
        records.publish(record(1, created=1.0, text="RUN one"))
        records.publish(record(2, created=3.0, text="RUN two"))
        records.publish(record(3, created=2.0, text="RUN three"))
        found = records.neighbours(Place("Dockerfile", "build", 1, 2, "RUN four"))
        assert [one.created for one in found] == [3.0, 2.0, 1.0]

    def test_neighbours_by_text_when_the_place_is_new(self, records: RecordCache) -> None:
        records.publish(record(1, created=9.0, dockerfile="other/Dockerfile", stage="x", position=7))
        records.publish(record(2, created=1.0, position=4))
        records.publish(record(3, created=8.0, text="RUN unrelated", position=9))
        found = records.neighbours(Place("Dockerfile", "build", 2, 3, "RUN make"))
        assert [one.key for one in found] == [key(2), key(1)]

    def test_neighbours_prefer_the_place_to_the_text(self, records: RecordCache) -> None:
        records.publish(record(1, created=9.0, position=5))
        records.publish(record(2, created=1.0, text="RUN old"))
        found = records.neighbours(Place("Dockerfile", "build", 1, 2, "RUN make"), limit=1)
        assert [one.key for one in found] == [key(2)]

    def test_an_instruction_that_moved_is_found_although_another_stands_at_its_place(self, records: RecordCache) -> None:
        for number in range(10):
            records.publish(record(number, created=10.0 + number, text="RUN other"))
        records.publish(record(11, created=1.0, position=5))
        found = records.neighbours(Place("Dockerfile", "build", 1, 2, "RUN make"), limit=4)
        assert [one.key for one in found] == [key(9), key(8), key(7), key(11)]

    def test_neighbours_keep_to_the_limit(self, records: RecordCache) -> None:
        for number in range(12):
            records.publish(record(number, created=float(number)))
        assert [one.created for one in records.neighbours(record().place, limit=3)] == [11.0, 10.0, 9.0]
        assert len(records.neighbours(record().place)) == 8

    def test_forgotten_records_are_not_found(self, records: RecordCache) -> None:
        records.publish(record(1, created=1.0))
        records.publish(record(1, created=2.0))
        records.publish(record(2))
        assert records.forget([key(1), key(77)]) == 2
        assert set(records.lookup([key(1), key(2)])) == {key(2)}
        assert records.forget([key(1)]) == 0
        assert records.forget([]) == 0

    def test_a_forgotten_record_does_not_come_back_but_a_new_one_counts(self, records: RecordCache) -> None:
        records.publish(record(1, created=1.0))
        records.forget([key(1)])
        records.publish(record(1, created=1.0))
        assert not records.lookup([key(1)])
        records.publish(record(1, created=5.0))
        assert [one.created for one in records.lookup([key(1)])[key(1)]] == [5.0]

    def test_many_writers(self, records: RecordCache) -> None:
        failures: list[BaseException] = []

        def work(number: int) -> None:
            try:
                for round_ in range(5):
                    records.publish(record(0))
                    records.publish(record(100 * number + round_ + 1))
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures
        assert len(records.lookup([key(0)])[key(0)]) == 1
        assert len(records.lookup([key(100 * number + round_ + 1) for number in range(8) for round_ in range(5)])) == 40
