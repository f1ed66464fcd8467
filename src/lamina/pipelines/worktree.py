"""What git knows of the folder that a pipeline would run for: branch, commit, changed files, origin. Reads only; no hook and no filter runs."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import msgspec

from lamina.diagnostics.errors import LaminaError

_ORIGIN = re.compile(r"[:/]([^/:]+)/([^/]+?)(?:\.git)?/?$")


class NoRepository(LaminaError):
    """The folder is not a git work tree, or a revision is not there."""

    code = "pipeline/no-repository"
    default_exit = 66


class Worktree(msgspec.Struct, frozen=True):
    """`branch` is empty on a detached head; everything is empty without a commit."""

    root: Path
    branch: str = ""
    commit: str = ""
    message: str = ""
    workspace: str = ""
    slug: str = ""
    origin: str = ""


def inspect(directory: Path) -> Worktree:
    """A folder outside git is its own root, with nothing known."""
    top = _git(directory, "rev-parse", "--show-toplevel")
    if top is None:
        return Worktree(directory, slug=directory.resolve().name)
    root = Path(top)
    origin = _git(root, "config", "--get", "remote.origin.url") or ""
    match = _ORIGIN.search(origin)
    return Worktree(
        root=root,
        branch=_git(root, "symbolic-ref", "--quiet", "--short", "HEAD") or "",
        commit=_git(root, "rev-parse", "--verify", "--quiet", "HEAD") or "",
        message=_git(root, "log", "--max-count=1", "--no-show-signature", "--format=%B") or "",
        workspace=match[1] if match else "",
        slug=match[2] if match else root.name,
        origin=origin if "@" not in origin.partition("://")[2] else "",
    )


def changed_files(root: Path, *, since: str | None = None) -> tuple[str, ...] | None:
    """Paths that the last commit changed (a merge: against its first parent), or everything since a revision. None when there is no commit.
    Raises NoRepository for a revision that is not there."""
    if since is not None:
        base = _git(root, "merge-base", "--end-of-options", since, "HEAD")
        if base is None:
            raise NoRepository(f"git does not know the revision {since!r} as an ancestor", hint="name a branch, a tag or a commit")
        return _paths(_git(root, "diff-tree", "-r", "-z", "--name-only", "--no-renames", base, "HEAD"))
    parent = _git(root, "rev-parse", "--verify", "--quiet", "HEAD^1")
    if parent:
        return _paths(_git(root, "diff-tree", "-r", "-z", "--name-only", "--no-renames", parent, "HEAD"))
    return _paths(_git(root, "ls-tree", "-r", "-z", "--name-only", "HEAD"))


def _paths(listed: str | None) -> tuple[str, ...] | None:
    return None if listed is None else tuple(path for path in listed.split("\0") if path)


def _git(directory: Path, *arguments: str) -> str | None:
    """The output without its last newline; None when git fails or is not there."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")} | {
        "GIT_OPTIONAL_LOCKS": "0",
        "LC_ALL": "C",
    }
    command = ["git", "-C", str(directory), "-c", "core.fsmonitor=false", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, env=environment, stdin=subprocess.DEVNULL, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.decode(errors="surrogateescape").rstrip("\n") if done.returncode == 0 else None
