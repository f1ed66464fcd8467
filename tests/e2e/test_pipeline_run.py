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


def test_uncommitted_changes_are_there_and_not_with_clean(project: Project) -> None:
    text = """
        pipelines:
          default:
            - step:
                script: [cat README new 2>/dev/null || echo old, git --version >/dev/null 2>&1 || test -d .git]
    """
    run(project, text)
    project.write({"README": "changed\n", "new": "also\n"})
    lines = of(run(project, None, commit=False), 1)
    assert "changed" in lines
    assert "also" in lines
    assert "clone of HEAD at depth 50, with 2 uncommitted changes" in lines
    lines = of(run(project, None, "--clean", commit=False), 1)
    assert "hello" in lines
    assert "changed" not in lines


def test_a_pull_request_builds_the_merge(project: Project) -> None:
    text = """
        pipelines:
          pull-requests:
            '**':
              - step: {script: ["cat ours theirs", 'echo "to $BITBUCKET_PR_DESTINATION_BRANCH"']}
          custom:
            x: [{step: {script: [x]}}]
    """
    run(project, text, "--custom", "x", "--var", "A=1", code=1)
    git(project, "checkout", "-q", "-b", "feature")
    project.write({"theirs": "from feature\n"})
    git(project, "add", "-A")
    git(project, "commit", "-q", "-m", "f")
    git(project, "checkout", "-q", "main")
    project.write({"ours": "from main\n"})
    git(project, "add", "-A")
    git(project, "commit", "-q", "-m", "m")
    lines = of(run(project, None, "--pull-request", "feature:main", commit=False), 1)
    assert {"from main", "from feature", "to main"} <= set(lines)


def test_artifacts_flow_to_later_steps_and_not_to_siblings(project: Project) -> None:
    lines = run(project, """
        pipelines:
          default:
            - parallel:
              - step:
                  script: [mkdir -p dist/deep, echo one > dist/deep/a, ln -s /etc/passwd dist/link, echo both > same]
                  artifacts: ['dist/**', same]
              - step:
                  script: [sleep 1, test ! -e dist, echo two > same, echo s > scoped]
                  artifacts:
                    upload:
                      - {name: plain, paths: [same]}
                      - {name: mine, type: scoped, paths: [scoped]}
            - step:
                script: [cat dist/deep/a same, readlink dist/link, test ! -e scoped]
            - step:
                script: [test ! -e dist]
                artifacts: {download: false}
    """)  # fmt: skip
    third = of(lines, 3)
    assert {"one", "two", "/etc/passwd"} <= set(third)
    assert 'artifacts: same comes from "Step 1" and from "Step 2"; the later one is taken' in third


def test_output_variables(project: Project) -> None:
    text = """
        pipelines:
          default:
            - step:
                script: [echo VERSION=3 >> $BITBUCKET_PIPELINES_VARIABLES_PATH]
                output-variables: [VERSION, OTHER]
            - step:
                condition: {state: VERSION == "3"}
                script: ['echo "version $VERSION"']
            - step:
                condition: {state: VERSION == "4"}
                script: [echo no]
    """
    lines = run(project, text)
    assert "version 3" in of(lines, 2)
    assert "Output variable VERSION=3" in of(lines, 2)
    assert "3. Step 3: skipped" in "\n".join(lines)
    text = """
        pipelines:
          default:
            - step:
                script: [echo NOBODY=3 >> $BITBUCKET_PIPELINES_VARIABLES_PATH]
                output-variables: [VERSION]
    """
    assert "the output variable NOBODY is not declared in output-variables" in of(run(project, text, code=1), 1)


def test_two_steps_may_both_have_a_service_on_one_port(project: Project) -> None:
    project.write({"Dockerfile": 'FROM box:1\nENTRYPOINT ["sh", "-c"]\nCMD ["while true; do echo $NAME | nc -l -p 5432; done"]\n'})
    project.build("-t", "db:1")
    step = """
              - step:
                  services: [{name}]
                  script: ["for i in $(seq 600); do answer=$(nc localhost 5432 </dev/null) && break; sleep 0.1; done; echo got $answer", sleep 1]
    """
    text = f"""
        definitions:
          services:
            one: {{image: db:1, variables: {{NAME: first}}}}
            two: {{image: db:1, variables: {{NAME: second}}}}
        pipelines:
          default:
            - parallel:{step.format(name="one").rstrip()}{step.format(name="two")}
    """
    lines = run(project, text)
    assert "got first" in of(lines, 1)
    assert "got second" in of(lines, 2)


