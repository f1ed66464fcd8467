"""Which extended attributes belong to an image, and in which form.

Kept: `user.*` and `security.capability`. Left out: overlayfs' own marks and ours, ACLs (`system.*`), labels and measurements of the
host (other `security.*`), `trusted.*`. The same rule holds for reading a layer directory and for applying a tar. (Docker's own differ
keeps `security.capability` only; its extraction sets what it is given.)
"""

from __future__ import annotations

import struct

OWNER = "user.lamina.owner"
CAPABILITY = b"security.capability"
_OURS = (b"user.overlay.", b"user.lamina.", b"user.fuseoverlayfs.")
_REVISION = 0xFF000000
_V2, _V3 = 0x02000000, 0x03000000


def kept(name: bytes) -> bool:
    return name == CAPABILITY or (name.startswith(b"user.") and not name.startswith(_OURS))


def portable(name: bytes, value: bytes) -> bytes:
    """The value as it may leave this host: file capabilities of version 3 lose the id of the namespace that they are bound to."""
    if name == CAPABILITY and len(value) == 24:
        (magic,) = struct.unpack_from("<I", value)
        if magic & _REVISION == _V3:
            return struct.pack("<I", magic & ~_REVISION | _V2) + value[4:20]
    return value


def owner_value(uid: int, gid: int) -> bytes:
    return b"%d:%d" % (uid, gid)


def parse_owner(value: bytes) -> tuple[int, int] | None:
    """(uid, gid); None for what is no owner."""
    uid, _, gid = value.partition(b":")
    return (int(uid), int(gid)) if uid.isdigit() and gid.isdigit() and len(value) < 24 else None
