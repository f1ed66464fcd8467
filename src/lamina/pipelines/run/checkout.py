"""What a step finds in its clone directory: a shallow clone as Bitbucket makes it, with the changes of the work tree that are not committed.

One pristine folder is made for each depth and every step gets a copy. No hook of the repository runs.
"""

from __future__ import annotations

import os
import stat
import subprocess
import threading
from pathlib import Path
from typing import Protocol

import msgspec

from lamina.diagnostics.errors import LaminaError
from lamina.pipelines.model import Clone
from lamina.pipelines.run.files import Tree, clone_tree

_QUIET = (
    "-c",
    "core.hooksPath=/dev/null",
    "-c",
    "advice.detachedHead=false",
    "-c",
    "core.fsmonitor=false",
    "-c",
    "protocol.file.allow=always",
)


class CannotClone(LaminaError):
    """git could not make the clone, or a pull request cannot be merged."""

    code = "pipeline/clone"
    default_exit = 1


class Wanted(msgspec.Struct, frozen=True):
    """`ref`: a branch, tag or commit; empty for what is checked out. `merge`: the destination of a pull request, which `ref` is merged into.
    `uncommitted`: the work tree's changes too. `repository` False: a plain folder, copied as it is."""

    root: Path
    ref: str = ""
    merge: str = ""
    uncommitted: bool = True
    repository: bool = True


class Clones(Protocol):
    """Where a step's clone comes from."""

    def put(self, clone: Clone, target: Path) -> str:
        """Make `target`, which must not exist; says what it is, in words."""
        ...


class Checkouts:
    """Thread-safe. `folder` is ours and goes with the run."""

    def __init__(self, wanted: Wanted, folder: Path) -> None:
        self._wanted = wanted
        self._folder = folder
        self._lock = threading.Lock()
        self._made: dict[tuple[int, bool], Path] = {}
        self.changed = 0  # files of the work tree that differ from the commit

    def put(self, clone: Clone, target: Path) -> str:
        """As Clones."""
        pristine, words = self.pristine(clone)
        if pristine is None:
            target.mkdir()
        else:
            clone_tree(pristine, target)
        return words

    def pristine(self, clone: Clone) -> tuple[Path | None, str]:
        """A folder that nobody may change, the same one for the same clone; None for an empty one. And what it is, in words."""
        if clone.enabled is False:
            return None, "clone: disabled, the clone directory is empty"
        key = (0 if self._wanted.merge else clone.depth or 0, bool(clone.lfs))
        with self._lock:
            if key not in self._made:
                place = self._folder / f"pristine{len(self._made)}"
                self._make(place, *key)
                self._made[key] = place
        return self._made[key], self._words(key[0])

    def _words(self, depth: int) -> str:
        if not self._wanted.repository:
            return f"copy of {self._wanted.root}, which is no git repository"
        told = f"clone of {self._wanted.ref or 'HEAD'}" + (f" at depth {depth}" if depth else " with its whole history")
        if self._wanted.merge:
            return f"{told}, merged into {self._wanted.merge}"
        if not self._wanted.uncommitted:
            return told
        return f"{told}, with {self.changed} uncommitted change{'s' if self.changed != 1 else ''}" if self.changed else told

    def _make(self, place: Path, depth: int, lfs: bool) -> None:
        wanted = self._wanted
        if not wanted.repository:
            clone_tree(wanted.root, place)
            return
        environment = _environment() | ({} if lfs else {"GIT_LFS_SKIP_SMUDGE": "1"})
        commit = self._git(
            wanted.root, environment, "rev-parse", "--verify", "--end-of-options", f"{wanted.ref or 'HEAD'}^{{commit}}"
        ).strip()
        branch = self._git(wanted.root, environment, "rev-parse", "--abbrev-ref", wanted.ref or "HEAD").strip()
        self._git(place.parent, environment, "init", "--quiet", "--template=", str(place))
        how = ["--depth", str(depth)] if depth else []
        source = f"file://{wanted.root}"
        try:
            self._git(place, environment, "fetch", "--quiet", "--no-tags", *how, source, commit)
        except CannotClone:  # a server side that serves no bare commits
            self._git(place, environment, "fetch", "--quiet", *how, source, wanted.ref or "HEAD")
        if wanted.merge:
            self._git(place, environment, "fetch", "--quiet", source, wanted.merge)
            self._git(place, environment, "checkout", "--quiet", "--detach", "FETCH_HEAD")
            self._set(place, environment)
            try:
                self._git(place, environment, "merge", "--quiet", "--no-edit", "-m", f"Merge {wanted.ref} into {wanted.merge}", commit)
            except CannotClone as error:
                raise CannotClone(
                    f"{wanted.ref} cannot be merged into {wanted.merge}: {error.message}", hint="Bitbucket would fail here too"
                ) from error
            return
        here = ["-B", branch] if branch and branch != "HEAD" and not branch.startswith("-") else ["--detach"]
        self._git(place, environment, "checkout", "--quiet", *here, commit)
        self._set(place, environment)
        if wanted.uncommitted:
            self.changed = self._overlay(place, environment)

    def _set(self, place: Path, environment: dict[str, str]) -> None:
        for name, value in (
            ("user.name", "bitbucket-pipelines"),
            ("user.email", "commits-noreply@bitbucket.org"),
            ("push.default", "current"),
        ):
            self._git(place, environment, "config", name, value)
        (place / ".git" / "info").mkdir(exist_ok=True)
        (place / ".git" / "info" / "exclude").write_text(".bitbucket/pipelines/generated\n")

    def _overlay(self, place: Path, environment: dict[str, str]) -> int:
        """Files that were changed, added (and are not ignored) or removed since the commit; how many."""
        root = self._wanted.root
        changed = self._git(root, environment, "diff", "--name-only", "--no-renames", "--no-ext-diff", "-z", "HEAD").split("\0")
        added = self._git(root, environment, "ls-files", "--others", "--exclude-standard", "-z").split("\0")
        paths = [path for path in dict.fromkeys((*changed, *added)) if path and not path.endswith("/")]
        with Tree(place) as tree:
            for path in paths:
                source = root / path
                try:
                    found = os.lstat(source)
                except (FileNotFoundError, NotADirectoryError):
                    (place / path).unlink(missing_ok=True)
                    continue
                if stat.S_ISLNK(found.st_mode):
                    tree.link(path, os.readlink(source))
                elif stat.S_ISREG(found.st_mode):
                    tree.file(path, source, found)
        return len(paths)

    def _git(self, directory: Path, environment: dict[str, str], *arguments: str) -> str:
        command = ["git", "-C", str(directory), *_QUIET, *arguments]
        try:
            done = subprocess.run(command, capture_output=True, env=environment, stdin=subprocess.DEVNULL, check=False)
        except FileNotFoundError:
            raise CannotClone("git is not installed", hint="install git") from None
        if done.returncode:
            said = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
            raise CannotClone(f"git {arguments[0]}: {said[-1] if said else 'failed'}")
        return done.stdout.decode(errors="surrogateescape")


def _environment() -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    return kept | {"GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0"}
