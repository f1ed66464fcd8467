"""Any text is read without a traceback, and every place that is named exists."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from lamina.diagnostics.render import render_all
from lamina.dockerfile import Document, parse
from lamina.dockerfile.lint import lint

PIECES = [
    "FROM a",
    "RUN x",
    "COPY a b",
    "ENV A=b",
    "ENV a b",
    "ARG X",
    "\n",
    "\n",
    "\n",
    " ",
    "\\\n",
    "\\",
    "#c",
    "# escape=`\n",
    "<<E",
    "E\n",
    "<<-'E'",
]
PIECES += [
    "--mount=type=cache,target=/x",
    "--from=",
    '["a"]',
    "[",
    '"',
    "'",
    "$X",
    "${X",
    "}",
    "HEALTHCHECK ",
    "--interval=5s ",
    "CMD ",
    "ONBUILD ",
    "é",
]
PIECES += [
    "\t",
    "\r\n",
    "AS b",
    "EXPOSE 80",
    "VOLUME /x",
    "SHELL ",
    "USER u",
    "WORKDIR w",
    "`",
    "=",
    ",",
    "\x00",
    "\u3000",
    "LABEL ",
    "FROM $X AS y\n",
]


def check(document: Document, text: str) -> None:
    lines = text.split("\n")
    for item in (*document.diagnostics, *lint(document)):
        assert item.span is not None
        assert 1 <= item.span.line <= len(lines)
        assert item.span.column <= len(lines[item.span.line - 1]) + 2
    instructions = [instruction for stage in document.stages for instruction in (stage.from_, *stage.instructions)]
    starts = [instruction.span.line for instruction in instructions]
    assert starts == sorted(starts)
    assert all(1 <= instruction.span.line <= instruction.span.end_line <= len(lines) for instruction in instructions)
    render_all(document.diagnostics)


@settings(max_examples=500, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=25).map("".join))
def test_texts_that_look_like_dockerfiles(text: str) -> None:
    check(parse(text), text)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=200))
def test_any_text(text: str) -> None:
    check(parse(text), text)
