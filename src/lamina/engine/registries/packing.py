"""The form in which an image's layers leave for a registry: stored blobs as they are, plain tars and directories compressed.

What a layer became is remembered (digest and size, not the bytes), so that an image which the registry has is recognised without packing
anything. The bytes are made when somebody wants them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, Literal

import msgspec

from lamina.engine.images.errors import ImageNotFound, LayerMismatch
from lamina.engine.images.incoming import CHUNK
from lamina.engine.images.layers import pack_layer
from lamina.engine.images.layout import checked_config
from lamina.engine.images.unpacked import plain_stream
from lamina.layer.compress import Compressing
from lamina.oci.config import ImageConfig
from lamina.oci.digest import DiffId, Digest, LayerId
from lamina.oci.manifest import (
    DOCKER_LAYER_GZIP,
    OCI_CONFIG,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    OCI_MANIFEST,
    Descriptor,
    Manifest,
    encode_manifest,
)
from lamina.oci.selection import parse_checked
from lamina.store.local import LocalStore
from lamina.store.refs import Image

Compression = Literal["auto", "gzip", "zstd", "none"]
"""auto: gzip, but plain tars that a registry was seen to have stay what they are, so that a pulled image leaves as it came."""

_PARALLEL = 4
_KINDS = {"gzip": OCI_LAYER_GZIP, "zstd": OCI_LAYER_ZSTD}
_DOCKER_PLAIN = "application/vnd.docker.image.rootfs.diff.tar"


class LeavingLayer(msgspec.Struct, frozen=True):
    """`descriptor` is what the manifest names; `made`: the compression by which it is made here ("": it is a blob as it came)."""

    layer: LayerId
    diff_id: DiffId
    descriptor: Descriptor
    made: str


class LeavingImage(msgspec.Struct, frozen=True):
    raw: bytes
    media_type: str
    manifest: Manifest
    config: bytes
    parsed: ImageConfig
    layers: tuple[LeavingLayer, ...]


def leaving(store: LocalStore, image: Image, compression: Compression) -> LeavingImage:
    """The image with every layer's final descriptor. Layers that were never compressed on this machine are, now.

    The image's own manifest is kept where no layer changes its form. Raises ImageNotFound, LayerMismatch.
    """
    config = store.blobs.read(image.id)
    raw = store.blobs.read(image.manifest)
    parsed = checked_config(config, f"image {image.id}")
    manifest = parse_checked(raw)
    if not isinstance(manifest, Manifest) or len(parsed.diff_ids) != len(manifest.layers):
        raise ImageNotFound(f"the manifest {image.manifest} does not fit its image", hint="`lamina check` examines the store")
    layers = _layers(store, list(zip(image.layers, parsed.diff_ids, manifest.layers)), compression)
    media_type = manifest.media_type or OCI_MANIFEST
    if any(one.descriptor != old for one, old in zip(layers, manifest.layers)):
        manifest = Manifest(
            schema_version=2,
            media_type=OCI_MANIFEST,
            config=msgspec.structs.replace(manifest.config, media_type=OCI_CONFIG),
            layers=tuple(_as_oci(one.descriptor) for one in layers),
            annotations=manifest.annotations,
        )
        raw, media_type = encode_manifest(manifest), OCI_MANIFEST
    return LeavingImage(raw, media_type, manifest, config, parsed, layers)


def _layers(store: LocalStore, parts: list[tuple[LayerId, DiffId, Descriptor]], compression: Compression) -> tuple[LeavingLayer, ...]:
    """Compressors leave the interpreter's lock: several layers at a time use several processors."""
    if len(parts) < 2:
        return tuple(_layer(store, *each, compression) for each in parts)
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(min(_PARALLEL, len(parts)), thread_name_prefix="pack") as pool:
        waiting = [pool.submit(_layer, store, *each, compression) for each in parts]
        try:
            return tuple(each.result() for each in waiting)
        except BaseException:
            for each in waiting:
                each.cancel()
            raise


