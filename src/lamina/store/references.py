"""Who needs which layer and which blob, read from the tables: the collector and the check share this."""

from __future__ import annotations

import msgspec

from lamina.oci import typed
from lamina.oci.digest import DiffId, Digest, LayerId
from lamina.oci.unreadable import UNREADABLE
from lamina.store.database import Database
from lamina.store.errors import BadName
from lamina.store.layers import LayerRow
from lamina.store.layout import Layout

_MANIFEST_LIMIT = 16 << 20


class RecordLayer(msgspec.Struct):
    """The part of a record's layer that the store looks at."""

    id: LayerId
    blob: Digest | None = None
    empty: bool = False


class _Input(msgspec.Struct):
    listing: Digest | None = None


class _Parts(msgspec.Struct):
    inputs: tuple[_Input, ...] = ()


class RecordDocument(msgspec.Struct):
    """The part of a record's document (lamina.cache.record) that the store looks at."""

    layers: tuple[RecordLayer, ...] = ()
    parts: _Parts = msgspec.field(default_factory=_Parts)
    seconds: float = 0.0
    project: str = ""


class RecordRow(msgspec.Struct, array_like=True):
    id: str
    key: str
    last_used: float
    fate: str | None
    doc: bytes

    def document(self) -> RecordDocument | None:
        """None when it cannot be read."""
        try:
            return typed.json(self.doc, type=RecordDocument)
        except UNREADABLE:
            return None


class ImageRow(msgspec.Struct, array_like=True):
    id: Digest
    manifest: Digest
    layers: str
    blobs: str
    last_used: float

    def layer_ids(self) -> tuple[LayerId, ...]:
        return typed.json(self.layers, type=tuple[LayerId, ...])

    def blob_digests(self) -> tuple[Digest, ...]:
        return typed.json(self.blobs, type=tuple[Digest, ...])


class _Named(msgspec.Struct):
    digest: Digest


class _Manifest(msgspec.Struct):
    config: _Named | None = None
    layers: tuple[_Named, ...] = ()
    manifests: tuple[_Named, ...] = ()


class _RootFs(msgspec.Struct):
    diff_ids: tuple[DiffId, ...] = ()


class _Config(msgspec.Struct):
    rootfs: _RootFs = msgspec.field(default_factory=_RootFs)


class References(msgspec.Struct):
    """What something needs.

    `images`: layer -> a name of an image that needs it. `cached`: layer -> seconds of all records that need it and their
    last use; also layers of images without a name and of pulled ones, with 0 seconds. `untagged`: image without a name -> its
    layers. `remotes`: manifest of a pulled image -> its layers.
    """

    layers: set[LayerId] = msgspec.field(default_factory=set)
    blobs: set[Digest] = msgspec.field(default_factory=set)
    images: dict[LayerId, str] = msgspec.field(default_factory=dict)
    cached: dict[LayerId, tuple[float, float]] = msgspec.field(default_factory=dict)
    untagged: dict[Digest, set[LayerId]] = msgspec.field(default_factory=dict)
    remotes: dict[Digest, set[LayerId]] = msgspec.field(default_factory=dict)


def projects(database: Database) -> dict[LayerId, set[str]]:
    """Which projects' records need a layer; "" for records that name none."""
    found: dict[LayerId, set[str]] = {}
    for record in records(database):
        document = None if record.fate is not None else record.document()
        if document is None:
            continue
        for layer in document.layers:
            found.setdefault(layer.id, set()).add(document.project)
    return found


def collect(layout: Layout, database: Database) -> References:
    """A snapshot of all references. Inside the collector's standstill it is complete, together with the pins."""
    out = References()
    rows = database.all(LayerRow, "SELECT * FROM layers")
    by_diff_id: dict[str, LayerId] = {row.diff_id: row.id for row in rows if row.diff_id is not None}
    names = dict(database.all(tuple[Digest, str], "SELECT image, min(name) FROM refs GROUP BY image"))
    for image in images(database):
        out.blobs |= {image.id, image.manifest, *image.blob_digests()}
        layers = {*image.layer_ids(), *_manifest(layout, image.manifest, by_diff_id, out)}
        if image.id in names:
            out.images |= dict.fromkeys(layers - out.images.keys(), f"image {names[image.id]}")
        else:
            out.untagged[image.id] = layers
            for layer in layers:
                _count(out, layer, 0.0, image.last_used)
    for manifest, checked in database.all(tuple[Digest, float], "SELECT manifest, max(checked) FROM remotes GROUP BY manifest"):
        out.blobs.add(manifest)
        out.remotes[manifest] = _manifest(layout, manifest, by_diff_id, out)
        for layer in out.remotes[manifest]:
            _count(out, layer, 0.0, checked)
    for record in records(database):
        document = None if record.fate is not None else record.document()
        if document is None:
            continue
        for needed in document.layers:
            _count(out, needed.id, document.seconds, record.last_used)
            if needed.blob is not None:
                out.blobs.add(needed.blob)
        out.blobs |= {part.listing for part in document.parts.inputs if part.listing is not None}
    out.blobs |= {row[0] for row in database.all(tuple[Digest], "SELECT listing FROM selections WHERE listing IS NOT NULL")}
    out.blobs |= {row[0] for row in database.all(tuple[Digest], "SELECT digest FROM http")}
    out.layers |= out.images.keys() | out.cached.keys()
    out.blobs |= {row.blob for row in rows if row.blob is not None and row.id in out.layers}
    return out


def images(database: Database) -> list[ImageRow]:
    return database.all(ImageRow, "SELECT id, manifest, layers, blobs, last_used FROM images")


def records(database: Database) -> list[RecordRow]:
    return database.all(RecordRow, "SELECT id, key, last_used, fate, doc FROM records")


def _count(out: References, layer: LayerId, seconds: float, used: float) -> None:
    before = out.cached.get(layer, (0.0, 0.0))
    out.cached[layer] = (before[0] + seconds, max(before[1], used))


def _manifest(layout: Layout, digest: Digest, by_diff_id: dict[str, LayerId], out: References, depth: int = 0) -> set[LayerId]:
    """Add the blobs that a manifest (or an index, two levels deep) names; returns its layers. What is not here names nothing."""
    raw = _small(layout, digest)
    if raw is None or depth > 2:
        return set()
    try:
        manifest = typed.json(raw, type=_Manifest)
    except UNREADABLE:
        return set()
    layers: set[LayerId] = set()
    for child in manifest.manifests:
        out.blobs.add(child.digest)
        layers |= _manifest(layout, child.digest, by_diff_id, out, depth + 1)
    out.blobs |= {layer.digest for layer in manifest.layers}
    if manifest.config is not None:
        out.blobs.add(manifest.config.digest)
        layers |= config_layers(_small(layout, manifest.config.digest), by_diff_id)
    return layers


def config_layers(config: bytes | None, by_diff_id: dict[str, LayerId]) -> set[LayerId]:
    """Names under which the layers of an image config may be here."""
    try:
        diff_ids = typed.json(config or b"{}", type=_Config).rootfs.diff_ids
    except UNREADABLE:
        return set()
    return {LayerId(diff_id) for diff_id in diff_ids} | {by_diff_id[diff_id] for diff_id in diff_ids if diff_id in by_diff_id}


def _small(layout: Layout, digest: Digest) -> bytes | None:
    try:
        with open(layout.blob(digest), "rb") as file:
            return file.read(_MANIFEST_LIMIT)
    except (OSError, BadName):
        return None
