from __future__ import annotations

import os
from pathlib import Path

import pytest

from lamina.oci.digest import LayerId
from lamina.store.gc import collect_garbage
from lamina.store.layers import LayerFacts
from lamina.store.layout import Layout
from lamina.store.leases import live
from lamina.store.local import LocalStore
from lamina.store.recovery import drop_unnamed, recover, sweep, sweep_ownerless

ONE = LayerId(f"diff:{1:064x}")


def test_without_a_dead_process_nothing_is_looked_at(store: LocalStore, root: Path) -> None:
    (root / "tmp" / "unknown.1").write_text("x")
    assert recover(store.layout, store.database, store.lease, store.images) == 0
    assert os.listdir(root / "tmp") == ["unknown.1"]


def test_sweeping_what_is_owned_and_what_nobody_owns(store: LocalStore, root: Path) -> None:
    for name in ("a.1", f"{store.lease.id}.1", "c.1"):
        (root / "active" / name / "work" / "work").mkdir(parents=True)
    assert sweep(store.layout, {"a"}) == ["active/a.1"]
    assert sweep_ownerless(store.layout) == ["active/c.1"]
    assert os.listdir(root / "active") == [f"{store.lease.id}.1"]


def test_a_process_that_begins_while_leftovers_are_swept_keeps_its_files(
    store: LocalStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`prune` read the leases first and the folders second: a blob that a process began to write in between was removed under it,
    and its build ended with "No such file or directory"."""
    begun: list[LocalStore] = []

    def live_and_then_begin(layout: Layout) -> dict[str, frozenset[str]]:
        found = live(layout)
        other = LocalStore.open(root, store.flavour, now=lambda: 0.0)
        begun.append(other)
        (root / "tmp" / other.lease.name()).write_text("half a blob")
        return found

    monkeypatch.setattr("lamina.store.recovery.live", live_and_then_begin)
    try:
        assert sweep_ownerless(store.layout) == []
        assert len(os.listdir(root / "tmp")) == 1
    finally:
        for other in begun:
            other.close()


def test_only_folders_without_a_row_go(store: LocalStore, root: Path) -> None:
    kept = store.layers.commit(store.layers.begin(), ONE, LayerFacts())
    (root / "layers" / ("diff-" + "f" * 64) / "diff").mkdir(parents=True)
    (root / "layers" / "somebody's").mkdir()
    drop_unnamed(store.layout, store.database, store.lease)
    assert kept.is_dir()
    assert sorted(os.listdir(root / "layers")) == [kept.parent.name, "somebody's"]
    assert os.listdir(root / "tmp") == []


def somebody_is_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process renames `folder` just before we do."""
    rename = Path.rename

    def second(path: Path, target: Path) -> Path:
        if path == folder and not (target.parent / "theirs").exists():
            rename(path, folder.parent.parent / "tmp" / "theirs")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", second)


def test_a_folder_that_a_prune_takes_away_at_the_same_time(store: LocalStore, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A build that began while another process pruned ended with "No such file or directory: layers/diff-…": the row was deleted, and the folder
    went between this process's look and its renaming. One round of ten builds in some hundred."""
    store.layout.layer(ONE).mkdir()
    somebody_is_first(store.layout.layer(ONE), monkeypatch)
    drop_unnamed(store.layout, store.database, store.lease)
    assert os.listdir(root / "tmp") == ["theirs"]


def test_a_prune_whose_layer_a_recovery_takes_away_at_the_same_time(store: LocalStore, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store.layout.layer(ONE).mkdir()
    somebody_is_first(store.layout.layer(ONE), monkeypatch)
    collect_garbage(store)
    assert os.listdir(root / "layers") == []


def test_a_layer_that_is_made_again_while_its_remains_are_taken_away(
    store: LocalStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remains = store.layout.layer(ONE)
    remains.mkdir()
    somebody_is_first(remains, monkeypatch)
    active = store.layers.begin()
    (active.upper / "new").touch()
    assert os.listdir(store.layers.commit(active, ONE, LayerFacts())) == ["new"]
