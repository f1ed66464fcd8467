from __future__ import annotations

from pathlib import Path

from lamina.layer import sums
from lamina.layer.entry import Entry, Kind
from lamina.layer.sums import Sum

A, B = Sum(b"a" * 32, 3, 0o644, 0, 0, 5.25), Sum(b"b" * 32, 0, 0o4755, 1000, 7, -1.5)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    sums.write(tmp_path, {b"x": A, b"\xff/y": B})
    assert sums.read(tmp_path) == {b"x": A, b"\xff/y": B}


def test_as_an_entry() -> None:
    assert B.entry(b"p/q") == Entry(b"p/q", Kind.FILE, 0o4755, 1000, 7, 0, -1.5)


def test_a_layer_without_has_none(tmp_path: Path) -> None:
    assert sums.read(tmp_path) == {}


def test_what_an_earlier_version_wrote_is_as_good_as_none(tmp_path: Path) -> None:
    (tmp_path / "sums").write_bytes(b"lamina-sums-1\n" + bytes(4))
    assert sums.read(tmp_path) == {}


def test_a_damaged_file_is_as_good_as_none(tmp_path: Path) -> None:
    sums.write(tmp_path, {b"x": A})
    whole = (tmp_path / "sums").read_bytes()
    for position in range(len(whole)):
        data = bytearray(whole)
        data[position] ^= 0x10
        (tmp_path / "sums").write_bytes(data)
        assert sums.read(tmp_path) == {}
        (tmp_path / "sums").write_bytes(whole[:position])
        assert sums.read(tmp_path) == {}
