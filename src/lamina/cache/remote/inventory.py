"""One look at everything that lies in a shared cache: what there is, what needs what, when it was last used, what it costs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, TypeVar

import msgspec

from lamina.cache.record import CacheKey
from lamina.cache.remote.chunks import DOCUMENT, BadChunk, load_recipe
from lamina.cache.remote.envelope import BadEnvelope, unseal
from lamina.cache.remote.mounts import MountStatement, load_listing, unseal_mount
from lamina.cache.remote.names import KINDS, blob_name, kind_of, place_names, used_at
from lamina.cache.remote.parallel import each, small
from lamina.cache.remote.protocols import Entry, ObjectStore
from lamina.oci.digest import Digest

_BATCH = 500
_LARGEST_USES = 64 << 20  # bytes
_MOUNT_SECONDS = 60.0  # what a cache mount is taken to save; nobody can know
_T = TypeVar("_T")

Damage = Literal["altered", "unreadable", "blob-gone", "blob-altered"]


class Listed(msgspec.Struct, frozen=True):
    """One record that lies there, believed or not. `size`: of the record itself; `needs`: names of blobs and chunks. Times in seconds since
    the epoch. A version of a cache mount is listed in the same way, under an empty key."""

    name: str
    key: CacheKey
    scope: str
    project: str
    step: str  # the instruction's text
    created: float
    used: float
    seconds: float  # that it took to make
    size: int
    needs: tuple[str, ...]
    places: tuple[str, ...]


class Share(msgspec.Struct, frozen=True):
    """Bytes of one project: what only its records need, and what it shares with other projects."""

    project: str
    records: int
    own: int
    shared: int


class Usage(msgspec.Struct, frozen=True):
    """`total` is everything that lies there, metadata included; `orphans`: blobs and chunks that nothing needs (yet); `mounts`: versions of
    cache mounts."""

    total: int
    records: int
    record_bytes: int
    blobs: int
    blob_bytes: int
    other_bytes: int
    orphans: int
    orphan_bytes: int
    projects: tuple[Share, ...]
    chunks: int = 0
    chunk_bytes: int = 0
    mounts: int = 0
    mount_bytes: int = 0


class Problem(msgspec.Struct, frozen=True):
    name: str
    damage: Damage
    message: str


class Inventory:
    """One look at everything. `objects` by name with size and time."""

    def __init__(self, store: ObjectStore, *, forgotten_before: float = 0.0) -> None:
        self.store = store
        self.objects: dict[str, Entry] = {}
        # What needs others before them: what is published meanwhile is not taken for damaged.
        for kind in sorted(KINDS, key=lambda kind: kind not in ("records", "mounts")):
            self.objects.update({entry.name: entry for entry in _complete(store, store.list(f"{kind}/"))})
        self.used: dict[str, float] = {}
        self._parts: dict[str, tuple[str, ...]] = {}  # names of chunks, by the name of the blob that lists them
        self._seen: set[str] = set()
        self._read_uses([name for name in self.objects if name.startswith("uses/")], forgotten_before)
        self.records: list[Listed] = []
        self.mounts: list[Listed] = []
        self.statements: dict[str, MountStatement] = {}
        self.problems: list[Problem] = []
        for name, statement in self._opened("records/", lambda name, data: unseal(name, data).statement):
            record = statement.record
            self.records.append(
                Listed(
                    name,
                    record.key,
                    statement.scope,
                    statement.project,
                    record.place.text,
                    record.created,
                    self.last_used(name),
                    record.seconds,
                    self.size(name),
                    tuple(
                        dict.fromkeys(name for blob in statement.blobs for name in self._needs(blob.stored, recipe=blob.recipe is not None))
                    ),
                    place_names(record),
                )
            )
        self._read_mounts()

    def _opened(self, prefix: str, read: Callable[[str, bytes], _T]) -> Iterator[tuple[str, _T]]:
        """What `read` makes of each object below the prefix; its BadEnvelope is a problem."""
        names = [name for name in self.objects if name.startswith(prefix)]
        for name, data in zip(names, each(lambda name: small(self.store, name), names)):
            if data is None:
                continue
            try:
                yield name, read(name, data)
            except BadEnvelope as error:
                damage: Damage = "altered" if hashlib.sha256(data).hexdigest() != name.rpartition("/")[2] else "unreadable"
                self.problems.append(Problem(name, damage, error.message))

    def _needs(self, digest: Digest, *, recipe: bool = False, listing: bool = False) -> tuple[str, ...]:
        """A blob's name, and those of the chunks that it lists. What is used of the blob is used of them."""
        name = blob_name(digest)
        if not (recipe or listing):
            return (name,)
        if name not in self._parts:
            stored = small(self.store, name, DOCUMENT) if name in self.objects else None
            chunks: Iterable[str] = ()
            try:
                if stored is not None:
                    chunks = [chunk.name for chunk in (load_recipe(stored).chunks() if recipe else load_listing(stored).chunks)]
            except BadChunk as error:
                self.problems.append(Problem(name, "blob-altered", f"{digest}: {error.message}"))
            self._parts[name] = tuple(dict.fromkeys(chunks))
            self._spread(name)
        return (name, *self._parts[name])

    def _spread(self, name: str) -> None:
        when = self.used.get(name, 0.0)
        for part in self._parts.get(name, ()) if when else ():
            self.used[part] = max(when, self.used.get(part, 0.0))

    def _read_mounts(self) -> None:
        for name, statement in self._opened("mounts/", lambda name, data: unseal_mount(name, data).statement):
            self.statements[name] = statement
            self.mounts.append(
                Listed(
                    name,
                    CacheKey(""),
                    statement.scope,
                    statement.project,
                    f"cache mount {statement.identifier}",
                    statement.created,
                    self.last_used(name),
                    _MOUNT_SECONDS,
                    self.size(name),
                    self._needs(statement.listing, listing=True),
                    (),
                )
            )

    def size(self, name: str) -> int:
        found = self.objects.get(name)
        return 0 if found is None else found.size or 0

    def last_used(self, name: str) -> float:
        found = self.objects.get(name)
        return max(0.0 if found is None else found.modified or 0.0, self.used.get(name, 0.0))

    def used_since(self) -> set[str]:
        """Names that builds said they use since the last look."""
        new = [entry.name for entry in self.store.list("uses/") if entry.name not in self._seen]
        return self._read_uses(new, 0.0)

    def _read_uses(self, names: Sequence[str], after: float) -> set[str]:
        self._seen.update(names)
        found: set[str] = set()
        wanted = [name for name in names if used_at(name) >= after]
        for name, data in zip(wanted, each(lambda name: small(self.store, name, _LARGEST_USES), wanted)):
            lines = (data or b"").decode("ascii", "replace").split()
            found.update(lines)
            # A writer's clock that is ahead (or lies) must not keep things for ever: the backend's own time is the latest.
            entry = self.objects.get(name)
            when = used_at(name) if entry is None or entry.modified is None else min(used_at(name), entry.modified)
            for line in lines:
                self.used[line] = max(when, self.used.get(line, 0.0))
                self._spread(line)
                found.update(self._parts.get(line, ()))
        return found


