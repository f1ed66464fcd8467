"""The Merkle digest of files: what makes two selections equal. No times, no inode numbers, no place in the outer tree.

A leaf counts type, mode, owner, xattrs and what it holds (a file's sha256, a link's text, a device's numbers). A folder counts
its own header, the leaves in it and its sub-folders, by relative name. Hard links count as the file they name. Folders are
digested in two parts (leaves, then sub-folders), so that the digest over an unchanged folder's leaves can be remembered.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256

from lamina.layer.entry import Entry, Kind

Xattrs = tuple[tuple[bytes, bytes], ...]

_PREFIX = b"lamina-merkle-1\0"


def counted_xattr(name: bytes) -> bool:
    """BuildKit's rule: all but ACLs (system.*), labels (security.* other than capability) and macOS' own."""
    if name.startswith(b"security."):
        return name == b"security.capability"
    return not name.startswith((b"system.", b"com.apple."))


def xattrs_digest(xattrs: Iterable[tuple[bytes, bytes]]) -> bytes:
    """b"-" when none counts."""
    counted = [pair for pair in xattrs if counted_xattr(pair[0])]
    if not counted:
        return b"-"
    return sha256(b"".join(b"%d %d %s%s" % (len(name), len(value), name, value) for name, value in sorted(counted))).hexdigest().encode()


def header(kind: bytes, mode: int, uid: int, gid: int, xattrs: Xattrs) -> bytes:
    return b"%s %o %d %d %s\n" % (kind, mode, uid, gid, xattrs_digest(xattrs) if xattrs else b"-")


def leaf(entry: Entry, mode: int, uid: int, gid: int, content: str) -> bytes:
    """The record of anything but a folder. `content` is the sha256 hex of a regular file and unused otherwise."""
    kind = entry.kind
    if kind is Kind.FILE or kind is Kind.HARDLINK:
        return header(b"f", mode, uid, gid, entry.xattrs) + content.encode()
    if kind is Kind.SYMLINK:
        return header(b"l", 0o777, uid, gid, entry.xattrs) + entry.link
    if kind is Kind.CHARACTER or kind is Kind.BLOCK:
        return header(kind.value.encode(), mode, uid, gid, entry.xattrs) + b"%d %d" % (entry.major, entry.minor)
    return header(kind.value.encode(), mode, uid, gid, entry.xattrs)


def named(name: bytes, record: bytes) -> bytes:
    return b"%d %d %s%s" % (len(name), len(record), name, record)


def leaves_digest(records: list[tuple[bytes, bytes]]) -> bytes:
    """Over (name, record) of a folder's leaves, in any order."""
    records.sort()
    return sha256(_PREFIX + b"".join([named(name, record) for name, record in records])).digest()


def folder_digest(head: bytes, leaves: bytes, folders: list[tuple[bytes, bytes]]) -> bytes:
    """`leaves` as of leaves_digest, `folders` = (name, folder digest) in any order."""
    folders.sort()
    return sha256(_PREFIX + head + leaves + b"".join([named(name, digest) for name, digest in folders])).digest()


def leaf_digest(record: bytes) -> bytes:
    return sha256(_PREFIX + record).digest()
