"""Work beside the build: a few threads, started when there is something to do. Smaller than concurrent.futures, whose import (logging,
traceback) would cost a build of ten steps more than its work."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Generic, TypeVar

T = TypeVar("T")


class Later(Generic[T]):
    """What a task will give. One thread sets it."""

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
        """Waits for it; raises what the task raised."""
        self._done.wait()
        if self._error is not None:
            raise self._error
        return self._value


class Beside:
    """At most `threads` at work. `submit` from any thread; after `close` nothing is begun."""

    def __init__(self, threads: int, name: str) -> None:
        self._limit = threads
        self._name = name
        self._tasks: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._busy = 0  # tasks submitted and not finished
        self._closed = False

    def submit(self, act: Callable[[], T]) -> Later[T]:
        """RuntimeError after `close`."""
        later: Later[T] = Later()
        with self._lock:
            if self._closed:
                raise RuntimeError("it was closed")
            self._busy += 1
            if self._busy > len(self._threads) and len(self._threads) < self._limit:
                self._threads.append(threading.Thread(target=self._loop, name=self._name, daemon=True))
                self._threads[-1].start()
        self._tasks.put(lambda: later.settle(act))
        return later

    def close(self) -> None:
        """What is under way is waited for, what has not begun is left. Idempotent."""
        with self._lock:
            self._closed = True
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads:
            thread.join()

    def _loop(self) -> None:
        while (task := self._tasks.get()) is not None:
            if not self._closed:
                task()
            with self._lock:
                self._busy -= 1
