"""Blobs of an archive, one after the other read and hashed, while the one before is on its way to the disk."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


class _Ended(Exception):
    """Another job has failed; never seen outside."""


class Turn:
    """Held by the one job that reads. `go_on` between pieces: raises when another has failed or the user has had enough."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ended = threading.Event()

    def __enter__(self) -> Turn:
        self._lock.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def go_on(self) -> None:
        if self._ended.is_set():
            raise _Ended

    def end(self) -> None:
        self._ended.set()


def in_turns(jobs: Sequence[Callable[[Turn], T]]) -> list[T]:
    """What the jobs return, in their order. Each enters the turn to read its source, and leaves it for its fsync.

    The first failure ends the others, and is raised when they have ended.
    """
    if len(jobs) < 2:
        return [job(Turn()) for job in jobs]
    from concurrent.futures import ThreadPoolExecutor

    turn = Turn()
    failures: list[BaseException] = []

    def one(job: Callable[[Turn], T]) -> T | None:
        if failures:
            return None
        try:
            turn.go_on()
            return job(turn)
        except BaseException as error:
            if not isinstance(error, _Ended):
                failures.append(error)
            turn.end()
            return None

    with ThreadPoolExecutor(2, thread_name_prefix="blobs") as pool:
        try:
            found = list(pool.map(one, jobs))
        except BaseException:  # Ctrl-C in the waiting thread
            turn.end()
            raise
    if failures:
        raise failures[0]
    return [each for each in found if each is not None]
