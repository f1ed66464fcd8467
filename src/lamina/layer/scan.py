"""A layer directory (or an overlay's upper) as Entries: folders before what is in them, names in byte order."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from lamina.layer.entry import Entry, Kind
from lamina.layer.extra import read_extra
from lamina.layer.flavour import Flavour
from lamina.layer.ondisk import UnstorableLayer, is_opaque, read_entry


def scan(layer_dir: Path, flavour: Flavour) -> Iterator[tuple[Entry, bytes]]:
    """(entry, host path). The root itself comes first, with path b"". A further name of a file is a HARDLINK whose `link` is the first.

    An opaque folder is followed by an OPAQUE entry. Raises UnstorableLayer for `.wh.` names and overlay attributes that no layer holds.
    """
    root = os.fsencode(layer_dir / "diff")
    extra = read_extra(layer_dir)
    links: dict[tuple[int, int], bytes] = {}
    pending: list[tuple[bytes, bytes]] = [(b"", root)]
    hidden = sorted(extra.whiteouts, reverse=True)
    while pending:
        path, host = pending.pop()
        found = os.lstat(host)
        entry = read_entry(host, path, found, flavour, extra)
        if entry is None:
            continue
        if entry.kind is Kind.FILE and found.st_nlink > 1:
            first = links.setdefault((found.st_dev, found.st_ino), path)
            if first != path:
                entry = Entry(path, Kind.HARDLINK, entry.mode, entry.uid, entry.gid, 0, entry.mtime, first, xattrs=entry.xattrs)
        yield entry, host
        if entry.kind is not Kind.DIRECTORY or not stat.S_ISDIR(found.st_mode):
            continue
        if path and is_opaque(host, path, flavour, extra):
            yield Entry(path, Kind.OPAQUE), host
        with os.scandir(host) as names:
            inner = sorted((name.name for name in names), reverse=True)
        prefix = path + b"/" if path else b""
        for name in inner:
            if name.startswith(b".wh."):
                raise UnstorableLayer(
                    f"a file is called {name.decode(errors='replace')!r}: layers use such names for deletions", hint="rename it"
                )
            pending.append((prefix + name, host + b"/" + name))
        if hidden:
            for whiteout in [w for w in hidden if w.rpartition(b"/")[0] == path]:
                yield Entry(whiteout, Kind.WHITEOUT), host
