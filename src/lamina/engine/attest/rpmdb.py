"""rpm's SQLite database: a table of headers (rpm, lib/backend/sqlite.c; format of a header: rpm, docs/manual/format_header.md).

Both the database and the headers come from an image: the schema is checked before anything is asked, time is limited, offsets are bounded.
"""

from __future__ import annotations

import sqlite3
import struct
import time
from pathlib import Path

import msgspec

_NAME, _VERSION, _RELEASE, _EPOCH, _LICENSE, _ARCH, _SOURCE = 1000, 1001, 1002, 1003, 1014, 1022, 1044
_STRING, _INT32, _I18N = 6, 4, 9
_WANTED = frozenset([_NAME, _VERSION, _RELEASE, _EPOCH, _LICENSE, _ARCH, _SOURCE])
_TAGS = 4096
_HEADER = 64 << 20
_SECONDS = 20.0
_ROWS = 100_000


class Row(msgspec.Struct, frozen=True):
    name: str
    version: str
    release: str = ""
    epoch: str = ""
    architecture: str = ""
    license: str = ""
    source: str = ""


def read_rpmdb(path: Path) -> tuple[list[Row], bool]:
    """(packages, whether all of the database could be read)."""
    rows: list[Row] = []
    end = time.monotonic() + _SECONDS
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
    except sqlite3.Error:
        return [], False
    try:
        connection.set_progress_handler(lambda: time.monotonic() > end, 10_000)
        connection.execute("PRAGMA trusted_schema=OFF")
        connection.execute("PRAGMA cell_size_check=ON")
        kind = connection.execute("SELECT type FROM sqlite_master WHERE name='Packages'").fetchone()
        if kind != ("table",):
            return [], False
        complete = True
        for (blob,) in connection.execute("SELECT blob FROM Packages"):
            if len(rows) >= _ROWS:
                return rows, False
            row = parse_header(blob) if isinstance(blob, bytes) else None
            if row is None:
                complete = False
            elif row.name != "gpg-pubkey":
                rows.append(row)
        return rows, complete
    except sqlite3.Error:
        return rows, False
    finally:
        connection.close()


def parse_header(blob: bytes) -> Row | None:
    """One header without its lead: counts, index, data. None when it is none."""
    if len(blob) < 8 or len(blob) > _HEADER:
        return None
    count, size = struct.unpack_from(">II", blob)
    data = 8 + 16 * count
    if count > _TAGS or data + size > len(blob):
        return None
    values: dict[int, str] = {}
    for number in range(count):
        tag, kind, offset, _ = struct.unpack_from(">iIiI", blob, 8 + 16 * number)
        if tag not in _WANTED or not 0 <= offset < size:
            continue
        if kind in (_STRING, _I18N):
            stop = blob.find(b"\0", data + offset, data + size)
            values[tag] = blob[data + offset : stop if stop >= 0 else data + size].decode("utf-8", "replace")
        elif kind == _INT32 and offset + 4 <= size:
            values[tag] = str(struct.unpack_from(">I", blob, data + offset)[0])
    if _NAME not in values or _VERSION not in values:
        return None
    return Row(
        values[_NAME],
        values[_VERSION],
        values.get(_RELEASE, ""),
        values.get(_EPOCH, ""),
        values.get(_ARCH, ""),
        values.get(_LICENSE, ""),
        values.get(_SOURCE, ""),
    )
