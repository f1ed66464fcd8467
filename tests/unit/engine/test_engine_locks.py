"""Lock files between threads and processes."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from lamina.engine.locks import Cancelled, exclusive, try_lock, wait_lock


class Token:
    def __init__(self, answers: list[bool] | None = None) -> None:
        self._answers = answers or []

    def cancelled(self) -> bool:
        return self._answers.pop(0) if self._answers else False

    def on_cancel(self, act: Callable[[], None]) -> Callable[[], None]:
        return lambda: None


def test_try_lock(tmp_path: Path) -> None:
    with (tmp_path / "l").open("w") as one, (tmp_path / "l").open() as two:
        assert try_lock(one.fileno(), fcntl.LOCK_EX)
        assert not try_lock(two.fileno(), fcntl.LOCK_SH)
        fcntl.flock(one, fcntl.LOCK_UN)
        assert try_lock(two.fileno(), fcntl.LOCK_SH)


def test_waiting_ends_when_cancelled(tmp_path: Path) -> None:
    with (tmp_path / "l").open("w") as one, (tmp_path / "l").open() as two:
        fcntl.flock(one, fcntl.LOCK_EX)
        with pytest.raises(Cancelled, match="while waiting for a thing"):
            wait_lock(two.fileno(), fcntl.LOCK_EX, Token([False, True]), "a thing")


def test_exclusive_leaves_no_file_and_says_whether_it_waited(tmp_path: Path) -> None:
    with exclusive(tmp_path / "l", Token(), "it") as waited:
        assert not waited
        assert (tmp_path / "l").exists()
    assert not (tmp_path / "l").exists()


def test_only_one_at_a_time_and_no_one_holds_a_removed_file(tmp_path: Path) -> None:
    inside = 0
    most = 0
    done: list[int] = []
    mutex = threading.Lock()

    def work(number: int) -> None:
        nonlocal inside, most
        for _ in range(20):
            with exclusive(tmp_path / "l", Token(), "it"):
                with mutex:
                    inside += 1
                    most = max(most, inside)
                with mutex:
                    inside -= 1
        done.append(number)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (most, sorted(done)) == (1, [0, 1, 2, 3])
    assert os.listdir(tmp_path) == []


def test_the_lock_is_given_back_when_the_block_raises(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), exclusive(tmp_path / "l", Token(), "it"):
        raise ZeroDivisionError
    with exclusive(tmp_path / "l", Token(), "it") as waited:
        assert not waited
