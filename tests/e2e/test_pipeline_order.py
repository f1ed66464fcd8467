"""Order of a run: stages, children, the final step, conditions, groups of one concurrency, two runs at once."""

from __future__ import annotations

import json
import os
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


@pytest.fixture
def repository(tmp_path: Path, seeded_store: Path) -> Project:
    import shutil

    shutil.copytree(seeded_store, tmp_path / "store", symlinks=True)
    made = Project(tmp_path / "repo", tmp_path / "store")
    made.folder.mkdir()
    return made


def run(project: Project, text: str, *options: str, code: int = 0) -> tuple[list[tuple[str, str]], str]:
    """(name and status of each step, what was printed) of a run outside git."""
    project.write({"bitbucket-pipelines.yml": "image: base:1\n" + textwrap.dedent(text)})
    report = project.root.parent / "report.json"
    done = project.run("pipeline", "run", "--branch", "main", "--report", str(report), *options)
    assert done.returncode == code, done.stdout.decode() + done.stderr.decode()
    steps = json.loads(report.read_text())["steps"]
    return [(step["name"], step["status"]) for step in steps], done.stdout.decode()


def test_a_failed_stage_ends_the_pipeline_and_the_final_step_runs(repository: Project) -> None:
    found, _ = run(repository, """
        pipelines:
          default:
            - stage:
                name: build
                steps:
                  - step: {name: a, script: ['true']}
                  - step: {name: b, script: ['false']}
                  - step: {name: c, script: ['true']}
            - step: {name: d, script: ['true']}
            - final: {name: end, script: ['true']}
    """, code=1)  # fmt: skip
    assert found == [("a", "passed"), ("b", "failed"), ("c", "not-run"), ("d", "not-run"), ("end", "passed")]


def test_a_manual_stage_is_asked_for_once(repository: Project) -> None:
    text = """
        pipelines:
          default:
            - step: {name: a, script: ['true']}
            - stage: {name: ship, trigger: manual, steps: [{step: {name: b, script: ['true']}}, {step: {name: c, script: ['true']}}]}
    """
    assert run(repository, text, code=1)[0] == [("a", "passed"), ("b", "declined"), ("c", "declined")]
    assert run(repository, text, "--yes")[0] == [("a", "passed"), ("b", "passed"), ("c", "passed")]


def test_a_child_pipeline_gets_its_input_variables(repository: Project) -> None:
    _, said = run(repository, """
        pipelines:
          default:
            - step: {name: a, type: pipeline, custom: sub, input-variables: {WHO: "$BITBUCKET_BRANCH"}}
            - step: {name: last, script: [echo after]}
          custom:
            sub:
              - variables: [{name: WHO}]
              - step: {name: inner, script: ['echo "for $WHO"']}
    """)  # fmt: skip
    assert "for main\n" in said
    assert said.index("for main") < said.index("] after")


def test_steps_of_one_concurrency_group_wait_for_each_other(repository: Project) -> None:
    step = (
        "- step: {caches: [shared], concurrency-group: one, script: [mkdir /tmp/x, test ! -e $BITBUCKET_CLONE_DIR/../tmp/busy, sleep 0.2]}"
    )
    _, said = run(repository, f"""
        definitions: {{caches: {{shared: ~/shared}}}}
        pipelines:
          default:
            - parallel:
                {step}
                {step}
    """)  # fmt: skip
    first, second = (said.index(f"[{number}. Step {number}] Build setup") for number in (1, 2))
    begun, ended = max(first, second), min(said.rindex(f"[{number}. Step {number}] Build teardown") for number in (1, 2))
    assert ended < begun


def test_a_limit_of_jobs_holds(repository: Project) -> None:
    text = "pipelines: {default: [{parallel: [" + ", ".join(["{step: {script: [sleep 0.1]}}"] * 4) + "]}]}"
    _, said = run(repository, text, "--jobs", "1")
    order = [line.partition("] ")[2] for line in said.splitlines() if line.endswith(("Build setup", "Build teardown"))]
    assert order == ["Build setup", "Build teardown"] * 4


def test_two_runs_of_one_project_at_once(repository: Project) -> None:
    repository.write(
        {
            "bitbucket-pipelines.yml": "image: base:1\npipelines: {default: [{parallel: ["
            "{step: {caches: [node], script: [echo $BITBUCKET_BUILD_NUMBER > node_modules/$BITBUCKET_BUILD_NUMBER, echo x > out], artifacts: [out]}},"
            "{step: {script: [sleep 0.3]}}]}, {step: {script: [cat out]}}]}\n"
        }
    )
    environment = {"PATH": os.environ["PATH"], "LAMINA_ROOT": str(repository.root)}
    command = [sys.executable, "-m", "lamina", "pipeline", "run", "--branch", "main"]
    runs = [subprocess.Popen(command, cwd=repository.folder, env=environment, stdout=subprocess.PIPE) for _ in range(3)]
    said = [one.communicate(timeout=180)[0].decode() for one in runs]
    assert [one.returncode for one in runs] == [0, 0, 0], said
    assert len({text.split(":")[0] for text in said}) == 3
    done = repository.run("pipeline", "caches", "ls", "--json")
    assert sum(1 for row in json.loads(done.stdout) if row["name"] == "node") >= 1


