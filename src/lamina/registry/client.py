"""Pull: from a reference to verified bytes (distribution specification 1.1, "Pull"). No byte is believed unhashed."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol, TypeVar

from lamina.diagnostics.errors import LaminaError
from lamina.oci.digest import Digest, InvalidDigest, parse_digest, sha256
from lamina.oci.manifest import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, Descriptor, Index, Manifest
from lamina.oci.platform import Platform
from lamina.oci.reference import Reference
from lamina.oci.selection import choose, offered, parse_checked
from lamina.registry.auth import CredentialSource
from lamina.registry.errors import (
    RegistryNotFound,
    RegistryProtocolError,
    RegistryUnreachable,
    RegistryUnsupported,
    shown,
)
from lamina.registry.session import Session, expect
from lamina.registry.transport import Response, Torn, Transport, Trickle

MANIFEST_LIMIT = 4 << 20  # bytes; the specification's own recommendation
CONFIG_LIMIT = 8 << 20
_MAX_NESTING = 3  # indexes within indexes
_MAX_TEARS = 6  # broken connections without much progress in between
_MAX_TRICKLES = 2  # each was waited for, for as long as one waits for a byte
_PROGRESS = 64 << 10
ACCEPT = ", ".join((OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST))  # what is asked for where either will do

_T = TypeVar("_T")
_MISMATCH = "store/digest-mismatch"  # the store is a neighbour on this floor: known by its stable code only


class Writer(Protocol):
    def write(self, data: bytes, /) -> int: ...
    def commit(self) -> Digest: ...


class BlobSink(Protocol):
    """What a blob is fetched into: the part of the store's BlobStore that is needed here."""

    def ingest(self, expect: Digest | None = None) -> AbstractContextManager[Writer]: ...
    def missing(self, digests: Collection[Digest]) -> set[Digest]: ...


