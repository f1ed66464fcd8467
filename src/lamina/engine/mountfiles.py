"""The files of a cache mount: listed, read and written below a descriptor of its folder, never through a symbolic link.

Kept are regular files, folders and symbolic links, their nine permission bits and the times of files. Set-user-id and sticky bits, owners,
extended attributes and hard links are not: what arrives belongs to the mount's owner. Devices, sockets and pipes are passed over.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from lamina.cache.remote.chunks import Chunk
from lamina.cache.remote.mounts import MountFile, MountListing

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_LARGE = 1 << 20  # bytes; such a file has chunks of its own, of this size
_SMALLEST, _LARGEST = 64 << 10, 512 << 10  # bytes of a chunk of several files
_ONE_IN = 8  # files after which a chunk may end
_TEMPORARY = b".lamina-"
_LONGEST = 4096  # bytes of a path
_PIECE = 1 << 20

Part = tuple[MountFile, int, int]
"""(file, offset in it, length)"""


class FilesChanged(Exception):
    """Somebody writes into the mount while it is read."""


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[int]:
    """A descriptor of the mount's folder, which is lamina's own."""
    root = os.open(folder, _FOLDER)
    try:
        yield root
    finally:
        os.close(root)


def scan(root: int) -> list[MountFile]:
    """What is in the mount and travels, folders before what is in them. What may not be read is passed over."""
    found: list[MountFile] = []
    waiting: list[bytes] = [b""]
    while waiting:
        above = waiting.pop()
        try:
            with _folder(root, above) as folder:
                entries = [os.fsencode(name) for name in os.listdir(folder)]
                for name in entries:
                    path = above + b"/" + name if above else name
                    one = None if name.startswith(_TEMPORARY) or len(path) > _LONGEST else _entry(folder, name, path)
                    if one is not None:
                        found.append(one)
                        if one.kind == "d":
                            waiting.append(path)
        except OSError:
            continue
    return found


def _entry(folder: int, name: bytes, path: bytes) -> MountFile | None:
    try:
        about = os.stat(name, dir_fd=folder, follow_symlinks=False)
        mode = about.st_mode & 0o777
        if stat.S_ISREG(about.st_mode):
            return MountFile(path, "f", mode, about.st_mtime_ns, about.st_size)
        if stat.S_ISDIR(about.st_mode):
            return MountFile(path, "d", mode, 0)
        if stat.S_ISLNK(about.st_mode):
            return MountFile(path, "l", 0o777, 0, 0, os.readlink(name, dir_fd=folder))
    except OSError:
        pass
    return None


def listing(root: int, files: Sequence[MountFile]) -> MountListing:
    """Reads every file once. A file that cannot be read stays out; one that changes meanwhile is FilesChanged.

    Old files come first, so that what is new makes new chunks and leaves the others alone. Where a chunk ends is decided by the file
    before, so that machines with the same files cut alike without a chunker.
    """
    kept = sorted((file for file in files if file.kind != "f" or _readable(root, file)), key=lambda file: (file.mtime, file.path))
    chunks = [Chunk(hashlib.sha256(data).hexdigest(), len(data)) for data in (_bytes(root, parts) for parts in cuts(kept))]
    return MountListing(tuple(kept), tuple(chunks))


def cuts(files: Iterable[MountFile]) -> Iterator[list[Part]]:
    """What each chunk holds."""
    group: list[Part] = []
    size = 0
    for file in files:
        if not file.size:
            continue
        if file.size >= _LARGE:
            if group:
                yield group
                group, size = [], 0
            for start in range(0, file.size, _LARGE):
                yield [(file, start, min(_LARGE, file.size - start))]
            continue
        group.append((file, 0, file.size))
        size += file.size
        if size >= _LARGEST or (size >= _SMALLEST and _ends(file)):
            yield group
            group, size = [], 0
    if group:
        yield group


def wanted_chunks(root: int, listed: MountListing, digests: set[str]) -> Iterator[tuple[Chunk, bytes]]:
    """The chunks with these digests, each once, read again. FilesChanged."""
    missing = set(digests)
    for chunk, parts in zip(listed.chunks, cuts(listed.files)):
        if chunk.digest in missing:
            missing.discard(chunk.digest)
            yield chunk, _bytes(root, parts)


def place(root: int, file: MountFile, pieces: Iterable[bytes], owner: tuple[int, int]) -> bool:
    """Put one entry into the mount; whole or not at all. A folder or link that is there stays; what is no file is never replaced by one.
    False where something else is in the way. `pieces` are the file's bytes."""
    above, _, name = file.path.rpartition(b"/")
    try:
        with _folder(root, above) as folder:
            there = _kind(folder, name)
            if file.kind == "d":
                if there is None:
                    os.mkdir(name, 0o700, dir_fd=folder)
                    with _folder(folder, name) as made:
                        _dress(made, owner)
                        os.fchmod(made, file.mode)
                return there in (None, "d")
            if file.kind == "l":
                if there is None:
                    os.symlink(file.target, name, dir_fd=folder)
                    with contextlib.suppress(PermissionError):
                        os.chown(name, *owner, dir_fd=folder, follow_symlinks=False)
                return there in (None, "l")
            if there not in (None, "f"):
                return False
            _write(folder, name, file, pieces, owner)
            return True
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        return False


