"""A repository that is far larger than it looks: refused in one line, nothing is left behind. Archives: test_build_contexts.py."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from lamina.testing.project import Project


def one_line(project: Project, done: subprocess.CompletedProcess[bytes]) -> str:
    said = done.stderr.decode().strip().splitlines()
    assert done.returncode not in (0, 70), said
    assert len([line for line in said if "error" in line]) == 1, said
    left = [path for path in project.root.rglob("*") if path.is_file() and path.stat().st_size > 100 << 20]
    assert left == []
    return "\n".join(said)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("git"), reason="git is not installed")
def test_a_repository_of_trees_that_name_each_other(project: Project, tmp_path: Path) -> None:
    """Ten names in each of eleven trees: 10^11 files out of 3 KB."""
    folder = tmp_path / "bomb.git"
    folder.mkdir()
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}

    def git(*words: str, stdin: str = "") -> str:
        command = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b", *words]
        return subprocess.run(command, input=stdin, capture_output=True, text=True, check=True, env=environment).stdout.strip()

    git("init", "-q", "--bare", "-b", "main")
    made = git("hash-object", "-w", "--stdin", stdin="x" * 10_000)
    kind, mode = "blob", "100644"
    for _ in range(11):
        made = git("mktree", stdin="".join(f"{mode} {kind} {made}\t{name}\n" for name in "abcdefghij"))
        kind, mode = "tree", "040000"
    git("update-ref", "refs/heads/main", git("commit-tree", "-m", "x", made))
    done = project.run("build", "-q", f"file://{folder}#main", timeout=180)
    assert "is refused: at " in one_line(project, done)
