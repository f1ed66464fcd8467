"""A layer directory as a tar, byte for byte the same each time: the bytes whose sha256 is the layer's diffID."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Protocol

import msgspec

from lamina.diagnostics.errors import LaminaError
from lamina.layer.entry import Kind
from lamina.layer.flavour import Flavour
from lamina.layer.paths import show
from lamina.layer.scan import Found, scan
from lamina.layer.sums import Sum
from lamina.layer.tarwrite import END, header, padding
from lamina.oci.digest import DiffId

_FILE = Kind.FILE
_PIECE = 1 << 20


class LayerChanged(LaminaError):
    """A file got another size while it was packed: somebody writes into a finished layer."""

    code = "layer/changed"


class Sink(Protocol):
    def write(self, data: bytes, /) -> object: ...


def pack(layer_dir: Path, flavour: Flavour, out: Sink, epoch: int | None = None, known: Mapping[bytes, Sum] | None = None) -> int:
    """Write the tar to `out`, in pieces of about 1 MiB; returns its size. With `epoch` that is the time of every entry. `known` as scan.

    Errors as scan, and LayerChanged.
    """
    return write_tar(scan(layer_dir, flavour, known), out, epoch)


def write_tar(found: Iterable[Found], out: Sink, epoch: int | None = None) -> int:
    """As pack, of entries in the order of scan."""
    total = 0
    parts: list[bytes] = []
    ready = 0
    for entry, fd in found:
        head = header(entry if epoch is None else msgspec.structs.replace(entry, mtime=float(epoch)))
        parts.append(head)
        ready += len(head)
        if entry.kind is _FILE and entry.size:
            left = entry.size
            while left:
                piece = os.read(fd, min(left, _PIECE))
                if not piece:
                    raise LayerChanged(f"{show(entry.path)} became shorter while the layer was packed")
                left -= len(piece)
                ready += len(piece)
                parts.append(piece)
                if ready >= _PIECE:
                    out.write(b"".join(parts))
                    total += ready
                    parts.clear()
                    ready = 0
            parts.append(padding(entry.size))
            ready += len(parts[-1])
        elif ready >= _PIECE:
            out.write(b"".join(parts))
            total += ready
            parts.clear()
            ready = 0
    parts.append(END)
    out.write(b"".join(parts))
    return total + ready + len(END)


class _Hash:
    def __init__(self) -> None:
        self.hash = sha256()

    def write(self, data: bytes, /) -> None:
        self.hash.update(data)


def diff_id(layer_dir: Path, flavour: Flavour, known: Mapping[bytes, Sum] | None = None) -> tuple[DiffId, int]:
    """The diffID and the tar's size; the tar is not kept. `known` as scan."""
    out = _Hash()
    size = pack(layer_dir, flavour, out, known=known)
    return DiffId("sha256:" + out.hash.hexdigest()), size
