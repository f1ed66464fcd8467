"""Folders deeper than Python calls: a context of 950 nested folders ended every COPY with a RecursionError and a traceback."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamina.dockerfile.ignore import IgnoreRules
from lamina.layer import listing
from lamina.layer.context import ContextTree
from lamina.layer.copying import Target, copy
from lamina.layer.entry import Entry, Kind
from lamina.layer.paths import MAX_PATH
from lamina.layer.reading import ContextUnreadable
from lamina.layer.selection import select
from lamina.store.removal import remove

DEEP = 1100  # names; above the limit of calls (1000) and of descriptors (1024)


def nested(root: Path, levels: int) -> bytes:
    """A file below so many folders; its path. Made step by step: the whole path may be too long for the kernel."""
    fd = os.open(root, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(os.open("file", os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=fd))
    os.close(fd)
    return b"d/" * levels + b"file"


@pytest.fixture
def deep(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "context"
    place.mkdir()
    yield place
    remove(place)


class Kept:
    """A LayerWriter that only remembers names."""

    def __init__(self) -> None:
        self.names: list[bytes] = []

    def put(self, entry: Entry, data: object = None) -> None:
        self.names.append(entry.path)

    def share(self, entry: Entry, path: bytes) -> bool:
        raise AssertionError

    def remove(self, path: bytes) -> None:
        raise AssertionError


def test_each_way_over_a_deep_context(deep: Path) -> None:
    path = nested(deep, DEEP)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        found = ContextTree(deep).lookup(path)
        assert found is not None
        assert found.kind is Kind.FILE
        whole = select(ContextTree(deep), "d")
        assert path[2:] in listing.make(whole).items
        narrowed = select(ContextTree(deep), "d", excluded=lambda name: name == b"none")
        assert narrowed.digest() == whole.digest()  # folder by folder and by the context's own walk
        writer = Kept()
        copy(Target(None, writer, 0.0), whole, whole.matches[0], b"/to/")
        assert writer.names[-1] == b"to/" + path[2:]
        hidden = ContextTree(deep, IgnoreRules.parse("d\n!**/file\n"))
        assert hidden.children(b"") == [b"d"]
        assert ContextTree(deep, IgnoreRules.parse("d\n")).children(b"") == []
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_paths_that_no_layer_holds_are_one_line(deep: Path) -> None:
    nested(deep, MAX_PATH // 2 + 10)
    with pytest.raises(ContextUnreadable, match=r"no layer can hold more than 4095") as caught:
        select(ContextTree(deep), "d").digest()
    assert caught.value.hint is not None
    assert select(ContextTree(deep, IgnoreRules.parse("d\n")), ".").digest()


def test_folders_are_made_as_deep_as_a_path_can_be() -> None:
    writer = Kept()
    Target(None, writer, 0.0).make_folders(b"/".join([b"d"] * DEEP), None)
    assert len(writer.names) == DEEP + 1
