"""EntryWriter as COPY uses it: put, share, remove, finish."""

from __future__ import annotations

import errno
import io
import os
import stat
from pathlib import Path

import pytest

from lamina.layer.entry import Entry, Kind
from lamina.layer.extra import Extra, read_extra
from lamina.layer.flavour import Flavour, IdMap
from lamina.layer.paths import LayerFault
from lamina.layer.scan import entries
from lamina.layer.writer import EntryWriter, NoSuchLinkTarget, UnstorableName
from lamina.layer.xattrs import OWNER

ROOT = os.geteuid() == 0
PLAIN = Flavour("plain", IdMap("single"))
FLAVOURS = [Flavour("trusted"), Flavour("user"), Flavour("user", IdMap("single")), PLAIN] if ROOT else [PLAIN]
every_flavour = pytest.mark.parametrize("flavour", FLAVOURS, ids=str)


@pytest.fixture
def layer(tmp_path: Path) -> Path:
    (tmp_path / "layer/diff").mkdir(parents=True)
    return tmp_path / "layer"


def file(path: bytes, mode: int = 0o644, uid: int = 0) -> Entry:
    return Entry(path, Kind.FILE, mode, uid, uid, 0, 1.0)


def folder(path: bytes, mode: int = 0o755, uid: int = 0) -> Entry:
    return Entry(path, Kind.DIRECTORY, mode, uid, uid, 0, 1.0)


def kinds(layer: Path, flavour: Flavour) -> dict[bytes, Kind]:
    return {entry.path: entry.kind for entry in entries(layer, flavour)}


@every_flavour
def test_a_folder_that_is_put_again_keeps_what_is_in_it(layer: Path, flavour: Flavour) -> None:
    with EntryWriter(layer, flavour) as writer:
        writer.put(folder(b"d", 0o700))
        writer.put(file(b"d/f"), io.BytesIO(b"x"))
        writer.put(folder(b"d", 0o711, 5))
    found = {entry.path: entry for entry in entries(layer, flavour)}
    assert list(found) == [b"d", b"d/f"]
    assert (found[b"d"].mode, found[b"d"].uid, found[b"d"].mtime) == (0o711, 5, 1.0)


@every_flavour
def test_removing_takes_all_below_and_what_the_side_table_knew(layer: Path, flavour: Flavour) -> None:
    with EntryWriter(layer, flavour) as writer:
        writer.put(folder(b"d", 0o500))
        writer.put(folder(b"d/e", 0))
        writer.put(Entry(b"d/e", Kind.OPAQUE))
        writer.put(Entry(b"d/e/null", Kind.CHARACTER, 0o444, 5, 5, 0, 1.0, b"", 1, 3))
        writer.put(Entry(b"d/e/ln", Kind.SYMLINK, 0o777, 5, 5, 0, 1.0, b"x"))
        writer.put(Entry(b"d/gone", Kind.WHITEOUT))
        writer.put(file(b"dx", 0))
        writer.remove(b"d")
        writer.remove(b"dx")
        writer.remove(b"never")
    assert kinds(layer, flavour) == {}
    assert not read_extra(layer)
    assert not (layer / "extra").exists()


