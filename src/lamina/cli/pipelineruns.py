"""Runs of pipelines for the dashboard: what `lamina pipeline run` keeps below the store, read again at each request."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from lamina.server.ui.runs import CacheSeen, Log, Run, RunStep

if TYPE_CHECKING:
    from lamina.pipelines.run.around import StepResult
    from lamina.pipelines.run.history import Project, RunRecord
    from lamina.pipelines.run.record import Outlined

_PROJECT = re.compile(r"[0-9a-f]{16}")
_MOST = 100  # runs in the list
_TAIL = 256 << 10  # bytes of a log that are shown


class PipelineRuns:
    """As server.ui.runs.Runs, over the store at `root`."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def last(self) -> list[Run]:
        from lamina.pipelines.run.history import Project

        found = [one for project in Project.all(self._root) for one in self._runs(project, project.title())]
        return sorted(found, key=lambda one: -one.started)[:_MOST]

    def run(self, project: str, number: int) -> Run | None:
        from lamina.pipelines.run.history import Project

        for known in Project.all(self._root):
            if known.folder.name == project:
                record = known.read(number)
                return None if record is None else _run(known, known.title(), record)
        return None

    def logs(self, project: str, number: int, step: int) -> list[Log]:
        folder = self._root / "pipelines" / project / "runs" / str(number) / "logs"
        if not _PROJECT.fullmatch(project):
            return []
        found = [_log(folder / f"{step}.log", "Log")] if (folder / f"{step}.log").exists() else []
        return found + [_log(file, f"Service {file.stem.partition('-')[2]}") for file in sorted(folder.glob(f"{step}-*.log"))]

    def _runs(self, project: Project, title: str) -> Iterator[Run]:
        for number in project.numbers():
            record = project.read(number)
            if record is not None:
                yield _run(project, title, record)


def _run(project: Project, title: str, record: RunRecord) -> Run:
    running = record.passed is None and project.running(record.number)
    outcome = "running" if running else "killed" if record.passed is None else "stopped" if record.interrupted else ""
    outcome = outcome or ("passed" if record.passed else "failed")
    ended = {step.number: step for step in record.steps}
    steps = tuple(_step(one, ended.get(one.number), record.begun.get(one.number, 0.0), running=running) for one in record.outline)
    last = max((step.started + step.seconds for step in record.steps), default=record.started)
    return Run(
        project=project.folder.name,
        title=title,
        number=record.number,
        pipeline=record.pipeline,
        outcome=outcome,
        started=record.started,
        seconds=max(0.0, (record.ended or last) - record.started),
        commit=record.commit,
        branch=record.branch,
        reason=record.reason,
        rerun_of=record.rerun_of,
        steps=steps,
    )


def _step(one: Outlined, ended: StepResult | None, begun: float, *, running: bool) -> RunStep:
    if ended is None:
        status = ("running" if begun else "waiting") if running else ("killed" if begun else "not-run")
        return RunStep(one.number, one.name, status, one.column, one.stage, one.image, begun, services=one.services)
    tests = ended.tests
    return RunStep(
        number=one.number,
        name=ended.name,
        status=ended.status,
        column=one.column,
        stage=one.stage,
        image=ended.image or one.image,
        started=ended.started,
        seconds=ended.seconds,
        reason=ended.reason,
        services=one.services,
        caches=tuple(CacheSeen(cache.name, cache.verdict, cache.reason, cache.saved) for cache in ended.caches),
        tests=tests.words() if tests is not None else "",
        failures=tuple((f"{f.suite}.{f.name}" if f.suite else f.name, f.text) for f in tests.failures) if tests is not None else (),
    )


def _log(file: Path, name: str) -> Log:
    from lamina.pipelines.run.log import shown

    size = file.stat().st_size
    with open(file, "rb") as opened:
        opened.seek(max(0, size - _TAIL))
        lines = opened.read(_TAIL).split(b"\n")
    if size > _TAIL:
        lines = lines[1:]
    text = "\n".join(re.sub(r"\x1b\[[0-9;]*m", "", shown(line)) for line in lines)
    return Log(name, text.rstrip("\n"), max(0, size - _TAIL))
