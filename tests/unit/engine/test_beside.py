"""Work beside a build: results, errors, how many at a time, and what closing leaves."""

from __future__ import annotations

import threading

import pytest

from lamina.engine.beside import Beside


def test_results_and_errors_come_to_who_asks() -> None:
    beside = Beside(2, "test")
    good, bad = beside.submit(lambda: 7), beside.submit(lambda: 1 // 0)
    assert good.result() == 7
    assert good.result() == 7
    with pytest.raises(ZeroDivisionError):
        bad.result()
    beside.close()


def test_no_more_threads_than_asked_for() -> None:
    beside = Beside(2, "test-two")
    gate, together = threading.Event(), threading.Barrier(2)

    def work() -> None:
        together.wait(60)
        gate.wait(60)

    first = [beside.submit(work) for _ in range(2)]
    later = [beside.submit(gate.is_set) for _ in range(20)]
    assert sum(thread.name == "test-two" for thread in threading.enumerate()) == 2
    gate.set()
    for one in first:
        one.result()
    assert all(one.result() for one in later)
    beside.close()
    assert not any(thread.name == "test-two" for thread in threading.enumerate())


def test_closing_waits_for_what_runs_and_leaves_the_rest() -> None:
    beside = Beside(1, "test")
    begun, gate, done = threading.Event(), threading.Event(), []

    def work() -> None:
        begun.set()
        gate.wait(60)
        done.append("first")

    beside.submit(work)
    left = beside.submit(lambda: done.append("second"))
    assert begun.wait(60)
    closing = threading.Thread(target=beside.close)
    closing.start()
    while not beside._closed:
        pass
    gate.set()
    closing.join(60)
    assert done == ["first"]
    with pytest.raises(RuntimeError, match="before this was begun"):
        left.result()
    with pytest.raises(RuntimeError, match="closed"):
        beside.submit(lambda: None)
    beside.close()
