"""Streams through each compression, there and back; damage is one error."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import shutil
import subprocess
from hashlib import sha256
from typing import Literal

import pytest

from lamina.layer.compress import BadCompression, Compressing, open_compressed, sniff

DATA = b"".join(b"%d lines of text\n" % number for number in range(100_000)) + os.urandom(100_000)


def zstd(data: bytes) -> bytes:
    out = io.BytesIO()
    sink = Compressing(out, "zstd")
    sink.write(data)
    sink.close()
    return out.getvalue()


PACKERS = {
    "gzip": lambda data: gzip.compress(data, 1),
    "bzip2": bz2.compress,
    "xz": lambda data: lzma.compress(data, preset=0),
    "zstd": zstd,
}


class Pipe(io.BytesIO):
    """Gives at most 1000 bytes at once."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(1000 if size is None or size < 0 else min(size, 1000))


def unpacked(data: bytes, stream: type[io.BytesIO] = io.BytesIO) -> bytes:
    plain = open_compressed(stream(data))
    return b"".join(iter(lambda: plain.read(1 << 16), b""))


@pytest.mark.parametrize("name", PACKERS)
def test_whatever_it_is_it_is_read(name: str) -> None:
    packed = PACKERS[name](DATA)
    assert sniff(packed) == open_compressed(io.BytesIO(packed)).compression == name
    assert unpacked(packed) == DATA
    assert unpacked(packed[:5000] + packed[5000:], Pipe) == DATA
    assert unpacked(packed + packed) == DATA + DATA, "members in a row are one stream"


@pytest.mark.parametrize("data", [b"", b"a", b"\x1f", b"plain text", DATA], ids=["empty", "a", "half of a magic", "text", "much"])
def test_plain_bytes_pass(data: bytes) -> None:
    assert unpacked(data) == unpacked(data, Pipe) == data
    assert open_compressed(io.BytesIO(data)).compression == ""


@pytest.mark.parametrize("name", PACKERS)
@pytest.mark.parametrize("damage", ["cut", "changed", "head only"])
def test_damage_is_one_error(name: str, damage: str) -> None:
    packed = PACKERS[name](DATA)
    middle = len(packed) // 2
    if damage == "cut":
        packed = packed[:-10]
    elif damage == "changed":
        packed = packed[:middle] + bytes(64) + packed[middle + 64 :]
    else:
        packed = packed[:8]
    with pytest.raises(BadCompression, match=name):
        unpacked(packed)


class Broken(io.BytesIO):
    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell() > 5000:
            raise OSError(5, "Input/output error")
        return super().read(min(size or 0, 1000))


def test_faults_of_the_source_pass() -> None:
    with pytest.raises(OSError, match="Input/output"):
        unpacked(gzip.compress(DATA), Broken)


@pytest.mark.parametrize("name", ["", "gzip", "zstd"])
def test_writing_hashes_both_sides(name: Literal["", "gzip", "zstd"]) -> None:
    outs = []
    for pieces in ([DATA], [DATA[:1], DATA[1:1_000_000], b"", DATA[1_000_000:]]):
        out = io.BytesIO()
        sink = Compressing(out, name)
        for piece in pieces:
            sink.write(piece)
        sink.close()
        packed = out.getvalue()
        assert sink.plain_digest == "sha256:" + sha256(DATA).hexdigest()
        assert sink.digest == "sha256:" + sha256(packed).hexdigest()
        assert (sink.plain_size, sink.size) == (len(DATA), len(packed))
        assert unpacked(packed) == DATA
        outs.append(packed)
    assert sniff(outs[0]) == name


def test_gzip_is_gzip_without_anything_of_this_host() -> None:
    out = io.BytesIO()
    sink = Compressing(out, "gzip")
    sink.write(DATA)
    sink.close()
    assert gzip.decompress(out.getvalue()) == DATA
    assert out.getvalue()[:10] == b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
    if shutil.which("gzip"):
        assert subprocess.run(["gzip", "-dc"], input=out.getvalue(), capture_output=True, check=True).stdout == DATA


def test_nothing_written_is_still_a_stream() -> None:
    for name in ("gzip", "zstd"):
        out = io.BytesIO()
        Compressing(out, "gzip" if name == "gzip" else "zstd").close()
        assert unpacked(out.getvalue()) == b""
