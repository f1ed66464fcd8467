"""Cache mounts that machines share: what one filled the other has, and nobody loses what another wrote."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest

from lamina.testing.project import Project


@pytest.fixture
def machines(project: Project, seeded_store: Path, tmp_path: Path) -> list[Project]:
    """Three machines with stores and folders of their own."""
    found = [project]
    for name in ("second", "third"):
        shutil.copytree(seeded_store, tmp_path / name, symlinks=True)
        (tmp_path / f"{name}-context").mkdir()
        found.append(Project(tmp_path / f"{name}-context", tmp_path / name))
    return found


@pytest.fixture
def cache(tmp_path: Path) -> str:
    return f"dir:{tmp_path}/cache"


def step(machine: Project, command: str, mount: str = "id=tools,target=/c") -> None:
    machine.dockerfile(f"FROM base:1\nRUN --mount=type=cache,{mount} {command}\n")


def said(machine: Project, *options: str) -> str:
    """What the step printed."""
    lines = machine.build("--cache-mounts", *options).stderr.splitlines()
    return "\n".join(line.partition(" | ")[2] for line in lines if line.startswith("#") and " | " in line)


def both(cache: str) -> tuple[str, ...]:
    return "--cache-from", cache, "--cache-to", cache


def versions(cache: str) -> list[Path]:
    return [path for path in Path(cache.removeprefix("dir:"), "mounts").rglob("*") if path.is_file()]


def test_what_one_machine_filled_another_has(machines: list[Project], cache: str) -> None:
    one, two, _ = machines
    step(one, "mkdir -p /c/sub && echo kept > /c/sub/file && chmod 640 /c/sub/file && ln -s sub/file /c/link && chmod 6755 /c/sub")
    one.build("--cache-mounts", *both(cache))
    assert len(versions(cache)) == 1
    step(two, "cat /c/link; stat -c '%a %u' /c/sub/file /c/sub; echo more > /c/more")
    assert said(two, *both(cache)) == "kept\n640 0\n755 0", "set-user-id bits stay behind"
    step(one, "cat /c/more /c/sub/file")
    assert said(one, *both(cache)) == "more\nkept", "an older mount gets what is new"


def test_a_build_that_changes_nothing_sends_nothing(machines: list[Project], cache: str) -> None:
    one, two, _ = machines
    step(one, "echo a > /c/a")
    one.build("--cache-mounts", *both(cache))
    step(two, "cat /c/a")
    assert said(two, *both(cache)) == "a"
    step(one, "cat /c/a && true")
    assert said(one, *both(cache)) == "a"
    assert len(versions(cache)) == 1


def test_two_writers_at_once_and_the_union_has_both(machines: list[Project], cache: str) -> None:
    one, two, three = machines
    step(one, "echo 1 > /c/one; echo same > /c/same")
    step(two, "echo 2 > /c/two; echo same > /c/same")
    threads = [threading.Thread(target=machine.build, args=("--cache-mounts", *both(cache))) for machine in (one, two)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(versions(cache)) >= 1
    step(three, "cat /c/one /c/two /c/same && echo 3 > /c/three")
    assert said(three, *both(cache)) == "1\n2\nsame"
    step(one, "cat /c/two /c/three")
    assert said(one, *both(cache)) == "2\n3"
    removed = one.run("cache", "prune", "--dry-run", "--explain", "--older-than", "7d", cache.removesuffix("/"))
    assert removed.returncode == 0, removed.stderr
    checked = one.run("cache", "verify", "--bytes", cache)
    assert checked.returncode == 0, checked.stderr
    assert b"cache mount tools" in one.run("cache", "ls", "--no-trunc", cache).stdout


def test_the_newest_alone(machines: list[Project], cache: str) -> None:
    one, two, three = machines
    step(one, "echo 1 > /c/one")
    one.build("--cache-mounts=merge=newest", "--cache-to", cache)
    step(two, "echo 2 > /c/two")
    two.build("--cache-mounts=merge=newest", "--cache-to", cache)
    step(three, "ls /c")
    lines = three.build("--cache-mounts=merge=newest", *both(cache)).stderr.splitlines()
    assert [line.partition(" | ")[2] for line in lines if " | " in line] == ["two"]


def test_only_the_mounts_that_are_named(machines: list[Project], cache: str) -> None:
    one, _, _ = machines
    step(one, "echo a > /c/a")
    one.build("--cache-mounts=id=other", *both(cache))
    assert versions(cache) == []
    step(one, "echo b > /c/b")
    one.build("--cache-mounts=id=tools", *both(cache))
    assert len(versions(cache)) == 1


def test_a_build_that_fails_sends_nothing(machines: list[Project], cache: str) -> None:
    one, _, _ = machines
    step(one, "echo a > /c/a; false")
    assert one.build("--cache-mounts", *both(cache), ok=False).code != 0
    assert versions(cache) == []


def test_a_scope_that_is_not_believed_is_refused_in_words(machines: list[Project], cache: str) -> None:
    one, two, _ = machines
    step(one, "echo evil > /c/a")
    one.build("--cache-mounts", "--cache-to", f"{cache},scope=pr/1")
    step(two, "ls /c; echo")
    outcome = two.build("--cache-mounts", "--cache-from", cache)
    assert "not-trusted" in outcome.stderr
    assert "does not believe the scope pr/1" in outcome.stderr
    assert "| a" not in outcome.stderr


def test_by_hand(machines: list[Project], cache: str) -> None:
    one, two, _ = machines
    step(one, "echo a > /c/a", "id=tools,target=/c,mode=0700")
    one.build()
    pushed = one.run("cache", "push", cache, "--cache-mounts")
    assert pushed.returncode == 0, pushed.stderr
    assert b"cache mount tools" in pushed.stdout
    pulled = two.run("cache", "pull", "--cache-mounts", cache)
    assert pulled.returncode == 0, pulled.stderr
    assert b"1 files taken over" in pulled.stdout
    step(two, "cat /c/a; stat -c %a /c", "id=tools,target=/c,mode=0700")
    lines = two.build().stderr.splitlines()
    assert [line.partition(" | ")[2] for line in lines if " | " in line] == ["a", "700"]


def test_what_the_command_line_refuses(machines: list[Project], cache: str) -> None:
    one = machines[0]
    step(one, "true")
    for options, words in (
        (("--cache-mounts",), "needs a shared cache"),
        (("--cache-mounts=merge=all", "--cache-to", cache), "no rule 'all'"),
        (("--cache-mounts=tools", "--cache-to", cache), "is not understood"),
    ):
        outcome = one.build(*options, ok=False)
        assert outcome.code == 2
        assert words in outcome.stderr
