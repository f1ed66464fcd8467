"""True owners of what a RUN left in its upper, where one id is mapped: the layer's side table, and files of another `USER`."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from lamina.layer.extra import read_extra, write_extra
from lamina.layer.xattrs import OWNER, owner_value, parse_owner
from lamina.sandbox.protocols import SandboxSpec

UNCHANGED = 0xFFFFFFFF
_OPAQUE = "user.overlay.opaque"
_COPIED = "user.overlay.origin"  # overlay's mark on what was copied up


def complete(spec: SandboxSpec, owners: Iterable[Sequence[object]], devices: Iterable[Sequence[object]], user: tuple[int, int]) -> None:
    """Write `extra` beside the upper. `owners`: (path, uid, gid) of what takes no attribute, a half may be UNCHANGED; `devices`:
    (path, kind, major, minor).

    What is new in the upper and has no owner belongs to `user`, or to the group of its setgid folder. What the side tables of lower layers
    say of links, pipes and devices goes on for those that were copied up, under their name or another.
    """
    upper = os.fsencode(spec.root.upper)
    layer = spec.root.upper.parent
    lowers = Lowers(spec.root.lowers, upper)
    extra = read_extra(layer)
    for path, kind, major, minor in devices:
        extra.devices[os.fsencode(str(path))] = (str(kind), int(str(major)), int(str(minor)))
    stated = {os.fsencode(str(path)): (int(str(uid)), int(str(gid))) for path, uid, gid in owners}
    for path, found, group in _walk(upper):
        name = os.path.relpath(path, upper)
        fresh = (user[0], user[1] if group is None else group)
        if stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode):
            if fresh != (0, 0) and not _has(path, OWNER) and not _has(path, _COPIED) and not lowers.have(name):
                _state(path, fresh)
            if not found.st_size and lowers.devices and stat.S_ISREG(found.st_mode) and name not in extra.devices:
                device = lowers.device(path, name, found)
                if device is not None:
                    extra.devices[name] = device
        elif not (stat.S_ISCHR(found.st_mode) and found.st_rdev == 0):
            before = lowers.owner(path, name, found)
            if before is None:
                before = (0, 0) if lowers.have(name) else fresh
            uid, gid = stated.get(name, (UNCHANGED, UNCHANGED))
            owner = (before[0] if uid == UNCHANGED else uid, before[1] if gid == UNCHANGED else gid)
            if owner != (0, 0):
                extra.owners[name] = owner
    write_extra(layer, extra)


class Lowers:
    """What the side tables of the layers below say, top first."""

    def __init__(self, folders: Sequence[Path], upper: bytes) -> None:
        self._upper = upper
        self._layers = [(os.fsencode(folder), read_extra(folder.parent)) for folder in folders]
        self.devices = any(extra.devices for _, extra in self._layers)
        self._owners = any(extra.owners for _, extra in self._layers)

    def have(self, name: bytes) -> bool:
        """Whether the filesystem below shows this name: a layer has it, and none above that one took it away."""
        parts = name.split(b"/")
        for folder, extra in self._layers:
            path, relative = folder, b""
            for number, part in enumerate(parts, 1):
                opaque = relative in extra.opaque or (bool(relative) and _has(path, _OPAQUE))
                path, relative = os.path.join(path, part), os.path.join(relative, part)
                if relative in extra.whiteouts:
                    return False
                try:
                    found = os.lstat(path)
                except OSError:
                    if opaque:
                        return False
                    break
                if stat.S_ISCHR(found.st_mode) and found.st_rdev == 0:
                    return False
                if number == len(parts):
                    return True
                if not stat.S_ISDIR(found.st_mode):
                    return False
        return False

    def owner(self, path: bytes, name: bytes, found: os.stat_result) -> tuple[int, int] | None:
        """Of a link or pipe that was copied up; None when no table knows it."""
        if not self._owners:
            return None
        for folder, extra in self._layers:
            if os.path.lexists(os.path.join(folder, name)):
                if _alike(path, found, os.path.join(folder, name)):
                    return extra.owners.get(name, (0, 0))
                break
        old = self._renamed(path, found, [(folder, extra.owners.keys()) for folder, extra in self._layers])
        return None if old is None else self._layers[old[0]][1].owners[old[1]]

    def device(self, path: bytes, name: bytes, found: os.stat_result) -> tuple[str, int, int] | None:
        """Of an empty file that stands for a device."""
        for folder, extra in self._layers:
            if os.path.lexists(os.path.join(folder, name)):
                return extra.devices.get(name)
        if not _has(path, _COPIED):
            return None
        old = self._renamed(path, found, [(folder, extra.devices.keys()) for folder, extra in self._layers])
        return None if old is None else self._layers[old[0]][1].devices[old[1]]

    def _renamed(self, path: bytes, found: os.stat_result, tables: Sequence[tuple[bytes, Iterable[bytes]]]) -> tuple[int, bytes] | None:
        """(layer, name) of what stands in a table, was taken away by the run, and is like `path`: the one of the same time, else the only one."""
        candidates = [
            (number, old)
            for number, (folder, names) in enumerate(tables)
            for old in names
            if self._gone(old) and _alike(path, found, os.path.join(folder, old))
        ]
        same = [(n, old) for n, old in candidates if os.lstat(os.path.join(tables[n][0], old)).st_mtime_ns == found.st_mtime_ns]
        return same[0] if same else candidates[0] if len(candidates) == 1 else None

    def _gone(self, name: bytes) -> bool:
        """Whether the run took this name away (it may be what we look for, under another name)."""
        try:
            found = os.lstat(os.path.join(self._upper, name))
        except OSError:
            return False
        return stat.S_ISCHR(found.st_mode) and found.st_rdev == 0


def _walk(folder: bytes) -> Iterator[tuple[bytes, os.stat_result, int | None]]:
    """All names below, folders before what they hold; the third is the group that a setgid folder hands on. Follows no link."""
    todo = [folder]  # not by calls: a workload's folders may be deeper than these can be
    while todo:
        folder = todo.pop()
        group = _group(folder)
        with os.scandir(folder) as listing:
            items = list(listing)
        for item in items:
            yield item.path, item.stat(follow_symlinks=False), group
            if item.is_dir(follow_symlinks=False):
                todo.append(item.path)


def _group(folder: bytes) -> int | None:
    if not os.lstat(folder).st_mode & stat.S_ISGID:
        return None
    try:
        owner = parse_owner(os.getxattr(folder, OWNER))
    except OSError:
        return None
    return owner[1] if owner else None


def _has(path: bytes, name: str) -> bool:
    try:
        os.getxattr(path, name, follow_symlinks=False)
    except OSError:
        return False
    return True


def _alike(path: bytes, found: os.stat_result, lower: bytes) -> bool:
    """Whether a lower layer's name is of the same kind, and a link says the same."""
    try:
        there = os.lstat(lower)
    except OSError:
        return False
    if stat.S_IFMT(found.st_mode) != stat.S_IFMT(there.st_mode):
        return False
    return not stat.S_ISLNK(found.st_mode) or os.readlink(path) == os.readlink(lower)


def _state(path: bytes, owner: tuple[int, int]) -> None:
    times = os.lstat(path)
    os.setxattr(path, OWNER, owner_value(*owner), follow_symlinks=False)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns), follow_symlinks=False)
