"""Layers as the engine sees them: present or not, viewed without mounting, kept after a step, their diffIDs hashed beside the build."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from lamina.cache.record import LayerRef
from lamina.engine.beside import Beside, Later
from lamina.engine.results import Filesystem
from lamina.layer.flavour import Flavour
from lamina.layer.view import LayerView
from lamina.oci.digest import DiffId, LayerId
from lamina.sandbox.protocols import CancelToken
from lamina.store.layers import ActiveLayer, LayerFacts
from lamina.store.local import LocalStore
from lamina.store.removal import remove

if TYPE_CHECKING:
    from lamina.layer.ahead import Ahead
    from lamina.layer.sums import Sum

Fetch = Callable[[LayerRef, CancelToken], bool]
"""Gets a foreign layer (of a base image) into the store; False when nobody has it."""


class Kept(msgspec.Struct, frozen=True):
    layer: LayerRef
    diff: str  # digest of the normalised diff


class LayerKeeper:
    """Thread-safe. `close` waits for nothing; `diff_ids` does."""

    def __init__(self, store: LocalStore, fetch: Fetch) -> None:
        self._store = store
        self._fetch = fetch
        self._lock = threading.Lock()
        self._here: dict[LayerId, Path] = {}  # were found; the store's lease keeps them, and each step of many names all those below it
        self.fetch_blobs: Callable[[Sequence[LayerRef]], None] | None = (
            None  # of layers that other machines built; set where a cache is shared
        )
        self._hashing: dict[LayerId, Later[DiffId]] = {}
        self.beside = Beside(2, "lamina-beside")  # for what the next step need not wait for
        self._ahead: list[Ahead] = []
        self._going: set[Path] = set()  # what is left of active layers, removed beside the build

    @property
    def flavour(self) -> Flavour:
        return self._store.flavour

    def all_present(self, layers: Sequence[LayerRef]) -> bool:
        wanted = {layer.id for layer in layers}
        return len(self._present(wanted)) == len(wanted)

    def _present(self, layers: Collection[LayerId]) -> dict[LayerId, Path]:
        """Those that are here, with their `diff` folders."""
        unknown = [layer for layer in layers if layer not in self._here]
        if unknown:
            self._here |= self._store.layers.present(unknown)
        return {layer: self._here[layer] for layer in layers if layer in self._here}

    def make_present(self, layers: Sequence[LayerRef], cancel: CancelToken) -> bool:
        """Fetch what is a base image's and not here; False when a layer built here is gone."""
        wanted = {layer.id: layer for layer in layers}
        here = self._present(wanted)
        away = [layer for name, layer in wanted.items() if name not in here and name.startswith("diff:")]
        if away and self.fetch_blobs is not None:
            self.fetch_blobs([layer for layer in away if layer.blob is not None and self._store.blobs.missing([layer.blob])])
        for name, layer in wanted.items():
            if name in here:
                continue
            if name.startswith("diff:"):
                if not self._unpack(layer):
                    return False
            elif not self._fetch(layer, cancel):
                return False
        return True

    def _unpack(self, layer: LayerRef) -> bool:
        """Make the directory of a layer that was built elsewhere (or archived) out of its blob. False when nobody has the blob.

        The record is believed in nothing: the tar must have the diffID, and the directory the normalised diff that it is named by.
        """
        from lamina.engine.images.layers import ensure_built_layer

        if layer.blob is None or layer.diff_id is None or self._store.blobs.missing([layer.blob]):
            return False
        ensure_built_layer(self._store, layer.id, layer.diff_id, layer.blob)
        return True

    def folders(self, layers: Sequence[LayerRef]) -> list[Path]:
        """Layer directories (each with `diff/` and maybe `extra`), bottom first. They must be present."""
        paths = self._present({layer.id for layer in layers})
        return [paths[layer.id].parent for layer in layers]

    def lowers(self, filesystem: Filesystem) -> list[Path]:
        """The `diff` folders for an overlay, bottom first, each once: a layer that stands twice shows its upper place."""
        wanted = list(dict.fromkeys(layer.id for layer in reversed(filesystem.layers)))
        paths = self._present(wanted)
        return [paths[layer] for layer in reversed(wanted)]

    def view(self, layers: Sequence[LayerRef]) -> LayerView:
        return LayerView(self.folders(layers), self._store.flavour)

    def folder(self, layer: LayerRef) -> Path | None:
        """The layer's directory (`diff` and what lies beside it), None when it is not here."""
        found = self._present((layer.id,)).get(layer.id)
        return None if found is None else found.parent

    @contextmanager
    def active(self) -> Iterator[ActiveLayer]:
        """A new layer; discarded unless `keep` took it."""
        active = self._store.layers.begin()
        try:
            yield active
        finally:
            if active.path not in self._going and active.path.exists():
                self._store.layers.discard(active)

    def keep(
        self, active: ActiveLayer, known: Mapping[bytes, Sum] | None = None, ahead: Ahead | None = None, *, copied: bool = False
    ) -> Kept:
        """Name the layer by its normalised diff; an equal one that is here already is taken over.

        `known`: files that need not be looked at again. `ahead`: hashes the layer already; this object closes it. `copied`: a layer of
        COPY or ADD, whose next version may share files with it.
        """
        if ahead is not None:
            with self._lock:
                self._ahead.append(ahead)
        from lamina.layer import sums  # only where something ran
        from lamina.layer.normal import normalise

        folder = active.upper.parent
        files: dict[bytes, Sum] | None = {} if copied else None
        told = ahead.told if ahead is not None else None
        normal = normalise(folder, self._store.flavour, known, files, told)
        if files is not None and len(files) >= sums.FEW:
            sums.write(folder, files)
        layer = LayerId("diff:" + normal.digest.rpartition(":")[2])
        self._store.layers.commit(
            active, layer, LayerFacts(diff=normal.digest, measured=normal.on_disk if copied else None), self._remove_later
        )
        row = self._store.layers.row(layer)
        if row is None or row.diff_id is None:
            if ahead is not None and not normal.as_told:
                ahead.close()
            self._start_hashing(layer, files, ahead)
        return Kept(LayerRef(id=layer, size=normal.size, empty=normal.entries == 0), normal.digest)

    def _start_hashing(self, layer: LayerId, known: Mapping[bytes, Sum] | None = None, ahead: Ahead | None = None) -> None:
        with self._lock:
            if layer not in self._hashing:
                self._hashing[layer] = self.beside.submit(lambda: self._hash(layer, known, ahead))

    def _remove_later(self, path: Path) -> None:
        def act() -> None:
            with suppress(OSError):  # the store's closing sweeps
                remove(path)

        with self._lock:
            self._going.add(path)
        with suppress(RuntimeError):  # the build has been given up
            self.beside.submit(act)

    def _hash(self, layer: LayerId, known: Mapping[bytes, Sum] | None, ahead: Ahead | None) -> DiffId:
        from lamina.layer.pack import diff_id

        path = self._store.layers.path(layer)
        assert path is not None
        found, size = (ahead.result() if ahead is not None else None) or diff_id(path.parent, self._store.flavour, known)
        self._store.layers.set_diff_id(layer, found, size)
        return found

    def diff_ids(self, layers: Sequence[LayerRef]) -> list[DiffId]:
        """Of layers bottom first; waits for those that are being hashed. They must be present or known."""
        rows = {row.id: row for row in self._store.layers.rows({layer.id for layer in layers})}
        result: list[DiffId] = []
        for layer in layers:
            row = rows.get(layer.id)
            if layer.id.startswith("sha256:"):
                result.append(DiffId(layer.id))
            elif row is not None and row.diff_id is not None:
                result.append(row.diff_id)
            elif row is None and layer.diff_id is not None:
                result.append(layer.diff_id)
            else:
                self._start_hashing(layer.id)
                with self._lock:
                    later = self._hashing[layer.id]
                result.append(later.result())
        return result

    def packed_sizes(self, layers: Sequence[LayerRef]) -> dict[DiffId, int]:
        """Bytes of the tars of layers built here, as counted when they were hashed."""
        rows = self._store.layers.rows({layer.id for layer in layers})
        told = {layer.diff_id: layer.packed for layer in layers if layer.diff_id is not None and layer.packed}
        return told | {row.diff_id: row.packed for row in rows if row.diff_id is not None and row.packed is not None}

    def close(self) -> None:
        self.beside.close()
        for ahead in self._ahead:
            ahead.close()
