"""Artifacts: what a step leaves for later ones. Kept in the run's folder; a step of a parallel group sees nothing of its siblings."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from lamina.oci import typed
from lamina.pipelines.globs import Glob, GlobError, compile_glob
from lamina.pipelines.model import Artifacts, Text
from lamina.pipelines.run.files import Tree, walk

_PLAIN = ""  # the name of what `artifacts:` lists without a name


class Kept(msgspec.Struct, frozen=True):
    """One upload of one step. `shared` ones flow to later steps."""

    name: str
    step: int
    title: str
    shared: bool
    files: int
    size: int
    folder: str


class ArtifactStore:
    """Thread-safe. `folder` outlives the run, so that failed steps can be run again with what the passed ones left."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._kept: list[Kept] = []
        index = folder / "index.json"
        if index.exists():
            self._kept = typed.json(index.read_bytes(), type=list[Kept])

    def forget(self, steps: Sequence[int]) -> None:
        """Of steps that run again."""
        with self._lock:
            self._kept = [kept for kept in self._kept if kept.step not in steps]

    def capture(self, artifacts: Artifacts | None, clone: Path, step: int, title: str, *, passed: bool) -> list[str]:
        """Take what the patterns match; the lines to print. Links and folders that lead out of the clone directory are not followed."""
        if artifacts is None:
            return []
        said: list[str] = []
        wanted: list[tuple[str, bool, tuple[Text, ...], tuple[Text, ...], int | None]] = []
        if artifacts.paths and passed:
            wanted.append((_PLAIN, True, artifacts.paths, (), None))
        for upload in artifacts.uploads:
            if upload.capture_on == "always" or (upload.capture_on == "success") == passed:
                wanted.append((upload.name, upload.type == "shared", upload.paths, upload.ignore_paths, upload.depth))
        if not wanted:
            return said
        found = sorted(walk(clone))
        for name, shared, paths, ignored, depth in wanted:
            said.append(self._one(name, shared, paths, ignored, depth, found, clone, step, title))
        return said

    def _one(
        self,
        name: str,
        shared: bool,
        paths: tuple[Text, ...],
        ignored: tuple[Text, ...],
        depth: int | None,
        found: Sequence[tuple[str, os.stat_result]],
        clone: Path,
        step: int,
        title: str,
    ) -> str:
        label = f'artifact "{name}"' if name else "artifacts"
        taken, dropped = compiled(paths), compiled(ignored)
        folder = self._folder / f"{step}-{len(self._kept)}-{os.urandom(4).hex()}"
        count = size = 0
        with Tree(folder) as tree:
            for path, status in found:
                if path.startswith(".git/") or not any(glob.matches(path) for glob in taken) or any(glob.matches(path) for glob in dropped):
                    continue
                if depth is not None and path.count("/") > depth:
                    continue
                if stat.S_ISLNK(status.st_mode):
                    tree.link(path, os.readlink(clone / path))
                else:
                    tree.file(path, clone / path, status)
                count += 1
                size += status.st_size
        self._add(Kept(name, step, title, shared, count, size, folder.name))
        patterns = " ".join(str(path) for path in paths)
        if not count:
            return f"{label}: nothing matches {patterns}" + (" (a folder's name matches nothing: write dist/**)" if _bare(paths) else "")
        return f"{label}: {count} file{'s' if count != 1 else ''}, {size} bytes match {patterns}"

    def _add(self, kept: Kept) -> None:
        with self._lock:
            self._kept.append(kept)
            temporary = self._folder / "index.new"
            temporary.write_bytes(msgspec.json.encode(self._kept))
            os.replace(temporary, self._folder / "index.json")

    def of(self, steps: Sequence[int]) -> list[tuple[Kept, Path]]:
        """What these steps left, in the order in which it was kept, and the folder of each."""
        with self._lock:
            return [(kept, self._folder / kept.folder) for kept in self._kept if kept.step in steps]

    def adopt(self, kept: Kept, fill: Callable[[Path], None]) -> Kept:
        """Keep what was captured elsewhere; `fill` makes the folder that it is given. An error of it means that nothing is kept."""
        folder = self._folder / f"{kept.step}-a-{os.urandom(8).hex()}"
        fill(folder)
        mine = msgspec.structs.replace(kept, folder=folder.name)
        self._add(mine)
        return mine

    def download(self, artifacts: Artifacts | None, clone: Path, before: Sequence[int]) -> list[str]:
        """Put what the steps `before` (in order) left into the clone directory; the lines to print, conflicts among them."""
        choice = True if artifacts is None else artifacts.download
        if choice is False:
            return ["artifacts: download is switched off"]
        names = None if choice is True else {text.value for text in choice}
        said: list[str] = []
        written: dict[str, Kept] = {}
        count = 0
        with self._lock:
            kept = sorted((one for one in self._kept if one.step in before and one.shared), key=lambda one: before.index(one.step))
        with Tree(clone) as tree:
            for one in kept:
                if names is not None and one.name not in names and one.title not in names:
                    continue
                source = self._folder / one.folder
                for path, status in walk(source):
                    if path in written and written[path].step != one.step:
                        said.append(f'artifacts: {path} comes from "{written[path].title}" and from "{one.title}"; the later one is taken')
                    written[path] = one
                    if stat.S_ISLNK(status.st_mode):
                        tree.link(path, os.readlink(source / path))
                    else:
                        tree.file(path, source / path, status)
                    count += 1
        if names is not None:
            said += [
                f"artifacts: nothing is called {name!r}" for name in sorted(names - {n for one in kept for n in (one.name, one.title)})
            ]
        return [f"artifacts: {count} file{'s' if count != 1 else ''} downloaded", *said] if count or said else []


def compiled(paths: Sequence[Text]) -> list[Glob]:
    """Those of the patterns that can be read."""
    found = []
    for path in paths:
        try:
            found.append(compile_glob(path.value.removeprefix("./")))
        except GlobError:
            continue  # said when the file was read
    return found


def _bare(paths: Sequence[Text]) -> bool:
    return any(not set(path.value) & set("*?{[") for path in paths)
