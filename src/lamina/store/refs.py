"""Images of the store and their names, with docker's rules; and index.json, the view of them that other tools read.

A name is a full reference (the caller normalises it: "docker.io/library/app:1"). A name has one image per platform. Removing
the last name of an image removes the image; an image may also have no name at all.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Sequence

import msgspec

from lamina.diagnostics.errors import nearest
from lamina.oci import typed
from lamina.oci.digest import Digest, LayerId
from lamina.oci.unreadable import UNREADABLE
from lamina.store.blobs import LocalBlobs
from lamina.store.database import Database, Transaction
from lamina.store.errors import border
from lamina.store.files import replace
from lamina.store.layout import Layout
from lamina.store.leases import Lease
from lamina.store.locks import exclusive
from lamina.store.protocols import StoreError

_PREFIX = r"(?:sha256:)?[0-9a-f]{2,64}"


class ImageNotFound(StoreError):
    code = "store/no-such-image"
    default_exit = 66


class AmbiguousImage(StoreError):
    code = "store/ambiguous-image"
    default_exit = 1


class ImageInUse(StoreError):
    code = "store/image-has-tags"
    default_exit = 1


class Image(msgspec.Struct, frozen=True):
    """An image that is here. Its manifest and config are blobs; its layers are directories, blobs, or both."""

    id: Digest  # of the config
    manifest: Digest
    platform: str  # "linux/amd64"
    created: float  # seconds since the epoch
    size: int  # bytes of file content of all layers
    layers: tuple[LayerId, ...]  # bottom first
    blobs: tuple[Digest, ...] = ()  # what the manifest names beside the config: layers' stored forms, here or not
    names: tuple[str, ...] = ()


class Removed(msgspec.Struct, frozen=True):
    """What rmi did, in docker's two words."""

    untagged: tuple[str, ...]
    deleted: tuple[Digest, ...]


_FEW = 16  # blobs that came, from which index.json is just written
_COLUMNS = "id, manifest, platform, created, size, layers, blobs"


class _Row(msgspec.Struct, array_like=True):
    id: Digest
    manifest: Digest
    platform: str
    created: float
    size: int
    layers: str
    blobs: str


class _Ref(msgspec.Struct, array_like=True):
    name: str
    platform: str
    image: Digest


