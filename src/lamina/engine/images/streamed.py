"""An archive that comes once, from its beginning to its end: what is large becomes a blob as it comes, so that it is written and hashed once."""

from __future__ import annotations

import io
from typing import BinaryIO

from lamina.engine.images.errors import BadArchive
from lamina.engine.images.incoming import CHUNK
from lamina.engine.images.tar import EXTENDED, Headers
from lamina.oci.digest import Digest
from lamina.store.protocols import BlobStore

_BLOCK = 512
_SMALL = 1 << 16  # bytes; such members are kept in memory
_MOST_SMALL = 1 << 25  # bytes of them all; then they become blobs, too
Held = bytes | tuple[Digest, int] | str
"""A member's bytes, its blob, or the name of the member that it is a link to."""


class StreamedFiles:
    """Files of a tar without compression, which is read to its end here. BadArchive. Blobs that nobody needs are garbage."""

    def __init__(self, source: BinaryIO, label: str, blobs: BlobStore, limit: int) -> None:
        self._label = label
        self._blobs = blobs
        self._members: dict[str, Held] = {}
        self._source = source
        self._at = 0
        self._limit = limit
        try:
            self._take_all()
        except BadArchive as error:
            raise BadArchive(f"{label}: {error.message}") from error

    @property
    def label(self) -> str:
        return self._label

    def read(self, name: str, limit: int) -> bytes | None:
        found = self._find(name)
        size = len(found) if isinstance(found, bytes) else found[1] if found is not None else 0
        if size > limit:
            raise BadArchive(f"{name} has {size} bytes; at most {limit} are expected there")
        if isinstance(found, tuple):
            with self._blobs.open(found[0]) as file:
                return file.read()
        return found

    def open(self, name: str) -> tuple[BinaryIO, int] | None:
        found = self._find(name)
        if isinstance(found, tuple):
            return self._blobs.open(found[0]), found[1]
        return None if found is None else (io.BytesIO(found), len(found))

    def blob(self, name: str) -> tuple[Digest, int] | None:
        found = self._find(name)
        return found if isinstance(found, tuple) else None

    def _find(self, name: str) -> bytes | tuple[Digest, int] | None:
        for _ in range(8):
            found = self._members.get(name)
            if not isinstance(found, str):
                return found
            name = found
        raise BadArchive(f"links in the archive go in circles at {name!r}")

    def _take_all(self) -> None:
        headers = Headers()
        kept = 0
        while header := self._read(_BLOCK):
            if header == bytes(_BLOCK):
                break
            kind, size = headers.begin(header, self._at - _BLOCK)
            if kind in EXTENDED:
                headers.extend(kind, size, self._read)
            else:
                found = headers.named(header, kind)
                if found is None or found[1]:
                    self._skip(size)
                    if found is not None:
                        self._members[found[0]] = found[1]
                elif size <= _SMALL and kept + size <= _MOST_SMALL:
                    kept += size
                    data = self._read(size)
                    if len(data) < size:
                        raise BadArchive("the archive is cut off")
                    self._members[found[0]] = data
                else:
                    self._members[found[0]] = (self._ingest(size), size)
            self._skip(-size % _BLOCK)
        while self._read(CHUNK):  # whoever sends is not left with a broken pipe
            pass

    def _ingest(self, size: int) -> Digest:
        with self._blobs.ingest() as writer:
            while size:
                data = self._read(min(CHUNK, size))
                if not data:
                    raise BadArchive("the archive is cut off")
                size -= writer.write(data)
            return writer.commit()

    def _skip(self, size: int) -> None:
        while size:
            data = self._read(min(CHUNK, size))
            if not data:
                raise BadArchive("the archive is cut off")
            size -= len(data)

    def _read(self, size: int) -> bytes:
        data = self._source.read(size)
        self._at += len(data)
        if self._at > self._limit:
            raise BadArchive(f"uncompressed, this is more than {self._limit} bytes")
        return data
