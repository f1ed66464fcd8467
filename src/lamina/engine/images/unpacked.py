"""A stream without its compression, whatever it is: gzip (also several members), zstd, or plain, told by its first bytes."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, BinaryIO, cast

from lamina.engine.images.errors import BadArchive

_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_OTHERS = {b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz"}


class _Peeked(io.RawIOBase):
    """The first bytes again, then the rest. Does not close what lies below."""

    def __init__(self, head: bytes, rest: BinaryIO) -> None:
        self._head = head
        self._rest = rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer)  # type: ignore[arg-type]  # RawIOBase's buffer protocol type is only in typeshed's private module
        data, self._head = self._head[: len(view)], self._head[len(view) :]
        data = data or self._rest.read(len(view))
        view[: len(data)] = data
        return len(data)


@contextmanager
def plain_stream(source: BinaryIO, label: str) -> Iterator[BinaryIO]:
    """The plain bytes of `source`. Damage or a missing end of the compressed data is a BadArchive that names `label`."""
    head = b""
    while len(head) < 6 and (more := source.read(6 - len(head))):
        head += more
    for magic, name in _OTHERS.items():
        if head.startswith(magic):
            raise BadArchive(f"{label} is compressed with {name}; gzip, zstd and none are known here")
    raw = io.BufferedReader(_Peeked(head, source), 1 << 18)
    if head.startswith(_GZIP):
        from isal import igzip

        plain: BinaryIO = cast(BinaryIO, igzip.IGzipFile(fileobj=raw, mode="rb"))  # type: ignore[no-untyped-call]  # isal has no annotations
    elif head.startswith(_ZSTD):
        plain = cast(BinaryIO, _zstd(raw))
    else:
        yield raw
        return
    with plain:
        yield io.BufferedReader(_Guarded(plain, label), 1 << 20)


class _Guarded(io.RawIOBase):
    """The border for what decompressors raise."""

    def __init__(self, plain: BinaryIO, label: str) -> None:
        self._plain = plain
        self._label = label

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer)  # type: ignore[arg-type]  # see _Peeked
        try:
            data = self._plain.read(len(view))
        except EOFError as error:
            raise BadArchive(f"{self._label} is cut off") from error
        except BadArchive:
            raise
        except Exception as error:
            # igzip and zstd have error classes of their own beside OSError; both are imported lazily, so told by name.
            if type(error).__name__ in ("IsalError", "error", "ZstdError", "BadGzipFile"):
                raise BadArchive(f"{self._label} is damaged: {error}") from error
            raise
        view[: len(data)] = data
        return len(data)


def _zstd(raw: IO[bytes]) -> IO[bytes]:
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return cast(IO[bytes], zstd.ZstdFile(raw, "rb"))
