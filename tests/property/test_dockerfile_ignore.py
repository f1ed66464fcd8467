"""Ignore rules: against an independent port of moby's matcher, and the fast walk against the plain rule."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamina.dockerfile.ignore import IgnoreDirectory, IgnoreError, IgnoreRules

oracle = pytest.importorskip("e2b_dockerfile_utils", reason="the development extra is not installed")

NAMES = ["a", "b", "ab", "a.b", "x.go", "y.go", ".h", "Ab"]
PIECES = ["a", "b", "*", "**", "?", "/", "/", ".go", ".", "[ab]", "[^a]", "x", "\\*", "ab", "**/", "/**"]
PATTERN = st.tuples(st.sampled_from(["", "", "!"]), st.lists(st.sampled_from(PIECES), min_size=1, max_size=5).map("".join)).map("".join)
PATH = st.lists(st.sampled_from(NAMES), min_size=1, max_size=4).map("/".join)


def walk(rules: IgnoreRules, path: str) -> bool:
    *parents, name = path.split("/")
    directory: IgnoreDirectory = rules.root()
    for parent in parents:
        directory = directory.directory(parent)
    return directory.file(name)


@settings(max_examples=800, deadline=None)
@given(st.lists(PATTERN, max_size=5), st.lists(PATH, min_size=1, max_size=6))
def test_the_walk_is_that_of_the_other_port(patterns: list[str], paths: list[str]) -> None:
    try:
        rules = IgnoreRules.parse("\n".join(patterns))
    except IgnoreError:
        return
    matcher = oracle.PatternMatcher(list(rules.patterns))
    assert [walk(rules, path) for path in paths] == [matcher.matches(path) for path in paths]


def plain_walk(rules: IgnoreRules, path: str) -> bool:
    """moby's MatchesUsingParentResults for one path, level by level."""
    above = [False] * len(rules._patterns)
    ignored = False
    parts = path.split("/")
    for depth in range(1, len(parts) + 1):
        ignored = False
        here = []
        for pattern, before in zip(rules._patterns, above):
            match = before or (pattern.exception == ignored and pattern.match("/".join(parts[:depth])))
            here.append(match)
            if match:
                ignored = not pattern.exception
        above = here
    return ignored


@settings(max_examples=800, deadline=None)
@given(st.lists(PATTERN, max_size=6), st.lists(PATH, min_size=1, max_size=6))
def test_the_fast_walk_is_the_plain_one(patterns: list[str], paths: list[str]) -> None:
    try:
        rules = IgnoreRules.parse("\n".join(patterns))
    except IgnoreError:
        return
    for path in paths:
        *parents, name = path.split("/")
        directory: IgnoreDirectory = rules.root()
        skipped = False
        for parent in parents:
            directory = directory.directory(parent)
            assert directory.ignored == plain_walk(rules, directory.path)
            skipped = skipped or directory.skip
        verdict = plain_walk(rules, path)
        assert directory.file(name) == verdict
        if skipped:
            assert verdict


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        IgnoreRules.parse(text).ignored("a/b")
    except IgnoreError:
        pass