def test_a_step_with_services_reaches_out_through_a_proxy(project: Project) -> None:
    import http.server
    import threading

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(f"outside {self.path}\n".encode())

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.2", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.2:{server.server_port}/x"
    text = """
        definitions: {services: {idle: {image: idle:1}}}
        pipelines:
          default:
            - step: {services: [idle], script: [wget -qO- ADDRESS, "env -u http_proxy wget -qO- ADDRESS || echo closed"]}
    """
    project.write({"Dockerfile": 'FROM box:1\nCMD ["sleep", "600"]\n'})
    project.build("-t", "idle:1")
    lines = of(run(project, text.replace("ADDRESS", address)), 1)
    server.shutdown()
    assert lines.count("outside /x") == 1
    assert "closed" in lines


def test_fail_fast_stops_the_siblings(project: Project) -> None:
    lines = run(project, """
        pipelines:
          default:
            - parallel:
                fail-fast: true
                steps:
                - step: {script: [sleep 600]}
                - step: {script: ['false']}
            - step: {script: [x]}
    """, code=1)  # fmt: skip
    end = "\n".join(lines)
    assert "1. Step 1: stopped" in end
    assert "2. Step 2: failed" in end
    assert "3. Step 3: not-run" in end


def test_manual_steps_need_a_yes(project: Project) -> None:
    text = """
        pipelines:
          default:
            - step: {script: [echo a]}
            - step: {trigger: manual, script: [echo deployed]}
    """
    assert "2. Step 2: declined" in "\n".join(run(project, text, code=1))
    assert "deployed" in of(run(project, None, "--yes"), 2)


def test_one_step_only_and_rerun_of_what_failed(project: Project) -> None:
    text = """
        pipelines:
          default:
            - step:
                name: make
                script: [echo made > file, echo V=7 >> $BITBUCKET_PIPELINES_VARIABLES_PATH]
                artifacts: [file]
                output-variables: [V]
            - step:
                name: use
                script: ["cat file; echo v=$V n=$BITBUCKET_STEP_RUN_NUMBER", test "$GO" = yes]
    """
    run(project, text, code=1)
    lines = run(project, None, "--rerun-failed", "--var", "GO=yes")
    assert of(lines, 1) == []
    assert "made" in of(lines, 2)
    assert "v=7 n=2" in of(lines, 2)
    assert of(run(project, None, "--step", "make"), 2) == []
    done = project.run("pipeline", "run", "--step", "mak")
    assert done.returncode == 2
    assert b"did you mean 'make'" in done.stderr


def test_secrets_are_masked_everywhere(project: Project) -> None:
    text = """
        pipelines:
          default:
            - step: {script: ['echo "it is $TOKEN"', 'printf "hun"; sleep 0.2; printf "ter2\\n"']}
    """
    lines = run(project, text, "--secret-var", "TOKEN=hunter2")
    assert "it is $TOKEN" in of(lines, 1)
    assert "hunter2" not in "\n".join(lines)
    logs = list(project.root.glob("pipelines/*/runs/*/logs/*"))
    assert logs
    assert all(b"hunter2" not in log.read_bytes() for log in logs)
    kept = [path for path in project.root.rglob("*") if path.is_file() and b"hunter2" in path.read_bytes()]
    assert kept == []


def test_caches_stand_side_by_side_and_are_merged(project: Project) -> None:
    text = """
        definitions:
          caches:
            keyed: {path: ~/keyed, key: {files: [lock]}}
        pipelines:
          default:
            - parallel:
              - step: {name: a, caches: [node, keyed], script: ["ls node_modules ~/keyed", echo a > node_modules/a, echo k > ~/keyed/k]}
              - step: {name: b, caches: [node], script: ["ls node_modules", echo b > node_modules/b]}
    """
    project.write({"lock": "1"})
    lines = run(project, text)
    assert 'Cache "node": Not found' in of(lines, 1)
    assert 'Cache "node: node_modules": saved: 1 of 1 files are new or changed' in of(lines, 2)
    lines = run(project, None)
    for step in (1, 2):
        assert {"a", "b"} <= set(of(lines, step))
    assert any(line.startswith('Cache "node": hit: 2 files, saved by') and "merged with what" in line for line in of(lines, 1))
    assert 'Cache "keyed: ~/keyed": not saved: nothing in it changed' in of(lines, 1) or any("saved" in line for line in of(lines, 1))
    project.write({"lock": "2"})
    lines = run(project, None)
    assert 'Cache "keyed": miss: its key is new because lock changed' in of(lines, 1)


def test_a_step_that_failed_saves_no_cache(project: Project) -> None:
    text = """
        pipelines:
          default:
            - step: {caches: [pip], script: [echo x > ~/.cache/pip/x, 'false']}
    """
    assert 'Cache "pip": not saved because the step failed' in of(run(project, text, code=1), 1)
    assert 'Cache "pip": miss: nobody has saved it yet' in of(run(project, None, code=1), 1)


