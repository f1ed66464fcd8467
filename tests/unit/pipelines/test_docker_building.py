"""The build context that lamina's own docker packs out of a clone directory that a stranger writes."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from lamina.pipelines.docker.building import _file, _gathered, _inside, _pack
from lamina.pipelines.run.shell import CLONE


def packed(folder: Path, dockerfile: str = "Dockerfile", extra: list[tuple[str, bytes]] | None = None) -> dict[str, tarfile.TarInfo]:
    """Members by name, read as the engine reads them."""
    root = _inside(folder, CLONE)
    assert root is not None
    data = b"".join(_gathered(_pack(root, dockerfile, extra or [])))
    assert len(data) % tarfile.BLOCKSIZE == 0
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {member.name: member for member in archive.getmembers()}


def test_files_links_modes_and_times(tmp_path: Path) -> None:
    (tmp_path / "a" / ("deep" * 40)).mkdir(parents=True)
    (tmp_path / "a" / "file").write_bytes(b"x" * 1000)
    (tmp_path / "a" / "file").chmod(0o750)
    os.utime(tmp_path / "a" / "file", (1000.5, 1000.5))
    os.symlink("../elsewhere", tmp_path / "link")
    os.symlink("a", tmp_path / "folder-link")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / os.fsdecode(b"caf\xe9")).write_bytes(b"")
    found = packed(tmp_path)
    assert found["a/file"].size == 1000
    assert (found["a/file"].mode, found["a/file"].mtime, found["a/file"].uid) == (0o750, 1000.5, 0)
    assert found["link"].linkname == "../elsewhere"
    assert found["folder-link"].issym()
    assert "folder-link/file" not in found
    assert "pipe" not in found
    assert "a/" + "deep" * 40 in found
    assert os.fsdecode(b"caf\xe9") in found


def test_the_ignore_file_holds_and_what_the_engine_needs_is_sent(tmp_path: Path) -> None:
    (tmp_path / ".dockerignore").write_text("*\n!keep\nkeep/not\n")
    for name in ("Dockerfile", "secret", "keep/yes", "keep/not", "other/inner"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    assert sorted(packed(tmp_path)) == [".dockerignore", "Dockerfile", "keep", "keep/yes"]


def test_a_dockerfile_from_elsewhere_is_a_member(tmp_path: Path) -> None:
    found = packed(tmp_path, ".dockerfile.stdin", [(".dockerfile.stdin", b"FROM x\n")])
    assert found[".dockerfile.stdin"].size == 7


@pytest.mark.parametrize(
    "place", ["/etc", CLONE + "/../..", CLONE + "x", f"{CLONE}/link", f"{CLONE}/link/inner", f"{CLONE}/file", f"{CLONE}/missing"]
)
def test_no_way_leads_out_of_the_clone_directory(tmp_path: Path, place: str) -> None:
    clone = tmp_path / "clone"
    clone.mkdir()
    (tmp_path / "outside" / "inner").mkdir(parents=True)
    os.symlink(tmp_path / "outside", clone / "link")
    (clone / "file").touch()
    before = len(os.listdir("/proc/self/fd"))
    assert _inside(clone, os.path.normpath(place)) is None
    assert len(os.listdir("/proc/self/fd")) <= before


def test_a_file_that_changes_its_size_meanwhile_spoils_no_other_member(tmp_path: Path) -> None:
    for size in (0, 700):
        file = tmp_path / "file"
        file.write_bytes(b"x" * 1000)
        pieces = _file("file", os.open(file, os.O_RDONLY))
        data = next(pieces)
        os.truncate(file, size)
        data += b"".join(pieces) + bytes(1024)
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            (member,) = archive.getmembers()
            opened = archive.extractfile(member)
            assert opened is not None
            assert opened.read() == b"x" * size + bytes(1000 - size)


def test_no_descriptor_is_left_when_nobody_reads_to_the_end(tmp_path: Path) -> None:
    for name in ("a/b", "c/d", "e"):
        (tmp_path / name).mkdir(parents=True)
    before = len(os.listdir("/proc/self/fd"))
    root = _inside(tmp_path, CLONE)
    assert root is not None
    pieces = _pack(root, "Dockerfile", [])
    next(pieces)
    del pieces
    assert len(os.listdir("/proc/self/fd")) <= before
