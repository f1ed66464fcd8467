"""Makes the entries of one new layer directory, for tars that are applied and for COPY.

Nothing is written through a link: each name is made in a folder opened by paths.Folders, exclusively. Order per entry: bytes, owner,
mode, attributes, time (chown clears suid bits and file capabilities). Folders get their metadata when all is written.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Protocol

from lamina.diagnostics.errors import LaminaError
from lamina.layer.entry import Entry, Kind
from lamina.layer.extra import read_extra, write_extra
from lamina.layer.flavour import Flavour
from lamina.layer.paths import FOLDER, NEW, Folders, fault, show, split
from lamina.layer.xattrs import OWNER, kept, owner_value, portable

PIECE = 1 << 20
WHITEOUT = b".wh."
_SPARSE = 1 << 16  # bytes of a piece from which holes are looked for
_HOLE = 4096
_BLOCK = bytes(_HOLE)
_ZEROS = bytes(16)
_OVERLAY = {"trusted": "trusted.overlay.opaque", "user": "user.overlay.opaque"}
_NO_XATTRS = (errno.ENOTSUP, errno.EPERM, errno.EACCES)


class UnstorableName(LaminaError):
    """A name that a layer's tar cannot hold, because it means that another name is removed there."""

    code = "layer/unstorable-name"
    default_exit = 65


class NoSuchLinkTarget(LaminaError):
    """A hard link to something that is not in the same layer, or is a folder."""

    code = "layer/link-target"
    default_exit = 65


class Readable(Protocol):
    def read(self, size: int, /) -> bytes:
        """At most `size` bytes, b"" at the end."""
        ...


