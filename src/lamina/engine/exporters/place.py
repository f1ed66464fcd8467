"""Where an export goes: a file that appears complete or not at all, a directory likewise, or standard output."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from lamina.diagnostics.errors import LaminaError
from lamina.store.files import Writeback
from lamina.store.removal import remove

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer


class CannotWrite(LaminaError):
    """The destination cannot be written (no such folder, permissions, full disk)."""

    code = "output/cannot-write"
    default_exit = 73


@contextmanager
def replacing(path: Path, *, sync: bool = True) -> Iterator[BinaryIO]:
    """A writer whose bytes become `path` when the block ends well, after fsync (without `sync`: at once); otherwise `path` is as it was. A link stays
    one: what it points to is replaced.

    What is no regular file (a device, a fifo), or is a name of an open one (/dev/stdout, also where that is a file now), is written directly.
    """
    with _plainly(path):
        if (path.exists() and not path.is_file()) or _is_descriptor(path):
            with path.open("wb") as direct:
                yield direct
            return
        if path.is_symlink():
            path = Path(os.path.realpath(path))
        mode = 0o666 & ~_umask()
        handle, name = tempfile.mkstemp(prefix=f".{path.name[:64]}.", dir=path.parent)
        try:
            with io.BufferedWriter(_Begun(handle, "wb"), 1 << 20) as out:
                yield out
                out.flush()
                os.fchmod(out.fileno(), mode)
                if sync:
                    os.fsync(out.fileno())
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


class _Begun(io.FileIO):
    """A file that is on its way to the disk while it is written, so that its fsync waits for the end of it."""

    def __init__(self, handle: int, mode: str) -> None:
        super().__init__(handle, mode)
        self._writeback = Writeback(handle)

    def write(self, data: Buffer, /) -> int:
        count = super().write(data)
        self._writeback.wrote(count)
        return count


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder beside `path` that takes its place when the block ends well. An empty folder may stand there already."""
    path = Path(os.path.normpath(path))
    with _plainly(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir() and not path.is_symlink() and any(path.iterdir()):
            raise CannotWrite(f"{path} is not empty", hint="name a folder that does not exist yet, or empty it first")
        made = Path(tempfile.mkdtemp(prefix=f".{path.name[:64]}.", dir=path.parent))
        try:
            yield made
            made.chmod(0o777 & ~_umask())
            os.replace(made, path)
        except BaseException:
            with suppress(OSError):
                remove(made)
            raise


@contextmanager
def _plainly(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CannotWrite(f"cannot write {path}: {error.strerror or error}") from error


def _is_descriptor(path: Path) -> bool:
    """/dev/stdout, /dev/fd/3, /proc/self/fd/3: to replace such a name would take it away from the whole machine."""
    if path.is_symlink() and os.readlink(path).startswith("/proc/"):
        return True
    return os.path.realpath(path.parent).startswith("/proc/")


def _umask() -> int:
    """The kernel tells it without the race of setting it."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("Umask:"):
            return int(line.split()[1], 8)
    return 0o022
