"""What can be wrong with a store, and the one border where the kernel's and SQLite's errors become these."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lamina.store.protocols import StoreError


class DiskFull(StoreError):
    code = "store/full-disk"


class StoreReadOnly(StoreError):
    code = "store/read-only"


class StoreForbidden(StoreError):
    code = "store/permission"


class StoreBusy(StoreError):
    code = "store/busy"


class StoreDamaged(StoreError):
    code = "store/damaged"


class OtherStore(StoreError):
    """The root holds a store of another flavour, user or format, or no store at all."""

    code = "store/other"
    default_exit = 78


class BadName(StoreError):
    """A layer id or digest that cannot be the name of a file."""

    code = "store/bad-name"


_LITTLE = 1 << 16  # SQLite makes its shared memory in pieces of 32 KiB
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_FORBIDDEN = frozenset({errno.EACCES, errno.EPERM})


def of_oserror(error: OSError, root: Path) -> StoreError:
    """The StoreError for a failed system call below `root`."""
    if error.errno in _FULL:
        return DiskFull(
            f"no space left for the store {root}",
            hint="free some, with `lamina cache prune`, or choose another place with --root",
        )
    if error.errno == errno.EROFS:
        return StoreReadOnly(f"the store {root} is on a read-only file system", hint="choose another place with --root")
    if error.errno in _FORBIDDEN:
        where = error.filename if isinstance(error.filename, str) else str(root)
        return StoreForbidden(
            f"no permission for {where}", hint=f"the store {root} must belong to who uses it; choose another place with --root"
        )
    if not root.is_dir() and os.path.lexists(root):
        what = f"a link to {os.readlink(root)}, which is not there" if root.is_symlink() else "no folder"
        return StoreError(f"the store {root} cannot be used: it is {what}", hint="choose another place with --root")
    where = f": {error.filename}" if isinstance(error.filename, str) else ""
    return StoreError(f"the store {root} cannot be used: {error.strerror or error}{where}")


def of_sqlite(error: sqlite3.Error, root: Path) -> StoreError:
    """The StoreError for a failed statement on the database below `root`."""
    text = str(error).lower()
    if "full" in text:
        return of_oserror(OSError(errno.ENOSPC, ""), root)
    if "readonly" in text or "read-only" in text:
        return of_oserror(OSError(errno.EROFS, ""), root)
    if "locked" in text or "busy" in text:
        return StoreBusy(f"other processes kept the database of {root} locked for too long", hint="try again")
    if "malformed" in text or "not a database" in text or "no such table" in text or "no such column" in text:
        return StoreDamaged(
            f"the database of {root} is damaged ({error})",
            hint="`lamina check --repair` begins a new one and keeps the images that were pulled, loaded or imported",
        )
    # "disk I/O error" and "unable to open database file" hide the reason; the file system knows it.
    with contextlib.suppress(OSError):
        place = os.statvfs(root)
        if place.f_flag & os.ST_RDONLY:
            return of_oserror(OSError(errno.EROFS, ""), root)
        if place.f_bavail * place.f_frsize < _LITTLE or (place.f_files and not place.f_favail):
            return of_oserror(OSError(errno.ENOSPC, ""), root)
    return StoreError(f"the database of {root} cannot be used: {error}", hint="is the disk full, or the store not writable?")


@contextmanager
def border(root: Path) -> Iterator[None]:
    """OSError and sqlite3.Error that leave the block become one StoreError; LaminaErrors pass."""
    try:
        yield
    except OSError as error:
        raise of_oserror(error, root) from error
    except sqlite3.Error as error:
        raise of_sqlite(error, root) from error
