"""Text to logical lines: directives, comments, continuations, here-documents, and where every character came from.

Rules: BuildKit's frontend/dockerfile/parser. Nothing here knows what an instruction means.
"""

from __future__ import annotations

import re
from bisect import bisect_right

import msgspec

from lamina.diagnostics.diagnostic import Diagnostic
from lamina.diagnostics.span import Source, Span
from lamina.dockerfile.instructions import Heredoc
from lamina.dockerfile.words import SPACES, Expander

MAX_LINE = 65535  # bytes of one physical line; BuildKit reads no longer ones
_DIRECTIVE = r"([a-zA-Z][a-zA-Z0-9]*)[\t\n\f\r ]*=[\t\n\f\r ]*(.+?)[\t\n\f\r ]*\Z"
_DIRECTIVE_NAMES = ("syntax", "escape", "check")
_HEREDOC = r"([0-9]*)<<(-?)[\t\n\f\r ]*([^<]*)\Z"
_LEADING_TABS = r"(?m)^\t+"
_NO_ENV: dict[str, str] = {}


class LogicalLine(msgspec.Struct):
    """An instruction's text with continuations joined; `pieces` says where each part of it stands: (offset, line, column)."""

    text: str
    start: int
    end: int
    pieces: list[tuple[int, int, int]]
    comments: tuple[str, ...] = ()
    empty_continuation: int = 0  # line of the first blank line within, 0 for none

    def place(self, offset: int) -> tuple[int, int]:
        """Line and column, from 1, of the character at `offset`."""
        index = bisect_right(self.pieces, offset, key=lambda piece: piece[0]) - 1
        start, line, column = self.pieces[max(index, 0)]
        return line, column + offset - start

    def span(self, source: Source, start: int, end: int) -> Span:
        """The place of text[start:end]; an empty range is one character wide."""
        end = max(end, start + 1)
        line, column = self.place(start)
        end_line, end_column = self.place(end - 1)
        return Span(source, line, column, end_line, end_column + 1)


