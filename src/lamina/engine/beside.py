"""Work beside the build, for what the next step need not wait for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, NoReturn, TypeVar

from lamina.solver.workers import Workers

T = TypeVar("T")


class Later(Generic[T]):
    """What a task will give. One thread settles it."""

    def __init__(self) -> None:
        self._done = threading.Event()
        self._value: T
        self._error: BaseException | None = None

    def settle(self, act: Callable[[], T]) -> None:
        try:
            self._value = act()
        except BaseException as error:
            self._error = error
        self._done.set()

    def result(self) -> T:
        """Waits for it; raises what the task raised, RuntimeError where it was never begun."""
        self._done.wait()
        if self._error is not None:
            raise self._error
        return self._value


class Beside:
    """At most `threads` at work. `submit` from any thread; after `close` nothing is begun."""

    def __init__(self, threads: int, name: str) -> None:
        self._workers = Workers(threads, name)
        self._closed = False

    def submit(self, act: Callable[[], T]) -> Later[T]:
        """RuntimeError after `close`, or where no thread can be had."""
        later: Later[T] = Later()
        self._workers.submit(lambda: later.settle(self._left if self._closed else act))
        return later

    def close(self) -> None:
        """What is under way is waited for, what has not begun is left: who waits for it is told. Idempotent."""
        self._closed = True
        self._workers.close()
        self._workers.join()

    @staticmethod
    def _left() -> NoReturn:
        raise RuntimeError("it was closed before this was begun")
