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
    """Items by path. A single file stands under its own name; names of several matches begin with the match's name."""

    items: dict[bytes, Item]
    complete: bool = True


class _Raw(msgspec.Struct, array_like=True, frozen=True):
    """A Listing whose items were not looked at."""

    items: dict[bytes, msgspec.Raw]
    complete: bool = True


class Difference(msgspec.Struct, frozen=True):
    """`detail` says from what to what, where that is short: "644 to 755"."""

    path: bytes
    change: Change
    detail: str = ""


_decoder = msgspec.msgpack.Decoder(Listing)
_raw_decoder = msgspec.msgpack.Decoder(_Raw)
_item_decoder = msgspec.msgpack.Decoder(Item)


def make(selection: Selection) -> Listing:
    """List a selection (reads nothing again that its digest has read)."""
    items: dict[bytes, Item] = {}
    several = selection.pattern or len(selection.matches) != 1
    for match in selection.matches:
        if not selection.shows(match):
            continue
        base = match.shown or match.name
        if match.entry.kind is not Kind.DIRECTORY:
            items[base] = _item(selection, match.path, match.entry)
            continue
        prefix = base + b"/" if several else b""
        items[prefix.rstrip(b"/")] = _item(selection, match.path, match.entry)
        if not _below(selection, match, b"", prefix, items):
            return Listing(items, False)
    return Listing(items)


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
    """As compare, of what dump and what encode made; only items that differ are looked at. Empty where one is no listing."""
    try:
        before, after = _raw_decoder.decode(_unpacked(old)), _raw_decoder.decode(new)
        same = {path for path, item in after.items.items() if (was := before.items.get(path)) is not None and was == item}
        return compare(_without(before, same), _without(after, same))
    except (zlib.error, *UNREADABLE):
        return []


def _without(listing: _Raw, same: Set[bytes]) -> Listing:
    return Listing({path: _item_decoder.decode(item) for path, item in listing.items.items() if path not in same}, listing.complete)


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


def _below(selection: Selection, match: Match, relative: bytes, prefix: bytes, items: dict[bytes, Item]) -> bool:
    where = match.path + b"/" if match.path else b""
    stack = [(relative, iter(selection.below(match, relative)), selection.nodes(match, relative))]
    while stack:
        folder, names, nodes = stack[-1]
        for name, entry in names:
            inner = folder + b"/" + name if folder else name
            if len(items) >= LIMIT:
                return False
            node = nodes.get(name)
            items[prefix + inner] = _item(selection, where + inner, entry, node.digest if node is not None else b"")
            if entry.kind is _DIRECTORY:
                stack.append((inner, iter(selection.below(match, inner)), selection.nodes(match, inner)))
                break
        else:
            stack.pop()
    return True


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
