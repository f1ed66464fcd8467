"""Owners of what a run left, with one id: what is stated, what goes on from lower layers, what is new."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lamina.layer.extra import Extra, read_extra, write_extra
from lamina.layer.xattrs import OWNER
from lamina.sandbox.ownership import UNCHANGED, complete
from lamina.sandbox.protocols import Overlay, SandboxSpec


@pytest.fixture
def spec(tmp_path: Path) -> SandboxSpec:
    for name in ("low", "up"):
        (tmp_path / name / "diff").mkdir(parents=True)
    try:
        os.setxattr(tmp_path / "low", OWNER, b"0:0")
    except OSError:
        pytest.skip("this file system has no attributes of users")
    return SandboxSpec(Overlay((tmp_path / "low" / "diff",), tmp_path / "up" / "diff", tmp_path / "work"), ("true",), ())


def test_what_is_stated(spec: SandboxSpec) -> None:
    upper = spec.root.upper
    (upper / "l").symlink_to("x")
    (upper / "d").write_bytes(b"")
    complete(spec, [["l", 5, 6]], [["d", "c", 1, 3]], (0, 0))
    extra = read_extra(upper.parent)
    assert extra.owners == {b"l": (5, 6)}
    assert extra.devices == {b"d": ("c", 1, 3)}


def test_a_half_comes_from_below_and_a_link_that_was_changed_is_another(spec: SandboxSpec) -> None:
    upper, lower = spec.root.upper, spec.root.lowers[0]
    for name, here, there in (("same", "x", "x"), ("other", "y", "x")):
        (lower / name).symlink_to(there)
        (upper / name).symlink_to(here)
    write_extra(lower.parent, Extra(owners={b"same": (7, 8), b"other": (7, 8)}))
    complete(spec, [["same", UNCHANGED, 9]], [], (0, 0))
    assert read_extra(upper.parent).owners == {b"same": (7, 9)}


def test_new_files_belong_to_the_user_and_to_the_group_of_a_setgid_folder(spec: SandboxSpec) -> None:
    upper, lower = spec.root.upper, spec.root.lowers[0]
    (lower / "old").write_text("")
    for name in ("old", "new"):
        (upper / name).write_text("")
    (upper / "s").mkdir()
    (upper / "s").chmod(0o2775)
    os.setxattr(upper / "s", OWNER, b"0:50")
    (upper / "s" / "f").write_text("")
    os.utime(upper / "new", (5, 5))
    complete(spec, [], [], (1000, 1001))
    assert os.getxattr(upper / "new", OWNER) == b"1000:1001"
    assert os.getxattr(upper / "s" / "f", OWNER) == b"1000:50"
    assert os.stat(upper / "new").st_mtime == 5
    with pytest.raises(OSError, match=r".*"):
        os.getxattr(upper / "old", OWNER)


def test_what_a_layer_between_took_away_is_new_when_it_comes_again(spec: SandboxSpec, tmp_path: Path) -> None:
    upper, lower = spec.root.upper, spec.root.lowers[0]
    between = tmp_path / "between" / "diff"
    for name in ("gone/below", "replaced", "emptied", "stays"):
        (lower / name).mkdir(parents=True)
        (upper / name).mkdir(parents=True)
    for name in ("replaced", "emptied", "stays"):
        (lower / name / "x").touch()
        (upper / name / "x").touch()
    (between / "emptied").mkdir(parents=True)
    os.setxattr(between / "emptied", "user.overlay.opaque", b"y")
    (between / "replaced").symlink_to("stays")
    write_extra(between.parent, Extra(whiteouts={b"gone"}))
    complete(SandboxSpec(Overlay((between, lower), upper, tmp_path / "work"), ("true",), ()), [], [], (7, 8))
    found = {str(path.relative_to(upper)) for path in upper.rglob("*") if OWNER in os.listxattr(path)}
    assert found == {"gone", "gone/below", "replaced/x", "emptied/x"}
