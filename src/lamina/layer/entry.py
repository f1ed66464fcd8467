"""One name in a layer. Paths are bytes, relative, without a leading slash or '..'."""

from __future__ import annotations

from enum import Enum

import msgspec


class Kind(Enum):
    """A member costs a look-up by name each time it is written (Python 3.11): rooms that go through tens of thousands of entries bind those
    they compare with to names of their own."""

    FILE = "f"
    DIRECTORY = "d"
    SYMLINK = "l"
    HARDLINK = "h"  # `link` names an entry of the same layer or below
    FIFO = "p"
    CHARACTER = "c"
    BLOCK = "b"
    WHITEOUT = "w"  # this name is gone
    OPAQUE = "o"  # the folder `path` hides what lies below it (in addition to its DIRECTORY entry)


class Entry(msgspec.Struct, frozen=True, gc=False):
    """Metadata of one name; a file's bytes travel beside it. Ids are those inside the image."""

    path: bytes
    kind: Kind
    mode: int = 0  # permission bits with suid, sgid, sticky: 0o7777
    uid: int = 0
    gid: int = 0
    size: int = 0
    mtime: float = 0.0  # seconds; not part of any content id
    link: bytes = b""
    major: int = 0
    minor: int = 0
    xattrs: tuple[tuple[bytes, bytes], ...] = ()  # sorted by name
