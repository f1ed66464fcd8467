"""Large bytes as chunks: their form in the cache, the recipe that says how to join them, and the joining. No chunker is needed here.

A chunk's name is the sha256 of its plain bytes; stored is one frame of zstd, so that writers with other releases of it still share. A recipe
is a blob: a frame of zstd with JSON. Two strands of chunks are woven by `runs`: a tar's headers change with every build (times), the files'
bytes do not, and apart from each other the bytes find their chunks again.
"""

from __future__ import annotations

import hashlib
import sys
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

import msgspec

from lamina.cache.remote.errors import CacheError
from lamina.cache.remote.names import chunk_name
from lamina.oci import typed
from lamina.oci.digest import Digest
from lamina.oci.unreadable import UNREADABLE

if TYPE_CHECKING:
    from concurrent.futures import Future

LARGEST = 4 << 20  # plain bytes of one chunk
STORED = LARGEST + (64 << 10)  # bytes of one stored chunk: what does not compress costs a little
DOCUMENT = 64 << 20  # plain bytes of a recipe or a listing
FORMAT = 1
_LEVEL = 3
_WINDOW = 23  # log2 of the most memory that a frame may ask for
AHEAD = 8  # chunks that are fetched before they are needed

_T = TypeVar("_T")


class BadChunk(CacheError):
    """A chunk, recipe or listing that is not what its name or its digest says."""

    code = "cache/bad-chunk"


class Chunk(msgspec.Struct, frozen=True, array_like=True):
    """`digest`: 64 hexadecimal digits, of the plain bytes; `size` of them."""

    digest: str
    size: int

    @property
    def name(self) -> str:
        return chunk_name(self.digest)


class Recipe(msgspec.Struct, frozen=True):
    """How `digest` (`size` bytes) is made: `runs` are lengths taken from strand 0, strand 1, 0, 1 and so on. `cut` names how the chunks
    were found, for people: joining does not depend on it."""

    digest: Digest
    size: int
    cut: str
    strands: tuple[tuple[Chunk, ...], tuple[Chunk, ...]]
    runs: tuple[int, ...]
    format: int = msgspec.field(default=FORMAT)

    def chunks(self) -> tuple[Chunk, ...]:
        """Each once."""
        return tuple(dict.fromkeys((*self.strands[0], *self.strands[1])))


def pack(data: bytes) -> bytes:
    """A stored chunk, recipe or listing."""
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return zstd.compress(data, level=_LEVEL)


def unpack(stored: bytes, limit: int) -> bytes:
    """BadChunk for what is no frame, has more than `limit` bytes or asks for much memory."""
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    try:
        frame = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _WINDOW})
        data = frame.decompress(stored, max_length=limit + 1)
    except (zstd.ZstdError, EOFError) as error:
        raise BadChunk(f"damaged compressed bytes: {error}") from error
    if len(data) > limit:
        raise BadChunk(f"more than {limit} bytes come out of {len(stored)}")
    if not frame.eof or frame.unused_data:
        raise BadChunk("compressed bytes that are cut off, or have others behind them")
    return data


def plain_chunk(name: str, stored: bytes) -> bytes:
    """The bytes of a stored chunk, which are what its name says; BadChunk otherwise."""
    data = unpack(stored, LARGEST)
    if hashlib.sha256(data).hexdigest() != name.rpartition("/")[2]:
        raise BadChunk(f"the chunk {name.rpartition('/')[2][:12]} has other bytes than its name says")
    return data


def dump(document: object) -> bytes:
    """A recipe or a listing as the blob that it travels as."""
    return pack(msgspec.json.encode(document, order="sorted"))


def load(stored: bytes, kind: type[_T]) -> _T:
    """BadChunk."""
    try:
        return typed.json(unpack(stored, DOCUMENT), type=kind)
    except UNREADABLE as error:
        raise BadChunk(f"a list of chunks cannot be read: {error}") from error