class EntryWriter:
    """A copying.LayerWriter over `layer_dir` (its `diff` folder exists). Entries appear at once, folders' metadata and the side table
    with `finish`. One thread. As a context manager: finishes unless the block failed, closes always."""

    def __init__(self, layer_dir: Path, flavour: Flavour) -> None:
        self._layer = layer_dir
        self._flavour = flavour
        self._single = flavour.ids.kind == "single"
        self._plain = flavour.whiteouts == "plain"
        self._devices = flavour.whiteouts == "trusted" and not self._single
        self._extra = read_extra(layer_dir)
        self._folders = Folders([layer_dir / "diff"])
        self._pending: dict[bytes, Entry] = {}  # folders whose metadata comes last
        self._opaque: set[bytes] = set()
        self._lender: tuple[bytes, int] | None = None  # the folder that a file was shared from last: the next one is mostly beside it
        self._self = (os.geteuid(), os.getegid())
        self.size = 0  # bytes of regular files that were written
        try:
            root = self._folders.fd(b"")
            mode = os.fstat(root).st_mode
            # A setgid folder would hand its group on to all that is made in it.
            if mode & stat.S_ISGID:
                os.fchmod(root, stat.S_IMODE(mode) & ~stat.S_ISGID)
        except OSError as error:
            self.close()
            raise fault("write", b"", error) from error

    def __enter__(self) -> EntryWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.finish()
        finally:
            self.close()

    # -- LayerWriter

    def put(self, entry: Entry, data: Readable | None = None) -> None:
        """Make the entry; what this layer has there is replaced, but a folder keeps what is in it when a folder is put.

        A folder put where this layer had something else hides what lies below. Parents must be there. LayerFault, UnstorableName.
        """
        path, kind = entry.path, entry.kind
        if not path:
            if kind is Kind.OPAQUE:
                self._opaque.add(b"")
            else:
                self._pending[b""] = entry
            return
        folder, name = split(path)
        if name.startswith(WHITEOUT):
            raise UnstorableName(f"{show(path)}: a layer cannot hold names that begin with .wh.", hint="rename the file")
        try:
            if kind is Kind.FILE:
                self._file(entry, folder, name, data)
            elif kind is Kind.DIRECTORY:
                self._directory(entry, folder, name)
            elif kind is Kind.HARDLINK:
                self._hard_link(entry, folder, name)
            elif kind is Kind.WHITEOUT:
                self._whiteout(path, folder, name)
            elif kind is Kind.OPAQUE:
                self._opaque.add(path)
            else:
                self._special(entry, folder, name)
        except OSError as error:
            raise fault("write", path, error) from error

    def share(self, entry: Entry, path: bytes) -> bool:
        """Make a regular file as a further name of the host file `path`, whose bytes and metadata are the entry's (the caller knows).

        False where that is impossible: another disk, too many names, or it is gone; what stood at the entry's path may be gone then, too. One host file must be linked at
        most once into a layer: a second name would read as a hard link inside of it.
        """
        folder, name = split(entry.path)
        if name.startswith(WHITEOUT):
            raise UnstorableName(f"{show(entry.path)}: a layer cannot hold names that begin with .wh.", hint="rename the file")
        try:
            self._link(path, entry.path, folder, name)
        except OSError as error:
            if error.errno in (errno.EXDEV, errno.EMLINK, errno.EPERM, errno.ENOENT):
                return False
            raise fault("write", entry.path, error) from error
        self.size += entry.size
        return True

    def remove(self, path: bytes) -> None:
        """Take an entry, and all below it, out of this layer again. Nothing happens when it is not there."""
        folder, name = split(path)
        try:
            self._clear(path, folder, name)
        except OSError as error:
            raise fault("remove", path, error) from error

    def kind(self, path: bytes) -> Kind | None:
        """What this layer has at `path` (parents are real folders of it): only FILE, DIRECTORY, SYMLINK, WHITEOUT are told apart from
        the rest, which is FIFO."""
        if path in self._extra.whiteouts:
            return Kind.WHITEOUT
        folder, name = split(path)
        try:
            found = os.stat(name, dir_fd=self._folders.fd(folder), follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return None
        if stat.S_ISREG(found.st_mode):
            return Kind.FILE
        if stat.S_ISDIR(found.st_mode):
            return Kind.DIRECTORY
        if stat.S_ISLNK(found.st_mode):
            return Kind.SYMLINK
        return Kind.WHITEOUT if stat.S_ISCHR(found.st_mode) and found.st_rdev == 0 else Kind.FIFO

    def finish(self) -> None:
        """Folders' metadata, deepest first, and the side table. Call once, at the end."""
        opaque = _OVERLAY.get(self._flavour.whiteouts)
        for path in sorted({*self._pending, *self._opaque}, reverse=True):
            try:
                fd = self._folders.fd(path)
                if path in self._opaque:
                    if opaque is None:
                        self._extra.opaque.add(path)
                    else:
                        os.setxattr(fd, opaque, b"y")
                entry = self._pending.get(path)
                if entry is not None:
                    self._metadata(fd, entry)
            except OSError as error:
                raise fault("write", path, error) from error
        self._pending.clear()
        self._opaque.clear()
        try:
            write_extra(self._layer, self._extra)
        except OSError as error:
            raise fault("write", b"", error) from error

    def close(self) -> None:
        self._folders.close()
        if self._lender is not None:
            os.close(self._lender[1])
            self._lender = None

    # -- one kind each

    def _link(self, source: bytes, path: bytes, folder: bytes, name: bytes) -> None:
        lender, first = split(source)
        if self._lender is None or self._lender[0] != lender:
            fd = os.open(lender, FOLDER | os.O_PATH)
            if self._lender is not None:
                os.close(self._lender[1])
            self._lender = lender, fd
        held = self._lender[1]
        try:
            os.link(first, name, src_dir_fd=held, dst_dir_fd=self._folders.fd(folder), follow_symlinks=False)
        except FileExistsError:
            self._clear(path, folder, name)
            os.link(first, name, src_dir_fd=held, dst_dir_fd=self._folders.fd(folder), follow_symlinks=False)
        else:
            if self._extra.whiteouts:
                self._extra.whiteouts.discard(path)

    def _file(self, entry: Entry, folder: bytes, name: bytes, data: Readable | None) -> None:
        parent = self._folders.fd(folder)
        try:
            fd = os.open(name, NEW, 0o600, dir_fd=parent)
        except FileExistsError:
            self._clear(entry.path, folder, name)
            fd = os.open(name, NEW, 0o600, dir_fd=self._folders.fd(folder))
        else:
            if self._extra.whiteouts:
                self._extra.whiteouts.discard(entry.path)
        try:
            if data is not None:
                self.size += _copy(data, fd)
            self._metadata(fd, entry)
        finally:
            os.close(fd)

    def _directory(self, entry: Entry, folder: bytes, name: bytes) -> None:
        path = entry.path
        there = path in self._extra.whiteouts
        try:
            os.mkdir(name, 0o700, dir_fd=self._folders.fd(folder))
        except FileExistsError:
            if path not in self._pending and self.kind(path) is not Kind.DIRECTORY:
                there = True
                self._clear(path, folder, name)
                os.mkdir(name, 0o700, dir_fd=self._folders.fd(folder))
        if there:
            self._extra.whiteouts.discard(path)
            self._opaque.add(path)
        self._pending[path] = entry

    def _hard_link(self, entry: Entry, folder: bytes, name: bytes) -> None:
        if entry.link == entry.path:
            return
        first_folder, first = split(entry.link)
        try:
            kind = self.kind(entry.link)
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.ENOTDIR, errno.ENAMETOOLONG):
                raise
            kind = None
        if entry.link.startswith(entry.path + b"/"):
            kind = None  # it goes with the folder that the link replaces
        if kind in (None, Kind.WHITEOUT, Kind.DIRECTORY):
            what = "is a folder" if kind is Kind.DIRECTORY else "is not in this layer"
            raise NoSuchLinkTarget(f"{show(entry.path)} is a hard link to {show(entry.link)}, which {what}")
        self._clear(entry.path, folder, name)
        # Two descriptors at once: the second look-up must not close the first.
        source = os.dup(self._folders.fd(first_folder))
        try:
            os.link(first, name, src_dir_fd=source, dst_dir_fd=self._folders.fd(folder), follow_symlinks=False)
        finally:
            os.close(source)
        self._extra.same(entry.path, entry.link)

    def _whiteout(self, path: bytes, folder: bytes, name: bytes) -> None:
        """A whiteout speaks of lower layers only: what this layer itself has at that name stays."""
        there = self.kind(path)
        if there is Kind.DIRECTORY:
            self._opaque.add(path)
        elif there is None:
            if self._plain:
                self._folders.fd(folder)
                self._extra.whiteouts.add(path)
            else:
                os.mknod(name, stat.S_IFCHR, os.makedev(0, 0), dir_fd=self._folders.fd(folder))

    def _special(self, entry: Entry, folder: bytes, name: bytes) -> None:
        path, kind = entry.path, entry.kind
        self._clear(path, folder, name)
        parent = self._folders.fd(folder)
        if kind is Kind.SYMLINK:
            os.symlink(entry.link, name, dir_fd=parent)
        elif kind is Kind.FIFO:
            os.mkfifo(name, 0o600, dir_fd=parent)
        elif entry.major == 0 and entry.minor == 0 and kind is Kind.CHARACTER:
            raise UnstorableName(f"{show(path)}: a character device 0:0 means a removed name in a layer")
        elif self._devices:
            type_ = stat.S_IFCHR if kind is Kind.CHARACTER else stat.S_IFBLK
            os.mknod(name, type_ | 0o600, os.makedev(entry.major, entry.minor), dir_fd=parent)
        else:
            fd = os.open(name, NEW, 0o600, dir_fd=parent)
            try:
                self._metadata(fd, entry)
            finally:
                os.close(fd)
            self._extra.devices[path] = (kind.value, entry.major, entry.minor)
            return
        if not self._single:
            os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
        elif (entry.uid, entry.gid) != (0, 0):
            self._extra.owners[path] = (entry.uid, entry.gid)
        if kind is not Kind.SYMLINK:
            os.chmod(name, self._disk_mode(entry), dir_fd=parent)
        time = int(entry.mtime * 1_000_000_000)
        os.utime(name, ns=(time, time), dir_fd=parent, follow_symlinks=False)

    # -- metadata

    def _metadata(self, fd: int, entry: Entry) -> None:
        """Of an open file or folder."""
        owner = (entry.uid, entry.gid)
        if self._single:
            if owner != (0, 0):
                try:
                    os.setxattr(fd, OWNER, owner_value(*owner))
                except OSError as error:
                    if error.errno not in _NO_XATTRS:
                        raise
                    self._extra.owners[entry.path] = owner
            elif entry.kind is Kind.DIRECTORY:
                self._extra.owners.pop(entry.path, None)
        elif owner != self._self or entry.kind is Kind.DIRECTORY:
            os.fchown(fd, *owner)
        os.fchmod(fd, self._disk_mode(entry))
        for name, value in entry.xattrs:
            if kept(name):
                self._xattr(fd, entry.path, name, portable(name, value))
        time = int(entry.mtime * 1_000_000_000)
        os.utime(fd, ns=(time, time))

    def _xattr(self, fd: int, path: bytes, name: bytes, value: bytes) -> None:
        try:
            os.setxattr(fd, name, value)
        except OSError as error:
            if error.errno not in _NO_XATTRS:
                raise
            self._extra.xattrs.setdefault(path, {})[name] = value

    def _disk_mode(self, entry: Entry) -> int:
        if not self._plain:
            return entry.mode
        needed = 0o700 if entry.kind is Kind.DIRECTORY else 0o600
        if entry.mode & needed == needed:
            self._extra.modes.pop(entry.path, None)
            return entry.mode
        self._extra.modes[entry.path] = entry.mode
        return entry.mode | needed

    # -- taking away

    def _clear(self, path: bytes, folder: bytes, name: bytes) -> None:
        """Make the name free. Cheap when nothing is there."""
        if self._extra:
            self._extra.forget(path)
        parent = self._folders.fd(folder)
        try:
            os.unlink(name, dir_fd=parent)
            return
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno not in (errno.EISDIR, errno.EPERM):
                raise
            if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                raise
        _remove_tree(parent, name)
        self._folders.forget()
        below = path + b"/"
        for known in [known for known in self._pending if known == path or known.startswith(below)]:
            del self._pending[known]
        self._opaque = {known for known in self._opaque if known != path and not known.startswith(below)}
        if self._extra:
            self._extra.forget_below(path)


