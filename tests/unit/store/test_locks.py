from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from lamina.store.local import LocalStore
from lamina.store.locks import LockCancelled


def never() -> bool:
    return False


def test_free_and_taken_again(store: LocalStore, root: Path) -> None:
    for _ in range(2):
        with store.locks.key("sha256:k", never) as waited:
            assert not waited
            assert any(name.startswith("key-") for name in os.listdir(root / "locks"))
    assert not any(name.startswith("key-") for name in os.listdir(root / "locks"))


def test_other_keys_do_not_wait(store: LocalStore) -> None:
    with store.locks.key("a", never), store.locks.key("b", never) as waited:
        assert not waited


def test_waiting_is_told_and_can_be_cancelled(store: LocalStore) -> None:
    told: list[int] = []
    with store.locks.key("a", never):
        with pytest.raises(LockCancelled), store.locks.key("a", lambda: bool(told), lambda: told.append(1)):
            pass
        assert told == [1]
    with store.locks.key("a", never) as waited:
        assert not waited


def test_one_at_a_time(store: LocalStore, root: Path) -> None:
    inside = 0
    worst = 0
    waits = 0
    together = threading.Barrier(6, timeout=90)

    def work() -> None:
        nonlocal inside, worst, waits
        together.wait()
        for _ in range(10):
            with store.locks.key("same", never) as waited:
                inside += 1
                worst = max(worst, inside)
                waits += waited
                time.sleep(0.001)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert worst == 1
    assert waits
    assert not any(name.startswith("key-") for name in os.listdir(root / "locks"))


def test_an_error_inside_lets_go(store: LocalStore) -> None:
    with pytest.raises(KeyError), store.locks.key("a", never):
        raise KeyError
    with store.locks.key("a", never) as waited:
        assert not waited
