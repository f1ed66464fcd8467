"""What the dashboard is given of the runs that lie in a store."""

from __future__ import annotations

import os
from pathlib import Path

from lamina.cli.pipelineruns import PipelineRuns
from lamina.pipelines.caches.keeping import CacheUse
from lamina.pipelines.run.around import StepResult
from lamina.pipelines.run.history import Project, RunRecord
from lamina.pipelines.run.record import Outlined
from lamina.pipelines.run.testreports import Failure, Tests

OUTLINE = tuple(Outlined(number, f"step {number}", number, image="box:1") for number in (1, 2, 3))
DONE = StepResult(
    1, "step 1", "passed", 0, 2.0, 100.0, image="box:1", caches=(CacheUse("node", "hit", "why", "saved"),),
    tests=Tests(1, 2, 1, failures=(Failure("S", "t", 0.1, "text"), Failure("", "u", 0.1, ""))),
)  # fmt: skip


def begin(root: Path, title: str = "shop") -> tuple[Project, int]:
    project = Project(root, title)
    number, _ = project.begin(title)
    project.write(RunRecord(number, "default", "c0ffee", 100.0, (DONE,), outline=OUTLINE, begun={1: 100.0, 2: 103.0}))
    return project, number


def test_a_run_that_goes_on_and_one_that_was_killed(tmp_path: Path) -> None:
    project, number = begin(tmp_path)
    runs = PipelineRuns(tmp_path)
    held = project.lock(number)
    run = runs.run(project.folder.name, number)
    assert run is not None
    assert (run.outcome, [step.status for step in run.steps]) == ("running", ["passed", "running", "waiting"])
    assert run.steps[1].started == 103.0
    os.close(held)
    run = runs.run(project.folder.name, number)
    assert run is not None
    assert (run.title, run.outcome, [step.status for step in run.steps]) == ("shop", "killed", ["passed", "killed", "not-run"])
    first = run.steps[0]
    assert (first.caches[0].reason, first.tests, first.failures) == ("why", "2 passed, 1 failed, from 1 file", (("S.t", "text"), ("u", "")))


def test_runs_of_all_repositories_newest_first(tmp_path: Path) -> None:
    assert PipelineRuns(tmp_path).last() == []
    begin(tmp_path)
    project, number = begin(tmp_path, "other")
    project.write(RunRecord(number, "default", "", 200.0, passed=True, ended=205.0))
    (tmp_path / "pipelines" / "no project").mkdir()
    found = PipelineRuns(tmp_path).last()
    assert [(run.title, run.outcome, run.seconds) for run in found] == [("other", "passed", 5.0), ("shop", "killed", 2.0)]


def test_logs_end_where_the_page_ends(tmp_path: Path) -> None:
    project, number = begin(tmp_path)
    logs = project.place(number) / "logs"
    (logs / "2.log").write_bytes(b"old line\n" * 50_000 + b"a \x1b[31mred\x1b[0m \x1b[2J end\n")
    (logs / "2-db.log").write_text("service\n")
    (logs / "22.log").write_text("another step\n")
    runs = PipelineRuns(tmp_path)
    log, service = runs.logs(project.folder.name, number, 2)
    assert log.text.endswith("old line\na red \\x1b[2J end")
    assert log.text.startswith("old line\n")
    assert log.left_out == (logs / "2.log").stat().st_size - (256 << 10)
    assert (service.name, service.text) == ("Service db", "service")
    assert runs.logs("../" + project.folder.name, number, 2) == []
    assert runs.run("..", number) is None
