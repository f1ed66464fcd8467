"""A stream without its compression, whatever it is: gzip (also several members), bzip2, xz, zstd, or plain, told by its first bytes."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from lamina.engine.images.errors import BadArchive
from lamina.layer.compress import BadCompression, Plain, open_compressed


@contextmanager
def plain_stream(source: BinaryIO, label: str) -> Iterator[BinaryIO]:
    """The plain bytes of `source`. Damage or a missing end of the compressed data is a BadArchive that names `label`."""
    try:
        plain = open_compressed(source)
    except BadCompression as error:
        raise BadArchive(f"{label}: {error.message}") from error
    yield io.BufferedReader(_Guarded(plain, label), 1 << 20)


class _Guarded(io.RawIOBase):
    """A file object over `plain`; its errors name the archive. Does not close what lies below."""

    def __init__(self, plain: Plain, label: str) -> None:
        self._plain = plain
        self._label = label

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer)  # type: ignore[arg-type]  # RawIOBase's buffer protocol type is only in typeshed's private module
        try:
            data = self._plain.read(len(view))
        except BadCompression as error:
            raise BadArchive(f"{self._label}: {error.message}") from error
        view[: len(data)] = data
        return len(data)
