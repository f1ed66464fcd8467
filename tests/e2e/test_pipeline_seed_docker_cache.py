"""The two samples that the project began with: parallel steps that all run `docker build .` with one docker cache, and the hand-written way around it.

Word for word but for the Dockerfile: each step's build differs by nothing, as in the sample; for the collision each step names a Dockerfile of its own.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lamina.cli.commands.pipeline_run import docker_cli
from lamina.testing import bases
from lamina.testing.project import Project

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="the rung root is used"),
    pytest.mark.skipif(bases.why_not() is not None, reason=bases.why_not() or ""),
    pytest.mark.skipif(docker_cli() is None, reason="no docker CLI that runs in any root is installed"),
]

STEP = """
      - step:
          name: 'Build {0}'
          caches:
            - {1}
          services:
            - docker
          script:
"""
COLLIDE = "pipelines:\n  default:\n    - parallel:" + "".join(
    STEP.format(number, "docker") + f"            - docker build {{0}}{number}{{1}} .\n" for number in (1, 2, 3)
)
NAMES = {1: "firstimage", 2: "secondimage", 3: "thirdimage"}
WORKAROUND = (
    "definitions:\n  services:\n    docker:\n      memory: 1024\n  caches:\n"
    + "".join(f"    {name}: {name}\n" for name in NAMES.values())
    + "pipelines:\n  default:\n    - parallel:"
    + "".join(
        STEP.format(number, name)
        + f'            - docker load -i {name}/* || echo "No cache"\n'
        + "            - docker build .\n"
        + f"            - mkdir -p {name} && docker save $(docker images -aq) -o {name}/cache.tar\n"
        + "            - docker image ls -aq\n"
        for number, name in NAMES.items()
    )
)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    made = Project(tmp_path / "repo", tmp_path / "store")
    made.folder.mkdir()
    bases.busybox_tar(made.folder / "base.tar")
    assert made.run("import", str(made.folder / "base.tar"), "box:1").returncode == 0
    for number in (1, 2, 3):
        made.write(
            {f"Dockerfile.{number}": f"FROM scratch\nADD base.tar /\nRUN echo {number} > /made\nCOPY README /r\nRUN cat /r /made > /all\n"}
        )
    made.write(
        {"README": "hello\n", "Dockerfile": "FROM scratch\nADD base.tar /\nRUN echo made > /made\n", ".dockerignore": ".git\n*image\n"}
    )
    return made


def run(project: Project, text: str, *options: str, code: int = 0) -> str:
    project.write({"bitbucket-pipelines.yml": "image: box:1\n" + text})
    if not (project.folder / ".git").exists():
        for arguments in (
            ("init", "-q", "-b", "main"),
            ("add", "-A"),
            ("-c", "user.name=t", "-c", "user.email=t", "commit", "-q", "-m", "x"),
        ):
            subprocess.run(["git", "-C", str(project.folder), *arguments], check=True)
    done = project.run("pipeline", "run", *options)
    assert done.returncode == code, done.stdout.decode() + done.stderr.decode()
    return done.stdout.decode()


def of(text: str, number: int) -> str:
    return "\n".join(line for line in text.splitlines() if line.startswith(f"[{number}. "))


def test_parallel_builds_share_the_cache_and_nobody_overwrites(project: Project) -> None:
    text = COLLIDE.replace("{0}", "-f Dockerfile.").replace("{1}", "")
    first = run(project, text)
    assert len(set(re.findall(r"Successfully built (\w+)", first))) == 3
    second = run(project, text)
    for number in (1, 2, 3):
        assert of(second, number).count("---> Using cache") == 4
        assert "Running in" not in of(second, number)
    assert set(re.findall(r"Successfully built (\w+)", second)) == set(re.findall(r"Successfully built (\w+)", first))
    assert "Upload failed" not in first + second


def test_a_killed_sibling_takes_nothing_from_the_others(project: Project) -> None:
    text = COLLIDE.replace("{0}", "-f Dockerfile.").replace("{1}", "")
    run(project, text.replace("Dockerfile.2 .", "Dockerfile.2 . & kill -9 $$"), code=1)
    again = run(project, text)
    for number in (1, 3):
        assert of(again, number).count("---> Using cache") == 4


def test_bitbucket_caches_collide_as_on_bitbucket(project: Project) -> None:
    text = COLLIDE.replace("{0}", "-f Dockerfile.").replace("{1}", "")
    first = run(project, text, "--bitbucket-caches")
    assert first.count('Cache "docker: docker.tar": Upload failed') == 2
    assert len(re.findall(r'Cache "docker: docker.tar": Uploaded ', first)) == 1
    second = run(project, text, "--bitbucket-caches")
    cold = [number for number in (1, 2, 3) if "echo" in of(second, number) and of(second, number).count("---> Using cache") < 2]
    assert len(cold) == 2
    assert second.count('Cache "docker": Skipping upload for existing cache') == 3


@pytest.mark.parametrize("command", ["auto", "own"])
def test_the_way_around_by_hand_runs_and_hits(project: Project, command: str) -> None:
    run(project, WORKAROUND, "--docker-cli", command)
    second = run(project, WORKAROUND, "--docker-cli", command)
    for number, name in NAMES.items():
        assert "No cache" not in of(second, number).replace('|| echo "No cache"', "")
        assert of(second, number).count("---> Using cache") == 2
        assert f'Cache "{name}": hit: 1 files' in of(second, number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_of_a_run_that_was_ended(project: Project, number: signal.Signals) -> None:
    sleep = f"sleep {5550 + number}"  # a command of its own for each signal: the other one may be tested at the same time
    text = STEP.format(1, "docker") + f"            - docker run box:1 {sleep}\n"
    project.write({"bitbucket-pipelines.yml": "image: box:1\npipelines:\n  default:" + text.replace("\n  ", "\n")})
    temporary = project.root.parent / "tmp"
    temporary.mkdir()
    environment = {"PATH": os.environ["PATH"], "LAMINA_ROOT": str(project.root), "TMPDIR": "/tmp", "LAMINA_TEST": str(temporary)}
    process = subprocess.Popen(
        [sys.executable, "-m", "lamina", "pipeline", "run", "--branch", "main"],
        cwd=project.folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    wait_until(lambda: bool(processes(sleep)))
    process.send_signal(number)
    assert process.wait(90) == (130 if number == signal.SIGINT else -9)
    wait_until(lambda: not processes(sleep))
    wait_until(lambda: not [pid for pid in of_run(temporary) if pid != process.pid])
    assert project.run("check").returncode == 0


def processes(command: str) -> list[str]:
    return subprocess.run(["pgrep", "-f", f"^{command}"], capture_output=True, text=True, check=False).stdout.split()


def of_run(mark: Path) -> list[int]:
    """Processes that carry the run's mark in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and f"LAMINA_TEST={mark}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_containers_mount_the_clone_and_nothing_else_of_the_machine(project: Project) -> None:
    lines = [
        "echo here > told",
        'docker run --rm -v "$PWD:/x" -v "$BITBUCKET_CLONE_DIR/told:/file" box:1 sh -c "cat /x/told /file; echo back > /x/back"',
        "cat back",
        "docker run --rm -v /etc:/x box:1 cat /x/hostname || echo refused one",
        'docker run --rm -v "$PWD/../..:/x" box:1 ls /x || echo refused two',
        'ln -s / out && docker run --rm -v "$PWD/out:/x" box:1 ls /x || echo refused three',
        'rm out; mkdir out; docker create --name later -v "$PWD/out:/x" box:1 ls -la /x; rmdir out; ln -s / out; docker start -a later',
        "docker run --rm --privileged box:1 true || echo refused four",
    ]
    text = STEP.format(1, "docker") + "".join(f"            - |\n              {line}\n" for line in lines)
    said = run(project, "pipelines:\n  default:" + text.replace("\n  ", "\n"))
    for wanted in ("here", "back", "refused one", "refused two", "refused three", "refused four"):
        assert f"] {wanted}\n" in said
    assert "home" not in said.partition("docker create")[2].partition("docker run --rm --privileged")[0]
