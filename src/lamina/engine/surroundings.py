"""What the steps of one build share: store, records, layers, sources, the sandbox. Made by the engine for each build."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lamina.cache.differences import FileChange
from lamina.cache.index import LocalRecords
from lamina.engine.bases import Bases
from lamina.engine.layers import LayerKeeper
from lamina.engine.request import BuildRequest
from lamina.engine.sources import Contexts, Sources
from lamina.layer.selection import Selection
from lamina.oci.digest import Digest, sha256
from lamina.sandbox.protocols import Sandbox
from lamina.store.local import LocalStore
from lamina.store.protocols import BlobNotFound

if TYPE_CHECKING:
    from lamina.engine.beside import Later
    from lamina.engine.freshness.lockfile import Lock
    from lamina.engine.runners.exec import ExecSurroundings
    from lamina.engine.sharing import Sharing


class Surroundings:
    def __init__(
        self,
        store: LocalStore,
        records: LocalRecords,
        bases: Bases,
        contexts: Contexts,
        sandbox: Callable[[], Sandbox],
        scratch: Path,
        *,
        now: Callable[[], float],
        host: str,
        pins: Lock | None = None,
    ) -> None:
        self.store = store
        self.records = records
        self.bases = bases
        self.contexts = contexts
        self.sources = Sources(store, scratch, pins)
        self._scratch = scratch
        self.layers = LayerKeeper(store, bases.fetch)
        self.now = now
        self.host = host
        self._sandbox = sandbox
        self._listings: list[Later[Digest]] = []
        self.sharing: Sharing | None = None  # set by `share`

    def share(self, sharing: Sharing) -> None:
        """This build reads or writes shared caches."""
        self.sharing = sharing
        self.layers.fetch_blobs = sharing.fetch

    def exec_surroundings(self, request: BuildRequest, *, forced: bool) -> ExecSurroundings:
        from lamina.engine.cachemounts import CacheMounts
        from lamina.engine.runners.exec import ExecSurroundings
        from lamina.engine.secrets import Secrets

        return ExecSurroundings(
            sandbox=self._sandbox(),
            flavour=self.store.flavour,
            lowers=self.layers.lowers,
            secrets=Secrets(request.secrets, request.more_secrets),
            agents=request.ssh,
            cache_mounts=CacheMounts(self.store.layout.cachemounts, self.sharing.arrive if self.sharing is not None else None),
            allow_insecure=request.allow_insecure,
            reset_cache_mounts=forced,
            stub=str(self._scratch / "stub"),
        )

    def listing(self, selection: Selection) -> bytes:
        """Encoded, not packed."""
        from lamina.layer import listing

        return listing.encode(listing.make(selection))

    def keep_listing(self, document: bytes) -> Digest:
        """The digest of the blob that it becomes: while the build goes on, for only a later miss reads it (`settle`). At once where a shared cache is to have
        it too."""
        if self.sharing is not None:
            return self.store.blobs.put(document)
        self._listings.append(self.layers.beside.submit(lambda: self.store.blobs.put(document)))
        return sha256(document)

    def settle(self) -> None:
        """Wait for the listings; raises what could not be written. A build that goes on to name an image calls it first."""
        for listing in self._listings:
            listing.result()

    def compare_listings(self, old: Digest, new: bytes) -> Sequence[FileChange]:
        """What differs between a stored listing and one made now; () when the stored one is gone."""
        from lamina.layer import listing

        if self.sharing is not None and self.store.blobs.missing([old]):
            self.sharing.listing(old)
        try:
            return listing.compare_documents(self.store.blobs.read(old), new)
        except BlobNotFound:
            return ()

    def close(self) -> None:
        try:
            self.contexts.save()
            if self.sharing is not None:
                self.sharing.finish()
        finally:
            self.layers.close()
        self.records.flush()
