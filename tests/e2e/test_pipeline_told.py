"""What a run tells: logs, reports, timeline, plan; secrets in none of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from lamina.testing import bases
from lamina.testing.fakeregistry import FakeRegistry
from lamina.testing.project import Project

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="the rung root is used"),
    pytest.mark.skipif(bases.why_not() is not None, reason=bases.why_not() or ""),
]


@pytest.fixture
def repository(tmp_path: Path, seeded_store: Path) -> Project:
    import shutil

    shutil.copytree(seeded_store, tmp_path / "store", symlinks=True)
    made = Project(tmp_path / "repo", tmp_path / "store")
    made.folder.mkdir()
    return made


def pipelines(project: Project, text: str) -> None:
    project.write({"bitbucket-pipelines.yml": "image: base:1\n" + textwrap.dedent(text)})


def said(project: Project, *arguments: str, code: int = 0) -> str:
    done = project.run("pipeline", *arguments)
    assert done.returncode == code, done.stdout.decode() + done.stderr.decode()
    return done.stdout.decode()


TWO = """
    pipelines:
      default:
        - step: {name: first, script: [echo one]}
        - parallel:
          - step:
              name: tests
              script:
                - mkdir -p test-results
                - printf '<testsuite><testcase name="a %s"><failure message="%s"/></testcase></testsuite>' "$TOKEN" "$TOKEN" > test-results/x.xml
                - echo "the token is $TOKEN"
          - step: {name: bad, script: [echo two; exit 3]}
