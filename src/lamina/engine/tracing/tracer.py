"""One build as one trace: a span for the build and one for each step. A span says codes, names and numbers: never a value of an argument, an
environment or a secret, so no sentence of a reason or an error, and an instruction as it stands in the file, not as it was expanded."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

import msgspec

from lamina.diagnostics.errors import LaminaError
from lamina.engine.request import ListedStep, Notice, ProgressEvent, StepEnded, StepStarted
from lamina.engine.tracing.asked import Asked, BadTracing, asked, below
from lamina.engine.tracing.otlp import Span, Value, as_json, as_protobuf
from lamina.engine.tracing.sending import send

if TYPE_CHECKING:
    from lamina.engine.engine import Engine
    from lamina.engine.request import BuildRequest, BuildResult
    from lamina.solver.cancel import CancelToken

_CREDENTIALS = re.compile(r"://[^/@\s]*@")
_EXIT = re.compile(r"ended with exit code (\d+)$")
_NAME = 120  # characters of an instruction in a span's name


class Tracer(msgspec.Struct, frozen=True):
    """`warn` gets one line when a trace could not be sent. `wait`: a build ends when its trace was sent (or `asked.seconds` later); else nobody waits."""

    asked: Asked
    warn: Callable[[str], None]
    wait: bool = True

    def build(
        self, engine: Engine, request: BuildRequest, report: Callable[[ProgressEvent], None], cancel: CancelToken | None = None
    ) -> BuildResult:
        """`engine.build`, traced. `engine.on_steps` and `report` are called as before; what the build raises is raised."""
        trace = Trace(self.asked, request, engine.now)
        told = engine.on_steps

        def listed(steps: tuple[ListedStep, ...]) -> None:
            trace.listed(steps)
            if told is not None:
                told(steps)

        def seen(event: ProgressEvent) -> None:
            trace.report(event)
            report(event)

        engine.on_steps = listed
        try:
            result = engine.build(request, seen, cancel)
        except BaseException as error:
            trace.end(engine.failed.build_id if engine.failed is not None else "", error)
            raise
        else:
            trace.end(result.build_id, None)
            return result
        finally:
            engine.on_steps = told
            self.send(trace.spans())

    def below(self, parent: str, state: str = "") -> Tracer | None:
        """For what a client asks for: its traceparent and tracestate, "" without. None: the client keeps no trace of it."""
        found = below(self.asked, parent, state)
        return None if found is None else msgspec.structs.replace(self, asked=found)

    def send(self, spans: Iterable[Span]) -> None:
        """Never raises."""
        encode = as_json if self.asked.protocol == "http/json" else as_protobuf
        self._post(encode(self.asked.resource, spans))

    def pass_on(self, request: bytes) -> None:
        """Somebody else's spans, an ExportTraceServiceRequest: in protobuf the collector takes it as it is, in JSON nobody makes it anew. Never raises."""
        if self.asked.protocol == "http/protobuf":
            self._post(request)

    def _post(self, body: bytes) -> None:
        try:
            send(self.asked, body, self.warn, wait=self.wait)
        except Exception as error:  # a machine out of threads, a bug of ours: the build is more than its trace
            self.warn(f"the trace was not sent: {type(error).__name__}")


def tracer(environment: Mapping[str, str], warn: Callable[[str], None], *, wait: bool = True) -> Tracer | None:
    """None where no trace is wanted, or (with a line to `warn`) where it is wanted in a way that is not known."""
    try:
        found = asked(environment)
    except BadTracing as error:
        warn(f"no trace is sent: {error.message}")
        return None
    return None if found is None else Tracer(found, warn, wait)


class _Open(msgspec.Struct):
    """A step so far; times in nanoseconds, 0 where it has not come to that."""

    listed: ListedStep
    platform: str
    start: int = 0
    end: int = 0
    ended: StepEnded | None = None


