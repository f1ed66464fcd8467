"""Small facts that save work: selections' digests, what URLs answered, what remote references pointed to. All may be lost."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from lamina.oci.digest import DiffId, Digest, StateId
from lamina.store.database import Database


class Selection(msgspec.Struct, frozen=True, array_like=True):
    """The content id of some files of a filesystem, and the blob with their listing."""

    merkle: str
    listing: Digest | None


class HttpAnswer(msgspec.Struct, frozen=True, array_like=True):
    """The last download of a URL: validators for a conditional request and the digest of the bytes (a blob)."""

    digest: Digest
    etag: str | None
    modified: str | None
    checked: float  # seconds since the epoch


class WatchAnswer(msgspec.Struct, frozen=True, array_like=True):
    answer: str  # ETag or digest
    checked: float


class RemoteAnswer(msgspec.Struct, frozen=True, array_like=True):
    """The manifest that a remote reference was last seen to name."""

    manifest: Digest
    checked: float


class PackedForm(msgspec.Struct, frozen=True, array_like=True):
    """The blob that a layer became when it was last compressed here; the blob itself need not be here. Of the form "recipe": what it was cut
    into, and the size of its tar."""

    digest: Digest
    size: int


# Newer than the schema's first version: made when they are first written to, so that a store need not be converted for them.
_LATER = (
    "CREATE TABLE IF NOT EXISTS packed (diff_id TEXT NOT NULL, form TEXT NOT NULL, digest TEXT NOT NULL, size INTEGER NOT NULL, "
    "PRIMARY KEY (diff_id, form)) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS places (digest TEXT NOT NULL, place TEXT NOT NULL, seen REAL NOT NULL, "
    "PRIMARY KEY (digest, place)) WITHOUT ROWID",
)


class Facts:
    """Thread-safe; last writer wins."""

    def __init__(self, database: Database, now: Callable[[], float]) -> None:
        self._database = database
        self._now = now
        self._later = False  # the tables of _LATER are there

    def selection(self, state: StateId, selector: str) -> Selection | None:
        return self._database.first(Selection, "SELECT merkle, listing FROM selections WHERE state=? AND selector=?", (state, selector))

    def set_selection(self, state: StateId, selector: str, selection: Selection) -> None:
        with self._database.write() as transaction:
            transaction.run(
                "INSERT OR REPLACE INTO selections VALUES (?,?,?,?,?)",
                (state, selector, selection.merkle, selection.listing, self._now()),
            )

    def http(self, url: str) -> HttpAnswer | None:
        return self._database.first(HttpAnswer, "SELECT digest, etag, modified, checked FROM http WHERE url=?", (url,))

    def set_http(self, url: str, digest: Digest, etag: str | None, modified: str | None) -> None:
        """The caller keeps credentials out of `url`."""
        with self._database.write() as transaction:
            transaction.run("INSERT OR REPLACE INTO http VALUES (?,?,?,?,?)", (url, etag, modified, digest, self._now()))

    def watch(self, url: str) -> WatchAnswer | None:
        return self._database.first(WatchAnswer, "SELECT answer, checked FROM watches WHERE url=?", (url,))

    def set_watch(self, url: str, answer: str) -> None:
        with self._database.write() as transaction:
            transaction.run("INSERT OR REPLACE INTO watches VALUES (?,?,?)", (url, answer, self._now()))

    def remote(self, reference: str, platform: str) -> RemoteAnswer | None:
        return self._database.first(
            RemoteAnswer, "SELECT manifest, checked FROM remotes WHERE reference=? AND platform=?", (reference, platform)
        )

    def set_remote(self, reference: str, platform: str, manifest: Digest) -> None:
        with self._database.write() as transaction:
            transaction.run("INSERT OR REPLACE INTO remotes VALUES (?,?,?,?)", (reference, platform, manifest, self._now()))

    def packed(self, diff_id: DiffId, form: str) -> PackedForm | None:
        """`form`: the compression, "gzip" or "zstd"."""
        if not self._has_later():
            return None
        return self._database.first(PackedForm, "SELECT digest, size FROM packed WHERE diff_id=? AND form=?", (diff_id, form))

    def set_packed(self, diff_id: DiffId, form: str, digest: Digest, size: int) -> None:
        self._make_later()
        with self._database.write() as transaction:
            transaction.run("INSERT OR REPLACE INTO packed VALUES (?,?,?,?)", (diff_id, form, digest, size))

    def packed_as(self, form: str, limit: int) -> list[tuple[DiffId, PackedForm]]:
        """Some of the layers that have this form."""
        if not self._has_later():
            return []
        rows = self._database.all(tuple[str, str, int], "SELECT diff_id, digest, size FROM packed WHERE form=? LIMIT ?", (form, limit))
        return [(DiffId(diff_id), PackedForm(Digest(digest), size)) for diff_id, digest, size in rows]

    def places(self, digest: Digest) -> tuple[str, ...]:
        """Repositories (`registry/repository`) that were seen to have this blob, the last one first."""
        if not self._has_later():
            return ()
        rows = self._database.all(tuple[str], "SELECT place FROM places WHERE digest=? ORDER BY seen DESC LIMIT 50", (digest,))
        return tuple(row[0] for row in rows)

    def add_place(self, digests: Sequence[Digest], place: str) -> None:
        self._make_later()
        with self._database.write() as transaction:
            for digest in digests:
                transaction.run("INSERT OR REPLACE INTO places VALUES (?,?,?)", (digest, place, self._now()))

    def _has_later(self) -> bool:
        if not self._later:
            self._later = self._database.first(tuple[str], "SELECT name FROM sqlite_master WHERE name='places'") is not None
        return self._later

    def _make_later(self) -> None:
        if not self._has_later():
            with self._database.write() as transaction:
                for statement in _LATER:
                    transaction.run(statement)
            self._later = True
