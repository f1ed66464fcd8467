"""How a run is told: outline, lines, timeline."""

from __future__ import annotations

import pytest

from lamina.pipelines.choose import Start
from lamina.pipelines.load import load
from lamina.pipelines.plan import Request, plan
from lamina.pipelines.run.around import StepResult
from lamina.pipelines.run.record import Outlined, outline, summary_of, timeline
from lamina.pipelines.run.testreports import Tests
from lamina.pipelines.variables import Variable

FILE = """
image: "box:$TOKEN"
definitions: {services: {db: {image: pg}}}
pipelines:
  default:
    - step: {name: "a\\e", script: [x], services: [db], caches: [node]}
    - parallel: [{step: {script: [x]}}, {step: {type: pipeline, custom: k, name: child}}]
    - stage: {name: S, steps: [{step: {script: [x]}}, {step: {script: [x]}}]}
  custom: {k: [{step: {name: inner, script: [x]}}]}
"""


def test_an_outline_has_every_step_with_its_column() -> None:
    secret = Variable("TOKEN", "hunter2", secured=True)
    found = outline(plan(load(FILE), Request(Start("branch", "main"), variables=(secret,))))
    assert found[0] == Outlined(1, "a\\x1b", 0, "", "box:$TOKEN", ("node",), ("db",))
    assert [(one.name, one.column, one.stage) for one in found[1:]] == [
        ("Step 2", 1, ""), ("inner", 1, "child"), ("Step 5", 3, "S"), ("Step 6", 4, "S"),
    ]  # fmt: skip


def test_one_line_for_a_step() -> None:
    assert summary_of(StepResult(1, "a", "passed", seconds=1.23)) == "1. a: passed in 1.2 s"
    tests = Tests(2, 10, 1)
    told = summary_of(StepResult(2, "b", "failed", 1, 2.0, reason="exit code 1", tests=tests))
    assert told == "2. b: failed in 2.0 s (exit code 1), tests: 10 passed, 1 failed, from 2 files"


@pytest.mark.parametrize("blocks", [True, False])
def test_a_timeline_has_one_width(blocks: bool) -> None:
    steps = [StepResult(number, f"step {number}", "passed", seconds=0.7 * number, started=100.0 + number) for number in range(1, 9)]
    lines = timeline([*steps, StepResult(9, "not run", "not-run")], 80, blocks=blocks)
    assert len(lines) == 9
    bars = [line.split("|")[1] for line in lines[:-1]]
    assert len({len(bar) for bar in bars}) == 1
    assert bars[0][0] != " "
    assert bars[-1][-1] != " "
    assert all(bar.strip() for bar in bars)
    assert all(len(line) <= 80 for line in lines)


def test_a_timeline_of_steps_that_took_no_time() -> None:
    steps = [StepResult(number, "x" * 50, "passed", seconds=1e-9, started=100.0) for number in (1, 2)]
    for blocks in (True, False):
        assert len(timeline(steps, 20, blocks=blocks)) == 3
    assert timeline(steps[:1]) == []
