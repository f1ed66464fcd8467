"""The build cache in an image archive: `docker save $(docker images -aq)`, `load` elsewhere, and the next build finds its steps.

An archive of images that were named by id carries, beside what every reader expects, `lamina/records.json`: the records of the builds
that made the images, and as further blobs the layers that only these records have (of stages that the image took files from). Other
programs pass over both. Whoever loads such an archive believes its maker as much as with the images themselves: that a layer is what
its name says is verified, that a step leads to it cannot be.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from lamina.cache.index import LocalRecords
from lamina.cache.record import CacheKey, KeyParts, LayerRef, Record
from lamina.diagnostics.errors import LaminaError
from lamina.engine.images.exporting import layer_out
from lamina.engine.images.files import Files
from lamina.engine.images.incoming import CHUNK, IncomingImage
from lamina.engine.images.layers import ensure_built_layer
from lamina.engine.images.layout import blob_name, checked_config, take_blobs
from lamina.engine.images.outgoing import OutgoingLayer, Sink
from lamina.oci import typed
from lamina.oci.digest import DiffId, Digest, LayerId
from lamina.oci.unreadable import UNREADABLE
from lamina.store.local import LocalStore
from lamina.store.refs import Image

ENTRY = "lamina/records.json"
SCHEMA = 1
_LIMIT = 256 << 20  # bytes of the entry


class Carried(msgspec.Struct, frozen=True):
    """The entry. Layers of `records` that lamina built have `diff_id` and `packed`; their tars are blobs named by the diffID."""

    schema: int
    records: tuple[Record, ...]


class Cargo(msgspec.Struct, frozen=True):
    """What goes into the archive beside the images."""

    entry: bytes
    layers: tuple[OutgoingLayer, ...]


class _Step(msgspec.Struct):
    key: CacheKey | None = None


def pack_records(store: LocalStore, records: LocalRecords, images: Sequence[Image]) -> Cargo | None:
    """The records of the builds that made `images`, as far as their layers are here; None when there are none."""
    ids = {image.id for image in images}
    logs = [log for log in store.builds.last() if ids & set(log.images)]
    keys = list(dict.fromkeys(step.key for log in logs for step in typed.json(log.steps, type=list[_Step]) if step.key))
    found = [newest[0] for newest in records.lookup(keys).values()]
    rows = {row.id: row for row in store.layers.rows({layer.id for record in found for layer in record.layers})}
    here = store.layers.present(rows)
    known = {layer for image in images for layer in image.layers}
    kept: list[Record] = []
    more: dict[LayerId, OutgoingLayer] = {}
    for record in found:
        layers: list[LayerRef] = []
        for layer in record.layers:
            row = rows.get(layer.id)
            if layer.id.startswith("sha256:"):
                layers.append(layer)
            elif row is not None and row.diff_id is not None and layer.id in here:
                layers.append(msgspec.structs.replace(layer, diff_id=row.diff_id, packed=row.packed or 0, blob=None))
        if len(layers) != len(record.layers):
            continue
        for layer in layers:
            if layer.id not in known and layer.id not in more and layer.diff_id is not None and layer.id.startswith("diff:"):
                more[layer.id] = layer_out(store, layer.id, layer.diff_id)
        kept.append(msgspec.structs.replace(record, layers=tuple(layers), parts=_listed(store, record.parts)))
    if not kept:
        return None
    listings = {part.listing for record in kept for part in record.parts.inputs if part.listing is not None}
    entry = typed.encode_json(Carried(SCHEMA, tuple(kept)))
    return Cargo(entry, (*more.values(), *(_blob_out(store, listing) for listing in sorted(listings))))


def _listed(store: LocalStore, parts: KeyParts) -> KeyParts:
    """With the listings that are here: they let a later miss name the paths that differ."""
    missing = store.blobs.missing([part.listing for part in parts.inputs if part.listing is not None])
    if not missing:
        return parts
    inputs = tuple(msgspec.structs.replace(part, listing=None) if part.listing in missing else part for part in parts.inputs)
    return msgspec.structs.replace(parts, inputs=inputs)


def _blob_out(store: LocalStore, digest: Digest) -> OutgoingLayer:
    def copy(sink: Sink) -> None:
        with store.blobs.open(digest) as blob:
            while piece := blob.read(CHUNK):
                sink.write(piece)

    return OutgoingLayer(digest, store.blobs.size(digest), "application/octet-stream", copy)


def read_carried(files: Files) -> Carried | None:
    """The entry of an archive; None where there is none, or one of another schema."""
    raw = files.read(ENTRY, _LIMIT)
    if raw is None:
        return None
    try:
        found = typed.json(raw, type=Carried)
    except UNREADABLE:
        return None
    return found if found.schema == SCHEMA else None


def take_layers(files: Files, store: LocalStore, carried: Carried) -> None:
    """The layers that only the records have, and the listings, into the blobs, each verified."""
    wanted = {Digest(layer.diff_id) for layer in _built(carried) if layer.diff_id is not None and store.layers.path(layer.id) is None}
    wanted |= {part.listing for record in carried.records for part in record.parts.inputs if part.listing is not None}
    here: list[tuple[Digest, int, str]] = []
    for digest in sorted(store.blobs.missing(wanted)):
        opened = files.open(blob_name(digest))
        if opened is not None:
            opened[0].close()
            here.append((digest, opened[1], f"blob {digest}"))
    take_blobs(files, store.blobs, here)


def adopt(store: LocalStore, records: LocalRecords, carried: Carried, images: Sequence[IncomingImage]) -> tuple[int, tuple[str, ...]]:
    """Make the records findable whose layers are here and are what they are named after. Returns (how many, what was wrong)."""
    blobs: dict[DiffId, Digest] = {}
    for image in images:
        config = checked_config(image.config, "the image")
        blobs |= {diff_id: descriptor.digest for diff_id, descriptor in zip(config.diff_ids, image.layers)}
    taken = 0
    wrong: list[str] = []
    for record in carried.records:
        try:
            for layer in record.layers:
                if layer.id.startswith("diff:") and layer.diff_id is not None and store.layers.path(layer.id) is None:
                    ensure_built_layer(store, layer.id, layer.diff_id, blobs.get(layer.diff_id, Digest(layer.diff_id)))
        except LaminaError as error:
            wrong.append(f"{record.place.text}: {error.message}")
            continue
        if store.layers.present({layer.id for layer in record.layers if layer.id.startswith("diff:")}).keys() < {
            layer.id for layer in record.layers if layer.id.startswith("diff:")
        }:
            wrong.append(f"{record.place.text}: a layer of it is not in the archive")
            continue
        bare = tuple(msgspec.structs.replace(layer, blob=None) for layer in record.layers)
        records.publish(msgspec.structs.replace(record, layers=bare, parts=_listed(store, record.parts)))
        taken += 1
    return taken, tuple(wrong)


def _built(carried: Carried) -> list[LayerRef]:
    found = {layer.id: layer for record in carried.records for layer in record.layers if layer.id.startswith("diff:") and layer.diff_id}
    return list(found.values())