"""


def test_logs_reports_and_a_timeline_without_secrets(repository: Project, tmp_path: Path) -> None:
    pipelines(repository, TWO)
    options = [
        "--branch",
        "main",
        "--secret-var",
        "TOKEN=hun ter2",
        "--junit",
        str(tmp_path / "j.xml"),
        "--report",
        str(tmp_path / "r.json"),
    ]
    shown = said(repository, "run", *options, code=1)
    assert "  2. tests: passed in " in shown
    assert ", tests: 1 failed, from 1 file" in shown
    assert next(line.split("|")[0].strip() for line in shown.splitlines() if "|" in line) == "1. first"
    assert '<testcase classname="" name="a $TOKEN"' in (tmp_path / "j.xml").read_text()
    steps = json.loads((tmp_path / "r.json").read_text())["steps"]
    assert [(step["status"], (step["tests"] or {}).get("failed")) for step in steps] == [("passed", None), ("passed", 1), ("failed", None)]
    texts = [shown, (tmp_path / "j.xml").read_text(), (tmp_path / "r.json").read_text(), said(repository, "logs")]
    texts += [path.read_text() for path in (repository.root / "pipelines").rglob("*") if path.is_file()]
    assert not [text for text in texts if "hun ter2" in text]


def test_logs_of_one_step_and_of_the_failed_ones(repository: Project) -> None:
    pipelines(repository, TWO)
    said(repository, "run", "--branch", "main", "--secret-var", "TOKEN=hunter2", code=1)
    assert "[3. bad] two" in said(repository, "logs", "--failed")
    assert "] one" not in said(repository, "logs", "1", "--step", "bad")
    assert "[1. first] one" in said(repository, "logs", "--step", "1")
    assert said(repository, "logs", "--list").startswith("1  failed in ")
    for arguments, message in ((("logs", "7"), "there is no run 7"), (("logs", "--step", "frist"), "did you mean 'first'")):
        done = repository.run("pipeline", *arguments)
        assert done.returncode in (2, 66)
        assert message in done.stderr.decode()


def test_logs_follow_a_run_to_its_end(repository: Project, tmp_path: Path) -> None:
    pipelines(repository, """
        definitions: {caches: {gate: /gate}}
        pipelines:
          default:
            - step: {name: waits, caches: [gate], script: [echo begun, 'until [ -e /gate/open ]; do sleep 0.05; done; echo gone on']}
    """)  # fmt: skip
    environment = {"PATH": os.environ["PATH"], "LAMINA_ROOT": str(repository.root), "HOME": str(tmp_path)}
    command = [sys.executable, "-m", "lamina", "pipeline"]
    run = subprocess.Popen([*command, "run", "--branch", "main"], cwd=repository.folder, env=environment, stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    for line in run.stdout:
        if line.endswith("] begun\n"):
            break
    follow = subprocess.Popen([*command, "logs", "--follow"], cwd=repository.folder, env=environment, stdout=subprocess.PIPE, text=True)
    assert follow.stdout is not None
    seen = []
    for line in follow.stdout:
        seen.append(line)
        if line.endswith("] begun\n"):
            (found,) = [path for path in (repository.root).rglob("cache0") if path.is_dir()]
            (found / "open").touch()
    run.stdout.read()
    assert run.wait(90) == 0
    assert follow.wait(90) == 0
    assert seen[-1] == "run 1: passed\n"
    assert "[1. waits] gone on\n" in seen


def test_a_plan_tells_what_each_cache_would_find(repository: Project) -> None:
    text = """
        definitions: {caches: {deps: {path: deps, key: {files: [lock]}}}}
        pipelines:
          default:
            - step: {caches: [deps, docker, node], services: [docker], script: [echo x > deps/x]}
    """
    repository.write({"lock": "1"})
    pipelines(repository, text)
    before = said(repository, "plan", "--branch", "main")
    assert "cache deps: deps, keyed by lock: miss: nobody has saved it yet" in before
    assert "cache docker: images of the docker service: shared: the build cache of this machine" in before
    said(repository, "run", "--branch", "main")
    after = said(repository, "plan", "--branch", "main")
    assert "keyed by lock: hit: 1 files, 0.0 MiB" in after
    repository.write({"lock": "2"})
    states = json.loads(said(repository, "plan", "--branch", "main", "--json"))["items"][0]["step"]["caches"]
    assert (states[0]["state"], states[0]["reason"]) == ("miss", "its key is new because lock changed")
    assert "miss: nobody has saved it" in said(repository, "plan", "--branch", "main", "--parity")


def test_the_login_of_an_image_fetches_it_and_is_shown_nowhere(repository: Project) -> None:
    with FakeRegistry(users={"me": "pass-word"}, auth="token") as registry:
        name = f"{registry.host}/private:1"
        assert repository.run("tag", "base:1", name).returncode == 0
        done = repository.run("login", "-u", "me", "--password-stdin", registry.host, stdin=b"pass-word")
        assert done.returncode == 0, done.stderr.decode()
        assert repository.run("push", name).returncode == 0
        assert repository.run("logout", registry.host).returncode == 0
        assert repository.run("rmi", name).returncode == 0
        text = f"""
            pipelines:
              default:
                - step:
                    image: {{name: '{name}', username: $WHO, password: $PASS}}
                    script: [echo inside]
        """
        pipelines(repository, text)
        refused = said(repository, "run", "--branch", "main", "--var", "WHO=me", "--secret-var", "PASS=wrong-word", code=1)
        assert "inside" not in refused.replace("+ echo inside", "")
        shown = said(repository, "run", "--branch", "main", "--secret-var", "WHO=me", "--secret-var", "PASS=pass-word")
        assert "] inside\n" in shown
        assert "pass-word" not in shown


def test_a_docker_service_is_held_to_its_memory(repository: Project) -> None:
    from lamina.sandbox import groups

    if "memory" not in groups.possible():
        pytest.skip("no control group can be made here")
    pipelines(repository, """
        definitions: {services: {docker: {memory: 160}}}
        pipelines:
          default:
            - step:
                services: [docker]
                script:
                  - docker run --rm base:1 sh -c 'x=$(head -c 300000000 /dev/zero | tr "\\0" a); echo ${#x}'
    """)  # fmt: skip
    shown = said(repository, "run", "--branch", "main", "--docker-cli", "own", code=1)
    assert "Service 'docker' exceeded memory limit." in shown


def test_an_ended_run_says_so_in_its_record(repository: Project) -> None:
    pipelines(repository, "pipelines: {default: [{step: {name: long, script: [echo begun, sleep 600]}}]}\n")
    environment = {"PATH": os.environ["PATH"], "LAMINA_ROOT": str(repository.root)}
    command = [sys.executable, "-m", "lamina", "pipeline", "run", "--branch", "main"]
    for number, word in ((signal.SIGINT, "stopped"), (signal.SIGKILL, "killed")):
        with subprocess.Popen(command, cwd=repository.folder, env=environment, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if line.endswith("] begun\n"):
                    assert "running" in said(repository, "logs", "--list").splitlines()[0]
                    process.send_signal(number)
                    break
            process.stdout.read()
        assert f"  {word}" in said(repository, "logs", "--list").splitlines()[0]
