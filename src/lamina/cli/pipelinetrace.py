"""A run of a pipeline as one trace: a span for the run, one for each step that began; builds of a step's docker service hang below the step's. A
span says names as the file has them, numbers and words of ours: no variable, no output, no sentence of an error."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from lamina.cli.settings import Settings
from lamina.cli.shown import tracer_of
from lamina.pipelines.show import visible

if TYPE_CHECKING:
    from lamina.cli.dockerservice import DockerServices
    from lamina.engine.tracing.otlp import Span, Value
    from lamina.engine.tracing.tracer import Tracer
    from lamina.pipelines.run.around import DockerService, StartDocker, StepResult
    from lamina.pipelines.run.history import RunRecord

PARENT = "LAMINA_TRACEPARENT"  # for the engine of a step: the span that its builds belong below


class RunTrace:
    """`parent_of` is asked while steps run, from any thread; `send` once, at the end."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._trace = tracer.asked.trace or os.urandom(16).hex()
        self._id = os.urandom(8).hex()
        self._salt = os.urandom(8)

    def below_steps(self, services: DockerServices) -> StartDocker:
        """`services.start`, whose engines are told what their builds belong below."""

        def start(name: str, root: Path | None, log: Path, clone: Path, memory: int, /) -> DockerService:
            return services.start(name, root, log, clone, memory, {PARENT: self.parent_of(name)})

        return start

    def parent_of(self, service: str) -> str:
        """The traceparent for the docker service of this name, which is its step's."""
        return f"00-{self._trace}-{self._span_of(service)}-01"

    def _span_of(self, service: str) -> str:
        """The same each time: the step's span is written when it has ended, its engine asks when it begins."""
        return hashlib.blake2b(service.encode(), key=self._salt, digest_size=8).hexdigest()

    def send(self, record: RunRecord) -> None:
        self._tracer.send(self.spans(record))

    def spans(self, record: RunRecord) -> list[Span]:
        from lamina.engine.tracing.otlp import Span

        outcome = "cancelled" if record.interrupted else "passed" if record.passed else "failed"
        attributes: dict[str, Value] = {
            "lamina.pipeline": record.pipeline,
            "lamina.pipeline.run": record.number,
            "lamina.pipeline.commit": record.commit,
            "lamina.pipeline.branch": record.branch,
            "lamina.pipeline.outcome": outcome,
        }
        asked = self._tracer.asked
        start, end = _nano(record.started), _nano(max(record.started, record.ended))
        error = None if record.passed else outcome
        whole = Span(self._trace, self._id, "pipeline", start, end, asked.parent, asked.state, tuple(attributes.items()), error)
        return [whole, *(self._step(step, record.begun, end) for step in record.steps if step.number in record.begun)]

    def _step(self, step: StepResult, begun: Mapping[int, float], last: int) -> Span:
        from lamina.engine.tracing.otlp import Span

        start = _nano(begun[step.number])
        attributes: dict[str, Value] = {"lamina.step.number": step.number, "lamina.step.status": step.status}
        if step.status in ("passed", "failed"):
            attributes["process.exit.code"] = step.exit_code
        if step.caches:
            attributes["lamina.step.caches.hit"] = sum(cache.verdict in ("hit", "shared") for cache in step.caches)
            attributes["lamina.step.caches"] = len(step.caches)
        end = min(max(start, start + int(step.seconds * 10**9)), max(start, last))
        error = step.status if step.status in ("failed", "stopped") else None
        name = visible(step.name) or f"step {step.number}"
        return Span(
            self._trace,
            self._span_of(f"step{step.number}"),
            name,
            start,
            end,
            self._id,
            self._tracer.asked.state,
            tuple(attributes.items()),
            error,
        )


def run_trace(settings: Settings) -> RunTrace | None:
    """None where OTEL_* asks for nothing."""
    found = tracer_of(settings, lambda text: print(f"warning: {text}", file=sys.stderr))
    return None if found is None else RunTrace(found)


def _nano(seconds: float) -> int:
    return int(seconds * 10**9)
