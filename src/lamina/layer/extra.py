"""The side table of a layer directory (`extra`): what this flavour cannot, or may not, keep on disk as itself.

msgpack, written once when the layer is complete. Without a file the table is empty.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from lamina.diagnostics.errors import LaminaError
from lamina.oci.unreadable import UNREADABLE

VERSION = 1


class BadExtra(LaminaError):
    """A side table that cannot be read: damaged, or of a later version of lamina."""

    code = "layer/bad-extra"


class Extra(msgspec.Struct, omit_defaults=True):
    """Keys are paths in the layer. Mutable while a layer is made, read-only afterwards."""

    version: int = VERSION
    owners: dict[bytes, tuple[int, int]] = {}
    """(uid, gid) in `single`, of what takes no user.lamina.owner: links, fifos, devices; files where xattrs are not supported."""
    modes: dict[bytes, int] = {}
    """True modes in `plain`, where the mode on disk keeps the owner's own rights so that an ordinary user can read the layer."""
    devices: dict[bytes, tuple[str, int, int]] = {}
    """("c" or "b", major, minor); an empty file stands on disk."""
    xattrs: dict[bytes, dict[bytes, bytes]] = {}
    """Attributes that could not be set (file capabilities without the right to them)."""
    whiteouts: set[bytes] = set()
    """`plain` only; nothing is on disk."""
    opaque: set[bytes] = set()
    """`plain` only: folders that hide what lies below."""

    def __bool__(self) -> bool:
        return bool(self.owners or self.modes or self.devices or self.xattrs or self.whiteouts or self.opaque)

    def forget(self, path: bytes) -> None:
        """Drop all that is known of exactly this name."""
        for table in (self.owners, self.modes, self.devices, self.xattrs):
            table.pop(path, None)
        self.whiteouts.discard(path)
        self.opaque.discard(path)

    def forget_below(self, folder: bytes) -> None:
        start = folder + b"/"
        for names in (self.owners, self.modes, self.devices, self.xattrs, self.whiteouts, self.opaque):
            for path in [path for path in names if path.startswith(start)]:
                self.forget(path)

    def same(self, path: bytes, of: bytes) -> None:
        """`path` is another name of the file `of`."""
        self.forget(path)
        if of in self.owners:
            self.owners[path] = self.owners[of]
        if of in self.modes:
            self.modes[path] = self.modes[of]
        if of in self.devices:
            self.devices[path] = self.devices[of]
        if of in self.xattrs:
            self.xattrs[path] = self.xattrs[of]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Extra)


def read_extra(layer_dir: Path) -> Extra:
    """The table of a layer directory; BadExtra."""
    try:
        raw = (layer_dir / "extra").read_bytes()
    except FileNotFoundError:
        return Extra()
    try:
        found = _decoder.decode(raw)
    except UNREADABLE as error:
        raise BadExtra(f"the side table of layer {layer_dir.name} is damaged: {error}", hint="run lamina check --repair") from error
    if found.version != VERSION:
        raise BadExtra(f"the side table of layer {layer_dir.name} has version {found.version}; only {VERSION} is known")
    return found


def write_extra(layer_dir: Path, extra: Extra) -> None:
    """Write the table, or remove the file when there is nothing to say. Not atomic: the layer is not published yet."""
    path = layer_dir / "extra"
    if extra:
        path.write_bytes(_encoder.encode(extra))
    else:
        path.unlink(missing_ok=True)
