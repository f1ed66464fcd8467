"""Images of the store on their way out: layers from their blobs where they have one, else packed from their directories.

A layer's size stands in front of its bytes. The store knows it of a layer that was built here, which is then proved against its diffID while
it is written; another one that must be packed or decompressed is read twice: once to be measured and proved, once to be written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import BinaryIO, Literal

from lamina.engine.images.errors import ImageNotFound, LayerMismatch
from lamina.engine.images.incoming import CHUNK, Tally
from lamina.engine.images.layers import PackLayer, pack_layer
from lamina.engine.images.layout import checked_config
from lamina.engine.images.outgoing import OutgoingImage, OutgoingLayer, Sink, plain_manifest
from lamina.engine.images.unpacked import plain_stream
from lamina.oci.config import ImageConfig
from lamina.oci.digest import DiffId, Digest, LayerId
from lamina.oci.manifest import OCI_LAYER, OCI_MANIFEST, Descriptor, Manifest
from lamina.oci.reference import Reference
from lamina.oci.selection import parse_checked
from lamina.store.local import LocalStore
from lamina.store.refs import Image

Form = Literal["plain", "stored"]
"""plain: every layer as a plain tar (docker's archive). stored: as the manifest has it, where those blobs are here."""


def outgoing(
    store: LocalStore, image: Image, form: Form, names: Sequence[str] | None = None, pack: PackLayer = pack_layer
) -> OutgoingImage:
    """What the writers of `outgoing.py` need. `names`: full references that it carries; None for all of its own.

    The manifest is the image's own when its layers leave in the form that it names, else a new one over the same config. Raises
    ImageNotFound when a layer is neither here as a blob nor as a directory; LayerMismatch, here or from a layer's `copy` when all its
    bytes are written, when one is not what the config says.
    """
    config = _read(store, image.id)
    raw = _read(store, image.manifest)
    parsed = checked_config(config, f"image {image.id}")
    manifest = parse_checked(raw)
    if not isinstance(manifest, Manifest) or len(parsed.diff_ids) != len(manifest.layers):
        raise ImageNotFound(f"the manifest {image.manifest} does not fit its image", hint="`lamina check` examines the store")
    layers = tuple(
        _layer(store, layer, diff_id, stored, form, pack) for layer, diff_id, stored in zip(image.layers, parsed.diff_ids, manifest.layers)
    )
    unchanged = all((one.digest, one.size) == (d.digest, d.size) for one, d in zip(layers, manifest.layers))
    media_type = manifest.media_type or OCI_MANIFEST
    if not unchanged or (form == "plain" and any(d.media_type != OCI_LAYER for d in manifest.layers)):
        raw, media_type = plain_manifest(config, layers), OCI_MANIFEST
    pairs = tuple((name, Reference.parse(name).familiar) for name in (image.names if names is None else names))
    return OutgoingImage(config, raw, media_type, layers, pairs, _platform(parsed))


def layer_out(store: LocalStore, layer: LayerId, diff_id: DiffId, pack: PackLayer = pack_layer) -> OutgoingLayer:
    """A layer as a plain tar, from its directory or a blob. Errors as `outgoing`."""
    return _plain(store, layer, diff_id, None, pack)


def _layer(store: LocalStore, layer: LayerId, diff_id: DiffId, stored: Descriptor, form: Form, pack: PackLayer) -> OutgoingLayer:
    here = not store.blobs.missing([stored.digest])
    if here and (form == "stored" or stored.digest == Digest(diff_id)):
        kind = OCI_LAYER if form == "plain" else stored.media_type

        def copy(sink: Sink) -> None:
            with store.blobs.open(stored.digest) as blob:
                _pour(blob, sink)

        return OutgoingLayer(stored.digest, stored.size, kind, copy)
    return _plain(store, layer, diff_id, stored.digest if here else None, pack)


def _plain(store: LocalStore, layer: LayerId, diff_id: DiffId, blob: Digest | None, pack: PackLayer) -> OutgoingLayer:
    copy_plain = _plain_copier(store, layer, diff_id, blob, pack)

    def proved(sink: Sink) -> None:
        tally = Tally(sink.write)
        copy_plain(tally)
        _prove(layer, diff_id, tally)

    row = store.layers.row(layer)
    if row is not None and row.diff_id == diff_id and row.packed:
        return OutgoingLayer(Digest(diff_id), row.packed, OCI_LAYER, proved)
    tally = Tally()
    copy_plain(tally)
    _prove(layer, diff_id, tally)
    return OutgoingLayer(Digest(diff_id), tally.size, OCI_LAYER, proved)


def _prove(layer: LayerId, diff_id: DiffId, tally: Tally) -> None:
    if tally.digest() != Digest(diff_id):
        raise LayerMismatch(
            f"layer {layer} packs to {tally.digest()}; the image's config says {diff_id}",
            hint="`lamina check` examines the store",
        )


def _plain_copier(store: LocalStore, layer: LayerId, diff_id: DiffId, blob: Digest | None, pack: PackLayer) -> Callable[[Sink], None]:
    plain = Digest(diff_id)
    if blob is None and not store.blobs.missing([plain]):
        blob = plain
    if blob is not None:
        found = blob

        def unpack(sink: Sink) -> None:
            with store.blobs.open(found) as file, plain_stream(file, f"layer {found}") as stream:
                _pour(stream, sink)

        return unpack
    if store.layers.path(layer) is None:
        raise ImageNotFound(
            f"layer {layer} is not in the store",
            hint="pull the image again, or build it again: its layer was removed or never fetched",
        )

    def from_directory(sink: Sink) -> None:
        pack(store, layer, sink)

    return from_directory


def _pour(source: BinaryIO, sink: Sink) -> None:
    while piece := source.read(CHUNK):
        sink.write(piece)


def _read(store: LocalStore, digest: Digest) -> bytes:
    with store.blobs.open(digest) as file:
        return file.read()


def _platform(config: ImageConfig) -> dict[str, str]:
    out = {"architecture": config.architecture, "os": config.os}
    if config.variant:
        out["variant"] = config.variant
    return out
