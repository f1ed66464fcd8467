"""A build of the command line on the dashboard of whoever serves the same store. A build that ends at once pays for a thread that never woke."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lamina.engine.request import ListedStep, Notice, ProgressEvent, StepOutput

if TYPE_CHECKING:
    from lamina.cli.settings import Settings
    from lamina.engine.engine import Engine
    from lamina.engine.request import BuildRequest, BuildResult, Report
    from lamina.engine.tracing.tracer import Tracer
    from lamina.server.running import Running

_FIRST = 0.7  # seconds: what ends before is not shown
_EVERY = 1.0  # as often as the page is loaded again
_WAITING = 1 << 20  # bytes of output that wait to be shown; more is left out


class Shown:
    """`report` may come from any thread and only queues. The page's address is that of the build's id."""

    def __init__(self, engine: Engine, title: str, client: str = "lamina build", *, first: float = _FIRST, every: float = _EVERY) -> None:
        self._engine = engine
        self._title = title
        self._client = client
        self._first = first
        self._every = every
        self._queue: deque[tuple[float, tuple[ListedStep, ...] | ProgressEvent]] = deque()
        self._bytes = 0
        self._ended = threading.Event()

    def report(self, event: ProgressEvent) -> None:
        if isinstance(event, StepOutput):
            if self._bytes > _WAITING:
                return
            self._bytes += len(event.data)
        self._queue.append((self._engine.now(), event))

    @contextmanager
    def showing(self) -> Iterator[None]:
        """One build of the engine inside the block."""
        began = self._engine.now()
        self._engine.on_steps = lambda steps: self._queue.append((self._engine.now(), steps))
        thread = threading.Thread(target=self._write, args=(began,), daemon=True)
        try:
            thread.start()
        except RuntimeError:  # a machine out of threads: the build is more than its page
            self._bytes = _WAITING + 1
            yield
            return
        try:
            yield
        finally:
            self._ended.set()
            thread.join()

    def _write(self, began: float) -> None:
        if self._ended.wait(self._first):
            return
        from lamina.server.elsewhere import hide, show
        from lamina.server.running import Running

        clock = [began]
        one = Running(self._engine.build_id, self._title, self._client, lambda: clock[0])
        try:
            with contextlib.suppress(OSError):  # a full disk has its own say in the build
                show(self._engine.store, one.snapshot())
                while True:
                    if self._taken(one, clock):
                        show(self._engine.store, one.snapshot())
                    if self._ended.wait(self._every):
                        break
        finally:
            hide(self._engine.store)

    def _taken(self, one: Running, clock: list[float]) -> bool:
        """Whether there was something new."""
        taken = False
        while self._queue:
            clock[0], event = self._queue.popleft()
            taken = True
            if isinstance(event, tuple):
                one.listed(event)
            else:
                one.report(event)
        self._bytes = 0
        return taken


def watching(engine: Engine, settings: Settings, client: str) -> Callable[[BuildRequest, Report], BuildResult]:
    """`engine.build`, shown on the dashboard and sent as a trace where OTEL_* names a collector."""

    def build(request: BuildRequest, report: Report) -> BuildResult:
        from lamina.oci.reference import Reference

        shown = Shown(engine, ", ".join(Reference.parse(tag).familiar for tag in request.tags) or request.dockerfile_name, client)

        def seen(event: ProgressEvent) -> None:
            shown.report(event)
            report(event)

        tracer = tracer_of(settings, lambda text: report(Notice("warning", text, "trace")))
        with shown.showing():
            return engine.build(request, seen) if tracer is None else tracer.build(engine, request, seen)

    return build


def tracer_of(settings: Settings, warn: Callable[[str], None]) -> Tracer | None:
    if not any(name.startswith("OTEL_") for name in settings.environment):
        return None
    from lamina.engine.tracing.tracer import tracer

    return tracer(settings.environment, warn)
