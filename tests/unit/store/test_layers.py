from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamina.layer.flavour import Flavour
from lamina.oci.digest import DiffId, Digest, LayerId
from lamina.store.check import check
from lamina.store.errors import BadName
from lamina.store.layers import LayerFacts, measure
from lamina.store.local import LocalStore
from lamina.store.protocols import StoreError
from lamina.store.removal import remove

ONE = LayerId("diff:" + "1" * 64)
TWO = LayerId("sha256:" + "2" * 64)
PLAIN = LayerFacts()


def make(store: LocalStore, layer: LayerId, text: str = "x", facts: LayerFacts = PLAIN) -> Path:
    active = store.layers.begin()
    (active.upper / "file").write_text(text)
    return store.layers.commit(active, layer, facts)


def test_a_layer_gets_its_name(store: LocalStore, root: Path) -> None:
    active = store.layers.begin()
    assert active.upper.stat().st_mode & 0o7777 == 0o755
    assert os.listdir(active.upper) == []
    assert active.work.is_dir()
    (active.upper / "sub").mkdir()
    (active.upper / "sub" / "file").write_text("hello")
    (active.upper / "link").symlink_to("/etc")
    assert store.layers.path(ONE) is None
    path = store.layers.commit(active, ONE, LayerFacts(diff="sha256:d", diff_id=DiffId("sha256:i"), extra=b"side"))
    assert path == root / "layers" / ("diff-" + "1" * 64) / "diff" == store.layers.path(ONE)
    assert (path / "sub" / "file").read_text() == "hello"
    assert store.layers.extra(ONE).read_bytes() == b"side"
    assert os.listdir(root / "active") == []
    row = store.layers.row(ONE)
    assert row is not None
    assert (row.size, row.entries, row.diff, row.diff_id, row.blob) == (5, 3, "sha256:d", "sha256:i", None)


def test_an_existing_layer_is_taken_over(store: LocalStore, root: Path) -> None:
    first = make(store, ONE, "first")
    assert make(store, ONE, "second", LayerFacts(diff_id=DiffId("sha256:i"))) == first
    assert (first / "file").read_text() == "first"
    row = store.layers.row(ONE)
    assert row is not None
    assert row.diff_id == "sha256:i"
    assert os.listdir(root / "active") == os.listdir(root / "tmp") == []


def test_discard_with_overlays_leftovers(store: LocalStore, root: Path) -> None:
    active = store.layers.begin()
    (active.work / "work").mkdir(mode=0)
    store.layers.discard(active)
    store.layers.discard(active)
    assert os.listdir(root / "active") == []


def test_present_asks_for_many(store: LocalStore) -> None:
    make(store, ONE)
    many = [LayerId(f"diff:{number:064x}") for number in range(1500)]
    assert set(store.layers.present([*many, ONE, TWO])) == {ONE}


def test_facts_are_added_later(store: LocalStore) -> None:
    make(store, ONE)
    blob = Digest("sha256:" + "b" * 64)
    store.layers.set_diff_id(ONE, DiffId("sha256:" + "3" * 64))
    store.layers.set_blob(ONE, blob)
    store.layers.set_diff(ONE, "sha256:dd")
    row = store.layers.with_diff_id(DiffId("sha256:" + "3" * 64))
    assert row is not None
    assert (row.id, row.blob, row.diff) == (ONE, blob, "sha256:dd")
    make(store, TWO)
    foreign = store.layers.with_diff_id(DiffId(TWO))
    assert foreign is not None
    assert foreign.id == TWO


def test_a_folder_without_a_row_is_replaced(store: LocalStore, root: Path) -> None:
    # A process killed between the rename and the end of its transaction leaves this.
    orphan = root / "layers" / ("diff-" + "1" * 64) / "diff"
    orphan.mkdir(parents=True)
    (orphan / "half").write_text("?")
    assert store.layers.path(ONE) is None
    path = make(store, ONE, "whole")
    assert os.listdir(path) == ["file"]
    assert os.listdir(root / "tmp") == []


def test_a_row_without_a_folder_is_made_again(store: LocalStore) -> None:
    path = make(store, ONE)
    path.parent.rename(path.parent.parent / "away")
    assert store.layers.path(ONE) is None
    assert make(store, ONE, "again") == path
    assert store.layers.path(ONE) == path


def another_boot(store: LocalStore) -> None:
    with store.database.write() as transaction:
        transaction.run("UPDATE layers SET boot='an earlier start of the machine'")


def test_a_layer_of_an_earlier_boot_is_compared_once(store: LocalStore) -> None:
    path = make(store, ONE)
    another_boot(store)
    assert store.layers.path(ONE) == path
    row = store.layers.row(ONE)
    assert row is not None
    assert row.boot is None


def test_a_layer_torn_by_a_power_cut_counts_as_absent(store: LocalStore) -> None:
    path = make(store, ONE, "written but not on disk")
    (path / "file").write_text("")
    another_boot(store)
    assert store.layers.path(ONE) is None
    assert make(store, ONE, "once more") == path
    assert (path / "file").read_text() == "once more"
    assert store.layers.path(ONE) == path


@pytest.mark.parametrize("name", ["diff:../../../etc", "sha256:" + "a" * 63, "other:" + "a" * 64, "", "diff-" + "a" * 64])
def test_names_that_are_no_layer_reach_no_path(store: LocalStore, name: str) -> None:
    with pytest.raises(BadName):
        store.layers.path(LayerId(name))
    active = store.layers.begin()
    with pytest.raises(BadName):
        store.layers.commit(active, LayerId(name), LayerFacts())


def test_closing_discards_what_was_begun(root: Path) -> None:
    with LocalStore.open(root, Flavour("trusted"), now=lambda: 1.0) as store:
        store.layers.begin()
    assert os.listdir(root / "active") == []


def test_measure_follows_nothing(tmp_path: Path) -> None:
    (tmp_path / "tree" / "sub").mkdir(parents=True)
    (tmp_path / "tree" / "sub" / "a").write_text("12345")
    os.link(tmp_path / "tree" / "sub" / "a", tmp_path / "tree" / "b")
    (tmp_path / "tree" / "loop").symlink_to("..")
    os.mkfifo(tmp_path / "tree" / "fifo")
    assert measure(tmp_path / "tree") == (5, 10)


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A folder that other users reach (pytest's own are closed to them)."""
    place = Path(tempfile.mkdtemp())
    yield place
    remove(place)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_folders_that_may_not_be_read_are_not_counted_against_a_layer(open_place: Path) -> None:
    os.chown(open_place, 12345, 12345)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setgroups([])
            os.setresgid(12345, 12345, 12345)
            os.setresuid(12345, 12345, 12345)
            with LocalStore.open(open_place, Flavour("plain"), now=lambda: 1.0) as store:
                active = store.layers.begin()
                (active.upper / "closed").mkdir()
                (active.upper / "closed" / "file").write_bytes(b"x")
                (active.upper / "closed").chmod(0)
                (active.work / "work").mkdir(mode=0)
                path = store.layers.commit(active, ONE, LayerFacts())
                another_boot(store)
                code = 0 if store.layers.path(ONE) == path else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with pytest.raises(StoreError):
        LocalStore.open(open_place, Flavour("plain"), now=lambda: 1.0)  # theirs, not ours
    os.chown(open_place, 0, 0)
    with LocalStore.open(open_place, Flavour("plain"), now=lambda: 1.0) as store:
        assert check(store) == []  # root sees more than the row says, and that is no damage
