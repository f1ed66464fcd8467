"""Attestations beside an image, as BuildKit attaches them: a manifest in the same index whose layers are in-toto statements and whose
annotations name the image's manifest (moby/buildkit, docs/attestations/attestation-storage.md)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from lamina.oci.canonical import canonical
from lamina.oci.digest import Digest, sha256
from lamina.oci.manifest import OCI_CONFIG, OCI_MANIFEST, Descriptor, Manifest, PlatformDocument, encode_manifest
from lamina.store.refs import Image

IN_TOTO = "application/vnd.in-toto+json"


class Statement(msgspec.Struct, frozen=True):
    predicate_type: str
    raw: bytes  # a whole in-toto statement


class Attached(msgspec.Struct, frozen=True):
    """`descriptor` goes into the index; the manifest `raw` names `blobs`."""

    descriptor: Descriptor
    raw: bytes
    blobs: tuple[tuple[Descriptor, bytes], ...]


Attest = Callable[[Image, Digest], Attached | None]
"""What goes beside an image that leaves with this manifest; None for nothing."""


def attach(manifest: Digest, statements: Sequence[Statement]) -> Attached:
    layers = tuple(
        Descriptor(
            media_type=IN_TOTO,
            digest=sha256(each.raw),
            size=len(each.raw),
            annotations={"in-toto.io/predicate-type": each.predicate_type},
        )
        for each in statements
    )
    unknown = PlatformDocument(architecture="unknown", os="unknown")
    config = canonical(
        {
            "architecture": "unknown",
            "os": "unknown",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in layers]},
        }
    )
    head = Descriptor(media_type=OCI_CONFIG, digest=sha256(config), size=len(config))
    raw = encode_manifest(Manifest(schema_version=2, media_type=OCI_MANIFEST, config=head, layers=layers))
    entry = Descriptor(
        media_type=OCI_MANIFEST,
        digest=sha256(raw),
        size=len(raw),
        platform=unknown,
        annotations={"vnd.docker.reference.digest": manifest, "vnd.docker.reference.type": "attestation-manifest"},
    )
    return Attached(entry, raw, ((head, config), *((layer, each.raw) for layer, each in zip(layers, statements))))
