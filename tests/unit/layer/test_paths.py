"""Folders opens below its roots and never through a link, with few descriptors."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from lamina.layer.paths import Folders, PathTooLong, fault, join, show, split

NO_FOLDER = r"Not a directory|Too many levels"


def opened() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_links_are_never_followed(tmp_path: Path) -> None:
    (tmp_path / "root/real").mkdir(parents=True)
    (tmp_path / "root/file").write_bytes(b"")
    os.symlink("real", tmp_path / "root/inside")
    os.symlink("/", tmp_path / "root/outside")
    with Folders([tmp_path / "root"]) as folders:
        assert os.fstat(folders.fd(b"real")).st_ino == (tmp_path / "root/real").stat().st_ino
        for path in (b"inside", b"outside", b"outside/etc", b"file"):
            with pytest.raises(OSError, match=NO_FOLDER):
                folders.fd(path)
        with pytest.raises(FileNotFoundError):
            folders.fd(b"nothing/at/all")


def test_a_link_that_takes_the_place_of_a_folder_is_seen_after_forget(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    with Folders([tmp_path]) as folders:
        folders.fd(b"a/b")
        (tmp_path / "a").rename(tmp_path / "moved")
        os.symlink("moved", tmp_path / "a")
        folders.forget()
        with pytest.raises(OSError, match=NO_FOLDER):
            folders.fd(b"a/b")


def test_descriptors_are_bounded_and_given_back(tmp_path: Path) -> None:
    deep = tmp_path / "/".join(["d"] * 200)
    deep.mkdir(parents=True)
    for number in range(100):
        (tmp_path / f"wide{number}").mkdir()
    before = opened()
    with Folders([tmp_path, deep]) as folders:
        for _ in range(2):
            assert os.fstat(folders.fd(b"/".join([b"d"] * 200))).st_ino == deep.stat().st_ino
            assert os.fstat(folders.fd(b"", 1)).st_ino == deep.stat().st_ino
            for number in range(100):
                folders.fd(b"wide%d" % number)
        assert opened() - before <= 50
    assert opened() <= before


def test_paths_as_text() -> None:
    assert [split(path) for path in (b"", b"a", b"a/b/c")] == [(b"", b""), (b"", b"a"), (b"a/b", b"c")]
    assert (join(b"", b"a"), join(b"a", b"b")) == (b"a", b"a/b")
    assert show(b"a\xff\n") == "/a\\xff\\n"


def test_a_full_disk_comes_with_a_way_out() -> None:
    error = fault("write", b"a", OSError(errno.ENOSPC, "No space left on device"))
    assert error.message == "cannot write /a in a layer: No space left on device"
    assert error.hint is not None
    assert "prune" in error.hint
    assert fault("read", b"a", OSError(errno.EIO, "Input/output error")).hint is None


@pytest.mark.parametrize(("path", "said"), [(b"d/" * 3000, "6000 bytes: 4095 are"), (b"a/" + b"d" * 300, "a name of 300 bytes: 255 are")])
def test_a_path_that_is_too_long_is_said_to_be(path: bytes, said: str) -> None:
    error = fault("read", path, OSError(errno.ENAMETOOLONG, "File name too long"))
    assert isinstance(error, PathTooLong)
    assert said in error.message
    assert len(error.message) < 200
