"""Headers as bytes: ustar where it holds, pax where it does not."""

from __future__ import annotations

import io
import tarfile

import pytest

from lamina.layer.entry import Entry, Kind
from lamina.layer.tarwrite import END, header, padding


def parsed(entry: Entry) -> tarfile.TarInfo:
    with tarfile.open(fileobj=io.BytesIO(header(entry) + END), encoding="utf-8", errors="surrogateescape") as archive:
        found = archive.next()
    assert found is not None
    return found


def test_a_plain_file_is_one_block_with_nothing_of_this_host() -> None:
    block = header(Entry(b"etc/passwd", Kind.FILE, 0o644, 1, 2, 3, 1_700_000_000.9))
    assert block == (
        b"etc/passwd".ljust(100, b"\0")
        + b"0000644\0" + b"0000001\0" + b"0000002\0" + b"00000000003\0" + b"14524770400\0" + b"011242\0 " + b"0"
        + bytes(100) + b"ustar\x0000" + bytes(64) + b"0000000\x000000000\0" + bytes(167)
    )  # fmt: skip


@pytest.mark.parametrize("length", [1, 99, 100, 101, 155, 156, 157, 200, 255, 256, 257, 300, 4000])
@pytest.mark.parametrize("part", [1, 7, 100, 155, 255])
def test_names_of_any_length(length: int, part: int) -> None:
    name = b"/".join(b"n" * part for _ in range(length // (part + 1) + 1))[:length].rstrip(b"/")
    for kind in (Kind.FILE, Kind.DIRECTORY, Kind.WHITEOUT):
        found = parsed(Entry(name, kind)).name.encode()
        folder, slash, last = name.rpartition(b"/")
        assert found == (folder + slash + b".wh." + last if kind is Kind.WHITEOUT else name)


def test_what_ustar_cannot_hold() -> None:
    found = parsed(Entry(b"a", Kind.FILE, 0o7777, 2**32 - 2, 2_097_152, 2**33, -5.0, xattrs=((b"user.a", b"=\n"),)))
    assert (found.uid, found.gid, found.size, found.mtime, found.mode) == (2**32 - 2, 2_097_152, 2**33, -5, 0o7777)
    assert found.pax_headers["SCHILY.xattr.user.a"] == "=\n"
    assert parsed(Entry(b"a", Kind.FILE, mtime=8.0**11)).mtime == 8**11
    assert parsed(Entry(b"a", Kind.SYMLINK, link=b"l" * 101)).linkname == "l" * 101


@pytest.mark.parametrize("size", range(80, 120))
def test_the_length_of_a_pax_record_counts_itself(size: int) -> None:
    assert parsed(Entry(b"a", Kind.FILE, xattrs=((b"user.a", b"x" * size),))).pax_headers["SCHILY.xattr.user.a"] == "x" * size


def test_only_files_have_a_size_and_only_devices_a_number() -> None:
    for kind in Kind:
        found = parsed(Entry(b"a", kind, 0o644, size=5, link=b"l", major=1, minor=3))
        assert found.size == (5 if kind is Kind.FILE else 0)
        assert found.linkname == ("l" if kind in (Kind.SYMLINK, Kind.HARDLINK) else "")
        assert (found.devmajor, found.devminor) == ((1, 3) if kind in (Kind.BLOCK, Kind.CHARACTER) else (0, 0))


def test_opaque_marks() -> None:
    assert parsed(Entry(b"a/b", Kind.OPAQUE)).name == "a/b/.wh..wh..opq"
    assert parsed(Entry(b"", Kind.OPAQUE)).name == ".wh..wh..opq"


def test_padding_fills_the_block() -> None:
    assert [len(padding(size)) for size in (0, 1, 511, 512, 513)] == [0, 511, 1, 0, 511]