def usage(inventory: Inventory) -> Usage:
    users: dict[str, set[str]] = {}
    for record in (*inventory.records, *inventory.mounts):
        for name in record.needs:
            users.setdefault(name, set()).add(record.project)
    projects: dict[str, list[int]] = {}
    for record in (*inventory.records, *inventory.mounts):
        share = projects.setdefault(record.project, [0, 0, 0])
        share[0] += kind_of(record.name) == "records"
        share[1] += record.size
    for name, who in users.items():
        for project in who:
            projects[project][1 if len(who) == 1 else 2] += inventory.size(name)
    sizes = {kind: [inventory.size(name) for name in inventory.objects if kind_of(name) == kind] for kind in KINDS}
    orphans = [inventory.size(name) for name in inventory.objects if kind_of(name) in ("blobs", "chunks") and name not in users]
    return Usage(
        total=sum(map(sum, sizes.values())),
        records=len(sizes["records"]),
        record_bytes=sum(sizes["records"]),
        blobs=len(sizes["blobs"]),
        blob_bytes=sum(sizes["blobs"]),
        other_bytes=sum(sizes["uses"]) + sum(sizes["places"]),
        orphans=len(orphans),
        orphan_bytes=sum(orphans),
        projects=tuple(Share(name, *share) for name, share in sorted(projects.items())),
        chunks=len(sizes["chunks"]),
        chunk_bytes=sum(sizes["chunks"]),
        mounts=len(sizes["mounts"]),
        mount_bytes=sum(sizes["mounts"]),
    )


def _complete(store: ObjectStore, entries: Iterable[Entry]) -> Iterable[Entry]:
    """Entries with size and time, asked for where the listing did not tell."""
    asked: list[str] = []
    for entry in entries:
        if entry.size is None or entry.modified is None:
            asked.append(entry.name)
        else:
            yield entry
    for start in range(0, len(asked), _BATCH):
        for name, about in store.stat(asked[start : start + _BATCH]).items():
            yield Entry(name, about.size + about.overhead, about.modified)
