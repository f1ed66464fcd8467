"""What is told of a step that failed: its error in the report, and at the next attempt that it had failed."""

from __future__ import annotations

import json

from lamina.testing.project import Project


def test_a_step_that_failed(project: Project) -> None:
    project.dockerfile("FROM base:1\nCOPY a /a\nRUN test -e /b\n")
    project.write({"a": "1"})
    first = project.build(ok=False)
    assert first.row("RUN").code == "first-build"
    (failed,) = [step for step in first.report["steps"] if step.get("failed")]
    assert failed["error"] == "RUN test -e /b ended with exit code 1"
    plan = json.loads(project.run("plan", "--json", ".").stdout)
    assert plan["steps"][-1]["reason"]["code"] == "failed-before"
    again = project.build(ok=False).row("RUN")
    assert again.code == "failed-before"
    assert again.message.startswith("the last attempt failed")
    project.write({"a": "2"})
    assert project.build(ok=False).row("RUN").code != "failed-before", "something has changed"
    assert project.build("--no-cache", ok=False).row("RUN").code == "forced"


def test_warnings_of_checks_are_counted(project: Project) -> None:
    project.dockerfile("FROM base:1\nENTRYPOINT sh -c true\nCOPY a /a\n")
    project.write({"a": "1"})
    line = "1 warning found (use --check to expand)"
    assert line in project.build().stderr
    project.run("build", ".")  # finds everything: the next one is answered from its receipt
    assert line in project.run("build", ".").stderr.decode()
    project.write({"a": "2"})
    assert line not in project.build("-q").stderr
    project.dockerfile("# check=skip=JSONArgsRecommended\nFROM base:1\nENTRYPOINT sh -c true\nCOPY a /b\n")
    assert line not in project.build().stderr
