"""Copies between trees that a stranger wrote: below descriptors, never through a link, whatever stands in the way is replaced."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from lamina.diagnostics.errors import LaminaError

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MOST_LEVELS = 200
_PIECE = 1 << 22


class CannotCopy(LaminaError):
    code = "pipeline/copy"
    default_exit = 74


def clone_tree(source: Path, target: Path) -> None:
    """A whole tree of ours, with modes, times, owners and links; shares bytes where the file system can. `target` must not exist."""
    done = subprocess.run(
        ["cp", "-a", "--reflink=auto", "--", str(source), str(target)], stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    if done.returncode:
        why = done.stderr.decode(errors="replace").strip().splitlines()
        raise CannotCopy(f"cannot copy {source}: {why[0] if why else 'cp failed'}")


def walk(root: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Files and links below `root` as relative paths with their lstat, in no order. Folders that are links are not entered; other kinds are left out,
    and what lies deeper than 200 folders or than a path can say."""
    queue = [("", 0)]
    while queue:
        folder, level = queue.pop()
        try:
            entries = os.scandir(root / folder)
        except OSError:  # gone meanwhile, not ours to read, a path longer than a path can be
            continue
        with entries:
            for entry in entries:
                path = f"{folder}/{entry.name}" if folder else entry.name
                try:
                    found = entry.stat(follow_symlinks=False)
                except OSError:
                    continue
                if stat.S_ISDIR(found.st_mode):
                    if level < _MOST_LEVELS:
                        queue.append((path, level + 1))
                elif stat.S_ISREG(found.st_mode) or stat.S_ISLNK(found.st_mode):
                    yield path, found


class Tree:
    """A root below which files are put. Use as a context manager."""

    def __init__(self, root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self._root = os.open(root, _FOLDER)
        self._last: tuple[str, int] | None = None

    def __enter__(self) -> Tree:
        return self

    def __exit__(self, *_: object) -> None:
        if self._last is not None:
            os.close(self._last[1])
        os.close(self._root)

    def file(self, path: str, source: Path | int, found: os.stat_result, *, mtime: int | None = None) -> os.stat_result:
        """Put a regular file with the mode and, where we may, the owner of `found`; what it is then. `source`: what is read, links not followed.
        `mtime` in nanoseconds, when it is not `found`'s."""
        parent, name = self._parent(path)
        reading = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC) if isinstance(source, Path) else source
        try:
            _clear(parent, name)
            writing = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=parent)
            try:
                copy_bytes(reading, writing)
                own(writing, found)
                os.fchmod(writing, stat.S_IMODE(found.st_mode))
                stamp = found.st_mtime_ns if mtime is None else mtime
                os.utime(writing, ns=(stamp, stamp))
                return os.fstat(writing)
            finally:
                os.close(writing)
        finally:
            if isinstance(source, Path):
                os.close(reading)

    def stream(self, path: str, source: IO[bytes], found: os.stat_result) -> None:
        """The same from an open file."""
        parent, name = self._parent(path)
        _clear(parent, name)
        writing = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=parent)
        with open(writing, "wb") as file:
            shutil.copyfileobj(source, file, _PIECE)
            file.flush()
            own(writing, found)
            os.fchmod(writing, stat.S_IMODE(found.st_mode))
            os.utime(writing, (found.st_mtime, found.st_mtime))

    def link(self, path: str, text: str) -> None:
        parent, name = self._parent(path)
        _clear(parent, name)
        os.symlink(text, name, dir_fd=parent)

    def stat(self, path: str) -> os.stat_result:
        """lstat of what was just put."""
        parent, name = self._parent(path)
        return os.stat(name, dir_fd=parent, follow_symlinks=False)

    def _parent(self, path: str) -> tuple[int, str]:
        folder, _, name = path.rpartition("/")
        parts = folder.split("/") if folder else []
        if path.startswith("/") or name in ("", ".", "..") or any(part in ("", ".", "..") for part in parts):
            raise CannotCopy(f"{path!r} does not stay below its folder")
        if self._last is not None and self._last[0] == folder:
            return self._last[1], name
        here = os.dup(self._root)
        for part in parts:
            below = _enter(here, part)
            os.close(here)
            here = below
        if self._last is not None:
            os.close(self._last[1])
        self._last = (folder, here)
        return here, name


def _enter(parent: int, name: str) -> int:
    try:
        return os.open(name, _FOLDER, dir_fd=parent)
    except FileNotFoundError:
        pass
    except OSError as error:
        if error.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
        os.unlink(name, dir_fd=parent)
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, 0o755, dir_fd=parent)
    return os.open(name, _FOLDER, dir_fd=parent)


def _clear(parent: int, name: str) -> None:
    try:
        found = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return
    if stat.S_ISDIR(found.st_mode):
        shutil.rmtree(name, dir_fd=parent)
    else:
        os.unlink(name, dir_fd=parent)


def own(descriptor: int, found: os.stat_result) -> None:
    with contextlib.suppress(OSError):  # an id that is not ours to give
        if found.st_uid != os.geteuid() or found.st_gid != os.getegid():
            os.fchown(descriptor, found.st_uid, found.st_gid)


def copy_bytes(reading: int, writing: int) -> None:
    with contextlib.suppress(OSError):  # across file systems, an old kernel: by hand
        while os.copy_file_range(reading, writing, 1 << 30):
            pass
    while data := os.read(reading, _PIECE):
        view = memoryview(data)
        while view:
            view = view[os.write(writing, view) :]
