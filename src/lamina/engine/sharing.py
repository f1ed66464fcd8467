"""A build beside shared caches: records found elsewhere, their layers fetched when something needs them, own records handed over.

The local store stays in charge: what is found elsewhere becomes a record of it, and a layer that is fetched must be what its name says.
A cache that does not answer costs a warning and its answers, never the build, unless it is `required`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec

from lamina.cache import keys
from lamina.cache.index import LocalRecords
from lamina.cache.record import KEY_SCHEMA, CacheKey, KeyParts, LayerRef, Place, Record
from lamina.cache.remote.envelope import BlobRef
from lamina.cache.remote.errors import CacheError
from lamina.cache.remote.shared import Offer, Publication, Published, SharedCache
from lamina.engine.chunkedlayers import ChunkedLayers
from lamina.engine.request import Notice
from lamina.oci.digest import Digest, StateId
from lamina.store.local import LocalStore

if TYPE_CHECKING:
    from pathlib import Path

    from lamina.engine.job import Job
    from lamina.engine.mountsharing import MountSharing

Warn = Callable[[str, str], None]
"""(text, code)"""


class Found(msgspec.Struct, frozen=True):
    """`records`: believed ones of a key, newest first. `refused`: why others are not believed, in words."""

    records: tuple[Record, ...] = ()
    refused: str | None = None


class Sharing:
    """The shared caches of one build. Thread-safe. Whoever opened the caches closes them."""

    def __init__(
        self, store: LocalStore, readers: Sequence[SharedCache], writers: Sequence[SharedCache], warn: Warn, *, host: str, build: str
    ) -> None:
        self._store = store
        self._host = host
        self._build = build
        self._selections: dict[CacheKey, Record] = {}
        self._readers = list(readers)
        self._writers = list(writers)
        self._warn = warn
        self._lock = threading.Lock()
        self._blobs: dict[Digest, tuple[SharedCache, BlobRef]] = {}
        self._offers: dict[tuple[CacheKey, str], tuple[SharedCache, Offer]] = {}
        self.fetched_bytes = 0

        self._results: Sequence[Record] = ()
        self._opened: list[SharedCache] = []
        self._mounts: MountSharing | None = None
        self.succeeded = False  # set by the build: cache mounts are handed over after one that went well
        self._wait: Callable[[Sequence[LayerRef]], object] = lambda layers: None
        self._told: Callable[[str], None] = lambda text: None
        self._chunked = ChunkedLayers(store, lambda text: warn(text, "cache-chunks"))

    def attach(self, job: Job, opened: list[SharedCache]) -> None:
        """What `finish` works on: the job's results, and the caches that it closes."""
        self._results, self._opened = job.results, opened
        self._wait = job.around.layers.diff_ids
        self._told = lambda text: job.report(Notice("info", text, "cache-shared"))
        if job.request.cache_mounts:
            from lamina.engine.mountsharing import MountSharing, parse_rule

            rules = [parse_rule(text) for text in job.request.cache_mounts]
            self._mounts = MountSharing(rules, lambda: tuple(self._readers), lambda: tuple(self._writers), self._lost, job.warn)

    @property
    def arrive(self) -> Callable[[str, Path, bool], None] | None:
        """What brings a shared cache mount (MountSharing)."""
        return None if self._mounts is None else self._mounts.arrive

    @property
    def reads(self) -> bool:
        return bool(self._readers)

    @property
    def writes(self) -> bool:
        return bool(self._writers)

    def lookup(self, key: CacheKey) -> Found:
        """One question to each cache that is read."""
        records: dict[str, Record] = {}
        refused = None
        for cache in tuple(self._readers):
            try:
                answer = cache.lookup([key], quick=True)[key]
            except CacheError as error:
                self._lost(cache, error)
                continue
            for offer in answer.offers:
                record = self._take(cache, offer)
                records.setdefault(record.state + record.build, record)
            if refused is None and answer.refusals:
                refused = answer.refusals[0].why
        return Found(tuple(sorted(records.values(), key=lambda record: -record.created)), refused)

    def used(self, record: Record) -> None:
        """The build takes this record: where it came from it counts as used now."""
        with self._lock:
            found = self._offers.get((record.key, record.state))
        if found is not None:
            found[0].mark_used(found[1])

    def where(self, record: Record) -> str | None:
        """The cache that gave this record in this build."""
        with self._lock:
            found = self._offers.get((record.key, record.state))
        return None if found is None else found[0].where

    def selection(self, state: StateId, selector: str) -> str | None:
        """The Merkle digest of what a selector takes from a filesystem, as a machine found that had the files: without it a COPY --from could
        not be looked up before the stage's layers were fetched."""
        found = self.lookup(_selection_key(state, selector)).records
        return found[0].state if found else None

    def note_selection(self, state: StateId, selector: str, merkle: str) -> None:
        """To be handed over with the records."""
        key = _selection_key(state, selector)
        parts = _selection_parts(state, selector)
        place = Place(dockerfile="", stage="", position=0, line=0, text="selection")
        record = Record(key, parts, place, StateId(merkle), (), "", 0.0, 0.0, self._host, self._build)
        with self._lock:
            self._selections[key] = record

    def neighbours(self, place: Place) -> Sequence[Record]:
        """For the reason of a miss on a machine that has never built this."""
        for cache in tuple(self._readers):
            try:
                found = cache.neighbours(place, quick=True)
                for answer in cache.lookup([record.key for record in found], quick=True).values():
                    for offer in answer.offers:
                        self._take(cache, offer)  # from now on their listings can be fetched
            except CacheError as error:
                self._lost(cache, error)
                continue
            if found:
                return found
        return ()

    def fetch(self, layers: Sequence[LayerRef]) -> None:
        """Bring the blobs of these layers, side by side. What nobody has stays away: look what is there afterwards."""
        self._fetch([layer.blob for layer in layers if layer.blob is not None])
        # Records that were taken over earlier do not say from where: any cache that is read may have what they need.
        for cache in tuple(self._readers):
            away = {layer.blob: layer for layer in layers if layer.blob is not None and layer.blob_size}
            missing = self._store.blobs.missing(list(away))
            refs = [BlobRef(one, away[one].blob_size, "layer", away[one].id, recipe=away[one].recipe) for one in missing]
            if refs:
                self._fetch_from(cache, refs)

    def listing(self, digest: Digest) -> None:
        """Bring a listing, if some cache has it."""
        self._fetch([digest])

    def missing_bytes(self, layers: Sequence[LayerRef]) -> int:
        """What it would cost to fetch those of the layers that are not here, as far as a cache has them."""
        here = self._store.layers.present({layer.id for layer in layers})
        away = {layer.blob for layer in layers if layer.id not in here and layer.blob is not None}
        missing = self._store.blobs.missing(away)
        with self._lock:
            return sum(self._blobs[digest][1].size for digest in missing if digest in self._blobs)

    def finish(self) -> None:
        """Hand over what the build found and made, and close the caches. Errors of a cache that is required are raised."""
        try:
            if self.writes and self._results:
                self._wait([layer for record in self._results for layer in record.layers if layer.id.startswith("diff:")])
                done = self.publish(list({(record.key, record.state): record for record in self._results}.values()))
                records, size = sum(one.records for one in done), sum(one.bytes for one in done)
                if records:
                    self._told(f"shared cache: {records} record{'' if records == 1 else 's'} and {size} bytes sent")
            if self._mounts is not None:
                if self.succeeded:
                    self._mounts.finish()
                came, went = self._mounts.pulled, self._mounts.pushed
                if came.files or went.files:
                    self._told(f"cache mounts: {came.files} files taken over ({came.bytes} bytes), {went.bytes} bytes sent")
        finally:
            for cache in self._opened:
                cache.close()

    def publish(self, records: Sequence[Record]) -> tuple[Published, ...]:
        """Hand over records and what they need; what a cache has is not sent again. One answer for each cache that is written."""
        done: list[Published] = []
        with self._lock:
            records = [*records, *self._selections.values()]
        for cache in tuple(self._writers):
            before = self._chunked.bytes
            try:
                known = cache.lookup([record.key for record in records], quick=True)
                fresh = [record for record in records if all(offer.record.state != record.state for offer in known[record.key].offers)]
                whole = cache.publish(
                    [found for record in fresh if (found := self._publication(record, cache)) is not None], self._store.blobs
                )
                done.append(msgspec.structs.replace(whole, bytes=whole.bytes + self._chunked.bytes - before))
            except CacheError as error:
                self._lost(cache, error)
        return tuple(done)

    def _publication(self, record: Record, cache: SharedCache) -> Publication | None:
        """None where a layer of the record is not here and nobody told its blob."""
        from lamina.engine.registries.packing import compress

        rows = {row.id: row for row in self._store.layers.rows({layer.id for layer in record.layers})}
        layers: list[LayerRef] = []
        blobs: list[BlobRef] = []
        for layer in record.layers:
            row = rows.get(layer.id)
            if layer.id.startswith("sha256:"):
                layers.append(layer)
                continue
            if row is None or row.diff_id is None or self._store.layers.path(layer.id) is None:
                return None
            chunked = self._chunked.send(cache, record, layer, row.diff_id, row.packed or 0)
            if chunked is not None:
                layers.append(
                    msgspec.structs.replace(
                        layer,
                        diff_id=row.diff_id,
                        packed=row.packed or 0,
                        blob=chunked.digest,
                        blob_size=chunked.size,
                        recipe=chunked.recipe,
                    )
                )
                blobs.append(chunked)
                continue
            known = self._store.facts.packed(row.diff_id, "zstd")
            if known is None or self._store.blobs.missing([known.digest]):
                made = compress(self._store, layer.id, row.diff_id, "zstd")
                digest, size = made.digest, made.size
            else:
                digest, size = known.digest, known.size
            layers.append(
                msgspec.structs.replace(layer, diff_id=row.diff_id, packed=row.packed or 0, blob=digest, blob_size=size, recipe=None)
            )
            blobs.append(BlobRef(digest, size, "layer", layer.id, "application/vnd.oci.image.layer.v1.tar+zstd"))
        listings = [part.listing for part in record.parts.inputs if part.listing is not None]
        missing = self._store.blobs.missing(listings)
        blobs += [BlobRef(one, self._store.blobs.size(one), "listing") for one in dict.fromkeys(listings) if one not in missing]
        return Publication(msgspec.structs.replace(record, layers=tuple(layers), project=""), tuple(blobs))

    def _take(self, cache: SharedCache, offer: Offer) -> Record:
        of_layer = {blob.layer: blob for blob in offer.blobs if blob.layer is not None}
        layers = []
        for layer in offer.record.layers:
            blob = of_layer.get(layer.id)
            layers.append(
                layer if blob is None else msgspec.structs.replace(layer, blob=blob.digest, blob_size=blob.size, recipe=blob.recipe)
            )
        record = msgspec.structs.replace(offer.record, layers=tuple(layers))
        with self._lock:
            self._offers[(record.key, record.state)] = cache, offer
            for blob in offer.blobs:
                self._blobs.setdefault(blob.digest, (cache, blob))
        return record

    def _fetch(self, digests: Sequence[Digest]) -> None:
        with self._lock:
            known = [self._blobs[digest] for digest in dict.fromkeys(digests) if digest in self._blobs]
        by_cache: dict[int, tuple[SharedCache, list[BlobRef]]] = {}
        for cache, blob in known:
            by_cache.setdefault(id(cache), (cache, []))[1].append(blob)
        for cache, blobs in by_cache.values():
            self._fetch_from(cache, blobs)

    def _fetch_from(self, cache: SharedCache, blobs: Sequence[BlobRef]) -> None:
        try:
            done = cache.fetch_blobs(blobs, self._store.blobs, have=self._chunked.have)
        except CacheError as error:
            self._lost(cache, error)
            return
        with self._lock:
            self.fetched_bytes += done.bytes

    def _lost(self, cache: SharedCache, error: CacheError) -> None:
        """Not asked again in this build."""
        if cache.required:
            raise error
        with self._lock:
            known = cache in self._readers or cache in self._writers
            self._readers = [one for one in self._readers if one is not cache]
            self._writers = [one for one in self._writers if one is not cache]
        if known:
            self._warn(f"the shared cache {cache.where} is left out: {error.message}", "cache-lost")


