from __future__ import annotations

import os
from pathlib import Path

from lamina.oci.digest import LayerId
from lamina.store.layers import LayerFacts
from lamina.store.local import LocalStore
from lamina.store.recovery import drop_unnamed, recover, sweep

ONE = LayerId(f"diff:{1:064x}")


def test_without_a_dead_process_nothing_is_looked_at(store: LocalStore, root: Path) -> None:
    (root / "tmp" / "unknown.1").write_text("x")
    assert recover(store.layout, store.database, store.lease, store.images) == 0
    assert os.listdir(root / "tmp") == ["unknown.1"]


def test_sweeping_what_is_owned_and_what_is_not_kept(store: LocalStore, root: Path) -> None:
    for name in ("a.1", "b.1", "c.1"):
        (root / "active" / name / "work" / "work").mkdir(parents=True)
    assert sweep(store.layout, {"a"}) == ["active/a.1"]
    assert sweep(store.layout, None, keep={"b"}) == ["active/c.1"]
    assert os.listdir(root / "active") == ["b.1"]


def test_only_folders_without_a_row_go(store: LocalStore, root: Path) -> None:
    kept = store.layers.commit(store.layers.begin(), ONE, LayerFacts())
    (root / "layers" / ("diff-" + "f" * 64) / "diff").mkdir(parents=True)
    (root / "layers" / "somebody's").mkdir()
    drop_unnamed(store.layout, store.database, store.lease)
    assert kept.is_dir()
    assert sorted(os.listdir(root / "layers")) == [kept.parent.name, "somebody's"]
    assert os.listdir(root / "tmp") == []
