from __future__ import annotations

import threading

import pytest

from lamina.store.database import TABLES, Database
from lamina.store.errors import StoreDamaged
from lamina.store.local import LocalStore
from lamina.store.protocols import StoreError


def test_an_error_inside_undoes_the_transaction(store: LocalStore) -> None:
    def half() -> None:
        with store.database.write() as transaction:
            transaction.run("INSERT INTO watches VALUES ('u', 'a', 1)")
            raise KeyError

    with pytest.raises(KeyError):
        half()
    assert store.facts.watch("u") is None
    store.facts.set_watch("u", "b")
    assert store.facts.watch("u") is not None


def test_the_tables_are_those_that_are_documented(store: LocalStore) -> None:
    rows = store.database.all(tuple[str], "SELECT name FROM sqlite_master WHERE type='table'")
    assert {row[0] for row in rows} == set(TABLES)
    assert store.database.integrity() == []


def test_two_connections_see_each_other(store: LocalStore) -> None:
    other = Database(store.layout)
    store.facts.set_watch("u", "a")
    assert other.first(tuple[str], "SELECT answer FROM watches WHERE url='u'") == ("a",)
    other.close()
    with pytest.raises(StoreError):
        other.all(tuple[str], "SELECT answer FROM watches")


def test_a_missing_table_is_damage(store: LocalStore) -> None:
    with pytest.raises(StoreDamaged, match="no such table"):
        store.database.all(tuple[str], "SELECT x FROM absent")


def test_threads_take_turns(store: LocalStore) -> None:
    store.facts.set_watch("n", "0")

    def add() -> None:
        for _ in range(25):
            with store.database.write() as transaction:
                row = transaction.first(tuple[str], "SELECT answer FROM watches WHERE url='n'")
                assert row is not None
                transaction.run("UPDATE watches SET answer=? WHERE url='n'", (str(int(row[0]) + 1),))

    threads = [threading.Thread(target=add) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    answer = store.facts.watch("n")
    assert answer is not None
    assert answer.answer == "200"
