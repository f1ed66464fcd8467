"""The side table on disk."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from lamina.layer.extra import BadExtra, Extra, read_extra, write_extra

FULL = Extra(
    owners={b"a\xff": (1, 4_294_967_294)},
    modes={b"b": 0o4000},
    devices={b"c": ("c", 1, 3)},
    xattrs={b"d": {b"user.x": b"\0"}},
    whiteouts={b"e", b"f/g"},
    opaque={b""},
)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_extra(tmp_path, FULL)
    assert read_extra(tmp_path) == FULL


def test_nothing_to_say_is_no_file(tmp_path: Path) -> None:
    write_extra(tmp_path, FULL)
    write_extra(tmp_path, Extra())
    assert not (tmp_path / "extra").exists()
    assert read_extra(tmp_path) == Extra()


@pytest.mark.parametrize("raw", [b"", b"\xff", b"text", msgspec.msgpack.encode({"owners": {"a": "b"}}), msgspec.msgpack.encode([1])])
def test_damage_is_an_error_with_a_way_out(raw: bytes, tmp_path: Path) -> None:
    (tmp_path / "extra").write_bytes(raw)
    with pytest.raises(BadExtra, match="damaged") as caught:
        read_extra(tmp_path)
    assert caught.value.hint


def test_a_later_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "extra").write_bytes(msgspec.msgpack.encode({"version": 2}))
    with pytest.raises(BadExtra, match="version 2"):
        read_extra(tmp_path)


def test_tables_of_two_layers_are_apart() -> None:
    one = Extra()
    one.owners[b"a"] = (1, 1)
    assert not Extra()


def test_another_name_of_a_file_knows_the_same() -> None:
    extra = Extra(owners={b"a": (1, 2)}, modes={b"a": 0}, whiteouts={b"b"}, xattrs={b"b": {b"x": b"y"}})
    extra.same(b"b", b"a")
    assert extra == Extra(owners={b"a": (1, 2), b"b": (1, 2)}, modes={b"a": 0, b"b": 0})


def test_forgetting_a_folder_forgets_what_is_below_and_no_neighbour() -> None:
    extra = Extra(owners={b"a/b": (1, 1), b"a": (2, 2), b"ab": (3, 3)}, whiteouts={b"a/c", b"a-"})
    extra.forget_below(b"a")
    assert extra == Extra(owners={b"a": (2, 2), b"ab": (3, 3)}, whiteouts={b"a-"})
