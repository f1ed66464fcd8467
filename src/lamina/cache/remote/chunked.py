"""Large blobs of a shared cache as chunks: sent where that saves something, fetched by whoever wants them whole."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

import msgspec

from lamina.cache.remote.chunks import DOCUMENT, STORED, BadChunk, Chunk, Recipe, dump, join, load_recipe, pack, plain_chunk
from lamina.cache.remote.errors import CacheError, ObjectGone
from lamina.cache.remote.names import blob_name
from lamina.cache.remote.parallel import each
from lamina.cache.remote.protocols import whole
from lamina.oci.digest import Digest, sha256

if TYPE_CHECKING:
    from lamina.cache.remote.envelope import BlobRef
    from lamina.cache.remote.shared import BlobSink, SharedCache

WORTH = 0.2  # part of a blob's bytes that must be there already
_BATCH = 16  # chunks in memory while they are sent

Have = Callable[[Recipe], Callable[[Chunk], bytes | None]]
"""What this machine has of a recipe's chunks: asked once for each recipe, then for each chunk, from several threads."""


class Sent(msgspec.Struct, frozen=True):
    """`recipe`: the blob in the cache. `bytes`: what went out; `chunks`: how many of how many `of`."""

    recipe: Digest
    bytes: int
    chunks: int
    of: int


def send(cache: SharedCache, recipe: Recipe, wanted: Callable[[set[str]], Iterable[tuple[Chunk, bytes]]], *, saving: bool) -> Sent | None:
    """Chunks that the cache does not have, then the recipe. With `saving`: None, and no chunk is sent, unless a fifth of the bytes is there.

    `wanted` gives the chunks with these digests, each once. BadChunk when they are others than the recipe says.
    """
    chunks = {chunk.name: chunk for chunk in recipe.chunks()}
    there = cache.announce(list(chunks), ahead=True) if chunks else set()
    if saving and sum(chunks[name].size for name in there) < WORTH * sum(chunk.size for chunk in chunks.values()):
        return None
    count, size = send_chunks(cache, chunks, there, wanted)
    document = dump(recipe)
    return Sent(sha256(document), size + send_document(cache, document), count, len(chunks))


def send_document(cache: SharedCache, document: bytes) -> int:
    """A recipe or a listing, unless it is there; returns the bytes that went."""
    name = blob_name(sha256(document))
    return len(document) if name not in cache.announce([name]) and cache.objects.put(name, whole(document)) else 0


def send_chunks(
    cache: SharedCache, chunks: dict[str, Chunk], there: set[str], wanted: Callable[[set[str]], Iterable[tuple[Chunk, bytes]]]
) -> tuple[int, int]:
    """Those that are not `there` (as `announce` said). Returns how many went and their bytes."""
    absent = {chunk.digest for name, chunk in chunks.items() if name not in there}

    def one(pair: tuple[Chunk, bytes]) -> int:
        chunk, data = pair
        if hashlib.sha256(data).hexdigest() != chunk.digest:
            raise BadChunk("bytes changed while they were sent to the cache")
        stored = pack(data)
        return len(stored) if cache.objects.put(chunk.name, whole(stored)) else 0

    coming = iter(wanted(absent)) if absent else iter(())
    sizes: list[int] = []
    while batch := list(islice(coming, _BATCH)):
        sizes += each(one, batch)
    if len(sizes) != len(absent):
        raise BadChunk("bytes changed while they were sent to the cache")
    return len(sizes), sum(sizes)


def fetch(cache: SharedCache, blob: BlobRef, sink: BlobSink, on_bytes: Callable[[Digest, int], None] | None, have: Have | None) -> int:
    """The blob joined of its chunks into `sink`, each verified and the whole too; returns the bytes that came. ObjectGone, CacheError,
    DigestMismatch: nothing is kept."""
    assert blob.recipe is not None
    moved = 0
    recipe, size = read_recipe(cache, blob.recipe)
    moved += size
    if recipe.digest != blob.digest or recipe.size != blob.size:
        raise BadChunk(f"{cache.where}: the recipe {blob.recipe} makes another blob than its record says")
    here = have(recipe) if have is not None else None

    def one(chunk: Chunk) -> bytes:
        nonlocal moved
        data = here(chunk) if here is not None else None
        if data is None:
            data, size = read_chunk(cache, chunk)
            with cache.lock:
                moved += size
            if on_bytes:
                on_bytes(blob.digest, size)
        return data

    with sink.ingest(blob.digest) as writer:
        for piece in join(recipe, one):
            writer.write(piece)
        writer.commit()
    return moved


def read_recipe(cache: SharedCache, digest: Digest) -> tuple[Recipe, int]:
    """(recipe, stored bytes). ObjectGone, BadChunk."""
    stored = read_document(cache, digest)
    return load_recipe(stored), len(stored)


def read_document(cache: SharedCache, digest: Digest) -> bytes:
    """A small blob whole and verified: a recipe, a listing. ObjectGone, BadChunk (which notes it as damaged)."""
    name = blob_name(digest)
    stored = cache.objects.get(name, DOCUMENT)
    if stored is None:
        raise ObjectGone(f"{cache.where} has no {name}")
    if f"sha256:{hashlib.sha256(stored).hexdigest()}" != digest:
        cache.damaged(name)
        raise BadChunk(f"{cache.where}: {name} has other bytes than its name says")
    return stored


def read_chunk(cache: SharedCache, chunk: Chunk) -> tuple[bytes, int]:
    """(verified plain bytes, stored size). ObjectGone, BadChunk (which notes it as damaged)."""
    stored = cache.objects.get(chunk.name, STORED)
    if stored is None:
        raise ObjectGone(f"{cache.where} has no {chunk.name}")
    try:
        return plain_chunk(chunk.name, stored), len(stored)
    except CacheError:
        cache.damaged(chunk.name)
        raise


def streamed(pieces: Callable[[], Iterable[bytes]], recipe: Recipe) -> Callable[[set[str]], Iterator[tuple[Chunk, bytes]]]:
    """`wanted` of `send` from the whole bytes, which are read again."""
    from lamina.cache.remote.cutting import chunks_of

    return lambda wanted: chunks_of(recipe, pieces(), wanted)
