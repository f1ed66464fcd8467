"""Bitbucket's caches, faults included: one slot for each name and key, the first save wins, nothing is refreshed for seven days after its creation.

Only for comparison (`--bitbucket-caches`): what happens there happens here, with the same lines.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import msgspec

from lamina.diagnostics.errors import LaminaError
from lamina.oci import typed
from lamina.pipelines.caches.keeping import WEEK, Identity, Say, age, megabytes
from lamina.pipelines.run.files import Tree, walk

LARGEST = 1 << 30  # bytes, compressed


class Slot(msgspec.Struct, frozen=True):
    name: str
    path: str
    key: str
    created: float
    size: int


class SlotCaches:
    """Below `root`: ID.data and ID.json for each slot. Thread-safe, also between processes: a slot is taken by one link(2)."""

    def __init__(self, root: Path, now: Callable[[], float], largest: int = LARGEST) -> None:
        self._root = root
        self._now = now
        self._largest = largest

    def open(self, identity: Identity, say: Say) -> BinaryIO | None:
        """The stored bytes, or None; says Bitbucket's lines and the reason."""
        label = f'Cache "{identity.name}"'
        say(f"{label}: Downloading")
        data = self._data(identity)
        slot = self.slot(identity)
        if slot is None:
            say(f"{label}: Not found")
            say(f"{label}: miss: nobody has saved it" + (" for these key files" if identity.key else ""))
            return None
        if abs(self._now() - slot.created) > WEEK:  # also of a clock that was far ahead
            self.remove(identity)
            say(f"{label}: Not found")
            say(f"{label}: miss: it was saved {age(self._now() - slot.created)} and expires after 7 days")
            return None
        begun = time.monotonic()
        try:
            file = open(data, "rb")  # noqa: SIM115 - the caller closes it
        except FileNotFoundError:
            say(f"{label}: Not found")
            return None
        say(f"{label}: Downloaded {megabytes(slot.size)} in {int(time.monotonic() - begun)} seconds")
        say(f"{label}: hit: saved {age(self._now() - slot.created)}; it is not refreshed until it expires")
        return file

    def slot(self, identity: Identity) -> Slot | None:
        """The file with the bytes is what counts; the document beside it is for listings."""
        try:
            status = self._data(identity).stat()
        except FileNotFoundError:
            return None
        return Slot(identity.name, identity.path, identity.key, status.st_mtime, status.st_size)

    def state(self, identity: Identity) -> str:
        """What `open` would say, in one line; nothing is removed."""
        slot = self.slot(identity)
        if slot is None:
            return "miss: nobody has saved it" + (" for these key files" if identity.key else "")
        old = age(self._now() - slot.created)
        if abs(self._now() - slot.created) > WEEK:  # also of a clock that was far ahead
            return f"miss: it was saved {old} and expires after 7 days"
        return f"hit: {megabytes(slot.size)}, saved {old}; it is not refreshed until it expires"

    def put(self, identity: Identity, existed: bool, write: Callable[[Path], bool], say: Say, temporary: Path) -> None:
        """`existed`: it was there at setup. `write` makes the file at the path that it is given, or says False when the cache is empty."""
        label = f'Cache "{identity.name}: {identity.path}"'
        if existed:
            say(f"You already have a '{identity.name}' cache so we won't create it again")
            say(f'Cache "{identity.name}": Skipping upload for existing cache')
            return
        say(f"Assembling contents of new cache '{identity.name}'")
        say(f"{label}: Compressing")
        try:
            if not write(temporary):
                say(f"{label}: Skipping upload for empty cache")
                return
        except LaminaError as error:
            say(f"{label}: Upload failed")
            say(f"{label}: not saved: {error.message}")
            return
        begun = time.monotonic()
        size = temporary.stat().st_size
        if size > self._largest:
            say(f"{label}: not saved: {megabytes(size)} is more than {megabytes(self._largest)}")
            temporary.unlink()
            return
        say(f"{label}: Uploading {megabytes(size)}")
        data = self._data(identity)
        data.parent.mkdir(parents=True, exist_ok=True)
        os.utime(temporary, (self._now(), self._now()))
        try:
            os.link(temporary, data)
        except FileExistsError:
            say(f"{label}: Upload failed")
            say(f"{label}: not saved: another step saved it first, and both have one name")
            temporary.unlink()
            return
        temporary.unlink()
        slot = Slot(identity.name, identity.path, identity.key, self._now(), size)
        beside = data.with_suffix(f".{os.urandom(4).hex()}")
        beside.write_bytes(msgspec.json.encode(slot))
        os.replace(beside, data.with_suffix(".json"))
        say(f"{label}: Uploaded {megabytes(size)} in {int(time.monotonic() - begun)} seconds")

    def rows(self) -> list[Slot]:
        found = []
        for path in sorted(self._root.glob("*.json")):
            try:
                found.append(typed.json(path.read_bytes(), type=Slot))
            except (FileNotFoundError, msgspec.MsgspecError):
                continue
        return found

    def remove(self, identity: Identity) -> None:
        data = self._data(identity)
        data.with_suffix(".json").unlink(missing_ok=True)
        data.unlink(missing_ok=True)

    def restore(self, identity: Identity, folder: Path, step: str, say: Say) -> HeldSlot:
        """A path cache: tar and gzip, unpacked below `folder` without following anything."""
        found = self.open(identity, say)
        if found is not None:
            say(f'Cache "{identity.name}": Extracting')
            begun = time.monotonic()
            with found:
                unpack(found, folder)
            say(f'Cache "{identity.name}": Extracted in {int(time.monotonic() - begun)} seconds')
        return HeldSlot(self, identity, found is not None)

    def _data(self, identity: Identity) -> Path:
        named = hashlib.sha256(msgspec.json.encode([identity.name, identity.key])).hexdigest()
        return self._root / f"{named}.data"


class HeldSlot:
    def __init__(self, slots: SlotCaches, identity: Identity, existed: bool) -> None:
        self._slots = slots
        self._identity = identity
        self._existed = existed

    def save(self, folder: Path, say: Say) -> None:
        self._slots.put(
            self._identity, self._existed, lambda target: pack(folder, target), say, folder.parent / f"cache-{os.urandom(4).hex()}.tar.gz"
        )


def pack(folder: Path, target: Path) -> bool:
    """False when the folder has no file."""
    files = sorted(path for path, _ in walk(folder))
    if not files:
        return False
    with tarfile.open(target, "w:gz", compresslevel=6) as archive:
        for path in files:
            archive.add(folder / path, arcname=path, recursive=False)
    return True


def unpack(source: BinaryIO, folder: Path) -> None:
    """Files and links only."""
    with tarfile.open(fileobj=source, mode="r:gz") as archive, Tree(folder) as tree:
        for member in archive:
            if member.issym():
                tree.link(member.name, member.linkname)
                continue
            content = archive.extractfile(member) if member.isreg() else None
            if content is None:
                continue
            as_was = os.stat_result((member.mode, 0, 0, 1, member.uid, member.gid, member.size, 0, int(member.mtime), 0))
            tree.stream(member.name, content, as_was)
