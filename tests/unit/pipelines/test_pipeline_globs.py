from __future__ import annotations

import pytest

from lamina.pipelines.globs import GlobError, choose, compile_glob, matches


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("feature/*", "feature/a", True),
        ("feature/*", "feature/a/b", False),
        ("feature/**", "feature/a/b", True),
        ("*", "main", True),
        ("*", "a/b", False),
        ("**", "a/b/c", True),
        ("ma?n", "main", True),
        ("a?b", "a/b", False),
        ("{main,develop}", "develop", True),
        ("{a,b{c,d}}x", "bdx", True),
        ("{main}", "{main}", True),
        ("release/{1,2}.*", "release/2.4", True),
        ("Main", "main", False),
        ("main", "main2", False),
        ("**/x.js", "x.js", True),
        ("**/x.js", "a/b/x.js", True),
        ("**/x.js", "a/bx.js", False),
        ("src/**/*.py", "src/a.py", True),
        ("src/**", "src", False),
        ("v[0-9]*", "v12", True),
        ("v[!0-9]*", "v12", False),
        (r"a\*", "a*", True),
        (r"a\*", "ab", False),
        ("", "", True),
    ],
)
def test_matching(pattern: str, text: str, expected: bool) -> None:
    assert matches(pattern, text) is expected


def test_a_hostile_pattern_takes_no_time() -> None:
    assert not matches("**a" * 200 + "b", "a" * 3000)
    assert not matches("*" * 50 + "x", "a" * 3000)


@pytest.mark.parametrize("pattern", ["{a,b}" * 9, "x" * 5000, "[z-a]"])
def test_patterns_that_cannot_be_read(pattern: str) -> None:
    with pytest.raises(GlobError):
        compile_glob(pattern)


@pytest.mark.parametrize(
    ("wide", "narrow"),
    [("**", "*"), ("*", "main"), ("feature/*", "feature/bb-*"), ("**", "feature/**"), ("{a,b,c}", "{a,b}"), ("a?", "ab"), ("**/x", "a/x"), ("a**", "a*b/**")],
)  # fmt: skip
def test_covers(wide: str, narrow: str) -> None:
    assert compile_glob(wide).covers(compile_glob(narrow))
    assert not compile_glob(narrow).covers(compile_glob(wide))


@pytest.mark.parametrize(
    ("patterns", "text", "winner"),
    [
        (["**", "feature/*", "feature/bb-*", "feature/bb-123-*"], "feature/bb-123-x", 3),
        (["**", "*", "main"], "main", 2),
        (["{main,develop}", "main"], "main", 1),
        (["**", "*"], "main", 1),
        (["a/**", "a/*"], "a/b", 1),
    ],
)
def test_the_more_specific_pattern_wins(patterns: list[str], text: str, winner: int) -> None:
    for order in (patterns, patterns[::-1]):
        found = choose(order, text)
        assert found is not None
        assert order[found.index] == patterns[winner]
        assert found.ties == ()


def test_patterns_that_cannot_be_compared_are_a_tie() -> None:
    found = choose(["*/hotfix", "release/*"], "release/hotfix")
    assert found is not None
    assert found.index == 1
    assert found.ties == (0,)


def test_no_pattern_matches() -> None:
    assert choose(["a", "b*"], "c") is None
