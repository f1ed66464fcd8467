"""Remove a tree that a stranger wrote: any depth, unreadable folders, symlinks to anywhere."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove(path: Path) -> None:
    """Remove `path`, a name that only this process uses (rename it to such a name first); absent is fine.

    Folders inside folders are moved up to stand beside the first one, so neither stack nor descriptors grow with depth.
    No symlink is followed. OSError for what cannot be removed. What an earlier removal was killed over may stand beside it and stays.
    """
    parent = os.open(path.parent, _FOLDER)
    try:
        queue = [path.name]
        names = (f"{path.name}.{number}" for number in count(1))
        while queue:
            name = queue.pop()
            folder = _open(parent, name)
            if folder is None:
                continue
            try:
                for entry, is_folder in _entries(folder):
                    if not is_folder:
                        os.unlink(entry, dir_fd=folder)
                    elif not _removed_empty(entry, folder):
                        _allow(folder, entry)  # who may not write in a folder may not move it either
                        queue.append(_moved(entry, folder, parent, names))
            finally:
                os.close(folder)
            os.rmdir(name, dir_fd=parent)
    finally:
        os.close(parent)


def take(path: Path, trash: Path) -> bool:
    """Rename `path` to `trash`, a name that only this process uses. False where it is gone: a prune, a recovery and a build that makes a layer again may
    all be about to take one folder away, and none of them minds who does."""
    try:
        path.rename(trash)
    except FileNotFoundError:
        if os.path.lexists(path):  # it is the place for `trash` that is not there
            raise
        return False
    return True


def _entries(folder: int) -> list[tuple[bytes, bool]]:
    with os.scandir(folder) as found:
        return [(os.fsencode(entry.name), entry.is_dir(follow_symlinks=False)) for entry in found]


def _removed_empty(entry: bytes, folder: int) -> bool:
    try:
        os.rmdir(entry, dir_fd=folder)
    except OSError:
        return False
    return True


def _moved(entry: bytes, folder: int, parent: int, names: Iterator[str]) -> str:
    """The first of `names` that is free, or an empty folder, after the move to it."""
    while True:
        name = next(names)
        try:
            os.rename(entry, name, src_dir_fd=folder, dst_dir_fd=parent)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
        else:
            return name


def _open(parent: int, name: str) -> int | None:
    """A folder's descriptor; None when there was nothing or something else, which is gone then."""
    try:
        return os.open(name, _FOLDER, dir_fd=parent)
    except FileNotFoundError:
        return None
    except PermissionError:
        _allow(parent, os.fsencode(name))
        return os.open(name, _FOLDER, dir_fd=parent)
    except OSError:
        os.unlink(name, dir_fd=parent)
        return None


def _allow(parent: int, name: bytes) -> None:
    """Give the owner all rights on a folder (overlay leaves work/work with mode 000), never through a symlink."""
    handle = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=parent)
    try:
        if os.fstat(handle).st_mode & 0o700 != 0o700:
            os.chmod(f"/proc/self/fd/{handle}", 0o700)
    finally:
        os.close(handle)
