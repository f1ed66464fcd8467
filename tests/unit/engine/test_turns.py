from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

import pytest

from lamina.engine.images.turns import Turn, in_turns


def test_results_come_in_order_and_one_job_reads_at_a_time() -> None:
    inside: list[int] = []

    def job(number: int, turn: Turn) -> int:
        with turn:
            inside.append(number)
            assert len(inside) == 1
            turn.go_on()
            inside.remove(number)
        return number * number

    assert in_turns([partial(job, number) for number in range(40)]) == [number * number for number in range(40)]


def test_the_next_job_reads_while_one_writes() -> None:
    second_has_read = threading.Event()

    def first(turn: Turn) -> bool:
        with turn:
            pass
        return second_has_read.wait(90)

    def second(turn: Turn) -> bool:
        with turn:
            second_has_read.set()
        return True

    assert in_turns([first, second]) == [True, True]


def test_a_failure_ends_the_others() -> None:
    ran: list[int] = []
    failed = threading.Event()

    def fails(turn: Turn) -> None:
        with turn:
            failed.set()
            raise ValueError("damaged")

    def reads(number: int, turn: Turn) -> None:
        ran.append(number)
        failed.wait(90)
        with turn:
            while True:  # an endless source
                turn.go_on()

    jobs: list[Callable[[Turn], None]] = [fails, *[partial(reads, number) for number in range(10)]]
    with pytest.raises(ValueError, match="damaged"):
        in_turns(jobs)
    assert len(ran) <= 1


def test_one_job_and_none() -> None:
    def three(turn: Turn) -> int:
        turn.go_on()
        return 3

    nothing: list[Callable[[Turn], int]] = []
    assert in_turns(nothing) == []
    assert in_turns([three]) == [3]