def _write(folder: int, name: bytes, file: MountFile, pieces: Iterable[bytes], owner: tuple[int, int]) -> None:
    temporary = _TEMPORARY + secrets.token_hex(12).encode()
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder)
    try:
        try:
            for piece in pieces:
                view = memoryview(piece)
                while view:
                    view = view[os.write(handle, view) :]
            _dress(handle, owner)
            os.fchmod(handle, file.mode)
            os.utime(handle, ns=(file.mtime, file.mtime))
        finally:
            os.close(handle)
        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=folder)
        raise


def _dress(handle: int, owner: tuple[int, int]) -> None:
    with contextlib.suppress(PermissionError):
        os.fchown(handle, *owner)


@contextlib.contextmanager
def _folder(root: int, path: bytes) -> Iterator[int]:
    """A descriptor of a folder below `root`; OSError for links and for what is none."""
    handle = os.dup(root)
    try:
        for part in path.split(b"/") if path else ():
            below = os.open(part, _FOLDER, dir_fd=handle)
            os.close(handle)
            handle = below
        yield handle
    finally:
        os.close(handle)


def _kind(folder: int, name: bytes) -> str | None:
    try:
        mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return None
    return "f" if stat.S_ISREG(mode) else "d" if stat.S_ISDIR(mode) else "l" if stat.S_ISLNK(mode) else "?"


def _readable(root: int, file: MountFile) -> bool:
    try:
        with _reading(root, file):
            return True
    except OSError:
        return False


@contextlib.contextmanager
def _reading(root: int, file: MountFile) -> Iterator[int]:
    above, _, name = file.path.rpartition(b"/")
    with _folder(root, above) as folder:
        handle = os.open(name, _FILE, dir_fd=folder)
    try:
        yield handle
    finally:
        os.close(handle)


def _bytes(root: int, parts: Sequence[Part]) -> bytes:
    found: list[bytes] = []
    for file, start, length in parts:
        try:
            with _reading(root, file) as handle:
                data = b""
                while len(data) < length and (piece := os.pread(handle, min(_PIECE, length - len(data)), start + len(data))):
                    data += piece
                about = os.fstat(handle)
        except OSError as error:
            raise FilesChanged from error
        if len(data) != length or about.st_size != file.size or about.st_mtime_ns != file.mtime:
            raise FilesChanged
        found.append(data)
    return b"".join(found)


def _ends(file: MountFile) -> bool:
    return hashlib.sha256(b"%b\0%d" % (file.path, file.size)).digest()[0] % _ONE_IN == 0
