"""Layers between their two forms in the store: the tar (a blob, in whatever compression it came) and the directory.

A foreign layer stays a blob until something must run on it or read from it; a layer built here stays a directory until it leaves.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Protocol

from lamina.engine.images.errors import LayerMismatch
from lamina.engine.images.incoming import CHUNK, Tally
from lamina.engine.images.outgoing import Sink
from lamina.engine.images.unpacked import plain_stream
from lamina.layer.apply import apply_tar
from lamina.layer.pack import pack
from lamina.oci.digest import DiffId, Digest, LayerId
from lamina.oci.manifest import Descriptor, Manifest
from lamina.oci.selection import parse_checked
from lamina.store.layers import LayerFacts
from lamina.store.local import LocalStore
from lamina.store.protocols import BlobNotFound
from lamina.store.refs import Image

PLAIN_LIMIT = 1 << 37  # bytes of one uncompressed layer: 128 GiB
Fetch = Callable[[Descriptor], None]
"""Makes a blob present (RegistryClient.fetch_blob, bound to its reference)."""


class _Teed:
    """What apply reads, counted and hashed on its way."""

    def __init__(self, source: BinaryIO, tally: Tally) -> None:
        self._source = source
        self._tally = tally

    def read(self, size: int = -1, /) -> bytes:
        data = self._source.read(CHUNK if size < 0 else size)
        self._tally.write(data)
        return data


def ensure_layer(store: LocalStore, diff_id: DiffId, stored: Descriptor | None = None, fetch: Fetch | None = None) -> Path:
    """The directory (`diff`) of a foreign layer, made from its blob when it is not here.

    `stored`: the blob that the manifest names (None: the plain tar, whose digest is the diffID). Its bytes are verified against
    `diff_id` while they are applied; on LayerMismatch or BadArchive nothing is kept. One process works, others wait for it.
    """
    layer = LayerId(diff_id)
    found = store.layers.path(layer)
    if found:
        return found
    with store.locks.key(f"layer {layer}", lambda: False):
        found = store.layers.path(layer)
        if found:
            return found
        digest = stored.digest if stored else Digest(diff_id)
        if store.blobs.missing([digest]):
            if fetch is None or stored is None:
                raise BlobNotFound(f"the store has neither the directory nor the blob of layer {diff_id}")
            fetch(stored)
        active = store.layers.begin()
        try:
            tally = Tally(limit=PLAIN_LIMIT)
            with store.blobs.open(digest) as blob, plain_stream(blob, f"layer {digest}") as plain:
                teed = _Teed(plain, tally)
                apply_tar(teed, active.upper.parent, store.flavour)
                while teed.read(CHUNK):
                    pass
            if tally.digest() != Digest(diff_id):
                raise LayerMismatch(f"layer {digest} unpacks to {tally.digest()}; the image's config says {diff_id}")
            return store.layers.commit(active, layer, LayerFacts(diff_id=diff_id, blob=digest))
        finally:
            store.layers.discard(active)


def ensure_built_layer(store: LocalStore, layer: LayerId, diff_id: DiffId, blob: Digest) -> Path:
    """The directory (`diff`) of a layer that lamina built, made from its blob, which is here.

    Verified twice while nothing names it yet: the tar against `diff_id`, the directory against the normalised diff that is its name.
    LayerMismatch, BadArchive: nothing is kept.
    """
    from lamina.layer.normal import normalise

    with store.locks.key(f"layer {layer}", lambda: False):
        found = store.layers.path(layer)
        if found:
            return found
        active = store.layers.begin()
        try:
            tally = Tally(limit=PLAIN_LIMIT)
            with store.blobs.open(blob) as file, plain_stream(file, f"layer {blob}") as plain:
                teed = _Teed(plain, tally)
                apply_tar(teed, active.upper.parent, store.flavour)
                while teed.read(CHUNK):
                    pass
            if tally.digest() != Digest(diff_id):
                raise LayerMismatch(f"layer {blob} unpacks to {tally.digest()}; its record says {diff_id}")
            normal = normalise(active.upper.parent, store.flavour)
            if normal.digest.rpartition(":")[2] != layer.rpartition(":")[2]:
                raise LayerMismatch(f"layer {blob} holds {normal.digest}; its record says {layer}")
            made = store.layers.commit(active, layer, LayerFacts(diff=normal.digest, diff_id=diff_id, blob=blob))
            store.layers.set_diff_id(layer, diff_id, tally.size)
            return made
        finally:
            store.layers.discard(active)


def ensure_layers(store: LocalStore, image: Image, fetch: Fetch | None = None) -> list[Path]:
    """The layer directories of an image (each with `diff/` and maybe `extra`), bottom first; foreign ones are unpacked where needed."""
    here = store.layers.present(image.layers)
    if len(here) < len(set(image.layers)):
        with store.blobs.open(image.manifest) as file:
            manifest = parse_checked(file.read())
        stored = manifest.layers if isinstance(manifest, Manifest) else ()
        for layer, descriptor in zip(image.layers, stored):
            if layer not in here and layer.startswith("sha256:"):
                here[layer] = ensure_layer(store, DiffId(layer), descriptor, fetch)
    for layer in image.layers:
        if layer not in here:
            raise BlobNotFound(f"the store has no directory of layer {layer}", hint="build the image again")
    return [here[layer].parent for layer in image.layers]


class PackLayer(Protocol):
    """Writes the tar of a layer's directory; the same bytes each time."""

    def __call__(self, store: LocalStore, layer: LayerId, sink: Sink, /) -> None: ...


def pack_layer(store: LocalStore, layer: LayerId, sink: Sink, /) -> None:
    """The tar whose digest is the layer's diffID. BlobNotFound when the directory is not here."""
    path = store.layers.path(layer)
    if path is None:
        raise BlobNotFound(f"the store has no directory of layer {layer}")
    pack(path.parent, store.flavour, sink)


def packed_size(store: LocalStore, layer: LayerId) -> int:
    """Bytes of the layer's tar: what a manifest states beside the diffID."""
    counted = _Counted()
    pack_layer(store, layer, counted)
    return counted.size


class _Counted:
    def __init__(self) -> None:
        self.size = 0

    def write(self, data: bytes | memoryview, /) -> int:
        self.size += len(data)
        return len(data)
