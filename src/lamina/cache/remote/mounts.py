"""A version of a cache mount as it travels: a signed statement, and the list of its files. Write-once, versioned; pure.

Many writers put versions side by side; who pulls merges them. A statement is one line of signatures, then canonical JSON, as a record's
envelope; signed are `CONTEXT` and the JSON's bytes. The list is a blob: a frame of zstd with msgpack, for names are bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

import msgspec

from lamina.cache.remote.chunks import DOCUMENT, BadChunk, Chunk, check_chunks, pack, unpack
from lamina.cache.remote.envelope import BadEnvelope, Signature
from lamina.cache.remote.errors import CacheError
from lamina.cache.remote.names import blob_name, checked, mount_name
from lamina.oci import typed
from lamina.oci.canonical import canonical
from lamina.oci.digest import Digest
from lamina.oci.unreadable import UNREADABLE

FORMAT = 1
CONTEXT = b"lamina shared cache mount 1\n"
_MOST_SIGNATURES = 16
_LONGEST_PATH = 4096

Merge = Literal["union", "newest"]
MERGES: tuple[Merge, ...] = ("union", "newest")
EntryKind = Literal["f", "d", "l"]


class ListingTooLong(CacheError):
    """More files than anybody would read back."""

    code = "cache/too-many-files"


class MountFile(msgspec.Struct, frozen=True, array_like=True):
    """`path` is relative, without empty, `.` or `..` parts. `mode`: the nine permission bits. `mtime`: nanoseconds. `target`: of a link."""

    path: bytes
    kind: EntryKind
    mode: int
    mtime: int
    size: int = 0
    target: bytes = b""


class MountListing(msgspec.Struct, frozen=True):
    """`files` in the order in which their bytes follow each other in the chunks."""

    files: tuple[MountFile, ...]
    chunks: tuple[Chunk, ...]
    format: int = msgspec.field(default=FORMAT)

    def state(self) -> str:
        """Equal for mounts with the same files; two listings with other chunks may have one state."""
        return state_of(self.files)


class MountStatement(msgspec.Struct, frozen=True, omit_defaults=True):
    """`listing`: a blob of the cache. `merged`: names of versions whose files are in this one, or were removed since."""

    identifier: str
    scope: str
    listing: Digest
    created: float  # seconds since the epoch
    files: int
    size: int  # plain bytes of the files
    state: str
    merged: tuple[str, ...] = ()
    project: str = ""
    format: int = msgspec.field(default=FORMAT)


class MountEnvelope(msgspec.Struct, frozen=True):
    name: str
    statement: MountStatement
    body: bytes
    signatures: tuple[Signature, ...]
    size: int


class _Header(msgspec.Struct, frozen=True):
    format: int
    signatures: tuple[Signature, ...] = ()


def state_of(files: Iterable[MountFile]) -> str:
    """64 hexadecimal digits over what is known of the files without reading them."""
    found = hashlib.sha256()
    for file in sorted(files, key=lambda file: file.path):
        found.update(msgspec.msgpack.encode(file))
    return found.hexdigest()


def seal_mount(statement: MountStatement, sign: Callable[[bytes], tuple[Signature, ...]]) -> tuple[str, bytes]:
    """(name, bytes) of the object."""
    body = canonical(statement)
    data = canonical(_Header(FORMAT, sign(CONTEXT + body))) + b"\n" + body
    return mount_name(statement.identifier, statement.scope, data), data


def unseal_mount(name: str, data: bytes) -> MountEnvelope:
    """BadEnvelope when the bytes are not what was put under `name`, or of a newer format. Believes no signature."""
    digest = checked(name).rpartition("/")[2]
    if hashlib.sha256(data).hexdigest() != digest:
        raise BadEnvelope(f"the version {digest[:12]} of a cache mount was altered: its bytes do not have that digest")
    line, _, body = data.partition(b"\n")
    try:
        header = typed.json(line, type=_Header)
        if header.format != FORMAT:
            raise BadEnvelope(f"the version {digest[:12]} of a cache mount has the format {header.format}; {FORMAT} is known")
        statement = typed.json(body, type=MountStatement)
        blob_name(statement.listing)
        elsewhere = mount_name(statement.identifier, statement.scope, data) != name
    except UNREADABLE as error:
        raise BadEnvelope(f"the version {digest[:12]} of a cache mount cannot be read: {error}") from error
    except BadEnvelope:
        raise
    except CacheError as error:
        raise BadEnvelope(error.message) from error
    if elsewhere:
        raise BadEnvelope(f"the version {digest[:12]} was made for another cache mount or scope than it is found under")
    if len(header.signatures) > _MOST_SIGNATURES:
        raise BadEnvelope(f"the version {digest[:12]} of a cache mount has {len(header.signatures)} signatures")
    return MountEnvelope(name, statement, body, header.signatures, len(data))


def dump_listing(listing: MountListing) -> bytes:
    """ListingTooLong."""
    document = msgspec.msgpack.encode(listing)
    if len(document) > DOCUMENT:
        raise ListingTooLong(f"the list of {len(listing.files)} files is longer than {DOCUMENT} bytes")
    return pack(document)


def load_listing(stored: bytes) -> MountListing:
    """BadChunk for what is none, whose paths lead anywhere, or whose lengths do not fit each other."""
    try:
        listing = typed.msgpack(unpack(stored, DOCUMENT), type=MountListing)
    except UNREADABLE as error:
        raise BadChunk(f"the listing of a cache mount cannot be read: {error}") from error
    if listing.format != FORMAT:
        raise BadChunk(f"a listing of format {listing.format}; {FORMAT} is known")
    check_chunks(listing.chunks)
    total = 0
    for file in listing.files:
        if not _fit(file):
            raise BadChunk(f"the listing of a cache mount has an impossible entry {file.path[:60]!r}")
        total += file.size
    if total != sum(chunk.size for chunk in listing.chunks):
        raise BadChunk("the listing of a cache mount has other lengths than its chunks")
    if len({file.path for file in listing.files}) != len(listing.files):
        raise BadChunk("the listing of a cache mount has a path twice")
    return listing


def _fit(file: MountFile) -> bool:
    parts = file.path.split(b"/")
    if any(part in (b"", b".", b"..") or len(part) > 255 for part in parts) or b"\0" in file.path or len(file.path) > _LONGEST_PATH:
        return False
    if file.mode & ~0o777 or file.size < 0 or not -(1 << 62) < file.mtime < 1 << 62 or (file.kind != "f" and file.size):
        return False
    return (0 < len(file.target) <= _LONGEST_PATH and b"\0" not in file.target) if file.kind == "l" else not file.target


def heads(versions: Sequence[MountStatement], names: Sequence[str]) -> list[int]:
    """Indices of those that no other one has merged. A version of one scope retires versions of its own scope only."""
    scopes = {name: statement.scope for name, statement in zip(names, versions)}
    merged = {old for statement in versions for old in statement.merged if scopes.get(old) == statement.scope}
    return [index for index, name in enumerate(names) if name not in merged]


def merged(listings: Sequence[tuple[float, MountListing]], rule: Merge) -> Mapping[bytes, tuple[int, MountFile]]:
    """path -> (which listing, the entry). `union`: of every path the entry with the latest time; `newest`: the latest listing alone.

    The numbers before the listings are when they were made. Paths below something that is no folder are left out.
    """
    order = sorted(range(len(listings)), key=lambda index: listings[index][0], reverse=True)
    chosen: dict[bytes, tuple[int, MountFile]] = {}
    for index in order if rule == "union" else order[:1]:
        for file in listings[index][1].files:
            known = chosen.get(file.path)
            if known is None or (file.kind == known[1].kind != "d" and file.mtime > known[1].mtime):
                chosen[file.path] = index, file
    return {path: one for path, one in chosen.items() if _standing(path, chosen)}


def _standing(path: bytes, chosen: Mapping[bytes, tuple[int, MountFile]]) -> bool:
    while (at := path.rfind(b"/")) > 0:
        path = path[:at]
        above = chosen.get(path)
        if above is not None and above[1].kind != "d":
            return False
    return True
