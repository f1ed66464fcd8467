"""A root filesystem as a plain folder, for rungs that cannot mount: filled from layers, dressed for a run, compared with what it was."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from lamina.layer.entry import Entry, Kind
from lamina.layer.extra import Extra, read_extra
from lamina.layer.flavour import Flavour, IdMap
from lamina.layer.inodes import Inodes
from lamina.layer.view import LayerView
from lamina.layer.writer import EntryWriter
from lamina.sandbox.protocols import SandboxSetupFailed

Stamp = tuple[int, int, int, int]
"""(inode, ctime in ns, mode, device): nobody can set the ctime from user space, so equal stamps are equal files."""


def true_flavour(flavour: Flavour) -> Flavour:
    """How the files of a tree are on disk: really, as far as this user can."""
    return Flavour("trusted") if flavour.ids.kind == "real" else Flavour("plain", IdMap("single"))


class _Shown(NamedTuple):
    path: bytes
    stashed: bytes | None  # where the image's own is meanwhile
    source: Path | None  # a folder to bring changes back to


class PlainTree:
    """`folder/diff` is the root. One run at a time. Names are bytes relative to the root, free of links."""

    def __init__(self, folder: Path, flavour: Flavour) -> None:
        self.folder = folder
        self.root = folder / "diff"
        self.lowers: tuple[Path, ...] = ()  # what it was filled from, top first
        self._flavour = flavour
        self._extra = Extra()  # what the files on disk cannot say
        self._shown: list[_Shown] = []
        self._made: list[bytes] = []
        self._times: dict[bytes, tuple[int, int]] = {}

    def fill(self, lowers: Sequence[Path]) -> None:
        """Copy what an overlay of `lowers` (top first) would show. The tree must be new."""
        self.root.mkdir(parents=True)
        self.root.chmod(0o755)
        with (
            LayerView([lower.parent for lower in reversed(lowers)], self._flavour) as view,
            EntryWriter(self.folder, true_flavour(self._flavour)) as writer,
        ):
            for path, entry in view.walk():
                if entry.kind is Kind.FILE:
                    with view.open(path) as data:
                        writer.put(entry, data)
                else:
                    writer.put(entry)
        self.lowers = tuple(lowers)
        self._extra = read_extra(self.folder)

    # -- dressing

    def locate(self, target: str) -> bytes:
        """Where `target` is, links followed with this root as "/"; what is missing of it is taken as it stands."""
        todo = os.fsencode(target).split(b"/")[::-1]
        done: list[bytes] = []
        links = 0
        while todo:
            part = todo.pop()
            if part in (b"", b"."):
                continue
            if part == b"..":
                done = done[:-1]
                continue
            try:
                text = os.readlink(self._host(b"/".join([*done, part])))
            except OSError:
                done.append(part)
                continue
            links += 1
            if links > 40:
                raise SandboxSetupFailed(f"too many links in the mount point {target}")
            if text.startswith(b"/"):
                done = []
            todo += text.split(b"/")[::-1]
        return b"/".join(done)

    def show(self, target: str, *, back: Path | None = None) -> Path:
        """A free name at `target`, for what is shown during a run: the caller makes a file or folder there. `back`: its changes go there."""
        path = self.locate(target)
        if not path:
            raise SandboxSetupFailed(f"nothing can be mounted at {target} without namespaces")
        folder = path.rpartition(b"/")[0]
        self._parents(folder)
        self._remember(folder)
        host = self._host(path)
        stashed = None
        if os.path.lexists(host):
            stashed = os.path.join(os.fsencode(self.folder), b"stash%d" % len(self._shown))
            os.rename(host, stashed)
        self._shown.append(_Shown(path, stashed, back))
        return Path(os.fsdecode(host))

    def dressed(self) -> None:
        """All is in its place: folders get back the times that they had."""
        for path, times in self._times.items():
            os.utime(self._host(path), ns=times)

    def undress(self) -> None:
        """Take away what was shown; the image's own comes back. Folders that were made for it go if nothing was put there."""
        before: dict[bytes, tuple[int, int]] = {}
        for shown in reversed(self._shown):
            folder, host = shown.path.rpartition(b"/")[0], self._host(shown.path)
            try:
                found = os.lstat(self._host(folder))
            except OSError:
                continue  # the run took the folder away, and what was shown with it
            before.setdefault(folder, (found.st_atime_ns, found.st_mtime_ns))
            if shown.source is not None and os.path.isdir(host) and not os.path.islink(host):
                _bring_back(host, shown.source)
            _remove(host)
            if shown.stashed is not None:
                os.rename(shown.stashed, host)
        for path in reversed(self._made):
            try:
                os.rmdir(self._host(path))
            except OSError:
                continue
        for path, times in before.items():
            try:
                os.utime(self._host(path), ns=times)
            except OSError:
                continue
        self._shown.clear()
        self._made.clear()
        self._times.clear()

    def _parents(self, folder: bytes) -> None:
        done: list[bytes] = []
        for part in folder.split(b"/") if folder else ():
            above = b"/".join(done)
            done.append(part)
            path = b"/".join(done)
            if not os.path.lexists(self._host(path)):
                self._remember(above)
                os.mkdir(self._host(path), 0o755)
                self._made.append(path)

    def _remember(self, folder: bytes) -> None:
        if folder not in self._times:
            found = os.lstat(self._host(folder))
            self._times[folder] = (found.st_atime_ns, found.st_mtime_ns)

    def _host(self, path: bytes) -> bytes:
        return os.path.join(os.fsencode(self.root), path) if path else os.fsencode(self.root)

    # -- comparing

    def stamps(self) -> dict[bytes, Stamp]:
        """All names but those that are shown, and folders made for them unless something else is in there."""
        hidden = {shown.path for shown in self._shown}
        found = dict(self._walk(b"", hidden))
        for path in reversed(self._made):
            if not any(name.startswith(path + b"/") for name in found):
                found.pop(path, None)
        return found

    def _walk(self, folder: bytes, hidden: set[bytes]) -> Iterator[tuple[bytes, Stamp]]:
        todo = [folder]  # not by calls: a workload's folders may be deeper than these can be
        while todo:
            folder = todo.pop()
            for item in _items(self._host(folder)):
                path = folder + b"/" + item.name if folder else item.name
                if path in hidden:
                    continue
                now = item.stat(follow_symlinks=False)
                yield path, (now.st_ino, now.st_ctime_ns, now.st_mode, now.st_rdev)
                if item.is_dir(follow_symlinks=False):
                    todo.append(path)

    def changes(self, before: dict[bytes, Stamp], layer: Path) -> None:
        """Write into the layer directory (its `diff` is empty) what differs from `before`: as an overlay's upper, with all parents."""
        for path in self._made:
            before.pop(path, None)
        after = self.stamps()
        wanted: set[bytes] = set()
        for path, stamp in after.items():
            if before.get(path) != stamp:
                wanted.add(path)
        gone = [path for path in before if path not in after]
        for path in [*wanted, *gone]:
            while b"/" in path:
                path = path.rpartition(b"/")[0]
                if path in after:
                    wanted.add(path)
        first: dict[tuple[int, int], bytes] = {}
        with EntryWriter(layer, self._flavour) as writer:
            for path in sorted(wanted):
                self._write(writer, path, first)
                was = before.get(path)
                if was is not None and stat.S_ISDIR(after[path][2]) and (was[0] != after[path][0] or not stat.S_ISDIR(was[2])):
                    writer.put(Entry(path, Kind.OPAQUE))
            for path in gone:
                folder = path.rpartition(b"/")[0]
                if not folder or (folder in after and folder in before and stat.S_ISDIR(after[folder][2])):
                    writer.put(Entry(path, Kind.WHITEOUT))

    def _write(self, writer: EntryWriter, path: bytes, first: dict[tuple[int, int], bytes]) -> None:
        inodes = Inodes(true_flavour(self._flavour), self._extra)
        found = os.lstat(self._host(path))
        folder = stat.S_ISDIR(found.st_mode)
        if not folder and not stat.S_ISREG(found.st_mode):
            parent = os.open(os.path.dirname(self._host(path)), os.O_RDONLY | os.O_DIRECTORY)
            try:
                special = inodes.other(path, os.path.basename(path), parent, found)
            finally:
                os.close(parent)
            if special is not None:
                writer.put(special)
            return
        if not folder and found.st_nlink > 1:
            known = first.setdefault((found.st_dev, found.st_ino), path)
            if known != path:
                writer.put(Entry(path, Kind.HARDLINK, link=known))
                return
        descriptor = _open(self._host(path), found)
        try:
            entry = inodes.opened(path, descriptor, found)
            if folder:
                writer.put(entry)
            else:
                with os.fdopen(os.dup(descriptor), "rb", buffering=0) as data:
                    writer.put(entry, data)
        finally:
            os.close(descriptor)


