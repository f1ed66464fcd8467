"""`lamina pipeline run` for real: busybox images, sandboxes, a git repository of two files."""

from __future__ import annotations

import os
import re
import subprocess
import textwrap
from pathlib import Path

import pytest

from lamina.testing import bases
from lamina.testing.project import Project

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="the rung root is used; the ordinary user has a test of his own"),
    pytest.mark.skipif(bases.why_not() is not None, reason=bases.why_not() or ""),
]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bases.busybox_tar(tmp_path_factory.mktemp("base") / "base.tar")


@pytest.fixture
def project(tmp_path: Path, base: Path) -> Project:
    made = Project(tmp_path / "repo", tmp_path / "store")
    made.folder.mkdir()
    made.write({"README": "hello\n"})
    assert made.run("import", str(base), "box:1").returncode == 0
    git(made, "init", "-q", "-b", "main", ".")
    return made


def git(project: Project, *arguments: str) -> str:
    command = ["git", "-C", str(project.folder), "-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def run(project: Project, pipelines: str | None, *options: str, code: int = 0, commit: bool = True) -> list[str]:
    """The lines of a run over this file."""
    if pipelines is not None:
        project.write({"bitbucket-pipelines.yml": "image: box:1\n" + textwrap.dedent(pipelines)})
    if commit:
        git(project, "add", "-A")
        git(project, "commit", "-q", "--allow-empty", "-m", "x")
    done = project.run("pipeline", "run", *options)
    text = done.stdout.decode()
    assert done.returncode == code, f"exit code {done.returncode}:\n{text}\n{done.stderr.decode()}"
    return text.splitlines()


def of(lines: list[str], number: int) -> list[str]:
    """What one step printed, without its name."""
    return [line.partition("] ")[2].rstrip() for line in lines if re.match(rf"\[{number}\. ", line)]


def test_one_shell_with_the_rule_of_the_last_exit_code(project: Project) -> None:
    lines = of(run(project, """
        pipelines:
          default:
            - step:
                script:
                  - cd /tmp; export X=1; f() { echo "f $1"; }
                  - false && true
                  - echo "code $? $X $PWD"
                  - f 2
                  - |
                    false || echo "inside $?"
                after-script:
                  - echo "after $BITBUCKET_EXIT_CODE ${X-unset}"
    """), 1)  # fmt: skip
    for wanted in ("code 0 1 /tmp", "f 2", "inside 1", "after 0 unset", "+ f 2"):
        assert wanted in lines


def test_a_failing_line_ends_the_script_and_the_after_script_knows(project: Project) -> None:
    lines = run(project, """
        pipelines:
          default:
            - step:
                script: [echo one, sh -c 'exit 7', echo never]
                after-script: ['echo "after $BITBUCKET_EXIT_CODE"', 'false']
            - step:
                script: [echo later]
    """, code=1)  # fmt: skip
    assert "after 7" in of(lines, 1)
    assert "never" not in of(lines, 1)
    assert "  1. Step 1: failed" in re.sub(r" in .*", "", "\n".join(lines))
    assert "  2. Step 2: not-run (an earlier step failed)" in lines
