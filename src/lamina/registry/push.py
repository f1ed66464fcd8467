"""Push (distribution specification 1.1): blobs first, then what names them. What the registry has is not sent again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal

from lamina.oci.digest import Digest, parse_digest
from lamina.oci.manifest import Descriptor
from lamina.oci.reference import Reference
from lamina.registry.auth import scope
from lamina.registry.errors import RegistryNotFound, RegistryProtocolError, RegistryUnreachable, RegistryUnsupported
from lamina.registry.session import Session, expect
from lamina.registry.transport import TRANSIENT, Response, come_back_later

_SMALL = 1 << 20  # bytes that go in one PUT; more is sent so that it can be continued
_MAX_MOUNTS = 3  # repositories that are tried
_WRITE = "pull,push"

Outcome = Literal["there", "mounted", "sent"]
Pieces = Callable[[], Iterable[bytes]]
"""A blob's bytes from the beginning; asked for again when an upload is continued."""


class Publisher:
    """Thread-safe. `chunk`: the most bytes of one PATCH (0: a blob in one, as docker does)."""

    def __init__(self, session: Session, *, chunk: int = 0) -> None:
        self.session = session
        self._chunk = chunk

    def has_blob(self, reference: Reference, digest: Digest) -> bool:
        with self.session.ask("HEAD", reference, f"blobs/{digest}", actions=_WRITE) as answer:
            if answer.status == 404:
                return False
            expect(answer, reference, f"blob {digest}", writing=True)
            return True

    def manifest_digest(self, reference: Reference, accept: str) -> Digest | None:
        """What the tag (or digest) names in the registry now; None when it names nothing or the registry does not say."""
        with self.session.ask(
            "HEAD", reference, f"manifests/{reference.digest or reference.tag}", {"Accept": accept}, actions=_WRITE
        ) as answer:
            stated = answer.header("Docker-Content-Digest")
            return parse_digest(stated) if answer.status == 200 and stated else None

    def push_blob(
        self,
        reference: Reference,
        descriptor: Descriptor,
        pieces: Pieces,
        *,
        mount_from: Sequence[str] = (),
        known_absent: bool = False,
        on_bytes: Callable[[int], None] | None = None,
    ) -> Outcome:
        """The blob into the reference's repository. `mount_from`: repositories of the same registry that may have it.

        The bytes are hashed while they are sent: other ones than the descriptor's end in RegistryProtocolError and are not stored. Raises
        RegistryUnauthorized, RegistryUnreachable.
        """
        digest = descriptor.digest
        if not known_absent and self.has_blob(reference, digest):
            return "there"
        location = ""
        for repository in [each for each in mount_from if each != reference.repository][:_MAX_MOUNTS]:
            location = self._mount(reference, digest, repository)
            if not location:
                return "mounted"
        upload = _Upload(self.session, reference, descriptor, pieces, self._chunk, on_bytes)
        attempt = 0
        while True:
            try:
                upload.run(location or self._begin(reference))
                return "sent"
            except _Lost as lost:
                attempt += 1
                if not self.session.transport.pause(attempt, lost.asked):
                    raise
                location = ""
            # It may have been completed by a request whose answer was lost.
            if self.has_blob(reference, digest):
                return "sent"

    def put_manifest(self, reference: Reference, raw: bytes, media_type: str) -> Digest:
        """Under the reference's tag, else under its digest. Returns the digest; raises when the registry states another one."""
        return self._put(reference, raw, media_type)[0]

    def put_referrer(self, reference: Reference, raw: bytes, media_type: str, subject: Digest, entry: Descriptor) -> Digest:
        """A manifest that has a `subject`. Where the registry does not list referrers itself, the fallback tag's index gets `entry`."""
        digest, stated = self._put(reference, raw, media_type)
        if stated != subject:
            from lamina.registry.referrers import add_to_fallback

            add_to_fallback(self, reference, subject, entry)
        return digest

    def _put(self, reference: Reference, raw: bytes, media_type: str) -> tuple[Digest, str]:
        digest = _digest_like(reference.digest, raw)
        if reference.digest and digest != reference.digest:
            raise RegistryProtocolError(f"{reference}: the manifest has the digest {digest}")
        headers = {"Content-Type": media_type}
        path = f"manifests/{reference.tag or digest}"
        with self.session.ask("PUT", reference, path, headers, actions=_WRITE, body=raw) as answer:
            expect(answer, reference, "manifest", 200, 201, 202, writing=True)
            stated, subject = answer.header("Docker-Content-Digest"), answer.header("OCI-Subject")
        if stated and stated != digest and stated.startswith("sha256:"):
            raise RegistryProtocolError(f"{reference}: the registry took the manifest as {stated}; it is {digest}")
        return digest, subject

    def delete(self, reference: Reference) -> None:
        """A manifest by digest, or a tag where the registry can delete tags alone."""
        wanted = reference.digest or reference.tag or "latest"
        with self.session.ask("DELETE", reference, f"manifests/{wanted}", actions="pull,push,delete") as answer:
            if answer.status == 404:
                raise RegistryNotFound(f"{reference}: there is nothing to delete")
            if answer.status == 405 or (answer.status == 400 and not reference.digest):
                raise RegistryUnsupported(
                    f"{reference.registry} does not delete {'manifests' if reference.digest else 'tags'}",
                    hint=None if reference.digest else "name the manifest by its digest",
                )
            expect(answer, reference, "manifest", 200, 202, 204, writing=True)

    def delete_blob(self, reference: Reference, digest: Digest) -> None:
        """Idempotent."""
        with self.session.ask("DELETE", reference, f"blobs/{digest}", actions="pull,push,delete") as answer:
            if answer.status == 405:
                raise RegistryUnsupported(f"{reference.registry} does not delete blobs")
            expect(answer, reference, f"blob {digest}", 200, 202, 204, 404, writing=True)

    def _begin(self, reference: Reference) -> str:
        with self.session.ask("POST", reference, "blobs/uploads/", actions=_WRITE, body=b"") as answer:
            expect(answer, reference, "upload", 202, writing=True)
            return self.session.absolute(answer, answer.header("Location"), reference)

    def _mount(self, reference: Reference, digest: Digest, repository: str) -> str:
        """Empty when it is mounted; else the upload that the registry has begun instead."""
        path = f"blobs/uploads/?mount={digest}&from={repository}"
        with self.session.ask("POST", reference, path, actions=_WRITE, also=(scope(repository),), body=b"") as answer:
            if answer.status == 201:
                return ""
            if answer.status != 202:
                return self._begin(reference)  # a registry that knows no mounting, or does not let us read there
            return self.session.absolute(answer, answer.header("Location"), reference)


