"""A layer directory as a tar stream, and its diffID."""

from __future__ import annotations

import hashlib
from pathlib import Path

from lamina.layer.entry import Kind
from lamina.layer.flavour import Flavour
from lamina.layer.scan import scan
from lamina.layer.tarwrite import Sink, TarWriter
from lamina.oci.digest import DiffId


def pack(layer_dir: Path, flavour: Flavour, out: Sink) -> None:
    """Write the layer's tar. The same directory gives the same bytes each time. The root has no entry of its own, as in docker's layers."""
    writer = TarWriter(out)
    for entry, host in scan(layer_dir, flavour):
        if not entry.path:
            continue
        if entry.kind is Kind.FILE and entry.size:
            with open(host, "rb", buffering=0) as data:
                writer.add(entry, data)
        else:
            writer.add(entry)
    writer.close()


class _Hashed:
    """Joins small pieces so that hashing is called on large ones."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self.size = 0
        self._parts: list[bytes] = []
        self._held = 0

    def write(self, data: bytes | memoryview, /) -> int:
        count = len(data)
        self.size += count
        if count >= 1 << 16:
            self.flush()
            self.digest.update(data)
        else:
            self._parts.append(bytes(data))
            self._held += count
            if self._held >= 1 << 17:
                self.flush()
        return count

    def flush(self) -> None:
        if self._parts:
            self.digest.update(b"".join(self._parts))
            self._parts.clear()
            self._held = 0


def diff_id(layer_dir: Path, flavour: Flavour) -> tuple[DiffId, int]:
    """(sha256 of the layer's tar, its size); the tar is not kept."""
    out = _Hashed()
    pack(layer_dir, flavour, out)
    out.flush()
    return DiffId("sha256:" + out.digest.hexdigest()), out.size
