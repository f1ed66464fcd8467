"""Outcomes were observed with Docker (BuildKit): same Dockerfile, `-o type=tar`."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import tarfile
from pathlib import Path
from typing import BinaryIO

import pytest

from lamina.diagnostics.errors import LaminaError
from lamina.dockerfile.ignore import IgnoreRules
from lamina.engine.runners.files import owner_ids, run_file_op, write_file_op
from lamina.graph.ops import CopyAction, FileAction, FileOp, MkdirAction, MkfileAction, Owner
from lamina.layer.context import ContextTree
from lamina.layer.copying import CopyFailed
from lamina.layer.entry import Entry, Kind
from lamina.layer.flavour import Flavour
from lamina.layer.owners import UnknownOwner
from lamina.testing.trees import MemoryTree


def base() -> MemoryTree:
    tree = MemoryTree().folder("d", 0o700).folder("d/sub", 0o700).folder("d/fdir").file("d/file").folder("real").file("target", b"old")
    return tree.link("lnkdir", "/real").link("lnkfile", "target").link("dangling", "/missing/dir").link("loop", "loop")


def source() -> MemoryTree:
    tree = MemoryTree().file("f", b"hi").folder("t", 0o711).file("t/f1", b"t1", 0o4755, mtime=5.0).folder("t/sub", 0o701)
    return tree.file("t/sub/s", b"s").folder("t/only").link("t/lnk", "f1").link("tl", "t").link("fl", "t/f1")


def run(*actions: FileAction, root: MemoryTree | None = None, tree: MemoryTree | None = None) -> MemoryTree:
    out = MemoryTree()
    out.entries.clear()
    write_file_op(FileOp(actions), root, (None, tree or source()), FreshLayer(out), now=9.0)
    return out


class FreshLayer:
    """The writer of a layer that has not even a root yet."""

    def __init__(self, out: MemoryTree) -> None:
        self.out = out

    def put(self, entry: Entry, data: BinaryIO | None = None) -> None:
        if not entry.path:
            self.out.entries[b""] = entry
        else:
            self.out.put(entry, data)

    def share(self, entry: Entry, path: bytes) -> bool:
        return self.out.share(entry, path)

    def remove(self, path: bytes) -> None:
        self.out.remove(path)


def copy(src: str, dest: str, owner: Owner | None = None, mode: str | None = None, unpack: bool = False) -> CopyAction:
    return CopyAction(1, src, dest, owner=owner, mode=mode, unpack=unpack)


def paths(out: MemoryTree) -> set[str]:
    return {path.decode() for path in out.entries if path}


def test_folder_into_existing_folder_merges_and_keeps_its_mode() -> None:
    out = run(copy("t", "/d/"), root=base())
    assert paths(out) == {"d", "d/f1", "d/sub", "d/sub/s", "d/only", "d/lnk"}
    assert out.entries[b"d"].mode == 0o700
    assert out.entries[b"d/sub"].mode == 0o701
    assert out.entries[b"d/f1"].mode == 0o4755
    assert out.entries[b"d/f1"].mtime == 5.0
    assert out.entries[b"d/lnk"].link == b"f1"


def test_new_folders_are_0755_and_owned_by_chown() -> None:
    out = run(copy("t", "/n1/n2/n3", Owner("5", "6")), root=base())
    for path in (b"n1", b"n1/n2", b"n1/n2/n3"):
        assert (out.entries[path].mode, out.entries[path].uid, out.entries[path].gid) == (0o755, 5, 6)
    assert {(entry.uid, entry.gid) for path, entry in out.entries.items() if path} == {(5, 6)}


@pytest.mark.parametrize(
    ("dest", "written"),
    [
        ("/lnkfile", "target"),
        ("/lnkdir", "real/f"),
        ("/lnkdir/deep/", "real/deep/f"),
        ("/dangling/", "missing/dir/f"),
        ("/d/fdir", "d/fdir/f"),
        ("/new", "new"),
        ("/x/../y", "y"),
        ("/../../up", "up"),
        ("/f/", "f/f"),
    ],
)
def test_where_a_file_lands(dest: str, written: str) -> None:
    out = run(copy("f", dest), root=base())
    assert out.bytes[written.encode()] == b"hi"


def test_existing_parents_are_shown_as_they_are_below() -> None:
    root = base().add(Entry(b"d", Kind.DIRECTORY, 0o700, 3, 4, xattrs=((b"user.a", b"b"),)))
    out = run(copy("f", "/d/new"), root=root)
    assert (out.entries[b"d"].uid, out.entries[b"d"].gid, out.entries[b"d"].xattrs) == (3, 4, ((b"user.a", b"b"),))
    assert paths(out) == {"d", "d/new"}


@pytest.mark.parametrize(("src", "written"), [("tl", "k/f1"), ("fl", "k/fl"), ("t/lnk", "k/lnk")])
def test_a_link_as_source_is_followed(src: str, written: str) -> None:
    assert run(copy(src, "/k/")).bytes[written.encode()] == b"t1"


@pytest.mark.parametrize(("src", "dest"), [("t", "/target"), ("f", "/loop"), ("f", "/target/x")])
def test_wrong_kind_of_destination(src: str, dest: str) -> None:
    with pytest.raises(CopyFailed):
        run(copy(src, dest), root=base())


def test_a_file_does_not_replace_a_folder_below() -> None:
    with pytest.raises(CopyFailed, match="/q/d"):
        run(copy("p", "/q"), root=MemoryTree().folder("q/d"), tree=MemoryTree().file("p/d"))


def test_a_folder_does_not_replace_a_link_below() -> None:
    with pytest.raises(CopyFailed, match="/q/d"):
        run(copy("p", "/q"), root=MemoryTree().link("q/d", "/etc").folder("etc"), tree=MemoryTree().folder("p/d"))


def test_a_link_in_the_folder_is_replaced_not_followed() -> None:
    out = run(copy("f", "/q/"), root=MemoryTree().link("q/f", "/etc/passwd").file("etc/passwd"))
    assert out.entries[b"q/f"].kind is Kind.FILE
    assert paths(out) == {"q", "q/f"}


def test_the_root_keeps_its_own_metadata() -> None:
    root = MemoryTree().add(Entry(b"", Kind.DIRECTORY, 0o711, 7, 8))
    assert run(copy("t", "/"), root=root).entries[b""].mode == 0o711
    assert run(copy("t", "/")).entries[b""].mode == 0o755


def test_chmod_takes_files_and_folders_but_not_the_new_destination() -> None:
    out = run(copy("t", "/n", mode="640"))
    assert out.entries[b"n"].mode == 0o755
    assert {out.entries[path].mode for path in (b"n/f1", b"n/sub", b"n/only", b"n/sub/s")} == {0o640}
    assert out.entries[b"n/lnk"].mode == 0o777


def test_workdir_makes_what_is_missing_and_follows_links() -> None:
    out = run(MkdirAction("/lnkdir/w/x", owner=Owner("5")), MkdirAction("/d", owner=Owner("5")), root=base())
    assert (out.entries[b"real/w/x"].uid, out.entries[b"real/w"].gid, out.entries[b"real"].uid) == (5, 5, 0)
    assert b"d" not in out.entries
    with pytest.raises(CopyFailed, match="not a folder"):
        run(MkdirAction("/target/x"), root=base())


def test_heredoc_file() -> None:
    out = run(MkfileAction("/a/b", b"text", owner=Owner("1", "2"), chmod="u+x"), root=base())
    assert out.bytes[b"a/b"] == b"text"
    assert (out.entries[b"a/b"].mode, out.entries[b"a/b"].uid, out.entries[b"a/b"].gid) == (0o744, 1, 2)


def test_actions_see_what_earlier_ones_made() -> None:
    out = run(copy("f", "/x/"), copy("t/f1", "/x/f"), copy("t/sub", "/x/s"), copy("t/only", "/x/s/o"))
    assert out.bytes[b"x/f"] == b"t1"
    assert paths(out) == {"x", "x/f", "x/s", "x/s/s", "x/s/o"}


def test_wildcards_and_exclude() -> None:
    tree = MemoryTree().file("a.txt").file("b.md").file("c.txt").file("dir/x.txt").file("dir/y.md")
    out = run(CopyAction(1, "*", "/o/", exclude=("*.md",)), tree=tree)
    assert paths(out) == {"o", "o/a.txt", "o/c.txt", "o/x.txt"}


def test_parents_keeps_leading_folders() -> None:
    tree = MemoryTree().file("x/a/one.txt").file("x/a/one.md").file("x/b/two.txt").folder("x/c")
    out = run(CopyAction(1, "x", "/o/", include=("a/*.txt", "b")), tree=tree)
    assert paths(out) == {"o", "o/a", "o/a/one.txt", "o/b", "o/b/two.txt"}


def test_owner_names() -> None:
    root = MemoryTree().file("etc/passwd", b"root:x:0:0::/:/bin/sh\napp:x:12:34::/:/bin/sh\nbad:x\n").file("etc/group", b"grp:x:56:\n")
    assert owner_ids(Owner("app"), root) == (12, 34)
    assert owner_ids(Owner("app", "grp"), root) == (12, 56)
    assert owner_ids(Owner("7"), root) == (7, 7)
    assert owner_ids(Owner("7", "0"), None) == (7, 0)
    for owner in (Owner("nobody"), Owner("bad"), Owner("app", "none")):
        with pytest.raises(UnknownOwner):
            owner_ids(owner, root)


def archive(names: dict[str, bytes | None], links: dict[str, tuple[bytes, str]] | None = None) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in names.items():
            item = tarfile.TarInfo(name)
            item.uid, item.gid, item.mtime = 7, 8, 11
            item.mode = 0o700 if data is None else 0o640
            item.type = tarfile.DIRTYPE if data is None else tarfile.REGTYPE
            item.size = len(data or b"")
            tar.addfile(item, io.BytesIO(data or b""))
        for name, (kind, to) in (links or {}).items():
            item = tarfile.TarInfo(name)
            item.type, item.linkname = kind, to
            tar.addfile(item)
    return out.getvalue()


@pytest.mark.parametrize("squeeze", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_add_unpacks(squeeze: type[bytes]) -> None:
    data = squeeze(
        archive({".": None, "q": None, "p/r/z": b"z", "q/h": b"h"}, {"q/l": (tarfile.LNKTYPE, "q/h"), "s": (tarfile.SYMTYPE, "/q")})
    )
    out = run(copy("a.tar", "/u/v", Owner("3", "4"), unpack=True), tree=MemoryTree().file("a.tar", data))
    assert (out.entries[b"u/v"].mode, out.entries[b"u/v"].uid) == (0o755, 3)
    assert (out.entries[b"u/v/q"].mode, out.entries[b"u/v/q"].uid) == (0o700, 7)
    assert (out.entries[b"u/v/p/r"].mode, out.entries[b"u/v/p/r"].uid) == (0o755, 0)
    assert (out.entries[b"u/v/p/r/z"].mode, out.entries[b"u/v/p/r/z"].gid, out.entries[b"u/v/p/r/z"].mtime) == (0o640, 8, 11.0)
    assert (out.entries[b"u/v/q/l"].kind, out.entries[b"u/v/q/l"].link) == (Kind.HARDLINK, b"u/v/q/h")
    assert out.entries[b"u/v/s"].link == b"/q"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"plain",
        gzip.compress(b"not a tar", mtime=0),
        b"\0" * 10240,
        b"\x1f\x8b\x08broken",
        b"\x28\xb5\x2f\xfdbroken",
        b"BZhx",
        b"\xfd7zXZ\0x",
    ],
)
def test_add_copies_what_is_no_archive(data: bytes) -> None:
    out = run(copy("f", "/u", unpack=True), tree=MemoryTree().file("f", data))
    assert out.bytes[b"u"] == data


def test_archive_replaces_kinds_and_stays_inside() -> None:
    data = archive({"a": b"file", "b": None, "b/x": b"in folder", "esc/y": b"stays"})
    root = MemoryTree().folder("o/a").file("o/a/old").file("o/b").link("o/esc", "/etc").folder("etc")
    out = run(copy("t", "/o", unpack=True), root=root, tree=MemoryTree().file("t", data))
    assert out.bytes[b"o/a"] == b"file"
    assert out.bytes[b"o/etc/y"] == b"stays"
    assert out.bytes[b"o/b/x"] == b"in folder"
    assert b"etc" not in out.entries


def test_names_in_an_archive_are_cleaned_as_text() -> None:
    data = archive({"a/../up": b"1", "/../top": b"2", "x/y/../../z": b"3"}, {"h/../hard": (tarfile.LNKTYPE, "q/../up")})
    out = run(copy("t", "/o", unpack=True), tree=MemoryTree().file("t", data))
    assert {path: out.bytes[path] for path in out.bytes} == {b"o/up": b"1", b"o/top": b"2", b"o/z": b"3"}
    assert out.entries[b"o/hard"].link == b"o/up"


@pytest.mark.parametrize(
    "data",
    [
        archive({"../x": b""}),
        archive({"a/../../x": b""}),
        archive({}, {"l": (tarfile.LNKTYPE, "../../etc/passwd")}),
        archive({"x": b"y" * 2000})[:1500],
    ],
)
def test_hostile_or_damaged_archive(data: bytes) -> None:
    with pytest.raises(CopyFailed):
        run(copy("t", "/o", unpack=True), tree=MemoryTree().file("t", data))


def test_hard_links_of_a_context_stay(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/a").write_bytes(b"1")
    (tmp_path / "d/b").hardlink_to(tmp_path / "d/a")
    out = MemoryTree()
    write_file_op(FileOp((copy("d", "/x"),)), None, (None, ContextTree(tmp_path)), out, now=0.0)
    assert (out.entries[b"x/a"].kind, out.entries[b"x/b"].kind, out.entries[b"x/b"].link) == (Kind.FILE, Kind.HARDLINK, b"x/a")


class Stored:
    """An earlier layer that has x/f1."""

    def __init__(self) -> None:
        self.seen: list[tuple[bytes, int]] = []
        self.used: list[bytes] = []

    def find(self, entry: Entry, content: bytes) -> bytes | None:
        self.seen.append((entry.path, len(content)))
        return b"/store/old/f1" if entry.path == b"x/f1" else None

    def taken(self, path: bytes) -> None:
        self.used.append(path)


def test_a_file_that_cannot_be_linked_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "f1").write_bytes(b"1")
    out, reuse = MemoryTree(), Stored()
    monkeypatch.setattr(MemoryTree, "share", lambda self, entry, path: False)
    write_file_op(FileOp((copy("t", "/x"),)), None, (None, ContextTree(tmp_path)), out, now=0.0, reuse=reuse)
    assert out.open(b"x/f1").read() == b"1"
    assert reuse.used == []


def test_reuse_shares_equal_files(tmp_path: Path) -> None:
    (tmp_path / "t" / "sub").mkdir(parents=True)
    (tmp_path / "t" / "f1").write_bytes(b"1")
    (tmp_path / "t" / "sub" / "s").write_bytes(b"2")
    (tmp_path / "t" / "two").write_bytes(b"3")
    (tmp_path / "t" / "names").hardlink_to(tmp_path / "t" / "two")
    out = MemoryTree()
    reuse = Stored()
    write_file_op(FileOp((copy("t", "/x"),)), None, (None, ContextTree(tmp_path)), out, now=0.0, reuse=reuse)
    assert out.shared == {b"x/f1": b"/store/old/f1"}
    assert reuse.used == [b"x/f1"]
    assert reuse.seen == [(b"x/f1", 32), (b"x/names", 0), (b"x/sub/s", 32), (b"x/two", 0)], "one of several names is not shared"
    assert out.entries[b"x/two"].kind is Kind.HARDLINK


def test_missing_input_tree() -> None:
    with pytest.raises(LaminaError, match="empty"):
        write_file_op(FileOp((copy("t", "/x"),)), None, (None, None), MemoryTree(), now=0.0)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="makes files of other owners")
def test_into_a_layer_directory(tmp_path: Path) -> None:
    ctx, out = tmp_path / "ctx", tmp_path / "layer"
    (ctx / "d/sub").mkdir(parents=True)
    out.mkdir()
    (ctx / "d/a").write_bytes(b"1")
    (ctx / "d/a").chmod(0o4755)
    (ctx / "d/b").hardlink_to(ctx / "d/a")
    (ctx / "d/sub/l").symlink_to("../a")
    (ctx / "skip").write_bytes(b"")
    tree = ContextTree(ctx, IgnoreRules.parse("skip\n"))
    actions = (copy(".", "/srv/app/", Owner("5", "6")), MkdirAction("/srv/work"), MkfileAction("/srv/file", b"text"))
    run_file_op(FileOp(actions), base(), (None, tree), out, Flavour("trusted"), now=77.0)
    made = out / "diff/srv/app"
    assert sorted(str(path.relative_to(made)) for path in made.rglob("*")) == ["d", "d/a", "d/b", "d/sub", "d/sub/l"]
    found = (made / "d/a").stat()
    assert (found.st_mode & 0o7777, found.st_uid, found.st_gid, found.st_nlink) == (0o4755, 5, 6, 2)
    assert abs(found.st_mtime - (ctx / "d/a").stat().st_mtime) < 1e-5
    assert os.readlink(made / "d/sub/l") == "../a"
    assert (out / "diff/srv/work").stat().st_mtime == 77.0
    assert (out / "diff/srv/file").read_bytes() == b"text"


def test_all_of_an_empty_stage_is_an_empty_folder() -> None:
    """`COPY --from=empty / /x/y` made nothing, and a RUN that went to /x/y failed; BuildKit makes the folder."""
    out = MemoryTree()
    out.entries.clear()
    write_file_op(FileOp((CopyAction(1, "/", "/x/y"),)), None, (None, None), FreshLayer(out), now=0.0)
    assert paths(out) == {"x", "x/y"}


def test_a_folder_that_is_made_takes_its_parents_setgid_bit() -> None:
    """As mkdir(2) does, and so docker; a folder that is copied has its own mode."""
    root = base()
    root.add(Entry(b"shared", Kind.DIRECTORY, 0o2775, 0, 5))
    out = run(copy("t", "/shared/new/inner/"), root=root)
    assert (out.entries[b"shared/new"].mode, out.entries[b"shared/new/inner"].mode) == (0o2755, 0o2755)
    assert out.entries[b"shared/new/inner/sub"].mode & 0o2000 == 0
