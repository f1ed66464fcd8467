"""Output types `tar` and `local`: the files of the result instead of an image."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from lamina.engine.exporters.place import CannotWrite
from lamina.layer.entry import Entry, Kind
from lamina.layer.tree import FileTree

_PIECE = 1 << 20
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_TAR_TYPES = {
    Kind.FILE: tarfile.REGTYPE,
    Kind.DIRECTORY: tarfile.DIRTYPE,
    Kind.SYMLINK: tarfile.SYMTYPE,
    Kind.FIFO: tarfile.FIFOTYPE,
    Kind.CHARACTER: tarfile.CHRTYPE,
    Kind.BLOCK: tarfile.BLKTYPE,
}


def write_rootfs_tar(tree: FileTree, out: BinaryIO) -> None:
    """All of `tree` as a tar, folders before what they hold, names in byte order; metadata as in the image."""
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT, bufsize=1 << 18) as tar:
        stack = [b""]
        while stack:
            path = stack.pop()
            entry = tree.entry(path)
            if entry is None or entry.kind not in _TAR_TYPES:
                continue
            if path:
                info = _tar_info(path, entry)
                if entry.kind is Kind.FILE:
                    with tree.open(path) as file:
                        tar.addfile(info, file)
                else:
                    tar.addfile(info)
            if entry.kind is Kind.DIRECTORY:
                stack.extend(_below(path, name) for name in sorted(tree.children(path), reverse=True))


def _tar_info(path: bytes, entry: Entry) -> tarfile.TarInfo:
    info = tarfile.TarInfo(_text(path))
    info.type = _TAR_TYPES[entry.kind]
    info.mode, info.uid, info.gid, info.mtime = entry.mode, entry.uid, entry.gid, int(entry.mtime)
    info.size = entry.size if entry.kind is Kind.FILE else 0
    info.linkname = _text(entry.link)
    info.devmajor, info.devminor = entry.major, entry.minor
    if entry.xattrs:
        info.pax_headers = {f"SCHILY.xattr.{_text(name)}": _text(value) for name, value in entry.xattrs}
    return info


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def write_local(tree: FileTree, dest: Path) -> tuple[str, ...]:
    """All of `tree` into `dest`, which may exist: files of the same name are replaced, others stay.

    Owners are the image's when we are root, else ours. Returns the paths that could not be made (devices without permission).
    No symlink in `dest` is followed: a symlink or file where the tree has a folder is a CannotWrite. Each file appears complete.
    """
    skipped: list[str] = []
    try:
        dest.mkdir(parents=True, exist_ok=True)
        # dest itself is the user's own word: a symlink there is followed.
        handle = os.open(dest, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _Local(tree, dest, skipped).fill(handle)
        finally:
            os.close(handle)
    except OSError as error:
        raise CannotWrite(f"cannot write {error.filename if isinstance(error.filename, str) else dest}: {error.strerror}") from error
    return tuple(skipped)


class _Filling(msgspec.Struct):
    """A folder that is open: what of it is still to be made. `entry` None: the destination itself, which is the caller's to dress and close."""

    handle: int
    path: bytes
    entry: Entry | None
    names: Iterator[bytes]

    def close(self) -> None:
        if self.entry is not None:
            os.close(self.handle)


class _Local:
    def __init__(self, tree: FileTree, dest: Path, skipped: list[str]) -> None:
        self._tree = tree
        self._dest = dest
        self._skipped = skipped
        self._root = os.geteuid() == 0
        self._temporary = f".lamina-{os.getpid()}".encode()

    def fill(self, top: int) -> None:
        """All of the tree into the open folder `top`. Not by recursion: how deep it goes is for the image's maker to say."""
        waiting = [_Filling(top, b"", None, iter(sorted(self._tree.children(b""))))]
        try:
            while waiting:
                folder = waiting[-1]
                name = next(folder.names, None)
                path = folder.path if name is None else _below(folder.path, name)
                try:
                    if name is not None:
                        entry = self._tree.entry(path)
                        if entry is not None and entry.kind is Kind.DIRECTORY:
                            names = iter(sorted(self._tree.children(path)))
                            waiting.append(_Filling(self._folder(folder.handle, name, path), path, entry, names))
                        elif entry is not None:
                            self._make(folder.handle, name, path, entry)
                        continue
                    if folder.entry is not None:
                        self._metadata(folder.handle, folder.entry)
                except OSError as error:
                    raise CannotWrite(f"cannot write {os.fsdecode(path)} into {self._dest}: {error.strerror}") from error
                waiting.pop().close()
        finally:
            for folder in waiting:
                folder.close()

    def _make(self, folder: int, name: bytes, path: bytes, entry: Entry) -> None:
        temporary = self._temporary
        try:
            if entry.kind is Kind.FILE:
                self._file(folder, temporary, path, entry)
            elif entry.kind is Kind.SYMLINK:
                os.symlink(entry.link, temporary, dir_fd=folder)
                self._finish(folder, temporary, entry)
            elif entry.kind is Kind.FIFO:
                os.mkfifo(temporary, 0o600, dir_fd=folder)
                self._finish(folder, temporary, entry)
            elif entry.kind in (Kind.CHARACTER, Kind.BLOCK):
                if not self._device(folder, temporary, path, entry):
                    return
            else:
                return
            os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            try:
                os.unlink(temporary, dir_fd=folder)
            except OSError:
                pass
            raise

    def _folder(self, parent: int, name: bytes, path: bytes) -> int:
        """The folder's descriptor, for the caller to close."""
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            pass
        try:
            return os.open(name, _FOLDER, dir_fd=parent)
        except OSError as error:
            raise CannotWrite(
                f"{self._dest} has something else where the folder {os.fsdecode(path)} belongs: {error.strerror}",
                hint="symlinks in the destination are not followed; remove it or name an empty folder",
            ) from error

    def _file(self, folder: int, name: bytes, path: bytes, entry: Entry) -> None:
        handle = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder)
        with os.fdopen(handle, "wb", buffering=0) as out, self._tree.open(path) as source:
            while piece := source.read(_PIECE):
                view = memoryview(piece)
                while view:
                    view = view[out.write(view) :]
            self._metadata(out.fileno(), entry)

    def _device(self, folder: int, name: bytes, path: bytes, entry: Entry) -> bool:
        import stat

        kind = stat.S_IFCHR if entry.kind is Kind.CHARACTER else stat.S_IFBLK
        try:
            os.mknod(name, kind | 0o600, os.makedev(entry.major, entry.minor), dir_fd=folder)
        except PermissionError:
            self._skipped.append(os.fsdecode(path))
            return False
        self._finish(folder, name, entry)
        return True

    def _metadata(self, handle: int, entry: Entry) -> None:
        if self._root:
            os.fchown(handle, entry.uid, entry.gid)
        os.fchmod(handle, entry.mode)
        for key, value in entry.xattrs:
            try:
                os.setxattr(handle, key, value)
            except OSError:
                pass  # the file system or the user may not have this kind; docker's export is silent about it too
        os.utime(handle, (entry.mtime, entry.mtime))

    def _finish(self, folder: int, name: bytes, entry: Entry) -> None:
        """Owner, mode and time of what is not opened."""
        if self._root:
            os.chown(name, entry.uid, entry.gid, dir_fd=folder, follow_symlinks=False)
        if entry.kind is not Kind.SYMLINK:
            os.chmod(name, entry.mode, dir_fd=folder)
        os.utime(name, (entry.mtime, entry.mtime), dir_fd=folder, follow_symlinks=False)


def _below(path: bytes, name: bytes) -> bytes:
    return path + b"/" + name if path else name
