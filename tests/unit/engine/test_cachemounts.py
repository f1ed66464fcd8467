"""Cache mounts: one folder per id, and who may use it with whom."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal

import pytest

from lamina.engine.cachemounts import CacheMountRefused, CacheMounts
from lamina.engine.locks import Cancelled
from lamina.store.removal import remove


class Token:
    """A CancelToken that is set, or not."""

    def __init__(self, cancelled: bool = False) -> None:
        self._cancelled = cancelled

    def cancelled(self) -> bool:
        return self._cancelled

    def on_cancel(self, act: Callable[[], None]) -> Callable[[], None]:
        return lambda: None


GO, STOP = Token(), Token(True)
Sharing = Literal["shared", "private", "locked"]


def hold(
    mounts: CacheMounts,
    sharing: Sharing = "shared",
    *,
    name: str = "m",
    cancel: Token = GO,
    mode: int = 0o755,
    owner: tuple[int, int] = (0, 0),
    reset: bool = False,
) -> AbstractContextManager[tuple[Path, bool]]:
    return mounts.hold(name, sharing, cancel, mode=mode, uid=owner[0], gid=owner[1], reset=reset)


@pytest.fixture
def mounts(tmp_path: Path) -> CacheMounts:
    return CacheMounts(tmp_path)


def fill(mounts: CacheMounts, name: str = "m") -> Path:
    with hold(mounts, "shared", name=name) as (data, _):
        (data / "kept").write_text("x")
    return data


def test_the_second_use_finds_what_the_first_left(mounts: CacheMounts) -> None:
    with hold(mounts, "locked", mode=0o700) as (data, new):
        assert new
        assert data.stat().st_mode & 0o7777 == 0o700
        (data / "kept").write_text("x")
    with hold(mounts, "locked") as (again, new):
        assert not new
        assert again == data
        assert (again / "kept").exists()
        assert again.stat().st_mode & 0o7777 == 0o700, "attributes are those of the first use"


def test_ids_are_told_apart_and_cannot_leave_the_folder(mounts: CacheMounts, tmp_path: Path) -> None:
    places = {fill(mounts, name) for name in ("a", "b", "../../etc", "", "x" * 5000, "\udcff")}
    assert len(places) == 6
    assert all(place.is_relative_to(tmp_path) for place in places)


def test_shared_is_shared_while_it_is_held(mounts: CacheMounts) -> None:
    with hold(mounts, "shared") as (one, _), hold(mounts, "shared") as (two, _):
        assert one == two


def test_private_takes_another_folder_while_one_is_held(mounts: CacheMounts) -> None:
    with hold(mounts, "private") as (one, _), hold(mounts, "private") as (two, _):
        assert one != two
    with hold(mounts, "private") as (three, _):
        assert three == one


def test_locked_waits_and_can_be_cancelled(mounts: CacheMounts) -> None:
    with hold(mounts, "locked"), pytest.raises(Cancelled, match="cache mount m"):
        hold(mounts, "locked", cancel=STOP).__enter__()


def test_locked_goes_on_when_the_other_ends(mounts: CacheMounts) -> None:
    order: list[str] = []

    def second() -> None:
        with hold(mounts, "locked"):
            order.append("second")

    with hold(mounts, "locked"):
        other = threading.Thread(target=second)
        other.start()
        order.append("first")
    other.join(90)
    assert order == ["first", "second"]


@pytest.mark.parametrize("sharing", ["shared", "locked", "private"])
def test_a_forced_step_begins_empty(mounts: CacheMounts, sharing: Sharing) -> None:
    fill(mounts)
    with hold(mounts, sharing, reset=True) as (data, new):
        assert new
        assert list(data.iterdir()) == []


def test_a_forced_step_does_not_empty_what_another_holds(mounts: CacheMounts) -> None:
    fill(mounts)
    with hold(mounts, "shared"), hold(mounts, "shared", reset=True) as (data, new):
        assert not new
        assert (data / "kept").exists()
        with pytest.raises(Cancelled):  # it still has its own lock
            hold(mounts, "locked", cancel=STOP).__enter__()


def test_a_mount_that_is_pruned_while_one_waits_for_it(mounts: CacheMounts, tmp_path: Path) -> None:
    """The pruner holds the lock, moves the folder away and lets go: who waited takes a new folder, not the one that went."""
    place = fill(mounts).parent
    inode = (place / "lock").stat().st_ino
    got: list[Path] = []
    waiting = threading.Event()

    class Waits(Token):
        def cancelled(self) -> bool:
            waiting.set()
            return False

    def other() -> None:
        with hold(mounts, "locked", cancel=Waits()) as (data, new):
            assert new
            got.append(data)

    import fcntl

    descriptor = os.open(place / "lock", os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    thread = threading.Thread(target=other)
    thread.start()
    assert waiting.wait(90)
    place.rename(tmp_path / "grave")
    os.close(descriptor)
    thread.join(90)
    assert [path.is_dir() for path in got] == [True]
    assert (place / "lock").stat().st_ino != inode
    remove(tmp_path / "grave")


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_owner(mounts: CacheMounts) -> None:
    with hold(mounts, "shared", mode=0o750, owner=(1000, 1001)) as (data, _):
        found = data.stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o7777) == (1000, 1001, 0o750)


def test_numbers_that_no_owner_or_mode_has(mounts: CacheMounts) -> None:
    """The first use ended in Python's OverflowError, the second found a mount of another mode."""
    for mode, uid in ((0o37777777777, 0), (0o755, 1 << 40)):
        for _ in range(2):
            with pytest.raises(CacheMountRefused):
                hold(mounts, "shared", mode=mode, owner=(uid, 0)).__enter__()


def test_an_owner_that_the_sandbox_does_not_know(mounts: CacheMounts, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "chown", refused)
    for _ in range(2):  # the second time too: nothing half-made stays
        with pytest.raises(CacheMountRefused, match="uid 1000") as caught:
            hold(mounts, "shared", mode=0o750, owner=(1000, 0)).__enter__()
        assert caught.value.hint is not None
