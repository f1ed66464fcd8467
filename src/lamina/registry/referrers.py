"""Listing: the tags of a repository, and what refers to a manifest (signatures, SBOMs), with the specification's fallback tag."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec

from lamina.diagnostics.errors import LaminaError
from lamina.oci import typed
from lamina.oci.digest import Digest
from lamina.oci.manifest import OCI_INDEX, Descriptor, Index, encode_manifest
from lamina.oci.reference import Reference
from lamina.oci.selection import parse_checked
from lamina.oci.unreadable import UNREADABLE
from lamina.registry.errors import RegistryProtocolError
from lamina.registry.session import Session, expect

if TYPE_CHECKING:
    from lamina.registry.push import Publisher

_LIMIT = 4 << 20  # bytes of one page
_MAX_PAGES = 10_000
_NEXT = re.compile(r'<([^>]*)>\s*;(?:[^,]*;)?\s*rel="?next"?')


class _Tags(msgspec.Struct):
    tags: list[str] | None = None


def tags(session: Session, reference: Reference, *, page: int = 1000) -> tuple[str, ...]:
    """All tags of the repository in the registry's order. Raises RegistryNotFound, RegistryUnauthorized."""
    found: list[str] = []
    for raw in _pages(session, reference, f"tags/list?n={page}", "list of tags"):
        try:
            found.extend(typed.json(raw, type=_Tags).tags or ())
        except UNREADABLE as error:
            raise RegistryProtocolError(f"{reference.name}: the list of tags cannot be read") from error
    return tuple(dict.fromkeys(found))


def referrers(session: Session, reference: Reference, subject: Digest, artifact_type: str = "") -> tuple[Descriptor, ...]:
    """What refers to `subject`, of one artifact type or of all. By the API, else by the tag that stands in for it."""
    query = f"?artifactType={artifact_type}" if artifact_type else ""
    found: list[Descriptor] = []
    with session.ask("GET", reference, f"referrers/{subject}{query}", {"Accept": OCI_INDEX}) as answer:
        known = answer.status == 200 and answer.header("Content-Type").split(";")[0].strip() == OCI_INDEX
    if known:
        for raw in _pages(session, reference, f"referrers/{subject}{query}", "list of referrers"):
            found.extend(_index(reference, raw).manifests)
    else:
        found.extend(_fallback(session, reference, subject).manifests)
    return tuple(d for d in found if not artifact_type or d.artifact_type == artifact_type)


def fallback_tag(subject: Digest) -> str:
    """The tag of the specification's "Referrers Tag Schema"."""
    algorithm, _, text = subject.partition(":")
    return f"{algorithm[:32]}-{text[:64]}"


def add_to_fallback(publisher: Publisher, reference: Reference, subject: Digest, entry: Descriptor) -> None:
    """`entry` into the fallback tag's index, once. Two writers at once may lose one entry: the specification's tag has no lock."""
    before = _fallback(publisher.session, reference, subject)
    if any(d.digest == entry.digest for d in before.manifests):
        return
    index = Index(schema_version=2, media_type=OCI_INDEX, manifests=(*before.manifests, entry))
    there = Reference(reference.registry, reference.repository, fallback_tag(subject))
    publisher.put_manifest(there, encode_manifest(index), OCI_INDEX)


def next_page(link: str) -> str:
    """The address of the page behind this one, as the Link header has it, often without a host; "" where there is none."""
    found = _NEXT.search(link)
    return found[1] if found else ""


def _fallback(session: Session, reference: Reference, subject: Digest) -> Index:
    with session.ask("GET", reference, f"manifests/{fallback_tag(subject)}", {"Accept": OCI_INDEX}) as answer:
        if answer.status == 404:
            return Index(schema_version=2, media_type=OCI_INDEX, manifests=())
        expect(answer, reference, "list of referrers")
        return _index(reference, answer.read(_LIMIT))


def _index(reference: Reference, raw: bytes) -> Index:
    try:
        value = parse_checked(raw, OCI_INDEX)
    except LaminaError as error:
        raise RegistryProtocolError(f"{reference.name}: the list of referrers: {error.message}") from error
    if not isinstance(value, Index):
        raise RegistryProtocolError(f"{reference.name}: the list of referrers is no index")
    return value


def _pages(session: Session, reference: Reference, path: str, what: str) -> Iterator[bytes]:
    """The bodies of a paginated answer, by its Link headers. A page that comes again ends in an error."""
    seen: set[str] = set()
    url = f"{session.base(reference.registry)}/v2/{reference.repository}/{path}"
    while url:
        if url in seen or len(seen) >= _MAX_PAGES:
            raise RegistryProtocolError(f"{reference.name}: the pages of the {what} have no end")
        seen.add(url)
        with session.follow("GET", url, reference, actions="pull") as answer:
            expect(answer, reference, what)
            yield answer.read(_LIMIT)
            following = next_page(answer.header("Link"))
            url = session.absolute(answer, following, reference) if following else ""
