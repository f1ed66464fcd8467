"""Pruning of what is in no layer: cache mounts, stat caches, downloads."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lamina.layer.flavour import Flavour
from lamina.store.gc import prune
from lamina.store.idle import idle
from lamina.store.local import LocalStore
from lamina.store.policy import PrunePolicy

NOW = 1_000_000.0
DAY = 86400.0


def mount(root: Path, name: str, age: float, size: int = 100, identifier: str = "/root/.cache") -> Path:
    place = root / "cachemounts" / name / "0"
    (place / "data").mkdir(parents=True)
    (place / "data/file").write_bytes(b"x" * size)
    (place / "lock").touch()
    (place / "id").write_text(identifier)
    os.utime(place / "id", (NOW - age, NOW - age))
    return place


def open_store(root: Path, now: float = NOW) -> LocalStore:
    return LocalStore.open(root, Flavour("trusted"), now=lambda: now)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with open_store(tmp_path / "s"):
        pass
    return tmp_path / "s"


def test_cache_mounts_go_by_age(folder: Path) -> None:
    old, young = mount(folder, "a" * 32, 9 * DAY), mount(folder, "b" * 32, DAY)
    with open_store(folder) as store:
        done = prune(store, PrunePolicy(NOW, max_age=7 * DAY))
    assert (old.exists(), young.exists()) == (False, True)
    assert done.swept.idle == (f"cachemounts/{'a' * 32}/0",)
    assert done.swept.freed >= 100
    assert list((folder / "tmp").iterdir()) == []


def test_all_means_all(folder: Path) -> None:
    place = mount(folder, "a" * 32, 0)
    (folder / "context/x").write_bytes(b"stat cache")
    with open_store(folder) as store:
        prune(store, PrunePolicy(NOW, everything=True))
    assert not place.exists()
    assert list((folder / "context").iterdir()) == []


def test_a_mount_in_use_stays(folder: Path) -> None:
    place = mount(folder, "a" * 32, 9 * DAY)
    descriptor = os.open(place / "lock", os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        with open_store(folder) as store:
            done = prune(store, PrunePolicy(NOW, everything=True))
    finally:
        os.close(descriptor)
    assert (place / "data/file").exists()
    assert [d.reason for d in done.decisions if d.row.label.startswith("cache mount")] == ["used by a running step"]


def test_a_size_cap_takes_them_before_layers(folder: Path) -> None:
    mount(folder, "a" * 32, DAY, size=1000)
    mount(folder, "b" * 32, 2 * DAY, size=1000)
    with open_store(folder) as store:
        done = prune(store, PrunePolicy(NOW, max_bytes=1500))
    assert done.swept.idle == (f"cachemounts/{'b' * 32}/0",)


def test_a_dry_run_moves_nothing_and_counts_the_same(folder: Path) -> None:
    place = mount(folder, "a" * 32, 9 * DAY)
    with open_store(folder) as store:
        store.facts.set_http("http://h/f", store.blobs.put(b"y" * 500), None, None)
    with open_store(folder, NOW + 8 * DAY) as store:
        policy = PrunePolicy(NOW + 8 * DAY, max_age=7 * DAY)
        said = prune(store, policy, dry_run=True).swept
        assert place.exists()
        assert store.facts.http("http://h/f") is not None
        assert prune(store, policy).swept.freed == said.freed


def test_downloads_go_with_their_bytes(folder: Path) -> None:
    with open_store(folder) as store:
        digest = store.blobs.put(b"y" * 500)
        store.facts.set_http("http://h/f", digest, None, None)
    with open_store(folder) as store:
        prune(store, PrunePolicy(NOW, max_age=7 * DAY))
        assert store.facts.http("http://h/f") is not None
    with open_store(folder) as store:
        done = prune(store, PrunePolicy(NOW, max_bytes=0))
        assert store.facts.http("http://h/f") is None
        assert digest in done.swept.blobs
        assert [d.row.label for d in done.decisions] == ["download http://h/f"]


def test_stat_caches_count_from_their_last_reading(folder: Path) -> None:
    read, unread = folder / "context/read", folder / "context/unread"
    for path, seen in ((read, NOW - DAY), (unread, NOW - 8 * DAY)):
        path.write_bytes(b"x")
        os.utime(path, (seen, NOW - 30 * DAY))
    with open_store(folder) as store:
        prune(store, PrunePolicy(NOW, max_age=7 * DAY))
    assert (read.exists(), unread.exists()) == (True, False)


def test_what_goes_while_it_is_looked_at_does_not_count(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`cache prune --keep` beside ten builds, one round in a hundred: "the store cannot be used: No such file or directory: context/checks-….tmp"."""
    mount(folder, "a" * 32, 0, size=100)
    (folder / "context/kept").write_bytes(b"x")
    (folder / "context/passing.tmp").write_bytes(b"x")
    listed, looked = Path.iterdir, os.scandir

    def iterdir(path: Path) -> Iterator[Path]:
        found = list(listed(path))
        (path / "passing.tmp").unlink(missing_ok=True)
        return iter(found)

    class Passing(list[Any]):
        """What was there, and its files have just gone."""

        def __init__(self, path: Any) -> None:
            with looked(path) as found:
                super().__init__(found)
            if os.fsencode(path).endswith(b"/data"):
                for entry in self:
                    os.unlink(entry.path)

        def __enter__(self) -> list[Any]:
            return self

        def __exit__(self, *_: object) -> None:
            pass

    with open_store(folder) as store:
        monkeypatch.setattr(Path, "iterdir", iterdir)
        monkeypatch.setattr(os, "scandir", Passing)
        rows = {row.name: row.size for row in idle(store.layout, store.database, {})}
    assert "context/passing.tmp" not in rows
    assert rows["context/kept"] == 1
    assert [size for name, size in rows.items() if name.startswith("cachemounts/")] == [len("/root/.cache")]


def test_labels_cannot_play_with_the_terminal(folder: Path) -> None:
    mount(folder, "a" * 32, 0, identifier="\x1b[2Jevil\n")
    with open_store(folder) as store:
        done = prune(store, PrunePolicy(NOW, max_age=DAY), dry_run=True)
    assert [d.row.label for d in done.decisions] == ["cache mount ?[2Jevil?"]


def test_collecting_garbage_alone_takes_none(folder: Path) -> None:
    place = mount(folder, "a" * 32, 900 * DAY)
    with open_store(folder) as store:
        assert prune(store, None).swept.idle == ()
    assert place.exists()
