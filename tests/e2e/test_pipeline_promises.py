"""What `lamina pipeline run` promises beside Bitbucket's own runner and its rivals: one test for each promise. Details have tests of their own."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from lamina.testing import bases
from lamina.testing.project import Project

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="the rung root is used"),
    pytest.mark.skipif(bases.why_not() is not None, reason=bases.why_not() or ""),
]
CASES = Path(os.environ.get("LAMINA_CONFORMANCE", Path(__file__).parents[2] / "../shared/conformance")) / "pipelines"


@pytest.fixture
def repository(tmp_path: Path, seeded_store: Path) -> Project:
    shutil.copytree(seeded_store, tmp_path / "store", symlinks=True)
    made = Project(tmp_path / "repo", tmp_path / "store")
    made.folder.mkdir()
    return made


def run(project: Project, text: str | None, *options: str, code: int = 0) -> str:
    if text is not None:
        project.write({"bitbucket-pipelines.yml": "image: base:1\n" + textwrap.dedent(text)})
    done = project.run("pipeline", "run", "--branch", "main", "--docker-cli", "own", *options)
    assert done.returncode == code, done.stdout.decode() + done.stderr.decode()
    return done.stdout.decode()


def of(text: str, number: int) -> str:
    return "\n".join(line.partition("] ")[2] for line in text.splitlines() if line.startswith(f"[{number}. "))


BUILDS = """
    pipelines:
      default:
        - parallel:
