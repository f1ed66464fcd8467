"""What each step of one build came to, and how it is told."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from lamina.cache.explain import Upstream, explain_unknown
from lamina.cache.reason import Reason, Verdict
from lamina.cache.record import CacheKey, KeyParts, Place
from lamina.engine.identify import place_of
from lamina.engine.listed import Listed
from lamina.engine.request import ListedStep, StepReport
from lamina.engine.results import Filesystem, Result
from lamina.graph.vertex import Vertex, walk

if TYPE_CHECKING:
    from lamina.dockerfile.lower import Lowered, LoweredStep
    from lamina.engine.job import Job
    from lamina.solver.events import Ended


class Account(msgspec.Struct):
    """What became of one vertex."""

    number: int
    parts: KeyParts | None = None
    key: CacheKey | None = None
    reason: Reason | None = None
    verdict: Verdict | None = None
    seconds: float = 0.0
    saved: float = 0.0
    fetch_bytes: int = 0
    state: str | None = None
    error: str | None = None
    place: Place | None = None
    listings: dict[int, Listed] = msgspec.field(default_factory=dict)


def listed_step(row: LoweredStep, job: Job) -> ListedStep:
    """A step before the build has begun with it."""
    step = row.step
    number = job.account(row.vertex).number if row.vertex is not None and row.needed else 0
    return ListedStep(step.stage, step.stage_name, step.line, step.text, row.kind, row.needed, number)


def layer_times(lowered: Lowered, ended: Mapping[int, Ended[Vertex, Result]]) -> list[float | None]:
    """When each layer of the image was made, for its history: seconds since the epoch, None for what has no record."""
    times: list[float | None] = []
    for vertex in lowered.history_vertices:
        found = ended.get(id(vertex)) if vertex is not None else None
        result = found.result if found is not None else None
        times.append(result.record.created if isinstance(result, Filesystem) and result.record is not None else None)
    return times


def step_report(row: LoweredStep, job: Job, ended: Mapping[int, Ended[Vertex, Result]]) -> StepReport:
    """`ended`: what the scheduler says of vertices, by their id()."""
    step = row.step
    tell = partial(
        StepReport, stage=step.stage, stage_name=step.stage_name, index=step.index, line=step.line, text=step.text, trigger=step.trigger
    )
    if not row.needed:
        reason = Reason("not-needed", f"stage {step.stage_name or step.stage} is not needed for the target")
        return tell(verdict="skipped", reason=reason)
    if row.vertex is None:
        if row.kind == "FROM":
            return tell(verdict="none", reason=Reason("base", "the base that the stage begins with"))
        return tell(verdict="none", reason=Reason("metadata", "changes the image's config only"))
    account = job.accounts.get(id(row.vertex))
    end = ended.get(id(row.vertex))
    if account is None or account.verdict is None or account.reason is None:
        status = end.status if end is not None else "waiting"
        if job.planning:
            upstream = _first_miss(row.vertex, job)
            last = job.around.records.neighbours(place_of(row.vertex, job.request.dockerfile_name), 1)
            cost = last[0].seconds if last else 0.0
            return tell(verdict="unknown", reason=explain_unknown(upstream), saved=cost)
        reason = Reason("not-reached", "the build ended before its turn" if status == "waiting" else "stopped because another step failed")
        return tell(verdict="skipped", reason=reason)
    return tell(
        verdict=account.verdict,
        reason=account.reason,
        key=account.key,
        seconds=account.seconds,
        saved=account.saved,
        state=account.state,
        error=account.error,
    )


def _first_miss(vertex: Vertex, job: Job) -> Upstream | None:
    for below in walk((vertex,)):
        account = job.accounts.get(id(below))
        if account is not None and account.verdict == "miss" and below.steps:
            return Upstream(below.steps[0].text, below.steps[0].line, account.reason)
    return None
