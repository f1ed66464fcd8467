"""An object as a registry holds it: the tag that its name becomes, and the small manifest behind the tag. Pure.

The object's bytes are the manifest's one layer; where they are few they stand in the manifest too, and cost one request.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec

from lamina.cache.remote.names import checked, checked_prefix, digest_of_blob, kind_of, known
from lamina.cache.remote.pointers import own_tag, short_scope
from lamina.cache.remote.protocols import Stat
from lamina.oci import typed
from lamina.oci.canonical import canonical
from lamina.oci.digest import Digest, InvalidDigest, parse_digest, sha256
from lamina.oci.manifest import OCI_MANIFEST, Descriptor
from lamina.oci.unreadable import UNREADABLE

_NAME = "org.lamina.cache.object"  # annotation: the object's name
_CREATED = "org.opencontainers.image.created"
_KIND = "application/vnd.lamina.cache.%s.v1"
CONTENT = "application/vnd.lamina.cache.object.v1"
EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
EMPTY = b"{}"
EMBEDDED = 64 << 10  # bytes; smaller objects stand in their manifest too and cost one request
_LETTERS = {"r": "records", "b": "blobs", "u": "uses", "p": "places", "c": "chunks", "m": "mounts"}


class _Part(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, rename={"media_type": "mediaType"}):
    media_type: str
    digest: str
    size: int
    data: str | None = None


class _Manifest(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    rename={"schema_version": "schemaVersion", "media_type": "mediaType", "artifact_type": "artifactType"},
):
    schema_version: int
    media_type: str
    artifact_type: str = ""
    config: _Part
    layers: tuple[_Part, ...]
    annotations: dict[str, str] = {}


class StoredObject(msgspec.Struct, frozen=True):
    """A manifest that was read."""

    name: str
    content: Descriptor | None  # None: the object has no bytes
    data: bytes | None  # when they stand in the manifest, verified
    stat: Stat
    digest: Digest


def manifest_of(name: str, content: Descriptor, data: bytes | None, now: float) -> bytes:
    """The manifest of an object that is made now (seconds since the epoch). `data`: its bytes where they are small enough to be at hand."""
    empty = _Part(media_type=EMPTY_TYPE, digest=sha256(EMPTY), size=len(EMPTY), data=base64.b64encode(EMPTY).decode())
    embedded = base64.b64encode(data).decode() if data is not None and len(data) <= EMBEDDED else None
    layer = _Part(media_type=content.media_type, digest=content.digest, size=content.size, data=embedded) if content.size else empty
    created = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return canonical(
        _Manifest(
            schema_version=2,
            media_type=OCI_MANIFEST,
            artifact_type=_KIND % kind_of(name),
            config=empty,
            layers=(layer,),
            annotations={_NAME: name, _CREATED: created},
        )
    )


def understood(raw: bytes, fits: Callable[[str], bool]) -> StoredObject | None:
    """What a manifest says; None where it is none of ours, or of an object whose name does not fit."""
    try:
        manifest = typed.json(raw, type=_Manifest)
        name = manifest.annotations.get(_NAME, "")
        if not known(name) or not fits(name) or len(manifest.layers) != 1:
            return None
        return _parsed(name, manifest, raw)
    except (*UNREADABLE, InvalidDigest, ValueError):
        return None


def _parsed(name: str, manifest: _Manifest, raw: bytes) -> StoredObject:
    layer = manifest.layers[0]
    modified = datetime.fromisoformat(manifest.annotations.get(_CREATED, "")).timestamp()
    if layer.media_type == EMPTY_TYPE:
        return StoredObject(name, None, None, Stat(0, modified, len(raw)), sha256(raw))
    if layer.size < 0:
        raise ValueError("a negative size")
    content = Descriptor(media_type=layer.media_type, digest=parse_digest(layer.digest), size=layer.size)
    if name.startswith("blobs/sha256/") and content.digest != digest_of_blob(name):
        raise ValueError("another blob than its name says")
    data = base64.b64decode(layer.data, validate=True) if layer.data is not None else None
    if data is not None and sha256(data) != layer.digest:
        raise ValueError("other bytes than their digest says")
    return StoredObject(name, content, data, Stat(layer.size, modified, len(raw)), sha256(raw))


def tag_of(name: str) -> str:
    """At most 128 characters; names that share a prefix of components share one here."""
    parts = checked(name).split("/")
    if parts[0] == "records":
        return own_tag(name)
    if parts[0] == "blobs":
        return f"b.{parts[1]}.{parts[2][:100]}"
    if parts[0] == "mounts":
        return f"m.{parts[1]}.{short_scope(parts[2])}.{parts[3]}"
    return f"{parts[0][0]}.{'.'.join(parts[1:])}"


def tag_prefix(prefix: str) -> str:
    """What the tags of all names below `prefix` begin with."""
    parts = checked_prefix(prefix).split("/")[:-1]
    letter = parts[0][0]
    if parts[0] in ("records", "mounts"):
        return ".".join((letter, *(part[-40:] for part in parts[1:2]), *(short_scope(part) for part in parts[2:]))) + "."
    return ".".join((letter, *parts[1:])) + "."


def name_of(tag: str) -> str | None:
    """The name, where the tag tells it; records and the longest digests stand in their manifests only."""
    letter, _, rest = tag.partition(".")
    if letter not in _LETTERS or letter in "rm":
        return None
    name = f"{_LETTERS[letter]}/{rest.replace('.', '/')}"
    return name if known(name) else None
