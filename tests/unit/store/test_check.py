from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from pathlib import Path

import pytest

import lamina.store.check as checking
from lamina.cache.index import LocalRecords
from lamina.oci.digest import DiffId, Digest, LayerId, StateId, sha256
from lamina.store.check import check
from lamina.store.facts import Selection
from lamina.store.layers import LayerFacts
from lamina.store.layout import Layout
from lamina.store.leases import live, standstill
from lamina.store.local import LocalStore
from lamina.store.refs import Image
from lamina.store.removal import remove
from lamina.store.rescue import rescue
from lamina.testing.conformance.recordcache import key, record

ONE = LayerId(f"diff:{1:064x}")
DIFF_ID = DiffId("sha256:" + "7" * 64)


@pytest.fixture
def full(store: LocalStore) -> LocalStore:
    """A store with one of everything."""
    active = store.layers.begin()
    (active.upper / "file").write_text("hello")
    store.layers.commit(active, ONE, LayerFacts(diff="sha256:" + "d" * 64, diff_id=DIFF_ID))
    LocalRecords(store.database, store.now).publish(record(1, layer=1))
    config = store.blobs.put(json.dumps({"rootfs": {"diff_ids": [DIFF_ID]}}).encode())
    manifest = store.blobs.put(json.dumps({"config": {"digest": config}, "layers": []}).encode())
    store.images.put(Image(config, manifest, "linux/amd64", 1.0, 5, (ONE,)), ["app:1"])
    listing = store.blobs.put(b"listing")
    store.facts.set_selection(StateId("state:1"), "s", Selection("m", listing))
    store.facts.set_http("http://x/", listing, None, None)
    return store


def codes(store: LocalStore) -> list[str]:
    """What a check finds; what a repair repairs; that nothing is left then."""
    before = [finding.code for finding in check(store)]
    repaired = check(store, repair=True)
    assert repaired
    assert all(finding.repaired for finding in repaired)
    # Repairs uncover what depended on them; each run gets nearer and the third is silent.
    check(store, repair=True)
    assert check(store) == []
    return before


def test_a_sound_store_is_silent(full: LocalStore) -> None:
    assert check(full) == []
    assert check(full, normalise=lambda folder: "sha256:" + "d" * 64) == []


def test_a_damaged_blob(full: LocalStore, root: Path) -> None:
    path = full.blobs.path(sha256(b"listing"))
    path.chmod(0o600)
    path.write_bytes(b"LISTING")
    assert codes(full) == ["check/blob-damaged"]
    assert full.facts.selection(StateId("state:1"), "s") is None


def test_a_missing_blob_of_an_answer(full: LocalStore) -> None:
    full.blobs.delete(sha256(b"listing"))
    assert codes(full) == ["check/blob-missing", "check/blob-missing"]


def test_a_missing_layer(full: LocalStore) -> None:
    path = full.layers.path(ONE)
    assert path is not None
    (path / "file").unlink()
    path.rmdir()
    assert codes(full) == ["check/layer-missing"]
    assert full.images.all() == []
    assert LocalRecords(full.database, full.now).fates([key(1)]) == {key(1): "evicted"}


def test_a_layer_with_other_bytes(full: LocalStore) -> None:
    path = full.layers.path(ONE)
    assert path is not None
    (path / "file").write_text("")
    assert codes(full) == ["check/layer-damaged"]
    assert not path.exists()


def test_the_deep_check_recomputes_digests(full: LocalStore) -> None:
    asked: list[Path] = []

    def normalise(folder: Path) -> str:
        asked.append(folder)
        return "sha256:" + "0" * 64

    (finding,) = check(full, normalise=normalise)
    assert finding.code == "check/layer-changed"
    assert asked == [full.layout.layer(ONE)]


def test_an_image_without_its_config(full: LocalStore) -> None:
    (image,) = full.images.all()
    full.blobs.delete(image.id)
    found = codes(full)
    assert found[0] == "check/image-incomplete"
    assert full.images.all() == []


def test_a_packed_image_needs_no_directories(full: LocalStore) -> None:
    blob = full.blobs.put(b"packed")
    config = full.blobs.put(b"{}")
    manifest = full.blobs.put(json.dumps({"config": {"digest": config}, "layers": [{"digest": blob}]}).encode())
    full.images.put(Image(config, manifest, "linux/amd64", 1.0, 5, (LayerId("sha256:" + "9" * 64),), (blob,)), ["packed:1"])
    assert check(full) == []
    full.blobs.delete(blob)
    assert "check/image-incomplete" in codes(full)


