from __future__ import annotations

import os
from pathlib import Path

from lamina.store.removal import remove, take


def test_an_absent_name_and_a_file(tmp_path: Path) -> None:
    remove(tmp_path / "absent")
    (tmp_path / "file").write_text("x")
    remove(tmp_path / "file")
    assert os.listdir(tmp_path) == []


def test_symlinks_are_removed_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub" / "link").symlink_to(outside)
    (tree / "link").symlink_to(outside)
    remove(tree)
    (tmp_path / "top").symlink_to(outside)
    remove(tmp_path / "top")
    assert os.listdir(tmp_path) == ["outside"]
    assert os.listdir(outside) == ["precious"]


def test_folders_without_any_permission(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "work" / "work" / "inner").mkdir(parents=True)
    (tree / "work" / "work" / "inner" / "file").write_text("x")
    for path in (tree / "work" / "work" / "inner", tree / "work" / "work", tree):
        path.chmod(0)
    remove(tree)
    assert os.listdir(tmp_path) == []


def test_trees_deeper_than_stack_descriptors_and_path_length(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    here = os.open(tree, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d" * 20, dir_fd=here)
        below = os.open("d" * 20, os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)
    remove(tree)
    assert os.listdir(tmp_path) == []


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    os.makedirs(os.fsencode(tree) + b"/\xff\n/\xfe")
    with open(os.fsencode(tree) + b"/\xff\n/\xfe/\xfd", "wb"):
        pass
    remove(tree)
    assert os.listdir(tmp_path) == []


def test_what_a_killed_removal_has_left_is_no_hindrance(tmp_path: Path) -> None:
    """A removal that was killed leaves moved folders beside the rest; the next one of the rest must not stumble over them."""
    for name in ("x", "x.1", "x.2"):
        (tmp_path / name / "inner" / "deep").mkdir(parents=True)
        (tmp_path / name / "inner" / "file").write_text("text")
    (tmp_path / "x.3").write_text("no folder")
    remove(tmp_path / "x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.1", "x.2", "x.3"]
    for name in ("x.1", "x.2", "x.3"):
        remove(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_who_comes_second_takes_nothing(tmp_path: Path) -> None:
    (tmp_path / "layer").mkdir()
    assert take(tmp_path / "layer", tmp_path / "mine")
    assert not take(tmp_path / "layer", tmp_path / "theirs")
    assert os.listdir(tmp_path) == ["mine"]
