"""Reading an OCI image layout (image spec, image-layout.md), in a directory or inside an archive."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import partial
from typing import BinaryIO

from lamina.engine.images.errors import BadArchive, ImageNotFound, UnsupportedImage
from lamina.engine.images.files import Files
from lamina.engine.images.incoming import IncomingImage, ingest_bytes, ingest_exactly
from lamina.engine.images.turns import Turn, in_turns
from lamina.oci.config import ImageConfig, parse_config
from lamina.oci.digest import Digest, InvalidDigest, parse_digest
from lamina.oci.manifest import OCI_MANIFEST, Descriptor, Index, InvalidDocument, Manifest
from lamina.oci.platform import Platform
from lamina.oci.selection import choose, is_image, offered, parse_checked
from lamina.store.protocols import BlobStore

DOCUMENT_LIMIT = 8 << 20
_MAX_NESTING = 3
_FULL_NAME = "io.containerd.image.name"
_REF_NAME = "org.opencontainers.image.ref.name"


class Layout:
    """The index of a layout, read once. Blobs are verified when they are taken over."""

    def __init__(self, files: Files) -> None:
        self.files = files
        raw = files.read("index.json", DOCUMENT_LIMIT)
        if raw is None or files.read("oci-layout", 1 << 16) is None:
            raise BadArchive(f"{files.label} is not an OCI image layout (it has no index.json or no oci-layout)")
        index = _parsed(files, raw, "index.json", "")
        if not isinstance(index, Index):
            raise BadArchive(f"{files.label}: index.json is no index")
        self.index = index

    def names(self) -> tuple[str, ...]:
        """The names that a user can select, as written."""
        return tuple(dict.fromkeys(name for d in self.index.manifests for name in descriptor_names(d)))

    def select(self, tag: str = "", digest: Digest | None = None) -> Descriptor:
        """The one entry that `:tag` or `@digest` means. Without either: the only one, else the one called latest.

        Raises ImageNotFound with what there is.
        """
        entries = self.index.manifests
        if digest:
            found = [d for d in entries if d.digest == digest]
            if not found and (opened := self.files.open(blob_name(digest))) is not None:
                # Below an index the layout does not list it; the digest alone says what it is.
                opened[0].close()
                return Descriptor(media_type="", digest=digest, size=opened[1])
        elif tag:
            found = [d for d in entries if any(n == tag or n.endswith(":" + tag) for n in descriptor_names(d))]
        else:
            images = [d for d in entries if not d.artifact_type]  # others refer to these: signatures, attestations
            found = images if len({d.digest for d in images}) == 1 else []
            found = found or [d for d in entries if any(n == "latest" or n.endswith(":latest") for n in descriptor_names(d))]
        if not found:
            asked = f"no image {digest or tag}" if digest or tag else ("several images and none called latest" if entries else "no images")
            there = ", ".join(self.names()) or ", ".join(d.digest for d in entries)
            raise ImageNotFound(f"{self.files.label} has {asked}", hint=f"it has: {there[:400]}" if there else None)
        return found[0]

    def manifest(self, descriptor: Descriptor, platform: Platform) -> tuple[bytes, Digest, Manifest]:
        """Down from a descriptor through indexes to the manifest for `platform`; each document is verified."""
        for _ in range(_MAX_NESTING + 1):
            raw = self.document(descriptor)
            value = _parsed(self.files, raw, descriptor.digest, descriptor.media_type)
            if isinstance(value, Manifest):
                return raw, descriptor.digest, value
            chosen = choose(value, platform)
            if chosen is None or self._absent(chosen):
                there = [d for d in value.manifests if not self._absent(d) and is_image(d)]
                if len(there) != 1:
                    raise ImageNotFound(
                        f"{self.files.label} has no image for {platform}", hint=f"it has: {', '.join(offered(value)) or 'none'}"
                    )
                chosen = there[0]  # saved with one platform out of many
            descriptor = chosen
        raise BadArchive(f"{self.files.label}: indexes are nested more than {_MAX_NESTING} deep")

    def document(self, descriptor: Descriptor) -> bytes:
        """A small blob, verified against its digest."""
        raw = self.files.read(blob_name(descriptor.digest), DOCUMENT_LIMIT)
        if raw is None:
            raise BadArchive(f"{self.files.label}: blob {descriptor.digest} is missing")
        algorithm = descriptor.digest.partition(":")[0]
        if f"{algorithm}:{hashlib.new(algorithm, raw).hexdigest()}" != descriptor.digest:
            raise BadArchive(f"{self.files.label}: blob {descriptor.digest} is damaged")
        return raw

    def take(self, descriptor: Descriptor, platform: Platform, blobs: BlobStore, names: tuple[str, ...] = ()) -> IncomingImage:
        """One image into `blobs`: layers, config, manifest last."""
        raw, digest, manifest = self.manifest(descriptor, platform)
        check_layers(self.files.label, manifest)
        config = self.document(manifest.config)
        diff_ids = checked_config(config, self.files.label).diff_ids
        if len(diff_ids) != len(manifest.layers):
            raise BadArchive(f"{self.files.label}: the manifest has {len(manifest.layers)} layers, its config {len(diff_ids)}")
        take_blobs(self.files, blobs, [(layer.digest, layer.size, f"layer {layer.digest}") for layer in manifest.layers])
        config_digest = ingest_bytes(blobs, config)
        ingest_bytes(blobs, raw)
        return IncomingImage(raw, digest, manifest.media_type or OCI_MANIFEST, config, config_digest, tuple(manifest.layers), names)

    def _absent(self, descriptor: Descriptor) -> bool:
        opened = self.files.open(blob_name(descriptor.digest))
        if opened is None:
            return True
        opened[0].close()
        return False


def take_blobs(files: Files, blobs: BlobStore, wanted: Iterable[tuple[Digest, int, str]]) -> None:
    """Those of (digest, size, what it is called) that the store lacks, each verified. BadArchive."""

    def take(digest: Digest, size: int, what: str, turn: Turn) -> None:
        def read() -> BinaryIO | None:
            found = files.open(blob_name(digest))
            return None if found is None else found[0]

        ingest_exactly(blobs, read, digest, size, f"{files.label}: {what}", turn)

    listed = {each[0]: each for each in wanted}
    missing = blobs.missing(listed.keys())
    in_turns([partial(take, *each) for digest, each in listed.items() if digest in missing])


def blob_name(digest: Digest) -> str:
    algorithm, _, text = parse_digest(digest).partition(":")
    return f"blobs/{algorithm}/{text}"


def descriptor_names(descriptor: Descriptor) -> tuple[str, ...]:
    """containerd's full name before the specification's ref.name, which most tools use for a bare tag."""
    found = descriptor.annotations or {}
    return tuple(name for name in (found.get(_FULL_NAME), found.get(_REF_NAME)) if name)


def check_layers(label: str, manifest: Manifest) -> None:
    """UnsupportedImage for layers that cannot be applied here."""
    for layer in manifest.layers:
        kind = layer.media_type
        if "foreign" in kind or "nondistributable" in kind:
            raise UnsupportedImage(f"{label} has a layer that only its vendor may hand out ({kind}): it is not an image for Linux")
        if "encrypted" in kind:
            raise UnsupportedImage(f"{label} has an encrypted layer ({kind})")
        if "tar" not in kind:
            raise UnsupportedImage(f"{label} is not a container image: it has a layer of type {kind!r}")


def _parsed(files: Files, raw: bytes, what: str, media_type: str) -> Manifest | Index:
    try:
        return parse_checked(raw, media_type)
    except InvalidDocument as error:
        raise BadArchive(f"{files.label}: {what}: {error.message}") from error


def checked_config(raw: bytes, label: str) -> ImageConfig:
    """An image's config whose diffIDs are digests; BadArchive otherwise."""
    try:
        config = parse_config(raw)
        for diff_id in config.diff_ids:
            parse_digest(diff_id)
    except (InvalidDocument, InvalidDigest) as error:
        raise BadArchive(f"{label}: the image's config: {error.message}") from error
    except RecursionError as error:
        raise BadArchive(f"{label}: the image's config is nested too deeply") from error
    return config
