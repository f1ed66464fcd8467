"""Folders in the shared place: packed as one blob each, named by their digest, verified before anything is unpacked."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tarfile
import uuid
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO, cast

from lamina.cache.remote.errors import CacheError, ObjectGone
from lamina.cache.remote.names import blob_name
from lamina.cache.remote.protocols import PIECE, Body, ObjectStore
from lamina.diagnostics.errors import LaminaError
from lamina.layer.compress import Compressing, open_compressed
from lamina.oci.digest import parse_digest
from lamina.pipelines.remote.order import Parcel


class ParcelDamaged(LaminaError):
    """Not the bytes that were sent."""

    code = "pipeline/parcel-damaged"
    default_exit = 76


class _Trusted(tarfile.TarFile):
    """Takes every member as it is, in every version of Python."""

    @staticmethod
    def extraction_filter(member: tarfile.TarInfo, path: str, /) -> tarfile.TarInfo:
        return member


class Parcels:
    """Thread-safe. `scratch` is ours. What one run has put there is its own (its name is in it): `drop` takes it away from nobody else."""

    def __init__(self, objects: ObjectStore, scratch: Path) -> None:
        self._objects = objects
        self._scratch = scratch

    def put(self, folder: Path) -> Parcel:
        """Everything below `folder`, with modes, times, owners and links. Errors of the shared place."""
        packed = self._scratch / f"parcel-{uuid.uuid4().hex}"
        try:
            with open(os.open(packed, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w+b") as file:
                packing = Compressing(file, "zstd")
                with tarfile.open(
                    fileobj=cast("IO[bytes]", packing),  # only write is called
                    mode="w|",
                    format=tarfile.PAX_FORMAT,
                    encoding="utf-8",
                    errors="surrogateescape",
                    pax_headers={"comment": uuid.uuid4().hex},
                ) as tar:
                    tar.add(folder, arcname=".")
                packing.close()
                parcel = Parcel(packing.digest, packing.size)
            self._objects.put(_name(parcel), Body(parcel.size, lambda: _pieces(packed)))
        finally:
            packed.unlink(missing_ok=True)
        return parcel

    def get(self, parcel: Parcel, target: Path) -> None:
        """Make `target`, which must not exist. ParcelDamaged, ObjectGone, errors of the shared place; then there is no `target`."""
        packed = self._scratch / f"parcel-{uuid.uuid4().hex}"
        hashed = hashlib.sha256()
        size = 0
        try:
            with open(os.open(packed, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w+b") as file:
                try:
                    for piece in self._objects.stream(_name(parcel)):
                        hashed.update(piece)
                        size += len(piece)
                        if size > parcel.size:
                            break
                        file.write(piece)
                except ObjectGone as error:
                    raise ObjectGone(
                        f"{self._objects.where} does not have what the run has put there",
                        hint="is it one place for the command and all workers? a folder must be the same one on every machine",
                    ) from error
                if size != parcel.size or f"sha256:{hashed.hexdigest()}" != parcel.digest:
                    raise ParcelDamaged(f"{parcel.digest[:19]} in {self._objects.where} does not have the bytes that were sent")
                file.seek(0)
                # The bytes are those that the run has packed: what they say about owners, modes and links is believed.
                with _Trusted.open(
                    fileobj=cast("IO[bytes]", open_compressed(file)),  # only read is called
                    mode="r|",
                    encoding="utf-8",
                    errors="surrogateescape",
                ) as tar:
                    target.mkdir()
                    tar.extractall(target, numeric_owner=True)
        finally:
            packed.unlink(missing_ok=True)

    def there(self, parcel: Parcel) -> bool:
        return _name(parcel) in self._objects.exists([_name(parcel)])

    def drop(self, parcels: Collection[Parcel]) -> None:
        """Where this user may; otherwise `lamina cache prune` does it later."""
        with contextlib.suppress(CacheError):
            self._objects.delete([_name(parcel) for parcel in parcels])


def _name(parcel: Parcel) -> str:
    return blob_name(parse_digest(parcel.digest))


def _pieces(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while data := file.read(PIECE):
            yield data
