"""A layer's side table: what its flavour cannot have on disk. Owners of symlinks (single), whiteouts, opaque marks and devices (plain)."""

from __future__ import annotations

from pathlib import Path

import msgspec

NAME = "extra"


class Extra(msgspec.Struct, omit_defaults=True):
    """Paths are relative bytes. `devices` value: (kind "c" or "b", mode, major, minor)."""

    owners: dict[bytes, tuple[int, int]] = {}
    whiteouts: set[bytes] = set()
    opaque: set[bytes] = set()
    devices: dict[bytes, tuple[str, int, int, int]] = {}

    def __bool__(self) -> bool:
        return bool(self.owners or self.whiteouts or self.opaque or self.devices)


def read_extra(layer_dir: Path) -> Extra:
    try:
        return msgspec.msgpack.decode((layer_dir / NAME).read_bytes(), type=Extra)
    except FileNotFoundError:
        return Extra()


def write_extra(layer_dir: Path, extra: Extra) -> None:
    if extra:
        (layer_dir / NAME).write_bytes(msgspec.msgpack.encode(extra))
