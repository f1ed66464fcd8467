"""One name on disk as the image means it."""

from __future__ import annotations

import os
from pathlib import Path

from lamina.layer.entry import Entry, Kind
from lamina.layer.extra import Extra
from lamina.layer.flavour import Flavour, IdMap
from lamina.layer.inodes import DIRECTORY_CODE, FILE_CODE, OTHER_CODE, WHITEOUT_CODE, Inodes, listing

PLAIN = Flavour("plain", IdMap("single"))


def read(path: Path, extra: Extra, name: bytes = b"f") -> Entry:
    fd = os.open(path, os.O_RDONLY)
    try:
        return Inodes(PLAIN, extra).opened(name, fd, os.fstat(fd))
    finally:
        os.close(fd)


def test_the_side_table_says_what_the_disk_cannot(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"")
    file.chmod(0o600)
    os.utime(file, (5, 5))
    extra = Extra(owners={b"f": (7, 8)}, modes={b"f": 0o4000}, devices={b"f": ("b", 8, 1)}, xattrs={b"f": {b"security.capability": b"x"}})
    assert read(file, extra) == Entry(b"f", Kind.BLOCK, 0o4000, 7, 8, 0, 5.0, b"", 8, 1, ((b"security.capability", b"x"),))
    assert read(file, Extra()) == Entry(b"f", Kind.FILE, 0o600, 0, 0, 0, 5.0)


def test_a_device_that_was_written_to_is_a_file_again(tmp_path: Path) -> None:
    """A step wrote bytes over the empty file that stands for a device: they must not be lost."""
    (tmp_path / "f").write_bytes(b"bytes")
    assert read(tmp_path / "f", Extra(devices={b"f": ("c", 1, 3)})).kind is Kind.FILE


def test_a_listing_is_in_byte_order_and_has_the_hidden_names(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "B").write_bytes(b"")
    os.symlink("x", tmp_path / "l")
    (tmp_path / os.fsdecode(b"\xff")).write_bytes(b"")
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        for _ in range(2):
            assert listing(fd, [b"gone"]) == [
                (b"B", FILE_CODE),
                (b"d", DIRECTORY_CODE),
                (b"gone", WHITEOUT_CODE),
                (b"l", OTHER_CODE),
                (b"\xff", FILE_CODE),
            ]
    finally:
        os.close(fd)
