"""Layers on their way to and from shared caches as chunks: of the plain tar, for compressed bytes share nothing with those of a neighbour.

What a layer was cut into is remembered (a small blob and a fact), so that it is cut once, and so that a machine which has last week's layer
fetches of this week's only what is new. All of it may be lost.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from typing import IO, TYPE_CHECKING

from lamina.cache.record import LayerRef, Record
from lamina.cache.remote.chunks import BadChunk, Chunk, Recipe, dump, load_recipe
from lamina.cache.remote.envelope import BlobRef
from lamina.cache.remote.names import blob_name
from lamina.oci.digest import DiffId, Digest
from lamina.oci.manifest import OCI_LAYER
from lamina.store.local import LocalStore
from lamina.store.protocols import BlobNotFound

if TYPE_CHECKING:
    from lamina.cache.remote.shared import SharedCache

_FORM = "recipe"
_LOOKED_AT = 64  # remembered recipes
_SOURCES = 3  # layers that are read again to save a download
_WORTH_READING = 0.1  # part of such a layer that must be new to what the others gave


class ChunkedLayers:
    """Thread-safe. `told` gets one line where chunks were asked for and cannot be made."""

    def __init__(self, store: LocalStore, told: Callable[[str], None]) -> None:
        self._store = store
        self._told = told
        self._lock = threading.Lock()
        self._sent: dict[tuple[int, DiffId], BlobRef | None] = {}
        self._complained = False
        self.bytes = 0  # that went out

    def send(self, cache: SharedCache, record: Record, layer: LayerRef, diff_id: DiffId, size: int) -> BlobRef | None:
        """The layer as chunks in the cache, with what is missing sent; None: it goes whole.

        A step's first version goes whole: chunks cost more requests, and most layers never get another. Its second is cut, for the sake of
        those to come; later ones go as chunks where a fifth of their bytes is there. `size`: of the tar.
        """
        from lamina.cache.remote import cutting

        if size < cutting.SMALLEST or cache.chunks is False:
            return None
        asked = id(cache), diff_id
        with self._lock:
            if asked in self._sent:
                return self._sent[asked]
        made = self._decided(cache, record, layer, diff_id)
        with self._lock:
            self._sent[asked] = made
        return made

    def _decided(self, cache: SharedCache, record: Record, layer: LayerRef, diff_id: DiffId) -> BlobRef | None:
        from lamina.cache.remote import cutting

        own = layer is record.layers[-1]
        others = [one for one in cache.neighbours(record.place, 2, quick=True) if one.key != record.key] if own else []
        if own and not others and not cache.chunks:
            return None
        recipe = self.remembered(diff_id)
        if recipe is None:
            whole = self._store.facts.packed(diff_id, "zstd")
            if whole is not None and cache.objects.exists([blob_name(whole.digest)]):
                return None
            if not cutting.available():
                self._complain(cache)
                return None
            recipe = cutting.cut(self._tar(layer, diff_id))
            if DiffId(recipe.digest) != diff_id:
                return None  # the directory was changed: packing the layer whole says so
            self.remember(recipe)
        cut_before = any(one.recipe is not None for other in others for one in other.layers[-1:])
        return self._send(cache, layer, recipe, saving=cut_before or not own)

    def have(self, recipe: Recipe) -> Callable[[Chunk], bytes | None]:
        """Chunks of a recipe that layers of this machine have: read once, in order, into a temporary file."""
        import tempfile  # brings all archive formats with it

        self.remember(recipe)
        wanted = {chunk.digest for chunk in recipe.chunks()}
        found: dict[str, tuple[int, int]] = {}
        spool = tempfile.TemporaryFile(dir=self._store.scratch())  # noqa: SIM115  # closed with the last reference to `read`
        lock = threading.Lock()
        for source in self._sources(wanted):
            missing = {chunk.digest: chunk.size for chunk in source.chunks() if chunk.digest in wanted and chunk.digest not in found}
            if sum(missing.values()) > _WORTH_READING * source.size:
                self._collect(source, set(missing), spool, found)

        def read(chunk: Chunk) -> bytes | None:
            place = found.get(chunk.digest)
            if place is None:
                return None
            with lock:
                spool.seek(place[0])
                return spool.read(place[1])

        return read

    def remember(self, recipe: Recipe) -> None:
        stored = self._store.blobs.put(dump(recipe))
        self._store.facts.set_packed(DiffId(recipe.digest), _FORM, stored, recipe.size)

    def remembered(self, diff_id: DiffId) -> Recipe | None:
        known = self._store.facts.packed(diff_id, _FORM)
        return None if known is None else self._recipe(known.digest)

    def _send(self, cache: SharedCache, layer: LayerRef, recipe: Recipe, *, saving: bool) -> BlobRef | None:
        from lamina.cache.remote import chunked

        diff_id = DiffId(recipe.digest)
        sent = chunked.send(cache, recipe, chunked.streamed(lambda: self._tar(layer, diff_id), recipe), saving=saving)
        if sent is None:
            return None
        with self._lock:
            self.bytes += sent.bytes
        return BlobRef(recipe.digest, recipe.size, "layer", layer.id, OCI_LAYER, sent.recipe)

    def _tar(self, layer: LayerRef, diff_id: DiffId) -> Iterator[bytes]:
        from lamina.engine.registries.packing import plain_pieces

        return plain_pieces(self._store, layer.id, diff_id)

    def _recipe(self, stored: Digest) -> Recipe | None:
        try:
            return load_recipe(self._store.blobs.read(stored))
        except (BlobNotFound, BadChunk):
            return None

    def _sources(self, digests: set[str]) -> list[Recipe]:
        """Of layers that are here, those with most of the bytes first."""
        worth: list[tuple[int, Recipe]] = []
        for diff_id, form in self._store.facts.packed_as(_FORM, _LOOKED_AT):
            if self._store.layers.with_diff_id(diff_id) is None:
                continue
            known = self._recipe(form.digest)
            if known is not None:
                shared = sum(chunk.size for chunk in known.chunks() if chunk.digest in digests)
                if shared:
                    worth.append((shared, known))
        worth.sort(key=lambda pair: -pair[0])
        return [known for _, known in worth[:_SOURCES]]

    def _collect(self, source: Recipe, wanted: set[str], spool: IO[bytes], found: dict[str, tuple[int, int]]) -> None:
        from lamina.cache.remote.cutting import chunks_of
        from lamina.diagnostics.errors import LaminaError

        row = self._store.layers.with_diff_id(DiffId(source.digest))
        if row is None or not wanted:
            return
        try:
            for chunk, data in chunks_of(source, self._tar(LayerRef(row.id), DiffId(source.digest)), wanted):
                if hashlib.sha256(data).hexdigest() == chunk.digest:
                    at = spool.seek(0, 2)
                    spool.write(data)
                    found[chunk.digest] = at, len(data)
        except LaminaError:
            return  # a damaged layer saves nothing; its own users are told

    def _complain(self, cache: SharedCache) -> None:
        with self._lock:
            before, self._complained = self._complained, True
        if cache.chunks and not before:
            self._told(f"{cache.where}: chunks=true needs the extra `chunks` (pip install 'lamina[chunks]'); layers go whole")