def test_a_pipe_gets_its_variables_and_the_clone(project: Project) -> None:
    project.write(
        {"Dockerfile": 'FROM box:1\nENTRYPOINT ["sh", "-c", "echo $NAME of $COUNT $LIST_1 in $PWD > said; cat README; exit $CODE"]\n'}
    )
    project.build("-t", "acct/pipe:1")
    text = """
        pipelines:
          default:
            - step:
                script:
                  - export WHO=me
                  - pipe: docker://acct/pipe:1
                    variables: {NAME: "it is $WHO", COUNT: $BITBUCKET_BUILD_NUMBER, LIST: [x, "y `id`"], CODE: "0"}
                  - cat said
                  - pipe: docker://acct/pipe:1
                    variables: {CODE: "3"}
                  - echo never
                after-script: ['echo "code $BITBUCKET_EXIT_CODE"']
    """
    lines = of(run(project, text, code=1), 1)
    assert "it is me of 1 y `id` in /opt/atlassian/pipelines/agent/build" in lines
    assert "code 3" in lines
    assert "never" not in lines


def test_the_machine_itself_as_image(project: Project) -> None:
    text = """
        pipelines:
          default:
            - step: {image: host, script: [python3 -c 'print(6*7)' || bash -c 'echo 42', 'echo x > /usr/bin/lamina-was-here', test ! -e /root/.bash_history]}
    """
    assert "42" in of(run(project, text), 1)
    assert not Path("/usr/bin/lamina-was-here").exists()


def test_hostile_patterns_stay_inside(project: Project, tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("secret of the machine\n")
    text = (
        """
        definitions:
          caches: {up: "../../x", bad: linked/inner}
        pipelines:
          default:
            - step:
                caches: [up, bad]
                script: [rm -rf got, "ln -s %s got", "mkdir -p keep && ln -s / keep/root"]
                artifacts: ['../**', '/etc/**', 'got/**', 'keep/**']
            - step:
                script: ["ls -la; test ! -e got/outside; readlink keep/root"]
    """
        % tmp_path
    )
    project.write({"linked": ""})
    (project.folder / "linked").unlink()
    (project.folder / "linked").symlink_to("/etc")
    done = project.run("pipeline", "run")
    assert done.returncode != 70
    project.write({"bitbucket-pipelines.yml": "image: box:1\n" + textwrap.dedent(text)})
    git(project, "add", "-A")
    git(project, "commit", "-q", "-m", "x")
    done = project.run("pipeline", "run")
    assert b"secret of the machine" not in done.stdout
    assert not Path("/etc/inner").exists()
    assert done.returncode in (0, 1, 2)


def test_ctrl_c_and_kill_leave_no_process_and_no_file(project: Project) -> None:
    import signal
    import sys
    import time

    run(project, """
        pipelines:
          default:
            - step: {script: [sleep 4321 & sleep 4322]}
    """, "--step", "9", code=2)  # fmt: skip
    for number, wanted in ((signal.SIGINT, 130), (signal.SIGKILL, -9)):
        environment = {"PATH": os.environ["PATH"], "LAMINA_ROOT": str(project.root)}
        process = subprocess.Popen(
            [sys.executable, "-m", "lamina", "pipeline", "run"],
            cwd=project.folder,
            env=environment,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert process.stdout is not None
        while b"+ sleep" not in (line := process.stdout.readline()):
            assert line, "it ended before the sleep"
        process.send_signal(number)
        process.stdout.read()
        assert process.wait(90) == wanted
        deadline = time.monotonic() + 120
        while subprocess.run(["pgrep", "-f", "sleep 432[12]"], capture_output=True, check=False).stdout and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not subprocess.run(["pgrep", "-f", "sleep 432[12]"], capture_output=True, check=False).stdout
    assert project.run("check").returncode == 0
    assert not [path for path in (project.root / "tmp").iterdir() if path.name.endswith("pipeline")]


def test_too_much_memory_is_told_in_bitbuckets_words(project: Project) -> None:
    if not os.access("/sys/fs/cgroup", os.W_OK):
        pytest.skip("no control group can be made here")
    text = """
        pipelines:
          default:
            - step:
                script: [dd if=/dev/zero of=/dev/null bs=1500M count=1, echo got it]
                runtime: {self-hosted: {memory: 1024}}
    """
    project.write({"bitbucket-pipelines.yml": "image: box:1\n" + textwrap.dedent(text)})
    git(project, "add", "-A")
    git(project, "commit", "-q", "-m", "x")
    done = project.run("pipeline", "run")
    if b"] got it" in done.stdout:
        pytest.skip("this machine's control groups hold no memory")
    assert b"Container 'Build' exceeded memory limit." in done.stdout
    assert done.returncode == 1