@every_flavour
def test_nothing_is_written_through_a_link(layer: Path, flavour: Flavour, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    with EntryWriter(layer, flavour) as writer:
        writer.put(Entry(b"ln", Kind.SYMLINK, 0o777, link=os.fsencode(outside)))
        with pytest.raises(LayerFault):
            writer.put(file(b"ln/f"), io.BytesIO(b"x"))
        with pytest.raises(LayerFault):
            writer.put(Entry(b"ln/gone", Kind.WHITEOUT))
        with pytest.raises(LayerFault):
            writer.remove(b"ln/f")
        with pytest.raises(NoSuchLinkTarget):
            writer.put(Entry(b"hard", Kind.HARDLINK, link=b"ln/f"))
    assert os.listdir(outside) == []


@pytest.mark.parametrize("kind", list(Kind), ids=lambda kind: kind.name)
def test_names_that_would_mean_a_whiteout_are_refused(layer: Path, kind: Kind) -> None:
    with EntryWriter(layer, PLAIN) as writer, pytest.raises(UnstorableName, match=r"/\.wh\.a"):
        writer.put(Entry(b".wh.a", kind, 0o644, link=b"x"), io.BytesIO(b""))


def test_a_whiteout_device_cannot_be_put(layer: Path) -> None:
    with EntryWriter(layer, PLAIN) as writer, pytest.raises(UnstorableName, match="0:0"):
        writer.put(Entry(b"a", Kind.CHARACTER, 0o644))


@every_flavour
def test_a_linked_file_is_a_further_name_and_replaces_what_was_there(layer: Path, flavour: Flavour, tmp_path: Path) -> None:
    stored = tmp_path / "stored"
    stored.write_bytes(b"stored")
    stored.chmod(0o640)
    with EntryWriter(layer, flavour) as writer:
        writer.put(file(b"a"), io.BytesIO(b"replaced"))
        assert writer.share(file(b"a", 0o640), os.fsencode(stored))
    assert kinds(layer, flavour) == {b"a": Kind.FILE}
    assert (layer / "diff/a").stat().st_ino == stored.stat().st_ino
    assert stat.S_IMODE(stored.stat().st_mode) == 0o640


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EMLINK, errno.EPERM, errno.ENOENT], ids=errno.errorcode.get)
def test_what_cannot_be_linked_is_for_the_caller_to_copy(layer: Path, tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **more: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    with EntryWriter(layer, PLAIN) as writer:
        assert not writer.share(file(b"a"), os.fsencode(tmp_path / "stored"))
        writer.put(file(b"a"), io.BytesIO(b"copied"))
    assert (layer / "diff/a").read_bytes() == b"copied"


@every_flavour
def test_a_hard_link_is_one_inode_with_one_owner(layer: Path, flavour: Flavour) -> None:
    with EntryWriter(layer, flavour) as writer:
        writer.put(file(b"a", 0, 7), io.BytesIO(b"x"))
        writer.put(Entry(b"b", Kind.HARDLINK, link=b"a"))
    first, second = entries(layer, flavour)
    assert (first.uid, first.mode, second.uid, second.mode, second.link) == (7, 0, 7, 0, b"a")


def test_single_never_changes_the_owner_on_disk(layer: Path) -> None:
    with EntryWriter(layer, PLAIN) as writer:
        writer.put(folder(b"d", uid=5))
        writer.put(file(b"d/f", uid=6), io.BytesIO(b""))
        writer.put(file(b"mine"), io.BytesIO(b""))
        writer.put(Entry(b"ln", Kind.SYMLINK, 0o777, 7, 8, link=b"x"))
    assert os.getxattr(layer / "diff/d", OWNER) == b"5:5"
    assert os.getxattr(layer / "diff/d/f", OWNER) == b"6:6"
    assert os.listxattr(layer / "diff/mine") == []
    assert read_extra(layer) == Extra(owners={b"ln": (7, 8)})
    assert (layer / "diff/d/f").stat().st_uid == os.geteuid()


def test_plain_keeps_the_layer_readable_for_its_maker(layer: Path) -> None:
    with EntryWriter(layer, PLAIN) as writer:
        writer.put(folder(b"d", 0))
        writer.put(file(b"d/f", 0o004), io.BytesIO(b"x"))
    assert stat.S_IMODE((layer / "diff/d").stat().st_mode) == 0o700
    assert stat.S_IMODE((layer / "diff/d/f").stat().st_mode) == 0o604
    assert [entry.mode for entry in entries(layer, PLAIN)] == [0, 0o004]


def test_overlays_and_our_own_attributes_cannot_be_put(layer: Path) -> None:
    names = (b"user.overlay.opaque", b"user.lamina.owner", b"trusted.overlay.redirect", b"user.mine", b"system.posix_acl_access")
    with EntryWriter(layer, PLAIN) as writer:
        writer.put(Entry(b"d", Kind.DIRECTORY, 0o755, xattrs=tuple((name, b"1:1") for name in names)))
    assert os.listxattr(layer / "diff/d") == ["user.mine"]


def test_the_root_of_the_layer_gets_metadata_and_no_setgid_heritage(layer: Path) -> None:
    (layer / "diff").chmod(0o2755)
    with EntryWriter(layer, PLAIN) as writer:
        writer.put(Entry(b"", Kind.DIRECTORY, 0o711, mtime=5.0))
        writer.put(folder(b"d"))
    assert stat.S_IMODE((layer / "diff").stat().st_mode) == 0o711
    assert (layer / "diff").stat().st_mtime == 5.0
    assert stat.S_IMODE((layer / "diff/d").stat().st_mode) == 0o755


def test_a_failed_block_writes_no_side_table(layer: Path) -> None:
    def fail() -> None:
        with EntryWriter(layer, PLAIN) as writer:
            writer.put(Entry(b"gone", Kind.WHITEOUT))
            writer.put(Entry(b".wh.refused", Kind.WHITEOUT))

    with pytest.raises(UnstorableName):
        fail()
    assert not (layer / "extra").exists()


class Pieces:
    """Reads in pieces of this size, as a pipe may."""

    def __init__(self, data: bytes, size: int) -> None:
        self._data, self._size, self._at = data, size, 0

    def read(self, size: int, /) -> bytes:
        piece = self._data[self._at : self._at + min(size, self._size)]
        self._at += len(piece)
        return piece


ZERO, FULL = bytes(4096), b"x" * 4096


@pytest.mark.parametrize("size", [1 << 20, 1 << 16, (1 << 16) + 100, 70_000])
@pytest.mark.parametrize(
    "data",
    [
        b"",
        ZERO * 100,
        ZERO * 100 + b"end",
        b"start" + ZERO * 100,
        (ZERO + FULL) * 60,
        (FULL + ZERO) * 60 + bytes(100),
        ZERO * 600 + FULL + ZERO * 600,
        (bytes(4095) + b"x") * 80,
    ],
    ids=len,
)
def test_holes_never_change_the_bytes(layer: Path, data: bytes, size: int) -> None:
    with EntryWriter(layer, PLAIN) as writer:
        writer.put(file(b"f"), Pieces(data, size))
        assert writer.size == len(data)
    assert (layer / "diff/f").read_bytes() == data


def test_a_full_disk_is_one_clear_line_with_a_way_out(layer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    before = len(os.listdir("/proc/self/fd"))
    with EntryWriter(layer, PLAIN) as writer:
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(LayerFault, match=r"cannot write /f in a layer: No space left on device") as caught:
            writer.put(file(b"f"), io.BytesIO(b"x"))
        monkeypatch.undo()
    assert caught.value.hint
    assert len(os.listdir("/proc/self/fd")) <= before
