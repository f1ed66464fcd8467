"""Pull: from a reference to verified bytes (distribution specification 1.1, "Pull"). No byte is believed unhashed."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

from lamina.diagnostics.errors import LaminaError
from lamina.oci.digest import Digest, InvalidDigest, parse_digest, sha256
from lamina.oci.manifest import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, Descriptor, Index, Manifest
from lamina.oci.platform import Platform
from lamina.oci.reference import Reference
from lamina.oci.selection import choose, offered, parse_checked
from lamina.registry.auth import LOGIN_HINT, Anonymous, Authenticator, CredentialSource
from lamina.registry.errors import (
    RegistryNotFound,
    RegistryProtocolError,
    RegistryUnauthorized,
    RegistryUnreachable,
    RegistryUnsupported,
)
from lamina.registry.hosts import endpoint
from lamina.registry.transport import Response, Torn, Transport

MANIFEST_LIMIT = 4 << 20  # bytes; the specification's own recommendation
CONFIG_LIMIT = 8 << 20
_MAX_NESTING = 3  # indexes within indexes
_MAX_TEARS = 6  # broken connections without much progress in between
_PROGRESS = 64 << 10
_ACCEPT = ", ".join((OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST))

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
class _Document:
    raw: bytes
    digest: Digest
    media_type: str
    value: Manifest | Index


class RegistryClient:
    """Thread-safe. Never writes to a registry."""

    def __init__(self, transport: Transport, credentials: CredentialSource | None = None) -> None:
        self._transport = transport
        self._auth = Authenticator(transport, credentials or Anonymous())
        self._schemes: dict[str, str] = {}
        self._lock = threading.Lock()

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
        with self._ask("HEAD", reference, f"manifests/{reference.tag or 'latest'}", {"Accept": _ACCEPT}) as answer:
            stated = answer.header("Docker-Content-Digest")
            if answer.status == 200 and stated:
                return _stated(reference, stated)
        return self._document(reference, reference.tag or "latest", None).digest

    def fetch_config(self, reference: Reference, descriptor: Descriptor) -> bytes:
        """The config's bytes, verified; at most 8 MiB."""
        if descriptor.size > CONFIG_LIMIT:
            raise RegistryProtocolError(f"{reference}: a config of {descriptor.size} bytes is not believable")
        with self._ask("GET", reference, f"blobs/{descriptor.digest}") as answer:
            self._expect(answer, reference, f"blob {descriptor.digest}")
            raw = answer.read(descriptor.size)
        _verify(reference, descriptor.digest, raw)
        return raw

    def fetch_blob(
        self,
        reference: Reference,
        descriptor: Descriptor,
        blobs: BlobSink,
        on_bytes: OnBytes | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        """Into `blobs`, verified, never more than descriptor.size bytes; a torn connection is continued where it broke.

        Nothing is kept on failure. No request when the blob is there already.
        """
        kind = descriptor.media_type
        if "foreign" in kind or "nondistributable" in kind:
            raise RegistryUnsupported(f"{reference} has a layer that only its vendor may hand out ({kind})")
        if not blobs.missing([descriptor.digest]):
            return
        got, tears = 0, 0
        with blobs.ingest(descriptor.digest) as writer:
            while got < descriptor.size:
                begin = got
                try:
                    for piece in self._blob_from(reference, descriptor, got):
                        if got + len(piece) > descriptor.size:
                            raise RegistryProtocolError(
                                f"{reference}: blob {descriptor.digest} is longer than its descriptor's {descriptor.size} bytes"
                            )
                        writer.write(piece)
                        got += len(piece)
                        if on_bytes:
                            on_bytes(descriptor, len(piece))
                        if stop and stop.is_set():
                            raise RegistryUnreachable(f"{reference}: the transfer was given up")
                    if got < descriptor.size:
                        raise RegistryProtocolError(
                            f"{reference}: blob {descriptor.digest} has {got} bytes; its descriptor says {descriptor.size}"
                        )
                except Torn:
                    tears = tears + 1 if got - begin < _PROGRESS else 1
                    if tears >= _MAX_TEARS:
                        raise
            try:
                writer.commit()
            except LaminaError as error:
                if error.code != _MISMATCH:
                    raise
                raise RegistryProtocolError(f"{reference}: the registry sent other bytes than {descriptor.digest}") from error

    def fetch_blobs(
        self,
        reference: Reference,
        descriptors: Sequence[Descriptor],
        blobs: BlobSink,
        *,
        parallel: int = 4,
        on_bytes: OnBytes | None = None,
    ) -> None:
        """Several at a time, equal digests once. The first failure stops the others and is raised."""
        from concurrent.futures import ThreadPoolExecutor

        wanted = list({d.digest: d for d in descriptors}.values())
        stop = threading.Event()
        failures: list[BaseException] = []

        def one(descriptor: Descriptor) -> None:
            if stop.is_set():
                return
            try:
                self.fetch_blob(reference, descriptor, blobs, on_bytes, stop)
            except BaseException as error:
                failures.append(error)
                stop.set()

        with ThreadPoolExecutor(max(1, min(parallel, len(wanted))), thread_name_prefix="fetch") as pool:
            try:
                list(pool.map(one, wanted))
            except BaseException:  # Ctrl-C in the waiting thread
                stop.set()
                raise
        if failures:
            raise failures[0]

    def _blob_from(self, reference: Reference, descriptor: Descriptor, start: int) -> Iterator[bytes]:
        headers = {"Range": f"bytes={start}-"} if start else {}
        with self._ask("GET", reference, f"blobs/{descriptor.digest}", headers) as answer:
            if start and answer.status == 206:
                if not answer.header("Content-Range").startswith(f"bytes {start}-"):
                    raise RegistryProtocolError(f"{reference}: the registry continues blob {descriptor.digest} at another place")
                skip = 0
            else:
                self._expect(answer, reference, f"blob {descriptor.digest}")
                skip = start  # the registry knows no ranges: it sends from the beginning
            for piece in answer.chunks():
                if skip >= len(piece):
                    skip -= len(piece)
                    continue
                yield piece[skip:] if skip else piece
                skip = 0

    def _document(self, reference: Reference, wanted: str, expect: Digest | None, size: int | None = None) -> _Document:
        with self._ask("GET", reference, f"manifests/{wanted}", {"Accept": _ACCEPT}) as answer:
            self._expect(answer, reference, "manifest")
            raw = answer.read(MANIFEST_LIMIT)
            media_type = answer.header("Content-Type").split(";")[0].strip()
            header = answer.header("Docker-Content-Digest")
        stated = _stated(reference, header) if header else None
        if size is not None and len(raw) != size:
            raise RegistryProtocolError(f"{reference}: manifest {wanted} has {len(raw)} bytes; its index says {size}")
        for each in (expect, stated):
            if each:
                _verify(reference, each, raw)
        digest = expect or stated or sha256(raw)
        if media_type.endswith(("manifest.v1+json", "manifest.v1+prettyjws")) and "docker" in media_type:
            raise RegistryUnsupported(
                f"{reference} has a manifest of schema 1, which registries gave up years ago",
                hint="push it again with a current tool",
            )
        try:
            value = parse_checked(raw, media_type)
        except LaminaError as error:
            raise RegistryProtocolError(f"{reference}: {error.message}") from error
        return _Document(raw, digest, value.media_type or (OCI_INDEX if isinstance(value, Index) else OCI_MANIFEST), value)

    @contextmanager
    def _ask(self, method: str, reference: Reference, path: str, headers: dict[str, str] | None = None) -> Iterator[Response]:
        """One request with the token flow around it."""
        registry, repository = reference.registry, reference.repository
        url = f"{self._base(registry)}/v2/{repository}/{path}"
        value = self._auth.header(registry, repository)
        for attempt in range(3):
            sent = {**(headers or {}), **({"Authorization": value} if value else {})}
            with self._transport.request(method, url, sent) as answer:
                if answer.status != 401 or attempt == 2:
                    yield answer
                    return
                challenges = answer.headers("WWW-Authenticate")
            value = self._auth.answer(registry, repository, challenges, value)

    def _expect(self, answer: Response, reference: Reference, what: str) -> None:
        if answer.status == 200:
            return
        if answer.status == 404:
            raise RegistryNotFound(f"{reference}: the registry has no such {what}", hint="check the name and the tag")
        if answer.status in (401, 403):
            raise RegistryUnauthorized(f"{reference.registry} refuses to show {reference.repository}", hint=LOGIN_HINT)
        raise RegistryProtocolError(f"{reference}: the registry answers {answer.status} for its {what}")

    def _base(self, registry: str) -> str:
        """https, or http for hosts that may: asked once which of both they speak."""
        host = endpoint(registry)
        if not self._transport.plain_allowed(host):
            return f"https://{host}"
        with self._lock:
            known = self._schemes.get(host)
            if known is None:
                known = self._schemes[host] = self._scheme(host)
        return f"{known}://{host}"

    def _scheme(self, host: str) -> str:
        try:
            with self._transport.request("GET", f"http://{host}/v2/") as answer:
                return "https" if answer.status == 400 else "http"
        except RegistryUnreachable:
            try:
                with self._transport.request("GET", f"https://{host}/v2/", retry=False):
                    return "https"
            except (RegistryUnreachable, RegistryProtocolError):
                pass
            raise


def _stated(reference: Reference, text: str) -> Digest:
    try:
        return parse_digest(text)
    except InvalidDigest as error:
        raise RegistryProtocolError(f"{reference}: the registry's Docker-Content-Digest is no digest") from error


def _verify(reference: Reference, digest: Digest, raw: bytes) -> None:
    algorithm = digest.partition(":")[0]
    if f"{algorithm}:{hashlib.new(algorithm, raw).hexdigest()}" != digest:
        raise RegistryProtocolError(f"{reference}: the registry sent other bytes than {digest}")
