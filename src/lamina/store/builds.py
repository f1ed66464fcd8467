"""The last builds, for `lamina why` and `lamina diff`."""

from __future__ import annotations

import msgspec

from lamina.oci import typed
from lamina.store.database import Database
from lamina.store.standing import KEPT


class BuildLog(msgspec.Struct, frozen=True, omit_defaults=True):
    """One build. `steps` is a JSON array of step reports; its shape is the engine's."""

    id: str
    created: float  # seconds since the epoch
    dockerfile: str
    steps: msgspec.Raw = msgspec.Raw(b"[]")
    target: str | None = None
    tags: tuple[str, ...] = ()
    images: tuple[str, ...] = ()  # config digests
    seconds: float = 0.0
    error: str | None = None


class _Doc(msgspec.Struct, array_like=True):
    doc: bytes


class Builds:
    """Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, log: BuildLog) -> None:
        """Keep this build and the KEPT - 1 before it."""
        doc = typed.encode_json(log)
        with self._database.write() as transaction:
            transaction.run("INSERT OR REPLACE INTO builds VALUES (?,?,?)", (log.id, log.created, doc))
            transaction.run("DELETE FROM builds WHERE id NOT IN (SELECT id FROM builds ORDER BY created DESC, rowid DESC LIMIT ?)", (KEPT,))

    def last(self, limit: int = KEPT) -> list[BuildLog]:
        """Newest first."""
        rows = self._database.all(_Doc, "SELECT doc FROM builds ORDER BY created DESC, rowid DESC LIMIT ?", (limit,))
        return [_decode(row.doc) for row in rows]

    def get(self, identifier: str) -> BuildLog | None:
        """By id or its beginning (the newest of several)."""
        row = self._database.first(
            _Doc,
            "SELECT doc FROM builds WHERE substr(id, 1, length(?1))=?1 ORDER BY created DESC, rowid DESC LIMIT 1",
            (identifier,),
        )
        return None if row is None else _decode(row.doc)

    def of_image(self, image: str) -> BuildLog | None:
        """The newest build that made this image (config digest)."""
        return next((log for log in self.last() if image in log.images), None)


def _decode(doc: bytes) -> BuildLog:
    return typed.json(doc, type=BuildLog)
