from __future__ import annotations

import pytest

from lamina.layer.links import clean, follow
from lamina.testing.trees import MemoryTree

TREE = MemoryTree().file("etc/passwd").link("abs", "/etc").link("rel", "etc/../abs").link("up", "../../../etc/passwd")
TREE = TREE.link("loop", "pool").link("pool", "loop").link("gone", "/no/where").link("etc/self", ".").link("root", "/")


@pytest.mark.parametrize(
    ("path", "found"),
    [
        (b"abs/passwd", b"etc/passwd"),
        (b"rel/passwd", b"etc/passwd"),
        (b"up", b"etc/passwd"),
        (b"etc/self/self/passwd", b"etc/passwd"),
        (b"root/root/etc", b"etc"),
        (b"../../etc", b"etc"),
        (b"", b""),
        (b"loop", None),
        (b"gone", None),
        (b"none", None),
    ],
)
def test_follow(path: bytes, found: bytes | None) -> None:
    assert follow(TREE.entries.get, path) == found


def test_missing_and_last() -> None:
    assert follow(TREE.entries.get, b"gone/x", missing=True) == b"no/where/x"
    assert follow(TREE.entries.get, b"new/../etc", missing=True) == b"etc"
    assert follow(TREE.entries.get, b"loop", missing=True) is None
    assert follow(TREE.entries.get, b"abs/self", last=False) == b"etc/self"


@pytest.mark.parametrize(("path", "plain"), [(b"/a//b/./c/", b"a/b/c"), (b"../a/../../b", b"b"), (b"/", b""), (b".", b"")])
def test_clean(path: bytes, plain: bytes) -> None:
    assert clean(path) == plain
