"""The normalised diff: what a layer changes, free of times, in canonical order. docs/dev/keys.md gives the byte form."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from lamina.layer.entry import Entry, Kind
from lamina.layer.flavour import Flavour
from lamina.layer.scan import scan

_BIG = 1 << 20  # from this size on a file is hashed on another thread
_VERSION = b"lamina-diff-1\0"


@dataclass(frozen=True, slots=True)
class NormalDiff:
    """`digest` is "sha256:HEX"; `size` counts bytes of regular files, `entries` names."""

    digest: str
    size: int
    entries: int


def normalise(layer_dir: Path, flavour: Flavour, contents: Mapping[bytes, str] | None = None) -> NormalDiff:
    """The layer's normalised diff. `contents` are sha256 hex of files that are known already, by path."""
    rows: list[tuple[Entry, str]] = []
    waiting: list[tuple[int, bytes]] = []
    known = contents or {}
    size = 0
    for entry, host in scan(layer_dir, flavour):
        if not entry.path:
            continue
        content = ""
        if entry.kind is Kind.FILE:
            size += entry.size
            content = known.get(entry.path, "")
            if not content:
                if entry.size >= _BIG:
                    waiting.append((len(rows), host))
                else:
                    content = _small(host)
        rows.append((entry, content))
    if waiting:
        with ThreadPoolExecutor(min(len(waiting), os.cpu_count() or 1)) as pool:
            for (index, _), content in zip(waiting, pool.map(_large, [host for _, host in waiting])):
                rows[index] = (rows[index][0], content)
    digest = hashlib.sha256(_VERSION)
    digest.update(b"".join(sorted(row(entry, content) for entry, content in rows)))
    return NormalDiff("sha256:" + digest.hexdigest(), size, len(rows))


def row(entry: Entry, content: str) -> bytes:
    """One name. Lengths stand before what has no fixed form, so that no two diffs share bytes."""
    kind = entry.kind
    parts = [b"%d:%s %s" % (len(entry.path), entry.path, kind.value.encode())]
    if kind is Kind.HARDLINK:
        parts.append(b" %d:%s" % (len(entry.link), entry.link))
    elif kind not in (Kind.WHITEOUT, Kind.OPAQUE):
        parts.append(b" %o %d %d" % (entry.mode, entry.uid, entry.gid))
        if kind is Kind.FILE:
            parts.append(b" " + content.encode())
        elif kind is Kind.SYMLINK:
            parts.append(b" %d:%s" % (len(entry.link), entry.link))
        elif kind in (Kind.CHARACTER, Kind.BLOCK):
            parts.append(b" %d %d" % (entry.major, entry.minor))
        parts.extend(b" %d:%s=%d:%s" % (len(key), key, len(value), value) for key, value in entry.xattrs)
    return b"".join(parts) + b"\n"


def _small(host: bytes) -> str:
    descriptor = os.open(host, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        return hashlib.sha256(os.read(descriptor, _BIG)).hexdigest()
    finally:
        os.close(descriptor)


def _large(host: bytes) -> str:
    with open(host, "rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
