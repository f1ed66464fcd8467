"""Against an independent port of BuildKit's shell lexer."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamina.dockerfile.words import Expander, ExpansionError

oracle = pytest.importorskip("e2b_dockerfile_utils", reason="the development extra is not installed")

ENV = {"A": "abc", "B": "x y", "E": "", "P": "/usr/lib/a.b.c", "R": "aXbXc", "S": "a*b?c"}
FRAGMENTS = [
    "$A",
    "${A",
    "${B",
    "$E",
    "${NO",
    "${P",
    "${R",
    "}",
    ":-",
    ":+",
    "-",
    "+",
    "#",
    "##",
    "%",
    "%%",
    "/",
    "//",
    "*",
    "?",
    "X",
    "a",
    "b",
]
FRAGMENTS += [" ", "'", '"', "\\", "`", "$", "{", ":", ".", "é", "\t", ":?", "$1", "$S", "_", "1"]


@settings(max_examples=600, deadline=None)
@given(st.lists(st.sampled_from(FRAGMENTS), max_size=12).map("".join), st.sampled_from(["\\", "`"]))
def test_same_result_or_same_refusal(text: str, escape: str) -> None:
    try:
        want = oracle.ShellLex(escape, env=ENV, skip_unset_env=False).process_word(text)
    except ValueError:
        want = None
    try:
        got: str | None = Expander(escape).word(text, ENV).result
    except ExpansionError:
        got = None
    assert got == want


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=40))
def test_any_text_is_expanded_or_refused(text: str) -> None:
    try:
        found = Expander().word(text, ENV)
    except ExpansionError:
        return
    assert "".join(found.words).replace(" ", "") in "".join(found.result.split()) or found.words


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="ab /.-_é", max_size=30))
def test_a_text_without_special_characters_is_itself(text: str) -> None:
    found = Expander().word(text, ENV)
    assert found.result == text
    assert list(found.words) == text.split()
