"""The machine's clock an hour or a year off between two commands, and back: nothing is lost, nothing is taken for fresh, no age is negative."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lamina.testing.project import Project

HOUR, YEAR = 3600, 365 * 86400
ALL = os.environ.get("LAMINA_EVERY_CALL") == "1"
CLOCK = """\
import os, time
_ahead = float(os.environ.get("TEST_CLOCK_AHEAD", "0"))
_time, _time_ns = time.time, time.time_ns
time.time = lambda: _time() + _ahead
time.time_ns = lambda: _time_ns() + int(_ahead * 1e9)
"""
NEGATIVE = re.compile(r"(?<![\w.:/-])-\d+(\.\d+)? ?(s|m|min|h|hours?|days?|seconds?|minutes?|years?)\b")
DOCKERFILE = "FROM base:1\nCOPY word /word\nRUN cat /word /word > /twice\n"


@pytest.fixture
def clocked(project: Project, tmp_path: Path) -> Project:
    """A project whose commands read the clock through us."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(CLOCK)
    project.environment["PYTHONPATH"] = str(tmp_path / "site")
    project.write({"Dockerfile": DOCKERFILE, "word": "one\n"})
    return project


def at(project: Project, ahead: float) -> Project:
    return Project(project.folder, project.root, project.environment | {"TEST_CLOCK_AHEAD": str(ahead)})


def looks(project: Project) -> None:
    """All that tells ages and times."""
    commands = (
        ["images"], ["history", "app:1"], ["cache", "ls"], ["cache", "prune", "--explain", "--dry-run"], ["why", "app:1"], ["plan", "."],
    )  # fmt: skip
    for command in commands:
        done = project.run(*command)
        assert done.returncode in (0, 3), done.stderr.decode()
        said = (done.stdout + done.stderr).decode()
        assert not NEGATIVE.search(said), (command, said)


@pytest.mark.slow
@pytest.mark.parametrize("ahead", [HOUR, -HOUR, YEAR, -YEAR] if ALL else [-HOUR, YEAR])
def test_there_and_back(ahead: int, clocked: Project) -> None:
    first = clocked.build("-t", "app:1")
    assert first.verdicts() == "xx"
    for place in (at(clocked, ahead), clocked):
        again = place.build("-t", "app:1")
        assert (again.verdicts(), again.report["image"]["id"]) == ("CC", first.report["image"]["id"]), again.stderr
        assert not NEGATIVE.search(again.stderr)
    looks(at(clocked, ahead))
    looks(at(clocked, -ahead))
    # A change that keeps size and mtime, made while the clock is off, is seen; on each side.
    for number, place in enumerate((at(clocked, ahead), clocked, at(clocked, ahead))):
        kept = os.stat(clocked.folder / "word")
        (clocked.folder / "word").write_text(f"00{number}\n")
        os.utime(clocked.folder / "word", ns=(kept.st_atime_ns, kept.st_mtime_ns))
        out = clocked.root.parent / "out"
        done = place.build("-o", f"type=local,dest={out}")
        assert done.verdicts() == "xx"
        assert (out / "twice").read_text() == f"00{number}\n" * 2
        assert place.build().verdicts() == "CC"
    # Pruned by age while the clock is right again: what was used since is of today.
    assert clocked.build().verdicts() == "CC"
    assert clocked.run("cache", "prune", "--older-than", "7d").returncode == 0
    assert clocked.build().verdicts() == "CC"
    assert clocked.run("check", "--deep").returncode == 0


@pytest.mark.slow
def test_what_a_clock_ahead_made_is_neither_fresh_nor_newest(clocked: Project) -> None:
    later = at(clocked, YEAR)
    clocked.dockerfile("FROM base:1\nRUN --mount=type=cache,target=/c echo x >> /c/runs && cp /c/runs /runs\n")
    assert later.build().verdicts() == "x"
    assert clocked.build().verdicts() == "C"
    assert clocked.build("--max-age", "RUN=1d").verdicts() == "x", "its age is not known"
    assert clocked.build("--max-age", "RUN=1d").verdicts() == "C"
    assert clocked.build("--no-cache").verdicts() == "x"
    out = clocked.root.parent / "out"
    assert clocked.build("-o", f"type=local,dest={out}").verdicts() == "C"
    made = (out / "runs").read_text()
    assert later.build("-o", f"type=local,dest={out}").verdicts() == "C"
    assert (out / "runs").read_text() == made, "what was made last is taken, whatever clock the one before had"


@pytest.mark.slow
@pytest.mark.parametrize("ahead", [YEAR, -YEAR] if ALL else [YEAR])
def test_a_collection_by_another_clock_takes_nothing_from_a_build(ahead: int, clocked: Project) -> None:
    gate = "until [ -e /gate/open ]; do touch /gate/waits; sleep 0.05; done"
    clocked.dockerfile(
        f"FROM base:1\nCOPY word /word\nRUN --mount=type=cache,id=gate,target=/gate {gate}; cat /word > /copy\nRUN cp /copy /again\n"
    )
    build = subprocess.Popen(
        [sys.executable, "-m", "lamina", "build", "--progress=plain", "-t", "app:2", "."],
        env={"PATH": os.environ["PATH"], "HOME": str(clocked.folder), "LAMINA_ROOT": str(clocked.root)},
        cwd=clocked.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        waits: list[Path] = []
        while not waits:
            assert build.poll() is None
            waits = list((clocked.root / "cachemounts").glob("*/*/data/waits"))
            time.sleep(0.01)
        for command in (["--all"], ["--older-than", "1s"], ["--keep", "1k"]):
            done = at(clocked, ahead).run("cache", "prune", *command)
            assert done.returncode == 0, done.stderr.decode()
        waits[0].with_name("open").touch()
        said, _ = build.communicate(timeout=120)
    finally:
        build.kill()
        build.wait()
    assert build.returncode == 0, said.decode()
    assert clocked.run("check", "--deep").returncode == 0
    out = clocked.root.parent / "out"
    clocked.build("-o", f"type=local,dest={out}")
    assert (out / "again").read_text() == "one\n"
