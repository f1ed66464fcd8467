"""What a cluster must do to run steps. A job is a process `python -m lamina pipeline step-job` on some worker: the payload is its stdin, frames are its stdout (`frames.py`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from lamina.diagnostics.errors import LaminaError


class Needs(msgspec.Struct, frozen=True):
    """What a worker must have to take a job. `memory` in MB; `label`: "" for any worker."""

    memory: int
    cpus: float
    label: str = ""


class Job(msgspec.Struct, frozen=True):
    """`name` is for people. Of the jobs that wait, those with the higher `priority` begin first."""

    name: str
    payload: bytes
    needs: Needs
    priority: int


class WorkerLost(LaminaError):
    """The worker died, or the connection to it; the job may have run in part."""

    code = "pipeline/worker-lost"


class JobStopped(LaminaError):
    """The job was cancelled; nothing of it runs any more."""

    code = "pipeline/job-stopped"
    default_exit = 130


class JobFailed(LaminaError):
    """The job ended without an answer, and will do so again. Of a step that fails this is not said: its answer is that it failed."""

    code = "pipeline/job-failed"


class ClusterError(LaminaError):
    """The cluster cannot be used."""

    code = "pipeline/cluster"
    default_exit = 69


class Running(Protocol):
    """A job that was submitted."""

    def result(self) -> bytes:
        """The last framed message (`Frames.last` over all that was printed). Blocks, and returns after `said` got every piece. WorkerLost where the worker died,
        or the job by a signal that nobody here sent; JobStopped after `cancel`; another LaminaError for anything else."""

    def cancel(self) -> None:
        """Kill the job's processes on the worker. Idempotent; from any thread."""


class Cluster(Protocol):
    """Some workers."""

    def submit(self, job: Job, said: Callable[[bytes], None]) -> Running:
        """`said` gets each piece that the job prints, live and in order, from any thread."""

    def fits(self, needs: Needs) -> str:
        """Empty, or why no worker could ever take it."""

    def close(self) -> None:
        """Kill what still runs and let the cluster go. Idempotent."""
