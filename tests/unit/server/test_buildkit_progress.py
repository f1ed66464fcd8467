"""An engine's events as what BuildKit's clients draw."""

from __future__ import annotations

import itertools
import threading

import pytest

from lamina.cache.reason import Reason, Verdict
from lamina.engine.request import ListedStep, Notice, StepEnded, StepOutput, StepStarted
from lamina.server.buildkit import progress as module
from lamina.server.buildkit.messages import StatusResponse, Vertex
from lamina.server.buildkit.progress import Progress


def _progress() -> Progress:
    clock = itertools.count(1_700_000_000 * 10**9, 10**6)
    return Progress(lambda: next(clock))


def _step(number: int, kind: str, text: str, *, needed: bool = True, stage: int = 0, name: str = "") -> ListedStep:
    return ListedStep(stage, name, number + 1, text, kind, needed, number)


def _end(number: int, verdict: Verdict, error: str | None = None) -> StepEnded:
    return StepEnded(number, f"[{number}/9] step", verdict, Reason("first-build", "because"), 0.1, 0.0, error)


def _read(progress: Progress) -> StatusResponse:
    progress.close()
    rows = list(progress.read())
    assert len(rows) == 1
    return rows[0]


def _last(row: StatusResponse) -> dict[str, Vertex]:
    names = {vertex.digest: vertex.name for vertex in row.vertexes}
    return {names[vertex.digest]: vertex for vertex in row.vertexes}


def test_hits_are_cached_and_runs_have_output_and_a_reason() -> None:
    progress = _progress()
    progress.listed((_step(0, "FROM", "FROM --platform=x base:1 AS b"), _step(1, "RUN", "RUN a"), _step(2, "COPY", "COPY b /")))
    progress.report(_end(1, "hit"))
    progress.report(StepStarted(2, "[2/9] step"))
    progress.report(StepOutput(2, "stdout", b"out\n"))
    progress.report(_end(2, "ran"))
    row = _read(progress)
    last = _last(row)
    assert list(last) == ["[1/3] FROM base:1", "[1/9] step", "[2/9] step"]
    assert last["[1/9] step"].cached
    assert not last["[2/9] step"].cached
    assert all(vertex.completed is not None for vertex in last.values())
    assert [(log.stream, log.msg) for log in row.logs] == [(1, b"out\n"), (2, b"lamina: because\n")]


def test_bases_are_shown_once_and_stages_that_begin_with_another_not_at_all() -> None:
    progress = _progress()
    progress.listed(
        (
            _step(0, "FROM", "FROM base:1 AS one", name="one"),
            _step(0, "FROM", "FROM one", stage=1),
            _step(0, "FROM", "FROM unused", needed=False, stage=2),
        )
    )
    assert list(_last(_read(progress))) == ["[one 1/1] FROM base:1"]


def test_a_failed_run_is_told_in_buildkits_words() -> None:
    progress = _progress()
    progress.listed((_step(1, "RUN", "RUN --network=none exit 3"),))
    progress.report(_end(1, "failed", "RUN --network=none exit 3 ended with exit code 3"))
    vertex = _last(_read(progress))["[1/9] step"]
    assert vertex.error == 'process "/bin/sh -c exit 3" did not complete successfully: exit code: 3'
    assert progress.failed_step is not None


def test_a_step_that_cannot_be_looked_up_is_shown_as_failed() -> None:
    progress = _progress()
    progress.listed((_step(0, "FROM", "FROM base:1"), _step(1, "COPY", "COPY nothing /")))
    progress.refuse(2, "no")
    progress.refuse(2, "twice")
    assert _last(_read(progress))["[2/2] COPY nothing /"].error == "no"


def test_what_is_open_at_the_end_is_shown_as_cancelled() -> None:
    progress = _progress()
    progress.report(StepStarted(1, "[1/1] RUN sleep"))
    assert _last(_read(progress))["[1/1] RUN sleep"].error == "context canceled"


def test_tasks_and_notices() -> None:
    progress = _progress()

    def load() -> None:
        with progress.task("[internal] load") as task:
            task.doing("transferring", 5)
            task.doing("transferring", 9, done=True)
            raise OSError(5, "disk")

    with pytest.raises(OSError, match="disk"):
        load()
    progress.report(Notice("warning", "take care"))
    row = _read(progress)
    assert _last(row)["[internal] load"].error == "disk"
    assert [(s.current, s.completed is not None) for s in row.statuses] == [(5, False), (9, True)]
    assert row.statuses[0].started == row.statuses[1].started
    assert [log.msg for log in row.logs] == [b"warning: take care\n"]


def test_output_without_end_is_clipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOG_LIMIT", 10)
    progress = _progress()
    progress.report(StepStarted(1, "x"))
    for _ in range(5):
        progress.report(StepOutput(1, "stdout", b"12345678"))
    text = b"".join(log.msg for log in _read(progress).logs)
    assert text.startswith(b"1234567812\n[output clipped")
    assert len(text) < 100


def test_readers_wait_and_late_ones_get_every_step() -> None:
    progress = _progress()
    seen: list[StatusResponse] = []
    reader = threading.Thread(target=lambda: seen.extend(progress.read()))
    reader.start()
    for number in range(50):
        progress.report(_end(number, "hit"))
    progress.close()
    reader.join(90)
    count = sum(len(row.vertexes) for row in seen)
    assert count == 50
    assert sum(len(row.vertexes) for row in progress.read()) == count


def test_steps_of_several_platforms_are_told_apart() -> None:
    progress = _progress()
    for platform in ("linux/amd64", "linux/arm64"):
        progress.report(Notice("info", f"platform {platform}", "platform"))
        progress.listed((_step(0, "FROM", "FROM base:1"), _step(1, "RUN", "RUN a")))
        progress.report(_end(1, "hit"))
    assert list(_last(_read(progress))) == [
        "[linux/amd64 1/2] FROM base:1",
        "[linux/amd64 1/9] step",
        "[linux/arm64 1/2] FROM base:1",
        "[linux/arm64 1/9] step",
    ]
