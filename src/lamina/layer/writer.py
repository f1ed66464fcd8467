"""Makes entries in a new layer directory, in the store's flavour. Every name is opened below the layer's root; no link is passed through."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections import OrderedDict
from pathlib import Path
from typing import BinaryIO

from lamina.layer.entry import Entry, Kind
from lamina.layer.extra import Extra, write_extra
from lamina.layer.flavour import Flavour
from lamina.layer.ondisk import OWNER, opaque_name
from lamina.layer.paths import open_folder

_CHUNK = 1 << 20
_HOLE = 4096  # zero blocks of this size become holes
_KEPT_FOLDERS = 64  # descriptors of parent folders that stay open


class EntryWriter:
    """`put` in any order (parents first). `finish` sets folder times and writes the side table; call it once, then `close` (or use `with`)."""

    def __init__(self, layer_dir: Path, flavour: Flavour) -> None:
        self._dir = layer_dir
        self._flavour = flavour
        (layer_dir / "diff").mkdir(exist_ok=True)
        self._root = os.open(layer_dir / "diff", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._folders: OrderedDict[bytes, int] = OrderedDict()
        self._times: dict[bytes, float] = {}
        self.extra = Extra({}, set(), set(), {})
        self._buffer = memoryview(bytearray(_CHUNK))

    def __enter__(self) -> EntryWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for descriptor in (*self._folders.values(), self._root):
            os.close(descriptor)
        self._folders.clear()

    def put(self, entry: Entry, data: BinaryIO | None = None) -> None:
        """Make the entry; one that this layer has already is replaced, a folder keeps what is in it and gets the new metadata.

        `data` is read to its end for a FILE. A HARDLINK names an entry of this layer.
        """
        if entry.kind is Kind.DIRECTORY:
            self._folder(entry)
            return
        if entry.kind is Kind.OPAQUE:
            self._opaque(entry.path)
            return
        parent, name = self._parent(entry.path)
        self._clear(parent, name, entry.path)
        match entry.kind:
            case Kind.FILE:
                self._file(entry, parent, name, data)
                return
            case Kind.SYMLINK:
                os.symlink(entry.link, name, dir_fd=parent)
            case Kind.HARDLINK:
                source, base = self._parent(entry.link)
                os.link(base, name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
                return
            case Kind.FIFO:
                os.mkfifo(name, 0o600, dir_fd=parent)
            case Kind.WHITEOUT:
                self._whiteout(entry.path, parent, name)
                return
            case Kind.CHARACTER | Kind.BLOCK:
                if not self._device(entry, parent, name):
                    return
        self._owner(entry, parent, name)
        if entry.kind is not Kind.SYMLINK:
            self._mode(entry, parent, name)
        os.utime(name, ns=(_ns(entry.mtime), _ns(entry.mtime)), dir_fd=parent, follow_symlinks=False)

    def share(self, entry: Entry, path: bytes) -> None:
        """Make a regular file by hard-linking the host file `path` (read-only, equal in bytes and metadata); else its bytes are copied."""
        parent, name = self._parent(entry.path)
        self._clear(parent, name, entry.path)
        try:
            os.link(path, name, dst_dir_fd=parent, follow_symlinks=False)
        except OSError:
            with open(path, "rb") as data:
                self._file(entry, parent, name, data)

    def remove(self, path: bytes) -> None:
        """Take an entry, and all below it, out of this layer again."""
        parent, name = self._parent(path)
        self._clear(parent, name, path)

    def finish(self) -> None:
        for path, mtime in sorted(self._times.items(), reverse=True):
            if path:
                parent, name = self._parent(path)
                try:
                    os.utime(name, ns=(_ns(mtime), _ns(mtime)), dir_fd=parent, follow_symlinks=False)
                except FileNotFoundError:
                    continue
            else:
                os.utime(self._root, ns=(_ns(mtime), _ns(mtime)))
        write_extra(self._dir, self.extra)

    # Kinds

    def _folder(self, entry: Entry) -> None:
        if not entry.path:
            self._finish_folder(entry, self._root)
            return
        parent, name = self._parent(entry.path)
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            found = os.lstat(name, dir_fd=parent)
            if not stat.S_ISDIR(found.st_mode):
                was_whiteout = self._is_whiteout(found, entry.path)
                self._clear(parent, name, entry.path)
                os.mkdir(name, 0o700, dir_fd=parent)
                if was_whiteout:
                    self._opaque(entry.path)
        descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            self._finish_folder(entry, descriptor)
        finally:
            os.close(descriptor)

    def _finish_folder(self, entry: Entry, descriptor: int) -> None:
        if self._flavour.ids.kind == "real":
            os.chown(descriptor, entry.uid, entry.gid)
        else:
            os.setxattr(descriptor, OWNER, b"%d:%d" % (entry.uid, entry.gid))
        # a single id must be able to go on writing into a folder that is read-only in the image
        os.chmod(descriptor, entry.mode)
        self._xattrs(entry, descriptor)
        self._times[entry.path] = entry.mtime

    def _file(self, entry: Entry, parent: int, name: bytes, data: BinaryIO | None) -> None:
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=parent)
        try:
            if data is not None:
                self._fill(descriptor, data, entry.size)
            if self._flavour.ids.kind == "real":
                if entry.uid or entry.gid or os.geteuid():
                    os.chown(descriptor, entry.uid, entry.gid)
            else:
                os.setxattr(descriptor, OWNER, b"%d:%d" % (entry.uid, entry.gid))
            os.chmod(descriptor, entry.mode)
            self._xattrs(entry, descriptor)
            os.utime(descriptor, ns=(_ns(entry.mtime), _ns(entry.mtime)))
        finally:
            os.close(descriptor)

    def _fill(self, descriptor: int, data: BinaryIO, size: int) -> None:
        """Copy to the end of `data`. Small files in one write; zero blocks of big ones become holes."""
        if size <= _CHUNK:
            body = data.read()
            if body:
                os.write(descriptor, body) if len(body) <= _CHUNK else _write_all(descriptor, body)
            return
        offset = 0
        readinto = getattr(data, "readinto", None)
        while True:
            if readinto is not None:
                count = readinto(self._buffer)
                piece = self._buffer[:count]
            else:
                read = data.read(_CHUNK)
                piece, count = memoryview(read), len(read)
            if not count:
                break
            if count >= _HOLE and not any(piece[:_HOLE]) and piece == memoryview(bytes(count)):
                offset += count
                continue
            os.pwrite(descriptor, piece, offset)
            offset += count
        os.ftruncate(descriptor, offset)

    def _whiteout(self, path: bytes, parent: int, name: bytes) -> None:
        if self._flavour.whiteouts == "plain":
            self.extra.whiteouts.add(path)
        else:
            os.mknod(name, stat.S_IFCHR | 0o000, 0, dir_fd=parent)

    def _opaque(self, path: bytes) -> None:
        if self._flavour.whiteouts == "plain":
            self.extra.opaque.add(path)
            return
        parent, name = self._parent(path)
        descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            os.setxattr(descriptor, opaque_name(self._flavour), b"y")
        finally:
            os.close(descriptor)

    def _device(self, entry: Entry, parent: int, name: bytes) -> bool:
        """True when a real device was made; else an empty file stands for it and the side table says what it is."""
        kind = stat.S_IFCHR if entry.kind is Kind.CHARACTER else stat.S_IFBLK
        try:
            os.mknod(name, kind | 0o600, os.makedev(entry.major, entry.minor), dir_fd=parent)
            return True
        except PermissionError:
            self.extra.devices[entry.path] = (entry.kind.value, entry.mode, entry.major, entry.minor)
            self.extra.owners[entry.path] = (entry.uid, entry.gid)
            os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=parent))
            return False

    # Attributes

    def _owner(self, entry: Entry, parent: int, name: bytes) -> None:
        if self._flavour.ids.kind == "real":
            os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
        elif entry.uid or entry.gid:
            self.extra.owners[entry.path] = (entry.uid, entry.gid)

    def _mode(self, entry: Entry, parent: int, name: bytes) -> None:
        os.chmod(name, entry.mode, dir_fd=parent)

    def _xattrs(self, entry: Entry, descriptor: int) -> None:
        for key, value in entry.xattrs:
            if key.startswith((b"trusted.", b"user.overlay.", b"user.lamina.")):
                continue
            try:
                os.setxattr(descriptor, key, value)
            except OSError as error:
                if error.errno not in (errno.ENOTSUP, errno.EPERM):
                    raise

    # Places

    def _parent(self, path: bytes) -> tuple[int, bytes]:
        folder, _, name = path.rpartition(b"/")
        if not folder:
            return self._root, name
        descriptor = self._folders.get(folder)
        if descriptor is None:
            descriptor = open_folder(self._root, folder)
            self._folders[folder] = descriptor
            if len(self._folders) > _KEPT_FOLDERS:
                os.close(self._folders.popitem(last=False)[1])
        return descriptor, name

    def _clear(self, parent: int, name: bytes, path: bytes) -> None:
        """Nothing is under that name afterwards."""
        self.extra.whiteouts.discard(path)
        self.extra.owners.pop(path, None)
        self.extra.devices.pop(path, None)
        try:
            os.unlink(name, dir_fd=parent)
        except FileNotFoundError:
            pass
        except (IsADirectoryError, PermissionError):
            below = path + b"/"
            for folder in [f for f in self._folders if f == path or f.startswith(below)]:
                os.close(self._folders.pop(folder))
            for known in [k for k in self._times if k == path or k.startswith(below)]:
                del self._times[known]
            shutil.rmtree(name, dir_fd=parent)

    def _is_whiteout(self, found: os.stat_result, path: bytes) -> bool:
        return stat.S_ISCHR(found.st_mode) and found.st_rdev == 0


def _ns(mtime: float) -> int:
    return int(mtime * 1e9) if mtime > 0 else int(mtime) * 10**9


def _write_all(descriptor: int, body: bytes) -> None:
    view = memoryview(body)
    while view:
        view = view[os.write(descriptor, view) :]
