"""A Cluster out of workers that somebody else manages: the queue is ours, so that priorities hold whatever the cluster knows of them."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from typing import Protocol

from lamina.diagnostics.errors import LaminaError
from lamina.pipelines.remote.cluster import ClusterError, Job, Needs, Running
from lamina.pipelines.remote.job import LEASE
from lamina.pipelines.remote.pulling import Pulled, Seat
from lamina.pipelines.remote.queueing import Machine, Queue

REFRESH = 1.0  # seconds between two looks at the workers while jobs wait


class Workers(Protocol):
    """What dask and ray are to this room. Any thread."""

    def machines(self) -> list[Machine]:
        """Those that are there now. LaminaError."""

    def seat(self, machine: str, ticket: str, job: Job, lease: float) -> Seat:
        """Ask for a place on that machine, in which `hand.hold(ticket, lease)` runs. Does not wait for it. LaminaError."""

    def close(self) -> None:
        """Let the cluster go. Idempotent."""


class Dispatched:
    """A Cluster."""

    def __init__(self, workers: Workers, *, command: tuple[str, ...] = (), lease: float = LEASE) -> None:
        """`command`: what a job is instead of the worker's lamina."""
        self._workers = workers
        self._command = command
        self._lease = lease
        self._change = threading.Condition()
        self._queue = Queue()
        self._jobs: dict[int, tuple[Job, Pulled]] = {}
        self._closed = False
        self._due = False
        self._thread = threading.Thread(target=self._dispatch, name="dispatcher", daemon=True)
        self._thread.start()

    def submit(self, job: Job, said: Callable[[bytes], None]) -> Running:
        with self._change:
            if self._closed:
                raise ClusterError("the cluster is closed")
            ticket = self._queue.add(job.needs, job.priority)
            pulled = Pulled(job, said, self._command, self._lease, lambda again: self._over(ticket, again))
            self._jobs[ticket] = (job, pulled)
            self._wake()
        return pulled

    def fits(self, needs: Needs) -> str:
        machines = self._workers.machines()
        with self._change:
            self._queue.machines(machines)
            return self._queue.why_not(needs)

    def close(self) -> None:
        with self._change:
            if self._closed:
                return
            self._closed = True
            jobs = [pulled for _, pulled in self._jobs.values()]
            self._wake()
        for pulled in jobs:
            pulled.cancel()
        with self._change:
            self._change.wait_for(lambda: not self._jobs, self._lease)
        self._thread.join(self._lease)
        self._workers.close()

    def _wake(self) -> None:
        self._due = True
        self._change.notify_all()

    def _over(self, ticket: int, again: bool) -> None:
        with self._change:
            again = again and not self._closed
            pulled = self._jobs[ticket][1] if ticket in self._jobs else None
            if again:
                self._queue.again(ticket)
            else:
                self._queue.free(ticket)
                self._jobs.pop(ticket, None)
            self._wake()
        if pulled is not None and not again:
            pulled.cancel()  # of one that is over it means nothing

    def _dispatch(self) -> None:
        silent_since: float | None = None
        while True:
            with self._change:
                self._change.wait_for(lambda: self._due or self._closed, REFRESH if self._queue.waiting() else None)
                if self._closed:
                    return
                self._due = False
                if not self._queue.waiting():
                    continue
            try:
                self._place()
                silent_since = None
            except LaminaError as error:
                now = time.monotonic()
                silent_since = now if silent_since is None else silent_since
                if not error.transient or now - silent_since > self._lease:
                    with self._change:
                        jobs = [pulled for _, pulled in self._jobs.values()]
                    for pulled in jobs:
                        pulled.fail(error)

    def _place(self) -> None:
        """LaminaError: the cluster does not answer; what waits still waits."""
        machines = self._workers.machines()
        with self._change:
            self._queue.machines(machines)
            begin = [(placed, *self._jobs[placed.ticket]) for placed in self._queue.place()]
        failed: LaminaError | None = None
        for placed, job, pulled in begin:
            name = f"lamina-{uuid.uuid4().hex}"
            try:
                seat = self._workers.seat(placed.machine, name, job, self._lease)
            except LaminaError as error:
                failed = error
                with self._change:
                    self._queue.again(placed.ticket)
            else:
                pulled.occupy(seat, name)
        if failed is not None:
            raise failed
