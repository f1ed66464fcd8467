"""TarReader against archives that the standard library, GNU tar and old programs write."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from lamina.layer.entry import Entry, Kind
from lamina.layer.tarread import BadTar, TarReader
from lamina.testing.tars import archive, folder, member, patched


def read(data: bytes) -> list[tuple[Entry, bytes]]:
    return read_from(io.BytesIO(data))


def read_from(stream: io.BufferedIOBase) -> list[tuple[Entry, bytes]]:
    reader = TarReader(stream)
    found = []
    for entry in reader:
        body = b""
        while piece := reader.read(1 << 16):
            body += piece
        found.append((entry, body))
    return found


class Dripping(io.BytesIO):
    """A pipe that never gives more than 100 bytes at once."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(min(size or 0, 100) if size is not None and size > 0 else 100)


LONG = "f" * 90 + "/" + "g" * 90 + "/" + "h" * 90


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_the_three_formats_of_the_standard_library(form: int) -> None:
    out = io.BytesIO()
    long = LONG if form != tarfile.USTAR_FORMAT else LONG[:185]
    with tarfile.open(fileobj=out, mode="w", format=form, encoding="utf-8", errors="surrogateescape") as tar:
        for name, kind, link, body in [
            ("ü\udcff", tarfile.REGTYPE, "", b"x" * 1000),
            (long, tarfile.REGTYPE, "", b""),
            ("d", tarfile.DIRTYPE, "", b""),
            ("ln", tarfile.SYMTYPE, long[:100] if form == tarfile.USTAR_FORMAT else long, b""),
            ("hard", tarfile.LNKTYPE, "ü\udcff", b""),
            ("null", tarfile.CHRTYPE, "", b""),
            ("pipe", tarfile.FIFOTYPE, "", b""),
            ("old", tarfile.CONTTYPE, "", b"contiguous"),
        ]:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size, info.mode, info.mtime = kind, link, len(body), 0o4751, 1_700_000_000
            info.uid = 2_097_151 if form == tarfile.USTAR_FORMAT else 3_000_000_000
            info.devmajor, info.devminor = 1, 3
            tar.addfile(info, io.BytesIO(body))
    for found in (read(out.getvalue()), read_from(Dripping(out.getvalue()))):
        assert [(entry.path.rstrip(b"/"), entry.kind, body) for entry, body in found] == [
            (os.fsencode("ü\udcff"), Kind.FILE, b"x" * 1000),
            (long.encode(), Kind.FILE, b""),
            (b"d", Kind.DIRECTORY, b""),
            (b"ln", Kind.SYMLINK, b""),
            (b"hard", Kind.HARDLINK, b""),
            (b"null", Kind.CHARACTER, b""),
            (b"pipe", Kind.FIFO, b""),
            (b"old", Kind.FILE, b"contiguous"),
        ]
        assert found[3][0].link == (long[:100] if form == tarfile.USTAR_FORMAT else long).encode()
        assert found[4][0].link == os.fsencode("ü\udcff")
        assert {entry.mode for entry, _ in found} == {0o4751}
        assert {entry.uid for entry, _ in found} == {2_097_151 if form == tarfile.USTAR_FORMAT else 3_000_000_000}
        assert (found[5][0].major, found[5][0].minor) == (1, 3)
        assert {entry.mtime for entry, _ in found} == {1_700_000_000.0}


def test_a_pax_path_whose_cut_form_ends_with_a_slash_is_still_a_file() -> None:
    """A name of one-letter folders, cut at 100 bytes for the old header, ended with a slash: the file was taken for a folder."""
    path = "/".join("d" * 150)
    assert [(entry.path, entry.kind) for entry, _ in read(archive([member(path, b"")]))] == [(path.encode(), Kind.FILE)]


def test_archives_older_than_posix_mark_folders_by_a_slash() -> None:
    old = patched(patched(member("d/x", b""), 156, b"\0"), 0, b"folder/\0")
    assert read(old)[0][0].kind is Kind.DIRECTORY


def test_times_and_attributes_of_pax() -> None:
    found = read(
        archive(
            [
                member("a", b"", pax={"mtime": "1700000000.25", "SCHILY.xattr.user.b": "2", "SCHILY.xattr.user.a": "x=y"}),
                member("b", b"", pax={"mtime": "-1.5"}),
                member("c", b"", mtime=-3),
            ]
        )
    )
    assert found[0][0].mtime == 1_700_000_000.25
    assert found[0][0].xattrs == ((b"user.a", b"x=y"), (b"user.b", b"2"))
    assert found[1][0].mtime == -1.5
    assert found[1][0].xattrs == (), "an extended header is for one member"
    assert found[2][0].mtime == -3


def test_global_headers_are_ignored_as_docker_does() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "a commit", "uid": "77"}) as tar:
        tar.addfile(tarfile.TarInfo("a"))
    assert [(entry.path, entry.uid) for entry, _ in read(out.getvalue())] == [(b"a", 0)]


def test_bodies_that_are_not_read_are_skipped() -> None:
    data = archive([member("a", b"x" * 3_000_000), member("b", b"y" * 700), folder("c")])
    for stream in (io.BytesIO(data), Dripping(data)):
        assert [entry.path.rstrip(b"/") for entry in TarReader(stream)] == [b"a", b"b", b"c"]


def test_the_end_may_be_missing_but_not_half_a_member() -> None:
    whole = member("a", b"x" * 700)
    assert len(read(whole)) == 1
    assert len(read(whole + bytes(512))) == 1
    for cut in range(1, len(whole), 97):
        if cut != 512 + 700:
            with pytest.raises(BadTar, match="cut off"):
                read(whole[:cut])


@pytest.mark.skipif(shutil.which("tar") is None, reason="needs GNU tar")
@pytest.mark.parametrize("form", ["gnu", "pax --sparse-version=0.0", "pax --sparse-version=0.1", "pax --sparse-version=1.0"])
def test_sparse_files_of_gnu_tar(form: str, tmp_path: Path) -> None:
    """Holes at the start, the end and in more places than one block of the map can hold."""
    bodies = {"none": b"", "ends": bytes(1 << 17) + b"middle" + bytes(1 << 17), "empty": bytes(1 << 20), "many": b""}
    bodies["many"] = b"".join(bytes([65 + number % 26]) * 4096 + bytes(16384) for number in range(60)) + b"end"
    for name, body in bodies.items():
        with (tmp_path / name).open("wb") as file:
            for at in range(0, len(body), 4096):
                if any(body[at : at + 4096]):
                    file.seek(at)
                    file.write(body[at : at + 4096])
            file.truncate(len(body))
    (tmp_path / "after").write_bytes(b"after")
    command = ["tar", "-cS", f"--format={form.split()[0]}", *form.split()[1:], "-C", str(tmp_path), *bodies, "after"]
    data = subprocess.run(command, capture_output=True, check=True).stdout
    assert len(data) < 600_000, "tar wrote no sparse files"
    found = {entry.path: (entry.size, body) for entry, body in read(data)}
    assert found == {name.encode(): (len(body), body) for name, body in [*bodies.items(), ("after", b"after")]}
