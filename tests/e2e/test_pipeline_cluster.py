"""`lamina pipeline run --engine processes://N`: steps on workers with stores of their own, everything through one shared place."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lamina.cache.remote.directory import DirectoryObjects
from lamina.cache.remote.inventory import Inventory, usage
from lamina.cli.commands.pipeline_run import docker_cli
from lamina.testing import bases
from lamina.testing.project import Project
from lamina.testing.registry import docker_registry
from lamina.testing.registryauth import PASSWORD, USER, authority, certificate, htpasswd

pytestmark = [pytest.mark.skipif(os.geteuid() != 0, reason="image: host needs the rung root; the ordinary user has a test of his own")]


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


def run(project: Project, *options: str, engine: str = "processes://2", code: int = 0) -> list[str]:
    done = project.run("pipeline", "run", "--engine", engine, *options)
    text = done.stdout.decode()
    assert done.returncode == code, f"exit code {done.returncode}:\n{text}\n{done.stderr.decode()}"
    return text.splitlines()


def of(lines: list[str], number: int) -> list[str]:
    """What one step printed, without its name."""
    return [line.partition("] ")[2].rstrip() for line in lines if re.match(rf"\[{number}\. ", line)]


def worker(lines: list[str], number: int) -> str:
    return next(line for line in of(lines, number) if line.startswith("Worker ")).rpartition("/")[2]


@contextmanager
def begun(
    project: Project, *options: str, engine: str = "processes://2", environment: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """A run under way; its standard output is to be read."""
    environment = {"PATH": os.environ["PATH"], "LAMINA_ROOT": str(project.root), **(environment or {})}
    command = [sys.executable, "-m", "lamina", "pipeline", "run", "--engine", engine, *options]
    process = subprocess.Popen(command, cwd=project.folder, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True)
    with process:
        try:
            yield process
        finally:
            process.kill()


def until(process: subprocess.Popen[str], wanted: str) -> list[str]:
    """Lines up to the one that has this in it."""
    assert process.stdout is not None
    found = []
    for line in process.stdout:
        found.append(line.rstrip("\n"))
        if wanted in line:
            return found
    raise AssertionError(f"it ended before {wanted!r}:\n" + "\n".join(found))


THREE = """
definitions:
  caches: {deps: vendor}
pipelines:
  default:
    - parallel:
      - step:
          name: one
          caches: [deps]
          script: [mkdir -p dist vendor, echo 1 > dist/one, echo kept > vendor/x, cat README]
          artifacts: ["dist/**"]
      - step:
          name: two
          script: [mkdir dist, echo 2 > dist/two, ls dist, 'echo A=from-two > "$BITBUCKET_PIPELINES_VARIABLES_PATH"']
          output-variables: [A]
          artifacts: ["dist/**"]
          after-script: [echo "after $BITBUCKET_EXIT_CODE"]
    - step:
        name: three
        caches: [deps]
        script: [cat dist/one dist/two vendor/x, echo "A is $A", git status --short, git log --oneline]
"""


@pytest.mark.slow
def test_artifacts_outputs_caches_and_changes_travel(project: Project) -> None:
    write(project, THREE)
    project.write({"README": "changed\n"})
    lines = run(project)
    assert "changed" in of(lines, 1)
    assert "clone of HEAD at depth 50, with 1 uncommitted change" in of(lines, 1)
    assert {"one", "1"}.isdisjoint(of(lines, 2)[of(lines, 2).index("+ ls dist") :])
    assert "after 0" in of(lines, 2)
    assert {"1", "2", "kept", "A is from-two", " M README"} <= set(of(lines, 3))
    assert any(line.startswith('Cache "deps": hit: 1 files, saved by "one"') for line in of(lines, 3))
    assert lines[-1].startswith("run 1: passed")
    record = json.loads(next((project.root / "pipelines").glob("*/runs/1/run.json")).read_text())
    assert [step["status"] for step in record["steps"]] == ["passed"] * 3
    assert record["begun"].keys() == {"1", "2", "3"}
    log = project.run("pipeline", "logs", "--step", "3").stdout.decode()
    assert "A is from-two" in log
    # What the run alone needed is gone from the shared place.
    assert usage(Inventory(DirectoryObjects(project.root / "workers" / "shared"))).orphans == 0


@pytest.mark.slow
def test_a_cache_that_one_worker_saved_is_a_hit_on_another(project: Project) -> None:
    write(project, """
        definitions:
          caches: {deps: {path: vendor, key: {files: [lock]}}}
        pipelines:
          default:
            - step: {caches: [deps], script: [mkdir -p vendor, ls vendor, echo x > vendor/x]}
    """)  # fmt: skip
    project.write({"lock": "1\n"})
    assert 'Cache "deps": miss: nobody has saved it yet' in of(run(project, engine="processes://1"), 1)
    # The same shared place, another worker: its store is new.
    (project.root / "workers" / "1").rename(project.root / "workers" / "gone")
    lines = of(run(project, engine="processes://1"), 1)
    assert any(line.startswith('Cache "deps": hit: 1 files') for line in lines)
    project.write({"lock": "2\n"})
    assert 'Cache "deps": miss: its key is new because lock changed' in of(run(project, engine="processes://1"), 1)


WAITS = """
definitions:
  caches: {deps: vendor}
