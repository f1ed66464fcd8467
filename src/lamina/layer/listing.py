"""A compact list of what a selection held, kept beside a record so that a later miss can name the paths that differ."""

from __future__ import annotations

import zlib
from collections.abc import Set
from typing import Literal

import msgspec

from lamina.layer import merkle
from lamina.layer.entry import Entry, Kind
from lamina.layer.selection import Match, Selection
from lamina.oci.unreadable import UNREADABLE

Change = Literal["added", "removed", "changed", "mode-changed", "owner-changed", "xattrs-changed"]
_FILE, _DIRECTORY, _HARDLINK = Kind.FILE, Kind.DIRECTORY, Kind.HARDLINK
LIMIT = 200_000  # names; a listing of more is cut off and says so


class Item(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """`what` is a file's sha256, a link's text, a device's numbers; `xattrs` b"-" when none counts."""

    kind: str
    what: bytes
    mode: int
    uid: int
    gid: int
    xattrs: bytes = b"-"


class Listing(msgspec.Struct, array_like=True, frozen=True):
    """Items by folder and name, so that a folder which is as it was is compared in one go. A single file stands under its own name in the
    folder b"", as the folder itself does under b""; folders of several matches begin with the match's name."""

    folders: dict[bytes, dict[bytes, Item]]
    complete: bool = True

    @property
    def items(self) -> dict[bytes, Item]:
        """By path."""
        return {_join(folder, name): item for folder, items in self.folders.items() for name, item in items.items()}


class _Raw(msgspec.Struct, array_like=True, frozen=True):
    """A Listing whose folders were not looked at."""

    folders: dict[bytes, msgspec.Raw]
    complete: bool = True


class Difference(msgspec.Struct, frozen=True):
    """`detail` says from what to what, where that is short: "644 to 755"."""

    path: bytes
    change: Change
    detail: str = ""


_decoder = msgspec.msgpack.Decoder(Listing)
_raw_decoder = msgspec.msgpack.Decoder(_Raw)
_folder_decoder = msgspec.msgpack.Decoder(dict[bytes, Item])


def make(selection: Selection) -> Listing:
    """List a selection (reads nothing again that its digest has read)."""
    top: dict[bytes, Item] = {}
    folders = {b"": top}
    several = selection.pattern or len(selection.matches) != 1
    for match in selection.matches:
        if not selection.shows(match):
            continue
        base = match.shown or match.name
        if match.entry.kind is not Kind.DIRECTORY:
            _put(folders, base, _item(selection, match.path, match.entry))
            continue
        prefix = base if several else b""
        _put(folders, prefix, _item(selection, match.path, match.entry))
        if not _below(selection, match, prefix, folders):
            return Listing(folders, False)
    return Listing(folders)


def encode(listing: Listing) -> bytes:
    """What compare_documents takes as the new one."""
    return msgspec.msgpack.encode(listing)


def pack(encoded: bytes) -> bytes:
    """As it is kept."""
    return zlib.compress(encoded, 1)


def dump(listing: Listing) -> bytes:
    return pack(encode(listing))


def load(data: bytes) -> Listing | None:
    """None for anything that is no listing."""
    try:
        return _decoder.decode(_unpacked(data))
    except (zlib.error, *UNREADABLE):
        return None


def compare_documents(old: bytes, new: bytes) -> list[Difference]:
    """As compare, of what dump and what encode made; only folders that differ are looked at. Empty where one is no listing."""
    try:
        before, after = _raw_decoder.decode(_unpacked(old)), _raw_decoder.decode(new)
        same = {path for path, items in after.folders.items() if (was := before.folders.get(path)) is not None and was == items}
        return compare(_without(before, same), _without(after, same))
    except (zlib.error, *UNREADABLE):
        return []


def _without(listing: _Raw, same: Set[bytes]) -> Listing:
    return Listing({path: _folder_decoder.decode(items) for path, items in listing.folders.items() if path not in same}, listing.complete)


def _unpacked(data: bytes) -> bytes:
    unpacker = zlib.decompressobj()
    plain = unpacker.decompress(data, 1 << 28)
    if not unpacker.eof:
        raise zlib.error("cut off")
    return plain


def compare(old: Listing, new: Listing) -> list[Difference]:
    """What differs, by path. Of a name that differs in several ways the first of: content or type, mode, owner, xattrs."""
    before, after = old.items, new.items
    found: list[Difference] = []
    if new.complete:
        found += [Difference(path, "removed") for path in before if path not in after]
    for path, item in after.items():
        was = before.get(path)
        if was is None:
            if old.complete:
                found.append(Difference(path, "added"))
        elif was != item:
            found.append(_difference(path, was, item))
    found.sort(key=lambda difference: difference.path)
    return found


def _difference(path: bytes, was: Item, item: Item) -> Difference:
    change = _change(was, item)
    if change == "mode-changed":
        return Difference(path, change, f"{was.mode:o} to {item.mode:o}")
    if change == "owner-changed":
        return Difference(path, change, f"{was.uid}:{was.gid} to {item.uid}:{item.gid}")
    return Difference(path, change)


def _change(was: Item, item: Item) -> Change:
    if was.kind != item.kind or was.what != item.what:
        return "changed"
    if was.mode != item.mode:
        return "mode-changed"
    return "owner-changed" if (was.uid, was.gid) != (item.uid, item.gid) else "xattrs-changed"


def _below(selection: Selection, match: Match, prefix: bytes, folders: dict[bytes, dict[bytes, Item]]) -> bool:
    """False where the listing is full."""
    room = LIMIT - sum(map(len, folders.values()))
    where = match.path + b"/" if match.path else b""
    todo = [b""]
    while todo:
        relative = todo.pop()
        names, nodes = selection.below(match, relative), selection.nodes(match, relative)
        base = where + relative + b"/" if relative else where
        items = folders.setdefault(_join(prefix, relative), {})
        for name, entry in names[:room]:
            node = nodes.get(name)
            items[name] = _item(selection, base + name, entry, node.digest if node is not None else b"")
            if entry.kind is _DIRECTORY:
                todo.append(_join(relative, name))
        room -= len(names)
        if room < 0:
            return False
    return True


def _put(folders: dict[bytes, dict[bytes, Item]], path: bytes, item: Item) -> None:
    folder, _, name = path.rpartition(b"/")
    folders.setdefault(folder, {})[name] = item


def _join(folder: bytes, name: bytes) -> bytes:
    return folder + b"/" + name if folder and name else folder or name


def _item(selection: Selection, path: bytes, entry: Entry, digest: bytes = b"") -> Item:
    """`digest`: a file's, where it is at hand."""
    kind = _FILE if entry.kind is _HARDLINK else entry.kind
    if kind is _FILE:
        mode, uid, gid = selection.counted(entry)
        what = digest or bytes.fromhex(selection.tree.content(path))
        return Item("f", what, mode, uid, gid, merkle.xattrs_digest(entry.xattrs) if entry.xattrs else b"-")
    if kind is Kind.SYMLINK:
        what = entry.link
    else:
        what = b"%d:%d" % (entry.major, entry.minor) if entry.major or entry.minor else b""
    mode, uid, gid = selection.counted(entry) if path else (0o755, 0, 0)
    return Item(kind.value, what, mode, uid, gid, merkle.xattrs_digest(entry.xattrs) if entry.xattrs else b"-")