class Images:
    """Thread-safe; every change is one transaction, index.json follows it under a lock of its own."""

    def __init__(self, layout: Layout, database: Database, blobs: LocalBlobs, lease: Lease, now: Callable[[], float]) -> None:
        self._layout = layout
        self._database = database
        self._blobs = blobs
        self._lease = lease
        self._now = now
        self._used: set[Digest] = set()

    def put(self, image: Image, names: Sequence[str] = ()) -> None:
        """Keep an image whose manifest and config are in the blobs, and give it these names (taking them from others)."""
        with border(self._layout.root):
            self._lease.pin((image.id, image.manifest, *image.layers, *image.blobs))
        known = self._get(image.id)
        wanted = {*image.names, *names}
        if known is not None and wanted <= {*known.names} and msgspec.structs.replace(image, names=known.names) == known:
            # The same build again: nothing to write. Its blobs may have come back since, though.
            self.refresh_index((image,))
            return
        layers, blobs = typed.encode_json(image.layers).decode(), typed.encode_json(image.blobs).decode()
        with self._database.write() as transaction:
            before = [
                row[0]
                for name in {*image.names, *names}
                for row in transaction.all(tuple[Digest], "SELECT image FROM refs WHERE name=? AND platform=?", (name, image.platform))
            ]
            transaction.run(
                "INSERT OR REPLACE INTO images VALUES (?,?,?,?,?,?,?,?)",
                (image.id, image.manifest, image.platform, image.created, image.size, layers, blobs, self._now()),
            )
            self._name(transaction, image.id, image.platform, (*image.names, *names))
        self.refresh_index((image, *((known,) if known is not None else ()), *self._images(before)))

    def tag(self, image: Digest, names: Sequence[str]) -> None:
        """Give an image further names; ImageNotFound."""
        with self._database.write() as transaction:
            row = transaction.first(tuple[str], "SELECT platform FROM images WHERE id=?", (image,))
            if row is None:
                raise ImageNotFound(f"no image {image}")
            self._name(transaction, image, row[0], names)
        self.write_index()

    def only(self, names: Sequence[str], platforms: Collection[str]) -> None:
        """These names mean images of these platforms and no others: what a build does that gives a name anew."""
        rows = [
            row
            for name in dict.fromkeys(names)
            for row in self._database.all(_Ref, "SELECT name, platform, image FROM refs WHERE name=?", (name,))
        ]
        gone = [(row.name, row.platform) for row in rows if row.platform not in platforms]
        if gone:
            with self._database.write() as transaction:
                transaction.many("DELETE FROM refs WHERE name=? AND platform=?", gone)
            self.write_index()

    def by_name(self, name: str, platform: str | None = None) -> Image | None:
        """The image with exactly this name (on this platform; else the newest)."""
        rows = self._database.all(
            _Ref,
            "SELECT name, platform, image FROM refs WHERE name=? AND (platform=?2 OR ?2 IS NULL) ORDER BY updated DESC",
            (name, platform),
        )
        return self._get(rows[0].image) if rows else None

    def by_id(self, digest: Digest) -> Image | None:
        """By the config's or the manifest's digest."""
        return self._get(digest) or next(
            (
                self._get(row[0])
                for row in self._database.all(tuple[Digest], "SELECT id FROM images WHERE manifest=? ORDER BY created DESC", (digest,))
            ),
            None,
        )

    def find(self, text: str, candidates: Sequence[str] = (), platform: str | None = None) -> Image:
        """The image that a user means: one of `candidates` (full names for `text`), else an id or its beginning.

        ImageNotFound with the nearest name as hint; AmbiguousImage with the ids that begin so.
        """
        readable = not any(
            "\ud800" <= letter <= "\udfff" for letter in text
        )  # bytes that are no UTF-8: no name has them, and the database takes no such text
        for name in (candidates or (text,)) if readable else ():
            image = self.by_name(name, platform)
            if image is not None:
                return image
        if re.fullmatch(_PREFIX, text):
            wanted = text if text.startswith("sha256:") else f"sha256:{text}"
            rows = self._database.all(tuple[Digest], "SELECT id FROM images WHERE substr(id, 1, length(?1))=?1 ORDER BY id", (wanted,))
            if len(rows) > 1:
                raise AmbiguousImage(
                    f"{text!r} is the beginning of {len(rows)} image ids", hint=", ".join(row[0][7:27] for row in rows[:5])
                )
            if rows:
                image = self._get(rows[0][0])
                if image is not None:
                    return image
        known = [row[0] for row in self._database.all(tuple[str], "SELECT DISTINCT name FROM refs")]
        near = nearest(candidates[0] if candidates else text, known)
        raise ImageNotFound(
            f"no image {text!r} in the store", hint=f"did you mean {near}?" if near else "`lamina images` lists what is here"
        )

    def all(self) -> list[Image]:
        """Newest first."""
        names: dict[Digest, list[str]] = {}
        for ref in self._database.all(_Ref, "SELECT name, platform, image FROM refs ORDER BY name"):
            names.setdefault(ref.image, []).append(ref.name)
        rows = self._database.all(_Row, f"SELECT {_COLUMNS} FROM images ORDER BY created DESC, id")
        return [_image(row, tuple(names.get(row.id, ()))) for row in rows]

    def untag(self, name: str) -> Removed:
        """`rmi NAME`: the name goes, and with its last name the image. ImageNotFound."""
        with self._database.write() as transaction:
            refs = transaction.all(_Ref, "SELECT name, platform, image FROM refs WHERE name=?", (name,))
            if not refs:
                raise ImageNotFound(f"no image {name!r} in the store")
            transaction.run("DELETE FROM refs WHERE name=?", (name,))
            deleted = []
            for image in dict.fromkeys(ref.image for ref in refs):
                if transaction.first(tuple[str], "SELECT name FROM refs WHERE image=? LIMIT 1", (image,)) is None:
                    transaction.run("DELETE FROM images WHERE id=?", (image,))
                    deleted.append(image)
        self.write_index()
        return Removed((name,), tuple(deleted))

    def remove(self, image: Digest, *, force: bool = False) -> Removed:
        """`rmi ID`: with its one name; with several only if `force` (ImageInUse otherwise). ImageNotFound."""
        with self._database.write() as transaction:
            if transaction.first(tuple[str], "SELECT id FROM images WHERE id=?", (image,)) is None:
                raise ImageNotFound(f"no image {image}")
            names = [row[0] for row in transaction.all(tuple[str], "SELECT DISTINCT name FROM refs WHERE image=? ORDER BY name", (image,))]
            if len(names) > 1 and not force:
                raise ImageInUse(
                    f"the image {image[7:19]} has several names: {', '.join(names)}",
                    hint="remove the names one by one, or use --force",
                )
            transaction.run("DELETE FROM refs WHERE image=?", (image,))
            transaction.run("DELETE FROM images WHERE id=?", (image,))
        self.write_index()
        return Removed(tuple(names), (image,))

    def flush(self) -> None:
        """Write when images were used; done by the store's closing."""
        used, self._used = self._used, set()
        if used:
            now = self._now()
            with self._database.write() as transaction:
                transaction.many("UPDATE images SET last_used=? WHERE id=? AND last_used<?", [(now, image, now) for image in used])

    def write_index(self) -> None:
        """Make index.json again from the table: images whose blobs are all here, so that whoever reads it can copy them."""
        with self._lease.careful(), border(self._layout.root), exclusive(self._layout.locks / "index"):
            self._blobs.arrived.clear()
            data = self.index()
            if not self._layout.index.exists() or self._layout.index.read_bytes() != data:
                replace(self._layout.index, data, self._layout.tmp / self._lease.name())

    def refresh_index(self, touched: Sequence[Image]) -> None:
        """write_index, unless it would say the same: of the images that were `touched`, or that a blob has come for, none has all its blobs.
        What a build adds to a store of a thousand images costs it no look at them."""
        arrived = set(self._blobs.arrived)
        if len(arrived) <= _FEW and not any(map(self._whole, touched)):
            others = sorted(arrived.difference(*((image.id, image.manifest) for image in touched)))
            holds = " OR ".join(f"?{n} IN (id, manifest) OR instr(blobs, ?{n}) > 0" for n in range(1, len(others) + 1))
            found = self._database.all(tuple[Digest], f"SELECT id FROM images WHERE {holds}", others) if others else []
            if not any(map(self._whole, self._images([row[0] for row in found]))):
                self._blobs.arrived -= arrived
                return
        self.write_index()

    def index(self) -> bytes:
        """What index.json should say now."""
        manifests = []
        for image in sorted(self.all(), key=lambda image: image.id):
            if not self._whole(image):
                continue
            raw = self._layout.blob(image.manifest).read_bytes()
            system, _, rest = image.platform.partition("/")
            machine, _, variant = rest.partition("/")
            entry = {
                "mediaType": _media_type(raw),
                "digest": image.manifest,
                "size": len(raw),
                "platform": {"architecture": machine, "os": system} | ({"variant": variant} if variant else {}),
            }
            for name in image.names:
                # Both readings of the annotation are in use: skopeo compares the whole, containerd wants its own key.
                notes = {"org.opencontainers.image.ref.name": name, "io.containerd.image.name": name}
                manifests.append(entry | {"annotations": notes})
            if not image.names:
                manifests.append(entry)
        document = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": manifests}
        return msgspec.json.format(typed.encode_json(document), indent=2) + b"\n"

    def _whole(self, image: Image) -> bool:
        """Whether its blobs are all here. Layers first: those of an image that was built here are seldom blobs."""
        return all(os.path.isfile(self._layout.blob(digest)) for digest in (*image.blobs, image.manifest, image.id))

    def _images(self, ids: Sequence[Digest]) -> list[Image]:
        """Those that there are, without their names; nothing is noted as used."""
        rows = [self._database.first(_Row, f"SELECT {_COLUMNS} FROM images WHERE id=?", (image,)) for image in ids]
        return [_image(row, ()) for row in rows if row is not None]

    def _name(self, transaction: Transaction, image: Digest, platform: str, names: Sequence[str]) -> None:
        now = self._now()
        transaction.many("INSERT OR REPLACE INTO refs VALUES (?,?,?,?)", [(name, platform, image, now) for name in dict.fromkeys(names)])

    def _get(self, image: Digest) -> Image | None:
        row = self._database.first(_Row, f"SELECT {_COLUMNS} FROM images WHERE id=?", (image,))
        if row is None:
            return None
        names = self._database.all(tuple[str], "SELECT DISTINCT name FROM refs WHERE image=? ORDER BY name", (image,))
        found = _image(row, tuple(name[0] for name in names))
        self._used.add(image)
        with border(self._layout.root):
            self._lease.pin((found.id, found.manifest, *found.layers, *found.blobs))
        return found


class _Typed(msgspec.Struct):
    mediaType: str = "application/vnd.oci.image.manifest.v1+json"


def _media_type(manifest: bytes) -> str:
    try:
        return typed.json(manifest, type=_Typed).mediaType
    except UNREADABLE:
        return _Typed().mediaType


def _image(row: _Row, names: tuple[str, ...]) -> Image:
    layers = typed.json(row.layers, type=tuple[LayerId, ...])
    blobs = typed.json(row.blobs, type=tuple[Digest, ...])
    return Image(row.id, row.manifest, row.platform, row.created, row.size, layers, blobs, names)