OnBytes = Callable[[Descriptor, int], None]
"""Called from several threads with the number of bytes that have just arrived."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """A reference and platform, nailed to one manifest. `raw` and `index_raw` are verified."""

    reference: Reference
    digest: Digest
    media_type: str
    raw: bytes
    manifest: Manifest
    index_digest: Digest | None = None  # of the outermost index, when there is one
    index_raw: bytes | None = None

    @property
    def top(self) -> Digest:
        """What the tag points to: compare with `RegistryClient.digest_of` to see whether it has moved."""
        return self.index_digest or self.digest


@dataclass(frozen=True, slots=True)
class Document:
    """A verified manifest or index; `raw` is what its digest is of."""

    raw: bytes
    digest: Digest
    media_type: str
    value: Manifest | Index


class RegistryClient:
    """Thread-safe. Never writes to a registry: that is `Publisher(client.session)` (registry/push.py).

    `foreign` allows layers that only their vendor hands out to be fetched from the addresses in their descriptors.
    """

    def __init__(
        self,
        transport: Transport,
        credentials: CredentialSource | None = None,
        *,
        mirrors: Mapping[str, tuple[str, ...]] | None = None,
        foreign: bool = False,
    ) -> None:
        self.session = Session(transport, credentials, mirrors)
        self._foreign = foreign

    def resolve(self, reference: Reference, platform: Platform) -> Resolved:
        """The manifest for `platform`. A single manifest (no index) is taken as it is: the caller compares its config's platform.

        Raises RegistryNotFound (also when the index has nothing for the platform), RegistryUnauthorized, RegistryUnreachable,
        RegistryProtocolError.
        """
        outer = found = self._document(reference, reference.digest or reference.tag or "latest", reference.digest)
        nesting = 0
        while isinstance(found.value, Index):
            nesting += 1
            if nesting > _MAX_NESTING:
                raise RegistryProtocolError(f"{reference}: indexes are nested more than {_MAX_NESTING} deep")
            chosen = choose(found.value, platform)
            if chosen is None:
                there = ", ".join(offered(found.value)) or "none"
                raise RegistryNotFound(f"{reference} has no image for {platform}", hint=f"it has: {there[:400]}")
            found = self._document(reference, chosen.digest, chosen.digest, chosen.size)
        if found is outer:
            return Resolved(reference, found.digest, found.media_type, found.raw, found.value)
        return Resolved(reference, found.digest, found.media_type, found.raw, found.value, outer.digest, outer.raw)

    def digest_of(self, reference: Reference) -> Digest:
        """The digest that the reference points to now, with a HEAD request where the registry tells it that way."""
        if reference.digest:
            return reference.digest
        with self.session.read("HEAD", reference, f"manifests/{reference.tag or 'latest'}", {"Accept": ACCEPT}) as answer:
            stated = answer.header("Docker-Content-Digest")
            if answer.status == 200 and stated:
                return _stated(reference, stated)
        return self._document(reference, reference.tag or "latest", None).digest

    def document(self, reference: Reference) -> Document:
        """The manifest or index that the reference points to, as it is: nothing is chosen."""
        return self._document(reference, reference.digest or reference.tag or "latest", reference.digest)

    def fetch_config(self, reference: Reference, descriptor: Descriptor) -> bytes:
        """The config's bytes, verified; at most 8 MiB."""
        if descriptor.size > CONFIG_LIMIT:
            raise RegistryProtocolError(f"{reference}: a config of {descriptor.size} bytes is not believable")
        return b"".join(self.stream(reference, descriptor))

    def fetch_blob(
        self,
        reference: Reference,
        descriptor: Descriptor,
        blobs: BlobSink,
        on_bytes: OnBytes | None = None,
        stop: threading.Event | None = None,
        turn: AbstractContextManager[object] | None = None,
    ) -> None:
        """Into `blobs`, verified, never more than descriptor.size bytes; a torn connection is continued where it broke.

        Nothing is kept on failure. No request when the blob is there already. `turn` is entered for as long as bytes come.
        """
        if not blobs.missing([descriptor.digest]):
            return
        turn = turn or nullcontext()
        self._mistrusting(reference, lambda: self._fetch(reference, descriptor, blobs, on_bytes, stop, turn))

    def _fetch(
        self,
        reference: Reference,
        descriptor: Descriptor,
        blobs: BlobSink,
        on_bytes: OnBytes | None,
        stop: threading.Event | None,
        turn: AbstractContextManager[object],
    ) -> None:
        with blobs.ingest(descriptor.digest) as writer:
            with turn:
                for piece in self._pieces(reference, descriptor, stop):
                    writer.write(piece)
                    if on_bytes:
                        on_bytes(descriptor, len(piece))
            try:
                writer.commit()
            except LaminaError as error:
                if error.code != _MISMATCH:
                    raise
                raise _other_bytes(reference, descriptor.digest) from error

    def stream(self, reference: Reference, descriptor: Descriptor) -> Iterator[bytes]:
        """The blob's bytes as they come; torn connections are continued. Wrong bytes or a wrong size raise at the end at the latest: what
        was read before is believed only then."""
        algorithm = descriptor.digest.partition(":")[0]
        check = hashlib.new(algorithm)
        for piece in self._pieces(reference, descriptor, None):
            check.update(piece)
            yield piece
        if f"{algorithm}:{check.hexdigest()}" != descriptor.digest:
            raise _other_bytes(reference, descriptor.digest)

    def pieces(self, reference: Reference, descriptor: Descriptor) -> Iterator[bytes]:
        """As `stream`, for takers that hash what they take: the number of bytes is right, the bytes are not verified."""
        return self._pieces(reference, descriptor, None)

    def _pieces(self, reference: Reference, descriptor: Descriptor, stop: threading.Event | None) -> Iterator[bytes]:
        """Exactly descriptor.size bytes, unverified, over as many connections as it takes."""
        source = self._foreign_from if is_foreign(descriptor) else self._blob_from
        got, tears = 0, 0
        while got < descriptor.size:
            begin = got
            try:
                for piece in source(reference, descriptor, got):
                    if got + len(piece) > descriptor.size:
                        raise RegistryProtocolError(
                            f"{reference}: blob {descriptor.digest} is longer than its descriptor's {descriptor.size} bytes"
                        )
                    if stop is not None and stop.is_set():
                        raise RegistryUnreachable(f"{reference}: given up, because another blob failed")
                    got += len(piece)
                    yield piece
                if got < descriptor.size:
                    raise RegistryProtocolError(
                        f"{reference}: blob {descriptor.digest} has {got} bytes; its descriptor says {descriptor.size}"
                    )
            except Torn as torn:
                tears = tears + 1 if got - begin < _PROGRESS else 1
                if tears >= (_MAX_TRICKLES if isinstance(torn, Trickle) else _MAX_TEARS):
                    raise

    def fetch_blobs(
        self,
        reference: Reference,
        descriptors: Sequence[Descriptor],
        blobs: BlobSink,
        *,
        parallel: int = 4,
        on_bytes: OnBytes | None = None,
    ) -> None:
        """Several at a time, equal digests once. The first failure stops the others and is raised.

        `parallel` of them are on their way from the registry; others may be on their way to the disk meanwhile.
        """
        from concurrent.futures import ThreadPoolExecutor

        wanted = list({d.digest: d for d in descriptors}.values())
        stop = threading.Event()
        failures: list[BaseException] = []
        turn = threading.BoundedSemaphore(max(1, parallel))

        def one(descriptor: Descriptor) -> None:
            if stop.is_set():
                return
            try:
                self.fetch_blob(reference, descriptor, blobs, on_bytes, stop, turn)
            except BaseException as error:
                failures.append(error)
                stop.set()

        workers = 2 * parallel if parallel > 1 else 1
        with ThreadPoolExecutor(max(1, min(workers, len(wanted))), thread_name_prefix="fetch") as pool:
            try:
                list(pool.map(one, wanted))
            except BaseException:  # Ctrl-C in the waiting thread
                stop.set()
                raise
        if failures:
            raise failures[0]

    def _blob_from(self, reference: Reference, descriptor: Descriptor, start: int) -> Iterator[bytes]:
        headers = {"Range": f"bytes={start}-"} if start else {}
        with self.session.read("GET", reference, f"blobs/{descriptor.digest}", headers) as answer:
            yield from _from(answer, reference, descriptor, start)

    def _foreign_from(self, reference: Reference, descriptor: Descriptor, start: int) -> Iterator[bytes]:
        """From the first of the descriptor's own addresses that has it, without any credentials."""
        if not self._foreign:
            hint = "foreign-layers = true in registries.toml allows it to be fetched from the vendor"
            raise RegistryUnsupported(f"{reference} has a layer that only its vendor may hand out ({descriptor.media_type})", hint=hint)
        headers = {"Range": f"bytes={start}-"} if start else {}
        for url in descriptor.urls or ():
            with self.session.transport.request("GET", url, headers) as answer:
                if answer.status in (200, 206):
                    yield from _from(answer, reference, descriptor, start)
                    return
        tried = ", ".join(shown(url) for url in descriptor.urls or ()) or "no address is given"
        raise RegistryNotFound(f"{reference}: the foreign layer {descriptor.digest} is not to be had ({tried})")

    def _document(self, reference: Reference, wanted: str, digest: Digest | None, size: int | None = None) -> Document:
        return self._mistrusting(reference, lambda: self._asked(reference, wanted, digest, size))

    def _mistrusting(self, reference: Reference, read: Callable[[], _T]) -> _T:
        """`read`; where a mirror may have been asked and what came was wrong, again from the registry itself."""
        # Asked before: of several threads that one mirror lies to, each has a second attempt, not only the first to notice.
        mirrors = self.session.mirrors(reference.registry)
        try:
            return read()
        except (RegistryProtocolError, Torn):
            if not mirrors:
                raise
        self.session.distrust_mirrors(reference.registry)
        return read()

    def _asked(self, reference: Reference, wanted: str, known: Digest | None, size: int | None) -> Document:
        def ask() -> tuple[bytes, str, str]:
            with self.session.read("GET", reference, f"manifests/{wanted}", {"Accept": ACCEPT}) as answer:
                expect(answer, reference, "manifest")
                raw = answer.read(MANIFEST_LIMIT)
                return raw, answer.header("Content-Type").split(";")[0].strip(), answer.header("Docker-Content-Digest")

        raw, media_type, header = self.session.transport.whole(ask)
        stated = _stated(reference, header) if header else None
        if size is not None and len(raw) != size:
            raise RegistryProtocolError(f"{reference}: manifest {wanted} has {len(raw)} bytes; its index says {size}")
        for each in (known, stated):
            if each:
                _verify(reference, each, raw)
        digest = known or stated or sha256(raw)
        if media_type.endswith(("manifest.v1+json", "manifest.v1+prettyjws")) and "docker" in media_type:
            raise RegistryUnsupported(
                f"{reference} has a manifest of schema 1, which registries gave up years ago",
                hint="push it again with a current tool",
            )
        try:
            value = parse_checked(raw, media_type)
        except LaminaError as error:
            raise RegistryProtocolError(f"{reference}: {error.message}") from error
        return Document(raw, digest, value.media_type or (OCI_INDEX if isinstance(value, Index) else OCI_MANIFEST), value)


