"""Layers whose tar says nothing of when they were made: for --reproducible and SOURCE_DATE_EPOCH.

Every entry of a layer built here gets the epoch as its time, not only the younger ones: a checkout's times are older than the epoch on one
machine and younger on another. The tar is kept as a blob, and the image names its layers by their diffIDs, as a pulled image does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lamina.cache.record import LayerRef
from lamina.layer.pack import pack
from lamina.oci.digest import DiffId, Digest, LayerId, StateId
from lamina.store.facts import Selection
from lamina.store.local import LocalStore
from lamina.store.protocols import BlobNotFound

if TYPE_CHECKING:
    from lamina.engine.layers import LayerKeeper


def redated(store: LocalStore, keeper: LayerKeeper, layers: Sequence[LayerRef], epoch: int) -> list[tuple[LayerId, DiffId]]:
    """(layer, diffID) bottom first; a base image's layers stay as they are."""
    result: list[tuple[LayerId, DiffId]] = []
    for layer in layers:
        diff_id = DiffId(layer.id) if layer.id.startswith("sha256:") else _redated(store, keeper, layer, epoch)
        result.append((LayerId(diff_id), diff_id))
    return result


def _redated(store: LocalStore, keeper: LayerKeeper, layer: LayerRef, epoch: int) -> DiffId:
    """The blob of the layer's tar, made when it is not here. Which one it is follows from the layer's name and the epoch."""
    place, form = StateId(layer.id), f"tar at {epoch}"
    known = store.facts.selection(place, form)
    if known is not None and not store.blobs.missing([Digest(known.merkle)]):
        return DiffId(known.merkle)
    folder = keeper.folder(layer)
    if folder is None:
        raise BlobNotFound(f"the store has no directory of layer {layer.id}", hint="build again with --no-cache")
    with store.blobs.ingest() as writer:
        pack(folder, store.flavour, writer, epoch)
        digest = writer.commit()
    store.facts.set_selection(place, form, Selection(digest, None))
    return DiffId(digest)
