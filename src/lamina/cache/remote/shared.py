"""SharedCache: what an engine talks to. Lookup, fetch, publish; what lies there is inventory.py's, and its life upkeep.py's."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, Literal, Protocol

import msgspec

from lamina.cache.policy import DEFAULT_EXPIRY
from lamina.cache.record import CacheKey, Place, Record
from lamina.cache.remote.envelope import BadEnvelope, BlobRef, Envelope, Statement, seal, unseal
from lamina.cache.remote.errors import CacheDenied, CacheError, ObjectGone
from lamina.cache.remote.names import (
    RecordName,
    blob_name,
    check_scope,
    encode_scope,
    key_prefix,
    place_names,
    place_prefixes,
    placed_key,
    uses_name,
)
from lamina.cache.remote.parallel import each
from lamina.cache.remote.protocols import PIECE, Body, ObjectStore, Pointed, whole
from lamina.cache.remote.trust import Trust
from lamina.oci.digest import Digest
from lamina.store.protocols import DigestMismatch

if TYPE_CHECKING:
    from lamina.cache.remote.chunked import Have
    from lamina.cache.remote.inventory import Listed, Problem, Usage
    from lamina.cache.remote.upkeep import Pruned

_BATCH = 64  # keys of one gather

RefusalCode = Literal["not-trusted", "damaged"]


class BlobWriter(Protocol):
    def write(self, data: bytes, /) -> int: ...
    def commit(self) -> Digest: ...


class BlobSink(Protocol):
    """What blobs are fetched into: the part of a BlobStore that is needed here. `ingest` verifies at commit."""

    def ingest(self, expect: Digest | None = None) -> AbstractContextManager[BlobWriter]: ...
    def missing(self, digests: Collection[Digest]) -> set[Digest]: ...


class BlobSource(Protocol):
    """What blobs are published from; reading to the end verifies."""

    def open(self, digest: Digest) -> BinaryIO: ...
    def size(self, digest: Digest) -> int: ...


class Offer(msgspec.Struct, frozen=True):
    """A record that is believed. `name`: the object's, for `forget` and messages."""

    record: Record
    scope: str
    project: str
    blobs: tuple[BlobRef, ...]
    name: str


class Refusal(msgspec.Struct, frozen=True):
    """A record that is there but not used. `code` becomes the reason's code ("damaged" is told as not-trusted too); `why` a sentence's rest."""

    key: CacheKey
    scope: str
    code: RefusalCode
    why: str


class Answer(msgspec.Struct, frozen=True):
    """Of one key: offers newest first. Both may be empty: a miss."""

    offers: tuple[Offer, ...] = ()
    refusals: tuple[Refusal, ...] = ()


class Publication(msgspec.Struct, frozen=True):
    """A record with all blobs that it needs."""

    record: Record
    blobs: tuple[BlobRef, ...] = ()


class Published(msgspec.Struct, frozen=True):
    """Counts of one publish: what was sent and what was there already."""

    records: int = 0
    records_there: int = 0
    blobs: int = 0
    blobs_there: int = 0
    bytes: int = 0  # of blobs that were sent


class Fetched(msgspec.Struct, frozen=True):
    """`gone`: blobs that nobody has any more or that came damaged; records that need them are misses (reason `evicted`)."""

    fetched: frozenset[Digest] = frozenset()
    gone: frozenset[Digest] = frozenset()
    bytes: int = 0


OnBytes = Callable[[Digest, int], None]
"""Called from several threads with the number of bytes that have just arrived or left."""

_MISS = Answer()


