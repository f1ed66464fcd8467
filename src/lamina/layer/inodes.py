"""One name of a layer directory as an Entry: owner, mode, attributes and device numbers as the image means them."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence

from lamina.diagnostics.errors import LaminaError
from lamina.layer.entry import Entry, Kind
from lamina.layer.extra import Extra
from lamina.layer.flavour import Flavour
from lamina.layer.paths import show
from lamina.layer.xattrs import OWNER, kept, parse_owner, portable

WHITEOUT_CODE, FILE_CODE, DIRECTORY_CODE, OTHER_CODE = "w", "f", "d", "?"
_REFUSED = (".overlay.redirect", ".overlay.metacopy", ".overlay.whiteout", ".overlay.xwhiteouts")
_KINDS = {stat.S_IFLNK: Kind.SYMLINK, stat.S_IFIFO: Kind.FIFO, stat.S_IFCHR: Kind.CHARACTER, stat.S_IFBLK: Kind.BLOCK}
Xattrs = tuple[tuple[bytes, bytes], ...]


class ForeignLayer(LaminaError):
    """A layer directory of another flavour, or made by an overlay with features that hide bytes from the layer."""

    code = "layer/foreign"


class Inodes:
    """Reads entries of one layer directory."""

    def __init__(self, flavour: Flavour, extra: Extra) -> None:
        self.extra = extra
        self._single = flavour.ids.kind == "single"
        self._flavour = flavour.whiteouts
        self._marks = (f"{flavour.whiteouts}.overlay", "trusted.overlay")

    def opened(self, path: bytes, fd: int, found: os.stat_result) -> Entry:
        """Of an open regular file or folder."""
        mode, size = found.st_mode, found.st_size
        owner = None if self._single else (found.st_uid, found.st_gid)
        names = os.listxattr(fd)
        xattrs: Xattrs = ()
        if names:
            xattrs, stated = self._xattrs(path, fd, names)
            if self._single:
                owner = stated
        kind = Kind.FILE
        major = minor = 0
        extra = self.extra
        permissions = mode & 0o7777
        if stat.S_ISDIR(mode):
            kind, size = Kind.DIRECTORY, 0
        if extra:
            permissions = extra.modes.get(path, permissions)
            owner = owner or extra.owners.get(path)
            more = extra.xattrs.get(path)
            if more:
                xattrs = tuple(sorted({**dict(xattrs), **more}.items()))
            device = extra.devices.get(path)
            if device is not None and not size:
                kind, major, minor = Kind(device[0]), device[1], device[2]
        uid, gid = owner or (0, 0)
        return Entry(path, kind, permissions, uid, gid, size, _seconds(found), b"", major, minor, xattrs)

    def other(self, path: bytes, name: bytes, parent: int, found: os.stat_result) -> Entry | None:
        """Of what is neither a file nor a folder; `name` in the open folder `parent`. None for a socket."""
        kind = _KINDS.get(stat.S_IFMT(found.st_mode))
        if kind is None:
            return None
        uid, gid = self.extra.owners.get(path, (0, 0)) if self._single else (found.st_uid, found.st_gid)
        mtime = _seconds(found)
        if kind is Kind.SYMLINK:
            return Entry(path, kind, 0o777, uid, gid, 0, mtime, os.readlink(name, dir_fd=parent))
        if kind is Kind.CHARACTER and found.st_rdev == 0:
            return Entry(path, Kind.WHITEOUT)
        mode = self.extra.modes.get(path, found.st_mode & 0o7777)
        return Entry(path, kind, mode, uid, gid, 0, mtime, b"", os.major(found.st_rdev), os.minor(found.st_rdev))

    def opaque(self, path: bytes, fd: int) -> bool:
        """Whether the open folder hides what lies below it."""
        if self._flavour == "plain":
            return path in self.extra.opaque
        try:
            return os.getxattr(fd, f"{self._flavour}.overlay.opaque") == b"y"
        except OSError:
            return False

    def _xattrs(self, path: bytes, fd: int, names: Sequence[str]) -> tuple[Xattrs, tuple[int, int] | None]:
        found: list[tuple[bytes, bytes]] = []
        owner = None
        for name in names:
            if name == OWNER:
                owner = parse_owner(os.getxattr(fd, name))
                continue
            if name.startswith(self._marks):
                if name.endswith(_REFUSED) and name.startswith(self._marks[0]):
                    raise ForeignLayer(
                        f"{show(path)} has the mark {name}: this layer was written by an overlay with redirect_dir, metacopy or "
                        "nested whiteouts, and its bytes are not all in it"
                    )
                if name == "trusted.overlay.opaque" and self._flavour != "trusted":
                    raise ForeignLayer(f"{show(path)} has the mark {name}: a layer of another flavour (this store is {self._flavour})")
                continue
            raw = os.fsencode(name)
            if kept(raw):
                found.append((raw, portable(raw, os.getxattr(fd, name))))
        found.sort()
        return tuple(found), owner


def listing(fd: int, hidden: Sequence[bytes] = ()) -> list[tuple[bytes, str]]:
    """(base name, code) of an open folder in byte order; `hidden` are whiteouts that are not on disk."""
    with os.scandir(fd) as found:
        names = [
            (
                os.fsencode(item.name),
                FILE_CODE if item.is_file(follow_symlinks=False) else DIRECTORY_CODE if item.is_dir(follow_symlinks=False) else OTHER_CODE,
            )
            for item in found
        ]
    names.extend((name, WHITEOUT_CODE) for name in hidden)
    names.sort()
    return names


def _seconds(found: os.stat_result) -> float:
    """Microseconds, rounded down: with nanoseconds a float could show the next second."""
    return found.st_mtime_ns // 1000 / 1_000_000
