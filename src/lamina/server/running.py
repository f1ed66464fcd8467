"""Builds that run now, for the dashboard: what each step does, said by the engine's own events. In memory, bounded, read as a copy: nobody who
looks holds a build up."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from lamina.engine.request import ListedStep, Notice, ProgressEvent, StepEnded, StepOutput, StepStarted

if TYPE_CHECKING:
    from lamina.engine.engine import Engine
    from lamina.engine.request import BuildRequest, BuildResult
    from lamina.engine.tracing.tracer import Tracer
    from lamina.solver.cancel import CancelToken

LOG_LIMIT = 32 << 10  # bytes kept of a step's output: the last ones
BUILD_LIMIT = 512 << 10  # of all steps of a build; a step whose turn is over gives way
_ENDED = 100  # ended builds whose address goes on leading to the kept one
_NOTICES = 50


class LiveStep(msgspec.Struct, frozen=True):
    """`state`: waiting, running, or the verdict. `log`: the end of its output, `left_out` bytes before it. `started` in seconds since the epoch.
    `inputs`: the indexes of the build's steps that it stands on."""

    stage: str
    line: int
    text: str
    state: str = "waiting"
    reason: str = ""
    started: float = 0.0
    seconds: float = 0.0
    saved: float = 0.0
    error: str = ""
    log: bytes = b""
    left_out: int = 0
    inputs: tuple[int, ...] = ()


class LiveBuild(msgspec.Struct, frozen=True):
    """A build as it was when it was asked for. `kept`: under which id the store has it, once it ended. `client`: who asked, as "docker build"."""

    id: str
    title: str
    client: str
    started: float
    steps: tuple[LiveStep, ...] = ()
    notices: tuple[str, ...] = ()
    ended: bool = False
    kept: str = ""
    error: str = ""


class Running:
    """One build. `listed` and `report` are an engine's callbacks and may come from any thread."""

    def __init__(self, identifier: str, title: str, client: str, now: Callable[[], float]) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._build = LiveBuild(identifier, title, client, now())
        self._before: list[LiveStep] = []  # of the platforms that were built first
        self._steps: dict[int, LiveStep] = {}
        self._logs: OrderedDict[int, bytearray] = OrderedDict()  # the one that spoke last is the last
        self._cut: dict[int, int] = {}
        self._platform = ""

    def snapshot(self) -> LiveBuild:
        with self._lock:
            return msgspec.structs.replace(self._build, steps=(*self._before, *self._told()))

    def _told(self) -> list[LiveStep]:
        return [
            msgspec.structs.replace(step, log=bytes(self._logs.get(number, b"")), left_out=self._cut.get(number, 0))
            for number, step in self._steps.items()
        ]

    def listed(self, steps: tuple[ListedStep, ...]) -> None:
        with self._lock:
            self._before += self._told()
            self._steps, self._logs, self._cut = {}, OrderedDict(), {}
            for step, before in _with_inputs(steps, len(self._before)):
                self._steps[step.number] = LiveStep(f"{self._platform}{step.stage_name or step.stage}", step.line, step.text, inputs=before)

    def report(self, event: ProgressEvent) -> None:
        with self._lock:
            match event:
                case StepStarted():
                    self._change(event.id, state="running", started=self._now())
                case StepOutput():
                    self._say(event.id, event.data)
                case StepEnded():
                    known = self._steps.get(event.id)
                    self._change(
                        event.id,
                        state=event.verdict,
                        started=(known.started if known is not None else 0.0) or max(0.0, self._now() - event.seconds),
                        reason=event.reason.message,
                        seconds=event.seconds,
                        saved=event.saved,
                        error=event.error or "",
                    )
                case Notice(_, text, "platform"):
                    self._platform = text.removeprefix("platform ") + " "
                case Notice():
                    if len(self._build.notices) < _NOTICES:
                        self._build = msgspec.structs.replace(self._build, notices=(*self._build.notices, f"{event.level}: {event.text}"))

    def _change(self, number: int, **changes: object) -> None:
        if number in self._steps:
            self._steps[number] = msgspec.structs.replace(self._steps[number], **changes)

    def _say(self, number: int, data: bytes) -> None:
        log = self._logs.setdefault(number, bytearray())
        self._logs.move_to_end(number)
        log += data
        self._shorten(number, LOG_LIMIT)
        while sum(map(len, self._logs.values())) > BUILD_LIMIT:
            oldest = next(iter(self._logs))
            self._shorten(oldest, 0)
            del self._logs[oldest]

    def _shorten(self, number: int, limit: int) -> None:
        log = self._logs[number]
        over = len(log) - limit
        if over > 0:
            del log[:over]
            self._cut[number] = self._cut.get(number, 0) + over

    def end(self, kept: str, error: str) -> None:
        with self._lock:
            # What the store has is shown from there; of what it has not, the steps stay and their output goes.
            steps = [] if kept else [msgspec.structs.replace(step, log=b"", left_out=0) for step in (*self._before, *self._told())]
            self._before, self._steps, self._logs, self._cut = steps, {}, OrderedDict(), {}
            self._build = msgspec.structs.replace(self._build, ended=True, kept=kept, error=error)


