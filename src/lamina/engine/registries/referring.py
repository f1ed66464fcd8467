"""What refers to an image: signatures, attestations, SBOMs. By the referrers API or its fallback tag, and by the tags that cosign makes."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from lamina.engine.images.layout import Layout, descriptor_names
from lamina.oci import typed
from lamina.oci.digest import Digest
from lamina.oci.manifest import OCI_INDEX, OCI_MANIFEST, Descriptor, Index
from lamina.oci.reference import Reference
from lamina.oci.selection import parse_checked
from lamina.oci.unreadable import UNREADABLE
from lamina.registry.client import Document, RegistryClient
from lamina.registry.errors import RegistryNotFound
from lamina.registry.referrers import fallback_tag, referrers

LIMIT = 1000  # of one copy; a list of referrers is whatever its registry says
_SUFFIXES = ("sig", "att", "sbom")  # sha256-HEX.sig and so on: cosign, where it does not use the API


class Referring(msgspec.Struct, frozen=True):
    """`tag`: what it is found by in place of its subject. `entry` describes it in lists of referrers."""

    document: Document
    entry: Descriptor
    tag: str = ""


class _Subject(msgspec.Struct):
    subject: Descriptor | None = None
    artifact_type: str = msgspec.field(default="", name="artifactType")


def in_registry(client: RegistryClient, reference: Reference, subject: Digest) -> Iterator[Referring]:
    """Only what names the subject itself: a list may hold anything."""
    for entry in referrers(client.session, reference, subject):
        document = client.document(Reference(reference.registry, reference.repository, digest=entry.digest))
        if _names(document.raw, subject):
            yield Referring(document, entry if entry.artifact_type else described(document))
    for suffix in _SUFFIXES:
        tag = f"{fallback_tag(subject)}.{suffix}"
        try:
            document = client.document(Reference(reference.registry, reference.repository, tag))
        except RegistryNotFound:
            continue
        yield Referring(document, described(document), tag)


def in_layout(layout: Layout, subject: Digest) -> Iterator[Referring]:
    tags = {f"{fallback_tag(subject)}.{suffix}" for suffix in _SUFFIXES}
    for entry in layout.index.manifests:
        tag = next((name for name in descriptor_names(entry) if name in tags), "")
        if tag or not descriptor_names(entry):
            raw = layout.document(entry)
            if tag or _names(raw, subject):
                value = parse_checked(raw, entry.media_type)
                media_type = value.media_type or (OCI_INDEX if isinstance(value, Index) else OCI_MANIFEST)
                yield Referring(Document(raw, entry.digest, media_type, value), entry, tag)


def described(document: Document) -> Descriptor:
    """With a type, as the specification makes it: where none is stated, the config's."""
    try:
        stated = typed.json(document.raw, type=_Subject).artifact_type
    except UNREADABLE:
        stated = ""
    other = document.media_type if isinstance(document.value, Index) else document.value.config.media_type
    return Descriptor(
        media_type=document.media_type, digest=document.digest, size=len(document.raw), artifact_type=stated or other or "unknown"
    )


def _names(raw: bytes, subject: Digest) -> bool:
    try:
        found = typed.json(raw, type=_Subject).subject
    except UNREADABLE:
        return False
    return found is not None and found.digest == subject
