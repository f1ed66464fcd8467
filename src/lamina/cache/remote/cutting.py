"""Where a layer's tar is cut into chunks (extra `chunks`: pyfastcdc). Writers need this; readers join what a recipe says (chunks.py).

No key and no digest depends on where the cuts are: they decide only how much two versions share.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING

from lamina.cache.remote.chunks import Chunk, Recipe
from lamina.oci.digest import Digest

if TYPE_CHECKING:
    from pyfastcdc import FastCDC

SMALLEST = 8 << 20  # bytes of a tar; a smaller one goes whole
CUT = "fastcdc2020 262144/524288/2097152 nc2; tar headers apart"
_MIN, _AVERAGE, _MAX = 256 << 10, 512 << 10, 2 << 20
_BLOCK = 512
_APART = 4 << 10  # bytes; a smaller file stays with the headers around it: each run costs some bytes of the recipe
_LARGEST_EXTENDED = 1 << 20

Pieces = Callable[[], Iterable[bytes]]


def available() -> bool:
    """Whether the extra is installed."""
    return find_spec("pyfastcdc") is not None


def cut(pieces: Iterable[bytes]) -> Recipe:
    """The recipe of these bytes; reads them once and keeps no more than a few chunks of them."""
    whole, size = hashlib.sha256(), 0
    strands = (_Strand(), _Strand())
    runs = [0]
    for strand, piece in apart(pieces):
        whole.update(piece)
        size += len(piece)
        if (len(runs) - 1) % 2 != strand:
            runs.append(0)
        runs[-1] += len(piece)
        strands[strand].write(piece)
    for one in strands:
        one.close()
    return Recipe(Digest(f"sha256:{whole.hexdigest()}"), size, CUT, (tuple(strands[0].chunks), tuple(strands[1].chunks)), tuple(runs))


def chunks_of(recipe: Recipe, pieces: Iterable[bytes], wanted: set[str]) -> Iterator[tuple[Chunk, bytes]]:
    """The wanted chunks (by digest, each once) of the same bytes, cut again as the recipe says. Not verified: the bytes may have changed."""
    left = (list(reversed(recipe.strands[0])), list(reversed(recipe.strands[1])))
    held = (bytearray(), bytearray())
    missing = set(wanted)
    runs = iter(enumerate(recipe.runs))
    number, run = next(runs, (0, 0))
    for piece in pieces:
        view = memoryview(piece)
        while view:
            while not run:
                following = next(runs, None)
                if following is None:
                    return
                number, run = following
            strand = number % 2
            held[strand].extend(view[:run])
            taken = min(run, len(view))
            view = view[taken:]
            run -= taken
            while left[strand] and len(held[strand]) >= left[strand][-1].size:
                chunk = left[strand].pop()
                if chunk.digest in missing:
                    missing.discard(chunk.digest)
                    yield chunk, bytes(held[strand][: chunk.size])
                del held[strand][: chunk.size]


def apart(pieces: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """(1, bytes of a larger file) and (0, all else) of a tar, in order. What is no tar, from there on: 1."""
    held = bytearray()
    skipping = 0  # bytes of a body and its padding that stay with the headers
    body = 0  # bytes of a larger file
    lost = False
    for piece in pieces:
        held += piece
        at = 0
        while at < len(held):
            if lost or body:
                end = len(held) if lost else min(len(held), at + body)
                yield 1, bytes(held[at:end])
                body -= 0 if lost else end - at
                at = end
            elif skipping:
                end = min(len(held), at + skipping)
                yield 0, bytes(held[at:end])
                skipping -= end - at
                at = end
            elif len(held) - at < _BLOCK:
                break
            else:
                found = _body(bytes(held[at : at + _BLOCK]))
                if found is None:
                    lost = True
                    continue
                yield 0, bytes(held[at : at + _BLOCK])
                at += _BLOCK
                size, padding, own = found
                if own:
                    # The padding is headers' business again; it is less than a block and comes right behind the body.
                    body, skipping = size, padding
                else:
                    skipping = size + padding
        del held[:at]
    if held:
        yield 0, bytes(held)


def _body(header: bytes) -> tuple[int, int, bool] | None:
    """(size, padding, whether it goes apart) of what follows a header; None when it is none."""
    if header.count(0) == _BLOCK:
        return 0, 0, False
    kind, field = header[156:157], header[124:136]
    if header[257:262] != b"ustar":
        return None
    try:
        size = int.from_bytes(field[1:], "big") if field[0] == 0x80 else int(field.strip(b" \0") or b"0", 8)
    except ValueError:
        return None
    if size < 0 or (kind in b"xgLK" and size > _LARGEST_EXTENDED):
        return None
    if kind in (b"1", b"2", b"3", b"4", b"5", b"6"):
        size = 0
    return size, -size % _BLOCK, kind in (b"0", b"\0") and size >= _APART


class _Strand:
    """Bytes in, chunks out: cut by content with at most one chunk and one piece in memory."""

    def __init__(self) -> None:
        self.chunks: list[Chunk] = []
        self._held = bytearray()
        self._cutter = _cutter()

    def write(self, piece: bytes) -> None:
        self._held += piece
        if len(self._held) >= 4 * _MAX:
            self._cut(last=False)

    def close(self) -> None:
        self._cut(last=True)

    def _cut(self, *, last: bool) -> None:
        """What is less than the largest chunk away from the end may be cut otherwise when more has come."""
        data = bytes(self._held)
        at = 0
        for found in self._cutter.cut_buf(data):
            if not last and len(data) - at < _MAX:
                break
            part = data[at : at + found.length]
            self.chunks.append(Chunk(hashlib.sha256(part).hexdigest(), len(part)))
            at += found.length
        del self._held[:at]


def _cutter() -> FastCDC:
    from pyfastcdc import FastCDC

    return FastCDC(_AVERAGE, min_size=_MIN, max_size=_MAX, normalized_chunking=2)
