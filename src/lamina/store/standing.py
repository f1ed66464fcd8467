"""Whether the store still says what it said: the rows that a finished build rests on, asked for in one go.

Stands on nothing but the standard library's sqlite3: it is on the way of a build that finds nothing changed, where each import counts.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence

Rows = list[tuple[object, ...]]
KEPT = 100  # builds in the list
_CHUNK = 500  # SQLite's default limit of variables is 999


def boot_id() -> str:
    """Names the time since the machine was started; "" where the kernel does not say."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def standing(connection: sqlite3.Connection, asked: dict[str, list[str]]) -> dict[str, Rows]:
    """Rows about `records` (keys), `layers` (ids), `names` (full references) and `images` (ids), sorted: equal answers, equal standing.

    Tombstones are among the records: a record that was forgotten, or one more under the same key, makes the answer another.
    """
    return {
        "format": connection.execute("PRAGMA user_version").fetchall(),
        "records": _rows(connection, "SELECT key, id, fate FROM records WHERE key IN (%s)", asked["records"]),
        "layers": _rows(connection, "SELECT id, size, boot FROM layers WHERE id IN (%s)", asked["layers"]),
        "refs": _rows(connection, "SELECT name, platform, image FROM refs WHERE name IN (%s)", asked["names"]),
        "remotes": _rows(connection, "SELECT reference, platform, manifest FROM remotes WHERE reference IN (%s)", asked["names"]),
        "images": _rows(connection, "SELECT id, manifest FROM images WHERE id IN (%s)", asked["images"]),
    }


def files_stand(root: str, layers: Sequence[str], blobs: Sequence[str]) -> bool:
    """Whether the folders of the layers and the blobs are there."""
    return all(os.path.isdir(os.path.join(root, "layers", layer.replace(":", "-", 1), "diff")) for layer in layers) and all(
        os.path.exists(os.path.join(root, "blobs", *blob.split(":", 1))) for blob in blobs
    )


def used_again(connection: sqlite3.Connection, asked: dict[str, list[str]], log: tuple[str, float, bytes], kept: int) -> None:
    """What a build writes that found everything: that it was used, and its line in the list of builds. Call it in a transaction."""
    now = log[1]
    for table, column, names in (("records", "key", asked["records"]), ("layers", "id", asked["layers"])):
        for start in range(0, len(names), _CHUNK):
            chunk = names[start : start + _CHUNK]
            connection.execute(
                f"UPDATE {table} SET last_used=? WHERE last_used<? AND {column} IN ({','.join('?' * len(chunk))})", (now, now, *chunk)
            )
    connection.execute("INSERT OR REPLACE INTO builds VALUES (?,?,?)", log)
    connection.execute("DELETE FROM builds WHERE id NOT IN (SELECT id FROM builds ORDER BY created DESC, rowid DESC LIMIT ?)", (kept,))


def _rows(connection: sqlite3.Connection, sql: str, values: Sequence[str]) -> Rows:
    found: Rows = []
    for start in range(0, len(values), _CHUNK):
        chunk = values[start : start + _CHUNK]
        found += connection.execute(sql % ",".join("?" * len(chunk)), chunk).fetchall()
    return sorted(found, key=repr)
