from __future__ import annotations

from pathlib import Path

import pytest

from lamina.layer import merkle
from lamina.layer.context import ContextTree
from lamina.layer.entry import Entry, Kind
from lamina.layer.modes import ModeRule
from lamina.layer.selection import Selection, SourceNotFound, select
from lamina.testing.trees import MemoryTree


def tree() -> MemoryTree:
    made = MemoryTree().file("a.txt", b"a").file("b.txt", b"b").file("dir/a.txt", b"a").file("dir/sub/c.md", b"c")
    return made.folder("empty").link("link", "dir").link("dangling", "none").link("dir/inner", "a.txt")


def names(selection: Selection) -> list[bytes]:
    return [match.shown or match.name for match in selection.matches]


def test_a_single_file_counts_without_its_name() -> None:
    assert select(tree(), "a.txt").digest() == select(tree(), "/dir/a.txt").digest()
    assert select(tree(), "a.txt").digest() != select(tree(), "b.txt").digest()


def test_a_folder_counts_by_relative_names() -> None:
    moved = MemoryTree().file("x/y/a.txt", b"a").file("x/y/sub/c.md", b"c").link("x/y/inner", "a.txt")
    assert select(tree(), "dir").digest() == select(moved, "x/y").digest()
    renamed = MemoryTree().file("dir/A.txt", b"a").file("dir/sub/c.md", b"c").link("dir/inner", "a.txt")
    assert select(tree(), "dir").digest() != select(renamed, "dir").digest()


@pytest.mark.parametrize(
    "changed",
    [
        Entry(b"dir", Kind.DIRECTORY, 0o700),
        Entry(b"dir/sub", Kind.DIRECTORY, 0o755, 1),
        Entry(b"dir/new", Kind.DIRECTORY, 0o755),
        Entry(b"dir/inner", Kind.SYMLINK, 0o777, link=b"b.txt"),
        Entry(b"dir/a.txt", Kind.FILE, 0o600),
        Entry(b"dir/a.txt", Kind.FILE, 0o644, 0, 5),
        Entry(b"dir/a.txt", Kind.FILE, 0o644, xattrs=((b"user.x", b"1"),)),
        Entry(b"dir/null", Kind.CHARACTER, 0o666, major=1, minor=3),
    ],
    ids=lambda entry: f"{entry.path.decode()}-{entry.kind.name}",
)
def test_what_counts(changed: Entry) -> None:
    assert select(tree().add(changed), "dir").digest() != select(tree(), "dir").digest()


@pytest.mark.parametrize(
    "same",
    [
        Entry(b"dir/a.txt", Kind.FILE, 0o644, mtime=77.0),
        Entry(b"dir/a.txt", Kind.FILE, 0o644, xattrs=((b"system.posix_acl_access", b"1"), (b"security.selinux", b"x"))),
        Entry(b"a.txt", Kind.FILE, 0o600),
        Entry(b"", Kind.DIRECTORY, 0o700, 5),
    ],
    ids=["mtime", "acl", "elsewhere", "root"],
)
def test_what_does_not_count(same: Entry) -> None:
    assert select(tree().add(same), "dir").digest() == select(tree(), "dir").digest()


def test_the_root_itself_does_not_count() -> None:
    assert select(tree().add(Entry(b"", Kind.DIRECTORY, 0o700, 5)), "/").digest() == select(tree(), ".").digest()


def test_overrides_leave_the_digest() -> None:
    other = MemoryTree().file("f", b"x", 0o600, 3, 4)
    mine = MemoryTree().file("f", b"x", 0o755)
    assert select(other, "f", mode=ModeRule("644"), owned=True).digest() == select(mine, "f", mode=ModeRule("644"), owned=True).digest()
    assert select(other, "f", mode=ModeRule("644")).digest() != select(mine, "f", mode=ModeRule("644")).digest()
    assert select(other, "f", mode=ModeRule("u+x"), owned=True).digest() != select(mine, "f", mode=ModeRule("u+x"), owned=True).digest()


