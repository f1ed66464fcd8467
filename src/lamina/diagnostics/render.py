"""Diagnostics and errors as text with the source line and a caret, and as JSON."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from lamina.diagnostics.diagnostic import Diagnostic
from lamina.diagnostics.errors import LaminaError
from lamina.diagnostics.span import Span

_TAB = 4
_MAX_WIDTH = 160  # columns of a source line that are shown
_MAX_ITEMS = 20  # of one error: a file that is no Dockerfile at all has one for each line
_COLOURS = {"error": "\x1b[1;31m", "warning": "\x1b[1;33m", "info": "\x1b[1;36m", "hint": "\x1b[32m", "place": "\x1b[1m"}
_END = "\x1b[0m"

Json = dict[str, object]


def render(item: Diagnostic | LaminaError, *, colour: bool = False) -> str:
    """Several lines without a final newline: `Dockerfile:7:6: error: message`, the source line, a caret line, `hint: …`."""
    if isinstance(item, LaminaError):
        severity, message, spans, hint = "error", item.message, item.spans, item.hint
    else:
        severity, message, hint = item.severity, item.message, item.hint
        spans = (item.span,) if item.span else ()
    message = _printable(message)
    head = f"{_paint(severity, f'{severity}:', colour)} {message}"
    if not spans:
        lines = [head]
    else:
        lines = [f"{_paint('place', f'{_printable(str(spans[0]))}:', colour)} {head}", *_excerpt(spans[0], severity, colour)]
        for span in spans[1:]:
            lines += [f"{_paint('place', f'{_printable(str(span))}:', colour)} here too", *_excerpt(span, severity, colour)]
    if hint:
        lines.append(f"{_paint('hint', 'hint:', colour)} {_printable(hint)}")
    return "\n".join(lines)


def render_error(error: LaminaError, *, colour: bool = False) -> str:
    """An error as users see it. One that carries several `diagnostics` (a Dockerfile's) shows them, and says how many it leaves out."""
    carried = getattr(error, "diagnostics", ())
    if isinstance(carried, tuple) and carried and all(isinstance(item, Diagnostic) for item in carried):
        more = len(carried) - _MAX_ITEMS
        return render_all(carried[:_MAX_ITEMS], colour=colour) + (f"\nand {more} more" if more > 0 else "")
    return render(error, colour=colour)


def render_all(items: Iterable[Diagnostic], *, colour: bool = False) -> str:
    """Every item, one after the other, without a final newline."""
    return "\n".join(render(item, colour=colour) for item in items)


def as_json(item: Diagnostic | LaminaError) -> Json:
    """Plain values for `json.dumps`. Keys that have nothing to say are left out."""
    if isinstance(item, LaminaError):
        result: Json = {"severity": "error", "code": item.code, "message": item.message}
        spans = item.spans
        if item.transient:
            result["transient"] = True
    else:
        result = {"severity": item.severity, "code": item.code, "message": item.message}
        spans = (item.span,) if item.span else ()
    if item.hint:
        result["hint"] = item.hint
    if spans:
        result["spans"] = [_span_as_json(span) for span in spans]
    return result


def _span_as_json(span: Span) -> Json:
    result: Json = {"file": span.source.name, "line": span.line}
    if span.column:
        result["column"] = span.column
    if span.end_line:
        result["end_line"] = span.end_line
    if span.end_column:
        result["end_column"] = span.end_column
    return result


def _paint(kind: str, text: str, colour: bool) -> str:
    return f"{_COLOURS[kind]}{text}{_END}" if colour else text


def _excerpt(span: Span, severity: str, colour: bool) -> list[str]:
    """The source line, and carets below the part that the span covers of it; nothing when the source has no such line."""
    line = span.source.line(span.line)
    if not line.strip():
        return []
    start = min(span.column - 1, len(line)) if span.column else len(line) - len(line.lstrip())
    end = len(line.rstrip())
    if span.column and span.end_column and span.end_line in (0, span.line):
        end = min(span.end_column - 1, len(line))
    end = max(end, start + 1)
    cells = [_cells(char, 0) for char in line]
    # Tabs become blanks, so that the caret line is the same on every terminal.
    shown, column, caret, width = [], 0, 0, 0
    for index, char in enumerate(line):
        text = " " * (_TAB - column % _TAB) if char == "\t" else _printable(char)
        size = len(text) if char == "\t" else cells[index] if text == char else len(text)
        if index < start:
            caret += size
        elif index < end:
            width += size
        column += size
        shown.append(text)
    text = "".join(shown)
    if column > _MAX_WIDTH:
        text, caret, width = _cut(shown, caret, width)
    return [f"  {text}", f"  {' ' * caret}{_paint(severity, '^' * max(width, 1), colour)}"]


def _cut(shown: list[str], caret: int, width: int) -> tuple[str, int, int]:
    """A window of a long line around the caret."""
    begin = max(0, caret - _MAX_WIDTH // 3)
    out: list[str] = []
    column = 0
    first = -1
    for text in shown:
        size = sum(_cells(char, 1) for char in text)
        if column >= begin and column + size <= begin + _MAX_WIDTH:
            if first < 0:
                first = column
            out.append(text)
        column += size
    left = "…" if first > 0 else ""
    right = "…" if column > begin + _MAX_WIDTH else ""
    caret = caret - max(first, 0) + len(left)
    return left + "".join(out) + right, caret, min(width, max(_MAX_WIDTH - caret, 1))


def _cells(char: str, control: int) -> int:
    """Terminal columns of one character."""
    if char.isascii():
        return 1 if char.isprintable() else control
    if unicodedata.combining(char) or unicodedata.category(char) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in ("W", "F") else 1


def _printable(text: str) -> str:
    """Control characters and lone surrogates made visible: a Dockerfile must not drive the terminal that shows it."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_visible(char) for char in text)


def _visible(char: str) -> str:
    code = ord(char)
    if code < 32 and char not in "\n\t":
        return f"\\x{code:02x}"
    if 0x7F <= code < 0xA0 or 0xD800 <= code < 0xE000 or 0x202A <= code <= 0x202E or 0x2066 <= code <= 0x2069:
        return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
    return char
