"""CancelToken: tells everything that a build has under way to end. Thread-safe."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress

Act = Callable[[], None]


class CancelToken:
    """Set by Ctrl-C, a failed sibling, a parent token, or by itself when `deadline` (of `time.monotonic`) is past."""

    def __init__(self, *, deadline: float | None = None, parent: CancelToken | None = None) -> None:
        self._lock = threading.Lock()
        self._cancelled = False
        self._acts: dict[int, Act] = {}  # in order of registration
        self._next = 0
        self._deadline = deadline
        self._timer: threading.Timer | None = None
        self._leave_parent = parent.on_cancel(self.cancel) if parent is not None else None

    def cancelled(self) -> bool:
        if not self._cancelled and self._deadline is not None and time.monotonic() >= self._deadline:
            self.cancel()
        return self._cancelled

    def cancel(self) -> None:
        """Idempotent. Calls what was registered, in that order; an exception from one does not stop the others."""
        with self._lock:
            if self._cancelled:
                return
            self._cancelled = True
            acts = list(self._acts.values())
            self._acts.clear()
            timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        for act in acts:
            with suppress(Exception):
                act()

    def on_cancel(self, act: Act) -> Act:
        """Call `act` (once, from any thread, must not raise) when cancelled; at once if it is already.

        Returns how to withdraw it.
        """
        if not self.cancelled():
            with self._lock:
                if not self._cancelled:
                    number = self._next
                    self._next += 1
                    self._acts[number] = act
                    self._start_timer()
                    return lambda: self._withdraw(number)
        with suppress(Exception):
            act()
        return _nothing

    def child(self, seconds: float | None = None) -> CancelToken:
        """A token that is cancelled with this one, and of itself after `seconds`. `close` it when its work is over."""
        return CancelToken(deadline=None if seconds is None else time.monotonic() + seconds, parent=self)

    def close(self) -> None:
        """Nothing is waited for any more: leave the parent, end the timer. The token keeps its value."""
        if self._leave_parent is not None:
            self._leave_parent()
        with self._lock:
            self._acts.clear()
            timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _start_timer(self) -> None:
        # Called with the lock held. Only a token that somebody listens to needs a thread for its deadline.
        if self._deadline is not None and self._timer is None:
            self._timer = threading.Timer(max(0.0, self._deadline - time.monotonic()), self.cancel)
            self._timer.daemon = True
            self._timer.start()

    def _withdraw(self, number: int) -> None:
        with self._lock:
            self._acts.pop(number, None)


def _nothing() -> None:
    pass