class _Lost(RegistryUnreachable):
    """The upload cannot be continued; another one may succeed. `asked`: the Retry-After that came with it."""

    asked = ""


class _Upload:
    """One blob on its way: where the registry wants the next byte, and what it has."""

    def __init__(
        self,
        session: Session,
        reference: Reference,
        descriptor: Descriptor,
        pieces: Pieces,
        chunk: int,
        on_bytes: Callable[[int], None] | None,
    ) -> None:
        self._session = session
        self._reference = reference
        self._descriptor = descriptor
        self._pieces = pieces
        self._chunk = chunk
        self._on_bytes = on_bytes
        self._reported = 0
        self._url = ""
        self._at = 0

    def run(self, url: str) -> None:
        self._url, self._at = url, 0
        size = self._descriptor.size
        failures = 0
        while size > _SMALL and self._at < size:
            before = self._at
            refused: tuple[int, str] | None = None
            try:
                refused = self._patch(min(size, self._at + self._chunk) if self._chunk else size)
            except _Lost:
                raise
            except RegistryUnreachable as error:
                failures += 1
                if not self._session.transport.pause(failures):
                    raise
                self._ask_where(error)
            if refused:
                failures += 1
                if not self._session.transport.pause(failures, refused[1]):
                    raise come_back_later(self._url, *refused)
                self._ask_where(None)
            if self._at > before:
                failures = 0
        self._finish(size <= _SMALL)

    def _patch(self, end: int) -> tuple[int, str] | None:
        """Bytes up to `end`; (status, Retry-After) when the registry wants to be asked later."""
        start = self._at
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(end - start),
            "Content-Range": f"{start}-{end - 1}",
        }

        def body() -> Iterator[bytes]:
            return self._range(start, end)

        with self._session.follow("PATCH", self._url, self._reference, headers, actions=_WRITE, body=body, retry=False) as answer:
            if answer.status in TRANSIENT:
                return answer.status, answer.header("Retry-After")
            if answer.status == 404:
                raise _Lost(f"{self._reference}: the registry has forgotten the upload of {self._descriptor.digest}")
            if answer.status == 416:  # it has another number of bytes than we think
                self._ask_where(None)
                return None
            expect(answer, self._reference, "upload", 202, 201, 204, writing=True)
            self._at = self._place(answer, end)
            return None

    def _ask_where(self, why: RegistryUnreachable | None) -> None:
        with self._session.follow("GET", self._url, self._reference, actions=_WRITE) as answer:
            if answer.status == 404:
                raise _Lost(
                    why.message if why else f"{self._reference}: the registry has forgotten the upload of {self._descriptor.digest}"
                )
            expect(answer, self._reference, "upload", 204, 200, 202, writing=True)
            self._at = self._place(answer, 0)

    def _place(self, answer: Response, otherwise: int) -> int:
        """Where to go on, by the Range header (0-N: N is the last byte that it has); also takes over a new Location."""
        if answer.header("Location"):
            self._url = self._session.absolute(answer, answer.header("Location"), self._reference)
        text = answer.header("Range").removeprefix("bytes=")
        first, dash, last = text.partition("-")
        if not text:
            return otherwise
        if first != "0" or not dash or not last.isascii() or not last.isdigit() or len(last) > 18:
            raise RegistryProtocolError(f"{self._reference}: the registry has the range {text[:40]!r} of an upload")
        at = int(last) + 1
        if at == 1 and otherwise == 0:
            at = 0  # "0-0" is what registries say of an upload without a byte; sending one byte twice is what is risked
        if at > self._descriptor.size:
            raise RegistryProtocolError(f"{self._reference}: the registry has more bytes of {self._descriptor.digest} than were sent")
        return at

    def _finish(self, whole: bool) -> None:
        digest = self._descriptor.digest
        url = self._url + ("&" if "?" in self._url else "?") + f"digest={digest}"
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(self._descriptor.size if whole else 0)}
        body = b"".join(self._range(0, self._descriptor.size)) if whole else b""
        try:
            with self._session.follow("PUT", url, self._reference, headers, actions=_WRITE, body=body, retry=False) as answer:
                if answer.status in TRANSIENT:
                    lost = _Lost(come_back_later(url, answer.status, answer.header("Retry-After")).message)
                    lost.asked = answer.header("Retry-After")
                    raise lost
                if answer.status == 404:
                    raise _Lost(f"{self._reference}: the registry has forgotten the upload of {digest}")
                expect(answer, self._reference, f"blob {digest}", 201, 204, writing=True)
        except _Lost:
            raise
        except RegistryUnreachable as error:
            raise _Lost(error.message, hint=error.hint) from error

    def _range(self, start: int, end: int) -> Iterator[bytes]:
        """Bytes [start, end) of the blob. All bytes up to `end` are hashed, and the blob's end is checked before it is sent."""
        descriptor = self._descriptor
        algorithm = descriptor.digest.partition(":")[0]
        check = hashlib.new(algorithm)
        at = 0
        for piece in self._pieces():
            check.update(piece)
            begin, at = at, at + len(piece)
            if at > descriptor.size:
                break
            if at == descriptor.size and f"{algorithm}:{check.hexdigest()}" != descriptor.digest:
                break
            view = memoryview(piece)[max(0, start - begin) : max(0, end - begin)]
            if view:
                yield bytes(view) if len(view) < len(piece) else piece
                if self._on_bytes and begin + len(piece) > self._reported:
                    self._on_bytes(min(at, end) - max(self._reported, start))
                    self._reported = min(at, end)
            if at >= end:
                return
        if descriptor.size or f"{algorithm}:{check.hexdigest()}" != descriptor.digest:
            raise RegistryProtocolError(
                f"{self._reference}: the bytes to be sent are not {descriptor.digest}", hint="`lamina check` examines the store"
            )


def _digest_like(like: Digest | None, raw: bytes) -> Digest:
    algorithm = like.partition(":")[0] if like else "sha256"
    return Digest(f"{algorithm}:{hashlib.new(algorithm, raw).hexdigest()}")
