"""One logical line into keyword, flags and arguments, each with its offsets; no meaning yet.

The splitting functions follow BuildKit's line parsers, quirks included (flags know only the backslash as escape).
"""

from __future__ import annotations

import re
from typing import NamedTuple

from lamina.dockerfile.words import SPACES

_WHITESPACE = re.compile(r"[\t\v\f\r ]+")


class Word(NamedTuple):
    """A piece of a line and where it stands in the line's text."""

    text: str
    start: int
    end: int


class SplitError(Exception):
    """What is wrong with a line; offsets point into its text."""

    def __init__(self, code: str, message: str, start: int, end: int, hint: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.start = start
        self.end = end
        self.hint = hint


class Parts(NamedTuple):
    keyword: Word
    flags: tuple[Word, ...]
    rest: Word  # the arguments, trimmed


def split_line(text: str, start: int = 0) -> Parts:
    """Keyword, flags and the rest of text[start:]."""
    begin, end = _trim(text, start, len(text))
    gap = _WHITESPACE.search(text, begin, end)
    if gap is None:
        return Parts(Word(text[begin:end], begin, end), (), Word("", end, end))
    keyword = Word(text[begin : gap.start()], begin, gap.start())
    flags, rest = _flags(text, gap.end(), end)
    first, last = _trim(text, rest, end)
    return Parts(keyword, tuple(flags), Word(text[first:last], first, last))


def _trim(text: str, start: int, end: int) -> tuple[int, int]:
    while start < end and text[start] in SPACES:
        start += 1
    while end > start and text[end - 1] in SPACES:
        end -= 1
    return start, end


def _flags(text: str, pos: int, end: int) -> tuple[list[Word], int]:
    """Leading `--name[=value]` words with quotes taken away, and where the rest begins. A bare `--` ends them."""
    flags: list[Word] = []
    while True:
        while pos < end and text[pos] in SPACES:
            pos += 1
        if not text.startswith("--", pos, end):
            return flags, pos
        start = pos
        word: list[str] = []
        quote = ""
        while pos < end:
            char = text[pos]
            if quote:
                if char == quote:
                    quote = ""
                    pos += 1
                    continue
            elif char in SPACES:
                break
            elif char in "'\"":
                quote = char
                pos += 1
                continue
            if char == "\\":
                pos += 1
                if pos == end:
                    break
                char = text[pos]
            word.append(char)
            pos += 1
        flag = "".join(word)
        if flag == "--":
            return flags, pos
        flags.append(Word(flag, start, pos))


def split_spaces(rest: Word) -> list[Word]:
    """At every run of blanks; quotes mean nothing."""
    words: list[Word] = []
    if not rest.text:
        return words
    pos = 0
    for gap in _WHITESPACE.finditer(rest.text):
        words.append(Word(rest.text[pos : gap.start()], rest.start + pos, rest.start + gap.start()))
        pos = gap.end()
    words.append(Word(rest.text[pos:], rest.start + pos, rest.end))
    return words


def split_once(rest: Word) -> tuple[Word, Word] | None:
    """Before and behind the first run of blanks, or None when there is none."""
    gap = _WHITESPACE.search(rest.text)
    if gap is None:
        return None
    return (
        Word(rest.text[: gap.start()], rest.start, rest.start + gap.start()),
        Word(rest.text[gap.end() :], rest.start + gap.end(), rest.end),
    )


def split_words(rest: Word, escape: str) -> list[Word]:
    """At blanks outside of quotes; quotes and escapes stay in the words."""
    text = rest.text
    end = len(text)
    words: list[Word] = []
    pos = 0
    while True:
        while pos < end and text[pos] in SPACES:
            pos += 1
        if pos >= end:
            return words
        start = pos
        word: list[str] = []
        quote = ""
        quoted = False
        while pos < end:
            char = text[pos]
            if quote:
                if char == quote:
                    quote = ""
                    word.append(char)
                    pos += 1
                    continue
            elif char in SPACES:
                break
            elif char in "'\"":
                quote = char
                quoted = True
            if char == escape and quote != "'":
                if pos + 1 == end:
                    pos += 1
                    break
                word.append(char)
                pos += 1
                char = text[pos]
            word.append(char)
            pos += 1
        if word or quoted:
            words.append(Word("".join(word), rest.start + start, rest.start + pos))


def json_words(rest: Word) -> list[Word] | None:
    """The strings of a JSON array, or None when this is no JSON array. An array with anything else in it is an error."""
    text = rest.text.lstrip(SPACES)
    if not text.startswith("["):
        return None
    import json

    def refuse(constant: str) -> float:
        raise ValueError(constant)

    try:
        values: list[object] = json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError):
        return None
    for value in values:
        if not isinstance(value, str):
            raise SplitError(
                "dockerfile/json-not-strings",
                "a JSON array may hold strings only",
                rest.start,
                rest.end,
                "put every item in double quotes",
            )
    return [Word(_no_surrogates(value), rest.start, rest.end) for value in values if isinstance(value, str)]


def _no_surrogates(text: str) -> str:
    return text if text.isascii() else re.sub("[\ud800-\udfff]", "\ufffd", text)
