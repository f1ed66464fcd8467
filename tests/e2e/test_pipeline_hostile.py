"""Steps that mean harm or go wild: forks without end, daemons that outlive their time, a full disk."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamina.testing import bases
from lamina.testing.project import Project

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="the rung root is used"),
    pytest.mark.skipif(bases.why_not() is not None, reason=bases.why_not() or ""),
]


@pytest.fixture
def repository(tmp_path: Path, seeded_store: Path) -> Project:
    shutil.copytree(seeded_store, tmp_path / "store", symlinks=True)
    made = Project(tmp_path / "repo", tmp_path / "store")
    made.folder.mkdir()
    return made


def pipelines(project: Project, text: str) -> None:
    project.write({"bitbucket-pipelines.yml": "image: base:1\n" + textwrap.dedent(text)})


def patched(project: Project, change: str, *options: str) -> subprocess.CompletedProcess[str]:
    """A run with other limits: `change` is a statement that sets them."""
    program = f"import sys; import lamina.pipelines.run.steps as s, lamina.pipelines.run.diskroom as d; {change}; "
    program += "from lamina.cli.main import main; sys.exit(main())"
    environment = {"PATH": os.environ["PATH"], "LAMINA_ROOT": str(project.root)}
    return subprocess.run(
        [sys.executable, "-c", program, "pipeline", "run", "--branch", "main", *options],
        cwd=project.folder, env=environment, capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip


def left(word: str) -> list[str]:
    """Processes with this word in their command line, when none has gone for a while."""
    deadline = time.monotonic() + 120
    while True:
        found = subprocess.run(["pgrep", "-f", word], capture_output=True, text=True, check=False).stdout.split()
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.05)


def test_max_time_ends_daemons_too(repository: Project) -> None:
    """In units of a tenth of a second in place of minutes."""
    pipelines(repository, """
        pipelines:
          default:
            - step:
                max-time: 10
                script:
                  - setsid sh -c 'trap "" TERM HUP INT; (sleep 7654321 & sleep 7654322 &) & sleep 7654323' > /dev/null 2>&1 &
                  - (setsid setsid sleep 7654324 &)
                  - echo begun; sleep 7654325
                after-script: [echo after]
            - step: {script: [echo never]}
    """)  # fmt: skip
    done = patched(repository, "s.MINUTE = 0.1")
    assert done.returncode == 1, done.stderr
    assert "exceeded the maximum time of 10 minutes" in done.stdout
    assert "] never" not in done.stdout
    assert not left("sleep 765432")


def test_forks_without_end_stay_in_their_step(repository: Project) -> None:
    from lamina.sandbox import groups

    if "pids" not in groups.possible():
        pytest.skip("no control group can be made here")
    pipelines(repository, """
        pipelines:
          default:
            - step:
                script: ['i=0; while [ $i -lt 300 ]; do sleep 8765432 & i=$((i+1)); done; echo "made $i"']
            - step: {script: [echo later]}
    """)  # fmt: skip
    done = patched(repository, "s._PIDS = 100")
    assert "] made 300" not in done.stdout
    assert "fork" in done.stdout
    assert not left("sleep 8765432")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "small"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(place)], capture_output=True, check=False).returncode:
        pytest.skip("no tmpfs can be mounted")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_is_one_line_and_the_run_goes_on_to_its_end(repository: Project, small_disk: Path) -> None:
    shutil.copytree(repository.root, small_disk / "store", symlinks=True)
    project = Project(repository.folder, small_disk / "store")
    pipelines(project, """
        definitions: {caches: {deps: deps}}
        pipelines:
          default:
            - step:
                caches: [deps]
                script:
                  - dd if=/dev/zero of=/big bs=1M || dd if=/dev/zero of=/more bs=1k || true
                  - seq 100000; echo "the end"
                  - rm /big /more; head -c 16000000 /dev/urandom > deps/a; head -c 16000000 /dev/urandom > deps/b
            - step: {script: [echo fine]}
    """)  # fmt: skip
    done = patched(project, "d.FLOOR = 0")
    said = done.stdout + done.stderr
    assert "Traceback" not in said
    assert "] the end" in said
    assert "lines are missing in the log file: No space left on device" in said
    assert 'Cache "deps: deps": not saved: No space left on device' in said
    assert "] fine" in said
    assert done.returncode == 0
    assert project.run("check").returncode == 0
    assert project.run("pipeline", "logs", "--list").stdout.startswith(b"1  passed in ")


def test_a_step_that_fills_the_disk_is_ended_before_it_is_full(repository: Project, small_disk: Path) -> None:
    shutil.copytree(repository.root, small_disk / "store", symlinks=True)
    # Much at once, then slowly: who looks on is given seconds, whatever else the machine does.
    pipelines(repository, """
        pipelines:
          default:
            - parallel:
              - step:
                  name: greedy
                  script: ['head -c 14000000 /dev/zero > /big; while :; do head -c 50000 /dev/zero >> /big || exit 9; sleep 0.02; done']
              - step: {name: modest, script: [sleep 0.1, echo good]}
    """)  # fmt: skip
    # A floor and a size that fit the small disk: what is left when the step is ended is what others live on.
    small = Project(repository.folder, small_disk / "store")
    done = patched(small, "d.FLOOR, d.SHARE, d.LEAST = 24 << 20, 1, 1 << 20")
    assert done.returncode == 1, done.stderr
    assert "1. greedy: failed in" in done.stdout
    assert "(it was ended because the disk is full: it has written " in done.stdout
    assert "2. modest: passed in" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_a_tree_deeper_than_a_path_can_say(repository: Project) -> None:
    pipelines(repository, """
        definitions: {caches: {deps: deps}}
        pipelines:
          default:
            - step:
                caches: [deps]
                script:
                  - name=$(printf '%0250d' 0)
                  - cd deps; echo x > top; for i in $(seq 16); do mkdir $name; cd $name; echo x > f; done
                artifacts: ["deps/**"]
            - step: {script: [cat deps/top]}
    """)  # fmt: skip
    done = repository.run("pipeline", "run", "--branch", "main")
    said = done.stdout.decode() + done.stderr.decode()
    assert "Traceback" not in said
    assert done.returncode == 0, said
    assert 'Cache "deps: deps": saved' in said


def test_parts_of_secrets_on_both_streams_and_in_reports(repository: Project, tmp_path: Path) -> None:
    pipelines(repository, """
        pipelines:
          default:
            - step:
                name: show
                script:
                  - printf 'hun'; sleep 0.1; printf 'ter2\\n'; printf 'hunt' >&2; sleep 0.1; printf 'er2\\n' >&2
                  - echo "V=$TOKEN" > "$BITBUCKET_PIPELINES_VARIABLES_PATH"
                output-variables: [V]
                after-script: [echo "$TOKEN" | od -c | head -1; echo $TOKEN]
            - step: {name: later, script: ['echo "v=$V"; exit 1']}
    """)  # fmt: skip
    report = tmp_path / "report.json"
    done = repository.run("pipeline", "run", "--branch", "main", "--secret-var", "TOKEN=hunter2", "--report", str(report))
    assert b"hunter2" not in done.stdout + done.stderr + report.read_bytes()
    assert done.returncode == 1
