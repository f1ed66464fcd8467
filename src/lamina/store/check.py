"""`lamina check`: is everything in the store what its name and its row say? With `repair`, what is not is taken out of use.

Repair only ever removes what is damaged or points to nothing; steps and pulls make it again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import msgspec

from lamina.oci.digest import Digest, LayerId
from lamina.store.errors import BadName, border
from lamina.store.layers import LayerRow, agrees, measure
from lamina.store.layout import Layout, digest_of, layer_of
from lamina.store.leases import live
from lamina.store.local import LocalStore
from lamina.store.references import ImageRow, RecordRow, config_layers, images, records
from lamina.store.removal import remove

Normalise = Callable[[Path], str]
"""(layer folder with `diff/` and perhaps `extra`) -> digest of its normalised diff."""


class Finding(msgspec.Struct, frozen=True):
    """`code` is stable. `repair` says what was done (`repaired`) or what `--repair` would do."""

    code: str
    message: str
    repair: str
    repaired: bool = False


def check(store: LocalStore, *, repair: bool = False, normalise: Normalise | None = None) -> list[Finding]:
    """Prove the store; a sound one gives []. `normalise` (the deep check) reads every file of every layer built here."""
    with border(store.layout.root):
        return list(_Check(store, repair, normalise).findings())


class _Check:
    def __init__(self, store: LocalStore, repair: bool, normalise: Normalise | None) -> None:
        self._store = store
        self._layout: Layout = store.layout
        self._repair = repair
        self._normalise = normalise

    def findings(self) -> Iterator[Finding]:
        for line in self._store.database.integrity():
            yield Finding("check/database", f"the database is damaged: {line}", "set it aside and begin a new one")
        yield from self._blobs()
        yield from self._layers()
        yield from self._images()
        yield from self._records()
        yield from self._facts()
        yield from self._view()
        yield from self._leftovers()

    def _found(self, code: str, message: str, repair: str, act: Callable[[], object]) -> Finding:
        if self._repair:
            act()
        return Finding(code, message, repair, self._repair)

    def _blobs(self) -> Iterator[Finding]:
        for folder in sorted(self._layout.blobs.iterdir()):
            for path in sorted(folder.iterdir()):
                digest = digest_of(folder.name, path.name)
                if digest is None or not path.is_file() or path.is_symlink():
                    yield self._found(
                        "check/foreign",
                        f"blobs/{folder.name}/{path.name} is no blob",
                        "remove it",
                        partial(self._trash, path),
                    )
                elif not _intact(path, digest):
                    yield self._found(
                        "check/blob-damaged", f"the blob {digest} has other bytes than its name says", "remove it", path.unlink
                    )

    def _layers(self) -> Iterator[Finding]:
        rows = {row.id: row for row in self._store.layers.rows()}
        for row in rows.values():
            problem = self._layer_problem(row)
            if problem and self._store.layers.row(row.id) is not None:  # not collected meanwhile
                yield self._found(problem[0], problem[1], "forget it", partial(self._drop_layer, row.id))
            elif row.blob is not None and not self._blob_here(row.blob):
                yield self._found(
                    "check/blob-missing",
                    f"the layer {row.id} names a blob that is not here ({row.blob})",
                    "pack it again when needed",
                    partial(self._store.layers.set_blob, row.id, None),
                )
        pins = frozenset().union(*live(self._layout).values())
        for path in sorted(self._layout.layers.iterdir()):
            layer = layer_of(path.name)
            if layer is None or (layer not in rows and layer not in pins and self._store.layers.row(layer) is None):
                yield self._found("check/foreign", f"layers/{path.name} belongs to no layer", "remove it", partial(self._trash, path))

    def _layer_problem(self, row: LayerRow) -> tuple[str, str] | None:
        folder = self._layout.layer(row.id)
        if not (folder / "diff").is_dir():
            return "check/layer-missing", f"the folder of layer {row.id} is not here"
        if not agrees(row, folder / "diff"):
            entries, size = measure(folder / "diff")
            return (
                "check/layer-damaged",
                f"the layer {row.id} has {entries} names with {size} bytes; it was made with {row.entries} and {row.size}",
            )
        if self._normalise is not None and row.diff is not None:
            found = self._normalise(folder)
            if found != row.diff:
                return "check/layer-changed", f"files of the layer {row.id} have changed: its digest is {found}, not {row.diff}"
        return None

    def _images(self) -> Iterator[Finding]:
        by_diff_id: dict[str, LayerId] = {row.diff_id: row.id for row in self._store.layers.rows() if row.diff_id is not None}
        for image in images(self._store.database):
            missing = self._missing_of(image, by_diff_id)
            if missing:
                yield self._found(
                    "check/image-incomplete",
                    f"the image {image.id[7:19]} lacks {missing}",
                    "remove the image and its names",
                    partial(self._store.images.remove, image.id, force=True),
                )

    def _missing_of(self, image: ImageRow, by_diff_id: dict[str, LayerId]) -> str:
        for what, digest in (("its manifest", image.manifest), ("its config", image.id)):
            if not self._blob_here(digest):
                return f"{what} ({digest})"
        packed = all(self._blob_here(digest) for digest in image.blob_digests())
        if packed and image.blob_digests():
            return ""
        here = {row.id for row in self._store.layers.rows()}
        for layer in image.layer_ids():
            if layer not in here and by_diff_id.get(layer) not in here:
                return f"the layer {layer}"
        if not image.layer_ids():
            config = self._layout.blob(image.id).read_bytes()
            lost = [layer for layer in config_layers(config, {}) if layer not in here and by_diff_id.get(layer) not in here]
            return f"the layer {min(lost)}" if lost else ""
        return ""

    def _records(self) -> Iterator[Finding]:
        here = {row.id for row in self._store.layers.rows()}
        for record in records(self._store.database):
            if record.fate is not None:
                continue
            document = record.document()
            if document is None or hashlib.sha256(record.doc).hexdigest() != record.id:
                message = f"the record {record.id[:12]} has other bytes than its name says, or cannot be read"
                yield self._found("check/record-damaged", message, "evict it", partial(self._evict, record))
                continue
            for layer in document.layers:
                # A foreign layer may be fetched again, so may one whose record came from a shared cache; one built here is only here.
                fetched = layer.id.startswith("sha256:") or layer.empty or layer.blob is not None
                if not fetched and layer.id not in here:
                    message = f"the record {record.id[:12]} needs the layer {layer.id}, which is not here"
                    yield self._found("check/record-orphaned", message, "evict it", partial(self._evict, record))
                    break

    def _facts(self) -> Iterator[Finding]:
        for table, column in (("selections", "listing"), ("http", "digest")):
            query = f"SELECT DISTINCT {column} FROM {table} WHERE {column} IS NOT NULL"
            for (digest,) in self._store.database.all(tuple[Digest], query):
                if not self._blob_here(digest):
                    yield self._found(
                        "check/blob-missing",
                        f"a remembered answer ({table}) names a blob that is not here ({digest})",
                        "forget the answer",
                        partial(self._forget, table, column, digest),
                    )

    def _view(self) -> Iterator[Finding]:
        path = self._layout.index
        if path.is_file() and path.read_bytes() == self._store.images.index():
            return
        if len(live(self._layout)) > 1:
            return  # another process has changed something and will write its view
        message = "index.json does not list the images of the store"
        yield self._found("check/index-stale", message, "write it again", self._store.images.write_index)

    def _leftovers(self) -> Iterator[Finding]:
        leases = live(self._layout)
        for folder in (self._layout.active, self._layout.tmp):
            for path in sorted(folder.iterdir()):
                owner = path.name.partition(".")[0]
                if owner not in leases:
                    message = f"{folder.name}/{path.name} was left by a process that is gone"
                    yield self._found("check/leftover", message, "remove it", partial(remove, path))

    def _evict(self, record: RecordRow) -> None:
        with self._store.database.write() as transaction:
            transaction.run("UPDATE records SET fate='evicted' WHERE id=?", (record.id,))

    def _forget(self, table: str, column: str, digest: Digest) -> None:
        with self._store.database.write() as transaction:
            transaction.run(f"DELETE FROM {table} WHERE {column}=?", (digest,))

    def _drop_layer(self, layer: LayerId) -> None:
        with self._store.database.write() as transaction:
            transaction.run("DELETE FROM layers WHERE id=?", (layer,))
        folder = self._layout.layer(layer)
        if folder.exists():
            self._trash(folder)

    def _trash(self, path: Path) -> None:
        target = self._layout.tmp / self._store.lease.name()
        path.rename(target)
        remove(target)

    def _blob_here(self, digest: Digest) -> bool:
        try:
            return self._layout.blob(digest).is_file()
        except BadName:
            return False


def _intact(path: Path, digest: Digest) -> bool:
    algorithm, _, wanted = digest.partition(":")
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, algorithm).hexdigest() == wanted
    except FileNotFoundError:
        return True  # collected while we looked
