"""Manifests, indexes and descriptors (OCI image spec 1.1; docker's schema 2 is the same shape). Raw bytes are kept by whoever fetched them."""

from __future__ import annotations

import msgspec

from lamina.diagnostics.errors import LaminaError
from lamina.oci import typed
from lamina.oci.digest import Digest
from lamina.oci.platform import Platform
from lamina.oci.unreadable import UNREADABLE

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_LAYER_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"


class InvalidDocument(LaminaError):
    """A manifest, index or config that is not what the spec says; the message names the field."""

    code = "oci/invalid-document"


class PlatformDocument(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    architecture: str = ""
    os: str = ""
    variant: str = ""
    os_version: str = msgspec.field(default="", name="os.version")

    @property
    def value(self) -> Platform:
        return Platform(self.os, self.architecture, self.variant, self.os_version)


class Descriptor(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """(media type, digest, size) of stored bytes."""

    media_type: str = msgspec.field(default="", name="mediaType")
    digest: Digest
    size: int
    urls: tuple[str, ...] | None = None
    annotations: dict[str, str] | None = None
    platform: PlatformDocument | None = None
    artifact_type: str | None = msgspec.field(default=None, name="artifactType")


class Manifest(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    schema_version: int = msgspec.field(name="schemaVersion")
    media_type: str = msgspec.field(default="", name="mediaType")
    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: dict[str, str] | None = None


class Index(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    schema_version: int = msgspec.field(name="schemaVersion")
    media_type: str = msgspec.field(default="", name="mediaType")
    manifests: tuple[Descriptor, ...]
    annotations: dict[str, str] | None = None


class _Probe(msgspec.Struct):
    media_type: str = msgspec.field(default="", name="mediaType")
    manifests: object = None
    layers: object = None


def parse_document(raw: bytes, media_type: str = "") -> Manifest | Index:
    """A manifest or index, told apart by its own mediaType, then by `media_type`, then by its shape. Raises InvalidDocument."""
    try:
        probe = typed.json(raw, type=_Probe)
        kind = probe.media_type or media_type
        if probe.manifests is not None and probe.layers is not None:
            raise InvalidDocument("the document is a manifest and an index at once")
        listed = kind in (OCI_INDEX, DOCKER_LIST) or (kind not in (OCI_MANIFEST, DOCKER_MANIFEST) and probe.manifests is not None)
        document: Manifest | Index = typed.json(raw, type=Index) if listed else typed.json(raw, type=Manifest)
    except UNREADABLE as error:
        raise InvalidDocument(f"not a manifest: {error}") from error
    if document.schema_version != 2:
        raise InvalidDocument(f"a manifest of schema version {document.schema_version}; only 2 is known")
    if not document.media_type and media_type:
        document = msgspec.structs.replace(document, media_type=media_type)
    return document


def encode_manifest(document: Manifest | Index) -> bytes:
    """The bytes whose sha256 is the manifest's digest."""
    return msgspec.json.encode(document)
