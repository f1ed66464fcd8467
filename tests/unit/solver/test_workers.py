"""Threads for the driver and for work beside a build: how many, in which order, and a machine that gives none."""

from __future__ import annotations

import threading
from functools import partial
from queue import SimpleQueue

import pytest

from lamina.solver.workers import Workers


def test_all_that_was_submitted_before_is_done() -> None:
    workers, done = Workers(1, "test"), list[int]()
    for number in range(100):
        workers.submit(partial(done.append, number))
    workers.close()
    workers.join()
    assert done == list(range(100))
    with pytest.raises(RuntimeError, match="closed"):
        workers.submit(lambda: done.append(-1))
    workers.close()
    assert done[-1] == 99


def test_idle_threads_are_used_again() -> None:
    workers, answers = Workers(8, "test-again"), SimpleQueue[str]()
    for _ in range(20):
        finished = threading.Event()
        workers.submit(lambda: answers.put(threading.current_thread().name))
        assert answers.get(timeout=60) == "test-again"
        workers.submit(finished.set)
        assert finished.wait(60)
    assert 1 <= sum(thread.name == "test-again" for thread in threading.enumerate()) <= 3
    workers.close()
    workers.join()


def test_a_machine_out_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that did not start stood in the list: the tasks it was to do waited for ever."""
    begin = threading.Thread.start
    tries = []

    def start(thread: threading.Thread) -> None:
        tries.append(thread)
        if len(tries) != 2:
            raise RuntimeError("can't start new thread")
        begin(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    done: list[object] = []
    workers, gate = Workers(3, "test"), threading.Event()
    with pytest.raises(RuntimeError, match="start new thread"):
        workers.submit(lambda: done.append("none"))
    workers.submit(lambda: done.append(gate.wait(60)))
    workers.submit(lambda: done.append("by the one there is"))
    assert len(tries) == 3
    gate.set()
    workers.close()
    workers.join()
    assert done == [True, "by the one there is"]
