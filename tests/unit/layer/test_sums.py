from __future__ import annotations

from pathlib import Path

from lamina.layer import sums

A, B = "a" * 64, "b" * 64


def test_what_was_written_is_read(tmp_path: Path) -> None:
    sums.write(tmp_path, {b"x": A, b"\xff/y": B})
    assert sums.read(tmp_path) == {b"x": bytes.fromhex(A), b"\xff/y": bytes.fromhex(B)}


def test_a_layer_without_digests_has_none(tmp_path: Path) -> None:
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
