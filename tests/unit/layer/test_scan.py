"""scan: what an overlay's upper holds, as entries."""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path

import pytest

from lamina.layer.entry import Entry, Kind
from lamina.layer.flavour import Flavour, IdMap
from lamina.layer.inodes import ForeignLayer
from lamina.layer.paths import LayerFault
from lamina.layer.scan import entries, scan
from lamina.layer.writer import UnstorableName
from lamina.layer.xattrs import OWNER

ROOT = os.geteuid() == 0
root = pytest.mark.skipif(not ROOT, reason="needs root")
TRUSTED, USER, SINGLE = Flavour("trusted"), Flavour("user"), Flavour("user", IdMap("single"))
PLAIN = Flavour("plain", IdMap("single"))


@pytest.fixture
def diff(tmp_path: Path) -> Path:
    (tmp_path / "diff").mkdir()
    return tmp_path / "diff"


def found(diff: Path, flavour: Flavour = PLAIN) -> dict[bytes, Entry]:
    return {entry.path: entry for entry in entries(diff.parent, flavour)}


def test_order_is_folders_first_then_names_in_byte_order(diff: Path) -> None:
    for name in ("b", "a-x", "ä", "a.x", "B"):
        (diff / name).write_bytes(b"")
    (diff / "a").mkdir()
    (diff / "a/z").mkdir()
    (diff / "a/z/1").write_bytes(b"")
    (diff / "a/y").write_bytes(b"")
    assert list(found(diff)) == [b"B", b"a", b"a/y", b"a/z", b"a/z/1", b"a-x", b"a.x", b"b", "ä".encode()]


def test_the_descriptor_is_the_file_at_its_start(diff: Path) -> None:
    (diff / "a").write_bytes(b"bytes")
    (diff / "d").mkdir()
    for entry, fd in scan(diff.parent, PLAIN):
        assert (os.read(fd, 9) == b"bytes") if entry.kind is Kind.FILE else fd == -1


def test_an_abandoned_scan_leaves_no_descriptor(diff: Path) -> None:
    (diff / "a").mkdir()
    (diff / "a/b").write_bytes(b"")
    before = set(os.listdir("/proc/self/fd"))
    walk = scan(diff.parent, PLAIN)
    next(walk)
    next(walk)
    walk.close()  # type: ignore[attr-defined]  # it is a generator
    assert set(os.listdir("/proc/self/fd")) <= before


def test_names_of_one_inode_are_hard_links_to_the_first(diff: Path) -> None:
    (diff / "b").write_bytes(b"x")
    os.link(diff / "b", diff / "a")
    os.link(diff / "b", diff / "c")
    outside = diff.parent / "outside"
    outside.write_bytes(b"shared with another layer")
    os.link(outside, diff / "d")
    names = found(diff)
    assert [names[name].kind for name in (b"a", b"b", b"c", b"d")] == [Kind.FILE, Kind.HARDLINK, Kind.HARDLINK, Kind.FILE]
    assert names[b"b"].link == names[b"c"].link == b"a"


def test_sockets_are_left_out_as_in_docker(diff: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(diff / "s"))
        os.mkfifo(diff / "p")
        assert list(found(diff)) == [b"p"]


@pytest.mark.parametrize("name", [".wh.x", ".wh.", ".wh..wh..opq"])
def test_names_that_would_mean_a_whiteout_are_refused(diff: Path, name: str) -> None:
    (diff / "d").mkdir()
    (diff / "d" / name).write_bytes(b"")
    with pytest.raises(UnstorableName, match=r"/d/\.wh\.") as caught:
        found(diff)
    assert caught.value.hint


def test_links_are_not_followed(diff: Path) -> None:
    os.symlink("/etc", diff / "etc")
    assert found(diff)[b"etc"].link == b"/etc"


