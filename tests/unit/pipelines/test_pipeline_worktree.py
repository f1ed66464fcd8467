from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from lamina.pipelines.worktree import NoRepository, changed_files, inspect


def git(root: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(root), *identity, *arguments], check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    git(tmp_path, "init", "-q", "-b", "main")
    (tmp_path / "a b.txt").write_text("1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "ü").write_text("2")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "second [skip ci]\n\nbody")
    return tmp_path


def test_what_git_knows(repository: Path) -> None:
    git(repository, "remote", "add", "origin", "git@bitbucket.org:team/app.git")
    found = inspect(repository / "sub")
    assert (found.root, found.branch, found.workspace, found.slug) == (repository.resolve(), "main", "team", "app")
    assert len(found.commit) == 40
    assert "[skip ci]" in found.message


def test_an_origin_with_a_password_is_not_kept(repository: Path) -> None:
    git(repository, "remote", "add", "origin", "https://user:secret@bitbucket.org/team/app.git")
    found = inspect(repository)
    assert (found.origin, found.slug) == ("", "app")


def test_changed_files_of_the_last_commit_and_since(repository: Path) -> None:
    assert changed_files(repository) == ("sub/ü",)
    git(repository, "tag", "start", "HEAD^")
    (repository / "c").write_text("3")
    git(repository, "add", ".")
    git(repository, "commit", "-qm", "third")
    assert changed_files(repository) == ("c",)
    assert changed_files(repository, since="start") == ("c", "sub/ü")
    with pytest.raises(NoRepository):
        changed_files(repository, since="--help")


def test_a_first_commit_changed_everything(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / "x").write_text("")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "x")
    assert changed_files(tmp_path) == ("x",)


def test_a_merge_is_compared_with_its_first_parent(repository: Path) -> None:
    git(repository, "checkout", "-qb", "side", "HEAD^")
    (repository / "s").write_text("")
    git(repository, "add", ".")
    git(repository, "commit", "-qm", "side")
    git(repository, "checkout", "-q", "main")
    git(repository, "merge", "-q", "--no-ff", "--no-edit", "side")
    assert changed_files(repository) == ("s",)


def test_a_folder_outside_git(tmp_path: Path) -> None:
    found = inspect(tmp_path)
    assert (found.root, found.branch, found.slug) == (tmp_path, "", tmp_path.name)
    assert changed_files(tmp_path) is None
