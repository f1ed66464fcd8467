"""How a store keeps on disk what its user may not make for real: whiteouts, owners, devices. One store has one flavour."""

from __future__ import annotations

from typing import Literal

import msgspec


class IdMap(msgspec.Struct, frozen=True):
    """Which ids can be on disk.

    `real`: any (root, or inside a user namespace with a range: the process is then root there and sees mapped ids as plain ones).
    `single`: only our own; true owners are in the xattr `user.lamina.owner` ("uid:gid") on files and folders, in the layer's
    side table for other kinds.
    """

    kind: Literal["real", "single"] = "real"


class Flavour(msgspec.Struct, frozen=True):
    """`trusted`: 0:0 devices and trusted.overlay.opaque (root). `user`: 0:0 devices and user.overlay.opaque (user namespace).
    `plain`: neither can be made here (rung none); whiteouts, opaque marks and devices stand in the layer's side table.
    Layers of different flavours never meet in one store (a trusted layer mounted with userxattr ignores opaque folders)."""

    whiteouts: Literal["trusted", "user", "plain"]
    ids: IdMap = IdMap()

    def __str__(self) -> str:
        return f"{self.whiteouts}-{self.ids.kind}"
