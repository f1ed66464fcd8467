"""Choosing from an index, and believing what a document says about other bytes only as far as it can be checked. Pure."""

from __future__ import annotations

from lamina.oci.digest import InvalidDigest, parse_digest
from lamina.oci.manifest import Descriptor, Index, InvalidDocument, Manifest, parse_document
from lamina.oci.platform import Platform, best


def parse_checked(raw: bytes, media_type: str = "") -> Manifest | Index:
    """As parse_document, and every digest is one, every size a size. Raises InvalidDocument only."""
    try:
        document = parse_document(raw, media_type)
    except RecursionError as error:
        raise InvalidDocument("not a manifest: nested too deeply") from error
    named = document.manifests if isinstance(document, Index) else (document.config, *document.layers)
    for descriptor in named:
        try:
            parse_digest(descriptor.digest)
        except InvalidDigest as error:
            raise InvalidDocument(f"not a manifest: {error.message}") from error
        if descriptor.size < 0:
            raise InvalidDocument(f"not a manifest: {descriptor.digest} has the size {descriptor.size}")
    return document


def is_image(descriptor: Descriptor) -> bool:
    """Not an attestation or other artifact that stands beside the images of an index."""
    if descriptor.artifact_type or "vnd.docker.reference.type" in (descriptor.annotations or {}):
        return False
    return descriptor.platform is None or descriptor.platform.os != "unknown"


def choose(index: Index, wanted: Platform) -> Descriptor | None:
    """The entry that fits `wanted` best; without a platform that fits, the only entry that states none. None when nothing fits."""
    images = [d for d in index.manifests if is_image(d)]
    at = best(wanted, [d.platform.value if d.platform else None for d in images])
    if at is not None:
        return images[at]
    open_ended = [d for d in images if d.platform is None]
    return open_ended[0] if len(open_ended) == 1 else None


def offered(index: Index) -> tuple[str, ...]:
    """The platforms that an index names, for messages."""
    return tuple(dict.fromkeys(str(d.platform.value) for d in index.manifests if d.platform and is_image(d)))