"""


def builds(*after: str) -> str:
    """Parallel steps that build different images and name one docker cache; `after`: what each does then."""
    steps = "".join(
        f"          - step: {{caches: [docker], services: [docker], script: ['docker build -f Dockerfile.{number} .', '{then}']}}\n"
        for number, then in enumerate(after, 1)
    )
    return BUILDS + steps


@pytest.mark.slow
def test_promise_1_parallel_steps_with_the_docker_cache_both_hit(repository: Project) -> None:
    for number in (1, 2):
        repository.write({f"Dockerfile.{number}": f"FROM base:1\nRUN echo {number} > /n\nRUN cat /n > /m\n"})
    first = run(repository, builds("sleep 0.3", "kill -9 $$"), code=1)  # the second one is killed when it has built
    for then in (("true", "sleep 0.3"), ("sleep 0.3", "true")):
        second = run(repository, builds(*then))
        assert [of(second, number).count("---> Using cache") for number in (1, 2)] == [2, 2]
        assert "Upload failed" not in first + second


@pytest.mark.slow
def test_promise_2_the_same_run_twice_at_once(repository: Project) -> None:
    repository.write({
        "Dockerfile": "FROM base:1\\nRUN echo x\\n".replace("\\n", "\n"),
        "db": 'FROM base:1\nENTRYPOINT ["sh", "-c", "while true; do echo hello | nc -l -p 5432; done"]\n',
        "bitbucket-pipelines.yml": textwrap.dedent("""
            image: base:1
            definitions: {services: {db: {image: 'db:1'}}}
            pipelines:
              default:
                - parallel:
                  - step: &one
                      services: [db, docker]
                      caches: [docker, node]
                      script:
                        - for i in $(seq 2000); do answer=$(nc localhost 5432 </dev/null) && break; sleep 0.05; done; echo "got $answer"
                        - docker run --name same base:1 true; docker build -t made . ; echo $BITBUCKET_BUILD_NUMBER > node_modules/n
                  - step: *one
        """),
    })  # fmt: skip
    assert repository.run("build", "-f", "db", "-t", "db:1", ".").returncode == 0
    environment = {"PATH": os.environ["PATH"], "LAMINA_ROOT": str(repository.root)}
    command = [sys.executable, "-m", "lamina", "pipeline", "run", "--branch", "main", "--docker-cli", "own"]
    both = [
        subprocess.Popen(command, cwd=repository.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(2)
    ]
    for process in both:
        said, _ = process.communicate(timeout=300)
        assert process.returncode == 0, said
        assert said.count("got hello") == 2


def test_promise_3_a_failed_step_saves_nothing_unless_it_is_asked_to(repository: Project) -> None:
    text = "pipelines: {default: [{step: {caches: [node], script: [ls node_modules, echo x > node_modules/x, 'false']}}]}\n"
    assert 'Cache "node": not saved because the step failed' in run(repository, text, code=1)
    assert 'Cache "node": Not found' in run(repository, None, "--save-on-failure", code=1)
    said = run(repository, None, code=1)
    assert 'Cache "node": hit: 1 files' in said


@pytest.mark.slow
def test_promise_4_parity_is_bitbucket_with_its_faults(repository: Project, tmp_path: Path) -> None:
    repository.write({"base.tar": bases.busybox_tar(tmp_path / "b.tar").read_bytes(), ".dockerignore": "bitbucket-pipelines.yml\n"})
    for number in (1, 2):
        repository.write({f"Dockerfile.{number}": f"FROM scratch\nADD base.tar /\nRUN echo {number} > /n\n"})
    first = run(repository, builds("true", "true"), "--parity")
    assert first.count('Cache "docker: docker.tar": Upload failed') == 1
    second = run(repository, None, "--parity")
    hits = sorted("Using cache" in line for number in (1, 2) for line in [of(second, number)])
    assert second.count("Skipping upload for existing cache") == 2
    assert hits[-1]
    assert sorted(of(second, number).count("---> Using cache") for number in (1, 2)) == [1, 2]  # the ADD is common, the RUN of one is cold
    assert "Upload failed" not in run(repository, None)


def test_promise_5_every_cache_of_every_step_has_its_reason(repository: Project, tmp_path: Path) -> None:
    report = tmp_path / "r.json"
    repository.write({"lock": "1"})
    text = """
        definitions: {caches: {deps: {path: deps, key: {files: [lock]}}}}
        pipelines:
          default:
            - step: {name: writes, caches: [deps, docker, node], script: [echo x > deps/x]}
    """
    run(repository, text, "--report", str(report))
    run(repository, None, "--report", str(report))
    used = {one["name"]: one for one in json.loads(report.read_text())["steps"][0]["caches"]}
    assert re.fullmatch(r'1 files, saved by "writes" .*, its key files are unchanged', used["deps"]["reason"])
    assert used["deps"]["saved"] == "not saved: nothing in it changed"
    assert used["docker"]["reason"] == "not used: the step has no docker service"
    assert (used["node"]["verdict"], used["node"]["reason"]) == ("miss", "nobody has saved it yet")
    repository.write({"lock": "2"})
    explained = repository.run("pipeline", "caches", "explain", "deps").stdout.decode()
    assert "its key is new because lock changed" in explained


def test_promise_6_too_little_memory_is_refused_before_anything_is_pulled(repository: Project) -> None:
    text = """
        definitions: {services: {db: {image: 'registry.invalid/db:1', memory: 3500}}}
        pipelines:
          default:
            - step: {services: [db], script: [echo ran]}
    """
    repository.write({"bitbucket-pipelines.yml": "image: registry.invalid/x:1\n" + textwrap.dedent(text)})
    done = repository.run("pipeline", "run", "--branch", "main")
    assert done.returncode != 0
    said = done.stderr.decode()
    assert "A step does not have the minimum resources needed to run (1024 MB). Services on the current step are consuming 3500 MB." in said
    assert "4096 MB - (db 3500) leaves 596 MB" in said
    assert b"registry.invalid/db" not in done.stdout


def test_promise_7_the_shell_is_bitbuckets(repository: Project) -> None:
    said = run(repository, """
        pipelines:
          default:
            - step:
                script:
                  - sh -c 'exit 3' || true
                  - echo "then $?"
                  - false && true
                  - if true; then
                  - echo joined
                  - fi
                  - |
                    cat <<END
                    here $(echo 1)
                    END
                    sh -c 'exit 4' || echo "kept $?"
                  - cd /tmp; X=1
                  - echo "$PWD $X"
                  - sh -c 'exit 42'
                after-script: ['echo "code $BITBUCKET_EXIT_CODE x=$X"', 'false', echo never]
    """, code=1)  # fmt: skip
    lines = of(said, 1).splitlines()
    for wanted in ("then 0", "joined", "here 1", "kept 4", "/tmp 1", "code 42 x="):
        assert wanted in lines
    assert "never" not in lines
    assert "exit code 42" in lines


def test_promise_8_no_daemon_is_needed(repository: Project) -> None:
    repository.environment["DOCKER_HOST"] = "unix:///nowhere.sock"
    assert "no daemon" in of(run(repository, "pipelines: {default: [{step: {script: [echo no daemon]}}]}\n"), 1)
    assert not list((repository.root / "pipelines").rglob("*-docker.log"))


def test_promise_9_what_cannot_run_here_is_said_before_with_its_line(repository: Project) -> None:
    text = """
        definitions: {agents: {helper: {provider: rovodev, prompt: do it}}}
        pipelines:
          default:
            - step: {script: [echo ran]}
            - step:
                image: {name: x.dkr.ecr.eu.amazonaws.com/a, aws: {oidc-role: arn}}
                script:
                  - agent: helper
    """
    project = repository
    project.write({"bitbucket-pipelines.yml": "image: base:1\n" + textwrap.dedent(text)})
    done = project.run("pipeline", "run", "--branch", "main")
    assert done.returncode == 69, done.stderr.decode()
    assert b"ran" not in done.stdout
    said = done.stderr.decode()
    assert re.search(r"bitbucket-pipelines.yml:10:\d+: error: .*agent", said)
    assert re.search(r"bitbucket-pipelines.yml:8:\d+: error: .*OIDC role", said)


@pytest.mark.skipif(not CASES.is_dir(), reason="no conformance cases (LAMINA_CONFORMANCE)")
def test_promise_10_every_case_as_its_manifest_says() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lamina.testing.conformance", "pipelines", str(CASES)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