class Lexer(msgspec.Struct):
    """Hands out logical lines one after the other; what is wrong is collected in `diagnostics`."""

    source: Source
    escape: str = "\\"
    directives: list[tuple[str, str, Span]] = []
    diagnostics: list[Diagnostic] = []
    line: int = 0  # the last physical line that was read, from 1
    lines: list[str] = []
    _directives_over: bool = False

    def __post_init__(self) -> None:
        self.lines = self.source.text.split("\n")
        if not self.lines[-1]:
            self.lines.pop()
        for number, line in enumerate(self.lines):
            # BuildKit's scanner gives up here, and names the line before.
            if len(line) > MAX_LINE // 4 and len(line.encode("utf-8", "surrogatepass")) > MAX_LINE:
                span = Span(self.source, max(number, 1), 1, number + 1, 2)
                self.error(
                    "dockerfile/line-too-long",
                    f"line {number + 1} is longer than {MAX_LINE} bytes",
                    span,
                    "split it with a continuation",
                )
                del self.lines[number:]
                break

    def error(self, code: str, message: str, span: Span, hint: str | None = None) -> None:
        self.diagnostics.append(Diagnostic("error", code, message, span, hint))

    def next(self) -> LogicalLine | None:
        """The next instruction's line, or None at the end of the text."""
        comments: list[str] = []
        while self.line < len(self.lines):
            raw = self.lines[self.line].rstrip("\r")
            self.line += 1
            text = raw.lstrip(SPACES)
            is_directive = self._directive(text, raw)
            if text.startswith("#"):
                comment = text[1:].strip(SPACES)
                if is_directive or not comment:
                    comments.clear()
                else:
                    comments.append(comment)
                continue
            if not text:
                continue
            return self._join(text, len(raw) - len(text) + 1, tuple(comments))
        return None

    def _join(self, text: str, column: int, comments: tuple[str, ...]) -> LogicalLine:
        start = self.line
        text, over = self._trim_continuation(text)
        pieces = [(0, start, column)]
        parts = [text]
        length = len(text)
        blank = 0
        while not over and self.line < len(self.lines):
            raw = self.lines[self.line].rstrip("\r")
            self.line += 1
            stripped = raw.lstrip(SPACES)
            if stripped.startswith("#"):
                continue
            if not stripped:
                blank = blank or self.line
                continue
            part, over = self._trim_continuation(raw)
            pieces.append((length, self.line, 1))
            parts.append(part)
            length += len(part)
        return LogicalLine("".join(parts), start, self.line, pieces, comments, blank)

    def _trim_continuation(self, text: str) -> tuple[str, bool]:
        """Without its continuation mark, and whether the instruction ends here. An escaped mark does not continue."""
        bare = text.rstrip(" \t")
        if bare.endswith(self.escape) and (len(bare) == 1 or bare[-2] != self.escape):
            return bare[:-1], False
        return text, True

    def _directive(self, text: str, raw: str) -> bool:
        if self._directives_over:
            return False
        body = text[1:].lstrip(SPACES) if text.startswith("#") else ""
        found = re.match(_DIRECTIVE, body) if "=" in body else None
        name = found[1].lower() if found else ""
        if not found or name not in _DIRECTIVE_NAMES:
            self._directives_over = True
            return False
        value = found[2]
        column = len(raw) - len(body) + 1
        # BuildKit counts the line after it has judged the directive, so its place is one line early; ours begins there and ends
        # where the fault is.
        early = Span(self.source, max(self.line - 1, 1), column if self.line == 1 else 1, self.line, column + found.end(2))
        if any(name == earlier for earlier, _, _ in self.directives):
            self.error("dockerfile/duplicate-directive", f"the directive {name} stands twice", early, "keep one of them")
            return True
        self.directives.append((name, value, Span(self.source, self.line, column, self.line, column + found.end(2))))
        if name == "escape":
            if value in ("\\", "`"):
                self.escape = value
            else:
                self.error("dockerfile/bad-escape", f'"{value}" cannot be the escape character', early, "it is either \\ or `")
        return True

    def heredoc(self, marker: Heredoc, opener: LogicalLine) -> Heredoc | None:
        """Read the body of a here-document that `opener` announces, or None when the text ends before its terminator."""
        first = self.line + 1
        body: list[str] = []
        while self.line < len(self.lines):
            raw = self.lines[self.line]
            self.line += 1
            bare = raw.rstrip("\r")
            if marker.chomp:
                bare = bare.lstrip("\t")
            if bare == marker.name:
                content = "".join(body)
                span = Span(self.source, first, 0, self.line, 0)
                shown = chomp(content) if marker.chomp else content
                return Heredoc(marker.name, shown, marker.expand, marker.chomp, marker.fd, span, content)
            body.append(raw + "\n")
        return None


def chomp(content: str) -> str:
    """What `<<-` does to a here-document's text: leading tabs go from every line."""
    return re.sub(_LEADING_TABS, "", content)


_PLAIN = Expander("\\", keep_unset=True)
_QUOTED = Expander("\\", keep_unset=True, raw_quotes=True)
_RAW = Expander("\\", keep_unset=True, raw_quotes=True, raw_escapes=True)


def heredoc_marker(word: str) -> Heredoc | None:
    """`word` as `[fd]<<[-]NAME`, with an empty content; None when it is none. Raises ExpansionError for unbalanced quotes."""
    found = re.match(_HEREDOC, word) if "<<" in word else None
    if not found or not found[3]:
        return None
    rest = found[3]
    names = _PLAIN.words(rest, _NO_ENV)
    if len(names) != 1:
        return None
    written = _QUOTED.words(rest, _NO_ENV)
    name = names[0]
    if len(written) != 1:
        return None
    expand = name.count("'") + name.count('"') == written[0].count("'") + written[0].count('"')
    return Heredoc(name, "", expand, bool(found[2]), int(found[1][:9] or 0))


def heredoc_markers(text: str) -> list[Heredoc]:
    """All here-documents that a line announces, in order; none when its quotes do not balance."""
    from lamina.dockerfile.words import ExpansionError

    try:
        words = _RAW.words(text, _NO_ENV)
    except ExpansionError:
        return []
    return [marker for word in words if (marker := heredoc_marker(word))]
