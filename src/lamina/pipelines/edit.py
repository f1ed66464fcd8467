"""Edits of a YAML text between positions: what is not touched keeps its comments, quotes and blanks."""

from __future__ import annotations

from lamina.diagnostics.span import Span
from lamina.pipelines.tree import Mapping, Node, Scalar, Sequence


class Edits:
    """Collects replacements of parts of one text; `apply` makes them all at once. Parts never overlap."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._rows = text.split("\n")
        starts = [0]
        for row in self._rows:
            starts.append(starts[-1] + len(row) + 1)
        self._starts = starts
        self._made: dict[tuple[int, int], str] = {}
        self._end = "\r\n" if "\r\n" in text else "\n"

    def offset(self, line: int, column: int) -> int:
        """Of a place that counts from 1."""
        return min(self._starts[line - 1] + column - 1, len(self.text))

    def row(self, line: int) -> str:
        return self._rows[line - 1]

    def indent(self, line: int) -> str:
        """The blanks that a line begins with."""
        row = self.row(line)
        return row[: len(row) - len(row.lstrip(" "))]

    def part(self, span: Span) -> tuple[int, int]:
        return self.offset(span.line, span.column), self.offset(span.end_line, max(span.end_column, 1))

    def replace(self, start: int, end: int, new: str) -> None:
        """Insertions at one place stand in the order in which they were asked for."""
        before = self._made.get((start, end), "") if start == end else ""
        self._made[start, end] = before + new

    def before_line(self, line: int, new: str) -> None:
        """Whole lines above a line."""
        self.replace(self._starts[line - 1], self._starts[line - 1], self._lines(new) + self._end)

    def after_line(self, line: int, new: str) -> None:
        """Whole lines below a line, which may be the last one and without an end."""
        place = self._starts[line]
        if place > len(self.text):
            self.replace(len(self.text), len(self.text), self._end + self._lines(new))
        else:
            self.replace(place, place, self._lines(new) + self._end)

    def _lines(self, new: str) -> str:
        return new.replace("\n", self._end)

    def drop_lines(self, first: int, last: int) -> None:
        self.replace(self._starts[first - 1], min(self._starts[last], len(self.text)), "")

    def apply(self) -> str:
        pieces, at = [], 0
        for (start, end), new in sorted(self._made.items()):
            pieces += [self.text[at:start], new]
            at = end
        return "".join([*pieces, self.text[at:]])


def last_line(node: Node) -> int:
    """The last line that the node itself has text in, without the comments and blank lines that a parser counts to it."""
    if isinstance(node, Scalar):
        return node.span.line if node.span.end_column == 1 and node.span.end_line == node.span.line else _text_end(node.span)
    if isinstance(node, Sequence):
        inner = [last_line(item) for item in node.items]
    else:
        inner = [max(last_line(entry.value), entry.span.line) for entry in node if not entry.merged]
    closing = node.span.end_line if flow(node) else 0
    return max([*inner, closing, node.span.line])


def _text_end(span: Span) -> int:
    """A block text ends at the line after its last one."""
    last = span.end_line if span.end_column > 1 else span.end_line - 1
    while last > span.line and not span.source.line(last).strip():
        last -= 1
    return last


def index(node: Node) -> dict[tuple[int, int], Node]:
    """Every collection of a tree by where it begins."""
    found: dict[tuple[int, int], Node] = {}
    waiting = [node]
    while waiting:
        one = waiting.pop()
        if isinstance(one, Scalar) or ((one.span.line, one.span.column) in found and found[one.span.line, one.span.column] is one):
            continue
        found.setdefault((one.span.line, one.span.column), one)
        waiting += one.items if isinstance(one, Sequence) else [entry.value for entry in one]
    return found


def flow(node: Sequence | Mapping) -> bool:
    """Written in brackets or braces."""
    return node.span.source.line(node.span.line)[node.span.column - 1 : node.span.column] in ("[", "{")
