"""A build's progress as BuildKit's status messages: what its clients draw. Kept until it was read, so that who asks late misses nothing."""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Callable, Iterator
from types import TracebackType

from lamina.engine.request import ListedStep, Notice, ProgressEvent, StepEnded, StepOutput, StepStarted
from lamina.server.buildkit.messages import StatusResponse, Timestamp, Vertex, VertexLog, VertexStatus
from lamina.server.dockerfiles import shown_command
from lamina.server.errors import message_of

_LOG_LIMIT = 2 << 20  # bytes of one step's output that clients are shown; BuildKit's number
_STDOUT, _STDERR = 1, 2
_COUNTED = ("FROM", "RUN", "COPY", "ADD", "WORKDIR")


class Progress:
    """Thread-safe. `report` and `listed` are an engine's callbacks; the others are for what happens around it."""

    def __init__(self, now_nano: Callable[[], int]) -> None:
        self._now_nano = now_nano
        self._salt = os.urandom(8).hex()
        self._changed = threading.Condition()
        self._all: list[StatusResponse] = []
        self._closed = False
        self._number = 0
        self._vertices: dict[int, Vertex] = {}  # number of a step -> what clients know of it
        self._steps: dict[int, ListedStep] = {}
        self._listed: tuple[ListedStep, ...] = ()
        self._logged: dict[str, int] = {}
        self._notes: Task | None = None
        self._platform = ""  # of a build for several
        self.failed_step: ListedStep | None = None

    def read(self) -> Iterator[StatusResponse]:
        """Everything from the beginning (of a build that ended and was read: without output), several messages as one; waits, ends with the build."""
        at = 0
        while True:
            with self._changed:
                self._changed.wait_for(lambda at=at: self._closed or len(self._all) > at)  # type: ignore[misc]  # the default binds the value
                rows, at = self._all[at:], len(self._all)
            if not rows:
                self._forget_logs()
                return
            yield StatusResponse(
                vertexes=[x for row in rows for x in row.vertexes],
                statuses=[x for row in rows for x in row.statuses],
                logs=[x for row in rows for x in row.logs],
            )

    def _forget_logs(self) -> None:
        """Somebody has read everything: who comes now gets the steps without their output."""
        with self._changed:
            for row in self._all:
                row.logs = []

    def close(self) -> None:
        """The build has ended. What is still open is shown as ended."""
        if self._notes is not None:
            self._notes.end()
        with self._changed:
            for vertex in self._vertices.values():
                if vertex.started is not None and vertex.completed is None:
                    vertex.completed = self.now()
                    vertex.error = "context canceled"
                    self._all.append(StatusResponse(vertexes=[vertex]))
            self._closed = True
            self._changed.notify_all()

    def task(self, name: str) -> Task:
        """Something with a line of its own that is no step, as a context manager."""
        return Task(self, name)

    def now(self) -> Timestamp:
        seconds, nanos = divmod(self._now_nano(), 10**9)
        return Timestamp(seconds, nanos)

    def digest(self, name: str) -> str:
        with self._changed:
            self._number += 1
            return "sha256:" + hashlib.sha256(f"{self._salt} {self._number} {name}".encode("utf-8", "replace")).hexdigest()

    def put(self, *, vertex: Vertex | None = None, status: VertexStatus | None = None, log: VertexLog | None = None) -> None:
        row = StatusResponse(vertexes=[_copy(vertex)] if vertex else [], statuses=[status] if status else [], logs=[log] if log else [])
        with self._changed:
            if not self._closed:
                self._all.append(row)
                self._changed.notify_all()

    # An engine's callbacks

    def listed(self, steps: tuple[ListedStep, ...]) -> None:
        self._steps = {step.number: step for step in steps if step.number}
        self._vertices = {}
        self._listed = steps
        for step in steps:
            if step.kind == "FROM" and step.needed:
                total = sum(other.stage == step.stage and other.kind in _COUNTED for other in steps)
                words = [word for word in step.text.split()[1:] if not word.startswith("--")]
                if words and any(words[0].lower() in (s.stage_name, str(s.stage)) and s.stage < step.stage for s in steps):
                    continue
                name = f"[{self._label(step)}1/{total}] FROM {words[0] if words else ''}"
                now = self.now()
                self.put(vertex=Vertex(digest=self.digest(name), name=name, started=now, completed=now))

    def report(self, event: ProgressEvent) -> None:
        match event:
            case StepStarted():
                vertex = self._vertex(event.id, event.name)
                vertex.started = self.now()
                self.put(vertex=vertex)
            case StepOutput():
                self.log(self._vertex(event.id, "").digest, event.data, _STDOUT if event.stream == "stdout" else _STDERR)
            case StepEnded():
                self._ended(event)
            case Notice(_, text, "platform"):
                self._platform = text.removeprefix("platform ") + " "
            case Notice():
                if self._notes is None:
                    self._notes = self.task("[internal] notes")
                self.log(self._notes.digest, f"{event.level}: {event.text}\n".encode("utf-8", "replace"), _STDERR)

    def refuse(self, line: int, error: str) -> None:
        """The step at this line cannot even be looked up: it is shown as failed."""
        step = next((step for step in self._listed if step.line == line and step.number), None)
        if step is None or self.failed_step is not None:
            return
        self.failed_step = step
        same = [other for other in self._listed if other.stage == step.stage and other.kind in _COUNTED]
        label = f"{self._label(step)}{same.index(step) + 1}/{len(same)}" if step in same else self._label(step).strip()
        name = f"[{label}] {step.text}" if label else step.text
        now = self.now()
        self.put(vertex=Vertex(self.digest(name), name=name, started=now, completed=now, error=error))

    def _label(self, step: ListedStep) -> str:
        """`stage ` before the numbers of a step; nothing where there is one stage only."""
        if step.stage_name:
            return f"{self._platform}{step.stage_name} "
        return self._platform + (f"stage-{step.stage} " if len({other.stage for other in self._listed}) > 1 else "")

    def _ended(self, event: StepEnded) -> None:
        vertex = self._vertex(event.id, event.name)
        if event.verdict == "hit":
            vertex.cached = True
        elif event.reason.message:
            self.log(vertex.digest, f"lamina: {event.reason.message}\n".encode("utf-8", "replace"), _STDERR)
        if event.verdict == "failed":
            self.failed_step = self._steps.get(event.id)
            vertex.error = _in_buildkits_words(event.error or "failed", self.failed_step)
        vertex.started = vertex.started or self.now()
        vertex.completed = self.now()
        self.put(vertex=vertex)

    def _vertex(self, number: int, name: str) -> Vertex:
        with self._changed:
            found = self._vertices.get(number)
        if found is None:
            shown = f"[{self._platform}{name[1:]}" if name.startswith("[") else name
            found = Vertex(digest=self.digest(shown), name=shown)
            with self._changed:
                self._vertices[number] = found
        return found

    def log(self, digest: str, data: bytes, stream: int = _STDERR) -> None:
        with self._changed:
            before = self._logged.get(digest, 0)
            self._logged[digest] = before + len(data)
        if before >= _LOG_LIMIT:
            return
        if before + len(data) >= _LOG_LIMIT:
            data = data[: _LOG_LIMIT - before] + b"\n[output clipped, log limit 2MiB reached]\n"
        self.put(log=VertexLog(digest, self.now(), stream, data))