pipelines:
  default:
    - step:
        caches: [deps]
        script:
          - mkdir -p vendor dist; echo half > vendor/half; echo half > dist/half
          - echo ready; read go < /dev/tcp/127.0.0.1/$PORT
          - rm vendor/half dist/half; echo whole > dist/whole; echo whole > vendor/whole
        artifacts: ["dist/**"]
    - step: {script: [ls dist]}
"""


@pytest.fixture
def gate() -> Iterator[socket.socket]:
    """Steps stand before it until somebody answers."""
    with socket.create_server(("127.0.0.1", 0)) as made:
        made.settimeout(120)
        yield made


@pytest.mark.slow
def test_a_killed_worker_s_step_runs_again_and_nothing_of_the_lost_attempt_is_seen(project: Project, gate: socket.socket) -> None:
    write(project, WAITS)
    with begun(project, "--var", f"PORT={gate.getsockname()[1]}") as process:
        first, _ = gate.accept()
        until(process, "ready")
        os.kill(job(project), signal.SIGKILL)
        assert "attempt 1 of 3: its process was ended by SIGKILL" in until(process, "the worker was lost")[-1]
        assert first.recv(1) == b""  # the step's own process has ended with it
        second, _ = gate.accept()
        second.sendall(b"go\n")
        rest, _ = process.communicate()
        assert process.returncode == 0, rest
    assert 'Cache "deps": miss: nobody has saved it yet' in rest
    lines = of(rest.splitlines(), 2)
    assert "whole" in lines
    assert "half" not in lines
    log = project.run("pipeline", "logs", "--step", "1").stdout.decode()
    assert log.count("what is above was lost with it, the step runs again from its beginning") == 1
    assert log.count("] ready\n") == 2


@pytest.mark.slow
def test_a_step_that_loses_every_worker_fails(project: Project, gate: socket.socket) -> None:
    write(project, WAITS)
    with begun(project, "--var", f"PORT={gate.getsockname()[1]}", engine="processes://1") as process:
        for _ in range(3):
            connection, _ = gate.accept()
            os.kill(job(project), signal.SIGKILL)
            assert connection.recv(1) == b""
            connection.close()
        rest, _ = process.communicate()
        assert process.returncode == 1
    assert "1. Step 1: failed" in rest
    assert "error: the worker was lost in attempt 3 of 3" in rest
    assert "2. Step 2: not-run" in rest


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_the_end_of_the_run_ends_its_steps(project: Project, gate: socket.socket, number: signal.Signals) -> None:
    write(project, WAITS)
    with begun(project, "--var", f"PORT={gate.getsockname()[1]}") as process:
        connection, _ = gate.accept()
        process.send_signal(number)
        assert connection.recv(1) == b""
        rest, _ = process.communicate()
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert "1. Step 1: stopped" in rest
    assert not list((project.root / "workers").glob("*/pipelines/*/travelling/*/data/versions/*"))


@pytest.mark.slow
def test_fail_fast_ends_the_siblings_on_their_workers(project: Project, gate: socket.socket) -> None:
    write(project, """
        pipelines:
          default:
            - parallel:
                fail-fast: true
                steps:
                  - step: {script: ["read go < /dev/tcp/127.0.0.1/$PORT"]}
                  - step: {script: ["read go < /dev/tcp/127.0.0.1/$PORT || sleep 600"]}
            - step: {script: [never]}
    """)  # fmt: skip
    with begun(project, "--var", f"PORT={gate.getsockname()[1]}") as process:
        both = [gate.accept()[0] for _ in range(2)]
        for one in both:  # the first step fails of this, the second one sleeps on
            one.shutdown(socket.SHUT_WR)
        rest, _ = process.communicate()
    assert process.returncode == 1
    assert "1. Step 1: failed" in rest
    assert "2. Step 2: stopped" in rest
    assert "3. Step 3: not-run" in rest


def job(project: Project) -> int:
    """The only step-job of this project's workers."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        if words[1:3] == [b"-m", b"lamina"] and b"step-job" in words and os.fsencode(project.root) in words[4]:
            found[int(folder.name)] = parent
    (first,) = (pid for pid, parent in found.items() if parent not in found)  # its helpers are forks of it
    return first