class SharedCache:
    """One backend for one build. Thread-safe. Use as a context manager: closing writes down what was used.

    Errors of every method: CacheUnavailable (transient), CacheDenied, CacheError. Whoever asks decides whether they end a build.
    """

    def __init__(
        self, objects: ObjectStore, *, now: Callable[[], float], trust: Trust | None = None, project: str = "", required: bool = False
    ) -> None:
        """`trust.scope` is the scope that records are written under. `open_cache` (opening.py) makes one from a spec."""
        self.objects = objects
        self.trust = trust or Trust()
        self.project = project
        self.required = required
        self.now = now
        check_scope(self.trust.scope)
        self._lock = self.lock = threading.Lock()
        self.chunks: bool | None = None  # of what is written: large layers as chunks; None: where the extra is installed
        self._answers: dict[CacheKey, Answer] = {}
        self._quick: set[CacheKey] = set()  # answers that one record was enough for
        self._used: set[str] = set()
        self._damaged: set[str] = set()

    @property
    def where(self) -> str:
        """For messages."""
        return self.objects.where

    def lookup(self, keys: Sequence[CacheKey], *, again: bool = False, quick: bool = False) -> Mapping[CacheKey, Answer]:
        """Every key's answer, in few requests. Answers are remembered until the cache is closed, misses too; `again` asks anew.

        Moves records only, no blob. A record that is not believed, or damaged, is a Refusal in the answer, never an error. `quick`: one
        believed record of a key will do, so that no backend has to list anything to find a hit or a miss.
        """
        with self._lock:
            wanted = [key for key in dict.fromkeys(keys) if again or key not in self._answers or (not quick and key in self._quick)]
        batches = [wanted[start : start + _BATCH] for start in range(0, len(wanted), _BATCH)]
        for batch in batches:
            found = self._found([key_prefix(key) for key in batch], quick=quick)
            answers = {key: self._answer(key, found.get(key_prefix(key), {})) for key in batch}
            with self._lock:
                self._answers.update(answers)
                self._quick = self._quick | set(batch) if quick else self._quick - set(batch)
        with self._lock:
            return {key: self._answers.get(key, _MISS) for key in keys}

    def mark_used(self, offer: Offer) -> None:
        """A record that a build takes: it and its blobs count as used now. Written by `flush`, at the latest when closing."""
        with self._lock:
            self._used.add(offer.name)
            self._used.update(blob_name(blob.stored) for blob in offer.blobs)

    def fetch_blobs(
        self,
        blobs: Sequence[BlobRef],
        sink: BlobSink,
        *,
        parallel: int = 4,
        on_bytes: OnBytes | None = None,
        flush: bool = True,
        have: Have | None = None,
    ) -> Fetched:
        """Into `sink`, verified; what the sink has is not asked for. Gone blobs are told, not raised. `have`: chunks that need not move.

        Says first that these blobs are in use (unless not `flush`), so that pruning elsewhere spares them.
        """
        wanted = {blob.digest: blob for blob in blobs}
        missing = sink.missing(list(wanted))
        if missing and flush:
            with self._lock:
                self._used.update(blob_name(wanted[digest].stored) for digest in missing)
            self.flush()

        def one(blob: BlobRef) -> tuple[Digest, int | None]:
            return blob.digest, self._fetch(blob, sink, on_bytes, have)

        results = dict(each(one, [wanted[digest] for digest in sorted(missing)], parallel))
        good = frozenset(digest for digest, moved in results.items() if moved is not None)
        return Fetched(good, frozenset(results) - good, sum(moved for moved in results.values() if moved is not None))

    def publish(
        self,
        publications: Sequence[Publication],
        source: BlobSource,
        *,
        parallel: int = 4,
        on_bytes: OnBytes | None = None,
        places: bool = False,
    ) -> Published:
        """Blobs first, then the records that need them; nothing that is there is sent again.

        Killed at any instruction it leaves whole blobs without records, never the opposite. Blobs with a recipe were sent before (`send` of
        chunked.py). A blob that the source does not have
        (its BlobNotFound) ends it before any record is published. `places`: whatever the backend; where names can be guessed only
        `neighbours` that are not `quick` need them, and each costs as much as a record's own name.
        """
        blobs = list({blob.digest: blob for one in publications for blob in one.blobs if blob.recipe is None}.values())
        names = {blob_name(blob.digest): blob for blob in blobs}
        there = self.announce(names)
        absent = [blob for name, blob in names.items() if name not in there]
        sent = each(lambda blob: self._send(blob, source, on_bytes), absent, parallel)
        sealed = [(one, *self._seal(one)) for one in publications]
        new = each(lambda one: self.objects.put(one[1], whole(one[2])), sealed)
        if places or not isinstance(self.objects, Pointed):
            named = [name for one in publications for name in place_names(one.record)]
            each(lambda name: self.objects.put(name, whole(b"")), list(dict.fromkeys(named)))
        with self._lock:
            for one in publications:
                self._answers.pop(one.record.key, None)
        moved = sum(blob.size for blob, was_new in zip(absent, sent) if was_new)
        return Published(sum(new), len(new) - sum(new), sum(sent), len(blobs) - sum(sent), moved)

    def neighbours(self, place: Place, limit: int = 8, *, quick: bool = False) -> Sequence[Record]:
        """Believed records of the same spot (Dockerfile, stage, position), then of the same text, each newest first: what a miss is
        explained by. Each kind gets its share; whole sets of records are read only for the newest few. `quick`: a few of the latest will
        do, so that no backend has to list anything."""
        prefixes = place_prefixes(place)
        if quick and isinstance(self.objects, Pointed):
            named, _ = self.trust.scopes()
            found = self.objects.latest(prefixes, [encode_scope(scope) for scope in named])
            spots, texts = ([offer.record for offer in self._believed(records)] for records in found)
        else:
            spots, texts = (self._placed(prefix, 2 * limit) for prefix in prefixes)
        there = [record for record in spots if _spot(record.place) == _spot(place)]
        alike = [record for record in texts if record.place.text == place.text and _spot(record.place) != _spot(place)]
        alike.sort(key=lambda record: record.place.stage != place.stage)
        share = max(limit - len(alike), (limit + 1) // 2)
        return (there[:share] + alike)[:limit]

    def _placed(self, prefix: str, limit: int) -> list[Record]:
        names = sorted((entry.name for entry in self.objects.list(prefix)), reverse=True)[:limit]
        answers = self.lookup(list(dict.fromkeys(placed_key(name) for name in names)))
        records = [offer.record for answer in answers.values() for offer in answer.offers]
        return sorted(records, key=lambda record: -record.created)

    def _found(self, prefixes: Sequence[str], *, quick: bool) -> Mapping[str, Mapping[str, bytes]]:
        if not quick or not isinstance(self.objects, Pointed):
            return self.objects.gather(prefixes)
        named, others = self.trust.scopes()
        return self.objects.first(
            prefixes, [encode_scope(scope) for scope in named], lambda name, data: bool(self._believed({name: data})), others=others
        )

    def _believed(self, found: Mapping[str, bytes]) -> list[Offer]:
        """Newest first, whatever their keys."""
        offers = [offer for name, data in found.items() for offer in self._answer(RecordName(name).key, {name: data}).offers]
        return sorted(offers, key=lambda offer: (-offer.record.created, offer.name))

    def forget(self, keys: Sequence[CacheKey]) -> int:
        """Delete the records of these keys in the scopes that are believed; returns how many."""
        names = [offer.name for answer in self.lookup(keys, again=True).values() for offer in answer.offers]
        self.objects.delete(names)
        with self._lock:
            for key in keys:
                self._answers.pop(key, None)
        return len(names)

    def ls(self, project: str | None = None) -> list[Listed]:
        """Every record that lies there, believed or not, last used first. Reads all of them."""
        from lamina.cache.remote.inventory import Inventory

        found = [one for one in Inventory(self.objects).records if project is None or one.project == project]
        return sorted(found, key=lambda one: (-one.used, one.name))

    def du(self) -> Usage:
        """What lies there, by kind and by project."""
        from lamina.cache.remote.inventory import Inventory, usage

        return usage(Inventory(self.objects))

    def prune(
        self,
        *,
        expiry: float | None = DEFAULT_EXPIRY,
        cap: int | None = None,
        project: str | None = None,
        grace: float = 3600.0,
        dry_run: bool = False,
    ) -> Pruned:
        """See upkeep.prune. `cap` in bytes, `expiry` and `grace` in seconds."""
        from lamina.cache.remote.upkeep import prune

        pruned = prune(self.objects, self.now(), expiry=expiry, cap=cap, project=project, grace=grace, dry_run=dry_run)
        with self._lock:
            self._answers.clear()
        return pruned

    def verify(self, *, bytes_too: bool = False, repair: bool = False) -> list[Problem]:
        """See upkeep.verify; no problem: sound."""
        from lamina.cache.remote.upkeep import verify

        return verify(self.objects, bytes_too=bytes_too, repair=repair)

    def announce(self, names: Collection[str], *, ahead: bool = False) -> set[str]:
        """Those of the objects that are there, and that a record may rely on: others' pruning knows that it is about to need them.

        `ahead`: said before it is asked, of all of them: where they are many and one look is dear.
        """
        self._remove_damaged(names)
        if ahead:
            with self.lock:
                self._used.update(names)
            self.flush()
            return self.objects.exists(names)
        there = self.objects.exists(names) if names else set()
        if there:
            with self.lock:
                self._used |= there
            self.flush()
            there = self.objects.exists(list(there))  # what was taken in between is sent again
        return there

    def damaged(self, name: str) -> None:
        """This object was seen to have other bytes than its name says."""
        with self.lock:
            self._damaged.add(name)

    def flush(self) -> None:
        """Write down what was used since the last time: one small object, whatever the number. A cache that may only be read stays as it is."""
        with self._lock:
            used, self._used = self._used, set()
        if used:
            name = uses_name(self.now(), secrets.token_hex(8))
            try:
                self.objects.put(name, whole("".join(f"{one}\n" for one in sorted(used)).encode()))
            except CacheDenied:
                pass

    def close(self) -> None:
        """Flushes; a cache that cannot be reached any more is no reason to fail now."""
        try:
            self.flush()
        except CacheError:
            pass
        self.objects.close()

    def __enter__(self) -> SharedCache:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _answer(self, key: CacheKey, found: Mapping[str, bytes]) -> Answer:
        offers: list[Offer] = []
        refusals: list[Refusal] = []
        for name, data in found.items():
            scope = ""
            try:
                scope = RecordName(name).scope
                envelope = unseal(name, data)
            except BadEnvelope as error:
                refusals.append(Refusal(key, scope, "damaged", error.message))
                continue
            except CacheError:
                continue  # foreign
            if envelope.statement.record.key != key:
                continue
            why = self.trust.refusal(envelope)
            if why is None:
                offer = offer_of(envelope)
                if all(other.record != offer.record for other in offers):  # the same one in two scopes, or signed twice
                    offers.append(offer)
            else:
                refusals.append(Refusal(key, scope, "not-trusted", why))
        offers.sort(key=lambda offer: (-offer.record.created, offer.name))
        return Answer(tuple(offers), tuple(refusals))

    def _remove_damaged(self, names: Collection[str]) -> None:
        """What was seen to have other bytes than its name says makes room for the right ones."""
        with self._lock:
            damaged = self._damaged.intersection(names)
            self._damaged -= damaged
        if damaged:
            try:
                self.objects.delete(damaged)
            except CacheDenied:
                pass

    def _seal(self, publication: Publication) -> tuple[str, bytes]:
        statement = Statement(publication.record, self.trust.scope, publication.blobs, self.project)
        return seal(statement, self.trust.sign)

    def _send(self, blob: BlobRef, source: BlobSource, on_bytes: OnBytes | None) -> bool:
        def pieces() -> Iterator[bytes]:
            with source.open(blob.digest) as file:
                while piece := file.read(PIECE):
                    yield piece
                    if on_bytes:
                        on_bytes(blob.digest, len(piece))

        return self.objects.put(blob_name(blob.digest), Body(blob.size, pieces))

    def _fetch(self, blob: BlobRef, sink: BlobSink, on_bytes: OnBytes | None, have: Have | None) -> int | None:
        """Bytes that came; None when it is gone, or not what its name says."""
        name, size = blob_name(blob.stored), 0
        try:
            if blob.recipe is not None:
                from lamina.cache.remote.chunked import fetch

                return fetch(self, blob, sink, on_bytes, have)
            with sink.ingest(blob.digest) as writer:
                for piece in self.objects.stream(name):
                    size += len(piece)
                    if size > blob.size:
                        raise DigestMismatch(f"{self.where}: {name} is longer than its {blob.size} bytes")
                    writer.write(piece)
                    if on_bytes:
                        on_bytes(blob.digest, len(piece))
                writer.commit()
        except ObjectGone:
            return None
        except (DigestMismatch, CacheError) as error:
            if error.transient or isinstance(error, CacheDenied):
                raise
            self.damaged(name)
            return None
        return size


def offer_of(envelope: Envelope) -> Offer:
    statement = envelope.statement
    return Offer(statement.record, statement.scope, statement.project, statement.blobs, envelope.name)


def _spot(place: Place) -> tuple[str, str, int]:
    return (place.dockerfile, place.stage, place.position)
