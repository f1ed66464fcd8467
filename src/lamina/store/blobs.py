"""BlobStore over `blobs/<algorithm>/<hex>`: the blobs of the OCI image layout that the root is."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO

from lamina.oci.digest import Digest, parse_digest
from lamina.store.errors import border, of_oserror
from lamina.store.files import Writeback, sync_folder
from lamina.store.layout import Layout, digest_of
from lamina.store.leases import Lease
from lamina.store.protocols import BlobNotFound, BlobWriter, DigestMismatch

_PIECE = 1 << 20


class LocalBlobs:
    """Thread-safe. What a caller has opened, asked for or ingested stays until its store is closed."""

    def __init__(self, layout: Layout, lease: Lease) -> None:
        self._layout = layout
        self._lease = lease
        self.arrived: set[Digest] = set()  # blobs that index.json does not know about yet

    def open(self, digest: Digest, *, verify: bool = True) -> BinaryIO:
        """The blob's bytes. With `verify` reading to the end raises DigestMismatch there if they are not what the name says."""
        path = self.path(digest)
        with border(self._layout.root):
            self._lease.pin((digest,))
            try:
                file = io.FileIO(path, "rb")
            except FileNotFoundError:
                raise BlobNotFound(f"the store has no blob {digest}") from None
        if not verify:
            return io.BufferedReader(file, _PIECE)
        return io.BufferedReader(_Verified(file, digest, self._layout.root), _PIECE)

    def read(self, digest: Digest) -> bytes:
        """All bytes of a small blob, verified."""
        with self.open(digest) as file:
            return file.read()

    def put(self, data: bytes) -> Digest:
        """Keep `data` (a manifest, a config, a listing); costs no fsync when it is here already."""
        digest = Digest("sha256:" + hashlib.sha256(data).hexdigest())
        if self.missing((digest,)):
            with self.ingest(digest) as writer:
                writer.write(data)
                writer.commit()
        return digest

    def ingest(self, expect: Digest | None = None) -> AbstractContextManager[BlobWriter]:
        return self._ingest(expect)

    @contextmanager
    def _ingest(self, expect: Digest | None) -> Iterator[BlobWriter]:
        if expect is not None:
            self._layout.blob(expect)
        writer = LocalWriter(self._layout, self._lease, expect)
        try:
            yield writer
        finally:
            if writer.new is not None:
                self.arrived.add(writer.new)
            writer.discard()

    def missing(self, digests: Collection[Digest]) -> set[Digest]:
        with border(self._layout.root):
            self._lease.pin(digests)
            return {digest for digest in digests if not os.path.exists(self._layout.blob(digest))}

    def size(self, digest: Digest) -> int:
        with border(self._layout.root):
            self._lease.pin((digest,))
            try:
                return os.stat(self._layout.blob(digest)).st_size
            except FileNotFoundError:
                raise BlobNotFound(f"the store has no blob {digest}") from None

    def delete(self, digest: Digest) -> None:
        """Idempotent. For repair and tests; what is only superfluous is the collector's."""
        with border(self._layout.root):
            self._layout.blob(digest).unlink(missing_ok=True)

    def path(self, digest: Digest) -> Path:
        """Where the blob is or would be: for helpers that read files, not streams."""
        return self._layout.blob(digest)

    def all(self) -> Iterator[tuple[Digest, int]]:
        """Every blob and its size, in no order; foreign names are passed over."""
        with border(self._layout.root):
            for folder in self._layout.blobs.iterdir():
                with os.scandir(folder) as found:
                    for entry in found:
                        digest = digest_of(folder.name, entry.name)
                        if digest is not None:
                            yield digest, entry.stat(follow_symlinks=False).st_size


class LocalWriter:
    """See BlobWriter. The bytes are hashed as they come; nothing is visible before commit's rename."""

    def __init__(self, layout: Layout, lease: Lease, expect: Digest | None) -> None:
        self._layout = layout
        self._lease = lease
        self._expect = expect
        self._algorithm = expect.partition(":")[0] if expect else "sha256"
        self._hash = hashlib.new(self._algorithm)
        self._path = layout.tmp / lease.name()
        self._done: Digest | None = None
        self.new: Digest | None = None  # committed, and it was not here before
        with border(layout.root):
            self._file = io.FileIO(self._path, "xb")
        self._writeback = Writeback(self._file.fileno())

    def write(self, data: bytes | memoryview) -> int:
        self._hash.update(data)
        view = memoryview(data).cast("B")
        left = view
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            raise of_oserror(error, self._layout.root) from error
        self._writeback.wrote(len(view))
        return len(view)

    def commit(self) -> Digest:
        if self._done is not None:
            return self._done
        digest = parse_digest(f"{self._algorithm}:{self._hash.hexdigest()}")
        if self._expect is not None and digest != self._expect:
            self.discard()
            raise DigestMismatch(
                f"the bytes have the digest {digest}, not {self._expect}", hint="the source is damaged or was changed on its way"
            )
        target = self._layout.blob(digest)
        with border(self._layout.root), self._file:
            self._lease.pin((digest,))
            if target.exists():
                self._path.unlink()
            else:
                os.fchmod(self._file.fileno(), 0o444)
                os.fsync(self._file.fileno())
                try:
                    os.rename(self._path, target)
                except FileNotFoundError:
                    target.parent.mkdir(mode=0o700, exist_ok=True)  # an algorithm that is here for the first time
                    os.rename(self._path, target)
                self.new = digest
                sync_folder(target.parent)
        self._done = digest
        return digest

    def discard(self) -> None:
        """Leave nothing behind, unless committed. Idempotent."""
        if not self._file.closed:
            self._file.close()
        if self._done is None:
            with border(self._layout.root):
                self._path.unlink(missing_ok=True)


class _Verified(io.RawIOBase):
    """A file whose last read raises DigestMismatch when the bytes so far are not the blob. Seeking ends the checking."""

    def __init__(self, file: io.FileIO, digest: Digest, root: Path) -> None:
        self._file = file
        self._digest = digest
        self._root = root
        self._hash: hashlib._Hash | None = hashlib.new(digest.partition(":")[0])

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        before = self._file.tell()
        after = self._file.seek(offset, whence)
        if after != before:
            self._hash = None
        return after

    def tell(self) -> int:
        return self._file.tell()

    def fileno(self) -> int:
        return self._file.fileno()

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer)  # type: ignore[arg-type]  # RawIOBase's buffer protocol type is only in typeshed's private module
        try:
            count = self._file.readinto(view)
        except OSError as error:
            raise of_oserror(error, self._root) from error
        if self._hash is not None:
            if count:
                self._hash.update(view[:count])
            elif len(view) and f"{self._digest.partition(':')[0]}:{self._hash.hexdigest()}" != self._digest:
                raise DigestMismatch(
                    f"the blob {self._digest} of {self._root} is damaged", hint="`lamina check --repair` removes what is damaged"
                )
        return count or 0

    def close(self) -> None:
        self._file.close()
        super().close()
