"""Commits of a repository as file trees, read from git's objects: no checkout, no hook, no filter, nothing of the repository runs.

One `git cat-file --batch` answers everything. What a checkout would add is not there: line ending conversion, LFS files, submodules' files.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Container, Mapping, Sequence
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import msgspec

from lamina.diagnostics.errors import LaminaError
from lamina.layer import merkle
from lamina.layer.context import Ignore, IgnoreFolder
from lamina.layer.entry import Entry, Kind
from lamina.layer.links import follow

if TYPE_CHECKING:
    from types import TracebackType

_TREE, _LINK, _MODULE = 0o40000, 0o120000, 0o160000


class NoRepository(LaminaError):
    """Not a git repository, git refuses it, or it has no such commit."""

    code = "replay/no-repository"
    default_exit = 66


class Commit(msgspec.Struct, frozen=True):
    id: str
    when: int  # committer's time, seconds
    subject: str


class Item(NamedTuple):
    """A name in a git tree."""

    mode: int
    oid: str


class Repository:
    """`folder` is the build's context, somewhere in the work tree. A context manager; not for threads."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._folder = folder
        # Objects that are not here are not fetched: the answer must not depend on a server, and a repository's settings must start nothing.
        own = {
            "LC_ALL": "C.UTF-8",
            "GIT_OPTIONAL_LOCKS": "0",
            "GIT_NO_LAZY_FETCH": "1",
            "GIT_ALLOW_PROTOCOL": "none",
            "GIT_NO_REPLACE_OBJECTS": "1",
        }
        self._environment = {name: value for name, value in environment.items() if not name.startswith("GIT_")} | own
        self.prefix = self._git("rev-parse", "--show-prefix").removesuffix(b"\n").strip(b"/")
        self._trees: dict[str, dict[bytes, Item]] = {}
        self._contents: dict[str, tuple[str, int]] = {}
        self.digests: dict[tuple[str, bytes, str], bytes] = {}  # (tree, path where rules count, rules) -> Merkle digest
        self._batch = subprocess.Popen(
            ["git", "cat-file", "--batch"],
            cwd=folder,
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def __enter__(self) -> Repository:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._batch.stdin is not None
        assert self._batch.stdout is not None
        self._batch.stdin.close()
        self._batch.stdout.close()
        self._batch.wait()

    def commits(self, count: int, ref: str = "HEAD") -> list[Commit]:
        """The last `count` commits of the branch (first parents), oldest first."""
        raw = self._git("rev-list", "--first-parent", f"--max-count={count}", "--end-of-options", ref, "--")
        found = []
        for oid in raw.decode("ascii").split():
            head, _, message = self._object(oid).partition(b"\n\n")
            committer = next((line for line in head.split(b"\n") if line.startswith(b"committer ")), b"committer 0 +0000")
            when = committer.rsplit(b" ", 2)[1]
            subject = message.partition(b"\n")[0].decode("utf-8", "replace")
            found.append(Commit(oid, int(when) if when.isdigit() and len(when) < 13 else 0, subject))
        return found[::-1]

    def root(self, commit: str) -> str | None:
        """The tree of the context's folder in a commit; None when it is not there."""
        head = self._object(commit).partition(b"\n")[0]
        oid = head.removeprefix(b"tree ").decode("ascii")
        for part in self.prefix.split(b"/") if self.prefix else ():
            item = self.children(oid).get(part)
            if item is None or item.mode != _TREE:
                return None
            oid = item.oid
        return oid

    def children(self, tree: str) -> dict[bytes, Item]:
        found = self._trees.get(tree)
        if found is None:
            found = self._trees[tree] = _parse(self._object(tree), len(tree) // 2)
        return found

    def blob(self, oid: str) -> bytes:
        return self._object(oid)

    def content(self, oid: str) -> tuple[str, int]:
        """(sha256 hex, size) of a blob's bytes."""
        found = self._contents.get(oid)
        if found is None:
            data = self._object(oid)
            found = self._contents[oid] = (sha256(data).hexdigest(), len(data))
        return found

    def _object(self, oid: str) -> bytes:
        assert self._batch.stdin is not None
        assert self._batch.stdout is not None
        try:
            self._batch.stdin.write(oid.encode("ascii") + b"\n")
            self._batch.stdin.flush()
            head = self._batch.stdout.readline().split()
            if len(head) != 3:
                raise NoRepository(f"the repository has no object {oid}", hint="a shallow or partial clone? git fetch --unshallow")
            data = self._batch.stdout.read(int(head[2]))
            self._batch.stdout.read(1)
        except BrokenPipeError as error:
            raise NoRepository("git cat-file ended") from error
        return data

    def _git(self, *arguments: str) -> bytes:
        try:
            done = subprocess.run(
                ["git", *arguments], cwd=self._folder, env=self._environment, stdin=subprocess.DEVNULL, capture_output=True, check=False
            )
        except FileNotFoundError as error:
            raise NoRepository("git is not installed") from error
        if done.returncode != 0:
            said = done.stderr.decode("utf-8", "replace").strip().splitlines()
            raise NoRepository(f"git {arguments[0]}: {said[0].removeprefix('fatal: ') if said else done.returncode}")
        return done.stdout


def _parse(raw: bytes, size: int) -> dict[bytes, Item]:
    """A tree object: `MODE NAME\\0ID`, `size` bytes of id."""
    found: dict[bytes, Item] = {}
    at = 0
    while at < len(raw):
        zero = raw.index(b"\0", at)
        mode, _, name = raw[at:zero].partition(b" ")
        at = zero + 1 + size
        found[name] = Item(int(mode, 8), raw[zero + 1 : at].hex())
    return found


class GitTree:
    """A FileTree over a folder of a commit, with what a checkout under any umask gives a context: 644, 755, owner root.

    `rules` is the text of the ignore file, for remembering; `ignore` the same compiled.
    """

    def __init__(self, repository: Repository, root: str, ignore: Ignore | None = None, rules: str = "") -> None:
        self._repository = repository
        self._root = root
        self._ignore = ignore
        self._rules_text = rules
        self._rules: dict[bytes, IgnoreFolder] = {} if ignore is None else {b"": ignore.root()}
        self._shown: dict[bytes, dict[bytes, Item]] = {}
        self._visible: dict[bytes, bool] = {}  # an ignored folder -> whether anything below it is there

    def entry(self, path: bytes) -> Entry | None:
        found = self._lookup(path)
        if found is not None or b"/" not in path:
            return found
        parent, _, name = path.rpartition(b"/")
        where = follow(self._lookup, parent)
        return None if where is None or where == parent else self._lookup(where + b"/" + name if where else name)

    def resolve(self, path: bytes) -> bytes | None:
        return follow(self._lookup, path)

    def children(self, path: bytes) -> Sequence[bytes]:
        return sorted(self._folder(path) or ())

    def open(self, path: bytes) -> BinaryIO:
        item = self._item(path)
        if item is None or item.mode in (_TREE, _MODULE):
            raise NoRepository(f"{os.fsdecode(path)} is no file of this commit")
        return BytesIO(self._repository.blob(item.oid))

    def content(self, path: bytes) -> str:
        item = self._item(path)
        if item is None:
            raise NoRepository(f"{os.fsdecode(path)} is no file of this commit")
        return self._repository.content(item.oid)[0]

    def takes_git(self) -> bool:
        """Whether a checkout's own `.git` would be part of this context: git has no such file, a build does."""
        if self._repository.prefix:
            return False
        return self._ignore is None or not self._ignore.root().directory(".git").ignored

    def digest(self, path: bytes) -> bytes:
        """The Merkle digest of a whole folder, as Selection.digest of it; remembered for each git tree."""
        known = self._repository.digests
        oid = "" if not path else (self._item(path) or Item(0, "")).oid
        todo = [(path, self._key(path, oid))]  # a folder stands above those in it: any depth, no stack
        while todo:
            here, key = todo[-1]
            base = here + b"/" if here else b""
            items = (self._folder(here) or {}) if key not in known else {}
            folders = {name: self._key(base + name, item.oid) for name, item in items.items() if item.mode in (_TREE, _MODULE)}
            missing = [(base + name, below) for name, below in folders.items() if below not in known]
            if missing:
                todo += missing
                continue
            todo.pop()
            if key not in known:
                leaves = [(name, self._leaf(base + name, item)) for name, item in items.items() if name not in folders]
                head = merkle.header(b"d", 0o755, 0, 0, ())
                below = [(name, known[one]) for name, one in folders.items()]
                known[key] = merkle.folder_digest(head, merkle.leaves_digest(leaves), below)
        return known[self._key(path, oid)]

    def _key(self, path: bytes, oid: str) -> tuple[str, bytes, str]:
        return oid or self._root, path if self._ignore is not None else b"", self._rules_text

    def _leaf(self, path: bytes, item: Item) -> bytes:
        entry = self._entry(path, item)
        content = "" if entry.kind is Kind.SYMLINK else self._repository.content(item.oid)[0]
        return merkle.leaf(entry, entry.mode, 0, 0, content)

    def _lookup(self, path: bytes) -> Entry | None:
        if not path:
            return Entry(b"", Kind.DIRECTORY, 0o755)
        item = self._item(path)
        return None if item is None else self._entry(path, item)

    def _entry(self, path: bytes, item: Item) -> Entry:
        if item.mode in (_TREE, _MODULE):
            return Entry(path, Kind.DIRECTORY, 0o755)
        if item.mode == _LINK:
            return Entry(path, Kind.SYMLINK, 0o777, link=self._repository.blob(item.oid))
        return Entry(path, Kind.FILE, 0o755 if item.mode & 0o100 else 0o644, size=self._repository.content(item.oid)[1])

    def _item(self, path: bytes) -> Item | None:
        parent, _, name = path.rpartition(b"/")
        folder = self._folder(parent)
        return None if folder is None else folder.get(name)

    def _folder(self, path: bytes) -> dict[bytes, Item] | None:
        """The visible names of a folder, None for what is none."""
        found = self._shown.get(b"")
        if found is None:
            found = self._shown[b""] = self._filtered(b"", self._repository.children(self._root))
        for here in _ways(path, self._shown):
            parent, _, name = here.rpartition(b"/")
            item = self._shown[parent].get(name)
            if item is None or item.mode != _TREE:
                return {} if item is not None and item.mode == _MODULE and here == path else None
            self._shown[here] = self._filtered(here, self._repository.children(item.oid))
        return self._shown[path]

    def _filtered(self, path: bytes, items: dict[bytes, Item]) -> dict[bytes, Item]:
        """As ContextTree: an ignored folder with something visible below it is there all the same."""
        if self._ignore is None:
            return items
        rules = self._rules_of(path)
        if rules.skip:
            return {}
        base = path + b"/" if path else b""
        kept = set(rules.kept([_decoded(name) for name, item in items.items() if item.mode != _TREE]))
        shown: dict[bytes, Item] = {}
        for name, item in items.items():
            if item.mode != _TREE:
                if _decoded(name) in kept:
                    shown[name] = item
                continue
            below = self._rules[base + name] = rules.directory(_decoded(name))
            if not below.ignored or self._any_visible(base + name, item.oid):
                shown[name] = item
        return shown

    def _any_visible(self, path: bytes, tree: str) -> bool:
        """Whether anything below an ignored folder is there all the same. What is found out of the folders on the way is kept: the next asks for them."""
        known, nothing = self._visible, []
        todo = [(path, tree)]
        while todo:
            here, tree = todo.pop()
            rules = self._rules_of(here)
            found = known.get(here, False)
            if not found and here not in known and not rules.skip:
                items = self._repository.children(tree)
                found = any(rules.kept([_decoded(name) for name, item in items.items() if item.mode != _TREE]))
                for name, item in items.items() if not found else ():
                    if item.mode == _TREE:
                        below = self._rules[here + b"/" + name] = rules.directory(_decoded(name))
                        found = found or not below.ignored
                        todo.append((here + b"/" + name, item.oid))
                nothing.append(here)
            if found:
                while here != path:
                    known[here] = True
                    here = here.rpartition(b"/")[0]
                known[path] = True
                return True
        known.update(dict.fromkeys(nothing, False))
        return False

    def _rules_of(self, path: bytes) -> IgnoreFolder:
        for here in _ways(path, self._rules):
            parent, _, name = here.rpartition(b"/")
            self._rules[here] = self._rules[parent].directory(_decoded(name))
        return self._rules[path]


def _ways(path: bytes, known: Container[bytes]) -> list[bytes]:
    """The folders on the way to `path` and itself, from the first that is not known; "" always is."""
    found = []
    while path and path not in known:
        found.append(path)
        path = path.rpartition(b"/")[0]
    return found[::-1]


def _decoded(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
