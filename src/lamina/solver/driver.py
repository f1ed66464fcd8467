"""The one thread that owns a machine, and the workers that perform its commands."""

from __future__ import annotations

import signal
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from types import FrameType
from typing import TYPE_CHECKING, Generic

from lamina.solver.cancel import CancelToken
from lamina.solver.events import Cancel, Done, Failed, N, Outcome, R, Run, Stop, Want
from lamina.solver.machine import Machine
from lamina.solver.workers import Workers

if TYPE_CHECKING:
    from lamina.solver.events import Answer, Event, Task

    Perform = Callable[[Task[N, R], CancelToken], Answer[N, R]]
    """Called on worker threads, many at once; where `inline` says so on the driver's own. What it raises becomes Failed."""


class Driver(Generic[N, R]):
    """Runs a machine to its end. `jobs` must be the machine's; beside the Run commands at most `side` others are under way.

    `inline(command)`: performing it is so cheap (no wait, about as long as a thread takes to start) that it is done on the
    driver's own thread. Workers are started when there is work and none is idle; a build in which all is inline has none.
    """

    def __init__(
        self,
        machine: Machine[N, R],
        perform: Perform[N, R],
        jobs: int = 4,
        *,
        side: int = 4,
        inline: Callable[[Task[N, R]], bool] | None = None,
        cancel: CancelToken | None = None,
    ) -> None:
        self._machine = machine
        self._perform = perform
        self._inline = inline or _never
        self._inbox: SimpleQueue[Event[N, R]] = SimpleQueue()
        self._runs = Workers(max(1, jobs), "lamina-worker")
        self._others = Workers(max(1, side), "lamina-worker")
        self._withdraw = _nothing
        self._interrupts = 0
        self.cancel = cancel or CancelToken()

    def run(self, targets: tuple[N, ...], *, present: bool = True) -> Outcome[N, R]:
        """The outcome, once nothing is under way any more. Call it once.

        A first Ctrl-C, or the token, cancels and waits for the workers. A second Ctrl-C raises KeyboardInterrupt at once;
        workers are daemon threads and end with the process. Ctrl-C is caught on the main thread and where nobody else handles it.
        """
        self._inbox.put(Want(targets, present))
        self._withdraw = self.cancel.on_cancel(self._tell_cancel)
        handling = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if handling:
            signal.signal(signal.SIGINT, self._interrupted)
        try:
            while True:
                outcome = self._step(self._next())
                if outcome is not None:
                    return outcome
        except BaseException:
            self._withdraw()
            self.cancel.cancel()
            raise
        finally:
            if handling:
                signal.signal(signal.SIGINT, signal.default_int_handler)
            self._withdraw()
            self._runs.close()
            self._others.close()

    def _next(self) -> Event[N, R]:
        """The next event. It is looked for once a second: a signal that comes in the instant before the wait begins, or to another thread, does not
        end the wait, and its handler would run with the next event only."""
        while True:
            with suppress(Empty):
                return self._inbox.get(timeout=1.0)

    def _step(self, event: Event[N, R]) -> Outcome[N, R] | None:
        """Handle one event, and those that answer its cheap commands."""
        events: deque[Event[N, R]] = deque([event])
        while events:
            cheap: list[Task[N, R]] = []
            for command in self._machine.handle(events.popleft()):
                if isinstance(command, Done):
                    return command.outcome
                if isinstance(command, Stop):
                    self._withdraw()
                    self.cancel.cancel()
                elif self._inline(command):
                    cheap.append(command)
                else:
                    (self._runs if isinstance(command, Run) else self._others).submit(partial(self._work, command))
            # Workers have their tasks: now there is time for these.
            for command in cheap:
                try:
                    events.append(self._perform(command, self.cancel))
                except Exception as error:
                    events.append(Failed(command.node, error))
        return None

    def _work(self, task: Task[N, R]) -> None:
        try:
            answer = self._perform(task, self.cancel)
        except BaseException as error:  # whatever ends a task, the machine must hear of it, or the build would wait for ever
            answer = Failed(task.node, error)
        self._inbox.put(answer)

    def _tell_cancel(self) -> None:
        self._inbox.put(Cancel())

    def _interrupted(self, number: int, frame: FrameType | None) -> None:
        # In a signal handler no lock may be taken: the token is cancelled when the driver comes to the event.
        self._interrupts += 1
        if self._interrupts > 1:
            raise KeyboardInterrupt
        self._inbox.put(Cancel())


def _never(_: object) -> bool:
    return False


def _nothing() -> None:
    pass
