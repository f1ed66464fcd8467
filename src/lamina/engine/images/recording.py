"""The row and the two documents that make layers of the store an image. The row comes last: it makes the image visible."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lamina.engine.beside import Beside
from lamina.engine.images.errors import UnsupportedImage
from lamina.engine.images.incoming import IncomingImage, ingest_bytes
from lamina.engine.images.layout import checked_config
from lamina.oci.digest import DiffId, Digest, LayerId, sha256
from lamina.oci.manifest import OCI_CONFIG, OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, OCI_MANIFEST, Descriptor, Manifest, encode_manifest
from lamina.oci.platform import Platform
from lamina.oci.selection import parse_checked
from lamina.store.local import LocalStore
from lamina.store.refs import Image


def built_manifest(config: bytes, layers: Sequence[Descriptor]) -> bytes:
    """The manifest of an image built here, over layers bottom first."""
    head = Descriptor(media_type=OCI_CONFIG, digest=sha256(config), size=len(config))
    return encode_manifest(Manifest(schema_version=2, media_type=OCI_MANIFEST, config=head, layers=tuple(layers)))


def stored_layers(store: LocalStore, image: Image) -> dict[DiffId, Descriptor]:
    """How an image's layers are stored, by diffID: pass a base's to `record_built`."""
    manifest = parse_checked(store.blobs.read(image.manifest))
    config = checked_config(store.blobs.read(image.id), f"image {image.id}")
    return dict(zip(config.diff_ids, manifest.layers)) if isinstance(manifest, Manifest) else {}


def record_built(
    store: LocalStore,
    config: bytes,
    layers: Sequence[tuple[LayerId, DiffId]],
    names: Sequence[str],
    *,
    stored: Mapping[DiffId, Descriptor] | None = None,
    sizes: Mapping[DiffId, int] | None = None,
) -> Image:
    """An image whose layers are in the store: config and manifest become blobs, layers stay what they are.

    A base image's layers keep their stored form (`stored`, see `stored_layers`): a foreign layer cannot be packed again to the same
    bytes. Layers built here stand in the manifest as plain tars, digest = diffID; `sizes` are those of their tars where the caller
    has them, others are measured by packing. Until these are blobs the image is not listed in the store's index.json.
    """
    stored, sizes = stored or {}, sizes or {}
    descriptors = []
    for layer, diff_id in layers:
        descriptor = stored.get(diff_id) or _stored_form(store, layer, diff_id)
        if descriptor is None:
            size = sizes.get(diff_id) or _packed_size(store, layer)
            descriptor = Descriptor(media_type=OCI_LAYER, digest=Digest(diff_id), size=size)
        descriptors.append(descriptor)
    raw = built_manifest(config, descriptors)
    # Both wait for the disk: together they wait once.
    beside = Beside(1, "lamina-blob")
    try:
        written = beside.submit(lambda: ingest_bytes(store.blobs, config))
        manifest = ingest_bytes(store.blobs, raw)
        config_digest = written.result()
    finally:
        beside.close()
    incoming = IncomingImage(raw, manifest, OCI_MANIFEST, config, config_digest, tuple(descriptors))
    return record(store, incoming, names, tuple(layer for layer, _ in layers))


def _stored_form(store: LocalStore, layer: LayerId, diff_id: DiffId) -> Descriptor | None:
    """The blob of a layer as the store knows it: the plain tar, or the one that its directory was made from."""
    row = store.layers.row(layer)
    for digest in (Digest(diff_id), row.blob if row else None):
        if digest and not store.blobs.missing([digest]):
            with store.blobs.open(digest) as file:
                head = file.read(4)
            kind = OCI_LAYER_GZIP if head[:2] == b"\x1f\x8b" else OCI_LAYER_ZSTD if head == b"\x28\xb5\x2f\xfd" else OCI_LAYER
            return Descriptor(media_type=kind, digest=digest, size=store.blobs.size(digest))
    return None


def record(store: LocalStore, incoming: IncomingImage, names: Sequence[str], layers: tuple[LayerId, ...] | None = None) -> Image:
    """Make the image visible. Its size is that of its packed layers: what is inside is known once they are unpacked."""
    config = checked_config(incoming.config, "the image")
    if config.os not in ("", "linux"):
        raise UnsupportedImage(f"an image for {config.os} cannot be used here")
    platform = Platform(config.os or "linux", config.architecture or "amd64", config.variant).normalised()
    image = Image(
        id=incoming.config_digest,
        manifest=incoming.manifest_digest,
        platform=str(platform),
        created=_seconds(config.created, store.now()),
        size=sum(layer.size for layer in incoming.layers),
        layers=tuple(LayerId(diff_id) for diff_id in config.diff_ids) if layers is None else layers,
        blobs=tuple(layer.digest for layer in incoming.layers),
        names=tuple(names),
    )
    store.images.put(image)
    return image


def _seconds(created: str | None, otherwise: float) -> float:
    from datetime import UTC, datetime

    if not created:
        return otherwise
    try:
        found = datetime.fromisoformat(created)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return otherwise


def _packed_size(store: LocalStore, layer: LayerId) -> int:
    from lamina.engine.images.layers import packed_size  # whoever hashed the layer has counted its bytes

    return packed_size(store, layer)
