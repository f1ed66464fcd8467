"""Damage beside what `check` proves: side files of layers and contexts, the clock, a store of a newer lamina. A build goes on or says one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from lamina.cache.index import LocalRecords
from lamina.layer import sums
from lamina.layer.context import ContextTree
from lamina.layer.flavour import Flavour
from lamina.layer.selection import select
from lamina.layer.statcache import StatCache
from lamina.layer.sums import Sum
from lamina.oci.digest import LayerId
from lamina.store.check import check
from lamina.store.gc import collect_garbage
from lamina.store.layers import LayerFacts
from lamina.store.local import LocalStore
from lamina.store.protocols import StoreError
from lamina.testing.conformance.recordcache import key, record

PLAIN = Flavour("trusted")


def damages(data: bytes) -> list[bytes]:
    """Cut off, flipped, emptied, overwritten with lists in lists, text that is no UTF-8."""
    flipped = [data[:at] + bytes([data[at] ^ 0x41]) + data[at + 1 :] for at in range(0, len(data), max(1, len(data) // 40))]
    return [b"", data[: len(data) // 2], data[:-1], data + b"\0", b"\x91" * 20000, b"\xff" * 50, *flipped]


def test_a_damaged_stat_cache_is_an_empty_one(tmp_path: Path) -> None:
    context, cache = tmp_path / "context", tmp_path / "cache"
    (context / "sub").mkdir(parents=True)
    (context / "sub" / "file").write_text("text")

    def digest() -> str:
        tree = ContextTree(context, cache=StatCache(cache))
        found = select(tree, "sub").digest()
        tree.save()
        return found

    sound = digest()
    for data in damages(cache.read_bytes()):
        cache.write_bytes(data)
        assert digest() == sound


def test_damaged_sums_are_none_or_the_same(tmp_path: Path) -> None:
    sums.write(tmp_path, {b"a": Sum(b"0" * 32, 1, 0o644, 0, 0, 1.0), b"b/c": Sum(b"1" * 32, 2, 0o755, 3, 4, 2.5)})
    path = tmp_path / "sums"
    for data in damages(path.read_bytes()):
        path.write_bytes(data)
        assert sums.read(tmp_path) == {}


def test_a_record_whose_bytes_were_flipped_is_a_miss(tmp_path: Path) -> None:
    """A row that was no UTF-8 any more, or no JSON, ended the build that looked it up."""
    for number, data in enumerate((b"", b"{", b"\xff\xfe", b'{"x":"\xc5"}', b'{"x":' + b"[" * 5000)):
        with LocalStore.open(tmp_path / str(number), PLAIN, now=lambda: 1000.0) as store:
            records = LocalRecords(store.database, store.now)
            records.publish(record(1, layer=1))
            with store.database.write() as transaction:
                transaction.run("UPDATE records SET doc=?", (data,))
            assert not any(records.lookup([key(1)]).values())
            assert "check/record-damaged" in {finding.code for finding in check(store, repair=True)}
            assert check(store) == []


def test_a_clock_that_jumps_back_loses_nothing(tmp_path: Path) -> None:
    now = 2_000_000_000.0
    with LocalStore.open(tmp_path / "store", PLAIN, now=lambda: now) as store:
        records = LocalRecords(store.database, store.now)
        active = store.layers.begin()
        (active.upper / "file").write_text("x")
        store.layers.commit(active, LayerId(f"diff:{1:064x}"), LayerFacts())
        records.publish(record(1, layer=1))
        now = 5.0
        assert records.lookup([key(1)])
        collect_garbage(store)
        assert check(store) == []
        assert records.lookup([key(1)])
        assert len(store.layers.rows()) == 1


def test_a_store_of_a_newer_lamina_is_refused_and_left_alone(tmp_path: Path) -> None:
    root = tmp_path / "store"
    LocalStore.open(root, PLAIN, now=lambda: 1.0).close()
    version = root / "VERSION"
    version.write_text(version.read_text().replace("format 1", "format 2"))
    before = sorted(path.name for path in root.iterdir())
    with pytest.raises(StoreError, match=r"has format 2; this lamina reads format 1") as caught:
        LocalStore.open(root, PLAIN, now=lambda: 1.0)
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in root.iterdir()) == before
