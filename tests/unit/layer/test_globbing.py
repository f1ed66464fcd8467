from __future__ import annotations

import pytest

from lamina.layer.globbing import BadPattern, has_wildcard, name_pattern, path_pattern


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [  # of Go's path/filepath match_test.go: the rules, in cases of our own
        (b"abc", b"abc", True),
        (b"*", b"abc", True),
        (b"*c", b"abc", True),
        (b"a*", b"a", True),
        (b"a*", b"ab/c", False),
        (b"a?c", b"a/c", False),
        (b"ab[c]", b"abc", True),
        (b"ab[b-d]", b"abc", True),
        (b"ab[^b-d]", b"abc", False),
        (b"ab[^e-g]", b"abc", True),
        (b"a\\*b", b"a*b", True),
        (b"a\\*b", b"axb", False),
        (b"[\\]a]", b"]", True),
        (b"[\\-x]", b"-", True),
        (b"[x\\-]", b"z", False),
        (b"*x", b"xxx", True),
        (b"[z-a]", b"m", False),
        (b"a.c", b"abc", False),
        (b"\n*", b"\nx\n", True),
    ],
)
def test_names(pattern: bytes, name: bytes, matches: bool) -> None:
    assert bool(name_pattern(pattern).match(name)) is matches


@pytest.mark.parametrize("pattern", [b"[]a]", b"[-]", b"[x-]", b"[-x]", b"[", b"[^", b"[^bc", b"a[", b"a\\", b"[a-b-c]"])
def test_refused_by_go(pattern: bytes) -> None:
    with pytest.raises(BadPattern):
        name_pattern(pattern)


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        (b"**/x", b"x", True),
        (b"**/x", b"a/b/x", True),
        (b"a/**", b"a/b/c", True),
        (b"a/**/x", b"a/x", True),
        (b"a/*/x", b"a/b/c/x", False),
        (b"/a/", b"a", True),
    ],
)
def test_paths(pattern: bytes, path: bytes, matches: bool) -> None:
    assert bool(path_pattern(pattern).match(path)) is matches


def test_has_wildcard() -> None:
    assert [has_wildcard(p) for p in (b"a", b"a*", b"a\\*", b"a\\\\*", b"[", b"?", b"\\")] == [False, True, False, True, True, True, False]