def _layer(store: LocalStore, layer: LayerId, diff_id: DiffId, stored: Descriptor, compression: Compression) -> LeavingLayer:
    plain = stored.media_type in (OCI_LAYER, _DOCKER_PLAIN)
    if compression == "none" or not plain or (compression == "auto" and store.facts.places(stored.digest)):
        return LeavingLayer(layer, diff_id, stored, "")
    compression = "zstd" if compression == "zstd" else "gzip"
    known = store.facts.packed(diff_id, compression)
    if known is None:
        descriptor = compress(store, layer, diff_id, compression)
    else:
        descriptor = Descriptor(media_type=_KINDS[compression], digest=known.digest, size=known.size)
    return LeavingLayer(layer, diff_id, descriptor, compression)


def ensure_blob(store: LocalStore, leaving: LeavingLayer) -> Descriptor:
    """Make the layer's bytes a blob. Returns what they are: not `leaving.descriptor` when the compressor has changed since it was noted.

    BlobNotFound or ImageNotFound when the layer is not here in any form.
    """
    if not store.blobs.missing([leaving.descriptor.digest]):
        return leaving.descriptor
    if leaving.made:
        return compress(store, leaving.layer, leaving.diff_id, leaving.made)
    if leaving.descriptor.digest == Digest(leaving.diff_id):
        with store.blobs.ingest(leaving.descriptor.digest) as writer:
            for piece in plain_pieces(store, leaving.layer, leaving.diff_id):
                writer.write(piece)
            writer.commit()
        return leaving.descriptor
    raise ImageNotFound(f"layer {leaving.descriptor.digest} is not in the store", hint="pull the image again: its layer was never fetched")


def compress(store: LocalStore, layer: LayerId, diff_id: DiffId, compression: str) -> Descriptor:
    """The layer as a compressed blob in the store, and remembered. LayerMismatch when its bytes are not what the config says."""
    kind: Literal["gzip", "zstd"] = "zstd" if compression == "zstd" else "gzip"
    with store.blobs.ingest() as writer:
        packing = Compressing(writer, kind)
        for piece in plain_pieces(store, layer, diff_id, packing):
            packing.write(piece)
        packing.close()
        if packing.plain_digest != Digest(diff_id):
            hint = "`lamina check` examines the store"
            raise LayerMismatch(f"layer {layer} packs to {packing.plain_digest}; the image's config says {diff_id}", hint=hint)
        digest = writer.commit()
    store.facts.set_packed(diff_id, compression, digest, packing.size)
    return Descriptor(media_type=_KINDS[kind], digest=digest, size=packing.size)


def plain_pieces(store: LocalStore, layer: LayerId, diff_id: DiffId, direct: Compressing | None = None) -> Iterator[bytes]:
    """The layer's tar, from its blob or its directory. A directory is packed straight into `direct` where there is one."""
    if not store.blobs.missing([Digest(diff_id)]):
        with store.blobs.open(Digest(diff_id)) as blob:
            yield from _read(blob)
        return
    row = store.layers.row(layer)
    if row is not None and row.blob and not store.blobs.missing([row.blob]):
        with store.blobs.open(row.blob) as blob, plain_stream(blob, f"layer {row.blob}") as plain:
            yield from _read(plain)
        return
    if direct is not None:
        pack_layer(store, layer, _Direct(direct))
        return
    import tempfile

    with tempfile.TemporaryFile(dir=store.scratch()) as made:
        pack_layer(store, layer, made)
        made.seek(0)
        yield from _read(made)


class _Direct:
    def __init__(self, out: Compressing) -> None:
        self._out = out

    def write(self, data: bytes | memoryview, /) -> int:
        return self._out.write(bytes(data))


def _read(source: BinaryIO) -> Iterator[bytes]:
    while piece := source.read(CHUNK):
        yield piece


def _as_oci(descriptor: Descriptor) -> Descriptor:
    kind = {DOCKER_LAYER_GZIP: OCI_LAYER_GZIP, _DOCKER_PLAIN: OCI_LAYER}.get(descriptor.media_type)
    return msgspec.structs.replace(descriptor, media_type=kind) if kind else descriptor