def test_a_forgotten_blob_of_a_layer(full: LocalStore) -> None:
    full.layers.set_blob(ONE, Digest("sha256:" + "5" * 64))
    assert codes(full) == ["check/blob-missing"]
    assert full.layers.path(ONE) is not None


def test_a_damaged_record(full: LocalStore) -> None:
    with full.database.write() as transaction:
        transaction.run("UPDATE records SET doc=?", (b'{"layers": []}',))
    assert codes(full) == ["check/record-damaged"]


def test_a_stale_view(full: LocalStore, root: Path) -> None:
    (root / "index.json").write_text("{}")
    assert codes(full) == ["check/index-stale"]
    (root / "index.json").unlink()
    assert codes(full) == ["check/index-stale"]


def test_leftovers_and_strangers(full: LocalStore, root: Path) -> None:
    (root / "tmp" / "gone.1.1").write_text("x")
    (root / "active" / "gone.1.2").mkdir()
    (root / "layers" / "something").mkdir()
    (root / "layers" / ("diff-" + "e" * 64)).mkdir()
    (root / "blobs" / "sha256" / "README").write_text("x")
    assert sorted(codes(full)) == ["check/foreign"] * 3 + ["check/leftover"] * 2


def test_what_a_living_process_is_making_is_no_leftover(full: LocalStore) -> None:
    active = full.layers.begin()
    with full.blobs.ingest() as writer:
        writer.write(b"x")
        assert check(full, repair=True) == []
    assert active.upper.is_dir()


