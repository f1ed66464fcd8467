"""A root filesystem as a plain folder: links stay inside, what is shown goes again, what changed is found."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lamina.layer.entry import Entry, Kind
from lamina.layer.flavour import Flavour, IdMap
from lamina.layer.scan import entries
from lamina.layer.writer import EntryWriter
from lamina.sandbox.plaintree import PlainTree
from lamina.sandbox.protocols import SandboxSetupFailed

FLAVOUR = Flavour("plain", IdMap("single"))


@pytest.fixture
def tree(tmp_path: Path) -> PlainTree:
    layer = tmp_path / "layer"
    (layer / "diff").mkdir(parents=True)
    with EntryWriter(layer, FLAVOUR) as writer:
        for name in (b"etc", b"var", b"run", b"gone"):
            writer.put(Entry(name, Kind.DIRECTORY, 0o755, mtime=1000.0))
        writer.put(Entry(b"etc/hosts", Kind.FILE, 0o644))
        writer.put(Entry(b"gone/f", Kind.FILE, 0o600))
        writer.put(Entry(b"var/run", Kind.SYMLINK, link=b"/run"))
        writer.put(Entry(b"out", Kind.SYMLINK, link=b"../../../.." + os.fsencode(tmp_path / "outside")))
        writer.put(Entry(b"a", Kind.SYMLINK, link=b"b"))
        writer.put(Entry(b"b", Kind.SYMLINK, link=b"a"))
    made = PlainTree(tmp_path / "tree", FLAVOUR)
    made.fill((layer / "diff",))
    return made


def test_links_stay_inside(tree: PlainTree, tmp_path: Path) -> None:
    assert tree.locate("/var/run/x") == b"run/x"
    assert tree.locate("/../../etc/./hosts") == b"etc/hosts"
    place = tree.show("/out/x")
    place.write_text("x")
    assert str(place).startswith(str(tree.root))
    assert not (tmp_path / "outside").exists()
    with pytest.raises(SandboxSetupFailed, match="too many links"):
        tree.locate("/a/x")
    with pytest.raises(SandboxSetupFailed, match="nothing can be mounted"):
        tree.show("/")


def test_what_was_shown_leaves_no_trace(tree: PlainTree) -> None:
    before = tree.stamps()
    tree.show("/etc/hosts").write_text("shown")
    tree.show("/new/deep/secret").write_text("s")
    tree.dressed()
    assert tree.stamps().keys() == before.keys() - {b"etc/hosts"}
    assert os.stat(tree.root / "etc").st_mtime == 1000.0
    tree.undress()
    assert tree.stamps().keys() == before.keys()
    assert (tree.root / "etc/hosts").read_bytes() == b""
    assert os.stat(tree.root / "etc").st_mtime == 1000.0
    assert not list(tree.folder.glob("stash*"))


def test_a_folder_made_for_a_mount_stays_when_something_was_put_there(tree: PlainTree, tmp_path: Path) -> None:
    tree.show("/new/secret").write_text("s")
    before = tree.stamps()
    (tree.root / "new" / "kept").write_text("k")
    (tmp_path / "up" / "diff").mkdir(parents=True)
    tree.changes(before, tmp_path / "up")
    tree.undress()
    assert [(entry.path, entry.kind) for entry in entries(tmp_path / "up", FLAVOUR)] == [
        (b"new", Kind.DIRECTORY),
        (b"new/kept", Kind.FILE),
    ]


def test_changes(tree: PlainTree, tmp_path: Path) -> None:
    before = tree.stamps()
    found = os.stat(tree.root / "etc/hosts")
    (tree.root / "etc/hosts").write_text("")
    os.utime(tree.root / "etc/hosts", ns=(found.st_atime_ns, found.st_mtime_ns))
    os.unlink(tree.root / "gone/f")
    os.rmdir(tree.root / "gone")
    os.unlink(tree.root / "var/run")
    (tree.root / "var/run").mkdir()
    (tmp_path / "up" / "diff").mkdir(parents=True)
    tree.changes(before, tmp_path / "up")
    got = {(entry.path, entry.kind) for entry in entries(tmp_path / "up", FLAVOUR)}
    assert {(b"etc/hosts", Kind.FILE), (b"etc", Kind.DIRECTORY), (b"gone", Kind.WHITEOUT), (b"var/run", Kind.DIRECTORY)} <= got
    assert (b"gone/f", Kind.WHITEOUT) not in got, "the folder's says all"