def _items(folder: bytes) -> list[os.DirEntry[bytes]]:
    try:
        with os.scandir(folder) as listing:
            return list(listing)
    except PermissionError:  # an ordinary user's own folder, closed by the run
        mode = stat.S_IMODE(os.lstat(folder).st_mode)
        os.chmod(folder, mode | 0o700)
        try:
            with os.scandir(folder) as listing:
                return list(listing)
        finally:
            os.chmod(folder, mode)


def _open(path: bytes, found: os.stat_result) -> int:
    """A descriptor, also where the owner took the right to read away from himself."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        return os.open(path, flags)
    except PermissionError:
        os.chmod(path, stat.S_IMODE(found.st_mode) | 0o500)
        try:
            return os.open(path, flags)
        finally:
            os.chmod(path, stat.S_IMODE(found.st_mode))


def _remove(path: bytes) -> None:
    try:
        os.unlink(path)
    except IsADirectoryError:
        shutil.rmtree(path)
    except FileNotFoundError:
        pass


def _bring_back(shown: bytes, source: Path) -> None:
    """What a run left in the copy of a read-write bind takes the place of what was in the source."""
    for item in os.scandir(os.fsencode(source)):
        _remove(item.path)
    for item in os.scandir(shown):
        shutil.move(os.fsdecode(item.path), os.fsdecode(os.path.join(os.fsencode(source), item.name)))
