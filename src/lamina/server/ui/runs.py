"""Runs of pipelines as the pages need them. Who has them gives a `Runs`; the server itself knows of no pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec


class CacheSeen(msgspec.Struct, frozen=True):
    """`verdict`: hit, miss, shared or out."""

    name: str
    verdict: str
    reason: str
    saved: str = ""


class RunStep(msgspec.Struct, frozen=True):
    """`status`: passed, failed, stopped, skipped, declined, not-run, kept, running or waiting. Steps of one `column` begin together. `started` in seconds
    since the epoch, 0 where it did not begin."""

    number: int
    name: str
    status: str
    column: int = 0
    stage: str = ""
    image: str = ""
    started: float = 0.0
    seconds: float = 0.0
    reason: str = ""
    services: tuple[str, ...] = ()
    caches: tuple[CacheSeen, ...] = ()
    tests: str = ""
    failures: tuple[tuple[str, str], ...] = ()  # name and text of the first tests that failed


class Run(msgspec.Struct, frozen=True):
    """`outcome`: passed, failed, stopped, killed or running."""

    project: str
    title: str
    number: int
    pipeline: str
    outcome: str
    started: float
    seconds: float
    commit: str = ""
    branch: str = ""
    reason: str = ""
    rerun_of: int = 0
    steps: tuple[RunStep, ...] = ()

    @property
    def running(self) -> bool:
        return self.outcome == "running"


class Log(msgspec.Struct, frozen=True):
    """`name` of what wrote it: a step, or one of its services. `left_out`: bytes before what is shown. Secured variables are masked in it."""

    name: str
    text: str
    left_out: int = 0


class Runs(Protocol):
    """Thread-safe. `project` and `number` come from a stranger's address."""

    def last(self) -> Sequence[Run]:
        """The newest of all repositories, without their steps' details."""
        ...

    def run(self, project: str, number: int) -> Run | None: ...
    def logs(self, project: str, number: int, step: int) -> Sequence[Log]:
        """The step's own first, then those of its services; the end of each when it is long."""
        ...
