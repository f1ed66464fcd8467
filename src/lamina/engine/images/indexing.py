"""The index over the images of several platforms, and over one image with attestations: what a registry or a layout is given under the name."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from lamina.oci.digest import sha256
from lamina.oci.manifest import OCI_INDEX, Descriptor, Index, PlatformDocument, encode_manifest


class IndexEntry(msgspec.Struct, frozen=True):
    """One image's manifest as it leaves. `platform`: fields as the image spec has them."""

    raw: bytes
    media_type: str
    platform: dict[str, str]


def index_over(images: Sequence[IndexEntry], beside: Sequence[Descriptor] = ()) -> bytes:
    """The index's bytes: images in their order, then what stands `beside` them."""
    entries = [
        Descriptor(
            media_type=image.media_type,
            digest=sha256(image.raw),
            size=len(image.raw),
            platform=PlatformDocument(
                architecture=image.platform.get("architecture", ""),
                os=image.platform.get("os", "linux"),
                variant=image.platform.get("variant", ""),
            ),
        )
        for image in images
    ]
    return encode_manifest(Index(schema_version=2, media_type=OCI_INDEX, manifests=(*entries, *beside)))
