"""A nasty layer there and back: directory -> tar -> directory, in every flavour, and what other tools read from the tar."""

from __future__ import annotations

import io
import os
import shutil
import stat
import subprocess
import tarfile
from hashlib import sha256
from pathlib import Path

import pytest

from lamina.layer.apply import apply_tar
from lamina.layer.entry import Entry, Kind
from lamina.layer.flavour import Flavour, IdMap
from lamina.layer.normal import normalise
from lamina.layer.pack import LayerChanged, diff_id, pack
from lamina.layer.scan import entries
from lamina.layer.sums import Sum
from lamina.layer.writer import EntryWriter

ROOT = os.geteuid() == 0
SINGLE = Flavour("plain", IdMap("single"))
FLAVOURS = [Flavour("trusted"), Flavour("user"), Flavour("user", IdMap("single")), Flavour("plain"), SINGLE] if ROOT else [SINGLE]
BODIES = {b"big": os.urandom(1_500_000), b"holes": b"x" + bytes(3 << 20) + b"y", b"block": b"b" * 512, b"empty": b""}
CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")


def nasty() -> list[Entry]:
    """One of each, in scan's order. Times whole seconds: a tar has no others."""
    deep = b"d" * 90
    return [
        Entry(b"a", Kind.FILE, 0o644, 0, 0, 1, 1e9),
        Entry(b"a\nb", Kind.FILE, 0o600, 1000, 1000, 4, -10.0),
        Entry(b"big", Kind.FILE, 0o755, 0, 0, len(BODIES[b"big"]), 4_102_444_800.0),
        Entry(b"block", Kind.FILE, 0o444, 1, 2, 512, 10_000_000_000.0),
        Entry(b"cap", Kind.FILE, 0o755, 0, 0, 1, 1.0, xattrs=((b"security.capability", CAPABILITY), (b"user.a", b"v\n=\0"))),
        Entry(deep, Kind.DIRECTORY, 0o755, 0, 0, 0, 3.0),
        Entry(deep + b"/" + deep, Kind.DIRECTORY, 0o700, 0, 0, 0, 3.0),
        Entry(deep + b"/" + deep + b"/" + deep, Kind.DIRECTORY, 0o500, 0, 0, 0, 3.0),
        Entry(deep + b"/" + deep + b"/" + deep + b"/" + b"f" * 200, Kind.FILE, 0o400, 0, 0, 2, 3.0),
        Entry(b"dir", Kind.DIRECTORY, 0o2775, 3, 4, 0, 5.0, xattrs=((b"user.dir", b"1"),)),
        Entry(b"dir", Kind.OPAQUE),
        Entry(b"dir/gone", Kind.WHITEOUT),
        Entry(b"dir/ln", Kind.SYMLINK, 0o777, 5, 6, 0, 7.0, b"../" * 60 + b"etc/passwd"),
        Entry(b"dir-x", Kind.DIRECTORY, 0o1777, 0, 0, 0, 0.0),
        Entry(b"dir.gone", Kind.WHITEOUT),
        Entry(b"disk", Kind.BLOCK, 0o660, 0, 6, 0, 1.0, b"", 8, 1),
        Entry(b"empty", Kind.FILE, 0, 4_294_967_294, 3_000_000, 0, 3.0),
        Entry(b"hard", Kind.HARDLINK, 0o644, 0, 0, 1, 1e9, b"a"),
        Entry(b"holes", Kind.FILE, 0o4711, 0, 0, len(BODIES[b"holes"]), 3.0),
        Entry(b"null", Kind.CHARACTER, 0o666, 0, 0, 0, 1.0, b"", 1, 3),
        Entry(b"pipe", Kind.FIFO, 0o622, 7, 0, 0, 1.0),
        Entry(b"zu\xff", Kind.FILE, 0o644, 0, 0, 3, 2.0),
    ]


def body(entry: Entry) -> io.BytesIO | None:
    return io.BytesIO(BODIES.get(entry.path, b"z" * entry.size)) if entry.kind is Kind.FILE else None


def written(where: Path, flavour: Flavour) -> Path:
    (where / "diff").mkdir(parents=True)
    with EntryWriter(where, flavour) as writer:
        for entry in nasty():
            writer.put(entry, body(entry))
    return where


def packed(where: Path, flavour: Flavour) -> bytes:
    out = io.BytesIO()
    assert pack(where, flavour, out) == len(out.getvalue())
    return out.getvalue()


@pytest.mark.parametrize("flavour", FLAVOURS, ids=str)
def test_written_and_scanned_are_one(flavour: Flavour, tmp_path: Path) -> None:
    assert list(entries(written(tmp_path / "one", flavour), flavour)) == nasty()


@pytest.mark.parametrize("flavour", FLAVOURS, ids=str)
@pytest.mark.parametrize("other", FLAVOURS, ids=str)
def test_round_trip_through_every_pair_of_flavours(flavour: Flavour, other: Flavour, tmp_path: Path) -> None:
    one = written(tmp_path / "one", flavour)
    tar = packed(one, flavour)
    two = tmp_path / "two"
    (two / "diff").mkdir(parents=True)
    stats = apply_tar(io.BytesIO(tar), two, other)
    assert stats.entries == len(nasty())
    assert list(entries(two, other)) == nasty()
    assert packed(two, other) == tar
    assert normalise(two, other) == normalise(one, flavour)
    assert (two / "diff/big").read_bytes() == BODIES[b"big"]
    assert (two / "diff/holes").read_bytes() == BODIES[b"holes"]


