"""Where something stands in a source text. Spans are born in the lexer, copied, never recomputed, and are outside every key."""

from __future__ import annotations

from functools import lru_cache

import msgspec


class Source(msgspec.Struct, frozen=True):
    """A text that spans point into; `name` is what the user calls it (a path, `<stdin>`, `--build-arg`)."""

    name: str
    text: str

    def __repr__(self) -> str:
        return f"Source({self.name!r})"

    def line(self, number: int) -> str:
        """The text of line `number` (from 1), without its end; empty when there is none."""
        lines = _lines(self.text)
        return lines[number - 1].rstrip("\r") if 0 < number <= len(lines) else ""


@lru_cache(maxsize=4)
def _lines(text: str) -> list[str]:
    """Split once: a file of 100,000 findings asks for as many lines."""
    return text.split("\n")


class Span(msgspec.Struct, frozen=True):
    """Lines and columns count from 1; `end_column` is one past the last character. A column of 0 means the whole line."""

    source: Source
    line: int
    column: int = 0
    end_line: int = 0
    end_column: int = 0

    def __str__(self) -> str:
        return f"{self.source.name}:{self.line}" + (f":{self.column}" if self.column else "")