def damage(root: Path) -> None:
    """Overwrite the middle of the database; its head stays readable."""
    with closing(sqlite3.connect(root / "state.db")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with open(root / "state.db", "r+b") as file:
        file.seek(4096)
        file.write(b"\xaa" * (os.path.getsize(root / "state.db") - 4096))


def test_a_damaged_database_is_rescued(full: LocalStore, root: Path) -> None:
    packed = full.blobs.put(b"packed")
    config = full.blobs.put(b'{"rootfs": {"diff_ids": []}}')
    manifest = full.blobs.put(json.dumps({"config": {"digest": config}, "layers": [{"digest": packed, "size": 6}]}).encode())
    full.images.put(Image(config, manifest, "linux/arm64/v8", 1.0, 5, (), (packed,)), ["packed:1", "packed:2"])
    assert rescue(root, full.flavour, now=full.now) is None
    full.close()
    damage(root)
    assert set(rescue(root, full.flavour, now=full.now) or ()) >= {"packed:1", "packed:2"}
    assert (root / "state.db.damaged").exists()
    with LocalStore.open(root, full.flavour, now=full.now) as store:
        check(store, repair=True)
        assert check(store) == []
        image = store.images.find("packed:1")
        assert (image.id, image.manifest, image.platform, image.blobs) == (config, manifest, "linux/arm64/v8", (packed,))
        assert store.layers.rows() == []
        store.layers.commit(store.layers.begin(), ONE, LayerFacts())


def test_damage_inside_an_open_database_is_a_finding(full: LocalStore, root: Path) -> None:
    with full.database.write() as transaction:
        transaction.run("PRAGMA writable_schema=ON")
        transaction.run("UPDATE sqlite_master SET sql=replace(sql, 'etag TEXT', 'etag TEXT NOT NULL') WHERE name='http'")
        transaction.run("PRAGMA writable_schema=OFF")
    full.close()
    with LocalStore.open(root, full.flavour, now=full.now) as store:
        assert {finding.code for finding in check(store)} == {"check/database"}


class TestBesideOthers:
    """What others do between two looks of a check is no finding, and nothing of theirs is taken away."""

    def between(self, monkeypatch: pytest.MonkeyPatch, name: str, act: Callable[[], None], *, after: bool) -> None:
        """`act` once, before or after the first call of that name in lamina.store.check."""
        real = getattr(checking, name)
        calls: list[str] = []

        def wrapped(*arguments: object) -> object:
            first = not calls
            calls.append(name)
            if first and not after:
                act()
            found = real(*arguments)
            if name in ("records", "images"):
                found = list(found)
            if first and after:
                act()
            return found

        monkeypatch.setattr(checking, name, wrapped)

    def nothing_is_found(self, store: LocalStore) -> None:
        assert check(store, repair=True) == []

    @pytest.mark.parametrize("look", [1, 2])
    def test_a_process_that_begins(self, look: int, full: LocalStore, monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
        others: list[LocalStore] = []

        def begin() -> None:
            others.append(LocalStore.open(root, full.flavour, now=full.now))
            (others[0].layers.begin().upper / "file").write_text("x")

        real = live
        looks: list[int] = []

        def seen(layout: Layout) -> dict[str, frozenset[str]]:
            found = real(layout)
            looks.append(1)
            if len(looks) == look:
                begin()
            return found

        monkeypatch.setattr(checking, "live", seen)
        self.nothing_is_found(full)
        assert len(os.listdir(root / "active")) == len(others)
        for other in others:
            other.close()

    def test_a_collection_between_rows_and_folders(self, full: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
        """It drops the rows, then takes the folders away, both in one standstill."""
        dropped, ended = threading.Event(), threading.Event()
        folder = full.layout.layer(LayerId(f"diff:{4:064x}"))

        def collector() -> None:
            with standstill(full.layout):
                folder.mkdir()
                dropped.set()
                ended.wait(90)
                folder.rmdir()

        real = standstill
        thread = threading.Thread(target=collector)

        def waited(layout: Layout) -> AbstractContextManager[bool]:
            ended.set()
            return real(layout)

        monkeypatch.setattr(checking, "standstill", waited)
        thread.start()
        assert dropped.wait(90)
        self.nothing_is_found(full)
        thread.join(90)

    def test_a_record_with_a_new_layer(self, full: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
        def publish() -> None:
            active = full.layers.begin()
            (active.upper / "file").write_text("two")
            full.layers.commit(active, LayerId(f"diff:{2:064x}"), LayerFacts())
            LocalRecords(full.database, full.now).publish(record(2, layer=2))

        self.between(monkeypatch, "records", publish, after=False)
        self.nothing_is_found(full)
        assert LocalRecords(full.database, full.now).lookup([key(2)])

    def test_a_collection_of_records_and_layers(self, full: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
        def collect() -> None:
            full.images.remove(full.images.all()[0].id, force=True)
            with full.database.write() as transaction:
                transaction.run("UPDATE records SET fate='evicted'")
                transaction.run("DELETE FROM layers")
            remove(full.layout.layer(ONE))
            full.images.write_index()

        self.between(monkeypatch, "records", collect, after=True)
        self.nothing_is_found(full)

    def test_an_image_that_is_removed(self, full: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
        def take_away() -> None:
            image = full.images.all()[0]
            full.images.remove(image.id, force=True)
            full.images.write_index()
            full.layout.blob(image.id).unlink()

        self.between(monkeypatch, "images", take_away, after=True)
        self.nothing_is_found(full)

    def test_an_image_of_a_foreign_layer_that_comes(self, full: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
        def pull() -> None:
            active = full.layers.begin()
            (active.upper / "file").write_text("pulled")
            foreign = DiffId("sha256:" + "8" * 64)
            full.layers.commit(active, LayerId(f"sha256:{8:064x}"), LayerFacts(diff_id=foreign))
            config = full.blobs.put(json.dumps({"rootfs": {"diff_ids": [foreign]}}).encode())
            manifest = full.blobs.put(json.dumps({"config": {"digest": config}, "layers": []}).encode())
            full.images.put(Image(config, manifest, "linux/amd64", 1.0, 5, (LayerId(foreign),)), ["pulled:1"])

        self.between(monkeypatch, "images", pull, after=False)
        self.nothing_is_found(full)

    def test_a_blob_that_goes_while_it_is_looked_at(self, full: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
        gone = full.blobs.put(b"nobody needs it")
        self.between(monkeypatch, "digest_of", lambda: full.layout.blob(gone).unlink(), after=True)
        self.nothing_is_found(full)

    def test_a_layer_that_comes_and_one_that_goes_while_files_are_counted(self, full: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
        def change() -> None:
            active = full.layers.begin()
            (active.upper / "file").write_text("new")
            full.layers.commit(active, LayerId(f"diff:{3:064x}"), LayerFacts())
            full.images.remove(full.images.all()[0].id, force=True)
            with full.database.write() as transaction:
                transaction.run("UPDATE records SET fate='evicted'")
                transaction.run("DELETE FROM layers WHERE id=?", (ONE,))
            remove(full.layout.layer(ONE))
            full.images.write_index()

        self.between(monkeypatch, "agrees", change, after=False)
        self.nothing_is_found(full)
        assert full.layers.row(LayerId(f"diff:{3:064x}")) is not None
