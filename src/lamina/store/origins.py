"""What each image was built from, for `lamina outdated`, `rebase` and provenance. One document for each name of an image; its shape is the engine's."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from lamina.oci.digest import Digest
from lamina.store.database import Database

# Newer than the schema's first version: made when it is first written to, so that a store need not be converted for it.
_TABLE = "CREATE TABLE IF NOT EXISTS origins (image TEXT NOT NULL, name TEXT NOT NULL, doc BLOB NOT NULL, PRIMARY KEY (image, name)) WITHOUT ROWID"


class StoredOrigin(msgspec.Struct, frozen=True, array_like=True):
    """`name` is "" for an image that was built without one."""

    image: Digest
    name: str
    doc: bytes


class Origins:
    """Thread-safe; the last build of an image under a name wins."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._there = False

    def put(self, image: Digest, names: Sequence[str], doc: bytes) -> None:
        """Nothing is written where it says so already. Documents of images that were removed go on the way."""
        wanted = tuple(names) or ("",)
        if self._has() and all(self._doc(image, name) == doc for name in wanted):
            return
        with self._database.write() as transaction:
            transaction.run(_TABLE)
            transaction.run("DELETE FROM origins WHERE image NOT IN (SELECT id FROM images)")
            transaction.many("INSERT OR REPLACE INTO origins VALUES (?,?,?)", [(image, name, doc) for name in wanted])
        self._there = True

    def of(self, image: Digest, name: str | None = None) -> bytes | None:
        """The document of this image (under `name`; without one, of any name)."""
        if not self._has():
            return None
        if name is not None:
            return self._doc(image, name)
        found = self._database.first(tuple[bytes], "SELECT doc FROM origins WHERE image=? ORDER BY name DESC LIMIT 1", (image,))
        return None if found is None else found[0]

    def all(self) -> list[StoredOrigin]:
        """Of images that are here, in the order of their names."""
        if not self._has():
            return []
        return self._database.all(
            StoredOrigin, "SELECT image, name, doc FROM origins WHERE image IN (SELECT id FROM images) ORDER BY name, image"
        )

    def unknown(self, layers: int) -> list[Digest]:
        """Ids of images with more than so many layers that no build here made and no registry told of, newest first: they came from archives."""
        built = " AND id NOT IN (SELECT image FROM origins)" if self._has() else ""
        found = self._database.all(
            tuple[Digest, str],
            f"SELECT id, layers FROM images WHERE manifest NOT IN (SELECT manifest FROM remotes){built} ORDER BY created DESC, id",
        )
        return [image for image, text in found if len(msgspec.json.decode(text, type=list[str])) > layers]

    def _doc(self, image: Digest, name: str) -> bytes | None:
        found = self._database.first(tuple[bytes], "SELECT doc FROM origins WHERE image=? AND name=?", (image, name))
        return None if found is None else found[0]

    def _has(self) -> bool:
        if not self._there:
            self._there = self._database.first(tuple[str], "SELECT name FROM sqlite_master WHERE name='origins'") is not None
        return self._there
