"""`dir:PATH`: objects as files of a folder that many machines mount. Temporary name, fsync, link: nothing is locked, nothing is rewritten.

Written for NFS: `link` is atomic there although its answer may get lost (the temporary file's link count tells), `rename` and O_EXCL
across clients are not relied upon. Folders are walked by descriptor without following links: another writer of the folder cannot lead
outside of it.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from lamina.cache.remote.errors import CacheDenied, CacheError, CacheFull, CacheUnavailable, ObjectGone
from lamina.cache.remote.names import KINDS, checked, checked_prefix, known, known_prefix
from lamina.cache.remote.parallel import gather_by_listing
from lamina.cache.remote.protocols import PIECE, SMALL, Body, Entry, Stat, whole

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_TMP = "tmp"
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
_MARK = b"lamina shared cache 1\n"
_FORMAT = "format"


class DirectoryObjects:
    """See ObjectStore. `path` is made when the first object is put."""

    def __init__(self, path: Path) -> None:
        self._root = path
        self.where = f"dir:{path}"

    def put(self, name: str, body: Body) -> bool:
        parts = checked(name).split("/")
        with self._border():
            self._prepare()
            with self._folder(parts[:-1]) as folder:
                if folder is not None and _present(folder, parts[-1]):
                    return False
            with self._temporary(body) as (tmp, temporary):
                return self._link(tmp, temporary, parts)

    def get(self, name: str, limit: int = SMALL) -> bytes | None:
        try:
            pieces, total = [], 0
            for piece in self.stream(name):
                total += len(piece)
                if total > limit:
                    raise CacheError(f"{self.where}: {name} has more than {limit} bytes")
                pieces.append(piece)
            return b"".join(pieces)
        except ObjectGone:
            return None

    def stream(self, name: str) -> Iterator[bytes]:
        parts = checked(name).split("/")
        with self._border():
            handle = -1
            with self._folder(parts[:-1]) as folder:
                if folder is not None:
                    handle = _opened(folder, parts[-1])
        if handle < 0:
            raise ObjectGone(f"{self.where} has no {name}")
        try:
            while True:
                with self._border():
                    piece = os.read(handle, PIECE)
                if not piece:
                    return
                yield piece
        finally:
            os.close(handle)

    def gather(self, prefixes: Sequence[str]) -> dict[str, dict[str, bytes]]:
        return gather_by_listing(self, prefixes)

    def exists(self, names: Collection[str]) -> set[str]:
        return set(self.stat(names))

    def stat(self, names: Collection[str]) -> dict[str, Stat]:
        found: dict[str, Stat] = {}
        with self._border():
            for name in names:
                parts = checked(name).split("/")
                with self._folder(parts[:-1]) as folder:
                    about = None if folder is None else _lstat(folder, parts[-1])
                if about is not None and stat.S_ISREG(about.st_mode):
                    found[name] = Stat(about.st_size, about.st_mtime)
        return found

    def list(self, prefix: str) -> Iterator[Entry]:
        parts = [part for part in checked_prefix(prefix).split("/") if part]
        if not parts:
            for kind in KINDS:
                yield from self.list(f"{kind}/")
            return
        with self._border():
            found = list(self._below(parts))
        yield from found

    def delete(self, names: Collection[str]) -> None:
        """Folders that become empty go too; a writer that is about to use one makes it again."""
        with self._border():
            for name in names:
                parts = checked(name).split("/")
                with self._folder(parts[:-1]) as folder:
                    if folder is None:
                        continue
                    try:
                        os.unlink(parts[-1], dir_fd=folder)
                    except FileNotFoundError:
                        continue
                for depth in range(len(parts) - 1, 1, -1):
                    with self._folder(parts[: depth - 1]) as above:
                        try:
                            if above is not None:
                                os.rmdir(parts[depth - 1], dir_fd=above)
                        except OSError:
                            break

    def sweep(self, older_than: float) -> int:
        count = 0
        with self._border(), self._folder([_TMP]) as tmp:
            for name in [] if tmp is None else os.listdir(tmp):
                about = _lstat(tmp, name) if tmp is not None else None
                if about is not None and about.st_mtime < older_than:
                    try:
                        os.unlink(name, dir_fd=tmp)
                        count += 1
                    except OSError:
                        continue
        return count

    def close(self) -> None:
        pass

    def _prepare(self) -> None:
        """The folder says which format it has; a newer one is left alone."""
        self._root.mkdir(parents=True, exist_ok=True)
        with self._folder([]) as root:
            if root is None:
                raise CacheUnavailable(f"{self.where} went away")
            handle = _opened(root, _FORMAT)
            if handle < 0:
                with self._temporary(whole(_MARK)) as (tmp, temporary):
                    os.rename(temporary, _FORMAT, src_dir_fd=tmp, dst_dir_fd=root)  # the same bytes from everybody
                    os.fsync(root)
                return
            try:
                found = os.read(handle, len(_MARK) + 1)
            finally:
                os.close(handle)
        if found != _MARK:
            said = found.decode("utf-8", "replace").strip()
            raise CacheError(f"{self.where} holds something else: its format is {said!r}", hint="another folder, or a newer lamina")

    @contextmanager
    def _temporary(self, body: Body) -> Iterator[tuple[int, str]]:
        """The bytes on the disk, as (descriptor of tmp/, name in it); the name is gone afterwards."""
        with self._folder([_TMP], make=True) as tmp:
            assert tmp is not None
            name = f"{os.getpid()}-{secrets.token_hex(12)}"
            try:
                self._write(tmp, name, body)
                yield tmp, name
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=tmp)

    @contextmanager
    def _folder(self, parts: Sequence[str], *, make: bool = False) -> Iterator[int | None]:
        """A descriptor of the folder below the root; None when it is not there."""
        handle: int | None = None
        try:
            try:
                handle = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                for part in parts:
                    if make:
                        try:
                            os.mkdir(part, dir_fd=handle)
                        except FileExistsError:
                            pass
                    below = os.open(part, _FOLDER, dir_fd=handle)
                    os.close(handle)
                    handle = below
            except FileNotFoundError:
                if handle is not None:
                    os.close(handle)
                handle = None
            yield handle
        finally:
            if handle is not None:
                os.close(handle)

    def _write(self, tmp: int, name: str, body: Body) -> None:
        handle = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666, dir_fd=tmp)
        try:
            size = 0
            for piece in body.pieces():
                view = memoryview(piece)
                size += len(view)
                while view:
                    view = view[os.write(handle, view) :]
            if size != body.size:
                raise CacheError(f"{self.where}: {size} bytes came in place of {body.size}")
            os.fsync(handle)
        finally:
            os.close(handle)

    def _link(self, tmp: int, temporary: str, parts: Sequence[str]) -> bool:
        for _ in range(100):
            with self._folder(parts[:-1], make=True) as folder:
                if folder is None:
                    continue  # pruning took the empty folder away
                try:
                    os.link(temporary, parts[-1], src_dir_fd=tmp, dst_dir_fd=folder, follow_symlinks=False)
                except FileExistsError:
                    about = _lstat(tmp, temporary)
                    there = _lstat(folder, parts[-1])
                    # Over NFS a link may be made and its answer lost.
                    return about is not None and there is not None and (about.st_ino, about.st_dev) == (there.st_ino, there.st_dev)
                except FileNotFoundError:
                    continue
                except OSError as error:
                    if error.errno not in _NO_LINKS:
                        raise
                    # No links there. The bytes under a name are always the same ones, so that replacing them changes nothing.
                    if _present(folder, parts[-1]):
                        return False
                    os.rename(temporary, parts[-1], src_dir_fd=tmp, dst_dir_fd=folder)
                os.fsync(folder)
                return True
        raise CacheUnavailable(f"{self.where}: the folder of {'/'.join(parts)} keeps vanishing")

    def _below(self, parts: Sequence[str]) -> Iterator[Entry]:
        with self._folder(parts) as folder:
            if folder is None:
                return
            with os.scandir(folder) as found:
                entries = list(found)
            for entry in entries:
                name = "/".join((*parts, entry.name))
                if entry.is_dir(follow_symlinks=False):
                    if known_prefix(f"{name}/"):
                        yield from self._below([*parts, entry.name])
                elif known(name):
                    try:
                        about = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue
                    if stat.S_ISREG(about.st_mode):
                        yield Entry(name, about.st_size, about.st_mtime)

    @contextmanager
    def _border(self) -> Iterator[None]:
        """OSErrors become ours."""
        try:
            yield
        except OSError as error:
            words = f"{self.where}: {error.strerror or error}"
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise CacheFull(words, hint="`lamina cache prune` makes room there") from error
            if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise CacheDenied(words) from error
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                raise CacheError(f"{words}; a link or a file stands where a folder belongs") from error
            raise CacheUnavailable(words) from error


def _lstat(folder: int, name: str) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _present(folder: int, name: str) -> bool:
    return _lstat(folder, name) is not None


def _opened(folder: int, name: str) -> int:
    """-1 when it is not there; only regular files."""
    try:
        handle = os.open(name, _FILE, dir_fd=folder)
    except FileNotFoundError:
        return -1
    if stat.S_ISREG(os.fstat(handle).st_mode):
        return handle
    os.close(handle)
    raise OSError(errno.ELOOP, "not a regular file")
