"""Overlays by fuse-overlayfs: what the program is asked for, what is made of what it leaves, when it is taken."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from lamina.sandbox import choice, rungs, survey, userns
from lamina.sandbox.protocols import SandboxUnavailable
from lamina.testing import standalone

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="makes whiteouts, which are devices")


@pytest.fixture
def fuse() -> Iterator[ModuleType]:
    with standalone.loaded("fuse") as module:
        yield module


def program(tmp_path: Path, text: str) -> str:
    path = tmp_path / "fuse-overlayfs"
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)
    return str(path)


def folders(tmp_path: Path) -> dict[str, Path]:
    found = {name: tmp_path / f"with,a:colon {name}" for name in ("target", "one", "two", "upper", "work")}
    for path in found.values():
        path.mkdir()
    return found


def test_what_the_program_is_asked_for(fuse: ModuleType, tmp_path: Path) -> None:
    """Folders by descriptors' names, tops first; it stays in front; nothing of ours is open there, its environment is empty."""
    at, said = folders(tmp_path), tmp_path / "said"
    script = (
        f'{{ for word; do echo "$word"; done; for n in $(echo "$3" | tr ",:=" "\\n" | grep /proc); do readlink $n; done; '
        f"ls /proc/self/fd | wc -l; env | grep -v '^PWD=\\|^_=\\|^SHLVL=\\|^OLDPWD='; }} > {said}\necho it was refused >&2\nexit 1\n"
    )
    mounts = fuse.Mounts(program(tmp_path, script))
    secret = os.open(tmp_path, os.O_RDONLY)
    os.set_inheritable(secret, True)
    try:
        with pytest.raises(fuse.Failed, match=r"^fuse-overlayfs: it was refused$"):
            mounts.add(str(at["target"]), [str(at["one"]), str(at["two"])], str(at["upper"]), str(at["work"]))
    finally:
        os.close(secret)
        mounts.end()
    lines = said.read_text().splitlines()
    assert lines[:2] == ["-f", "-o"]
    options = dict(part.split("=", 1) for part in lines[2].split(","))
    assert options.keys() == {"lowerdir", "upperdir", "workdir", "writeback"}
    assert options["writeback"] == "0"
    assert lines[3] == str(at["target"])
    assert lines[4:8] == [str(at[name]) for name in ("one", "two", "upper", "work")]
    assert lines[9:] == ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]


def test_without_an_upper_it_is_read_only(fuse: ModuleType) -> None:
    assert fuse.arguments("p", "t", ["a", "b"], None, None) == ["p", "-f", "-o", "lowerdir=a:b,writeback=0", "t"]


def test_a_program_that_ends_without_a_word(fuse: ModuleType, tmp_path: Path) -> None:
    at = folders(tmp_path)
    with pytest.raises(fuse.Failed, match="without a word"):
        fuse.Mounts(program(tmp_path, "exit 0\n")).add(str(at["target"]), [str(at["one"])], None, None)


@pytest.mark.root
@ROOT
def test_its_marks_become_the_kernels(fuse: ModuleType, tmp_path: Path) -> None:
    lower, upper, outside = tmp_path / "lower", tmp_path / "upper", tmp_path / "outside"
    for path in (lower / "old" / "deep", upper / "old" / "deep", upper / "new", outside):
        path.mkdir(parents=True)
    (lower / "linked").symlink_to(outside)
    (upper / "linked").mkdir()
    (outside / ".wh..wh..opq").touch()
    (upper / "link").symlink_to(outside)
    for folder in (upper / "old", upper / "new", upper / "linked"):
        (folder / ".wh..wh..opq").touch()
        os.mknod(folder / ".wh..opq", stat.S_IFCHR, 0)
        os.setxattr(folder, "user.fuseoverlayfs.opaque", b"y")
        os.utime(folder, (5, 5))
    os.mknod(upper / "old" / "gone", stat.S_IFCHR, 0)
    (upper / "old" / "file").touch()
    os.setxattr(upper / "old" / "file", "user.fuseoverlayfs.origin", b"x")
    os.setxattr(upper / "old" / "file", "user.mine", b"x")
    os.setxattr(upper / "old" / "deep", "user.fuseoverlayfs.origin", b"x")
    os.utime(upper / "old", (5, 5))
    fuse.normalise(str(upper), [str(lower)])
    assert {name: os.listxattr(upper / name) for name in ("old", "new", "linked", "old/deep", "old/file")} == {
        "old": ["user.overlay.opaque"],
        "new": [],
        "linked": [],
        "old/deep": [],
        "old/file": ["user.mine"],
    }
    assert sorted(os.listdir(upper / "old")) == ["deep", "file", "gone"]
    assert stat.S_ISCHR(os.lstat(upper / "old" / "gone").st_mode)
    assert [os.listdir(upper / name) for name in ("new", "linked")] == [[], []]
    assert [os.stat(upper / name).st_mtime for name in ("old", "new", "linked")] == [5, 5, 5]
    assert os.listdir(outside) == [".wh..wh..opq"], "through no link"


@pytest.mark.parametrize(
    ("release", "gives"), [("5.10.0-28-amd64", False), ("5.11", True), ("6.1.0-18", True), ("4.18.0-425.el8", False), ("odd", True)]
)
def test_when_the_kernel_is_old(release: str, gives: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(release=release))
    monkeypatch.setattr(userns, "enter_best", lambda: ("range", ()))
    monkeypatch.setattr(rungs, "_why_no_fuse", lambda: None)
    assert choice.choose(None, 1000).rung == ("userns" if gives else "userns-fuse")
    monkeypatch.setattr(rungs, "_why_no_fuse", lambda: "fuse-overlayfs is not installed")
    assert choice.choose(None, 1000).rung == "userns"


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(SandboxUnavailable, match="fuse-overlayfs is not installed"):
        choice.choose("userns-fuse", 1000)
    finding = survey._finding("userns-fuse", Path("/tmp"))
    assert (finding.works, finding.detail) == (False, "fuse-overlayfs is not installed")
    assert "install fuse-overlayfs" in finding.remedy
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(os, "access", lambda path, mode: path != "/dev/fuse")
    assert rungs.why_not("userns-fuse") == "/dev/fuse is not there, or not for this user"
