"""Go's FileMode, which fsutil has on the wire, and what goes with it."""

from __future__ import annotations

import os
import stat

_DIR, _SYMLINK, _DEVICE, _FIFO, _SOCKET, _SETUID, _SETGID, _CHAR, _STICKY, _IRREGULAR = (
    1 << bit for bit in (31, 27, 26, 25, 24, 23, 22, 21, 20, 19)
)
_KINDS = ((_DIR, stat.S_IFDIR), (_SYMLINK, stat.S_IFLNK), (_FIFO, stat.S_IFIFO), (_SOCKET, stat.S_IFSOCK))


def kind(mode: int) -> int:
    """stat's S_IF… of a FileMode; 0 for what has none here."""
    for bit, found in _KINDS:
        if mode & bit:
            return found
    if mode & _DEVICE:
        return stat.S_IFCHR if mode & _CHAR else stat.S_IFBLK
    return 0 if mode & _IRREGULAR else stat.S_IFREG


def permissions(mode: int) -> int:
    """The twelve bits that chmod takes."""
    special = (_SETUID, stat.S_ISUID), (_SETGID, stat.S_ISGID), (_STICKY, stat.S_ISVTX)
    return mode & 0o777 | sum(unix for go, unix in special if mode & go)


def file_mode(format: int, permissions: int) -> int:
    """The FileMode of an S_IF… and twelve bits."""
    mode = permissions & 0o777
    for bit, unix in ((_SETUID, stat.S_ISUID), (_SETGID, stat.S_ISGID), (_STICKY, stat.S_ISVTX)):
        mode |= bit if permissions & unix else 0
    if format == stat.S_IFCHR:
        return mode | _DEVICE | _CHAR
    if format == stat.S_IFBLK:
        return mode | _DEVICE
    return mode | next((bit for bit, found in _KINDS if found == format), 0)


def set_xattrs(descriptor: int, xattrs: dict[str, bytes]) -> None:
    """Those that a file in an image may have; what this file system does not take is left out."""
    for name, value in xattrs.items():
        if name.startswith("user.") or name == "security.capability":
            try:
                os.setxattr(descriptor, name, value)
            except (OSError, ValueError):  # also a name with a zero in it
                continue
