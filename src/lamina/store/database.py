"""The small mutable facts: one SQLite file in WAL mode, short transactions, no ORM.

One connection per process, guarded by a lock: statements take microseconds, and a connection per worker thread would cost
each of them an opening and a schema parse. After a fork the child gets a connection of its own.
synchronous=NORMAL: a killed process loses nothing; a power cut may lose the last transactions, never the consistency.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import msgspec

from lamina.oci import typed
from lamina.store.errors import OtherStore, border, of_sqlite
from lamina.store.layout import FORMAT, Layout
from lamina.store.locks import exclusive

Value = str | int | float | bytes | None
_Row = TypeVar("_Row")
_BUSY = 60.0  # seconds: SQLite lets those that wait go in no order, and the disk of a busy machine is slow

_SCHEMA = """
CREATE TABLE layers (
  id TEXT PRIMARY KEY, size INTEGER NOT NULL, entries INTEGER NOT NULL, diff TEXT, diff_id TEXT, blob TEXT,
  created REAL NOT NULL, last_used REAL NOT NULL, boot TEXT, packed INTEGER
) WITHOUT ROWID;
CREATE INDEX layers_diff_id ON layers(diff_id);
CREATE TABLE images (
  id TEXT PRIMARY KEY, manifest TEXT NOT NULL, platform TEXT NOT NULL, created REAL NOT NULL, size INTEGER NOT NULL,
  layers TEXT NOT NULL, blobs TEXT NOT NULL, last_used REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX images_manifest ON images(manifest);
CREATE TABLE refs (
  name TEXT NOT NULL, platform TEXT NOT NULL, image TEXT NOT NULL, updated REAL NOT NULL, PRIMARY KEY (name, platform)
) WITHOUT ROWID;
CREATE INDEX refs_image ON refs(image);
CREATE TABLE remotes (
  reference TEXT NOT NULL, platform TEXT NOT NULL, manifest TEXT NOT NULL, checked REAL NOT NULL,
  PRIMARY KEY (reference, platform)
) WITHOUT ROWID;
CREATE TABLE records (
  id TEXT PRIMARY KEY, key TEXT NOT NULL, dockerfile TEXT NOT NULL, stage TEXT NOT NULL, position INTEGER NOT NULL,
  text TEXT NOT NULL, created REAL NOT NULL, last_used REAL NOT NULL, fate TEXT, doc BLOB NOT NULL
);
CREATE INDEX records_key ON records(key);
CREATE INDEX records_place ON records(dockerfile, stage, position, created);
CREATE INDEX records_text ON records(text, created);
CREATE TABLE selections (
  state TEXT NOT NULL, selector TEXT NOT NULL, merkle TEXT NOT NULL, listing TEXT, last_used REAL NOT NULL,
  PRIMARY KEY (state, selector)
) WITHOUT ROWID;
CREATE TABLE http (url TEXT PRIMARY KEY, etag TEXT, modified TEXT, digest TEXT NOT NULL, checked REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE watches (url TEXT PRIMARY KEY, answer TEXT NOT NULL, checked REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE builds (id TEXT PRIMARY KEY, created REAL NOT NULL, doc BLOB NOT NULL);
CREATE INDEX builds_created ON builds(created);
"""
TABLES = ("layers", "images", "refs", "remotes", "records", "selections", "http", "watches", "builds")


class Database:
    """Rows come back as the type that is asked for (msgspec.convert of the tuple). Thread-safe; safe after fork."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._lock = threading.RLock()
        self._strangers: list[sqlite3.Connection] = []
        self._pid = os.getpid()
        with border(layout.root):
            self._connection: sqlite3.Connection | None = self._connect()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._layout.database, timeout=_BUSY, isolation_level=None, check_same_thread=False, cached_statements=64
        )
        try:
            connection.execute("PRAGMA synchronous=NORMAL")
            found = connection.execute("PRAGMA user_version").fetchone()[0]
            if found == 0:
                self._layout.locks.mkdir(mode=0o700, exist_ok=True)
                with exclusive(self._layout.locks / "create"):
                    _create(connection)
            elif found != FORMAT:  # the same number as in VERSION; a migration that was cut off in between changes nothing for us
                raise OtherStore(
                    f"the database of the store {self._layout.root} has format {found}; this lamina reads format {FORMAT}",
                    hint="use the lamina that made it, or another --root",
                )
        except BaseException:
            connection.close()
            raise
        return connection

    def _current(self) -> sqlite3.Connection:
        if self._pid != os.getpid():
            # A connection must not cross a fork. The parent's is kept, never closed: closing would touch its files.
            if self._connection is not None:
                self._strangers.append(self._connection)
            self._connection, self._pid = self._connect(), os.getpid()
        if self._connection is None:
            raise sqlite3.ProgrammingError("the store is closed")
        return self._connection

    def all(self, row: type[_Row], sql: str, values: Sequence[Value] = ()) -> list[_Row]:
        """All rows of a query."""
        with self._lock, border(self._layout.root):
            found = self._current().execute(sql, values).fetchall()
        typed.ready(row)
        return [msgspec.convert(one, row) for one in found]

    def first(self, row: type[_Row], sql: str, values: Sequence[Value] = ()) -> _Row | None:
        """The first row of a query, or None."""
        with self._lock, border(self._layout.root):
            found = self._current().execute(sql, values).fetchone()
        return None if found is None else typed.convert(found, row)

    @contextmanager
    def write(self) -> Iterator[Transaction]:
        """A write transaction (BEGIN IMMEDIATE, waits up to a minute for others); undone when the block raises. Not nested."""
        with self._lock:
            try:
                connection = self._current()
                connection.execute("BEGIN IMMEDIATE")
                try:
                    yield Transaction(connection)
                    connection.execute("COMMIT")
                except BaseException:
                    # A failed COMMIT or a full disk may have ended the transaction already.
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                    raise
            except sqlite3.Error as error:
                raise of_sqlite(error, self._layout.root) from error

    def integrity(self) -> list[str]:
        """What SQLite's own check says against the file; empty when sound. Raises StoreDamaged where it cannot even be asked."""
        with self._lock, border(self._layout.root):
            answers = [str(row[0]) for row in self._current().execute("PRAGMA integrity_check(20)")]
        return [answer for answer in answers if answer != "ok"]

    def compact(self) -> None:
        """Give back what deleted rows left, and the write-ahead log. Where others are at it, a later call does."""
        with self._lock, contextlib.suppress(sqlite3.Error):
            connection = self._current()
            pages, free = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count"))
            if free * 4 > pages:
                connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        """Idempotent."""
        with self._lock:
            if self._connection is not None and self._pid == os.getpid():
                try:
                    self._connection.close()
                except sqlite3.Error:
                    pass  # what was committed stays in the write-ahead log
            self._connection = None


class Transaction:
    """Statements inside `Database.write`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def run(self, sql: str, values: Sequence[Value] = ()) -> int:
        """Rows changed."""
        return self._connection.execute(sql, values).rowcount

    def many(self, sql: str, rows: Iterable[Sequence[Value]]) -> int:
        return self._connection.executemany(sql, rows).rowcount

    def first(self, row: type[_Row], sql: str, values: Sequence[Value] = ()) -> _Row | None:
        found = self._connection.execute(sql, values).fetchone()
        return None if found is None else typed.convert(found, row)

    def all(self, row: type[_Row], sql: str, values: Sequence[Value] = ()) -> list[_Row]:
        typed.ready(row)
        return [msgspec.convert(one, row) for one in self._connection.execute(sql, values).fetchall()]


def _create(connection: sqlite3.Connection) -> None:
    """Make the tables, unless another process did it meanwhile. One process at a time."""
    _to_wal(connection)
    connection.execute("BEGIN IMMEDIATE")
    try:
        if connection.execute("PRAGMA user_version").fetchone()[0] == 0:
            for statement in _SCHEMA.split(";\n"):
                if statement.strip():
                    connection.execute(statement)
            connection.execute(f"PRAGMA user_version={FORMAT}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _to_wal(connection: sqlite3.Connection) -> None:
    """SQLite does not wait with this where another connection is just reading, as one that looks whether there are tables yet."""
    end = time.monotonic() + _BUSY
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                raise
            time.sleep(0.002)
