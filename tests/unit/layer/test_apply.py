"""apply_tar: what a tar says becomes a layer directory, and nothing else becomes anything."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from pathlib import Path

import pytest

from lamina.layer.apply import LayerStats, apply_tar
from lamina.layer.entry import Entry, Kind
from lamina.layer.flavour import Flavour, IdMap
from lamina.layer.paths import LayerFault
from lamina.layer.scan import entries
from lamina.layer.tarread import BadTar
from lamina.testing.tars import HostileTar, archive, folder, hard_link, hostile_tars, member, symlink

PLAIN = Flavour("plain", IdMap("single"))
FLAVOURS = [Flavour("trusted"), Flavour("user"), Flavour("user", IdMap("single")), PLAIN] if os.geteuid() == 0 else [PLAIN]
every_flavour = pytest.mark.parametrize("flavour", FLAVOURS, ids=str)


def layer(tmp_path: Path, name: str = "layer") -> Path:
    (tmp_path / name / "diff").mkdir(parents=True)
    return tmp_path / name


def apply(where: Path, flavour: Flavour, *members: bytes) -> dict[bytes, Entry]:
    apply_tar(io.BytesIO(archive(members)), where, flavour)
    return scanned(where, flavour)


def scanned(where: Path, flavour: Flavour) -> dict[bytes, Entry]:
    return {entry.path: entry for entry in entries(where, flavour) if entry.kind is not Kind.OPAQUE}


def opaque(where: Path, flavour: Flavour) -> set[bytes]:
    return {entry.path for entry in entries(where, flavour) if entry.kind is Kind.OPAQUE}


@every_flavour
@pytest.mark.parametrize("case", hostile_tars("/nowhere/at/all"), ids=lambda case: case.name)
def test_hostile_tars_touch_nothing_outside(case: HostileTar, flavour: Flavour, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o700)
    (outside / "victim").write_bytes(b"precious")
    (outside / "victim").chmod(0o600)
    case = {known.name: known for known in hostile_tars(str(outside))}[case.name]
    where = layer(tmp_path)
    if case.refused:
        with pytest.raises(BadTar) as caught:
            apply_tar(io.BytesIO(case.data), where, flavour)
        assert "\n" not in caught.value.message
    else:
        apply_tar(io.BytesIO(case.data), where, flavour)
        assert scanned(where, flavour) is not None
    assert (outside / "victim").read_bytes() == b"precious"
    assert (outside / "victim").stat().st_nlink == 1
    assert stat.S_IMODE((outside / "victim").stat().st_mode) == 0o600
    assert os.listdir(outside) == ["victim"]
    assert stat.S_IMODE(outside.stat().st_mode) == 0o700
    assert sorted(os.listdir(tmp_path)) == ["layer", "outside"]


@every_flavour
def test_links_in_parents_are_followed_inside_the_layer(flavour: Flavour, tmp_path: Path) -> None:
    found = apply(
        layer(tmp_path),
        flavour,
        folder("usr"),
        folder("usr/lib"),
        symlink("lib", "/usr/lib"),
        member("lib/a", b"a"),
        hard_link("b", "lib/a"),
    )
    assert found[b"b"].kind is Kind.FILE
    assert found[b"usr/lib/a"].link == b"b"
    assert found[b"lib"].link == b"/usr/lib"


@every_flavour
@pytest.mark.parametrize("order", ["mark first", "mark last"])
def test_an_opaque_mark_keeps_what_its_own_layer_brings(flavour: Flavour, order: str, tmp_path: Path) -> None:
    members = [folder("d"), member("d/a", b"a"), folder("d/e"), member("d/e/b", b"b")]
    mark = member("d/.wh..wh..opq", b"")
    where = layer(tmp_path)
    found = apply(where, flavour, *([mark, *members] if order == "mark first" else [*members, mark]))
    assert set(found) == {b"d", b"d/a", b"d/e", b"d/e/b"}
    assert opaque(where, flavour) == {b"d"}


@every_flavour
@pytest.mark.parametrize("order", ["mark first", "mark last"])
def test_a_whiteout_speaks_of_lower_layers_only(flavour: Flavour, order: str, tmp_path: Path) -> None:
    members = [folder("d"), member("d/a", b"a"), member("f", b"f")]
    marks = [member(".wh.d", b""), member(".wh.f", b""), member(".wh.g", b"")]
    where = layer(tmp_path)
    found = apply(where, flavour, *([*marks, *members] if order == "mark first" else [*members, *marks]))
    assert {path: entry.kind for path, entry in found.items()} == {
        b"d": Kind.DIRECTORY,
        b"d/a": Kind.FILE,
        b"f": Kind.FILE,
        b"g": Kind.WHITEOUT,
    }
    assert opaque(where, flavour) == {b"d"}


@every_flavour
def test_the_last_of_two_members_wins(flavour: Flavour, tmp_path: Path) -> None:
    where = layer(tmp_path)
    found = apply(
        where,
        flavour,
        member("a", b"first", mode=0o600),
        member("a", b"second", mode=0o640),
        folder("b"),
        member("b/gone", b""),
        member("b", b"file"),
        member("c", b"file"),
        folder("c", 0o700),
        folder("d", 0o700),
        member("d/stays", b""),
        folder("d", 0o711),
    )
    assert set(found) == {b"a", b"b", b"c", b"d", b"d/stays"}
    assert (where / "diff/a").read_bytes() == b"second"
    assert [found[name].mode for name in (b"a", b"c", b"d")] == [0o640, 0o700, 0o711]
    assert found[b"b"].kind is Kind.FILE
    assert opaque(where, flavour) == {b"c"}, "a folder in place of this layer's file shows nothing of what lies below"


@every_flavour
def test_metadata_arrives(flavour: Flavour, tmp_path: Path) -> None:
    found = apply(
        layer(tmp_path),
        flavour,
        member("d", kind=tarfile.DIRTYPE, mode=0o3711, uid=5, gid=6, mtime=1_000_000_000),
        member("d/suid", b"x", mode=0o4755, uid=1000, gid=100000, mtime=1_234_567_890, pax={"SCHILY.xattr.user.mine": "value"}),
        member("d/closed", b"x", mode=0),
        member("d/ln", kind=tarfile.SYMTYPE, link="suid", uid=7, gid=8, mtime=5),
        member("null", kind=tarfile.CHRTYPE, device=(1, 3), mode=0o666, uid=3),
        member("disk", kind=tarfile.BLKTYPE, device=(259, 70000), mode=0o660, gid=6),
        member("pipe", kind=tarfile.FIFOTYPE, mode=0o600, uid=9),
        folder("shut", 0),
        member("shut/in", b"", uid=4_000_000_000),
    )
    assert found[b"d"] == Entry(b"d", Kind.DIRECTORY, 0o3711, 5, 6, 0, 1e9)
    assert found[b"d/suid"] == Entry(b"d/suid", Kind.FILE, 0o4755, 1000, 100000, 1, 1_234_567_890.0, xattrs=((b"user.mine", b"value"),))
    assert found[b"d/closed"].mode == 0
    assert (found[b"d/ln"].uid, found[b"d/ln"].gid, found[b"d/ln"].mtime) == (7, 8, 5.0)
    null, disk, pipe = found[b"null"], found[b"disk"], found[b"pipe"]
    assert (null.kind, null.major, null.minor, null.mode, null.uid) == (Kind.CHARACTER, 1, 3, 0o666, 3)
    assert (disk.kind, disk.major, disk.minor, disk.mode, disk.gid) == (Kind.BLOCK, 259, 70000, 0o660, 6)
    assert (pipe.kind, pipe.mode, pipe.uid) == (Kind.FIFO, 0o600, 9)
    assert found[b"shut"].mode == 0
    assert found[b"shut/in"].uid == 4_000_000_000


def test_folders_that_the_tar_does_not_name_are_made_for_root(tmp_path: Path) -> None:
    found = apply(layer(tmp_path), FLAVOURS[-1], member("./a//b/./c", b"c", uid=5))
    assert (found[b"a/b"].mode, found[b"a/b"].uid) == (0o755, 0)
    assert found[b"a/b/c"].uid == 5


def test_blocks_of_zeros_become_holes(tmp_path: Path) -> None:
    body = b"head" + bytes(8 << 20) + b"tail" + bytes(3 << 20)
    where = layer(tmp_path)
    stats = apply_tar(io.BytesIO(archive([member("sparse", body)])), where, FLAVOURS[0])
    made = where / "diff/sparse"
    assert made.read_bytes() == body
    assert made.stat().st_blocks * 512 < 1 << 20
    assert stats == LayerStats(len(body), 1)


def test_an_empty_stream_is_an_empty_layer(tmp_path: Path) -> None:
    assert apply_tar(io.BytesIO(b""), layer(tmp_path), FLAVOURS[0]) == LayerStats(0, 0)


def test_what_follows_the_end_is_the_callers(tmp_path: Path) -> None:
    assert apply_tar(io.BytesIO(archive([member("a", b"a")]) + b"rest" * 500), layer(tmp_path), FLAVOURS[0]).entries == 1


class FullDisk:
    def read(self, size: int, /) -> bytes:
        raise OSError(28, "No space left on device")


def test_faults_of_the_stream_pass(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space"):
        apply_tar(FullDisk(), layer(tmp_path), FLAVOURS[0])


def test_a_failing_machine_is_a_fault_not_a_bad_tar(tmp_path: Path) -> None:
    where = layer(tmp_path)
    (where / "diff").rmdir()
    with pytest.raises(LayerFault):
        apply_tar(io.BytesIO(archive([member("a", b"a")])), where, FLAVOURS[0])