def _remove_tree(parent: int, name: bytes) -> None:
    """A folder made here (so with all rights for us) and what is in it; no link is followed."""
    stack: list[tuple[int, bytes]] = []
    fd = os.open(name, FOLDER, dir_fd=parent)
    try:
        while True:
            inner = None
            with os.scandir(fd) as found:
                items = list(found)
            for item in items:
                if item.is_dir(follow_symlinks=False):
                    inner = os.fsencode(item.name)
                    break
                os.unlink(item.name, dir_fd=fd)
            if inner is not None:
                stack.append((fd, inner))
                fd = os.open(inner, FOLDER, dir_fd=fd)
            elif stack:
                os.close(fd)
                fd, inner = stack.pop()
                os.rmdir(inner, dir_fd=fd)
            else:
                break
    finally:
        os.close(fd)
        for above, _ in stack:
            os.close(above)
    os.rmdir(name, dir_fd=parent)


def _copy(data: Readable, fd: int) -> int:
    """All of `data`; aligned blocks of zeros in big pieces become holes. Returns the size."""
    total = 0
    hole = False
    while piece := data.read(PIECE):
        total += len(piece)
        hole = False
        start = 0
        if len(piece) >= _SPARSE:
            for at in range(0, len(piece) - _HOLE + 1, _HOLE):
                # The first bytes tell nearly always, without a copy of the block.
                if not piece.startswith(_ZEROS, at) or piece[at : at + _HOLE] != _BLOCK:
                    if hole:
                        os.lseek(fd, at - start, os.SEEK_CUR)
                        hole, start = False, at
                elif not hole:
                    if at > start:
                        _write(fd, piece[start:at])
                    hole, start = True, at
            if hole and len(piece) % _HOLE:
                end = len(piece) // _HOLE * _HOLE
                os.lseek(fd, end - start, os.SEEK_CUR)
                hole, start = False, end
        if hole:
            os.lseek(fd, len(piece) - start, os.SEEK_CUR)
        else:
            _write(fd, piece[start:] if start else piece)
    if hole:
        os.ftruncate(fd, total)
    return total


def _write(fd: int, piece: bytes) -> None:
    done = os.write(fd, piece)
    while done < len(piece):
        done += os.write(fd, memoryview(piece)[done:])
