from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from lamina.cache.index import LocalRecords
from lamina.layer.flavour import Flavour
from lamina.store.local import LocalStore
from lamina.testing.conformance.recordcache import RecordCacheSuite, key, record


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LocalStore]:
    with LocalStore.open(tmp_path / "store", Flavour("trusted"), now=time.time) as opened:
        yield opened


@pytest.fixture
def records(store: LocalStore) -> LocalRecords:
    return LocalRecords(store.database, lambda: 5000.0)


class TestLocalRecords(RecordCacheSuite):
    """The suite finds the fixture above."""


def test_tombstones_say_why(records: LocalRecords) -> None:
    for number in (1, 2, 3, 4):
        records.publish(record(number))
    records.forget([key(1)])
    records.evict([key(2)])
    records.evict([key(3)], "expired")
    assert dict(records.fates([key(n) for n in range(6)])) == {key(1): "forgotten", key(2): "evicted", key(3): "expired"}
    assert {one.key for one in records.neighbours(record().place)} == {key(n) for n in (1, 2, 3, 4)}
    assert [one.key for one in records.records()] == [key(4)]


def test_a_key_with_a_living_record_has_no_fate(records: LocalRecords) -> None:
    records.publish(record(1, created=1.0))
    records.forget([key(1)])
    records.publish(record(1, created=2.0))
    assert dict(records.fates([key(1)])) == {}


def test_an_evicted_record_lives_again_when_it_is_published(records: LocalRecords) -> None:
    records.publish(record(1))
    assert records.evict([key(1)]) == 1
    assert not records.lookup([key(1)])
    records.publish(record(1))
    assert records.lookup([key(1)])


def test_use_is_written_at_the_end(store: LocalStore) -> None:
    now = [100.0]
    records = LocalRecords(store.database, lambda: now[0])
    records.publish(record(1))
    records.publish(record(2))
    now[0] = 200.0
    records.lookup([key(1)])
    records.flush()
    rows = dict(store.database.all(tuple[str, float], "SELECT key, last_used FROM records"))
    assert rows == {key(1): 200.0, key(2): 100.0}


def test_a_document_of_another_schema_is_absent(store: LocalStore, records: LocalRecords) -> None:
    records.publish(record(1))
    with store.database.write() as transaction:
        transaction.run("UPDATE records SET doc=?", (msgspec.json.encode({"key": "sha256:1", "new": True}),))
    assert not records.lookup([key(1)])
    assert not records.neighbours(record().place)


def test_very_long_texts_and_odd_characters(records: LocalRecords) -> None:
    text = "RUN <<EOF\n" + "é\U0001f600 x\n" * 20000 + "EOF"
    records.publish(record(1, text=text, position=3))
    assert records.neighbours(record(2, text=text, position=9).place)[0].place.text == text
