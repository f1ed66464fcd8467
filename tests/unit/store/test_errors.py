from __future__ import annotations

import errno
import sqlite3
from pathlib import Path

import pytest

from lamina.store.errors import BadName, DiskFull, StoreBusy, StoreDamaged, StoreForbidden, StoreReadOnly, border
from lamina.store.protocols import StoreError


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, DiskFull),
        (errno.EDQUOT, DiskFull),
        (errno.EROFS, StoreReadOnly),
        (errno.EACCES, StoreForbidden),
        (errno.EPERM, StoreForbidden),
        (errno.EIO, StoreError),
        (errno.EMFILE, StoreError),
    ],
)
def test_what_the_kernel_says(number: int, kind: type[StoreError], tmp_path: Path) -> None:
    with pytest.raises(StoreError) as caught, border(tmp_path):
        raise OSError(number, "as libc says it", str(tmp_path / "file"))
    assert type(caught.value) is kind
    assert "\n" not in caught.value.message
    assert str(tmp_path) in caught.value.message


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("database or disk is full", DiskFull),
        ("attempt to write a readonly database", StoreReadOnly),
        ("database is locked", StoreBusy),
        ("database disk image is malformed", StoreDamaged),
        ("file is not a database", StoreDamaged),
        ("disk I/O error", StoreError),
    ],
)
def test_what_sqlite_says(text: str, kind: type[StoreError], tmp_path: Path) -> None:
    with pytest.raises(StoreError) as caught, border(tmp_path):
        raise sqlite3.OperationalError(text)
    assert type(caught.value) is kind


def test_our_own_errors_pass(tmp_path: Path) -> None:
    with pytest.raises(BadName), border(tmp_path):
        raise BadName("x")
    with pytest.raises(KeyError), border(tmp_path):
        raise KeyError("a bug is a bug")
