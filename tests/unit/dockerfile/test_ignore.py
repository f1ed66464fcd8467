from __future__ import annotations

import pytest

from lamina.dockerfile.ignore import IgnoreError, IgnoreRules, parse_patterns


def test_reading() -> None:
    text = "\ufeff# comment\n\n  /a/b/  \r\n!/c\n! d\n #no\n./e//f\n..\n"
    assert parse_patterns(text) == ("a/b", "!c", "!d", "#no", "e/f", "..")


@pytest.mark.parametrize(
    ("patterns", "ignored", "kept"),
    [
        ("a", ["a", "a/b", "a/b/c"], ["ab", "b/a", "A"]),
        ("*.md", ["x.md"], ["d/x.md", "x.mdx"]),
        ("**/*.md", ["x.md", "d/x.md", "d/e/x.md"], ["md"]),
        ("**/node_modules", ["node_modules", "a/node_modules/b"], ["a/node_modules2"]),
        ("a/**", ["a/b", "a/b/c"], ["a", "ab"]),
        ("a**", ["a", "abc", "a/b"], ["ba"]),
        ("a/**/z", ["a/z", "a/b/c/z"], ["a/bz", "z"]),
        ("?.go", ["a.go"], ["ab.go", "/.go"]),
        ("[a-c].x", ["b.x"], ["d.x"]),
        ("[^a].x", ["b.x"], ["a.x"]),
        ("\\*", ["*"], ["a"]),
        ("a.b", ["a.b"], ["axb"]),
        ("*\n!k", ["a", "a/k"], ["k", "k/x"]),
        ("*.md\n!README*.md\nREADME-secret.md", ["a.md", "README-secret.md"], ["README.md"]),
        (".", [], ["a", "a/b"]),
        ("", [], ["a"]),
    ],
)
def test_paths_alone(patterns: str, ignored: list[str], kept: list[str]) -> None:
    rules = IgnoreRules.parse(patterns)
    assert [path for path in ignored + kept if rules.ignored(path)] == ignored


@pytest.mark.parametrize("pattern", ["[a", "!", "[]a]", "[a-]", "[c-a]", "a\\", "[", "!/"])
def test_patterns_that_are_refused(pattern: str) -> None:
    with pytest.raises(IgnoreError):
        IgnoreRules.parse(pattern)


def test_a_directory_without_exceptions_is_skipped_whole() -> None:
    directory = IgnoreRules.parse("node_modules").root().directory("node_modules")
    assert directory.ignored
    assert directory.skip


def test_a_directory_is_walked_when_an_exception_may_be_inside() -> None:
    root = IgnoreRules.parse("*\n!a/b/c").root()
    a = root.directory("a")
    assert a.ignored
    assert not a.skip
    assert root.directory("z").skip
    b = a.directory("b")
    assert not b.skip
    assert b.kept(["c", "d"]) == ["c"]
    assert a.directory("x").skip


def test_an_exception_with_a_wildcard_keeps_everything_walked() -> None:
    root = IgnoreRules.parse("*\n!**/*.go").root()
    inside = root.directory("vendor")
    assert inside.ignored
    assert not inside.skip
    assert inside.kept(["x.go", "x.c"]) == ["x.go"]


def test_a_walk_never_asks_an_exception_about_what_nothing_ignored() -> None:
    rules = IgnoreRules.parse("dir/sub\n!dir")
    assert not rules.ignored("dir/sub/a")
    assert rules.root().directory("dir").directory("sub").ignored


def test_files() -> None:
    root = IgnoreRules.parse("*.pyc\n**/*.log\nsrc/gen/**\nbuild").root()
    assert root.kept(["a.pyc", "a.py", "x.log", "build"]) == ["a.py"]
    src = root.directory("src")
    assert src.kept(["a.pyc", "x.log", "build"]) == ["a.pyc", "build"]
    assert src.directory("gen").kept(["x"]) == []
    assert root.directory("lib").directory("deep").file("x.log")
    assert not root.directory("lib").directory("deep").file("x.txt")


def test_no_rules() -> None:
    rules = IgnoreRules(())
    assert not rules
    assert rules.root().directory("a").kept(["b"]) == ["b"]
