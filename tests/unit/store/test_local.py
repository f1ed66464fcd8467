from __future__ import annotations

import json
import os
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from lamina.layer.flavour import Flavour, IdMap
from lamina.oci.digest import LayerId, sha256
from lamina.store.errors import OtherStore, StoreDamaged
from lamina.store.gc import collect_garbage
from lamina.store.layers import LayerFacts
from lamina.store.layout import Layout
from lamina.store.local import LocalStore
from lamina.store.protocols import BlobNotFound, StoreError

TRUSTED = Flavour("trusted")


def open_(root: Path, flavour: Flavour = TRUSTED) -> LocalStore:
    return LocalStore.open(root, flavour, now=lambda: 1.0)


def test_a_new_store_is_an_image_layout(root: Path) -> None:
    with open_(root):
        assert root.stat().st_mode & 0o777 == 0o700
        assert json.loads((root / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
        assert json.loads((root / "index.json").read_text())["manifests"] == []
        assert (root / "VERSION").read_text() == "lamina store\nformat 1\nflavour trusted-real\n"


def test_what_was_written_is_there_after_reopening(root: Path) -> None:
    with open_(root) as store:
        digest = store.blobs.put(b"x")
    with open_(root) as store:
        assert store.blobs.read(digest) == b"x"
    assert os.listdir(root / "leases") == []


def test_an_empty_folder_becomes_a_store_a_full_one_does_not(tmp_path: Path) -> None:
    empty, full = tmp_path / "empty", tmp_path / "full"
    empty.mkdir()
    full.mkdir()
    (full / "homework.txt").write_text("precious")
    open_(empty).close()
    with pytest.raises(OtherStore, match="not empty"):
        open_(full)
    assert os.listdir(full) == ["homework.txt"]


def test_what_pipelines_on_a_cluster_left_there_is_not_in_the_way(tmp_path: Path) -> None:
    for name in ("pipelines", "workers"):
        (tmp_path / "root" / name).mkdir(parents=True)
    open_(tmp_path / "root").close()
    assert (tmp_path / "root" / "workers").is_dir()


def test_a_creation_that_was_interrupted_is_completed(root: Path) -> None:
    (root / "blobs").mkdir(parents=True)
    (root / "locks").mkdir()
    (root / "oci-layout").write_text("{}")
    (root / "VERSION.new").write_text("lam")
    with open_(root) as store:
        store.blobs.put(b"x")
    assert not (root / "VERSION.new").exists()


def test_flavours_do_not_mix(root: Path) -> None:
    open_(root).close()
    for other in (Flavour("user"), Flavour("trusted", IdMap("single"))):
        with pytest.raises(OtherStore) as caught:
            open_(root, other)
        assert "trusted-real" in caught.value.message
        assert caught.value.hint is not None
        assert "--root" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "word"),
    [("lamina store\nformat 99\nflavour trusted-real\n", "format 99"), ("hello", "cannot be read"), ("", "cannot be read")],
)
def test_other_formats_are_refused(root: Path, text: str, word: str) -> None:
    open_(root).close()
    (root / "VERSION").write_text(text)
    with pytest.raises(OtherStore, match=word):
        open_(root)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="gives the root to another user")
def test_a_store_of_another_user_is_refused(root: Path) -> None:
    open_(root).close()
    os.chown(root, 12345, 12345)
    with pytest.raises(OtherStore, match="uid 12345"):
        open_(root)


def test_a_store_where_others_may_write_is_refused(root: Path) -> None:
    open_(root).close()
    root.chmod(0o777)
    with pytest.raises(OtherStore, match="others may write"):
        open_(root)


def test_a_file_in_the_way(root: Path) -> None:
    root.write_text("a file")
    with pytest.raises(StoreError, match="cannot be used: it is no folder"):
        open_(root)
    root.unlink()
    root.symlink_to("nowhere")
    with pytest.raises(StoreError, match="it is a link to nowhere, which is not there"):
        open_(root)


def test_a_damaged_database_is_one_clear_error(root: Path) -> None:
    open_(root).close()
    (root / "state.db").write_bytes(b"this is not a database at all" * 100)
    with pytest.raises(StoreDamaged, match="damaged"):
        open_(root)
    assert os.listdir(root / "leases") == []


def test_closed_means_closed(root: Path) -> None:
    store = open_(root)
    store.close()
    store.close()
    with pytest.raises(StoreError):
        store.layers.path(LayerId("diff:" + "0" * 64))


def test_leftovers_of_a_killed_process_go_at_the_next_opening(root: Path) -> None:
    store = open_(root)
    active = store.layers.begin()
    (active.work / "work").mkdir(mode=0)
    kept = store.layers.commit(store.layers.begin(), LayerId("diff:" + "a" * 64), LayerFacts())
    unnamed = root / "layers" / ("diff-" + "b" * 64) / "diff"
    unnamed.mkdir(parents=True)
    store.lease.pin(["diff:" + "b" * 64, "sha256:" + "c" * 64])
    (root / "tmp" / store.lease.name()).write_text("half a blob")
    (root / "index.json").write_text("old")
    os.close(store.lease._file)  # what a kill does
    with open_(root) as second:
        assert os.listdir(root / "active") == os.listdir(root / "tmp") == []
        assert not unnamed.parent.exists()
        assert kept.is_dir()
        assert second.layers.path(LayerId("diff:" + "a" * 64)) == kept
        assert json.loads((root / "index.json").read_text())["manifests"] == []
        assert os.listdir(root / "leases") == [second.lease.id]


def test_scratch_is_one_folder_that_goes_with_the_store(root: Path) -> None:
    with open_(root) as store:
        folder = store.scratch()
        assert folder == store.scratch()
        (folder / "sub").mkdir()
        (folder / "sub" / "file").write_text("x")
        assert collect_garbage(store).leftovers == ()
        assert folder.is_dir()
    assert os.listdir(root / "tmp") == []


def test_a_child_after_fork_has_a_connection_of_its_own(root: Path) -> None:
    with open_(root) as store:
        store.facts.set_watch("http://x/", "one")
        child = os.fork()
        if child == 0:
            code = 1
            try:
                answer = store.facts.watch("http://x/")
                store.facts.set_watch("http://x/", "two")
                code = 0 if answer is not None and answer.answer == "one" else 2
                store.close()  # the parent's things stay
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        answer = store.facts.watch("http://x/")
        assert answer is not None
        assert answer.answer == "two"
        with pytest.raises(BlobNotFound):
            store.blobs.open(sha256(b"none"))


def test_the_database_is_in_wal_mode(root: Path) -> None:
    open_(root).close()
    with closing(sqlite3.connect(root / "state.db")) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_store_that_several_make_at_once(tmp_path: Path) -> None:
    """Of the first builds of parallel CI steps on a new root one in three said that the database was locked for too long, at once: SQLite does
    not wait for the change to a write-ahead log while somebody reads."""

    def work(root: Path) -> None:
        for _ in range(3):
            with open_(root) as store:
                store.blobs.put(b"x")

    with ThreadPoolExecutor(2) as pool:
        for number in range(40):
            for done in [pool.submit(work, tmp_path / str(number)) for _ in range(2)]:
                done.result()


def test_a_store_that_another_makes_while_we_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was made between our look for a VERSION and our look at what lies there: its database was taken for a stranger's file."""
    looked = Layout.foreign

    def foreign(layout: Layout) -> bool:
        monkeypatch.undo()
        open_(tmp_path / "root").close()
        return looked(layout)

    monkeypatch.setattr(Layout, "foreign", foreign)
    open_(tmp_path / "root").close()
