"""Who fills the disk is told; nobody else."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from lamina.pipelines.run import diskroom
from lamina.pipelines.run.diskroom import DiskRoom, written


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every disk counts as full, and a page is enough to have filled it."""
    monkeypatch.setattr(diskroom, "FLOOR", 1 << 60)
    monkeypatch.setattr(diskroom, "SHARE", 1)
    monkeypatch.setattr(diskroom, "LEAST", 1)


def test_the_one_who_wrote_most_is_told_once(tmp_path: Path, full: None) -> None:
    told: list[tuple[str, str]] = []
    heard = threading.Event()
    (tmp_path / "big").mkdir()
    (tmp_path / "small").mkdir()
    (tmp_path / "big" / "file").write_bytes(os.urandom(3 << 20))
    os.symlink(tmp_path / "big", tmp_path / "small" / "link")

    def act(who: str, text: str) -> None:
        told.append((who, text))
        heard.set()

    room = DiskRoom(tmp_path)
    # The big one first: the look goes round while the other is added.
    with room.watch(tmp_path / "big", lambda text: act("big", text)), room.watch(tmp_path / "small", lambda text: act("small", text)):
        assert heard.wait(90)
    assert told[0][0] == "big"
    assert told[0][1].startswith("it was ended because the disk is full: it has written 3 MB, and ")


def test_room_enough_is_no_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = threading.Event()
    monkeypatch.setattr(diskroom, "FLOOR", 0)
    seen = os.statvfs

    def statvfs(path: Path) -> os.statvfs_result:
        looked.set()
        return seen(path)

    monkeypatch.setattr(os, "statvfs", statvfs)
    told: list[str] = []
    with DiskRoom(tmp_path).watch(tmp_path, told.append):
        assert looked.wait(90)
    assert told == []


def test_a_folder_that_is_gone_ends_nothing(tmp_path: Path, full: None) -> None:
    room = DiskRoom(tmp_path / "gone")
    with room.watch(tmp_path / "gone", lambda text: None):
        pass
    assert written(tmp_path / "gone") == 0
