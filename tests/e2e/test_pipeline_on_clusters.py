"""`lamina pipeline run --engine dask://…` (and `ray://…`): a scheduler and two workers, each in a network namespace of its own, with stores of their own; one shared place."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from lamina.testing import clusters, machines
from lamina.testing.clusters import Running
from lamina.testing.project import Project

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(machines.why_not() is not None, reason=str(machines.why_not())),
    pytest.mark.xdist_group("clusters"),
]

STEP = "MEM=4096 CPU=4"  # one step of the usual size at a time: two at once are on two workers


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(kind, marks=pytest.mark.skipif(clusters.why_not(kind.module) is not None, reason=str(clusters.why_not(kind.module))))
        for kind in (clusters.Dask, clusters.Ray)
    ],
    ids=lambda kind: kind.module,
)
def cluster(request: pytest.FixtureRequest) -> Iterator[Running]:
    with machines.network(2) as net, request.param.running(net, (STEP, STEP)) as running:
        yield running


@pytest.fixture
def project(tmp_path: Path) -> Project:
    made = Project(tmp_path / "repo", tmp_path / "store")
    made.folder.mkdir()
    made.write({"README": "hello\n"})
    git(made, "init", "-q", "-b", "main", ".")
    return made


def git(project: Project, *arguments: str) -> None:
    command = ["git", "-C", str(project.folder), "-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false", *arguments]
    subprocess.run(command, check=True, capture_output=True)


def write(project: Project, pipelines: str) -> None:
    project.write({"bitbucket-pipelines.yml": "image: host\n" + textwrap.dedent(pipelines)})
    git(project, "add", "-A")
    git(project, "commit", "-q", "--allow-empty", "-m", "x")


@contextmanager
def begun(project: Project, cluster: Running, *options: str) -> Iterator[subprocess.Popen[str]]:
    """A run under way, asked for in the hub; its output is to be read."""
    command = [
        sys.executable,
        "-m",
        "lamina",
        "pipeline",
        "run",
        "--engine",
        cluster.url,
        "--shared",
        f"dir:{cluster.folder}/shared",
        *options,
    ]
    environment = {"PATH": os.environ["PATH"], "LAMINA_ROOT": str(project.root)}
    words = [*cluster.network.enter(cluster.network.hub), *command]
    process = subprocess.Popen(words, cwd=project.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    with process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def gate(cluster: Running) -> Iterator[socket.socket]:
    """In the hub; steps stand before it until somebody answers. A step's address says which worker it is on."""
    with clusters.inside(cluster.network.hub):
        made = socket.create_server((machines.ADDRESS, 0))
    with made:
        made.settimeout(120)
        yield made


def of(text: str, number: int) -> list[str]:
    """What one step printed, without its name."""
    return [line.partition("] ")[2].rstrip() for line in text.splitlines() if re.match(rf"\[{number}\. ", line)]


def through(gate: socket.socket) -> str:
    return f"read go < /dev/tcp/{machines.ADDRESS}/{gate.getsockname()[1]}"


def accept(gate: socket.socket) -> tuple[socket.socket, str]:
    """(connection, address of the worker)."""
    connection, address = gate.accept()
    connection.settimeout(120)
    return connection, str(address[0])


def answer(connections: Sequence[socket.socket]) -> None:
    for each in connections:
        each.sendall(b"go\n")


def test_three_steps_on_two_workers(project: Project, cluster: Running, gate: socket.socket) -> None:
    write(project, f"""
        definitions:
          caches: {{deps: vendor}}
        pipelines:
          default:
            - parallel:
              - step:
                  name: one
                  caches: [deps]
                  script: ["{through(gate)}", mkdir -p dist vendor, echo 1 > dist/one, echo kept > vendor/x, for each in $(seq 300); do echo line $each; done]
                  artifacts: ["dist/**"]
              - step:
                  name: two
                  script: ["{through(gate)}", mkdir dist, echo 2 > dist/two, 'echo A=from-two > "$BITBUCKET_PIPELINES_VARIABLES_PATH"']
                  output-variables: [A]
                  artifacts: ["dist/**"]
            - step:
                name: three
                caches: [deps]
                script: [cat dist/one dist/two vendor/x, echo "A is $A"]
    """)  # fmt: skip
    with begun(project, cluster) as process:
        both = [accept(gate) for _ in range(2)]
        assert {address for _, address in both} == {"198.18.0.10", "198.18.0.11"}
        answer([connection for connection, _ in both])
        text, _ = process.communicate()
        assert process.returncode == 0, text
    assert [line for line in of(text, 1) if line.startswith("line ")] == [f"line {number}" for number in range(1, 301)]
    assert {"1", "2", "kept", "A is from-two"} <= set(of(text, 3)), text
    assert text.splitlines()[-1].startswith("run 1: passed")


def test_what_no_worker_has_is_said_before_anything_starts(project: Project, cluster: Running) -> None:
    write(project, """
        pipelines:
          default:
            - step: {script: [echo hello]}
            - step: {size: 2x, script: [echo hello]}
    """)  # fmt: skip
    with begun(project, cluster) as process:
        text, _ = process.communicate()
    assert process.returncode == 69, text
    assert "no worker has 8192 MB" in text
    assert "[1. Step 1]" not in text


def test_ctrl_c_ends_the_steps_on_their_workers(project: Project, cluster: Running, gate: socket.socket) -> None:
    write(project, f"""
        pipelines:
          default:
            - step: {{script: ["{through(gate)}"]}}
    """)  # fmt: skip
    with begun(project, cluster) as process:
        connection, _ = accept(gate)
        process.send_signal(2)
        assert connection.recv(1) == b""
        text, _ = process.communicate()
        assert process.returncode == 130, text


def test_a_worker_killed_in_mid_step(project: Project, cluster: Running, gate: socket.socket) -> None:
    """Last in this file: there is one worker left."""
    write(project, f"""
        definitions:
          caches: {{deps: vendor}}
        pipelines:
          default:
            - step:
                caches: [deps]
                script:
                  - mkdir -p vendor dist; echo half > vendor/half; echo half > dist/half
                  - "echo ready; {through(gate)}"
                  - rm vendor/half dist/half; echo whole > dist/whole; echo whole > vendor/whole
                artifacts: ["dist/**"]
            - step: {{script: [ls dist]}}
    """)  # fmt: skip
    with begun(project, cluster) as process:
        first, address = accept(gate)
        cluster.kill_worker(int(address.rpartition(".")[2]) - 10)
        assert first.recv(1) == b""  # the step's own process has ended with it
        second, other = accept(gate)
        assert other != address
        answer([second])
        text, _ = process.communicate()
        assert process.returncode == 0, text
    assert "the worker was lost in attempt 1 of 3: " in text
    assert "the step runs again from its beginning" in text
    assert "whole" in of(text, 2)
    assert "half" not in of(text, 2)
