"""`lamina replay`."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Lamina = Callable[..., Any]


def git(folder: Path, *arguments: str) -> None:
    environment = os.environ | {"GIT_CONFIG_GLOBAL": os.devnull}
    subprocess.run(
        ["git", "-c", "user.name=t", "-c", "user.email=t@t", *arguments], cwd=folder, env=environment, check=True, capture_output=True
    )


@pytest.fixture
def repository(app: Path) -> Path:
    git(app, "init", "-q", "-b", "main")
    git(app, "add", ".")
    git(app, "commit", "-qm", "one")
    for text in ("two", "three"):
        (app / "b").write_text(text)
        git(app, "commit", "-qam", f"b {text}")
    return app


def test_it_says_what_each_instruction_cost(lamina: Lamina, repository: Path) -> None:
    said = lamina("replay")
    assert said.code == 0
    assert "2 commits after the first: " in said.out
    assert "2/2" in said.out
    assert "COPY b /b" in said.out
    assert "no record of these steps" in said.err
    assert lamina("build", "-q", ".").code == 0
    again = lamina("replay")
    assert "no record" not in again.err
    assert "?" not in again.out.split("instruction")[1].splitlines()[1]


def test_keys_are_those_of_a_build(lamina: Lamina, repository: Path) -> None:
    """COPY upon an empty filesystem has the same key here as in a build: its seconds come from that very record."""
    assert lamina("build", "-q", ".").code == 0
    from lamina.dockerfile import parse
    from lamina.dockerfile.lower import Options
    from lamina.engine.engine import own_platform
    from lamina.engine.replay_git import GitTree, Repository
    from lamina.engine.replay_keys import keys_of, lowered, unknown_base

    with Repository(repository, dict(os.environ)) as git_repository:
        head = git_repository.commits(1)[0]
        root = git_repository.root(head.id)
        assert root is not None
        tree = GitTree(git_repository, root)
        options = Options(build_platform=own_platform(), platform=own_platform())
        graph, states = lowered(parse((repository / "Dockerfile").read_text()), options, unknown_base)
        found = keys_of(graph, states, lambda name: tree)
    listed = lamina("cache", "ls", "--json").out
    assert found[0].key in listed


def test_json(lamina: Lamina, repository: Path) -> None:
    document = json.loads(lamina("replay", "--commits", "2", "--json", ".").out)
    assert len(document["commits"]) == 2
    assert document["hit_rate"] == document["hits"] / (document["hits"] + document["misses"])
    assert {"stage", "text", "misses", "commits", "seconds", "lost"} <= document["steps"][0].keys()


def test_file_and_target(lamina: Lamina, repository: Path) -> None:
    assert "COPY a /a" in lamina("replay", "-f", "Dockerfile", "--target", "parts").out
    assert "[stage-1]" not in lamina("replay", "--target", "parts").out
    assert "lies outside" in lamina("replay", "-f", "/etc/passwd").err
    gone = lamina("replay", "-f", "Other")
    assert gone.code == 0
    assert "there is no Other" in gone.err


def test_no_repository(lamina: Lamina, app: Path) -> None:
    said = lamina("replay")
    assert said.code == 66
    assert "not a git repository" in said.err
    assert "Traceback" not in said.err
