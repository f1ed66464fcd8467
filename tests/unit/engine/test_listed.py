"""Where the names of a listing stand in their source."""

from contextlib import nullcontext
from pathlib import Path

import pytest

from lamina.dockerfile.ignore import IgnoreRules
from lamina.engine.listed import Listed
from lamina.layer import listing
from lamina.layer.context import ContextTree
from lamina.layer.selection import select


@pytest.fixture
def tree(tmp_path: Path) -> ContextTree:
    (tmp_path / "dir/sub").mkdir(parents=True)
    for name in ("a.txt", "dir/b.txt", "dir/c.txt", "dir/sub/dir"):
        (tmp_path / name).write_text(name)
    (tmp_path / "ln").symlink_to("a.txt")
    (tmp_path / "folder").symlink_to("dir")
    return ContextTree(tmp_path)


def listed(tree: ContextTree, source: str, *, relative: bool = True) -> Listed:
    return Listed(lambda: select(tree, source), lambda found: listing.encode(listing.make(found)), nullcontext(), source, relative=relative)


@pytest.mark.parametrize(
    ("source", "path", "whole"),
    [
        ("/a.txt", b"a.txt", b"./a.txt"),
        ("/ln", b"ln", b"./a.txt"),
        ("/folder", b"sub/dir", b"./dir/sub/dir"),
        ("/dir", b"gone", b"./dir/gone"),
        ("/dir/sub", b"dir", b"./dir/sub/dir"),
        ("/", b"dir/b.txt", b"./dir/b.txt"),
        ("/", b"", b"./"),
        ("/dir/*.txt", b"b.txt", b"./dir/b.txt"),
        ("/dir/*.txt", b"gone.txt", b"./dir/gone.txt"),
        ("/d*", b"dir/sub/dir", b"./dir/sub/dir"),
        ("/dir/b.txt", b"other", b"./dir/other"),
    ],
)
def test_whole_paths(tree: ContextTree, source: str, path: bytes, whole: bytes) -> None:
    assert listed(tree, source).whole(path) == whole


def test_paths_of_filesystems_begin_with_a_slash(tree: ContextTree) -> None:
    assert listed(tree, "/dir", relative=False).whole(b"b.txt") == b"/dir/b.txt"


def test_what_leaves_a_name_out_is_told(tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir/one").touch()
    found = listed(ContextTree(tmp_path, IgnoreRules.parse("dir/one")), "/dir")
    removed = found.told(listing.Difference(b"one", "removed"), "X.dockerignore")
    assert (removed.path, removed.change, removed.detail) == (b"./dir/one", "removed", "left out by X.dockerignore")
    assert found.told(listing.Difference(b"two", "removed"), "X.dockerignore").detail == ""


def test_every_name_of_a_listing_is_found(tree: ContextTree, tmp_path: Path) -> None:
    for source in ("/", "/dir", "/folder", "/*", "/dir/*"):
        found = listed(tree, source)
        document = listing.load(found.document())
        assert document is not None
        for path in document.items:
            assert (tmp_path / found.whole(path).decode()).exists()