@root
@pytest.mark.root
@pytest.mark.parametrize(("flavour", "mark"), [(TRUSTED, "trusted"), (USER, "user"), (SINGLE, "user")])
def test_whiteouts_and_opaque_folders_of_an_upper(diff: Path, flavour: Flavour, mark: str) -> None:
    os.mknod(diff / "gone", 0o020000, os.makedev(0, 0))
    (diff / "d").mkdir()
    os.setxattr(diff / "d", f"{mark}.overlay.opaque", b"y")
    os.setxattr(diff, f"{mark}.overlay.opaque", b"y")
    (diff / "merged").mkdir()
    os.setxattr(diff / "merged", f"{mark}.overlay.origin", b"\0\xfb")
    os.setxattr(diff / "merged", f"{mark}.overlay.impure", b"y")
    listed = list(entries(diff.parent, flavour))
    assert [(entry.path, entry.kind) for entry in listed] == [
        (b"", Kind.OPAQUE),
        (b"d", Kind.DIRECTORY),
        (b"d", Kind.OPAQUE),
        (b"gone", Kind.WHITEOUT),
        (b"merged", Kind.DIRECTORY),
    ]
    assert not any(entry.xattrs for entry in listed)


@root
@pytest.mark.root
@pytest.mark.parametrize("mark", ["redirect", "metacopy"])
@pytest.mark.parametrize(("flavour", "space"), [(TRUSTED, "trusted"), (USER, "user")])
def test_uppers_that_do_not_hold_all_bytes_are_refused(diff: Path, flavour: Flavour, space: str, mark: str) -> None:
    (diff / "d").mkdir()
    os.setxattr(diff / "d", f"{space}.overlay.{mark}", b"/elsewhere")
    with pytest.raises(ForeignLayer, match=f"/d has the mark {space}.overlay.{mark}"):
        found(diff, flavour)


@root
@pytest.mark.root
def test_flavours_do_not_mix(diff: Path) -> None:
    (diff / "d").mkdir()
    os.setxattr(diff / "d", "trusted.overlay.opaque", b"y")
    with pytest.raises(ForeignLayer, match="another flavour"):
        found(diff, USER)
    os.removexattr(diff / "d", "trusted.overlay.opaque")
    os.setxattr(diff / "d", "user.overlay.opaque", b"y")
    assert [entry.kind for entry in entries(diff.parent, TRUSTED)] == [Kind.DIRECTORY], "any workload may set user.*: it means nothing"


def test_owners_in_single_are_what_the_attribute_says(diff: Path) -> None:
    (diff / "a").write_bytes(b"")
    (diff / "b").write_bytes(b"")
    (diff / "c").write_bytes(b"")
    os.setxattr(diff / "a", OWNER, b"1000:1001")
    os.setxattr(diff / "c", OWNER, b"nonsense")
    os.setxattr(diff / "b", "user.kept", b"1")
    names = found(diff)
    assert [(names[name].uid, names[name].gid) for name in (b"a", b"b", b"c")] == [(1000, 1001), (0, 0), (0, 0)]
    assert [names[name].xattrs for name in (b"a", b"b")] == [(), ((b"user.kept", b"1"),)]


@root
@pytest.mark.root
def test_capabilities_of_a_user_namespace_become_portable(diff: Path) -> None:
    (diff / "a").write_bytes(b"")
    os.setxattr(diff / "a", "security.capability", struct.pack("<6I", 0x03000001, 0x2000, 0, 0, 0, 100000))
    assert found(diff, TRUSTED)[b"a"].xattrs == ((b"security.capability", struct.pack("<5I", 0x02000001, 0x2000, 0, 0, 0)),)


@root
@pytest.mark.root
def test_what_belongs_to_the_host_stays_there(diff: Path) -> None:
    (diff / "a").write_bytes(b"")
    os.setxattr(diff / "a", "trusted.mine", b"1")
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *e) for e in [(1, 6, 0xFFFFFFFF), (4, 4, 0xFFFFFFFF), (32, 4, 0xFFFFFFFF)])
    os.setxattr(diff / "a", "system.posix_acl_access", acl)
    assert found(diff, TRUSTED)[b"a"].xattrs == ()


def test_a_missing_layer_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(LayerFault, match="cannot read /"):
        list(scan(tmp_path / "nothing", PLAIN))


def test_trees_deeper_than_any_path_are_one_clear_error(diff: Path) -> None:
    """A workload can make such a tree by changing into each folder."""
    fd = os.open(diff, os.O_RDONLY)
    for _ in range(22):
        os.mkdir("d" * 200, dir_fd=fd)
        inner = os.open("d" * 200, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(fd)
    with pytest.raises(LayerFault, match="has 4220 bytes: 4095 are possible"):
        found(diff)
