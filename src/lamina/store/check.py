"""`lamina check`: is everything in the store what its name and its row say? With `repair`, what is not is taken out of use.

Repair only ever removes what is damaged or points to nothing; steps and pulls make it again. Others may build and collect meanwhile: nothing
is held still, but what looks wrong is looked at again before it is said, in the order that no writer could have made it look so.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import msgspec

from lamina.oci.digest import Digest, LayerId
from lamina.store.errors import BadName, border
from lamina.store.layers import LayerRow, agrees, measure
from lamina.store.layout import Layout, digest_of, layer_of
from lamina.store.leases import live, standstill
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
                if not os.path.lexists(path):
                    continue  # collected since it was listed
                if digest is None or path.is_symlink() or (path.exists() and not path.is_file()):
                    yield self._found(
                        "check/foreign",
                        f"blobs/{folder.name}/{path.name} is no blob",
                        "remove it",
                        partial(self._trash, path),
                    )
                elif not _intact(path, digest):
                    yield self._found(
                        "check/blob-damaged",
                        f"the blob {digest} has other bytes than its name says",
                        "remove it",
                        partial(path.unlink, missing_ok=True),
                    )

    def _layers(self) -> Iterator[Finding]:
        rows = {row.id: row for row in self._store.layers.rows()}
        for row in rows.values():
            problem = self._layer_problem(row)
            if problem and self._store.layers.row(row.id) is not None:  # not collected meanwhile
                yield self._found(problem[0], problem[1], "forget it", partial(self._drop_layer, row.id))
            elif row.blob is not None and not self._blob_here(row.blob) and self._still_packed(row):
                yield self._found(
                    "check/blob-missing",
                    f"the layer {row.id} names a blob that is not here ({row.blob})",
                    "pack it again when needed",
                    partial(self._store.layers.set_blob, row.id, None),
                )
        for path in sorted(self._layout.layers.iterdir()):
            layer = layer_of(path.name)
            if layer not in rows and self._is_foreign(path, layer):
                yield self._found("check/foreign", f"layers/{path.name} belongs to no layer", "remove it", partial(self._trash, path))

    def _still_packed(self, row: LayerRow) -> bool:
        again = self._store.layers.row(row.id)
        return again is not None and again.blob is not None and again.blob == row.blob and not self._blob_here(again.blob)

    def _is_foreign(self, path: Path, layer: LayerId | None) -> bool:
        """A layer is pinned before its folder is there, and has its row before the pin goes; a collection drops rows first, in a standstill."""
        with standstill(self._layout):
            if layer is not None and layer in frozenset().union(*live(self._layout).values()):
                return False
            return os.path.lexists(path) and (layer is None or self._store.layers.row(layer) is None)

    def _layer_problem(self, row: LayerRow) -> tuple[str, str] | None:
        folder = self._layout.layer(row.id)
        if not (folder / "diff").is_dir():
            return "check/layer-missing", f"the folder of layer {row.id} is not here"
        try:
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
        except FileNotFoundError:
            if self._store.layers.row(row.id) is not None and folder.is_dir():
                raise
        return None

    def _images(self) -> Iterator[Finding]:
        rows = self._store.layers.rows()
        for image in images(self._store.database):
            missing = self._missing_of(image, rows)
            if missing and self._still(image) and (missing := self._missing_of(image, self._store.layers.rows())) and self._still(image):
                yield self._found(
                    "check/image-incomplete",
                    f"the image {image.id[7:19]} lacks {missing}",
                    "remove the image and its names",
                    partial(self._store.images.remove, image.id, force=True),
                )

    def _still(self, image: ImageRow) -> bool:
        """Whether it is an image yet: its row goes before anything of it is collected."""
        query = "SELECT id FROM images WHERE id=? AND manifest=?"
        return self._store.database.first(tuple[Digest], query, (image.id, image.manifest)) is not None

    def _missing_of(self, image: ImageRow, rows: Sequence[LayerRow]) -> str:
        for what, digest in (("its manifest", image.manifest), ("its config", image.id)):
            if not self._blob_here(digest):
                return f"{what} ({digest})"
        packed = all(self._blob_here(digest) for digest in image.blob_digests())
        if packed and image.blob_digests():
            return ""
        here: set[str] = {row.id for row in rows} | {row.diff_id for row in rows if row.diff_id is not None}
        for layer in image.layer_ids():
            if layer not in here:
                return f"the layer {layer}"
        if not image.layer_ids():
            try:
                config = self._layout.blob(image.id).read_bytes()
            except FileNotFoundError:
                return f"its config ({image.id})"
            lost = [layer for layer in config_layers(config, {}) if layer not in here]
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
                if not fetched and layer.id not in here and self._is_orphan(record, layer.id):
                    message = f"the record {record.id[:12]} needs the layer {layer.id}, which is not here"
                    yield self._found("check/record-orphaned", message, "evict it", partial(self._evict, record))
                    break

    def _is_orphan(self, record: RecordRow, layer: LayerId) -> bool:
        """A layer goes together with its records, and comes before them."""
        query = "SELECT id FROM records WHERE id=? AND fate IS NULL"
        return all(
            self._store.layers.row(layer) is None and self._store.database.first(tuple[str], query, (record.id,)) is not None
            for _ in range(2)
        )

    def _facts(self) -> Iterator[Finding]:
        for table, column in (("selections", "listing"), ("http", "digest")):
            query = f"SELECT DISTINCT {column} FROM {table} WHERE {column} IS NOT NULL"
            for (digest,) in self._store.database.all(tuple[Digest], query):
                if not self._blob_here(digest) and self._is_remembered(table, column, digest) and not self._blob_here(digest):
                    yield self._found(
                        "check/blob-missing",
                        f"a remembered answer ({table}) names a blob that is not here ({digest})",
                        "forget the answer",
                        partial(self._forget, table, column, digest),
                    )

    def _is_remembered(self, table: str, column: str, digest: Digest) -> bool:
        """An answer is forgotten before its blob goes."""
        return self._store.database.first(tuple[Digest], f"SELECT {column} FROM {table} WHERE {column}=?", (digest,)) is not None

    def _view(self) -> Iterator[Finding]:
        path = self._layout.index
        for _ in range(2):  # who changed something may have ended, its view written, between our looks
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
                # Who began since has its lease before anything else, who ended has taken all away.
                if owner not in leases and owner not in live(self._layout) and os.path.lexists(path):
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
        try:
            path.rename(target)
        except FileNotFoundError:
            return  # collected meanwhile
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
