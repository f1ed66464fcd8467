from __future__ import annotations

import json

import pytest

from lamina.diagnostics.diagnostic import Diagnostic
from lamina.diagnostics.errors import LaminaError
from lamina.diagnostics.render import as_json, render, render_all, render_error
from lamina.diagnostics.span import Source, Span


def at(text: str, line: int, column: int = 0, end_column: int = 0) -> Span:
    return Span(Source("Dockerfile", text), line, column, line, end_column)


def test_place_message_line_caret_and_hint() -> None:
    item = Diagnostic("error", "x/y", "no such flag", at("FROM a\nRUN --mont=x y", 2, 5, 11), "did you mean --mount?")
    assert render(item) == ("Dockerfile:2:5: error: no such flag\n  RUN --mont=x y\n      ^^^^^^\nhint: did you mean --mount?")


def test_without_a_place_or_hint() -> None:
    assert render(Diagnostic("warning", "x", "careful")) == "warning: careful"


def test_a_whole_line_is_underlined_without_its_indentation() -> None:
    assert render(Diagnostic("info", "x", "m", at("   RUN x  ", 1))).split("\n")[2] == "     ^^^^^"


@pytest.mark.parametrize(
    ("text", "column", "end_column", "caret"),
    [
        ("RUN\tabc", 5, 8, "      ^^^"),  # the tab ends at column 4
        ("\tRUN abc", 6, 9, "          ^^^"),
        ("日本 abc", 4, 7, "       ^^^"),  # two cells each
        ("日本 abc", 1, 3, "  ^^^^"),
        ("e\u0301x y", 3, 4, "   ^"),  # a combining accent has no width
        ("abc", 9, 12, "     ^"),  # beyond the end
    ],
)
def test_the_caret_stands_below_the_word(text: str, column: int, end_column: int, caret: str) -> None:
    assert render(Diagnostic("error", "x", "m", at(text, 1, column, end_column))).split("\n")[2] == caret


def test_tabs_are_blanks_in_the_source_line() -> None:
    assert "\t" not in render(Diagnostic("error", "x", "m", at("RUN\tx", 1, 5, 6)))


def test_a_span_over_several_lines_marks_the_rest_of_its_first() -> None:
    span = Span(Source("f", "RUN a \\\n b"), 1, 5, 2, 3)
    assert render(Diagnostic("error", "x", "m", span)).split("\n")[1:] == ["  RUN a \\", "      ^^^"]


def test_a_long_line_is_cut_around_the_caret() -> None:
    lines = render(Diagnostic("error", "x", "m", at("a" * 500 + "HERE" + "b" * 500, 1, 501, 505))).split("\n")
    assert len(lines[1]) < 180
    assert lines[1][lines[2].index("^") :].startswith("HERE")


def test_control_characters_cannot_reach_the_terminal() -> None:
    shown = render(Diagnostic("error", "x", "bad \x1b[31m\x9b", at("RUN \x1b]0;x\x07 y\u202e", 1, 5, 6)))
    assert "\x1b" not in shown
    assert "\x07" not in shown
    assert "\x9b" not in shown
    assert "\u202e" not in shown


def test_colour_is_only_added() -> None:
    import re

    item = Diagnostic("error", "x", "m", at("RUN x", 1, 5, 6), "h")
    assert re.sub(r"\x1b\[[0-9;]*m", "", render(item, colour=True)) == render(item)


def test_an_error_with_two_places() -> None:
    error = LaminaError("clash", hint="rename", spans=(at("FROM a\nFROM b", 1, 1, 5), at("FROM a\nFROM b", 2, 1, 5)))
    assert render(error).split("\n")[3] == "Dockerfile:2:1: here too"


def test_an_error_that_carries_diagnostics_shows_them_all() -> None:
    error = LaminaError("first")
    error.diagnostics = (Diagnostic("error", "a", "first"), Diagnostic("error", "b", "second"))  # type: ignore[attr-defined]  # as DockerfileError has
    assert render_error(error) == "error: first\nerror: second"
    assert render_error(LaminaError("alone")) == "error: alone"
    error.diagnostics = tuple(Diagnostic("error", "a", str(number)) for number in range(23))  # type: ignore[attr-defined]  # as above
    assert render_error(error).splitlines()[-2:] == ["error: 19", "and 3 more"], "a file that is no Dockerfile has an error in each line"


def test_all() -> None:
    assert render_all([Diagnostic("error", "a", "one"), Diagnostic("info", "b", "two")]) == "error: one\ninfo: two"


def test_json() -> None:
    item = Diagnostic("error", "x/y", "m", at("RUN x", 1, 5, 6), "h")
    assert json.loads(json.dumps(as_json(item))) == {
        "severity": "error",
        "code": "x/y",
        "message": "m",
        "hint": "h",
        "spans": [{"file": "Dockerfile", "line": 1, "column": 5, "end_line": 1, "end_column": 6}],
    }
    assert as_json(LaminaError("m", transient=True)) == {
        "severity": "error",
        "code": "lamina/error",
        "message": "m",
        "transient": True,
    }
