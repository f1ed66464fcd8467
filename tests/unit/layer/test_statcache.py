from __future__ import annotations

from pathlib import Path

import pytest

from lamina.layer.statcache import RACY, FolderRecord, Node, StatCache, Summary, decode_nodes, encode_nodes


def node(mtime: int = 0, ctime: int = 0, name: bytes = b"n") -> Node:
    return Node(name, 0o100644, 3, mtime, ctime, 7, 8, b"d" * 32, b"", ((b"user.a", b"b"),))


def record() -> FolderRecord:
    return FolderRecord(b"s" * 32, 5, False, encode_nodes([node(), node(name=b"\xff")]), {"view": Summary(b"l", [(b"\xff", b"head")])})


def test_round_trip(tmp_path: Path) -> None:
    cache = StatCache(tmp_path / "deep/cache")
    cache.put(b"", record())
    cache.put(b"\xff/x", record())
    cache.save()
    again = StatCache(tmp_path / "deep/cache")
    assert again.get(b"") == record()
    assert again.get(b"\xff/x") == record()
    assert again.get(b"none") is None
    assert decode_nodes(record().nodes)[1].name == b"\xff"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["cache"]


def test_drop_takes_what_is_below_and_nothing_beside(tmp_path: Path) -> None:
    cache = StatCache()
    for path in (b"a", b"a/b", b"a/b/c", b"ab"):
        cache.put(path, record())
    cache.drop(b"a")
    assert [path for path in (b"a", b"a/b", b"a/b/c", b"ab") if cache.get(path)] == [b"ab"]


def test_a_place_that_cannot_be_written_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    cache = StatCache(tmp_path / "file/cache")
    cache.put(b"", record())
    cache.save()


@pytest.mark.parametrize(
    ("mtime", "ctime", "racy"),
    [
        (0, 0, False),
        (0, 100 * RACY, True),
        (0, 99 * RACY, True),
        (0, 99 * RACY - 1, False),
        (0, 1000 * RACY, True),
        (100 * RACY - 1, 0, True),
        (1000 * RACY, 0, False),
    ],
)
def test_racy(mtime: int, ctime: int, racy: bool) -> None:
    assert node(mtime, ctime).racy(100 * RACY) is racy
