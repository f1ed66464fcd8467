"""A layer's tar -> a layer directory, whatever the tar's author had in mind."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from lamina.layer.entry import Entry, Kind
from lamina.layer.flavour import Flavour
from lamina.layer.links import follow
from lamina.layer.paths import UnsafePath, clean
from lamina.layer.tarread import BadTar, Source, read_tar
from lamina.layer.writer import EntryWriter

_WHITEOUT = b".wh."
_OPAQUE = b".wh..wh..opq"
_DROPPED = (b"trusted.overlay.", b"user.overlay.", b"user.lamina.", b"security.selinux", b"security.ima", b"system.")


@dataclass(frozen=True, slots=True)
class LayerStats:
    """Bytes of regular files, and names."""

    size: int
    entries: int


def apply_tar(source: Source, layer_dir: Path, flavour: Flavour) -> LayerStats:
    """Extract a layer into `layer_dir` (made by the caller, removed by it on failure). Reads `source` to its end.

    Contained: '..' is refused, absolute names are made relative, parents that are links are followed inside this layer only, hard links
    name files of this layer, 0:0 devices (they are whiteouts to the kernel) and attributes that steer overlayfs are refused or dropped.
    Raises BadTar, UnsafePath.
    """
    with EntryWriter(layer_dir, flavour) as writer:
        size = entries = 0
        known: dict[bytes, Entry] = {b"": Entry(b"", Kind.DIRECTORY, 0o755)}
        whiteouts: list[bytes] = []
        opaque: list[bytes] = []
        for raw, body in read_tar(source):
            path = _place(clean(raw.path), known)
            folder, slash, name = path.rpartition(b"/")
            if name == _OPAQUE:
                _parents(folder, known, writer)
                opaque.append(folder)
                continue
            if name.startswith(_WHITEOUT):
                target = name[len(_WHITEOUT) :]
                if target in (b"", b".", b"..") or target.startswith(_WHITEOUT):
                    if name.startswith(b".wh..wh."):
                        continue  # aufs' own files
                    raise BadTar(f"the deletion {name.decode(errors='replace')!r} names nothing")
                _parents(folder, known, writer)
                whiteouts.append(folder + slash + target)
                continue
            entry = _checked(replace(raw, path=path, xattrs=tuple(x for x in raw.xattrs if not x[0].startswith(_DROPPED))), known)
            if not path and entry.kind is not Kind.DIRECTORY:
                raise BadTar("the archive's root is no folder")
            _parents(folder, known, writer)
            if entry.kind is not Kind.DIRECTORY and known.get(path, entry).kind is Kind.DIRECTORY:
                _forget(path, known)
            writer.put(entry, body)
            known[path] = entry
            size += entry.size
            entries += 1
        for path in whiteouts:
            here = known.get(path)
            if here is None:
                writer.put(Entry(path, Kind.WHITEOUT))
                entries += 1
            elif here.kind is Kind.DIRECTORY:
                opaque.append(path)
        for path in dict.fromkeys(opaque):
            if path:
                writer.put(Entry(path, Kind.OPAQUE))
        writer.finish()
    while source.read(1 << 20):
        pass
    return LayerStats(size, entries)


def _place(path: bytes, known: dict[bytes, Entry]) -> bytes:
    """The name with parents that are links in this layer resolved."""
    folder, slash, name = path.rpartition(b"/")
    if not folder:
        return path
    if folder in known and known[folder].kind is Kind.DIRECTORY:
        return path
    found = follow(known.get, folder, missing=True)
    if found is None:
        raise UnsafePath(f"{path.decode(errors='replace')!r} lies behind a loop of links")
    return found + slash + name if found else name


def _parents(folder: bytes, known: dict[bytes, Entry], writer: EntryWriter) -> None:
    """Folders that the archive does not name itself: root's, 0755."""
    missing = []
    while folder and known.get(folder, _NOTHING).kind is not Kind.DIRECTORY:
        missing.append(folder)
        folder = folder.rpartition(b"/")[0]
    for path in reversed(missing):
        entry = Entry(path, Kind.DIRECTORY, 0o755)
        writer.put(entry)
        known[path] = entry


_NOTHING = Entry(b"", Kind.FILE)


def _forget(path: bytes, known: dict[bytes, Entry]) -> None:
    below = path + b"/"
    for name in [name for name in known if name == path or name.startswith(below)]:
        del known[name]


def _checked(entry: Entry, known: dict[bytes, Entry]) -> Entry:
    shown = entry.path.decode(errors="replace")
    if entry.kind is Kind.CHARACTER and entry.major == 0 and entry.minor == 0:
        raise BadTar(f"{shown!r} is a 0:0 device, which would hide files of other layers")
    if entry.kind is Kind.HARDLINK:
        target = _place(clean(entry.link), known)
        found = known.get(target)
        if found is None or found.kind is Kind.DIRECTORY:
            raise BadTar(f"{shown!r} is a hard link to {target.decode(errors='replace')!r}, which is no file of this layer")
        if target == entry.path:
            return found
        return replace(entry, link=target)
    if entry.kind is Kind.SYMLINK and (not entry.link or b"\0" in entry.link):
        raise BadTar(f"{shown!r} is a link to nothing")
    return entry