def test_the_bytes_are_the_same_each_time_and_diff_id_is_their_digest(tmp_path: Path) -> None:
    flavour = FLAVOURS[0]
    where = written(tmp_path / "one", flavour)
    tar = packed(where, flavour)
    assert packed(where, flavour) == tar
    assert diff_id(where, flavour) == ("sha256:" + sha256(tar).hexdigest(), len(tar))


def test_the_bytes_do_not_change_between_releases(tmp_path: Path) -> None:
    """A diffID is stored and shared: whoever changes these bytes makes every cached layer another one."""
    where = tmp_path / "layer"
    (where / "diff").mkdir(parents=True)
    flavour = FLAVOURS[0]
    with EntryWriter(where, flavour) as writer:
        for entry in nasty():
            if entry.path != b"big":
                writer.put(entry, body(entry))
    assert diff_id(where, flavour)[0] == "sha256:a0d21123caa50ce02a6186d556fae710f50fdd9c69c2f11fe48fa431143fd853"
    assert normalise(where, flavour).digest == "sha256:27145dc13bea30d3b4d9d3120981d5ab3383b2197b80931aa0047657e22a06c6"


@pytest.mark.root
@pytest.mark.skipif(not ROOT, reason="owners and devices can only be made by root")
@pytest.mark.skipif(shutil.which("tar") is None, reason="needs GNU tar")
def test_gnu_tar_reads_the_same_tree(tmp_path: Path) -> None:
    flavour = Flavour("trusted")
    tar = packed(written(tmp_path / "one", flavour), flavour)
    there = tmp_path / "gnu"
    there.mkdir()
    command = ["tar", "-xp", "--numeric-owner", "--xattrs", "--xattrs-include=*", "--warning=no-timestamp", "-C", str(there)]
    done = subprocess.run(command, input=tar, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == b""
    for entry in nasty():
        folder, _, name = entry.path.rpartition(b"/")
        if entry.kind is Kind.WHITEOUT:
            name = b".wh." + name
        elif entry.kind is Kind.OPAQUE:
            folder, name = entry.path, b".wh..wh..opq"
        path = os.fsencode(there) + b"/" + folder + b"/" + name
        found = os.lstat(path)
        if entry.kind in (Kind.WHITEOUT, Kind.OPAQUE):
            assert (found.st_size, found.st_uid) == (0, 0)
            continue
        expected = (entry.uid, entry.gid, entry.mtime)
        assert (found.st_uid, found.st_gid, found.st_mtime) == expected, entry.path
        if entry.kind is Kind.SYMLINK:
            assert os.readlink(path) == entry.link
        else:
            assert stat.S_IMODE(found.st_mode) == entry.mode, entry.path
        if entry.kind is Kind.FILE:
            data = body(entry)
            assert data is not None
            assert Path(os.fsdecode(path)).read_bytes() == data.getvalue()
            assert {name.encode() for name in os.listxattr(path)} == {name for name, _ in entry.xattrs}
        if entry.kind in (Kind.BLOCK, Kind.CHARACTER):
            assert (os.major(found.st_rdev), os.minor(found.st_rdev)) == (entry.major, entry.minor)
    assert (there / "a").stat().st_ino == (there / "hard").stat().st_ino


def test_the_standard_library_reads_the_same_names(tmp_path: Path) -> None:
    flavour = FLAVOURS[0]
    tar = packed(written(tmp_path / "one", flavour), flavour)
    with tarfile.open(fileobj=io.BytesIO(tar), errors="surrogateescape", encoding="utf-8") as archive:
        found = archive.getmembers()
    assert len(found) == len(nasty())
    by_name = {os.fsencode(item.name): item for item in found}
    assert by_name[b"dir/.wh.gone"].isreg()
    assert by_name[b"dir/.wh..wh..opq"].size == 0
    assert by_name[b"empty"].uid == 4_294_967_294
    assert by_name[b"block"].mtime == 10_000_000_000
    assert by_name[b"a\nb"].mtime == -10
    assert by_name[b"hard"].linkname == "a"


def test_fractions_of_a_second_are_cut_off(tmp_path: Path) -> None:
    where = tmp_path / "layer"
    (where / "diff").mkdir(parents=True)
    (where / "diff/f").write_bytes(b"")
    os.utime(where / "diff/f", ns=(0, 1_700_000_000_999_999_999))
    with tarfile.open(fileobj=io.BytesIO(packed(where, FLAVOURS[-1]))) as archive:
        assert archive.getmember("f").mtime == 1_700_000_000


class Shrinking:
    """Somebody writes into the layer while it is packed."""

    def __init__(self, victim: Path) -> None:
        self._victim = victim

    def write(self, data: bytes, /) -> None:
        os.truncate(self._victim, 10)


def test_a_file_that_shrinks_meanwhile_is_an_error(tmp_path: Path) -> None:
    where = tmp_path / "layer"
    (where / "diff").mkdir(parents=True)
    (where / "diff/f").write_bytes(bytes(5 << 20))
    with pytest.raises(LayerChanged, match="/f became shorter"):
        pack(where, FLAVOURS[-1], Shrinking(where / "diff/f"))


def test_known_files_change_nothing_in_the_tar(tmp_path: Path) -> None:
    """Their metadata comes from the sums, their bytes from the disk; a second name of one inode stays a hard link."""
    (tmp_path / "diff/d").mkdir(parents=True)
    for number in range(5):
        (tmp_path / f"diff/d/{number}").write_bytes(b"x" * number)
    (tmp_path / "diff/d/second").hardlink_to(tmp_path / "diff/d/1")
    flavour = Flavour("trusted")
    sums: dict[bytes, Sum] = {}
    normalise(tmp_path, flavour, None, sums)
    assert len(sums) == 4
    assert diff_id(tmp_path, flavour, sums) == diff_id(tmp_path, flavour)