@pytest.mark.slow
@pytest.mark.skipif(docker_cli() is None, reason="no docker CLI that runs in any root is installed")
@pytest.mark.skipif(bases.why_not() is not None, reason=bases.why_not() or "")
def test_parallel_builds_on_two_workers_share_the_docker_cache(project: Project) -> None:
    """The seed's collide.yml. The second run has two new workers: what they find comes out of the shared place."""
    bases.busybox_tar(project.folder / "base.tar")
    for number in (1, 2, 3):
        project.write({f"Dockerfile.{number}": f"FROM scratch\nADD base.tar /\nRUN echo {number} > /made\nCOPY README /r\n"})
    project.write({".dockerignore": ".git\n"})
    write(project, "pipelines:\n  default:\n    - parallel:" + "".join(f"""
      - step:
          name: 'Build {number}'
          caches:
            - docker
          services:
            - docker
          script:
            - docker build -f Dockerfile.{number} .
    """.rstrip() for number in (1, 2, 3)) + "\n")  # fmt: skip
    first = run(project)
    assert len(set(re.findall(r"Successfully built (\w+)", "\n".join(first)))) == 3
    (project.root / "workers" / "1").rename(project.root / "workers" / "gone1")
    (project.root / "workers" / "2").rename(project.root / "workers" / "gone2")
    second = run(project)
    for number in (1, 2, 3):
        assert sum("---> Using cache" in line for line in of(second, number)) == 3, "\n".join(of(second, number))
        assert not any("Running in" in line for line in of(second, number))
        assert f'Cache "docker": shared: every step reads and adds to the build cache in dir:{project.root}/workers/shared' in of(
            second, number
        )
    assert len(set(re.findall(r"Successfully built (\w+)", "\n".join(second)))) == 3
    assert (next((project.root / "pipelines").glob("*/runs/2/logs")) / "1-docker.log").exists()


@pytest.mark.slow
def test_what_failed_runs_again_with_what_the_others_left(project: Project) -> None:
    write(project, """
        pipelines:
          default:
            - step:
                script: [mkdir d, echo kept > d/e, 'echo A=from-one > "$BITBUCKET_PIPELINES_VARIABLES_PATH"']
                output-variables: [A]
                artifacts: ["d/**"]
            - step: {script: [cat d/e, echo "A is $A", test "$GO"]}
    """)  # fmt: skip
    assert "exit code 1" in of(run(project, engine="processes://1", code=1), 2)
    lines = run(project, "--rerun-failed", "--secret-var", "GO=yes", engine="processes://1")
    assert "  1. Step 1: kept (not asked for)" in lines
    assert {"kept", "A is from-one"} <= set(of(lines, 2))
    # The same pipeline on this machine: what lies in the run's folder is what it would have left itself.
    done = project.run("pipeline", "run", "--from-step", "2", "--secret-var", "GO=yes")
    assert done.returncode == 1
    run(project, engine="processes://1", code=1)
    done = project.run("pipeline", "run", "--rerun-failed", "--secret-var", "GO=yes")
    assert done.returncode == 0, done.stdout.decode()
    assert {"kept", "A is from-one"} <= set(of(done.stdout.decode().splitlines(), 2))


SECRET = "a-word-that-nobody-may-see"


@pytest.mark.slow
def test_a_secret_is_in_no_output_log_place_or_process(project: Project, gate: socket.socket) -> None:
    write(project, """
        pipelines:
          default:
            - step:
                script:
                  - echo $TOKEN; printf %s "$TOKEN" | cut -c1-10; printf %s "$TOKEN" | cut -c11-
                  - printf %s "$TOKEN"; sleep 0; echo; test "$TOKEN" = a-word-that-nobody-may-se''e
                  - read go < /dev/tcp/127.0.0.1/$PORT
    """)  # fmt: skip
    with begun(project, "--var", f"PORT={gate.getsockname()[1]}", "--secret-var", "TOKEN", environment={"TOKEN": SECRET}) as process:
        connection, _ = gate.accept()
        seen = job(project)
        for pid in (seen, *children(seen)):
            if b"step.sh" in (words := Path(f"/proc/{pid}/cmdline").read_bytes()):
                continue  # the step itself
            assert SECRET.encode() not in words
        shared = [path for path in (project.root / "workers" / "shared").rglob("*") if path.is_file()]
        assert shared
        for path in shared:
            assert SECRET.encode() not in path.read_bytes()
        connection.sendall(b"go\n")
        rest, _ = process.communicate()
        assert process.returncode == 0
    assert SECRET not in rest
    assert "$TOKEN" in rest
    for path in (project.root / "pipelines").rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path
    for path in (project.root / "workers").rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path


