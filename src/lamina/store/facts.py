"""Small facts that save work: selections' digests, what URLs answered, what remote references pointed to. All may be lost."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from lamina.oci.digest import Digest, StateId
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


class Facts:
    """Thread-safe; last writer wins."""

    def __init__(self, database: Database, now: Callable[[], float]) -> None:
        self._database = database
        self._now = now

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