def _with_inputs(steps: tuple[ListedStep, ...], first: int) -> Iterator[tuple[ListedStep, tuple[int, ...]]]:
    """Each step that does something, and which of them it stands on, counted from `first`: through instructions that only say something."""
    from lamina.server.ui.steps import Step, inputs

    found = inputs([Step(step.stage, step.text, "", stage_name=step.stage_name) for step in steps])
    behind: list[tuple[int, ...]] = []
    places: dict[int, int] = {}
    for step, before in zip(steps, found):
        own = tuple(dict.fromkeys(one for index in before for one in behind[index]))
        if not step.number:
            behind.append(own)
            continue
        if step.number not in places:  # equal steps of two stages are one
            places[step.number] = first + len(places)
            yield step, own
        behind.append((places[step.number],))


class Journal:
    """Thread-safe: the builds of one engine that run, and where the last ended ones are kept."""

    def __init__(self, now: Callable[[], float], tracer: Tracer | None = None) -> None:
        self._now = now
        self._tracer = tracer
        self._lock = threading.Lock()
        self._running: dict[str, Running] = {}
        self._ended: OrderedDict[str, Running] = OrderedDict()

    def running(self) -> list[LiveBuild]:
        """Newest first."""
        with self._lock:
            found = list(self._running.values())
        return [build for build in (one.snapshot() for one in reversed(found)) if not build.ended]

    def get(self, identifier: str) -> LiveBuild | None:
        """One that runs, or one of the last that ended."""
        with self._lock:
            found = self._running.get(identifier) or self._ended.get(identifier)
        return None if found is None else found.snapshot()

    def pass_on(self, spans: bytes) -> None:
        """Spans of a client's own (OTLP's protobuf), for the collector of this engine, if there is one."""
        if self._tracer is not None:
            self._tracer.pass_on(spans)

    @contextlib.contextmanager
    def entry(self, title: str, client: str) -> Iterator[Running]:
        """A build from here to the end of the block; whoever builds says by `Running.end` how it ended."""
        one = Running(os.urandom(8).hex(), title, client, self._now)
        identifier = one.snapshot().id
        with self._lock:
            self._running[identifier] = one
        try:
            yield one
        finally:
            with self._lock:
                del self._running[identifier]
                self._ended[identifier] = one
                while len(self._ended) > _ENDED:
                    self._ended.popitem(last=False)

    def build(
        self,
        engine: Engine,
        request: BuildRequest,
        report: Callable[[ProgressEvent], None],
        cancel: CancelToken,
        client: str,
        traced: tuple[str, str] = ("", ""),
    ) -> BuildResult:
        """`engine.build`, shown while it runs. `engine.on_steps` and `report` are called as before. `traced`: the client's traceparent and tracestate."""
        from lamina.server.errors import message_of
        from lamina.server.ui.words import familiar

        title = ", ".join(familiar(tag) for tag in request.tags) or request.target or request.dockerfile_name
        told = engine.on_steps
        with self.entry(title, client) as one:

            def listed(steps: tuple[ListedStep, ...]) -> None:
                one.listed(steps)
                if told is not None:
                    told(steps)

            def seen(event: ProgressEvent) -> None:
                one.report(event)
                report(event)

            engine.on_steps = listed
            try:
                tracer = self._tracer.below(*traced) if self._tracer is not None else None
                begin = engine.build if tracer is None else partial(tracer.build, engine)
                result = begin(request, seen, cancel)
            except BaseException as error:
                kept = engine.failed.build_id if engine.failed is not None else ""
                one.end(kept, message_of(error) if isinstance(error, Exception) else "cancelled")
                raise
            finally:
                engine.on_steps = told
            one.end(result.build_id, "")
            return result