class Task:
    """A line in the client's display: [internal] load build context. An error of the block is shown in it."""

    def __init__(self, progress: Progress, name: str) -> None:
        self._progress = progress
        self._vertex = Vertex(digest=progress.digest(name), name=name, started=progress.now())
        self._told: dict[str, VertexStatus] = {}
        self.digest = self._vertex.digest
        progress.put(vertex=self._vertex)

    def __enter__(self) -> Task:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.end("" if error is None else message_of(error) if isinstance(error, Exception) else "context canceled")

    def end(self, error: str = "") -> None:
        if self._vertex.completed is None:
            self._vertex.completed = self._progress.now()
            self._vertex.error = error
            self._progress.put(vertex=self._vertex)

    def doing(self, what: str, current: int = 0, total: int = 0, *, done: bool = False) -> None:
        """A line below it: "transferring context: 2.1MB"; `done` ends it."""
        now = self._progress.now()
        started = self._told[what].started if what in self._told else now
        status = VertexStatus(what, self.digest, what, current, total, now, started, now if done else None)
        self._told[what] = status
        self._progress.put(status=status)


def run_failed(step: ListedStep, exit_code: int | str) -> str:
    """What BuildKit says of a RUN that failed."""
    return f'process "{shown_command(step.text)}" did not complete successfully: exit code: {exit_code}'


def _in_buildkits_words(error: str, step: ListedStep | None) -> str:
    found = re.search(r"ended with exit code (\d+)$", error)
    return run_failed(step, found[1]) if step is not None and step.kind == "RUN" and found else error


def _copy(vertex: Vertex) -> Vertex:
    return Vertex(vertex.digest, list(vertex.inputs), vertex.name, vertex.cached, vertex.started, vertex.completed, vertex.error)
