"""A few daemon threads, started as work comes. Smaller than concurrent.futures, whose import (logging, traceback) would cost a build of ten
steps more than its threads do."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue


class Workers:
    """At most `limit` threads; what is submitted begins in that order. Any thread may submit and close; what is submitted must not raise."""

    def __init__(self, limit: int, name: str) -> None:
        self._limit = limit
        self._name = name
        self._tasks: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._busy = 0  # tasks submitted and not finished
        self._closed = False
        self._lock = threading.Lock()

    def submit(self, act: Callable[[], None]) -> None:
        """RuntimeError after `close`, or where not one thread can be started; then nothing was submitted."""
        with self._lock:
            if self._closed:
                raise RuntimeError("it was closed")
            if self._busy >= len(self._threads) < self._limit:
                thread = threading.Thread(target=self._loop, name=self._name, daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # a machine out of threads: those that are there do it
                    if not self._threads:
                        raise
                else:
                    self._threads.append(thread)
            self._busy += 1
            self._tasks.put(act)

    def close(self) -> None:
        """Threads end when all that was submitted before is done. Idempotent."""
        with self._lock:
            self._closed = True
            for _ in self._threads:
                self._tasks.put(None)

    def join(self) -> None:
        """After `close`: waits for them."""
        for thread in self._threads:
            thread.join()

    def _loop(self) -> None:
        while (act := self._tasks.get()) is not None:
            act()
            with self._lock:
                self._busy -= 1
