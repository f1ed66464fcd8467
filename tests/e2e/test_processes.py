"""Several builds at once, interrupted builds, killed builds: nothing is disturbed, nothing is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lamina.testing.project import Project


def start(project: Project, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "lamina", *arguments],
        env={"PATH": os.environ["PATH"], "HOME": str(project.folder), "LAMINA_ROOT": str(project.root)},
        cwd=project.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def running(words: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if words in (entry / "cmdline").read_text(errors="replace").replace("\0", " "):
                    found.append(int(entry.name))
            except OSError:
                continue
    return [pid for pid in found if pid != os.getpid()]


def wait_for(words: str, *, gone: bool = False) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        if bool(running(words)) != gone:
            return
        time.sleep(0.025)
    raise AssertionError(f"{words!r} is {'still' if gone else 'not'} running")


def is_clean(project: Project) -> None:
    done = project.run("check")
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
    assert not list((project.root / "active").iterdir())
    assert str(project.root) not in Path("/proc/self/mountinfo").read_text()


def test_two_builds_of_the_same_thing_share_the_work(project: Project) -> None:
    project.dockerfile("FROM base:1\nRUN sleep 1 && echo once > /x\nRUN cat /x > /y\n")
    reports = [project.root.parent / f"r{n}.json" for n in range(2)]
    builds = [start(project, "build", "--progress=plain", "--report", str(report), ".") for report in reports]
    for build in builds:
        _, err = build.communicate(timeout=180)
        assert build.returncode == 0, err.decode()
    documents = [json.loads(report.read_text()) for report in reports]
    ran = [sum(step["verdict"] == "ran" for step in document["steps"]) for document in documents]
    assert sum(ran) == 2, "each step ran once in one of the two"
    assert documents[0]["image"]["id"] == documents[1]["image"]["id"]
    is_clean(project)


def test_eight_different_builds_at_once(project: Project) -> None:
    for number in range(8):
        project.write({f"d{number}": f"FROM base:1\nRUN echo {number} > /n && sleep 0.2\nCOPY d{number} /d\n"})
    builds = [start(project, "build", "--progress=plain", "-f", f"d{n}", "-t", f"n{n}:1", ".") for n in range(8)]
    for build in builds:
        _, err = build.communicate(timeout=240)
        assert build.returncode == 0, err.decode()
    is_clean(project)
    for number in range(8):
        again = project.build("-f", str(project.folder / f"d{number}"))
        assert again.verdicts() == "CC"


def test_independent_stages_run_in_parallel(project: Project) -> None:
    """Each of the four waits until all four have begun: in sequence none would end."""
    stages = "".join(
        f"FROM base:1 AS s{n}\n"
        f"RUN --mount=type=cache,id=meet,target=/meet touch /meet/{n} && "
        "for i in $(seq 2000); do [ $(ls /meet | wc -l) -ge 4 ] && exit 0; sleep 0.05; done; exit 9\n"
        for n in range(4)
    )
    project.dockerfile(stages + "FROM base:1\n" + "".join(f"COPY --from=s{n} /etc/passwd /p{n}\n" for n in range(4)))
    project.build("--jobs", "4")


def test_equal_steps_run_once(project: Project) -> None:
    project.dockerfile(
        "FROM base:1 AS a\nRUN --mount=type=cache,id=count,target=/c echo x >> /c/runs\n"
        "FROM base:1 AS b\nRUN --mount=type=cache,id=count,target=/c echo x >> /c/runs\n"
        "FROM base:1\nCOPY --from=a /etc/passwd /1\nCOPY --from=b /etc/passwd /2\n"
        "RUN --mount=type=cache,id=count,target=/c cp /c/runs /runs\n"
    )
    project.build("-o", f"type=local,dest={project.root.parent / 'out'}")
    assert (project.root.parent / "out" / "runs").read_text() == "x\n"


def test_a_failing_step_stops_the_others(project: Project) -> None:
    project.dockerfile(
        "FROM base:1 AS a\nRUN sleep 294\nFROM base:1 AS b\nRUN sleep 0.3 && exit 5\nFROM base:1\nCOPY --from=a /etc /1\nCOPY --from=b /etc /2\n"
    )
    outcome = project.build(ok=False)
    assert outcome.code == 5
    wait_for("sleep 294", gone=True)
    is_clean(project)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "kill -9"])
def test_interrupted_in_the_middle(number: int, project: Project) -> None:
    seconds = 292 if number == signal.SIGINT else 293
    project.dockerfile(f"FROM base:1\nRUN echo 1 > /1\nRUN echo 2 > /2 && sleep {seconds}\n")
    build = start(project, "build", "--progress=plain", ".")
    wait_for(f"sleep {seconds}")
    build.send_signal(number)
    _, err = build.communicate(timeout=180)
    wait_for(f"sleep {seconds}", gone=True)
    if number == signal.SIGINT:
        assert build.returncode == 130
        assert b"Traceback" not in err
        is_clean(project)
    else:
        assert build.returncode == -9
    project.dockerfile("FROM base:1\nRUN echo 1 > /1\nRUN echo 2 > /2\n")
    assert project.build().verdicts() == "Cx", "what was completed is the cache"
    is_clean(project)


def test_killed_at_many_moments(project: Project) -> None:
    """kill -9 after a growing delay, so that every phase is met; the store is always clean afterwards and the next build works."""
    project.write({f"src/f{n}": "x" * 2000 for n in range(200)})
    for number in range(10):
        project.dockerfile(f"FROM base:1\nENV N={number}\nCOPY src /src{number}\nRUN cp -r /src{number} /copy && echo {number}\n")
        build = start(project, "build", "--progress=plain", ".")
        time.sleep(0.1 + 0.05 * number)
        build.kill()
        build.communicate()
        assert project.run("check").returncode == 0
    project.build()
    is_clean(project)
