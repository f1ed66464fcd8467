"""Streams with whatever compression; damage is one BadArchive with the archive's name."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
from collections.abc import Callable

import pytest

from lamina.engine.images.errors import BadArchive
from lamina.engine.images.unpacked import plain_stream

TEXT = b"some bytes " * 50_000
PACKERS = {"plain": lambda data: data, "gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress}


class OnePiece(io.RawIOBase):
    """A pipe that gives a byte at a time at first."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        return self._data.read(1 if self._data.tell() < 8 else size)


@pytest.mark.parametrize("name", PACKERS)
def test_the_plain_bytes(name: str) -> None:
    pack: Callable[[bytes], bytes] = PACKERS[name]
    with plain_stream(io.BytesIO(pack(TEXT)), "it") as plain:
        assert plain.read() == TEXT
    with plain_stream(OnePiece(pack(TEXT)), "it") as plain:  # type: ignore[arg-type]  # a RawIOBase is read like any BinaryIO here
        assert plain.read() == TEXT


def test_several_members_are_one_stream() -> None:
    with plain_stream(io.BytesIO(gzip.compress(b"one ") + gzip.compress(b"two")), "it") as plain:
        assert plain.read() == b"one two"
    with plain_stream(io.BytesIO(bz2.compress(b"one ") + bz2.compress(b"two")), "it") as plain:
        assert plain.read() == b"one two"


@pytest.mark.parametrize("name", [name for name in PACKERS if name != "plain"])
@pytest.mark.parametrize("how", ["cut", "flipped"])
def test_damage_names_the_archive(name: str, how: str) -> None:
    data = bytearray(PACKERS[name](TEXT))
    if how == "cut":
        del data[-20:]
    else:
        for place in range(len(data) // 2, len(data) // 2 + 8):
            data[place] ^= 0xFF
    with plain_stream(io.BytesIO(bytes(data)), "app.tar") as plain, pytest.raises(BadArchive, match=r"app\.tar"):
        plain.read()


def test_nothing_at_all() -> None:
    with plain_stream(io.BytesIO(b""), "it") as plain:
        assert plain.read() == b""
