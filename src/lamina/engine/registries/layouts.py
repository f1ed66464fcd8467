"""An OCI layout that images are written into: a directory that may have others already, or a new one that becomes an archive."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from lamina.engine.exporters.place import CannotWrite, replacing
from lamina.engine.images.errors import BadArchive
from lamina.engine.images.layout import DOCUMENT_LIMIT, blob_name
from lamina.engine.images.outgoing import OCI_LAYOUT
from lamina.engine.images.tar import TarOut
from lamina.oci.digest import Digest
from lamina.oci.manifest import OCI_INDEX, Descriptor, Index, InvalidDocument, encode_manifest
from lamina.oci.selection import parse_checked
from lamina.store.files import Writeback

_REF_NAME = "org.opencontainers.image.ref.name"
_PIECE = 1 << 20


class LayoutFolder:
    """Blobs appear verified and complete; an image is in index.json when all of it is there. Several writers at once are safe."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with _plainly(folder):
            (folder / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
            # Looked at before: what another writer puts there meanwhile is no stranger's.
            others = [path for path in folder.iterdir() if path.name != "blobs"]
            if not (folder / "oci-layout").exists():
                if others:
                    raise CannotWrite(f"{folder} is not empty and no OCI layout", hint="name an empty or new directory")
                with replacing(folder / "oci-layout") as out:
                    out.write(OCI_LAYOUT)

    def has(self, descriptor: Descriptor) -> bool:
        try:
            return os.stat(self.folder / blob_name(descriptor.digest)).st_size == descriptor.size
        except OSError:
            return False

    def put(self, digest: Digest, pieces: Iterable[bytes]) -> None:
        """BadArchive when the bytes are not what the digest says; then nothing is kept."""
        target = self.folder / blob_name(digest)
        algorithm = digest.partition(":")[0]
        check = hashlib.new(algorithm)
        with _plainly(self.folder):
            target.parent.mkdir(parents=True, exist_ok=True)
            made = target.with_name(f".{target.name}.{os.getpid()}.{os.urandom(4).hex()}")
            try:
                with made.open("xb", buffering=0) as out:
                    writeback = Writeback(out.fileno())
                    for piece in pieces:
                        check.update(piece)
                        view = memoryview(piece)
                        while view:
                            view = view[out.write(view) :]
                        writeback.wrote(len(piece))
                    os.fsync(out.fileno())
                if f"{algorithm}:{check.hexdigest()}" != digest:
                    raise BadArchive(f"the source sent other bytes than {digest}")
                os.replace(made, target)
            finally:
                made.unlink(missing_ok=True)

    def name(self, descriptor: Descriptor, tag: str) -> None:
        """List the image, under `tag` where there is one; who had that name before loses it."""
        with _plainly(self.folder):
            lock = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
                entry = msgspec.structs.replace(
                    descriptor, annotations={**(descriptor.annotations or {}), **({_REF_NAME: tag} if tag else {})} or None
                )
                others = [each for each in self._entries() if not _replaced(each, entry, tag)]
                index = Index(schema_version=2, media_type=OCI_INDEX, manifests=(*others, entry))
                with replacing(self.folder / "index.json") as out:
                    out.write(encode_manifest(index))
            finally:
                os.close(lock)

    def _entries(self) -> tuple[Descriptor, ...]:
        try:
            raw = (self.folder / "index.json").read_bytes()[:DOCUMENT_LIMIT]
        except FileNotFoundError:
            return ()
        try:
            index = parse_checked(raw, OCI_INDEX)
        except InvalidDocument as error:
            raise BadArchive(f"{self.folder}: index.json: {error.message}") from error
        return index.manifests if isinstance(index, Index) else ()


def _replaced(old: Descriptor, new: Descriptor, tag: str) -> bool:
    named = (old.annotations or {}).get(_REF_NAME, "")
    return named == tag if tag else old.digest == new.digest and not named


def write_archive(folder: Path, path: Path) -> None:
    """The layout in `folder` as a tar; the same layout is the same bytes."""
    with replacing(path) as out:
        tar = TarOut(out)
        files = sorted(each.relative_to(folder).as_posix() for each in folder.rglob("*") if each.is_file())
        tar.folder("blobs")
        for name in sorted({Path(each).parent.as_posix() for each in files if each.startswith("blobs/")}):
            tar.folder(name)
        for name in files:
            with tar.member(name, (folder / name).stat().st_size) as member, (folder / name).open("rb") as source:
                while piece := source.read(_PIECE):
                    member.write(piece)
        tar.close()


@contextmanager
def _plainly(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CannotWrite(f"cannot write {folder}: {error.strerror or error}") from error
