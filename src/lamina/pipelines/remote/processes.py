"""`--engine processes://N`: workers that are processes of this machine, each with a store of its own. Needs no library; what tests of everything above use."""

from __future__ import annotations

import heapq
import itertools
import signal
import threading
from collections.abc import Callable, Sequence

from lamina.diagnostics.errors import LaminaError
from lamina.pipelines.remote.cluster import Job, JobFailed, JobStopped, Needs, WorkerLost
from lamina.pipelines.remote.frames import Frames
from lamina.pipelines.remote.job import Ended, Process

_LEASE = 1e9  # seconds; the guard sees this process's end


class Processes:
    """As cluster.Cluster. `commands`: what a job is, for each worker; a worker has one job at a time. `memory` of each worker in MB, 0 for any need."""

    def __init__(
        self, commands: Sequence[Sequence[str]], *, memory: int = 0, cpus: float = 0, labels: frozenset[str] = frozenset()
    ) -> None:
        self._memory = memory
        self._cpus = cpus
        self._labels = labels
        self._change = threading.Condition()
        self._waiting: list[tuple[int, int, _Run]] = []
        self._count = itertools.count()
        self._runs: set[_Run] = set()
        self._closed = False
        self._workers = [
            threading.Thread(target=self._work, args=(tuple(command),), name=f"worker-{number}", daemon=True)
            for number, command in enumerate(commands, 1)
        ]
        for worker in self._workers:
            worker.start()

    def submit(self, job: Job, said: Callable[[bytes], None]) -> _Run:
        """As Cluster."""
        run = _Run(job, said)
        with self._change:
            if self._closed:
                raise JobFailed(f"{job.name}: the workers were closed")
            self._runs.add(run)
            heapq.heappush(self._waiting, (-job.priority, next(self._count), run))
            self._change.notify()
        return run

    def fits(self, needs: Needs) -> str:
        """As Cluster."""
        if self._memory and needs.memory > self._memory:
            return f"it needs {needs.memory} MB; each worker has {self._memory} MB"
        if self._cpus and needs.cpus > self._cpus:
            return f"it needs {needs.cpus:g} processors; each worker has {self._cpus:g}"
        if needs.label and needs.label not in self._labels:
            return f'no worker has the label "{needs.label}"; ' + (
                f"labels are {', '.join(sorted(self._labels))}" if self._labels else "none has any"
            )
        return ""

    def close(self) -> None:
        """As Cluster."""
        with self._change:
            self._closed = True
            runs = list(self._runs)
            self._change.notify_all()
        for run in runs:
            run.cancel()
        for worker in self._workers:
            worker.join()

    def _work(self, command: Sequence[str]) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    return
                run = heapq.heappop(self._waiting)[2]
            run.carry_out(command)
            with self._change:
                self._runs.discard(run)


class _Run:
    """As cluster.Running."""

    def __init__(self, job: Job, said: Callable[[bytes], None]) -> None:
        self._job = job
        self._said = said
        self._lock = threading.Lock()
        self._process: Process | None = None
        self._cancelled = False
        self._over = threading.Event()
        self._answer = b""
        self._error: LaminaError | None = None

    def result(self) -> bytes:
        self._over.wait()
        if self._error is not None:
            raise self._error
        return self._answer

    def cancel(self) -> None:
        with self._lock:
            self._cancelled = True
            if self._process is not None:
                self._process.kill()

    def carry_out(self, command: Sequence[str]) -> None:
        """On the worker's thread."""
        try:
            self._answer = self._run(command)
        except LaminaError as error:
            self._error = error
        except Exception as error:  # whoever waits for the result must not wait for ever
            self._error = JobFailed(f"{self._job.name}: {type(error).__name__}: {error}")
        finally:
            self._over.set()

    def _run(self, command: Sequence[str]) -> bytes:
        with self._lock:
            if self._cancelled:
                raise JobStopped(f"{self._job.name}: stopped before it began")
            self._process = process = Process(command, self._job.payload, _LEASE)
        frames = Frames()
        try:
            while piece := process.read():
                frames.feed(piece)
                self._said(piece)
        finally:
            process.kill()
            while process.read():
                pass
            ended = process.end()
            with self._lock:
                self._process = None
                cancelled = self._cancelled
        if cancelled:
            raise JobStopped(f"{self._job.name}: stopped")
        return self._outcome(ended, frames.last)

    def _outcome(self, ended: Ended, last: bytes) -> bytes:
        if ended.failed:
            raise JobFailed(f"{self._job.name}: {ended.failed}")
        if last:
            return last
        if ended.code < 0:
            raise WorkerLost(f"its process was ended by {_signal(-ended.code)}")
        told = ended.errors.decode(errors="replace").strip().splitlines()
        raise JobFailed(f"{self._job.name}: the job ended with exit code {ended.code}" + (f": {told[-1]}" if told else ""))


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
