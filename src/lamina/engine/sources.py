"""Where files come from beside images: the build context, named contexts, URLs, git repositories, and the answers of watched URLs."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, cast

from lamina.dockerfile.ignore import IgnoreRules
from lamina.engine.results import Files
from lamina.graph.ops import GitOp, HttpOp
from lamina.layer.context import ContextTree
from lamina.layer.reading import Facts
from lamina.layer.statcache import StatCache
from lamina.layer.tree import FileTree
from lamina.store.local import LocalStore

if TYPE_CHECKING:
    from lamina.engine.freshness.lockfile import Lock
    from lamina.engine.runners import git, http

Warn = Callable[[str, str], None]


class Contexts:
    """The directories of one build. ContextTree is not made for threads: hold `lock` while one is used."""

    def __init__(self, store: LocalStore, folders: Mapping[str, Path], ignore: str | None, *, exact_modes: bool) -> None:
        self.lock = threading.RLock()
        self._store = store
        self._folders = folders
        self._ignore = ignore
        self._exact = exact_modes
        self._trees: dict[str, ContextTree] = {}
        self._given: dict[str, Files] = {}

    def give(self, name: str, tree: FileTree, label: str) -> None:
        """Files of a context that is no directory of the user's."""
        with self.lock:
            self._given[name] = Files(tree, "context", label)

    def files(self, name: str) -> Files:
        with self.lock:
            if name in self._given:
                return self._given[name]
            tree = self._trees.get(name)
            if tree is None:
                folder = self._folders[name]
                text = self._ignore if name == "context" else _ignore_of(folder)
                rules = IgnoreRules.parse(text) if text is not None else None
                tree = ContextTree(folder, rules, StatCache(self._cache_file(folder)), self._exact)
                self._trees[name] = tree
        return Files(tree, "context", "build context" if name == "context" else f"context {name}")

    def certain(self) -> list[tuple[str, list[str | Facts]]] | None:
        """The folders of the main context that were looked at (ContextTree.certain); None where that cannot be relied upon."""
        with self.lock:
            found: list[tuple[str, list[str | Facts]]] = []
            if self._given:
                return None
            for name, tree in self._trees.items():
                folders = tree.certain() if name == "context" else None
                if folders is None:
                    return None
                root = str(self._folders[name])
                found += [(os.path.join(root, os.fsdecode(path)), facts) for path, facts in folders]
            return found

    def save(self) -> None:
        """Keep what was learnt of the files for the next build."""
        with self.lock:
            for tree in self._trees.values():
                tree.save()

    def _cache_file(self, folder: Path) -> Path:
        return self._store.layout.context / hashlib.sha256(str(folder.absolute()).encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _ignore_of(folder: Path) -> str | None:
    try:
        return (folder / ".dockerignore").read_text(encoding="utf-8", errors="surrogateescape")
    except (FileNotFoundError, NotADirectoryError):
        return None


class _Answers:
    """The store's table of URL answers, as the fetcher wants it."""

    def __init__(self, store: LocalStore) -> None:
        self._facts = store.facts

    def get(self, url: str) -> http.Answer | None:
        from lamina.engine.runners import http

        found = self._facts.http(_remembered(url))
        return None if found is None else http.Answer(found.etag or "", found.modified or "", found.digest)

    def put(self, url: str, answer: http.Answer) -> None:
        self._facts.set_http(_remembered(url), answer.digest, answer.etag or None, answer.last_modified or None)


def _remembered(url: str) -> str:
    """The name of a URL in the store: a digest where a password or a query (a signed address) may be in it."""
    if "@" in url or "?" in url:
        return "sha256:" + hashlib.sha256(url.encode("utf-8", "surrogateescape")).hexdigest()
    return url


class Sources:
    """URLs and repositories of one build; each is asked once. Thread-safe."""

    def __init__(self, store: LocalStore, scratch: Path, pins: Lock | None = None) -> None:
        self._store = store
        self._pins = pins
        self._scratch = scratch
        self.ssh: Path | None = None  # agent or key for repositories
        self._lock = threading.Lock()
        self._trees: dict[HttpOp | GitOp, FileTree] = {}
        self._ids: dict[HttpOp | GitOp, str] = {}
        self._watched: dict[str, str] = {}
        self._number = 0

    def result(self, op: HttpOp | GitOp) -> Files:
        """Identified by bytes or commit. With --checksum no request is made; files come when they are needed (`load`)."""
        with self._lock:
            if isinstance(op, HttpOp):
                if op.checksum is None and op not in self._trees:
                    self._fetch(op)
                if op.checksum is None and self._pins is not None:
                    self._pins.check_url(op.url, self._ids[op])
                return Files(cast(FileTree, _Late(self, op)), "url", op.url, op.checksum or self._ids[op])
            from lamina.engine.runners import git

            url = _git_url(op)
            if op not in self._ids:
                self._ids[op] = git.resolve(url, ssh=self.ssh) if self._pins is None else self._pins.commit(op.url, op.ref)
            commit = self._ids[op]
            kept = f":{op.ref}" if op.keep_git_dir else ""
            return Files(cast(FileTree, _Late(self, op)), "git", op.url, f"{commit}:{op.subdir}:{op.submodules}{kept}")

    def used(self) -> dict[HttpOp | GitOp, str]:
        """What was asked for, and the digest or commit that it came to."""
        with self._lock:
            return dict(self._ids)

    def watched(self) -> dict[str, str]:
        """Watched URLs that were asked, and their answers."""
        with self._lock:
            return dict(self._watched)

    def load(self, files: Files) -> None:
        if isinstance(files.tree, _Late):
            files.tree.load()

    def tree(self, op: HttpOp | GitOp) -> FileTree:
        with self._lock:
            if op not in self._trees:
                if isinstance(op, HttpOp):
                    self._fetch(op)
                else:
                    from lamina.engine.runners import git

                    folder = self._next_folder() / "checkout"
                    git.checkout(_git_url(op), self._ids[op], folder, keep_git_dir=op.keep_git_dir, submodules=op.submodules, ssh=self.ssh)
                    self._trees[op] = ContextTree(folder, exact_modes=True)
            return self._trees[op]

    def _fetch(self, op: HttpOp) -> None:
        from lamina.engine.runners import http

        answers = _Answers(self._store)
        known = answers.get(op.url)
        have = known is not None and not self._store.blobs.missing([known.digest])
        folder = self._next_folder()
        path = folder / op.filename
        got = http.fetch(op.url, path, checksum=op.checksum, answers=answers, have=have)
        if got.path is None:
            with self._store.blobs.open(got.digest) as blob:
                path.write_bytes(blob.read())
        else:
            with self._store.blobs.ingest(got.digest) as writer, path.open("rb") as body:
                while piece := body.read(1 << 20):
                    writer.write(piece)
                writer.commit()
        path.chmod(0o600)
        when = got.mtime if got.mtime is not None else 0.0
        os.utime(path, (when, when))
        self._trees[op] = ContextTree(folder, exact_modes=True)
        self._ids[op] = got.digest

    def folder(self, name: str) -> Path:
        """A new folder of this build, for what a source is unpacked to."""
        with self._lock:
            return self._next_folder(name)

    def _next_folder(self, name: str = "source") -> Path:
        self._number += 1
        folder = self._scratch / f"{name}{self._number}"
        folder.mkdir(parents=True)
        return folder

    def watch(self, url: str, warn: Warn) -> str:
        """The answer of a `# lamina: watch=` URL; offline the old one, and the output says so."""
        with self._lock:
            if url not in self._watched:
                from lamina.engine.runners import http

                try:
                    self._watched[url] = http.probe(url)
                    self._store.facts.set_watch(url, self._watched[url])
                except http.FetchFailed as error:
                    old = self._store.facts.watch(url)
                    if old is None:
                        raise
                    warn(f"watched URL {url} does not answer ({error.message}); the earlier answer is used", "watch-offline")
                    self._watched[url] = old.answer
            return self._watched[url]


class _Late:
    """A FileTree that is fetched when it is first looked into."""

    def __init__(self, sources: Sources, op: HttpOp | GitOp) -> None:
        self._sources = sources
        self._op = op

    def load(self) -> FileTree:
        return self._sources.tree(self._op)

    def __getattr__(self, name: str) -> object:
        return getattr(self.load(), name)


def _git_url(op: GitOp) -> git.GitUrl:
    from lamina.engine.runners import git

    return git.GitUrl(op.url, op.ref, op.subdir, op.checksum, op.keep_git_dir, op.submodules)