def is_foreign(descriptor: Descriptor) -> bool:
    """A layer that registries do not hold: only its vendor may hand it out."""
    return "foreign" in descriptor.media_type or "nondistributable" in descriptor.media_type


def _from(answer: Response, reference: Reference, descriptor: Descriptor, start: int) -> Iterator[bytes]:
    """The body from byte `start` on, whether the server knows ranges or not."""
    if start and answer.status == 206:
        if not answer.header("Content-Range").startswith(f"bytes {start}-"):
            raise RegistryProtocolError(f"{reference}: the registry continues blob {descriptor.digest} at another place")
        skip = 0
    else:
        expect(answer, reference, f"blob {descriptor.digest}")
        skip = start  # the registry knows no ranges: it sends from the beginning
    for piece in answer.chunks():
        if skip >= len(piece):
            skip -= len(piece)
            continue
        yield piece[skip:] if skip else piece
        skip = 0


def _other_bytes(reference: Reference, digest: Digest) -> RegistryProtocolError:
    return RegistryProtocolError(f"{reference}: the registry sent other bytes than {digest}")


def _stated(reference: Reference, text: str) -> Digest:
    try:
        return parse_digest(text)
    except InvalidDigest as error:
        raise RegistryProtocolError(f"{reference}: the registry's Docker-Content-Digest is no digest") from error


def _verify(reference: Reference, digest: Digest, raw: bytes) -> None:
    algorithm = digest.partition(":")[0]
    if f"{algorithm}:{hashlib.new(algorithm, raw).hexdigest()}" != digest:
        raise _other_bytes(reference, digest)
