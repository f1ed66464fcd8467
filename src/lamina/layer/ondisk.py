"""How one name of a layer directory is read back as an Entry: whiteouts, opaque marks, recorded owners, file capabilities."""

from __future__ import annotations

import os
import stat
import struct

from lamina.diagnostics.errors import LaminaError
from lamina.layer.entry import Entry, Kind
from lamina.layer.extra import Extra
from lamina.layer.flavour import Flavour

OWNER = "user.lamina.owner"
CAPABILITY = "security.capability"
_KINDS = {
    stat.S_IFREG: Kind.FILE,
    stat.S_IFDIR: Kind.DIRECTORY,
    stat.S_IFLNK: Kind.SYMLINK,
    stat.S_IFIFO: Kind.FIFO,
    stat.S_IFCHR: Kind.CHARACTER,
    stat.S_IFBLK: Kind.BLOCK,
}


class UnstorableLayer(LaminaError):
    """A name or attribute that no image layer can hold."""

    code = "layer/unstorable"


def opaque_name(flavour: Flavour) -> str:
    return "trusted.overlay.opaque" if flavour.whiteouts == "trusted" else "user.overlay.opaque"


def read_entry(host: bytes, path: bytes, found: os.stat_result, flavour: Flavour, extra: Extra) -> Entry | None:
    """None for sockets, which layers do not hold (as in docker). A hard link is read as a file."""
    kind = _KINDS.get(stat.S_IFMT(found.st_mode))
    if kind is None:
        return None
    uid, gid, mode = found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)
    major = minor = 0
    if kind is Kind.CHARACTER and found.st_rdev == 0:
        return Entry(path, Kind.WHITEOUT)
    if kind in (Kind.CHARACTER, Kind.BLOCK):
        major, minor = os.major(found.st_rdev), os.minor(found.st_rdev)
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    if kind is not Kind.SYMLINK:
        names = os.listxattr(host, follow_symlinks=False)
        if names:
            xattrs, owner = _attributes(host, names, flavour)
            if owner is not None:
                uid, gid = owner
    if extra:
        uid, gid = extra.owners.get(path, (uid, gid))
        if path in extra.devices:
            letter, mode, major, minor = extra.devices[path]
            kind = Kind(letter)
    size = found.st_size if kind is Kind.FILE else 0
    link = os.readlink(host) if kind is Kind.SYMLINK else b""
    return Entry(path, kind, 0o777 if kind is Kind.SYMLINK else mode, uid, gid, size, found.st_mtime_ns / 1e9, link, major, minor, xattrs)


def is_opaque(host: bytes, path: bytes, flavour: Flavour, extra: Extra) -> bool:
    """Whether this folder hides what lies below it."""
    if extra and path in extra.opaque:
        return True
    if flavour.whiteouts == "plain":
        return False
    try:
        return os.getxattr(host, opaque_name(flavour), follow_symlinks=False) == b"y"
    except OSError:
        return False


def _attributes(host: bytes, names: list[str], flavour: Flavour) -> tuple[tuple[tuple[bytes, bytes], ...], tuple[int, int] | None]:
    found: list[tuple[bytes, bytes]] = []
    owner: tuple[int, int] | None = None
    for name in names:
        if name.endswith((".overlay.redirect", ".overlay.metacopy")):
            raise UnstorableLayer(
                f"{os.fsdecode(host)} has the attribute {name}: the kernel was told not to use it, and a layer cannot hold it"
            )
        if name == CAPABILITY:
            found.append((name.encode(), capability_v2(os.getxattr(host, name, follow_symlinks=False))))
        elif name == OWNER and flavour.ids.kind == "single":
            uid, _, gid = os.getxattr(host, name, follow_symlinks=False).partition(b":")
            owner = (int(uid), int(gid))
    return tuple(found), owner


def capability_v2(value: bytes) -> bytes:
    """A capability that was set inside a user namespace (v3) names that namespace's root; a layer carries the plain form (v2)."""
    if len(value) == 24 and struct.unpack("<I", value[:4])[0] & 0xFF000000 == 0x03000000:
        magic = struct.unpack("<I", value[:4])[0]
        return struct.pack("<I", 0x02000000 | (magic & 1)) + value[4:20]
    return value