class Trace:
    """Collects while a build runs. The callbacks come from any thread, for one step one after the other; each does one assignment."""

    def __init__(self, asked: Asked, request: BuildRequest, now: Callable[[], float]) -> None:
        self._asked = asked
        self._request = request
        self._now = now
        self._trace = asked.trace or os.urandom(16).hex()
        self._id = os.urandom(8).hex()
        self._steps: dict[int, _Open] = {}
        self._before: list[_Open] = []  # of the platforms that were built first
        self._platform = ""
        self._start = self._nano()
        self._end = self._start
        self._build = ""
        self._error: str | None = None

    def _nano(self) -> int:
        return int(self._now() * 10**9)

    def listed(self, steps: tuple[ListedStep, ...]) -> None:
        self._before += self._steps.values()
        self._steps = {step.number: _Open(step, self._platform) for step in steps if step.number and step.needed}

    def report(self, event: ProgressEvent) -> None:
        match event:
            case StepStarted() if event.id in self._steps:
                self._steps[event.id].start = self._nano()
            case StepEnded() if event.id in self._steps:
                step = self._steps[event.id]
                step.end, step.ended = self._nano(), event
            case Notice(_, text, "platform"):
                self._platform = text.removeprefix("platform ")

    def end(self, build: str, error: BaseException | None) -> None:
        self._end, self._build = self._nano(), build
        if error is not None:
            self._error = error.code if isinstance(error, LaminaError) else "cancelled" if isinstance(error, KeyboardInterrupt) else "error"

    def spans(self) -> list[Span]:
        steps = [step for step in (*self._before, *self._steps.values()) if step.start or step.end]
        return [self._whole(steps), *(self._step(step) for step in steps)]

    def _whole(self, steps: list[_Open]) -> Span:
        verdicts = [step.ended.verdict for step in steps if step.ended is not None]
        attributes: dict[str, Value] = {
            "lamina.build.id": self._build,
            "lamina.build.dockerfile": self._request.dockerfile_name,
            "lamina.build.outcome": "ok" if self._error is None else "cancelled" if self._error == "cancelled" else "failed",
            "lamina.build.steps.hit": verdicts.count("hit"),
            "lamina.build.steps.ran": verdicts.count("ran"),
            "lamina.build.saved_seconds": float(sum(step.ended.saved for step in steps if step.ended is not None)),
        }
        if self._request.target:
            attributes["lamina.build.target"] = self._request.target
        if self._request.tags:
            attributes["lamina.build.tags"] = ",".join(self._request.tags)
        return Span(
            self._trace,
            self._id,
            "build",
            self._start,
            self._end,
            self._asked.parent,
            self._asked.state,
            tuple(attributes.items()),
            self._error,
        )

    def _step(self, step: _Open) -> Span:
        listed, ended = step.listed, step.ended
        end = step.end or self._end
        start = step.start or end - int((ended.seconds if ended is not None else 0.0) * 10**9)
        attributes: dict[str, Value] = {
            "lamina.step.instruction": listed.kind,
            "lamina.step.stage": listed.stage_name or str(listed.stage),
            "lamina.step.line": listed.line,
            "lamina.step.verdict": ended.verdict if ended is not None else "cancelled",
        }
        if step.platform:
            attributes["lamina.step.platform"] = step.platform
        error = None
        if ended is not None:
            attributes |= {"lamina.step.reason": ended.reason.code, "lamina.step.saved_seconds": float(ended.saved)}
            if ended.verdict == "failed":
                error = "failed"
                if found := _EXIT.search(ended.error or ""):
                    error = f"exit code {found[1]}"
                    attributes["process.exit.code"] = int(found[1])
        return Span(
            self._trace,
            os.urandom(8).hex(),
            _name(listed.text),
            min(start, end),
            end,
            self._id,
            self._asked.state,
            tuple(attributes.items()),
            error,
        )


def _name(text: str) -> str:
    """The first line of an instruction, without credentials in an address."""
    first = _CREDENTIALS.sub("://", " ".join(text.split("\n", 1)[0].split()))
    return first if len(first) <= _NAME else first[: _NAME - 1] + "…"
