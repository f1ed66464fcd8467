"""Folders below a root, reached one name at a time and never through a symbolic link.

A hostile layer is full of links that point outside. Names that still have links in them are resolved by text first (links.py, with
what the layer itself holds); what is opened here must be a real folder at every step, and the kernel is told so (O_NOFOLLOW from an
open parent). A link, or anything else that is no folder, is an OSError (ELOOP, ENOTDIR).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from lamina.diagnostics.errors import LaminaError

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
MAX_PATH = 4095  # bytes, as Linux' PATH_MAX: what is longer cannot be named by any program that runs on the layer
_OPEN_FOLDERS = 48  # enough for a deep tree's ancestors, few enough for a limit of 256 descriptors


class LayerFault(LaminaError):
    """The machine failed while a layer directory was read or written: no space, no permission, a broken disk."""

    code = "layer/fault"
    default_exit = 74


class PathTooLong(LayerFault):
    """A destination, a working directory or a name in an archive that no file system takes."""

    code = "layer/path-too-long"
    default_exit = 65


def fault(doing: str, path: bytes, error: OSError) -> LayerFault:
    """One line for an OSError. `doing` is "write", "read" ..."""
    import errno

    if error.errno == errno.ENAMETOOLONG:
        longest = max(map(len, path.split(b"/")))
        what = f"a name of {longest} bytes: 255 are possible" if longest > 255 else f"{len(path)} bytes: {MAX_PATH} are possible"
        return PathTooLong(f"the path {show(path)[:100]}… has {what}")
    hint = None
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = "free some space, for example with lamina cache prune"
    elif error.errno == errno.EINVAL and doing == "write":
        hint = "an owner or attribute that is not possible here, for example an id outside of the range of the user namespace"
    return LayerFault(f"cannot {doing} {show(path)} in a layer: {error.strerror or error}", hint=hint)


class Folders:
    """Open folders of one or more roots. A descriptor stays this object's and is good until the next call. Not thread-safe."""

    def __init__(self, roots: Sequence[Path]) -> None:
        self._roots = tuple(roots)
        self._open: dict[tuple[int, bytes], int] = {}

    def fd(self, path: bytes, root: int = 0) -> int:
        """A descriptor of the folder `path` ("" for the root itself)."""
        key = (root, path)
        found = self._open.pop(key, None)
        if found is None:
            found = self._walk(root, path)
        self._open[key] = found
        return found

    def forget(self) -> None:
        """Close all: needed after a folder was removed or replaced."""
        for fd in self._open.values():
            os.close(fd)
        self._open.clear()

    def close(self) -> None:
        self.forget()

    def __enter__(self) -> Folders:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _walk(self, root: int, path: bytes) -> int:
        """From the nearest open ancestor down; each folder on the way is kept."""
        todo: list[bytes] = []
        here = path
        while here and (root, here) not in self._open:
            here, _, name = here.rpartition(b"/")
            todo.append(name)
        fd = self._open.pop((root, here), None)
        if fd is None:
            fd = os.open(self._roots[root], FOLDER & ~os.O_NOFOLLOW)
        while todo:
            self._keep(root, here, fd)
            name = todo.pop()
            fd = os.open(name, FOLDER, dir_fd=fd)
            here = here + b"/" + name if here else name
        while len(self._open) >= _OPEN_FOLDERS:
            os.close(self._open.pop(next(iter(self._open))))
        return fd

    def _keep(self, root: int, path: bytes, fd: int) -> None:
        while len(self._open) >= _OPEN_FOLDERS:
            os.close(self._open.pop(next(iter(self._open))))
        self._open[(root, path)] = fd


def split(path: bytes) -> tuple[bytes, bytes]:
    """(folder, base name)"""
    folder, _, name = path.rpartition(b"/")
    return folder, name


def join(folder: bytes, name: bytes) -> bytes:
    return folder + b"/" + name if folder else name


def show(path: bytes) -> str:
    """A layer's path for people: absolute, on one line, without what a terminal would obey."""
    text = "/" + path.decode("utf-8", "backslashreplace")
    return text if text.isprintable() else "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