def children(pid: int) -> list[int]:
    below = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [one for child in below for one in (int(child), *children(int(child)))]


@pytest.mark.parametrize(
    ("options", "engine", "said", "code"),
    [
        ((), "process://2", "--engine 'process://2' is no cluster", 2),
        ((), "processes://0", "'0' is no number of workers", 2),
        ((), "processes://2,memory=lots", "'memory=lots' is not understood", 2),
        ((), "dask://127.0.0.1:1", "--engine dask://127.0.0.1:1 needs --shared PLACE", 2),
        (("--bitbucket-caches",), "processes://2", "--bitbucket-caches compares with one machine", 2),
        (("--docker-cli", "/bin/true"), "processes://2", "is a program of this machine", 2),
        (("--shared", "ftp://x"), "processes://2", "is no shared cache", 2),
        (("--shared", "http://127.0.0.1:1"), "processes://2,label=gpu", "127.0.0.1:1", 69),
        (("--shared", "dir:x,token-file=/no/such"), "processes://2", "/no/such cannot be read", 2),
        ((), "processes://2,memory=4096,label=gpu", "needs 8192 MB; each worker has 4096 MB", 69),
        ((), "processes://2", 'no worker has the label "gpu"', 69),
    ],
)
def test_what_cannot_be_is_one_line_before_anything_starts(
    project: Project, options: tuple[str, ...], engine: str, said: str, code: int
) -> None:
    write(project, """
        pipelines:
          default:
            - step: {script: [echo hello]}
            - step: {size: 2x, runs-on: [self.hosted, linux, gpu], script: [echo hello]}
    """)  # fmt: skip
    done = project.run("pipeline", "run", "--engine", engine, *options)
    text = done.stderr.decode()
    assert done.returncode == code, text
    assert said in text
    assert "Traceback" not in text
    assert b"hello" not in done.stdout
    assert not list(project.root.glob("pipelines/*/runs/*"))


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is not installed")
@pytest.mark.skipif(not shutil.which("docker-registry"), reason="docker-registry is not installed")
@pytest.mark.skipif(bases.why_not() is not None, reason=bases.why_not() or "")
def test_a_registry_with_a_password_is_the_shared_place_and_has_the_images(project: Project, gate: socket.socket, tmp_path: Path) -> None:
    """Login and authority are known where the run is, and travel: their files are gone when the second step begins."""
    ca = authority(tmp_path)
    with docker_registry(tmp_path, auth=htpasswd(tmp_path), tls=certificate(tmp_path)) as host:
        logins = tmp_path / "logins"
        project.environment["DOCKER_CONFIG"] = str(logins)
        bases.busybox_tar(tmp_path / "base.tar")
        logins.mkdir()
        packed = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        (logins / "config.json").write_text(json.dumps({"auths": {host: {"auth": packed}}}))
        assert project.run("import", str(tmp_path / "base.tar"), f"{host}/box:1").returncode == 0
        assert project.run("push", "--registry-ca", str(ca), f"{host}/box:1").returncode == 0
        write(project, f"""
            pipelines:
              default:
                - step: {{script: ["read go < /dev/tcp/127.0.0.1/$PORT", mkdir d, echo kept > d/e], artifacts: ["d/**"]}}
                - step: {{image: "{host}/box:1", script: [cat d/e README]}}
        """)  # fmt: skip
        more = {"DOCKER_CONFIG": str(logins), "LAMINA_SHARED": f"oci://{host}/shared"}
        options = ("--var", f"PORT={gate.getsockname()[1]}", "--registry-ca", str(ca))
        with begun(project, *options, engine="processes://1", environment=more) as process:
            connection, _ = gate.accept()
            shutil.rmtree(logins)
            ca.unlink()
            connection.sendall(b"go\n")
            rest, _ = process.communicate()
        assert process.returncode == 0, rest
        assert {"kept", "hello"} <= set(of(rest.splitlines(), 2)), rest
        assert PASSWORD not in rest