def test_caches_are_listed_explained_and_removed(repository: Project) -> None:
    run(repository, "pipelines: {default: [{step: {name: fill, caches: [node], script: [echo 1 > node_modules/a]}}]}")
    assert b"node  node_modules  " in repository.run("pipeline", "caches", "ls").stdout
    told = repository.run("pipeline", "caches", "explain", "node").stdout.decode()
    assert "hit: 1 files" in told
    assert 'saved by "fill"' in told
    assert repository.run("pipeline", "caches", "explain", "nodes").returncode == 66
    assert repository.run("pipeline", "caches", "rm", "node").stdout == b"1 removed\n"
    assert "miss: nobody has saved it yet" in repository.run("pipeline", "caches", "explain", "node").stdout.decode()
    assert repository.run("pipeline", "caches", "rm").returncode == 2


def test_escape_codes_do_not_reach_the_terminal(repository: Project) -> None:
    _, said = run(repository, r"""
        pipelines:
          default:
            - step:
                name: "evil\e[2Jname"
                script: ["printf 'a\\033[31mred\\033[0m\\033]0;title\\007b\\033[2J\\n'", "printf 'one\\rtwo\\n'"]
    """)  # fmt: skip
    assert "\x1b[31mred\x1b[0m" in said
    assert "\x1b]0" not in said
    assert "\x1b[2J" not in said
    assert "] two\x1b" in said or "] two\n" in said


def test_the_ci_cache_takes_a_build_to_a_clean_machine(repository: Project) -> None:
    repository.write({"Dockerfile": "FROM base:1\nRUN echo made > /made\n", ".dockerignore": ".lamina-cache\n"})
    assert repository.run("ci-cache", "restore").stdout == b".lamina-cache: nothing was restored; the build begins without a cache\n"
    repository.build()
    assert repository.run("ci-cache", "save").returncode == 0
    other = Project(repository.folder, repository.root.parent / "other")
    bases.busybox_tar(repository.root.parent / "base.tar")
    assert other.run("import", str(repository.root.parent / "base.tar"), "base:1").returncode == 0
    done = other.run("ci-cache", "restore")
    assert done.returncode == 0, done.stderr
    assert other.build().verdicts() == "C"
    small = other.run("ci-cache", "save", "--max-size", "1k")
    assert small.returncode == 0
    assert b"dropped" in small.stdout


@pytest.mark.parametrize("rung", ["chroot", "proot", "userns-single"])
def test_weaker_rungs_run_plain_steps_and_refuse_services(repository: Project, rung: str, busybox: Path) -> None:
    project = Project(repository.folder, repository.root.parent / "weak", {"LAMINA_SANDBOX": rung})
    done = project.run("import", str(busybox), "base:1")
    if done.returncode == 69:
        pytest.skip(done.stderr.decode().splitlines()[0])
    found, said = run(project, """
        definitions: {services: {db: {image: base:1}}}
        pipelines:
          default:
            - step: {caches: [pip], script: [echo made > out, echo c > ~/.cache/pip/c], artifacts: [out]}
            - step: {caches: [pip], script: [cat out ~/.cache/pip/c], after-script: ['echo "code $BITBUCKET_EXIT_CODE"']}
    """)  # fmt: skip
    assert [status for _, status in found] == ["passed", "passed"]
    for wanted in ("made", "c", "code 0"):
        assert f"] {wanted}\n" in said
    if rung != "userns-single":
        _, said = run(project, """
            definitions: {services: {db: {image: base:1}}}
            pipelines: {default: [{step: {services: [db], script: [echo no]}}]}
        """, code=1)  # fmt: skip
        assert "services need namespaces" in said


def test_a_rerun_of_another_pipeline_is_refused(repository: Project) -> None:
    run(repository, "pipelines: {default: [{step: {script: ['false']}}], custom: {x: [{step: {script: ['true']}}]}}", code=1)
    done = repository.run("pipeline", "run", "--custom", "x", "--rerun-failed")
    assert done.returncode == 2
    assert b"the last run was of the pipeline 'default'" in done.stderr


def test_an_image_that_cannot_be_had_is_named(repository: Project) -> None:
    _, said = run(repository, "pipelines: {default: [{step: {image: 'nobody.invalid/x:1', script: [x]}}]}", code=1)
    assert "nobody.invalid/x:1: " in said