def _selection_parts(state: StateId, selector: str) -> KeyParts:
    return KeyParts(KEY_SCHEMA, {"op": "selection", "state": state, "selector": selector}, ())


def _selection_key(state: StateId, selector: str) -> CacheKey:
    return keys.key_of(_selection_parts(state, selector))


def share(open_cache: Callable[[str], SharedCache], job: Job, build: str) -> None:
    """Open what the request names and let the job's surroundings use it. One place that is read and written is opened once."""
    request = job.request
    opened: dict[str, SharedCache] = {}
    try:
        for place in dict.fromkeys((*request.cache_from, *(() if job.planning else request.cache_to))):
            opened[place] = open_cache(place)
    except BaseException:
        for cache in opened.values():
            cache.close()
        raise
    around = job.around
    readers = [opened[place] for place in dict.fromkeys(request.cache_from)]
    writers = [] if job.planning else [opened[place] for place in dict.fromkeys(request.cache_to)]
    sharing = Sharing(around.store, readers, writers, job.warn, host=around.host, build=build)
    sharing.attach(job, list(opened.values()))
    around.share(sharing)


def push(store: LocalStore, records: Sequence[Record], cache: SharedCache, warn: Warn, *, host: str) -> Published:
    """Hand over records of the store that have all their layers here. CacheErrors are raised."""
    with _insisting(cache):
        sharing = Sharing(store, [], [cache], warn, host=host, build="")
        return sharing.publish(records)[0]


def pull(
    store: LocalStore, local: LocalRecords, keys_wanted: Sequence[CacheKey], cache: SharedCache, warn: Warn, *, host: str, layers: bool
) -> tuple[int, int]:
    """Take over believed records of these keys, with `layers` also what they stand for. Returns (records, bytes)."""
    with _insisting(cache):
        sharing = Sharing(store, [cache], [], warn, host=host, build="")
        taken: list[Record] = []
        for key in dict.fromkeys(keys_wanted):
            for record in sharing.lookup(key).records[:1]:
                if record.layers:
                    local.publish(record)
                    sharing.used(record)
                    taken.append(record)
        if layers:
            here = store.layers.present({layer.id for record in taken for layer in record.layers})
            sharing.fetch([layer for record in taken for layer in record.layers if layer.id not in here])
        return len(taken), sharing.fetched_bytes


@contextmanager
def _insisting(cache: SharedCache) -> Iterator[None]:
    """A cache that does not answer is an error here, not a warning."""
    before, cache.required = cache.required, True
    try:
        yield
    finally:
        cache.required = before