def test_source_links_are_followed() -> None:
    assert select(tree(), "link").digest() == select(tree(), "dir").digest()
    assert select(tree(), "link", follow_symlink=False).matches[0].entry.kind is Kind.SYMLINK
    with pytest.raises(SourceNotFound, match="link to 'none'"):
        select(tree(), "dangling")


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*.txt", [b"a.txt", b"b.txt"]),
        ("?.txt", [b"a.txt", b"b.txt"]),
        ("[!a].txt", [b"a.txt"]),
        ("[^a].txt", [b"b.txt"]),
        ("*/*.txt", [b"dir/a.txt"]),
        ("dir/*.txt", [b"a.txt"]),
        ("dir/s*/c.md", [b"sub/c.md"]),
        ("../../[ab].txt", [b"a.txt", b"b.txt"]),
        ("link/*.txt", [b"a.txt"]),
        ("\\*.txt", []),
        ("x*", []),
    ],
)
def test_patterns(pattern: str, found: list[bytes]) -> None:
    if not found and "*" not in pattern.replace("\\*", ""):
        with pytest.raises(SourceNotFound):
            select(tree(), pattern)
        return
    assert names(select(tree(), pattern)) == found


def test_a_pattern_may_match_nothing_where_its_folder_exists() -> None:
    """`COPY package.json yarn.lock* ./`: the lock file is copied if there is one. BuildKit asks for the folder only."""
    assert names(select(tree(), "yarn.lock*")) == []
    assert names(select(tree(), "dir/*.none")) == []
    assert names(select(tree(), "dri/*/c.md")) == []
    with pytest.raises(SourceNotFound, match="'/dri' does not exist") as caught:
        select(tree(), "dri/*.txt")
    assert caught.value.hint == "did you mean 'dir'?"


def test_pattern_digest_has_names_and_no_order() -> None:
    one = MemoryTree().file("a.txt", b"1").file("b.txt", b"2")
    other = MemoryTree().file("b.txt", b"1").file("a.txt", b"2")
    assert select(one, "*.txt").digest() != select(other, "*.txt").digest()
    assert select(one, "*.none").digest() == select(other, "*.nil").digest()


@pytest.mark.parametrize(
    ("source", "hint"),
    [
        ("a.tx", "did you mean 'a.txt'?"),
        ("dri/sub/c.md", "did you mean 'dir/sub/c.md'?"),
        ("dir/sub/c.mb", "did you mean 'dir/sub/c.md'?"),
        ("zzz", None),
    ],
)
def test_missing_names_the_nearest(source: str, hint: str | None) -> None:
    with pytest.raises(SourceNotFound, match="does not exist") as caught:
        select(tree(), source)
    assert caught.value.hint == hint


def test_narrowing() -> None:
    every = select(tree(), "dir")
    without = select(tree(), "dir", excluded=lambda path: path.endswith(b".md"))
    assert [name for name, _ in without.below(without.matches[0])] == [b"a.txt", b"inner", b"sub"]
    assert without.below(without.matches[0], b"sub") == []
    assert without.digest() != every.digest()
    parents = select(tree(), "/", include=["dir/*/c.md"])
    assert [name for name, _ in parents.below(parents.matches[0])] == [b"dir"]
    assert [name for name, _ in parents.below(parents.matches[0], b"dir")] == [b"sub"]
    with pytest.raises(SourceNotFound):
        select(tree(), "/", include=["dir/none"])


def test_context_and_any_other_tree_agree(tmp_path: Path) -> None:
    (tmp_path / "dir/sub").mkdir(parents=True)
    (tmp_path / "dir/a.txt").write_bytes(b"a")
    (tmp_path / "dir/sub/c.md").write_bytes(b"c")
    (tmp_path / "dir/inner").symlink_to("a.txt")
    for path in (tmp_path / "dir", tmp_path / "dir/sub"):
        path.chmod(0o755)
    for path in (tmp_path / "dir/a.txt", tmp_path / "dir/sub/c.md"):
        path.chmod(0o644)
    for rule in (None, ModeRule("600"), ModeRule("go-r")):
        assert select(ContextTree(tmp_path), "dir", mode=rule).digest() == select(tree(), "dir", mode=rule).digest()
        nothing = select(ContextTree(tmp_path), "dir", mode=rule, excluded=lambda _: False)
        assert nothing.digest() == select(tree(), "dir", mode=rule).digest()


def test_records_cannot_run_into_each_other() -> None:
    assert merkle.leaves_digest([(b"a", b"bc")]) != merkle.leaves_digest([(b"ab", b"c")])
    assert merkle.leaves_digest([(b"a", b"1"), (b"b", b"2")]) == merkle.leaves_digest([(b"b", b"2"), (b"a", b"1")])
