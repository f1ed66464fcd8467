"""Compression of layers and archives, as streams: read whatever it is, write gzip or zstd. Libraries are imported when used.

gzip is written by isal (level 3: a tenth of zlib's time for 5 % more bytes; its bytes depend on the processor, so no key may name them),
zstd at level 3 by the standard library or its backport.
"""

from __future__ import annotations

import sys
from hashlib import sha256
from io import RawIOBase
from typing import IO, Literal, Protocol, cast

from lamina.diagnostics.errors import LaminaError
from lamina.oci.digest import Digest

Compression = Literal["", "gzip", "bzip2", "xz", "zstd"]
_MAGIC: tuple[tuple[bytes, Compression], ...] = (
    (b"\x1f\x8b\x08", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
)
_PIECE = 1 << 20
_FAULTS = frozenset({"IsalError", "ZstdError", "LZMAError", "BadGzipFile", "EOFError", "error"})


class BadCompression(LaminaError):
    """Compressed bytes that are damaged or cut off."""

    code = "layer/bad-compression"
    default_exit = 65


class Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class Sink(Protocol):
    def write(self, data: bytes, /) -> object: ...


def sniff(head: bytes) -> Compression:
    """By the first bytes (docker's archive detection); "" for none that is known. zstd's skippable frames count as zstd."""
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return name
    return "zstd" if len(head) >= 4 and head[1:4] == b"\x2a\x4d\x18" and 0x50 <= head[0] <= 0x5F else ""


class Plain:
    """`read` gives the bytes without their compression; damage is a BadCompression. `compression` says what it was."""

    def __init__(self, stream: Readable) -> None:
        head = b""
        while len(head) < 6 and (more := stream.read(_PIECE)):
            head += more
        self.compression = sniff(head)
        self._source = cast("IO[bytes]", _opened(_Rest(head, stream), self.compression))

    def read(self, size: int = -1, /) -> bytes:
        try:
            return self._source.read(size)
        except LaminaError:
            raise
        except Exception as error:
            # The libraries' own classes are not imported for this: each is lazy, and zlib's is just called "error".
            named = type(error).__name__ in _FAULTS or (isinstance(error, OSError) and error.errno is None)
            if not named:
                raise
            raise BadCompression(f"the {self.compression} data is damaged or cut off: {error}") from error


def open_compressed(stream: Readable) -> Plain:
    """Read `stream` through whatever compression its first bytes show; several members or frames in a row are one stream."""
    return Plain(stream)


class _Rest(RawIOBase):
    """A stream whose first bytes were read already, as the file object that decompressors want. The stream stays the caller's."""

    def __init__(self, head: bytes, stream: Readable) -> None:
        self._head = head
        self._stream = stream

    def read(self, size: int = -1, /) -> bytes:
        if self._head:
            piece = self._head if size < 0 else self._head[:size]
            self._head = self._head[len(piece) :]
            return piece
        return self._stream.read(_PIECE if size < 0 else size)

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]  # decompressors give a memoryview or bytearray
        piece = self.read(len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)

    def readable(self) -> bool:
        return True


def _opened(source: _Rest, compression: Compression) -> object:
    file = cast("IO[bytes]", source)
    if compression == "gzip":
        from isal import igzip

        return igzip.IGzipFile(fileobj=file, mode="rb")  # type: ignore[no-untyped-call]  # isal has no annotations
    if compression == "zstd":
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
        return zstd.ZstdFile(file, "rb")
    if compression == "bzip2":
        import bz2

        return bz2.BZ2File(file, "rb")
    if compression == "xz":
        import lzma

        return lzma.LZMAFile(file, "rb")
    return source


class _Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...
    def flush(self) -> bytes: ...


class Compressing:
    """A Sink: what is written goes compressed to `out`. After `close` the digests and sizes of both sides are known."""

    def __init__(self, out: Sink, compression: Literal["", "gzip", "zstd"]) -> None:
        self._out = out
        self._plain = sha256()
        self._packed = sha256()
        self.plain_size = 0
        self.size = 0
        self._compressor = _compressor(compression)
        if compression == "gzip":
            # No name, no time, system "unknown": nothing of this host.
            self._emit(b"\x1f\x8b\x08\0\0\0\0\0\0\xff")
            from isal import isal_zlib

            self._crc32 = isal_zlib.crc32
        self._gzip = compression == "gzip"
        self._crc = 0

    def write(self, data: bytes, /) -> int:
        self._plain.update(data)
        self.plain_size += len(data)
        if self._gzip:
            self._crc = self._crc32(data, self._crc)
        self._emit(self._compressor.compress(data) if self._compressor is not None else data)
        return len(data)

    def close(self) -> None:
        """Write the end. `out` stays open. Call once."""
        if self._compressor is not None:
            self._emit(self._compressor.flush())
        if self._gzip:
            self._emit(self._crc.to_bytes(4, "little") + (self.plain_size & 0xFFFFFFFF).to_bytes(4, "little"))

    @property
    def plain_digest(self) -> Digest:
        """Of what was written: a layer's diffID."""
        return Digest("sha256:" + self._plain.hexdigest())

    @property
    def digest(self) -> Digest:
        """Of what went out: the blob's digest."""
        return Digest("sha256:" + self._packed.hexdigest())

    def _emit(self, data: bytes) -> None:
        if data:
            self._packed.update(data)
            self.size += len(data)
            self._out.write(data)


def _compressor(compression: Literal["", "gzip", "zstd"]) -> _Compressor | None:
    if compression == "gzip":
        from isal import isal_zlib

        return isal_zlib.compressobj(3, isal_zlib.DEFLATED, -15)
    if compression == "zstd":
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
        parameter = zstd.CompressionParameter
        return zstd.ZstdCompressor(options={parameter.compression_level: 3, parameter.checksum_flag: 1})
    return None