def load_recipe(stored: bytes) -> Recipe:
    """BadChunk for what is none, is of a newer format, or whose numbers do not fit each other."""
    recipe = load(stored, Recipe)
    if recipe.format != FORMAT:
        raise BadChunk(f"a recipe of format {recipe.format}; {FORMAT} is known")
    check_chunks((*recipe.strands[0], *recipe.strands[1]))
    taken = [sum(recipe.runs[strand::2]) for strand in (0, 1)]
    held = [sum(chunk.size for chunk in strand) for strand in recipe.strands]
    if any(run < 0 for run in recipe.runs) or taken != held or sum(held) != recipe.size:
        raise BadChunk("a recipe whose lengths do not fit each other")
    return recipe


def check_chunks(chunks: Sequence[Chunk]) -> None:
    """BadChunk unless every name and size is possible."""
    for chunk in chunks:
        if not 0 < chunk.size <= LARGEST:
            raise BadChunk(f"a chunk of {chunk.size} bytes")
        try:
            chunk_name(chunk.digest)
        except CacheError as error:
            raise BadChunk(error.message) from error


def join(recipe: Recipe, fetch: Callable[[Chunk], bytes]) -> Iterator[bytes]:
    """The bytes that the recipe makes. `fetch` gives a chunk's verified bytes and is called from several threads, for some chunks ahead.

    The whole is for the caller to verify against `recipe.digest`.
    """
    sources = _order(recipe)
    with Ahead([recipe.strands[strand][index] for strand, index in sources], fetch) as arriving:
        waiting: tuple[deque[memoryview], deque[memoryview]] = (deque(), deque())
        coming = iter(sources)
        for number, run in enumerate(recipe.runs):
            queue = waiting[number % 2]
            while run:
                while not queue:
                    strand, _ = next(coming)
                    waiting[strand].append(memoryview(arriving.take()))
                piece = queue.popleft()
                if len(piece) > run:
                    queue.appendleft(piece[run:])
                    piece = piece[:run]
                run -= len(piece)
                yield bytes(piece)


def _order(recipe: Recipe) -> list[tuple[int, int]]:
    """(strand, index) of the chunks as the runs come to need them."""
    found: list[tuple[int, int]] = []
    index, spare = [0, 0], [0, 0]
    for number, run in enumerate(recipe.runs):
        strand = number % 2
        while spare[strand] < run:
            found.append((strand, index[strand]))
            spare[strand] += recipe.strands[strand][index[strand]].size
            index[strand] += 1
        spare[strand] -= run
    return found


class Ahead:
    """Chunks in the order of `wanted`, some of them on their way before they are taken; one that comes again soon is fetched once."""

    def __init__(self, wanted: Sequence[Chunk], fetch: Callable[[Chunk], bytes]) -> None:
        from concurrent.futures import ThreadPoolExecutor

        self._wanted = wanted
        self._fetch = fetch
        self._next = 0  # of those that are taken
        self._asked = 0
        self._futures: OrderedDict[str, Future[bytes]] = OrderedDict()
        self._pool = ThreadPoolExecutor(AHEAD, thread_name_prefix="chunks")

    def __enter__(self) -> Ahead:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def take(self) -> bytes:
        while self._asked < min(len(self._wanted), self._next + AHEAD):
            self._ask(self._wanted[self._asked])
            self._asked += 1
        chunk = self._wanted[self._next]
        self._next += 1
        data = self._ask(chunk).result()
        if len(data) != chunk.size:
            raise BadChunk(f"the chunk {chunk.digest[:12]} has {len(data)} bytes; {chunk.size} were promised")
        while len(self._futures) > 2 * AHEAD:
            self._futures.popitem(last=False)
        return data

    def _ask(self, chunk: Chunk) -> Future[bytes]:
        found = self._futures.get(chunk.digest)
        if found is None:
            found = self._futures[chunk.digest] = self._pool.submit(self._fetch, chunk)
        self._futures.move_to_end(chunk.digest)
        return found
