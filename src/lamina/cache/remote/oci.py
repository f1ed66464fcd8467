"""`oci://registry/repository`: objects in any registry, without extensions. One tag and one small manifest for each object.

A tag is made from the object's name alone and everybody who puts that object puts the same content there, so that tags are in effect
write-once; no index is ever rewritten and none is needed: a key's records share a prefix of their tags. Registries whose tag list knows
`last` answer a prefix in one request; the others (distribution before 3) send all tags, which is then remembered for a few seconds.
Builds do not list: they ask for tags that they can guess (pointers.py).
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import msgspec

from lamina.cache.remote.errors import CacheDenied, CacheError, CacheUnavailable, ObjectGone
from lamina.cache.remote.names import KINDS, checked, checked_prefix, digest_of_blob, kind_of
from lamina.cache.remote.ociform import (
    CONTENT,
    EMBEDDED,
    EMPTY,
    EMPTY_TYPE,
    StoredObject,
    manifest_of,
    name_of,
    tag_of,
    tag_prefix,
    understood,
)
from lamina.cache.remote.parallel import each, small
from lamina.cache.remote.pointers import Found, Pointers
from lamina.cache.remote.protocols import SMALL, Body, Enough, Entry, Stat
from lamina.oci import typed
from lamina.oci.digest import Digest, sha256
from lamina.oci.manifest import OCI_MANIFEST, Descriptor
from lamina.oci.reference import Reference
from lamina.oci.unreadable import UNREADABLE
from lamina.registry.client import MANIFEST_LIMIT, RegistryClient
from lamina.registry.errors import RegistryError, RegistryNotFound, RegistryProtocolError, RegistryUnauthorized, RegistryUnreachable
from lamina.registry.push import Publisher
from lamina.registry.referrers import next_page
from lamina.registry.session import expect

_PAGE = 200
_LIST_LIMIT = 256 << 20
_ATTEMPTS = 5
_SNAPSHOT = 5.0  # seconds


class _Tags(msgspec.Struct):
    tags: list[str] | None = None


class RegistryObjects:
    """See ObjectStore. Deleting removes manifests; the registry's own garbage collection frees the bytes."""

    def __init__(self, client: RegistryClient, reference: Reference, *, now: float | None = None) -> None:
        self._client = client
        self._publisher = Publisher(client.session)
        self._at = Reference(reference.registry, reference.repository)
        self.where = f"oci://{reference.registry}/{reference.repository}"
        self._lock = threading.Lock()
        self._config_lock = threading.Lock()
        self._config_sent = False
        self._ranges = True  # until the registry shows that its tag list knows no `last`
        self._snapshot: set[str] = set()
        self._snapshot_time = -_SNAPSHOT
        self._now = now
        self._pointers = Pointers(self)

    def put(self, name: str, body: Body) -> bool:
        there = self._reference(name)
        with self._border():
            if self._has(there):
                if kind_of(name) == "records":
                    self._pointers.complete(name)
                return False
            if kind_of(name) == "blobs":
                content, data = Descriptor(media_type=CONTENT, digest=_usual_digest(name, body), size=body.size), None
            else:
                data = b"".join(body.pieces())
                if len(data) != body.size:
                    raise CacheError(f"{self.where}: {len(data)} bytes came in place of {body.size}")
                content = Descriptor(media_type=CONTENT, digest=sha256(data), size=len(data))
            pieces = body.pieces if data is None else lambda: (data,)
            for attempt in range(_ATTEMPTS):
                try:
                    if content.size:
                        # What stands in its own manifest, which is not there, is hardly there without it.
                        embedded = data is not None and len(data) <= EMBEDDED
                        self._publisher.push_blob(self._at, content, pieces, known_absent=embedded and not attempt)
                    self._send_config()
                    raw = manifest_of(name, content, data, time.time() if self._now is None else self._now)
                    self._publisher.put_manifest(there, raw, OCI_MANIFEST)
                    if kind_of(name) == "records" and data is not None:
                        self._pointers.publish(name, data, raw)
                    break
                except RegistryProtocolError:
                    # Distribution stumbles over a blob in the moment in which somebody else sends it too.
                    if attempt + 1 == _ATTEMPTS:
                        raise
                    self._config_sent = False
                    time.sleep(0.05 * 2**attempt)
        with self._lock:
            if not self._ranges:
                self._snapshot.add(there.tag or "")
        return True

    def get(self, name: str, limit: int = SMALL) -> bytes | None:
        with self._border():
            found = self._read(checked(name))
            if found is None:
                return None
            if found.content is None:
                return b""
            if found.content.size > limit:
                raise CacheError(f"{self.where}: {name} has more than {limit} bytes")
            if found.data is not None:
                return found.data
            try:
                return b"".join(self._client.stream(self._at, found.content))
            except RegistryNotFound:
                return None

    def stream(self, name: str) -> Iterator[bytes]:
        with self._border():
            found = self._read(checked(name))
            if found is None:
                raise ObjectGone(f"{self.where} has no {name}")
            if found.content is None:
                return
            if found.data is not None:
                yield found.data
                return
            try:
                yield from self._client.stream(self._at, found.content)
            except RegistryNotFound as error:
                raise ObjectGone(f"{self.where} has no {name}") from error

    def gather(self, prefixes: Sequence[str]) -> dict[str, dict[str, bytes]]:
        if self._ranges and len(prefixes) > 1:
            self._tags_below(tag_prefix(prefixes[0]), recent=True)  # shows whether the rest can be asked for side by side
        tags = each(lambda prefix: self._tags_below(tag_prefix(checked_prefix(prefix)), recent=True), prefixes)
        wanted = [(prefix, tag) for prefix, found in zip(prefixes, tags) for tag in found]
        gathered: dict[str, dict[str, bytes]] = {}
        with self._border():
            for (prefix, _), found in zip(wanted, each(lambda pair: self._object(pair[1]), wanted)):
                if found is not None and found.name.startswith(prefix):
                    data = found.data if found.data is not None else small(self, found.name)
                    if data is not None:
                        gathered.setdefault(prefix, {})[found.name] = data
        return gathered

    def first(self, prefixes: Sequence[str], scopes: Sequence[str], enough: Enough, *, others: bool) -> dict[str, dict[str, bytes]]:
        with self._border():
            found = self._pointers.first([checked_prefix(prefix) for prefix in prefixes], scopes, enough, others=others)
        listed = self.gather([prefix for prefix, records in found.items() if records is None])
        return listed | {prefix: records for prefix, records in found.items() if records}

    def latest(self, places: Sequence[str], scopes: Sequence[str]) -> list[dict[str, bytes]]:
        with self._border():
            return self._pointers.latest([checked_prefix(place) for place in places], scopes)

    def complete(self, names: Collection[str]) -> None:
        with self._border():
            each(self._pointers.complete, [checked(name) for name in names])

    def exists(self, names: Collection[str]) -> set[str]:
        listed = [checked(name) for name in names]
        with self._border():
            return {name for name, there in zip(listed, each(lambda name: self._has(self._reference(name)), listed)) if there}

    def stat(self, names: Collection[str]) -> dict[str, Stat]:
        with self._border():
            found = each(self._read, [checked(name) for name in names])
        return {one.name: one.stat for one in found if one is not None}

    def list(self, prefix: str) -> Iterator[Entry]:
        checked_prefix(prefix)
        if not prefix:
            for kind in KINDS:
                yield from self.list(f"{kind}/")
            return
        tags = self._tags_below(tag_prefix(prefix), recent=False)
        plain = {tag: name_of(tag) for tag in tags}
        for name in plain.values():
            if name is not None and name.startswith(prefix):
                yield Entry(name)
        hidden = [tag for tag, name in plain.items() if name is None]
        for start in range(0, len(hidden), 256):
            with self._border():
                objects = each(self._object, hidden[start : start + 256])
            for found in objects:
                if found is not None and found.name.startswith(prefix):
                    yield Entry(found.name, found.stat.size + found.stat.overhead, found.stat.modified)

    def delete(self, names: Collection[str]) -> None:
        def one(name: str) -> None:
            there = self._reference(name)
            digest = self._publisher.manifest_digest(there, OCI_MANIFEST)
            if digest is not None:
                self._delete_manifest(digest)
            with self._lock:
                self._snapshot.discard(there.tag or "")

        records = [checked(name) for name in names if kind_of(name) == "records"]
        with self._border():
            also = self._pointers.leave(records) if records else ()
            each(one, [checked(name) for name in names])
            each(self._delete_manifest, also)
            if records:
                self._pointers.left(records)

    def sweep(self, older_than: float) -> int:
        """Uploads that were begun and left are the registry's to forget."""
        return 0

    def close(self) -> None:
        pass

    def _delete_manifest(self, digest: Digest) -> None:
        try:
            self._publisher.delete(Reference(self._at.registry, self._at.repository, None, digest))
        except RegistryNotFound:
            pass

    # What Pointers needs.

    def read_tag(self, tag: str, fits: Callable[[str], bool]) -> Found | None:
        raw = self._raw(tag)
        if raw is None:
            return None
        found = understood(raw, fits)
        return Found(sha256(raw), raw) if found is None else Found(found.digest, raw, found.name, found.data, found.stat.modified)

    def write_tag(self, tag: str, raw: bytes) -> None:
        """A registry that does not let tags be moved keeps what it has: that is as good."""
        there = Reference(self._at.registry, self._at.repository, tag)
        try:
            self._publisher.put_manifest(there, raw, OCI_MANIFEST)
        except RegistryProtocolError:
            if not self._has(there):
                raise

    def has_tag(self, tag: str) -> bool:
        return self._has(Reference(self._at.registry, self._at.repository, tag))

    def record_tags(self, key: str, *, recent: bool) -> Sequence[str]:
        return self._tags_below(f"r.{key}.", recent=recent)

    def small(self, found: Found) -> bytes | None:
        return found.data if found.data is not None else small(self, found.name)

    def _reference(self, name: str) -> Reference:
        return Reference(self._at.registry, self._at.repository, tag_of(name))

    def _has(self, there: Reference) -> bool:
        with self._client.session.ask("HEAD", there, f"manifests/{there.tag}", {"Accept": OCI_MANIFEST}) as answer:
            if answer.status == 404:
                return False
            expect(answer, there, "tag")
            return True

    def _send_config(self) -> None:
        """The two bytes that every manifest names as its config."""
        with self._config_lock:
            if not self._config_sent:
                config = Descriptor(media_type=EMPTY_TYPE, digest=sha256(EMPTY), size=len(EMPTY))
                self._publisher.push_blob(self._at, config, lambda: (EMPTY,))
                self._config_sent = True

    def _read(self, name: str) -> StoredObject | None:
        found = self._object(tag_of(name))
        return found if found is not None and found.name == name else None

    def _object(self, tag: str) -> StoredObject | None:
        """None for a tag that is gone, or none of ours."""
        raw = self._raw(tag)
        return None if raw is None else understood(raw, lambda name: tag_of(name) == tag)

    def _raw(self, tag: str) -> bytes | None:
        there = Reference(self._at.registry, self._at.repository, tag)

        def ask() -> bytes | None:
            with self._client.session.ask("GET", there, f"manifests/{tag}", {"Accept": OCI_MANIFEST}) as answer:
                if answer.status == 404:
                    return None
                expect(answer, there, "manifest")
                return answer.read(MANIFEST_LIMIT)

        return self._client.session.transport.whole(ask)

    def _tags_below(self, prefix: str, *, recent: bool) -> Sequence[str]:
        """Tags that begin with `prefix`. `recent`: a list of all tags that is a few seconds old will do."""
        with self._border():
            if self._ranges:
                found = self._range(prefix)
                if found is not None:
                    return found
                self._ranges = False
            with self._lock:
                if not recent or time.monotonic() - self._snapshot_time >= _SNAPSHOT:
                    self._snapshot = set(self._all())
                    self._snapshot_time = time.monotonic()
                return [tag for tag in self._snapshot if tag.startswith(prefix)]

    def _range(self, prefix: str) -> Sequence[str] | None:
        """None when the registry does not keep to `n` and `last`."""
        found: list[str] = []
        last = prefix[:-1]
        while True:
            page, _ = self._page(f"tags/list?n={_PAGE}&last={last}")
            if len(page) > _PAGE or any(tag <= last for tag in page) or any(one > two for one, two in pairwise(page)):
                return None
            found += [tag for tag in page if tag.startswith(prefix)]
            if len(page) < _PAGE or not page[-1].startswith(prefix):
                return found
            last = page[-1]

    def _all(self) -> Sequence[str]:
        found: dict[str, None] = {}
        path = "tags/list"
        while path:
            page, path = self._page(path)
            before = len(found)
            found.update(dict.fromkeys(page))
            if len(found) == before:
                break  # a page without anything new: the registry's pages run in a circle
        return list(found)

    def _page(self, path: str) -> tuple[Sequence[str], str]:
        """(tags, path of the next page or nothing)."""

        def ask() -> tuple[bytes, str]:
            with self._client.session.ask("GET", self._at, path) as answer:
                if answer.status == 404:
                    return b"{}", ""  # nobody has put anything into the repository
                expect(answer, self._at, "list of tags")
                return answer.read(_LIST_LIMIT), answer.header("Link")

        raw, link = self._client.session.transport.whole(ask)
        try:
            tags = typed.json(raw, type=_Tags).tags or []
        except UNREADABLE as error:
            raise CacheError(f"{self.where}: the list of tags cannot be read") from error
        query = next_page(link).partition("?")[2]
        return [tag for tag in tags if tag.isascii()], f"tags/list?{query}" if query else ""

    @contextmanager
    def _border(self) -> Iterator[None]:
        """The registry's errors become ours."""
        try:
            yield
        except RegistryUnreachable as error:
            raise CacheUnavailable(error.message, hint=error.hint) from error
        except RegistryUnauthorized as error:
            raise CacheDenied(error.message, hint=error.hint) from error
        except RegistryError as error:
            raise CacheError(error.message, hint=error.hint) from error


def _usual_digest(name: str, body: Body) -> Digest:
    """sha256 also of a blob with another name: registries that take no other digest are many."""
    digest = digest_of_blob(name)
    if digest.startswith("sha256:"):
        return digest
    found = hashlib.sha256()
    for piece in body.pieces():
        found.update(piece)
    return Digest(f"sha256:{found.hexdigest()}")
